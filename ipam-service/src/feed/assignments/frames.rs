//! Updates of the node stream, as bytes.

use bytes::{BufMut as _, BytesMut};
use pharos_proto::v1;
use pharos_proto::v1::assignment_update::{Bucket, Changes, Header, Synced, Update};
use prost::Message as _;

use super::{Frame, PREFIX};

/// Longest frame of changes in bytes, as `announcer.proto` promises, less what the frame adds around
/// its entries (tags, lengths and the position, below 64 bytes).
const MAX_CHANGES_BYTES: usize = 64 * 1024 - 64;

/// Bytes that an entry of a repeated field takes beside itself: a tag and a length below 2^28.
const ENTRY_OVERHEAD: usize = 5;

fn frame(update: Update) -> Frame {
    let update = v1::AssignmentUpdate {
        update: Some(update),
    };
    let length = update.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("an update is far below 4 GiB"));
    update.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

pub(super) fn header(store_id: &str, cluster: &str, authoritative: bool) -> Frame {
    frame(Update::Header(Header {
        store_id: store_id.to_owned(),
        authoritative,
        cluster: cluster.to_owned(),
    }))
}

pub(super) fn members(members: v1::Members) -> Frame {
    frame(Update::Members(members))
}

pub(super) fn node_set(set: v1::NodeSet) -> Frame {
    frame(Update::NodeSet(set))
}

pub(super) fn bgp_peers(peers: v1::BgpPeers) -> Frame {
    frame(Update::BgpPeers(peers))
}

pub(super) fn bucket(index: usize, assignments: Vec<v1::Assignment>) -> Frame {
    let index = u32::try_from(index).expect("a bucket's index is below 256");
    frame(Update::Bucket(Bucket { index, assignments }))
}

pub(super) fn synced(position: u64) -> Frame {
    frame(Update::Synced(Synced { position }))
}

/// Changes in as many frames as their size asks for, each with a position of its own: the next
/// after `position`, which is moved on.
pub(super) fn changes(
    position: &mut u64,
    upserts: Vec<v1::Assignment>,
    removals: Vec<v1::AssignmentKey>,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut open = Changes::default();
    let mut size = 0;
    let mut flush = |open: &mut Changes, size: &mut usize| {
        if *size > 0 {
            *position += 1;
            let position = *position;
            let full = std::mem::take(open);
            frames.push(frame(Update::Changes(Changes { position, ..full })));
            *size = 0;
        }
    };
    // Removals first: an address that left one group for another would be one of the upserts.
    for removal in removals {
        let bytes = removal.encoded_len() + ENTRY_OVERHEAD;
        if size + bytes > MAX_CHANGES_BYTES {
            flush(&mut open, &mut size);
        }
        size += bytes;
        open.removals.push(removal);
    }
    for upsert in upserts {
        let bytes = upsert.encoded_len() + ENTRY_OVERHEAD;
        if size + bytes > MAX_CHANGES_BYTES {
            flush(&mut open, &mut size);
        }
        size += bytes;
        open.upserts.push(upsert);
    }
    flush(&mut open, &mut size);
    frames
}
