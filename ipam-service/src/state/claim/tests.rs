use crate::state::address::Family;
use crate::state::change::Change;
use crate::state::command::{Allocate, Command, InUse, Release};
use crate::state::model::{Claim, Families, Owner, Standing};
use crate::state::refusal::{Reason, Rejection};
use crate::state::testing::*;

const WEB: &str = "east/default/web";
const API: &str = "east/default/api";

fn book() -> Book {
    Book::with_pools(&[pool("default-pool", &["192.0.2.0-192.0.2.3"])])
}

fn with_uid(uid: &str, command: Allocate) -> Allocate {
    Allocate {
        owner: Owner {
            key: command.owner.key.clone(),
            uid: uid.to_owned(),
        },
        ..command
    }
}

#[test]
fn the_first_claim_registers_its_cluster_and_gets_the_lowest_address() {
    let mut book = book();
    let revision = book.state.revision();
    let changes = book.run(allocate(WEB, claim())).expect("granted");
    assert!(matches!(changes[0], Change::Cluster(_)));
    assert_eq!(changes.len(), 2);
    let web = book.get(WEB);
    assert_eq!(web.addresses, addresses(&["192.0.2.0"]));
    assert_eq!(web.pool, Some(pool_key("default-pool")));
    assert_eq!((web.id, web.revision), (revision + 2, revision + 2));
    assert_eq!(book.state.revision(), revision + 2);
    assert_eq!(book.take(API, claim()), "192.0.2.1");
}

#[test]
fn an_equal_claim_changes_nothing_not_even_a_revision() {
    let mut book = book();
    book.take(WEB, claim());
    for command in [
        allocate(WEB, claim()),
        queued(WEB, claim()),
        Allocate {
            held: addresses(&["192.0.2.3"]),
            ..allocate(WEB, claim())
        },
    ] {
        assert_eq!(book.run(command), Ok(Vec::new()));
    }
}

#[test]
fn an_equal_claim_that_waits_changes_nothing_when_it_is_sent_again() {
    let mut book = book();
    book.queue(WEB, from_pool("missing"));
    assert_eq!(book.run(queued(WEB, from_pool("missing"))), Ok(Vec::new()));
    assert_eq!(
        book.refused(WEB, from_pool("missing")).reason,
        Reason::UnknownPool
    );
    assert_eq!(book.held(WEB), "(UNKNOWN_POOL)");
    // One that holds an address meanwhile, too.
    book.take(API, claim());
    book.queue(API, from_pool("missing"));
    assert_eq!(book.held(API), "192.0.2.0 (UNKNOWN_POOL)");
    assert_eq!(book.run(queued(API, from_pool("missing"))), Ok(Vec::new()));
}

#[test]
fn a_changed_claim_keeps_its_address_whenever_it_fits() {
    let more_ports = Claim {
        ports: vec![tcp(80), tcp(443)],
        ..claim()
    };
    let cases = [
        ("more ports", more_ports),
        ("a sharing key", shared("key", 80)),
        ("its own pool", from_pool("default-pool")),
        ("its own address", for_addresses(&["192.0.2.1"])),
        ("any family", families(Families::Any)),
    ];
    for (what, changed) in cases {
        let mut book = book();
        book.take(API, claim());
        book.take(WEB, claim());
        book.run(release(API)).expect("released");
        let id = book.get(WEB).id;
        assert_eq!(book.take(WEB, changed.clone()), "192.0.2.1", "{what}");
        assert_eq!(book.get(WEB).id, id);
        assert_eq!(*book.get(WEB).claim, changed);
        // And back again, although a lower address is free.
        assert_eq!(book.take(WEB, claim()), "192.0.2.1", "{what}");
    }
}

#[test]
fn a_changed_claim_that_is_refused_with_fail_changes_nothing() {
    let mut book = book();
    book.take(WEB, claim());
    let before = book.get(WEB);
    assert_eq!(
        book.refused(WEB, for_addresses(&["203.0.113.1"])).reason,
        Reason::AddressNotInPool
    );
    assert_eq!(book.get(WEB), before);
}

#[test]
fn a_changed_claim_that_is_queued_holds_its_old_address_until_the_new_one_is_there() {
    let mut book = book();
    book.take(API, claim());
    book.take(WEB, claim());
    let wanted = for_addresses(&["192.0.2.0"]);
    assert_eq!(book.queue(WEB, wanted.clone()), "192.0.2.1 (ADDRESS_TAKEN)");
    let standing = book.get(WEB).standing.clone();
    let Standing::Stale {
        refusal,
        held_claim,
    } = standing
    else {
        panic!("{standing:?}");
    };
    assert!(refusal.message.contains("is held by east/default/api"));
    assert_eq!(*held_claim, claim());
    assert_eq!(book.get(WEB).effective_claim(), &claim());
    book.run(release(API)).expect("released");
    assert_eq!(book.held(WEB), "192.0.2.0");
    assert_eq!(book.get(WEB).effective_claim(), &wanted);
}

