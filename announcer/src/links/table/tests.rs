use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::packet_core::Parseable as _;

use super::*;

/// As the kernel sent them for `ip link add eth0 type veth peer name veth0` with veth0 in br0 and a
/// macvlan mac0 on eth0: header, IFNAME, CARRIER, CARRIER_UP_COUNT, ADDRESS, MASTER, LINKINFO
/// (without what a kind says of itself).
const ETH0: &str = "\
    00000100030000004310010000000000090003006574683000000000050021000100000008002f0001000000\
    0a0001001271eee54759000010001200090001007665746800000000";
const VETH0: &str = "\
    000001000200000043100100000000000a000300766574683000000008000a00040000000500210001000000\
    08002f00010000000a000100a608a1fbd61500001c0012000900010076657468000000000b00040062726964\
    67650000";
const BR0: &str = "\
    000001000400000043100100000000000800030062723000050021000100000008002f00010000000a000100\
    a608a1fbd6150000100012000b0001006272696467650000";
const MAC0: &str = "\
    00000100050000004310010000000000090003006d61633000000000050021000100000008002f0001000000\
    0a0001004adc9777ca8f0000100012000c0001006d6163766c616e00";

const UP: u32 = 0x1 | 0x2 | 0x40 | 0x1_0000;
const UP_WITHOUT_CARRIER: u32 = 0x1 | 0x2;
/// Numbers of attributes (linux/if_link.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EVENT: u16 = 44;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const INFO_KIND: u16 = 1;
const INFO_SLAVE_KIND: u16 = 4;
const EVENT_FEATURES: u32 = 2;
const EVENT_BONDING_FAILOVER: u32 = 3;
const EVENT_NOTIFY_PEERS: u32 = 4;

fn parsed(bytes: &[u8]) -> LinkMessage {
    LinkMessage::parse(bytes).expect("a message of the kernel")
}

fn captured(hex: &str) -> LinkMessage {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(text, 16).expect("digits")
    };
    parsed(&digits.chunks(2).map(byte).collect::<Vec<u8>>())
}

fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("short");
    let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(number: u16, value: &str) -> Vec<u8> {
    attribute(number, format!("{value}\0").as_bytes())
}

/// A message of an Ethernet interface with this index, these flags and more attributes.
fn message(index: u32, flags: u32, more: &[Vec<u8>]) -> LinkMessage {
    let mut bytes = vec![0, 0, 1, 0];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(text(IFLA_IFNAME, &format!("eth{index}")));
    bytes.extend(attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]));
    bytes.extend(more.concat());
    parsed(&bytes)
}

fn number(attribute_number: u16, value: u32) -> Vec<u8> {
    attribute(attribute_number, &value.to_ne_bytes())
}

/// A port of a master of this kind.
fn port_of(kind: &str) -> LinkMessage {
    let info = [text(INFO_KIND, "veth"), text(INFO_SLAVE_KIND, kind)].concat();
    let more = [number(IFLA_MASTER, 9), attribute(IFLA_LINKINFO, &info)];
    message(2, UP, &more)
}

fn uplinks(table: &Table) -> Vec<Uplink> {
    let patterns = [".*".to_owned()];
    let rules = InterfaceRules::only(&patterns).expect("valid");
    rules.usable(table.links())
}

fn table(messages: &[LinkMessage]) -> Table {
    let mut table = Table::default();
    table.replace(messages, &[]);
    table
}

fn tell(table: &mut Table, message: LinkMessage) -> bool {
    table.apply(&RouteNetlinkMessage::NewLink(message))
}

#[test]
fn a_bridge_answers_and_not_its_ports_and_a_macvlan_beside_its_parent() {
    let table = table(&[ETH0, VETH0, BR0, MAC0].map(captured));
    let why = |index: u32| {
        let any = [".*".to_owned()];
        let rules = InterfaceRules::only(&any).expect("valid");
        table.links()[&index].unusable(&rules)
    };
    assert_eq!(
        [2, 3, 4, 5].map(why),
        [Some(Unusable::IsPort), None, None, None]
    );
    let eth0 = &table.links()[&3];
    assert_eq!(eth0.name, "eth0");
    assert_eq!(eth0.mac, Some(MacAddr(0x12, 0x71, 0xee, 0xe5, 0x47, 0x59)));
    assert_eq!(eth0.carrier_ups, 1);
}

#[test]
fn a_port_of_a_vrf_answers_and_those_of_bonds_and_teams_do_not() {
    for (kind, expected) in [("vrf", 1), ("bond", 0), ("bridge", 0), ("team", 0)] {
        assert_eq!(uplinks(&table(&[port_of(kind)])).len(), expected, "{kind}");
    }
    // Open vSwitch is a master that tells no kind.
    let of_unknown = message(2, UP, &[number(IFLA_MASTER, 9)]);
    assert_eq!(uplinks(&table(&[of_unknown])), []);
}

#[test]
fn bonds_vlans_and_virtual_interfaces_are_ordinary() {
    for kind in ["bond", "vlan", "vxlan", "macvlan", "team", "veth"] {
        let info = attribute(IFLA_LINKINFO, &text(INFO_KIND, kind));
        assert_eq!(
            uplinks(&table(&[message(2, UP, &[info])])).len(),
            1,
            "{kind}"
        );
    }
}

