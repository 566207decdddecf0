//! Which announcers are connected, and which position of the stream each has applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::state::model::NodeKey;

/// The open streams.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// By node, and by a number, because for a moment a node may have two.
    positions: BTreeMap<(NodeKey, u64), Option<u64>>,
}

/// An open stream, and how far its node has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub node: NodeKey,
    /// `None`: it has not told yet.
    pub position: Option<u64>,
}

/// A stream's place among the open ones, which it leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    key: (NodeKey, u64),
}

impl Connections {
    /// All open streams, by node.
    pub fn list(&self) -> Vec<Applied> {
        let open = self.lock();
        let positions = open.positions.iter();
        positions
            .map(|((node, _), position)| Applied {
                node: node.clone(),
                position: *position,
            })
            .collect()
    }

    pub(super) fn enter(connections: &Arc<Self>, node: NodeKey) -> Place {
        let mut open = connections.lock();
        open.last += 1;
        let key = (node, open.last);
        open.positions.insert(key.clone(), None);
        Place {
            connections: Arc::clone(connections),
            key,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn node(&self) -> &NodeKey {
        &self.key.0
    }

    /// The node has applied the stream up to here. Positions only grow.
    pub(super) fn applied(&self, position: u64) {
        let mut open = self.connections.lock();
        if let Some(known) = open.positions.get_mut(&self.key) {
            *known = Some(known.map_or(position, |known| known.max(position)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().positions.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::names::Name;

    #[test]
    fn a_stream_is_listed_with_its_greatest_position_until_it_ends() {
        let connections = Arc::new(Connections::default());
        let node = NodeKey {
            cluster: Name::parse("east").expect("valid"),
            node: Name::parse("a").expect("valid"),
        };
        let old = Connections::enter(&connections, node.clone());
        let new = Connections::enter(&connections, node);
        old.applied(7);
        old.applied(5);
        let positions = |connections: &Connections| -> Vec<_> {
            let listed = connections.list().into_iter();
            listed.map(|applied| applied.position).collect()
        };
        assert_eq!(positions(&connections), [Some(7), None]);
        drop(old);
        assert_eq!(positions(&connections), [None]);
        drop(new);
        assert!(connections.list().is_empty());
    }
}