#[test]
fn a_stale_claim_can_go_back_to_what_it_was() {
    let mut book = book();
    book.take(API, claim());
    book.take(WEB, claim());
    book.queue(WEB, for_addresses(&["192.0.2.0"]));
    assert_eq!(book.take(WEB, claim()), "192.0.2.1");
    assert_eq!(book.get(WEB).standing, Standing::Assigned);
}

#[test]
fn a_claim_may_move_to_another_address_space() {
    let mut book = book();
    let elsewhere = name("lab");
    let mut lab = pool("lab-pool", &["192.0.2.0/30"]);
    lab.key = key_in_space(&lab.key, elsewhere.clone());
    book.apply_pool(&lab).expect("spaces do not overlap");
    book.take(API, claim());
    book.take(WEB, claim());
    let moved = Claim {
        space: elsewhere.clone(),
        ..claim()
    };
    assert_eq!(book.take(WEB, moved), "192.0.2.0");
    assert_eq!(
        book.get(WEB).pool.as_ref().map(|p| &p.space),
        Some(&elsewhere)
    );
    assert!(
        book.state
            .holders(&space(), address("192.0.2.1"))
            .next()
            .is_none()
    );
    let unknown = Claim {
        pool: Some(name("missing")),
        ..claim()
    };
    assert_eq!(book.queue(WEB, unknown), "192.0.2.0 (UNKNOWN_POOL)");
    assert_eq!(
        book.state.holders(&elsewhere, address("192.0.2.0")).count(),
        1
    );
}

#[test]
fn another_incarnation_is_a_release_and_an_allocation_in_one_decision() {
    let mut book = book();
    book.take(API, claim());
    book.run(with_uid("one", allocate(WEB, claim())))
        .expect("granted");
    book.run(release(API)).expect("released");
    let first = book.get(WEB);
    let changes = book.run(with_uid("two", allocate(WEB, shared("key", 80))));
    let kinds: Vec<(bool, bool)> = changes
        .expect("granted")
        .iter()
        .map(|change| {
            let Change::Allocation(edit) = change else {
                panic!("{change:?}");
            };
            (edit.before.is_some(), edit.after.is_some())
        })
        .collect();
    assert_eq!(kinds, [(true, false), (false, true)]);
    let second = book.get(WEB);
    assert_eq!(second.owner.uid, "two");
    assert_eq!(second.id, first.revision + 3);
    assert_eq!(
        second.addresses, first.addresses,
        "nobody else waits for it"
    );
}

#[test]
fn another_incarnation_that_is_refused_leaves_the_old_one_or_waits_alone() {
    let mut book = book();
    book.run(with_uid("one", allocate(WEB, claim())))
        .expect("granted");
    let refused = book.run(with_uid("two", allocate(WEB, from_pool("missing"))));
    assert!(matches!(refused, Err(Rejection::Refused(_))));
    assert_eq!(book.get(WEB).owner.uid, "one");
    book.run(with_uid("two", queued(WEB, from_pool("missing"))))
        .expect("queued");
    assert_eq!(book.held(WEB), "(UNKNOWN_POOL)");
    assert!(
        book.state
            .holders(&space(), address("192.0.2.0"))
            .next()
            .is_none()
    );
}

#[test]
fn another_incarnation_waits_behind_who_waits_for_its_address() {
    let mut book = Book::with_pools(&[pool("tiny", &["192.0.2.1/32"])]);
    book.run(with_uid("one", allocate(WEB, claim())))
        .expect("granted");
    assert_eq!(book.queue(API, claim()), "(NO_FREE_ADDRESS)");
    book.run(with_uid("two", queued(WEB, claim())))
        .expect("queued");
    assert_eq!(book.held(API), "192.0.2.1");
    assert_eq!(book.held(WEB), "(NO_FREE_ADDRESS)");
}

