//! Whose turn it is: requests that wait, by who asks, taken round robin.
//!
//! A batch has room for so many requests. Taken in order of arrival, one client that sends without
//! end would fill batch after batch and everybody else would stand behind all of it. Taken in turns,
//! who asks for little waits for one batch, whatever others send.
//!
//! Who asks: the cluster that a command is about; for commands of the operator, who belong to no
//! cluster, the actor. As long as nobody proves an identity a cluster's name is what a client says
//! it is; that is no protection from malice, only from a busy neighbour. Reads have a place of
//! their own.

use std::collections::{BTreeMap, VecDeque};

use super::Request;
use crate::state::command::Command;
use crate::state::model::PoolKey;
use crate::state::names::Name;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    Cluster(Name),
    Operator { actor: String },
    Reader,
}

impl Asker {
    pub(super) fn of(request: &Request) -> Self {
        let Request::Command(request) = request else {
            return Self::Reader;
        };
        match cluster_of(&request.command) {
            Some(cluster) => Self::Cluster(cluster.clone()),
            None => Self::Operator {
                actor: request.meta.actor.clone(),
            },
        }
    }
}

/// The cluster that a command is about; `None`: it is the operator's.
fn cluster_of(command: &Command) -> Option<&Name> {
    match command {
        Command::Allocate(allocate) => Some(&allocate.owner.key.cluster),
        Command::Release(release) => Some(&release.owner.key.cluster),
        Command::Redecide(owner) => Some(&owner.cluster),
        Command::ApplyPool { pool, .. } => cluster_of_pool(&pool.key),
        Command::DeletePool { key, .. } => cluster_of_pool(key),
        Command::ApplyAdvertisement(advertisement) => advertisement.key.cluster.as_ref(),
        Command::DeleteAdvertisement(key) => key.cluster.as_ref(),
        Command::Bgp(command) => command.cluster(),
        Command::SyncPools { cluster, .. }
        | Command::SyncAdvertisements { cluster, .. }
        | Command::Introduce { cluster, .. }
        | Command::BeginSync { cluster, .. }
        | Command::EndSync { cluster, .. }
        | Command::DeleteCluster { cluster }
        | Command::Facts { cluster, .. } => Some(cluster),
        // About a cluster, but asked by the operator.
        Command::ApplyReservation(_)
        | Command::DeleteReservation(_)
        | Command::FinishRecovery { .. }
        | Command::AdoptCluster { .. }
        | Command::ApplyQuota(_)
        | Command::ApplyAddressSpace(_)
        | Command::DeleteAddressSpace { .. }
        | Command::DeleteQuota(_)
        | Command::EndUnavailable { .. }
        | Command::ClearUnavailable { .. } => None,
        Command::ReportConflict { cluster, .. } | Command::ReportLoss { cluster } => Some(cluster),
    }
}

fn cluster_of_pool(key: &PoolKey) -> Option<&Name> {
    key.cluster.as_ref()
}

/// What waits, by who asks; each asker's own in order of arrival.
#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting: BTreeMap<Asker, VecDeque<T>>,
    /// Whoever has something waiting, once; the first is next.
    turns: VecDeque<Asker>,
    len: usize,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, asker: Asker, item: T) {
        self.len += 1;
        if let Some(queue) = self.waiting.get_mut(&asker) {
            queue.push_back(item);
            return;
        }
        self.turns.push_back(asker.clone());
        self.waiting.insert(asker, VecDeque::from([item]));
    }

    /// At most so many, one of each asker in turn.
    pub(super) fn take(&mut self, most: usize) -> Vec<T> {
        let mut taken = Vec::with_capacity(most.min(self.len));
        while taken.len() < most
            && let Some(asker) = self.turns.pop_front()
        {
            let Some(queue) = self.waiting.get_mut(&asker) else {
                continue;
            };
            taken.extend(queue.pop_front());
            if queue.is_empty() {
                self.waiting.remove(&asker);
            } else {
                self.turns.push_back(asker);
            }
        }
        self.len -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Asker {
        Asker::Cluster(Name::parse(text).expect(text))
    }

    #[test]
    fn a_flood_of_one_asker_stands_behind_nobody_elses_single_request() {
        let mut turns = Turns::new();
        for number in 0..1000 {
            turns.push(cluster("east"), ("east", number));
        }
        turns.push(cluster("west"), ("west", 0));
        turns.push(Asker::Reader, ("reader", 0));
        turns.push(cluster("west"), ("west", 1));
        let first = turns.take(6);
        assert_eq!(
            first,
            [
                ("east", 0),
                ("west", 0),
                ("reader", 0),
                ("east", 1),
                ("west", 1),
                ("east", 2)
            ]
        );
        assert_eq!(turns.len(), 997);
        // Alone, it gets all there is room for, in order of arrival.
        let rest = turns.take(2000);
        let expected: Vec<_> = (3..1000).map(|number| ("east", number)).collect();
        assert_eq!(rest, expected);
        assert!(turns.is_empty());
    }

    #[test]
    fn whose_turn_it_is_goes_on_from_batch_to_batch() {
        let mut turns = Turns::new();
        for number in 0..3 {
            for name in ["a", "b", "c"] {
                turns.push(cluster(name), (name, number));
            }
        }
        assert_eq!(turns.take(2), [("a", 0), ("b", 0)]);
        assert_eq!(turns.take(2), [("c", 0), ("a", 1)]);
        // Who comes back after having had nothing to ask goes last.
        turns.push(cluster("d"), ("d", 0));
        assert_eq!(turns.take(3), [("b", 1), ("c", 1), ("a", 2)]);
        assert_eq!(turns.take(9), [("d", 0), ("b", 2), ("c", 2)]);
        assert!(turns.take(9).is_empty());
    }
}
