use proptest::prelude::*;

use super::*;

const NODES: usize = 5;
const OWNERS: usize = 8;
const ADDRESSES: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Hold {
        owner: usize,
        addresses: BTreeSet<usize>,
        reported: bool,
        labelled: bool,
    },
    Release(usize),
    Backends(usize, Option<BTreeSet<usize>>),
    BackendsAnywhere(usize),
    Announcer(usize),
    Report {
        node: usize,
        labelled: bool,
        away: bool,
    },
    LoseNode(usize),
    Advertise(usize, Policy),
    DropAdvertisement(usize),
    LabelPool(bool),
}

#[derive(Debug, Clone)]
struct Policy {
    by_label: bool,
    node: Option<usize>,
    services: bool,
    /// 0: none is named.
    interfaces: usize,
    preferred: Option<usize>,
    /// What it says if it is by BGP.
    routes: RouteAttributes,
}

/// Advertisements from here on are by BGP.
const FIRST_BY_BGP: usize = 2;
const ADVERTISEMENTS: usize = 5;

fn batches() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let batch = proptest::collection::vec(step(), 1..4);
    proptest::collection::vec(batch, 1..40)
}

fn policy() -> impl Strategy<Value = Policy> {
    let number = || proptest::option::of(0..NODES);
    let flags = (any::<bool>(), any::<bool>(), 0..3_usize);
    let parts = (flags, number(), number(), routed::attributes());
    parts.prop_map(
        |((by_label, services, interfaces), node, preferred, routes)| Policy {
            by_label,
            node,
            services,
            interfaces,
            preferred,
            routes,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let some_nodes = proptest::collection::btree_set(0..NODES, 0..4);
    let addresses = proptest::collection::btree_set(0..ADDRESSES, 0..3);
    let hold = (0..OWNERS, addresses, any::<bool>(), any::<bool>());
    let report = (0..NODES, any::<bool>(), any::<bool>());
    prop_oneof![
        8 => hold.prop_map(|(owner, addresses, reported, labelled)| Step::Hold {
            owner,
            addresses,
            reported,
            labelled,
        }),
        3 => (0..OWNERS).prop_map(Step::Release),
        4 => (0..OWNERS, proptest::option::of(some_nodes))
            .prop_map(|(owner, nodes)| Step::Backends(owner, nodes)),
        3 => (0..OWNERS).prop_map(Step::BackendsAnywhere),
        4 => (0..NODES).prop_map(Step::Announcer),
        2 => report.prop_map(|(node, labelled, away)| Step::Report { node, labelled, away }),
        2 => (0..NODES).prop_map(Step::LoseNode),
        4 => (0..ADVERTISEMENTS, policy())
            .prop_map(|(number, policy)| Step::Advertise(number, policy)),
        1 => (0..ADVERTISEMENTS).prop_map(Step::DropAdvertisement),
        1 => any::<bool>().prop_map(Step::LabelPool),
    ]
}

fn node(number: usize) -> String {
    format!("n{number}")
}

fn owner(number: usize) -> String {
    format!("s{number}")
}

fn some_if<T: Clone>(condition: bool, values: &[T]) -> Vec<T> {
    if condition {
        values.to_vec()
    } else {
        Vec::new()
    }
}

/// Half of them IPv4, half IPv6.
fn held_of(addresses: &BTreeSet<usize>, reported: bool, labelled: bool) -> Held {
    let texts: Vec<_> = addresses
        .iter()
        .map(|number| match number % 2 {
            0 => format!("192.0.2.{number}"),
            _ => format!("2001:db8::{number}"),
        })
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let held = held(&texts).labelled(&some_if(labelled, &[("tier", "front")]));
    Held { reported, ..held }
}

fn policy_of(number: usize, policy: &Policy) -> Advertisement {
    let cluster = (number == 0).then_some("east");
    let zone = selector("zone", "1");
    let base = Advertisement {
        pool_selectors: some_if(policy.by_label, &[selector("tier", "gold")]),
        node_selectors: policy
            .node
            .map(|number| vec![selector("host", &node(number)), zone])
            .unwrap_or_default(),
        service_selectors: some_if(policy.services, &[selector("tier", "front")]),
        ..advertisement(cluster, &format!("ad{number}"))
    };
    if number >= FIRST_BY_BGP {
        return routed::with_routes(base, policy.routes.clone());
    }
    let preferred = policy.preferred;
    let preferred = preferred.map(|number| (10, selector("host", &node(number))));
    let preferred: Vec<_> = preferred.into_iter().collect();
    let interfaces: [&[&str]; 3] = [&[], &["eth0"], &["eth1", "eth2"]];
    with_l2(base, interfaces[policy.interfaces], &preferred)
}

/// `None`: the step does nothing in this state.
fn change(world: &World, step: &Step) -> Option<Change> {
    Some(match step {
        Step::Hold {
            owner: number,
            addresses,
            reported,
            labelled,
        } => {
            let held = held_of(addresses, *reported, *labelled);
            world.hold_edit("east", &owner(*number), Some(held))
        }
        Step::Release(number) => {
            let key = owner_key("east", &owner(*number));
            world.state.allocation(&key)?;
            world.hold_edit("east", &owner(*number), None)
        }
        Step::Backends(number, nodes) => {
            let key = owner_key("east", &owner(*number));
            if nodes.is_none() {
                world.state.backends(&key)?;
            }
            let entry = nodes.as_ref().map(|nodes| {
                EntryNodes::Only(nodes.iter().map(|number| name(&node(*number))).collect())
            });
            world.backends_edit("east", &owner(*number), entry)
        }
        Step::BackendsAnywhere(number) => {
            world.backends_edit("east", &owner(*number), Some(EntryNodes::Any))
        }
        Step::Announcer(number) => world.node_edit("east", &node(*number), |after| {
            after.announcer = Some(Announcer {
                labels: labels(&[("host", &node(*number))]),
                member_endpoint: "192.0.2.99:7946".to_owned(),
                features: BTreeSet::new(),
            });
        }),
        Step::Report {
            node: number,
            labelled,
            away,
        } => world.node_edit("east", &node(*number), |after| {
            after.reported = Some(ReportedNode {
                labels: labels(&some_if(*labelled, &[("zone", "1")])),
                unavailable_reason: if *away { "away" } else { "" }.to_owned(),
            });
        }),
        Step::LoseNode(number) => {
            let key = NodeKey {
                cluster: name("east"),
                node: name(&node(*number)),
            };
            world.state.node(&key)?;
            world.node_edit("east", &node(*number), |after| {
                after.reported = None;
                after.announcer = None;
            })
        }
        Step::Advertise(number, policy) => {
            let after = Advertisement {
                revision: world.next_revision(),
                ..policy_of(*number, policy)
            };
            Change::Advertisement(Edit {
                before: world.state.advertisement(&after.key).cloned(),
                after: Some(Arc::new(after)),
            })
        }
        Step::DropAdvertisement(number) => {
            let cluster = (*number == 0).then_some("east");
            let key = advertisement(cluster, &format!("ad{number}")).key;
            Change::Advertisement(Edit {
                before: Some(Arc::clone(world.state.advertisement(&key)?)),
                after: None,
            })
        }
        Step::LabelPool(gold) => {
            let before = world.state.pool(&pool_key(None, "pool"))?;
            let after = Pool {
                labels: labels(&some_if(*gold, &[("tier", "gold")])),
                revision: world.next_revision(),
                ..Pool::clone(before)
            };
            Change::Pool(Edit {
                before: Some(Arc::clone(before)),
                after: Some(Arc::new(after)),
            })
        }
    })
}

/// Each change is made against the state after those before it.
fn perform(world: &mut World, steps: &[Step]) {
    let mut changes = Vec::new();
    for step in steps {
        if let Some(change) = change(world, step) {
            world.state.apply(&change);
            changes.push(change);
        }
    }
    world.publish(&changes);
}

fn assignments(world: &World) -> BTreeMap<AssignmentKey, Arc<Assignment>> {
    let cluster = world.announcements.cluster("east").expect("known");
    let assignments = cluster.assignments();
    assignments
        .map(|one| (one.key.clone(), Arc::clone(one)))
        .collect()
}

fn set_of(world: &World, id: u64) -> BTreeSet<Name> {
    let cluster = world.announcements.cluster("east").expect("known");
    let set = cluster.node_sets().find(|set| set.id == id).expect("sent");
    set.nodes.iter().cloned().collect()
}

/// What must hold of the assignments, said without the code that makes them.
fn check_assignments(world: &World) {
    let all = assignments(world);
    for key in held_keys(world) {
        let assignment = all.get(&key).map(|one| &**one);
        routed::check(world, &key, assignment);
    }
    let (all, by_bgp_only): (BTreeMap<_, _>, BTreeMap<_, _>) = all
        .into_iter()
        .partition(|(_, one)| one.interfaces.is_some());
    for assignment in by_bgp_only.values() {
        assert!(assignment.nodes.is_empty() && assignment.candidates == 0 && !assignment.probe);
        check_explanation(world, assignment, &BTreeSet::new());
    }
    for assignment in all.values() {
        let set = set_of(world, assignment.candidates);
        assert!(!set.is_empty());
        assert_eq!(assignment.nodes.len(), set.len().min(3));
        assert!(assignment.nodes.iter().all(|node| set.contains(node)));
        for node in &set {
            let key = NodeKey {
                cluster: name("east"),
                node: node.clone(),
            };
            let node = world.state.node(&key).expect("candidates are known nodes");
            assert!(node.announcer.is_some());
            let reported = node.reported.as_ref();
            assert!(reported.is_none_or(|one| one.unavailable_reason.is_empty()));
        }
        check_nodes(world, assignment, &set);
        check_explanation(world, assignment, &set);
        let (space, address) = (&assignment.key.space, assignment.key.address);
        let holders: Vec<_> = world.state.holders(space, address).collect();
        assert_eq!(holders.len(), assignment.owners.len());
        for other in all.values() {
            let mut holders = holders.iter();
            let joined = holders.any(|holder| holder.addresses.contains(&other.key.address));
            assert!(!joined || other.group == assignment.group);
            if other.group == assignment.group {
                assert_eq!(other.nodes, assignment.nodes);
                assert_eq!(other.candidates, assignment.candidates);
            }
        }
    }
    let announced = assignments(world);
    check_silence(world, &announced);
    let stored: BTreeSet<_> = world.state.placements().map(|one| one.group).collect();
    assert!(all.values().all(|one| stored.contains(&one.group)));
    let held = |group| world.state.allocation_by_id(group).is_some();
    assert!(stored.into_iter().all(held));
}

/// The advertisements that select a node for one of these allocations. (There is one pool, and one
/// cluster.)
pub(super) fn policy_of_node<'a>(
    world: &'a World,
    holders: &[&Arc<Allocation>],
    node: &Name,
) -> Vec<&'a Advertisement> {
    let key = NodeKey {
        cluster: name("east"),
        node: node.clone(),
    };
    let node = world.state.node(&key).expect("known").labels();
    let pool = &world
        .state
        .pool(&pool_key(None, "pool"))
        .expect("made")
        .labels;
    let none_or_any = |selectors: &[LabelSelector], labels: &Labels| {
        selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
    };
    let selects = |one: &&Arc<Advertisement>| {
        let mut holders = holders.iter();
        none_or_any(&one.pool_selectors, pool)
            && none_or_any(&one.node_selectors, &node)
            && holders.any(|holder| none_or_any(&one.service_selectors, &holder.claim.labels))
    };
    let all = world.state.advertisements().filter(selects);
    all.map(|advertisement| &**advertisement).collect()
}

