use std::collections::BTreeSet;

use super::*;
use crate::clock::now as start;
use crate::election::{Claim, GroupId};

fn node() -> NodeName {
    NodeName::from("b")
}

fn condition() -> Condition {
    Condition {
        ready: true,
        hold_down: false,
        draining: false,
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        interfaces6: BTreeSet::from(["eth0".to_owned()]),
        macs: BTreeSet::new(),
    }
}

fn statement(group: u64, claim: Option<u64>) -> Statement {
    Statement {
        group: GroupId(group),
        holder: None,
        claim: claim.map(Claim),
    }
}

fn statements(count: u64) -> Vec<Statement> {
    (1..=count)
        .map(|number| statement(number, Some(number)))
        .collect()
}

/// Reports that know node b, and what b says.
fn pair(now: Instant) -> (Reports, OwnReport) {
    let mut reports = Reports::default();
    reports.up(&node(), 5, now);
    (reports, OwnReport::new(node(), 5))
}

#[test]
fn a_report_in_parts_is_learnt_when_all_of_them_are_there_in_any_order() {
    let (mut reports, own) = pair(start());
    let mut parts = own.whole(&condition(), &statements(500));
    assert!(parts.len() >= 3, "{} parts", parts.len());
    parts.swap(0, 2);
    let last = parts.pop().expect("several parts");
    for part in parts {
        assert_eq!(reports.state(part.clone()), Learnt::Nothing);
        assert_eq!(reports.state(part), Learnt::Nothing, "a repetition");
    }
    let whole = Learnt::Whole(condition(), statements(500));
    assert_eq!(reports.state(last.clone()), whole);
    assert_eq!(reports.state(last), Learnt::Nothing);
    assert_eq!(reports.next_deadline(), None);
}

#[test]
fn changes_in_order_are_learnt_and_a_gap_is_asked_for() {
    let now = start();
    let (mut reports, mut own) = pair(now);
    for part in own.whole(&condition(), &[]) {
        reports.state(part);
    }
    let change = |own: &mut OwnReport, group, claim| {
        own.changes(&condition(), &[statement(group, claim)])
            .remove(0)
    };
    let first = change(&mut own, 1, Some(9));
    let learnt = Learnt::Changed(condition(), vec![statement(1, Some(9))]);
    assert_eq!(reports.delta(first.clone(), now), learnt);
    assert_eq!(reports.delta(first, now), Learnt::Nothing, "a repetition");
    assert_eq!(reports.next_deadline(), None);
    let _lost = change(&mut own, 2, Some(1));
    let third = change(&mut own, 1, None);
    assert_eq!(reports.delta(third, now), Learnt::Nothing);
    let later = now + ASK_INTERVAL;
    assert_eq!(reports.tick(later), [Due::Ask(node())]);
    let whole = own.whole(&condition(), &statements(2)).remove(0);
    assert!(matches!(reports.state(whole), Learnt::Whole(..)));
    assert_eq!(reports.next_deadline(), None);
}

#[test]
fn a_gossiped_version_that_is_not_known_is_asked_for() {
    let now = start();
    let (mut reports, own) = pair(now);
    for part in own.whole(&condition(), &[]) {
        reports.state(part);
    }
    reports.news("b", 5, 1, now);
    reports.news("b", 4, 9, now);
    reports.news("c", 5, 9, now);
    assert_eq!(reports.next_deadline(), None);
    reports.news("b", 5, 2, now);
    assert_eq!(reports.next_deadline(), Some(now + ASK_INTERVAL));
}

