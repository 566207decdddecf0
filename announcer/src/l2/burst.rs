//! When gratuitous frames are sent: ARP in both forms, or unsolicited neighbour advertisements.
//!
//! On take-over at once, then again 1.1 s apart (firmware exists that ignores two within a second;
//! RFC 4861 asks for a second): five rounds of ARP, three advertisements. Then once a minute, so
//! that no switch forgets where an address is. Pure: time and chance come in as arguments.
//!
//! The first round is paced but never capped, reply forms last; refreshes and rounds 2 to 5
//! share a cap, so that thousands of addresses do not flood a segment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two rounds of a burst.
const ROUND_INTERVAL: Duration = Duration::from_millis(1100);
/// Rounds of a burst of ARP, the first included.
const ROUNDS_ARP: u8 = 5;
/// Rounds of a burst of advertisements (MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861).
const ROUNDS_NDP: u8 = 3;
/// Between refreshes, give or take a tenth: well below the 300 s after which switches forget.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Frames per second in a first round.
const FIRST_RATE: u32 = 10_000;
/// Frames per second of everything else.
const LATER_RATE: u32 = 500;
/// Most frames that one call gives, so that requests are answered in between.
const BATCH: usize = 64;

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    pub interface: u32,
    pub address: IpAddr,
}

impl Spot {
    fn rounds(&self) -> u8 {
        match self.address {
            IpAddr::V4(_) => ROUNDS_ARP,
            IpAddr::V6(_) => ROUNDS_NDP,
        }
    }

    /// What one round consists of, in order.
    pub(super) fn forms(&self) -> &'static [Form] {
        match self.address {
            IpAddr::V4(_) => &[Form::Request, Form::Reply],
            IpAddr::V6(_) => &[Form::Advertisement],
        }
    }
}

/// How an address is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// ARP.
    Request,
    /// ARP.
    Reply,
    /// Neighbour discovery.
    Advertisement,
}

/// A gratuitous frame that is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gratuitous {
    pub spot: Spot,
    pub form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    due: Instant,
    /// Rounds already sent.
    sent: u8,
}

/// A rate, as the moment from which the next frame may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    next: Instant,
    interval: Duration,
}

impl Pace {
    /// A caller that comes late may make up for this much: so finely does a thread sleep.
    const SLACK: Duration = Duration::from_millis(2);

    pub(super) fn per_second(frames: u32, now: Instant) -> Self {
        Self {
            next: now,
            interval: Duration::from_secs(1) / frames,
        }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn allows(&self, now: Instant) -> bool {
        self.next <= now
    }

    pub(super) fn spend(&mut self, frames: u32, now: Instant) {
        let earliest = now.checked_sub(Self::SLACK).unwrap_or(now);
        self.next = self.next.max(earliest) + self.interval * frames;
    }
}

/// The schedule of all addresses that this node announces.
#[derive(Debug)]
pub struct Bursts {
    plans: BTreeMap<Spot, Plan>,
    queue: BTreeSet<(Instant, Spot)>,
    /// First rounds that wait to be sent; a spot without a plan has been stopped since.
    first: VecDeque<Gratuitous>,
    /// The second half of them.
    first_replies: VecDeque<Gratuitous>,
    first_pace: Pace,
    later_pace: Pace,
}

impl Bursts {
    /// Announces nothing yet.
    pub fn new(now: Instant) -> Self {
        Self {
            plans: BTreeMap::new(),
            queue: BTreeSet::new(),
            first: VecDeque::new(),
            first_replies: VecDeque::new(),
            first_pace: Pace::per_second(FIRST_RATE, now),
            later_pace: Pace::per_second(LATER_RATE, now),
        }
    }

    /// Begins a burst, anew if one is running.
    pub fn start(&mut self, spot: Spot, now: Instant) {
        self.stop(spot);
        let due = now + ROUND_INTERVAL;
        self.plans.insert(spot, Plan { due, sent: 1 });
        self.queue.insert((due, spot));
        for form in spot.forms() {
            let frame = Gratuitous { spot, form: *form };
            match form {
                Form::Request | Form::Advertisement => self.first.push_back(frame),
                Form::Reply => self.first_replies.push_back(frame),
            }
        }
    }

    /// Sends nothing more for an address.
    pub fn stop(&mut self, spot: Spot) {
        if let Some(plan) = self.plans.remove(&spot) {
            self.queue.remove(&(plan.due, spot));
        }
    }

    /// When [`Self::due`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = !self.first.is_empty() || !self.first_replies.is_empty();
        let first = waiting.then_some(self.first_pace.next);
        let later = self
            .queue
            .first()
            .map(|(due, _)| self.later_pace.next.max(*due));
        [first, later].into_iter().flatten().min()
    }

    /// The frames that are due, at most a batch of them. `jitter` gives a number from 0 to 1 for
    /// each refresh that is planned.
    pub fn due(&mut self, now: Instant, jitter: impl FnMut() -> f64) -> Vec<Gratuitous> {
        let mut frames = Vec::new();
        self.due_first(now, &mut frames);
        self.due_later(now, jitter, &mut frames);
        frames
    }

    fn due_first(&mut self, now: Instant, frames: &mut Vec<Gratuitous>) {
        while frames.len() < BATCH && self.first_pace.allows(now) {
            let next = self.first.pop_front();
            let Some(frame) = next.or_else(|| self.first_replies.pop_front()) else {
                return;
            };
            if self.plans.contains_key(&frame.spot) {
                self.first_pace.spend(1, now);
                frames.push(frame);
            }
        }
    }

