//! Bytes that nobody would send: whatever arrives is taken in or refused with the field that is wrong,
//! and never ends the process. For tests and fuzzing.

use pharos_proto::v1;
use prost::Message;

use super::address_spaces::apply_from_wire;
use super::convert::{FieldErrors, allocate_from_wire, release_from_wire};
use super::convert_address_space::{address_space_from_wire, address_space_to_wire};
use super::convert_announce::{
    Said, advertisement_from_wire, advertisement_key, advertisement_set, said_from_wire,
};
use super::convert_bgp::{bgp_key, bgp_set, peer_from_wire, profile_from_wire};
use super::convert_pool::{in_use_from_wire, pool_from_wire, pool_key};
use super::convert_quota::quota_from_wire;
use super::convert_reservation::{reservation_from_wire, reservation_key};
use super::paging::PageToken;
use super::pools::pool_set;
use super::status;
use crate::state::address::AddressRange;
use crate::state::bgp::model::BgpCommand;
use crate::state::change::Change;
use crate::state::command::{Command, Fact, InUse};
use crate::state::invariants::{assert_same_book, assert_sound, rows};
use crate::state::model::{NodeKey, Timestamp};
use crate::state::names::Name;
use crate::state::refusal::Rejection;
use crate::state::{State, decide};

/// Most commands that one request may make necessary in a small state.
const MANY: usize = 10_000;

/// The cluster whose facts are reported.
const CLUSTER: &str = "east";

type Read = Result<Command, Rejection>;

/// Bytes as one kind of request; `None` where they are no message at all.
type Reader = fn(&[u8]) -> Option<Read>;

