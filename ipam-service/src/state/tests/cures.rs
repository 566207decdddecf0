//! Every refusal that a later change can cure: the claim is kept with its reason, and served by the
//! cure.

use std::time::Duration;

use crate::state::address::Family;
use crate::state::command::{Allocate, Command, IfRefused, InUse};
use crate::state::model::*;
use crate::state::refusal::{Reason, Rejection};
use crate::state::testing::*;

const WEB: &str = "east/default/web";
const OTHER: &str = "east/default/other";
const ZERO: &str = "192.0.2.0";

const ALL: [Reason; 22] = [
    Reason::NoFreeAddress,
    Reason::UnknownPool,
    Reason::AddressNotInPool,
    Reason::AddressTaken,
    Reason::PortInUse,
    Reason::SharingMismatch,
    Reason::PoolNotForOwner,
    Reason::AddressNotInRequestedPool,
    Reason::BuggyAddress,
    Reason::FamilyNotInPool,
    Reason::Recovering,
    Reason::BehindOlderClaims,
    Reason::AddressReserved,
    Reason::AddressDraining,
    Reason::AddressQuarantined,
    Reason::UnknownReservation,
    Reason::AddressNotInReservation,
    Reason::PoolNotAutomatic,
    Reason::OtherPoolNamed,
    Reason::QuotaExceeded,
    Reason::OutsideGrant,
    Reason::TooManyPending,
];

/// A book of the pool `p` with one address, and a claim that it refuses.
struct Case {
    book: Book,
    ask: Claim,
    cures: Vec<Cure>,
}

enum Cure {
    Command(Command),
    Seconds(u64),
}

fn case(before: &[Command], ask: Claim, cures: Vec<Command>) -> Option<Case> {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    for command in before {
        book.run(command.clone()).expect("a good command");
    }
    let cures = cures.into_iter().map(Cure::Command).collect();
    Some(Case { book, ask, cures })
}

fn apply(pool: Pool) -> Command {
    Command::ApplyPool {
        pool: Box::new(pool),
        in_use: InUse::Move,
    }
}

fn take(claim: Claim) -> Command {
    allocate(OTHER, claim).into()
}

fn at_zero(claim: Claim) -> Claim {
    Claim {
        families: Families::Any,
        addresses: addresses(&[ZERO]),
        ..claim
    }
}

fn reserve(ranges: &[&str], kept_for: Option<&str>) -> Command {
    Command::ApplyReservation(Box::new(reservation("r", ranges, kept_for)))
}

