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
    let interfaces6 = match &wire.ipv6 {
        Some(ipv6) => {
            bound(&mut errors, "ipv6.names", ipv6.names.len());
            names(&mut errors, "ipv6.names", &ipv6.names)
        }
        // An announcer of an earlier version does not tell of the families one by one.
        None => interfaces.clone(),
    };
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
            interfaces6: interfaces6?.iter().map(Name::to_string).collect(),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The interfaces that count, by family.
    fn read(interfaces: &[&str], ipv6: Option<&[&str]>) -> [BTreeSet<String>; 2] {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let wire = v1::RenewLeaseRequest {
            cluster: "east".to_owned(),
            node: "a".to_owned(),
            readiness: v1::renew_lease_request::Readiness::Ready.into(),
            interfaces: names(interfaces),
            ipv6: ipv6.map(|ipv6| v1::renew_lease_request::Interfaces { names: names(ipv6) }),
            ..v1::RenewLeaseRequest::default()
        };
        match lease_renewal(&wire) {
            Ok(Renewal::Renew(_, None, standing)) => [standing.interfaces, standing.interfaces6],
            other => panic!("a new lease is asked for, not {other:?}"),
        }
    }

    #[test]
    fn an_interface_counts_for_the_families_that_it_is_told_for() {
        let names = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(ToString::to_string).collect()
        };
        let (some, none) = (names(&["eth0"]), names(&[]));
        assert_eq!(read(&["eth0"], Some(&[])), [some.clone(), none.clone()]);
        assert_eq!(read(&[], Some(&["eth0"])), [none, some.clone()]);
        // An announcer of an earlier version.
        assert_eq!(read(&["eth0"], None), [some.clone(), some]);
    }

    #[test]
    fn a_bad_name_of_an_interface_for_ipv6_is_refused_by_its_field() {
        let wire = v1::RenewLeaseRequest {
            cluster: "east".to_owned(),
            node: "a".to_owned(),
            readiness: v1::renew_lease_request::Readiness::Ready.into(),
            ipv6: Some(v1::renew_lease_request::Interfaces {
                names: vec![String::new()],
            }),
            ..v1::RenewLeaseRequest::default()
        };
        let refused = lease_renewal(&wire).expect_err("bad").to_string();
        assert!(refused.contains("ipv6.names[0]"), "{refused}");
    }
}
