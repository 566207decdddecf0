//! Assignments as they are kept: encoded, which takes a fifth of the room, and in the order of their
//! buckets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use pharos_proto::v1;
use prost::Message as _;

use super::Key;

/// A bucket, and an address in it.
type Place = (usize, Key);

/// All assignments of a book.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_place: BTreeMap<Place, Box<[u8]>>,
}

impl Shelf {
    pub(super) fn insert(&mut self, place: Place, assignment: &v1::Assignment) {
        let bytes = assignment.encode_to_vec();
        self.by_place.insert(place, bytes.into());
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, place: &Place) -> bool {
        self.by_place.remove(place).is_some()
    }

    pub(super) fn get(&self, place: &Place) -> Option<v1::Assignment> {
        self.by_place.get(place).map(|bytes| decode(bytes))
    }

    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_place.keys().map(|(_, key)| key)
    }

    /// Each with its bucket.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Key, v1::Assignment)> {
        let all = self.by_place.iter();
        all.map(|((bucket, key), bytes)| (*bucket, key, decode(bytes)))
    }

    /// Takes out all of a bucket.
    pub(super) fn take(&mut self, bucket: usize) -> BTreeMap<Key, v1::Assignment> {
        let places = self.by_place.range(first_of(bucket)..first_of(bucket + 1));
        let places: Vec<Place> = places.map(|(place, _)| place.clone()).collect();
        let mut taken = BTreeMap::new();
        for place in places {
            if let Some((place, bytes)) = self.by_place.remove_entry(&place) {
                taken.insert(place.1, decode(&bytes));
            }
        }
        taken
    }
}

/// No place in the bucket comes before this one.
fn first_of(bucket: usize) -> Place {
    let key = Key {
        space: String::new(),
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    (bucket, key)
}

/// What was encoded here is read again.
fn decode(bytes: &[u8]) -> v1::Assignment {
    v1::Assignment::decode(bytes).unwrap_or_default()
}
