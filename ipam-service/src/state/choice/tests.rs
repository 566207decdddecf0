use crate::state::address::Family;
use crate::state::model::{Families, Pool};
use crate::state::testing::*;

use super::*;

mod two_pools;

const WEB: &str = "east/default/web";

fn dual() -> Pool {
    pool("dual", &["192.0.2.0/30", "2001:db8::/126"])
}

#[test]
fn addresses_are_given_in_the_order_of_the_ranges_lowest_first() {
    let ranges = ["192.0.2.8/31", "192.0.2.4-192.0.2.5", "192.0.2.1/32"];
    let mut book = Book::with_pools(&[pool("p", &ranges)]);
    let given: Vec<String> = (0..5)
        .map(|index| book.take(&format!("east/default/{index}"), claim()))
        .collect();
    assert_eq!(
        given,
        [
            "192.0.2.8",
            "192.0.2.9",
            "192.0.2.4",
            "192.0.2.5",
            "192.0.2.1"
        ]
    );
    book.run(release("east/default/1")).expect("released");
    assert_eq!(
        book.take(WEB, claim()),
        "192.0.2.9",
        "a freed address is used again"
    );
}

#[test]
fn a_full_pool_is_refused_with_what_was_tried() {
    let mut book = Book::with_pools(&[pool("one", &["192.0.2.1/32"])]);
    book.take("west/default/x", claim());
    let refusal = book.refused(WEB, claim());
    assert_eq!(refusal.reason, Reason::NoFreeAddress);
    assert_eq!(refusal.message, "no available IPs in pool \"one\" (IPv4)");
    assert_eq!(refusal.attempts.len(), 1);
    assert_eq!(refusal.attempts[0].pool, "one");
    assert_eq!(
        Book::default().refused(WEB, claim()).message,
        "no available IPs: no pool is open to this claim"
    );
}

#[test]
fn a_refusal_lists_a_bounded_number_of_attempts() {
    let pools: Vec<Pool> = (0..100)
        .map(|index| {
            pool(
                &format!("p{index:02}"),
                &[&format!("2001:db8:{index}::/64")],
            )
        })
        .collect();
    let refusal = Book::with_pools(&pools).refused(WEB, claim());
    assert_eq!(refusal.attempts.len(), MAX_ATTEMPTS);
    assert!(refusal.message.ends_with("; and 68 more pools were tried"));
    assert_eq!(refusal.attempts[0].reason, Reason::FamilyNotInPool);
    assert_eq!(refusal.reason, Reason::NoFreeAddress);
}

#[test]
fn claims_for_a_named_pool_take_from_it_alone() {
    let mut closed = pool("closed", &["198.51.100.0/31"]);
    closed.auto_assign = false;
    let mut book = Book::with_pools(&[dual(), closed]);
    assert_eq!(book.take(WEB, from_pool("closed")), "198.51.100.0");
    let refusal = book.refused("east/default/b", from_pool("missing"));
    assert_eq!(
        (refusal.reason, refusal.message.as_str()),
        (Reason::UnknownPool, "unknown pool \"missing\"")
    );
    let v6 = Claim {
        families: Families::One(Family::V6),
        ..from_pool("closed")
    };
    assert_eq!(
        book.refused("east/default/b", v6).reason,
        Reason::FamilyNotInPool
    );
}

