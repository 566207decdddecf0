//! What each interface does with questions for each address, and what follows from a frame, from a
//! change and from time.
//!
//! Pure: [`super::responder`] hands in frames and the time, and sends what is asked for, in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use pharos_lease::Moment;

use super::arp::Arp;
use super::burst::{Bursts, Form, Gratuitous, Spot};
use super::check::Checks;
use super::conflict::{Conflicts, Members, News};
use super::fences::Fences;
use super::groups::{Change, Groups};
use super::hold::{Notes, Report};
use super::limit::Limits;
use super::ndp::Ndp;
use super::probe::Probes;
use super::recent::Recent;
use super::reply::{AddressDuty, Freshness, Ignored};
use super::waiting::Waiting;
use crate::metrics::{AddressCounters, Metrics, PlainCounter};

pub use port::{Port, Protocol};

mod frame;
mod look;
mod port;
mod probing;
#[cfg(test)]
mod tests;

/// Where frames come in and go out: an interface, by index, and a protocol.
pub type Place = (u32, Protocol);

/// A frame to be sent.
#[derive(Debug)]
pub struct Sending {
    /// Index of the interface.
    pub interface: u32,
    pub packet: Packet,
    /// To be increased when it has been sent.
    pub counter: PlainCounter,
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    Arp(Arp),
    Ndp(Ndp),
}

/// What follows from a frame.
#[derive(Debug)]
pub enum Outcome {
    Send(Sending),
    /// Send this, and ask whether anybody else answers.
    SendAndCheck(Sending, Sending),
    /// Another machine uses an address of ours. Send these to defend it, if any.
    Conflict(Vec<Sending>),
    /// It is held, or came by an interface that is not answered on any more.
    Nothing,
    Ignored(Ignored),
}

/// All duties.
#[derive(Debug)]
pub struct Table {
    ports: BTreeMap<u32, OpenPort>,
    bursts: Bursts,
    waiting: Waiting,
    recent: Recent,
    groups: Groups,
    conflicts: Conflicts,
    checks: Checks,
    probes: Probes,
    freshness: Freshness,
    limits: Limits,
    held_limits: Limits,
    fences: Fences,
    metrics: Metrics,
}

#[derive(Debug)]
struct OpenPort {
    port: Port,
    duties: HashMap<IpAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    duty: AddressDuty,
    since: Instant,
    /// When it was looked whether another machine answers.
    checked: Option<Instant>,
    counters: AddressCounters,
}

impl Table {
    /// No interfaces, and no duties.
    pub fn new(metrics: Metrics, now: Instant) -> Self {
        Self {
            ports: BTreeMap::new(),
            bursts: Bursts::new(now),
            waiting: Waiting::default(),
            recent: Recent::default(),
            groups: Groups::default(),
            conflicts: Conflicts::default(),
            checks: Checks::new(now),
            probes: Probes::default(),
            freshness: Freshness::default(),
            limits: Limits::default(),
            held_limits: Limits::default(),
            fences: Fences::default(),
            metrics,
        }
    }

