use crate::state::address::Family;
use crate::state::command::{Allocate, Command, IfRefused, InUse};
use crate::state::model::{Claim, Families, Pool};
use crate::state::refusal::{Reason, Rejection};
use crate::state::testing::*;

use super::*;

const TINY: &str = "192.0.2.1/32";

fn tiny() -> Book {
    Book::with_pools(&[pool("tiny", &[TINY])])
}

fn numbered(index: usize) -> String {
    format!("east/default/{index}")
}

#[test]
fn a_freed_address_goes_to_who_waits_longest() {
    let mut book = tiny();
    for index in 0..4 {
        book.queue(&numbered(index), claim());
    }
    for index in 0..4 {
        assert_eq!(book.held(&numbered(index)), "192.0.2.1");
        assert!((index + 1..4).all(|later| book.held(&numbered(later)) == "(NO_FREE_ADDRESS)"));
        book.run(release(&numbered(index))).expect("released");
    }
}

#[test]
fn one_freed_address_costs_one_decision_however_many_wait() {
    let mut book = tiny();
    book.take("west/default/x", claim());
    for index in 0..200 {
        book.step(queued(&numbered(index), claim()))
            .expect("queued");
    }
    let mut changes = Vec::new();
    for index in 0..200 {
        let holder = match index {
            0 => "west/default/x".to_owned(),
            _ => numbered(index - 1),
        };
        book.step(release(&holder)).expect("released");
        assert_eq!(book.settle(&mut changes), 1);
        assert_eq!(book.held(&numbered(index)), "192.0.2.1");
    }
}

/// A freed address is not offered to claims that could not use it.
#[test]
fn only_those_are_woken_whom_the_change_can_help() {
    let mut red = pool("red", &["198.51.100.1/32"]);
    red.namespaces = [name("red")].into();
    let mut manual = pool("manual", &["203.0.113.1/32"]);
    manual.auto_assign = false;
    let mut dual = pool("east/dual", &["192.0.2.9/32", "2001:db8::1/128"]);
    dual.auto_assign = false;
    let mut book = Book::with_pools(&[pool("tiny", &[TINY]), red, manual, dual]);
    let full = [
        ("east/x/tiny", from_pool("tiny")),
        ("east/red/red", from_pool("red")),
        ("east/x/manual", from_pool("manual")),
        (
            "east/x/dual",
            Claim {
                families: Families::Both,
                ..from_pool("dual")
            },
        ),
    ];
    for (owner, claim) in full {
        book.take(owner, claim);
    }
    let waiting: [(&str, Claim); 9] = [
        ("east/a/any", claim()),
        ("east/a/v6", families(Families::One(Family::V6))),
        (
            "east/a/both",
            Claim {
                families: Families::Both,
                ..from_pool("tiny")
            },
        ),
        ("east/a/named", from_pool("manual")),
        ("east/red/any", claim()),
        ("east/a/at", for_addresses(&["192.0.2.1"])),
        ("east/a/at-other", for_addresses(&["203.0.113.1"])),
        ("east/a/unknown", from_pool("missing")),
        ("west/a/any", claim()),
    ];
    for (owner, claim) in waiting {
        book.queue(owner, claim);
    }
    let mut woken = |owner: &str| {
        book.step(release(owner)).expect("released");
        let mut woken = Vec::new();
        while let Some(command) = book.state.follow_up() {
            let Command::Redecide(owner) = command else {
                panic!("{command:?}");
            };
            woken.push(owner.to_string());
            // Nobody takes it, so it is offered to everyone who could.
        }
        woken
    };
    assert_eq!(
        woken("east/x/tiny"),
        ["east/a/any", "east/red/any", "east/a/at", "west/a/any"]
    );
    assert_eq!(woken("east/red/red"), ["east/red/any"]);
    assert_eq!(woken("east/x/manual"), ["east/a/named", "east/a/at-other"]);
    assert!(woken("east/x/dual").is_empty());
}

