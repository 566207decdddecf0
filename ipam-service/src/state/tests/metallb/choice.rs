//! Families, the order of pools and of addresses, dual-stack.

use super::*;
use crate::state::address::Family;

#[test]
fn a_claim_gets_the_family_that_it_asks_for() {
    let dual = pool("dual", &["2001:db8::/126", "192.0.2.0/30"]);
    for (asked, got) in [
        (V4, "192.0.2.0"),
        (V6, "2001:db8::"),
        (Families::Both, "192.0.2.0 2001:db8::"),
    ] {
        let mut book = Book::with_pools(std::slice::from_ref(&dual));
        assert_eq!(book.take(WEB, families(asked)), got);
    }
}

#[test]
fn pools_with_a_condition_or_a_priority_are_tried_before_pools_for_everybody() {
    let conditions: [fn(&mut Pool); 4] = [
        |pool| {
            pool.namespaces.insert(name("default"));
        },
        |pool| pool.namespace_selectors = vec![selector(&[("team", "a")])],
        |pool| pool.service_selectors = vec![selector(&[("app", "web")])],
        |pool| pool.priority = 100,
    ];
    for condition in conditions {
        let mut book = Book::with_pools(&[
            pool("a-plain", &["192.0.2.0/30"]),
            pool_with("z-pinned", &["198.51.100.0/30"], condition),
        ]);
        let asked = Claim {
            labels: labels(&[("app", "web")]),
            namespace_labels: labels(&[("team", "a")]),
            ..claim()
        };
        assert_eq!(book.take(WEB, asked), "198.51.100.0");
    }
}

/// MetalLB leaves the order among equals to chance, here it is that of the names.
#[test]
fn a_lower_priority_number_is_tried_first_then_0_then_the_name_decides() {
    let with = |key: &str, last: u8, priority: i32| {
        pool_with(key, &[&format!("192.0.2.{last}/32")], |pool| {
            pool.priority = priority;
            pool.namespaces.insert(name("default"));
        })
    };
    let mut book = Book::with_pools(&[
        with("a", 1, 0),
        with("b", 2, 20),
        with("d", 4, 10),
        with("c", 3, 10),
        pool("plain-b", &["192.0.2.6/32"]),
        pool("plain-a", &["192.0.2.5/32"]),
    ]);
    let given: Vec<String> = (0..6)
        .map(|index| book.take(&format!("east/default/{index}"), claim()))
        .collect();
    let last: Vec<&str> = given
        .iter()
        .filter_map(|text| text.rsplit('.').next())
        .collect();
    assert_eq!(last, ["3", "4", "2", "1", "5", "6"]);
}

#[test]
fn nobody_gets_an_address_of_a_pool_that_is_for_others() {
    let mut book = Book::with_pools(&[
        pool("plain", &["192.0.2.0/32"]),
        pool_with("blue", &["198.51.100.0/30"], |pool| {
            pool.namespaces.insert(name("blue"));
        }),
    ]);
    book.take(OTHER, claim());
    assert_eq!(book.queue(WEB, claim()), "(NO_FREE_ADDRESS)");
    assert!(
        why(&book, WEB).starts_with("no available IPs"),
        "{}",
        why(&book, WEB)
    );
}

#[test]
fn namespaces_and_their_selectors_are_a_union_and_service_selectors_hold_in_addition() {
    let picky = pool_with("picky", &["192.0.2.0/28"], |pool| {
        pool.namespaces.insert(name("blue"));
        pool.namespace_selectors = vec![selector(&[("team", "a")]), selector(&[("team", "b")])];
        pool.service_selectors = vec![selector(&[("app", "web")]), selector(&[("app", "api")])];
    });
    let cases = [
        ("east/blue/1", "", "web", true),
        ("east/red/2", "b", "api", true),
        ("east/red/3", "", "web", false),
        ("east/blue/4", "", "db", false),
        ("east/red/5", "a", "", false),
    ];
    let mut book = Book::with_pools(&[picky]);
    for (owner, team, app, admitted) in cases {
        let asked = Claim {
            labels: labels(&[("app", app)]),
            namespace_labels: labels(&[("team", team)]),
            ..claim()
        };
        book.queue(owner, asked);
        assert_eq!(
            book.reason(owner).is_none(),
            admitted,
            "{owner} {team} {app}"
        );
    }
}

