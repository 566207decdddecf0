//! Advertisements: what is stored of them. What they lead to is decided elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cluster;
use super::command::Scope;
use super::draft::Draft;
use super::model::{Advertisement, AdvertisementKey};
use super::names::Name;
use super::refusal::{InvalidField, Rejection};

/// Creates or replaces one. An equal one changes nothing.
pub(super) fn apply(draft: &mut Draft<'_>, wanted: &Advertisement) -> Result<(), Rejection> {
    if let Some(cluster) = &wanted.key.cluster {
        cluster::contact(draft, cluster, 0)?;
    }
    put_if_changed(draft, wanted);
    Ok(())
}

/// # Errors
/// [`Rejection::UnknownAdvertisement`]
pub(super) fn delete(draft: &mut Draft<'_>, key: &AdvertisementKey) -> Result<(), Rejection> {
    let Some(known) = draft.state.advertisement(key) else {
        return Err(Rejection::UnknownAdvertisement(describe(key)));
    };
    draft.drop_advertisement(known);
    Ok(())
}

/// Replaces all advertisements of a cluster that are in scope.
///
/// # Errors
/// [`Rejection::Invalid`] if a name appears twice, or is that of one that is not in scope,
/// [`Rejection::StaleFence`]
pub(super) fn sync(
    draft: &mut Draft<'_>,
    cluster: &Name,
    wanted: &[Advertisement],
    (scope, fence): (Scope, u64),
) -> Result<(), Rejection> {
    let mut names = BTreeSet::new();
    let taken: Vec<InvalidField> = (0..)
        .zip(wanted)
        .filter_map(|(index, one): (usize, _)| {
            let known = draft.state.advertisement(&one.key);
            let name = one.key.name.as_str();
            let message = if !names.insert(&one.key) {
                format!("duplicate definition of advertisement {name:?}")
            } else if known.is_some_and(|known| !scope.includes(&known.protocol)) {
                format!("{name:?} is an advertisement of the other protocol")
            } else {
                return None;
            };
            let field = format!("advertisements[{index}].name");
            Some(InvalidField { field, message })
        })
        .collect();
    if !taken.is_empty() {
        return Err(Rejection::Invalid(taken));
    }
    cluster::contact(draft, cluster, fence)?;
    let known = draft.state.advertisements();
    let known = known.filter(|one| one.key.cluster.as_ref() == Some(cluster));
    let known = known.filter(|one| scope.includes(&one.protocol));
    for gone in known.filter(|one| !names.contains(&one.key)) {
        draft.drop_advertisement(gone);
    }
    for one in wanted {
        put_if_changed(draft, one);
    }
    Ok(())
}

fn put_if_changed(draft: &mut Draft<'_>, wanted: &Advertisement) {
    let known = draft.state.advertisement(&wanted.key);
    let same = known.is_some_and(|known| {
        let stored: &Advertisement = Arc::as_ref(known);
        let wanted = Advertisement {
            revision: known.revision,
            ..wanted.clone()
        };
        *stored == wanted
    });
    if !same {
        draft.put_advertisement(known, wanted);
    }
}

fn describe(key: &AdvertisementKey) -> String {
    match &key.cluster {
        Some(cluster) => format!("{cluster}/{}", key.name),
        None => key.name.to_string(),
    }
}

#[cfg(test)]
mod tests;
