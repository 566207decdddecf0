//! The admin listener: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{Readiness, Shutdown};

/// How long requests may go on after the stop signal: a client that sends half a request and stays
/// must not keep the process from ending.
const GRACE: Duration = Duration::from_secs(1);

/// The admin listener failed.
#[derive(Debug, thiserror::Error)]
#[error("admin listener: {0}")]
pub struct AdminError(#[from] std::io::Error);

/// What the admin listener shows.
#[derive(Debug)]
pub struct Health {
    /// Served at `/metrics` in OpenMetrics text.
    pub registry: Registry,
    /// Served at `/readyz`: 200 `ok`, or 503 and one line of reasons.
    pub readiness: Readiness,
}

/// Serves until the process stops, and a second longer at most. `extra` are routes of the program's own.
pub async fn serve_admin(
    listener: TcpListener,
    health: Health,
    extra: Router,
    shutdown: Shutdown,
) -> Result<(), AdminError> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(health))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .merge(extra);
    let serve = axum::serve(listener, router).with_graceful_shutdown(shutdown.stopping_owned());
    let cut_off = async {
        shutdown.stopping().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serve.into_future() => served?,
        () = cut_off => tracing::debug!("clients of the admin listener are cut off"),
    }
    Ok(())
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    match health.readiness.reason() {
        None => {
            let mut text = "ok\n".to_owned();
            for note in health.readiness.notes() {
                text.push_str(&format!("note: {note}\n"));
            }
            text.into_response()
        }
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_request_without_end_does_not_keep_the_process_from_ending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health {
            registry: Registry::default(),
            readiness: Readiness::default(),
        };
        let (arrived, mut arrivals) = mpsc::channel(1);
        let stuck = get(move || async move {
            arrived.send(()).await.unwrap();
            std::future::pending::<()>().await;
        });
        let routes = Router::new().route("/stuck", stuck);
        let shutdown = Shutdown::default();
        let served = tokio::spawn(serve_admin(listener, health, routes, shutdown.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        arrivals.recv().await.unwrap();
        shutdown.stop();
        let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
        ended.expect("it ends").unwrap().unwrap();
    }
}
