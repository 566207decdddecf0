//! Which frames wake this process: the program that the kernel runs for each of them (classic BPF,
//! linux/filter.h).
//!
//! Pure. What nobody here is asked for is dropped by the kernel: of ARP and neighbour discovery passes what
//! is for an address of ours, and what uses one of ours as its own. Addresses are told apart by their last 32
//! bits, and where there are very many of them neighbours are taken together: what passes too much, the
//! reader drops ([`super::reply`]).

use std::net::IpAddr;

use super::table::Protocol;

#[cfg(test)]
mod tests;

// Operations:
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
// Loads from here on read what the kernel knows about the frame instead of its bytes.
const ANCILLARY: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const VLAN_TAG_PRESENT: u32 = ANCILLARY + 48;
/// Not for this host (packet(7)); those above it were sent by this host or looped back. A frame
/// with a tag of a VLAN that this host does not have is of this type too: the kernel takes the tag
/// out before the socket sees the frame, and leaves only this trace of it.
const PACKET_OTHERHOST: u32 = 3;
const ETHERTYPE_OFFSET: u32 = 12;
pub const ETHERTYPE_ARP: u32 = 0x0806;
pub const ETHERTYPE_IPV6: u32 = 0x86dd;
// In ARP for IPv4 over Ethernet:
const ARP_SENDER_OFFSET: u32 = 14 + 14;
const ARP_TARGET_OFFSET: u32 = 14 + 24;
// In the IPv6 header, and right behind it: with an extension header in between it is no neighbour
// discovery (RFC 6980). Of addresses the last 32 bits.
const NEXT_HEADER_OFFSET: u32 = 14 + 6;
const HOP_LIMIT_OFFSET: u32 = 14 + 7;
const SOURCE_OFFSET: u32 = 14 + 8 + 12;
const ICMPV6_TYPE_OFFSET: u32 = 14 + 40;
const NDP_TARGET_OFFSET: u32 = 14 + 40 + 8 + 12;
const ICMPV6: u32 = 58;
const LARGEST_HOP_LIMIT: u32 = 255;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;
const WHOLE_FRAME: u32 = 0xffff;

/// Ranges that are compared one after the other at the end of a search: with more of them a conditional
/// jump, which has 8 bits, would not reach over them.
const LEAF: usize = 16;
/// The kernel takes no longer program (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;

/// One step of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many steps are left out if the condition holds.
    pub if_true: u8,
    /// And if it does not.
    pub if_false: u8,
    pub operand: u32,
}

/// A set of addresses, as ranges of their last 32 bits. It may have more than it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// First and last of each, in order, with a gap between any two.
    ranges: Vec<(u32, u32)>,
}

impl Cover {
    /// Of these addresses, in at most so many ranges (and at least one).
    pub fn of(addresses: impl Iterator<Item = IpAddr>, most: usize) -> Self {
        let mut keys: Vec<u32> = addresses.map(key).collect();
        keys.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for key in keys {
            match ranges.last_mut() {
                Some((_, last)) if key <= last.saturating_add(1) => *last = key,
                Some(_) | None => ranges.push((key, key)),
            }
        }
        if ranges.len() > most {
            close_gaps(&mut ranges, most.max(1));
        }
        Self { ranges }
    }

    /// Whether it has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        let key = key(address);
        let behind = self.ranges.partition_point(|(first, _)| *first <= key);
        let before = behind.checked_sub(1).map(|index| self.ranges[index]);
        before.is_some_and(|(_, last)| key <= last)
    }
}

/// What addresses are told apart by.
fn key(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            u32::from_be_bytes([a, b, c, d])
        }
    }
}

/// Joins the ranges that are nearest to one another, until there are so many.
fn close_gaps(ranges: &mut Vec<(u32, u32)>, most: usize) {
    let mut gaps: Vec<(u32, usize)> = ranges
        .windows(2)
        .enumerate()
        .map(|(index, pair)| (pair[1].0 - pair[0].1, index + 1))
        .collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    let mut begins: Vec<usize> = gaps
        .iter()
        .take(most - 1)
        .map(|(_, index)| *index)
        .collect();
    begins.sort_unstable();
    let ends = begins.iter().copied().chain([ranges.len()]);
    let starts = [0].into_iter().chain(begins.iter().copied());
    let joined = starts
        .zip(ends)
        .map(|(start, end)| (ranges[start].0, ranges[end - 1].1));
    *ranges = joined.collect();
}

