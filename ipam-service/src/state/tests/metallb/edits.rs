//! Changes to pools, what wakes a claim that waits, restarts, and Services that end.

use super::*;
use crate::state::State;

fn restart(book: &mut Book) {
    book.state = State::restore(book.state.revision(), rows(&book.state));
    book.settle(&mut Vec::new());
}

#[test]
fn a_pool_or_range_that_is_added_serves_who_waits_and_moves_nobody() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.1/32"])]);
    book.take(OTHER, claim());
    book.queue(WEB, claim());
    book.queue("east/default/third", claim());
    book.run(apply(&pool("p", &["192.0.2.0-192.0.2.1"])))
        .expect("applied");
    assert_eq!(
        [book.held(OTHER), book.held(WEB)],
        ["192.0.2.1", "192.0.2.0"]
    );
    book.run(apply(&pool("q", &["198.51.100.0/30"])))
        .expect("applied");
    assert_eq!(book.held("east/default/third"), "198.51.100.0");
}

/// MetalLB has no protection; here such an edit is refused unless it says `if_in_use: MOVE`.
#[test]
fn a_range_that_goes_moves_its_holders_or_lets_them_wait() {
    let gone = [
        apply(&pool("p", &["192.0.2.8/30"])),
        delete("p"),
        apply(&pool_with("p", &["192.0.2.0/30"], |pool| {
            pool.avoid_buggy_ips = true
        })),
        apply(&pool_with("p", &["192.0.2.0/30"], |pool| {
            pool.namespaces.insert(name("blue"));
        })),
    ];
    for (edit, expected) in gone.into_iter().zip(["192.0.2.8", "", "192.0.2.1", ""]) {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
        book.take(WEB, claim());
        book.run(edit.clone()).expect("applied");
        let held = book.held(WEB);
        match expected {
            "" => assert_eq!(held, "(NO_FREE_ADDRESS)", "{edit:?}"),
            expected => assert_eq!(held, expected, "{edit:?}"),
        }
        let spare = pool("spare", &["198.51.100.0/30"]);
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"]), spare]);
        book.take(WEB, claim());
        book.run(edit).expect("applied");
        assert_ne!(book.held(WEB), "192.0.2.0");
        assert_eq!(book.reason(WEB), None);
    }
}

#[test]
fn an_address_that_comes_to_lie_in_another_pool_stays_and_is_recorded_there() {
    let mut book = Book::default();
    book.sync_pools("east", &[pool("east/old", &["192.0.2.0/30"])])
        .expect("synced");
    book.take(WEB, claim());
    book.sync_pools("east", &[pool("east/new", &["192.0.2.0/30"])])
        .expect("synced");
    assert_eq!(
        (book.held(WEB), book.pools_of(WEB)),
        ("192.0.2.0".into(), vec!["east/new".into()])
    );
}

#[test]
fn auto_assign_that_is_turned_off_takes_nothing_away() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(WEB, claim());
    let manual = pool_with("p", &["192.0.2.0/30"], |pool| pool.auto_assign = false);
    book.run(apply(&manual)).expect("applied");
    assert_eq!(book.held(WEB), "192.0.2.0");
}

/// MetalLB keeps the address of a namespace that lost its label, if it restarts at the right time.
#[test]
fn a_label_that_changes_is_held_against_the_pools_at_once() {
    let pinned = pool_with("p", &["192.0.2.0/30"], |pool| {
        pool.namespace_selectors = vec![selector(&[("team", "a")])];
    });
    let with_team = |team: &str| Claim {
        namespace_labels: labels(&[("team", team)]),
        ..claim()
    };
    let mut book = Book::with_pools(&[pinned, pool("plain", &["198.51.100.0/30"])]);
    assert_eq!(book.take(WEB, with_team("a")), "192.0.2.0");
    assert_eq!(book.queue(WEB, with_team("b")), "198.51.100.0");
    restart(&mut book);
    assert_eq!(book.held(WEB), "198.51.100.0");
}

