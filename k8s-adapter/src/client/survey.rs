//! Questions before a cluster is served by an ipam-service. None of them changes anything.

use std::fmt;
use std::net::IpAddr;

use pharos_proto::net::format_address;
use pharos_proto::v1;

use super::{CallError, Ipam, PAGE, timed};
use crate::claim::Settings;
use crate::service::ServiceKey;

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    cluster: String,
    key: ServiceKey,
}

impl Holder {
    /// The name of the holder, if it is of this cluster.
    pub fn in_cluster(&self, cluster: &str) -> Option<&ServiceKey> {
        (self.cluster == cluster).then_some(&self.key)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.name.as_str() {
            // Another cluster's names may be hidden.
            "" => write!(f, "cluster {:?}", self.cluster),
            _ => write!(f, "{} of cluster {:?}", self.key, self.cluster),
        }
    }
}

impl Ipam {
    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The version of ipam-service, if it answers.
    pub async fn server_version(&self) -> Result<String, CallError> {
        let request = timed(v1::GetServerInfoRequest {});
        let info = self.status.clone().get_server_info(request).await?;
        Ok(info.into_inner().version)
    }

    /// Whether it would serve this cluster with these pools; a refusal says why not.
    pub async fn would_serve(
        &self,
        cluster_uid: &str,
        pools: Vec<v1::Pool>,
    ) -> Result<(), CallError> {
        self.check_features().await?;
        let request = v1::BeginSyncRequest {
            cluster: self.settings.cluster.clone(),
            cluster_uid: cluster_uid.to_owned(),
            validate_only: true,
            ..v1::BeginSyncRequest::default()
        };
        self.clusters.clone().begin_sync(timed(request)).await?;
        match self.sync_pools(pools, true).await?.first() {
            None => Ok(()),
            Some(owner) => Err(CallError::Refused(format!(
                "it has other pools of this cluster, and these would move {}/{}",
                owner.namespace, owner.name
            ))),
        }
    }

    /// Names of clusters that are known, a page of them at most.
    pub async fn known_clusters(&self) -> Result<Vec<String>, CallError> {
        let request = v1::ListClustersRequest {
            page_size: PAGE,
            ..v1::ListClustersRequest::default()
        };
        let list = self.clusters.clone().list_clusters(timed(request)).await?;
        let clusters = list.into_inner().clusters.into_iter();
        Ok(clusters.map(|cluster| cluster.name).collect())
    }

    /// Who holds an address, of all clusters.
    pub async fn holders(
        &self,
        address_space: &str,
        address: IpAddr,
    ) -> Result<Vec<Holder>, CallError> {
        let request = v1::ListAllocationsRequest {
            address: format_address(address),
            address_space: address_space.to_owned(),
            page_size: PAGE,
            ..v1::ListAllocationsRequest::default()
        };
        let list = self
            .allocations
            .clone()
            .list_allocations(timed(request))
            .await?;
        let owners = list.into_inner().allocations.into_iter();
        let owners = owners.filter_map(|allocation| allocation.owner);
        Ok(owners
            .map(|owner| Holder {
                cluster: owner.cluster,
                key: ServiceKey::new(owner.namespace, owner.name),
            })
            .collect())
    }
}