/// Where one owner holds the address and that is all of its group: what each candidate weighs, and
/// where it answers.
fn check_nodes(world: &World, assignment: &Assignment, candidates: &BTreeSet<Name>) {
    let (space, address) = (&assignment.key.space, assignment.key.address);
    let holders: Vec<_> = world.state.holders(space, address).collect();
    if holders.len() != 1 || holders[0].addresses.len() != 1 {
        return;
    }
    let mut weights = BTreeMap::new();
    for node in candidates {
        let (mut weight, mut named, mut every) = (0, BTreeSet::new(), false);
        for advertisement in policy_of_node(world, &holders, node) {
            let AdvertisementProtocol::L2 {
                interfaces,
                preferred_nodes,
                ..
            } = &advertisement.protocol
            else {
                continue;
            };
            every |= interfaces.is_empty();
            named.extend(interfaces.iter().cloned());
            for preference in preferred_nodes {
                let of_whom = selector("host", node.as_str());
                weight += u32::from(preference.selector == of_whom) * preference.weight;
            }
        }
        let named: Vec<String> = named.into_iter().filter(|_| !every).collect();
        let text = address.to_ip().to_string();
        assert_eq!(world.interfaces("east", &text, node.as_str()), named);
        weights.insert(node, weight);
    }
    let first = assignment.nodes.first().expect("never empty");
    assert_eq!(weights.get(first), weights.values().max());
}

