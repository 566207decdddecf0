use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::Claim;
use crate::state::testing::*;

use super::*;

const WEB: &str = "east/default/web";

fn fields(result: Result<Vec<Change>, Rejection>) -> Vec<(String, String)> {
    match result {
        Err(Rejection::Invalid(fields)) => fields
            .into_iter()
            .map(|bad| (bad.field, bad.message))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn delete(key: &str, in_use: InUse) -> Command {
    Command::DeletePool {
        key: pool_key(key),
        in_use,
    }
}

#[test]
fn ranges_of_one_author_may_not_overlap() {
    let mut book = Book::with_pools(&[pool("a", &["10.0.0.0/24", "10.0.2.0/24"])]);
    let bad = pool(
        "b",
        &[
            "10.1.0.0/24",
            "10.0.2.255-10.0.3.1",
            "10.1.0.7/32",
            "10.0.0.9/32",
        ],
    );
    let expected = [
        (
            "pool.addresses[1]",
            "CIDR \"10.0.2.255-10.0.3.1\" in pool \"b\" overlaps with already defined CIDR \
             \"10.0.2.0/24\" of pool \"a\"",
        ),
        (
            "pool.addresses[2]",
            "CIDR \"10.1.0.7/32\" in pool \"b\" overlaps with already defined CIDR \
             \"10.1.0.0/24\" of pool \"b\"",
        ),
        (
            "pool.addresses[3]",
            "CIDR \"10.0.0.9/32\" in pool \"b\" overlaps with already defined CIDR \
             \"10.0.0.0/24\" of pool \"a\"",
        ),
    ];
    let expected = expected.map(|(field, message)| (field.to_owned(), message.to_owned()));
    assert_eq!(fields(book.apply_pool(&bad)), expected);
    assert!(book.state.pool(&pool_key("b")).is_none());
}

#[test]
fn pools_of_several_authors_or_spaces_may_overlap() {
    let mut book = Book::with_pools(&[pool("a", &["10.0.0.0/24"])]);
    book.sync_pools("east", &[pool("east/a", &["10.0.0.0/25"])])
        .expect("the operator's");
    book.sync_pools("west", &[pool("west/b", &["10.0.0.0/8"])])
        .expect("another cluster's");
    let mut lab = pool("b", &["10.0.0.0/24"]);
    lab.key = key_in_space(&lab.key, name("lab"));
    book.apply_pool(&lab).expect("another space");
    // Two clusters that draw from one range never get one address twice.
    assert_eq!(book.take(WEB, claim()), "10.0.0.0");
    assert_eq!(book.take("west/default/web", claim()), "10.0.0.1");
}

#[test]
fn an_equal_pool_changes_nothing() {
    let one = pool("a", &["10.0.0.0/24"]);
    let mut book = Book::with_pools(std::slice::from_ref(&one));
    assert_eq!(book.apply_pool(&one), Ok(Vec::new()));
    let mine = [pool("east/a", &["10.0.0.0/24"])];
    book.sync_pools("east", &mine).expect("synced");
    assert_eq!(book.sync_pools("east", &mine), Ok(Vec::new()));
}

#[test]
fn an_edit_that_takes_addresses_away_is_refused_unless_they_may_move() {
    let mut book = Book::with_pools(&[pool("a", &["10.0.0.0/30"]), pool("b", &["10.1.0.0/30"])]);
    book.take(WEB, claim());
    book.take("east/default/b", claim());
    let smaller = pool("a", &["10.0.0.2/31"]);
    let in_use = Rejection::PoolInUse {
        pool: pool_key("a"),
        holders: 2,
        first: owner(WEB),
        address: address("10.0.0.0"),
    };
    assert_eq!(book.apply_pool(&smaller), Err(in_use.clone()));
    assert_eq!(book.run(delete("a", InUse::Refuse)), Err(in_use));
    book.edit_pool(&smaller, InUse::Move).expect("moved");
    assert_eq!(book.held(WEB), "10.0.0.2");
    assert_eq!(book.held("east/default/b"), "10.0.0.3");
    book.run(delete("a", InUse::Move)).expect("deleted");
    assert_eq!(book.held(WEB), "10.1.0.0");
    assert_eq!(book.held("east/default/b"), "10.1.0.1");
    assert_eq!(
        book.run(delete("a", InUse::Move)),
        Err(Rejection::UnknownPool(pool_key("a")))
    );
    book.run(delete("b", InUse::Move)).expect("deleted");
    assert_eq!(book.held(WEB), "(NO_FREE_ADDRESS)");
    book.apply_pool(&pool("a", &["10.0.0.0/30"]))
        .expect("a new pool wakes who waits");
    assert_eq!(book.held(WEB), "10.0.0.0");
}

#[test]
fn an_edit_of_policy_can_strand_holders_too() {
    let plain = pool("a", &["10.0.0.0/24"]);
    let avoiding = Pool {
        avoid_buggy_ips: true,
        ..plain.clone()
    };
    let for_others = Pool {
        namespaces: [name("other")].into(),
        ..plain.clone()
    };
    for (edited, after) in [(avoiding, "10.0.0.1"), (for_others, "(NO_FREE_ADDRESS)")] {
        let mut book = Book::with_pools(std::slice::from_ref(&plain));
        book.take(WEB, claim());
        let refused = book.apply_pool(&edited);
        assert!(matches!(
            refused,
            Err(Rejection::PoolInUse { holders: 1, .. })
        ));
        book.edit_pool(&edited, InUse::Move).expect("moved");
        assert_eq!(book.held(WEB), after);
    }
    // What concerns only newcomers does not.
    let manual = Pool {
        auto_assign: false,
        priority: 7,
        labels: labels(&[("a", "b")]),
        ..plain.clone()
    };
    let mut book = Book::with_pools(&[plain]);
    book.take(WEB, claim());
    book.apply_pool(&manual).expect("nobody loses anything");
    assert_eq!(book.held(WEB), "10.0.0.0");
}

#[test]
fn a_cluster_that_hides_an_operators_pool_in_use_is_told() {
    let mut book = Book::with_pools(&[pool("a", &["10.0.0.0/24"])]);
    book.take(WEB, claim());
    book.take("west/default/web", claim());
    let hiding = pool("east/a", &["10.1.0.0/24"]);
    match book.apply_pool(&hiding) {
        Err(Rejection::PoolInUse { holders, first, .. }) => {
            assert_eq!((holders, first), (1, owner(WEB)));
        }
        other => panic!("{other:?}"),
    }
    book.edit_pool(&hiding, InUse::Move).expect("moved");
    assert_eq!(book.held(WEB), "10.1.0.0");
    assert_eq!(book.held("west/default/web"), "10.0.0.1");
}

#[test]
fn a_range_that_moves_to_another_pool_moves_no_address() {
    let mut book = Book::default();
    let before = [
        pool("east/a", &["10.0.0.0/24"]),
        pool("east/b", &["10.1.0.0/24"]),
    ];
    book.sync_pools("east", &before).expect("synced");
    book.take(WEB, claim());
    book.take("east/default/b", from_pool("b"));
    // The two pools swap their ranges in one step, and one is renamed.
    let after = [
        pool("east/b", &["10.0.0.0/24"]),
        pool("east/c", &["10.1.0.0/24"]),
    ];
    book.sync_pools("east", &after).expect("synced");
    assert_eq!(book.held(WEB), "10.0.0.0");
    assert_eq!(book.get(WEB).pool, Some(pool_key("east/b")));
    // Not even where the claim names the pool that had the range.
    assert_eq!(book.held("east/default/b"), "10.1.0.0");
    assert_eq!(book.get("east/default/b").pool, Some(pool_key("east/c")));
    assert_eq!(
        book.take("east/default/b", from_pool("b")),
        "10.1.0.0",
        "nothing changed"
    );
}

#[test]
fn a_claim_for_a_renamed_pool_keeps_its_address() {
    let mut book = Book::default();
    book.sync_pools("east", &[pool("east/old", &["10.0.0.0/24"])])
        .expect("synced");
    book.take(WEB, from_pool("old"));
    book.sync_pools("east", &[pool("east/new", &["10.0.0.0/24"])])
        .expect("synced");
    assert_eq!(book.held(WEB), "10.0.0.0");
    assert_eq!(book.get(WEB).pool, Some(pool_key("east/new")));
    let changed = Claim {
        ports: Vec::new(),
        ..from_pool("old")
    };
    assert_eq!(book.queue(WEB, changed), "10.0.0.0 (UNKNOWN_POOL)");
    assert_eq!(book.take(WEB, from_pool("new")), "10.0.0.0");
}

#[test]
fn whole_sets_are_not_stopped_by_holders_but_by_any_bad_pool() {
    let mut book = Book::default();
    book.sync_pools("east", &[pool("east/a", &["10.0.0.0/24"])])
        .expect("synced");
    book.take(WEB, claim());
    let bad = [
        pool("east/a", &["10.0.0.0/24"]),
        pool("east/a", &["10.1.0.0/24"]),
        pool("east/b", &["10.2.0.0/24", "10.0.0.128/25"]),
        pool("east/c", &["10.3.0.0/24", "10.3.0.0/32"]),
    ];
    let bad = fields(book.sync_pools("east", &bad));
    let paths: Vec<&str> = bad.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        paths,
        [
            "pools[1].name",
            "pools[2].addresses[1]",
            "pools[3].addresses[1]"
        ]
    );
    assert!(bad[1].1.contains("overlaps with already defined CIDR"));
    book.sync_pools("east", &[]).expect("an empty set is a set");
    assert_eq!(book.held(WEB), "(NO_FREE_ADDRESS)");
}

#[test]
fn a_whole_set_replaces_the_clusters_pools_of_every_space_and_nobody_elses() {
    let in_lab = |key: &str| {
        let plain = pool(key, &["10.9.0.0/24"]);
        Pool {
            key: key_in_space(&plain.key, name("lab")),
            ..plain
        }
    };
    let mut book = Book::with_pools(&[pool("a", &["10.0.0.0/24"])]);
    for cluster in ["east", "west"] {
        let key = format!("{cluster}/a");
        let set = [pool(&key, &["10.1.0.0/24"]), in_lab(&key)];
        book.sync_pools(cluster, &set).expect("synced");
    }
    book.sync_pools("east", &[pool("east/b", &["10.2.0.0/24"])])
        .expect("synced");
    let left: Vec<PoolKey> = book.state.pools().map(|pool| pool.key.clone()).collect();
    let mut expected = vec![
        pool_key("a"),
        pool_key("east/b"),
        pool_key("west/a"),
        in_lab("west/a").key,
    ];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn an_address_stays_where_it_is_when_the_operators_pool_still_has_it() {
    let mut book = Book::with_pools(&[pool("wide", &["10.0.0.0/16"])]);
    book.sync_pools("east", &[pool("east/a", &["10.0.7.0/24"])])
        .expect("synced");
    book.take(WEB, from_pool("a"));
    book.take("east/default/b", for_addresses(&["10.0.7.1"]));
    book.run(delete("east/a", InUse::Refuse))
        .expect("nobody loses an address");
    assert_eq!(book.held(WEB), "10.0.7.0");
    assert_eq!(book.get(WEB).pool, Some(pool_key("wide")));
    assert_eq!(book.held("east/default/b"), "10.0.7.1");
    assert_eq!(book.get("east/default/b").pool, Some(pool_key("wide")));
}

#[test]
fn a_pool_edit_wakes_only_whom_it_can_concern() {
    let mut book = Book::default();
    book.queue("east/default/any", claim());
    book.queue("east/default/named", from_pool("a"));
    book.queue("east/default/other", from_pool("b"));
    book.queue("east/default/at", for_addresses(&["10.0.0.9"]));
    book.queue("east/default/elsewhere", for_addresses(&["10.9.0.9"]));
    book.queue("west/default/any", claim());
    let mut changes = Vec::new();
    let one = Command::ApplyPool {
        pool: Box::new(pool("east/a", &["10.0.0.0/24"])),
        in_use: InUse::Refuse,
    };
    book.step(one).expect("applied");
    assert_eq!(book.settle(&mut changes), 3);
    let lab = Claim {
        space: name("lab"),
        ..claim()
    };
    book.queue("east/default/lab", lab);
    book.step(Command::ApplyPool {
        pool: Box::new(pool("c", &["10.9.0.0/24"])),
        in_use: InUse::Refuse,
    })
    .expect("applied");
    assert_eq!(
        book.settle(&mut changes),
        2,
        "west's, and the one for an address in it"
    );
}

#[test]
fn no_edit_takes_an_address_of_a_protected_pool_from_its_holder() {
    let guarded = Pool {
        protected: true,
        ..pool("a", &["10.0.0.0/30", "10.0.1.0/30"])
    };
    let mut book = Book::with_pools(&[guarded.clone(), pool("b", &["10.1.0.0/30"])]);
    book.take(WEB, claim());
    book.take("east/default/b", for_addresses(&["10.0.1.0"]));
    let protected = |holders, first: &str, address_of_first: &str| Rejection::PoolProtected {
        pool: pool_key("a"),
        holders,
        first: owner(first),
        address: address(address_of_first),
    };
    let smaller = |ranges: &[&str], protected| Pool {
        protected,
        ..pool("a", ranges)
    };
    for in_use in [InUse::Refuse, InUse::Move] {
        let both = protected(2, WEB, "10.0.0.0");
        assert_eq!(book.run(delete("a", in_use)), Err(both));
        let one = protected(1, "east/default/b", "10.0.1.0");
        for keeps_protection in [true, false] {
            let edit = smaller(&["10.0.0.0/30"], keeps_protection);
            assert_eq!(book.edit_pool(&edit, in_use), Err(one.clone()));
        }
    }
    // What strands nobody is an edit like any other.
    let grown = smaller(&["10.0.0.0/30", "10.0.1.0/31", "10.0.2.0/24"], true);
    book.apply_pool(&grown).expect("nobody loses anything");
    // The owner itself may go, and once the protection is taken away, so may the pool.
    book.run(release("east/default/b")).expect("released");
    book.apply_pool(&smaller(&["10.0.0.0/30"], false))
        .expect("nobody loses anything");
    book.run(delete("a", InUse::Move)).expect("deleted");
    assert_eq!(book.held(WEB), "10.1.0.0");
}

#[test]
fn a_set_that_would_strand_a_holder_of_a_protected_pool_is_refused_whole() {
    let guarded = Pool {
        protected: true,
        ..pool("east/a", &["10.0.0.0/30"])
    };
    let mut book = Book::default();
    book.sync_pools("east", std::slice::from_ref(&guarded))
        .expect("synced");
    book.take(WEB, claim());
    let other = pool("east/b", &["10.9.0.0/24"]);
    let stranding = [
        vec![],
        vec![pool("east/a", &["10.0.0.1-10.0.0.3"]), other.clone()],
    ];
    for set in stranding {
        let refused = book.sync_pools("east", &set);
        let expected = Rejection::PoolProtected {
            pool: pool_key("east/a"),
            holders: 1,
            first: owner(WEB),
            address: address("10.0.0.0"),
        };
        assert_eq!(refused, Err(expected));
        assert!(book.state.pool(&pool_key("east/b")).is_none());
    }
    // Under another name the holder keeps its address.
    let renamed = pool("east/c", &["10.0.0.0/31"]);
    book.sync_pools("east", &[renamed, other]).expect("renamed");
    assert_eq!(book.held(WEB), "10.0.0.0");
}

#[test]
fn a_clusters_pool_may_not_hide_a_protected_one_from_those_who_hold_there() {
    let guarded = Pool {
        protected: true,
        ..pool("a", &["10.0.0.0/30"])
    };
    let mut book = Book::with_pools(std::slice::from_ref(&guarded));
    book.take(WEB, claim());
    let hiding = pool("east/a", &["10.9.0.0/24"]);
    let expected = Rejection::PoolProtected {
        pool: pool_key("a"),
        holders: 1,
        first: owner(WEB),
        address: address("10.0.0.0"),
    };
    assert_eq!(book.edit_pool(&hiding, InUse::Move), Err(expected.clone()));
    assert_eq!(
        book.sync_pools("east", std::slice::from_ref(&hiding)),
        Err(expected)
    );
    // Another cluster has nothing to lose there.
    book.sync_pools("west", &[pool("west/a", &["10.9.0.0/24"])])
        .expect("hidden from west");
}

#[test]
fn an_edit_looks_only_at_holders_that_it_can_concern() {
    let plain = pool("a", &["10.0.0.0/24", "10.1.0.0/24", "2001:db8::/64"]);
    let question = |after: &Pool| {
        let ranges = ranges_in_question(&plain, Some(after));
        let texts = ranges.iter().map(ToString::to_string);
        texts.collect::<Vec<String>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(question(&plain), none);
    let grown = pool("a", &["10.0.0.0/15", "10.9.0.0/24", "2001:db8::/63"]);
    assert_eq!(question(&grown), none, "growing concerns nobody");
    let smaller = pool("a", &["10.0.0.8-10.1.0.3", "2001:db8::/64"]);
    let lost = ["10.0.0.0-10.0.0.7", "10.1.0.4-10.1.0.255"];
    assert_eq!(question(&smaller), lost);
    let for_others = Pool {
        namespaces: [name("other")].into(),
        ..grown
    };
    assert_eq!(question(&for_others).len(), 3, "everybody is in question");
    assert_eq!(ranges_in_question(&plain, None), plain.ranges);
    // The last IPv4 address and the first IPv6 one after it are neighbours as numbers only.
    let odd = pool("a", &["255.255.255.0/24", "::1:0:0:0-::1:0:0:9"]);
    assert_eq!(
        ranges_in_question(&odd, Some(&pool("a", &["10.0.0.0/24"]))),
        odd.ranges
    );
}
