//! Memberships in multicast groups, which the kernel reports to the switches (MLD).
//!
//! A group is joined by a socket that receives nothing; the kernel tells it to the network card and
//! to the switches, and again whenever a querier asks. Needs no capability.

use std::collections::BTreeMap;
use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::groups::{Change, Membership};

/// Memberships of one socket. The kernel bounds what a socket may use (net.core.optmem_max): by
/// default it has room for some hundreds.
const PER_SOCKET: usize = 64;

/// The groups that are joined.
#[derive(Debug, Default)]
pub struct Memberships {
    sockets: Vec<Member>,
    /// Which socket has joined what.
    joined: BTreeMap<Membership, usize>,
}

#[derive(Debug)]
struct Member {
    socket: Socket,
    count: usize,
}

impl Memberships {
    /// Joins or leaves. One that cannot be joined is told in the log: solicitations for its
    /// addresses may not arrive.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Join(membership) => {
                    if let Err(error) = self.join(*membership) {
                        let Membership { interface, group } = membership;
                        tracing::error!(interface, %group, %error, "cannot join a multicast group");
                    }
                }
                Change::Leave(membership) => self.leave(*membership),
            }
        }
    }

    fn join(&mut self, membership: Membership) -> io::Result<()> {
        let index = self.with_room()?;
        let member = &mut self.sockets[index];
        member
            .socket
            .join_multicast_v6(&membership.group, membership.interface)?;
        member.count += 1;
        self.joined.insert(membership, index);
        Ok(())
    }

    fn leave(&mut self, membership: Membership) {
        let Some(index) = self.joined.remove(&membership) else {
            return;
        };
        let member = &mut self.sockets[index];
        member.count -= 1;
        let left = member
            .socket
            .leave_multicast_v6(&membership.group, membership.interface);
        if let Err(error) = left {
            // The interface is gone, and its memberships with it.
            tracing::debug!(interface = membership.interface, %error, "left no multicast group");
        }
    }

    fn with_room(&mut self) -> io::Result<usize> {
        let has_room = |member: &Member| member.count < PER_SOCKET;
        if let Some(index) = self.sockets.iter().position(has_room) {
            return Ok(index);
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        self.sockets.push(Member { socket, count: 0 });
        Ok(self.sockets.len() - 1)
    }
}
