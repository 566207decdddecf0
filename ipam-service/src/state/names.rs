//! Names, as every table, message and log line has them.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Longest name in bytes (as a DNS name, RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 253;

/// A name of a cluster, namespace, pool, node, ...: 1 to 253 bytes of UTF-8 without control
/// characters. Cheap to clone, ordered by bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Ord for Name {
    /// Names are interned: those of a namespace are nearly always the same copy.
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("must not be empty")]
    Empty,
    #[error("is {0} bytes long; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    #[error("contains a control character at byte {0}")]
    ControlCharacter(usize),
}

impl Name {
    /// Checks the rule above.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        check_text(text, MAX_NAME_BYTES)?;
        Ok(Self(Arc::from(text)))
    }

    /// Whether anybody else has this very copy.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a free text that may be empty, such as a uid, a key or a label value.
pub fn check_text(text: &str, max_bytes: usize) -> Result<(), InvalidName> {
    if text.len() > max_bytes {
        return Err(InvalidName::TooLong(text.len()));
    }
    match text
        .char_indices()
        .find(|(_, character)| character.is_control())
    {
        Some((byte, _)) => Err(InvalidName::ControlCharacter(byte)),
        None => Ok(()),
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_printable_and_not_empty() {
        assert!(Name::parse("default-pool").is_ok());
        assert!(Name::parse(&"x".repeat(MAX_NAME_BYTES)).is_ok());
        assert_eq!(Name::parse(""), Err(InvalidName::Empty));
        assert_eq!(Name::parse("a\nb"), Err(InvalidName::ControlCharacter(1)));
        let long = "x".repeat(1_000_000);
        assert_eq!(Name::parse(&long), Err(InvalidName::TooLong(1_000_000)));
    }
}
