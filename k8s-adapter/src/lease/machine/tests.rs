use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make one"
)]
fn start() -> Instant {
    Instant::now()
}

fn record(holder: &str, renewed: u64) -> Record {
    Record {
        holder: holder.to_owned(),
        renewed: renewed.to_string(),
        duration: Some(DURATION),
        transitions: 3,
    }
}

fn machine() -> Machine {
    Machine::new("a".to_owned())
}

#[test]
fn what_nobody_has_is_taken_at_once() {
    let now = start();
    for record in [Record::default(), record("", 1)] {
        let transitions = record.transitions + 1;
        assert_eq!(
            machine().observe(&record, now),
            Action::Take { transitions }
        );
    }
}

#[test]
fn what_is_ours_is_renewed_and_counts_from_the_beginning_of_the_call() {
    let begun = start();
    let mut machine = machine();
    assert_eq!(machine.held_until(begun), None);
    machine.wrote(begun);
    assert_eq!(machine.observe(&record("a", 1), begun), Action::Renew);
    let last = begun + VALID - Duration::from_millis(1);
    assert_eq!(machine.held_until(last), Some(begun + VALID));
    assert_eq!(machine.held_until(begun + VALID), None);
}

#[test]
fn a_renewal_whose_answer_was_lost_counts_once_it_is_seen() {
    let begun = start();
    let mut machine = machine();
    machine.tries("7".to_owned(), begun);
    // It is an earlier one of ours that is seen.
    assert_eq!(machine.observe(&record("a", 6), begun), Action::Renew);
    assert_eq!(machine.held_until(begun), None);
    let later = begun + SECOND * 2;
    assert_eq!(machine.observe(&record("a", 7), later), Action::Renew);
    assert_eq!(machine.held_until(later), Some(begun + VALID));
    // Seen again it tells nothing new.
    let over = begun + VALID;
    assert_eq!(machine.observe(&record("a", 7), over), Action::Renew);
    assert_eq!(machine.held_until(over), None);
}

#[test]
fn a_record_in_our_name_alone_makes_nobody_a_holder() {
    let now = start();
    let mut machine = machine();
    assert_eq!(machine.observe(&record("a", 1), now), Action::Renew);
    assert_eq!(machine.held_until(now), None);
}

#[test]
fn who_sees_another_holder_has_lost_it() {
    let now = start();
    let mut machine = machine();
    machine.wrote(now);
    let action = machine.observe(&record("b", 1), now);
    assert_eq!(action, Action::Look { at: now + LOOK });
    assert_eq!(machine.held_until(now), None);
}

#[test]
fn a_holder_is_respected_from_the_last_change_that_was_seen() {
    let now = start();
    let mut machine = machine();
    for (second, renewed, expected) in [
        (0, 1, Some(1)),
        (7, 1, Some(8)),
        // It was renewed just in time.
        (7, 2, Some(8)),
        (14, 2, Some(15)),
        (15, 2, None),
    ] {
        let at = now + SECOND * second;
        let expected = match expected {
            Some(second) => Action::Look {
                at: now + SECOND * second,
            },
            None => Action::Take { transitions: 4 },
        };
        let action = machine.observe(&record("b", renewed), at);
        assert_eq!(action, expected, "second {second}");
    }
}

#[test]
fn how_long_a_holder_is_respected_has_limits() {
    for (duration, expected) in [
        (None, DURATION),
        (Some(Duration::ZERO), DURATION),
        (Some(SECOND * 15), SECOND * 15),
        (Some(SECOND * 1_000_000), LONGEST),
    ] {
        let now = start();
        let mut machine = machine();
        let record = Record {
            duration,
            ..record("b", 1)
        };
        machine.observe(&record, now);
        let just_before = now + expected - Duration::from_millis(1);
        let action = machine.observe(&record, just_before);
        assert_eq!(action, Action::Look { at: now + expected }, "{duration:?}");
        let action = machine.observe(&record, now + expected);
        assert_eq!(action, Action::Take { transitions: 4 }, "{duration:?}");
    }
}

