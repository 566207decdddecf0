//! What the adapter does when it first meets an ipam-service, without anything that it would write to
//! Kubernetes: pools, then a claim for each Service that has an address, then the end of the inventory.

use futures::{StreamExt as _, TryStreamExt as _};
use pharos_process::Readiness;
use pharos_proto::v1;
use prometheus_client::registry::Registry;

use crate::ask::{adopt, ask};
use crate::client::{CallError, Ipam};
use crate::context::Context;
use crate::index::Index;
use crate::kubernetes::Clients;
use crate::metrics::Metrics;
use crate::plan::{Link, Step};
use crate::service::ServiceKey;
use crate::session::{self, SessionError};
use crate::world::{Next, World};

/// Claims under way at once.
const AT_ONCE: usize = 64;
/// Most looks at one Service: asking is one, and what follows from the answer another.
const LOOKS: usize = 4;

/// Who is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Services that have addresses: MetalLB still gives others theirs.
    Holders,
    /// All Services.
    Everybody,
}

/// Why the inventory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("ipam-service: {0}")]
    Call(#[from] CallError),
    #[error("ipam-service has other pools of this cluster, and these would move {0}")]
    Moves(String),
}

/// What would be shared by an adapter's drivers, with all that was read.
pub fn context(index: Index, ipam: Ipam, kube: Clients, namespace: &str) -> Context {
    let mut world = World::new(ipam.settings().clone());
    world.index = index;
    let metrics = Metrics::register(&mut Registry::default());
    let readiness = Readiness::default();
    let namespace = namespace.to_owned();
    Context::new(world, kube, ipam, namespace, None, readiness, metrics)
}

/// Makes the inventory of the cluster at the context's ipam-service.
pub async fn inventory(
    context: &Context,
    cluster_uid: &str,
    pools: &[v1::Pool],
    whom: Whom,
) -> Result<(), AdoptError> {
    session::learn(context, cluster_uid).await?;
    let moves = context.ipam.sync_pools(pools.to_vec(), true).await?;
    if let Some(owner) = moves.first() {
        let first = format!("{}/{}", owner.namespace, owner.name);
        let words = match moves.len() {
            1 => first,
            more => format!("{first} and {} more Services", more - 1),
        };
        return Err(AdoptError::Moves(words));
    }
    context.ipam.sync_pools(pools.to_vec(), false).await?;
    session::report_holders(context).await?;
    if context.world().book.refused_adoptions() == 0 {
        // Whoever began it again meanwhile, an adapter, ends it.
        context.ipam.end_sync().await?;
    }
    context.world().link = Link::Up;
    if whom == Whom::Everybody {
        let everything = context.world().everything();
        futures::stream::iter(everything)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |key| async move { look(context, &key).await })
            .await?;
    }
    Ok(())
}

/// Asks for what a Service is to have, as often as the adapter would.
async fn look(context: &Context, key: &ServiceKey) -> Result<(), CallError> {
    for _ in 0..LOOKS {
        let next = context.world().next(key);
        match next {
            Next::Of(service, Step::Ask(claim)) => {
                ask(context, &claim, &service.addresses()).await?;
            }
            Next::Of(service, Step::Adopt(claim)) => {
                adopt(context, &claim, &service.addresses()).await?;
            }
            Next::Of(_, _) | Next::ReleaseGone { .. } | Next::Nothing => return Ok(()),
        }
    }
    Ok(())
}
