//! Calls of ipam-service: what the adapters have made of it, and what others do to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use pharos_proto::v1;
use pharos_testbed::wait;

use super::Stage;
use crate::site::DEADLINE;

impl Stage {
    /// Where ipam-service listens.
    pub fn book_address(&self) -> SocketAddr {
        self.book_address
    }

    /// Calls ipam-service.
    pub fn call<T, E: Into<anyhow::Error>, F: Future<Output = Result<T, E>>>(
        &self,
        call: impl FnOnce(tonic::transport::Channel) -> F,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            let endpoint = format!("http://{}", self.book_address);
            let channel = tonic::transport::Endpoint::new(endpoint)?.connect().await?;
            call(channel).await.map_err(Into::into)
        })
    }

    /// What a cluster holds or waits for, by `namespace/name`.
    pub fn allocations(&self, cluster: &str) -> anyhow::Result<BTreeMap<String, v1::Allocation>> {
        let mut all = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListAllocationsRequest {
                cluster: cluster.to_owned(),
                page_size: 1000,
                page_token,
                ..v1::ListAllocationsRequest::default()
            };
            let response = self.call(|channel| async move {
                let mut client =
                    v1::allocation_service_client::AllocationServiceClient::new(channel);
                client.list_allocations(request).await
            })?;
            let response = response.into_inner();
            all.extend(response.allocations.into_iter().map(|allocation| {
                let owner = allocation.owner.clone().unwrap_or_default();
                (format!("{}/{}", owner.namespace, owner.name), allocation)
            }));
            page_token = response.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// How often each owner of a cluster gave back what it had, by `namespace/name`.
    pub fn releases(&self, cluster: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let mut releases = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListChangesRequest {
                cluster: cluster.to_owned(),
                kind: v1::change::Kind::Allocation.into(),
                page_size: 1000,
                page_token,
                ..v1::ListChangesRequest::default()
            };
            let response = self.call(|channel| async move {
                let mut client = v1::history_service_client::HistoryServiceClient::new(channel);
                client.list_changes(request).await
            })?;
            let response = response.into_inner();
            for change in response.changes {
                let Some(v1::change::Subject::Allocation(its)) = change.subject else {
                    continue;
                };
                if let (Some(before), None) = (its.before, its.after) {
                    let owner = before.owner.unwrap_or_default();
                    let name = format!("{}/{}", owner.namespace, owner.name);
                    *releases.entry(name).or_default() += 1;
                }
            }
            page_token = response.next_page_token;
            if page_token.is_empty() {
                return Ok(releases);
            }
        }
    }

    /// Waits until a cluster holds, or waits for, exactly these, by `namespace/name`.
    pub fn wait_owners(&self, cluster: &str, owners: &[&str]) -> anyhow::Result<()> {
        wait::until_ok(
            &format!("owners of {cluster} are {owners:?}"),
            DEADLINE,
            || {
                let found: Vec<String> = self.allocations(cluster)?.into_keys().collect();
                if found != owners {
                    bail!("they are {found:?}");
                }
                Ok(())
            },
        )
    }

    /// Replaces a cluster's pools by one with these addresses, behind its adapter's back.
    pub fn force_pool(&self, cluster: &str, name: &str, addresses: &[&str]) -> anyhow::Result<()> {
        let request = v1::SyncPoolsRequest {
            cluster: cluster.to_owned(),
            pools: vec![v1::Pool {
                name: name.to_owned(),
                addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
                ..v1::Pool::default()
            }],
            ..v1::SyncPoolsRequest::default()
        };
        self.call(|channel| async move {
            let mut client = v1::pool_service_client::PoolServiceClient::new(channel);
            client.sync_pools(request).await
        })?;
        Ok(())
    }

    /// Which nodes are to announce each address of a cluster.
    pub fn assignments(&self, cluster: &str) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let request = v1::ListAssignmentsRequest {
            cluster: cluster.to_owned(),
        };
        let response = self.call(|channel| async move {
            let mut client = v1::announcer_service_client::AnnouncerServiceClient::new(channel);
            client.list_assignments(request).await
        })?;
        let assignments = response.into_inner().assignments.into_iter();
        Ok(assignments
            .map(|mut assignment| {
                assignment.nodes.sort();
                (assignment.address, assignment.nodes)
            })
            .collect())
    }

    /// Waits until exactly these nodes are to announce an address.
    pub fn wait_nodes(&self, cluster: &str, address: &str, nodes: &[&str]) -> anyhow::Result<()> {
        wait::until_ok(&format!("announced by {nodes:?}"), DEADLINE, || {
            let assignments = self.assignments(cluster)?;
            let found = assignments.get(address).cloned().unwrap_or_default();
            anyhow::ensure!(found == nodes, "by {found:?}");
            Ok(())
        })
    }

    /// Waits until an address is to be announced; gives its election group.
    pub fn wait_group(&self, cluster: &str, address: &str) -> anyhow::Result<u64> {
        wait::until_ok(&format!("{address} is to be announced"), DEADLINE, || {
            let request = v1::ListAnnouncementsRequest {
                cluster: cluster.to_owned(),
                address: address.to_owned(),
                ..v1::ListAnnouncementsRequest::default()
            };
            let response = self.call(|channel| async move {
                let mut client =
                    v1::announcement_service_client::AnnouncementServiceClient::new(channel);
                client.list_announcements(request).await
            })?;
            let found = response.into_inner().announcements;
            let announcement = found.first().context("nobody holds it")?;
            anyhow::ensure!(!announcement.nodes.is_empty(), "by no node");
            Ok(announcement.group)
        })
    }

    /// Says that an announcer runs on this node of a cluster, as long as the answer lives.
    pub fn pretend_announcer(&self, cluster: &str, node: &str) -> anyhow::Result<Pretender> {
        let hello = v1::AnnouncerReport {
            report: Some(v1::announcer_report::Report::Hello(
                v1::announcer_report::Hello {
                    cluster: cluster.to_owned(),
                    node: node.to_owned(),
                    member_endpoint: "192.0.2.200:7946".to_owned(),
                    ..v1::announcer_report::Hello::default()
                },
            )),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(hello)?;
        let reports = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let updates = self.call(|channel| async move {
            let mut client = v1::announcer_service_client::AnnouncerServiceClient::new(channel);
            client.announce(reports).await
        })?;
        Ok(Pretender {
            sender,
            updates: updates.into_inner(),
            runtime: self.runtime.handle().clone(),
        })
    }
}