/// MetalLB wakes nobody when a port of a shared address comes free, nor when a holder moves to
/// another address.
#[test]
fn whatever_makes_room_wakes_who_waits_for_it() {
    let at_zero = |key: &str, port| Claim {
        addresses: addresses(&["192.0.2.0"]),
        ..shared(key, port)
    };
    let of_blue = pool_with("p", &["192.0.2.0/30"], |pool| {
        pool.namespaces.insert(name("blue"));
    });
    let changes: [(&str, Command); 6] = [
        ("the holder goes", release(OTHER).into()),
        ("a port comes free", queued(OTHER, shared("k", 81)).into()),
        (
            "the sharing key changes",
            queued(OTHER, shared("j", 90)).into(),
        ),
        (
            "the holder moves",
            queued(OTHER, for_addresses(&["192.0.2.3"])).into(),
        ),
        (
            "its cluster is deleted",
            Command::DeleteCluster {
                cluster: name("west"),
            },
        ),
        ("the pool is for others", apply(&of_blue)),
    ];
    for (what, change) in changes {
        let in_west = matches!(change, Command::DeleteCluster { .. });
        let key_changes = what.starts_with("the sharing key");
        let who = match what {
            "the pool is for others" => "east/blue/web",
            _ => WEB,
        };
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
        let holder = if in_west { "west/default/other" } else { OTHER };
        book.take(holder, shared("k", 80));
        let wanted = if key_changes {
            at_zero("j", 80)
        } else {
            at_zero("k", 80)
        };
        book.queue(who, wanted);
        assert!(book.reason(who).is_some(), "{what}");
        book.run(change).expect("done");
        assert_eq!(book.held(who), "192.0.2.0", "{what}");
    }
}

/// Who holds an address may lose it by its own doing.
#[test]
fn an_address_that_is_lost_by_a_label_goes_to_who_waits_for_it() {
    let of_team = pool_with("p", &["192.0.2.0/32"], |pool| {
        pool.namespace_selectors = vec![selector(&[("team", "a")])];
    });
    let with_team = |team: &str| Claim {
        namespace_labels: labels(&[("team", team)]),
        ..claim()
    };
    let mut book = Book::with_pools(&[of_team]);
    book.take(OTHER, with_team("a"));
    assert_eq!(book.queue(WEB, with_team("a")), "(NO_FREE_ADDRESS)");
    assert_eq!(book.queue(OTHER, with_team("b")), "(NO_FREE_ADDRESS)");
    assert_eq!(book.held(WEB), "192.0.2.0");
}

/// MetalLB has no order among those who wait.
#[test]
fn who_waits_longest_is_served_first_whatever_it_asks_for() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take(OTHER, claim());
    book.queue("east/z/first", claim());
    book.queue("east/a/second", for_addresses(&["192.0.2.0"]));
    book.run(release(OTHER)).expect("released");
    assert_eq!(book.held("east/z/first"), "192.0.2.0");
    assert_eq!(book.held("east/a/second"), "(ADDRESS_TAKEN)");
}

/// MetalLB knows only what Services say of themselves, and may give an address to somebody else
/// before its holder has been looked at.
#[test]
fn restarts_change_nothing_for_anybody() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31", "2001:db8::/127"])]);
    book.take("east/default/low", claim());
    book.take(WEB, claim());
    book.run(release("east/default/low")).expect("released");
    book.take(OTHER, families(Families::Both));
    book.queue("east/default/waits", claim());
    let before: Vec<_> = book.state.allocations().cloned().collect();
    for _ in 0..5 {
        restart(&mut book);
        assert!(book.state.allocations().eq(before.iter()));
    }
    // Nor does the order of two addresses flip.
    assert_eq!(book.held(OTHER), "192.0.2.0 2001:db8::");
    // A claim that is sent again, as a stale cache would make an adapter do, changes nothing.
    book.run(release(OTHER)).expect("released");
    assert_eq!(book.take(WEB, claim()), "192.0.2.1");
}

#[test]
fn a_neighbour_that_goes_moves_nobody() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    for who in ["a", "b", "c"] {
        book.take(&format!("east/default/{who}"), claim());
    }
    book.run(release("east/default/a")).expect("released");
    assert_eq!(book.held("east/default/b"), "192.0.2.1");
    assert_eq!(book.held("east/default/c"), "192.0.2.2");
}

#[test]
fn a_service_that_ends_frees_its_address_at_once() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take(OTHER, claim());
    book.queue(WEB, claim());
    book.run(release(OTHER)).expect("released");
    assert_eq!([book.held(OTHER), book.held(WEB)], ["nothing", "192.0.2.0"]);
}
