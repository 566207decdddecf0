//! Sealed datagrams that were recorded and are sent again.
//!
//! Each carries, inside the seal, its sender's run and a number that grows. A run that is over, a
//! number that was seen, and one that is far behind are refused. A receiver that has just started
//! has seen nothing yet: what could do harm there names its receiver's run as well
//! ([`super::wire::Handover`]). Pure.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

/// Numbers behind the highest that may still arrive: what a sender says to hundreds of others in
/// between, since it numbers all that it sends.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
/// Most senders that are remembered: far more than a cluster has nodes. Whoever knows the keys could
/// make up more; then all are forgotten, as after a start.
const SENDERS: usize = 8192;

/// Which datagram this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// [`sender_of`] the node.
    pub sender: u64,
    /// Of the sender; grows with each run.
    pub epoch: u64,
    /// Grows with each datagram of a run.
    pub number: u64,
}

impl Stamp {
    /// Length in bytes.
    pub const LENGTH: usize = 24;

    /// As it lies in a datagram.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let fields = [self.sender, self.epoch, self.number];
        for (chunk, field) in bytes.chunks_exact_mut(8).zip(fields) {
            chunk.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// Reads it off the beginning; gives the rest. `None`: too short.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (sender, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let stamp = Self {
            sender: u64::from_be_bytes(*sender),
            epoch: u64::from_be_bytes(*epoch),
            number: u64::from_be_bytes(*number),
        };
        Some((stamp, rest))
    }
}

/// The name of a node, in the eight bytes that a stamp has for it.
pub fn sender_of(node: &str) -> u64 {
    let hash = Sha256::digest(node.as_bytes());
    let first = hash.first_chunk().expect("a hash has 32 bytes");
    u64::from_be_bytes(*first)
}

/// What has been seen of every sender.
#[derive(Debug, Default)]
pub struct Seen {
    senders: HashMap<u64, Window>,
}

#[derive(Debug)]
struct Window {
    epoch: u64,
    highest: u64,
    /// A bit for each number up to `highest`, by its remainder.
    bits: [u64; WORDS],
}

impl Seen {
    /// Notes a datagram; tells whether it is a new one.
    pub fn is_new(&mut self, stamp: Stamp) -> bool {
        let known = self.senders.get_mut(&stamp.sender);
        if let Some(window) = known
            && window.epoch >= stamp.epoch
        {
            return window.epoch == stamp.epoch && window.is_new(stamp.number);
        }
        if self.senders.len() >= SENDERS {
            self.senders.clear();
        }
        let mut window = Window {
            epoch: stamp.epoch,
            highest: stamp.number,
            bits: [0; WORDS],
        };
        window.set(stamp.number);
        self.senders.insert(stamp.sender, window);
        true
    }
}

impl Window {
    fn is_new(&mut self, number: u64) -> bool {
        if number > self.highest {
            // As many as there are bits are all of them.
            let passed = (number - self.highest).min(WINDOW);
            for skipped in 0..passed {
                let (word, bit) = Self::place(number - skipped);
                self.bits[word] &= !bit;
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            return false;
        }
        let (word, bit) = Self::place(number);
        let is_new = self.bits[word] & bit == 0;
        self.set(number);
        is_new
    }

    fn set(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.bits[word] |= bit;
    }

    fn place(number: u64) -> (usize, u64) {
        let index = number % WINDOW;
        let word = usize::try_from(index / 64).expect("below 16");
        (word, 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stamp(epoch: u64, number: u64) -> Stamp {
        Stamp {
            sender: sender_of("a"),
            epoch,
            number,
        }
    }

    #[test]
    fn a_repetition_and_a_run_that_is_over_are_refused() {
        let mut seen = Seen::default();
        assert!(seen.is_new(stamp(5, 100)));
        assert!(!seen.is_new(stamp(5, 100)));
        assert!(seen.is_new(stamp(5, 99)), "overtaken on the way");
        assert!(!seen.is_new(stamp(4, 1000)), "an earlier run");
        assert!(seen.is_new(stamp(6, 1)), "the next run");
        assert!(!seen.is_new(stamp(5, 101)));
        let other = Stamp {
            sender: sender_of("b"),
            ..stamp(1, 1)
        };
        assert!(seen.is_new(other), "each sender by itself");
    }

    #[test]
    fn a_stamp_reads_back_with_what_follows_it() {
        let mut bytes = stamp(7, u64::MAX).to_bytes().to_vec();
        bytes.extend(b"rest");
        assert_eq!(
            Stamp::split(&bytes),
            Some((stamp(7, u64::MAX), b"rest".as_slice()))
        );
        assert_eq!(Stamp::split(&bytes[..Stamp::LENGTH - 1]), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::default();
        for sender in 0..3 * SENDERS as u64 {
            assert!(seen.is_new(Stamp {
                sender,
                ..stamp(1, 1)
            }));
        }
        assert!(seen.senders.len() <= SENDERS);
    }

    proptest! {
        #[test]
        fn no_number_is_new_twice_and_none_within_the_window_is_lost(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..3000), 1..300)
        ) {
            let mut seen = Seen::default();
            let mut model = BTreeSet::new();
            let mut highest = 5000;
            prop_assert!(seen.is_new(stamp(1, highest)));
            model.insert(highest);
            for (ahead, by) in steps {
                let number = if ahead { highest + by } else { highest - by };
                let in_window = number > highest || highest - number < WINDOW;
                let expected = in_window && model.insert(number);
                prop_assert_eq!(seen.is_new(stamp(1, number)), expected);
                highest = highest.max(number);
            }
        }
    }
}
