use crate::state::address::Family;
use crate::state::change::{Change, Edit};
use crate::state::command::{Command, IfRefused, InUse};
use crate::state::model::{Families, Inventory, Standing};
use crate::state::refusal::Reason;
use crate::state::testing::*;

use super::*;

fn apply(quota: Quota) -> Command {
    Command::ApplyQuota(Box::new(quota))
}

fn red() -> QuotaSubject {
    QuotaSubject::Namespace(name("red"))
}

/// A book with one wide pool of both families, another, and quotas.
fn book(quotas: &[Quota]) -> Book {
    let mut book = Book::with_pools(&[
        pool("p", &["10.0.0.0/24", "2001:db8::/120"]),
        pool("q", &["10.1.0.0/24"]),
    ]);
    for quota in quotas {
        book.run(apply(quota.clone())).expect("a good quota");
    }
    book
}

fn held_of(book: &Book, text: &str) -> usize {
    let quota = book.state.quota(text).expect(text);
    book.state.quota_usage(quota).held
}

#[test]
fn a_claim_beyond_a_quota_is_refused_by_its_name_its_limit_and_what_is_held() {
    let mut book = book(&[quota("team", "east", 2)]);
    assert_eq!(book.take("east/red/a", claim()), "10.0.0.0");
    assert_eq!(book.take("east/blue/b", claim()), "10.0.0.1");
    let refusal = book.refused("east/red/c", claim());
    let message = "quota \"team\" allows cluster east 2 addresses of address space default; 2 are \
                   held";
    assert_eq!(refusal.reason, Reason::QuotaExceeded);
    assert_eq!(refusal.message, message);
    assert_eq!(refusal.quota.as_deref(), Some("team"));
    // Not by claiming a certain address, nor by wishing for one.
    let certain = book.refused("east/red/c", for_addresses(&["10.0.0.9"]));
    assert_eq!(
        (certain.reason, certain.message.as_str()),
        (Reason::QuotaExceeded, message)
    );
    let mut wishing = allocate("east/red/c", claim());
    wishing.held = addresses(&["10.0.0.9"]);
    assert!(book.run(wishing).is_err());
    // Another cluster has nothing to do with it.
    assert_eq!(book.take("west/red/c", claim()), "10.0.0.2");
}

#[test]
fn quotas_speak_of_clusters_namespaces_pools_and_families() {
    let of = |subject, pool: Option<&str>, family| Quota {
        subject,
        pool: pool.map(name),
        family,
        ..quota("few", "east", 1)
    };
    let v6 = || families(Families::One(Family::V6));
    // The quota; whose claim it refuses after one of east/red for an IPv4 address of p; whose not.
    let cases = [
        (
            of(QuotaSubject::Cluster, None, None),
            "east/blue/b",
            claim(),
            true,
        ),
        (
            of(QuotaSubject::Cluster, None, None),
            "east/red/b",
            v6(),
            true,
        ),
        (of(red(), None, None), "east/red/b", claim(), true),
        (of(red(), None, None), "east/blue/b", claim(), false),
        (
            of(QuotaSubject::EachNamespace, None, None),
            "east/red/b",
            claim(),
            true,
        ),
        (
            of(QuotaSubject::EachNamespace, None, None),
            "east/blue/b",
            claim(),
            false,
        ),
        (
            of(QuotaSubject::Cluster, Some("p"), None),
            "east/red/b",
            from_pool("p"),
            true,
        ),
        (
            of(QuotaSubject::Cluster, Some("p"), None),
            "east/red/b",
            from_pool("q"),
            false,
        ),
        (
            of(QuotaSubject::Cluster, None, Some(Family::V4)),
            "east/red/b",
            claim(),
            true,
        ),
        (
            of(QuotaSubject::Cluster, None, Some(Family::V4)),
            "east/red/b",
            v6(),
            false,
        ),
    ];
    for (quota, owner_text, claim_of, refused) in cases {
        let mut book = book(std::slice::from_ref(&quota));
        book.take("east/red/a", claim());
        let outcome = book.run(allocate(owner_text, claim_of));
        assert_eq!(outcome.is_err(), refused, "{quota:?} {owner_text}");
    }
    // Where one pool is full by quota, the next one serves.
    let mut book = book(&[of(QuotaSubject::Cluster, Some("p"), None)]);
    book.take("east/red/a", claim());
    assert_eq!(book.take("east/red/b", claim()), "10.1.0.0");
    // Owners without a namespace are one.
    let mut book = self::book(&[of(QuotaSubject::EachNamespace, None, None)]);
    book.take("east/red/a", claim());
    let mut outside = allocate("east/red/b", claim());
    outside.owner.key.namespace = None;
    book.run(outside.clone()).expect("its own number");
    outside.owner.key.name = name("c");
    let refused = book.run(outside).expect_err("one is held").to_string();
    assert!(
        refused.contains("allows cluster east outside namespaces 1"),
        "{refused}"
    );
}

