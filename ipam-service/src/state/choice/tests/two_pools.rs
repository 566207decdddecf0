//! Claims whose two addresses may come from two pools.

use super::*;
use crate::state::command::{Command, InUse};
use crate::state::model::DualStackPools;
use crate::state::refusal::Rejection;

const BOTH: Families = Families::Both;
const PREFER: Families = Families::PreferBoth { first: Family::V4 };

/// One pool for each family, as many keep them.
fn apart() -> Book {
    Book::with_pools(&[
        pool("four", &["192.0.2.0/30"]),
        pool("six", &["2001:db8::/126"]),
    ])
}

fn held(book: &Book) -> (String, Vec<String>) {
    (book.held(WEB), book.pools_of(WEB))
}

fn expected(addresses: &str, pools: &[&str]) -> (String, Vec<String>) {
    let pools = pools.iter();
    (
        addresses.to_owned(),
        pools.map(|&pool| pool.to_owned()).collect(),
    )
}

#[test]
fn one_pool_for_each_family_serves_a_dual_stack_claim_only_if_it_allows_that() {
    for families in [BOTH, PREFER] {
        let mut book = apart();
        book.take(WEB, from_two_pools(families));
        assert_eq!(
            held(&book),
            expected("192.0.2.0 2001:db8::", &["four", "six"])
        );
    }
    let mut book = apart();
    let refusal = book.refused(WEB, super::families(BOTH));
    assert_eq!(refusal.reason, Reason::NoFreeAddress);
    book.take(WEB, super::families(PREFER));
    assert_eq!(held(&book), expected("192.0.2.0", &["four"]));
}

#[test]
fn a_pool_that_has_both_is_preferred_whatever_comes_before_it() {
    let mut book = apart();
    book.apply_pool(&pool("z-dual", &["198.51.100.0/31", "2001:db8:1::/127"]))
        .expect("applied");
    book.take(WEB, from_two_pools(BOTH));
    assert_eq!(
        held(&book),
        expected("198.51.100.0 2001:db8:1::", &["z-dual"; 2])
    );
    // Where none has both, each family comes from the first pool that has it.
    book.take("east/default/x", from_two_pools(BOTH));
    book.take("east/default/y", from_two_pools(BOTH));
    assert_eq!(book.pools_of("east/default/x"), ["z-dual", "z-dual"]);
    assert_eq!(book.pools_of("east/default/y"), ["four", "six"]);
}

#[test]
fn each_family_comes_from_the_first_pool_in_the_order_of_pools_that_has_it() {
    let mut urgent = pool("z-six", &["2001:db8:9::/126"]);
    urgent.priority = 1;
    let full = pool("a-four", &["198.51.100.0/32"]);
    let mut book = apart();
    book.apply_pool(&urgent).expect("applied");
    book.apply_pool(&full).expect("applied");
    book.take("east/default/x", from_pool("a-four"));
    book.take(WEB, from_two_pools(BOTH));
    assert_eq!(
        held(&book),
        expected("192.0.2.0 2001:db8:9::", &["four", "z-six"])
    );
}

#[test]
fn what_is_held_never_moves_to_become_dual() {
    let mut book = apart();
    book.take(WEB, claim());
    book.apply_pool(&pool("a-dual", &["198.51.100.0/31", "2001:db8:1::/127"]))
        .expect("applied");
    book.take(WEB, from_two_pools(BOTH));
    // Its own pool has no second family, so the first pool that has one adds it.
    assert_eq!(
        held(&book),
        expected("192.0.2.0 2001:db8:1::", &["four", "a-dual"])
    );
    // The same from the other side.
    let six = families(Families::One(Family::V6));
    book.take(
        "east/default/x",
        Claim {
            pool: Some(name("six")),
            ..six
        },
    );
    book.take("east/default/x", from_two_pools(BOTH));
    assert_eq!(book.held("east/default/x"), "198.51.100.0 2001:db8::");
    assert_eq!(book.pools_of("east/default/x"), ["a-dual", "six"]);
}

#[test]
fn a_second_family_is_added_when_any_pool_gets_it() {
    let mut book = Book::with_pools(&[pool("four", &["192.0.2.0/30"])]);
    book.take(WEB, from_two_pools(PREFER));
    book.queue("east/default/b", from_two_pools(BOTH));
    assert_eq!(book.held(WEB), "192.0.2.0");
    assert_eq!(book.held("east/default/b"), "(NO_FREE_ADDRESS)");
    book.apply_pool(&pool("six", &["2001:db8::/128"]))
        .expect("applied");
    assert_eq!(
        held(&book),
        expected("192.0.2.0 2001:db8::", &["four", "six"])
    );
    assert_eq!(book.held("east/default/b"), "(NO_FREE_ADDRESS)");
    book.run(release(WEB)).expect("released");
    assert_eq!(book.held("east/default/b"), "192.0.2.0 2001:db8::");
}

