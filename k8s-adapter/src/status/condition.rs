//! Conditions in the status of Services: those of this adapter, as they are and as they should be. Pure.
//!
//! A good word is said where it costs no write of its own: with the address, or in place of a bad one. So a
//! condition that is not there says that nothing is wrong, as far as is known.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

/// Longest message, in bytes: as long as that of the event that says the same.
pub const LONGEST_MESSAGE: usize = 1024;

/// The conditions that this adapter writes. Those of others are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// The Service has the addresses that it asks for.
    Assigned,
    /// Nodes answer for all of its addresses, and nobody else does.
    Announced,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    True,
    False,
    Unknown,
}

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub truth: Truth,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// A condition as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub said: Said,
    /// When it became true, false or unknown.
    pub since: Time,
}

/// This adapter's conditions of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    seen: BTreeMap<Type, Seen>,
}

/// What is to be said from now on; none: nothing at all.
pub type Wanted = Option<Said>;

impl Type {
    pub const ALL: [Self; 2] = [Self::Assigned, Self::Announced];

    /// As in `status.conditions[].type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "pharos.io/Assigned",
            Self::Announced => "pharos.io/Announced",
        }
    }

    /// The reason where nothing is wrong.
    fn good_reason(self) -> &'static str {
        match self {
            Self::Assigned => "Assigned",
            Self::Announced => "Announced",
        }
    }

    /// What is said where nothing is wrong.
    pub fn good(self, message: impl Into<String>) -> Said {
        Said {
            truth: Truth::True,
            reason: self.good_reason().to_owned(),
            message: message.into(),
        }
    }

    /// Whether this is said where nothing is wrong.
    pub fn is_good(self, said: &Said) -> bool {
        said.truth == Truth::True && said.reason == self.good_reason()
    }
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Said {
    /// Something that people should know of. A message that is too long is cut.
    pub fn new(truth: Truth, reason: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        Self {
            truth,
            reason: reason.into(),
            message,
        }
    }
}

impl Conditions {
    /// Those of a Service. One whose status is no truth value was not written by this adapter, and is
    /// replaced.
    pub fn parse(service: &Service) -> Self {
        let status = service.status.as_ref();
        let all = status.and_then(|status| status.conditions.as_ref());
        let ours = all.into_iter().flatten().filter_map(parse);
        Self {
            seen: ours.collect(),
        }
    }

    /// Whether there is none of this adapter's.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// What one of them says.
    pub fn get(&self, of: Type) -> Option<&Said> {
        self.seen.get(&of).map(|seen| &seen.said)
    }

    /// Whether what is wanted has to be written, if nothing else is: a good word only in place of another.
    pub fn lacks(&self, of: Type, wanted: &Wanted) -> bool {
        match (self.get(of), wanted) {
            (None, None) => false,
            (Some(_), None) => true,
            (None, Some(wanted)) => !of.is_good(wanted),
            (Some(said), Some(wanted)) if of.is_good(wanted) => !of.is_good(said),
            (Some(said), Some(wanted)) => said != wanted,
        }
    }

    /// The entries of a strategic merge patch after which these are what is said; nothing of what is said
    /// already. `generation`: of the Service that was looked at, where the API server counts it.
    pub fn patch<'a>(
        &self,
        wanted: impl IntoIterator<Item = (Type, &'a Wanted)>,
        generation: Option<i64>,
        now: &Time,
    ) -> Vec<Value> {
        let entries = wanted.into_iter().filter_map(|(of, wanted)| {
            let seen = self.seen.get(&of);
            match (seen, wanted) {
                (None, None) => None,
                (Some(_), None) => Some(json!({ "type": of.as_str(), "$patch": "delete" })),
                (Some(seen), Some(wanted)) if seen.said == *wanted => None,
                (seen, Some(wanted)) => {
                    let same = seen.filter(|seen| seen.said.truth == wanted.truth);
                    let since = same.map_or(now, |seen| &seen.since);
                    let mut entry = json!({
                        "type": of.as_str(),
                        "status": wanted.truth.as_str(),
                        "reason": wanted.reason,
                        "message": wanted.message,
                        "lastTransitionTime": since,
                    });
                    if let Some(generation) = generation {
                        entry["observedGeneration"] = generation.into();
                    }
                    Some(entry)
                }
            }
        });
        entries.collect()
    }

