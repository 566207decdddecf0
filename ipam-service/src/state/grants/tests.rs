//! The rules of grants, one by one.

mod recovery;

use super::*;
use crate::state::address::AddressRange;
use crate::state::change::Change;
use crate::state::command::{AddressSpaceFields, Command};
use crate::state::model::{Claim, Families, Timestamp};
use crate::state::refusal::{Reason, Refusal};
use crate::state::testing::*;
use crate::state::{Holder, decide, explain_stored};

const LOW: &[&str] = &["192.0.2.0/25"];
const HIGH: &[&str] = &["192.0.2.128/25"];

fn lab() -> Book {
    Book::with_pools(&[pool("lab", &["192.0.2.0/24", "2001:db8::/64"])])
}

fn halves() -> Book {
    let mut book = lab();
    book.grant(&[("east", LOW), ("west", HIGH)], InUse::Refuse)
        .expect("nobody holds anything");
    book
}

fn refused_with(book: &mut Book, owner: &str, claim: Claim) -> (Reason, String) {
    let Refusal {
        reason, message, ..
    } = book.refused(owner, claim);
    (reason, message)
}

fn range(text: &str) -> AddressRange {
    AddressRange::parse(text).expect(text)
}

#[test]
fn a_reach_cuts_ranges_and_names_what_it_leaves_out() {
    let granted = ["192.0.2.4/30", "192.0.2.16/28", "2001:db8::/64"].map(range);
    let reach = Reach::Only(&granted);
    let parts = |text: &str| -> Vec<String> {
        let parts = reach.within(range(text));
        parts.map(|part| part.written()).collect()
    };
    let outside = |text: &str| -> Vec<String> {
        let parts = reach.outside(range(text));
        parts.iter().map(|part| part.written()).collect()
    };
    assert_eq!(parts("192.0.2.0/24"), ["192.0.2.4/30", "192.0.2.16/28"]);
    assert_eq!(
        parts("192.0.2.6-192.0.2.17"),
        ["192.0.2.6/31", "192.0.2.16/31"]
    );
    assert_eq!(parts("192.0.2.5/32"), ["192.0.2.5/32"]);
    assert!(parts("192.0.2.8/29").is_empty() && parts("2001:db7::/64").is_empty());
    assert_eq!(
        outside("192.0.2.0/24"),
        ["192.0.2.0/30", "192.0.2.8/29", "192.0.2.32-192.0.2.255"]
    );
    assert!(outside("192.0.2.16/28").is_empty());
    assert_eq!(outside("2001:db9::/64"), ["2001:db9::/64"]);
    let contained = [
        "192.0.2.3",
        "192.0.2.4",
        "192.0.2.7",
        "192.0.2.8",
        "2001:db8::1",
    ];
    let contained = contained.map(|text| reach.contains(address(text)));
    assert_eq!(contained, [false, true, true, false, true]);
    assert_eq!(Reach::Everything.outside(range("0.0.0.0/0")), []);
}

#[test]
fn an_explanation_counts_as_held_through_a_pool_what_the_grant_has_of_it() {
    let mut book = halves();
    for number in 0..5 {
        book.take(&format!("east/ns/{number}"), claim());
    }
    book.sync_pools("west", &[pool("west/own", &["192.0.2.0/24"])])
        .expect("synced");
    for number in 0..2 {
        book.take(&format!("west/ns/{number}"), from_pool("own"));
    }
    let it = explain_stored(&book.state, &owner("west/ns/0")).expect("stored");
    let lab = it.pools.iter().find(|pool| pool.key == pool_key("lab"));
    let usage = lab.expect("it sees the pool").usage.v4;
    // What the cluster itself holds there it holds through its own pool.
    assert_eq!((usage.held, usage.held_by_others), (0, 2));
}

