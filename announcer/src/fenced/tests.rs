//! The machine of one node, and two of them with a service between.

use std::net::IpAddr;

use super::effect::tenure_id;
use super::*;
use crate::clock::now as start;
use crate::election::Claim;
use crate::handover::{Gained, UNLISTED_LIMIT};
use crate::l2::hold::Report;

mod scan;

const A: u64 = 1;
const B: u64 = 2;

fn node(name: &str) -> NodeName {
    NodeName::from(name)
}

fn key() -> Key {
    Key {
        space: "default".to_owned(),
        address: IpAddr::from([192, 0, 2, 1]),
    }
}

/// What is told of the address: the owner with its term, the epoch, and the next one.
fn told(owner: &str, term: u64, epoch: u64, next: &str) -> Told {
    let some = |text: &str| (!text.is_empty()).then(|| node(text));
    Told {
        owner: some(owner).map(|owner| (owner, Term(term))),
        epoch,
        next: some(next),
        candidate: true,
    }
}

fn machine(name: &str, term: u64) -> Fenced {
    let mut machine = Fenced::new(node(name));
    machine.set_term(Some(Term(term)), start());
    machine
}

/// The effects, each in a word or two.
fn effects(machine: &mut Fenced) -> Vec<String> {
    let words = |effect: Effect| match effect {
        Effect::Duty(_, Duty::Silent, _) => "duty silent".to_owned(),
        Effect::Duty(_, Duty::Hold, _) => "hold".to_owned(),
        Effect::Duty(_, Duty::Record, term) => format!("record {}", term.0),
        Effect::Duty(_, Duty::Answer(report), term) => {
            format!("answer {} but {}", term.0, report.answered.len())
        }
        Effect::Release(_, to, handle) => format!("release {to} {}", handle.attempt.0),
        Effect::RepeatGo(_, to, _) => format!("go {to}"),
        Effect::Prepare(to, handle) => format!("prepare {to} {}", handle.attempt.0),
        Effect::Ack(to, handle) => format!("ack {to} {}", handle.attempt.0),
        Effect::Silence(_) => "silence".to_owned(),
        Effect::Gained(_, epoch, Gained::HandedOver(from)) => format!("gained {epoch} {from}"),
        Effect::Gained(_, epoch, Gained::Orphaned) => format!("gained {epoch} orphaned"),
        Effect::Gained(_, epoch, Gained::Unowned | Gained::Inherited) => {
            format!("gained {epoch} -")
        }
        Effect::Lost(_, why) => format!("lost {why:?}"),
    };
    machine.take_effects().into_iter().map(words).collect()
}

/// A node says something of the first tenure of another one, or of this one.
fn hear(machine: &mut Fenced, from: &str, term: u64, message: Message, now: Instant) -> bool {
    let id = tenure_id(&key(), Term(term), 1);
    let known = machine.knows(id);
    machine.hear(id, &node(from), message, now);
    known
}

#[test]
fn who_is_named_under_its_term_answers_and_nobody_else() {
    let now = start();
    for (case, expected) in [
        (told("a", A, 1, ""), vec!["answer 1 but 0", "gained 1 -"]),
        // A term of a process that was there before, or of the other.
        (told("a", 9, 1, ""), vec![]),
        (told("b", B, 1, ""), vec![]),
        (told("", 0, 0, ""), vec![]),
    ] {
        let mut machine = machine("a", A);
        machine.set(key(), case.clone(), now);
        assert_eq!(effects(&mut machine), expected, "{case:?}");
        // Told again, nothing follows.
        machine.set(key(), case, now);
        assert_eq!(effects(&mut machine), Vec::<String>::new());
    }
}

#[test]
fn without_a_lease_nothing_is_answered_and_with_the_same_one_again_all_is() {
    let now = start();
    let mut machine = machine("a", A);
    machine.set(key(), told("a", A, 1, ""), now);
    effects(&mut machine);
    machine.set_term(None, now);
    assert_eq!(effects(&mut machine), ["silence", "lost LeaseOver"]);
    assert!(machine.answers_nothing());
    machine.set_term(Some(Term(A)), now);
    assert_eq!(effects(&mut machine), ["answer 1 but 0", "gained 1 -"]);
    machine.set_term(None, now);
    machine.set_term(Some(Term(8)), now);
    effects(&mut machine);
    assert!(
        machine.answers_nothing(),
        "it has to be named under the new term"
    );
}

