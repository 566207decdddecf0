//! What happens to every call before and after its service: tower layers.
//!
//! - [`ObserveLayer`], outermost: request id, tracing span, metrics.
//! - [`AdmitLayer`]: deadline, concurrency limit (of all, and of one peer), load shedding.
//!
//! Calls that may last for ever (streams, see [`Method::streaming`]) are observed, but neither
//! limited in number nor in time: a limit on the body of a stream would kill it. What bounds them
//! is HTTP/2 flow control, the streams of a connection, and the feeds behind them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::methods::{Method, Methods};
use crate::api::call::{Admission, REQUEST_ID_HEADER};
use crate::api::fields::MAX_REQUEST_ID_BYTES;
use crate::api::status;

/// Unary calls at once. Each holds at most one message, and all of them find a place in the
/// writer's queue ([`crate::engine::QUEUE`]); 1024 callers at 10 ms a batch are 100,000 calls per
/// second, more than the machine can do.
const MAX_CALLS: usize = crate::engine::QUEUE;

/// Of them those of one peer, whatever number of connections it opens (each has 200 at most): one
/// client that never has enough leaves as much to all others. A peer is an address, so a proxy before
/// several clients is one too; half of the places is far more than any of them needs.
const MAX_CALLS_OF_PEER: usize = MAX_CALLS / 2;

/// For unary calls that name no deadline: longer than any commit on a disk that works.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest deadline that a unary call may name.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// tonic ends a call at its deadline with CANCELLED; ours is this much earlier, and says what
/// happened.
const BEFORE_TONIC: Duration = Duration::from_millis(2);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

// === Observe ===

/// Gives every call a request id, a span and its metrics.
#[derive(Debug, Clone)]
pub(super) struct ObserveLayer {
    methods: Arc<Methods>,
    ids: Arc<RequestIds>,
}

impl ObserveLayer {
    pub(super) fn new(methods: Arc<Methods>) -> Self {
        Self {
            methods,
            ids: Arc::new(RequestIds::default()),
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`ObserveLayer`].
#[derive(Debug, Clone)]
pub(super) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = Response<InSpan<R>>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = Arc::clone(self.layer.methods.get(request.uri().path()));
        let request_id = self.layer.ids.of(request.headers());
        let span = tracing::info_span!(
            "call",
            method = %method.name,
            request_id = &*request_id
        );
        request.extensions_mut().insert(Admission {
            request_id: Arc::clone(&request_id),
            deadline: None,
        });
        let started = Instant::now();
        let in_flight = InFlight::begin(&method);
        let call = self.inner.call(request);
        let of_body = span.clone();
        let observed = async move {
            let mut outcome = call.await;
            drop(in_flight);
            let code = match &outcome {
                Ok(response) => code_of(response.headers()),
                Err(_) => Code::Unknown,
            };
            method.answered(code, started.elapsed());
            log(code, started.elapsed());
            if let Ok(response) = &mut outcome {
                echo(response.headers_mut(), &request_id);
            }
            outcome.map(|response| response.map(|body| InSpan::new(body, of_body)))
        };
        Box::pin(observed.instrument(span))
    }
}

/// The body of an answer, which is made in the span of its call: what a stream logs, it logs long after
/// the call was answered.
#[derive(Debug)]
pub(super) struct InSpan<B> {
    body: B,
    span: tracing::Span,
}

impl<B> InSpan<B> {
    fn new(body: B, span: tracing::Span) -> Self {
        Self { body, span }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for InSpan<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        let Self { body, span } = &mut *self;
        let _entered = span.enter();
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Counts a call until it has its answer, or its caller is gone.
struct InFlight(Arc<Method>);

impl InFlight {
    fn begin(method: &Arc<Method>) -> Self {
        method.in_flight().inc();
        Self(Arc::clone(method))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight().dec();
    }
}

/// The code of an answer that consists of headers only; anything else went well so far.
fn code_of(headers: &HeaderMap) -> Code {
    headers
        .get(Status::GRPC_STATUS)
        .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// A line per call is for those who look for it; what is our own fault is for everybody.
fn log(code: Code, after: Duration) {
    let us = after.as_micros();
    match code {
        Code::Internal | Code::DataLoss | Code::Unknown => {
            tracing::warn!(?code, us, "call failed");
        }
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unavailable
        | Code::Unauthenticated => tracing::debug!(?code, us, "call answered"),
    }
}

/// Adds the request id to an answer that has none of its own.
fn echo(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(mut value) = HeaderValue::from_str(request_id) {
        // Every call has another: kept out of the table that HPACK would search for it (RFC 7541,
        // 6.2.3).
        value.set_sensitive(true);
        headers.entry(REQUEST_ID_HEADER).or_insert(value);
    }
}

/// Makes request ids: a random start per process, then numbers.
#[derive(Debug)]
struct RequestIds {
    process: String,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self {
            process: uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
            next: AtomicU64::new(1),
        }
    }
}

impl RequestIds {
    /// The id of the header, if it can be used as one; else a new one.
    fn of(&self, headers: &HeaderMap) -> Arc<str> {
        let given = headers
            .get(REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok())
            .filter(|text| !text.is_empty() && text.len() <= MAX_REQUEST_ID_BYTES);
        match given {
            Some(text) => Arc::from(text),
            None => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                Arc::from(format!("{}-{number}", self.process))
            }
        }
    }
}

// === Admit ===

/// Bounds the number of unary calls and their time.
#[derive(Debug, Clone)]
pub(super) struct AdmitLayer {
    methods: Arc<Methods>,
    places: Arc<Semaphore>,
    peers: Arc<Peers>,
}

impl AdmitLayer {
    pub(super) fn new(methods: Arc<Methods>) -> Self {
        Self::with_places(methods, MAX_CALLS, MAX_CALLS_OF_PEER)
    }

