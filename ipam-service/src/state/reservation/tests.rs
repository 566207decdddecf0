use crate::state::change::Change;
use crate::state::command::{Command, InUse};
use crate::state::model::*;
use crate::state::refusal::{Reason, Rejection};
use crate::state::testing::*;

fn naming(reservation: &str) -> Claim {
    Claim {
        reservation: Some(name(reservation)),
        ..claim()
    }
}

#[test]
fn a_kept_address_is_for_its_owner_only() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.1-192.0.2.3"])]);
    book.reserve("vip", &["192.0.2.1"], Some("east/x/web"));
    assert_eq!(book.take("east/x/other", claim()), "192.0.2.2");
    for owner in ["east/x/other2", "west/x/web", "east/y/web"] {
        let refused = book.refused(owner, for_addresses(&["192.0.2.1"]));
        assert_eq!(refused.reason, Reason::AddressReserved, "{owner}");
    }
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.1");
}

#[test]
fn what_a_refusal_says_of_a_reservation_is_what_the_asker_may_see() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.1-192.0.2.3"])]);
    book.reserve("vip", &["192.0.2.1"], Some("east/x/web"));
    book.reserve("router", &["192.0.2.2"], None);
    let mut told = |owner: &str, address: &str| {
        let refused = book.refused(owner, for_addresses(&[address]));
        refused.message
    };
    assert_eq!(
        told("east/x/other", "192.0.2.1"),
        "address 192.0.2.1 of pool \"p\" is reserved for east/x/web (reservation \"vip\")"
    );
    assert_eq!(
        told("west/x/web", "192.0.2.1"),
        "address 192.0.2.1 of pool \"p\" is reserved for cluster east"
    );
    assert_eq!(
        told("west/x/web", "192.0.2.2"),
        "address 192.0.2.2 of pool \"p\" is reserved (reservation \"router\")"
    );
}

#[test]
fn an_owner_is_covered_by_its_name_its_namespace_or_its_cluster() {
    let cases = [
        ("east/x/web", "east/x/web", true),
        ("east/x/web", "east/x/web2", false),
        ("east/x/web", "west/x/web", false),
        ("east/x", "east/x/anything", true),
        ("east/x", "east/y/anything", false),
        ("east", "east/y/anything", true),
        ("east", "west/y/anything", false),
    ];
    for (scope, asks, may) in cases {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.1-192.0.2.3"])]);
        book.reserve("r", &["192.0.2.3"], Some(scope));
        let outcome = book.run(allocate(asks, for_addresses(&["192.0.2.3"])));
        assert_eq!(outcome.is_ok(), may, "{scope} {asks}");
    }
}

#[test]
fn the_most_precise_reservation_is_taken_first() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.1-192.0.2.9"])]);
    book.reserve("cluster", &["192.0.2.2"], Some("east"));
    book.reserve("namespace", &["192.0.2.3"], Some("east/x"));
    book.reserve("name", &["192.0.2.4"], Some("east/x/web"));
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.4");
    assert_eq!(book.take("east/x/b", claim()), "192.0.2.3");
    assert_eq!(book.take("east/x/c", claim()), "192.0.2.2");
    assert_eq!(book.take("east/x/d", claim()), "192.0.2.1");
}

#[test]
fn an_owners_reservation_goes_before_a_free_address_of_an_earlier_pool() {
    let mut book = Book::with_pools(&[
        pool("a", &["192.0.2.0/29"]),
        pool("b", &["198.51.100.0/29", "2001:db8::/126"]),
    ]);
    book.reserve("r", &["198.51.100.4", "2001:db8::2"], Some("east/x/web"));
    assert_eq!(book.take("east/x/web", claim()), "198.51.100.4");
    book.run(release("east/x/web")).expect("released");
    let dual = families(Families::Both);
    assert_eq!(book.take("east/x/web", dual), "198.51.100.4 2001:db8::2");
    assert_eq!(book.take("east/x/other", claim()), "192.0.2.0");
}

#[test]
fn a_claim_for_any_family_takes_the_one_that_is_kept_for_it() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29", "2001:db8::/126"])]);
    book.reserve("r", &["2001:db8::2"], Some("east/x/web"));
    assert_eq!(
        book.take("east/x/web", families(Families::Any)),
        "2001:db8::2"
    );
    assert_eq!(
        book.take("east/x/other", families(Families::Any)),
        "192.0.2.0"
    );
}

