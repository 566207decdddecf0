//! Which selector does not match which labels.

use crate::state::model::{Claim, Labels, OwnerKey, Pool};
use crate::state::names::Name;
use crate::state::pool;
use crate::state::selector::LabelSelector;

/// Which condition of a pool does not hold for the owner.
pub(super) fn mismatch(pool: &Pool, owner: &OwnerKey, claim: &Claim) -> String {
    let mut parts = Vec::new();
    if !pool::admits_namespace(pool, owner, claim) {
        let namespace = owner.namespace.as_ref().map_or("", Name::as_str);
        if !pool.namespaces.is_empty() {
            let names = listed(pool.namespaces.iter().map(Name::to_string));
            parts.push(format!("namespace \"{namespace}\" is none of [{names}]"));
        }
        if !pool.namespace_selectors.is_empty() {
            let selectors = selectors(&pool.namespace_selectors);
            let labels = labels(&claim.namespace_labels);
            parts.push(format!(
                "the labels {labels} of namespace \"{namespace}\" match no namespace selector \
                 of {selectors}"
            ));
        }
    }
    if !pool::admits_labels(pool, claim) {
        let selectors = selectors(&pool.service_selectors);
        let labels = labels(&claim.labels);
        parts.push(format!(
            "the labels {labels} match no service selector of {selectors}"
        ));
    }
    parts.join(", and ")
}

/// Most entries of a list within a sentence.
const MAX_LISTED: usize = 10;

fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(MAX_LISTED);
    let mut text = all.take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn labels(labels: &Labels) -> String {
    let pairs = labels.iter();
    format!(
        "{{{}}}",
        listed(pairs.map(|(key, value)| format!("{key}={value}")))
    )
}

fn selectors(selectors: &[LabelSelector]) -> String {
    let all = selectors.iter();
    format!("[{}]", listed(all.map(|one| format!("({one})"))))
}
