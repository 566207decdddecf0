//! The whole state: random sequences of commands against a naive model, and what holds for all
//! commands alike.

#[cfg(test)]
mod cures;
#[cfg(test)]
mod drains;
#[cfg(test)]
mod explained;
#[cfg(test)]
mod metallb;
mod naive;
pub(crate) mod random;
#[cfg(test)]
mod spaces;

use super::change::Change;
use super::command::{Command, InUse};
use super::model::{Families, Placement};
use super::testing::*;
use super::*;

/// How many sequences of commands a test tries, 40 commands long on average: in the usual run 10^5
/// commands in all. `PHAROS_SEQUENCES` asks for another number.
fn sequences(usual: u32) -> u32 {
    let asked = std::env::var("PHAROS_SEQUENCES");
    asked.map_or(usual, |text| text.parse().expect("PHAROS_SEQUENCES"))
}

#[test]
fn every_decision_takes_the_next_revision_and_stamps_it() {
    let mut book = Book::default();
    let first = pool("east/a", &["192.0.2.0/30"]);
    let second = pool("east/b", &["198.51.100.0/30"]);
    let mut log = book
        .sync_pools("east", &[first.clone(), second])
        .expect("synced");
    log.extend(
        book.run(queued("east/x/a", from_pool("a")))
            .expect("granted"),
    );
    log.extend(
        book.run(queued("east/x/c", from_pool("c")))
            .expect("queued"),
    );
    let renamed = pool("east/c", &["192.0.2.0/30"]);
    log.extend(book.sync_pools("east", &[renamed]).expect("synced"));
    log.extend(book.run(release("east/x/a")).expect("released"));
    let mut revision = 0;
    for change in log.iter().filter(|change| change.is_decision()) {
        revision += 1;
        let stamped = match change {
            Change::Allocation(edit) => edit.after.as_ref().map(|after| after.revision),
            Change::Pool(edit) => edit.after.as_ref().map(|after| after.revision),
            Change::Cluster(edit) => edit.after.as_ref().map(|after| after.revision),
            Change::Quota(edit) => edit.after.as_ref().map(|after| after.revision),
            Change::Advertisement(_)
            | Change::BgpPeer(_)
            | Change::BfdProfile(_)
            | Change::Reservation(_)
            | Change::AddressSpace(_)
            | Change::Unavailable(_)
            | Change::Node(_)
            | Change::Backends(_)
            | Change::Placement(_)
            | Change::Tenure(_) => panic!("{change:?}"),
        };
        assert!(
            stamped.is_none_or(|stamped| stamped == revision),
            "{change:?}"
        );
    }
    assert_eq!(book.state.revision(), revision);
}

#[test]
fn rows_of_a_store_may_come_in_any_order() {
    let mut book = Book::with_pools(&[pool("dual", &["192.0.2.0/30", "2001:db8::/126"])]);
    book.take("east/x/a", families(Families::Both));
    book.take("east/x/b", shared("key", 80));
    book.take("east/x/c", shared("key", 81));
    book.queue("west/x/d", from_pool("missing"));
    let mut backwards = rows(&book.state);
    backwards.reverse();
    let restored = State::restore(book.state.revision(), backwards);
    assert_same_book(&restored, &book.state);
}

#[test]
fn placements_are_kept_like_facts() {
    let placement = |nodes: &[&str]| {
        Arc::new(Placement {
            group: 7,
            cluster: name("east"),
            nodes: nodes.iter().map(|node| name(node)).collect(),
            announced: [address("192.0.2.1")].into(),
        })
    };
    let mut state = State::new();
    let changes = [
        Edit {
            before: None,
            after: Some(placement(&["a"])),
        },
        Edit {
            before: Some(placement(&["a"])),
            after: Some(placement(&["b", "a"])),
        },
    ];
    for edit in changes.iter().cloned() {
        state.apply(&Change::Placement(edit));
    }
    assert_eq!(state.placement(7), Some(&placement(&["b", "a"])));
    assert_eq!(state.revision(), 0);
    for edit in changes.into_iter().rev() {
        state.undo(&Change::Placement(edit));
    }
    assert_eq!(state.placements().count(), 0);
    assert_eq!(state.follow_up(), None);
}

#[test]
fn trying_a_command_out_leaves_nothing_behind() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"])]);
    book.take("east/x/a", claim());
    book.take("east/x/b", claim());
    book.queue("east/x/c", claim());
    let commands: [Command; 4] = [
        release("east/x/a").into(),
        queued("north/x/a", for_addresses(&["192.0.2.1"])).into(),
        Command::DeletePool {
            key: pool_key("p"),
            in_use: InUse::Move,
        },
        Command::DeleteCluster {
            cluster: name("east"),
        },
    ];
    for command in commands {
        let before = rows(&book.state);
        let mut changes = book.step(command).expect("decided");
        book.settle(&mut changes);
        for change in changes.iter().rev() {
            book.state.undo(change);
        }
        assert_eq!(rows(&book.state), before);
        let mut more = Vec::new();
        book.settle(&mut more);
        assert_eq!(more, [], "and it is settled as before");
    }
}

#[test]
fn trying_out_what_concerns_nobody_who_waits_costs_them_nothing() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"]), pool("q", &["192.0.2.8/29"])]);
    book.take("east/x/a", from_pool("p"));
    book.take("east/x/b", from_pool("p"));
    for index in 0..20 {
        book.queue(&format!("east/x/{index}"), from_pool("p"));
    }
    let mut trial = |command: Command| {
        let mut changes = book.step(command).expect("decided");
        book.settle(&mut changes);
        for change in changes.iter().rev() {
            book.state.undo(change);
        }
        book.settle(&mut Vec::new())
    };
    assert_eq!(trial(allocate("east/x/new", from_pool("q")).into()), 0);
    assert_eq!(trial(queued("east/x/new", from_pool("p")).into()), 0);
    // The one who got the address, and the one who had it.
    assert_eq!(trial(release("east/x/a").into()), 2);
}
