//! Asking whether another machine has an address before it is used for the first time (RFC 5227
//! section 2.1, RFC 4862 section 5.4): which addresses are asked for, and when.
//!
//! Pure. The RFC waits for up to seven seconds; a machine on the same segment answers within
//! milliseconds, so this is three frames and 600 ms. An address that another machine has is asked for
//! again every 10 s: nobody answers for it here until that machine is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pnet_base::MacAddr;

use super::burst::Spot;

/// How many times is asked (PROBE_NUM).
const PROBES: u8 = 3;
/// Between two of them, and after the last.
const INTERVAL: Duration = Duration::from_millis(200);
/// After another machine was seen.
const AGAIN: Duration = Duration::from_secs(10);
/// Most addresses that one call looks at, so that requests are answered in between.
const BATCH: usize = 32;

/// All addresses that are probed.
#[derive(Debug, Default)]
pub struct Probes {
    by_address: BTreeMap<IpAddr, Probe>,
    /// Those that proved to be free since that was asked for last.
    free: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Probe {
    interfaces: BTreeSet<u32>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many have been sent; the next step is due then.
    Asking { sent: u8, due: Instant },
    /// This other machine has it; to be asked again then.
    Taken { by: MacAddr, again: Instant },
    /// Nobody has it. It is answered when all is ready for that.
    Free,
}

impl Probe {
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Asking { due, .. } => Some(due),
            State::Taken { again, .. } => Some(again),
            State::Free => None,
        }
    }

    fn spots(&self, address: IpAddr) -> impl Iterator<Item = Spot> {
        let interfaces = self.interfaces.iter();
        interfaces.map(move |interface| Spot {
            interface: *interface,
            address,
        })
    }

    fn begin(&mut self, now: Instant) {
        self.state = State::Asking { sent: 0, due: now };
    }
}

impl Probes {
    /// Asks for an address on an interface before it is answered. On one more interface it is asked
    /// for anew, unless it is taken.
    pub fn begin(&mut self, spot: Spot, now: Instant) {
        let asking = State::Asking { sent: 0, due: now };
        let probe = self.by_address.entry(spot.address);
        let probe = probe.or_insert_with(|| Probe {
            interfaces: BTreeSet::new(),
            state: asking,
        });
        if probe.interfaces.insert(spot.interface) {
            match probe.state {
                State::Asking { .. } | State::Free => probe.state = asking,
                State::Taken { .. } => {}
            }
        }
    }

    /// Whether an address is not answered yet.
    pub fn has(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Whether it is likely to be answered in a moment: questions for it may wait.
    pub fn is_near(&self, address: IpAddr) -> bool {
        let probe = self.by_address.get(&address);
        probe.is_some_and(|probe| match probe.state {
            State::Asking { .. } | State::Free => true,
            State::Taken { .. } => false,
        })
    }

    /// Another machine has it.
    pub fn hit(&mut self, address: IpAddr, by: MacAddr, now: Instant) {
        if let Some(probe) = self.by_address.get_mut(&address) {
            match probe.state {
                State::Asking { .. } | State::Free => {
                    let again = now + AGAIN;
                    probe.state = State::Taken { by, again };
                }
                State::Taken { .. } => {}
            }
        }
    }

    /// It is not to be answered there (any more).
    pub fn stop(&mut self, spot: Spot) {
        if let Some(probe) = self.by_address.get_mut(&spot.address) {
            probe.interfaces.remove(&spot.interface);
            if probe.interfaces.is_empty() {
                self.by_address.remove(&spot.address);
            }
        }
    }

    /// What may have been answered was not heard: asks for all of them anew that are asked for.
    pub fn begin_anew(&mut self, now: Instant) {
        for probe in self.by_address.values_mut() {
            match probe.state {
                State::Asking { .. } | State::Free => probe.begin(now),
                State::Taken { .. } => {}
            }
        }
    }

    /// These machines keep an address from nobody: what one of them had is asked for at once.
    pub fn pass_over(&mut self, is_member: impl Fn(MacAddr) -> bool, now: Instant) {
        for probe in self.by_address.values_mut() {
            match probe.state {
                State::Taken { by, .. } if is_member(by) => probe.begin(now),
                State::Taken { .. } | State::Asking { .. } | State::Free => {}
            }
        }
    }

    /// When [`Self::due`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_address.values().filter_map(Probe::due).min()
    }

    /// Where to ask now, for some addresses.
    pub fn due(&mut self, now: Instant) -> Vec<Spot> {
        let is_due = |probe: &Probe| probe.due().is_some_and(|due| due <= now);
        let due = self.by_address.iter_mut().filter(|(_, it)| is_due(it));
        let mut spots = Vec::new();
        for (address, probe) in due.take(BATCH) {
            let sent = match probe.state {
                State::Asking { sent, .. } => sent,
                State::Taken { .. } | State::Free => 0,
            };
            if sent == PROBES {
                probe.state = State::Free;
                self.free.insert(*address);
                continue;
            }
            probe.state = State::Asking {
                sent: sent + 1,
                // By the time of sending: after a pause none of them would be apart from the next.
                due: now + INTERVAL,
            };
            spots.extend(probe.spots(*address));
        }
        spots
    }

