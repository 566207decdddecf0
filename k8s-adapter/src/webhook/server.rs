//! HTTPS for the API server: connections, bodies, and what is answered to what is no question.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pharos_process::Shutdown;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::convert;
use super::judge::judge;
use super::review::{Review, kind_of, said};
use crate::context::Context;
use crate::metrics::WebhookLabels;
use crate::policy::ResourceKind;
use crate::policy::admission::Verdict;

/// Most connections at once: a few API servers, each with some.
const CONNECTIONS: usize = 64;
/// Most questions at once, whose bodies are in memory.
const QUESTIONS: usize = 8;
/// Longest body: an object before and after a change, of 1.5 MiB each at most, and what is around them.
const LONGEST_BODY: usize = 4 << 20;
/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Longest time for a question, from its head to the answer: the API server waits for two seconds.
const ANSWER: Duration = Duration::from_millis(1900);
/// A connection without a question for this long is closed. API servers close theirs after 90 s, and
/// who closes first loses no question.
const IDLE: Duration = Duration::from_secs(120);
/// How long questions may go on after the stop signal.
const GRACE: Duration = Duration::from_secs(2);
/// After an error of accept, which is one of resources.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process stops.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    context: Arc<Context>,
    shutdown: Shutdown,
) {
    let questions = Arc::new(Semaphore::new(QUESTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.stopping() => break,
            Some(_) = connections.join_next(), if connections.len() >= CONNECTIONS => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let desk = Desk {
                    context: Arc::clone(&context),
                    questions: Arc::clone(&questions),
                };
                connections.spawn(connection(stream, acceptor.clone(), desk, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection of the API server is taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::debug!("questions of the API server are cut off");
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, desk: Desk, shutdown: Shutdown) {
    // An answer is one segment that nobody should wait for.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = shutdown.stopping() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection of the API server broke");
    }
}

/// Where questions are answered.
#[derive(Clone)]
struct Desk {
    context: Arc<Context>,
    questions: Arc<Semaphore>,
}

/// A question that gets no answer, and why.
struct Turned(StatusCode, String);

/// What is asked at a path.
#[derive(Debug, Clone, Copy)]
enum Question {
    Review(ResourceKind),
    Conversion,
}

impl Question {
    fn at(path: &str) -> Option<Self> {
        if path == convert::PATH {
            return Some(Self::Conversion);
        }
        kind_of(path).map(Self::Review)
    }

    /// Whom it is about.
    fn kind(self) -> ResourceKind {
        match self {
            Self::Review(kind) => kind,
            // No other kind has two versions.
            Self::Conversion => ResourceKind::Peer,
        }
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(question) = Question::at(request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "there is no such webhook");
        };
        let kind = question.kind();
        let answered = tokio::time::timeout(ANSWER, self.answer_to(question, request)).await;
        let late = || Turned(StatusCode::SERVICE_UNAVAILABLE, "too slow".to_owned());
        match answered.unwrap_or_else(|_| Err(late())) {
            Ok((word, answer)) => {
                self.count(kind, word);
                json(&answer)
            }
            Err(Turned(status, why)) => {
                self.count(kind, "failed");
                let kind = kind.as_str();
                tracing::warn!(kind, why, "a question of the API server got no answer");
                text(status, &why)
            }
        }
    }

    /// The answer, and a word for it.
    async fn answer_to(
        &self,
        question: Question,
        request: Request<Incoming>,
    ) -> Result<(&'static str, Value), Turned> {
        if request.method() != Method::POST {
            let why = "a question is posted".to_owned();
            return Err(Turned(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        // It is never closed.
        let _place = self.questions.acquire().await;
        let body = Body::new(request.into_body());
        let body = axum::body::to_bytes(body, LONGEST_BODY).await;
        let body = body.map_err(|error| {
            let limit = format!("the body cannot be read, or is longer than {LONGEST_BODY} bytes");
            Turned(StatusCode::PAYLOAD_TOO_LARGE, format!("{limit}: {error}"))
        })?;
        match question {
            Question::Review(kind) => {
                let review = Review::parse(kind, &body).map_err(|error| bad(&error))?;
                let verdict = judge(&self.context, &review).await;
                tell(kind, &verdict);
                Ok((word(&verdict), review.answer(&verdict)))
            }
            Question::Conversion => {
                let answer = convert::answer(&body).map_err(|error| bad(&error))?;
                Ok(("converted", answer))
            }
        }
    }

    fn count(&self, kind: ResourceKind, answer: &'static str) {
        let labels = WebhookLabels {
            kind: kind.as_str(),
            answer,
        };
        let requests = &self.context.metrics.webhook_requests;
        requests.get_or_create(&labels).inc();
    }
}

fn bad(error: &dyn std::error::Error) -> Turned {
    Turned(StatusCode::BAD_REQUEST, error.to_string())
}

fn word(verdict: &Verdict) -> &'static str {
    match (verdict.errors.is_empty(), verdict.warnings.is_empty()) {
        (false, _) => "denied",
        (true, false) => "warned",
        (true, true) => "allowed",
    }
}

fn tell(kind: ResourceKind, verdict: &Verdict) {
    if !verdict.errors.is_empty() {
        let errors = said(&verdict.errors);
        tracing::info!(kind = kind.as_str(), errors, "a change is refused");
    }
}

fn json(answer: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.to_string()));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
