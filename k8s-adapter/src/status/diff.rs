//! From what should be said and what is said to what has to be written. Pure.

use std::collections::BTreeMap;

use super::desired::Desired;
use super::object::{Body, Seen, StatusKind, Topic};
use crate::service::ServiceKey;

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new object. `is_news`: no object has said this about the node before.
    Create { body: Body, is_news: bool },
    /// Another word in an object that is there.
    Say { seen: Box<Seen>, body: Body },
    /// What is not true, or said twice.
    Delete {
        kind: StatusKind,
        name: String,
        uid: String,
    },
}

impl Change {
    /// Calls that write.
    pub fn writes(&self) -> u32 {
        match self {
            // The object, and then its status; and an event, if it is news.
            Self::Create { is_news, .. } => 2 + u32::from(*is_news),
            Self::Say { .. } | Self::Delete { .. } => 1,
        }
    }
}

/// What has to be written about each topic, in this order. `is_ours`: whether a Service is this adapter's.
pub fn diff<'a>(
    desired: &Desired,
    seen: impl IntoIterator<Item = &'a Seen>,
    is_ours: impl Fn(&ServiceKey) -> bool,
) -> BTreeMap<Topic, Vec<Change>> {
    let mut by_topic: BTreeMap<&Topic, Vec<&Seen>> = BTreeMap::new();
    for topic in desired.objects.keys() {
        by_topic.entry(topic).or_default();
    }
    for seen in seen {
        by_topic.entry(&seen.topic).or_default().push(seen);
    }
    let known = by_topic.into_iter().filter(|(topic, _)| {
        desired.known.contains(&topic.kind()) && !desired.kept.contains(*topic)
    });
    known
        .map(|(topic, seen)| {
            let changes = match desired.objects.get(topic) {
                Some(body) => establish(topic, body, &seen, &is_ours),
                None => seen
                    .into_iter()
                    .filter(|it| it.is_ours)
                    .map(delete)
                    .collect(),
            };
            (topic.clone(), changes)
        })
        .filter(|(_, changes)| !changes.is_empty())
        .collect()
}

/// One object says it, and no other says anything about it: the new one comes before the old ones go.
fn establish(
    topic: &Topic,
    body: &Body,
    seen: &[&Seen],
    is_ours: impl Fn(&ServiceKey) -> bool,
) -> Vec<Change> {
    let says = |seen: &&&Seen| seen.body.as_ref() == Some(body);
    let can_say = |seen: &&&Seen| match &seen.body {
        Some(before) => before.can_become(body),
        // Written without its status: whoever did that came no further.
        None => true,
    };
    let usable = |seen: &&&Seen| match topic {
        // Those of MetalLB go with its pods.
        Topic::L2(_) | Topic::Session { .. } => seen.is_ours,
        // Named, so there cannot be another one.
        Topic::Configuration(_) => true,
    };
    let ours = seen.iter().filter(usable);
    let kept = ours
        .clone()
        .find(says)
        .or_else(|| ours.clone().find(can_say));
    let mut changes = Vec::new();
    match kept {
        Some(kept) if kept.body.as_ref() == Some(body) => {}
        Some(kept) => changes.push(Change::Say {
            seen: Box::new((*kept).clone()),
            body: body.clone(),
        }),
        None => changes.push(Change::Create {
            body: body.clone(),
            is_news: !seen.iter().any(|it| {
                let before = it.body.as_ref();
                before.is_some_and(|before| before.can_become(body))
            }),
        }),
    }
    let others = seen
        .iter()
        .filter(|it| kept.is_none_or(|kept| kept.name != it.name));
    let wrong = others.filter(|it| {
        it.is_ours
            || match topic {
                // Another speaker's, of before this one came.
                Topic::L2(service) => is_ours(service),
                Topic::Session { .. } | Topic::Configuration(_) => false,
            }
    });
    changes.extend(wrong.map(|it| delete(it)));
    changes
}

fn delete(seen: &Seen) -> Change {
    Change::Delete {
        kind: seen.kind,
        name: seen.name.clone(),
        uid: seen.uid.clone(),
    }
}

#[cfg(test)]
mod tests;
