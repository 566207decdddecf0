use super::*;
use crate::state::command::{Allocate, Command, Fact, IfRefused};
use crate::state::decide;

const A1: &str = "192.0.2.1";
const A2: &str = "192.0.2.2";
const V6: &str = "2001:db8::1";

impl World {
    fn command(&mut self, command: &Command) {
        let changes = decide(&self.state, command, Timestamp(0)).expect("accepted");
        self.batch(changes);
    }

    /// A node says that it answers for these.
    fn announced(&mut self, group: AllocationId, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.command(&Command::Facts {
            cluster: name("east"),
            facts: vec![Fact::Announced { group, addresses }],
        });
    }

    fn allocate(&mut self, owner: &str, asked: &[&str], in_use: &[&str]) {
        let change = self.hold_edit("east", owner, Some(held(&[])));
        let edit = change.allocation().expect("of an allocation");
        let sample = edit.subject();
        let claim = Claim {
            addresses: asked.iter().map(|text| address(text)).collect(),
            ..Claim::clone(&sample.claim)
        };
        self.command(&Command::Allocate(Box::new(Allocate {
            owner: sample.owner.clone(),
            claim: Arc::new(claim),
            held: in_use.iter().map(|text| address(text)).collect(),
            if_refused: IfRefused::Fail,
            if_revision: None,
            fence: 0,
        })));
    }

    fn is_probed(&self, text: &str) -> bool {
        self.assignment("east", text).expect("announced").probe
    }
}

#[test]
fn an_automatic_address_is_probed_until_a_node_has_answered_for_it() {
    let mut world = World::east(&["a", "b"]);
    world.hold("east", "web", held(&[A1, V6]));
    assert!(world.is_probed(A1) && world.is_probed(V6));
    let (group, nodes) = (world.id("east", "web"), owned(world.list("east", A1)));
    // Another machine has the other one.
    world.announced(group, &[A1]);
    assert!(!world.is_probed(A1) && world.is_probed(V6));
    assert_eq!(world.list("east", A1), nodes);
    let told = world.last[&name("east")].upserts.len();
    assert_eq!(told, 1, "what did not change is not told");
    world.announced(group, &[A1, V6]);
    assert!(!world.is_probed(V6));
    assert!(unannounced(&world.state, &name("east"), group).is_empty());
}

#[test]
fn what_was_asked_for_or_is_in_use_is_not_probed() {
    let mut world = World::east(&["a"]);
    world.allocate("asked", &[A1], &[]);
    world.allocate("adopted", &[], &[A2]);
    world.allocate("chosen", &[], &[]);
    assert!(!world.is_probed(A1) && !world.is_probed(A2));
    let key = owner_key("east", "chosen");
    let chosen = world.state.allocation(&key).expect("held").addresses[0];
    assert!(world.is_probed(&chosen.to_ip().to_string()));
}

#[test]
fn what_was_announced_goes_with_the_address_to_another_group_and_ends_with_it() {
    let mut world = World::east(&["a", "b", "c"]);
    world.hold("east", "web", held(&[A1, V6]));
    world.hold("east", "dns", held(&[A1]));
    world.announced(world.id("east", "web"), &[A1, V6]);
    world.release("east", "web");
    assert!(!world.is_probed(A1));
    world.hold("east", "web", held(&[A1, V6]));
    assert!(!world.is_probed(A1), "dns has it still");
    assert!(world.is_probed(V6), "it was nobody's");
    world.release("east", "dns");
    world.release("east", "web");
    world.hold("east", "late", held(&[A1]));
    assert!(world.is_probed(A1), "it was nobody's");
}

#[test]
fn addresses_of_two_groups_that_become_one_are_remembered() {
    let mut world = World::east(&["a"]);
    world.hold("east", "web", held(&[A1]));
    world.hold("east", "dns", held(&[A2]));
    world.announced(world.id("east", "dns"), &[A2]);
    world.hold("east", "web", held(&[A1, A2]));
    assert_eq!(
        world.assignment("east", A2).map(|one| one.group),
        Some(world.id("east", "web"))
    );
    assert!(world.is_probed(A1) && !world.is_probed(A2));
    world.hold("east", "web", held(&[A1]));
    assert!(!world.is_probed(A2), "dns has it as before");
}

#[test]
fn who_says_to_answer_for_what_is_not_of_the_group_is_not_believed() {
    let mut world = World::east(&["a"]);
    world.cluster("west");
    world.hold("east", "web", held(&[A1]));
    let group = world.id("east", "web");
    world.announced(group, &[A2]);
    world.announced(group + 100, &[A1]);
    world.command(&Command::Facts {
        cluster: name("west"),
        facts: vec![Fact::Announced {
            group,
            addresses: [address(A1)].into(),
        }],
    });
    assert!(world.is_probed(A1));
    let placement = world.state.placement(group).expect("stored");
    assert!(placement.announced.is_empty());
}
