//! The `caBundle` of a ValidatingWebhookConfiguration: what it has to be, so that the API server trusts
//! every replica. Pure; time is an argument, in seconds since 1970.
//!
//! A bundle holds certificates of replicas, and what others put there: the way back to another controller
//! stays open. Replicas never take out what belongs to another one, unless it has ended.

use std::collections::BTreeSet;

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingWebhookConfiguration, WebhookClientConfig,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::review::kind_of;

/// In the subject of every certificate of an adapter.
pub const COMMON_NAME: &str = "pharos-k8s-adapter";
/// Most certificates of adapters in one bundle: a few replicas, and those that replicas left behind which
/// were replaced. Of more than this the first in the bundle go: who lives comes back, at its end, and is
/// then the last to go; who was left behind does not.
const MOST: usize = 16;

/// Who asks: this replica, and what it shows or will show.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub replica: &'a str,
    pub certificates: Vec<&'a CertificateDer<'static>>,
}

/// The names by which the API server calls us, by the entries of a configuration that ask one of our paths.
pub fn names(configuration: &ValidatingWebhookConfiguration) -> BTreeSet<String> {
    let ours = clients(configuration).filter_map(|(_, client)| {
        if let Some(service) = &client.service {
            return Some(format!("{}.{}.svc", service.name, service.namespace));
        }
        let url: Uri = client.url.as_ref()?.parse().ok()?;
        let host = url.host()?;
        Some(host.trim_matches(['[', ']']).to_owned())
    });
    ours.collect()
}

/// What has to be changed so that every entry that asks one of our paths trusts us; `None`: nothing. The
/// patch holds only for the configuration as it was seen.
pub fn patch(
    configuration: &ValidatingWebhookConfiguration,
    wanted: &Wanted<'_>,
    now: i64,
) -> Option<Value> {
    let webhooks: Vec<Value> = clients(configuration)
        .filter_map(|(name, client)| {
            let found = client.ca_bundle.as_ref().map_or(&[][..], |it| &it.0);
            let bundle = ByteString(merge(found, wanted, now)?.into_bytes());
            Some(json!({ "name": name, "clientConfig": { "caBundle": bundle } }))
        })
        .collect();
    let version = configuration.metadata.resource_version.as_ref();
    (!webhooks.is_empty())
        .then(|| json!({ "metadata": { "resourceVersion": version }, "webhooks": webhooks }))
}

/// Entries of other paths are none of our business.
fn clients(
    configuration: &ValidatingWebhookConfiguration,
) -> impl Iterator<Item = (&str, &WebhookClientConfig)> {
    let webhooks = configuration.webhooks.iter().flatten();
    webhooks.filter_map(|webhook| {
        let client = &webhook.client_config;
        let path = match (&client.service, &client.url) {
            (Some(service), _) => service.path.clone()?,
            (None, Some(url)) => url.parse::<Uri>().ok()?.path().to_owned(),
            (None, None) => return None,
        };
        kind_of(&path)?;
        Some((webhook.name.as_str(), client))
    })
}

/// Whose a certificate is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Replica(String),
    Other,
}

/// The bundle as it has to be, in PEM; `None` if it is so.
fn merge(found: &[u8], wanted: &Wanted<'_>, now: i64) -> Option<String> {
    let found = CertificateDer::pem_slice_iter(found);
    let found: Vec<CertificateDer<'static>> = found.filter_map(Result::ok).collect();
    let mut kept: Vec<&CertificateDer<'static>> = Vec::new();
    let mut others = 0;
    for certificate in &found {
        let (owner, ends) = look(certificate);
        let counts = match owner {
            Owner::Other => true,
            Owner::Replica(name) if name == wanted.replica => {
                wanted.certificates.contains(&certificate)
            }
            Owner::Replica(_) => {
                let lives = ends > now;
                others += usize::from(lives);
                lives
            }
        };
        if counts && !kept.contains(&certificate) {
            kept.push(certificate);
        }
    }
    let room = MOST.saturating_sub(wanted.certificates.len());
    for _ in room..others {
        let first = kept
            .iter()
            .position(|it| look(it).0 != Owner::Other && !wanted.certificates.contains(it));
        let Some(index) = first else { break };
        kept.remove(index);
    }
    let mut bundle = kept;
    for certificate in &wanted.certificates {
        if !bundle.contains(certificate) {
            bundle.push(certificate);
        }
    }
    let same = bundle.iter().copied().eq(&found);
    (!same).then(|| bundle.into_iter().map(pem).collect())
}

/// Whose it is, and when it ends. What cannot be read is somebody else's.
fn look(certificate: &CertificateDer<'_>) -> (Owner, i64) {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return (Owner::Other, i64::MAX);
    };
    let subject = certificate.subject();
    let first = |name: Option<&str>| name.unwrap_or_default().to_owned();
    let common = subject.iter_common_name().next();
    let common = first(common.and_then(|it| it.as_str().ok()));
    let replica = subject.iter_organization().next();
    let replica = first(replica.and_then(|it| it.as_str().ok()));
    let owner = if common == COMMON_NAME {
        Owner::Replica(replica)
    } else {
        Owner::Other
    };
    (owner, certificate.validity().not_after.timestamp())
}

/// RFC 7468.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests;