/// How the requests that change something are read, one for each of their methods.
pub(crate) const READERS: [Reader; 23] = [
    |bytes| {
        let wire = v1::AllocateRequest::decode(bytes).ok()?;
        Some(allocate_from_wire(&wire).map(|read| Command::Allocate(Box::new(read))))
    },
    |bytes| {
        let wire = v1::ReleaseRequest::decode(bytes).ok()?;
        Some(release_from_wire(&wire).map(Command::Release))
    },
    |bytes| Some(apply_pool(&v1::ApplyPoolRequest::decode(bytes).ok()?)),
    |bytes| {
        let wire = v1::DeletePoolRequest::decode(bytes).ok()?;
        let key = pool_key(&wire.address_space, &wire.cluster, &wire.name);
        let in_use = InUse::Move;
        Some(key.map(|key| Command::DeletePool { key, in_use }))
    },
    |bytes| {
        let wire = v1::SyncPoolsRequest::decode(bytes).ok()?;
        Some(pool_set(&wire).map(|(cluster, pools)| Command::SyncPools {
            cluster,
            pools,
            fence: wire.fence,
        }))
    },
    |bytes| {
        let wire = v1::ApplyAdvertisementRequest::decode(bytes).ok()?;
        let wire = wire.advertisement.as_ref();
        let read = field(|errors| advertisement_from_wire(errors, "advertisement", wire));
        Some(read.map(|read| Command::ApplyAdvertisement(Box::new(read))))
    },
    |bytes| {
        let wire = v1::DeleteAdvertisementRequest::decode(bytes).ok()?;
        let key = advertisement_key(&wire.cluster, &wire.name);
        Some(key.map(Command::DeleteAdvertisement))
    },
    |bytes| {
        let wire = v1::SyncAdvertisementsRequest::decode(bytes).ok()?;
        let read = advertisement_set(&wire);
        Some(read.map(|(_, command)| command))
    },
    |bytes| {
        let wire = v1::ApplyBgpPeerRequest::decode(bytes).ok()?;
        let read = field(|errors| peer_from_wire(errors, "peer", wire.peer.as_ref()));
        Some(read.map(|read| Command::Bgp(BgpCommand::ApplyPeer(Box::new(read)))))
    },
    |bytes| {
        let wire = v1::DeleteBgpPeerRequest::decode(bytes).ok()?;
        let key = bgp_key(&wire.cluster, &wire.name, &wire.request_id);
        Some(key.map(|key| Command::Bgp(BgpCommand::DeletePeer(key))))
    },
    |bytes| {
        let wire = v1::ApplyBfdProfileRequest::decode(bytes).ok()?;
        let read = field(|errors| profile_from_wire(errors, "profile", wire.profile.as_ref()));
        Some(read.map(|read| Command::Bgp(BgpCommand::ApplyProfile(read))))
    },
    |bytes| {
        let wire = v1::DeleteBfdProfileRequest::decode(bytes).ok()?;
        let key = bgp_key(&wire.cluster, &wire.name, &wire.request_id);
        Some(key.map(|key| Command::Bgp(BgpCommand::DeleteProfile(key))))
    },
    |bytes| {
        let wire = v1::SyncBgpPeersRequest::decode(bytes).ok()?;
        Some(bgp_set(&wire).map(|(_, set)| Command::Bgp(set)))
    },
    |bytes| {
        let wire = v1::ApplyReservationRequest::decode(bytes).ok()?;
        let wire = wire.reservation.as_ref();
        let read = field(|errors| reservation_from_wire(errors, "reservation", wire));
        Some(read.map(|read| Command::ApplyReservation(Box::new(read))))
    },
    |bytes| {
        let wire = v1::DeleteReservationRequest::decode(bytes).ok()?;
        let key = reservation_key(&wire.address_space, &wire.name);
        Some(key.map(Command::DeleteReservation))
    },
    |bytes| {
        let wire = v1::ClearUnavailableRequest::decode(bytes).ok()?;
        let read = field(|errors| {
            let space = errors.space("address_space", &wire.address_space);
            space.zip(errors.address("address", &wire.address))
        });
        Some(read.map(|(space, address)| Command::ClearUnavailable { space, address }))
    },
    |bytes| {
        let wire = v1::ApplyQuotaRequest::decode(bytes).ok()?;
        let read = field(|errors| quota_from_wire(errors, "quota", wire.quota.as_ref()));
        Some(read.map(|read| Command::ApplyQuota(Box::new(read))))
    },
    |bytes| {
        let wire = v1::DeleteQuotaRequest::decode(bytes).ok()?;
        Some(field(|errors| errors.name("name", &wire.name)).map(Command::DeleteQuota))
    },
    |bytes| {
        let wire = v1::ApplyAddressSpaceRequest::decode(bytes).ok()?;
        let read = apply_from_wire(&wire);
        Some(read.map(|read| {
            let wire = address_space_to_wire(&read.wanted);
            let again =
                field(|errors| address_space_from_wire(errors, "address_space", Some(&wire)));
            assert_eq!(again.as_ref(), Ok(&read.wanted));
            Command::ApplyAddressSpace(Box::new(read))
        }))
    },
    |bytes| {
        let wire = v1::DeleteAddressSpaceRequest::decode(bytes).ok()?;
        let read = field(|errors| {
            let if_revision = errors.if_revision(wire.if_revision);
            errors.name("name", &wire.name).zip(if_revision)
        });
        Some(read.map(|(name, if_revision)| Command::DeleteAddressSpace { name, if_revision }))
    },
    |bytes| {
        let wire = v1::DeleteClusterRequest::decode(bytes).ok()?;
        let read = field(|errors| errors.name("name", &wire.name));
        Some(read.map(|cluster| Command::DeleteCluster { cluster }))
    },
    |bytes| {
        let wire = v1::BeginSyncRequest::decode(bytes).ok()?;
        let read = field(|errors| {
            errors.fence(wire.fence);
            errors.name("cluster", &wire.cluster)
        });
        Some(read.map(|cluster| Command::BeginSync {
            cluster,
            uid: String::new(),
            fence: wire.fence,
        }))
    },
    |bytes| facts(&v1::SyncFactsRequest::decode(bytes).ok()?),
];

/// Takes in requests one after the other, `(reader, length, bytes)` each, as far as they can be read
/// at all. Every other one by its number is taken back and given again, as after a commit that
/// failed.
pub(crate) fn requests(mut bytes: &[u8]) {
    let mut state = State::new();
    while let [kind, length, rest @ ..] = bytes {
        let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        let reader = READERS[usize::from(*kind) % READERS.len()];
        let Some(command) = reader(message).and_then(assert_names_fields) else {
            continue;
        };
        if usize::from(*kind) / READERS.len() % 2 == 1 {
            take_back(&mut state, &command);
        }
        apply(&mut state, &command);
        assert_sound(&state);
    }
}