#[test]
fn what_a_claim_for_an_address_may_be_told() {
    let mut avoiding = pool("avoiding", &["203.0.113.0/24"]);
    avoiding.avoid_buggy_ips = true;
    let mut red = pool("red", &["198.51.100.0/24"]);
    red.namespaces = [name("red")].into();
    let mut book = Book::with_pools(&[dual(), avoiding, red]);
    book.take("east/default/holder", for_addresses(&["192.0.2.1"]));
    book.take("west/default/holder", for_addresses(&["192.0.2.2"]));
    let in_pool = |pool: &str, text: &str| Claim {
        pool: Some(name(pool)),
        ..for_addresses(&[text])
    };
    let cases = [
        (
            for_addresses(&["10.0.0.1"]),
            Reason::AddressNotInPool,
            "[\"10.0.0.1\"] is not allowed in config: no pool that cluster east may use in address \
             space default has it",
        ),
        (
            for_addresses(&["203.0.113.255"]),
            Reason::BuggyAddress,
            "[\"203.0.113.255\"] is not allowed in config: pool avoiding avoids addresses that \
             end in .0 or .255",
        ),
        (
            for_addresses(&["198.51.100.1"]),
            Reason::PoolNotForOwner,
            "pool red not compatible for ip assignment: its namespaces and selectors exclude \
             east/default/web",
        ),
        (
            for_addresses(&["192.0.2.1"]),
            Reason::AddressTaken,
            "address 192.0.2.1 of pool \"dual\" is held by east/default/holder",
        ),
        (
            for_addresses(&["192.0.2.2"]),
            Reason::AddressTaken,
            "address 192.0.2.2 of pool \"dual\" is held by cluster west",
        ),
        (
            in_pool("missing", "192.0.2.3"),
            Reason::UnknownPool,
            "unknown pool \"missing\"",
        ),
        (
            in_pool("red", "192.0.2.3"),
            Reason::AddressNotInRequestedPool,
            "requested loadBalancer IP(s) [\"192.0.2.3\"] is not compatible with requested \
             address pool red",
        ),
        (
            for_addresses(&["203.0.113.1", "2001:db8::1"]),
            Reason::AddressNotInPool,
            "[\"203.0.113.1\" \"2001:db8::1\"] is not allowed in config: no pool that cluster east \
             may use in address space default has both",
        ),
        (
            Claim {
                families: Families::One(Family::V6),
                ..for_addresses(&["192.0.2.3"])
            },
            Reason::FamilyNotInPool,
            "one IPv4 address is not of the families that the claim asks for",
        ),
    ];
    for (claim, reason, message) in cases {
        let refusal = book.refused(WEB, claim.clone());
        assert_eq!(
            (refusal.reason, refusal.message.as_str()),
            (reason, message)
        );
        // The same when it waits.
        book.queue(WEB, claim);
        assert_eq!(book.reason(WEB), Some(reason));
        book.run(release(WEB)).expect("withdrawn");
    }
    let pair = Claim {
        families: Families::Both,
        ..for_addresses(&["192.0.2.3", "2001:db8::2"])
    };
    assert_eq!(book.take(WEB, pair), "192.0.2.3 2001:db8::2");
}

#[test]
fn pools_that_avoid_them_never_give_addresses_that_end_in_0_or_255() {
    let mut avoiding = pool(
        "p",
        &["10.0.0.254-10.0.1.1", "10.0.2.255/32", "10.0.3.0/32"],
    );
    avoiding.avoid_buggy_ips = true;
    let mut book = Book::with_pools(&[avoiding]);
    assert_eq!(book.take("east/default/a", claim()), "10.0.0.254");
    assert_eq!(book.take("east/default/b", claim()), "10.0.1.1");
    assert_eq!(book.refused(WEB, claim()).reason, Reason::NoFreeAddress);
}

/// Where pools of several authors have an address in common.
#[test]
fn the_policy_is_that_of_the_pool_that_an_address_is_taken_through() {
    let mut book = Book::with_pools(&[pool("wide", &["192.0.2.0/29"])]);
    let own = Pool {
        avoid_buggy_ips: true,
        auto_assign: false,
        namespaces: [name("default")].into(),
        ..pool("east/own", &["192.0.2.0/29"])
    };
    book.sync_pools("east", &[own]).expect("synced");
    // What the cluster's pool forbids, the operator's allows, and the other way round.
    assert_eq!(book.take("east/blue/a", claim()), "192.0.2.0");
    assert_eq!(book.pools_of("east/blue/a"), ["wide"]);
    assert_eq!(book.take(WEB, from_pool("own")), "192.0.2.1");
    assert_eq!(book.pools_of(WEB), ["east/own"]);
    let not_admitted = book.refused("east/blue/b", from_pool("own"));
    assert_eq!(not_admitted.reason, Reason::PoolNotForOwner);
    // Who holds through one of them is concerned by an edit of that one only.
    let narrow = Pool {
        namespaces: [name("other")].into(),
        ..pool("wide", &["192.0.2.0/29"])
    };
    let moving = crate::state::command::InUse::Move;
    book.edit_pool(&narrow, moving).expect("moved");
    assert_eq!(book.held("east/blue/a"), "(NO_FREE_ADDRESS)");
    assert_eq!(book.held(WEB), "192.0.2.1");
}

#[test]
fn the_family_of_a_claim_decides_what_it_gets() {
    let first = |first| Families::PreferBoth { first };
    let v4 = pool("v4", &["198.51.100.0/30"]);
    let v6 = pool("v6", &["2001:db8:6::/126"]);
    let six_first = pool("a-six", &["2001:db8:6::/126"]);
    let cases: [(Families, &[Pool], &str); 13] = [
        (Families::One(Family::V6), &[dual()], "2001:db8::"),
        (Families::Any, &[dual()], "192.0.2.0"),
        (Families::Any, std::slice::from_ref(&v6), "2001:db8:6::"),
        (Families::Any, &[v6.clone(), v4.clone()], "198.51.100.0"),
        // The first pool in the order of pools decides, not the family.
        (Families::Any, &[six_first, v4.clone()], "2001:db8:6::"),
        (Families::Both, &[dual()], "192.0.2.0 2001:db8::"),
        (
            Families::Both,
            &[v4.clone(), v6.clone()],
            "(NO_FREE_ADDRESS)",
        ),
        (
            Families::Both,
            &[v6.clone(), dual(), v4.clone()],
            "192.0.2.0 2001:db8::",
        ),
        (first(Family::V4), &[v4.clone(), v6.clone()], "198.51.100.0"),
        (first(Family::V6), &[v4.clone(), v6.clone()], "2001:db8:6::"),
        (first(Family::V6), std::slice::from_ref(&v4), "198.51.100.0"),
        (
            first(Family::V6),
            &[v4.clone(), v6.clone(), dual()],
            "192.0.2.0 2001:db8::",
        ),
        (first(Family::V4), &[], "(NO_FREE_ADDRESS)"),
    ];
    for (wanted, pools, expected) in cases {
        let mut book = Book::with_pools(pools);
        assert_eq!(
            book.queue(WEB, families(wanted)),
            expected,
            "{wanted:?} {pools:?}"
        );
    }
}