#[test]
fn all_quotas_that_concern_a_claim_hold() {
    let of_red = Quota {
        subject: red(),
        ..quota("red", "east", 2)
    };
    let each = Quota {
        subject: QuotaSubject::EachNamespace,
        ..quota("each", "east", 1)
    };
    let mut book = book(&[quota("all", "east", 2), of_red, each]);
    book.take("east/red/a", claim());
    let refusal = book.refused("east/red/b", claim());
    assert_eq!(refusal.quota.as_deref(), Some("each"));
    book.take("east/blue/a", claim());
    let refusal = book.refused("east/green/a", claim());
    assert_eq!(refusal.quota.as_deref(), Some("all"));
}

#[test]
fn a_shared_address_counts_once_and_may_be_joined_when_no_other_is_allowed() {
    let of_red = Quota {
        subject: red(),
        ..quota("red", "east", 1)
    };
    let mut book = book(&[quota("all", "east", 1), of_red]);
    assert_eq!(
        book.take("east/red/a", for_addresses(&["10.0.0.7"])),
        "10.0.0.7"
    );
    let mut sharing = shared("k", 81);
    sharing.addresses = Vec::new();
    let refusal = book.refused("east/red/b", sharing.clone());
    assert_eq!(
        refusal.reason,
        Reason::QuotaExceeded,
        "the other has no key"
    );
    book.run(release("east/red/a")).expect("released");
    let mut first = shared("k", 80);
    first.addresses = addresses(&["10.0.0.7"]);
    book.take("east/red/a", first);
    // Free ones come before it in the pool, but they would be one more.
    assert_eq!(book.take("east/red/b", sharing), "10.0.0.7");
    assert_eq!((held_of(&book, "all"), held_of(&book, "red")), (1, 1));
    // It counts in each namespace whose owners hold it.
    book.run(apply(quota("blue", "east", 0)))
        .expect_err("the same number as the first");
    let of_blue = Quota {
        subject: QuotaSubject::Namespace(name("blue")),
        ..quota("blue", "east", 0)
    };
    book.run(apply(of_blue)).expect("a quota");
    book.run(apply(quota("all", "east", 2))).expect("raised");
    let refusal = book.refused("east/blue/c", shared("k", 82));
    assert_eq!(refusal.quota.as_deref(), Some("blue"));
    // The last one who lets go makes room.
    book.run(release("east/red/a")).expect("released");
    assert_eq!(held_of(&book, "all"), 1);
    book.run(release("east/red/b")).expect("released");
    assert_eq!(held_of(&book, "all"), 0);
}

#[test]
fn who_is_left_alone_with_a_shared_address_may_exchange_it_at_the_limit() {
    let mut book = book(&[quota("all", "east", 1)]);
    book.take("east/red/a", shared("k", 80));
    let mut sharing = shared("k", 81);
    sharing.addresses = Vec::new();
    assert_eq!(book.take("east/red/b", sharing), "10.0.0.0");
    // As long as the other holds the address, one more would be counted.
    let mut other = allocate("east/red/b", for_addresses(&["10.0.0.7"]));
    other.if_refused = IfRefused::Queue;
    book.run(other).expect("waits");
    assert_eq!(book.held("east/red/b"), "10.0.0.0 (QUOTA_EXCEEDED)");
    book.run(release("east/red/a")).expect("released");
    assert_eq!(book.held("east/red/b"), "10.0.0.7");
    assert_eq!(held_of(&book, "all"), 1);
}

