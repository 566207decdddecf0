//! Fenced addresses: who is named, and when.

mod families;
mod freely;
mod moved;

use pharos_lease::{Owner, Term};

use super::explained::verdict;
use super::*;
use crate::state::leases::{NodeLeases, Readiness, Released, Standing};
use crate::state::model::{Ownership, TenureKey};

const ADDRESS: &str = "192.0.2.1";

fn fenced(advertisement: Advertisement) -> Advertisement {
    let AdvertisementProtocol::L2 {
        interfaces,
        preferred_nodes,
        ..
    } = advertisement.protocol
    else {
        panic!("by layer 2");
    };
    Advertisement {
        protocol: AdvertisementProtocol::L2 {
            interfaces,
            preferred_nodes,
            ownership: Ownership::Fenced,
        },
        ..advertisement
    }
}

fn key() -> AssignmentKey {
    AssignmentKey {
        space: name(SPACE),
        address: address(ADDRESS),
    }
}

fn tenure() -> TenureKey {
    TenureKey {
        cluster: name("east"),
        space: name(SPACE),
        address: address(ADDRESS),
    }
}

fn node_key(node: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(node),
    }
}

fn standing(readiness: Readiness) -> Standing {
    Standing {
        readiness,
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        interfaces6: BTreeSet::from(["eth0".to_owned()]),
    }
}

impl World {
    /// Nodes `a`, `b` and `c`, whose order for the address is told; nobody has a lease.
    fn fenced() -> (Self, [String; 3]) {
        let mut world = Self::east(&["a", "b", "c"]);
        world.advertise(fenced(advertisement(Some("east"), "all")));
        world.hold("east", "web", held(&[ADDRESS]));
        let assigned = world.assigned();
        let order: Vec<String> = assigned.nodes.iter().map(Name::to_string).collect();
        (world, order.try_into().expect("three nodes"))
    }

    fn assigned(&self) -> Arc<Assignment> {
        let east = self.announcements.cluster("east").expect("known");
        Arc::clone(&east.assignments[&key()])
    }

    fn leases(&mut self, node: &str, terms: &[u64], readiness: Readiness) {
        self.leases_of(node, terms, Some(standing(readiness)));
    }

    fn leases_of(&mut self, node: &str, terms: &[u64], standing: Option<Standing>) {
        let terms = terms.iter().map(|term| Term(*term)).collect();
        let leases = NodeLeases { terms, standing };
        self.state.leases_mut().set(node_key(node), leases);
        self.publish(&[]);
    }

    fn says_released(&mut self, term: u64, epoch: u64) {
        let owner = self.state.tenure(&tenure()).map(|it| it.owner.node.clone());
        self.release_by(owner.expect("owned").as_str(), term, epoch);
        self.publish(&[]);
    }

    fn release_by(&mut self, node: &str, term: u64, epoch: u64) {
        self.state.release(Released {
            key: tenure(),
            node: name(node),
            term: Term(term),
            epoch,
        });
    }

    /// Owner, its term, the epoch, and for whom the owner is to stop.
    fn told(&self) -> (String, u64, u64, String) {
        let fenced = self.assigned().fenced.clone().expect("fenced");
        let owner = fenced.owner.as_ref();
        let text = |name: Option<&Name>| name.map_or_else(String::new, Name::to_string);
        let told = (
            text(owner.map(|owner| &owner.node)),
            owner.map_or(0, |owner| owner.term.0),
            fenced.epoch,
            text(fenced.next.as_ref()),
        );
        let stored = self.state.tenure(&tenure());
        let stored = stored.map(|it| (it.owner.clone(), it.epoch));
        let expected = fenced.owner.map(|owner| (owner, fenced.epoch));
        assert_eq!(stored, expected, "what is told is stored");
        told
    }
}

fn told(owner: &str, term: u64, epoch: u64, next: &str) -> (String, u64, u64, String) {
    (owner.to_owned(), term, epoch, next.to_owned())
}

