//! What is kept of all addresses equals what looking at each of them gives.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Set(u8, Told),
    Remove(u8),
    Term(Option<u64>),
    Hear(u8, bool, Message),
    Pass(u64),
}

fn some_key(number: u8) -> Key {
    Key {
        space: "default".to_owned(),
        address: IpAddr::from([192, 0, 2, number]),
    }
}

fn some_told() -> impl Strategy<Value = Told> {
    let name = prop::sample::select(vec!["", "a", "b"]);
    (name.clone(), 1..3_u64, 1..3_u64, name, any::<bool>()).prop_map(
        |(owner, term, epoch, next, candidate)| Told {
            candidate,
            ..told(owner, term, epoch, next)
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    (0..3_u8, 0..6_u64).prop_map(|(kind, attempt)| match kind {
        0 => Message::Prepare(Claim(attempt)),
        1 => Message::Ack(Claim(attempt)),
        _ => Message::Go(Claim(attempt), Report::default()),
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_u8, some_told()).prop_map(|(key, told)| Op::Set(key, told)),
        1 => (0..3_u8).prop_map(Op::Remove),
        1 => prop::option::of(1..3_u64).prop_map(Op::Term),
        4 => (0..3_u8, any::<bool>(), message()).prop_map(|(key, b, it)| Op::Hear(key, b, it)),
        2 => (0..800_u64).prop_map(Op::Pass),
    ]
}

fn perform(machine: &mut Fenced, op: Op, now: &mut Instant) {
    match op {
        Op::Set(number, told) => machine.set(some_key(number), told, *now),
        Op::Remove(number) => machine.remove(&some_key(number)),
        Op::Term(term) => machine.set_term(term.map(Term), *now),
        Op::Hear(number, from_b, message) => {
            let seat = machine.seats.get(&some_key(number));
            if let Some(id) = seat.and_then(|seat| seat.id) {
                let from = node(if from_b { "b" } else { "a" });
                machine.hear(id, &from, message, *now);
            }
        }
        Op::Pass(millis) => {
            *now += Duration::from_millis(millis);
            machine.tick(*now);
        }
    }
}

fn check(machine: &Fenced, now: Instant) {
    let seats = || machine.seats.values();
    let owner = |seat: &Seat| seat.told.owner.clone();
    let scanned = seats().filter_map(Seat::deadline).min();
    assert_eq!(machine.next_deadline(), scanned);
    let due = machine.seats.iter();
    let due = due.filter(|(_, seat)| seat.deadline().is_some_and(|at| at <= now));
    let due: BTreeSet<Key> = due.map(|(key, _)| key.clone()).collect();
    assert_eq!(BTreeSet::from_iter(machine.index.due(now)), due);
    let needs = seats()
        .any(|seat| seat.told.candidate || owner(seat).is_some_and(|(it, _)| it == machine.me));
    assert_eq!(machine.needs_lease(), needs);
    assert_eq!(machine.answers_nothing(), !seats().any(Seat::answers));
    let unlisted = seats().any(|seat| seat.answers() && !seat.told.candidate);
    assert_eq!(machine.answers_unlisted(), unlisted);
    let released = machine.seats.iter().filter_map(|(key, seat)| {
        matches!(seat.role, Role::Released).then_some(())?;
        Some(Released {
            key: key.clone(),
            term: owner(seat)?.1,
            epoch: seat.told.epoch,
        })
    });
    assert_eq!(machine.released(), &released.collect());
}

proptest! {
    #[test]
    fn what_is_kept_of_all_addresses_is_what_a_look_at_each_gives(
        ops in prop::collection::vec(op(), 1..60)
    ) {
        let mut now = start();
        let mut machine = machine("a", A);
        for op in ops {
            perform(&mut machine, op, &mut now);
            check(&machine, now);
        }
        let keys: Vec<Key> = machine.seats.keys().cloned().collect();
        keys.iter().for_each(|key| machine.remove(key));
        check(&machine, now);
        prop_assert_eq!(machine.next_deadline(), None);
    }
}
