//! Content digests of the assignment stream, as `announcer.proto` defines them.
//!
//! Both ends compute them: ipam-service over what it would send, the announcer over what it has
//! applied and over what it reads back from disk. Pure.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::net::{InvalidAddress, address_bytes, parse_address};
use crate::v1;

/// How many buckets the assignments of a cluster lie in.
pub const BUCKETS: usize = 256;

/// Length of [`Digests::to_wire`] in bytes.
pub const WIRE_LEN: usize = BUCKETS * 8;

/// The bucket of an address.
pub fn bucket_of(address_space: &str, address: &str) -> Result<usize, InvalidAddress> {
    let mut hash = Sha256::new();
    hash.update(address_space.as_bytes());
    hash.update([0]);
    hash.update(address_bytes(parse_address(address)?));
    Ok(usize::from(hash.finalize()[0]))
}

/// What one assignment adds to the digest of its bucket.
pub fn assignment_digest(assignment: &v1::Assignment) -> u64 {
    first_8_bytes(Sha256::digest(assignment.encode_to_vec()).as_ref())
}

/// The id of a set of nodes: the same set has the same id on every server. `nodes` must be sorted.
pub fn node_set_id<'a>(nodes: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = Sha256::new();
    for node in nodes {
        hash.update(node.as_bytes());
        hash.update([0]);
    }
    first_8_bytes(hash.finalize().as_ref())
}

/// Rank of a node in the rendezvous hash of a group: the smallest of the live candidates owns it.
pub fn rendezvous_rank(group: u64, node: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(group.to_be_bytes());
    hash.update(node.as_bytes());
    hash.finalize().into()
}

/// The digests of all buckets, kept up to date by exclusive or.
#[derive(Clone, PartialEq, Eq)]
pub struct Digests([u64; BUCKETS]);

impl Default for Digests {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let filled = self.0.iter().filter(|digest| **digest != 0).count();
        write!(f, "Digests({filled} of {BUCKETS} buckets in use)")
    }
}

impl Digests {
    /// Adds an assignment, or takes one away: the operation is its own inverse.
    pub fn toggle(&mut self, bucket: usize, assignment_digest: u64) {
        self.0[bucket] ^= assignment_digest;
    }

    /// The buckets in which `self` and `other` differ, ascending.
    pub fn differing(&self, other: &Self) -> Vec<usize> {
        (0..BUCKETS)
            .filter(|bucket| self.0[*bucket] != other.0[*bucket])
            .collect()
    }

    /// As `AnnouncerReport.Hello.digests` carries it.
    pub fn to_wire(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|digest| digest.to_be_bytes())
            .collect()
    }

    /// Empty bytes mean that the sender has nothing; any other length than [`WIRE_LEN`] is refused.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        if bytes.len() != WIRE_LEN {
            return None;
        }
        let mut digests = Self::default();
        for (digest, chunk) in digests.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *digest = first_8_bytes(chunk);
        }
        Some(digests)
    }
}

fn first_8_bytes(bytes: &[u8]) -> u64 {
    bytes[..8]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assignment(address: &str) -> v1::Assignment {
        v1::Assignment {
            address_space: "default".to_owned(),
            address: address.to_owned(),
            group: 7,
            nodes: vec!["a".to_owned()],
            ..v1::Assignment::default()
        }
    }

    #[test]
    fn the_bucket_does_not_depend_on_how_an_address_is_written() {
        let long = bucket_of("default", "2001:db8:0::0:1").expect("valid");
        assert_eq!(long, bucket_of("default", "2001:db8::1").expect("valid"));
    }

    #[test]
    fn adding_and_removing_an_assignment_restores_the_digests() {
        let before = Digests::default();
        let mut digests = before.clone();
        let one = assignment("192.0.2.1");
        let bucket = bucket_of(&one.address_space, &one.address).expect("valid");
        digests.toggle(bucket, assignment_digest(&one));
        assert_eq!(digests.differing(&before), [bucket]);
        digests.toggle(bucket, assignment_digest(&one));
        assert_eq!(digests, before);
    }

    #[test]
    fn digests_of_a_wrong_length_are_refused_and_none_means_empty() {
        assert_eq!(Digests::from_wire(&[]), Some(Digests::default()));
        assert_eq!(Digests::from_wire(&[0; WIRE_LEN - 1]), None);
    }

    #[test]
    fn node_names_are_not_confused_by_concatenation() {
        assert_ne!(node_set_id(["ab", "c"]), node_set_id(["a", "bc"]));
    }

    proptest! {
        #[test]
        fn digests_survive_the_wire(values in proptest::collection::vec(any::<u64>(), BUCKETS)) {
            let mut digests = Digests::default();
            for (bucket, value) in values.into_iter().enumerate() {
                digests.toggle(bucket, value);
            }
            prop_assert_eq!(Digests::from_wire(&digests.to_wire()), Some(digests));
        }
    }
}
