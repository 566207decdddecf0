//! A proxy between adapters and their API server that knows what is asked, and does what API servers and
//! networks do on bad days: refuse, be slow, say nothing, lose an answer, break a watch in the middle of an
//! event. It remembers every call, so that a test can count what was written.
//!
//! Adapters reach it by plain HTTP, on loopback; it speaks to the API server as they would, with their token.

mod call;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use call::Call;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy)]
pub enum Harm {
    /// The API server is not asked; this is its answer, with a `Retry-After` of so many seconds.
    Refuse(u16, Option<u32>),
    /// A watch that is granted has one event, an error of this code, and ends.
    ErrorEvent(u16),
    /// The API server is asked so much later.
    Delay(Duration),
    /// There is never an answer.
    Hang,
    /// The API server does what is asked, and nobody hears of it: the connection breaks.
    LoseAnswer,
    /// A list has two objects on each page.
    SmallPages,
}

/// Which calls are harmed.
type Picks = fn(&Call) -> bool;

/// What is done to watches that go on.
#[derive(Debug, Clone, Copy, Default)]
struct Cuts {
    /// Counts up: all that go on end well.
    ended: u64,
    /// Counts up: of the next event of all that go on half arrives, and the connection breaks.
    halved: u64,
}

/// See the module. Dropping it closes every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    runtime: Handle,
}

struct Shared {
    upstream: kube::Client,
    harms: Mutex<Vec<(Picks, Harm)>>,
    cuts: watch::Sender<Cuts>,
    /// With the code of the API server's answer; none: it was not asked, or has not answered yet.
    calls: Mutex<Vec<(Call, Option<u16>)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy to the API server of a kubeconfig, with the identity in there.
    pub(super) fn start(runtime: &Handle, kubeconfig: &Path) -> anyhow::Result<Self> {
        let upstream = runtime.block_on(upstream(kubeconfig))?;
        let mut proxy = Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            shared: Arc::new(Shared {
                upstream,
                harms: Mutex::default(),
                cuts: watch::Sender::default(),
                calls: Mutex::default(),
            }),
            server: None,
            runtime: runtime.clone(),
        };
        proxy.resume()?;
        Ok(proxy)
    }

    /// Where adapters reach it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this happens to new calls that are picked, to each the first of these that picks it;
    /// [`Harm::SmallPages`] and one more.
    pub fn harm(&self, harms: &[(Picks, Harm)]) {
        *locked(&self.shared.harms) = harms.to_vec();
    }

    /// From now on all is well.
    pub fn heal(&self) {
        self.harm(&[]);
    }

    /// All watches that go on end, as they do now and then.
    pub fn end_watches(&self) {
        self.shared.cuts.send_modify(|cuts| cuts.ended += 1);
    }

    /// All watches that go on break in the middle of their next event.
    pub fn break_watches(&self) {
        self.shared.cuts.send_modify(|cuts| cuts.halved += 1);
    }

    /// Closes every connection, and takes none.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // Until its connections are closed, nobody else gets its address.
            let _ = self.runtime.block_on(server);
        }
    }

    /// Takes connections again, at the same address.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let listener = self.runtime.block_on(TcpListener::bind(self.address));
        let listener = listener.context("the proxy's address")?;
        self.address = listener.local_addr()?;
        let serve = serve(listener, Arc::clone(&self.shared));
        self.server = Some(self.runtime.spawn(serve));
        Ok(())
    }

    /// How many of the calls that are picked the API server has answered with success.
    pub fn count(&self, picks: impl Fn(&Call) -> bool) -> usize {
        let calls = locked(&self.shared.calls);
        let done = |code: &Option<u16>| code.is_some_and(|code| (200..300).contains(&code));
        let counted = calls
            .iter()
            .filter(|(call, code)| done(code) && picks(call));
        counted.count()
    }

    /// What was written with success, but for the Lease: verb, resource and name.
    pub fn written(&self) -> Vec<String> {
        let calls = locked(&self.shared.calls);
        let written = calls.iter().filter(|(call, code)| {
            let done = code.is_some_and(|code| (200..300).contains(&code));
            done && call.is_write() && call.resource != "leases"
        });
        written
            .map(|(call, _)| format!("{} {} {}", call.verb, call.resource, call.name))
            .collect()
    }

    /// Forgets all calls so far.
    pub fn forget(&self) {
        locked(&self.shared.calls).clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn upstream(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    // What it says is passed on.
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { shared.answer(request).await }
    });
    // That it broke may be what was asked for.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Shared {
    /// An error breaks the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Answer>> {
        let call = Call::parse(request.method(), request.uri());
        let mut uri = request.uri().to_string();
        let mut loses = false;
        let harms = locked(&self.harms).clone();
        for (picks, harm) in harms {
            if !picks(&call) {
                continue;
            }
            match harm {
                Harm::SmallPages => {
                    uri = uri.replace("limit=500", "limit=2");
                    continue;
                }
                Harm::Refuse(code, after) => return refusal(code, after),
                Harm::ErrorEvent(code) => return Ok(error_event(code)),
                Harm::Delay(time) => tokio::time::sleep(time).await,
                Harm::Hang => match std::future::pending::<Infallible>().await {},
                Harm::LoseAnswer => loses = true,
            }
            break;
        }
        let place = {
            let mut calls = locked(&self.calls);
            calls.push((call.clone(), None));
            calls.len() - 1
        };
        let answer = self.ask(request, &uri).await?;
        // Unless all was forgotten meanwhile.
        if let Some((_, code)) = locked(&self.calls).get_mut(place) {
            *code = Some(answer.status().as_u16());
        }
        if loses {
            return Err(io::Error::other("the answer is lost"));
        }
        let cuts = (call.verb == "watch").then(|| self.cuts.subscribe());
        Ok(answer.map(|body| pass_on(body, cuts)))
    }

    async fn ask(
        &self,
        request: Request<Incoming>,
        uri: &str,
    ) -> io::Result<Response<kube::client::Body>> {
        let mut asked = Request::builder().method(request.method()).uri(uri);
        for header in [ACCEPT, CONTENT_TYPE] {
            if let Some(value) = request.headers().get(&header) {
                asked = asked.header(header, value);
            }
        }
        let body = read(request.into_body()).await?;
        let asked = asked.body(kube::client::Body::from(body));
        let asked = asked.map_err(io::Error::other)?;
        self.upstream.send(asked).await.map_err(io::Error::other)
    }
}

