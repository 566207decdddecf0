//! Who answers for an IPv6 address, and when: neighbour solicitations at a steady pace, and every
//! message of neighbour discovery seen; also which multicast groups are reported (MLD).
//!
//! Each round of solicitations comes from an address of its own, which the answers are sent to: so
//! every answer belongs to exactly one solicitation.

use std::io::Write as _;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pnet_base::MacAddr;
use pnet_packet::Packet as _;
use pnet_packet::ethernet::EthernetPacket;
use pnet_packet::icmpv6::{Icmpv6Packet, checksum};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::Ipv6Packet;
use socket2::Socket;

use crate::record::{Answer, INTERVAL, Record, Recorder};
use crate::{Host, packet, wait};

/// Askers have this prefix (RFC 4193), and their round after it.
const ASKERS: [u16; 4] = [0xfd5a, 0, 0, 0];

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const MLD_REPORT: u8 = 143;

/// A message of neighbour discovery that arrived, not one that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Since the start of the recording.
    pub at: Duration,
    pub source: MacAddr,
    pub destination: MacAddr,
    pub hop_limit: u8,
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    /// True: an advertisement; false: a solicitation.
    pub advertisement: bool,
    /// The flags of an advertisement: router 0x80, solicited 0x40, override 0x20.
    pub flags: u8,
    pub target: Ipv6Addr,
    /// Of the first option, if it holds a link-layer address.
    pub link_layer: Option<MacAddr>,
    /// Whether its checksum is right.
    pub is_valid: bool,
}

/// Records neighbour discovery that reaches a host's eth0, and asks for addresses if told to. One at
/// a time on a host: two would take each other's answers for their own.
#[derive(Debug)]
pub struct Prober {
    started: Instant,
    socket: Socket,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    frames: Mutex<Vec<Frame>>,
    /// Groups that hosts reported to have joined, with the host and the moment.
    joins: Mutex<Vec<(Duration, MacAddr, Ipv6Addr)>>,
    record: Mutex<Record>,
}

impl Prober {
    /// Listens on `host`'s eth0, and asks for each address every 10 ms. No address: only listens.
    pub fn start(host: &Host, addresses: &[Ipv6Addr]) -> anyhow::Result<Self> {
        let (interface, socket) = host.namespace.run(|| {
            let interface = packet::interface("eth0")?;
            anyhow::Ok((interface, packet::ipv6_socket(interface)?))
        })??;
        let mac = interface.mac;
        let started = wait::now();
        let shared = Arc::new(Shared::default());
        let again = || socket.try_clone().context("a second handle of the socket");
        let (listener, asker) = (again()?, again()?);
        let listening = Arc::clone(&shared);
        let mut threads = vec![std::thread::spawn(move || {
            listen(&listener, mac, started, &listening);
        })];
        if !addresses.is_empty() {
            let asking = Arc::clone(&shared);
            let addresses = addresses.to_vec();
            threads.push(std::thread::spawn(move || {
                ask(asker, mac, &addresses, started, &asking);
            }));
        }
        Ok(Self {
            started,
            socket,
            shared,
            threads,
        })
    }

    /// What has arrived so far.
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.shared.frames).clone()
    }

    /// The groups that a host has reported so far.
    pub fn joined(&self, host: MacAddr) -> Vec<Ipv6Addr> {
        let joins = lock(&self.shared.joins);
        let of_host = joins.iter().filter(|(_, mac, _)| *mac == host);
        of_host.map(|(_, _, group)| *group).collect()
    }

    /// Sends any frame.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        (&self.socket).write(frame).context("sending a frame")?;
        Ok(())
    }
}

impl Recorder for Prober {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn record(&self) -> Record {
        lock(&self.shared.record).clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in the thread was printed by it.
            let _ = thread.join();
        }
    }
}

/// A solicitation as a host sends it that has this MAC address and this address: to the group of the
/// target, with its link-layer address unless it has no address.
pub fn solicitation(mac: MacAddr, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut options = vec![1, 1];
    options.extend(mac.octets());
    if from.is_unspecified() {
        options.clear();
    }
    message(
        mac,
        (from, solicited_node(target)),
        (SOLICITATION, 0),
        target,
        &options,
    )
}