#[test]
fn nobody_is_named_without_a_lease_and_then_the_first_of_the_list_that_has_one() {
    let (mut world, [first, second, _]) = World::fenced();
    assert_eq!(world.told(), told("", 0, 0, ""));
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, ""));
    // A living owner is asked to make room, and nobody else is named before it did.
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, &first));
    world.says_released(2, 1);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
}

#[test]
fn a_lost_owner_is_replaced_once_its_term_is_over() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 1, ""));
    world.leases(&first, &[], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 2, ""));
}

#[test]
fn a_restarted_owner_is_named_anew_and_only_when_its_former_term_is_over() {
    let (mut world, [first, ..]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.leases(&first, &[1, 7], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 1, ""));
    world.leases(&first, &[7], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 7, 2, ""));
}

#[test]
fn what_is_said_of_another_tenure_ends_nothing() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    world.leases(&first, &[1], Readiness::Ready);
    for (term, epoch) in [(2, 0), (2, 2), (1, 1), (3, 1)] {
        world.says_released(term, epoch);
        assert_eq!(world.told(), told(&second, 2, 1, &first), "{term} {epoch}");
    }
    world.release_by(&first, 2, 1);
    world.publish(&[]);
    assert_eq!(world.told(), told(&second, 2, 1, &first), "of another node");
    world.says_released(2, 1);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
    // Said twice.
    world.says_released(2, 1);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
}

#[test]
fn who_holds_down_takes_only_what_nobody_answers_for() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    world.leases(&first, &[1], Readiness::HoldDown);
    assert_eq!(world.told(), told(&second, 2, 1, ""));
    world.leases(&second, &[], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
    // Two that hold down: who has it keeps it.
    world.leases(&second, &[3], Readiness::HoldDown);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
    world.leases(&second, &[3], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 2, &second));
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 2, ""));
}

#[test]
fn who_drains_makes_room_if_there_is_another() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.leases(&first, &[1], Readiness::Draining);
    assert_eq!(world.told(), told(&first, 1, 1, ""));
    world.leases(&second, &[2], Readiness::HoldDown);
    assert_eq!(world.told(), told(&first, 1, 1, &second));
    world.says_released(1, 1);
    assert_eq!(world.told(), told(&second, 2, 2, ""));
}

#[test]
fn a_node_without_a_usable_interface_is_not_wanted() {
    let (mut world, [first, second, _]) = World::fenced();
    let none = Standing {
        interfaces: BTreeSet::new(),
        interfaces6: BTreeSet::new(),
        ..standing(Readiness::Ready)
    };
    world.leases_of(&first, &[1], Some(none.clone()));
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, ""));
    let only = with_l2(advertisement(Some("east"), "all"), &["eth1"], &[]);
    world.advertise(fenced(only));
    let other = Standing {
        interfaces: BTreeSet::from(["eth1".to_owned()]),
        ..none
    };
    world.leases_of(&first, &[1], Some(other));
    assert_eq!(world.told(), told(&second, 2, 1, &first));
}

#[test]
fn an_owner_that_has_not_said_anything_since_the_start_is_waited_for() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    let rows = [world.state.tenure(&tenure()).expect("stored").clone()];
    world
        .state
        .leases_mut()
        .begin(rows.iter().map(|row| &**row), false);
    world.leases_of(&second, &[2], None);
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, ""));
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, &first));
}

#[test]
fn a_new_service_names_nobody_where_another_term_may_run() {
    for unsure in [false, true] {
        let (mut world, [first, second, _]) = World::fenced();
        world.state.leases_mut().begin([].into_iter(), unsure);
        world.leases(&first, &[1], Readiness::Ready);
        assert_eq!(world.told(), told("", 0, 0, ""));
        world.state.leases_mut().settle([name("east")]);
        world.publish(&[]);
        assert_eq!(world.told(), told(&first, 1, 1, ""));

        // What is stored is believed, unless the store may be an older one.
        let row = world.state.tenure(&tenure()).expect("stored").clone();
        world.state.leases_mut().begin([&*row].into_iter(), unsure);
        world.leases(&second, &[2], Readiness::Ready);
        world.leases(&first, &[], Readiness::Ready);
        let kept = told(&first, 1, 1, "");
        let moved = told(&second, 2, 2, "");
        assert_eq!(world.told(), if unsure { kept } else { moved.clone() });
        world.state.leases_mut().settle([name("east")]);
        world.publish(&[]);
        assert_eq!(world.told(), moved);
    }
}

