//! Whether a process can do its job, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reasons why a process is not ready, by the part that gave them. Ready means: none.
///
/// Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// `part` cannot do its job, because of `reason` (one line).
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        self.lock().insert(part, reason.into());
    }

    /// `part` can do its job.
    pub fn ready(&self, part: &'static str) {
        self.lock().remove(part);
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