#[test]
fn a_dual_stack_claim_takes_two_and_one_that_prefers_both_may_get_one() {
    let mut book = book(&[quota("all", "east", 3)]);
    let both = families(Families::Both);
    assert_eq!(book.take("east/red/a", both.clone()), "10.0.0.0 2001:db8::");
    let refusal = book.refused("east/red/b", both);
    assert!(
        refusal
            .message
            .ends_with("2 are held and 2 more are asked for"),
        "{}",
        refusal.message
    );
    let prefer = families(Families::PreferBoth { first: Family::V4 });
    assert_eq!(book.take("east/red/b", prefer), "10.0.0.1");
    // It grows as soon as the quota allows it.
    book.run(apply(quota("all", "east", 4))).expect("raised");
    assert_eq!(book.held("east/red/b"), "10.0.0.1 2001:db8::1");
}

#[test]
fn a_pair_is_found_where_there_is_room_for_one_and_the_other_is_shared() {
    for families in [Families::Both, Families::PreferBoth { first: Family::V6 }] {
        let mut book = book(&[quota("all", "east", 2)]);
        let mut first = shared("k", 80);
        first.addresses = addresses(&["10.0.0.7"]);
        book.take("east/red/a", first);
        // Free ones come before 10.0.0.7 in the pool, but leave no room for the other family.
        let mut sharing = shared("k", 81);
        sharing.families = families;
        assert_eq!(book.take("east/red/b", sharing), "10.0.0.7 2001:db8::");
        assert_eq!(held_of(&book, "all"), 2);
    }
}

#[test]
fn a_quota_is_told_also_where_all_that_is_left_is_reserved_for_the_owner() {
    let mut book = Book::with_pools(&[pool("p", &["10.0.0.0/30"])]);
    let kept = reservation("kept", &["10.0.0.0/30"], Some("east/red"));
    book.run(Command::ApplyReservation(Box::new(kept)))
        .expect("reserved");
    book.run(apply(quota("all", "east", 0))).expect("a quota");
    let refusal = book.refused("east/red/a", claim());
    assert_eq!(refusal.reason, Reason::QuotaExceeded);
    assert_eq!(refusal.quota.as_deref(), Some("all"));
}

#[test]
fn a_held_address_is_kept_and_growth_to_the_second_family_counts() {
    let mut book = book(&[]);
    book.take("east/red/a", claim());
    book.take("east/red/b", claim());
    let changes = book
        .run(apply(quota("all", "east", 1)))
        .expect("lowered below use");
    assert!(
        matches!(changes.as_slice(), [Change::Quota(_)]),
        "nobody is evicted: {changes:?}"
    );
    assert_eq!(held_of(&book, "all"), 2);
    // The same claim again, another one that the address fits, and another address instead of it.
    assert_eq!(book.take("east/red/a", claim()), "10.0.0.0");
    assert_eq!(book.take("east/red/a", shared("k", 1)), "10.0.0.0");
    assert_eq!(book.take("east/red/a", from_pool("q")), "10.1.0.0");
    let both = families(Families::Both);
    let refusal = book.refused("east/red/a", both.clone());
    assert_eq!(refusal.reason, Reason::QuotaExceeded);
    assert_eq!(book.queue("east/red/a", both), "10.1.0.0 (QUOTA_EXCEEDED)");
    // Holders of a pool that goes away find another address in spite of the quota.
    let gone = Command::DeletePool {
        key: pool_key("q"),
        in_use: InUse::Move,
    };
    book.run(gone).expect("deleted");
    assert_eq!(
        book.held("east/red/a"),
        "(QUOTA_EXCEEDED)",
        "two at once are more than before"
    );
    assert_eq!(book.take("east/red/b", claim()), "10.0.0.1");
}

