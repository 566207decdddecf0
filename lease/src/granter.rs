//! The side that grants: ipam-service.

use std::collections::{BTreeMap, BTreeSet};

use crate::{GRACE, LENGTH, Moment, Term};

/// The terms that run, as the service knows them.
#[derive(Debug)]
pub struct Granter<N> {
    /// When each is surely over.
    terms: BTreeMap<(N, Term), Moment>,
    by_end: BTreeSet<(Moment, N, Term)>,
    quiet_until: Moment,
    news: Vec<News<N>>,
}

/// What became of a term. In the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<N> {
    Began(N, Term),
    /// It is surely over, and is never renewed.
    Over(N, Term),
}

/// The term is over, or not of this service: the node has to ask for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the term is over")]
pub struct Over;

impl<N: Ord + Clone> Granter<N> {
    /// Begins at `now`, knowing that these terms may run: those under which something is owned.
    pub fn new(now: Moment, in_use: impl IntoIterator<Item = (N, Term)>) -> Self {
        let mut granter = Self {
            terms: BTreeMap::new(),
            by_end: BTreeSet::new(),
            quiet_until: now + LENGTH + GRACE,
            news: Vec::new(),
        };
        for (node, term) in in_use {
            granter.run(node, term, now);
        }
        granter
    }

    /// A node gets a lease under this term, which was never used before. Other processes of its name
    /// keep theirs: what each owns is said by term.
    pub fn begin(&mut self, node: &N, term: Term, now: Moment) {
        self.pass(now);
        self.run(node.clone(), term, now);
        self.news.push(News::Began(node.clone(), term));
    }

    /// A node renews its lease.
    pub fn renew(&mut self, node: &N, term: Term, now: Moment) -> Result<(), Over> {
        self.pass(now);
        if !self.is_running(node, term) {
            return Err(Over);
        }
        self.run(node.clone(), term, now);
        Ok(())
    }

    /// A node gives its lease back: it does not answer any more.
    pub fn end(&mut self, node: &N, term: Term) {
        if let Some(until) = self.terms.remove(&(node.clone(), term)) {
            self.by_end.remove(&(until, node.clone(), term));
            self.news.push(News::Over(node.clone(), term));
        }
    }

    /// Time passed.
    pub fn pass(&mut self, now: Moment) {
        while let Some((until, node, term)) = self.by_end.first().cloned() {
            if until > now {
                return;
            }
            self.end(&node, term);
        }
    }

    /// When [`Self::pass`] has something to do.
    pub fn next_end(&self) -> Option<Moment> {
        self.by_end.first().map(|(until, ..)| *until)
    }

    /// Until when terms may run that are not known here: granted before this service began, to
    /// nodes that own nothing, or by a service whose store was lost.
    pub fn quiet_until(&self) -> Moment {
        self.quiet_until
    }

    /// Whether the node may answer under this term, as far as is known here.
    pub fn is_running(&self, node: &N, term: Term) -> bool {
        self.terms.contains_key(&(node.clone(), term))
    }

    /// What happened since the last call.
    pub fn take_news(&mut self) -> Vec<News<N>> {
        std::mem::take(&mut self.news)
    }

    fn run(&mut self, node: N, term: Term, now: Moment) {
        let key = (node.clone(), term);
        let before = self.terms.get(&key).copied();
        // A question that was overtaken shortens nothing.
        let until = (now + LENGTH + GRACE).max(before.unwrap_or_default());
        self.terms.insert(key, until);
        if let Some(before) = before {
            self.by_end.remove(&(before, node.clone(), term));
        }
        self.by_end.insert((until, node, term));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FULL: Duration = LENGTH.saturating_add(GRACE);

    fn at(milliseconds: u64) -> Moment {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_term_runs_from_when_the_service_heard_of_it_last() {
        let mut granter = Granter::new(at(0), []);
        granter.begin(&"a", Term(1), at(100));
        assert_eq!(granter.next_end(), Some(at(100) + FULL));
        assert_eq!(granter.renew(&"a", Term(1), at(1000)), Ok(()));
        assert_eq!(granter.next_end(), Some(at(1000) + FULL));
        assert_eq!(granter.renew(&"a", Term(1), at(900)), Ok(()), "overtaken");
        granter.pass(at(999) + FULL);
        assert!(granter.is_running(&"a", Term(1)));
        granter.pass(at(1000) + FULL);
        let news = [News::Began("a", Term(1)), News::Over("a", Term(1))];
        assert_eq!(granter.take_news(), news);
        assert_eq!(granter.next_end(), None);
    }

    #[test]
    fn a_term_that_is_over_is_never_renewed_even_if_nobody_looked() {
        let mut granter = Granter::new(at(0), []);
        granter.begin(&"a", Term(1), at(0));
        assert_eq!(granter.renew(&"a", Term(1), FULL), Err(Over));
        granter.begin(&"a", Term(2), FULL);
        assert_eq!(granter.renew(&"a", Term(1), FULL), Err(Over));
        assert_eq!(granter.renew(&"a", Term(2), FULL), Ok(()));
    }

    #[test]
    fn processes_of_one_name_have_terms_of_their_own() {
        let mut granter = Granter::new(at(0), []);
        granter.begin(&"a", Term(1), at(0));
        granter.begin(&"a", Term(2), at(1000));
        granter.end(&"a", Term(2));
        assert!(granter.is_running(&"a", Term(1)) && !granter.is_running(&"a", Term(2)));
        granter.end(&"a", Term(2));
        let news = [
            News::Began("a", Term(1)),
            News::Began("a", Term(2)),
            News::Over("a", Term(2)),
        ];
        assert_eq!(granter.take_news(), news);
        assert_eq!(granter.next_end(), Some(FULL));
    }

    #[test]
    fn a_new_service_lets_the_owners_go_on_and_waits_for_those_that_do_not() {
        let in_use = [("a", Term(1)), ("b", Term(2)), ("b", Term(3))];
        let mut granter = Granter::new(at(5000), in_use);
        assert_eq!(granter.quiet_until(), at(5000) + FULL);
        assert_eq!(granter.renew(&"a", Term(1), at(6000)), Ok(()));
        assert_eq!(granter.renew(&"c", Term(9), at(6000)), Err(Over));
        assert_eq!(granter.take_news(), []);
        granter.pass(at(5000) + FULL);
        let over = [News::Over("b", Term(2)), News::Over("b", Term(3))];
        assert_eq!(granter.take_news(), over);
        assert!(granter.is_running(&"a", Term(1)));
    }
}