#[test]
fn a_claim_for_both_families_is_woken_when_its_pool_has_both() {
    let mut book = Book::with_pools(&[pool("dual", &["192.0.2.1/32", "2001:db8::1/128"])]);
    book.take("east/x/v4", claim());
    book.take("east/x/v6", families(Families::One(Family::V6)));
    book.queue("east/a/both", families(Families::Both));
    let mut changes = Vec::new();
    book.step(release("east/x/v4")).expect("released");
    assert_eq!(book.settle(&mut changes), 0);
    book.run(release("east/x/v6")).expect("released");
    assert_eq!(book.held("east/a/both"), "192.0.2.1 2001:db8::1");
}

#[test]
fn a_freed_port_wakes_who_waits_for_it() {
    let mut book = tiny();
    book.take("east/a/x", shared("key", 80));
    book.take("east/a/y", shared("key", 443));
    assert_eq!(
        book.queue("east/a/z", shared("key", 80)),
        "(NO_FREE_ADDRESS)"
    );
    let at = Claim {
        addresses: addresses(&["192.0.2.1"]),
        ..shared("key", 443)
    };
    assert_eq!(book.queue("east/a/at", at), "(PORT_IN_USE)");
    book.take("east/a/x", shared("key", 81));
    assert_eq!(book.held("east/a/z"), "192.0.2.1");
    book.run(release("east/a/y")).expect("released");
    assert_eq!(book.held("east/a/at"), "192.0.2.1");
}

#[test]
fn an_address_that_comes_to_be_shared_wakes_who_could_join() {
    let mut book = tiny();
    book.take("east/a/x", claim());
    book.queue("east/a/other-key", shared("other", 81));
    book.queue("west/a/same-key", shared("key", 81));
    book.queue("east/a/same-key", shared("key", 81));
    book.take("east/a/x", shared("key", 80));
    assert_eq!(book.held("east/a/same-key"), "192.0.2.1");
    assert_eq!(book.held("east/a/other-key"), "(NO_FREE_ADDRESS)");
    assert_eq!(book.held("west/a/same-key"), "(NO_FREE_ADDRESS)");
}

#[test]
fn those_who_share_come_in_together() {
    let mut book = tiny();
    book.take("east/a/x", claim());
    book.queue("east/a/first", shared("key", 80));
    book.queue("east/a/lonely", claim());
    book.queue("east/a/clash", shared("key", 80));
    book.queue("east/a/second", shared("key", 81));
    book.run(release("east/a/x")).expect("released");
    let held =
        ["first", "lonely", "clash", "second"].map(|who| book.held(&format!("east/a/{who}")));
    let full = "(NO_FREE_ADDRESS)";
    assert_eq!(held, ["192.0.2.1", full, full, "192.0.2.1"]);
}

#[test]
fn newcomers_wait_behind_older_claims_that_could_take_the_address() {
    let mut book = tiny();
    book.take("east/x/x", claim());
    book.queue("east/a/old", claim());
    // The engine has not come to the follow-ups yet.
    book.step(release("east/x/x")).expect("released");
    let newcomer = allocate("east/b/new", claim());
    match book.step(newcomer.clone()) {
        Err(crate::state::refusal::Rejection::Refused(refusal)) => {
            assert_eq!(refusal.reason, Reason::BehindOlderClaims);
        }
        other => panic!("{other:?}"),
    }
    let at = Allocate {
        claim: for_addresses(&["192.0.2.1"]).into(),
        ..queued("east/b/at", claim())
    };
    book.step(at).expect("queued");
    book.step(queued("east/b/new", claim())).expect("queued");
    assert_eq!(book.reason("east/b/at"), Some(Reason::BehindOlderClaims));
    assert_eq!(book.reason("east/b/new"), Some(Reason::BehindOlderClaims));
    book.settle(&mut Vec::new());
    assert_eq!(book.held("east/a/old"), "192.0.2.1");
    assert_eq!(
        book.held("east/b/at"),
        "(ADDRESS_TAKEN)",
        "the reason is brought up to date"
    );
    assert_eq!(book.held("east/b/new"), "(NO_FREE_ADDRESS)");
}