#[test]
fn those_who_wait_for_a_quota_are_served_in_order_of_arrival_and_in_the_same_decision() {
    let mut book = book(&[quota("all", "east", 1)]);
    book.take("east/red/a", claim());
    // What each wants is free; only the quota stands in its way.
    assert_eq!(book.queue("east/red/b", from_pool("q")), "(QUOTA_EXCEEDED)");
    assert_eq!(book.queue("east/blue/c", claim()), "(QUOTA_EXCEEDED)");
    assert_eq!(book.queue("east/red/d", claim()), "(QUOTA_EXCEEDED)");
    assert_eq!(book.queue("west/red/e", claim()), "10.0.0.1");
    let changes = book.run(release("east/red/a")).expect("released");
    assert_eq!(
        changes.len(),
        2,
        "one goes, one comes, nobody else is touched: {changes:?}"
    );
    assert_eq!(book.held("east/red/b"), "10.1.0.0");
    // A newcomer does not overtake, whatever it asks for.
    assert_eq!(book.queue("east/red/f", from_pool("q")), "(QUOTA_EXCEEDED)");
    book.run(apply(quota("all", "east", 2))).expect("raised");
    assert_eq!(book.held("east/blue/c"), "10.0.0.0");
    assert_eq!(book.held("east/red/d"), "(QUOTA_EXCEEDED)");
    book.run(Command::DeleteQuota(name("all")))
        .expect("deleted");
    assert_eq!(book.held("east/red/d"), "10.0.0.2");
    assert_eq!(book.held("east/red/f"), "10.1.0.1");
}

#[test]
fn room_within_a_quota_is_not_taken_by_a_newcomer_while_older_claims_are_due() {
    let mut book = book(&[quota("all", "east", 1)]);
    book.take("east/red/a", claim());
    book.queue("east/red/b", from_pool("q"));
    // The follow-up is not decided yet: a batch has room for so many.
    book.step(release("east/red/a")).expect("released");
    let newcomer = book.step(allocate("east/red/new", claim()));
    let Err(Rejection::Refused(refusal)) = newcomer else {
        panic!("{newcomer:?}");
    };
    assert_eq!(refusal.reason, Reason::BehindOlderClaims);
    book.settle(&mut Vec::new());
    assert_eq!(book.held("east/red/b"), "10.1.0.0");
}

/// Room is no exception: the claim before goes in the same decision.
#[test]
fn another_incarnation_does_not_wait_for_room_behind_the_one_before_it() {
    let incarnation = |uid: &str, claim| {
        let mut command = queued("east/red/a", claim);
        command.owner.uid = uid.to_owned();
        command
    };
    let mut book = book(&[quota("all", "east", 1)]);
    book.run(incarnation("one", for_addresses(&["203.0.113.1"])))
        .expect("queued");
    // Marks the claim; the engine has not come to it yet.
    let edit = Command::ApplyPool {
        pool: Box::new(pool("r", &["203.0.113.1-203.0.113.2"])),
        in_use: InUse::Refuse,
    };
    book.step(edit).expect("applied");
    book.step(incarnation("two", claim())).expect("granted");
    book.settle(&mut Vec::new());
    assert_eq!(book.held("east/red/a"), "10.0.0.0");
}

#[test]
fn one_freed_address_costs_one_decision_however_many_wait_for_the_quota() {
    let mut book = book(&[quota("all", "east", 2)]);
    book.take("east/red/a", claim());
    book.take("east/red/b", claim());
    for index in 0..200 {
        book.queue(&format!("east/red/{index}"), from_pool("q"));
    }
    let mut changes = book.step(release("east/red/a")).expect("released");
    assert_eq!(book.settle(&mut changes), 1);
}

