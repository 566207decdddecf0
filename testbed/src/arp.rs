//! Who answers for an address, and when: ARP requests at a steady pace, and every ARP frame seen.
//!
//! Each round of requests comes from an address of its own (RFC 2544 reserves 198.18.0.0/15 for
//! measurements), which the answers repeat: so every answer belongs to exactly one request. RFC 826
//! does not care whether an asker is of the subnet, and neither do Linux and the announcer.

use std::io::Write as _;
use std::net::Ipv4Addr;
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

pub use crate::record::INTERVAL;
use crate::record::{Answer, Record, Recorder};
use crate::{Host, packet, wait};

/// Askers are this address and those after it, one for each round.
const FIRST_ASKER: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// After so many rounds, 21 minutes, they come again.
const ASKERS: usize = 1 << 17;

const ETHERNET: usize = 14;
const ARP: usize = 28;
/// Where a frame says which protocol address asks.
const SENDER_ADDRESS: std::ops::Range<usize> = ETHERNET + 14..ETHERNET + 18;
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

/// Records every ARP frame that reaches a host's eth0, and asks for addresses if told to. One at a
/// time on a host: two would take each other's answers for their own.
#[derive(Debug)]
pub struct Prober {
    started: Instant,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    frames: Mutex<Vec<Frame>>,
    record: Mutex<Record>,
    failure: Mutex<Option<String>>,
}

impl Prober {
    /// Listens on `host`'s eth0, and asks for each address every 10 ms. No address: only listens.
    pub fn start(host: &Host, addresses: &[Ipv4Addr]) -> anyhow::Result<Self> {
        let (interface, socket) = host.namespace.run(|| {
            let interface = packet::interface("eth0")?;
            anyhow::Ok((interface, packet::arp_socket(interface)?))
        })??;
        let mac = interface.mac;
        let started = wait::now();
        let shared = Arc::new(Shared::default());
        let requests: Vec<Vec<u8>> = addresses
            .iter()
            .map(|address| request(mac, asker(0), *address))
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
                ask(sender, requests, started, &asking);
            }));
        }
        Ok(Self {
            started,
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

    /// Who answered so far.
    pub fn record(&self) -> Record {
        lock(&self.shared.record).clone()
    }

    /// Waits for an answer for `address`, received after `since`, from another than `not_from`;
    /// gives the first.
    pub fn wait_answer(
        &self,
        address: Ipv4Addr,
        since: Duration,
        not_from: Option<MacAddr>,
        deadline: Duration,
    ) -> anyhow::Result<Answer> {
        let what = format!("an ARP answer for {address} (not from {not_from:?})");
        self.wait_for_answer(&what, deadline, |answer| {
            answer.address == address && answer.at > since && Some(answer.mac) != not_from
        })
    }

    /// Waits for an answer like this, and gives the first.
    pub fn wait_for_answer(
        &self,
        what: &str,
        deadline: Duration,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> anyhow::Result<Answer> {
        // What was looked at once is not looked at again: a recording grows long.
        let mut seen = 0;
        wait::until(what, deadline, || {
            let record = lock(&self.shared.record);
            let fresh = record.answers.get(seen..).unwrap_or_default();
            let found = fresh.iter().find(|answer| is_wanted(answer)).copied();
            seen = record.answers.len();
            found
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

impl Recorder for Prober {
    fn now(&self) -> Duration {
        self.now()
    }

    fn record(&self) -> Record {
        self.record()
    }

    fn wait_for_answer(
        &self,
        what: &str,
        deadline: Duration,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> anyhow::Result<Answer> {
        self.wait_for_answer(what, deadline, is_wanted)
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

fn listen(socket: &Socket, own: MacAddr, started: Instant, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = [0_u8; 2048];
    while !shared.stopping.load(Ordering::Relaxed) {
        let Some(length) = packet::receive(socket, &mut buffer)? else {
            continue;
        };
        let at = started.elapsed();
        let Some(frame) = parse(&buffer[..length], at).filter(|frame| frame.source != own) else {
            continue;
        };
        lock(&shared.frames).push(frame);
        let mut record = lock(&shared.record);
        if frame.reply
            && frame.destination == own
            && let Some(round) = round_of(frame.target, record.asked.len())
        {
            record.answers.push(Answer {
                at,
                address: frame.sender.into(),
                mac: frame.sender_mac,
                round,
            });
        }
    }
    Ok(())
}

fn ask(mut socket: Socket, mut requests: Vec<Vec<u8>>, started: Instant, shared: &Shared) {
    let mut next = started.elapsed();
    while !shared.stopping.load(Ordering::Relaxed) {
        let round = {
            let asked = &mut lock(&shared.record).asked;
            asked.push(started.elapsed());
            asked.len() - 1
        };
        for request in &mut requests {
            request[SENDER_ADDRESS].copy_from_slice(&asker(round).octets());
            // A link that is down loses the request, as a client's would be.
            let _ = socket.write(request);
        }
        next += INTERVAL;
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
}

/// Who asks in a round.
fn asker(round: usize) -> Ipv4Addr {
    let offset = u32::try_from(round % ASKERS).expect("below 2^17");
    Ipv4Addr::from(FIRST_ASKER + offset)
}

/// The latest round of those asked so far in which this asker asked.
fn round_of(asker: Ipv4Addr, asked: usize) -> Option<usize> {
    let offset = u32::from(asker).checked_sub(FIRST_ASKER)?;
    let offset = usize::try_from(offset).ok().filter(|at| *at < ASKERS)?;
    let last = asked.checked_sub(1)?;
    let back = (last + ASKERS - offset) % ASKERS;
    last.checked_sub(back)
}

/// A request for `target`, broadcast (RFC 826).
pub(crate) fn request(mac: MacAddr, asker: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
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
    arp.set_sender_proto_addr(asker);
    arp.set_target_proto_addr(target);
    bytes
}

pub(crate) fn parse(bytes: &[u8], at: Duration) -> Option<Frame> {
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

    #[test]
    fn every_round_has_an_asker_of_its_own_until_they_come_again() {
        assert_eq!(asker(0), Ipv4Addr::new(198, 18, 0, 0));
        assert_eq!(asker(ASKERS - 1), Ipv4Addr::new(198, 19, 255, 255));
        assert_eq!(asker(ASKERS + 3), asker(3));
        assert_eq!(round_of(asker(7), 8), Some(7));
        assert_eq!(round_of(asker(7), 7), None, "not asked yet");
        assert_eq!(round_of(asker(7), ASKERS + 7), Some(7));
        assert_eq!(round_of(asker(7), ASKERS + 8), Some(ASKERS + 7));
        for stranger in ["192.168.12.200", "198.20.0.0", "198.17.255.255"] {
            assert_eq!(round_of(stranger.parse().unwrap(), 100), None);
        }
    }
}