#[test]
fn a_freed_address_wakes_only_those_whose_other_family_is_there() {
    let mut book = Book::with_pools(&[
        pool("four", &["192.0.2.0/32"]),
        pool("six", &["2001:db8::/128"]),
    ]);
    book.take("east/default/four", claim());
    book.take("east/default/six", families(Families::One(Family::V6)));
    book.queue("east/default/dual", from_two_pools(BOTH));
    book.queue("east/default/later", claim());
    book.run(release("east/default/four")).expect("released");
    assert_eq!(
        book.held("east/default/later"),
        "192.0.2.0",
        "nobody older could use it"
    );
    book.run(release("east/default/later")).expect("released");
    book.run(release("east/default/six")).expect("released");
    assert_eq!(book.held("east/default/dual"), "192.0.2.0 2001:db8::");
}

#[test]
fn who_loses_one_of_two_pools_keeps_what_the_other_gave() {
    let mut book = apart();
    book.take(WEB, from_two_pools(BOTH));
    book.take("east/default/b", from_two_pools(PREFER));
    let delete = |key: &str, in_use| Command::DeletePool {
        key: pool_key(key),
        in_use,
    };
    match book.run(delete("six", InUse::Refuse)) {
        Err(Rejection::PoolInUse {
            holders: 2,
            first,
            address: at,
            ..
        }) => {
            assert_eq!((first, at), (owner(WEB), address("2001:db8::")));
        }
        other => panic!("{other:?}"),
    }
    book.apply_pool(&pool("six-new", &["2001:db8:5::/128"]))
        .expect("applied");
    book.run(delete("six", InUse::Move)).expect("moved");
    assert_eq!(
        held(&book),
        expected("192.0.2.0 2001:db8:5::", &["four", "six-new"])
    );
    assert_eq!(
        book.held("east/default/b"),
        "192.0.2.1",
        "no second one is left"
    );
    // A pool that is renamed moves nothing and is recorded under its new name.
    book.sync_pools("east", &[pool("east/renamed", &["192.0.2.0/30"])])
        .expect("synced");
    book.run(delete("four", InUse::Refuse))
        .expect("nobody loses anything");
    assert_eq!(
        held(&book),
        expected("192.0.2.0 2001:db8:5::", &["east/renamed", "six-new"])
    );
}

#[test]
fn a_claim_that_takes_its_permission_back_moves_to_one_pool_or_stays_stale() {
    let mut book = apart();
    book.take(WEB, from_two_pools(BOTH));
    assert_eq!(
        book.queue(WEB, families(BOTH)),
        "192.0.2.0 2001:db8:: (NO_FREE_ADDRESS)"
    );
    assert_eq!(book.pools_of(WEB), ["four", "six"]);
    book.apply_pool(&pool("dual", &["198.51.100.0/31", "2001:db8:1::/127"]))
        .expect("applied");
    assert_eq!(
        held(&book),
        expected("198.51.100.0 2001:db8:1::", &["dual"; 2])
    );
}

#[test]
fn a_pair_of_two_pools_can_be_asked_for_by_address() {
    let pair = ["192.0.2.1", "2001:db8::1"];
    let one_pool = Claim {
        families: BOTH,
        ..for_addresses(&pair)
    };
    let two_pools = Claim {
        dual_stack_pools: DualStackPools::AnyPools,
        ..one_pool.clone()
    };
    let mut book = apart();
    let refusal = book.refused(WEB, one_pool);
    assert_eq!(refusal.reason, Reason::AddressNotInPool);
    book.take(WEB, two_pools.clone());
    assert_eq!(
        held(&book),
        expected("192.0.2.1 2001:db8::1", &["four", "six"])
    );
    let refusal = book.refused("east/default/b", two_pools);
    assert_eq!(
        refusal.message,
        "address 192.0.2.1 of pool \"four\" is held by east/default/web"
    );
}

#[test]
fn usage_and_restart_know_both_pools() {
    let mut book = apart();
    book.take(
        WEB,
        Claim {
            ports: vec![],
            sharing_key: "k".to_owned(),
            ..from_two_pools(BOTH)
        },
    );
    let share = Claim {
        sharing_key: "k".to_owned(),
        ..from_two_pools(BOTH)
    };
    book.take("east/default/b", share);
    assert_eq!(book.held("east/default/b"), book.held(WEB));
    let usage = |key: &str| book.state.pool_usage(&pool_key(key)).expect("known");
    assert_eq!(
        (usage("four").v4.held, usage("four").v4.held_by_others),
        (1, 0)
    );
    assert_eq!(
        (usage("six").v6.held, usage("six").v6.held_by_others),
        (1, 0)
    );
    // `run` compares the state with the same rows read anew, indexes included.
    book.run(release(WEB)).expect("released");
    book.run(release("east/default/b")).expect("released");
    assert_eq!(
        book.state
            .pool_usage(&pool_key("six"))
            .expect("known")
            .v6
            .held,
        0
    );
}