/// What is explained is what is announced.
fn check_explanation(world: &World, assignment: &Assignment, candidates: &BTreeSet<Name>) {
    let key = assignment.key.clone();
    let question = Question::collect(&world.state, &name("east"), key);
    let explained = question.expect("held").answer();
    assert_eq!(explained.assignment.as_ref(), Some(assignment));
    let chosen = explained.nodes.iter();
    let chosen = chosen.filter(|node| node.verdict == Verdict::Candidate);
    let chosen: BTreeSet<Name> = chosen.map(|node| node.node.clone()).collect();
    let by_bgp = assignment.announcers().flat_map(|set| &set.nodes);
    assert_eq!(chosen, candidates | &by_bgp.cloned().collect());
}

/// Everything that `east` holds.
fn held_keys(world: &World) -> BTreeSet<AssignmentKey> {
    let allocations = (0..OWNERS).filter_map(|number| {
        let key = owner_key("east", &owner(number));
        world.state.allocation(&key)
    });
    allocations.flat_map(|one| keys_of(one)).collect()
}

/// What is held and not announced is explained as that, with a reason for each node.
fn check_silence(world: &World, announced: &BTreeMap<AssignmentKey, Arc<Assignment>>) {
    for key in held_keys(world)
        .into_iter()
        .filter(|key| !announced.contains_key(key))
    {
        let question = Question::collect(&world.state, &name("east"), key);
        let explained = question.expect("held").answer();
        assert_eq!(explained.assignment, None);
        let mut nodes = explained.nodes.iter();
        assert!(nodes.all(|node| node.verdict != Verdict::Candidate));
        assert!(
            explained
                .nodes
                .iter()
                .all(|node| node.interfaces.is_empty())
        );
    }
}