#[test]
fn a_tenure_outlives_the_assignment_until_its_term_is_over() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.release("east", "web");
    let owner = |world: &World| {
        world
            .state
            .tenure(&tenure())
            .map(|it| it.owner.node.clone())
    };
    assert_eq!(owner(&world), Some(name(&first)));
    // Its owner goes on where the address comes back, or is asked to make room.
    world.hold("east", "api", held(&[ADDRESS]));
    assert_eq!(world.told().0, first);
    world.release("east", "api");
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(owner(&world), Some(name(&first)));
    world.leases(&first, &[], Readiness::Ready);
    assert_eq!(owner(&world), None);
}

#[test]
fn one_fenced_advertisement_fences_the_whole_group() {
    let mut world = World::east(&["a", "b"]);
    let of = |own_name: &str, value: &str| Advertisement {
        service_selectors: vec![selector("app", value)],
        ..advertisement(Some("east"), own_name)
    };
    world.drop_advertisement(Some("east"), "all");
    world.advertise(of("one", "web"));
    world.advertise(fenced(of("two", "api")));
    world.hold("east", "web", held(&[ADDRESS]).labelled(&[("app", "web")]));
    assert_eq!(world.assigned().fenced, None);
    world.hold("east", "api", held(&[ADDRESS]).labelled(&[("app", "api")]));
    assert!(world.assigned().fenced.is_some());
}

#[test]
fn both_families_of_a_group_have_a_tenure_each_and_want_the_same_node() {
    let (mut world, [first, ..]) = World::fenced();
    world.hold("east", "web", held(&[ADDRESS, "2001:db8::1"]));
    world.leases(&first, &[1], Readiness::Ready);
    let owners = world.state.tenures().map(|it| it.owner.clone());
    let expected = Owner {
        node: name(&first),
        term: Term(1),
    };
    assert_eq!(owners.collect::<Vec<_>>(), [expected.clone(), expected]);
}

#[test]
fn a_batch_that_is_undone_forgets_no_release() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    world.leases(&first, &[1], Readiness::Ready);
    world.release_by(&second, 2, 1);
    let owners = Owners::Named {
        touched: world.state.leases_mut().take_touched(),
        moves: true,
    };
    let refresh = world.announcements.refresh(&world.state, &[], owners);
    assert_eq!(refresh.choices.len(), 1);
    for change in &refresh.choices {
        world.state.apply(change);
    }
    for change in refresh.choices.iter().rev() {
        world.state.undo(change);
    }
    world.announcements = Announcements::rebuild(&world.state).0;
    world.state.touch_leases();
    world.state.forget_past_releases();
    let (owners, touched) = (
        world.state.tenures().count(),
        world.state.leases_mut().take_touched(),
    );
    assert_eq!((owners, touched.len()), (1, 1));
    world.state.touch_leases();
    let owners = Owners::Named {
        touched: world.state.leases_mut().take_touched(),
        moves: true,
    };
    let refresh = world.announcements.refresh(&world.state, &[], owners);
    let tenures = refresh.choices.iter().filter_map(|change| match change {
        Change::Tenure(edit) => edit.after.clone(),
        Change::Allocation(_)
        | Change::Pool(_)
        | Change::Advertisement(_)
        | Change::BgpPeer(_)
        | Change::BfdProfile(_)
        | Change::Cluster(_)
        | Change::Reservation(_)
        | Change::Quota(_)
        | Change::AddressSpace(_)
        | Change::Unavailable(_)
        | Change::Node(_)
        | Change::Backends(_)
        | Change::Placement(_) => None,
    });
    let named: Vec<String> = tenures.map(|it| it.owner.node.to_string()).collect();
    assert_eq!(named, [first]);
}