    /// Whether some address proved to be free since [`Self::take_free`] was called.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The addresses that proved to be free since the last call, and are so still: each may be answered,
    /// by [`Self::end`], as soon as all is ready for that.
    pub fn take_free(&mut self) -> BTreeSet<IpAddr> {
        let mut free = std::mem::take(&mut self.free);
        free.retain(|address| {
            let probe = self.by_address.get(address);
            probe.is_some_and(|probe| probe.state == State::Free)
        });
        free
    }

    /// Ends the probe of an address that is free still; gives where it is to be answered.
    pub fn end(&mut self, address: IpAddr) -> Vec<Spot> {
        let probe = self.by_address.get(&address);
        if probe.is_none_or(|probe| probe.state != State::Free) {
            return Vec::new();
        }
        let probe = self.by_address.remove(&address);
        let spots = probe.iter().flat_map(|probe| probe.spots(address));
        spots.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100));
    const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);

    fn spot(interface: u32) -> Spot {
        Spot {
            interface,
            address: ADDRESS,
        }
    }

    /// When is asked, in milliseconds, until then, and when the address is free; each hit comes right
    /// after what is due.
    fn run(
        probes: &mut Probes,
        start: Instant,
        until: u64,
        hits: &[u64],
    ) -> (Vec<u64>, Option<u64>) {
        let (mut asked, mut free) = (Vec::new(), None);
        for ms in 0..until {
            let now = start + Duration::from_millis(ms);
            assert!(probes.next_deadline().is_none_or(|due| due >= now));
            asked.extend(probes.due(now).iter().map(|_| ms));
            if !probes.take_free().is_empty() {
                free = Some(ms);
            }
            if hits.contains(&ms) {
                probes.hit(ADDRESS, STRANGER, now);
            }
        }
        (asked, free)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn begun() -> (Probes, Instant) {
        let start = Instant::now();
        let mut probes = Probes::default();
        probes.begin(spot(1), start);
        (probes, start)
    }

    #[test]
    fn an_address_is_asked_for_three_times_200_ms_apart_and_is_free_200_ms_later() {
        let (mut probes, start) = begun();
        assert!(probes.is_near(ADDRESS));
        let done = run(&mut probes, start, 20_000, &[]);
        assert_eq!(done, (vec![0, 200, 400], Some(600)));
        assert!(probes.has(ADDRESS), "until it is answered");
        assert_eq!(probes.end(ADDRESS), [spot(1)]);
        assert!(!probes.has(ADDRESS));
    }

    #[test]
    fn what_shows_up_before_anybody_looked_is_not_free() {
        type Event = fn(&mut Probes, Instant);
        let events: [Event; 3] = [
            |probes, now| probes.hit(ADDRESS, STRANGER, now),
            |probes, now| probes.begin(spot(2), now),
            |probes, _| probes.stop(spot(1)),
        ];
        for event in events {
            let (mut probes, start) = begun();
            for ms in 0..=600 {
                probes.due(start + Duration::from_millis(ms));
            }
            event(&mut probes, start + Duration::from_millis(601));
            assert_eq!(probes.take_free(), BTreeSet::new());
        }
    }

    #[test]
    fn an_address_that_another_machine_has_is_asked_for_again_every_10_s() {
        let (mut probes, start) = begun();
        let done = run(&mut probes, start, 10_250, &[1, 10_002]);
        assert_eq!(done, (vec![0, 10_001], None));
        assert!(probes.has(ADDRESS) && !probes.is_near(ADDRESS));
        assert_eq!(probes.end(ADDRESS), []);
        let rest = run(&mut probes, start + Duration::from_millis(20_002), 601, &[]);
        assert_eq!(rest, (vec![0, 200, 400], Some(600)));
    }

    #[test]
    fn a_machine_that_shows_itself_before_the_first_answer_keeps_the_address() {
        let (mut probes, start) = begun();
        let done = run(&mut probes, start, 700, &[650]);
        assert_eq!(done.1, Some(600));
        assert_eq!(probes.end(ADDRESS), []);
        assert!(!probes.is_near(ADDRESS));
    }

    #[test]
    fn what_turns_out_to_be_a_members_is_asked_for_at_once() {
        let (mut probes, start) = begun();
        run(&mut probes, start, 10, &[1]);
        let at = start + Duration::from_millis(10);
        probes.pass_over(|mac| mac != STRANGER, at);
        assert_eq!(probes.due(at), []);
        probes.pass_over(|mac| mac == STRANGER, at);
        assert_eq!(probes.due(at), [spot(1)]);
    }

    #[test]
    fn one_more_interface_begins_anew_and_only_its_last_one_ends_it() {
        let (mut probes, start) = begun();
        run(&mut probes, start, 250, &[]);
        let at = start + Duration::from_millis(250);
        probes.begin(spot(2), at);
        assert_eq!(probes.due(at), [spot(1), spot(2)]);
        probes.stop(spot(1));
        assert_eq!(probes.next_deadline(), Some(at + INTERVAL));
        probes.stop(spot(2));
        assert_eq!(probes.next_deadline(), None);
        assert!(!probes.has(ADDRESS));
    }
}
