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

/// Datagrams followed before anything else gets its turn.
const READ_BATCH: usize = 256;
/// The same, in time.
const READ_TIME: Duration = Duration::from_millis(50);
/// Datagrams heard at once: more than the socket has room for.
const HEAR_BATCH: usize = 4096;
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
    pub(super) fn read(&mut self) {
        self.hear();
        // Not all, if it is much: others have their turn in between, and members are told what follows.
        let until = clock::now() + READ_TIME;
        for _ in 0..READ_BATCH {
            if clock::now() >= until || !self.talk.follow(clock::now()) {
                break;
            }
            self.perform();
            self.pack_steps();
            self.send();
            self.breathe();
        }
        let Some(socket) = self.socket.clone() else {
            return;
        };
        let refused = errors::take_refused(&*socket);
        tell_runtime(&socket, Interest::ERROR);
        for endpoint in refused {
            self.talk.refused(endpoint, clock::now());
        }
        self.perform();
    }

    /// To be called again and again by whatever takes long: a thousand groups may come or go at once, and a
    /// node that is busy lives.
    pub(super) fn breathe(&mut self) {
        if clock::now() >= self.breathed + BREATH {
            self.hear();
        }
    }

    /// Reads what has arrived, and answers what asks whether this node lives. What follows from it waits
    /// for its turn, so that it may come in the middle of something.
    pub(super) fn hear(&mut self) {
        let now = clock::now();
        let planned = self.talk.members_deadline();
        let late = planned.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        // Under a flood it runs, and cannot read all.
        if late > STALL && now > self.breathed + STALL {
            let late_ms = late.as_millis();
            tracing::debug!(late_ms, "this thread did not run for a while");
            self.talk.postpone(late);
        }
        let is_all = match self.socket.clone() {
            Some(socket) => self.hear_from(&socket, now),
            None => true,
        };
        // Who is suspected may have answered. Under a flood nobody knows.
        if is_all || now >= self.ticked + STALL {
            let sendings = self.talk.tick_members(now);
            self.send_all(sendings);
            self.ticked = now;
        }
        self.breathed = clock::now();
    }

    /// Tells whether that was all.
    fn hear_from(&mut self, socket: &UdpSocket, now: Instant) -> bool {
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        for _ in 0..HEAR_BATCH {
            // Not by way of the runtime, which looks at sockets only while this thread waits.
            match stamped::receive(socket, &mut buffer) {
                Ok(received) => {
                    if let Some(body) = self.open(&buffer[..received.length], received) {
                        let answers = self.talk.hear(body, received.at.min(now), now);
                        self.send_all(answers);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tell_runtime(socket, Interest::READABLE);
                    return true;
                }
                // An error of an earlier datagram: it is in the queue that `read` looks at.
                Err(_) => {}
            }
        }
        false
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
        for sending in self.talk.take_unsent() {
            self.send_all([sending]);
            self.breathe();
        }
    }

    /// Sends what waits, and hears nothing any more: others may believe this node dead by now, and it would live
    /// again.
    pub(super) fn farewell(&mut self) {
        let unsent = self.talk.take_unsent();
        self.send_all(unsent);
    }

    fn send_all(&mut self, sendings: impl IntoIterator<Item = (SocketAddr, Datagram)>) {
        for (to, message) in sendings {
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
