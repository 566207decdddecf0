use pnet_base::MacAddr;

use super::*;
use crate::election::Wanted;

fn key(address: &str) -> Key {
    Key {
        space: "default".to_owned(),
        address: address.parse().expect("valid"),
    }
}

fn wanted(interfaces: &[&str]) -> Wanted {
    let names: Vec<String> = interfaces.iter().map(ToString::to_string).collect();
    Wanted::named(&names)
}

fn assigned(address: &str, group: u64, interfaces: Option<&[&str]>) -> Assigned {
    Assigned {
        key: key(address),
        group: GroupId(group),
        listed: vec![NodeName::from("a")],
        candidates: [NodeName::from("a")].into(),
        wanted: interfaces.map(|names| wanted(names).into()),
        owners: vec!["east/default/web".to_owned()],
        probe: false,
        fenced: None,
    }
}

fn port(index: u32, name: &str) -> Port {
    Port {
        index,
        name: name.to_owned(),
        mac: MacAddr(2, 0, 0, 0, 0, 1),
        link_local: Some(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
    }
}

fn spot(interface: u32, last: u8) -> Spot {
    Spot {
        interface,
        address: IpAddr::from([192, 0, 2, last]),
    }
}

fn plan() -> Plan {
    let mut plan = Plan::new(NodeName::from("a"));
    plan.set_ports(vec![port(2, "eth0"), port(3, "eth1")], BTreeSet::new());
    plan
}

#[test]
fn each_address_is_answered_on_the_interfaces_where_it_is_wanted() {
    let mut plan = plan();
    let touched = plan.apply(
        &[
            assigned("192.0.2.1", 7, Some(&[])),
            assigned("192.0.2.2", 7, Some(&["eth1", "eth9"])),
        ],
        &[],
    );
    assert_eq!(touched.groups, BTreeSet::from([GroupId(7)]));
    assert_eq!(plan.spots(GroupId(7)), [spot(2, 1), spot(3, 1), spot(3, 2)]);
}

#[test]
fn where_nodes_have_interfaces_of_their_own_this_nodes_are_answered_on() {
    let mut plan = plan();
    let by_nodes = |node: &str, names: &[&str]| ([NodeName::from(node)].into(), wanted(names));
    let nodes = vec![by_nodes("a", &["eth1"]), by_nodes("b", &["eth0"])];
    let assigned = Assigned {
        wanted: Some(WantedBy::new(Wanted::Any, nodes)),
        ..assigned("192.0.2.1", 7, None)
    };
    plan.apply(&[assigned], &[]);
    assert_eq!(plan.spots(GroupId(7)), [spot(3, 1)]);
}

#[test]
fn the_candidacy_wants_what_any_address_wants() {
    let mut plan = plan();
    plan.apply(&[assigned("192.0.2.1", 7, Some(&["eth0"]))], &[]);
    plan.apply(&[assigned("192.0.2.2", 7, Some(&["eth1"]))], &[]);
    let wanted = plan
        .candidacy(GroupId(7))
        .map(|candidacy| candidacy.wanted.clone());
    let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
    assert_eq!(wanted, Some(Wanted::Named(both).into()));
}

#[test]
fn an_address_that_moves_to_another_group_touches_both() {
    let mut plan = plan();
    plan.apply(
        &[
            assigned("192.0.2.1", 7, Some(&[])),
            assigned("192.0.2.2", 8, Some(&[])),
        ],
        &[],
    );
    let touched = plan.apply(&[assigned("192.0.2.2", 7, Some(&[]))], &[]);
    let expected = Touched {
        groups: BTreeSet::from([GroupId(7), GroupId(8)]),
        ..Touched::default()
    };
    assert_eq!(touched, expected);
    assert_eq!(plan.candidacy(GroupId(8)), None);
    assert_eq!(plan.used(GroupId(7)).len(), 2);
}

#[test]
fn a_group_that_comes_with_an_address_of_another_one_succeeds_that() {
    let mut plan = plan();
    plan.apply(&[assigned("192.0.2.1", 7, Some(&[]))], &[]);
    let touched = plan.apply(&[assigned("192.0.2.1", 9, Some(&[]))], &[]);
    let expected = Touched {
        groups: BTreeSet::from([GroupId(7), GroupId(9)]),
        successors: BTreeMap::from([(GroupId(9), GroupId(7))]),
        ..Touched::default()
    };
    assert_eq!(touched, expected);
    let again = plan.apply(&[assigned("192.0.2.1", 9, Some(&[]))], &[]);
    assert_eq!(again.successors, BTreeMap::new());
}

#[test]
fn an_ipv6_address_is_answered_where_there_is_a_link_local_address() {
    let mut plan = plan();
    let bare = Port {
        link_local: None,
        ..port(3, "eth1")
    };
    plan.set_ports(vec![port(2, "eth0"), bare.clone()], BTreeSet::new());
    plan.apply(&[assigned("192.0.2.1", 7, Some(&[]))], &[]);
    assert_eq!(plan.lack_link_local().count(), 0);
    plan.apply(&[assigned("2001:db8::1", 7, Some(&[]))], &[]);
    let address = key("2001:db8::1").address;
    let ipv6 = Spot {
        interface: 2,
        address,
    };
    assert_eq!(plan.spots(GroupId(7)), [spot(2, 1), ipv6, spot(3, 1)]);
    assert_eq!(plan.lack_link_local().collect::<Vec<_>>(), [&bare]);
    let ipv4 = key("192.0.2.1").address;
    assert_eq!(plan.answerable(GroupId(7)), [ipv4, address].into());
    plan.set_ports(vec![bare.clone()], BTreeSet::new());
    assert_eq!(plan.answerable(GroupId(7)), [ipv4].into());
    plan.set_ports(vec![port(2, "eth0"), bare.clone()], BTreeSet::new());
    // Told again, and as one of another group.
    plan.apply(&[assigned("2001:db8::1", 8, Some(&[]))], &[]);
    plan.apply(&[assigned("2001:db8::1", 8, Some(&[]))], &[]);
    plan.apply(&[], &[key("2001:db8::1")]);
    assert_eq!(plan.lack_link_local().count(), 0);
}

#[test]
fn where_one_protocol_has_no_socket_the_other_is_answered() {
    let mut plan = plan();
    let assigned = ["192.0.2.1", "2001:db8::1"].map(|one| assigned(one, 7, Some(&["eth0"])));
    plan.apply(&assigned, &[]);
    for (protocol, answered) in [(Protocol::Ndp, "192.0.2.1"), (Protocol::Arp, "2001:db8::1")] {
        plan.set_ports(vec![port(2, "eth0")], [(2, protocol)].into());
        let only = key(answered).address;
        assert_eq!(plan.answerable(GroupId(7)), [only].into());
    }
}

#[test]
fn a_group_asks_for_the_families_of_its_addresses() {
    let mut plan = plan();
    let families = |plan: &Plan| plan.candidacy(GroupId(7)).map(|it| it.families);
    plan.apply(&[assigned("2001:db8::1", 7, Some(&[]))], &[]);
    assert_eq!(families(&plan), Some(Families::Ipv6));
    plan.apply(&[assigned("192.0.2.1", 7, Some(&[]))], &[]);
    assert_eq!(families(&plan), Some(Families::Both));
    plan.apply(&[], &[key("2001:db8::1")]);
    assert_eq!(families(&plan), Some(Families::Ipv4));
    // Where they can be answered.
    let bare = Port {
        link_local: None,
        ..port(4, "eth2")
    };
    let ports = vec![port(2, "eth0"), port(3, "eth1"), bare];
    plan.set_ports(ports, [(2, Protocol::Ndp), (3, Protocol::Arp)].into());
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    assert_eq!(
        plan.names_that_speak(Protocol::Arp),
        names(&["eth0", "eth2"])
    );
    assert_eq!(plan.names_that_speak(Protocol::Ndp), names(&["eth1"]));
}

#[test]
fn what_is_not_announced_by_layer_2_has_no_group() {
    let mut plan = plan();
    plan.apply(&[assigned("192.0.2.1", 7, None)], &[]);
    assert!(plan.is_empty());
    plan.apply(&[assigned("192.0.2.1", 7, Some(&[]))], &[]);
    assert_eq!(plan.len(), 1);
    let touched = plan.apply(&[assigned("192.0.2.1", 7, None)], &[]);
    assert_eq!(touched.groups, BTreeSet::from([GroupId(7)]));
    assert!(plan.is_empty(), "its advertisement went away");
}

#[test]
fn a_removed_address_leaves_its_group_and_the_last_one_ends_it() {
    let mut plan = plan();
    plan.apply(
        &[
            assigned("192.0.2.1", 7, Some(&[])),
            assigned("192.0.2.2", 7, Some(&[])),
        ],
        &[],
    );
    plan.apply(&[], &[key("192.0.2.1")]);
    assert_eq!(plan.spots(GroupId(7)), [spot(2, 2), spot(3, 2)]);
    assert_eq!(
        plan.apply(&[], &[key("192.0.2.2")]).groups,
        BTreeSet::from([GroupId(7)])
    );
    assert_eq!(plan.apply(&[], &[key("192.0.2.2")]), Touched::default());
    assert!(plan.is_empty());
}

#[test]
fn an_address_is_gone_when_no_space_has_it_any_more() {
    let mut plan = plan();
    let in_space = |space: &str, wanted: Option<&[&str]>| {
        let mut assigned = assigned("192.0.2.1", 7, wanted);
        space.clone_into(&mut assigned.key.space);
        assigned
    };
    let (a, b) = (in_space("a", Some(&[])), in_space("b", Some(&[])));
    let other = assigned("192.0.2.2", 8, Some(&[]));
    let touched = plan.apply(&[a.clone(), b.clone(), other.clone()], &[]);
    assert_eq!(touched.gone, BTreeSet::new());
    let touched = plan.apply(&[], std::slice::from_ref(&a.key));
    assert_eq!(touched.gone, BTreeSet::new(), "another space has it");
    let touched = plan.apply(&[in_space("b", None)], &[]);
    assert_eq!(touched.gone, [a.key.address].into(), "nobody wants it");
    // What goes and comes back at once is not gone.
    let touched = plan.apply(
        std::slice::from_ref(&other),
        std::slice::from_ref(&other.key),
    );
    assert_eq!(touched.gone, BTreeSet::new());
}

#[test]
fn the_digest_of_a_group_is_that_of_its_addresses_however_they_came() {
    let digest = |plan: &Plan| plan.candidacy(GroupId(7)).map(|one| one.addresses);
    let [one, two, six] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        .map(|address| assigned(address, 7, Some(&["eth1"])));
    let mut both = plan();
    both.apply(&[one.clone(), two.clone(), six.clone()], &[]);
    let mut single = plan();
    single.apply(std::slice::from_ref(&one), &[]);
    assert_ne!(digest(&both), digest(&single));
    let mut later = plan();
    // On other interfaces, in another order, and twice.
    let elsewhere = assigned("192.0.2.2", 7, Some(&[]));
    later.apply(&[six.clone(), elsewhere, two.clone()], &[]);
    later.apply(std::slice::from_ref(&one), &[]);
    assert_eq!(digest(&both), digest(&later));
    later.apply(&[], &[two.key, six.key]);
    assert_eq!(digest(&later), digest(&single));
    // It is told to nodes that run another build.
    assert_eq!(digest(&single), Some(0xd8f4_9a6d_d221_2b35));
}
