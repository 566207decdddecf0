//! What a watcher saw, over all its connections (I7).

use std::collections::BTreeMap;

use pharos_proto::v1;
use pharos_proto::v1::watch_allocations_response::Type;

use crate::log::{Replay, allocation_change, difference};
use crate::{Invariant, Violation, owner_key};

/// One client that watches all allocations, and comes back when it loses its connection.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    pub connections: Vec<Connection>,
}

/// One stream.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// 0: begins with a snapshot.
    pub from_revision: u64,
    pub events: Vec<v1::WatchAllocationsResponse>,
}

/// What a watcher knows.
#[derive(Debug, Default)]
struct View {
    allocations: BTreeMap<String, v1::Allocation>,
    revision: u64,
    synced: bool,
}

pub(crate) fn check(watches: &[Watch], log: &[v1::Change]) -> Vec<Violation> {
    let by_revision: BTreeMap<u64, &v1::Change> = log
        .iter()
        .filter(|change| allocation_change(change).is_some())
        .map(|change| (change.revision, change))
        .collect();
    let mut violations = Vec::new();
    for (number, watch) in watches.iter().enumerate() {
        if let Err(what) = follow(watch, log, &by_revision) {
            let what = format!("watcher {number}: {what}");
            violations.push(Invariant::Revisions.broken(what));
        }
    }
    violations
}

fn follow(
    watch: &Watch,
    log: &[v1::Change],
    by_revision: &BTreeMap<u64, &v1::Change>,
) -> Result<(), String> {
    let mut view = View::default();
    for connection in &watch.connections {
        if connection.from_revision == 0 {
            view = View::default();
        } else if connection.from_revision != view.revision || !view.synced {
            return Err(format!("resumes from {}", connection.from_revision));
        }
        for event in &connection.events {
            view.see(event, log, by_revision)?;
        }
    }
    Ok(())
}

impl View {
    fn see(
        &mut self,
        event: &v1::WatchAllocationsResponse,
        log: &[v1::Change],
        by_revision: &BTreeMap<u64, &v1::Change>,
    ) -> Result<(), String> {
        let revision = event.revision;
        match event.r#type() {
            Type::Allocation | Type::Released if self.synced => {
                self.skip_to(revision.saturating_sub(1), by_revision)?;
                let change = by_revision.get(&revision);
                let edit = change.and_then(|change| allocation_change(change));
                let released = event.r#type() == Type::Released;
                let logged = edit.and_then(|edit| match released {
                    true => edit.before.as_ref().filter(|_| edit.after.is_none()),
                    false => edit.after.as_ref(),
                });
                if revision <= self.revision || logged != event.allocation.as_ref() {
                    return Err(format!("revision {revision} is not what the log has"));
                }
                self.enter(event);
                self.revision = revision;
                Ok(())
            }
            // Of the snapshot: rows, and what changed since they were read.
            Type::Allocation | Type::Released => {
                self.enter(event);
                Ok(())
            }
            Type::Synced => {
                self.synced = true;
                self.revision = revision;
                self.compare(log)
            }
            Type::Bookmark if self.synced => {
                self.skip_to(revision, by_revision)?;
                self.revision = self.revision.max(revision);
                self.compare(log)
            }
            Type::Bookmark => Ok(()),
            Type::Unspecified => Err("an event without a type".to_owned()),
        }
    }

    /// Between what was seen and this revision no allocation may have changed.
    fn skip_to(
        &self,
        revision: u64,
        by_revision: &BTreeMap<u64, &v1::Change>,
    ) -> Result<(), String> {
        if revision <= self.revision {
            return Ok(());
        }
        match by_revision.range(self.revision + 1..=revision).next() {
            Some((missed, _)) => Err(format!("never saw revision {missed}")),
            None => Ok(()),
        }
    }

    fn enter(&mut self, event: &v1::WatchAllocationsResponse) {
        let Some(allocation) = &event.allocation else {
            return;
        };
        let key = owner_key(allocation.owner.as_ref());
        if event.r#type() == Type::Released {
            self.allocations.remove(&key);
        } else {
            self.allocations.insert(key, allocation.clone());
        }
    }

    fn compare(&self, log: &[v1::Change]) -> Result<(), String> {
        let mut replay = Replay::new(log);
        let expected = replay.advance(self.revision);
        let seen: Vec<v1::Allocation> = self.allocations.values().cloned().collect();
        match difference(expected, &seen) {
            Some(what) => Err(format!("at revision {}: {what}", self.revision)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, allocation, broken};

    fn event(kind: Type, revision: u64, of: Option<&v1::Allocation>) -> Event {
        Event {
            r#type: kind.into(),
            allocation: of.cloned(),
            revision,
            ..Event::default()
        }
    }

    type Event = v1::WatchAllocationsResponse;

    /// A log, and a watcher that saw it all over two connections.
    fn good() -> (Vec<v1::Change>, Watch) {
        let mut log = Log::default();
        let a = log.create(allocation("east/a", &["192.0.2.1"]));
        let b = log.create(allocation("east/b", &["192.0.2.2"]));
        let c = log.create(allocation("east/c", &["192.0.2.3"]));
        log.delete("east/a");
        let d = log.create(allocation("east/d", &["192.0.2.1"]));
        let first = Connection {
            from_revision: 0,
            events: vec![
                event(Type::Allocation, 2, Some(&a)),
                event(Type::Allocation, 2, Some(&b)),
                event(Type::Synced, 2, None),
                event(Type::Allocation, 3, Some(&c)),
            ],
        };
        let second = Connection {
            from_revision: 3,
            events: vec![
                event(Type::Released, 4, Some(&a)),
                event(Type::Bookmark, 4, None),
                event(Type::Allocation, 5, Some(&d)),
                event(Type::Bookmark, 5, None),
            ],
        };
        let watch = Watch {
            connections: vec![first, second],
        };
        (log.changes, watch)
    }

    #[test]
    fn a_watcher_that_missed_nothing_is_right() {
        let (log, watch) = good();
        assert_eq!(check(&[watch], &log), []);
    }

    #[test]
    fn a_missed_a_repeated_and_a_wrong_event_are_found() {
        let spoil: [fn(&mut Watch); 5] = [
            |watch| drop(watch.connections[1].events.remove(0)),
            |watch| drop(watch.connections[0].events.remove(0)),
            |watch| {
                let again = watch.connections[0].events[3].clone();
                watch.connections[0].events.push(again);
            },
            |watch| {
                let allocation = watch.connections[1].events[2].allocation.as_mut();
                allocation.expect("an allocation").pool = "other".to_owned();
            },
            |watch| watch.connections[1].from_revision = 2,
        ];
        for spoil in spoil {
            let (log, mut watch) = good();
            spoil(&mut watch);
            assert_eq!(broken(&check(&[watch], &log)), [Invariant::Revisions]);
        }
    }
}
