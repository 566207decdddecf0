use super::*;
use crate::state::command::Command;
use crate::state::testing::*;

const WEB: &str = "east/default/web";

/// Explains a request that is not stored.
fn request(book: &Book, owner_text: &str, claim: Claim) -> Explanation {
    explain_request(&book.state, &allocate(owner_text, claim)).expect("explained")
}

fn stored(book: &Book, owner_text: &str) -> Explanation {
    explain_stored(&book.state, &owner(owner_text)).expect("explained")
}

/// What each pool says, in short.
fn pools(it: &Explanation) -> Vec<String> {
    let pools = it.pools.iter();
    pools
        .map(|pool| {
            let gives = pool.gives.iter().map(Address::to_string);
            let refuses = pool.obstacles.iter();
            let refuses = refuses.map(|one| one.reason.as_str().to_owned());
            let says: Vec<String> = gives.chain(refuses).collect();
            format!("{} {}", pool.key, says.join(" "))
        })
        .collect()
}

#[test]
fn pools_are_told_in_the_order_in_which_they_are_tried_with_the_rule_that_refused() {
    let mut urgent = pool("z-urgent", &["192.0.2.9/32"]);
    urgent.priority = 1;
    let mut blue = pool("blue", &["192.0.2.16/30"]);
    blue.namespaces.insert(name("blue"));
    let mut by_name = pool("by-name", &["192.0.2.32/30"]);
    by_name.auto_assign = false;
    let six = pool("six", &["2001:db8::/126"]);
    let plain = pool("plain", &["192.0.2.64/30"]);
    let book = Book::with_pools(&[plain, six, by_name, blue, urgent]);
    let mut full = book;
    full.take("west/x/a", from_pool("z-urgent"));
    let it = request(&full, WEB, claim());
    assert_eq!(
        pools(&it),
        [
            "z-urgent NO_FREE_ADDRESS",
            "blue POOL_NOT_FOR_OWNER",
            "plain 192.0.2.64",
            "six FAMILY_NOT_IN_POOL",
            "by-name POOL_NOT_AUTOMATIC",
        ]
    );
    assert_eq!(it.outcome.addresses, addresses(&["192.0.2.64"]));
    assert_eq!(
        it.pools[0].held_by,
        BTreeMap::from([(Some(name("west")), 1)])
    );
    assert_eq!(
        (it.stored, it.waiting.is_none(), it.more_pools),
        (None, true, 0)
    );
    let it = request(&full, WEB, from_pool("six"));
    assert_eq!(
        pools(&it),
        [
            "six FAMILY_NOT_IN_POOL",
            "blue OTHER_POOL_NAMED",
            "by-name OTHER_POOL_NAMED",
            "plain OTHER_POOL_NAMED",
            "z-urgent OTHER_POOL_NAMED",
        ]
    );
}

#[test]
fn what_does_not_match_is_named_with_the_selector_and_the_labels() {
    let mut picky = pool("picky", &["192.0.2.0/30"]);
    picky.namespaces.insert(name("blue"));
    picky.namespace_selectors = vec![selector(&[("team", "blue")])];
    picky.service_selectors = vec![selector(&[("tier", "gold")]), selector(&[("tier", "tin")])];
    let book = Book::with_pools(&[picky]);
    let asked = Claim {
        labels: labels(&[("tier", "lead")]),
        namespace_labels: labels(&[("team", "red")]),
        ..claim()
    };
    let it = request(&book, WEB, asked.clone());
    assert_eq!(
        it.pools[0].obstacles[0].message,
        "namespace \"default\" is none of [blue], and the labels {team=red} of namespace \
         \"default\" match no namespace selector of [(team=blue)], and the labels {tier=lead} \
         match no service selector of [(tier=gold), (tier=tin)]"
    );
    let by_label = Claim {
        namespace_labels: labels(&[("team", "blue")]),
        ..asked
    };
    let it = request(&book, WEB, by_label);
    assert_eq!(
        it.pools[0].obstacles[0].message,
        "the labels {tier=lead} match no service selector of [(tier=gold), (tier=tin)]"
    );
}

#[test]
fn each_family_of_a_dual_stack_claim_is_told_of_apart() {
    let mut book = Book::with_pools(&[
        pool("dual", &["192.0.2.0/32", "2001:db8::/126"]),
        pool("four", &["198.51.100.0/30"]),
    ]);
    book.take("east/default/x", claim());
    let it = request(&book, WEB, families(Families::Both));
    assert_eq!(
        pools(&it),
        [
            "dual 2001:db8:: NO_FREE_ADDRESS",
            "four 198.51.100.0 FAMILY_NOT_IN_POOL"
        ]
    );
    let families_of = |index: usize| {
        let obstacles = it.pools[index].obstacles.iter();
        obstacles.map(|one| one.family).collect::<Vec<_>>()
    };
    assert_eq!(families_of(0), [Some(Family::V4)]);
    assert_eq!(families_of(1), [Some(Family::V6)]);
    assert!(it.refusal().is_some());
    let it = request(&book, WEB, from_two_pools(Families::Both));
    assert_eq!(
        it.outcome.addresses,
        addresses(&["198.51.100.0", "2001:db8::"])
    );
}