#[test]
fn newcomers_do_not_wait_behind_claims_that_something_else_stops() {
    let mut book = Book::with_pools(&[pool("roomy", &["192.0.2.0/24"])]);
    book.queue("east/a/v6", families(Families::One(Family::V6)));
    book.queue("east/a/both", families(Families::Both));
    book.queue("east/a/named", from_pool("missing"));
    book.take("east/x/x", claim());
    book.queue("east/a/at", for_addresses(&["192.0.2.0"]));
    assert_eq!(book.take("east/b/new", claim()), "192.0.2.1");
    // Not even while it is not known yet whether an edit helps them.
    book.step(Command::ApplyPool {
        pool: Box::new(pool("other", &["198.51.100.0/24"])),
        in_use: InUse::Refuse,
    })
    .expect("applied");
    book.step(allocate("east/b/next", claim()))
        .expect("granted");
    assert_eq!(book.held("east/b/next"), "198.51.100.0");
}

#[test]
fn another_incarnation_waits_behind_others_and_not_behind_the_one_before_it() {
    for others in [false, true] {
        let mut book = tiny();
        book.take("east/x/x", claim());
        let incarnation = |uid: &str| {
            let mut command = queued("east/a/old", claim());
            command.owner.uid = uid.to_owned();
            command
        };
        book.run(incarnation("one")).expect("queued");
        if others {
            book.queue("east/b/other", claim());
        }
        // The address is offered to the claim that waits, but the engine has not come to it yet.
        book.step(release("east/x/x")).expect("released");
        book.step(incarnation("two")).expect("asked again");
        book.settle(&mut Vec::new());
        let held = ["east/a/old", "east/b/other"].map(|owner| book.held(owner));
        match others {
            false => assert_eq!(held, ["192.0.2.1", "nothing"]),
            true => assert_eq!(held, ["(NO_FREE_ADDRESS)", "192.0.2.1"]),
        }
    }
    // The same while an edit of a pool has marked the claim.
    let mut book = Book::default();
    book.queue("east/a/old", claim());
    let edit = Command::ApplyPool {
        pool: Box::new(pool("new", &["192.0.2.1/32"])),
        in_use: InUse::Refuse,
    };
    let mut again = allocate("east/a/old", claim());
    again.owner.uid = "two".to_owned();
    let mut first = queued("east/a/old", claim());
    first.owner.uid = "one".to_owned();
    book.run(first).expect("queued");
    book.step(edit).expect("applied");
    book.step(again).expect("granted");
    assert_eq!(book.held("east/a/old"), "192.0.2.1");
}

#[test]
fn who_stood_behind_gets_what_the_older_one_leaves() {
    let mut book = tiny();
    book.take("east/x/x", claim());
    book.queue("east/a/old", claim());
    book.step(release("east/x/x")).expect("released");
    book.step(queued("east/b/new", claim())).expect("queued");
    book.step(release("east/a/old")).expect("withdrawn");
    book.settle(&mut Vec::new());
    assert_eq!(book.held("east/b/new"), "192.0.2.1");
}

#[test]
fn holders_that_have_to_move_come_before_younger_claims() {
    let mut book = tiny();
    book.take("east/a/holder", claim());
    book.queue("east/a/waiting", claim());
    let moved = pool("tiny", &["198.51.100.7/32"]);
    book.edit_pool(&moved, InUse::Move).expect("moved");
    assert_eq!(book.held("east/a/holder"), "198.51.100.7");
    assert_eq!(book.held("east/a/waiting"), "(NO_FREE_ADDRESS)");
}

#[test]
fn what_was_decided_again_is_so_once_more_after_an_undo_and_everything_after_a_restart() {
    let mut book = tiny();
    book.take("east/x/x", claim());
    book.queue("east/a/one", claim());
    book.queue("east/a/two", from_pool("missing"));
    let mut changes = book.step(release("east/x/x")).expect("released");
    book.settle(&mut changes);
    for change in changes.iter().rev() {
        book.state.undo(change);
    }
    assert_eq!(
        book.settle(&mut Vec::new()),
        2,
        "one, and the holder whose release was undone"
    );
    assert_eq!(book.held("east/a/one"), "(NO_FREE_ADDRESS)");
    let mut restarted = State::restore(book.state.revision(), rows(&book.state));
    let woken = std::iter::from_fn(|| restarted.follow_up()).count();
    assert_eq!(woken, 2);
}

