//! `HistoryService` as a tower service: what the generated server does, but with a codec of its own
//! for `WatchChanges`.

use std::convert::Infallible;
use std::task::{Context, Poll};

use pharos_proto::v1;
use pharos_proto::v1::history_service_server::SERVICE_NAME;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{Frames, History};
use crate::api::codec::{Frame, FrameCodec};

/// Serves [`History`] over gRPC.
#[derive(Debug, Clone)]
pub struct HistoryServer {
    api: History,
    max_message: usize,
}

impl HistoryServer {
    /// The service, ready to be added to a router.
    pub fn new(api: History) -> Self {
        Self {
            api,
            max_message: 64 * 1024,
        }
    }

    /// Largest request in bytes.
    pub fn max_decoding_message_size(self, max_message: usize) -> Self {
        Self {
            max_message,
            ..self
        }
    }
}

impl NamedService for HistoryServer {
    const NAME: &'static str = SERVICE_NAME;
}

struct WatchChanges(History);

impl ServerStreamingService<v1::WatchChangesRequest> for WatchChanges {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = BoxFuture<Response<Frames>, Status>;

    fn call(&mut self, request: Request<v1::WatchChangesRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.watch_changes(request).await })
    }
}

/// A unary method of [`History`] as a service of its own.
macro_rules! unary {
    ($service:ident, $method:ident, $request:ty => $response:ty) => {
        struct $service(History);

        impl UnaryService<$request> for $service {
            type Response = $response;
            type Future = BoxFuture<Response<$response>, Status>;

            fn call(&mut self, request: Request<$request>) -> Self::Future {
                let api = self.0.clone();
                Box::pin(async move { api.$method(request).await })
            }
        }
    };
}

unary!(ConfirmClock, confirm_clock, v1::ConfirmClockRequest => v1::ConfirmClockResponse);
unary!(ListChanges, list_changes, v1::ListChangesRequest => v1::ListChangesResponse);
unary!(ListHoldings, list_holdings, v1::ListHoldingsRequest => v1::ListHoldingsResponse);

impl<B> Service<http::Request<B>> for HistoryServer
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (api, most) = (self.api.clone(), Some(self.max_message));
        macro_rules! serve {
            ($service:ident) => {
                Box::pin(async move {
                    let grpc = Grpc::new(ProstCodec::default());
                    let mut grpc = grpc.apply_max_message_size_config(most, None);
                    Ok(grpc.unary($service(api), request).await)
                })
            };
        }
        match request.uri().path() {
            "/pharos.v1.HistoryService/WatchChanges" => Box::pin(async move {
                let grpc = Grpc::new(FrameCodec::<v1::WatchChangesRequest>::default());
                let mut grpc = grpc.apply_max_message_size_config(most, None);
                Ok(grpc.server_streaming(WatchChanges(api), request).await)
            }),
            "/pharos.v1.HistoryService/ConfirmClock" => serve!(ConfirmClock),
            "/pharos.v1.HistoryService/ListChanges" => serve!(ListChanges),
            "/pharos.v1.HistoryService/ListHoldings" => serve!(ListHoldings),
            _ => Box::pin(async move {
                Ok(Status::unimplemented("HistoryService has no such method").into_http())
            }),
        }
    }
}
