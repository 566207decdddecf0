//! What came of it: who answered what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::node::name;
use super::world::World;

/// A question that is asked when a stranger leaves may wait for the end of the probes.
const LEAVING: Duration = Duration::from_millis(10);

impl World {
    /// Who answers for each address.
    pub(super) fn owners(&self) -> BTreeMap<Ipv4Addr, Vec<usize>> {
        // The last ones may still be under way.
        let end = self.now - Duration::from_millis(20);
        let mut owners = BTreeMap::new();
        for (number, (at, address)) in self.questions.iter().rev() {
            if *at < end && owners.len() < self.lists[self.lists.len() - 1].len() {
                let by = self.answers.get(number).cloned().unwrap_or_default();
                owners.entry(*address).or_insert(by);
            }
        }
        owners
    }

    /// Whom each running node believes to live, with itself.
    pub(super) fn alive(&self) -> Vec<BTreeSet<usize>> {
        let nodes = self.hosts.iter().enumerate();
        let running = nodes.filter_map(|(index, host)| Some((index, host.node.as_ref()?)));
        let alive = running.map(|(index, node)| {
            let roster = node.talk.ownership.roster();
            let lives = |other: &usize| *other == index || roster.lives(&name(*other));
            (0..self.hosts.len()).filter(lives).collect()
        });
        alive.collect()
    }

    /// Requests since number `from` that were not answered exactly once; the first few.
    pub(super) fn not_answered_once(&self, from: u32) -> Vec<String> {
        // The last ones may still be under way or held.
        let end = self.now - Duration::from_millis(20);
        let asked = self.questions.range(from..);
        let first = self.first_answers();
        asked
            .filter(|(_, (at, _))| *at < end)
            .filter_map(|(number, (at, address))| {
                let by = self.answers.get(number).cloned().unwrap_or_default();
                let since = (*at - self.start).as_micros();
                let has_settled = self.settled_at() > 0 && *number >= self.settled_at();
                let answered = first.get(address).is_none_or(|first| number >= first);
                let expected = usize::from(has_settled || answered);
                (by.len() != expected).then(|| format!("{since}: {address} answered by {by:?}"))
            })
            .take(5)
            .collect()
    }

    /// Of each address that came later: from which question on it is answered.
    fn first_answers(&self) -> BTreeMap<Ipv4Addr, u32> {
        let mut first: BTreeMap<Ipv4Addr, u32> =
            self.newcomers.keys().map(|it| (*it, u32::MAX)).collect();
        for number in self.answers.keys() {
            let address = self.questions.get(number).map(|(_, address)| address);
            if let Some(known) = address.and_then(|address| first.get_mut(address)) {
                *known = (*number).min(*known);
            }
        }
        first
    }

    /// Addresses that were answered while a stranger had them, or never.
    pub(super) fn not_left_to_strangers(&self) -> Vec<String> {
        let first = self.first_answers().into_iter();
        let wrong = first.filter_map(|(address, number)| {
            let asked: Option<Instant> = self.questions.get(&number).map(|(at, _)| *at);
            let until = self.newcomers.get(&address)?;
            match asked {
                None => Some(format!("{address} was never answered")),
                Some(asked) if asked + LEAVING < *until => {
                    let since = (asked - self.start).as_micros();
                    Some(format!("{since}: {address} answered beside a stranger"))
                }
                Some(_) => None,
            }
        });
        wrong.collect()
    }
}
