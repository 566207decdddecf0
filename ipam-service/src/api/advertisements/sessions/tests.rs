use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn owner(text: &str) -> OwnerKey {
    OwnerKey {
        cluster: name("east"),
        namespace: None,
        name: name(text),
    }
}

fn reported(reason: &str) -> ReportedNode {
    ReportedNode {
        labels: Default::default(),
        unavailable_reason: reason.to_owned(),
    }
}

/// What the facts so far amount to: what the state would hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Known {
    nodes: BTreeMap<Name, ReportedNode>,
    backends: BTreeMap<OwnerKey, EntryNodes>,
}

impl Known {
    fn take_in(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            match fact {
                Fact::Node { key, reported } => put_or_remove(&mut self.nodes, key.node, reported),
                Fact::Backends { owner, entry } => put_or_remove(&mut self.backends, owner, entry),
                Fact::Complete { nodes, owners } => {
                    self.nodes.retain(|name, _| nodes.contains(name));
                    self.backends.retain(|owner, _| owners.contains(owner));
                }
                Fact::Announcer { .. } | Fact::Announced { .. } => {
                    panic!("adapters do not speak for announcers")
                }
            }
        }
    }
}

fn put_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

struct World {
    sessions: Sessions,
    known: Known,
}

impl World {
    fn new() -> Self {
        Self {
            sessions: Sessions::new(name("east")),
            known: Known::default(),
        }
    }

    fn open(&mut self) -> SessionId {
        self.sessions.open()
    }

    fn say(&mut self, id: SessionId, said: Said) {
        let facts = self.sessions.say(id, said);
        self.known.take_in(facts);
    }

    fn node(&mut self, id: SessionId, node: &str, value: Option<&str>) {
        self.say(id, Said::Node(name(node), value.map(reported)));
    }

    fn close(&mut self, id: SessionId) {
        let facts = self.sessions.close(id);
        self.known.take_in(facts);
    }

    fn nodes(&self) -> Vec<(&str, &str)> {
        let nodes = self.known.nodes.iter();
        nodes
            .map(|(name, node)| (name.as_str(), node.unavailable_reason.as_str()))
            .collect()
    }
}

#[test]
fn the_newest_stream_counts_and_an_older_one_is_not_heard() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some("old"));
    let new = world.open();
    world.node(new, "a", Some("new"));
    world.node(old, "a", Some("later, but old"));
    assert_eq!(world.nodes(), [("a", "new")]);
}

#[test]
fn what_a_new_stream_has_not_named_yet_stays_with_the_older() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some("1"));
    world.say(old, Said::Complete);
    let new = world.open();
    world.node(new, "b", Some("2"));
    world.node(old, "a", Some("3"));
    assert_eq!(world.nodes(), [("a", "3"), ("b", "2")]);
}

#[test]
fn after_complete_what_was_not_named_is_gone() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some(""));
    world.node(old, "b", Some(""));
    let new = world.open();
    world.node(new, "b", Some(""));
    world.say(new, Said::Backends(owner("web"), Some(EntryNodes::Any)));
    world.say(new, Said::Complete);
    assert_eq!(world.nodes(), [("b", "")]);
    assert_eq!(world.known.backends.len(), 1);
    world.node(old, "c", Some(""));
    assert_eq!(world.nodes(), [("b", "")], "the newest knows of no c");
}

#[test]
fn a_stream_that_ends_takes_nothing_back() {
    let mut world = World::new();
    let only = world.open();
    world.node(only, "a", Some(""));
    world.say(only, Said::Complete);
    world.close(only);
    assert_eq!(world.nodes(), [("a", "")]);
    assert!(world.sessions.open.is_empty());
}

#[test]
fn when_the_newest_ends_the_values_of_another_are_in_force() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some("old"));
    world.node(old, "b", Some("old"));
    world.say(old, Said::Complete);
    let new = world.open();
    world.node(new, "a", Some("new"));
    world.node(new, "c", Some("new"));
    world.say(new, Said::Complete);
    world.node(old, "a", Some("old, updated"));
    world.node(old, "d", Some("old"));
    assert_eq!(world.nodes(), [("a", "new"), ("c", "new")]);
    world.close(new);
    assert_eq!(
        world.nodes(),
        [("a", "old, updated"), ("b", "old"), ("d", "old")]
    );
}

#[test]
fn an_older_stream_that_ends_changes_nothing_that_the_newest_says() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some("old"));
    let new = world.open();
    world.node(new, "a", Some("new"));
    world.close(old);
    assert_eq!(world.nodes(), [("a", "new")]);
}

#[test]
fn a_removed_node_is_gone_also_before_complete() {
    let mut world = World::new();
    let old = world.open();
    world.node(old, "a", Some(""));
    let new = world.open();
    world.node(new, "a", None);
    assert!(world.nodes().is_empty());
    world.close(new);
    assert_eq!(world.nodes(), [("a", "")], "the other still sees it");
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Say(usize, Said),
    Close(usize),
}

fn said() -> impl Strategy<Value = Said> {
    let key = || "[abc]";
    prop_oneof![
        4 => (key(), proptest::option::of("[xyz]"))
            .prop_map(|(node, value)| Said::Node(name(&node), value.as_deref().map(reported))),
        4 => (key(), any::<bool>()).prop_map(|(key, served)| {
            Said::Backends(owner(&key), served.then_some(EntryNodes::Any))
        }),
        2 => Just(Said::Complete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Open),
        10 => (0..4_usize, said()).prop_map(|(session, said)| Step::Say(session, said)),
        2 => (0..4_usize).prop_map(Step::Close),
    ]
}

proptest! {
    /// The facts that are handed on amount to what the rule says of the streams as they are.
    #[test]
    fn what_is_known_is_what_the_newest_speaker_of_each_key_says(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new();
        let mut open: Vec<SessionId> = Vec::new();
        for step in steps {
            let before = world.known.clone();
            match step {
                Step::Open => open.push(world.open()),
                Step::Say(index, said) => {
                    if let Some(id) = open.get(index) {
                        world.say(*id, said);
                    }
                }
                Step::Close(index) => {
                    if index < open.len() {
                        let id = open.remove(index);
                        world.close(id);
                    }
                }
            }
            for key in ["a", "b", "c"] {
                let expected = match world.sessions.node(&name(key)) {
                    Some(said) => said,
                    None => before.nodes.get(&name(key)),
                };
                prop_assert_eq!(world.known.nodes.get(&name(key)), expected);
                let expected = match world.sessions.entry(&owner(key)) {
                    Some(said) => said,
                    None => before.backends.get(&owner(key)),
                };
                prop_assert_eq!(world.known.backends.get(&owner(key)), expected);
            }
        }
    }
}