/// The owners whom a batch concerns; `None` if it concerns more than owners.
fn touched(batch: &[Step]) -> Option<BTreeSet<OwnerKey>> {
    let owners = batch.iter().map(|step| match step {
        Step::Hold { owner, .. }
        | Step::Release(owner)
        | Step::Backends(owner, _)
        | Step::BackendsAnywhere(owner) => Some(owner_key("east", &self::owner(*owner))),
        Step::Announcer(_)
        | Step::Report { .. }
        | Step::LoseNode(_)
        | Step::Advertise(..)
        | Step::DropAdvertisement(_)
        | Step::LabelPool(_) => None,
    });
    owners.collect()
}

/// The addresses of all groups in which one of these owners is.
fn groups_of(world: &World, owners: &BTreeSet<OwnerKey>) -> BTreeSet<AssignmentKey> {
    let mut found = BTreeSet::new();
    for owner in owners {
        let Some(allocation) = world.state.allocation(owner) else {
            continue;
        };
        let mut open: Vec<_> = keys_of(allocation).collect();
        while let Some(key) = open.pop() {
            if found.insert(key.clone()) {
                let holders = world.state.holders(&key.space, key.address);
                open.extend(holders.flat_map(|holder| keys_of(holder)));
            }
        }
    }
    found
}

fn start() -> World {
    let mut world = World::east(&["n0", "n1", "n2"]);
    world.advertise(advertisement(Some("east"), "ad0"));
    world.drop_advertisement(Some("east"), "all");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn refreshing_is_the_same_as_doing_it_all_again(batches in batches()) {
        let mut world = start();
        for batch in &batches {
            // Compares with a rebuild and with the sum of the deltas.
            perform(&mut world, batch);
            check_assignments(&world);
        }
    }

    #[test]
    fn what_an_owner_does_changes_nothing_for_groups_that_it_is_not_in(batches in batches()) {
        let mut world = start();
        for batch in &batches {
            let before = assignments(&world);
            let Some(touched) = touched(batch) else {
                perform(&mut world, batch);
                continue;
            };
            let mut related = groups_of(&world, &touched);
            perform(&mut world, batch);
            related.extend(groups_of(&world, &touched));
            let after = assignments(&world);
            for (key, assignment) in before {
                if !related.contains(&key) {
                    prop_assert_eq!(after.get(&key), Some(&assignment));
                }
            }
        }
    }
}
