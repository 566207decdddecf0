//! What a change of a node makes a watcher look at.

use std::sync::Arc;

use super::*;

/// One address that waits for `a`, and two that wait for `b` and `c`; all nodes have told.
struct Watched {
    feeds: Feeds,
    picture: Picture,
    streams: BTreeMap<&'static str, u64>,
    now: Instant,
}

fn node(text: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(text),
    }
}

impl Watched {
    fn start() -> Self {
        let now = Instant::now();
        let feeds = feeds(now);
        let sets = [&["a"][..], &["b", "c"]].map(|nodes| {
            let nodes = nodes.iter().map(|node| name(node));
            Arc::new(NodeSet::new(nodes))
        });
        let upserts = [(1, 0), (2, 1), (3, 1)].map(|(number, set)| {
            let assignment = assignment(number, number.into());
            Arc::new(Assignment {
                candidates: sets[set].id,
                ..Assignment::clone(&assignment)
            })
        });
        let delta = ClusterDelta {
            node_sets: sets.into(),
            upserts: upserts.into(),
            ..ClusterDelta::default()
        };
        let deltas = BTreeMap::from([(name("east"), delta)]);
        let _ended = feeds.assignments.publish(&deltas);
        let mut watched = Self {
            picture: Picture::new(&feeds, name("east")),
            streams: BTreeMap::new(),
            feeds,
            now,
        };
        for node in NODES {
            watched.enter(node);
        }
        watched.picture.walk = Walk::Done;
        watched.picture.todo.extend([1, 2, 3].map(key));
        assert_eq!(watched.look(), [1, 2, 3]);
        watched
    }

    /// It connects, and tells that it answers for nothing.
    fn enter(&mut self, who: &'static str) {
        let status = &self.feeds.status;
        let stream = status.enter(&node(who), self.now);
        status.tell(
            &node(who),
            stream,
            &told_status(true, &[].into(), &[].into()),
        );
        self.streams.insert(who, stream);
    }

    fn leave(&mut self, who: &str) {
        let stream = self.streams[who];
        let status = &self.feeds.status;
        status.leave(&node(who), stream, self.now, Timestamp(1));
    }

    /// The addresses that are looked at.
    fn look(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            let _nothing_is_held = self.picture.ask(self.now);
            let piece = self.picture.piece.keys();
            seen.extend(piece.map(|key| match key.address.to_ip() {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            }));
            let _told = self.picture.take_in(Answer::default(), self.now);
            if self.picture.is_complete() {
                return seen;
            }
        }
    }
}

#[test]
fn a_node_that_comes_or_goes_is_a_matter_of_those_addresses_that_wait_for_it() {
    let mut watched = Watched::start();
    assert!(watched.look().is_empty());
    watched.leave("a");
    assert_eq!(watched.look(), [1]);
    watched.leave("c");
    assert_eq!(watched.look(), [2, 3]);
    watched.enter("c");
    assert_eq!(watched.look(), [2, 3]);
    // Of neither is anything else known than before.
    watched.enter("b");
    watched.now += KEPT;
    assert!(watched.look().is_empty());
}

#[test]
fn a_change_of_nodes_or_advertisements_is_no_matter_of_what_is_assigned() {
    let mut watched = Watched::start();
    let assignments = &watched.feeds.assignments;
    assignments.touch(&name("east"), Concern::Policy);
    assert!(watched.look().is_empty());
}
