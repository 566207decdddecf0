//! Reads reports, and sends frames as they are.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use http::HeaderMap;
use http_body::Frame as BodyFrame;
use pharos_proto::v1;
use tonic::Status;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder};

use super::Frames;
use crate::feed::assignments::Frame;

type ReportCodec = ProstCodec<v1::AnnouncerReport, v1::AnnouncerReport>;

/// Reads reports.
pub(super) fn report_decoder() -> ProstDecoder<v1::AnnouncerReport> {
    ReportCodec::raw_decoder(BufferSettings::default())
}

/// The body of an answer: frames that are encoded already and shared by all who get them, then the
/// status. Nothing is copied, so what waits for a slow connection takes no memory of its own.
pub(super) struct FrameBody {
    frames: Option<Frames>,
}

impl FrameBody {
    pub(super) fn new(frames: Frames) -> Self {
        Self {
            frames: Some(frames),
        }
    }

    fn end(&mut self, status: &Status) -> BodyFrame<Frame> {
        self.frames = None;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // A message or detail that no header can carry: the code is what counts.
            trailers.clear();
            let code = http::HeaderValue::from(i32::from(status.code()));
            trailers.insert(Status::GRPC_STATUS, code);
        }
        BodyFrame::trailers(trailers)
    }
}

impl http_body::Body for FrameBody {
    type Data = Frame;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Frame>, Status>>> {
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frames.poll_next_unpin(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => BodyFrame::data(frame),
            Poll::Ready(Some(Err(status))) => self.end(&status),
            Poll::Ready(None) => self.end(&Status::ok("")),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}
