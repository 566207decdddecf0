//! Who answers for an address, and when: ARP requests at a steady pace, and every ARP frame seen.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pnet_base::MacAddr;
use pnet_packet::Packet as _;
use pnet_packet::arp::{
    ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket,
};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use socket2::Socket;

use crate::{Host, packet, wait};

/// Time between two requests for one address: the resolution of every figure.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Answers of an old owner up to this long after the first of a new one count as overlap.
const OVERLAP_WITHIN: Duration = Duration::from_secs(1);

const ETHERNET: usize = 14;
const ARP: usize = 28;
/// The smallest Ethernet frame without its check sequence.
const MINIMUM: usize = 60;

/// An ARP frame that arrived, not one that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Since the start of the recording.
    pub at: Duration,
    pub source: MacAddr,
    pub destination: MacAddr,
    /// True: a reply; false: a request.
    pub reply: bool,
    pub sender_mac: MacAddr,
    pub sender: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target: Ipv4Addr,
}

impl Frame {
    /// Tells about the sender's own address, unasked (RFC 5227 announcement, in either form).
    pub fn is_gratuitous(&self) -> bool {
        self.sender == self.target
    }
}

/// An answer to a request of the prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Since the start of the recording.
    pub at: Duration,
    pub address: Ipv4Addr,
    pub mac: MacAddr,
}

/// Records every ARP frame that reaches a host's eth0, and asks for addresses if told to.
#[derive(Debug)]
pub struct Prober {
    started: Instant,
    mac: MacAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    frames: Mutex<Vec<Frame>>,
    /// When a round of requests went out.
    asked: Mutex<Vec<Duration>>,
    failure: Mutex<Option<String>>,
}

