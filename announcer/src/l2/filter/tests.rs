use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_base::MacAddr;
use proptest::prelude::*;

use super::*;
use crate::l2::arp::Arp;
use crate::l2::ndp::Ndp;

const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const BROADCAST: u32 = 1;

/// A frame as the kernel has it.
struct Frame {
    bytes: Vec<u8>,
    packet_type: u32,
    tagged: bool,
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            packet_type: BROADCAST,
            tagged: false,
        }
    }
}

impl Frame {
    fn load(&self, offset: u32, length: usize) -> Option<u32> {
        match offset {
            PACKET_TYPE => return Some(self.packet_type),
            VLAN_TAG_PRESENT => return Some(self.tagged.into()),
            _ => {}
        }
        let offset = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(offset..offset + length)?;
        Some(
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte)),
        )
    }
}

/// What the kernel does with it: whether the frame passes.
fn run(program: &[Instruction], frame: &Frame) -> bool {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let one = program[at];
        at += 1;
        let length = match one.code {
            LOAD_BYTE => 1,
            LOAD_HALF => 2,
            LOAD_WORD => 4,
            RETURN => return one.operand > 0,
            JUMP => {
                at += one.operand as usize;
                continue;
            }
            code => {
                let holds = match code {
                    JUMP_IF_EQUAL => accumulator == one.operand,
                    JUMP_IF_GREATER => accumulator > one.operand,
                    JUMP_IF_AT_LEAST => accumulator >= one.operand,
                    _ => panic!("unknown operation {code:#x}"),
                };
                at += usize::from(if holds { one.if_true } else { one.if_false });
                continue;
            }
        };
        // A load behind the end of the frame drops it.
        let Some(loaded) = frame.load(one.operand, length) else {
            return false;
        };
        accumulator = loaded;
    }
}

fn arp(sender: u32, target: u32) -> Frame {
    let asked = Arp {
        sender_ip: sender.into(),
        ..Arp::probe(target.into(), CLIENT)
    };
    asked.emit().to_vec().into()
}

fn ndp(sender: Ipv6Addr, target: Ipv6Addr) -> Frame {
    Ndp::question(target, CLIENT, sender).emit().to_vec().into()
}

fn ipv4(addresses: &[u32]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().map(|one| IpAddr::V4(Ipv4Addr::from(*one)))
}

#[test]
fn of_its_protocol_everything_passes_until_the_addresses_are_known() {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let frames = [
        (Protocol::Arp, arp(1, 2)),
        (Protocol::Ndp, ndp(link_local, link_local)),
    ];
    for (protocol, frame) in frames {
        let program = program(protocol, None);
        assert!(run(&program, &frame));
        for spoil in [
            |frame: &mut Frame| frame.tagged = true,
            |frame: &mut Frame| frame.packet_type = PACKET_OTHERHOST,
            |frame: &mut Frame| frame.packet_type = PACKET_OTHERHOST + 1,
            |frame: &mut Frame| frame.bytes[13] = 0,
            |frame: &mut Frame| frame.bytes.truncate(13),
        ] {
            let mut spoilt = Frame {
                bytes: frame.bytes.clone(),
                ..Frame::from(Vec::new())
            };
            spoil(&mut spoilt);
            assert!(!run(&program, &spoilt), "{protocol:?}");
        }
    }
    let advertisement = Ndp::unsolicited(link_local, CLIENT).emit().to_vec();
    assert!(run(
        &program(Protocol::Ndp, None),
        &advertisement.clone().into()
    ));
    for (offset, other) in [(20, 17), (21, 254), (54, 134)] {
        let mut other_message = advertisement.clone();
        other_message[offset] = other;
        assert!(!run(&program(Protocol::Ndp, None), &other_message.into()));
    }
}

#[test]
fn a_thousand_scattered_addresses_are_told_apart_exactly() {
    let ours: Vec<u32> = (0..1000).map(|one| 0x0a00_0000 + 3 * one).collect();
    let cover = Cover::of(ipv4(&ours), usize::MAX);
    let program = program(Protocol::Arp, Some(&cover));
    assert!(program.len() <= LONGEST, "{} steps", program.len());
    for target in 0x09ff_fff0..0x0a00_0c00 {
        let is_ours = ours.binary_search(&target).is_ok();
        assert_eq!(run(&program, &arp(9, target)), is_ours, "{target:#x}");
        assert_eq!(run(&program, &arp(target, 9)), is_ours, "{target:#x}");
    }
}

#[test]
fn who_has_no_addresses_is_woken_by_nothing() {
    let cover = Cover::of([].into_iter(), 10);
    for protocol in Protocol::ALL {
        assert!(!run(&program(protocol, Some(&cover)), &arp(0, 0)));
        assert!(!run(
            &program(protocol, Some(&cover)),
            &ndp(Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST)
        ));
    }
}

#[test]
fn a_range_has_its_ends_and_the_greatest_address_too() {
    let cover = Cover::of(ipv4(&[0, 7, 8, 9, u32::MAX, u32::MAX - 1]), 10);
    assert_eq!(cover.ranges, [(0, 0), (7, 9), (u32::MAX - 1, u32::MAX)]);
    let few = Cover::of(ipv4(&[0, 10, 11, 100, 105]), 2);
    assert_eq!(few.ranges, [(0, 11), (100, 105)]);
}

proptest! {
    #[test]
    fn the_kernel_lets_through_what_the_cover_has_and_nothing_else(
        ours in proptest::collection::vec(0_u32..3000, 0..300),
        most in 1_usize..200,
        asked in proptest::collection::vec((0_u32..3000, 0_u32..3000), 1..200),
    ) {
        let cover = Cover::of(ipv4(&ours), most);
        prop_assert!(cover.ranges.len() <= most);
        for address in ipv4(&ours) {
            prop_assert!(cover.has(address), "lacks {address}");
        }
        let program = program(Protocol::Arp, Some(&cover));
        let has = |one: u32| cover.has(IpAddr::V4(one.into()));
        for (sender, target) in asked {
            let passes = has(sender) || has(target);
            prop_assert_eq!(run(&program, &arp(sender, target)), passes);
        }
    }

    #[test]
    fn the_same_holds_for_neighbour_discovery(
        ours in proptest::collection::vec(any::<u16>(), 0..100),
        asked in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..100),
    ) {
        let address = |last: u16| Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, last);
        let ours = ours.into_iter().map(|last| IpAddr::V6(address(last)));
        let cover = Cover::of(ours, usize::MAX);
        let program = program(Protocol::Ndp, Some(&cover));
        let has = |one: Ipv6Addr| cover.has(IpAddr::V6(one));
        for (sender, target) in asked {
            let (sender, target) = (address(sender), address(target));
            let passes = has(sender) || has(target);
            prop_assert_eq!(run(&program, &ndp(sender, target)), passes);
        }
    }
}
