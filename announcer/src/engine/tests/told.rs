//! What is told of each address of a group, under an engine that runs when it is told to: a group of both
//! families on an interface that has no link-local address, or gets one.

use pharos_lease::Term;

use super::probes::{Bench, FIRST_MAC, LINK_LOCAL, V4, V6};
use super::*;
use crate::fenced::Told;
use crate::status::Addresses;

fn told(bench: &Bench) -> (Addresses, Vec<String>) {
    let standing = bench.status.borrow();
    (
        standing.addresses(GroupId(1)),
        standing.interfaces(GroupId(1)),
    )
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}

fn answers(answers: &[IpAddr], nowhere: &[IpAddr]) -> (Addresses, Vec<String>) {
    let addresses = Addresses {
        answers: texts(answers),
        nowhere: texts(nowhere),
        ..Addresses::default()
    };
    (addresses, vec!["lo".to_owned()])
}

#[test]
fn an_address_that_no_interface_can_answer_is_told_as_answered_nowhere() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, false), (V6, false)]);
    assert_eq!(told(&bench), answers(&[V4], &[V6]));
    bench.uplinks(vec![loopback(FIRST_MAC, Some(LINK_LOCAL))]);
    assert_eq!(told(&bench), answers(&[V4, V6], &[]));
    bench.uplinks(Vec::new());
    let (addresses, interfaces) = told(&bench);
    assert_eq!(addresses, answers(&[], &[V4, V6]).0);
    assert!(interfaces.is_empty());
}

#[test]
fn an_address_that_is_asked_for_first_is_not_told_as_answered() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, true), (V6, true)]);
    let (addresses, _) = told(&bench);
    assert_eq!(addresses.probing, texts(&[V4, V6]));
    assert_eq!(addresses.answers, texts(&[]));
    assert_eq!(addresses.nowhere, texts(&[V6]));
}

/// Both addresses, fenced; of each the node that is named.
fn fenced(owners: [(IpAddr, &str); 2]) -> Command {
    let list = assigned(&["a", "b"]).upserts.remove(0);
    let upserts = owners.map(|(address, owner)| Assigned {
        key: Key {
            address,
            ..list.key.clone()
        },
        fenced: Some(Told {
            owner: Some((owner.into(), Term(1))),
            epoch: 1,
            ..Told::default()
        }),
        ..list.clone()
    });
    let difference = Difference {
        upserts: upserts.into(),
        ..Difference::default()
    };
    Command::Assignments {
        difference,
        mark: 1,
    }
}

#[test]
fn of_a_fenced_group_each_address_is_told_by_itself() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.tell(Command::Lease(Some(Term(1))));
    bench.tell(fenced([(V4, "a"), (V6, "a")]));
    assert_eq!(told(&bench), answers(&[V4], &[V6]));
    bench.uplinks(vec![loopback(FIRST_MAC, Some(LINK_LOCAL))]);
    assert_eq!(told(&bench), answers(&[V4, V6], &[]));
    // The other one is named for one of them.
    bench.tell(fenced([(V4, "a"), (V6, "b")]));
    assert_eq!(told(&bench), answers(&[V4], &[]));
    bench.tell(Command::Lease(None));
    assert_eq!(told(&bench), (Addresses::default(), Vec::new()));
}