    fn due_later(
        &mut self,
        now: Instant,
        mut jitter: impl FnMut() -> f64,
        frames: &mut Vec<Gratuitous>,
    ) {
        while frames.len() < BATCH && self.later_pace.allows(now) {
            let Some((due, spot)) = self.queue.first().copied().filter(|(due, _)| *due <= now)
            else {
                return;
            };
            self.queue.remove(&(due, spot));
            if let Some(plan) = self.plans.get_mut(&spot) {
                plan.sent = plan.sent.saturating_add(1);
                plan.due = if plan.sent < spot.rounds() {
                    now + ROUND_INTERVAL
                } else {
                    now + REFRESH_INTERVAL.mul_f64(0.9 + 0.2 * jitter().clamp(0.0, 1.0))
                };
                self.queue.insert((plan.due, spot));
            }
            for form in spot.forms() {
                self.later_pace.spend(1, now);
                frames.push(Gratuitous { spot, form: *form });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now as start;

    fn spot(number: u32) -> Spot {
        Spot {
            interface: 2,
            address: IpAddr::V4((0xc000_0200 + number).into()),
        }
    }

    /// Runs the schedule for so long; gives each frame with its time in milliseconds.
    fn run(bursts: &mut Bursts, start: Instant, seconds: u64) -> Vec<(u128, Gratuitous)> {
        let mut sent = Vec::new();
        while let Some(at) = bursts.next_deadline() {
            if at > start + Duration::from_secs(seconds) {
                break;
            }
            let frames = bursts.due(at, || 0.5);
            let ms = (at - start).as_millis();
            sent.extend(frames.into_iter().map(|frame| (ms, frame)));
        }
        sent
    }

    #[test]
    fn a_burst_is_five_rounds_of_both_forms_and_then_a_refresh_each_minute() {
        let start = start();
        let mut bursts = Bursts::new(start);
        bursts.start(spot(1), start);
        let sent = run(&mut bursts, start, 130);
        let of = |form| -> Vec<u128> {
            let frames = sent.iter().filter(|(_, frame)| frame.form == form);
            frames.map(|(ms, _)| *ms / 100 * 100).collect()
        };
        let expected = [0, 1100, 2200, 3300, 4400, 64_400, 124_400];
        assert_eq!(of(Form::Request), expected);
        assert_eq!(of(Form::Reply), expected);
    }

    #[test]
    fn a_burst_of_advertisements_is_three_rounds_and_then_a_refresh_each_minute() {
        let start = start();
        let mut bursts = Bursts::new(start);
        let spot = Spot {
            interface: 2,
            address: IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 1]),
        };
        bursts.start(spot, start);
        let sent = run(&mut bursts, start, 130);
        assert!(
            sent.iter()
                .all(|(_, frame)| frame.form == Form::Advertisement)
        );
        let times: Vec<u128> = sent.iter().map(|(ms, _)| *ms / 100 * 100).collect();
        assert_eq!(times, [0, 1100, 2200, 62_200, 122_200]);
    }

    #[test]
    fn nothing_is_sent_after_a_stop() {
        let start = start();
        let mut bursts = Bursts::new(start);
        bursts.start(spot(1), start);
        bursts.start(spot(2), start);
        bursts.stop(spot(1));
        let sent = run(&mut bursts, start, 70);
        assert!(
            sent.iter().all(|(_, frame)| frame.spot == spot(2)),
            "{sent:?}"
        );
        bursts.stop(spot(2));
        assert_eq!(run(&mut bursts, start, 200), []);
    }

    #[test]
    fn a_first_round_is_paced_and_asks_for_everything_before_it_repeats_anything() {
        let start = start();
        let mut bursts = Bursts::new(start);
        for number in 0..2000 {
            bursts.start(spot(number), start);
        }
        let sent = run(&mut bursts, start, 1);
        assert_eq!(sent.len(), 4000);
        let requests_first = sent.iter().take(2000);
        assert!(
            requests_first
                .clone()
                .all(|(_, frame)| frame.form == Form::Request)
        );
        // 4000 frames at 10,000 a second.
        let last = sent.last().map(|(ms, _)| *ms);
        assert!((395..=405).contains(&last.unwrap_or_default()), "{last:?}");
    }

    #[test]
    fn later_rounds_keep_to_the_cap_and_do_not_delay_a_first_round() {
        let start = start();
        let mut bursts = Bursts::new(start);
        for number in 0..2000 {
            bursts.start(spot(number), start);
        }
        run(&mut bursts, start, 1);
        let taken_over = start + Duration::from_secs(2);
        bursts.start(spot(9999), taken_over);
        let sent = run(&mut bursts, start, 4);
        let of_new = sent.iter().find(|(_, frame)| frame.spot == spot(9999));
        assert_eq!(of_new.map(|(ms, _)| *ms).filter(|ms| *ms > 2005), None);
        let capped = sent
            .iter()
            .filter(|(ms, _)| (2000..3000).contains(ms))
            .count();
        assert!((490..=520).contains(&capped), "{capped} frames in a second");
    }

    #[test]
    fn refreshes_spread_over_a_tenth_on_both_sides() {
        let start = start();
        for (chance, seconds) in [(0.0, 54), (1.0, 66)] {
            let mut bursts = Bursts::new(start);
            bursts.start(spot(1), start);
            let mut last = start;
            for _ in 0..7 {
                if let Some(at) = bursts.next_deadline() {
                    let gap = at - last;
                    last = at;
                    if bursts.due(at, || chance).len() == 2 && gap > Duration::from_secs(2) {
                        assert_eq!(gap.as_secs(), seconds);
                    }
                }
            }
            assert!(last > start + Duration::from_secs(50));
        }
    }
}
