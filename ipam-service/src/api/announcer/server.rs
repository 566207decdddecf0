//! `AnnouncerService` as a tower service: what the generated server does, but `Announce`
//! sends frames that are encoded already.

use std::convert::Infallible;
use std::task::{Context, Poll};

use pharos_proto::v1;
use pharos_proto::v1::announcer_service_server::SERVICE_NAME;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError, http};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::AnnouncerApi;
use super::body::{FrameBody, report_decoder};

/// Most bytes of a report: a hello with 2048 bytes of digests, and many labels.
const MAX_REPORT_BYTES: usize = 256 * 1024;

/// Serves [`AnnouncerApi`] over gRPC.
#[derive(Debug, Clone)]
pub struct AnnouncerServer {
    api: AnnouncerApi,
}

impl AnnouncerServer {
    /// The service, ready to be added to a router.
    pub fn new(api: AnnouncerApi) -> Self {
        Self { api }
    }
}

impl NamedService for AnnouncerServer {
    const NAME: &'static str = SERVICE_NAME;
}

struct ListAssignments(AnnouncerApi);

impl UnaryService<v1::ListAssignmentsRequest> for ListAssignments {
    type Response = v1::ListAssignmentsResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<v1::ListAssignmentsRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.list_assignments(request) })
    }
}

struct GetPeerSecrets(AnnouncerApi);

impl UnaryService<v1::GetPeerSecretsRequest> for GetPeerSecrets {
    type Response = v1::GetPeerSecretsResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<v1::GetPeerSecretsRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.get_peer_secrets(request).await })
    }
}

struct RenewLease(AnnouncerApi);

impl UnaryService<v1::RenewLeaseRequest> for RenewLease {
    type Response = v1::RenewLeaseResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<v1::RenewLeaseRequest>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move { api.renew_lease(&request) })
    }
}

impl<B> Service<http::Request<B>> for AnnouncerServer
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
        let api = self.api.clone();
        match request.uri().path() {
            "/pharos.v1.AnnouncerService/Announce" => {
                Box::pin(async move { Ok(announce(&api, request).await) })
            }
            "/pharos.v1.AnnouncerService/ListAssignments" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default());
                Ok(grpc.unary(ListAssignments(api), request).await)
            }),
            "/pharos.v1.AnnouncerService/GetPeerSecrets" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default());
                Ok(grpc.unary(GetPeerSecrets(api), request).await)
            }),
            "/pharos.v1.AnnouncerService/RenewLease" => Box::pin(async move {
                let mut grpc = Grpc::new(ProstCodec::default());
                Ok(grpc.unary(RenewLease(api), request).await)
            }),
            _ => Box::pin(async move {
                Ok(Status::unimplemented("AnnouncerService has no such method").into_http())
            }),
        }
    }
}

/// What the generated server does for a call that streams both ways, but for the bodies.
async fn announce<B>(api: &AnnouncerApi, request: http::Request<B>) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let reports = Streaming::new_request(report_decoder(), body, None, Some(MAX_REPORT_BYTES));
    let metadata = MetadataMap::from_headers(parts.headers);
    let request = Request::from_parts(metadata, parts.extensions, reports);
    let (metadata, frames, extensions) = match api.announce(request).await {
        Ok(response) => response.into_parts(),
        Err(status) => return status.into_http(),
    };
    let mut response = http::Response::new(Body::new(FrameBody::new(frames)));
    *response.headers_mut() = metadata.into_headers();
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    *response.extensions_mut() = extensions;
    response
}