#[test]
fn without_grants_clusters_trust_one_another_also_with_a_record() {
    let mut book = lab();
    book.grant(&[], InUse::Refuse).expect("a record");
    assert_eq!(book.take("west/ns/a", claim()), "192.0.2.0");
    assert_eq!(
        book.take("east/ns/a", for_addresses(&["192.0.2.200"])),
        "192.0.2.200"
    );
}

#[test]
fn a_cluster_gets_addresses_of_its_grant_only() {
    let mut book = halves();
    assert_eq!(book.take("west/ns/a", claim()), "192.0.2.128");
    assert_eq!(book.take("east/ns/a", claim()), "192.0.2.0");
    let text = "cluster west may use only 192.0.2.128/25 of address space default: address \
                192.0.2.9 of pool \"lab\" lies outside";
    assert_eq!(
        refused_with(&mut book, "west/ns/b", for_addresses(&["192.0.2.9"])),
        (Reason::OutsideGrant, text.to_owned())
    );
    assert_eq!(
        refused_with(&mut book, "north/ns/a", claim()),
        (
            Reason::OutsideGrant,
            "cluster north has no grant in address space default".to_owned()
        )
    );
    // A family that is not granted.
    let both = families(Families::Both);
    assert_eq!(
        refused_with(&mut book, "west/ns/b", both).0,
        Reason::OutsideGrant
    );
    let preferred = families(Families::PreferBoth {
        first: crate::state::address::Family::V4,
    });
    assert_eq!(book.take("west/ns/b", preferred), "192.0.2.129");
}

#[test]
fn a_full_grant_is_told_from_a_full_pool() {
    let mut book = lab();
    let one: &[&str] = &["192.0.2.7-192.0.2.7"];
    book.grant(&[("east", one)], InUse::Refuse)
        .expect("granted");
    assert_eq!(book.take("east/ns/a", claim()), "192.0.2.7");
    assert_eq!(
        refused_with(&mut book, "east/ns/b", claim()),
        (
            Reason::NoFreeAddress,
            "no available IPs in pool \"lab\" (IPv4) within the grant of cluster east".to_owned()
        )
    );
}

#[test]
fn a_cluster_without_pools_and_grant_is_told_so() {
    let mut book = Book::default();
    book.grant(&[("east", LOW)], InUse::Refuse)
        .expect("granted");
    let told = refused_with(&mut book, "west/ns/a", claim());
    let text = "cluster west has no grant in address space default";
    assert_eq!(told, (Reason::OutsideGrant, text.to_owned()));
}

#[test]
fn sharing_keys_and_reservations_stay_within_the_grant() {
    let mut book = halves();
    book.reserve("door", &["192.0.2.9", "192.0.2.130"], Some("west"));
    let named = Claim {
        reservation: Some(name("door")),
        ..claim()
    };
    assert_eq!(book.take("west/ns/a", named.clone()), "192.0.2.130");
    assert_eq!(
        refused_with(&mut book, "west/ns/b", named).0,
        Reason::NoFreeAddress
    );
    // Nothing else is kept for it within its grant.
    assert_eq!(book.take("west/ns/b", shared("k", 80)), "192.0.2.128");
    assert_eq!(book.take("west/ns/c", shared("k", 81)), "192.0.2.128");
}

#[test]
fn grants_may_overlap_and_still_an_address_has_one_holder() {
    let mut book = lab();
    let shared: &[&str] = &["192.0.2.10-192.0.2.11"];
    book.grant(&[("east", shared), ("west", shared)], InUse::Refuse)
        .expect("granted");
    assert_eq!(book.take("east/ns/a", claim()), "192.0.2.10");
    assert_eq!(book.take("west/ns/a", claim()), "192.0.2.11");
    assert_eq!(
        book.refused("west/ns/b", claim()).reason,
        Reason::NoFreeAddress
    );
}

