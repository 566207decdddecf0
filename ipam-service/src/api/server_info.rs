//! StatusService.

use pharos_proto::v1;
use pharos_proto::v1::status_service_server::StatusService;
use tonic::{Request, Response, Status};

use super::call::Api;
use super::status;

/// Abilities that a client may depend on.
const FEATURES: [&str; 13] = [
    // `if_revision` and `fence` are checked.
    "conditional-writes",
    // `if_refused: QUEUE` keeps claims and decides them again.
    "pending-claims",
    // `held_addresses` are tried first; BeginSync and EndSync bound an inventory.
    "inventory",
    // SyncPools and SyncAdvertisements decide on the end state.
    "whole-sets",
    // WatchAllocations resumes from a revision.
    "resumable-watch",
    // The assignment stream resumes by digests.
    "assignment-digests",
    // ListHoldings tells who held an address when, also beyond the log.
    "holdings",
    // WatchChanges sends every decision after a revision.
    "change-watch",
    // A claim's `reservation` is kept to.
    "reservations",
    // A claim's `dual_stack_pools` is kept to.
    "dual-stack-pools",
    // `ownership: FENCED` is kept to.
    "fenced-ownership",
    // SyncBgpPeers takes BGP peers and BFD profiles.
    "bgp-peers",
    // Advertisements may be of BGP, and SyncAdvertisements keeps to its `scope`.
    "bgp-advertisements",
];

/// Serves StatusService.
#[derive(Debug, Clone)]
pub struct ServerInfo(pub Api);

#[tonic::async_trait]
impl StatusService for ServerInfo {
    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let span = self.0.reader.log_span().await;
        let span = span.map_err(|error| status::of_read(&error))?;
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_id: self.0.store_id.to_string(),
            features: FEATURES.map(str::to_owned).to_vec(),
            revision: span.revision,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_is_in_the_reference_and_nothing_else() {
        let reference = include_str!("../../../proto/pharos/v1/status.proto");
        let listed = reference.lines().filter_map(|line| {
            let line = line.trim().strip_prefix("// - `")?;
            Some(line.split_once('`')?.0)
        });
        assert_eq!(listed.collect::<Vec<_>>(), FEATURES);
    }
}
