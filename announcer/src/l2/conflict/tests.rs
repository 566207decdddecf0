use proptest::prelude::*;

use super::*;

const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 7);
const MEMBER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
const OWN: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn spot(last: u8) -> Spot {
    Spot {
        interface: 2,
        address: address(last),
    }
}

fn conflict(mac: MacAddr, kind: Kind) -> Conflict {
    Conflict {
        address: address(1),
        mac,
        own_mac: OWN,
        kind,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn start() -> Instant {
    Instant::now()
}

fn conflicts() -> Conflicts {
    let mut conflicts = Conflicts::default();
    conflicts.set_members([MEMBER].into());
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
        if second < 70 && conflicts.seen(spot(1), STRANGER, OWN, now) {
            defences.push(second);
        }
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let expected = [
        (0, News::Begun(stranger)),
        (60, News::GoesOn(stranger)),
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
        assert!(!conflicts.seen(spot(1), MEMBER, OWN, now));
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
        assert!(!conflicts.seen(spot(1), MEMBER, OWN, now));
    }
    conflicts.forget(address(1));
    conflicts.tick(start + Duration::from_secs(60));
    assert_eq!(conflicts.take_news(), []);
}

#[test]
fn whoever_turns_out_to_be_a_member_is_no_stranger_any_more() {
    let start = start();
    let mut conflicts = Conflicts::default();
    assert!(conflicts.seen(spot(1), MEMBER, OWN, start));
    conflicts.set_members([MEMBER].into());
    assert!(!conflicts.seen(spot(1), MEMBER, OWN, start));
    let stranger = conflict(MEMBER, Kind::Foreign);
    let expected = [News::Begun(stranger), News::Over(stranger)];
    assert_eq!(conflicts.take_news(), expected);
}

#[test]
fn an_address_that_is_not_answered_any_more_has_no_conflict() {
    let start = start();
    let mut conflicts = conflicts();
    conflicts.seen(spot(1), STRANGER, OWN, start);
    conflicts.seen(spot(2), STRANGER, OWN, start);
    conflicts.take_news();
    conflicts.forget(address(1));
    let stranger = conflict(STRANGER, Kind::Foreign);
    assert_eq!(conflicts.take_news(), [News::Over(stranger)]);
    assert!(conflicts.next_deadline().is_some(), "the other one goes on");
}

#[test]
fn a_machine_that_two_interfaces_see_is_one_conflict() {
    let start = start();
    let other = MacAddr(2, 0, 0, 0, 0, 9);
    let mut conflicts = conflicts();
    let mut told = Vec::new();
    for second in 0..8 {
        let now = start + Duration::from_secs(second);
        for own in [OWN, other] {
            conflicts.seen(spot(1), STRANGER, own, now);
            conflicts.seen(spot(1), MEMBER, own, now);
        }
        told.extend(conflicts.take_news().into_iter().map(|news| (second, news)));
    }
    let stranger = conflict(STRANGER, Kind::Foreign);
    let kernel = conflict(MEMBER, Kind::KernelAnswers);
    let expected = [(0, News::Begun(stranger)), (5, News::Begun(kernel))];
    assert_eq!(told, expected);
}

#[test]
fn what_is_watched_is_bounded() {
    let start = start();
    let mut conflicts = conflicts();
    for number in 0..2 * LIMIT {
        let [high, low] = u16::try_from(number).expect("small").to_be_bytes();
        let address = IpAddr::from([10, 0, high, low]);
        let spot = Spot {
            interface: 2,
            address,
        };
        conflicts.seen(spot, STRANGER, OWN, start);
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
            if conflicts.seen(spot(last), mac, OWN, now) {
                prop_assert_ne!(mac, MEMBER);
                let before = defended.insert(last, now);
                prop_assert!(before.is_none_or(|before| now >= before + Duration::from_secs(10)));
            }
        }
    }
}
