//! Grants where a lost store is recovered.

use super::*;

/// A store of which a part is lost: the halves are granted, and `west` uses an address of the other.
fn recovered() -> Book {
    let mut book = halves();
    book.expect_inventory_of("west");
    let mut request = queued("west/ns/a", claim());
    request.held = addresses(&["192.0.2.9"]);
    book.run(request).expect("taken back");
    book
}

#[test]
fn what_is_in_use_outside_the_grant_is_taken_back_and_kept() {
    let mut book = recovered();
    assert_eq!(book.held("west/ns/a"), "192.0.2.9");
    assert!(book.get("west/ns/a").outside_grant);
    // Somebody who uses nothing gets nothing.
    assert_eq!(
        book.queue("west/ns/b", for_addresses(&["192.0.2.10"])),
        "(OUTSIDE_GRANT)"
    );
    let cluster = Some(name("west"));
    book.run(Command::FinishRecovery { cluster }).expect("done");
    assert_eq!(book.held("west/ns/a"), "192.0.2.9");
    // Nor does a restart move it, nor another claim that fits.
    book.state = State::restore(book.state.revision(), rows(&book.state));
    book.settle(&mut Vec::new());
    assert_eq!(book.take("west/ns/a", shared("k", 443)), "192.0.2.9");
    assert!(book.get("west/ns/a").outside_grant);
    // Once given back it is outside for good.
    book.run(release("west/ns/a")).expect("released");
    assert_eq!(book.take("west/ns/a", claim()), "192.0.2.128");
}

#[test]
fn what_is_held_outside_the_grant_is_no_part_of_what_a_pool_has_within() {
    let mut book = recovered();
    let cluster = Some(name("west"));
    book.run(Command::FinishRecovery { cluster }).expect("done");
    book.sync_pools("west", &[pool("west/own", &["192.0.2.0/24"])])
        .expect("synced");
    book.run(release("west/ns/a")).expect("released");
    book.expect_inventory_of("west");
    let mut request = queued("west/ns/a", from_pool("own"));
    request.held = addresses(&["192.0.2.9"]);
    book.run(request).expect("taken back");
    let cluster = Some(name("west"));
    book.run(Command::FinishRecovery { cluster }).expect("done");
    let at = Claim {
        addresses: addresses(&["192.0.2.130"]),
        ..from_pool("lab")
    };
    book.take("west/ns/other", at);

    let usage = |book: &Book| {
        let usage = book
            .state
            .pool_usage(&pool_key("west/own"))
            .expect("a pool");
        (usage.v4.held, usage.v4.held_by_others, usage.v4.free)
    };
    assert_eq!(usage(&book), (0, 1, 127));
    // Also when the grants come later, go, and come back, and after a restart.
    book.run(Command::DeleteAddressSpace {
        name: space(),
        if_revision: None,
    })
    .expect("deleted");
    assert_eq!(usage(&book), (1, 1, 254));
    book.grant(&[("west", HIGH)], InUse::Move).expect("moved");
    assert_eq!(book.held("west/ns/a"), "192.0.2.128");
    assert_eq!(usage(&book), (1, 1, 126));
    book.state = State::restore(book.state.revision(), rows(&book.state));
    assert_eq!(usage(&book), (1, 1, 126));
}

#[test]
fn a_grant_that_covers_it_makes_a_holder_outside_like_any_other() {
    let mut book = recovered();
    let all: &[&str] = &["192.0.2.0/24"];
    book.grant(&[("west", all)], InUse::Refuse).expect("wider");
    let held = book.get("west/ns/a");
    assert_eq!(
        (held.outside_grant, &held.addresses),
        (false, &addresses(&["192.0.2.9"]))
    );
}

#[test]
fn who_was_outside_before_is_moved_by_an_edit_that_moves_only() {
    let mut book = recovered();
    let cluster = Some(name("west"));
    book.run(Command::FinishRecovery { cluster }).expect("done");
    let less: &[&str] = &["192.0.2.200-192.0.2.201"];
    book.grant(&[("west", less)], InUse::Refuse)
        .expect("it strands nobody new");
    assert_eq!(book.held("west/ns/a"), "192.0.2.9");
    let again = book.grant(&[("west", less)], InUse::Refuse);
    assert_eq!(again, Ok(Vec::new()));
    // The same grants will do.
    book.grant(&[("west", less)], InUse::Move).expect("moved");
    assert_eq!(book.held("west/ns/a"), "192.0.2.200");
    assert!(!book.get("west/ns/a").outside_grant);
}

#[test]
fn a_protected_pool_keeps_who_is_outside_too() {
    let mut book = recovered();
    let guarded = crate::state::model::Pool {
        protected: true,
        ..pool("lab", &["192.0.2.0/24", "2001:db8::/64"])
    };
    book.apply_pool(&guarded).expect("only the flag");
    let refused = book.grant(&[("east", LOW), ("west", HIGH)], InUse::Move);
    assert!(
        matches!(refused, Err(Rejection::PoolProtected { holders: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(book.held("west/ns/a"), "192.0.2.9");
}

/// Asks for an address of east's grant as one that is in use.
fn claim_use(book: &mut Book, owner: &str) -> String {
    let mut request = queued(owner, claim());
    request.held = addresses(&["192.0.2.9"]);
    book.run(request).expect("queued");
    book.held(owner)
}

#[test]
fn a_cluster_that_has_reported_takes_nothing_back_while_another_is_away() {
    let mut book = halves();
    book.run(Command::Introduce {
        cluster: name("west"),
        uid: String::new(),
    })
    .expect("known");
    book.expect_inventory_of("east");
    // Its inventory is complete.
    assert_eq!(claim_use(&mut book, "west/ns/a"), "(RECOVERING)");
    // Nor does one that was never heard of, and has no grant.
    assert_eq!(claim_use(&mut book, "north/ns/a"), "(RECOVERING)");
    book.run(Command::FinishRecovery { cluster: None })
        .expect("done");
    assert_eq!(book.held("west/ns/a"), "192.0.2.128");
    assert!(!book.get("west/ns/a").outside_grant);
}

#[test]
fn a_cluster_that_nobody_expected_takes_back_what_it_reports() {
    let mut book = halves();
    book.expect_inventory_of("east");
    let west = || name("west");
    book.run(Command::BeginSync {
        cluster: west(),
        uid: String::new(),
        fence: 0,
    })
    .expect("begun");
    assert_eq!(claim_use(&mut book, "west/ns/a"), "192.0.2.9");
    assert!(book.get("west/ns/a").outside_grant);
    book.run(Command::EndSync {
        cluster: west(),
        fence: 0,
    })
    .expect("ended");
    assert_eq!(book.held("west/ns/a"), "192.0.2.9");
}