/// Replicas at one Lease, each with calls that take time, are lost, or arrive after the caller gave up.
#[derive(Debug)]
struct Site {
    replicas: Vec<Replica>,
    /// The Lease, and its version.
    lease: (Record, u64),
}

#[derive(Debug)]
struct Replica {
    machine: Machine,
    /// The version that its next write is for.
    known: Option<(Record, u64)>,
    /// Renewals that the server has not seen yet: when they began, the record, and its version.
    under_way: Vec<(Instant, Record, u64)>,
}

#[derive(Debug, Clone)]
enum Event {
    /// Time goes by.
    Pass(u64),
    /// A replica reads the Lease, and begins a write if it is its turn.
    Read(usize),
    /// The first write of a replica arrives, and its answer too, or not.
    Arrive(usize, bool),
    /// A replica is asked to stop, and gives it back.
    Release(usize),
}

fn event(replicas: usize) -> impl Strategy<Value = Event> {
    let replica = 0..replicas;
    prop_oneof![
        3 => (50_u64..3000).prop_map(Event::Pass),
        4 => replica.clone().prop_map(Event::Read),
        4 => (replica.clone(), prop::bool::weighted(0.8))
            .prop_map(|(replica, answered)| Event::Arrive(replica, answered)),
        1 => replica.prop_map(Event::Release),
    ]
}

impl Site {
    fn new(replicas: usize) -> Self {
        let replica = |number| Replica {
            machine: Machine::new(format!("r{number}")),
            known: None,
            under_way: Vec::new(),
        };
        Self {
            replicas: (0..replicas).map(replica).collect(),
            lease: (Record::default(), 1),
        }
    }

    fn read(&mut self, replica: usize, now: Instant) {
        let (record, version) = self.lease.clone();
        let replica = &mut self.replicas[replica];
        let transitions = match replica.machine.observe(&record, now) {
            Action::Look { .. } => return,
            Action::Renew => record.transitions,
            Action::Take { transitions } => transitions,
        };
        let mine = Record {
            holder: replica.machine.identity().to_owned(),
            renewed: format!("{now:?}"),
            duration: Some(DURATION),
            transitions,
        };
        replica.machine.tries(mine.renewed.clone(), now);
        replica.under_way.push((now, mine, version));
    }

    fn arrive(&mut self, replica: usize, answered: bool) {
        let replica = &mut self.replicas[replica];
        if replica.under_way.is_empty() {
            return;
        }
        let (begun, record, version) = replica.under_way.remove(0);
        if self.lease.1 != version {
            return;
        }
        self.lease = (record, version + 1);
        replica.known = Some(self.lease.clone());
        if answered {
            replica.machine.wrote(begun);
        }
    }

    fn release(&mut self, replica: usize, now: Instant) {
        let replica = &mut self.replicas[replica];
        if replica.known.as_ref() != Some(&self.lease) || replica.machine.held_until(now).is_none()
        {
            return;
        }
        // Nothing is written any more when it is given back.
        replica.machine.valid_until = None;
        replica.under_way.clear();
        let mut record = self.lease.0.clone();
        record.holder.clear();
        self.lease = (record, self.lease.1 + 1);
    }
}

proptest! {
    #[test]
    fn never_do_two_believe_to_hold_it(events in prop::collection::vec(event(3), 1..200)) {
        let mut site = Site::new(3);
        let mut now = start();
        for event in events {
            match event {
                Event::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Event::Read(replica) => site.read(replica, now),
                Event::Arrive(replica, answered) => site.arrive(replica, answered),
                Event::Release(replica) => site.release(replica, now),
            }
            let holds = |it: &&Replica| it.machine.held_until(now).is_some();
            prop_assert!(site.replicas.iter().filter(holds).count() <= 1, "{site:?}");
        }
    }
}
