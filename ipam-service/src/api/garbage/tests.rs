//! Random and damaged bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::api::convert::{AllocationExtras, allocation_from_wire};
use crate::testing::wire_owner;

/// Spoils a message: bytes that are replaced, put in or taken out.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
}

fn some_damage() -> impl Strategy<Value = Damage> {
    let at = 0_usize..400;
    prop_oneof![
        4 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => at.prop_map(Damage::Remove),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len();
        match *damage {
            Damage::Set(at, byte) if length > 0 => bytes[at % length] = byte,
            Damage::Insert(at, byte) => bytes.insert(at % (length + 1), byte),
            Damage::Remove(at) if length > 0 => drop(bytes.remove(at % length)),
            Damage::Set(..) | Damage::Remove(_) => {}
        }
    }
    bytes
}

fn good_claim() -> v1::AllocateRequest {
    v1::AllocateRequest {
        owner: Some(wire_owner("east/default/web")),
        ports: vec![v1::Port {
            protocol: v1::port::Protocol::Tcp.into(),
            port: 80,
        }],
        families: vec![v1::ip_family::Value::Ipv4.into()],
        sharing_key: "key".to_owned(),
        held_addresses: vec!["192.0.2.1".to_owned()],
        labels: [("app".to_owned(), "web".to_owned())].into(),
        if_refused: v1::allocate_request::IfRefused::Queue.into(),
        fence: 1,
        ..v1::AllocateRequest::default()
    }
}

fn good_pool() -> v1::ApplyPoolRequest {
    let pool = v1::Pool {
        name: "pool".to_owned(),
        addresses: vec![
            "192.0.2.0/28".to_owned(),
            "2001:db8::1-2001:db8::9".to_owned(),
        ],
        namespaces: vec!["default".to_owned()],
        service_selectors: vec![v1::LabelSelector {
            match_labels: [("app".to_owned(), "web".to_owned())].into(),
            match_expressions: vec![v1::LabelSelectorRequirement {
                key: "tier".to_owned(),
                operator: 1,
                values: vec!["front".to_owned()],
            }],
        }],
        ..v1::Pool::default()
    };
    v1::ApplyPoolRequest {
        pool: Some(pool),
        ..v1::ApplyPoolRequest::default()
    }
}

fn good_space() -> v1::ApplyAddressSpaceRequest {
    let grant = |cluster: &str, ranges: &[&str]| v1::address_space::Grant {
        cluster: cluster.to_owned(),
        ranges: ranges.iter().map(|text| (*text).to_owned()).collect(),
    };
    let space = v1::AddressSpace {
        name: "default".to_owned(),
        grants: vec![
            grant("east", &["192.0.2.0/31", "2001:db8::/64"]),
            grant("west", &["192.0.2.2-192.0.2.3"]),
        ],
        ..v1::AddressSpace::default()
    };
    v1::ApplyAddressSpaceRequest {
        address_space: Some(space),
        ..v1::ApplyAddressSpaceRequest::default()
    }
}

/// Hands bytes to every conversion that reads from the wire or from a row.
fn read_as_anything(bytes: &[u8], state: &mut State) {
    for reader in READERS {
        if let Some(command) = reader(bytes).and_then(assert_names_fields) {
            apply(state, &command);
        }
    }
    if let Ok(wire) = v1::Allocation::decode(bytes) {
        // A stored row; one that is damaged is refused when the store is loaded.
        assert_names_fields(allocation_from_wire(&wire, &AllocationExtras::default()));
    }
}

fn with_pool() -> State {
    let mut state = State::new();
    apply(
        &mut state,
        &crate::testing::apply_pool("pool", &["192.0.2.0/30"]),
    );
    state
}

/// Text that looks like an address, a range or a name.
fn near_miss() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f.:/ -]{0,40}",
        "[0-9]{1,3}(\\.[0-9]{1,4}){3}(/[0-9]{1,3}|-[0-9.]{0,15})?",
        any::<String>()
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_taken_in_or_refused(messages in vec(vec(any::<u8>(), 0..60), 1..6)) {
        let mut state = with_pool();
        for bytes in messages {
            read_as_anything(&bytes, &mut state);
        }
    }

    #[test]
    fn a_damaged_message_is_taken_in_or_refused_by_its_fields(
        damages in vec(vec(some_damage(), 1..6), 1..6),
    ) {
        let mut state = with_pool();
        for damage in damages {
            read_as_anything(&damaged(good_claim().encode_to_vec(), &damage), &mut state);
            read_as_anything(&damaged(good_pool().encode_to_vec(), &damage), &mut state);
            read_as_anything(&damaged(good_space().encode_to_vec(), &damage), &mut state);
        }
    }

    #[test]
    fn a_text_is_a_range_in_order_or_none(near in near_miss()) {
        text(&near);
    }

    #[test]
    fn a_page_token_is_read_as_written_or_refused(
        text in any::<String>(),
        key in vec("[a-z]{0,9}", 3),
        damage in vec(some_damage(), 1..4),
    ) {
        let filter = "filter";
        let _any = PageToken::read(&text, &filter, 3);
        let token = PageToken { key, revision: 7 };
        let written = token.write(&filter);
        prop_assert_eq!(PageToken::read(&written, &filter, 3).expect("its own"), Some(token));
        let spoiled = damaged(written.clone().into_bytes(), &damage);
        let spoiled = String::from_utf8_lossy(&spoiled).into_owned();
        if let Err(status) = PageToken::read(&spoiled, &filter, 3) {
            prop_assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
        prop_assert!(PageToken::read(&written, &"other", 3).is_err());
    }
}