    /// The interfaces that are answered on.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values().map(|open| &open.port)
    }

    /// The addresses that have a duty there.
    pub fn addresses(&self, (interface, protocol): Place) -> impl Iterator<Item = IpAddr> {
        let open = self.ports.get(&interface).into_iter();
        let addresses = open.flat_map(|open| open.duties.keys().copied());
        addresses.filter(move |address| Protocol::of(*address) == protocol)
    }

    /// Which addresses are answered only with a lease, and the lease.
    pub fn fences(&mut self) -> &mut Fences {
        &mut self.fences
    }

    /// Answers on one more interface, without duties yet.
    pub fn open(&mut self, port: Port) {
        let duties = HashMap::new();
        self.ports.insert(port.index, OpenPort { port, duties });
    }

    /// The link-local address of an interface is this one now.
    pub fn set_link_local(&mut self, interface: u32, link_local: Option<Ipv6Addr>) {
        if let Some(open) = self.ports.get_mut(&interface) {
            open.port.link_local = link_local;
        }
    }

    /// The multicast groups that are to be joined or left since the last call.
    pub fn take_group_changes(&mut self) -> Vec<Change> {
        self.groups.take_changes()
    }

    /// Does nothing on an interface any more.
    pub fn close(&mut self, interface: u32) {
        if let Some(open) = self.ports.remove(&interface) {
            for address in open.duties.into_keys() {
                let spot = Spot { interface, address };
                self.bursts.stop(spot);
                self.groups.remove(spot);
                self.conflicts.forget(address);
                self.probes.stop(spot);
            }
            self.waiting.close(interface);
        }
    }

    /// Holds questions for these, or goes on answering them while noting which.
    pub fn set(&mut self, spots: &[Spot], duty: AddressDuty, now: Instant) {
        // What was noted before belongs to an earlier attempt, but for the last moments.
        self.take_noted(spots);
        for spot in spots {
            let noting = duty == AddressDuty::Record;
            let duty = match self.duty(*spot) {
                // Nobody answers it yet, whoever is to own it.
                Some(AddressDuty::Probe { .. }) => AddressDuty::Probe { noting },
                Some(_) | None => duty,
            };
            self.assign(*spot, duty, now);
        }
        if duty == AddressDuty::Record {
            for one in self.recent.of(spots, now) {
                self.waiting.note(one);
            }
        }
    }

    /// Goes on with a duty on these: where it is there already nothing changes, not even since when
    /// questions are held, or which answers were noted; elsewhere it begins. Nobody has answered for
    /// what is in `first`.
    pub fn resume(
        &mut self,
        spots: &[Spot],
        duty: AddressDuty,
        first: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Vec<Sending> {
        let report = Report {
            probing: first.clone(),
            ..Report::default()
        };
        let begins = |spot: &&Spot| match self.duty(**spot) {
            Some(AddressDuty::Probe { .. }) => false,
            other => other != Some(duty),
        };
        let begun: Vec<Spot> = spots.iter().filter(begins).copied().collect();
        match duty {
            AddressDuty::Hold => {
                self.set(&begun, duty, now);
                Vec::new()
            }
            AddressDuty::Answer => self.answer(&begun, &report, now),
            AddressDuty::Record => {
                let answers = self.answer(&begun, &report, now);
                self.set(&begun, duty, now);
                answers
            }
            // It is not asked for, but follows from a report.
            AddressDuty::Probe { .. } => Vec::new(),
        }
    }

    /// Answers these: first the questions that are held, except those that the former owner reports
    /// as answered; then announces what was not answered here before. What the report says that nobody
    /// ever answered is asked for first.
    pub fn answer(&mut self, spots: &[Spot], report: &Report, now: Instant) -> Vec<Sending> {
        let spots = &self.probe_first(spots, &report.probing, now);
        let mut new = Vec::new();
        let mut holding_since = now;
        for spot in spots {
            match self.assign(*spot, AddressDuty::Answer, now) {
                Some((AddressDuty::Answer | AddressDuty::Record, _)) => {}
                Some((AddressDuty::Hold, since)) => {
                    holding_since = holding_since.min(since);
                    new.push(*spot);
                }
                Some((AddressDuty::Probe { .. }, _)) | None => new.push(*spot),
            }
        }
        self.take_noted(spots);
        let held = self.waiting.take_held_at(spots);
        let answers = self.answer_held(report.unanswered(held, holding_since));
        for spot in new {
            self.bursts.start(spot, now);
        }
        answers
    }

    /// Announces these again, as far as they are answered.
    pub fn announce(&mut self, spots: &[Spot], now: Instant) {
        for spot in spots {
            match self.duty(*spot) {
                Some(AddressDuty::Answer | AddressDuty::Record) => self.bursts.start(*spot, now),
                Some(AddressDuty::Hold | AddressDuty::Probe { .. }) | None => {}
            }
        }
    }

    /// Stops answering these, and gives what was noted.
    pub fn silence(&mut self, spots: &[Spot]) -> Notes {
        for spot in spots {
            self.bursts.stop(*spot);
            self.probes.stop(*spot);
            if let Some(open) = self.ports.get_mut(&spot.interface)
                && open.duties.remove(&spot.address).is_some()
            {
                self.groups.remove(*spot);
                self.conflicts.forget(spot.address);
            }
        }
        self.waiting.take_held_at(spots);
        self.take_noted(spots)
    }

    /// The other nodes of the cluster.
    pub fn set_members(&mut self, members: Members, now: Instant) {
        self.probes.pass_over(|mac| members.contains_key(&mac), now);
        self.conflicts.set_members(members);
    }

    /// What is to be told of other machines that use our addresses.
    pub fn take_news(&mut self) -> Vec<News> {
        self.conflicts.take_news()
    }

    /// This process runs now, by the clock of this table and by that since boot. To be told before
    /// anything else is done, and ten times a second. After a time in which it did not run, what waited
    /// is not answered: another node may have answered it. What is asked for is asked for anew: who
    /// answered meanwhile was not heard.
    pub fn runs(&mut self, now: Instant, since_boot: Moment) {
        if self.freshness.runs(now, since_boot) {
            self.waiting.drop_held();
            self.probes.begin_anew(now);
        }
    }

    /// When [`Self::due`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.bursts.next_deadline(),
            self.conflicts.next_deadline(),
            self.next_probe(),
            self.next_look(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The gratuitous frames that are due, and the questions to machines that use addresses of ours. `jitter` gives a number from 0 to 1.
    pub fn due(&mut self, now: Instant, jitter: impl FnMut() -> f64) -> Vec<Sending> {
        self.conflicts.tick(now);
        let frames = self.bursts.due(now, jitter).into_iter();
        let frames = frames.filter_map(|frame| self.gratuitous(&frame));
        let mut due: Vec<Sending> = frames.collect();
        due.extend(self.due_probes(now));
        due.extend(self.look_again(now));
        due
    }

    pub(super) fn duty(&self, spot: Spot) -> Option<AddressDuty> {
        self.ports.get(&spot.interface)?.duty(spot.address)
    }

    /// Gives the duty before, and since when it was.
    fn assign(
        &mut self,
        spot: Spot,
        duty: AddressDuty,
        since: Instant,
    ) -> Option<(AddressDuty, Instant)> {
        let open = self.ports.get_mut(&spot.interface)?;
        match open.duties.get_mut(&spot.address) {
            Some(entry) => {
                let before = (entry.duty, entry.since);
                (entry.duty, entry.since) = (duty, since);
                Some(before)
            }
            None => {
                let entry = Entry {
                    duty,
                    since,
                    checked: None,
                    counters: self.metrics.of_address(spot.address),
                };
                open.duties.insert(spot.address, entry);
                self.groups.add(spot);
                None
            }
        }
    }

    /// What was noted for these, but what is still noted elsewhere as well.
    fn take_noted(&mut self, spots: &[Spot]) -> Notes {
        let these: BTreeSet<&Spot> = spots.iter().collect();
        let is_noted = |(interface, address): (u32, IpAddr)| {
            let spot = Spot { interface, address };
            !these.contains(&spot) && self.is_noted(spot)
        };
        let elsewhere = |address: &IpAddr| {
            let mut interfaces = self.ports.keys();
            interfaces.any(|interface| is_noted((*interface, *address)))
        };
        let addresses = spots.iter().map(|spot| spot.address);
        let addresses: Vec<IpAddr> = addresses.filter(|one| !elsewhere(one)).collect();
        self.waiting.take_noted(addresses.into_iter())
    }

    /// Whether the next owner is to be told what is answered there.
    fn is_noted(&self, spot: Spot) -> bool {
        match self.duty(spot) {
            Some(AddressDuty::Record | AddressDuty::Probe { noting: true }) => true,
            Some(
                AddressDuty::Answer | AddressDuty::Hold | AddressDuty::Probe { noting: false },
            )
            | None => false,
        }
    }

    fn gratuitous(&self, frame: &Gratuitous) -> Option<Sending> {
        let Gratuitous { spot, form } = frame;
        let open = self.ports.get(&spot.interface)?;
        let entry = open.duties.get(&spot.address)?;
        if !self.fences.permits(spot.address) {
            return None;
        }
        let mac = open.port.mac;
        let packet = match (spot.address, form) {
            (IpAddr::V4(address), Form::Request) => {
                Packet::Arp(Arp::gratuitous_request(address, mac))
            }
            (IpAddr::V4(address), Form::Reply) => Packet::Arp(Arp::gratuitous_reply(address, mac)),
            (IpAddr::V6(address), Form::Advertisement) => {
                Packet::Ndp(Ndp::unsolicited(address, mac))
            }
            (IpAddr::V4(_), Form::Advertisement) | (IpAddr::V6(_), Form::Request | Form::Reply) => {
                return None;
            }
        };
        Some(Sending {
            interface: spot.interface,
            packet,
            counter: entry.counters.gratuitous.clone(),
        })
    }
}

impl OpenPort {
    fn duty(&self, address: IpAddr) -> Option<AddressDuty> {
        self.duties.get(&address).map(|entry| entry.duty)
    }
}
