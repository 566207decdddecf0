//! Whether one change of one object is right, given everything else. The order in which objects come
//! never matters: a name that stands for nothing yet is no error.

use super::findings::{Finding, Severity};
use super::objects::{Object, Objects, ResourceKind, Subject};
use super::{Configuration, examine};
use crate::claim::Settings;

/// What somebody wants to do.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    Create(Object<'a>),
    Update(Object<'a>),
    Delete(Subject),
}

/// What is said to it, in the order of the object's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is refused; none: it is not.
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

/// Judges a change in `namespace`, while objects are read from the namespace `read` only.
/// `existing`: what there is before it.
pub fn review(
    existing: &Objects<'_>,
    change: &Change<'_>,
    namespace: &str,
    read: &str,
    settings: &Settings,
) -> Verdict {
    match change {
        Change::Create(_) if namespace != read => {
            refused(format!("resource must be created in {read} namespace"))
        }
        // It was there before us, and whoever takes its finalizers off must be able to.
        Change::Update(_) if namespace != read => Verdict {
            warnings: vec![format!("only objects in namespace {read} have an effect")],
            ..Verdict::default()
        },
        Change::Delete(_) if namespace != read => Verdict::default(),
        // An error that is there already is told; nobody's finalizer waits for its repair.
        Change::Update(object) if existing.has(object) => {
            let all = judge_own(&examine(existing, settings), &object.subject());
            Verdict {
                errors: Vec::new(),
                warnings: all,
            }
        }
        Change::Create(object) | Change::Update(object) => {
            let before = examine(existing, settings);
            let after = examine(&existing.clone().with(*object), settings);
            judge(&before, &after, &object.subject())
        }
        Change::Delete(subject) => deletion(existing, subject),
    }
}

fn refused(error: String) -> Verdict {
    Verdict {
        errors: vec![error],
        ..Verdict::default()
    }
}

/// Everything that is to be said of an object.
fn judge_own(configuration: &Configuration, subject: &Subject) -> Vec<String> {
    let findings = configuration.findings().iter();
    let own = findings.filter(|finding| finding.object == *subject);
    own.map(text).collect()
}

fn text(finding: &Finding) -> String {
    match finding.field.as_str() {
        "" => finding.message.clone(),
        field => format!("{field}: {}", finding.message),
    }
}

/// An object answers for its own errors, old and new, and for those that it newly brings to others.
fn judge(before: &Configuration, after: &Configuration, subject: &Subject) -> Verdict {
    let own = |finding: &&Finding| finding.object == *subject;
    let is_error = |finding: &&Finding| finding.severity == Severity::Error;
    let findings = after.findings().iter();
    let mut errors: Vec<String> = findings
        .clone()
        .filter(own)
        .filter(is_error)
        .map(text)
        .collect();
    if errors.is_empty() {
        let caused = findings.clone().filter(is_error).filter(|finding| {
            let same = |old: &Finding| {
                (&old.object, &old.field, &old.with)
                    == (&finding.object, &finding.field, &finding.with)
            };
            finding.with.contains(subject) && !before.findings().iter().any(same)
        });
        errors = caused.map(ToString::to_string).collect();
    }
    let warnings = findings.filter(own).filter(|it| !is_error(it));
    Verdict {
        errors,
        warnings: warnings.map(text).collect(),
    }
}

fn deletion(existing: &Objects<'_>, subject: &Subject) -> Verdict {
    let is_profile = subject.kind == ResourceKind::Profile;
    let users = existing.peers.iter().filter(|peer| {
        let spec = peer.spec.as_ref();
        is_profile && spec.is_ok_and(|spec| spec.bfd_profile == subject.name)
    });
    Verdict {
        errors: users
            .map(|peer| {
                let (profile, peer) = (&subject.name, &peer.name);
                format!("failed to delete BFDProfile {profile}, used by BGPPeer {peer}")
            })
            .collect(),
        ..Verdict::default()
    }
}
