//! Reading the fields of a request: every error is collected with the path of its field, so that
//! a caller learns all that is wrong at once.

use std::collections::HashMap;
use std::fmt;

use pharos_proto::v1;

use crate::state::address::Address;
use crate::state::model::{Labels, Revision};
use crate::state::names::{Name, check_text};
use crate::state::refusal::{InvalidField, Rejection};
use crate::state::selector::{LabelSelector, Operator, Requirement};

/// Longest key of a label in bytes: a DNS subdomain, `/` and a name (Kubernetes' rule).
const MAX_LABEL_KEY_BYTES: usize = 253 + 1 + 63;

/// Longest value of a label in bytes. Kubernetes allows 63; others may want more.
const MAX_LABEL_VALUE_BYTES: usize = 253;

/// Longest sharing key, backend key and the like in bytes. A backend key is a digest or a
/// selector in text form, which can be longer than a name.
pub const MAX_KEY_BYTES: usize = 1024;

/// Longest description in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 1024;

/// Longest request id in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// Collects what is wrong with a request. Readers return `None` after they have added an error.
#[derive(Debug, Default)]
pub struct FieldErrors {
    invalid: Vec<InvalidField>,
}

impl FieldErrors {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong yet.
    pub fn is_empty(&self) -> bool {
        self.invalid.is_empty()
    }

    /// Adds an error of the field at this path, for example `pool.addresses[0]`.
    pub fn add(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.invalid.push(InvalidField {
            field: field.into(),
            message: message.to_string(),
        });
    }

    /// Adds the errors of a part whose paths are relative to `prefix`.
    pub fn extend(&mut self, prefix: &str, invalid: impl IntoIterator<Item = InvalidField>) {
        self.invalid
            .extend(invalid.into_iter().map(|bad| InvalidField {
                field: format!("{prefix}.{}", bad.field),
                message: bad.message,
            }));
    }

