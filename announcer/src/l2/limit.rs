//! How often one neighbour is answered for one address.
//!
//! Pure. Whoever asks a hundred times as often as any kernel does wants to keep this node busy. What is
//! remembered has a fixed size: where two neighbours have the same place, the later one takes it, and the
//! other one is not limited for that moment.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::question::Question;

/// Answers per second. A kernel asks once a second for an address, and so does one that tries others.
const RATE: u32 = 200;
/// Answers at once.
const BURST: u32 = 200;
/// Neighbours and addresses that are remembered; 24 bytes each.
const PLACES: usize = 2048;

/// What each neighbour was answered lately.
#[derive(Debug)]
pub struct Limits {
    places: Box<[Option<Place>]>,
    /// Of this process alone: nobody can choose whose place it takes.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u64,
    /// When as many answers as were given have been earned.
    earned: Instant,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: vec![None; PLACES].into(),
            hasher: RandomState::new(),
        }
    }
}

impl Limits {
    /// Whether the question may be answered now; counts that it is.
    pub fn allows(&mut self, question: &Question, now: Instant) -> bool {
        let hash = self.hasher.hash_one(question);
        // Which bits of it are taken does not matter.
        let place = &mut self.places[hash as usize % PLACES];
        let earned = match place {
            Some(known) if known.hash == hash => known.earned.max(now),
            Some(_) | None => now,
        };
        let per_answer = Duration::from_secs(1) / RATE;
        if earned > now + per_answer * (BURST - 1) {
            return false;
        }
        *place = Some(Place {
            hash,
            earned: earned + per_answer,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use pnet_base::MacAddr;

    use super::*;
    use crate::clock::now as start;

    fn question(from: u32) -> Question {
        Question {
            asker: MacAddr(2, 0, 0, 0, 0, 1),
            from: IpAddr::V4(Ipv4Addr::from(from)),
            target: IpAddr::from([192, 0, 2, 1]),
        }
    }

    #[test]
    fn who_asks_ten_thousand_times_a_second_is_answered_two_hundred_times() {
        let (start, mut limits) = (start(), Limits::default());
        let answered = |limits: &mut Limits, second: u64| {
            let asked = (0..10_000).map(|step| second * 1_000_000 + 100 * step);
            let asked = asked.map(|micros| start + Duration::from_micros(micros));
            asked
                .filter(|now| limits.allows(&question(1), *now))
                .count()
        };
        assert!(
            (390..=410).contains(&answered(&mut limits, 0)),
            "and the first burst"
        );
        assert!((190..=210).contains(&answered(&mut limits, 1)));
    }

    #[test]
    fn whoever_asks_as_a_kernel_does_is_never_refused_whatever_others_do() {
        let (start, mut limits) = (start(), Limits::default());
        for ms in 0..5000 {
            let now = start + Duration::from_millis(ms);
            for other in 0..20 {
                limits.allows(&question(other), now);
            }
            // Three tries, a second apart, and again: of a thousand neighbours.
            assert!(limits.allows(&question(1000 + (ms % 1000) as u32), now));
        }
    }

    #[test]
    fn what_is_remembered_has_a_fixed_size() {
        let (start, mut limits) = (start(), Limits::default());
        for from in 0..100_000 {
            assert!(limits.allows(&question(from), start));
        }
        assert_eq!(limits.places.len(), PLACES);
        assert!(size_of::<Option<Place>>() <= 24);
    }
}
