//! Messages of SWIM as protobuf, each with its length before it: `foca` puts several into one
//! datagram.

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use prost::Message as _;

use crate::members::Peer;
use crate::members::wire::{BadPeer, WirePeer};

/// Messages of SWIM as protobuf.
pub(super) struct Codec;

/// Why bytes are no message of SWIM, or do not fit.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error(transparent)]
    Encode(#[from] prost::EncodeError),
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    #[error("unknown message or state")]
    Unknown,
    #[error(transparent)]
    BadPeer(#[from] BadPeer),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeader {
    #[prost(message, required, tag = "1")]
    src: WirePeer,
    #[prost(uint32, tag = "2")]
    src_incarnation: u32,
    #[prost(message, required, tag = "3")]
    dst: WirePeer,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(uint32, tag = "5")]
    probe: u32,
    #[prost(message, optional, tag = "6")]
    third: Option<WirePeer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(message, required, tag = "1")]
    peer: WirePeer,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
    #[prost(uint32, tag = "3")]
    state: u32,
}

impl foca::Codec<Peer> for Codec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Peer>,
        mut buffer: impl BufMut,
    ) -> Result<(), CodecError> {
        let (kind, probe, third) = match &header.message {
            Message::Ping(probe) => (1, *probe, None),
            Message::Ack(probe) => (2, *probe, None),
            Message::PingReq {
                target,
                probe_number,
            } => (3, *probe_number, Some(target)),
            Message::IndirectPing {
                origin,
                probe_number,
            } => (4, *probe_number, Some(origin)),
            Message::IndirectAck {
                target,
                probe_number,
            } => (5, *probe_number, Some(target)),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => (6, *probe_number, Some(origin)),
            Message::Announce => (7, 0, None),
            Message::Feed => (8, 0, None),
            Message::Gossip => (9, 0, None),
            Message::Broadcast => (10, 0, None),
            Message::TurnUndead => (11, 0, None),
        };
        let wire = WireHeader {
            src: (&header.src).into(),
            src_incarnation: header.src_incarnation.into(),
            dst: (&header.dst).into(),
            kind,
            probe: probe.into(),
            third: third.map(WirePeer::from),
        };
        Ok(wire.encode_length_delimited(&mut buffer)?)
    }

    fn decode_header(&mut self, mut buffer: impl Buf) -> Result<Header<Peer>, CodecError> {
        let wire = WireHeader::decode_length_delimited(&mut buffer)?;
        let probe = u8::try_from(wire.probe).map_err(|_| CodecError::Unknown)?;
        let third = || {
            let peer = wire.third.clone().ok_or(CodecError::Unknown)?;
            Ok::<Peer, CodecError>(peer.try_into()?)
        };
        let message = match wire.kind {
            1 => Message::Ping(probe),
            2 => Message::Ack(probe),
            3 => Message::PingReq {
                target: third()?,
                probe_number: probe,
            },
            4 => Message::IndirectPing {
                origin: third()?,
                probe_number: probe,
            },
            5 => Message::IndirectAck {
                target: third()?,
                probe_number: probe,
            },
            6 => Message::ForwardedAck {
                origin: third()?,
                probe_number: probe,
            },
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            _ => return Err(CodecError::Unknown),
        };
        Ok(Header {
            src: wire.src.try_into()?,
            src_incarnation: u16::try_from(wire.src_incarnation)
                .map_err(|_| CodecError::Unknown)?,
            dst: wire.dst.try_into()?,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<Peer>,
        mut buffer: impl BufMut,
    ) -> Result<(), CodecError> {
        let wire = WireMember {
            peer: member.id().into(),
            incarnation: member.incarnation().into(),
            state: match member.state() {
                State::Alive => 1,
                State::Suspect => 2,
                State::Down => 3,
            },
        };
        Ok(wire.encode_length_delimited(&mut buffer)?)
    }

    fn decode_member(&mut self, mut buffer: impl Buf) -> Result<Member<Peer>, CodecError> {
        let wire = WireMember::decode_length_delimited(&mut buffer)?;
        let state = match wire.state {
            1 => State::Alive,
            2 => State::Suspect,
            3 => State::Down,
            _ => return Err(CodecError::Unknown),
        };
        let incarnation = u16::try_from(wire.incarnation).map_err(|_| CodecError::Unknown)?;
        Ok(Member::new(wire.peer.try_into()?, incarnation, state))
    }
}