#[test]
fn nobody_makes_room_while_nothing_can_be_stored() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    world.moves = false;
    world.leases(&first, &[1], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 1, ""));
    world.moves = true;
    world.state.touch_leases();
    world.publish(&[]);
    assert_eq!(world.told(), told(&second, 2, 1, &first));
}

#[test]
fn an_ended_tenure_is_kept_while_its_term_runs() {
    let (mut world, [first, second, _]) = World::fenced();
    world.leases(&second, &[2], Readiness::Ready);
    world.leases(&first, &[1], Readiness::Ready);
    world.release("east", "web");
    world.release_by(&second, 2, 1);
    world.publish(&[]);
    world.hold("east", "api", held(&[ADDRESS]));
    assert_eq!(world.told(), told(&first, 1, 2, ""), "the epoch goes on");
}

#[test]
fn a_shared_address_is_fenced_whoever_has_endpoints() {
    let mut world = World::east(&["a", "b"]);
    let of = |own_name: &str, value: &str| Advertisement {
        service_selectors: vec![selector("app", value)],
        ..advertisement(Some("east"), own_name)
    };
    world.drop_advertisement(Some("east"), "all");
    world.advertise(of("one", "web"));
    world.advertise(fenced(of("two", "api")));
    world.hold("east", "web", held(&[ADDRESS]).labelled(&[("app", "web")]));
    // It has no endpoint.
    let silent = held(&[ADDRESS]).labelled(&[("app", "api")]).reported();
    world.hold("east", "api", silent);
    assert!(world.assigned().fenced.is_some());
}

#[test]
fn an_announcer_that_does_not_know_of_fencing_is_neither_named_nor_listed_for_a_fenced_address() {
    let (mut world, [first, second, third]) = World::fenced();
    world.leases(&first, &[1], Readiness::Ready);
    world.leases(&second, &[2], Readiness::Ready);
    assert_eq!(world.told(), told(&first, 1, 1, ""));
    // An earlier version is started there: it does not know what it is to leave alone.
    let without = |world: &mut World, node: &str| {
        let change = world.node_edit("east", node, |node| {
            let announcer = node.announcer.as_mut().expect("has one");
            announcer.features = BTreeSet::from(["something else".to_owned()]);
        });
        world.one(change);
    };
    without(&mut world, &first);
    let candidates = |world: &World| {
        let set = world.assigned().candidates;
        let east = world.announcements.cluster("east").expect("known");
        let set = east.node_sets.get(&set).expect("a set");
        set.0
            .nodes
            .iter()
            .map(Name::to_string)
            .collect::<BTreeSet<_>>()
    };
    let rest = BTreeSet::from([second.clone(), third.clone()]);
    assert_eq!(candidates(&world), rest);
    assert!(
        !world
            .assigned()
            .nodes
            .iter()
            .any(|node| node.as_str() == first)
    );
    assert_eq!(world.told(), told(&first, 1, 1, &second), "its term runs");
    world.leases(&first, &[], Readiness::Ready);
    assert_eq!(world.told(), told(&second, 2, 2, ""));
    assert_eq!(verdict(&world, &first), Verdict::FeatureMissing("fenced"));
    assert_eq!(verdict(&world, &second), Verdict::Candidate);
    // Nobody that knows of it is left.
    without(&mut world, &second);
    without(&mut world, &third);
    assert!(
        world
            .announcements
            .cluster("east")
            .is_none_or(|east| !east.assignments.contains_key(&key()))
    );
    assert_eq!(verdict(&world, &third), Verdict::FeatureMissing("fenced"));
    // Other addresses are not concerned.
    world.advertise(advertisement(Some("east"), "all"));
    assert_eq!(candidates(&world), BTreeSet::from([first, second, third]));
}