#[test]
fn an_owner_makes_room_once_the_next_one_holds_and_never_answers_again() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, ""), now);
    effects(&mut owner);
    owner.set(key(), told("a", A, 1, "b"), now);
    assert_eq!(effects(&mut owner), ["record 1", "prepare b 1"]);
    assert!(owner.released().is_empty());
    // From others, of another attempt, or of another tenure: not for this.
    assert!(hear(&mut owner, "c", A, Message::Ack(Claim(1)), now));
    assert!(hear(&mut owner, "b", A, Message::Ack(Claim(2)), now));
    assert!(!hear(&mut owner, "b", B, Message::Ack(Claim(1)), now));
    assert_eq!(effects(&mut owner), Vec::<String>::new());
    hear(&mut owner, "b", A, Message::Ack(Claim(1)), now);
    assert_eq!(effects(&mut owner), ["release b 1", "lost Released"]);
    assert_eq!(owner.released().len(), 1);
    // The go was lost.
    hear(&mut owner, "b", A, Message::Ack(Claim(1)), now);
    assert_eq!(effects(&mut owner), ["go b"]);
    // Another mind: too late for this epoch, whoever is the next.
    for next in ["", "c", "b"] {
        owner.set(key(), told("a", A, 1, next), now);
        assert_eq!(effects(&mut owner), Vec::<String>::new(), "{next:?}");
        assert_eq!(owner.released().len(), 1);
    }
    owner.set(key(), told("a", A, 2, ""), now);
    assert_eq!(effects(&mut owner), ["answer 1 but 0", "gained 2 -"]);
    assert!(owner.released().is_empty());
}

#[test]
fn a_move_that_is_taken_back_in_time_changes_nothing() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, "b"), now);
    assert_eq!(
        effects(&mut owner),
        ["answer 1 but 0", "gained 1 -", "record 1", "prepare b 1"]
    );
    owner.set(key(), told("a", A, 1, ""), now);
    assert_eq!(effects(&mut owner), ["answer 1 but 0"]);
    assert_eq!(owner.next_deadline(), None);
    // What was noted until now is no part of the next attempt, nor is who was ready for the last.
    owner.set(key(), told("a", A, 1, "b"), now);
    assert_eq!(effects(&mut owner), ["record 1", "prepare b 2"]);
    hear(&mut owner, "b", A, Message::Ack(Claim(1)), now);
    assert_eq!(effects(&mut owner), Vec::<String>::new());
    owner.set(key(), told("a", A, 1, "c"), now);
    assert_eq!(effects(&mut owner), ["record 1", "prepare c 3"]);
}

#[test]
fn an_owner_that_hears_nothing_makes_room_all_the_same() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, "b"), now);
    effects(&mut owner);
    assert_eq!(owner.next_deadline(), Some(now + PREPARE_REPEAT));
    owner.tick(now + PREPARE_REPEAT);
    assert_eq!(effects(&mut owner), ["prepare b 1"]);
    owner.tick(now + ACK_TIMEOUT);
    assert_eq!(effects(&mut owner), ["release b 1", "lost Released"]);
}

/// The next one, which was asked to hold questions.
fn holding(now: Instant) -> Fenced {
    let mut next = machine("b", B);
    next.set(key(), told("a", A, 1, "b"), now);
    assert_eq!(effects(&mut next), Vec::<String>::new());
    hear(&mut next, "a", A, Message::Prepare(Claim(1)), now);
    assert_eq!(effects(&mut next), ["silence", "hold", "ack a 1"]);
    next
}

#[test]
fn the_next_one_holds_until_it_is_named_and_answers_what_the_other_did_not() {
    let now = start();
    let mut next = holding(now);
    // The ack was lost.
    hear(&mut next, "a", A, Message::Prepare(Claim(1)), now);
    assert_eq!(effects(&mut next), ["ack a 1"]);
    let report = Report {
        truncated: true,
        ..Report::default()
    };
    let go = |attempt| Message::Go(Claim(attempt), report.clone());
    hear(&mut next, "a", A, go(1), now);
    assert_eq!(effects(&mut next), Vec::<String>::new());
    next.set(key(), told("b", B, 2, ""), now);
    assert_eq!(effects(&mut next), ["answer 2 but 0", "gained 2 a"]);
    assert!(!hear(&mut next, "a", A, go(1), now), "a late repetition");
}

