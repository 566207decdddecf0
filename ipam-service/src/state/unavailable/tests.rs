use std::collections::BTreeMap;

use crate::state::announce::{Assignment, ClusterDelta, Deleted};
use crate::state::command::{Fact, InUse};
use crate::state::model::*;
use crate::state::refusal::Reason;
use crate::state::testing::*;
use crate::state::{Acknowledged, Published, StreamPlace};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn resting(key: &str, ranges: &[&str], seconds: u64) -> Pool {
    Pool {
        reuse_delay: Duration::from_secs(seconds),
        ..pool(key, ranges)
    }
}

fn key_of(text: &str) -> AssignmentKey {
    AssignmentKey {
        space: space(),
        address: address(text),
    }
}

fn node_key(node: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(node),
    }
}

impl Book {
    /// Time passes.
    fn pass(&mut self, period: Duration) {
        let now = Moment(self.state.moment.0 + period);
        self.state.advance(now);
        self.settle(&mut Vec::new());
        assert_sound(&self.state);
    }

    /// The candidates of addresses are published, at a position of the stream of cluster `east`.
    fn announce(&mut self, held: &[(&str, &[&str])], position: u64) {
        let mut delta = ClusterDelta::default();
        for (text, nodes) in held {
            let key = key_of(text);
            if nodes.is_empty() {
                delta.removals.push(key);
                continue;
            }
            let set = Arc::new(NodeSet::new(nodes.iter().map(|node| name(node))));
            delta.upserts.push(Arc::new(Assignment {
                key,
                group: 1,
                nodes: set.nodes.clone(),
                candidates: set.id,
                interfaces: Some(Arc::default()),
                left_out: Vec::new(),
                owners: Vec::new(),
                probe: false,
                fenced: None,
                bgp: None,
            }));
            delta.node_sets.push(set);
        }
        self.publish(BTreeMap::from([(name("east"), delta)]), 1, position);
    }

    fn publish(&mut self, deltas: BTreeMap<Name, ClusterDelta>, stream: u64, position: u64) {
        self.state.published(Published {
            deltas: &deltas,
            ended: &BTreeMap::new(),
            place: &|_| Some(StreamPlace { stream, position }),
        });
    }

    /// The cluster `east` is deleted. Its first stream ends here, and its second one begins.
    fn delete_cluster(&mut self, position: u64) {
        let cluster = name("east");
        self.run(Command::DeleteCluster { cluster })
            .expect("deleted");
        let ended = StreamPlace {
            stream: 1,
            position,
        };
        self.state.published(Published {
            deltas: &BTreeMap::from([(
                name("east"),
                ClusterDelta {
                    removals: vec![key_of("192.0.2.0")],
                    deleted: Some(Deleted::Gone),
                    ..ClusterDelta::default()
                },
            )]),
            ended: &BTreeMap::from([(name("east"), ended)]),
            place: &|_| None,
        });
    }

    fn acknowledge(&mut self, node: &str, position: u64) {
        self.acknowledge_stream(node, 1, position);
    }

    fn acknowledge_stream(&mut self, node: &str, stream: u64, position: u64) {
        self.state.acknowledged([Acknowledged {
            node: node_key(node),
            place: StreamPlace { stream, position },
        }]);
        self.settle(&mut Vec::new());
        assert_sound(&self.state);
    }

    fn why(&self, text: &str) -> Vec<UnavailableReason> {
        let rows = self.state.unavailable(&space(), address(text));
        rows.iter().map(|row| row.key.reason).collect()
    }

    fn give_back(&mut self, owner: &str) -> Vec<Change> {
        self.run(release(owner)).expect("released")
    }
}

#[test]
fn an_address_that_nobody_announced_is_free_at_once() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.queue("east/x/b", claim());
    book.give_back("east/x/a");
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
}

