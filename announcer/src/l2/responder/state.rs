//! What the thread and those who tell it share under one lock: the table, and the sockets that it is read
//! from and sent by.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::clock;
use crate::l2::burst::Spot;
use crate::l2::filter::{self, Cover, Instruction};
use crate::l2::hold::Notes;
use crate::l2::narrow::Narrowing;
use crate::l2::socket::PacketSocket;
use crate::l2::sockets::{Failure, Sockets};
use crate::l2::table::{Packet, Place, Port, Protocol, Sending, Table};

/// Most ranges of a filter, tried one after the other: the kernel may have no room for all.
const RANGES: [usize; 4] = [usize::MAX, 768, 256, 32];

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    /// On the interfaces of the table, as far as they could be opened.
    sockets: Sockets<Arc<PacketSocket>>,
    narrowing: Narrowing,
}

impl State {
    pub(super) fn new(table: Table) -> Self {
        Self {
            table,
            sockets: Sockets::default(),
            narrowing: Narrowing::default(),
        }
    }

    /// Before anything is sent: leases are looked at by the time that it is now.
    pub(super) fn tell_time(&mut self) {
        let fences = self.table.fences();
        if !fences.is_empty() {
            fences.tell_time(clock::since_boot());
        }
    }

    /// Answers on exactly these interfaces.
    pub(super) fn set_ports(&mut self, ports: &[Port]) -> Vec<Failure> {
        let stays = |open: &Port| ports.iter().any(|port| port.is_same(open));
        let gone = self.table.ports().filter(|open| !stays(open));
        for index in gone.map(|open| open.index).collect::<Vec<u32>>() {
            self.table.close(index);
            self.sockets.close(index);
            self.narrowing.closed(index);
        }
        let mut failed = Vec::new();
        for port in ports {
            failed.extend(self.open(port));
        }
        let places = self.sockets.iter().map(|(place, _)| place);
        let places: Vec<Place> = places.collect();
        self.narrowing.set_places(&places, clock::now());
        failed
    }

    /// Answers on an interface, as far as it does not yet.
    fn open(&mut self, port: &Port) -> Vec<Failure> {
        if !self.table.ports().any(|open| open.is_same(port)) {
            self.table.open(port.clone());
        }
        self.table.set_link_local(port.index, port.link_local);
        self.sockets.set(port, |(interface, protocol)| {
            Ok(Arc::new(PacketSocket::open(interface, protocol)?))
        })
    }

    /// Before these get a duty: what is asked from that moment on must arrive.
    pub(super) fn widen(&mut self, spots: &[Spot]) {
        for place in self.narrowing.gain(spots, clock::now()) {
            let everything = filter::program(place.1, None);
            if let Some(Err(error)) = self.filter(place, &everything) {
                tracing::error!(?place, %error, "cannot widen the filter of a socket");
            }
        }
    }

    /// Stops answering these, and gives what was noted.
    pub(super) fn silence(&mut self, spots: &[Spot]) -> Notes {
        self.narrowing.lose(spots, clock::now());
        self.table.silence(spots)
    }

    /// Lets through only what is asked for addresses of this node, where changes have settled.
    pub(super) fn narrow(&mut self) {
        let now = clock::now();
        for place in self.narrowing.due(now) {
            let Some(filtered) = self.narrow_place(place) else {
                continue;
            };
            if let Err(error) = filtered {
                // An earlier filter may keep out what this node is asked for by now.
                tracing::error!(?place, %error, "cannot change the filter of a socket");
                self.narrowing.again(place, now);
            }
        }
    }

    /// As narrow as the kernel has room for, else everything; `None`: there is no socket.
    fn narrow_place(&mut self, place: Place) -> Option<io::Result<()>> {
        for most in RANGES {
            let cover = Cover::of(self.table.addresses(place), most);
            let program = filter::program(place.1, Some(&cover));
            if program.len() > filter::LONGEST {
                continue;
            }
            match self.filter(place, &program)? {
                Ok(()) => {
                    self.narrowing.narrowed(place, cover);
                    return Some(Ok(()));
                }
                Err(error) => {
                    tracing::debug!(?place, most, %error, "no room for a filter this long");
                }
            }
        }
        self.filter(place, &filter::program(place.1, None))
    }

    fn filter(&self, place: Place, program: &[Instruction]) -> Option<io::Result<()>> {
        Some(self.sockets.get(place)?.filter(program))
    }

    /// When something is to be sent or narrowed.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.table.next_deadline(), self.narrowing.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn sockets(&self) -> Vec<(Place, Arc<PacketSocket>)> {
        let sockets = self.sockets.iter();
        sockets
            .map(|(place, socket)| (place, socket.clone()))
            .collect()
    }

    pub(super) fn send(&self, sending: &Sending) {
        let interface = sending.interface;
        let (protocol, frame): (Protocol, &[u8]) = match sending.packet {
            Packet::Arp(arp) => (Protocol::Arp, &arp.emit()),
            Packet::Ndp(ndp) => (Protocol::Ndp, &ndp.emit()[..ndp.length()]),
        };
        let Some(socket) = self.sockets.get((interface, protocol)) else {
            return;
        };
        match socket.send(frame) {
            Ok(()) => sending.counter.inc(),
            Err(error) => {
                tracing::debug!(interface = sending.interface, %error, "cannot send a frame");
            }
        }
    }
}
