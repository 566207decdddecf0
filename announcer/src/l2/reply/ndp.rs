//! Whether a message of neighbour discovery is answered, and if not, why (RFC 4861, RFC 4862).
//!
//! Pure, and the same for IPv6 as its parent for ARP.

use std::net::{IpAddr, Ipv6Addr};

use pnet_base::MacAddr;

use super::{AddressDuty, Decision, Ignored, is_station};
use crate::l2::ndp::{Kind, Ndp, ethernet_group};
use crate::l2::question::Question;

#[cfg(test)]
mod tests;

/// Decides about a frame that an interface with this MAC address received. `is_own` knows the MAC
/// addresses of all interfaces of this node: two of them may lie on one segment.
pub fn decide(
    frame: &[u8],
    own_mac: MacAddr,
    is_own: impl Fn(MacAddr) -> bool,
    duty: impl Fn(Ipv6Addr) -> Option<AddressDuty>,
) -> Decision {
    decide_parsed(frame, own_mac, is_own, duty).unwrap_or_else(Decision::Ignore)
}

fn decide_parsed(
    frame: &[u8],
    own_mac: MacAddr,
    is_own: impl Fn(MacAddr) -> bool,
    duty: impl Fn(Ipv6Addr) -> Option<AddressDuty>,
) -> Result<Decision, Ignored> {
    let ndp = Ndp::parse(frame).map_err(Ignored::MalformedNdp)?;
    // Without the option the frame says who asks.
    let sender = ndp.link_layer.unwrap_or(ndp.source);
    if ndp.source == own_mac || sender == own_mac {
        return Err(Ignored::OwnFrame);
    }
    if !is_station(sender) || !is_station(ndp.source) {
        return Err(Ignored::BadSender);
    }
    // Who advertises an address uses it, and so does who sends from it.
    let used = match ndp.kind {
        Kind::Solicitation => ndp.from,
        Kind::Advertisement { .. } => ndp.target,
    };
    match duty(used) {
        Some(AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. })
            if is_own(sender) =>
        {
            return Err(Ignored::OwnFrame);
        }
        Some(AddressDuty::Answer | AddressDuty::Record | AddressDuty::Probe { .. }) => {
            return Ok(Decision::Conflict(used.into(), sender));
        }
        // The owner, which is about to hand over, uses it still.
        Some(AddressDuty::Hold) | None => {}
    }
    match ndp.kind {
        Kind::Advertisement { .. } => return Err(Ignored::Reply),
        Kind::Solicitation => {}
    }
    let to_group = ndp.to.is_multicast() && ndp.destination == ethernet_group(ndp.to);
    if !to_group && ndp.destination != own_mac {
        return Err(Ignored::OtherDestination);
    }
    let question = Question {
        asker: sender,
        from: IpAddr::V6(ndp.from),
        target: IpAddr::V6(ndp.target),
    };
    match duty(ndp.target) {
        None => Err(Ignored::NotOwned),
        Some(AddressDuty::Hold) => Ok(Decision::Hold(question)),
        Some(AddressDuty::Probe { .. }) if ndp.from.is_unspecified() => {
            // It asks for the same reason (RFC 4862 section 5.4.3).
            match is_own(sender) {
                true => Err(Ignored::OwnFrame),
                false => Ok(Decision::Conflict(ndp.target.into(), sender)),
            }
        }
        Some(AddressDuty::Probe { .. }) => Ok(Decision::Hold(question)),
        Some(AddressDuty::Answer) => Ok(Decision::Answer(question, false)),
        Some(AddressDuty::Record) => Ok(Decision::Answer(question, true)),
    }
}