#[test]
fn an_address_rests_for_the_delay_of_its_pool_and_then_goes_to_who_waits() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 60)]);
    book.take("east/x/a", claim());
    book.give_back("east/x/a");
    let refused = book.refused("east/x/b", claim());
    assert_eq!(refused.reason, Reason::AddressDraining);
    let told = "192.0.2.0 was given back a short time ago and rests for 60 s";
    assert!(refused.message.contains(told), "{}", refused.message);
    let refused = book.refused("east/x/b", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressDraining);
    assert_eq!(book.queue("west/x/b", claim()), "(ADDRESS_DRAINING)");
    assert_eq!(
        book.queue("east/x/c", for_addresses(&["192.0.2.0"])),
        "(ADDRESS_DRAINING)"
    );
    book.pass(Duration::from_secs(59));
    assert_eq!(book.held("west/x/b"), "(ADDRESS_DRAINING)");
    book.pass(Duration::from_secs(1));
    assert_eq!(book.held("west/x/b"), "192.0.2.0");
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn automatic_choice_prefers_addresses_that_do_not_rest() {
    // Also for the owner that they rest for.
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/31"], 60)]);
    book.take("east/x/a", claim());
    book.give_back("east/x/a");
    assert_eq!(book.take("east/x/a", claim()), "192.0.2.1");
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/31"], 60)]);
    book.take("east/x/a", claim());
    book.give_back("east/x/a");
    assert_eq!(book.take("east/x/b", claim()), "192.0.2.1");
    let usage = book.state.pool_usage(&pool_key("p")).expect("a pool").v4;
    assert_eq!((usage.held, usage.draining, usage.free), (1, 1, 0));
    // Its own it may have again at once, with nothing else left.
    assert_eq!(book.take("east/x/a", claim()), "192.0.2.0");
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn the_longest_delay_of_all_pools_around_the_address_counts() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 10)]);
    book.sync_pools("west", &[resting("west/q", &["192.0.2.0/24"], 60)])
        .expect("synced");
    book.take("east/x/a", claim());
    book.give_back("east/x/a");
    book.queue("east/x/b", claim());
    book.pass(Duration::from_secs(59));
    assert_eq!(book.held("east/x/b"), "(ADDRESS_DRAINING)");
    book.pass(Duration::from_secs(1));
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
}

#[test]
fn an_announced_address_drains_until_every_candidate_has_acknowledged() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 5);
    book.acknowledge("n1", 5);
    book.acknowledge("n2", 5);
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    assert_eq!(book.queue("east/x/b", claim()), "(ADDRESS_DRAINING)");
    book.announce(&[("192.0.2.0", &[])], 6);
    book.acknowledge("n1", 6);
    book.acknowledge("n2", 5);
    assert_eq!(book.held("east/x/b"), "(ADDRESS_DRAINING)");
    book.acknowledge("n2", 6);
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn an_owner_that_takes_its_own_address_back_needs_no_drain() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1"])], 5);
    book.give_back("east/x/a");
    let refused = book.refused("east/x/b", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressDraining);
    assert_eq!(
        book.take("east/x/a", for_addresses(&["192.0.2.0"])),
        "192.0.2.0"
    );
    assert_eq!(book.why("192.0.2.0"), []);
    // Another incarnation is no other owner.
    let mut again = allocate("east/x/a", claim());
    again.owner.uid = "two".to_owned();
    book.run(again).expect("granted");
    assert_eq!(book.held("east/x/a"), "192.0.2.0");
}

#[test]
fn a_deleted_clusters_owner_takes_nothing_back_without_a_drain() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/30"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1"])], 5);
    let cluster = name("east");
    book.run(Command::DeleteCluster { cluster })
        .expect("deleted");
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    // Whoever bears the names now is another installation.
    let refused = book.refused("east/x/a", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressDraining);
}

#[test]
fn a_node_of_a_new_installation_acknowledges_nothing_for_its_namesake() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1"])], 5);
    book.acknowledge("n1", 5);
    book.delete_cluster(6);
    book.queue("west/x/b", claim());
    // Another machine with the name of the old one.
    book.publish(
        BTreeMap::from([(name("east"), ClusterDelta::default())]),
        2,
        7,
    );
    book.acknowledge_stream("n1", 2, 7);
    assert_eq!(book.held("west/x/b"), "(ADDRESS_DRAINING)");
    // The old one, on the stream that it had.
    book.acknowledge_stream("n1", 1, 6);
    assert_eq!(book.held("west/x/b"), "192.0.2.0");
}

#[test]
fn addresses_that_come_free_together_wait_for_one_set() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    let texts = ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
    for (index, _) in texts.iter().enumerate() {
        book.take(&format!("east/x/{index}"), claim());
    }
    let by = |nodes: &'static [&'static str]| texts.map(|text| (text, nodes));
    book.announce(&by(&["n1", "n2", "n3"])[..2], 5);
    book.announce(&by(&["n1", "n2"])[2..], 5);
    book.announce(&by(&["n1"])[2..], 6);
    book.delete_cluster(7);
    let awaited = |text: &str| {
        let rows = book.state.unavailable(&space(), address(text));
        Arc::clone(&rows[0].awaited.as_ref().expect("it drains").1)
    };
    for pair in [&texts[..2], &texts[2..]] {
        assert!(Arc::ptr_eq(&awaited(pair[0]), &awaited(pair[1])));
    }
    assert_eq!(awaited(texts[0]).nodes.len(), 3);
    assert_eq!(awaited(texts[2]).nodes, [name("n1"), name("n2")]);
}

