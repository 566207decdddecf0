//! BGP communities as people write them: RFC 1997 (`65000:100`), RFC 8092 (`large:65000:1:2`), or by
//! a name that a `Community` gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::Declared;
use super::findings::{Finding, Problems};
use super::objects::{Known, ResourceKind, Subject};
use crate::crd::CommunitySpec;

/// A community of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    Standard([u16; 2]),
    Large([u32; 3]),
}

/// Why a text is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("invalid community value: invalid section {section:?} of community {text:?}")]
    Section { section: String, text: String },
    #[error(
        "invalid community value: invalid marker for large community, expected community to be of \
         format large:<uint32>:<uint32>:<uint32> but got {0:?} instead"
    )]
    Marker(String),
    #[error("invalid community format: {0}")]
    Format(String),
}

impl Community {
    pub(super) fn parse(text: &str) -> Result<Self, Unreadable> {
        let sections: Vec<&str> = text.split(':').collect();
        match sections[..] {
            [high, low] => Ok(Self::Standard([number(high, text)?, number(low, text)?])),
            ["large", administrator, one, two] => Ok(Self::Large([
                number(administrator, text)?,
                number(one, text)?,
                number(two, text)?,
            ])),
            [_, _, _, _] => Err(Unreadable::Marker(text.to_owned())),
            _ => Err(Unreadable::Format(text.to_owned())),
        }
    }
}

impl fmt::Display for Community {
    /// As [`Community::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard([high, low]) => write!(f, "{high}:{low}"),
            Self::Large([administrator, one, two]) => {
                write!(f, "large:{administrator}:{one}:{two}")
            }
        }
    }
}

/// Digits only: a sign, which Rust would take, is none.
fn number<N: FromStr>(section: &str, text: &str) -> Result<N, Unreadable> {
    let digits = Some(section).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Unreadable::Section {
        section: section.to_owned(),
        text: text.to_owned(),
    })
}

/// The names that are given. One that is given twice is wrong wherever it is given.
pub(super) fn aliases<'a>(
    known: &Known<'a, CommunitySpec>,
    findings: &mut Vec<Finding>,
) -> BTreeMap<&'a str, Community> {
    let mut aliases = BTreeMap::new();
    let mut givers: BTreeMap<&str, Vec<(&Declared<CommunitySpec>, usize)>> = BTreeMap::new();
    for declared in known.iter() {
        let mut problems = Problems::new(ResourceKind::Community, &declared.name, findings);
        let spec = match &declared.spec {
            Ok(spec) => spec,
            Err(message) => {
                problems.add("", message);
                continue;
            }
        };
        for (index, alias) in spec.communities.iter().enumerate() {
            let name = alias.name.as_str();
            givers.entry(name).or_default().push((declared, index));
            match Community::parse(&alias.value) {
                Ok(community) => {
                    aliases.insert(name, community);
                }
                Err(error) => {
                    let message = format!("parsing community {name:?}: {error}");
                    problems.add(format!("spec.communities[{index}].value"), message);
                }
            }
        }
    }
    for (name, givers) in givers.iter().filter(|(_, givers)| givers.len() > 1) {
        let objects: BTreeSet<&str> = givers.iter().map(|(it, _)| it.name.as_str()).collect();
        for (declared, index) in givers {
            let others = objects.iter().filter(|other| **other != declared.name);
            let with = others.map(|other| Subject::new(ResourceKind::Community, other));
            Problems::new(ResourceKind::Community, &declared.name, findings).add_with(
                format!("spec.communities[{index}].name"),
                format!("duplicate definition of community {name:?}"),
                with.collect(),
            );
        }
    }
    aliases
}