/// An advertisement of an address, to all nodes.
pub fn advertisement(mac: MacAddr, from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut options = vec![2, 1];
    options.extend(mac.octets());
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    message(
        mac,
        (from, all_nodes),
        (ADVERTISEMENT, 0x20),
        target,
        &options,
    )
}

/// A message to a multicast group, with these options.
pub fn message(
    mac: MacAddr,
    (from, group): (Ipv6Addr, Ipv6Addr),
    (kind, flags): (u8, u8),
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let mut icmp = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend(options);
    let [.., a, b, c, d] = group.octets();
    let mut frame = vec![0x33, 0x33, a, b, c, d];
    frame.extend(mac.octets());
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(icmp.len()).expect("short").to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(from.octets());
    frame.extend(group.octets());
    frame.extend(icmp);
    with_checksum(frame)
}

/// The frame with a right checksum, whatever else was changed about it.
pub fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[ETHERNET + IPV6 + 2..ETHERNET + IPV6 + 4].fill(0);
    let sum = Ipv6Packet::new(&frame[ETHERNET..]).and_then(|ip| sum_of(&ip));
    let sum = sum.unwrap_or_default().to_be_bytes();
    frame[ETHERNET + IPV6 + 2..ETHERNET + IPV6 + 4].copy_from_slice(&sum);
    frame
}

/// The multicast group in which solicitations for an address are sent (RFC 4291).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

