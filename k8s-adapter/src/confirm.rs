//! Whether pools and advertisements are known as they are. A watch may stand still without a word,
//! and what it has brought until then is then an old set, which must take the place of no newer one
//! that another replica has handed over.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Resource};

use crate::context::Context;
use crate::crd::{IPAddressPool, L2Advertisement, L2Spec, PoolSpec};
use crate::index::{Index, Kind, PoolState};
use crate::kubernetes::{KubeError, within};
use crate::policy::Declared;
use crate::watches::Watched;

/// Longest time for the lists. Nobody is hurt by a set that is handed over later.
const LISTS: Duration = Duration::from_secs(3);

/// Why there is no live view.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    #[error("no list within {} s", LISTS.as_secs())]
    Slow,
    #[error(transparent)]
    Kube(#[from] KubeError),
}

/// What the API server has now; `None` for a kind that it does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pools: Option<Vec<Declared<PoolSpec>>>,
    advertisements: Option<Vec<Declared<L2Spec>>>,
}

impl Live {
    /// Reads it, from no cache of this process.
    pub async fn read(context: &Context) -> Result<Self, ConfirmError> {
        let pools = list::<DeserializeGuard<IPAddressPool>>(context);
        let advertisements = list::<DeserializeGuard<L2Advertisement>>(context);
        let both = async { tokio::try_join!(pools, advertisements) };
        let lists = tokio::time::timeout(LISTS, both).await;
        let (pools, advertisements) = lists.map_err(|_| ConfirmError::Slow)??;
        let declared =
            |pools: Vec<PoolState>| pools.into_iter().map(|pool| pool.declared).collect();
        Ok(Self {
            pools: pools.map(declared),
            advertisements,
        })
    }

    /// Whether every kind that the index declares is in it as it is. Of pools only what people write
    /// counts: their status changes all the time.
    pub fn agrees(&self, index: &Index) -> bool {
        let pools = index.pools().map(|pool| &pool.declared);
        let same = |kind, same: bool| same || !index.declares(kind);
        same(Kind::Pools, are_same(self.pools.as_deref(), pools))
            && same(
                Kind::L2Advertisements,
                are_same(self.advertisements.as_deref(), index.objects().l2.iter()),
            )
    }
}

/// `known` comes in the order of names, and so do lists of an API server over etcd.
fn are_same<'a, S: PartialEq + 'a>(
    live: Option<&[Declared<S>]>,
    known: impl Iterator<Item = &'a Declared<S>>,
) -> bool {
    live.is_some_and(|live| known.eq(live.iter()))
}

async fn list<K>(context: &Context) -> Result<Option<Vec<K::Kept>>, KubeError>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(context.kube.calls.clone(), &context.namespace);
    match within(api.list(&ListParams::default())).await {
        Ok(list) => Ok(Some(list.items.into_iter().filter_map(K::keep).collect())),
        Err(KubeError::Failed(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pool(name: &str, range: &str) -> PoolState {
        let spec = serde_json::from_value(serde_json::json!({ "addresses": [range] }));
        PoolState {
            uid: "u".to_owned(),
            declared: Declared {
                name: name.to_owned(),
                labels: BTreeMap::new(),
                spec: Ok(spec.expect("a spec")),
            },
            status: None,
        }
    }

    fn live(pools: Option<&[PoolState]>) -> Live {
        Live {
            pools: pools.map(|pools| pools.iter().map(|it| it.declared.clone()).collect()),
            advertisements: Some(Vec::new()),
        }
    }

    #[test]
    fn a_view_is_current_if_all_that_it_declares_is_as_it_is_now() {
        let (a, b) = (pool("a", "192.0.2.0/28"), pool("b", "198.51.100.0/28"));
        let mut index = Index::default();
        index.replace_pools(vec![a.clone(), b.clone()]);
        let edited = pool("b", "198.51.100.0/29");
        for (pools, expected) in [
            (Some(&[a.clone(), b.clone()][..]), true),
            (Some(&[a.clone(), edited][..]), false),
            (Some(std::slice::from_ref(&a)), false),
            (Some(&[]), false),
            // The definition is gone: that nothing is left was not declared by anybody.
            (None, false),
        ] {
            assert_eq!(live(pools).agrees(&index), expected, "{pools:?}");
        }
        let mut used = a.clone();
        used.status = Some(crate::crd::PoolStatus::default());
        index.apply_pool(used);
        assert!(live(Some(&[a, b])).agrees(&index), "a status counts");
    }

    #[test]
    fn what_is_not_declared_need_not_be_there() {
        let mut index = Index::default();
        assert!(live(None).agrees(&index));
        index.replace_pools(Vec::new());
        assert!(live(None).agrees(&index));
        // All of it was deleted, one by one.
        let a = pool("a", "192.0.2.0/28");
        index.apply_pool(a.clone());
        index.delete_pool("a");
        assert!(live(Some(&[])).agrees(&index));
        assert!(!live(Some(&[a])).agrees(&index));
        assert!(!live(None).agrees(&index));
    }
}
