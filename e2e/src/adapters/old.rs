//! An ipam-service of an earlier version, as far as an adapter sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use pharos_proto::v1;
use pharos_proto::v1::status_service_server::{StatusService, StatusServiceServer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower::util::MapRequestLayer;

use super::Stage;

/// Facts take no address from anybody: they go to any server.
const FACTS: &str = "/pharos.v1.AdvertisementService/SyncFacts";

/// Answers in ipam-service's place that it can do nothing, and counts what it is asked.
#[derive(Debug)]
pub struct OldBook {
    asked: Arc<Asked>,
    /// With all connections, which end with it.
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Asked {
    /// For its abilities.
    info: AtomicUsize,
    /// For anything but facts, that included.
    all: AtomicUsize,
}

struct Info(Arc<Asked>);

#[tonic::async_trait]
impl StatusService for Info {
    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        self.0.info.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(v1::GetServerInfoResponse {
            version: "0.0.1".to_owned(),
            store_id: "old".to_owned(),
            ..v1::GetServerInfoResponse::default()
        }))
    }
}

impl OldBook {
    /// Calls so far: for its abilities, and for anything else but facts.
    pub fn asked(&self) -> (usize, usize) {
        // In this order, as a call counts for the second first.
        let info = self.asked.info.load(Ordering::SeqCst);
        let all = self.asked.all.load(Ordering::SeqCst);
        (info, all.saturating_sub(info))
    }
}

impl Drop for OldBook {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Stage {
    /// Puts an old one where ipam-service was, which has to be killed before.
    pub fn start_old_book(&mut self) -> anyhow::Result<OldBook> {
        ensure!(self.book.is_none(), "ipam-service runs");
        let asked = Arc::new(Asked::default());
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind(self.book_address))?;
        let counts = Arc::clone(&asked);
        let count = move |request: http::Request<Body>| {
            if request.uri().path() != FACTS {
                counts.all.fetch_add(1, Ordering::SeqCst);
            }
            request
        };
        let serve = Server::builder()
            .layer(MapRequestLayer::new(count))
            .add_service(StatusServiceServer::new(Info(Arc::clone(&asked))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(async move {
            if let Err(error) = serve.await {
                eprintln!("the old ipam-service ended: {error}");
            }
        });
        Ok(OldBook {
            asked,
            runtime: Some(runtime),
        })
    }
}