    /// The value, if nothing was wrong; else [`Rejection::Invalid`] with every error.
    ///
    /// # Panics
    /// If there is neither a value nor an error, which would be a mistake of the reader.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Rejection> {
        if self.invalid.is_empty() {
            return Ok(value.expect("a reader that returns nothing has added an error"));
        }
        Err(Rejection::Invalid(self.invalid))
    }

    /// A required message.
    pub fn required<'a, T>(&mut self, field: &str, value: Option<&'a T>) -> Option<&'a T> {
        if value.is_none() {
            self.add(field, "is required");
        }
        value
    }

    /// A required name. `field` is only made a text when something is wrong: `format_args!` costs
    /// nothing on the way of a good request.
    pub fn name(&mut self, field: impl fmt::Display, text: &str) -> Option<Name> {
        Name::parse(text)
            .map_err(|error| self.add(field.to_string(), error))
            .ok()
    }

    /// A name that may be empty: `Some(None)`.
    pub fn optional_name(&mut self, field: impl fmt::Display, text: &str) -> Option<Option<Name>> {
        if text.is_empty() {
            return Some(None);
        }
        self.name(field, text).map(Some)
    }

    /// An address space; empty means `default`.
    pub fn space(&mut self, field: impl fmt::Display, text: &str) -> Option<Name> {
        if text.is_empty() {
            return self.name(field, pharos_proto::DEFAULT_ADDRESS_SPACE);
        }
        self.name(field, text)
    }

    /// A free text without control characters, of at most `max_bytes`.
    pub fn text(
        &mut self,
        field: impl fmt::Display,
        text: &str,
        max_bytes: usize,
    ) -> Option<String> {
        match check_text(text, max_bytes) {
            Ok(()) => Some(text.to_owned()),
            Err(crate::state::names::InvalidName::TooLong(bytes)) => {
                let message = format!("is {bytes} bytes long; at most {max_bytes} are allowed");
                self.add(field.to_string(), message);
                None
            }
            Err(
                error @ (crate::state::names::InvalidName::Empty
                | crate::state::names::InvalidName::ControlCharacter(_)),
            ) => {
                self.add(field.to_string(), error);
                None
            }
        }
    }

    /// One address.
    pub fn address(&mut self, field: impl fmt::Display, text: &str) -> Option<Address> {
        match pharos_proto::net::parse_address(text) {
            Ok(ip) => Some(Address::from(ip)),
            Err(error) => {
                self.add(field.to_string(), error);
                None
            }
        }
    }

    /// Labels.
    pub fn labels<'a>(
        &mut self,
        field: &str,
        wire: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Option<Labels> {
        let labels: Labels = wire
            .into_iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let before = self.invalid.len();
        for (key, value) in &labels {
            if key.is_empty() {
                self.add(field, "a label has an empty key");
            }
            let good = check_text(key, MAX_LABEL_KEY_BYTES).is_ok()
                && check_text(value, MAX_LABEL_VALUE_BYTES).is_ok();
            if good {
                continue;
            }
            let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
            let path = format!("{field}[{shown:?}]");
            self.text(&path, key, MAX_LABEL_KEY_BYTES);
            self.text(&path, value, MAX_LABEL_VALUE_BYTES);
        }
        (self.invalid.len() == before).then_some(labels)
    }

    /// Label selectors.
    pub fn selectors(
        &mut self,
        field: &str,
        wire: &[v1::LabelSelector],
    ) -> Option<Vec<LabelSelector>> {
        let read: Vec<Option<LabelSelector>> = wire
            .iter()
            .enumerate()
            .map(|(index, selector)| self.selector(&format!("{field}[{index}]"), selector))
            .collect();
        read.into_iter().collect()
    }

    /// One label selector.
    pub fn selector(&mut self, field: &str, wire: &v1::LabelSelector) -> Option<LabelSelector> {
        let match_labels = self.labels(&format!("{field}.match_labels"), &wire.match_labels);
        let requirements: Vec<Option<Requirement>> = wire
            .match_expressions
            .iter()
            .enumerate()
            .map(|(index, requirement)| {
                let path = format!("{field}.match_expressions[{index}]");
                self.requirement(&path, requirement)
            })
            .collect();
        Some(LabelSelector {
            match_labels: match_labels?,
            match_expressions: requirements.into_iter().collect::<Option<_>>()?,
        })
    }

    fn requirement(
        &mut self,
        field: &str,
        wire: &v1::LabelSelectorRequirement,
    ) -> Option<Requirement> {
        use v1::label_selector_requirement::Operator as Wire;
        let operator = match Wire::try_from(wire.operator) {
            Ok(Wire::In) => Some(Operator::In),
            Ok(Wire::NotIn) => Some(Operator::NotIn),
            Ok(Wire::Exists) => Some(Operator::Exists),
            Ok(Wire::DoesNotExist) => Some(Operator::DoesNotExist),
            Ok(Wire::Unspecified) | Err(_) => {
                let path = format!("{field}.operator");
                self.add(path, "must be IN, NOT_IN, EXISTS or DOES_NOT_EXIST");
                None
            }
        };
        if wire.key.is_empty() {
            self.add(format!("{field}.key"), "must not be empty");
            return None;
        }
        let key = self.text(format!("{field}.key"), &wire.key, MAX_LABEL_KEY_BYTES)?;
        let operator = operator?;
        let wants_values = matches!(operator, Operator::In | Operator::NotIn);
        if wants_values == wire.values.is_empty() {
            let message = if wants_values {
                "must not be empty with IN and NOT_IN"
            } else {
                "must be empty with EXISTS and DOES_NOT_EXIST"
            };
            self.add(format!("{field}.values"), message);
            return None;
        }
        let mut values = Vec::with_capacity(wire.values.len());
        for (index, value) in wire.values.iter().enumerate() {
            let path = format!("{field}.values[{index}]");
            values.push(self.text(&path, value, MAX_LABEL_VALUE_BYTES)?);
        }
        values.sort();
        values.dedup();
        Some(Requirement {
            key,
            operator,
            values,
        })
    }

    /// `if_revision`, which is no revision when 0.
    pub fn if_revision(&mut self, wire: Option<u64>) -> Option<Option<Revision>> {
        if wire == Some(0) {
            self.add("if_revision", "must be a revision, which is never 0");
            return None;
        }
        Some(wire)
    }

    /// Checks `fence`: a table holds it as a signed number.
    pub fn fence(&mut self, fence: u64) {
        if i64::try_from(fence).is_err() {
            self.add("fence", "must be less than 2^63");
        }
    }

    /// Checks `request_id`.
    pub fn request_id(&mut self, text: &str) {
        self.text("request_id", text, MAX_REQUEST_ID_BYTES);
    }
}

/// A selector, back to the wire.
pub fn selector_to_wire(selector: &LabelSelector) -> v1::LabelSelector {
    use v1::label_selector_requirement::Operator as Wire;
    let requirement = |requirement: &Requirement| v1::LabelSelectorRequirement {
        key: requirement.key.clone(),
        operator: match requirement.operator {
            Operator::In => Wire::In,
            Operator::NotIn => Wire::NotIn,
            Operator::Exists => Wire::Exists,
            Operator::DoesNotExist => Wire::DoesNotExist,
        }
        .into(),
        values: requirement.values.clone(),
    };
    v1::LabelSelector {
        match_labels: labels_to_wire(&selector.match_labels),
        match_expressions: selector.match_expressions.iter().map(requirement).collect(),
    }
}

/// Selectors, back to the wire.
pub fn selectors_to_wire(selectors: &[LabelSelector]) -> Vec<v1::LabelSelector> {
    selectors.iter().map(selector_to_wire).collect()
}

/// Labels, back to the wire.
pub fn labels_to_wire(labels: &Labels) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map on the wire has no order of its own.
    #[test]
    fn bad_labels_are_named_in_the_same_order_each_time() {
        let keys = ["a", "b", "c", "d", "e", "f", "g"];
        let wire: HashMap<String, String> =
            keys.map(|key| (key.to_owned(), "\n".to_owned())).into();
        let mut errors = FieldErrors::new();
        assert_eq!(errors.labels("labels", &wire), None);
        let fields: Vec<String> = errors.invalid.into_iter().map(|bad| bad.field).collect();
        assert_eq!(fields, keys.map(|key| format!("labels[{key:?}]")));
    }
}