#[test]
fn what_drains_when_its_cluster_is_deleted_goes_back_to_nobody_and_waits_for_the_old_nodes() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 5);
    book.give_back("east/x/a");
    book.announce(&[("192.0.2.0", &[])], 6);
    book.acknowledge("n1", 6);
    book.delete_cluster(7);
    let refused = book.refused("east/x/a", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressDraining);
    for node in ["n1", "n2"] {
        book.publish(
            BTreeMap::from([(name("east"), ClusterDelta::default())]),
            2,
            8,
        );
        book.acknowledge_stream(node, 2, 8);
        assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    }
    for node in ["n1", "n2"] {
        book.acknowledge_stream(node, 1, 7);
    }
    assert_eq!(book.why("192.0.2.0"), []);
}

/// A batch that is not committed is taken back, as is what `validate_only` tries.
#[test]
fn who_may_acknowledge_for_a_cluster_that_is_gone_is_known_after_an_end_is_taken_back() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 5);
    book.delete_cluster(6);
    book.acknowledge("n1", 6);
    let clear = Command::ClearUnavailable {
        space: space(),
        address: address("192.0.2.0"),
    };
    for _ in 0..2 {
        let ended = book.step(clear.clone()).expect("cleared");
        assert_eq!(book.why("192.0.2.0"), []);
        for change in ended.iter().rev() {
            book.state.undo(change);
        }
    }
    book.publish(BTreeMap::new(), 2, 8);
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    book.acknowledge("n2", 6);
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn after_a_restart_nobody_can_acknowledge_for_a_cluster_that_is_gone() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1"])], 5);
    book.delete_cluster(6);
    book.state = State::restore(book.state.revision(), rows(&book.state));
    book.publish(
        BTreeMap::from([(name("east"), ClusterDelta::default())]),
        1,
        3,
    );
    book.acknowledge("n1", 3);
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    book.pass(5 * MINUTE);
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn nodes_that_are_away_are_waited_for_so_long_and_then_named_in_the_history() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 5);
    book.give_back("east/x/a");
    book.announce(&[("192.0.2.0", &[])], 6);
    book.acknowledge("n1", 6);
    book.queue("east/x/b", claim());
    book.pass(5 * MINUTE - Duration::from_secs(1));
    assert_eq!(book.held("east/x/b"), "(ADDRESS_DRAINING)");
    book.state.advance(Moment(6 * MINUTE));
    let mut changes = Vec::new();
    book.settle(&mut changes);
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
    let Change::Unavailable(told) = &changes[0] else {
        panic!("{changes:?}");
    };
    let after = told.after.as_ref().expect("an update");
    let (_, set) = after.awaited.as_ref().expect("it waited");
    assert!(after.unacknowledged);
    assert_eq!(set.nodes, [name("n2")]);
}

#[test]
fn a_delay_comes_on_top_of_a_drain() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 60)]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1"])], 5);
    book.give_back("east/x/a");
    book.announce(&[("192.0.2.0", &[])], 6);
    book.queue("east/x/b", claim());
    book.pass(MINUTE);
    book.acknowledge("n1", 6);
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::ReuseDelay]);
    book.pass(MINUTE);
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
}

#[test]
fn a_node_that_lost_its_candidacy_while_it_was_away_is_waited_for() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"])]);
    book.take("east/x/a", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 5);
    book.acknowledge("n2", 5);
    // n1 is cut off: it is a candidate no more, and answers all the same.
    book.announce(&[("192.0.2.0", &["n2"])], 6);
    book.acknowledge("n2", 6);
    book.give_back("east/x/a");
    book.announce(&[("192.0.2.0", &[])], 7);
    book.acknowledge("n2", 7);
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    book.acknowledge("n1", 7);
    assert_eq!(book.why("192.0.2.0"), []);
    // One that is away for longer than that is not waited for any more.
    book.take("east/x/b", claim());
    book.announce(&[("192.0.2.0", &["n1", "n2"])], 8);
    book.announce(&[("192.0.2.0", &["n2"])], 9);
    book.acknowledge("n2", 9);
    book.pass(6 * MINUTE);
    book.give_back("east/x/b");
    book.announce(&[("192.0.2.0", &[])], 10);
    book.acknowledge("n2", 10);
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn an_address_that_is_reserved_and_drains_is_free_when_neither_stands() {
    for drain_first in [true, false] {
        let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 60)]);
        book.take("west/x/a", claim());
        book.reserve("r", &["192.0.2.0"], Some("east/x"));
        book.give_back("west/x/a");
        assert_eq!(book.queue("west/x/b", claim()), "(NO_FREE_ADDRESS)");
        assert_eq!(book.queue("east/x/c", claim()), "(ADDRESS_DRAINING)");
        let delete = Command::DeleteReservation(reservation_key("r"));
        if drain_first {
            book.pass(MINUTE);
            assert_eq!(book.held("east/x/c"), "192.0.2.0");
            book.give_back("east/x/c");
            book.run(delete).expect("deleted");
            assert_eq!(book.held("west/x/b"), "(ADDRESS_DRAINING)");
            book.pass(MINUTE);
        } else {
            book.run(delete).expect("deleted");
            assert_eq!(book.held("west/x/b"), "(ADDRESS_DRAINING)");
            book.pass(MINUTE);
        }
        assert_eq!(book.held("west/x/b"), "192.0.2.0");
        assert_eq!(book.why("192.0.2.0"), []);
    }
}

