//! Whether an ARP frame is answered, and if not, why (RFC 826, RFC 5227); [`ndp`] is the same for
//! neighbour solicitations.
//!
//! Pure: a frame and the duties of one interface in, a decision out. Every frame that is not
//! answered has a named reason. Frames with a VLAN tag and frames that this host sent do not get
//! here: the kernel filter of [`super::socket`] drops them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use pharos_lease::Moment;
use pnet_base::MacAddr;

use super::arp::{Arp, Malformed, Operation};
use super::ndp::Malformed as MalformedNdp;
use super::question::Question;

pub mod ndp;

/// Others believe a node dead 300 ms after it last spoke, at the earliest, and then answer in its
/// place. So a frame that waited longer than this, or a thread that did not run for so long, shows
/// that another node may have answered.
const STALE: Duration = Duration::from_millis(250);

/// Which frames are too old to be answered. After a time in which this process did not run (it was
/// suspended, or its machine) none of those that waited is: another node may have answered them,
/// and the senders that still want to know ask again after a second.
#[derive(Debug, Default)]
pub struct Freshness {
    since: Option<Instant>,
    /// When this process ran last, by the clock since boot.
    ran: Option<Moment>,
}

impl Freshness {
    /// This process runs now, and says so more than twice within [`STALE`]. If it did not for longer, it
    /// was suspended, and frames that came late in that time are too old too: then this says `true`.
    pub fn runs(&mut self, now: Instant, since_boot: Moment) -> bool {
        let before = self.ran.replace(since_boot);
        let paused = before.is_some_and(|before| since_boot.saturating_sub(before) > STALE);
        if paused {
            self.since = Some(now);
        }
        paused
    }

    /// Whether a frame that arrived then may be answered now.
    pub fn allows(&mut self, arrived: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(arrived) > STALE {
            self.since = Some(now);
        }
        self.since.is_none_or(|since| arrived >= since)
    }
}

/// What an interface does with requests for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressDuty {
    /// Keep them: the present owner is about to hand over.
    Hold,
    /// Answer them.
    Answer,
    /// Answer them, and note which: the next owner will be told.
    Record,
    /// Keep them: whether another machine has the address is being asked. Then answer them, and note
    /// which if the next owner is to be told.
    Probe { noting: bool },
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send the answer to this question; with `true`, note it.
    Answer(Question, bool),
    /// Keep this question.
    Hold(Question),
    /// Another machine, with this hardware address, uses an address of ours.
    Conflict(IpAddr, MacAddr),
    /// Nothing.
    Ignore(Ignored),
}

/// Why a frame is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// No ARP for IPv4 over Ethernet.
    Malformed(Malformed),
    /// No message of neighbour discovery.
    MalformedNdp(MalformedNdp),
    /// An answer, not a question.
    Reply,
    /// Sent to neither everybody nor this interface.
    OtherDestination,
    /// Its sender is no single station, or none at all.
    BadSender,
    /// From this interface itself, seen through a loop or a mirror port; or from another one of this
    /// node on the same segment, which announces the same address.
    OwnFrame,
    /// Somebody announces an address for itself that is not ours.
    Gratuitous,
    /// Somebody else uses an address of ours as its own.
    Conflict,
    /// The address is not this node's.
    NotOwned,
    /// It is older than [`Freshness`] allows.
    Stale,
    /// It is fenced, and this node has no lease for it (any more).
    NoLease,
    /// Its sender was answered too often for this address ([`super::limit`]).
    TooOften,
}

impl Ignored {
    /// Every reason for ARP, for metrics.
    pub const ARP: [Self; 16] = [
        Self::Malformed(Malformed::Short),
        Self::Malformed(Malformed::NotArp),
        Self::Malformed(Malformed::HardwareType),
        Self::Malformed(Malformed::ProtocolType),
        Self::Malformed(Malformed::AddressLength),
        Self::Malformed(Malformed::Operation),
        Self::Reply,
        Self::OtherDestination,
        Self::BadSender,
        Self::OwnFrame,
        Self::Gratuitous,
        Self::Conflict,
        Self::NotOwned,
        Self::Stale,
        Self::NoLease,
        Self::TooOften,
    ];

