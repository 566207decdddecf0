//! Leases and releases of nodes, from the wire.

use pharos_lease::Term;
use pharos_proto::v1;

use super::convert_announce::{bound, names};
use super::fields::FieldErrors;
use crate::state::leases::{Readiness, Released, Standing};
use crate::state::model::{NodeKey, TenureKey};
use crate::state::names::Name;
use crate::state::refusal::Rejection;

/// What a node asks of its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// `None`: for a new one.
    Renew(NodeKey, Option<Term>, Standing),
    End(NodeKey, Term),
}

/// A renewal.
pub fn lease_renewal(wire: &v1::RenewLeaseRequest) -> Result<Renewal, Rejection> {
    use v1::renew_lease_request::Readiness as Wire;
    let mut errors = FieldErrors::new();
    let cluster = errors.name("cluster", &wire.cluster);
    let node = errors.name("node", &wire.node);
    let interfaces = names(&mut errors, "interfaces", &wire.interfaces);
    bound(&mut errors, "interfaces", wire.interfaces.len());
    let readiness = match Wire::try_from(wire.readiness) {
        Ok(Wire::Ready) => Some(Readiness::Ready),
        Ok(Wire::HoldDown) => Some(Readiness::HoldDown),
        Ok(Wire::Draining) => Some(Readiness::Draining),
        Ok(Wire::Unspecified) if wire.end => Some(Readiness::Draining),
        Ok(Wire::Unspecified) => {
            errors.add("readiness", "is required");
            None
        }
        Err(_) => {
            errors.add("readiness", format!("unknown value {}", wire.readiness));
            None
        }
    };
    if wire.end && wire.term == 0 {
        errors.add("term", "is required, to end it");
    }
    let renewal = (|| {
        let node = NodeKey {
            cluster: cluster?,
            node: node?,
        };
        let standing = Standing {
            readiness: readiness?,
            interfaces: interfaces?.iter().map(Name::to_string).collect(),
        };
        let term = (wire.term != 0).then_some(Term(wire.term));
        Some(match term {
            Some(term) if wire.end => Renewal::End(node, term),
            term => Renewal::Renew(node, term, standing),
        })
    })();
    errors.finish(renewal)
}

/// Tenures that a node has ended, by term and epoch.
pub fn released_from_wire(
    node: &NodeKey,
    wire: &v1::announcer_report::Released,
) -> Result<Vec<Released>, Rejection> {
    let mut errors = FieldErrors::new();
    let tenures = wire.tenures.iter().enumerate().map(|(index, one)| {
        let field = format!("released.tenures[{index}]");
        let space = errors.space(format!("{field}.address_space"), &one.address_space);
        let address = errors.address(format!("{field}.address"), &one.address);
        let key = TenureKey {
            cluster: node.cluster.clone(),
            space: space?,
            address: address?,
        };
        Some(Released {
            key,
            node: node.node.clone(),
            term: Term(one.term),
            epoch: one.epoch,
        })
    });
    let tenures = tenures.collect();
    errors.finish(tenures)
}