#[test]
fn whoever_shares_an_address_keeps_it_from_draining() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 60)]);
    book.take("east/x/a", shared("k", 80));
    book.take("east/x/b", shared("k", 81));
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), []);
    assert_eq!(book.take("east/x/c", shared("k", 80)), "192.0.2.0");
    let cluster = name("east");
    book.run(Command::DeleteCluster { cluster })
        .expect("deleted");
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::ReuseDelay]);
}

#[test]
fn a_holder_that_is_moved_leaves_an_address_that_rests() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/31"], 60)]);
    book.take("east/x/a", claim());
    book.edit_pool(&resting("p", &["192.0.2.1/32"], 60), InUse::Move)
        .expect("edited");
    assert_eq!(book.held("east/x/a"), "192.0.2.1");
    // In no pool there is no delay to count.
    assert_eq!(book.why("192.0.2.0"), []);
    book.run(allocate("east/x/b", claim())).expect_err("full");
}

#[test]
fn a_conflict_keeps_the_address_from_its_next_owner_and_moves_nobody() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/31"])]);
    book.take("east/x/a", claim());
    let report = |cluster: &str| Command::ReportConflict {
        cluster: name(cluster),
        space: space(),
        address: address("192.0.2.0"),
    };
    assert_eq!(book.run(report("west")).expect("ignored"), []);
    assert_eq!(book.run(report("east")).expect("recorded").len(), 1);
    assert_eq!(book.run(report("east")).expect("no news"), []);
    assert_eq!(book.held("east/x/a"), "192.0.2.0");
    let mut changed = claim();
    changed.ports = vec![tcp(81)];
    assert_eq!(book.take("east/x/a", changed), "192.0.2.0");
    book.give_back("east/x/a");
    assert_eq!(book.take("east/x/a", claim()), "192.0.2.1");
    assert_eq!(book.queue("east/x/b", claim()), "(ADDRESS_QUARANTINED)");
    let refused = book.refused("east/x/c", for_addresses(&["192.0.2.0"]));
    assert_eq!(refused.reason, Reason::AddressQuarantined);
    book.pass(QUARANTINE);
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
}

#[test]
fn an_operator_clears_what_keeps_an_address_and_wakes_who_waits() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/32"], 60)]);
    book.take("east/x/a", claim());
    book.run(Command::ReportConflict {
        cluster: name("east"),
        space: space(),
        address: address("192.0.2.0"),
    })
    .expect("recorded");
    book.give_back("east/x/a");
    book.queue("east/x/b", claim());
    assert_eq!(book.why("192.0.2.0").len(), 2);
    let clear = Command::ClearUnavailable {
        space: space(),
        address: address("192.0.2.0"),
    };
    book.run(clear.clone()).expect("cleared");
    assert_eq!(book.held("east/x/b"), "192.0.2.0");
    assert!(matches!(
        book.run(clear),
        Err(Rejection::UnknownUnavailable { .. })
    ));
}

#[test]
fn after_a_restart_a_delay_counts_in_full_and_a_node_that_has_synced_has_acknowledged() {
    let mut book = Book::with_pools(&[
        resting("p", &["192.0.2.0/31"], 60),
        pool("q", &["10.0.0.0/32"]),
    ]);
    book.take("east/x/a", claim());
    book.take("east/x/b", from_pool("q"));
    book.announce(&[("10.0.0.0", &["n1"])], 50);
    book.give_back("east/x/a");
    book.give_back("east/x/b");
    book.pass(Duration::from_secs(50));
    let mut loaded = rows(&book.state);
    for change in &mut loaded {
        if let Change::Unavailable(edit) = change {
            let mut row = Unavailable::clone(edit.subject());
            row.deadline = Moment(row.period);
            edit.after = Some(Arc::new(row));
        }
    }
    book.state = State::restore(book.state.revision(), loaded);
    book.publish(BTreeMap::new(), 1, 3);
    book.pass(Duration::from_secs(59));
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::ReuseDelay]);
    assert_eq!(book.why("10.0.0.0"), [UnavailableReason::Draining]);
    book.acknowledge("n1", 3);
    assert_eq!(book.why("10.0.0.0"), []);
    book.pass(Duration::from_secs(1));
    assert_eq!(book.why("192.0.2.0"), []);
}