/// The program for one protocol: passes what has one of these addresses in it, or everything that is of
/// the protocol, is for this host or for a group, and has no VLAN tag. It may be longer than the kernel
/// takes ([`LONGEST`]).
pub fn program(protocol: Protocol, addresses: Option<&Cover>) -> Vec<Instruction> {
    let mut program = begin(protocol);
    let [target, sender] = match protocol {
        Protocol::Arp => [ARP_TARGET_OFFSET, ARP_SENDER_OFFSET],
        Protocol::Ndp => [NDP_TARGET_OFFSET, SOURCE_OFFSET],
    };
    match addresses {
        None => program.push(step(RETURN, WHOLE_FRAME)),
        Some(Cover { ranges }) => {
            for offset in [target, sender] {
                program.push(step(LOAD_WORD, offset));
                pass_if_in(&mut program, ranges);
            }
            program.push(step(RETURN, 0));
        }
    }
    program
}

/// Goes on behind this only with a frame of the protocol.
fn begin(protocol: Protocol) -> Vec<Instruction> {
    let mut program = Vec::new();
    let mut need = |load, offset, code, operand| {
        program.push(step(load, offset));
        program.push(step(code, operand));
    };
    need(LOAD_BYTE, PACKET_TYPE, JUMP_IF_AT_LEAST, PACKET_OTHERHOST);
    need(LOAD_BYTE, VLAN_TAG_PRESENT, JUMP_IF_EQUAL, 0);
    match protocol {
        Protocol::Arp => need(LOAD_HALF, ETHERTYPE_OFFSET, JUMP_IF_EQUAL, ETHERTYPE_ARP),
        Protocol::Ndp => {
            need(LOAD_HALF, ETHERTYPE_OFFSET, JUMP_IF_EQUAL, ETHERTYPE_IPV6);
            need(LOAD_BYTE, NEXT_HEADER_OFFSET, JUMP_IF_EQUAL, ICMPV6);
            need(
                LOAD_BYTE,
                HOP_LIMIT_OFFSET,
                JUMP_IF_EQUAL,
                LARGEST_HOP_LIMIT,
            );
            need(LOAD_BYTE, ICMPV6_TYPE_OFFSET, JUMP_IF_EQUAL, SOLICITATION);
            program.push(step(JUMP_IF_EQUAL, ADVERTISEMENT));
        }
    }
    // Whoever comes to the end may go on: one step is left out, the one that drops.
    program.push(step(JUMP, 1));
    let drops = program.len();
    program.push(step(RETURN, 0));
    for (index, one) in program.iter_mut().enumerate().take(drops) {
        // A few steps: far from 256.
        let to_drop = (drops - index - 1) as u8;
        match (one.code, one.operand) {
            (JUMP_IF_AT_LEAST, _) => one.if_true = to_drop,
            // It may still be the other one.
            (JUMP_IF_EQUAL, SOLICITATION) => one.if_true = 1,
            (JUMP_IF_EQUAL, _) => one.if_false = to_drop,
            _ => {}
        }
    }
    program
}

/// Passes the frame if the loaded word is in one of the ranges, and goes on behind this if not: a search
/// that halves them.
fn pass_if_in(program: &mut Vec<Instruction>, ranges: &[(u32, u32)]) {
    let mut misses = Vec::new();
    search(program, ranges, &mut misses);
    let end = program.len();
    for miss in misses {
        program[miss].operand = (end - miss - 1) as u32;
    }
}

fn search(program: &mut Vec<Instruction>, ranges: &[(u32, u32)], misses: &mut Vec<usize>) {
    if ranges.len() <= LEAF {
        return compare(program, ranges, misses);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let at_least = step(JUMP_IF_AT_LEAST, high[0].0);
    program.push(Instruction {
        if_false: 1,
        ..at_least
    });
    let to_high = program.len();
    program.push(step(JUMP, 0));
    search(program, low, misses);
    program[to_high].operand = (program.len() - to_high - 1) as u32;
    search(program, high, misses);
}

fn compare(program: &mut Vec<Instruction>, ranges: &[(u32, u32)], misses: &mut Vec<usize>) {
    let begin = program.len();
    for (first, last) in ranges {
        if first < last {
            let at_least = step(JUMP_IF_AT_LEAST, *first);
            program.push(Instruction {
                if_false: 1,
                ..at_least
            });
            program.push(step(JUMP_IF_GREATER, *last));
        } else {
            program.push(step(JUMP_IF_EQUAL, *first));
        }
    }
    misses.push(program.len());
    program.push(step(JUMP, 0));
    let pass = program.len();
    program.push(step(RETURN, WHOLE_FRAME));
    for (index, one) in program.iter_mut().enumerate().take(pass).skip(begin) {
        // No more than two steps for each of a leaf.
        let to_pass = (pass - index - 1) as u8;
        match one.code {
            JUMP_IF_EQUAL => one.if_true = to_pass,
            JUMP_IF_GREATER => one.if_false = to_pass,
            _ => {}
        }
    }
}

fn step(code: u16, operand: u32) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: 0,
        operand,
    }
}