#[test]
fn a_clusters_pool_may_reach_beyond_its_grant() {
    let mut book = Book::default();
    book.grant(&[("east", LOW)], InUse::Refuse)
        .expect("granted");
    let wide = pool("east/own", &["192.0.2.120-192.0.2.140"]);
    book.sync_pools("east", std::slice::from_ref(&wide))
        .expect("stored");
    let stored = book.state.pool(&wide.key).expect("stored");
    let outside = book.state.outside_grants(stored, 8);
    assert_eq!(outside, [range("192.0.2.128-192.0.2.140")]);
    let usage = book.state.pool_usage(&wide.key).expect("there").v4;
    assert_eq!((usage.total, usage.free, usage.outside_grant), (8, 8, 13));
    assert_eq!(book.take("east/ns/a", claim()), "192.0.2.120");
    // The same set again changes nothing, and is not refused either.
    let again = book.sync_pools("east", &[wide]).expect("synced");
    assert_eq!(again, []);
}

#[test]
fn an_operators_pool_counts_what_any_grant_has() {
    let book = halves();
    let usage = book.state.pool_usage(&pool_key("lab")).expect("there");
    assert_eq!((usage.v4.total, usage.v4.outside_grant), (256, 0));
    assert_eq!((usage.v6.total, usage.v6.outside_grant), (0, 1 << 64));
    let mut explained = halves();
    explained.take("west/ns/a", claim());
    let it = explain_stored(&explained.state, &owner("west/ns/a")).expect("stored");
    let usage = it.pools[0].usage.v4;
    assert_eq!(
        (usage.total, usage.held, usage.outside_grant),
        (128, 1, 128)
    );
    explained.take("east/ns/a", claim());
    let it = explain_stored(&explained.state, &owner("west/ns/a")).expect("stored");
    assert_eq!(it.pools[0].held_by, [(Some(name("west")), 1)].into());
}

#[test]
fn an_edit_that_strands_holders_is_refused_and_lists_them() {
    let mut book = lab();
    book.take("east/ns/a", claim());
    book.take("west/ns/a", claim());
    book.take("west/ns/b", claim());
    let refused = book.grant(&[("east", LOW), ("west", HIGH)], InUse::Refuse);
    let expected = [("west/ns/a", "192.0.2.1"), ("west/ns/b", "192.0.2.2")];
    let first = expected.map(|(text, held)| Stranded {
        owner: owner(text),
        address: address(held),
    });
    assert_eq!(
        refused,
        Err(Rejection::AddressSpaceInUse {
            space: space(),
            holders: 2,
            first: first.to_vec(),
        })
    );
    assert_eq!(book.state.address_space("default"), None);
    // What each of them holds is granted: nobody is in the way.
    let west: &[&str] = &["192.0.2.1-192.0.2.2"];
    book.grant(&[("east", LOW), ("west", west)], InUse::Refuse)
        .expect("nobody loses anything");
    assert_eq!(book.held("west/ns/a"), "192.0.2.1");
}

#[test]
fn stranded_holders_are_moved_and_wait_where_nothing_is_left() {
    let mut book = lab();
    book.take("west/ns/a", claim());
    book.take("west/ns/b", for_addresses(&["192.0.2.9"]));
    let one: &[&str] = &["192.0.2.200-192.0.2.200"];
    book.grant(&[("west", one)], InUse::Move).expect("moved");
    assert_eq!(book.held("west/ns/a"), "192.0.2.200");
    assert_eq!(book.held("west/ns/b"), "(OUTSIDE_GRANT)");
}