/// A held address without a candidate, in a server that has just begun.
fn restarted_with_a_cut_off_node() -> Book {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
    book.take("east/x/a", claim());
    let nodes = ["n1", "n2"].map(|node| Fact::Announcer {
        key: node_key(node),
        announcer: Announcer {
            labels: Labels::new(),
            member_endpoint: String::new(),
            features: Default::default(),
        },
    });
    book.run(Command::Facts {
        cluster: name("east"),
        facts: nodes.into(),
    })
    .expect("known");
    book.state = State::restore(book.state.revision(), rows(&book.state));
    book.announce(&[], 1);
    book
}

#[test]
fn after_a_restart_a_cut_off_node_is_waited_for_although_the_address_has_no_candidate() {
    let mut book = restarted_with_a_cut_off_node();
    book.acknowledge("n2", 1);
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), [UnavailableReason::Draining]);
    book.queue("west/x/b", claim());
    book.announce(&[], 2);
    book.acknowledge("n2", 2);
    assert_eq!(book.held("west/x/b"), "(ADDRESS_DRAINING)");
    book.acknowledge("n1", 2);
    assert_eq!(book.held("west/x/b"), "192.0.2.0");
}

#[test]
fn after_a_restart_nobody_is_waited_for_who_has_been_heard_of_or_is_away_for_too_long() {
    let mut book = restarted_with_a_cut_off_node();
    book.acknowledge("n1", 1);
    book.acknowledge("n2", 1);
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), []);

    let mut book = restarted_with_a_cut_off_node();
    book.pass(6 * MINUTE);
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn in_recovery_what_is_in_use_is_granted_although_it_drains() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/29"], 60)]);
    book.take("west/x/a", claim());
    book.give_back("west/x/a");
    book.expect_inventory_of("east");
    let mut command = queued("east/x/a", claim());
    command.held = addresses(&["192.0.2.0"]);
    // Nothing of what another cluster holds is unknown.
    let mut known = queued("west/x/b", claim());
    known.held = addresses(&["192.0.2.0"]);
    book.run(known).expect("queued");
    assert_eq!(book.held("west/x/b"), "(RECOVERING)");
    book.run(command).expect("granted");
    assert_eq!(book.held("east/x/a"), "192.0.2.0");
    assert_eq!(book.why("192.0.2.0"), []);
}

#[test]
fn what_a_pool_has_beyond_its_clusters_grant_waits_for_nothing() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/24"])]);
    let (low, high): (&[&str], &[&str]) = (&["192.0.2.0/25"], &["192.0.2.128/25"]);
    book.grant(&[("east", low), ("west", high)], InUse::Refuse)
        .expect("granted");
    let wide = resting("west/w", &["192.0.2.0/24"], 30 * 24 * 3600);
    book.sync_pools("west", &[wide]).expect("synced");
    assert_eq!(book.take("east/x/a", claim()), "192.0.2.0");
    book.give_back("east/x/a");
    assert_eq!(book.why("192.0.2.0"), []);
    // Within the grant the pool's word counts, as before.
    assert_eq!(book.take("west/x/a", claim()), "192.0.2.128");
    book.give_back("west/x/a");
    assert_eq!(book.why("192.0.2.128"), [UnavailableReason::ReuseDelay]);
}

#[test]
fn trying_a_release_out_starts_no_wait_and_ends_none() {
    let mut book = Book::with_pools(&[resting("p", &["192.0.2.0/31"], 60)]);
    book.take("east/x/a", claim());
    book.take("east/x/b", claim());
    book.announce(&[("192.0.2.1", &["n1"])], 5);
    book.give_back("east/x/a");
    book.pass(Duration::from_secs(30));
    let commands: [Command; 3] = [
        release("east/x/b").into(),
        allocate("east/x/a", for_addresses(&["192.0.2.0"])).into(),
        Command::ClearUnavailable {
            space: space(),
            address: address("192.0.2.0"),
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
        assert_sound(&book.state);
    }
    book.pass(Duration::from_secs(30));
    assert_eq!(book.why("192.0.2.0"), [], "the delay was not begun anew");
}