#[test]
fn every_way_to_be_unusable_has_its_name() {
    type Change = fn(&mut Link);
    let cases: [(Change, Option<Unusable>); 9] = [
        (|_| {}, None),
        (
            |link| link.name = "veth1".to_owned(),
            Some(Unusable::NotAllowed),
        ),
        (
            |link| link.name = "lo".to_owned(),
            Some(Unusable::NotAllowed),
        ),
        (|link| link.up = false, Some(Unusable::Down)),
        (|link| link.carrier = false, Some(Unusable::NoCarrier)),
        (|link| link.broadcast = false, Some(Unusable::NoBroadcast)),
        (|link| link.no_arp = true, Some(Unusable::NoArp)),
        (|link| link.is_port = true, Some(Unusable::IsPort)),
        (|link| link.mac = None, Some(Unusable::NoMac)),
    ];
    let rules = InterfaceRules::metallb().expect("valid");
    for (change, expected) in cases {
        let mut link = table(&[captured(ETH0)]).links()[&3].clone();
        change(&mut link);
        assert_eq!(link.unusable(&rules), expected, "{link:?}");
    }
}

#[test]
fn a_flap_that_nobody_saw_is_told_by_the_kernels_count() {
    let with_ups = |ups| message(2, UP, &[number(IFLA_CARRIER_UP_COUNT, ups)]);
    let mut table = table(&[with_ups(1)]);
    let before = uplinks(&table);
    assert!(!tell(&mut table, with_ups(1)), "nothing changed");
    assert!(tell(&mut table, with_ups(2)));
    let after = uplinks(&table);
    assert_eq!(after[0].port, before[0].port);
    assert_eq!(after[0].life, before[0].life);
    assert!(after[0].turns > before[0].turns);
}

#[test]
fn a_flap_is_told_also_by_a_kernel_that_does_not_count() {
    let mut table = table(&[message(2, UP, &[])]);
    let before = uplinks(&table);
    assert!(tell(&mut table, message(2, UP_WITHOUT_CARRIER, &[])));
    assert_eq!(uplinks(&table), []);
    assert!(tell(&mut table, message(2, UP, &[])));
    assert!(uplinks(&table)[0].turns > before[0].turns);
}

#[test]
fn a_bond_that_fails_over_and_a_machine_that_moved_are_a_turn_and_other_events_are_not() {
    let event = |number_of_event| message(2, UP, &[number(IFLA_EVENT, number_of_event)]);
    let mut table = table(&[message(2, UP, &[])]);
    for (number_of_event, expected) in [
        (EVENT_BONDING_FAILOVER, 1),
        (EVENT_FEATURES, 1),
        (EVENT_NOTIFY_PEERS, 2),
    ] {
        tell(&mut table, event(number_of_event));
        assert_eq!(uplinks(&table)[0].turns, expected, "{number_of_event}");
    }
}

#[test]
fn an_interface_with_the_index_of_one_that_is_gone_is_another() {
    let mut table = table(&[message(2, UP, &[])]);
    let before = uplinks(&table);
    let gone = RouteNetlinkMessage::DelLink(message(2, UP, &[]));
    assert!(table.apply(&gone));
    assert!(!table.apply(&gone), "it is gone already");
    assert!(tell(&mut table, message(2, UP, &[])));
    assert_ne!(uplinks(&table)[0].life, before[0].life);
    assert_eq!(uplinks(&table)[0].port, before[0].port);
}

#[test]
fn what_a_bridge_says_of_its_ports_changes_nothing() {
    let mut table = table(&[message(2, UP, &[])]);
    let mut leaves = message(2, UP, &[number(IFLA_MASTER, 9)]);
    leaves.header.interface_family = AddressFamily::Bridge;
    assert!(!tell(&mut table, leaves.clone()));
    assert!(!table.apply(&RouteNetlinkMessage::DelLink(leaves)));
    assert_eq!(uplinks(&table).len(), 1);
}

#[test]
fn after_lost_events_every_interface_is_announced_anew_and_those_that_are_gone_are_gone() {
    let mut table = table(&[message(2, UP, &[]), message(3, UP, &[])]);
    let before = uplinks(&table);
    table.replace(&[message(2, UP, &[])], &[]);
    let after = uplinks(&table);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].life, before[0].life);
    assert!(after[0].turns > before[0].turns);
}

#[test]
fn an_interface_speaks_ipv6_while_it_has_a_link_local_address() {
    let mut table = table(&[message(2, UP, &[])]);
    let before = uplinks(&table);
    assert!(before[0].port.link_local.is_none());
    let mut address = AddressMessage::default();
    address.header.index = 2;
    let link_local = std::net::IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
    address.attributes = vec![AddressAttribute::Address(link_local)];
    let new = RouteNetlinkMessage::NewAddress(address.clone());
    assert!(table.apply(&new));
    assert!(!table.apply(&new), "told again");
    let after = uplinks(&table);
    assert!(after[0].port.link_local.is_some());
    // It is the same interface, and nobody has to be told of it.
    assert!(after[0].port.is_same(&before[0].port));
    assert_eq!(
        (after[0].life, after[0].turns),
        (before[0].life, before[0].turns)
    );
    tell(&mut table, message(2, UP_WITHOUT_CARRIER, &[]));
    tell(&mut table, message(2, UP, &[]));
    assert!(
        uplinks(&table)[0].port.link_local.is_some(),
        "events of the link leave it"
    );
    assert!(table.apply(&RouteNetlinkMessage::DelAddress(address)));
    assert!(uplinks(&table)[0].port.link_local.is_none());
}
