//! Which interfaces may answer. Pure.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use super::table::{Link, Uplink};
use crate::l2::responder::Port;

/// The interfaces that MetalLB excludes by default, as it writes them.
const DEFAULT_EXCLUSIONS: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

/// Which interfaces may answer.
#[derive(Debug, Clone)]
pub struct InterfaceRules {
    /// Whole names; empty: all but the excluded ones.
    allowed: Vec<Regex>,
    /// Anywhere in the name, as in MetalLB.
    excluded: Vec<Regex>,
}

/// Why a list of exclusions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExclusionsError {
    #[error("not the YAML of MetalLB's excludel2.yaml: {0}")]
    Yaml(String),
    #[error("not a regular expression: {0}")]
    Pattern(#[from] regex::Error),
}

/// MetalLB's excludel2.yaml. What else may be in it is not for us.
#[derive(Debug, Deserialize)]
struct Exclusions {
    #[serde(default, rename = "announcedInterfacesToExclude")]
    patterns: Option<Vec<String>>,
}

impl InterfaceRules {
    /// All interfaces but MetalLB's default exclusions.
    pub fn metallb() -> Result<Self, regex::Error> {
        Self::all_but(DEFAULT_EXCLUSIONS)
    }

    /// Only interfaces whose whole name matches one of these.
    pub fn only(patterns: &[String]) -> Result<Self, regex::Error> {
        let whole = patterns.iter().map(|pattern| format!("^(?:{pattern})$"));
        Ok(Self {
            allowed: compile(whole)?,
            excluded: Vec::new(),
        })
    }

    /// All interfaces but those that a file as MetalLB's excludel2.yaml names. It replaces the
    /// default exclusions.
    pub fn from_exclusions(yaml: &str) -> Result<Self, ExclusionsError> {
        let exclusions: Exclusions = serde_saphyr::from_str(yaml).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            ExclusionsError::Yaml(line.trim_start_matches("error: ").to_owned())
        })?;
        Ok(Self::all_but(exclusions.patterns.unwrap_or_default())?)
    }

    fn all_but<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, regex::Error> {
        Ok(Self {
            allowed: Vec::new(),
            excluded: compile(patterns)?,
        })
    }

    /// Whether an interface of this name may answer.
    pub fn allows(&self, name: &str) -> bool {
        if self.allowed.is_empty() {
            !self.excluded.iter().any(|pattern| pattern.is_match(name))
        } else {
            self.allowed.iter().any(|pattern| pattern.is_match(name))
        }
    }

    /// The interfaces that can answer now.
    pub fn usable(&self, links: &BTreeMap<u32, Link>) -> Vec<Uplink> {
        let usable = links.values().filter(|link| link.unusable(self).is_none());
        let uplinks = usable.filter_map(|link| {
            let port = Port {
                index: link.index,
                name: link.name.clone(),
                mac: link.mac?,
                link_local: link.link_local,
            };
            Some(Uplink {
                port,
                life: link.life,
                turns: link.turns,
            })
        });
        uplinks.collect()
    }
}

fn compile<P: AsRef<str>>(
    patterns: impl IntoIterator<Item = P>,
) -> Result<Vec<Regex>, regex::Error> {
    let patterns = patterns.into_iter();
    patterns
        .map(|pattern| Regex::new(pattern.as_ref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_exclusions_are_those_of_metallb() {
        let rules = InterfaceRules::metallb().expect("valid");
        for name in [
            "docker0",
            "cali123",
            "lo",
            "kube-ipvs0",
            "cni0",
            "lxc5",
            "flannel.1",
        ] {
            assert!(!rules.allows(name), "{name}");
        }
        for name in ["eth0", "lo1", "bond0", "enp3s0", "br0", "myveth"] {
            assert!(rules.allows(name), "{name}");
        }
    }

    #[test]
    fn named_interfaces_are_matched_whole_and_replace_the_exclusions() {
        let patterns = ["veth0".to_owned(), "bond[01]".to_owned()];
        let rules = InterfaceRules::only(&patterns).expect("valid");
        for name in ["veth0", "bond0", "bond1"] {
            assert!(rules.allows(name), "{name}");
        }
        for name in ["veth01", "xveth0", "bond2", "eth0"] {
            assert!(!rules.allows(name), "{name}");
        }
        assert!(InterfaceRules::only(&["(".to_owned()]).is_err());
    }

    #[test]
    fn the_exclusions_of_metallbs_file_replace_the_defaults_and_match_anywhere() {
        let yaml = "announcedInterfacesToExclude:\n- ^docker.*\n- 'bond[0-9]'\n";
        let rules = InterfaceRules::from_exclusions(yaml).expect("valid");
        for name in ["docker0", "bond1", "mybond1"] {
            assert!(!rules.allows(name), "{name}");
        }
        for name in ["veth0", "eth0", "bond"] {
            assert!(rules.allows(name), "{name}");
        }
    }

    #[test]
    fn a_file_that_excludes_nothing_excludes_nothing() {
        for yaml in [
            "announcedInterfacesToExclude: []",
            "announcedInterfacesToExclude:",
            "other: 1",
        ] {
            let rules = InterfaceRules::from_exclusions(yaml).expect(yaml);
            assert!(rules.allows("veth0"), "{yaml}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let error = |yaml| InterfaceRules::from_exclusions(yaml).expect_err(yaml);
        assert!(matches!(
            error("announcedInterfacesToExclude: 7"),
            ExclusionsError::Yaml(_)
        ));
        assert!(matches!(
            error("announcedInterfacesToExclude: ['(']"),
            ExclusionsError::Pattern(_)
        ));
    }
}