#[test]
fn both_families_come_from_one_pool_and_what_is_held_stays() {
    let other = pool("a-first", &["198.51.100.0/30", "2001:db8:1::/126"]);
    let mut book = Book::with_pools(&[dual()]);
    book.take("east/default/x", families(Families::One(Family::V6)));
    assert_eq!(book.take(WEB, claim()), "192.0.2.0");
    book.apply_pool(&other).expect("applied");
    let prefer = Families::PreferBoth { first: Family::V4 };
    assert_eq!(book.take(WEB, families(prefer)), "192.0.2.0 2001:db8::1");
    assert_eq!(
        book.take(WEB, families(Families::Both)),
        "192.0.2.0 2001:db8::1"
    );
    assert_eq!(
        book.take(WEB, families(Families::One(Family::V6))),
        "2001:db8::1"
    );
    assert_eq!(
        book.take(WEB, families(Families::Both)),
        "192.0.2.0 2001:db8::1"
    );
    assert_eq!(book.take(WEB, families(Families::Any)), "192.0.2.0");
}

#[test]
fn one_that_prefers_two_gets_the_second_from_its_own_pool_when_it_is_there() {
    let mut book = Book::with_pools(&[pool("dual", &["192.0.2.0/30"])]);
    let prefer = families(Families::PreferBoth { first: Family::V4 });
    assert_eq!(book.take(WEB, prefer), "192.0.2.0");
    let elsewhere = pool("other", &["198.51.100.0/30", "2001:db8:1::/126"]);
    book.apply_pool(&elsewhere).expect("applied");
    assert_eq!(book.held(WEB), "192.0.2.0", "it never moves to become dual");
    book.apply_pool(&pool("dual", &["192.0.2.0/30", "2001:db8::1/128"]))
        .expect("applied");
    assert_eq!(book.held(WEB), "192.0.2.0 2001:db8::1");
}

#[test]
fn a_freed_second_family_goes_to_who_would_like_one() {
    let mut book = Book::with_pools(&[pool("dual", &["192.0.2.0/30", "2001:db8::1/128"])]);
    let prefer = families(Families::PreferBoth { first: Family::V4 });
    book.take("east/default/x", families(Families::One(Family::V6)));
    assert_eq!(book.take(WEB, prefer), "192.0.2.0");
    book.run(release("east/default/x")).expect("released");
    assert_eq!(book.held(WEB), "192.0.2.0 2001:db8::1");
}

#[test]
fn requiring_two_where_one_is_held_waits_without_losing_it() {
    let mut book = Book::with_pools(&[pool("v4", &["192.0.2.0/30"])]);
    let prefer = families(Families::PreferBoth { first: Family::V4 });
    book.take(WEB, prefer.clone());
    assert_eq!(
        book.queue(WEB, families(Families::Both)),
        "192.0.2.0 (NO_FREE_ADDRESS)"
    );
    assert_eq!(book.take(WEB, prefer), "192.0.2.0");
}

#[test]
fn two_addresses_move_together_when_one_loses_its_range() {
    let mut book = Book::with_pools(&[dual()]);
    book.take(WEB, families(Families::PreferBoth { first: Family::V4 }));
    book.take("east/default/x", families(Families::Both));
    let spare = pool("spare", &["198.51.100.0/30", "2001:db8:1::/126"]);
    book.apply_pool(&spare).expect("applied");
    let one_family = pool("dual", &["192.0.2.0/30"]);
    let moving = crate::state::command::InUse::Move;
    book.edit_pool(&one_family, moving).expect("moved");
    assert_eq!(book.held(WEB), "198.51.100.0 2001:db8:1::");
    assert_eq!(book.held("east/default/x"), "198.51.100.1 2001:db8:1::1");
    // Nowhere to go together: who only prefers two keeps what is left, who needs two waits.
    let one_family = pool("spare", &["198.51.100.0/30"]);
    book.edit_pool(&one_family, moving).expect("moved");
    assert_eq!(book.held(WEB), "198.51.100.0");
    assert_eq!(book.held("east/default/x"), "(NO_FREE_ADDRESS)");
}