    /// Every reason for neighbour discovery, for metrics.
    pub const NDP: [Self; 21] = [
        Self::MalformedNdp(MalformedNdp::Short),
        Self::MalformedNdp(MalformedNdp::NotIpv6),
        Self::MalformedNdp(MalformedNdp::NotNeighbour),
        Self::MalformedNdp(MalformedNdp::HopLimit),
        Self::MalformedNdp(MalformedNdp::Source),
        Self::MalformedNdp(MalformedNdp::Checksum),
        Self::MalformedNdp(MalformedNdp::Code),
        Self::MalformedNdp(MalformedNdp::Length),
        Self::MalformedNdp(MalformedNdp::Target),
        Self::MalformedNdp(MalformedNdp::Option),
        Self::MalformedNdp(MalformedNdp::Unspecified),
        Self::MalformedNdp(MalformedNdp::Solicited),
        Self::Reply,
        Self::OtherDestination,
        Self::BadSender,
        Self::OwnFrame,
        Self::Conflict,
        Self::NotOwned,
        Self::Stale,
        Self::NoLease,
        Self::TooOften,
    ];

    /// The reason as a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Short) => "short",
            Self::Malformed(Malformed::NotArp) => "not_arp",
            Self::Malformed(Malformed::HardwareType) => "hardware_type",
            Self::Malformed(Malformed::ProtocolType) => "protocol_type",
            Self::Malformed(Malformed::AddressLength) => "address_length",
            Self::Malformed(Malformed::Operation) => "operation",
            Self::MalformedNdp(MalformedNdp::Short) => "short",
            Self::MalformedNdp(MalformedNdp::NotIpv6) => "not_ipv6",
            Self::MalformedNdp(MalformedNdp::NotNeighbour) => "not_neighbour",
            Self::MalformedNdp(MalformedNdp::HopLimit) => "hop_limit",
            Self::MalformedNdp(MalformedNdp::Source) => "source",
            Self::MalformedNdp(MalformedNdp::Checksum) => "checksum",
            Self::MalformedNdp(MalformedNdp::Code) => "code",
            Self::MalformedNdp(MalformedNdp::Length) => "length",
            Self::MalformedNdp(MalformedNdp::Target) => "target",
            Self::MalformedNdp(MalformedNdp::Option) => "option",
            Self::MalformedNdp(MalformedNdp::Unspecified) => "unspecified",
            Self::MalformedNdp(MalformedNdp::Solicited) => "solicited",
            Self::Reply => "reply",
            Self::OtherDestination => "other_destination",
            Self::BadSender => "bad_sender",
            Self::OwnFrame => "own_frame",
            Self::Gratuitous => "gratuitous",
            Self::Conflict => "conflict",
            Self::NotOwned => "not_owned",
            Self::Stale => "stale",
            Self::NoLease => "no_lease",
            Self::TooOften => "too_often",
        }
    }
}

/// Decides about a frame that an interface with this MAC address received. `is_own` knows the MAC
/// addresses of all interfaces of this node: two of them may lie on one segment.
pub fn decide(
    frame: &[u8],
    own_mac: MacAddr,
    is_own: impl Fn(MacAddr) -> bool,
    duty: impl Fn(Ipv4Addr) -> Option<AddressDuty>,
) -> Decision {
    decide_parsed(frame, own_mac, is_own, duty).unwrap_or_else(Decision::Ignore)
}

fn decide_parsed(
    frame: &[u8],
    own_mac: MacAddr,
    is_own: impl Fn(MacAddr) -> bool,
    duty: impl Fn(Ipv4Addr) -> Option<AddressDuty>,
) -> Result<Decision, Ignored> {
    let arp = Arp::parse(frame).map_err(Ignored::Malformed)?;
    if arp.source == own_mac || arp.sender_mac == own_mac {
        return Err(Ignored::OwnFrame);
    }
    // The source is checked with the sender: a reply to a group address would reach everybody.
    if !is_station(arp.sender_mac) || !is_station(arp.source) {
        return Err(Ignored::BadSender);
    }
    match duty(arp.sender_ip) {
        Some(AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. })
            if is_own(arp.sender_mac) =>
        {
            return Err(Ignored::OwnFrame);
        }
        Some(AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. }) => {
            return Ok(Decision::Conflict(arp.sender_ip.into(), arp.sender_mac));
        }
        // The owner, which is about to hand over, uses it still.
        Some(AddressDuty::Hold) | None => {}
    }
    match arp.operation {
        Operation::Reply => return Err(Ignored::Reply),
        Operation::Request => {}
    }
    if !arp.destination.is_broadcast() && arp.destination != own_mac {
        return Err(Ignored::OtherDestination);
    }
    if arp.sender_ip == arp.target_ip {
        return Err(Ignored::Gratuitous);
    }
    let question = Question {
        asker: arp.sender_mac,
        from: IpAddr::V4(arp.sender_ip),
        target: IpAddr::V4(arp.target_ip),
    };
    match duty(arp.target_ip) {
        None => Err(Ignored::NotOwned),
        Some(AddressDuty::Hold) => Ok(Decision::Hold(question)),
        Some(AddressDuty::Probe { .. }) if arp.sender_ip.is_unspecified() => {
            // It asks for the same reason (RFC 5227 section 2.1.1).
            match is_own(arp.sender_mac) {
                true => Err(Ignored::OwnFrame),
                false => Ok(Decision::Conflict(arp.target_ip.into(), arp.sender_mac)),
            }
        }
        Some(AddressDuty::Probe { .. }) => Ok(Decision::Hold(question)),
        Some(AddressDuty::Answer) => Ok(Decision::Answer(question, false)),
        Some(AddressDuty::Record) => Ok(Decision::Answer(question, true)),
    }
}