#[test]
fn a_pool_that_is_not_for_the_claim_gives_none_of_its_kept_addresses() {
    let mut named = pool("b", &["198.51.100.0/29"]);
    named.auto_assign = false;
    let mut blue = pool("c", &["203.0.113.0/29"]);
    blue.namespaces.insert(name("blue"));
    let mut book = Book::with_pools(&[pool("a", &["192.0.2.0/29"]), named, blue]);
    book.reserve("r", &["198.51.100.4", "203.0.113.4"], Some("east/x"));
    assert_eq!(book.take("east/x/plain", claim()), "192.0.2.0");
    assert_eq!(book.take("east/x/named", from_pool("b")), "198.51.100.4");
    // Who names the reservation names its addresses.
    book.run(release("east/x/named")).expect("released");
    assert_eq!(book.take("east/x/kept", naming("r")), "198.51.100.4");
    let refused = book.refused("east/x/more", naming("r"));
    assert_eq!(refused.reason, Reason::NoFreeAddress);
    let told = "no available IPs in pool \"b\" (IPv4) of reservation \"r\"";
    assert!(refused.message.contains(told), "{}", refused.message);
}

#[test]
fn a_claim_that_names_a_reservation_gets_an_address_of_it_or_none() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/28"])]);
    book.reserve("two", &["192.0.2.8/31"], Some("east/x"));
    book.reserve("nobody", &["192.0.2.1"], None);
    let reasons = [
        ("east/x/a", "missing", Reason::UnknownReservation),
        ("east/y/a", "two", Reason::AddressReserved),
        ("west/x/a", "two", Reason::AddressReserved),
        ("east/x/a", "nobody", Reason::AddressReserved),
    ];
    for (owner, reservation, reason) in reasons {
        let refused = book.refused(owner, naming(reservation));
        assert_eq!(refused.reason, reason, "{owner} {reservation}");
    }
    let elsewhere = Claim {
        reservation: Some(name("two")),
        ..for_addresses(&["192.0.2.3"])
    };
    let refused = book.refused("east/x/a", elsewhere);
    assert_eq!(refused.reason, Reason::AddressNotInReservation);
    assert_eq!(book.take("east/x/a", naming("two")), "192.0.2.8");
    assert_eq!(book.take("east/x/b", naming("two")), "192.0.2.9");
    // Who moves into a reservation makes before it breaks.
    assert_eq!(book.take("east/x/c", claim()), "192.0.2.0");
    assert_eq!(
        book.queue("east/x/c", naming("two")),
        "192.0.2.0 (NO_FREE_ADDRESS)"
    );
    book.run(release("east/x/a")).expect("released");
    assert_eq!(book.held("east/x/c"), "192.0.2.8");
}

#[test]
fn owners_that_share_do_so_within_a_reservation_too() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/28"])]);
    book.reserve("r", &["192.0.2.8/31"], Some("east/x"));
    let in_r = |port| Claim {
        reservation: Some(name("r")),
        ..shared("k", port)
    };
    assert_eq!(book.take("east/x/a", in_r(80)), "192.0.2.8");
    assert_eq!(book.take("east/x/b", in_r(81)), "192.0.2.8");
    assert_eq!(book.take("east/x/c", in_r(80)), "192.0.2.9");
    // Another owner of the cluster with the same key is not let in.
    let refused = book.refused(
        "east/y/d",
        Claim {
            ports: vec![tcp(90)],
            sharing_key: "k".to_owned(),
            ..for_addresses(&["192.0.2.8"])
        },
    );
    assert_eq!(refused.reason, Reason::AddressReserved);
    assert_eq!(book.take("east/y/d", shared("k", 90)), "192.0.2.0");
}

#[test]
fn a_holder_keeps_its_address_when_a_reservation_is_put_over_it() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    assert_eq!(book.take("west/x/old", claim()), "192.0.2.0");
    book.reserve("r", &["192.0.2.0"], Some("east/x/web"));
    assert_eq!(book.held("west/x/old"), "192.0.2.0");
    // Also with a changed claim, another incarnation, and the address by name.
    let mut changed = claim();
    changed.ports = vec![tcp(81)];
    assert_eq!(book.take("west/x/old", changed.clone()), "192.0.2.0");
    changed.addresses = addresses(&["192.0.2.0"]);
    assert_eq!(book.take("west/x/old", changed), "192.0.2.0");
    let refused = book.refused("east/x/web", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressTaken);
    // Once it gives it back it is its owner's.
    book.run(release("west/x/old")).expect("released");
    assert_eq!(book.take("west/x/old", claim()), "192.0.2.1");
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.0");
}