    fn with_places(methods: Arc<Methods>, places: usize, of_peer: usize) -> Self {
        Self {
            methods,
            places: Arc::new(Semaphore::new(places)),
            peers: Arc::new(Peers {
                most: of_peer,
                taken: Mutex::default(),
            }),
        }
    }
}

/// The places that each peer has taken.
#[derive(Debug)]
struct Peers {
    most: usize,
    /// No number is 0.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place of a peer, which is free again when this is dropped.
#[derive(Debug)]
struct PeerPlace {
    peers: Arc<Peers>,
    /// `None`: not known, and not counted.
    peer: Option<IpAddr>,
}

impl Peers {
    /// `None`: it has as many as it may.
    fn enter(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<PeerPlace> {
        if let Some(peer) = peer {
            let mut taken = self.lock();
            let number = taken.entry(peer).or_default();
            if *number >= self.most {
                return None;
            }
            *number += 1;
        }
        let peers = Arc::clone(self);
        Some(PeerPlace { peers, peer })
    }

    /// Whole also after a panic: each change is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        if let Some(peer) = self.peer
            && let Entry::Occupied(mut number) = self.peers.lock().entry(peer)
        {
            *number.get_mut() -= 1;
            if *number.get() == 0 {
                number.remove();
            }
        }
    }
}

/// Who calls, by the address of the connection.
fn peer_of<B>(request: &Request<B>) -> Option<IpAddr> {
    let info = request.extensions().get::<TcpConnectInfo>()?;
    Some(info.remote_addr()?.ip().to_canonical())
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`AdmitLayer`].
#[derive(Debug, Clone)]
pub(super) struct Admit<S> {
    inner: S,
    layer: AdmitLayer,
}

impl<S, B, R> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.layer.methods.get(request.uri().path()).streaming {
            return Box::pin(self.inner.call(request));
        }
        let shed = |counter: &Counter, message: String| {
            counter.inc();
            let response = status::shed(message).into_http();
            Box::pin(std::future::ready(Ok(response)))
        };
        let Some(of_peer) = self.layer.peers.enter(peer_of(&request)) else {
            let most = self.layer.peers.most;
            let message = format!("{most} calls of this client are under way; try again");
            return shed(&self.layer.methods.shed.of_client, message);
        };
        let Ok(place) = Arc::clone(&self.layer.places).try_acquire_owned() else {
            let message = format!("{MAX_CALLS} calls are under way; try again");
            return shed(&self.layer.methods.shed.of_server, message);
        };
        let timeout = timeout_of(request.headers());
        let deadline = Instant::now() + timeout.saturating_sub(BEFORE_TONIC);
        if let Some(admission) = request.extensions_mut().get_mut::<Admission>() {
            admission.deadline = Some(deadline);
        }
        let call = self.inner.call(request);
        Box::pin(async move {
            let outcome = tokio::time::timeout_at(deadline, call).await;
            drop((place, of_peer));
            outcome.unwrap_or_else(|_| {
                let message = format!(
                    "no answer within {} ms; the call may still take effect, and can be repeated",
                    timeout.as_millis()
                );
                let status = status::plain(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message);
                Ok(status.into_http())
            })
        })
    }
}

/// The time that a unary call has.
fn timeout_of(headers: &HeaderMap) -> Duration {
    let named = headers
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    named.map_or(DEFAULT_TIMEOUT, |named| named.min(MAX_TIMEOUT))
}

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
