use proptest::prelude::*;

use super::*;
use crate::clock::now as start;

const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const MEMBER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// Interfaces of this node, by index.
fn seer(index: u8) -> Seer {
    Seer {
        index: index.into(),
        name: format!("eth{index}").into(),
        mac: MacAddr(2, 0, 0, 0, 1, index),
    }
}

fn conflict(mac: MacAddr, kind: Kind) -> Conflict {
    Conflict {
        while_probing: false,
        address: address(1),
        mac,
        by: seer(2),
        member: (kind == Kind::KernelAnswers).then(|| "b".into()),
    }
}

fn conflicts() -> Conflicts {
    let mut conflicts = Conflicts::default();
    conflicts.set_members([(MEMBER, "b".into())].into());
    conflicts
}

#[test]
fn a_stranger_is_told_of_at_once_each_minute_and_when_it_is_gone() {
    let start = start();
    let mut conflicts = conflicts();
    let stranger = conflict(STRANGER, Kind::Foreign);
    let mut told = Vec::new();
    let mut defences = Vec::new();
    for second in 0..100 {
        let now = start + Duration::from_secs(second);
        conflicts.tick(now);
        if second < 70 && conflicts.seen(address(1), STRANGER, seer(2), now) {
            defences.push(second);
        }
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let expected = [
        (0, News::Begun(stranger.clone())),
        (60, News::GoesOn(stranger.clone())),
        (79, News::Over(stranger)),
    ];
    assert_eq!(told, expected);
    assert_eq!(defences, [0, 10, 20, 30, 40, 50, 60]);
    assert_eq!(conflicts.next_deadline(), None);
}

#[test]
fn the_kernel_of_a_member_is_told_apart_after_a_while_and_never_defended_against() {
    let start = start();
    let mut conflicts = conflicts();
    let mut told = Vec::new();
    for second in 0..8 {
        let now = start + Duration::from_secs(second);
        assert!(!conflicts.seen(address(1), MEMBER, seer(2), now));
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let kernel = conflict(MEMBER, Kind::KernelAnswers);
    assert_eq!(told, [(5, News::Begun(kernel))]);
}

#[test]
fn two_owners_that_settle_it_among_themselves_are_no_conflict() {
    let start = start();
    let mut conflicts = conflicts();
    for tenth in 0..10 {
        let now = start + Duration::from_millis(100 * tenth);
        assert!(!conflicts.seen(address(1), MEMBER, seer(2), now));
    }
    conflicts.forget(address(1));
    conflicts.tick(start + Duration::from_secs(60));
    assert_eq!(conflicts.take_news(), []);
}

#[test]
fn whoever_turns_out_to_be_a_member_is_no_stranger_any_more() {
    let start = start();
    let mut conflicts = Conflicts::default();
    assert!(conflicts.seen(address(1), MEMBER, seer(2), start));
    conflicts.set_members([(MEMBER, "b".into())].into());
    assert!(!conflicts.seen(address(1), MEMBER, seer(2), start));
    let stranger = conflict(MEMBER, Kind::Foreign);
    let expected = [News::Begun(stranger.clone()), News::Over(stranger)];
    assert_eq!(conflicts.take_news(), expected);
}

#[test]
fn an_address_that_is_not_answered_any_more_has_no_conflict() {
    let start = start();
    let mut conflicts = conflicts();
    conflicts.seen(address(1), STRANGER, seer(2), start);
    conflicts.seen(address(2), STRANGER, seer(2), start);
    conflicts.take_news();
    conflicts.forget(address(1));
    let stranger = conflict(STRANGER, Kind::Foreign);
    assert_eq!(conflicts.take_news(), [News::Over(stranger)]);
    assert!(conflicts.next_deadline().is_some(), "the other one goes on");
}

#[test]
fn a_machine_that_two_interfaces_see_is_one_conflict() {
    let start = start();
    let mut conflicts = conflicts();
    let mut told = Vec::new();
    for second in 0..8 {
        let now = start + Duration::from_secs(second);
        for index in [2, 3] {
            conflicts.seen(address(1), STRANGER, seer(index), now);
            conflicts.seen(address(1), MEMBER, seer(index), now);
        }
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let stranger = conflict(STRANGER, Kind::Foreign);
    let kernel = conflict(MEMBER, Kind::KernelAnswers);
    let expected = [(0, News::Begun(stranger)), (5, News::Begun(kernel))];
    assert_eq!(told, expected);
}

#[test]
fn a_machine_is_asked_on_each_interface_that_saw_it() {
    let start = start();
    let mut conflicts = conflicts();
    for index in [2, 3] {
        conflicts.seen(address(1), STRANGER, seer(index), start);
    }
    let at = start + Duration::from_secs(3);
    let looks = std::iter::from_fn(|| conflicts.take_look(at));
    let looks: Vec<u32> = looks.map(|spot| spot.interface).collect();
    assert_eq!(looks, [2, 3]);
}

#[test]
fn a_conflict_that_only_another_interface_sees_still_is_told_as_that_of_the_other() {
    let start = start();
    let mut conflicts = conflicts();
    let mut told = Vec::new();
    for second in 0..30 {
        let now = start + Duration::from_secs(second);
        conflicts.tick(now);
        if second < 5 {
            conflicts.seen(address(1), STRANGER, seer(2), now);
        }
        conflicts.seen(address(1), STRANGER, seer(3), now);
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let of_second = conflict(STRANGER, Kind::Foreign);
    let of_third = Conflict {
        by: seer(3),
        ..of_second.clone()
    };
    let expected = [
        (0, News::Begun(of_second.clone())),
        (
            14,
            News::Moved {
                from: of_second.by,
                now: of_third.clone(),
            },
        ),
    ];
    assert_eq!(told, expected);
    // It is one conflict: told again a minute after it began, and over when nobody sees it.
    let later = (30..80).flat_map(|second| {
        let now = start + Duration::from_secs(second);
        conflicts.tick(now);
        if second < 65 {
            conflicts.seen(address(1), STRANGER, seer(3), now);
        }
        let news = conflicts.take_news().into_iter();
        news.map(move |news| (second, news)).collect::<Vec<_>>()
    });
    let expected = [
        (60, News::GoesOn(of_third.clone())),
        (74, News::Over(of_third)),
    ];
    assert_eq!(later.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_watched_is_bounded() {
    let start = start();
    let mut conflicts = conflicts();
    for number in 0..2 * LIMIT {
        let [high, low] = u16::try_from(number).expect("small").to_be_bytes();
        let address = IpAddr::from([10, 0, high, low]);
        conflicts.seen(address, STRANGER, seer(2), start);
    }
    assert_eq!(conflicts.watched.len(), LIMIT);
    assert_eq!(conflicts.take_news().len(), LIMIT);
    assert!(conflicts.defended.len() <= LIMIT);
}

proptest! {
    #[test]
    fn no_address_is_defended_twice_in_ten_seconds(
        steps in proptest::collection::vec((0..4_000_u64, 0..3_u8, 0..3_u8), 1..200),
    ) {
        let mut now = start();
        let mut conflicts = conflicts();
        let mut defended: BTreeMap<u8, Instant> = BTreeMap::new();
        for (ms, last, mac) in steps {
            now += Duration::from_millis(ms);
            conflicts.tick(now);
            let mac = MacAddr(2, 0, 0, 0, 0, mac);
            if conflicts.seen(address(last), mac, seer(2), now) {
                prop_assert_ne!(mac, MEMBER);
                let before = defended.insert(last, now);
                prop_assert!(before.is_none_or(|before| now >= before + Duration::from_secs(10)));
            }
        }
    }
}
