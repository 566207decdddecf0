//! When which object is written: [`RATE`] writes in a second, the newest change first, each topic in one slot
//! however often it changes. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Writes per second, and how many may come at once after a quiet second.
pub const RATE: u32 = 50;
/// A topic that was written waits this long before it is written again: one that changes all the time keeps
/// no other waiting.
pub const REST: Duration = Duration::from_secs(1);
/// A topic whose write is refused again and again waits twice as long each time, up to this.
pub const LONGEST_REST: Duration = Duration::from_mins(1);
const EACH: Duration = Duration::from_millis(1000 / RATE as u64);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<K> {
    Write(K),
    /// Not before then.
    At(Instant),
    /// Nothing is to be written.
    Idle,
}

/// The slots.
#[derive(Debug)]
pub struct Pace<K> {
    /// By when they were asked for, as a count.
    waiting: BTreeMap<u64, K>,
    slots: BTreeMap<K, u64>,
    count: u64,
    /// What was written in the last [`REST`], and until when it rests.
    resting: BTreeMap<K, Instant>,
    /// Writes in a row that were refused.
    refused: BTreeMap<K, u32>,
    /// When all of the allowance is there again.
    full: Option<Instant>,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            slots: BTreeMap::new(),
            count: 0,
            resting: BTreeMap::new(),
            refused: BTreeMap::new(),
            full: None,
        }
    }
}

impl<K: Ord + Clone> Pace<K> {
    /// Exactly these are to be written. One that was not waiting comes before all that were.
    pub fn ask<'a>(&mut self, keys: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        let mut before = std::mem::take(&mut self.slots);
        let waiting = std::mem::take(&mut self.waiting);
        for key in keys {
            let slot = before.remove(key).unwrap_or_else(|| {
                self.count += 1;
                self.count
            });
            self.slots.insert(key.clone(), slot);
            self.waiting.insert(slot, key.clone());
        }
        drop(waiting);
        let slots = &self.slots;
        self.refused.retain(|key, _| slots.contains_key(key));
    }

    /// A write was refused, and may be again: others go first. Says how many were in a row.
    pub fn refused(&mut self, key: &K, now: Instant) -> u32 {
        let count = self.refused.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        let rest = REST.saturating_mul(1 << (*count).min(10)).min(LONGEST_REST);
        self.resting.insert(key.clone(), now + rest);
        *count
    }

    /// A write arrived.
    pub fn arrived(&mut self, key: &K) {
        self.refused.remove(key);
    }

    /// The last one took so many more writes than one.
    pub fn also(&mut self, more: u32, now: Instant) {
        let full = self.full.map_or(now, |full| full.max(now));
        self.full = Some(full + EACH * more);
    }

    /// The next to be written, which leaves its slot.
    pub fn next(&mut self, now: Instant) -> Next<K> {
        self.resting.retain(|_, until| now < *until);
        if self.waiting.is_empty() {
            return Next::Idle;
        }
        let full = self.full.map_or(now, |full| full.max(now));
        let allowance = EACH * (RATE - 1);
        if full > now + allowance {
            return Next::At(full - allowance);
        }
        let mut newest = self.waiting.iter().rev();
        let free = newest.find(|(_, key)| !self.resting.contains_key(key));
        let Some((&slot, key)) = free else {
            let earliest = self
                .waiting
                .values()
                .filter_map(|it| self.resting.get(it))
                .min();
            return earliest.map_or(Next::Idle, |at| Next::At(*at));
        };
        let key = key.clone();
        self.waiting.remove(&slot);
        self.slots.remove(&key);
        self.resting.insert(key.clone(), now + REST);
        self.full = Some(full + EACH);
        Next::Write(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make one"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn drain(pace: &mut Pace<u32>, now: Instant) -> Vec<u32> {
        let mut written = Vec::new();
        while let Next::Write(key) = pace.next(now) {
            written.push(key);
        }
        written
    }

    #[test]
    fn the_newest_is_written_first_and_each_once() {
        let now = start();
        let mut pace = Pace::default();
        pace.ask(&[1, 2]);
        pace.ask(&[1, 2, 3]);
        // It is what it should be again.
        pace.ask(&[1, 3]);
        assert_eq!(drain(&mut pace, now), [3, 1]);
        assert_eq!(pace.next(now), Next::Idle);
    }

    #[test]
    fn no_more_than_the_rate_is_written_in_any_second() {
        let mut now = start();
        let mut pace = Pace::default();
        let keys: Vec<u32> = (0..500).collect();
        pace.ask(&keys);
        let mut written: Vec<Instant> = Vec::new();
        loop {
            match pace.next(now) {
                Next::Write(_) => written.push(now),
                Next::At(at) => {
                    assert!(at > now);
                    now = at;
                }
                Next::Idle => break,
            }
        }
        assert_eq!(written.len(), 500);
        // A burst, and the rate from there on.
        let took = written[499] - written[0];
        assert!(took >= Duration::from_secs(8), "{took:?}");
        assert!(took <= Duration::from_secs(10), "{took:?}");
        for (first, last) in written.iter().zip(&written[100..]) {
            assert!(*last - *first >= Duration::from_secs(1));
        }
    }

    #[test]
    fn what_takes_several_writes_counts_as_several() {
        let now = start();
        let mut pace = Pace::default();
        let keys: Vec<u32> = (0..100).collect();
        pace.ask(&keys);
        let mut written = 0;
        while let Next::Write(_) = pace.next(now) {
            pace.also(4, now);
            written += 1;
        }
        assert_eq!(written, RATE / 5);
    }

    #[test]
    fn what_changes_all_the_time_rests_and_keeps_no_other_waiting() {
        let now = start();
        let mut pace = Pace::default();
        pace.ask(&[1]);
        assert_eq!(pace.next(now), Next::Write(1));
        pace.ask(&[2]);
        pace.ask(&[1, 2]);
        assert_eq!(pace.next(now), Next::Write(2));
        assert_eq!(pace.next(now), Next::At(now + REST));
        assert_eq!(pace.next(now + REST), Next::Write(1));
    }

    #[test]
    fn what_is_refused_waits_ever_longer_and_what_arrives_does_not() {
        let mut now = start();
        let mut pace = Pace::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.ask(&[1]);
            assert_eq!(pace.next(now), Next::Write(1));
            pace.refused(&1, now);
            pace.ask(&[1, 2]);
            assert_eq!(pace.next(now), Next::Write(2), "others do not wait");
            pace.arrived(&2);
            pace.ask(&[1]);
            let Next::At(at) = pace.next(now) else {
                panic!("it rests");
            };
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pace.next(now), Next::Write(1));
        pace.arrived(&1);
        pace.ask(&[1]);
        assert_eq!(pace.next(now), Next::At(now + REST));
    }

    #[test]
    fn nothing_is_remembered_of_what_is_not_to_be_written_any_more() {
        let now = start();
        let mut pace = Pace::default();
        pace.ask(&[1]);
        assert_eq!(pace.next(now), Next::Write(1));
        pace.refused(&1, now);
        pace.ask(&[]);
        assert!(pace.refused.is_empty());
    }
}