#[test]
fn marks_that_an_undone_batch_used_up_are_made_again() {
    let mut book = Book::with_pools(&[
        pool("a", &["192.0.2.0/30"]),
        pool("b", &["198.51.100.0/30"]),
    ]);
    book.take("east/a/one", from_pool("a"));
    book.step(Command::DeletePool {
        key: pool_key("a"),
        in_use: InUse::Move,
    })
    .expect("deleted");
    let mut batch = Vec::new();
    book.settle(&mut batch);
    assert_eq!(book.held("east/a/one"), "(UNKNOWN_POOL)");
    for change in batch.iter().rev() {
        book.state.undo(change);
    }
    assert_eq!(book.held("east/a/one"), "192.0.2.0");
    book.settle(&mut Vec::new());
    assert_eq!(book.held("east/a/one"), "(UNKNOWN_POOL)");
}

#[test]
fn a_restart_finds_holders_whose_pool_is_gone() {
    let mut book = tiny();
    book.take("east/a/one", claim());
    let without_pool = rows(&book.state)
        .into_iter()
        .filter(|row| !matches!(row, crate::state::change::Change::Pool(_)));
    let mut state = State::restore(book.state.revision(), without_pool);
    assert_eq!(
        state.follow_up(),
        Some(Command::Redecide(owner("east/a/one")))
    );
    assert_eq!(state.follow_up(), None);
}

#[test]
fn a_pool_that_hides_another_wakes_its_own_cluster_only() {
    let hidden = Pool {
        auto_assign: false,
        ..pool("p", &["192.0.2.0/30"])
    };
    let mut book = Book::with_pools(&[hidden]);
    book.sync_pools("east", &[pool("east/p", &["198.51.100.1/32"])])
        .expect("synced");
    book.take("east/x/x", from_pool("p"));
    book.queue("east/a/at", for_addresses(&["192.0.2.3"]));
    book.queue("east/a/named", from_pool("p"));
    assert_eq!(book.held("east/a/at"), "(ADDRESS_NOT_IN_POOL)");
    book.sync_pools("east", &[]).expect("synced");
    assert_eq!(book.held("east/a/at"), "192.0.2.3");
    assert_eq!(book.held("east/x/x"), "192.0.2.0");
    assert_eq!(book.held("east/a/named"), "192.0.2.1");
}

#[test]
fn no_more_claims_of_a_cluster_wait_than_may_and_those_that_wait_may_change() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.state.limit_pending(2);
    book.take("east/x/holder", claim());
    for text in ["east/x/a", "east/x/b", "west/x/a"] {
        assert_eq!(book.queue(text, claim()), "(NO_FREE_ADDRESS)");
    }
    let refuse = |book: &mut Book, command: Allocate| match book.run(command) {
        Err(Rejection::Refused(refusal)) => (refusal.reason, refusal.message),
        other => panic!("{other:?}"),
    };
    let (reason, message) = refuse(&mut book, queued("east/x/c", claim()));
    assert_eq!(reason, Reason::TooManyPending);
    let told =
        "2 claims of cluster east wait, and at most 2 may; this one would wait too: no available";
    assert!(message.starts_with(told), "{message}");
    assert_eq!(book.held("east/x/c"), "nothing");
    // What it would not get anyway is refused for that reason.
    let (reason, _) = refuse(&mut book, allocate("east/x/c", claim()));
    assert_eq!(reason, Reason::NoFreeAddress);
    // One that waits may change, also into another incarnation; one that holds may not come to wait.
    assert_eq!(book.queue("east/x/a", from_pool("q")), "(UNKNOWN_POOL)");
    let mut again = queued("east/x/b", claim());
    again.owner.uid = "two".to_owned();
    book.run(again).expect("in place");
    let (reason, _) = refuse(&mut book, queued("east/x/holder", from_pool("q")));
    assert_eq!(reason, Reason::TooManyPending);
    assert_eq!(book.held("east/x/holder"), "192.0.2.0");
    // What an edit of the pools strands waits in any case, and counts.
    let (key, in_use) = (pool_key("p"), InUse::Move);
    book.run(Command::DeletePool { key, in_use })
        .expect("deleted");
    assert_eq!(book.state.tenants.waiting_count("east"), 3);
    let (reason, _) = refuse(&mut book, queued("east/x/c", claim()));
    assert_eq!(reason, Reason::TooManyPending);
    book.run(release("east/x/b")).expect("released");
    book.run(release("east/x/a")).expect("released");
    assert_eq!(book.queue("east/x/c", from_pool("q")), "(UNKNOWN_POOL)");
}

