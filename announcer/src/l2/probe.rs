//! Asking whether another machine has an address before it is used for the first time (RFC 5227
//! section 2.1, RFC 4862 section 5.4): which addresses are asked for, and when.
//!
//! Pure. The RFC waits for up to seven seconds; a machine on the same segment answers within
//! milliseconds, so this is three frames and 600 ms. An address that another machine has is asked for
//! again every 10 s: nobody answers for it here until that machine is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::burst::Spot;

/// How many times is asked (PROBE_NUM).
const PROBES: u8 = 3;
/// Between two of them, and after the last.
const INTERVAL: Duration = Duration::from_millis(200);
/// After another machine was seen.
const AGAIN: Duration = Duration::from_secs(10);
/// Most addresses that one call looks at, so that requests are answered in between.
const BATCH: usize = 32;

/// What is to be done about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// To ask on each of these interfaces.
    Ask(Vec<Spot>),
    /// Nobody has it: these are to be answered.
    Free(Vec<Spot>),
}

/// All addresses that are probed.
#[derive(Debug, Default)]
pub struct Probes {
    by_address: BTreeMap<IpAddr, Probe>,
    /// Those that came or went.
    changed: BTreeSet<IpAddr>,
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
    /// Another machine has it; to be asked again then.
    Taken { again: Instant },
}

impl Probe {
    fn due(&self) -> Instant {
        match self.state {
            State::Asking { due, .. } => due,
            State::Taken { again } => again,
        }
    }

    fn spots(&self, address: IpAddr) -> Vec<Spot> {
        let interfaces = self.interfaces.iter();
        let spots = interfaces.map(|interface| Spot {
            interface: *interface,
            address,
        });
        spots.collect()
    }
}

impl Probes {
    /// Asks for an address on an interface before it is answered. On one more interface it is asked
    /// for anew, unless it is taken.
    pub fn begin(&mut self, spot: Spot, now: Instant) {
        let asking = State::Asking { sent: 0, due: now };
        let probe = self.by_address.entry(spot.address).or_insert_with(|| {
            self.changed.insert(spot.address);
            Probe {
                interfaces: BTreeSet::new(),
                state: asking,
            }
        });
        if probe.interfaces.insert(spot.interface) && matches!(probe.state, State::Asking { .. }) {
            probe.state = asking;
        }
    }

    /// Whether an address is not answered yet.
    pub fn has(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Whether it is likely to be answered in a moment: questions for it may wait.
    pub fn is_near(&self, address: IpAddr) -> bool {
        let probe = self.by_address.get(&address);
        probe.is_some_and(|probe| matches!(probe.state, State::Asking { .. }))
    }

    /// Another machine has it.
    pub fn hit(&mut self, address: IpAddr, now: Instant) {
        if let Some(probe) = self.by_address.get_mut(&address) {
            match probe.state {
                State::Asking { .. } => probe.state = State::Taken { again: now + AGAIN },
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
                self.changed.insert(spot.address);
            }
        }
    }

    /// What may have been answered was not heard: asks for all of them anew that are asked for.
    pub fn begin_anew(&mut self, now: Instant) {
        for probe in self.by_address.values_mut() {
            if let State::Asking { .. } = probe.state {
                probe.state = State::Asking { sent: 0, due: now };
            }
        }
    }

    /// When [`Self::due`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_address.values().map(Probe::due).min()
    }

    /// What is due, of some addresses.
    pub fn due(&mut self, now: Instant) -> Vec<Due> {
        let due = self.by_address.iter_mut().filter(|(_, it)| it.due() <= now);
        let mut all = Vec::new();
        for (address, probe) in due.take(BATCH) {
            let sent = match probe.state {
                State::Asking { sent, .. } => sent,
                State::Taken { .. } => 0,
            };
            if sent == PROBES {
                all.push(Due::Free(probe.spots(*address)));
                continue;
            }
            // By the time of sending: after a pause none of them would be apart from the next.
            let due = now + INTERVAL;
            probe.state = State::Asking {
                sent: sent + 1,
                due,
            };
            all.push(Due::Ask(probe.spots(*address)));
        }
        for spot in all.iter().filter_map(Due::free).flatten() {
            self.by_address.remove(&spot.address);
            self.changed.insert(spot.address);
        }
        all
    }

    /// The addresses that came or went since the last call, and whether they are there: not answered yet.
    pub fn take_changes(&mut self) -> Vec<(IpAddr, bool)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed
            .map(|address| (address, self.has(address)))
            .collect()
    }
}

impl Due {
    fn free(&self) -> Option<&[Spot]> {
        match self {
            Self::Free(spots) => Some(spots),
            Self::Ask(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100));

    fn spot(interface: u32) -> Spot {
        Spot {
            interface,
            address: ADDRESS,
        }
    }

    /// What is done when, in milliseconds, until then; each hit comes right after what is due.
    fn run(probes: &mut Probes, start: Instant, until: u64, hits: &[u64]) -> Vec<(u64, Due)> {
        let mut all = Vec::new();
        for ms in 0..until {
            let now = start + Duration::from_millis(ms);
            assert!(probes.next_deadline().is_none_or(|due| due >= now));
            all.extend(probes.due(now).into_iter().map(|due| (ms, due)));
            if hits.contains(&ms) {
                probes.hit(ADDRESS, now);
            }
        }
        all
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn begun() -> (Probes, Instant) {
        let start = Instant::now();
        let mut probes = Probes::default();
        probes.begin(spot(1), start);
        assert_eq!(probes.take_changes(), [(ADDRESS, true)]);
        (probes, start)
    }

    fn ask() -> Due {
        Due::Ask(vec![spot(1)])
    }

    fn free() -> Due {
        Due::Free(vec![spot(1)])
    }

    #[test]
    fn an_address_is_asked_for_three_times_200_ms_apart_and_is_free_200_ms_later() {
        let (mut probes, start) = begun();
        assert!(probes.is_near(ADDRESS));
        let done = run(&mut probes, start, 20_000, &[]);
        assert_eq!(
            done,
            [(0, ask()), (200, ask()), (400, ask()), (600, free())]
        );
        assert!(!probes.has(ADDRESS));
        assert_eq!(probes.take_changes(), [(ADDRESS, false)]);
    }

    #[test]
    fn an_address_that_another_machine_has_is_asked_for_again_every_10_s() {
        let (mut probes, start) = begun();
        let done = run(&mut probes, start, 10_250, &[1, 10_002]);
        assert_eq!(done, [(0, ask()), (10_001, ask())]);
        assert!(probes.has(ADDRESS) && !probes.is_near(ADDRESS));
        assert_eq!(probes.take_changes(), []);
        let rest = run(&mut probes, start + Duration::from_millis(20_002), 601, &[]);
        assert_eq!(
            rest,
            [(0, ask()), (200, ask()), (400, ask()), (600, free())]
        );
    }

    #[test]
    fn one_more_interface_begins_anew_and_only_its_last_one_ends_it() {
        let (mut probes, start) = begun();
        run(&mut probes, start, 250, &[]);
        let at = start + Duration::from_millis(250);
        probes.begin(spot(2), at);
        let both = Due::Ask(vec![spot(1), spot(2)]);
        assert_eq!(probes.due(at), [both]);
        probes.stop(spot(1));
        assert_eq!(probes.next_deadline(), Some(at + INTERVAL));
        probes.stop(spot(2));
        assert_eq!(probes.next_deadline(), None);
        assert_eq!(probes.take_changes(), [(ADDRESS, false)]);
    }
}
