//! A codec that writes frames as they are.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// A message that is encoded already.
pub(super) type Frame = Bytes;

/// Reads messages of type `D`, and writes frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameCodec<D>(PhantomData<D>);

impl<D> Default for FrameCodec<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Copies a frame into the send buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameEncoder;

impl<D: prost::Message + Default + Send + 'static> Codec for FrameCodec<D> {
    type Encode = Frame;
    type Decode = D;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<D, D>::raw_decoder(BufferSettings::default())
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