impl Prober {
    /// Listens on `host`'s eth0, and asks for each address every 10 ms. No address: only listens.
    pub fn start(host: &Host, addresses: &[Ipv4Addr]) -> anyhow::Result<Self> {
        let IpAddr::V4(own) = host.address else {
            anyhow::bail!("the prober's host {} has no IPv4 address", host.name);
        };
        let (interface, socket) = host.namespace.run(|| {
            let interface = packet::interface("eth0")?;
            anyhow::Ok((interface, packet::arp_socket(interface)?))
        })??;
        let mac = interface.mac;
        let started = wait::now();
        let shared = Arc::new(Shared::default());
        let requests: Vec<Vec<u8>> = addresses
            .iter()
            .map(|address| request(mac, own, *address))
            .collect();
        let sender = socket
            .try_clone()
            .context("a second handle of the socket")?;
        let listening = Arc::clone(&shared);
        let mut threads = vec![std::thread::spawn(move || {
            let result = listen(&socket, mac, started, &listening);
            listening.note(result.err());
        })];
        if !requests.is_empty() {
            let asking = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || {
                ask(sender, &requests, started, &asking);
            }));
        }
        Ok(Self {
            started,
            mac,
            shared,
            threads,
        })
    }

    /// Position of this moment on the recording's clock.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What has arrived so far.
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.shared.frames).clone()
    }

    /// How many requests for each address have gone out so far.
    pub fn asked(&self) -> usize {
        lock(&self.shared.asked).len()
    }

    /// Who answered so far.
    pub fn record(&self) -> Record {
        let frames = self.frames();
        let answers = frames
            .iter()
            .filter(|frame| frame.reply && frame.destination == self.mac)
            .map(|frame| Answer {
                at: frame.at,
                address: frame.sender,
                mac: frame.sender_mac,
            })
            .collect();
        let asked = lock(&self.shared.asked).clone();
        Record { answers, asked }
    }

    /// Waits for an answer for `address`, received after `since`, from another than `not_from`;
    /// gives it.
    pub fn wait_answer(
        &self,
        address: Ipv4Addr,
        since: Duration,
        not_from: Option<MacAddr>,
        deadline: Duration,
    ) -> anyhow::Result<Answer> {
        let what = format!("an ARP answer for {address} (not from {not_from:?})");
        wait::until(&what, deadline, || {
            self.record().answers.into_iter().find(|answer| {
                answer.address == address && answer.at > since && Some(answer.mac) != not_from
            })
        })
    }

    /// Stops and gives the recording; an error if the socket failed on the way.
    pub fn stop(mut self) -> anyhow::Result<(Record, Vec<Frame>)> {
        self.join();
        if let Some(failure) = lock(&self.shared.failure).take() {
            anyhow::bail!("the ARP recording failed: {failure}");
        }
        Ok((self.record(), self.frames()))
    }

    fn join(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in the thread was printed by it.
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn note(&self, failure: Option<std::io::Error>) {
        if let Some(failure) = failure {
            *lock(&self.failure) = Some(failure.to_string());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who answered when; the questions that tests ask of it.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// In order of arrival.
    pub answers: Vec<Answer>,
    /// When requests, one for each address, went out.
    pub asked: Vec<Duration>,
}

/// A time during which two nodes answered for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    pub address: Ipv4Addr,
    pub old: MacAddr,
    pub new: MacAddr,
    /// First answer of the new one.
    pub from: Duration,
    /// Last answer of the old one.
    pub to: Duration,
}

impl Record {
    /// Answers for one address.
    pub fn of(&self, address: Ipv4Addr) -> impl Iterator<Item = &Answer> {
        self.answers
            .iter()
            .filter(move |answer| answer.address == address)
    }

    /// All that answered for an address between two moments.
    pub fn answerers(&self, address: Ipv4Addr, from: Duration, to: Duration) -> BTreeSet<MacAddr> {
        self.of(address)
            .filter(|answer| answer.at >= from && answer.at <= to)
            .map(|answer| answer.mac)
            .collect()
    }

    /// The longest time without an answer between two moments, their edges included.
    pub fn longest_gap(&self, address: Ipv4Addr, from: Duration, to: Duration) -> Duration {
        longest_pause(self.of(address).map(|answer| answer.at), from, to)
    }

    /// The longest time in which the prober itself asked nothing, because the machine was busy. A
    /// gap of that length says nothing about those who answer.
    pub fn longest_unasked(&self, from: Duration, to: Duration) -> Duration {
        longest_pause(self.asked.iter().copied(), from, to)
    }

    /// For people: who answered from when to when, how often, and what lay between.
    pub fn timeline(&self, address: Ipv4Addr) -> String {
        let mut text = String::new();
        let mut answers = self.of(address).peekable();
        while let Some(first) = answers.next() {
            let (mut last, mut count) = (first.at, 1);
            while let Some(next) = answers.next_if(|next| {
                // Ten requests without an answer are worth a line of their own.
                next.mac == first.mac && next.at <= last + 10 * INTERVAL
            }) {
                last = next.at;
                count += 1;
            }
            let line = format!(
                "{:?} to {last:?}: {} ({count} answers)\n",
                first.at, first.mac
            );
            text.push_str(&line);
        }
        text
    }

    /// Times during which an old owner still answered after a new one had begun. An orderly
    /// hand-over has none, however slow the answers are: the old one stops before the new one starts.
    pub fn overlaps(&self, address: Ipv4Addr) -> Vec<Overlap> {
        let answers: Vec<&Answer> = self.of(address).collect();
        let mut overlaps = Vec::new();
        for (index, pair) in answers.windows(2).enumerate() {
            let (old, new) = (pair[0], pair[1]);
            if old.mac == new.mac {
                continue;
            }
            let last = answers[index + 2..]
                .iter()
                .take_while(|answer| answer.at <= new.at + OVERLAP_WITHIN)
                .filter(|answer| answer.mac == old.mac)
                .last();
            if let Some(last) = last {
                overlaps.push(Overlap {
                    address,
                    old: old.mac,
                    new: new.mac,
                    from: new.at,
                    to: last.at,
                });
            }
        }
        overlaps
    }
}

fn longest_pause(times: impl Iterator<Item = Duration>, from: Duration, to: Duration) -> Duration {
    let inside = times.filter(|at| *at >= from && *at <= to);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in inside.chain([to]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

fn listen(socket: &Socket, own: MacAddr, started: Instant, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = [0_u8; 2048];
    while !shared.stopping.load(Ordering::Relaxed) {
        let Some(length) = packet::receive(socket, &mut buffer)? else {
            continue;
        };
        let at = started.elapsed();
        if let Some(frame) = parse(&buffer[..length], at)
            && frame.source != own
        {
            lock(&shared.frames).push(frame);
        }
    }
    Ok(())
}

fn ask(mut socket: Socket, requests: &[Vec<u8>], started: Instant, shared: &Shared) {
    let mut next = started.elapsed();
    while !shared.stopping.load(Ordering::Relaxed) {
        lock(&shared.asked).push(started.elapsed());
        for request in requests {
            // A link that is down loses the request, as a client's would be.
            let _ = socket.write(request);
        }
        next += INTERVAL;
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}

/// A request for `target`, broadcast (RFC 826).
fn request(mac: MacAddr, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0_u8; MINIMUM];
    let (head, body) = bytes.split_at_mut(ETHERNET);
    let mut ethernet = MutableEthernetPacket::new(head).expect("14 bytes hold the header");
    ethernet.set_destination(MacAddr::broadcast());
    ethernet.set_source(mac);
    ethernet.set_ethertype(EtherTypes::Arp);
    let mut arp = MutableArpPacket::new(body).expect("46 bytes hold the packet");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac);
    arp.set_sender_proto_addr(own);
    arp.set_target_proto_addr(target);
    bytes
}

fn parse(bytes: &[u8], at: Duration) -> Option<Frame> {
    if bytes.len() < ETHERNET + ARP {
        return None;
    }
    let ethernet = EthernetPacket::new(bytes)?;
    let arp = ArpPacket::new(ethernet.payload())?;
    let reply = match arp.get_operation() {
        ArpOperation(1) => false,
        ArpOperation(2) => true,
        _ => return None,
    };
    Some(Frame {
        at,
        source: ethernet.get_source(),
        destination: ethernet.get_destination(),
        reply,
        sender_mac: arp.get_sender_hw_addr(),
        sender: arp.get_sender_proto_addr(),
        target_mac: arp.get_target_hw_addr(),
        target: arp.get_target_proto_addr(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn record(answers: &[(u64, u8)]) -> Record {
        let answers = answers
            .iter()
            .map(|(ms, node)| Answer {
                at: Duration::from_millis(*ms),
                address: ADDRESS,
                mac: MacAddr::new(2, 0, 0, 0, 0, *node),
            })
            .collect();
        Record {
            answers,
            asked: vec![Duration::from_millis(10), Duration::from_millis(70)],
        }
    }

    #[test]
    fn a_hand_over_in_order_is_no_overlap() {
        assert_eq!(
            record(&[(10, 1), (20, 1), (30, 2), (40, 2)]).overlaps(ADDRESS),
            []
        );
    }

    #[test]
    fn an_old_owner_that_answers_on_is_an_overlap_up_to_its_last_answer() {
        let overlaps =
            record(&[(10, 1), (20, 2), (21, 1), (30, 2), (31, 1), (40, 2)]).overlaps(ADDRESS);
        assert_eq!(overlaps[0].from, Duration::from_millis(20));
        assert_eq!(overlaps[0].to, Duration::from_millis(31));
    }

    #[test]
    fn an_owner_that_returns_much_later_is_no_overlap() {
        assert_eq!(record(&[(10, 1), (20, 2), (3000, 1)]).overlaps(ADDRESS), []);
    }

    #[test]
    fn the_longest_gap_counts_the_edges() {
        let record = record(&[(10, 1), (20, 1), (70, 2)]);
        let gap = |from, to| {
            record.longest_gap(
                ADDRESS,
                Duration::from_millis(from),
                Duration::from_millis(to),
            )
        };
        assert_eq!(gap(10, 80), Duration::from_millis(50));
        assert_eq!(gap(10, 200), Duration::from_millis(130));
        assert_eq!(gap(300, 400), Duration::from_millis(100));
    }

    #[test]
    fn a_pause_of_the_prober_is_told_apart_and_a_timeline_names_the_gap() {
        let record = record(&[(10, 1), (20, 1), (70, 2), (300, 2)]);
        let pause = record.longest_unasked(Duration::from_millis(10), Duration::from_millis(80));
        assert_eq!(pause, Duration::from_millis(60));
        let timeline = record.timeline(ADDRESS);
        let lines: Vec<&str> = timeline.lines().collect();
        assert_eq!(lines.len(), 3, "{timeline}");
        assert_eq!(lines[0], "10ms to 20ms: 02:00:00:00:00:01 (2 answers)");
    }

    #[test]
    fn a_request_is_parsed_as_what_it_was_built_from() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        let own = Ipv4Addr::new(192, 0, 2, 200);
        let frame = parse(&request(mac, own, ADDRESS), Duration::ZERO).unwrap();
        assert!(!frame.reply && !frame.is_gratuitous());
        assert_eq!(
            (frame.sender_mac, frame.sender, frame.target),
            (mac, own, ADDRESS)
        );
        assert!(frame.destination.is_broadcast());
    }
}
