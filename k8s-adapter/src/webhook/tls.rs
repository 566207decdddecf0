//! The certificate that the API server is shown. It can be exchanged while connections go on.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pharos_process::{Shutdown, UsageError};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::context::Context;

/// How often files are looked at. Who replaces them does so days before the former ones end.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate that cannot be shown to anybody.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no certificate in PEM: {0}")]
    Pem(#[from] pem::Error),
    #[error("there is no certificate")]
    Empty,
    #[error("no certificate: {0}")]
    Certificate(#[from] x509_parser::asn1_rs::Err<x509_parser::error::X509Error>),
    /// They do not belong together, among others: one was replaced before the other.
    #[error("certificate and key: {0}")]
    Key(#[from] tokio_rustls::rustls::Error),
}

/// A certificate, its chain and its key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// From PEM: the certificate first, then those that it was signed with.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        Self::new(chain, key)
    }

    /// From DER.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let first = chain.first().ok_or(CertificateError::Empty)?;
        let (_, certificate) = X509Certificate::from_der(first)?;
        let not_after = certificate.validity().not_after.timestamp();
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        Ok(Self {
            key: Arc::new(key),
            not_after,
        })
    }
}

/// What is shown now; clones show the same. Nobody gets a connection before there is something.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    identity: Arc<RwLock<Option<Identity>>>,
}

impl Shown {
    /// From now on this is shown.
    pub fn show(&self, identity: Identity) {
        let mut shown = self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *shown = Some(identity);
    }

    /// For a server of HTTP/1.1, which is all that API servers speak to webhooks.
    pub fn server_config(&self) -> Result<ServerConfig, tokio_rustls::rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.identity.read().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().map(|identity| Arc::clone(&identity.key))
    }
}

/// Files with a certificate and its key.
#[derive(Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    read: (Vec<u8>, Vec<u8>),
}

impl Files {
    /// Reads them for the first time.
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<(Self, Identity), UsageError> {
        let mut files = Self {
            certificate,
            key,
            read: Default::default(),
        };
        let usage =
            |error: CertificateError| UsageError(format!("--webhook-cert, --webhook-key: {error}"));
        let identity = files.reread().map_err(usage)?;
        let identity = identity.ok_or_else(|| usage(CertificateError::Empty))?;
        Ok((files, identity))
    }

    /// What they have now; `None` if that is what they had. Half of a replacement is an error, and is
    /// read again.
    fn reread(&mut self) -> Result<Option<Identity>, CertificateError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| CertificateError::File {
                path: path.clone(),
                source,
            })
        };
        let found = (read(&self.certificate)?, read(&self.key)?);
        if found == self.read {
            return Ok(None);
        }
        let identity = Identity::parse(&found.0, &found.1)?;
        self.read = found;
        Ok(Some(identity))
    }
}

/// Shows what the files have, until the process stops. What cannot be read leaves the former one.
pub async fn follow(mut files: Files, shown: Shown, context: Arc<Context>, shutdown: Shutdown) {
    let mut told = None;
    loop {
        tokio::select! {
            () = shutdown.stopping() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let trouble = match files.reread() {
            Ok(None) => None,
            Ok(Some(identity)) => {
                tracing::info!("another certificate is shown to the API server");
                let expiry = &context.metrics.webhook_certificate_expiry;
                expiry.set(identity.not_after);
                shown.show(identity);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = trouble.as_ref().filter(|_| trouble != told) {
            tracing::warn!(
                error,
                "the former certificate is still shown to the API server"
            );
        }
        told = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        (made.cert.pem().into_bytes(), key.into_bytes())
    }

    #[test]
    fn files_are_taken_when_both_were_replaced() {
        let directory = std::env::temp_dir().join(format!("pharos-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
        let (first, second) = (pair("first"), pair("second"));
        std::fs::write(&certificate, &first.0).unwrap();
        std::fs::write(&key, &first.1).unwrap();
        let (mut files, _) = Files::open(certificate.clone(), key.clone()).unwrap();
        assert!(files.reread().unwrap().is_none());
        std::fs::write(&certificate, &second.0).unwrap();
        assert!(matches!(files.reread(), Err(CertificateError::Key(_))));
        std::fs::write(&key, &second.1).unwrap();
        assert!(files.reread().unwrap().is_some());
        assert!(files.reread().unwrap().is_none());
        std::fs::write(&key, "nothing").unwrap();
        assert!(matches!(files.reread(), Err(CertificateError::Pem(_))));
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(files.reread(), Err(CertificateError::File { .. })));
        assert!(Files::open(certificate, key).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
