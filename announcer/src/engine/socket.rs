//! The membership socket: sealed datagrams in and out, and what hosts refuse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Engine, RETRY};
use crate::clock;
use crate::members::errors;
use crate::members::replay::{Stamp, sender_of};
use crate::members::seal::OpenError;
use crate::members::wire::Datagram;
use crate::stamped::{self, Received};

/// Datagrams read before anything else gets its turn.
const READ_BATCH: usize = 256;
/// Ours fit into an Ethernet frame, unless a node has very many interfaces.
const LARGEST_DATAGRAM: usize = 16 << 10;
/// Room for a burst of datagrams while the thread does not run.
const RECEIVE_BUFFER: usize = 1 << 20;

impl Engine {
    pub(super) fn bind(&mut self, now: Instant) {
        match open(self.listen) {
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

    pub(super) fn read(&mut self, now: Instant) {
        let Some(socket) = self.socket.clone() else {
            return;
        };
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        for _ in 0..READ_BATCH {
            let received = socket.try_io(Interest::READABLE, || {
                stamped::receive(&*socket, &mut buffer)
            });
            match received {
                Ok(received) => {
                    self.on_datagram(&buffer[..received.length], received, now);
                    self.perform();
                    self.send();
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An error of an earlier datagram: it is in the queue that is read below.
                Err(_) => {}
            }
        }
        let refused = errors::take_refused(&*socket);
        // Tells the runtime that the errors have been taken.
        let _ = socket.try_io(Interest::ERROR, || {
            Err::<(), _>(std::io::Error::from(std::io::ErrorKind::WouldBlock))
        });
        for endpoint in refused {
            self.talk.refused(endpoint, now);
        }
        self.perform();
    }

    fn on_datagram(&mut self, bytes: &[u8], received: Received, now: Instant) {
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
                return;
            }
        };
        let Ok(Datagram { body: Some(body) }) = Datagram::decode(plain.as_slice()) else {
            self.metrics.members_rejected.inc();
            tracing::debug!(from = ?received.from, "datagram not understood");
            return;
        };
        self.talk.receive(body, received.at, now);
    }

    /// Sends the steps of handovers.
    pub(super) fn pack_steps(&mut self) {
        if let Some(binder) = &mut self.binder {
            // Nobody is told to go on before it is gone here.
            binder.unbind();
        }
        while self.talk.pack_steps(clock::now()) {
            self.send();
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
            match socket.try_send_to(&sealed, to) {
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

fn open(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    errors::enable(&socket, listen)?;
    stamped::enable(&socket)?;
    socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    UdpSocket::from_std(socket)
}