    /// As it is after such a patch.
    #[cfg(test)]
    pub fn set(&mut self, of: Type, wanted: &Wanted, now: &Time) {
        match wanted {
            None => self.seen.remove(&of),
            Some(said) => self.seen.insert(
                of,
                Seen {
                    said: said.clone(),
                    since: now.clone(),
                },
            ),
        };
    }
}

fn parse(condition: &Condition) -> Option<(Type, Seen)> {
    let of = Type::ALL
        .into_iter()
        .find(|of| of.as_str() == condition.type_)?;
    let all = [Truth::True, Truth::False, Truth::Unknown];
    let truth = all
        .into_iter()
        .find(|truth| truth.as_str() == condition.status)?;
    let said = Said {
        truth,
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    };
    let since = condition.last_transition_time.clone();
    Some((of, Seen { said, since }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Time {
        Time(jiff::Timestamp::from_second(seconds).expect("a time"))
    }

    fn conditions(entries: Value) -> Conditions {
        let service = json!({ "status": { "conditions": entries } });
        Conditions::parse(&serde_json::from_value(service).expect("a Service"))
    }

    fn entry(of: &str, status: &str, reason: &str) -> Value {
        json!({
            "type": of, "status": status, "reason": reason, "message": "m",
            "observedGeneration": 3, "lastTransitionTime": "1970-01-01T00:00:10Z",
        })
    }

    #[test]
    fn conditions_of_others_are_neither_read_nor_written() {
        let seen = conditions(json!([
            entry("example.com/Ready", "True", "Ok"),
            entry("pharos.io/Announced", "False", "NoReadyEndpoint"),
        ]));
        assert_eq!(seen.get(Type::Assigned), None);
        let said = seen.get(Type::Announced).map(|said| said.reason.as_str());
        assert_eq!(said, Some("NoReadyEndpoint"));
        let patch = seen.patch([(Type::Announced, &None)], Some(4), &time(20));
        assert_eq!(
            patch,
            [json!({ "type": "pharos.io/Announced", "$patch": "delete" })]
        );
    }

    #[test]
    fn a_condition_is_as_old_as_its_truth_and_of_the_generation_that_it_was_written_for() {
        let seen = conditions(json!([entry(
            "pharos.io/Announced",
            "False",
            "NoReadyEndpoint"
        )]));
        let other = Some(Said::new(Truth::False, "NotAdvertised", "n"));
        for (wanted, since) in [
            (other, time(10)),
            (Some(Type::Announced.good("n")), time(20)),
        ] {
            let patch = seen.patch([(Type::Announced, &wanted)], Some(4), &time(20));
            let [entry] = &patch[..] else {
                panic!("{patch:?}");
            };
            assert_eq!(entry["lastTransitionTime"], json!(since));
            assert_eq!(entry["observedGeneration"], 4);
        }
        let same = Some(Said::new(Truth::False, "NoReadyEndpoint", "m"));
        let patch = seen.patch([(Type::Announced, &same)], Some(4), &time(20));
        assert!(patch.is_empty(), "{patch:?}");
    }

    #[test]
    fn a_good_word_is_written_in_place_of_a_bad_one_and_never_on_its_own() {
        let of = Type::Announced;
        let good = || Some(of.good("another message than before"));
        let bad = |reason| Some(Said::new(Truth::False, reason, "m"));
        for (seen, wanted, expected) in [
            (json!([]), None, false),
            (json!([]), good(), false),
            (json!([]), bad("A"), true),
            (
                json!([entry(of.as_str(), "True", "Announced")]),
                good(),
                false,
            ),
            (
                json!([entry(of.as_str(), "True", "Announced")]),
                bad("A"),
                true,
            ),
            (json!([entry(of.as_str(), "False", "A")]), good(), true),
            (json!([entry(of.as_str(), "False", "A")]), bad("A"), false),
            (json!([entry(of.as_str(), "False", "A")]), bad("B"), true),
            (json!([entry(of.as_str(), "False", "A")]), None, true),
        ] {
            assert_eq!(
                conditions(seen.clone()).lacks(of, &wanted),
                expected,
                "{seen} {wanted:?}"
            );
        }
    }

    #[test]
    fn a_message_of_any_length_is_cut() {
        let said = Said::new(Truth::False, "A", "é".repeat(10_000));
        assert!((1000..=LONGEST_MESSAGE).contains(&said.message.len()));
    }
}