/// The address would not go to whoever asks for it, so nobody is to lose it for that.
#[test]
fn another_incarnation_keeps_its_address_from_claims_that_could_not_have_it() {
    let one_address = claim;
    let at = || for_addresses(&["192.0.2.0"]);
    let of_ipv6 = Claim {
        families: Families::One(Family::V6),
        ..at()
    };
    let of_other_pool = Claim {
        pool: Some(name("other")),
        ..at()
    };
    let pair = for_addresses(&["192.0.2.0", "2001:db8::"]);
    for (waiter, claim, told) in [
        ("west/red/x", at(), Reason::PoolNotForOwner),
        ("west/default/x", of_ipv6, Reason::FamilyNotInPool),
        (
            "west/default/x",
            of_other_pool,
            Reason::AddressNotInRequestedPool,
        ),
        ("west/default/x", pair, Reason::AddressTaken),
        ("north/default/x", at(), Reason::AddressTaken),
    ] {
        let mut ours = pool("ours", &["192.0.2.0/30", "2001:db8::/127"]);
        ours.namespaces.insert(name("default"));
        let mut book = Book::with_pools(&[ours, pool("other", &["198.51.100.0/30"])]);
        let none = Box::new(quota("none", "north", 0));
        book.run(Command::ApplyQuota(none)).expect("applied");
        book.take(API, families(Families::One(Family::V6)));
        book.run(with_uid("one", allocate(WEB, one_address())))
            .expect("granted");
        assert_eq!(book.held(WEB), "192.0.2.0");
        book.queue(waiter, claim);
        assert_eq!(book.reason(waiter), Some(told));
        book.run(with_uid("two", allocate(WEB, one_address())))
            .expect("granted");
        assert_eq!(book.held(WEB), "192.0.2.0", "{told:?}");
    }
}

#[test]
fn another_incarnation_gets_nothing_that_is_withheld_from_it_meanwhile() {
    let kept = reservation("kept", &["192.0.2.0"], Some("west"));
    let meanwhile: [Command; 2] = [
        Command::ApplyReservation(Box::new(kept)),
        Command::ReportConflict {
            cluster: name("east"),
            space: space(),
            address: address("192.0.2.0"),
        },
    ];
    for withheld in meanwhile {
        let mut book = book();
        book.run(with_uid("one", allocate(WEB, claim())))
            .expect("granted");
        book.run(withheld.clone()).expect("withheld");
        book.run(allocate(WEB, shared("key", 80))).expect("granted");
        assert_eq!(book.held(WEB), "192.0.2.0", "who holds it keeps it");
        book.run(with_uid("two", allocate(WEB, claim())))
            .expect("granted");
        assert_eq!(book.held(WEB), "192.0.2.1", "{withheld:?}");
    }
}

/// A release followed by a claim would give it both.
#[test]
fn another_incarnation_waits_behind_who_waits_for_both_of_its_addresses() {
    let dual = Claim {
        families: Families::Both,
        ..claim()
    };
    let mut book = Book::with_pools(&[pool("dual", &["192.0.2.0/31", "2001:db8::/127"])]);
    book.run(with_uid("one", allocate(WEB, dual.clone())))
        .expect("granted");
    assert_eq!(book.held(WEB), "192.0.2.0 2001:db8::");
    let pair = for_addresses(&["192.0.2.0", "2001:db8::"]);
    book.queue("west/default/x", pair);
    assert_eq!(book.reason("west/default/x"), Some(Reason::AddressTaken));
    book.run(with_uid("two", allocate(WEB, dual)))
        .expect("granted");
    assert_eq!(book.held("west/default/x"), "192.0.2.0 2001:db8::");
    assert_eq!(book.held(WEB), "192.0.2.1 2001:db8::1");
}

#[test]
fn an_unknown_uid_equals_any_and_is_learnt() {
    let mut book = book();
    book.take(WEB, claim());
    let id = book.get(WEB).id;
    book.run(with_uid("one", allocate(WEB, claim())))
        .expect("granted");
    assert_eq!(
        (book.get(WEB).id, book.get(WEB).owner.uid.as_str()),
        (id, "one")
    );
    assert_eq!(book.run(allocate(WEB, claim())), Ok(Vec::new()));
    book.run(release(WEB)).expect("an empty uid matches");
    assert_eq!(book.held(WEB), "nothing");
}

#[test]
fn release_of_another_incarnation_does_nothing() {
    let mut book = book();
    book.run(with_uid("new", allocate(WEB, claim())))
        .expect("granted");
    let mut late = release(WEB);
    late.owner.uid = "old".to_owned();
    assert_eq!(book.run(late), Ok(Vec::new()));
    assert_eq!(book.held(WEB), "192.0.2.0");
}

