//! How much of a group a node could answer.

use super::Wanted;

/// Of which families the addresses of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    Ipv4,
    Ipv6,
    Both,
}

impl Families {
    /// Both together.
    pub fn union(self, other: Self) -> Self {
        if self == other { self } else { Self::Both }
    }
}

/// What a group asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand<'a> {
    /// Where.
    pub wanted: &'a Wanted,
    pub families: Families,
}

/// How much of it a node could answer. Both families of a group go to one node: the best is one that
/// answers both, and one that answers one of them is better than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fitness {
    Not,
    Partly,
    Wholly,
}

impl Fitness {
    /// Of one that can answer these families.
    pub(super) fn of(families: Families, ipv4: bool, ipv6: bool) -> Self {
        let (some, all) = match families {
            Families::Ipv4 => (ipv4, ipv4),
            Families::Ipv6 => (ipv6, ipv6),
            Families::Both => (ipv4 || ipv6, ipv4 && ipv6),
        };
        match (some, all) {
            (false, _) => Self::Not,
            (true, false) => Self::Partly,
            (true, true) => Self::Wholly,
        }
    }

    /// Whether it could answer anything.
    pub fn is_any(self) -> bool {
        self > Self::Not
    }
}
