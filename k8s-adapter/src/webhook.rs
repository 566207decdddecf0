//! Admission webhooks: what people apply is judged before it is stored, by the same rules as afterwards
//! ([`crate::policy`]), in every replica and without ipam-service.
//!
//! [`server`] takes questions of the API server, [`review`] reads and answers them, [`judge`] asks the
//! policy; [`convert`] is for those whose CRD asks. [`tls`] is whom the API server believes to ask: with a certificate from files, or one of our own
//! ([`certificate`]) that it is told to trust ([`bundle`], [`inject`]).

pub mod bundle;
pub mod certificate;
pub mod convert;
pub mod inject;
pub mod judge;
pub mod review;
pub mod server;
#[cfg(test)]
mod testing;
pub mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use pharos_process::{Shutdown, UsageError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::context::Context;
use inject::Own;
use tls::{Files, Identity, Shown};

/// What flags say of webhooks.
#[derive(Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub source: Source,
}

/// Where the certificate comes from.
#[derive(Debug)]
pub enum Source {
    /// Whoever gives it has to see to it that the API server trusts it.
    Files { certificate: PathBuf, key: PathBuf },
    /// It is made, for so many seconds, and told in the configuration of this name.
    Own { configuration: String, life: i64 },
}

/// Webhooks that can be served.
pub struct Webhook {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shown: Shown,
    keeper: Keeper,
}

/// Who sees to it that a certificate is shown.
enum Keeper {
    Files(Files, Identity),
    Own(Own),
}

impl Webhook {
    /// Listens already. Must be called inside a tokio runtime.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let Settings { listen, source } = settings;
        let shown = Shown::default();
        let keeper = match source {
            Source::Files { certificate, key } => {
                let (files, identity) = Files::open(certificate, key)?;
                Keeper::Files(files, identity)
            }
            Source::Own {
                configuration,
                life,
            } => Keeper::Own(Own {
                configuration,
                life,
                replica: uuid::Uuid::new_v4().to_string(),
                shown: shown.clone(),
            }),
        };
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| UsageError(format!("--webhook-listen {listen}: {error}")))?;
        let config = Arc::new(shown.server_config().context("TLS")?);
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(config),
            shown,
            keeper,
        })
    }

    /// Serves until the process stops.
    pub async fn run(self, context: Arc<Context>, shutdown: Shutdown) {
        let Self {
            listener,
            acceptor,
            shown,
            keeper,
        } = self;
        let serve = server::serve(listener, acceptor, Arc::clone(&context), shutdown.clone());
        let keep = async {
            match keeper {
                Keeper::Files(files, identity) => {
                    let expiry = &context.metrics.webhook_certificate_expiry;
                    expiry.set(identity.not_after);
                    shown.show(identity);
                    tls::follow(files, shown, Arc::clone(&context), shutdown).await;
                }
                Keeper::Own(own) => inject::run(own, Arc::clone(&context), shutdown).await,
            }
        };
        tokio::join!(serve, keep);
    }
}
