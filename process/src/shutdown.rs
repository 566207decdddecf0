//! Stopping: the first SIGTERM or SIGINT drains, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A stop signal that can be awaited in many places. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT. Must be called inside a tokio runtime.
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::default();
        let token = shutdown.token.clone();
        // Lives as long as the process: its only job is to end it.
        tokio::spawn(async move {
            next_signal(&mut terminate, &mut interrupt).await;
            tracing::info!("stopping: draining");
            token.cancel();
            next_signal(&mut terminate, &mut interrupt).await;
            tracing::warn!("second stop signal: exiting at once");
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Stops what listens to this signal, as SIGTERM would.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// Whether the stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when the process is to drain. Cancel safe.
    pub async fn stopping(&self) {
        self.token.cancelled().await;
    }

    /// The same, as a future that owns what it waits for.
    pub fn stopping_owned(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// A signal that stops when this one does, and can be stopped alone.
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
        }
    }
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
