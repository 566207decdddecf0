//! From custom resources to the pools and advertisements of the address book, with every check
//! that can be made without it. Pure. One bad object refuses its whole set, as in MetalLB: half a
//! configuration would move addresses.

mod l2;
mod pool;
mod selector;

use std::collections::BTreeMap;

use pharos_proto::v1;

use crate::claim::Settings;
use crate::crd::{L2Spec, PoolSpec};

/// A custom resource as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<S> {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// The text says why the object could not be read.
    pub spec: Result<S, String>,
}

/// What is wrong with a field of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {message}")]
pub struct FieldError {
    /// Kind and name.
    pub object: String,
    /// Path in the object, for example `spec.addresses[0]`.
    pub field: String,
    pub message: String,
}

/// The pools of the cluster, or everything that is wrong with them.
pub fn pools<'a>(
    declared: impl IntoIterator<Item = &'a Declared<PoolSpec>>,
    settings: &Settings,
) -> Result<Vec<v1::Pool>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut ranges = Vec::new();
    let mut pools = Vec::new();
    for declared in declared {
        let mut problems = Problems::new("IPAddressPool", &declared.name, &mut errors);
        match &declared.spec {
            Ok(spec) => {
                let own = pool::ranges(spec, &mut problems);
                ranges.extend(own.into_iter().map(|range| (declared.name.as_str(), range)));
                pools.push(pool::convert(declared, spec, settings, &mut problems));
            }
            Err(message) => problems.add("", message),
        }
    }
    pool::check_overlaps(&mut ranges, &mut errors);
    if errors.is_empty() {
        Ok(pools)
    } else {
        Err(errors)
    }
}

/// The layer 2 advertisements of the cluster, or everything that is wrong with them.
pub fn advertisements<'a>(
    declared: impl IntoIterator<Item = &'a Declared<L2Spec>>,
    settings: &Settings,
) -> Result<Vec<v1::Advertisement>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut advertisements = Vec::new();
    for declared in declared {
        let mut problems = Problems::new("L2Advertisement", &declared.name, &mut errors);
        match &declared.spec {
            Ok(spec) => {
                advertisements.push(l2::convert(declared, spec, settings, &mut problems));
            }
            Err(message) => problems.add("", message),
        }
    }
    if errors.is_empty() {
        Ok(advertisements)
    } else {
        Err(errors)
    }
}

/// Collects what is wrong with one object.
struct Problems<'a> {
    object: String,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> Problems<'a> {
    fn new(kind: &str, name: &str, errors: &'a mut Vec<FieldError>) -> Self {
        Self {
            object: format!("{kind} {name:?}"),
            errors,
        }
    }

    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError {
            object: self.object.clone(),
            field: field.into(),
            message: message.into(),
        });
    }

    /// A list that says the same thing twice is a mistake.
    fn no_repetition<T: PartialEq>(&mut self, field: &str, list: &[T]) {
        let name = field.rsplit('.').next().unwrap_or(field);
        for (index, item) in list.iter().enumerate() {
            if list[..index].contains(item) {
                let message = format!("duplicate definition of {name}");
                self.add(format!("{field}[{index}]"), message);
            }
        }
    }
}

#[cfg(test)]
mod tests;
