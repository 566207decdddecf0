//! What is wrong with objects, and what their authors should know.

use std::fmt;

use super::limits::MAX_PARTS;
use super::objects::{ResourceKind, Subject};

/// Of what is taken all the same.
const REPEATED: &str = "is given twice, and counts once";

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object is wrong, and is not taken.
    Error,
    /// It is taken, and probably does not do what is meant.
    Warning,
}

/// Something about one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    pub object: Subject,
    /// Path in the object, for example `spec.addresses[0]`; empty: the whole of it.
    pub field: String,
    pub severity: Severity,
    pub message: String,
    /// The other objects that it takes: without one of them it would not be found.
    pub with: Vec<Subject>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects what is to be said of one object.
pub(super) struct Problems<'a> {
    object: Subject,
    findings: &'a mut Vec<Finding>,
    errors: usize,
}

impl<'a> Problems<'a> {
    pub(super) fn new(kind: ResourceKind, name: &str, findings: &'a mut Vec<Finding>) -> Self {
        Self {
            object: Subject::new(kind, name),
            findings,
            errors: 0,
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn none(&self) -> bool {
        self.errors == 0
    }

    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add_with(field, message, Vec::new());
    }

    /// For what is wrong only together with others.
    pub(super) fn add_with(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        with: Vec<Subject>,
    ) {
        self.errors += 1;
        self.push(Severity::Error, field.into(), message.into(), with);
    }

    pub(super) fn warn(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Warning, field.into(), message.into(), Vec::new());
    }

    fn push(&mut self, severity: Severity, field: String, message: String, with: Vec<Subject>) {
        self.findings.push(Finding {
            object: self.object.clone(),
            field,
            severity,
            message,
            with,
        });
    }

    /// A list that says the same thing twice is a mistake.
    pub(super) fn no_repetition<T: PartialEq>(&mut self, field: &str, list: &[T]) {
        let name = field.rsplit('.').next().unwrap_or(field);
        self.no_repetition_or(&format!("duplicate definition of {name}"), field, list);
    }

    /// Each item once, as many as there may be. To repeat one is harmless where this is used.
    pub(super) fn once<T: PartialEq + Clone>(&mut self, field: &str, list: &[T]) -> Vec<T> {
        let mut once: Vec<T> = Vec::with_capacity(list.len());
        for (index, item) in list.iter().take(MAX_PARTS).enumerate() {
            if once.contains(item) {
                self.warn(format!("{field}[{index}]"), REPEATED);
            } else {
                once.push(item.clone());
            }
        }
        once
    }

    /// The same in other words.
    pub(super) fn no_repetition_or<T: PartialEq>(&mut self, words: &str, field: &str, list: &[T]) {
        // One that is longer is refused, and each item is compared with all before it.
        let list = &list[..list.len().min(MAX_PARTS)];
        for (index, item) in list.iter().enumerate() {
            if list[..index].contains(item) {
                self.add(format!("{field}[{index}]"), words);
            }
        }
    }
}
