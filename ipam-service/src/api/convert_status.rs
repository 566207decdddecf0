//! What announcers tell for people, from the wire: taken as it is, but for the length of its texts.
//!
//! Only length is looked at, unlike in what is stored: a report that is refused costs the node its stream,
//! and so its assignments, which no odd name is worth.

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::{Conflict, Status};

use super::fields::{FieldErrors, MAX_DESCRIPTION_BYTES};
use crate::state::names::MAX_NAME_BYTES;
use crate::state::refusal::Rejection;

/// Longest hardware address in bytes of text. InfiniBand's, the longest that Linux has
/// (`MAX_ADDR_LEN`, 32 bytes at most), takes 95.
const MAX_MAC_BYTES: usize = 95;

/// Longest text of an address in bytes (`INET6_ADDRSTRLEN`, less the NUL).
const MAX_ADDRESS_BYTES: usize = 45;

/// Whether the texts of a status are short enough to be kept.
pub fn check_status(wire: &Status) -> Result<(), Rejection> {
    let mut errors = FieldErrors::new();
    if let Some(node) = &wire.node {
        each(
            &mut errors,
            "status.node.interfaces",
            &node.interfaces,
            MAX_NAME_BYTES,
        );
        each(
            &mut errors,
            "status.node.deaf",
            &node.deaf,
            MAX_DESCRIPTION_BYTES,
        );
        for (index, session) in node.bgp_sessions.iter().enumerate() {
            let at = |name: &str| format!("status.node.bgp_sessions[{index}].{name}");
            at_most(&mut errors, &at("peer"), &session.peer, MAX_NAME_BYTES);
            at_most(
                &mut errors,
                &at("detail"),
                &session.detail,
                MAX_DESCRIPTION_BYTES,
            );
        }
    }
    for (index, owned) in wire.owned.iter().enumerate() {
        let at = |name: &str| format!("status.owned[{index}].{name}");
        // Nothing is spelt out for the many that are good.
        if !is_short(owned) {
            at_most(&mut errors, &at("from"), &owned.from, MAX_NAME_BYTES);
            each(
                &mut errors,
                &at("interfaces"),
                &owned.interfaces,
                MAX_NAME_BYTES,
            );
            for (name, addresses) in addresses(owned) {
                each(&mut errors, &at(name), addresses, MAX_ADDRESS_BYTES);
            }
        }
    }
    errors.finish(Some(()))
}

/// Adds what is too long of a conflict.
pub fn check_conflict(errors: &mut FieldErrors, wire: &Conflict) {
    at_most(errors, "conflict.mac", &wire.mac, MAX_MAC_BYTES);
    at_most(errors, "conflict.own_mac", &wire.own_mac, MAX_MAC_BYTES);
    at_most(
        errors,
        "conflict.interface",
        &wire.interface,
        MAX_NAME_BYTES,
    );
    at_most(errors, "conflict.member", &wire.member, MAX_NAME_BYTES);
}

fn is_short(owned: &v1::Ownership) -> bool {
    let mut names = owned.interfaces.iter().chain([&owned.from]);
    let mut addresses = addresses(owned).flat_map(|(_, addresses)| addresses);
    names.all(|name| name.len() <= MAX_NAME_BYTES)
        && addresses.all(|address| address.len() <= MAX_ADDRESS_BYTES)
}

/// The addresses that are told of a group, by the name of their field.
fn addresses(owned: &v1::Ownership) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
    let answers = owned.answers.iter().flat_map(|it| {
        [
            ("answers.addresses", &it.addresses),
            ("answers.nowhere", &it.nowhere),
        ]
    });
    let told = [("probing", &owned.probing), ("answered", &owned.answered)];
    told.into_iter().chain(answers)
}

fn each(errors: &mut FieldErrors, field: &str, texts: &[String], max_bytes: usize) {
    for (index, text) in texts.iter().enumerate() {
        if text.len() > max_bytes {
            at_most(errors, &format!("{field}[{index}]"), text, max_bytes);
        }
    }
}

fn at_most(errors: &mut FieldErrors, field: &str, text: &str, max_bytes: usize) {
    if text.len() > max_bytes {
        let message = format!(
            "is {} bytes long; at most {max_bytes} are allowed",
            text.len()
        );
        errors.add(field, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(refused: Result<(), Rejection>) -> Vec<String> {
        match refused {
            Err(Rejection::Invalid(invalid)) => invalid.into_iter().map(|bad| bad.field).collect(),
            other => panic!("refused by its fields, not {other:?}"),
        }
    }

    fn status(name_bytes: usize, line_bytes: usize, address_bytes: usize) -> Status {
        let name = "n".repeat(name_bytes);
        let node = v1::NodeStatus {
            interfaces: vec!["eth0".to_owned(), name.clone()],
            deaf: vec!["l".repeat(line_bytes)],
            bgp_sessions: vec![v1::BgpSession {
                peer: name.clone(),
                detail: "d".repeat(line_bytes),
                ..v1::BgpSession::default()
            }],
            ..v1::NodeStatus::default()
        };
        let addresses = || vec!["a".repeat(address_bytes)];
        let owned = v1::Ownership {
            from: name.clone(),
            interfaces: vec![name],
            probing: addresses(),
            answered: addresses(),
            answers: Some(v1::ownership::Answers {
                addresses: addresses(),
                nowhere: addresses(),
            }),
            ..v1::Ownership::default()
        };
        Status {
            node: Some(node),
            owned: vec![v1::Ownership::default(), owned],
            ..Status::default()
        }
    }

    #[test]
    fn each_text_of_a_status_has_a_limit() {
        assert_eq!(check_status(&status(253, 1024, 45)), Ok(()));
        let expected = [
            "status.node.interfaces[1]",
            "status.node.deaf[0]",
            "status.node.bgp_sessions[0].peer",
            "status.node.bgp_sessions[0].detail",
            "status.owned[1].from",
            "status.owned[1].interfaces[0]",
            "status.owned[1].probing[0]",
            "status.owned[1].answered[0]",
            "status.owned[1].answers.addresses[0]",
            "status.owned[1].answers.nowhere[0]",
        ];
        assert_eq!(fields(check_status(&status(254, 1025, 46))), expected);
        let addresses = fields(check_status(&status(253, 1024, 46)));
        assert_eq!(addresses, expected[6..]);
    }

    #[test]
    fn each_text_of_a_conflict_has_a_limit() {
        let check = |longer: usize| {
            let mut errors = FieldErrors::new();
            let conflict = Conflict {
                mac: "m".repeat(MAX_MAC_BYTES + longer),
                own_mac: "m".repeat(MAX_MAC_BYTES + longer),
                interface: "i".repeat(MAX_NAME_BYTES + longer),
                member: "n".repeat(MAX_NAME_BYTES + longer),
                ..Conflict::default()
            };
            check_conflict(&mut errors, &conflict);
            errors.finish(Some(()))
        };
        assert_eq!(check(0), Ok(()));
        let expected = ["mac", "own_mac", "interface", "member"];
        assert_eq!(
            fields(check(1)),
            expected.map(|name| format!("conflict.{name}"))
        );
    }
}