#[test]
fn a_protected_pool_keeps_its_holders_from_grants_too() {
    let guarded = crate::state::model::Pool {
        protected: true,
        ..pool("lab", &["192.0.2.0/24"])
    };
    let mut book = Book::with_pools(&[guarded]);
    book.take("west/ns/a", claim());
    let refused = book.grant(&[("west", HIGH)], InUse::Move);
    assert!(
        matches!(refused, Err(Rejection::PoolProtected { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_wider_grant_wakes_whom_it_helps_in_order_of_arrival_in_the_same_decision() {
    let mut book = halves();
    for (owner, address) in [("west/ns/b", "192.0.2.1"), ("west/ns/a", "192.0.2.1")] {
        assert_eq!(
            book.queue(owner, for_addresses(&[address])),
            "(OUTSIDE_GRANT)"
        );
    }
    assert_eq!(book.queue("north/ns/a", claim()), "(OUTSIDE_GRANT)");
    let all: &[&str] = &["192.0.2.0/24"];
    let changes = book
        .grant(&[("east", LOW), ("west", all)], InUse::Refuse)
        .expect("wider");
    assert_eq!(book.held("west/ns/b"), "192.0.2.1");
    assert_eq!(book.held("west/ns/a"), "(ADDRESS_TAKEN)");
    // Who is not concerned is not decided again.
    let touched = |change: &Change| {
        change
            .allocation()
            .map(|edit| edit.subject().owner.key.clone())
    };
    let touched: Vec<_> = changes.iter().filter_map(touched).collect();
    assert_eq!(touched, ["west/ns/b", "west/ns/a"].map(owner));
    book.run(delete_space()).expect("deleted");
    assert_eq!(book.held("north/ns/a"), "192.0.2.0");
}

#[test]
fn a_deleted_record_takes_nothing_from_anybody() {
    let mut book = halves();
    book.take("west/ns/a", claim());
    book.run(delete_space()).expect("deleted");
    assert_eq!(book.held("west/ns/a"), "192.0.2.128");
    assert_eq!(
        book.run(delete_space()),
        Err(Rejection::UnknownAddressSpace(space()))
    );
}

#[test]
fn only_the_named_fields_change_and_only_from_the_revision_that_was_seen() {
    let mut book = halves();
    let revision = book.state.address_space("default").expect("there").revision;
    let apply = |wanted: AddressSpace, if_revision| {
        Command::ApplyAddressSpace(Box::new(ApplyAddressSpace {
            wanted,
            fields: AddressSpaceFields {
                grants: false,
                description: false,
                ..AddressSpaceFields::ALL
            },
            in_use: InUse::Refuse,
            if_revision,
        }))
    };
    let hiding = AddressSpace {
        description: "not named".to_owned(),
        hide_holders: true,
        ..AddressSpace::new(space())
    };
    book.run(apply(hiding.clone(), Some(revision)))
        .expect("applied");
    let now = Arc::clone(book.state.address_space("default").expect("there"));
    assert!(now.hide_holders && now.description.is_empty());
    assert_eq!(now.grants.len(), 2);
    let stale = Rejection::StaleAddressSpace {
        space: space(),
        current: now.revision,
        given: revision,
    };
    assert_eq!(book.run(apply(hiding.clone(), Some(revision))), Err(stale));
    assert_eq!(
        book.run(apply(hiding, None)),
        Ok(Vec::new()),
        "it is so already"
    );
}

/// So many of cluster `west` are to be moved, and have not been yet.
fn in_mid_move(holders: usize) -> Book {
    let mut book = Book::with_pools(&[pool("wide", &["10.0.0.0/16"])]);
    for number in 0..holders {
        let owner = format!("west/ns/a{number}");
        book.step(allocate(&owner, claim())).expect("taken");
    }
    let grants = fenced(&[("east", &["10.0.128.0/17"]), ("west", &["10.0.64.0/18"])]);
    book.step(apply_space(grants, InUse::Move)).expect("moves");
    book
}

#[test]
fn nobody_waits_behind_many_who_may_not_have_the_address() {
    let mut book = in_mid_move(300);
    let granted = book.step(allocate("east/ns/a", claim()));
    granted.expect("those of west get nothing of this");
    assert_eq!(book.held("east/ns/a"), "10.0.128.0");
}

#[test]
fn grants_that_are_only_tried_out_leave_nothing_to_be_decided() {
    let mut book = Book::with_pools(&[pool("wide", &["10.0.0.0/16"])]);
    for number in 0..10 {
        book.take(&format!("west/ns/a{number}"), claim());
    }
    let tried = book.step(apply_space(fenced(&[("west", HIGH)]), InUse::Move));
    for change in tried.expect("good").iter().rev() {
        book.state.undo(change);
    }
    assert_eq!(book.state.follow_up(), None);
}

#[test]
fn holders_that_a_crash_left_in_mid_move_are_moved_after_it() {
    let mut book = lab();
    book.take("west/ns/a", claim());
    book.step(apply_space(fenced(&[("west", HIGH)]), InUse::Move))
        .expect("applied");
    book.state = State::restore(book.state.revision(), rows(&book.state));
    book.settle(&mut Vec::new());
    assert_eq!(book.held("west/ns/a"), "192.0.2.128");
}

// === privacy ===

fn hide(book: &mut Book, hide_holders: bool) {
    let record = AddressSpace {
        hide_holders,
        ..AddressSpace::new(space())
    };
    book.run(apply_space(record, InUse::Refuse))
        .expect("applied");
}

#[test]
fn another_cluster_is_named_unless_the_address_space_hides_it() {
    let mut book = lab();
    book.take("west/secret/a", claim());
    book.reserve("door", &["192.0.2.7"], Some("west"));
    let taken = |book: &mut Book| refused_with(book, "east/ns/a", for_addresses(&["192.0.2.0"])).1;
    let kept = |book: &mut Book| refused_with(book, "east/ns/a", for_addresses(&["192.0.2.7"])).1;
    let text = "address 192.0.2.0 of pool \"lab\" is held by cluster west";
    assert_eq!(taken(&mut book), text);
    let text = "address 192.0.2.7 of pool \"lab\" is reserved for cluster west";
    assert_eq!(kept(&mut book), text);
    book.queue("east/ns/b", for_addresses(&["192.0.2.0"]));

    hide(&mut book, true);
    let text = "address 192.0.2.0 of pool \"lab\" is held by another cluster";
    assert_eq!(taken(&mut book), text);
    let text = "address 192.0.2.7 of pool \"lab\" is reserved for another cluster";
    assert_eq!(kept(&mut book), text);
    // What a claim that waits was told before is told anew.
    let it = explain_stored(&book.state, &owner("east/ns/b")).expect("stored");
    let told = it.refusal().expect("it waits").message.clone();
    assert_eq!(
        told,
        "address 192.0.2.0 of pool \"lab\" is held by another cluster"
    );
    assert_eq!(it.addresses[0].holders, [Holder::AnotherCluster]);
    assert_eq!(it.pools[0].held_by.keys().collect::<Vec<_>>(), [&None]);
    book.queue("east/ns/c", for_addresses(&["192.0.2.7"]));
    let other = explain_stored(&book.state, &owner("east/ns/c")).expect("stored");
    for everything in [format!("{it:?}"), format!("{other:?}")] {
        for secret in ["west", "secret", "door"] {
            assert!(!everything.contains(secret), "{secret} in {everything}");
        }
    }

    hide(&mut book, false);
    let it = explain_stored(&book.state, &owner("east/ns/b")).expect("stored");
    assert_eq!(it.addresses[0].holders, [Holder::Cluster(name("west"))]);
    assert!(!format!("{it:?}").contains("secret"));
}

#[test]
fn a_record_is_undone_with_all_that_followed() {
    let mut book = lab();
    book.take("west/ns/a", claim());
    let before = rows(&book.state);
    let revision = book.state.revision();
    let changes = book.grant(&[("west", HIGH)], InUse::Move).expect("moved");
    for change in changes.iter().rev() {
        book.state.undo(change);
    }
    assert_same_book(&book.state, &State::restore(revision, before));
    assert_eq!(book.held("west/ns/a"), "192.0.2.0");
    // Only validated: nothing is applied at all.
    let command = apply_space(fenced(&[("west", HIGH)]), InUse::Move);
    let decided = decide(&book.state, &command, Timestamp(9)).expect("good");
    assert_eq!(decided.len(), 1);
}