#[test]
fn what_was_held_for_an_earlier_attempt_is_dropped() {
    let now = start();
    let mut next = holding(now);
    hear(&mut next, "a", A, Message::Prepare(Claim(2)), now);
    assert_eq!(effects(&mut next), ["silence", "hold", "ack a 2"]);
    // Late ones.
    hear(&mut next, "a", A, Message::Prepare(Claim(1)), now);
    hear(
        &mut next,
        "a",
        A,
        Message::Go(Claim(1), Report::default()),
        now,
    );
    effects(&mut next);
    next.set(key(), told("b", B, 2, ""), now);
    assert_eq!(effects(&mut next), ["ack a 2"], "it waits for the go");
    // Only the owner, and only who is the next one.
    for (from, told) in [("c", told("a", A, 1, "b")), ("a", told("a", A, 1, "c"))] {
        let mut other = machine("b", B);
        other.set(key(), told, now);
        hear(&mut other, from, A, Message::Prepare(Claim(1)), now);
        assert_eq!(effects(&mut other), Vec::<String>::new());
    }
}

#[test]
fn named_before_the_go_it_waits_a_moment_for_it_and_then_drops_what_it_holds() {
    let now = start();
    for arrives in [true, false] {
        let mut next = holding(now);
        next.set(key(), told("b", B, 2, ""), now);
        assert_eq!(effects(&mut next), ["ack a 1"]);
        if arrives {
            let go = Message::Go(Claim(1), Report::default());
            assert!(hear(&mut next, "a", A, go, now));
            assert_eq!(effects(&mut next), ["answer 2 but 0", "gained 2 a"]);
        } else {
            next.tick(now + GO_TIMEOUT);
            assert_eq!(
                effects(&mut next),
                ["silence", "answer 2 but 0", "gained 2 orphaned"]
            );
        }
    }
}

#[test]
fn a_go_that_was_lost_is_asked_for_until_it_comes_also_once_the_owner_knows_its_heir() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, "b"), now);
    let mut next = holding(now);
    hear(&mut owner, "b", A, Message::Ack(Claim(1)), now);
    // Its go is lost, and both are told.
    owner.set(key(), told("b", B, 2, ""), now);
    effects(&mut owner);
    next.set(key(), told("b", B, 2, ""), now);
    assert_eq!(effects(&mut next), ["ack a 1"]);
    assert_eq!(next.next_deadline(), Some(now + GO_REPEAT));
    next.tick(now + GO_REPEAT);
    assert_eq!(effects(&mut next), ["ack a 1"]);
    // Others, and other attempts, are told nothing.
    hear(&mut owner, "c", A, Message::Ack(Claim(1)), now);
    hear(&mut owner, "b", A, Message::Ack(Claim(2)), now);
    assert_eq!(effects(&mut owner), Vec::<String>::new());
    assert!(hear(&mut owner, "b", A, Message::Ack(Claim(1)), now));
    assert_eq!(effects(&mut owner), ["go b"]);
    let go = Message::Go(Claim(1), Report::default());
    assert!(hear(&mut next, "a", A, go, now));
    assert_eq!(effects(&mut next), ["answer 2 but 0", "gained 2 a"]);
    // It is forgotten when nobody can wait for it any more.
    assert_eq!(owner.next_deadline(), Some(now + PASSED_LIFETIME));
    owner.tick(now + PASSED_LIFETIME);
    assert!(!hear(&mut owner, "b", A, Message::Ack(Claim(1)), now));
    assert_eq!((owner.next_deadline(), owner.ids.len()), (None, 0));
}

#[test]
fn who_is_not_the_next_one_any_more_drops_what_it_holds() {
    let now = start();
    for after in [
        told("a", A, 1, ""),
        told("a", A, 1, "c"),
        told("c", 3, 2, ""),
    ] {
        let mut next = holding(now);
        next.set(key(), after, now);
        assert_eq!(effects(&mut next), ["silence"]);
        assert_eq!(next.next_deadline(), None);
    }
    let mut next = holding(now);
    next.tick(now + HOLD_TIMEOUT);
    assert_eq!(effects(&mut next), ["silence"]);
}

