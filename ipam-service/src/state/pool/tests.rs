use crate::state::change::Edit;
use crate::state::model::{Families, Pool};
use crate::state::testing::*;

use super::*;

fn pools(all: &[Pool]) -> Pools {
    let mut pools = Pools::default();
    for pool in all {
        pools.insert(Arc::new(pool.clone()));
    }
    pools
}

fn order(pools: &Pools, cluster: &str) -> Vec<String> {
    let view = pools.view(&space(), &name(cluster));
    view.auto().map(|pool| pool.key.to_string()).collect()
}

fn with_priority(key: &str, index: u8, priority: i32) -> Pool {
    Pool {
        priority,
        ..pool(key, &[&format!("10.{index}.0.0/24")])
    }
}

#[test]
fn pools_for_somebody_come_first_then_by_priority_then_by_name() {
    let mut selected = with_priority("selected", 0, 0);
    selected.service_selectors = vec![selector(&[("app", "web")])];
    let mut manual = with_priority("manual", 1, 1);
    manual.auto_assign = false;
    let all = pools(&[
        with_priority("b", 2, 0),
        with_priority("a", 3, 0),
        with_priority("east/c", 4, 0),
        with_priority("late", 5, 20),
        with_priority("early", 6, 5),
        with_priority("east/also-early", 7, 5),
        selected,
        manual,
    ]);
    assert_eq!(
        order(&all, "east"),
        [
            "east/also-early",
            "early",
            "late",
            "selected",
            "a",
            "b",
            "east/c"
        ]
    );
    assert_eq!(order(&all, "west"), ["early", "late", "selected", "a", "b"]);
}

#[test]
fn a_clusters_pool_hides_the_operators_of_its_name() {
    let all = pools(&[
        pool("x", &["10.0.0.0/24"]),
        pool("east/x", &["10.1.0.0/24"]),
        pool("y", &["10.2.0.0/24"]),
    ]);
    assert_eq!(order(&all, "east"), ["east/x", "y"]);
    assert_eq!(order(&all, "west"), ["x", "y"]);
    let east = all.view(&space(), &name("east"));
    assert_eq!(
        east.named("x").map(|pool| &pool.key),
        Some(&pool_key("east/x"))
    );
    assert_eq!(east.containing(address("10.0.0.1")).count(), 0);
    assert_eq!(east.containing(address("10.1.0.1")).count(), 1);
}

#[test]
fn an_address_may_lie_in_a_pool_of_the_cluster_and_in_one_of_the_operator() {
    let all = pools(&[
        pool("wide", &["10.0.0.0/16"]),
        pool("east/narrow", &["10.0.1.0/24", "10.0.3.0/24"]),
    ]);
    let east = all.view(&space(), &name("east"));
    let names = |text| -> Vec<String> {
        let pools = east.containing(address(text));
        pools.map(|pool| pool.key.to_string()).collect()
    };
    assert_eq!(names("10.0.1.0"), ["east/narrow", "wide"]);
    assert_eq!(names("10.0.3.255"), ["east/narrow", "wide"]);
    assert_eq!(names("10.0.2.0"), ["wide"]);
    assert!(names("10.1.0.0").is_empty());
}

#[test]
fn whom_a_pool_admits() {
    let red = || vec![selector(&[("team", "red")])];
    let plain = pool("p", &["10.0.0.0/24"]);
    let by_name = Pool {
        namespaces: [name("default")].into(),
        ..plain.clone()
    };
    let by_label = Pool {
        namespace_selectors: red(),
        ..plain.clone()
    };
    let by_either = Pool {
        namespace_selectors: red(),
        ..by_name.clone()
    };
    let by_service = Pool {
        service_selectors: red(),
        ..plain.clone()
    };
    let by_all = Pool {
        service_selectors: red(),
        ..by_either.clone()
    };
    let claims = |namespace: &str, service: &str| Claim {
        namespace_labels: labels(&[("team", namespace)]),
        labels: labels(&[("team", service)]),
        ..claim()
    };
    let cases = [
        (&plain, "east/other/x", claims("blue", "blue"), true),
        (&by_name, "east/default/x", claims("blue", "blue"), true),
        (&by_name, "east/other/x", claims("red", "red"), false),
        (&by_label, "east/other/x", claims("red", "blue"), true),
        (&by_label, "east/other/x", claims("blue", "red"), false),
        (&by_either, "east/default/x", claims("blue", "blue"), true),
        (&by_either, "east/other/x", claims("red", "blue"), true),
        (&by_either, "east/other/x", claims("blue", "blue"), false),
        (&by_service, "east/other/x", claims("blue", "red"), true),
        (&by_service, "east/other/x", claims("red", "blue"), false),
        (&by_all, "east/default/x", claims("blue", "blue"), false),
        (&by_all, "east/default/x", claims("blue", "red"), true),
    ];
    for (pool, who, claim, expected) in cases {
        assert_eq!(
            admits(pool, &owner(who), &claim),
            expected,
            "{who} {claim:?}"
        );
    }
    let nobodys = OwnerKey {
        namespace: None,
        ..owner("east/default/x")
    };
    assert!(admits(&plain, &nobodys, &claim()));
    assert!(!admits(&by_name, &nobodys, &claim()));
}

#[test]
fn edits_leave_no_trace_behind() {
    let one = pool("east/one", &["10.0.0.0/24", "2001:db8::/64"]);
    let two = Pool {
        auto_assign: false,
        ..pool("east/one", &["10.1.0.0/24"])
    };
    let mut all = Pools::default();
    let steps = [
        (None, Some(&one)),
        (Some(&one), Some(&two)),
        (Some(&two), None),
    ];
    for (before, after) in steps {
        all.replace(&Edit {
            before: before.map(|pool| Arc::new(pool.clone())),
            after: after.map(|pool| Arc::new(pool.clone())),
        });
        let expected = after.map_or_else(Pools::default, |pool| pools(std::slice::from_ref(pool)));
        assert_eq!(all, expected);
    }
}

#[test]
fn usage_counts_addresses_once_and_tells_whose_they_are() {
    let mut avoiding = pool("east/avoiding", &["192.0.2.0/24", "2001:db8::/64"]);
    avoiding.avoid_buggy_ips = true;
    let mut book = Book::with_pools(&[pool("wide", &["192.0.2.0/23"])]);
    book.sync_pools("east", &[avoiding]).expect("synced");
    book.take("east/default/a", shared("key", 80));
    book.take("east/default/b", shared("key", 81));
    book.take("west/default/c", claim());
    book.take("west/default/d", for_addresses(&["192.0.2.9"]));
    let dual = Claim {
        pool: Some(name("avoiding")),
        ..families(Families::Both)
    };
    book.take("east/default/e", dual);
    let usage = |key| book.state.pool_usage(&pool_key(key)).expect("a pool");
    let expected = |total, held, held_by_others, free| FamilyUsage {
        total,
        held,
        held_by_others,
        reserved: 0,
        draining: 0,
        free,
        outside_grant: 0,
    };
    // east: .1 (shared), .2; west: .0 and .9 through the operator's pool.
    assert_eq!(usage("east/avoiding").v4, expected(254, 2, 1, 251));
    assert_eq!(
        usage("east/avoiding").v6,
        expected(1 << 64, 1, 0, (1 << 64) - 1)
    );
    assert_eq!(usage("wide").v4, expected(512, 2, 2, 508));
    assert_eq!(usage("wide").v6, FamilyUsage::default());
    assert_eq!(book.state.pool_usage(&pool_key("missing")), None);
}