/// See [`Stage::pretend_announcer`].
#[derive(Debug)]
pub struct Pretender {
    sender: tokio::sync::mpsc::Sender<v1::AnnouncerReport>,
    updates: tonic::Streaming<v1::AssignmentUpdate>,
    runtime: tokio::runtime::Handle,
}

impl Pretender {
    /// Waits until it is told to announce an address, or to stop: whichever it is told next.
    pub fn wait_told(&mut self, address: &str, announces: bool) -> anyhow::Result<()> {
        let told = async {
            while let Some(update) = self.updates.message().await? {
                let Some(v1::assignment_update::Update::Changes(changes)) = update.update else {
                    continue;
                };
                let added = changes.upserts.iter();
                let mut added = added
                    .filter(|it| !it.nodes.is_empty())
                    .map(|it| &it.address);
                let emptied = changes.upserts.iter().filter(|it| it.nodes.is_empty());
                let removed = changes.removals.iter().map(|it| &it.address);
                let mut removed = removed.chain(emptied.map(|it| &it.address));
                if announces && added.any(|it| it == address)
                    || !announces && removed.any(|it| it == address)
                {
                    return Ok(());
                }
            }
            bail!("the stream has ended")
        };
        let in_time = self
            .runtime
            .block_on(async { tokio::time::timeout(DEADLINE, told).await });
        in_time.with_context(|| format!("not told of {address} within {DEADLINE:?}"))?
    }

    /// Says that it answers for a group on these interfaces.
    pub fn owns(&self, group: u64, interfaces: &[&str]) -> anyhow::Result<()> {
        let ownership = v1::Ownership {
            group,
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            ..v1::Ownership::default()
        };
        self.say(v1::announcer_report::Status {
            owned: vec![ownership],
            ..v1::announcer_report::Status::default()
        })
    }

    /// Says that it does not answer for a group any more.
    pub fn loses(&self, group: u64) -> anyhow::Result<()> {
        self.say(v1::announcer_report::Status {
            lost: vec![group],
            ..v1::announcer_report::Status::default()
        })
    }

    fn say(&self, status: v1::announcer_report::Status) -> anyhow::Result<()> {
        let report = v1::announcer_report::Report::Status(status);
        self.sender.blocking_send(v1::AnnouncerReport {
            report: Some(report),
        })?;
        Ok(())
    }
}