#[test]
fn the_number_of_those_who_wait_follows_every_change() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    let waiting = |book: &Book| book.state.tenants.waiting_count("east");
    book.take("east/x/a", claim());
    book.queue("east/x/b", claim());
    book.queue("east/x/a", from_pool("q"));
    assert_eq!(waiting(&book), 2);
    let changes = book.run(release("east/x/a")).expect("released");
    assert_eq!(waiting(&book), 0);
    for change in changes.iter().rev() {
        book.state.undo(change);
    }
    assert_eq!(waiting(&book), 2);
}

/// So many hold addresses of pool `p`, which an edit takes from them all; nothing is decided again
/// yet.
fn stranded(holders: usize) -> Book {
    let mut book = Book::with_pools(&[pool("p", &["10.0.0.0/16"]), pool("q", &["192.0.2.0/24"])]);
    for number in 0..holders {
        let owner = format!("east/x/{number}");
        book.step(allocate(&owner, from_pool("p")))
            .expect("granted");
    }
    let pool = Pool {
        namespaces: [name("y")].into(),
        ..pool("p", &["10.1.0.0/16"])
    };
    book.step(Command::ApplyPool {
        pool: Box::new(pool),
        in_use: InUse::Move,
    })
    .expect("edited");
    assert_eq!(book.state.waiting.marked(), holders);
    book
}