/// MetalLB lets everybody name a pool whose selectors match no namespace.
#[test]
fn a_pool_whose_selectors_match_nobody_cannot_be_named_either() {
    let nobody = pool_with("nobody", &["192.0.2.0/28"], |pool| {
        pool.namespace_selectors = vec![selector(&[("team", "none")])];
    });
    let mut book = Book::with_pools(&[nobody]);
    assert_eq!(book.queue(WEB, from_pool("nobody")), "(POOL_NOT_FOR_OWNER)");
}

#[test]
fn a_pool_without_auto_assign_is_used_only_by_its_name_or_by_address() {
    let manual = pool_with("manual", &["192.0.2.0/30"], |pool| pool.auto_assign = false);
    let mut book = Book::with_pools(&[manual]);
    assert_eq!(book.queue(WEB, claim()), "(NO_FREE_ADDRESS)");
    assert_eq!(book.take(WEB, from_pool("manual")), "192.0.2.0");
    assert_eq!(book.take(OTHER, for_addresses(&["192.0.2.3"])), "192.0.2.3");
}

#[test]
fn addresses_that_end_in_0_and_255_are_given_unless_the_pool_avoids_them() {
    let range = ["192.0.2.255-192.0.3.1", "2001:db8::/128"];
    let mut book = Book::with_pools(&[pool("p", &range)]);
    let given = ["a", "b", "c"].map(|who| book.take(&format!("east/default/{who}"), claim()));
    assert_eq!(given, ["192.0.2.255", "192.0.3.0", "192.0.3.1"]);
    let avoiding = pool_with("p", &range, |pool| pool.avoid_buggy_ips = true);
    let mut book = Book::with_pools(&[avoiding]);
    assert_eq!(book.take(WEB, claim()), "192.0.3.1");
    let explicit = for_addresses(&["192.0.3.0"]);
    assert_eq!(book.queue(OTHER, explicit), "(BUGGY_ADDRESS)");
    assert_eq!(book.take("east/default/six", families(V6)), "2001:db8::");
}

#[test]
fn both_addresses_come_from_one_pool_ipv4_first_whatever_is_named_first() {
    let mut book = Book::with_pools(&[
        pool("a-four", &["192.0.2.0/30"]),
        pool("a-six", &["2001:db8::/126"]),
    ]);
    assert_eq!(
        book.queue(WEB, families(Families::Both)),
        "(NO_FREE_ADDRESS)"
    );
    book.run(apply(&pool(
        "dual",
        &["2001:db8:1::/126", "198.51.100.0/30"],
    )))
    .expect("applied");
    assert_eq!(book.held(WEB), "198.51.100.0 2001:db8:1::");
    let first = Family::V6;
    let prefer = families(Families::PreferBoth { first });
    assert_eq!(book.take(OTHER, prefer), "198.51.100.1 2001:db8:1::1");
}

#[test]
fn one_that_prefers_both_takes_the_primary_family_else_the_secondary() {
    let six = pool("six", &["2001:db8::/126"]);
    let prefer_six = families(Families::PreferBoth { first: Family::V6 });
    let mut book = Book::with_pools(&[pool("four", &["192.0.2.0/30"]), six.clone()]);
    assert_eq!(book.take(WEB, families(PREFER)), "192.0.2.0");
    assert_eq!(book.take(OTHER, prefer_six), "2001:db8::");
    let mut book = Book::with_pools(&[six]);
    assert_eq!(book.take(WEB, families(PREFER)), "2001:db8::");
}

