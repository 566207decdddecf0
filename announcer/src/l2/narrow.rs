//! When the kernel is told which addresses this node has.
//!
//! Pure. A question for an address must reach this node from the moment that it has a duty for it: before
//! that everything passes, if the address does not pass already. What passes is narrowed a little later, once
//! for all that changed meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::burst::Spot;
use super::filter::Cover;
use super::table::{Place, Protocol};

/// A thousand addresses that come one after the other come within this time; making a program for them
/// takes a millisecond.
const SETTLE: Duration = Duration::from_millis(100);

/// After the kernel took no filter.
const AGAIN: Duration = Duration::from_secs(1);

/// What passes at each place.
#[derive(Debug, Default)]
pub struct Narrowing {
    places: BTreeMap<Place, Passing>,
}

#[derive(Debug)]
struct Passing {
    /// `None`: everything.
    only: Option<Cover>,
    narrow_at: Option<Instant>,
}

impl Narrowing {
    /// There are sockets at these places and no others; through those that are new everything passes.
    pub fn set_places(&mut self, places: &[Place], now: Instant) {
        self.places.retain(|place, _| places.contains(place));
        for place in places {
            self.places.entry(*place).or_insert(Passing {
                only: None,
                narrow_at: Some(now + SETTLE),
            });
        }
    }

    /// An interface has no sockets any more.
    pub fn closed(&mut self, interface: u32) {
        self.places.retain(|(index, _), _| *index != interface);
    }

    /// These are about to get a duty: where everything has to pass now, before that.
    pub fn gain(&mut self, spots: &[Spot], now: Instant) -> Vec<Place> {
        let mut wider = Vec::new();
        for spot in spots {
            let place = place(spot);
            let Some(passing) = self.places.get_mut(&place) else {
                continue;
            };
            if passing
                .only
                .take_if(|only| !only.has(spot.address))
                .is_some()
            {
                passing.narrow_at.get_or_insert(now + SETTLE);
                wider.push(place);
            }
        }
        wider
    }

    /// These have no duty any more.
    pub fn lose(&mut self, spots: &[Spot], now: Instant) {
        for spot in spots {
            if let Some(passing) = self.places.get_mut(&place(spot)) {
                passing.narrow_at.get_or_insert(now + SETTLE);
            }
        }
    }

    /// When [`Self::due`] has something.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.places.values().filter_map(|one| one.narrow_at);
        deadlines.min()
    }

    /// Where less is to pass from now on.
    pub fn due(&mut self, now: Instant) -> Vec<Place> {
        let mut due = Vec::new();
        for (place, passing) in &mut self.places {
            if passing.narrow_at.take_if(|at| *at <= now).is_some() {
                due.push(*place);
            }
        }
        due
    }

    /// The kernel took no filter there: to be tried again.
    pub fn again(&mut self, place: Place, now: Instant) {
        if let Some(passing) = self.places.get_mut(&place) {
            passing.narrow_at.get_or_insert(now + AGAIN);
        }
    }

    /// Nothing else passes any more there.
    pub fn narrowed(&mut self, place: Place, only: Cover) {
        if let Some(passing) = self.places.get_mut(&place) {
            passing.only = Some(only);
        }
    }
}

fn place(spot: &Spot) -> Place {
    (spot.interface, Protocol::of(spot.address))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const ARP: Place = (2, Protocol::Arp);

    fn spot(last: u8) -> Spot {
        Spot {
            interface: 2,
            address: IpAddr::from([192, 0, 2, last]),
        }
    }

    fn cover(lasts: &[u8]) -> Cover {
        Cover::of(lasts.iter().map(|last| spot(*last).address), 10)
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn everything_passes_from_before_a_gain_until_changes_have_settled() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut narrowing = Narrowing::default();
        narrowing.set_places(&[ARP], at(0));
        assert_eq!(narrowing.gain(&[spot(1)], at(10)), [], "it is open");
        assert_eq!(narrowing.next_deadline(), Some(at(100)));
        assert_eq!(narrowing.due(at(99)), []);
        assert_eq!(narrowing.due(at(100)), [ARP]);
        narrowing.narrowed(ARP, cover(&[1]));
        assert_eq!(narrowing.next_deadline(), None);
        // Once for a thousand.
        assert_eq!(narrowing.gain(&[spot(1)], at(200)), [], "it passes already");
        assert_eq!(narrowing.gain(&[spot(2), spot(3)], at(210)), [ARP]);
        assert_eq!(narrowing.gain(&[spot(4)], at(250)), []);
        assert_eq!(narrowing.due(at(310)), [ARP]);
        narrowing.narrowed(ARP, cover(&[1, 2, 3, 4]));
        // What is lost passes for a little longer.
        narrowing.lose(&[spot(1)], at(400));
        narrowing.lose(&[spot(2)], at(450));
        assert_eq!(narrowing.gain(&[spot(1)], at(460)), []);
        assert_eq!(narrowing.due(at(500)), [ARP]);
        narrowing.narrowed(ARP, cover(&[1]));
        narrowing.closed(2);
        assert_eq!(narrowing.gain(&[spot(9)], at(600)), [], "no socket");
        // Another socket of the same place.
        narrowing.set_places(&[ARP], at(700));
        assert_eq!(narrowing.due(at(800)), [ARP]);
        narrowing.narrowed(ARP, cover(&[1]));
        narrowing.set_places(&[], at(900));
        narrowing.set_places(&[ARP], at(901));
        assert_eq!(narrowing.due(at(1001)), [ARP]);
        // The kernel did not take it.
        narrowing.again(ARP, at(1001));
        assert_eq!(narrowing.next_deadline(), Some(at(2001)));
    }
}