/// A unicast address of one station: not a group address, not all zero.
fn is_station(mac: MacAddr) -> bool {
    !mac.is_zero() && mac.0 & 1 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const NODE: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);
    /// Of another interface of this node.
    const OWN_OTHER: MacAddr = MacAddr(2, 0, 0, 0, 0, 4);
    const OTHER: MacAddr = MacAddr(2, 0, 0, 0, 0, 3);
    const ASKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
    const HELD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
    const PASSING: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);
    const FOREIGN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

    fn duty(address: Ipv4Addr) -> Option<AddressDuty> {
        match address {
            OURS => Some(AddressDuty::Answer),
            HELD => Some(AddressDuty::Hold),
            PASSING => Some(AddressDuty::Record),
            _ => None,
        }
    }

    fn is_own(mac: MacAddr) -> bool {
        [NODE, OWN_OTHER].contains(&mac)
    }

    fn question(arp: &Arp) -> Question {
        Question {
            asker: arp.sender_mac,
            from: IpAddr::V4(arp.sender_ip),
            target: IpAddr::V4(arp.target_ip),
        }
    }

    fn request(change: impl Fn(&mut Arp)) -> Arp {
        let mut arp = Arp {
            destination: MacAddr::broadcast(),
            source: CLIENT,
            operation: Operation::Request,
            sender_mac: CLIENT,
            sender_ip: ASKER,
            target_mac: MacAddr::zero(),
            target_ip: OURS,
        };
        change(&mut arp);
        arp
    }

    #[test]
    fn requests_for_our_addresses_are_answered_however_they_are_asked() {
        let asked: [fn(&mut Arp); 7] = [
            |_| {},
            // A neighbour that checks whether its entry still holds.
            |arp| arp.destination = NODE,
            // An address probe (RFC 5227).
            |arp| arp.sender_ip = Ipv4Addr::UNSPECIFIED,
            // A sender outside the subnet.
            |arp| arp.sender_ip = Ipv4Addr::new(203, 0, 113, 9),
            // Whatever lies in the target field of a request.
            |arp| arp.target_mac = MacAddr::broadcast(),
            |arp| arp.source = OTHER,
            // This node itself, by another interface on the same segment.
            |arp| (arp.source, arp.sender_mac) = (OWN_OTHER, OWN_OTHER),
        ];
        for change in asked {
            let arp = request(change);
            let decision = decide(&arp.emit(), NODE, is_own, duty);
            assert_eq!(decision, Decision::Answer(question(&arp), false), "{arp:?}");
        }
    }

    #[test]
    fn what_is_not_answered_has_a_reason() {
        type Change = fn(&mut Arp);
        let cases: [(Change, Ignored); 13] = [
            (|arp| arp.operation = Operation::Reply, Ignored::Reply),
            (|arp| arp.destination = OTHER, Ignored::OtherDestination),
            (
                |arp| arp.destination = MacAddr(1, 0, 94, 0, 0, 1),
                Ignored::OtherDestination,
            ),
            (
                |arp| arp.sender_mac = MacAddr::broadcast(),
                Ignored::BadSender,
            ),
            (
                |arp| arp.sender_mac = MacAddr(1, 0, 94, 0, 0, 1),
                Ignored::BadSender,
            ),
            (|arp| arp.sender_mac = MacAddr::zero(), Ignored::BadSender),
            (
                |arp| arp.source = MacAddr(3, 0, 0, 0, 0, 1),
                Ignored::BadSender,
            ),
            (|arp| arp.source = NODE, Ignored::OwnFrame),
            (|arp| arp.sender_mac = NODE, Ignored::OwnFrame),
            (
                |arp| (arp.sender_ip, arp.target_ip) = (FOREIGN, FOREIGN),
                Ignored::Gratuitous,
            ),
            (
                |arp| (arp.sender_ip, arp.target_ip) = (HELD, HELD),
                Ignored::Gratuitous,
            ),
            (
                |arp| (arp.sender_ip, arp.sender_mac) = (OURS, OWN_OTHER),
                Ignored::OwnFrame,
            ),
            (|arp| arp.target_ip = FOREIGN, Ignored::NotOwned),
        ];
        for (change, reason) in cases {
            let arp = request(change);
            let decision = decide(&arp.emit(), NODE, is_own, duty);
            assert_eq!(decision, Decision::Ignore(reason), "{arp:?}");
        }
        let short = decide(&[0; 20], NODE, is_own, duty);
        assert_eq!(
            short,
            Decision::Ignore(Ignored::Malformed(Malformed::NotArp))
        );
    }

    #[test]
    fn another_machine_that_uses_our_address_is_a_conflict() {
        let used: [fn(&mut Arp); 4] = [
            |arp| arp.sender_ip = OURS,
            |arp| (arp.sender_ip, arp.operation) = (OURS, Operation::Reply),
            |arp| (arp.sender_ip, arp.target_ip) = (OURS, FOREIGN),
            |arp| arp.sender_ip = PASSING,
        ];
        for change in used {
            let arp = request(change);
            let decision = decide(&arp.emit(), NODE, is_own, duty);
            let expected = Decision::Conflict(arp.sender_ip.into(), CLIENT);
            assert_eq!(decision, expected, "{arp:?}");
        }
    }

    #[test]
    fn the_duty_of_the_address_decides_what_becomes_of_a_request() {
        let held = request(|arp| arp.target_ip = HELD);
        assert_eq!(
            decide(&held.emit(), NODE, is_own, duty),
            Decision::Hold(question(&held))
        );
        let passing = request(|arp| arp.target_ip = PASSING);
        let noted = Decision::Answer(question(&passing), true);
        assert_eq!(decide(&passing.emit(), NODE, is_own, duty), noted);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn after_a_time_without_running_nothing_that_waited_is_answered() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut freshness = Freshness::default();
        assert!(freshness.allows(at(0), at(250)), "a busy machine");
        assert!(freshness.allows(at(1000), at(1000)));
        // It did not run from 1000 to 5000.
        assert!(!freshness.allows(at(2000), at(5000)));
        assert!(!freshness.allows(at(4990), at(5001)));
        assert!(freshness.allows(at(5000), at(5001)));
        assert!(freshness.allows(at(5100), at(5200)));
        // It did not run from 5300 to 5600, and was asked only at the end of that.
        let boot = Duration::from_millis;
        assert!(!freshness.runs(at(5200), boot(70_200)));
        assert!(!freshness.runs(at(5300), boot(70_300)));
        assert!(freshness.allows(at(5290), at(5300)));
        assert!(freshness.runs(at(5600), boot(70_600)));
        assert!(!freshness.allows(at(5590), at(5600)));
        assert!(freshness.allows(at(5600), at(5601)));
        // The machine slept: only the clock since boot went on.
        assert!(freshness.runs(at(5610), boot(80_000)));
        assert!(!freshness.allows(at(5605), at(5610)));
    }

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let distinct = |reasons: &[Ignored]| {
            let labels = reasons.iter().map(|reason| reason.label());
            labels.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(distinct(&Ignored::ARP), Ignored::ARP.len());
        assert_eq!(distinct(&Ignored::NDP), Ignored::NDP.len());
    }

    proptest! {
        #[test]
        fn any_bytes_that_are_answered_are_a_request_for_our_address(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            arp_header in any::<bool>(),
            ours in any::<bool>(),
        ) {
            if arp_header && bytes.len() >= 42 {
                bytes[..6].copy_from_slice(&[255; 6]);
                bytes[12..21].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0]);
            }
            if ours && bytes.len() >= 42 {
                bytes[38..42].copy_from_slice(&OURS.octets());
            }
            if let Decision::Answer(..) | Decision::Hold(_) = decide(&bytes, NODE, is_own, duty) {
                prop_assert_eq!(&bytes[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                prop_assert!(bytes[..6] == [255; 6] || bytes[..6] == NODE.octets());
                prop_assert!(duty(Ipv4Addr::new(bytes[38], bytes[39], bytes[40], bytes[41])).is_some());
                prop_assert_eq!(bytes[22] & 1, 0);
            }
        }
    }
}
