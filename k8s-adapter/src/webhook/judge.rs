//! Judges a change by what is known, which may be late. What is said to people's mistakes holds in any
//! case; that something clashes with other objects is said only if they are there now.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::review::Review;
use crate::confirm::list;
use crate::context::Context;
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement,
};
use crate::index::{Index, Kind};
use crate::kubernetes::KubeError;
use crate::policy::admission::Verdict;
use crate::watches::Watched;

/// Longest time for the lists that confirm a refusal: the API server waits for two seconds.
const CONFIRM: Duration = Duration::from_secs(1);
/// What counts for verdicts.
const KINDS: [Kind; 7] = [
    Kind::Nodes,
    Kind::Pools,
    Kind::L2Advertisements,
    Kind::BgpAdvertisements,
    Kind::Communities,
    Kind::BgpPeers,
    Kind::BfdProfiles,
];
const NOT_LISTED: &str = "not checked against all other objects: not all of them are known yet";
const NOT_CONFIRMED: &str =
    "not checked against other objects: the API server did not list them in time";

/// What is said to a change, within little more than [`CONFIRM`]. Asks nobody but the API server.
pub async fn judge(context: &Context, review: &Review) -> Verdict {
    let asked = Instant::now();
    let (index, is_all) = {
        let world = context.world();
        let is_there = |kind: &Kind| world.index.has(*kind) || world.absent.contains(kind);
        (world.index.declarations(), KINDS.iter().all(is_there))
    };
    let mut known = judge_by(context, review, Arc::new(index)).await;
    if !known.errors.is_empty() {
        let alone = judge_by(context, review, Arc::default()).await;
        if alone.errors != known.errors {
            let view = context.views.since(asked, context);
            return match tokio::time::timeout(CONFIRM, view).await {
                Ok(Ok(index)) => judge_by(context, review, index).await,
                Ok(Err(error)) => unconfirmed(alone, &error.to_string()),
                Err(_) => unconfirmed(alone, "too slow"),
            };
        }
    }
    if !is_all {
        known.warnings.push(NOT_LISTED.to_owned());
    }
    known
}

/// Beside everybody else's work, and without what is known of the cluster: whoever reaches the port may send
/// an object as large as a question can be.
async fn judge_by(context: &Context, review: &Review, index: Arc<Index>) -> Verdict {
    let (review, namespace) = (review.clone(), context.namespace.clone());
    let settings = context.world().settings.clone();
    let judged = move || review.judge(&index.objects(), &namespace, &settings);
    match tokio::task::spawn_blocking(judged).await {
        Ok(verdict) => verdict,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process stops, and nobody waits for the answer.
            Err(_) => Verdict::default(),
        },
    }
}

fn unconfirmed(mut verdict: Verdict, error: &str) -> Verdict {
    tracing::warn!(
        error,
        "a clash with other objects could not be confirmed, and counts as none"
    );
    verdict.warnings.push(NOT_CONFIRMED.to_owned());
    verdict
}

/// What the API server has, for several questions at once: a list that began after a question came answers
/// it. Whoever may change objects makes the API server list all of them twice in that time, and not once
/// for each change.
#[derive(Debug, Default)]
pub struct Views {
    /// When the last one began. Locked while there is a list under way.
    last: Mutex<Option<(Instant, Arc<Index>)>>,
}

impl Views {
    async fn since(&self, asked: Instant, context: &Context) -> Result<Arc<Index>, KubeError> {
        let mut last = self.last.lock().await;
        if let Some((begun, view)) = last.as_ref()
            && *begun >= asked
        {
            return Ok(Arc::clone(view));
        }
        let begun = Instant::now();
        let view = Arc::new(live(context).await?);
        *last = Some((begun, Arc::clone(&view)));
        Ok(view)
    }
}

/// What there is now, but for nodes, which say nothing that one would wait for.
async fn live(context: &Context) -> Result<Index, KubeError> {
    let (pools, l2, bgp, communities, peers, profiles) = tokio::try_join!(
        list::<DeserializeGuard<IPAddressPool>>(context),
        list::<DeserializeGuard<L2Advertisement>>(context),
        list::<DeserializeGuard<BGPAdvertisement>>(context),
        list::<DeserializeGuard<Community>>(context),
        list::<DeserializeGuard<BGPPeer>>(context),
        list::<DeserializeGuard<BFDProfile>>(context),
    )?;
    let mut index = Index::default();
    put::<DeserializeGuard<IPAddressPool>>(&mut index, pools);
    put::<DeserializeGuard<L2Advertisement>>(&mut index, l2);
    put::<DeserializeGuard<BGPAdvertisement>>(&mut index, bgp);
    put::<DeserializeGuard<Community>>(&mut index, communities);
    put::<DeserializeGuard<BGPPeer>>(&mut index, peers);
    put::<DeserializeGuard<BFDProfile>>(&mut index, profiles);
    index.share_nodes(&context.world().index);
    Ok(index)
}

/// A kind that the API server does not know stays unknown.
fn put<K: Watched>(index: &mut Index, list: Option<Vec<K::Kept>>) {
    if let Some(list) = list {
        K::replace(index, list);
    }
}

#[cfg(test)]
mod tests;