#[test]
fn the_pools_rules_still_move_a_holder_out_of_a_reservation() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"]), pool("q", &["10.0.0.0/30"])]);
    assert_eq!(book.take("west/x/old", claim()), "192.0.2.0");
    book.reserve("r", &["192.0.2.0"], Some("east/x/web"));
    let smaller = pool("p", &["192.0.2.1-192.0.2.3"]);
    book.edit_pool(&smaller, InUse::Move).expect("edited");
    assert_eq!(book.held("west/x/old"), "192.0.2.1");
    book.edit_pool(&pool("p", &["192.0.2.0/30"]), InUse::Move)
        .expect("edited");
    assert_eq!(book.held("west/x/old"), "192.0.2.1");
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.0");
}

#[test]
fn a_reserved_address_that_is_given_back_stays_kept() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0-192.0.2.1"])]);
    book.reserve("r", &["192.0.2.0"], Some("east/x/web"));
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.0");
    assert_eq!(book.take("west/x/a", claim()), "192.0.2.1");
    assert_eq!(book.queue("west/x/b", claim()), "(NO_FREE_ADDRESS)");
    book.run(release("east/x/web")).expect("released");
    assert_eq!(book.held("west/x/b"), "(NO_FREE_ADDRESS)");
    assert_eq!(book.take("east/x/web", claim()), "192.0.2.0");
}

#[test]
fn deleting_a_reservation_wakes_those_who_wait_in_order_of_arrival() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0-192.0.2.2"])]);
    book.reserve("r", &["192.0.2.0-192.0.2.1"], None);
    book.take("west/x/a", claim());
    for owner in ["west/x/b", "east/x/c", "west/x/d"] {
        assert_eq!(book.queue(owner, claim()), "(NO_FREE_ADDRESS)");
    }
    let by_address = book.queue("east/x/e", for_addresses(&["192.0.2.1"]));
    assert_eq!(by_address, "(ADDRESS_RESERVED)");
    let delete = Command::DeleteReservation(reservation_key("r"));
    book.run(delete.clone()).expect("deleted");
    assert_eq!(book.held("west/x/b"), "192.0.2.0");
    assert_eq!(book.held("east/x/c"), "192.0.2.1");
    assert_eq!(book.held("west/x/d"), "(NO_FREE_ADDRESS)");
    assert_eq!(book.held("east/x/e"), "(ADDRESS_TAKEN)");
    let again = book.run(delete).expect_err("it is gone");
    let key = reservation_key("r");
    assert_eq!(again, Rejection::UnknownReservation(key));
}

#[test]
fn an_edit_of_a_reservation_wakes_whom_it_lets_in() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0-192.0.2.1"])]);
    book.reserve("r", &["192.0.2.0-192.0.2.1"], Some("east/x"));
    assert_eq!(book.queue("west/x/a", claim()), "(NO_FREE_ADDRESS)");
    assert_eq!(book.queue("west/x/b", naming("r")), "(ADDRESS_RESERVED)");
    assert_eq!(
        book.queue("west/x/c", naming("new")),
        "(UNKNOWN_RESERVATION)"
    );
    book.reserve("r", &["192.0.2.0"], Some("west/x/b"));
    assert_eq!(book.held("west/x/b"), "192.0.2.0");
    assert_eq!(book.held("west/x/a"), "192.0.2.1");
    book.run(release("west/x/a")).expect("released");
    book.reserve("new", &["192.0.2.1"], Some("west"));
    assert_eq!(book.held("west/x/c"), "192.0.2.1");
}

#[test]
fn a_claim_that_names_a_reservation_waits_for_a_pool_to_hold_it() {
    let mut book = Book::default();
    book.reserve("r", &["192.0.2.9"], Some("east"));
    assert_eq!(book.queue("east/x/a", naming("r")), "(NO_FREE_ADDRESS)");
    book.apply_pool(&pool("p", &["192.0.2.0/28"]))
        .expect("a good pool");
    assert_eq!(book.held("east/x/a"), "192.0.2.9");
}