#[test]
fn release_of_what_is_not_held_is_an_error_unless_it_may_be_missing() {
    let mut book = book();
    assert_eq!(
        book.run(release(WEB)),
        Err(Rejection::UnknownOwner(owner(WEB)))
    );
    let lenient = Release {
        allow_missing: true,
        ..release(WEB)
    };
    assert_eq!(book.run(lenient), Ok(Vec::new()));
    assert!(book.state.cluster("east").is_none(), "nothing was stored");
}

#[test]
fn a_pending_claim_can_be_withdrawn() {
    let mut book = book();
    book.queue(WEB, from_pool("missing"));
    book.run(release(WEB)).expect("withdrawn");
    assert_eq!(book.held(WEB), "nothing");
}

#[test]
fn a_caller_that_saw_another_revision_is_turned_away() {
    let mut book = book();
    let fresh = Allocate {
        if_revision: Some(0),
        ..allocate(WEB, claim())
    };
    book.run(fresh.clone())
        .expect("there was none, as the caller saw");
    let current = book.get(WEB).revision;
    let stale = |given| Rejection::StaleRevision {
        owner: owner(WEB),
        current,
        given,
    };
    assert_eq!(book.run(fresh), Err(stale(0)));
    let late = Release {
        if_revision: Some(current - 1),
        ..release(WEB)
    };
    assert_eq!(book.run(late), Err(stale(current - 1)));
    let timely = Release {
        if_revision: Some(current),
        ..release(WEB)
    };
    book.run(timely).expect("released");
}

#[test]
fn what_the_owner_uses_now_is_tried_first_and_never_pins() {
    let mut book = book();
    let using = |text: &str, command: Allocate| Allocate {
        held: addresses(&[text]),
        ..command
    };
    book.run(using("192.0.2.2", allocate(WEB, claim())))
        .expect("granted");
    assert_eq!(book.held(WEB), "192.0.2.2");
    // Taken, outside every pool, of the wrong family: then it is as if nothing had been said.
    for (owner, wish, expected) in [
        ("east/default/a", "192.0.2.2", "192.0.2.0"),
        ("east/default/b", "203.0.113.1", "192.0.2.1"),
        ("east/default/c", "2001:db8::1", "192.0.2.3"),
    ] {
        book.run(using(wish, allocate(owner, claim())))
            .expect("granted");
        assert_eq!(book.held(owner), expected);
    }
}

#[test]
fn an_address_that_is_used_now_is_adopted_even_from_a_pool_that_is_not_for_everybody() {
    let mut closed = pool("closed", &["198.51.100.0/30"]);
    closed.auto_assign = false;
    let mut book = book();
    book.apply_pool(&closed).expect("applied");
    let adopting = Allocate {
        held: addresses(&["198.51.100.2"]),
        ..allocate(WEB, claim())
    };
    book.run(adopting).expect("granted");
    assert_eq!(book.held(WEB), "198.51.100.2");
}

#[test]
fn an_address_goes_without_a_successor_only_when_a_rule_forbids_it() {
    let mut book = book();
    book.take(WEB, claim());
    // Another wish that cannot be met: kept.
    assert_eq!(
        book.queue(WEB, families(Families::One(Family::V6))),
        "192.0.2.0 (NO_FREE_ADDRESS)"
    );
    // Its range goes away: gone, and the newest claim waits.
    let smaller = pool("default-pool", &["192.0.2.2-192.0.2.3"]);
    book.edit_pool(&smaller, InUse::Move).expect("moved");
    assert_eq!(book.held(WEB), "(NO_FREE_ADDRESS)");
    // What fits the newest claim now is given.
    book.queue(WEB, claim());
    assert_eq!(book.held(WEB), "192.0.2.2");
}

#[test]
fn labels_that_a_pool_excludes_take_the_address_away() {
    let mut red = pool("red", &["192.0.2.0/30"]);
    red.namespace_selectors = vec![selector(&[("team", "red")])];
    let mut book = Book::with_pools(&[red, pool("rest", &["198.51.100.0/30"])]);
    let of_team = |team: &str| Claim {
        namespace_labels: labels(&[("team", team)]),
        ..claim()
    };
    assert_eq!(book.take(WEB, of_team("red")), "192.0.2.0");
    assert_eq!(book.queue(WEB, of_team("blue")), "198.51.100.0");
    let pinned = Claim {
        pool: Some(name("red")),
        ..of_team("red")
    };
    assert_eq!(book.take(API, pinned.clone()), "192.0.2.0");
    let lost = Claim {
        pool: Some(name("red")),
        ..of_team("blue")
    };
    assert_eq!(book.queue(API, lost), "(POOL_NOT_FOR_OWNER)");
    assert_eq!(book.queue(API, pinned), "192.0.2.0");
}
