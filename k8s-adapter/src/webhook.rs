//! Admission webhooks: what people apply is judged before it is stored, by the same rules as afterwards
//! ([`crate::policy`]), in every replica and without ipam-service.
//!
//! [`server`] takes questions of the API server, [`review`] reads and answers them, [`judge`] asks the
//! policy. [`tls`] is whom the API server believes to ask.

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
use tls::{Files, Identity, Shown};

/// What flags say of webhooks.
#[derive(Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Webhooks that can be served.
pub struct Webhook {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shown: Shown,
    files: Files,
    identity: Identity,
}

impl Webhook {
    /// Listens already. Must be called inside a tokio runtime.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let Settings {
            listen,
            certificate,
            key,
        } = settings;
        let (files, identity) = Files::open(certificate, key)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| UsageError(format!("--webhook-listen {listen}: {error}")))?;
        let shown = Shown::default();
        let config = Arc::new(shown.server_config().context("TLS")?);
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(config),
            shown,
            files,
            identity,
        })
    }

    /// Serves until the process stops.
    pub async fn run(self, context: Arc<Context>, shutdown: Shutdown) {
        let Self {
            listener,
            acceptor,
            shown,
            files,
            identity,
        } = self;
        let expiry = &context.metrics.webhook_certificate_expiry;
        expiry.set(identity.not_after);
        shown.show(identity);
        let serve = server::serve(listener, acceptor, Arc::clone(&context), shutdown.clone());
        let follow = tls::follow(files, shown, context, shutdown);
        tokio::join!(serve, follow);
    }
}
