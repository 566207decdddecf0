use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::model::{Announcer, EntryNodes, ReportedNode};
use crate::state::testing::*;

use super::*;

fn key(node: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(node),
    }
}

fn reported(node: &str, reason: &str) -> Fact {
    Fact::Node {
        key: key(node),
        reported: Some(ReportedNode {
            labels: labels(&[("zone", "a")]),
            unavailable_reason: reason.to_owned(),
        }),
    }
}

fn removed(node: &str) -> Fact {
    Fact::Node {
        key: key(node),
        reported: None,
    }
}

fn called(node: &str) -> Fact {
    Fact::Announcer {
        key: key(node),
        announcer: Announcer {
            labels: labels(&[("zone", "own"), ("rack", "1")]),
            member_endpoint: "192.0.2.9:7946".to_owned(),
            features: Default::default(),
        },
    }
}

fn backends(who: &str, entry: Option<EntryNodes>) -> Fact {
    Fact::Backends {
        owner: owner(who),
        entry,
    }
}

fn report(book: &mut Book, facts: Vec<Fact>) -> Vec<Change> {
    let changes = book.run(Command::Facts {
        cluster: name("east"),
        facts,
    });
    changes.expect("facts are taken in")
}

#[test]
fn the_first_facts_register_their_cluster_and_take_no_revision_themselves() {
    let mut book = Book::default();
    let changes = report(&mut book, vec![reported("n1", "")]);
    assert!(matches!(
        changes.as_slice(),
        [Change::Cluster(_), Change::Node(_)]
    ));
    assert_eq!(book.state.revision(), 1);
}

#[test]
fn known_facts_change_nothing() {
    let mut book = Book::default();
    let facts = || {
        vec![
            reported("n1", ""),
            called("n2"),
            backends("east/default/web", Some(EntryNodes::Any)),
        ]
    };
    assert_eq!(report(&mut book, facts()).len(), 4);
    assert_eq!(report(&mut book, facts()), []);
    let and_back = vec![reported("n1", "down"), reported("n1", "")];
    assert_eq!(report(&mut book, and_back), []);
}

#[test]
fn a_node_stays_known_as_long_as_somebody_knows_it() {
    let mut book = Book::default();
    report(&mut book, vec![reported("n1", ""), called("n1")]);
    let both = book.state.node(&key("n1")).expect("known").labels();
    assert_eq!(
        both,
        labels(&[("zone", "a"), ("rack", "1")]),
        "a reported label wins"
    );
    report(&mut book, vec![removed("n1")]);
    let node = book.state.node(&key("n1")).expect("its announcer called");
    assert_eq!(
        (node.reported.is_none(), node.announcer.is_some()),
        (true, true)
    );
    assert!(node.removed, "its announcer alone does not bring it back");
    report(&mut book, vec![called("n1"), removed("n1")]);
    assert!(book.state.node(&key("n1")).expect("known").removed);
    report(&mut book, vec![reported("n1", "")]);
    assert!(!book.state.node(&key("n1")).expect("known").removed);
    report(&mut book, vec![called("host"), removed("host")]);
    let host = book.state.node(&key("host")).expect("its announcer called");
    assert!(!host.removed, "no adapter ever reported it");
    report(&mut book, vec![reported("n2", ""), removed("n2")]);
    assert!(book.state.node(&key("n2")).is_none());
    report(&mut book, vec![reported("n3", "")]);
    report(&mut book, vec![removed("n3")]);
    assert!(book.state.node(&key("n3")).is_none());
}

#[test]
fn what_a_complete_report_does_not_name_is_gone() {
    let mut book = Book::default();
    let only = || Some(EntryNodes::Only([name("n1")].into()));
    report(
        &mut book,
        vec![
            reported("n1", ""),
            reported("n2", ""),
            reported("n3", ""),
            called("n3"),
            backends("east/default/a", only()),
            backends("east/default/b", only()),
        ],
    );
    report(
        &mut book,
        vec![
            reported("n4", ""),
            backends("east/default/c", only()),
            Fact::Complete {
                nodes: vec![name("n1"), name("n4")],
                owners: vec![owner("east/default/a"), owner("east/default/c")],
            },
        ],
    );
    let nodes: Vec<String> = book
        .state
        .nodes_of(&name("east"))
        .map(|node| format!("{} {}", node.key.node, node.reported.is_some()))
        .collect();
    assert_eq!(nodes, ["n1 true", "n3 false", "n4 true"]);
    let owners: Vec<String> = book
        .state
        .backends_of(&name("east"))
        .map(|one| one.owner.name.to_string())
        .collect();
    assert_eq!(owners, ["a", "c"]);
    report(&mut book, vec![backends("east/default/a", None)]);
    assert_eq!(book.state.backends(&owner("east/default/a")), None);
}
