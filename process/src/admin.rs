//! The admin listener: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{Readiness, Shutdown};

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

/// Serves until the process stops. `extra` are routes of the program's own.
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
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.stopping_owned())
        .await?;
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
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
