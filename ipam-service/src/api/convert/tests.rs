//! What a request leaves out.

use super::*;
use crate::state::model::Families;

fn least() -> v1::AllocateRequest {
    v1::AllocateRequest {
        owner: Some(v1::Owner {
            cluster: "east".to_owned(),
            name: "web".to_owned(),
            ..v1::Owner::default()
        }),
        ..v1::AllocateRequest::default()
    }
}

#[test]
fn what_a_claim_leaves_out_has_its_default() {
    let asked = allocate_from_wire(&least()).expect("a claim");
    assert_eq!(asked.owner.key.namespace, None);
    assert_eq!(asked.if_refused, IfRefused::Fail);
    assert_eq!((asked.if_revision, asked.fence), (None, 0));
    let claim = &asked.claim;
    assert_eq!(claim.space.as_str(), pharos_proto::DEFAULT_ADDRESS_SPACE);
    assert_eq!(claim.families, Families::Any);
    assert_eq!(claim.dual_stack_pools, DualStackPools::OnePool);
    // Every selected node announces it: who knows no backends need say nothing.
    assert_eq!(claim.backends, BackendsPolicy::Unmanaged);
    let reported = v1::AllocateRequest {
        backends: v1::claim::Backends::Reported.into(),
        ..least()
    };
    let reported = allocate_from_wire(&reported).expect("a claim").claim;
    assert_eq!(reported.backends, BackendsPolicy::Reported);
}

#[test]
fn a_claim_is_compared_without_its_order_and_without_what_is_no_part_of_it() {
    let port = |port| v1::Port {
        protocol: v1::port::Protocol::Tcp.into(),
        port,
    };
    let one = v1::AllocateRequest {
        ports: vec![port(443), port(80)],
        addresses: vec!["2001:db8::1".to_owned(), "192.0.2.1".to_owned()],
        ..least()
    };
    let other = v1::AllocateRequest {
        ports: vec![port(80), port(443), port(80)],
        addresses: vec!["192.0.2.1".to_owned(), "2001:DB8::1".to_owned()],
        held_addresses: vec!["192.0.2.9".to_owned()],
        request_id: "again".to_owned(),
        if_refused: v1::allocate_request::IfRefused::Queue.into(),
        fence: 7,
        ..least()
    };
    let [one, other] = [one, other].map(|wire| allocate_from_wire(&wire).expect("a claim").claim);
    assert_eq!(one, other);
}
