//! What ipam-service takes (`docs/how-to/limits.md`). It would refuse a whole set; here the object is
//! told, before it is admitted.

use super::findings::Problems;

/// Most ranges of one pool.
pub(super) const MAX_RANGES: usize = 1000;
/// Most pools, selectors, interfaces or preferences of one advertisement, each.
pub(super) const MAX_PARTS: usize = 1000;
/// Longest name.
const MAX_NAME_BYTES: usize = 253;

/// A list that is not too long.
pub(super) fn check_parts<T>(field: &str, list: &[T], problems: &mut Problems<'_>) {
    if list.len() > MAX_PARTS {
        problems.add(field, format!("at most {MAX_PARTS} are allowed"));
    }
}

/// Names, each of which can be one.
pub(super) fn check_names(field: &str, names: &[String], problems: &mut Problems<'_>) {
    for (index, name) in names.iter().enumerate() {
        check_name(format!("{field}[{index}]"), name, problems);
    }
}

/// Whether a name that may be empty is none that ipam-service refuses.
pub(super) fn can_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}

/// What can be a name.
pub(super) fn check_name(field: String, name: &str, problems: &mut Problems<'_>) {
    let message = if name.is_empty() {
        "must not be empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        let bytes = name.len();
        format!("is {bytes} bytes long; at most {MAX_NAME_BYTES} are allowed")
    } else if name.chars().any(char::is_control) {
        "contains a control character".to_owned()
    } else {
        return;
    };
    problems.add(field, message);
}
