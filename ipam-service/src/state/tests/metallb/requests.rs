//! Addresses and pools that are asked for, and addresses that are shared.

use super::*;
use crate::state::refusal::Reason;

fn udp(number: u16) -> Port {
    Port {
        protocol: Protocol::Udp,
        number,
    }
}

fn sctp(number: u16) -> Port {
    Port {
        protocol: Protocol::Sctp,
        number,
    }
}

#[test]
fn an_address_that_is_asked_for_must_lie_in_a_pool_that_admits_the_owner() {
    let blue = pool_with("blue", &["192.0.2.0/30"], |pool| {
        pool.namespaces.insert(name("blue"));
    });
    let mut book = Book::with_pools(&[blue, pool("plain", &["198.51.100.0/30"])]);
    assert_eq!(
        book.queue(WEB, for_addresses(&["203.0.113.1"])),
        "(ADDRESS_NOT_IN_POOL)"
    );
    assert_eq!(
        book.queue(WEB, for_addresses(&["192.0.2.1"])),
        "(POOL_NOT_FOR_OWNER)"
    );
    let in_pool = Claim {
        pool: Some(name("plain")),
        ..for_addresses(&["192.0.2.1"])
    };
    assert_eq!(book.queue(WEB, in_pool), "(ADDRESS_NOT_IN_REQUESTED_POOL)");
    assert_eq!(
        book.queue(WEB, for_addresses(&["198.51.100.2"])),
        "198.51.100.2"
    );
}

#[test]
fn a_pair_that_is_asked_for_must_lie_in_one_pool() {
    let mut book = Book::with_pools(&[
        pool("dual", &["192.0.2.0/30", "2001:db8::/126"]),
        pool("six", &["2001:db8:1::/126"]),
    ]);
    let pair = |six: &str| Claim {
        families: Families::Both,
        ..for_addresses(&["192.0.2.1", six])
    };
    assert_eq!(
        book.queue(WEB, pair("2001:db8:1::1")),
        "(ADDRESS_NOT_IN_POOL)"
    );
    assert_eq!(
        book.queue(WEB, pair("2001:db8::1")),
        "192.0.2.1 2001:db8::1"
    );
}

#[test]
fn the_first_comer_keeps_an_address_and_the_later_one_waits_for_it() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(OTHER, for_addresses(&["192.0.2.1"]));
    assert_eq!(
        book.queue(WEB, for_addresses(&["192.0.2.1"])),
        "(ADDRESS_TAKEN)"
    );
    book.run(release(OTHER)).expect("released");
    assert_eq!(book.held(WEB), "192.0.2.1");
}

/// MetalLB gives the old address back first, and is left with nothing if the new one is taken.
#[test]
fn a_changed_request_holds_the_old_address_until_it_has_the_new_one() {
    let mut book = Book::with_pools(&[
        pool("p", &["192.0.2.0/30"]),
        pool("q", &["198.51.100.0/32"]),
    ]);
    book.take(OTHER, for_addresses(&["192.0.2.1"]));
    book.take("east/default/third", from_pool("q"));
    book.take(WEB, for_addresses(&["192.0.2.2"]));
    for wanted in [for_addresses(&["192.0.2.1"]), from_pool("q")] {
        let held = book.queue(WEB, wanted);
        assert!(held.starts_with("192.0.2.2 ("), "{held}");
    }
    book.run(release("east/default/third")).expect("released");
    assert_eq!(book.held(WEB), "198.51.100.0");
}

#[test]
fn a_request_that_is_taken_back_leaves_the_address_as_it_is() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(WEB, for_addresses(&["192.0.2.3"]));
    assert_eq!(book.take(WEB, claim()), "192.0.2.3");
    // Also one for a pool that nobody gets an address of without asking for it.
    let manual = pool_with("manual", &["198.51.100.0/30"], |pool| {
        pool.auto_assign = false;
    });
    book.run(apply(&manual)).expect("applied");
    for asked in [from_pool("manual"), for_addresses(&["198.51.100.0"])] {
        assert_eq!(book.take(OTHER, asked), "198.51.100.0");
        assert_eq!(book.take(OTHER, claim()), "198.51.100.0");
    }
}

