//! What a neighbour asks: where is this address?
//!
//! Pure. It knows nothing of the frame that the question came in.

use std::net::IpAddr;

use pnet_base::MacAddr;

/// A question for an address: an ARP request, or a neighbour solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who is to be answered.
    pub asker: MacAddr,
    /// The address that it asks from; of the family of the target. Unspecified if it has none yet.
    pub from: IpAddr,
    /// The address that it asks for.
    pub target: IpAddr,
}