#[test]
fn a_claim_that_waits_is_told_since_when_behind_whom_and_for_what() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("west/x/holder", claim());
    book.queue("west/x/other", claim());
    book.queue("east/default/first", from_pool("p"));
    book.queue("east/default/elsewhere", from_pool("q"));
    book.queue(WEB, claim());
    let it = stored(&book, WEB);
    let waiting = it.waiting.expect("it waits");
    let web = book.get(WEB);
    assert_eq!(waiting.since, Some((web.create_time, web.id)));
    // Not who waits for another pool, and of the other cluster only its name.
    assert_eq!(waiting.older, 2);
    assert_eq!(waiting.first, Some(Holder::Cluster(name("west"))));
    assert_eq!(
        waiting.wakes_on,
        [
            "an address comes free in a pool that is open to the claim, or such a pool is added or \
          edited"
        ]
    );
    assert_eq!(it.outcome.addresses, []);
    let newcomer = request(&book, "east/default/new", from_pool("p"));
    let waiting = newcomer.waiting.expect("it would wait");
    assert_eq!((waiting.since, waiting.older), (None, 3));
}

#[test]
fn older_claims_are_counted_whatever_way_they_wait_for_the_same() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"])]);
    book.reserve("kept", &["192.0.2.1"], Some("east"));
    let of_reservation = || Claim {
        reservation: Some(name("kept")),
        ..claim()
    };
    for (holder, claim) in [("east/x/a", claim()), ("east/x/b", claim())] {
        book.take(holder, claim);
    }
    for (number, (claim, older)) in [
        (claim(), 0),
        (for_addresses(&["192.0.2.0"]), 1),
        // It could take what the one before it asks for.
        (claim(), 2),
        (of_reservation(), 0),
        (of_reservation(), 1),
        (for_addresses(&["192.0.2.0"]), 3),
    ]
    .into_iter()
    .enumerate()
    {
        let owner = format!("east/x/{number}");
        book.queue(&owner, claim);
        let waiting = stored(&book, &owner).waiting.expect("it waits");
        assert_eq!(waiting.older, older, "{owner}");
    }
    // Who holds an address and waits for another does not wait for its own.
    book.queue("east/x/a", from_pool("q"));
    let waiting = stored(&book, "east/x/0").waiting.expect("it waits");
    assert_eq!(waiting.older, 0);
}

#[test]
fn an_address_that_is_asked_for_is_told_with_its_pools_and_holders() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.sync_pools("east", &[pool("east/own", &["192.0.2.0/31"])])
        .expect("synced");
    book.take(
        "east/default/a",
        Claim {
            addresses: addresses(&["192.0.2.1"]),
            ..shared("k", 80)
        },
    );
    book.take(
        "east/default/b",
        Claim {
            addresses: addresses(&["192.0.2.1"]),
            ..shared("k", 81)
        },
    );
    let report = |owner_text: &str, claim: Claim| {
        let it = request(&book, owner_text, claim);
        it.addresses.into_iter().next().expect("asked for")
    };
    let asked = Claim {
        addresses: addresses(&["192.0.2.1"]),
        ..shared("k", 81)
    };
    let it = report(WEB, asked.clone());
    assert_eq!(it.pools, [pool_key("east/own"), pool_key("p")]);
    let holders = ["east/default/a", "east/default/b"].map(|text| Holder::Owner(owner(text)));
    assert_eq!(it.holders, holders);
    let refusal = it.refusal.expect("a port clashes");
    assert_eq!(
        (refusal.reason, refusal.message.as_str()),
        (
            Reason::PortInUse,
            "port TCP/81 is already in use on \"192.0.2.1\" by east/default/b"
        )
    );
    // Another cluster is told neither who nor how many.
    let it = report("west/x/a", asked);
    assert_eq!(it.holders, [Holder::Cluster(name("east"))]);
    assert_eq!(it.refusal.expect("taken").reason, Reason::AddressTaken);
    let it = report(WEB, for_addresses(&["203.0.113.1"]));
    assert_eq!((it.pools, it.holders), (vec![], vec![]));
    assert_eq!(
        it.refusal.expect("nowhere").reason,
        Reason::AddressNotInPool
    );
    assert_eq!(report(WEB, for_addresses(&["192.0.2.2"])).refusal, None);
}

#[test]
fn why_an_address_cannot_be_shared_is_told_where_nothing_else_is_free() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/default/a", shared("k", 80));
    let it = request(&book, WEB, shared("k", 80));
    let sharing = &it.pools[0].sharing;
    assert_eq!(sharing.len(), 1);
    assert_eq!(
        sharing[0].message,
        "port TCP/80 is already in use on \"192.0.2.0\" by east/default/a"
    );
    assert_eq!(request(&book, WEB, shared("k", 81)).pools[0].sharing, []);
}