#[test]
fn a_pool_that_is_not_there_is_waited_for_and_no_other_is_used() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    assert_eq!(book.queue(WEB, from_pool("x")), "(UNKNOWN_POOL)");
    assert_eq!(why(&book, WEB), "unknown pool \"x\"");
    book.run(apply(&pool("x", &["198.51.100.0/30"])))
        .expect("applied");
    assert_eq!(book.held(WEB), "198.51.100.0");
}

#[test]
fn an_address_is_shared_with_equal_keys_and_different_ports_only() {
    let holder = |backend: &str| Claim {
        backend_key: backend.to_owned(),
        ..shared("k", 80)
    };
    let asked = |key: &str, backend: &str, ports: &[Port]| Claim {
        sharing_key: key.to_owned(),
        backend_key: backend.to_owned(),
        ports: ports.to_vec(),
        ..for_addresses(&["192.0.2.0"])
    };
    // Backend keys: "" as of externalTrafficPolicy Cluster, "app=web" and so on of Local.
    let cases: [(&str, Claim, Option<Reason>); 9] = [
        ("", asked("k", "", &[tcp(81)]), None),
        ("", asked("k", "", &[udp(80)]), None),
        ("", asked("k", "", &[sctp(80)]), None),
        ("", asked("k", "", &[tcp(80)]), Some(Reason::PortInUse)),
        (
            "",
            asked("l", "", &[tcp(81)]),
            Some(Reason::SharingMismatch),
        ),
        ("", asked("", "", &[tcp(81)]), Some(Reason::AddressTaken)),
        (
            "",
            asked("k", "app=web", &[tcp(81)]),
            Some(Reason::SharingMismatch),
        ),
        ("app=web", asked("k", "app=web", &[tcp(81)]), None),
        (
            "app=web",
            asked("k", "app=api", &[tcp(81)]),
            Some(Reason::SharingMismatch),
        ),
    ];
    for (backend, claim, expected) in cases {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
        book.take(OTHER, holder(backend));
        book.queue(WEB, claim.clone());
        assert_eq!(book.reason(WEB), expected, "{backend:?} {claim:?}");
    }
}

/// MetalLB's keys would count across clusters if it knew more than one.
#[test]
fn a_sharing_key_counts_across_namespaces_and_not_across_clusters() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/red/a", shared("k", 80));
    assert_eq!(book.queue("east/blue/b", shared("k", 81)), "192.0.2.0");
    assert_eq!(
        book.queue("west/red/c", shared("k", 82)),
        "(NO_FREE_ADDRESS)"
    );
}

#[test]
fn who_holds_alone_may_change_its_key_and_who_shares_may_not() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take(WEB, shared("k", 80));
    assert_eq!(book.take(WEB, shared("l", 80)), "192.0.2.0");
    book.take(OTHER, shared("l", 81));
    let held = book.queue(WEB, shared("k", 80));
    assert_eq!(held, "192.0.2.0 (NO_FREE_ADDRESS)");
    let text = why(&book, WEB);
    assert!(
        text.starts_with("can't change sharing key for \"east/default/web\""),
        "{text}"
    );
}

#[test]
fn a_port_clash_is_worded_as_before() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(OTHER, shared("k", 80));
    let asked = Claim {
        addresses: addresses(&["192.0.2.0"]),
        ..shared("k", 80)
    };
    book.queue(WEB, asked);
    let text = why(&book, WEB);
    assert!(
        text.starts_with("port TCP/80 is already in use on \"192.0.2.0\""),
        "{text}"
    );
}

#[test]
fn a_lower_free_address_is_taken_before_a_higher_one_that_could_be_shared() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take("east/default/low", claim());
    book.take(OTHER, shared("k", 80));
    book.run(release("east/default/low")).expect("released");
    assert_eq!(book.take(WEB, shared("k", 81)), "192.0.2.0");
}

#[test]
fn both_addresses_of_a_pair_must_allow_the_sharing() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32", "2001:db8::/128"])]);
    book.take(
        OTHER,
        Claim {
            families: Families::Both,
            ..shared("k", 80)
        },
    );
    let asked = |port| Claim {
        families: Families::Both,
        ..shared("k", port)
    };
    assert_eq!(book.queue(WEB, asked(80)), "(NO_FREE_ADDRESS)");
    assert_eq!(book.queue(WEB, asked(81)), "192.0.2.0 2001:db8::");
}
