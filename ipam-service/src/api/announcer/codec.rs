//! A codec that writes frames as they are.

use bytes::{Buf as _, BufMut as _};
use pharos_proto::v1;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::feed::assignments::Frame;

/// Reads reports, and writes frames that are encoded already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FrameCodec;

/// Copies a frame into the send buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameEncoder;

type ReportCodec = ProstCodec<v1::AnnouncerReport, v1::AnnouncerReport>;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = v1::AnnouncerReport;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<v1::AnnouncerReport>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ReportCodec::raw_decoder(BufferSettings::default())
    }
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.remaining());
        buffer.put(frame);
        Ok(())
    }
}
