use std::time::Duration;

use pnet_base::MacAddr;

use super::super::hold::Report;
use super::super::question::Question;
use super::*;
use crate::clock::now as start;

fn question(target: u16) -> Question {
    Question {
        asker: MacAddr(2, 0, 0, 0, 0, 1),
        from: IpAddr::from([192, 0, 2, 1]),
        target: address(target),
    }
}

fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, 0, high, low])
}

#[test]
fn a_thousand_addresses_that_are_handed_over_at_once_lose_no_question() {
    let start = start();
    let mut waiting = Waiting::default();
    // Each is asked for every 10 ms, for 300 ms.
    for round in 0..30 {
        for number in 0..1000 {
            waiting.hold(Held {
                at: start + Duration::from_millis(10 * round),
                interface: 1,
                question: question(number),
            });
        }
    }
    for number in 0..1000 {
        let held = waiting.take_held([address(number)].into_iter());
        assert_eq!(held.len(), 30, "{number}");
    }
    assert_eq!((waiting.held, waiting.by_address.len()), (0, 0));
}

#[test]
fn one_busy_address_takes_no_room_from_the_others() {
    let start = start();
    let mut waiting = Waiting::default();
    for _ in 0..2 * WHOLE_LIMIT {
        waiting.hold(Held {
            at: start,
            interface: 1,
            question: question(1),
        });
    }
    waiting.hold(Held {
        at: start,
        interface: 1,
        question: question(2),
    });
    assert_eq!(waiting.held, HELD_LIMIT + 1);
    assert_eq!(waiting.take_held([address(2)].into_iter()).len(), 1);
}

#[test]
fn what_all_addresses_together_keep_is_bounded() {
    let start = start();
    let mut waiting = Waiting::default();
    for number in 0..5000 {
        for _ in 0..50 {
            waiting.hold(Held {
                at: start,
                interface: 1,
                question: question(number),
            });
            waiting.note(Noted {
                at: start,
                question: question(number),
            });
        }
    }
    assert_eq!((waiting.held, waiting.noted), (WHOLE_LIMIT, WHOLE_LIMIT));
}

#[test]
fn a_dropped_note_marks_the_report_of_its_own_address_only() {
    let start = start();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut waiting = Waiting::default();
    for round in 0..100 {
        waiting.note(Noted {
            at: at(10 * round),
            question: question(1),
        });
    }
    waiting.note(Noted {
        at: at(0),
        question: question(2),
    });
    let report = |waiting: &mut Waiting, number| -> Report {
        waiting.take_noted([address(number)].into_iter()).report()
    };
    let quiet = report(&mut waiting, 2);
    assert_eq!((quiet.answered.len(), quiet.truncated), (1, false));
    let busy = report(&mut waiting, 1);
    assert_eq!((busy.answered.len(), busy.truncated), (32, true));
    assert_eq!(busy.answered[0].at, at(990));
    assert_eq!(report(&mut waiting, 1), Report::default());
}

#[test]
fn a_group_reports_nothing_from_before_a_note_that_was_dropped() {
    let start = start();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let noted = |ms, number| Noted {
        at: at(ms),
        question: question(number),
    };
    // The note of 20 was dropped: were the one of 10 told, then the question of 20 would seem to
    // be one that nobody answered.
    let notes = Notes::new(vec![noted(30, 1), noted(10, 2)], Some(at(20)));
    let report = notes.report();
    assert!(report.truncated);
    let told: Vec<Instant> = report.answered.iter().map(|one| one.at).collect();
    assert_eq!(told, [at(30)]);
    let held = Held {
        at: at(20),
        interface: 1,
        question: question(1),
    };
    assert_eq!(report.unanswered(vec![held], start), []);
}

#[test]
fn what_is_held_comes_in_the_order_in_which_it_was_asked_and_not_from_a_closed_interface() {
    let start = start();
    let held = |ms: u64, interface, number| Held {
        at: start + Duration::from_millis(ms),
        interface,
        question: question(number),
    };
    let mut waiting = Waiting::default();
    for one in [held(3, 1, 1), held(4, 2, 1), held(1, 1, 2), held(2, 2, 2)] {
        waiting.hold(one);
    }
    waiting.close(2);
    let taken = waiting.take_held([address(1), address(2)].into_iter());
    assert_eq!(taken, [held(1, 1, 2), held(3, 1, 1)]);
    assert_eq!(waiting.held, 0);
}
