//! Whether a process can do its job, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Reasons why a process is not ready, by the part that gave them. Ready means: none.
///
/// Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<&'static str, String>>>,
    notes: Arc<Mutex<BTreeMap<&'static str, String>>>,
    /// Told when one of them comes or goes.
    changes: Arc<watch::Sender<()>>,
}

impl Readiness {
    /// `part` cannot do its job, because of `reason` (one line).
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        self.lock().insert(part, reason.into());
        self.changes.send_replace(());
    }

    /// `part` can do its job.
    pub fn ready(&self, part: &'static str) {
        self.lock().remove(part);
        self.changes.send_replace(());
    }

    /// Sees every change from now on (and none that was overtaken by the next).
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// One line with every reason; `None` when ready.
    pub fn reason(&self) -> Option<String> {
        let reasons = self.lock();
        if reasons.is_empty() {
            return None;
        }
        let parts: Vec<String> = reasons
            .iter()
            .map(|(part, reason)| format!("{part}: {reason}"))
            .collect();
        Some(parts.join("; "))
    }

    /// `part` does its job, but a person should know this (one line).
    pub fn note(&self, part: &'static str, note: impl Into<String>) {
        locked(&self.notes).insert(part, note.into());
    }

    /// There is nothing to know of `part` any more.
    pub fn clear_note(&self, part: &'static str) {
        locked(&self.notes).remove(part);
    }

    /// What persons should know, one line each.
    pub fn notes(&self) -> Vec<String> {
        let notes = locked(&self.notes);
        let lines = notes.iter().map(|(part, note)| format!("{part}: {note}"));
        lines.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        locked(&self.reasons)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_watches_sees_that_it_changed() {
        let readiness = Readiness::default();
        let mut changes = readiness.changes();
        readiness.not_ready("store", "disk full");
        changes.changed().await.expect("told");
        readiness.ready("store");
        changes.changed().await.expect("told");
        assert_eq!(readiness.reason(), None);
    }

    #[test]
    fn it_is_ready_when_no_part_has_a_reason() {
        let readiness = Readiness::default();
        readiness.not_ready("store", "disk full");
        readiness.not_ready("stream", "connecting");
        assert_eq!(
            readiness.reason().as_deref(),
            Some("store: disk full; stream: connecting")
        );
        readiness.ready("store");
        readiness.ready("stream");
        assert_eq!(readiness.reason(), None);
        readiness.note("history", "the clock is wrong");
        assert_eq!(readiness.reason(), None);
        assert_eq!(readiness.notes(), ["history: the clock is wrong"]);
        readiness.clear_note("history");
        assert!(readiness.notes().is_empty());
    }
}