/// Reads a text as everything that is written as text.
pub(crate) fn text(text: &str) {
    if let Ok(range) = AddressRange::parse(text) {
        assert!(range.first() <= range.last());
        assert_eq!(range.first().family(), range.last().family());
        assert_eq!(AddressRange::parse(&range.written()), Ok(range));
    }
    if let Ok(address) = pharos_proto::net::parse_address(text) {
        let written = pharos_proto::net::format_address(address);
        assert_eq!(pharos_proto::net::parse_address(&written), Ok(address));
    }
    if let Ok(name) = Name::parse(text) {
        assert_eq!(name.as_str(), text);
    }
    let _bucket = pharos_proto::digest::bucket_of("default", text);
    let _token = PageToken::read(text, &"filter", 3);
    let wire = v1::Pool {
        name: "pool".to_owned(),
        addresses: vec![text.to_owned()],
        ..v1::Pool::default()
    };
    assert_names_fields(field(|errors| pool_from_wire(errors, "pool", Some(&wire))));
}

/// A refusal of a message says which fields are wrong.
pub(crate) fn assert_names_fields<T>(outcome: Result<T, Rejection>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(Rejection::Invalid(fields)) => {
            assert!(!fields.is_empty(), "a refusal without a field");
            for bad in fields {
                assert!(!bad.field.is_empty() && !bad.message.is_empty(), "{bad:?}");
            }
            None
        }
        Err(other) => panic!("a message is refused by its fields, not with {other:?}"),
    }
}

/// A command with all that it makes necessary; what changed.
pub(crate) fn apply(state: &mut State, command: &Command) -> Vec<Change> {
    let mut done = match decide(state, command, Timestamp(1)) {
        Ok(changes) => changes,
        Err(rejection) => {
            assert_ne!(status::of_rejection(&rejection).code(), tonic::Code::Ok);
            Vec::new()
        }
    };
    done.iter().for_each(|change| state.apply(change));
    for follow_ups in 0.. {
        let Some(follow_up) = state.follow_up() else {
            break;
        };
        assert!(follow_ups < MANY, "follow-ups do not end");
        let changes = decide(state, &follow_up, Timestamp(1));
        let changes = changes.expect("follow-ups are never rejected");
        changes.iter().for_each(|change| state.apply(change));
        done.extend(changes);
    }
    done
}

/// Applies a command and takes it back; the state is what it was.
fn take_back(state: &mut State, command: &Command) {
    let before = State::restore(state.revision(), rows(state));
    for change in apply(state, command).iter().rev() {
        state.undo(change);
    }
    assert_same_book(state, &before);
}

fn field<T>(read: impl FnOnce(&mut FieldErrors) -> Option<T>) -> Result<T, Rejection> {
    let mut errors = FieldErrors::new();
    let value = read(&mut errors);
    errors.finish(value)
}

fn apply_pool(wire: &v1::ApplyPoolRequest) -> Read {
    let (pool, in_use) = field(|errors| {
        let in_use = in_use_from_wire(errors, wire.if_in_use);
        pool_from_wire(errors, "pool", wire.pool.as_ref()).zip(in_use)
    })?;
    let pool = Box::new(pool);
    Ok(Command::ApplyPool { pool, in_use })
}

fn facts(wire: &v1::SyncFactsRequest) -> Option<Read> {
    let cluster = Name::parse(CLUSTER).expect("a name");
    let fact = match said_from_wire(&cluster, wire) {
        Ok(Said::Node(node, reported)) => {
            let cluster = cluster.clone();
            let key = NodeKey { cluster, node };
            Fact::Node { key, reported }
        }
        Ok(Said::Backends(owner, entry)) => Fact::Backends { owner, entry },
        Ok(Said::Complete) => Fact::Complete {
            nodes: Vec::new(),
            owners: Vec::new(),
        },
        Err(rejection) => return Some(Err(rejection)),
    };
    let facts = vec![fact];
    Some(Ok(Command::Facts { cluster, facts }))
}

#[cfg(test)]
mod tests;