#[test]
fn more_pools_than_anybody_reads_are_counted() {
    let all: Vec<Pool> = (0..44)
        .map(|index| pool(&format!("p{index:02}"), &[&format!("192.0.2.{index}/32")]))
        .collect();
    let it = request(&Book::with_pools(&all), WEB, claim());
    assert_eq!((it.pools.len(), it.more_pools), (MAX_ATTEMPTS, 12));
}

#[test]
fn a_store_that_recovers_says_so_for_every_pool() {
    use crate::state::model::{Cluster, Inventory};
    let expected = Cluster {
        name: name("west"),
        uid: String::new(),
        inventory: Inventory::Expected,
        fence: 0,
        create_time: Timestamp(0),
        revision: 1,
    };
    let mut rows = rows(&Book::with_pools(&[pool("p", &["192.0.2.0/30"])]).state);
    rows.push(Change::Cluster(crate::state::change::Edit {
        before: None,
        after: Some(Arc::new(expected)),
    }));
    let state = State::restore(7, rows);
    let it = explain_request(&state, &allocate(WEB, claim())).expect("explained");
    assert_eq!(pools(&it), ["p RECOVERING"]);
    let wakes = it.waiting.expect("it would wait").wakes_on;
    assert!(wakes.contains(&"the last cluster has reported what it holds".to_owned()));
}

#[test]
fn a_claim_that_waits_is_told_what_ends_a_drain_a_rest_or_a_full_quota() {
    let rests = Pool {
        reuse_delay: std::time::Duration::from_secs(60),
        ..pool("p", &["192.0.2.0/32"])
    };
    let mut book = Book::with_pools(&[rests]);
    book.take("east/default/a", claim());
    book.run(release("east/default/a")).expect("released");
    let wakes = |book: &Book, claim: Claim| {
        let it = request(book, WEB, claim);
        it.waiting.expect("it would wait").wakes_on
    };
    let says = |wakes: &[String], what: &str| {
        assert!(wakes.iter().any(|one| one == what), "{wakes:?}");
    };
    let of_address = wakes(&book, for_addresses(&["192.0.2.0"]));
    says(&of_address, "192.0.2.0 has rested for 60 s");
    says(
        &wakes(&book, claim()),
        "an address of pool \"p\" that drains, rests or is quarantined may be given away",
    );

    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    let limit = Box::new(quota("small", "east", 1));
    book.run(Command::ApplyQuota(limit)).expect("a good quota");
    book.take("east/default/a", claim());
    says(
        &wakes(&book, claim()),
        "an address that counts for quota \"small\" is given back, or the quota is edited or \
         deleted",
    );

    book.reserve("vip", &["192.0.2.1"], Some("west"));
    let naming = Claim {
        reservation: Some(name("vip")),
        ..claim()
    };
    says(
        &wakes(&book, naming),
        "an address of reservation \"vip\" comes free, or the reservation is added, edited or \
         deleted",
    );
    says(
        &wakes(&book, for_addresses(&["192.0.2.1"])),
        "the reservation that keeps 192.0.2.1 is edited or deleted",
    );
}

#[test]
fn a_stale_claim_is_told_what_it_holds_and_why_the_newest_does_not_fit() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take(WEB, claim());
    book.take("east/default/x", claim());
    book.queue(WEB, for_addresses(&["192.0.2.1"]));
    let it = stored(&book, WEB);
    assert_eq!(it.outcome.addresses, addresses(&["192.0.2.0"]));
    assert_eq!(
        it.refusal().map(|why| why.reason),
        Some(Reason::AddressTaken)
    );
    let asked: Vec<String> = it
        .addresses
        .iter()
        .map(|one| one.address.to_string())
        .collect();
    assert_eq!(asked, ["192.0.2.1", "192.0.2.0"]);
    assert_eq!(
        it.addresses[0].holders,
        [Holder::Owner(owner("east/default/x"))]
    );
}

#[test]
fn nobody_is_explained_of_whom_nothing_is_stored() {
    let missing = explain_stored(&State::new(), &owner(WEB));
    assert_eq!(missing.err(), Some(Rejection::UnknownOwner(owner(WEB))));
}

#[test]
fn a_rule_of_another_room_appears_by_itself() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"]), pool("q", &["192.0.2.8/31"])]);
    book.reserve("vip", &["192.0.2.0/31"], Some("east/default/vip"));
    let it = request(&book, WEB, for_addresses(&["192.0.2.0"]));
    let refusal = it.addresses[0].refusal.as_ref().expect("reserved");
    assert_eq!(refusal.reason, Reason::AddressReserved);
    assert_eq!(
        pools(&request(&book, "east/default/vip", claim()))[0],
        "p 192.0.2.0"
    );
    let naming = Claim {
        reservation: Some(name("vip")),
        ..claim()
    };
    assert_eq!(
        pools(&request(&book, "east/default/vip", naming)),
        ["p 192.0.2.0", "q ADDRESS_NOT_IN_RESERVATION"]
    );
}