fn sum_of(ip: &Ipv6Packet<'_>) -> Option<u16> {
    let icmp = Icmpv6Packet::new(ip.payload())?;
    Some(checksum(&icmp, &ip.get_source(), &ip.get_destination()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(socket: &Socket, own: MacAddr, started: Instant, shared: &Shared) {
    let mut buffer = [0_u8; 2048];
    while !shared.stopping.load(Ordering::Relaxed) {
        let received = match packet::receive(socket, &mut buffer) {
            Ok(received) => received,
            Err(error) => {
                eprintln!("the recording of neighbour discovery failed: {error}");
                return;
            }
        };
        let Some(length) = received else { continue };
        let at = started.elapsed();
        let Some(ethernet) = EthernetPacket::new(&buffer[..length]) else {
            continue;
        };
        if ethernet.get_source() == own {
            continue;
        }
        let joined = reported_groups(&ethernet).into_iter();
        let joined = joined.map(|group| (at, ethernet.get_source(), group));
        lock(&shared.joins).extend(joined);
        if let Some(frame) = parse(&ethernet, at) {
            lock(&shared.frames).push(frame);
            note_answer(&frame, own, &mut lock(&shared.record));
        }
    }
}

fn note_answer(frame: &Frame, own: MacAddr, record: &mut Record) {
    let [a, b, c, d, _, _, high, low] = frame.to.segments();
    let round = usize::from(high) << 16 | usize::from(low);
    if frame.advertisement
        && frame.destination == own
        && [a, b, c, d] == ASKERS
        && round < record.asked.len()
        && let Some(mac) = frame.link_layer
    {
        record.answers.push(Answer {
            at: frame.at,
            address: frame.target.into(),
            mac,
            round,
        });
    }
}

fn ask(
    mut socket: Socket,
    mac: MacAddr,
    addresses: &[Ipv6Addr],
    started: Instant,
    shared: &Shared,
) {
    let mut next = started.elapsed();
    while !shared.stopping.load(Ordering::Relaxed) {
        let round = {
            let asked = &mut lock(&shared.record).asked;
            asked.push(started.elapsed());
            asked.len() - 1
        };
        for address in addresses {
            // A link that is down loses the solicitation, as a client's would be.
            let _ = socket.write(&solicitation(mac, asker(round), *address));
        }
        next += INTERVAL;
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}

/// Who asks in a round.
fn asker(round: usize) -> Ipv6Addr {
    let [a, b, c, d] = ASKERS;
    let round = u32::try_from(round).expect("a test ends before");
    let [e, f, g, h] = round.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h]));
    Ipv6Addr::new(a, b, c, d, 0, 0, high, low)
}

fn parse(ethernet: &EthernetPacket<'_>, at: Duration) -> Option<Frame> {
    let ip = Ipv6Packet::new(ethernet.payload())?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 {
        return None;
    }
    let icmp = ip.payload();
    let (fixed, options) = icmp.split_first_chunk::<24>()?;
    let advertisement = match fixed[0] {
        SOLICITATION => false,
        ADVERTISEMENT => true,
        _ => return None,
    };
    let [_, _, _, _, flags, _, _, _, target @ ..] = *fixed;
    let link_layer = match options {
        [1 | 2, 1, a, b, c, d, e, f, ..] => Some(MacAddr(*a, *b, *c, *d, *e, *f)),
        _ => None,
    };
    let told = u16::from_be_bytes([fixed[2], fixed[3]]);
    Some(Frame {
        at,
        source: ethernet.get_source(),
        destination: ethernet.get_destination(),
        hop_limit: ip.get_hop_limit(),
        from: ip.get_source(),
        to: ip.get_destination(),
        advertisement,
        flags,
        target: Ipv6Addr::from(target),
        link_layer,
        is_valid: sum_of(&ip) == Some(told),
    })
}

/// The groups that a report of MLDv2 says were joined (RFC 3810); empty for anything else.
fn reported_groups(ethernet: &EthernetPacket<'_>) -> Vec<Ipv6Addr> {
    let mut groups = Vec::new();
    let Some(ip) = Ipv6Packet::new(ethernet.payload()) else {
        return groups;
    };
    // Behind the hop-by-hop header with the router alert, of eight bytes.
    let Some([MLD_REPORT, _, _, _, _, _, _, _, records @ ..]) = ip.payload().get(8..) else {
        return groups;
    };
    let mut records = records;
    while let [kind, auxiliary, high, low, rest @ ..] = records {
        let sources = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((group, rest)) = rest.split_first_chunk::<16>() else {
            break;
        };
        // MODE_IS_EXCLUDE and CHANGE_TO_EXCLUDE_MODE without sources: everything is wanted.
        if matches!(kind, 2 | 4) && sources == 0 {
            groups.push(Ipv6Addr::from(*group));
        }
        let skipped = sources * 16 + usize::from(*auxiliary) * 4;
        records = rest.get(skipped..).unwrap_or_default();
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_is_parsed_as_what_it_was_built_from() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        let target: Ipv6Addr = "fd09::12:3456".parse().expect("valid");
        let bytes = solicitation(mac, asker(70_000), target);
        let ethernet = EthernetPacket::new(&bytes).expect("long enough");
        let frame = parse(&ethernet, Duration::ZERO).expect("a solicitation");
        assert!(frame.is_valid && !frame.advertisement);
        assert_eq!((frame.from, frame.target), (asker(70_000), target));
        assert_eq!(frame.link_layer, Some(mac));
        assert_eq!(frame.to.to_string(), "ff02::1:ff12:3456");
        assert_eq!(
            frame.destination,
            MacAddr(0x33, 0x33, 0xff, 0x12, 0x34, 0x56)
        );
    }

    #[test]
    fn an_answer_belongs_to_the_round_of_its_asker() {
        let own = MacAddr::new(2, 0, 0, 0, 0, 9);
        let mut record = Record {
            asked: vec![Duration::ZERO; 4],
            ..Record::default()
        };
        let target = Ipv6Addr::LOCALHOST;
        let bytes = advertisement(own, target, target);
        let ethernet = EthernetPacket::new(&bytes).expect("long enough");
        let frame = parse(&ethernet, Duration::ZERO).expect("an advertisement");
        for (to, destination) in [
            (asker(3), own),
            (asker(4), own),
            (target, own),
            (asker(1), MacAddr::zero()),
        ] {
            let frame = Frame {
                to,
                destination,
                ..frame
            };
            note_answer(&frame, own, &mut record);
        }
        let rounds: Vec<usize> = record.answers.iter().map(|answer| answer.round).collect();
        assert_eq!(rounds, [3]);
    }
}