#[test]
fn the_missing_family_is_added_from_the_same_pool_and_nothing_moves_for_it() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(WEB, families(PREFER));
    let dual = pool("dual", &["198.51.100.0/30", "2001:db8:1::/126"]);
    book.run(apply(&dual)).expect("applied");
    assert_eq!(book.held(WEB), "192.0.2.0");
    book.run(apply(&pool("p", &["192.0.2.0/30", "2001:db8::/126"])))
        .expect("applied");
    assert_eq!(book.held(WEB), "192.0.2.0 2001:db8::");
}

#[test]
fn when_the_pool_loses_a_family_both_addresses_move_to_another_dual_pool() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30", "2001:db8::/126"])]);
    book.take(WEB, families(Families::Both));
    let dual = pool("q", &["198.51.100.0/30", "2001:db8:1::/126"]);
    book.run(apply(&dual)).expect("applied");
    book.run(apply(&pool("p", &["192.0.2.0/30"])))
        .expect("applied");
    assert_eq!(book.held(WEB), "198.51.100.0 2001:db8:1::");
}

/// MetalLB takes both addresses away, and gives new ones of any pool.
#[test]
fn when_the_range_of_one_family_is_replaced_the_other_address_stays() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30", "2001:db8::/126"])]);
    book.take(OTHER, families(Families::Both));
    book.take(WEB, families(PREFER));
    let tried_first = pool("a", &["198.51.100.0/30", "2001:db8:1::/126"]);
    book.run(apply(&tried_first)).expect("applied");
    let renumbered = pool("p", &["192.0.2.0/30", "2001:db8:2::/126"]);
    book.run(apply(&renumbered)).expect("applied");
    assert_eq!(book.held(OTHER), "192.0.2.0 2001:db8:2::");
    assert_eq!(book.held(WEB), "192.0.2.1 2001:db8:2::1");
}

/// MetalLB takes the address away when Prefer becomes Require; here it stays, stale.
#[test]
fn from_prefer_to_require_and_back_the_address_is_kept() {
    let mut book = Book::with_pools(&[pool("four", &["192.0.2.0/30"])]);
    book.take(WEB, families(PREFER));
    let required = book.queue(WEB, families(Families::Both));
    assert_eq!(required, "192.0.2.0 (NO_FREE_ADDRESS)");
    assert_eq!(book.queue(WEB, families(PREFER)), "192.0.2.0");
}

/// MetalLB clears the state when a Service becomes dual-stack, and its IPv4 address may change.
#[test]
fn from_single_to_dual_stack_the_ipv4_address_stays() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30", "2001:db8::/126"])]);
    book.take(OTHER, claim());
    book.take(WEB, claim());
    book.run(release(OTHER)).expect("released");
    let dual = book.take(WEB, families(Families::Both));
    assert_eq!(dual, "192.0.2.1 2001:db8::");
}

/// MetalLB adds a second address and takes both away again, for ever.
#[test]
fn a_decision_that_was_made_is_made_again_by_every_new_look() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30", "2001:db8::/126"])]);
    for (who, asked) in [(WEB, V4), (OTHER, PREFER)] {
        book.take(who, families(asked));
        let again = Command::Redecide(owner(who));
        assert_eq!(book.run(again), Ok(Vec::new()));
    }
}

/// MetalLB says `["<nil>"] is not allowed in config`.
#[test]
fn a_named_pool_of_the_wrong_family_is_refused_by_name() {
    let mut book = Book::with_pools(&[pool("four", &["192.0.2.0/30"])]);
    let asked = Claim {
        families: V6,
        ..from_pool("four")
    };
    assert_eq!(book.queue(WEB, asked), "(FAMILY_NOT_IN_POOL)");
    assert_eq!(why(&book, WEB), "pool \"four\" has no IPv6 range");
}
