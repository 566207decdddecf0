//! Which fenced addresses may be answered now: those of the term that this node's lease is for, until
//! that is over. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use pharos_lease::{Moment, Term};

/// The lease of this node, and what is answered by it alone.
#[derive(Debug, Default)]
pub struct Fences {
    /// The terms under which addresses are owned.
    terms: HashMap<IpAddr, Term>,
    /// With the time at which it is over.
    lease: Option<(Term, Moment)>,
    now: Moment,
}

impl Fences {
    /// Whether any address is fenced: then [`Self::tell_time`] comes before each frame.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// By the clock of the lease.
    pub fn tell_time(&mut self, now: Moment) {
        self.now = now;
    }

    /// The lease, and until when it is good.
    pub fn set_lease(&mut self, lease: Option<(Term, Moment)>) {
        self.lease = lease;
    }

    /// The address is answered only under this term; `None`: it is not fenced.
    pub fn set(&mut self, address: IpAddr, term: Option<Term>) {
        match term {
            Some(term) => self.terms.insert(address, term),
            None => self.terms.remove(&address),
        };
    }

    /// Whether the address may be answered, as far as leases go.
    pub fn permits(&self, address: IpAddr) -> bool {
        let Some(wanted) = self.terms.get(&address) else {
            return true;
        };
        let lease = self.lease.as_ref();
        lease.is_some_and(|(term, until)| term == wanted && self.now < *until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fenced_address_is_answered_only_under_its_term_and_until_that_is_over() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let free = IpAddr::from([192, 0, 2, 2]);
        let until = Duration::from_secs(3);
        let mut fences = Fences::default();
        assert!(fences.permits(address) && fences.is_empty());
        fences.set(address, Some(Term(1)));
        assert!(!fences.permits(address) && fences.permits(free));
        fences.set_lease(Some((Term(2), until)));
        assert!(!fences.permits(address), "another term");
        fences.set_lease(Some((Term(1), until)));
        assert!(fences.permits(address));
        fences.tell_time(until - Duration::from_nanos(1));
        assert!(fences.permits(address));
        fences.tell_time(until);
        assert!(!fences.permits(address) && fences.permits(free));
        fences.set(address, None);
        assert!(fences.permits(address));
    }
}