async fn read(mut body: Incoming) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(frame) = frame(&mut body).await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all)
}

/// The next frame of a body. Cancel safe.
async fn frame<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// The body of an answer.
struct Answer(BoxStream<'static, io::Result<Bytes>>);

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.0.poll_next_unpin(cx);
        next.map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }
}

fn whole(bytes: Vec<u8>) -> Answer {
    Answer(stream::once(async { Ok(Bytes::from(bytes)) }).boxed())
}

fn refusal(code: u16, retry_after: Option<u32>) -> io::Result<Response<Answer>> {
    let mut answer = Response::new(whole(status(code).to_string().into_bytes()));
    *answer.status_mut() = StatusCode::from_u16(code).map_err(io::Error::other)?;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(answer)
}

fn error_event(code: u16) -> Response<Answer> {
    let event = json!({ "type": "ERROR", "object": status(code) });
    Response::new(whole(format!("{event}\n").into_bytes()))
}

/// As API servers say no.
fn status(code: u16) -> serde_json::Value {
    let reason = match code {
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("a bad day ({code})"), "reason": reason, "code": code,
    })
}

/// An answer as it comes; of a watch, until it is cut.
fn pass_on(body: kube::client::Body, cuts: Option<watch::Receiver<Cuts>>) -> Answer {
    let flow = Flow {
        began: cuts.as_ref().map(|cuts| *cuts.borrow()),
        body,
        cuts,
        state: State::Flows,
    };
    Answer(stream::unfold(flow, Flow::next).boxed())
}

struct Flow {
    body: kube::client::Body,
    cuts: Option<watch::Receiver<Cuts>>,
    /// How often watches were cut before this one.
    began: Option<Cuts>,
    state: State,
}

enum State {
    Flows,
    Breaks,
    Over,
}

impl Flow {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.state {
            State::Flows => {}
            State::Breaks => {
                self.state = State::Over;
                return Some((Err(io::Error::other("broken off")), self));
            }
            State::Over => return None,
        }
        loop {
            let next = tokio::select! {
                () = is_over(self.cuts.as_mut(), self.began) => return None,
                next = frame(&mut self.body) => next?,
            };
            let bytes = match next {
                Ok(frame) => frame.into_data(),
                Err(error) => {
                    self.state = State::Over;
                    return Some((Err(io::Error::other(error)), self));
                }
            };
            let Ok(bytes) = bytes else { continue };
            let halved = self.cuts.as_ref().map(|cuts| cuts.borrow().halved);
            if halved != self.began.map(|began| began.halved) {
                self.state = State::Breaks;
                return Some((Ok(bytes.slice(..bytes.len() / 2)), self));
            }
            return Some((Ok(bytes), self));
        }
    }
}

/// Until a watch is to end; never, of another answer. Cancel safe.
async fn is_over(cuts: Option<&mut watch::Receiver<Cuts>>, began: Option<Cuts>) {
    let began = began.map(|began| began.ended);
    let ended = match cuts {
        Some(cuts) => cuts
            .wait_for(|cuts| Some(cuts.ended) != began)
            .await
            .is_ok(),
        None => false,
    };
    if !ended {
        std::future::pending::<()>().await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
