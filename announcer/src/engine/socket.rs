//! The membership socket: sealed datagrams in and out, and what hosts refuse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Engine, RETRY};
use crate::clock;
use crate::members::errors;
use crate::members::replay::{Stamp, sender_of};
use crate::members::seal::OpenError;
use crate::members::wire::{Body, Datagram};
use crate::stamped::{self, Received};
use crate::talk::Heard;

/// Datagrams read before anything else gets its turn.
const READ_BATCH: usize = 256;
/// What was heard and not yet followed: more stays in the queue of the socket.
const HEARD_LIMIT: usize = 4096;
/// How long this thread works at most before it hears what the others ask: less than they wait for an
/// answer before they ask again.
const BREATH: Duration = Duration::from_millis(20);
/// What the membership protocol planned and comes so much later means that this thread did not run.
const STALL: Duration = Duration::from_millis(60);
/// Ours fit into an Ethernet frame, unless a node has very many interfaces.
const LARGEST_DATAGRAM: usize = 16 << 10;
/// Room for a burst of datagrams while the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;

impl Engine {
    pub(super) fn bind(&mut self, now: Instant) {
        match listen_on(self.listen) {
            Ok(socket) => {
                tracing::info!(listen = %self.listen, me = ?self.talk.me(), "watching other members");
                self.socket = Some(Arc::new(socket));
                self.bind_again = None;
                self.readiness.ready("members-listen");
            }
            Err(error) => {
                let reason = format!("cannot listen on {}: {error}", self.listen);
                tracing::warn!(listen = %self.listen, %error, "cannot watch members, trying again");
                self.readiness.not_ready("members-listen", reason);
                self.bind_again = Some(now + RETRY);
            }
        }
    }

    /// Hears what has arrived, and follows it.
    pub(super) fn read(&mut self, now: Instant) {
        self.hear(now);
        // Not what is heard meanwhile: others have their turn in between.
        for _ in 0..self.heard.len() {
            let Some(heard) = self.heard.pop_front() else {
                break;
            };
            self.talk.follow(heard, clock::now());
            self.perform();
            self.send();
        }
        let Some(socket) = self.socket.clone() else {
            return;
        };
        let refused = errors::take_refused(&*socket);
        tell_runtime(&socket, Interest::ERROR);
        for endpoint in refused {
            self.talk.refused(endpoint, now);
        }
        self.perform();
    }

    /// To be called again and again by whatever takes long: a thousand groups may come or go at once, and a
    /// node that is busy lives.
    pub(super) fn breathe(&mut self) {
        let now = clock::now();
        if now >= self.breathed + BREATH {
            self.hear(now);
        }
    }

    /// Reads what has arrived, and answers what asks whether this node lives. What follows from it waits
    /// for its turn, so that it may come in the middle of something.
    fn hear(&mut self, now: Instant) {
        let planned = self.talk.members_deadline();
        let late = planned.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STALL {
            let late_ms = late.as_millis();
            tracing::debug!(late_ms, "this thread did not run for a while");
            self.talk.postpone(late);
        }
        if let Some(socket) = self.socket.clone() {
            self.hear_from(&socket, now);
        }
        let heard = self.talk.tick_members(now);
        self.keep(heard);
        self.breathed = clock::now();
    }

    fn hear_from(&mut self, socket: &UdpSocket, now: Instant) {
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        for _ in 0..READ_BATCH {
            if self.heard.len() >= HEARD_LIMIT {
                break;
            }
            // Not by way of the runtime, which looks at sockets only while this thread waits.
            match stamped::receive(socket, &mut buffer) {
                Ok(received) => {
                    if let Some(body) = self.open(&buffer[..received.length], received) {
                        let heard = self.talk.hear(body, received.at, now);
                        self.keep(heard);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tell_runtime(socket, Interest::READABLE);
                    break;
                }
                // An error of an earlier datagram: it is in the queue that `read` looks at.
                Err(_) => {}
            }
        }
    }

    /// Answers at once; the rest is followed later.
    fn keep(&mut self, mut heard: Heard) {
        for (to, message) in heard.take_answers() {
            if let Some(socket) = self.socket.clone() {
                self.send_to(&socket, to, &message);
            }
        }
        if !heard.is_nothing() {
            self.heard.push_back(heard);
        }
    }

    /// What a datagram says, if it is one of ours.
    fn open(&mut self, bytes: &[u8], received: Received) -> Option<Body> {
        let opened = self.seal.open(bytes).and_then(|(stamp, plain)| {
            let is_new = stamp.is_none_or(|stamp| self.seen.is_new(stamp));
            if is_new {
                Ok(plain)
            } else {
                Err(OpenError::Replayed)
            }
        });
        let plain = match opened {
            Ok(plain) => plain,
            Err(error) => {
                self.metrics.members_rejected.inc();
                tracing::debug!(from = ?received.from, %error, "datagram not accepted");
                return None;
            }
        };
        let Ok(Datagram { body: Some(body) }) = Datagram::decode(plain.as_slice()) else {
            self.metrics.members_rejected.inc();
            tracing::debug!(from = ?received.from, "datagram not understood");
            return None;
        };
        Some(body)
    }

    /// Sends the steps of handovers.
    pub(super) fn pack_steps(&mut self) {
        if let Some(binder) = &mut self.binder {
            // Nobody is told to go on before it is gone here.
            binder.unbind();
        }
        while self.talk.pack_steps(clock::now()) {
            self.send();
            self.breathe();
        }
    }

    /// Sends what waits; one that cannot be sent now is lost, like any other may be.
    pub(super) fn send(&mut self) {
        for (to, message) in self.talk.take_unsent() {
            if let Some(socket) = self.socket.clone() {
                self.send_to(&socket, to, &message);
            }
        }
    }

    fn send_to(&mut self, socket: &UdpSocket, to: SocketAddr, message: &Datagram) {
        self.sent += 1;
        let me = self.talk.me();
        let stamp = Stamp {
            sender: sender_of(&me.node),
            epoch: me.epoch,
            number: self.sent,
        };
        let sealed = self.seal.seal(stamp, &message.encode_to_vec());
        // The socket reports errors of earlier datagrams first, and then has not sent this one.
        for _ in 0..3 {
            match SockRef::from(socket).send_to(&sealed, &to.into()) {
                Ok(_) => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::debug!(%to, %error, "cannot send to a member");
                    return;
                }
            }
        }
    }
}

/// Resolves when the socket has something to read, or an error; never without a socket. Cancel
/// safe.
pub(super) async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        Some(socket) => {
            // An error here is an error of the runtime's driver, which ends with the process.
            let _ = socket.ready(Interest::READABLE | Interest::ERROR).await;
        }
        None => std::future::pending().await,
    }
}

/// Tells the runtime that there is no more of this, until the kernel says so again.
fn tell_runtime(socket: &UdpSocket, interest: Interest) {
    let nothing = || Err::<(), _>(std::io::Error::from(std::io::ErrorKind::WouldBlock));
    let _ = socket.try_io(interest, nothing);
}

fn listen_on(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    errors::enable(&socket, listen)?;
    stamped::enable(&socket)?;
    SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    UdpSocket::from_std(socket)
}