#[test]
fn an_address_that_goes_is_silent_whatever_the_role() {
    let now = start();
    for (case, expected) in [
        (told("a", A, 1, ""), vec!["silence", "lost Removed"]),
        (told("a", A, 1, "b"), vec!["silence", "lost Removed"]),
        (told("b", B, 1, "a"), vec![]),
        (told("b", B, 1, ""), vec![]),
    ] {
        let mut machine = machine("a", A);
        machine.set(key(), case.clone(), now);
        effects(&mut machine);
        machine.remove(&key());
        assert_eq!(effects(&mut machine), expected, "{case:?}");
        assert!(machine.ids.is_empty() && !machine.contains(&key()));
    }
}

#[test]
fn a_lease_is_needed_only_where_something_may_be_owned() {
    let now = start();
    let mut machine = machine("a", A);
    assert!(!machine.needs_lease());
    let other = Told {
        candidate: false,
        ..told("b", B, 1, "")
    };
    machine.set(key(), other, now);
    assert!(!machine.needs_lease());
    let unlisted = Told {
        candidate: false,
        ..told("a", A, 1, "")
    };
    machine.set(key(), unlisted, now);
    assert!(machine.needs_lease() && machine.answers_unlisted());
    machine.set(key(), told("b", B, 2, ""), now);
    assert!(machine.needs_lease() && !machine.answers_unlisted());
}

#[test]
fn what_was_released_is_not_answered_again_though_the_address_goes_and_comes_back() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, "b"), now);
    owner.tick(now + ACK_TIMEOUT);
    effects(&mut owner);
    owner.remove(&key());
    owner.set(key(), told("a", A, 1, ""), now);
    assert_eq!(effects(&mut owner), Vec::<String>::new());
    assert_eq!(owner.released().len(), 1, "it is told again");
    // A lease that was late is the same lease.
    owner.set_term(None, now);
    owner.set_term(Some(Term(A)), now);
    assert_eq!(effects(&mut owner), Vec::<String>::new());
    owner.set(key(), told("a", A, 2, ""), now);
    assert_eq!(effects(&mut owner), ["answer 1 but 0", "gained 2 -"]);
}

#[test]
fn an_owner_that_is_no_candidate_stops_after_two_seconds() {
    let now = start();
    let mut owner = machine("a", A);
    let unlisted = Told {
        candidate: false,
        ..told("a", A, 1, "")
    };
    owner.set(key(), told("a", A, 1, ""), now);
    owner.set(key(), unlisted.clone(), now);
    effects(&mut owner);
    assert!(owner.answers_unlisted());
    // A candidate again in time.
    owner.set(key(), told("a", A, 1, ""), now + UNLISTED_LIMIT / 2);
    owner.set(key(), unlisted, now + UNLISTED_LIMIT / 2);
    let limit = now + UNLISTED_LIMIT / 2 + UNLISTED_LIMIT;
    assert_eq!(owner.next_deadline(), Some(limit));
    owner.tick(limit);
    assert_eq!(effects(&mut owner), ["silence", "lost Unlisted"]);
    assert!(!owner.answers_unlisted() && owner.released().len() == 1);
}

#[test]
fn only_what_another_node_had_is_a_failover() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, ""), now);
    owner.set_term(None, now);
    owner.set_term(Some(Term(A)), now);
    owner.set(key(), told("b", B, 2, ""), now);
    effects(&mut owner);
    owner.set(key(), told("a", A, 3, ""), now);
    assert_eq!(effects(&mut owner), ["answer 1 but 0", "gained 3 orphaned"]);
}

#[test]
fn attempts_to_move_one_tenure_are_never_counted_anew() {
    let now = start();
    let mut owner = machine("a", A);
    owner.set(key(), told("a", A, 1, "b"), now);
    effects(&mut owner);
    // A lease that was late: whatever the next one holds is older than what is noted from now on.
    owner.set_term(None, now);
    owner.set_term(Some(Term(A)), now);
    let again = ["silence", "lost LeaseOver", "answer 1 but 0", "gained 1 -"];
    let expected: Vec<&str> = again
        .into_iter()
        .chain(["record 1", "prepare b 2"])
        .collect();
    assert_eq!(effects(&mut owner), expected);
    // Nor when the address goes and comes back.
    owner.remove(&key());
    effects(&mut owner);
    owner.set(key(), told("a", A, 1, "b"), now);
    let expected = ["answer 1 but 0", "gained 1 -", "record 1", "prepare b 3"];
    assert_eq!(effects(&mut owner), expected);
    hear(&mut owner, "b", A, Message::Ack(Claim(1)), now);
    assert_eq!(effects(&mut owner), Vec::<String>::new());
}