#[test]
fn a_node_that_says_nothing_is_waited_for_a_while_and_then_not() {
    let now = start();
    let (mut reports, own) = pair(now);
    let mut asked = 0;
    let mut asked_about = Vec::new();
    let mut gave_up = None;
    while let Some(at) = reports.next_deadline() {
        if at > now + Duration::from_secs(2) {
            break;
        }
        for due in reports.tick(at) {
            match due {
                Due::Ask(_) => asked += 1,
                Due::AskAbout(_, turn) => asked_about.push((at - now, turn)),
                Due::GaveUp(_) => gave_up = Some(at - now),
            }
        }
    }
    assert_eq!(gave_up, Some(PATIENCE));
    assert!((8..12).contains(&asked), "{asked}");
    let first = (2 * ASK_INTERVAL, ASKS_IN_VAIN);
    assert_eq!(asked_about.first(), Some(&first), "before it gives up");
    assert_eq!(asked_about.len(), asked - 2, "as often as it itself");
    let late = own.whole(&condition(), &[]).remove(0);
    assert!(
        matches!(reports.state(late), Learnt::Whole(..)),
        "late is better than never"
    );
}

#[test]
fn what_an_earlier_run_of_a_node_said_does_not_count() {
    let now = start();
    let (mut reports, own) = pair(now);
    reports.up(&node(), 6, now);
    let old = own.whole(&condition(), &[]).remove(0);
    assert_eq!(reports.state(old), Learnt::Nothing);
    reports.down("b");
    assert_eq!(reports.next_deadline(), None);
}

#[test]
fn many_changes_are_cut_into_several() {
    let now = start();
    let (mut reports, mut own) = pair(now);
    for part in own.whole(&condition(), &[]) {
        reports.state(part);
    }
    let deltas = own.changes(&condition(), &statements(500));
    assert!(deltas.len() >= 3, "{} deltas", deltas.len());
    let learnt: usize = deltas
        .into_iter()
        .map(|delta| match reports.delta(delta, now) {
            Learnt::Changed(_, statements) => statements.len(),
            Learnt::Whole(..) | Learnt::Nothing => 0,
        })
        .sum();
    assert_eq!(learnt, 500);
}

#[test]
fn the_last_version_that_a_number_can_have_is_survived() {
    let now = start();
    let (mut reports, own) = pair(now);
    let mut last = own.whole(&condition(), &[]).remove(0);
    last.version.version = u64::MAX;
    assert_eq!(
        reports.state(last.clone()),
        Learnt::Whole(condition(), Vec::new())
    );
    let next = Delta {
        version: Version {
            version: 0,
            ..last.version
        },
        condition: last.condition,
        statements: Vec::new(),
    };
    assert_eq!(reports.delta(next, now), Learnt::Nothing);
}

#[test]
fn others_are_asked_about_a_report_that_its_node_does_not_send_and_may_send_it() {
    let now = start();
    let (mut reports, mut own) = pair(now);
    for part in own.whole(&condition(), &[]) {
        reports.state(part);
    }
    assert_eq!(reports.known("b").map(|known| known.version), Some(1));
    let _lost = own.changes(&condition(), &statements(1));
    reports.news("b", 5, 2, now);
    let mut due = Vec::new();
    while let Some(at) = reports.next_deadline() {
        if at > now + Duration::from_millis(1200) {
            break;
        }
        let at_once = reports.tick(at).into_iter();
        due.extend(at_once.map(|due| ((at - now).as_millis(), due)));
    }
    let ask = |ms| (ms, Due::Ask(node()));
    let about = |ms, turn| (ms, Due::AskAbout(node(), turn));
    let expected = [
        ask(50),
        ask(100),
        ask(150),
        about(150, 2),
        ask(650),
        about(650, 3),
        ask(1150),
        about(1150, 4),
    ];
    assert_eq!(due, expected);
    // Another node, which has it, sends the same.
    let known = Version {
        node: "b".to_owned(),
        epoch: 5,
        version: 2,
    };
    let relayed = states(&known, &condition(), &statements(1)).remove(0);
    assert!(matches!(reports.state(relayed.clone()), Learnt::Whole(..)));
    assert_eq!(reports.state(relayed), Learnt::Nothing, "no news any more");
    assert_eq!(reports.next_deadline(), None);
}
