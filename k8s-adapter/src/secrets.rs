//! Passwords of BGP peers, out of the Secrets that BGPPeers name. Reads these and no others, and keeps none.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::context::Context;
use crate::kubernetes::{KubeError, within};
use crate::policy::{LONGEST_PASSWORD, Passwords};

/// What MetalLB asks for.
const TYPE: &str = "kubernetes.io/basic-auth";
const KEY: &str = "password";

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Who wrote it, or names it, has to change something.
    #[error("{0}")]
    Wrong(String),
    /// The API server does not tell now.
    #[error("{0}")]
    Unread(String),
}

/// The passwords of all these Secrets; or why there is none of one of them.
pub async fn read(context: &Context, names: &BTreeSet<String>) -> Result<Passwords, SecretError> {
    let api: Api<Secret> = Api::namespaced(context.kube.calls.clone(), &context.namespace);
    let mut passwords = Passwords::new();
    for name in names {
        let namespace = &context.namespace;
        let told =
            |why: String| format!("spec.passwordSecret: Secret \"{namespace}/{name}\": {why}");
        let secret = match within(api.get(name)).await {
            Ok(secret) => password(&secret),
            Err(KubeError::Failed(kube::Error::Api(status))) if status.code == 404 => {
                Err("there is none".to_owned())
            }
            Err(error) => return Err(SecretError::Unread(told(error.to_string()))),
        };
        let secret = secret.map_err(|why| SecretError::Wrong(told(why)))?;
        passwords.insert(name.clone(), secret);
    }
    Ok(passwords)
}

/// The password of a Secret, or why it has none. The text says nothing of what is in it.
fn password(secret: &Secret) -> Result<String, String> {
    if secret.type_.as_deref() != Some(TYPE) {
        return Err(format!("secret type mismatch, type {TYPE:?} is expected"));
    }
    let bytes = secret.data.as_ref().and_then(|data| data.get(KEY));
    let bytes = bytes.ok_or_else(|| format!("{KEY} not specified in the secret"))?;
    match std::str::from_utf8(&bytes.0) {
        Ok("") => Err(format!("its {KEY} is empty")),
        Ok(text) if text.len() > LONGEST_PASSWORD => {
            Err(format!("its {KEY} is longer than {LONGEST_PASSWORD} bytes"))
        }
        Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(format!("its {KEY} is no text without control characters")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(type_: &str, key: &str, value: &[u8]) -> Secret {
        Secret {
            type_: Some(type_.to_owned()),
            data: Some([(key.to_owned(), ByteString(value.to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn a_password_is_read_as_metallb_does_and_what_is_wrong_says_nothing_of_it() {
        assert_eq!(
            password(&secret(TYPE, KEY, b"hunter2")).as_deref(),
            Ok("hunter2")
        );
        for (wrong, why) in [
            (secret("Opaque", KEY, b"hunter2"), "secret type mismatch"),
            (secret(TYPE, "pass", b"hunter2"), "password not specified"),
            (secret(TYPE, KEY, b""), "is empty"),
            (secret(TYPE, KEY, &[b'x'; 81]), "longer than 80"),
            (secret(TYPE, KEY, b"hunter2\n"), "control characters"),
            (secret(TYPE, KEY, &[0xff]), "control characters"),
            (Secret::default(), "secret type mismatch"),
        ] {
            let error = password(&wrong).expect_err(why);
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