#[test]
fn usage_follows_what_is_held_and_what_a_quota_is_about() {
    let mut book = book(&[]);
    book.take("east/red/a", families(Families::Both));
    book.take("east/red/b", from_pool("q"));
    book.take("east/blue/c", claim());
    book.take("west/red/d", claim());
    let usage = |book: &mut Book, quota: Quota| {
        book.run(apply(quota)).expect("a quota");
        let quota = book.state.quota("u").expect("applied");
        book.state.quota_usage(quota)
    };
    let of = |held, namespace: Option<&str>| QuotaUsage {
        held,
        namespace: namespace.map(name),
    };
    let base = quota("u", "east", 9);
    assert_eq!(usage(&mut book, base.clone()), of(4, None));
    let of_p = Quota {
        pool: Some(name("p")),
        ..base.clone()
    };
    assert_eq!(usage(&mut book, of_p), of(3, None));
    let of_v6 = Quota {
        family: Some(Family::V6),
        ..base.clone()
    };
    assert_eq!(usage(&mut book, of_v6), of(1, None));
    let each = Quota {
        subject: QuotaSubject::EachNamespace,
        ..base.clone()
    };
    assert_eq!(usage(&mut book, each), of(3, Some("red")));
    let elsewhere = Quota {
        space: name("lab"),
        ..base
    };
    assert_eq!(usage(&mut book, elsewhere), of(0, None));
}

#[test]
fn a_quota_is_about_something_that_no_other_is_about() {
    let mut book = book(&[quota("all", "east", 1)]);
    let twin = book.run(apply(quota("twin", "east", 5)));
    let Err(Rejection::Invalid(bad)) = twin else {
        panic!("{twin:?}");
    };
    assert_eq!(bad[0].field, "quota.name");
    assert!(bad[0].message.contains("\"all\""), "{}", bad[0].message);
    book.run(apply(quota("twin", "west", 5)))
        .expect("of another cluster");
    // An equal quota changes nothing, an unknown one cannot be deleted.
    assert_eq!(book.run(apply(quota("all", "east", 1))), Ok(Vec::new()));
    let unknown = book.run(Command::DeleteQuota(name("none")));
    assert_eq!(unknown, Err(Rejection::UnknownQuota(name("none"))));
}

#[test]
fn what_is_in_use_is_taken_back_after_a_loss_beyond_any_quota() {
    let mut book = book(&[quota("all", "east", 1)]);
    let expected = Command::BeginSync {
        cluster: name("east"),
        uid: String::new(),
        fence: 0,
    };
    let mut rows = rows(&book.state);
    rows.push(Change::Cluster(Edit {
        before: None,
        after: Some(Arc::new(crate::state::model::Cluster {
            name: name("east"),
            uid: String::new(),
            inventory: Inventory::Expected,
            fence: 0,
            create_time: crate::state::model::Timestamp(0),
            revision: book.state.revision(),
        })),
    }));
    book.state = State::restore(book.state.revision(), rows);
    book.run(expected).expect("begun");
    for (text, address) in [("east/red/a", "10.0.0.5"), ("east/red/b", "10.0.0.6")] {
        let mut held = allocate(text, claim());
        held.held = addresses(&[address]);
        book.run(held).expect("it is in use");
        assert_eq!(book.held(text), address);
    }
    let done = Command::EndSync {
        cluster: name("east"),
        fence: 0,
    };
    book.run(done).expect("complete");
    assert_eq!(held_of(&book, "all"), 2);
    assert_eq!(
        book.refused("east/red/c", claim()).reason,
        Reason::QuotaExceeded
    );
}

#[test]
fn a_refusal_that_is_stored_names_its_quota() {
    let mut book = book(&[quota("none", "east", 0)]);
    book.queue("east/red/a", claim());
    let Standing::Pending(refusal) = &book.get("east/red/a").standing else {
        panic!("it waits");
    };
    assert_eq!(refusal.quota.as_deref(), Some("none"));
    let reasons: Vec<Reason> = refusal.attempts.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [Reason::QuotaExceeded, Reason::QuotaExceeded]);
}

/// Whichever family comes first, the other is looked for where the quota has room for it.
#[test]
fn a_second_family_comes_from_a_pool_whose_quota_has_room() {
    let mut full = quota("few", "east", 1);
    full.pool = Some(name("p"));
    for first in [Family::V4, Family::V6] {
        let mut book = book(&[full.clone()]);
        let claim = from_two_pools(Families::PreferBoth { first });
        assert_eq!(book.take("east/red/a", claim), "10.1.0.0 2001:db8::");
        let mut pools = book.pools_of("east/red/a");
        pools.sort();
        assert_eq!(pools, ["p", "q"]);
    }
}