/// How a claim comes to be refused so, and what cures it. `None`: no claim waits for this reason.
fn case_of(reason: Reason) -> Option<Case> {
    let freed = || vec![release(OTHER).into()];
    let p = |ranges: &[&str]| pool("p", ranges);
    match reason {
        Reason::NoFreeAddress => case(&[take(claim())], claim(), freed()),
        Reason::AddressTaken => case(&[take(claim())], for_addresses(&[ZERO]), freed()),
        Reason::PortInUse => {
            let other_port = vec![queued(OTHER, shared("k", 81)).into()];
            case(
                &[take(shared("k", 80))],
                at_zero(shared("k", 80)),
                other_port,
            )
        }
        Reason::SharingMismatch => {
            let same_key = vec![queued(OTHER, shared("j", 80)).into()];
            case(&[take(shared("k", 80))], at_zero(shared("j", 81)), same_key)
        }
        Reason::UnknownPool => {
            let made = apply(pool("x", &["198.51.100.0/30"]));
            case(&[], from_pool("x"), vec![made])
        }
        Reason::AddressNotInPool => {
            let made = apply(pool("x", &["198.51.100.0/30"]));
            case(&[], for_addresses(&["198.51.100.1"]), vec![made])
        }
        Reason::AddressNotInRequestedPool => {
            let asked = Claim {
                pool: Some(name("x")),
                ..for_addresses(&[ZERO])
            };
            let before = apply(pool("x", &["198.51.100.0/30"]));
            let leaves = apply(p(&["203.0.113.0/30"]));
            let comes = apply(pool("x", &["192.0.2.0/30"]));
            case(&[before], asked, vec![leaves, comes])
        }
        Reason::PoolNotForOwner => {
            let mut blue = p(&["192.0.2.0/32"]);
            blue.namespaces.insert(name("blue"));
            let open = apply(p(&["192.0.2.0/32"]));
            case(&[apply(blue)], from_pool("p"), vec![open])
        }
        Reason::BuggyAddress => {
            let mut avoiding = p(&["192.0.2.0/32"]);
            avoiding.avoid_buggy_ips = true;
            let open = apply(p(&["192.0.2.0/32"]));
            case(&[apply(avoiding)], for_addresses(&[ZERO]), vec![open])
        }
        Reason::FamilyNotInPool => {
            let asked = Claim {
                families: Families::One(Family::V6),
                ..from_pool("p")
            };
            let dual = apply(p(&["192.0.2.0/32", "2001:db8::/128"]));
            case(&[], asked, vec![dual])
        }
        Reason::Recovering => {
            let begun = Command::BeginSync {
                cluster: name("west"),
                uid: String::new(),
                fence: 0,
            };
            let ended = Command::EndSync {
                cluster: name("west"),
                fence: 0,
            };
            let mut case = case(&[], claim(), vec![begun, ended])?;
            case.book.expect_inventory_of("west");
            Some(case)
        }
        Reason::BehindOlderClaims => {
            let older = "east/default/older";
            let leaves = vec![release(older).into()];
            let mut case = case(&[take(claim())], claim(), leaves)?;
            case.book.queue(older, claim());
            // It is older's, but nobody has told it so yet.
            case.book.step(release(OTHER)).expect("released");
            Some(case)
        }
        Reason::AddressReserved => {
            let kept = reserve(&[ZERO], Some("west"));
            let free = Command::DeleteReservation(reservation_key("r"));
            case(&[kept], for_addresses(&[ZERO]), vec![free])
        }
        Reason::AddressDraining => {
            let mut resting = p(&["192.0.2.0/32"]);
            resting.reuse_delay = Duration::from_secs(60);
            let before = [apply(resting), take(claim()), release(OTHER).into()];
            let case = case(&before, claim(), Vec::new())?;
            let cures = vec![Cure::Seconds(60)];
            Some(Case { cures, ..case })
        }
        Reason::AddressQuarantined => {
            let seen = Command::ReportConflict {
                cluster: name("east"),
                space: space(),
                address: address(ZERO),
            };
            let clear = Command::ClearUnavailable {
                space: space(),
                address: address(ZERO),
            };
            let before = [take(claim()), seen, release(OTHER).into()];
            case(&before, claim(), vec![clear])
        }
        Reason::UnknownReservation => {
            let asked = Claim {
                reservation: Some(name("r")),
                ..claim()
            };
            case(&[], asked, vec![reserve(&[ZERO], Some("east"))])
        }
        Reason::AddressNotInReservation => {
            let asked = Claim {
                reservation: Some(name("r")),
                ..for_addresses(&[ZERO])
            };
            let before = reserve(&["192.0.2.9"], Some("east"));
            let wider = reserve(&[ZERO, "192.0.2.9"], Some("east"));
            case(&[before], asked, vec![wider])
        }
        Reason::QuotaExceeded => {
            let none = Command::ApplyQuota(Box::new(quota("none", "east", 0)));
            let raised = Command::ApplyQuota(Box::new(quota("none", "east", 1)));
            case(&[none], claim(), vec![raised])
        }
        Reason::OutsideGrant => {
            let elsewhere: &[&str] = &["198.51.100.0/24"];
            let fence = apply_space(fenced(&[("east", elsewhere)]), InUse::Move);
            case(&[fence], claim(), vec![delete_space()])
        }
        Reason::PoolNotAutomatic | Reason::OtherPoolNamed | Reason::TooManyPending => None,
    }
}

#[test]
fn whatever_a_later_change_can_cure_is_waited_for_and_served_by_the_cure() {
    let mut cured = 0;
    for reason in ALL {
        let Some(case) = case_of(reason) else {
            continue;
        };
        let Case {
            mut book,
            ask,
            cures,
        } = case;
        let fail = Allocate {
            if_refused: IfRefused::Fail,
            ..queued(WEB, ask.clone())
        };
        match book.step(fail) {
            Err(Rejection::Refused(refusal)) => assert_eq!(refusal.reason, reason),
            other => panic!("{reason:?}: {other:?}"),
        }
        let nothing = book.state.allocation(&owner(WEB));
        assert!(
            nothing.is_none(),
            "{reason:?}: a claim that fails is not kept"
        );
        book.step(queued(WEB, ask)).expect("queued");
        assert_eq!(book.reason(WEB), Some(reason));
        for cure in cures {
            match cure {
                Cure::Command(command) => drop(book.run(command).expect("a good command")),
                Cure::Seconds(seconds) => book.pass_unsettled(seconds),
            }
            book.settle(&mut Vec::new());
        }
        assert_eq!(book.reason(WEB), None, "{reason:?}");
        assert_eq!(book.get(WEB).addresses.len(), 1, "{reason:?}");
        cured += 1;
    }
    assert_eq!(
        cured,
        ALL.len() - 3,
        "three reasons are never a claim's that waits"
    );
}