#[test]
fn a_reservation_that_overlaps_another_is_refused_by_field_and_name() {
    let mut book = Book::default();
    book.reserve("a", &["192.0.2.0/29", "2001:db8::/64"], None);
    let overlapping = reservation("b", &["198.51.100.1", "192.0.2.6-192.0.2.9"], None);
    let refused = book.run(Command::ApplyReservation(Box::new(overlapping)));
    let refused = refused.expect_err("they overlap").to_string();
    assert_eq!(
        refused,
        "reservation.addresses[1]: 192.0.2.6-192.0.2.9 overlaps 192.0.2.0/29 of reservation \"a\""
    );
    // In another space, and over itself, there is nothing to overlap.
    let mut elsewhere = reservation("b", &["192.0.2.6"], None);
    elsewhere.key.space = name("other");
    book.run(Command::ApplyReservation(Box::new(elsewhere)))
        .expect("another space");
    book.reserve("a", &["192.0.2.4/30"], None);
    book.reserve("b", &["192.0.2.0/30"], None);
}

#[test]
fn an_equal_reservation_changes_nothing() {
    let mut book = Book::default();
    let wanted = reservation("r", &["192.0.2.0/29"], Some("east"));
    let command = Command::ApplyReservation(Box::new(wanted));
    assert_eq!(book.run(command.clone()).expect("new").len(), 1);
    assert_eq!(book.run(command).expect("equal"), []);
}

#[test]
fn a_whole_prefix_is_reserved_and_freed_without_counting_its_addresses() {
    let mut book = Book::with_pools(&[pool("p", &["2001:db8::/64", "10.0.0.0/8"])]);
    let v6 = || families(Families::One(crate::state::address::Family::V6));
    assert_eq!(book.take("west/x/a", v6()), "2001:db8::");
    book.reserve("r", &["2001:db8::/64", "10.0.0.0/9"], Some("east"));
    assert_eq!(book.queue("west/x/b", v6()), "(NO_FREE_ADDRESS)");
    assert_eq!(book.take("west/x/c", claim()), "10.128.0.0");
    assert_eq!(book.take("east/x/a", v6()), "2001:db8::1");
    let usage = book.state.pool_usage(&pool_key("p")).expect("a pool");
    assert_eq!(usage.v6.reserved, (1 << 64) - 2);
    assert_eq!((usage.v6.held, usage.v6.free), (2, 0));
    assert_eq!((usage.v4.reserved, usage.v4.free), (1 << 23, (1 << 23) - 1));
    let delete = Command::DeleteReservation(reservation_key("r"));
    book.run(delete).expect("deleted");
    assert_eq!(book.held("west/x/b"), "2001:db8::2");
}

#[test]
fn reservations_outlive_their_cluster() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.reserve("r", &["192.0.2.0"], Some("east"));
    assert_eq!(book.take("east/x/a", claim()), "192.0.2.0");
    let cluster = name("east");
    book.run(Command::DeleteCluster { cluster })
        .expect("deleted");
    assert_eq!(book.take("west/x/a", claim()), "192.0.2.1");
    assert_eq!(book.take("east/x/b", claim()), "192.0.2.0");
}

#[test]
fn trying_a_reservation_out_leaves_nothing_behind() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    book.take("east/x/a", claim());
    book.take("east/x/b", shared("k", 80));
    book.reserve("r", &["192.0.2.0-192.0.2.3"], Some("west"));
    book.queue("east/x/c", for_addresses(&["192.0.2.2"]));
    let commands = [
        Command::DeleteReservation(reservation_key("r")),
        Command::ApplyReservation(Box::new(reservation("r", &["192.0.2.1/32"], Some("east")))),
        Command::ApplyReservation(Box::new(reservation("s", &["192.0.2.4/30"], None))),
    ];
    for command in commands {
        let before = rows(&book.state);
        let mut changes = book.step(command).expect("decided");
        book.settle(&mut changes);
        assert!(matches!(changes[0], Change::Reservation(_)));
        for change in changes.iter().rev() {
            book.state.undo(change);
        }
        assert_eq!(rows(&book.state), before);
        assert_sound(&book.state);
    }
}

#[test]
fn in_recovery_what_is_in_use_is_granted_whatever_is_reserved() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    book.reserve("r", &["192.0.2.0/30"], Some("west"));
    book.expect_inventory_of("east");
    let mut command = queued("east/x/a", claim());
    command.held = addresses(&["192.0.2.1"]);
    book.run(command).expect("queued");
    assert_eq!(book.held("east/x/a"), "192.0.2.1");
    // By address, but in use by nobody, it is refused as ever.
    assert_eq!(
        book.queue("east/x/b", for_addresses(&["192.0.2.2"])),
        "(ADDRESS_RESERVED)"
    );
}
