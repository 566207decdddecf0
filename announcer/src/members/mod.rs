//! Who lives: the announcers of a cluster watch one another over UDP, without any control plane.
//!
//! - [`wire`]: the datagrams; [`seal`]: their encryption; [`replay`]: those that are sent again.
//! - [`swim`]: the SWIM protocol (`foca`): random probes, suspicion, gossip.
//! - [`peers`]: whom to greet: members that are presumed to live, and those believed dead.
//! - [`reports`]: what each of them says about itself.
//! - [`namesake`]: another announcer under this node's name.
//! - [`errors`]: datagrams that a host refused, which only shortens suspicion.
//!
//! [`crate::talk`] joins all of them but the socket, which is [`crate::engine`]'s.

pub mod errors;
pub mod namesake;
pub mod peers;
pub mod replay;
pub mod reports;
pub mod seal;
pub mod swim;
pub mod wire;

use std::net::SocketAddr;

use crate::election::NodeName;

/// One run of an announcer on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeName,
    /// Where it is reached.
    pub endpoint: SocketAddr,
    /// Grows with each start of the process, and when others wrongly declared it dead.
    pub epoch: u64,
}

impl Peer {
    /// Later epochs are refused: nothing could come after the last number.
    pub const LAST_EPOCH: u64 = u64::MAX / 2;
}
