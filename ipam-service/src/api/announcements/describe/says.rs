//! What a node says of one address of a group that it owns. Pure.

use pharos_proto::net::{format_address, parse_address};
use pharos_proto::v1;

use crate::state::address::Address;

/// What the owner of an address says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    Answers,
    /// It asks whether another machine has it.
    Probes,
    /// It has no interface for it.
    Nowhere,
}

impl Says {
    /// `None`: the node does not own it, or knows nothing of it.
    pub(super) fn of(address: Address, ownership: &v1::Ownership) -> Option<Self> {
        let probes = || has(&ownership.probing, address);
        match &ownership.answers {
            Some(answers) if has(&answers.addresses, address) => Some(Self::Answers),
            Some(answers) if has(&answers.nowhere, address) => Some(Self::Nowhere),
            Some(_) => probes().then_some(Self::Probes),
            // An announcer of an earlier version tells of the group as a whole.
            None if probes() => Some(Self::Probes),
            None if ownership.interfaces.is_empty() => Some(Self::Nowhere),
            None => Some(Self::Answers),
        }
    }

    /// Of what the node says of the group, what concerns the address.
    pub(super) fn of_address(self, address: Address, group: &v1::Ownership) -> v1::Ownership {
        let answers = self == Self::Answers;
        let only = |is_it: bool| match is_it {
            true => vec![format_address(address.to_ip())],
            false => Vec::new(),
        };
        v1::Ownership {
            interfaces: match answers {
                true => group.interfaces.clone(),
                false => Vec::new(),
            },
            from: group.from.clone(),
            probing: only(self == Self::Probes),
            answered: only(has(&group.answered, address)),
            answers: group.answers.as_ref().map(|_| v1::ownership::Answers {
                addresses: only(answers),
                nowhere: only(self == Self::Nowhere),
            }),
            ..*group
        }
    }
}

fn has(texts: &[String], address: Address) -> bool {
    let mut texts = texts.iter();
    texts.any(|text| parse_address(text).is_ok_and(|one| Address::from(one) == address))
}
