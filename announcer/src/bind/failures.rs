//! What cannot be bound, and what of that was told. Pure.

use std::collections::BTreeSet;

/// Reasons, one line each. They are looked at anew in rounds.
#[derive(Debug, Default)]
pub struct Failures {
    /// Of this round.
    current: BTreeSet<String>,
    /// Told, and not known to be over.
    told: BTreeSet<String>,
}

impl Failures {
    /// A round begins: everything is tried again.
    pub fn begin(&mut self) {
        self.current.clear();
    }

    /// Something failed; says whether that is to be told.
    pub fn add(&mut self, reason: &str) -> bool {
        self.current.insert(reason.to_owned());
        self.told.insert(reason.to_owned())
    }

    /// A round ended: what did not fail again is over. Says whether that was the last.
    pub fn end(&mut self) -> bool {
        let failed = !self.told.is_empty();
        self.told.clone_from(&self.current);
        failed && self.told.is_empty()
    }

    /// One line for all; the same while the same fails. `None` when nothing does.
    pub fn summary(&self) -> Option<String> {
        let first = self.told.first()?;
        Some(match self.told.len() - 1 {
            0 => first.clone(),
            more => format!("{first}, and {more} more"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_failures_is_told_once_and_again_after_it_was_over() {
        let mut failures = Failures::default();
        assert!(failures.add("a") && failures.add("b"));
        let both = Some("a, and 1 more".to_owned());
        assert_eq!(failures.summary(), both);
        for _ in 0..3 {
            failures.begin();
            for reason in ["a", "b"] {
                assert!(!failures.add(reason), "told twice");
                assert_eq!(failures.summary(), both);
            }
            assert!(!failures.end());
            assert_eq!(failures.summary(), both);
        }
        failures.begin();
        failures.add("b");
        assert!(!failures.end());
        assert_eq!(failures.summary(), Some("b".to_owned()));
        failures.begin();
        assert!(failures.end(), "the last one is over");
        assert_eq!(failures.summary(), None);
        failures.begin();
        assert!(!failures.end(), "told once");
        assert!(failures.add("a"), "it failed again");
    }
}
