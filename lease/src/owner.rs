//! Who owns a fenced address next.

use crate::Term;

/// Who may answer for an address: this node, as long as it has this term.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner<N> {
    pub node: N,
    pub term: Term,
}

/// What is known of the term under which an address is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnersTerm {
    /// The node may answer.
    Running,
    /// It may answer for others, but has said that it stopped answering for this address.
    Released,
    /// It is surely over.
    Over,
}

/// What is to become of the ownership of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next<N> {
    /// It stays as it is, and so does who is asked to make room.
    Stay,
    /// The owner is asked to stop in favour of this node.
    Move(N),
    /// From now on this node is the owner.
    Name(Owner<N>),
}

/// The rule. `wanted`: the node that should own the address, with its running term; `None`: there is
/// none now. `quiet`: whether somebody may answer for the address of whom this service knows nothing,
/// because it has begun only just now: then nobody is named.
pub fn next<N: PartialEq>(
    owner: Option<(&Owner<N>, OwnersTerm)>,
    wanted: Option<Owner<N>>,
    quiet: bool,
) -> Next<N> {
    let Some(wanted) = wanted else {
        return Next::Stay;
    };
    match owner {
        None | Some((_, OwnersTerm::Over | OwnersTerm::Released)) if quiet => Next::Stay,
        None | Some((_, OwnersTerm::Over | OwnersTerm::Released)) => Next::Name(wanted),
        Some((owner, OwnersTerm::Running)) if owner.node == wanted.node => Next::Stay,
        Some((_, OwnersTerm::Running)) => Next::Move(wanted.node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(node: &'static str, term: u64) -> Owner<&'static str> {
        Owner {
            node,
            term: Term(term),
        }
    }

    #[test]
    fn another_is_named_only_once_the_owner_has_stopped() {
        let a = owner("a", 1);
        let b = || Some(owner("b", 2));
        let cases = [
            (None, None, false, Next::Stay),
            (None, b(), false, Next::Name(owner("b", 2))),
            (None, b(), true, Next::Stay),
            (Some(OwnersTerm::Running), None, false, Next::Stay),
            (Some(OwnersTerm::Over), None, false, Next::Stay),
            (Some(OwnersTerm::Running), b(), false, Next::Move("b")),
            (
                Some(OwnersTerm::Released),
                b(),
                false,
                Next::Name(owner("b", 2)),
            ),
            (
                Some(OwnersTerm::Over),
                b(),
                false,
                Next::Name(owner("b", 2)),
            ),
            (Some(OwnersTerm::Over), b(), true, Next::Stay),
            (Some(OwnersTerm::Released), b(), true, Next::Stay),
            (Some(OwnersTerm::Running), b(), true, Next::Move("b")),
            (
                Some(OwnersTerm::Running),
                Some(owner("a", 1)),
                false,
                Next::Stay,
            ),
            // It came back under another term: it does not answer until it is named again.
            (
                Some(OwnersTerm::Over),
                Some(owner("a", 3)),
                false,
                Next::Name(owner("a", 3)),
            ),
        ];
        for (term, wanted, quiet, expected) in cases {
            let case = format!("{term:?} {wanted:?} {quiet}");
            let got = next(term.map(|term| (&a, term)), wanted, quiet);
            assert_eq!(got, expected, "{case}");
        }
    }
}