/// How many marked allocations were looked at since the last time.
fn looked_at(book: &Book) -> usize {
    let counter = &book.state.waiting.marks.looked_at;
    counter.swap(0, std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn a_newcomer_is_held_against_few_of_those_whom_an_edit_strands() {
    let mut book = stranded(3000);
    looked_at(&book);
    // Nobody of them could take an address of the other pool.
    book.step(allocate("west/y/a", from_pool("q")))
        .expect("granted");
    assert_eq!(looked_at(&book), 0);
    // Of this one nobody could take one either, but that is found out by one decision after the other.
    book.step(queued("west/y/b", from_pool("p")))
        .expect("queued");
    assert_eq!(book.reason("west/y/b"), Some(Reason::BehindOlderClaims));
    let looks = looked_at(&book);
    assert!(
        (1..=1024).contains(&looks),
        "{looks} marked holders looked at"
    );
    book.settle(&mut Vec::new());
    assert_sound(&book.state);
    assert_eq!(book.held("west/y/b"), "10.1.0.0");
}

#[test]
fn an_edit_that_is_taken_back_leaves_nothing_to_be_decided() {
    let mut book = stranded(100);
    let edit = book.step(Command::ApplyPool {
        pool: Box::new(pool("p", &["10.0.0.0/16"])),
        in_use: InUse::Move,
    });
    assert_eq!(edit.expect("edited").len(), 1);
    assert_eq!(book.settle(&mut Vec::new()), 0);
    let tried = book.step(Command::ApplyPool {
        pool: Box::new(pool("p", &["10.1.0.0/16"])),
        in_use: InUse::Move,
    });
    for change in tried.expect("decided").iter().rev() {
        book.state.undo(change);
    }
    assert_eq!(book.settle(&mut Vec::new()), 0);
}

#[test]
fn a_pool_that_hides_another_no_more_leaves_nothing_to_be_decided() {
    let mut book = Book::with_pools(&[pool("p", &["10.0.0.0/24"])]);
    book.take("east/x/a", claim());
    let sync = |pools: &[Pool]| Command::SyncPools {
        cluster: name("east"),
        pools: pools.to_vec(),
        fence: 0,
    };
    book.step(sync(&[pool("east/p", &["10.1.0.0/24"])]))
        .expect("synced");
    assert_eq!(book.state.waiting.marked(), 1);
    book.step(sync(&[])).expect("synced");
    assert_eq!(book.settle(&mut Vec::new()), 0);
    assert_eq!(book.held("east/x/a"), "10.0.0.0");
}

#[test]
fn an_edit_takes_marks_off_those_only_whom_it_can_concern() {
    let mut book = stranded(300);
    let all: &[&str] = &["0.0.0.0/0"];
    book.step(apply_space(fenced(&[("east", all)]), InUse::Refuse))
        .expect("granted");
    looked_at(&book);
    // Another pool grows, once after the other, and so do grants of another cluster.
    for last in 1..9 {
        let other = pool("q", &[&format!("192.0.2.0-192.0.3.{last}")]);
        book.step(Command::ApplyPool {
            pool: Box::new(other),
            in_use: InUse::Refuse,
        })
        .expect("edited");
        let part = format!("192.0.2.0-192.0.2.{last}");
        let grants: [(&str, &[&str]); 2] = [("east", all), ("west", &[&part])];
        book.step(apply_space(fenced(&grants), InUse::Refuse))
            .expect("granted");
    }
    assert_eq!(looked_at(&book), 0);
    assert_eq!(book.state.waiting.marked(), 300);
}

/// How many marks were made since the last time.
fn marks_made(book: &mut Book) -> usize {
    std::mem::take(&mut book.state.waiting.marks.again.made)
}

#[test]
fn a_set_of_many_pools_marks_once_who_waits_for_any_of_them() {
    let mut book = Book::default();
    for number in 0..200 {
        let any = match number % 4 {
            0 => Claim {
                reservation: Some(name("r")),
                ..claim()
            },
            _ => claim(),
        };
        book.step(queued(&format!("east/x/{number}"), any))
            .expect("queued");
    }
    let pools = (0..50).map(|number| {
        let range = format!("10.0.{number}.0/32");
        pool(&format!("east/p{number}"), &[&range])
    });
    marks_made(&mut book);
    book.step(Command::SyncPools {
        cluster: name("east"),
        pools: pools.collect(),
        fence: 0,
    })
    .expect("synced");
    let made = marks_made(&mut book);
    assert_eq!((made, book.state.marked()), (200, 200));
    // Who waits on has used its mark up, and is marked again.
    book.settle(&mut Vec::new());
    assert_eq!(book.state.marked(), 0);
    for number in 0..2 {
        book.step(queued(&format!("east/x/late{number}"), claim()))
            .expect("queued");
        let more = pool(&format!("more{number}"), &[&format!("10.1.{number}.0/32")]);
        book.step(Command::ApplyPool {
            pool: Box::new(more),
            in_use: InUse::Refuse,
        })
        .expect("applied");
        assert_eq!(book.state.marked(), 151 + number);
    }
    book.settle(&mut Vec::new());
    let held = book.state.allocations().filter(|one| one.pool.is_some());
    assert_eq!(held.count(), 52);
}

#[test]
fn a_newcomer_is_held_against_few_of_those_who_wait_where_a_quota_counts() {
    let mut book = Book::with_pools(&[pool("p", &["10.0.0.0/16"])]);
    let limited = |limit| Command::ApplyQuota(Box::new(quota("q", "east", limit)));
    book.step(limited(1000)).expect("applied");
    for number in 0..2000 {
        let owner = format!("east/n{number}/a");
        book.step(queued(&owner, from_pool("missing")))
            .expect("queued");
    }
    book.settle(&mut Vec::new());
    book.state.waiting.mark(book.get("east/n1999/a").id);
    book.state.enter_marks();
    looked_at(&book);
    book.step(allocate("east/x/a", claim())).expect("granted");
    let looks = looked_at(&book);
    assert!(looks <= 2, "{looks}");
    // All are to be decided again: they could take all the room there is, and then they have not.
    book.step(limited(1100)).expect("applied");
    assert_eq!(book.state.marked(), 2000);
    book.step(queued("east/x/b", claim())).expect("queued");
    assert_eq!(book.reason("east/x/b"), Some(Reason::BehindOlderClaims));
    let looks = looked_at(&book);
    assert!(looks <= 600, "{looks}");
    book.settle(&mut Vec::new());
    assert!(book.held("east/x/b").starts_with("10.0."));
    // Where there is more room than they can take, it is not looked who they are.
    book.step(limited(10_000)).expect("applied");
    looked_at(&book);
    book.step(allocate("east/x/c", claim())).expect("granted");
    let looks = looked_at(&book);
    assert!(looks <= 300, "{looks}");
}

#[test]
fn an_address_is_offered_to_those_only_who_could_use_its_family() {
    let one_family = pool("p", &["10.0.0.0/16"]);
    let mut book = Book::with_pools(std::slice::from_ref(&one_family));
    let prefer = || families(Families::PreferBoth { first: Family::V4 });
    for index in 0..300 {
        let likes_both = allocate(&numbered(index), prefer());
        book.step(likes_both).expect("granted");
    }
    book.settle(&mut Vec::new());
    looked_at(&book);
    book.step(release(&numbered(7))).expect("released");
    assert_eq!(looked_at(&book), 0, "all have an IPv4 address");
    // The other family goes to the oldest of them, then to the next.
    let dual = pool("p", &["10.0.0.0/16", "2001:db8::/128"]);
    book.apply_pool(&dual).expect("applied");
    assert_eq!(book.held(&numbered(0)), "10.0.0.0 2001:db8::");
    looked_at(&book);
    book.run(release(&numbered(0))).expect("released");
    assert_eq!(book.held(&numbered(1)), "10.0.0.1 2001:db8::");
    let looks = looked_at(&book);
    assert!(looks < 10, "{looks} looked at");
}

#[test]
fn a_restart_decides_of_those_who_would_like_both_families_only_whom_a_pool_can_serve() {
    let dual = pool("q", &["10.1.0.0/16", "2001:db8::/128"]);
    let mut book = Book::with_pools(&[pool("p", &["10.0.0.0/16"]), dual]);
    let prefer = |pool: &str| Claim {
        families: Families::PreferBoth { first: Family::V4 },
        ..from_pool(pool)
    };
    for index in 0..300 {
        let likes_both = allocate(&numbered(index), prefer("p"));
        book.step(likes_both).expect("granted");
    }
    for owner in ["east/x/has", "east/x/likes"] {
        book.step(allocate(owner, prefer("q"))).expect("granted");
    }
    // The process dies before what came free is offered.
    book.step(release("east/x/has")).expect("released");
    book.state = State::restore(book.state.revision(), rows(&book.state));
    assert_eq!(book.settle(&mut Vec::new()), 1);
    assert_eq!(book.held("east/x/likes"), "10.1.0.1 2001:db8::");
}

#[test]
fn who_may_keep_one_of_two_addresses_waits_for_the_other_in_their_own_pool() {
    let closed = Pool {
        auto_assign: false,
        ..pool("p", &["10.0.0.0/31", "2001:db8::/127"])
    };
    let mut book = Book::with_pools(&[closed]);
    let from_p = |claim: Claim| Claim {
        pool: Some(name("p")),
        ..claim
    };
    let sharing = |port, families| {
        from_p(Claim {
            families,
            ..shared("k", port)
        })
    };
    assert_eq!(
        book.take("east/red/a", sharing(80, Families::Both)),
        "10.0.0.0 2001:db8::"
    );
    book.take("east/red/c", sharing(81, Families::One(Family::V6)));
    let other = from_p(families(Families::One(Family::V6)));
    assert_eq!(book.take("east/red/b", other), "2001:db8::1");
    // Its IPv6 address is shared with another one under the key that it gives up.
    let mut alone = allocate("east/red/a", families(Families::Both));
    alone.if_refused = IfRefused::Queue;
    book.run(alone).expect("waits");
    assert!(book.held("east/red/a").starts_with("10.0.0.0 2001:db8:: ("));
    book.run(release("east/red/b")).expect("released");
    assert_eq!(book.held("east/red/a"), "10.0.0.0 2001:db8::1");
}
