//! Communities of a route, as people write them.

use std::fmt;
use std::str::FromStr;

/// A community (RFC 1997) or a large one (RFC 8092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    Standard([u16; 2]),
    Large([u32; 3]),
}

/// A text that is no community.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be two numbers up to 65535 (`65000:100`), or `large:` and three up to 4294967295")]
pub struct InvalidCommunity;

impl FromStr for Community {
    type Err = InvalidCommunity;

    fn from_str(text: &str) -> Result<Self, InvalidCommunity> {
        let sections: Vec<&str> = text.split(':').collect();
        match sections[..] {
            [high, low] => Ok(Self::Standard([number(high)?, number(low)?])),
            ["large", administrator, one, two] => Ok(Self::Large([
                number(administrator)?,
                number(one)?,
                number(two)?,
            ])),
            _ => Err(InvalidCommunity),
        }
    }
}

/// Digits only: a sign, which Rust would take, is none.
fn number<N: FromStr>(section: &str) -> Result<N, InvalidCommunity> {
    let is_digits = section.bytes().all(|byte| byte.is_ascii_digit());
    let number = section.parse().ok().filter(|_| is_digits);
    number.ok_or(InvalidCommunity)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard([high, low]) => write!(f, "{high}:{low}"),
            Self::Large([administrator, one, two]) => {
                write!(f, "large:{administrator}:{one}:{two}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_community_reads_back_as_it_is_written_and_nothing_else_is_one() {
        for text in ["0:0", "65535:65535", "large:4294967295:0:1"] {
            let read = text.parse::<Community>().map(|it| it.to_string());
            assert_eq!(read.as_deref(), Ok(text));
        }
        for text in [
            "",
            "1",
            "1:2:3",
            "65536:1",
            "+1:2",
            "1:-2",
            "1: 2",
            ":",
            "large:1:2",
            "extended:1:2:3",
            "large:4294967296:0:0",
            "no-export",
        ] {
            assert_eq!(text.parse::<Community>(), Err(InvalidCommunity), "{text:?}");
        }
        let short = "065000:1".parse::<Community>().map(|it| it.to_string());
        assert_eq!(short.as_deref(), Ok("65000:1"), "one community, one text");
    }
}
