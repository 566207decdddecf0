//! A fleet of announcers behind the real ipam-service, without Kubernetes.
//!
//! ```text
//!   ipam     192.168.12.1     ipam-service
//!   n1..n3   192.168.12.11+   announcers, each with the label `host` of its name
//!   client   192.168.12.200   asks
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use pharos_proto::v1;
use pharos_proto::v1::advertisement::l2::Ownership;
use pharos_proto::v1::advertisement::{L2, Protocol};
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_testbed::{Host, Lan, Launch, Program, http, skip, wait};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Cluster of all announcers.
pub const CLUSTER: &str = "east";
/// Longest wait for anything that should happen soon; machines that run tests are busy.
pub const SOON: Duration = Duration::from_secs(20);
/// The admin listener of ipam-service.
const IPAM_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7472);
/// The admin listener of an announcer.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7473);

/// The fleet. Dropping it ends all of it.
#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: programs before what they talk to, namespaces last.
    announcers: BTreeMap<String, Program>,
    ipam: Option<Program>,
    runtime: tokio::runtime::Runtime,
    directory: TempDir,
    /// The hosts.
    pub lan: Lan,
}

impl Fleet {
    /// Starts ipam-service and an announcer on each of these nodes (of n1, n2, n3); `None`, after a
    /// loud line, where that cannot run.
    pub fn start(nodes: &[&str]) -> anyhow::Result<Option<Self>> {
        if !skip::can_use_namespaces() {
            return Ok(None);
        }
        let lan = Lan::new(&[
            ("ipam", "192.168.12.1/24"),
            ("n1", "192.168.12.11/24"),
            ("n2", "192.168.12.12/24"),
            ("n3", "192.168.12.13/24"),
            ("client", "192.168.12.200/24"),
        ])?;
        let mut fleet = Self {
            announcers: BTreeMap::new(),
            ipam: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            directory: tempfile::Builder::new().prefix("pharos-fleet-").tempdir()?,
            lan,
        };
        fleet.start_ipam()?;
        for node in nodes {
            fleet.start_announcer(node)?;
        }
        Ok(Some(fleet))
    }

    /// Starts ipam-service, which makes its database if it is not there.
    pub fn start_ipam(&mut self) -> anyhow::Result<()> {
        let host = self.lan.host("ipam")?;
        let mut ipam = Launch::workspace("ipam-service")?
            .args(["--listen", "192.168.12.1:7471", "--insecure", "--create"])
            .arg("--database")
            .arg(format!("sqlite:{}", self.database().display()))
            .start_in(&host.namespace)?;
        ipam.wait_ready(Some(&host.namespace), IPAM_ADMIN, SOON)?;
        self.ipam = Some(ipam);
        Ok(())
    }

    /// Ends ipam-service with `kill -9`.
    pub fn kill_ipam(&mut self) -> anyhow::Result<()> {
        self.ipam.take().context("ipam-service runs")?.kill()
    }

    /// Path of the database.
    pub fn database(&self) -> PathBuf {
        self.directory.path().join("pharos.db")
    }

    /// Starts the announcer of a node, with the state directory that it had.
    pub fn start_announcer(&mut self, node: &str) -> anyhow::Result<()> {
        let host = self.lan.host(node)?;
        let mut announcer = Launch::workspace("announcer")?
            .named(&format!("announcer of {node}"))
            .args(["--cluster", CLUSTER, "--node", node])
            .args(["--label", &format!("host={node}"), "--hold-down", "0"])
            .args(["--ipam", "http://192.168.12.1:7471", "--state-dir"])
            .arg(self.directory.path().join(node))
            .start_in(&host.namespace)?;
        announcer.wait_ready(Some(&host.namespace), ADMIN, SOON)?;
        self.announcers.insert(node.to_owned(), announcer);
        Ok(())
    }

    /// The announcer of a node.
    pub fn announcer(&mut self, node: &str) -> anyhow::Result<&mut Program> {
        self.announcers.get_mut(node).context("no such announcer")
    }

    /// The host of the client.
    pub fn client(&self) -> anyhow::Result<&Host> {
        self.lan.host("client")
    }

    /// Waits until a metric of a node has a value; `name` with its labels.
    pub fn wait_metric(&self, node: &str, name: &str, value: &str) -> anyhow::Result<()> {
        let line = format!("{name} {value}");
        let namespace = &self.lan.host(node)?.namespace;
        wait::until(&format!("{node} shows {line}"), SOON, || {
            let get = || http::get(ADMIN, "/metrics", Duration::from_secs(5));
            let (_, text) = namespace.run(get).ok()?.ok()?;
            text.lines().any(|found| found == line).then_some(())
        })
    }

    /// Calls ipam-service, over a connection of its own, from the host on which that runs.
    pub fn call<T, F>(&self, call: impl FnOnce(Channel) -> F + Send) -> anyhow::Result<T>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let host = self.lan.host("ipam")?;
        host.namespace.run(|| {
            self.runtime.block_on(async {
                let endpoint = Endpoint::from_static("http://192.168.12.1:7471");
                let channel = endpoint.connect().await?;
                Ok(call(channel).await?.into_inner())
            })
        })?
    }

    /// Makes a pool of this range.
    pub fn apply_pool(&self, range: &str) -> anyhow::Result<()> {
        let pool = v1::Pool {
            name: "default-pool".to_owned(),
            addresses: vec![range.to_owned()],
            ..v1::Pool::default()
        };
        let request = v1::ApplyPoolRequest {
            pool: Some(pool),
            ..v1::ApplyPoolRequest::default()
        };
        self.call(|channel| async {
            let mut pools = PoolServiceClient::new(channel);
            pools.apply_pool(Request::new(request)).await
        })?;
        Ok(())
    }

    /// Announces every pool on the nodes with one of these `host` labels (none: on all), on these
    /// interfaces.
    pub fn advertise(&self, name: &str, hosts: &[&str], interfaces: &[&str]) -> anyhow::Result<()> {
        self.advertise_as(Ownership::Available, name, hosts, interfaces)
    }

    /// The same with this promise about owners.
    pub fn advertise_as(
        &self,
        ownership: Ownership,
        name: &str,
        hosts: &[&str],
        interfaces: &[&str],
    ) -> anyhow::Result<()> {
        let selector = |host: &&str| v1::LabelSelector {
            match_labels: [("host".to_owned(), (*host).to_owned())].into(),
            ..v1::LabelSelector::default()
        };
        let l2 = L2 {
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            ownership: ownership.into(),
            ..L2::default()
        };
        let advertisement = v1::Advertisement {
            name: name.to_owned(),
            cluster: CLUSTER.to_owned(),
            node_selectors: hosts.iter().map(selector).collect(),
            protocol: Some(Protocol::L2(l2)),
            ..v1::Advertisement::default()
        };
        let request = v1::ApplyAdvertisementRequest {
            advertisement: Some(advertisement),
            ..v1::ApplyAdvertisementRequest::default()
        };
        self.call(|channel| async {
            let mut advertisements = AdvertisementServiceClient::new(channel);
            let request = Request::new(request);
            advertisements.apply_advertisement(request).await
        })?;
        Ok(())
    }

    /// Gives an address to an owner of this name.
    pub fn allocate(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        self.allocate_of(name, vec![address.to_string()]).map(drop)
    }

    /// Gives an owner of this name what the service chooses.
    pub fn allocate_any(&self, name: &str) -> anyhow::Result<Vec<String>> {
        self.allocate_of(name, Vec::new())
    }

    fn allocate_of(&self, name: &str, addresses: Vec<String>) -> anyhow::Result<Vec<String>> {
        let request = v1::AllocateRequest {
            owner: Some(owner(name)),
            addresses,
            ..v1::AllocateRequest::default()
        };
        let answer = self.call(|channel| async {
            let mut allocations = AllocationServiceClient::new(channel);
            allocations.allocate(Request::new(request)).await
        })?;
        Ok(answer.allocation.unwrap_or_default().addresses)
    }

    /// The conflicts that ipam-service lists.
    pub fn conflicts(&self) -> anyhow::Result<Vec<v1::SeenConflict>> {
        let request = v1::ListConflictsRequest {
            cluster: CLUSTER.to_owned(),
            ..v1::ListConflictsRequest::default()
        };
        let listed = self.call(|channel| async {
            let mut announcements = AnnouncementServiceClient::new(channel);
            announcements.list_conflicts(request).await
        })?;
        Ok(listed.conflicts)
    }

    /// Takes back what an owner of this name holds.
    pub fn release(&self, name: &str) -> anyhow::Result<()> {
        let request = v1::ReleaseRequest {
            owner: Some(owner(name)),
            ..v1::ReleaseRequest::default()
        };
        self.call(|channel| async {
            let mut allocations = AllocationServiceClient::new(channel);
            allocations.release(Request::new(request)).await
        })?;
        Ok(())
    }
}

fn owner(name: &str) -> v1::Owner {
    v1::Owner {
        cluster: CLUSTER.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        ..v1::Owner::default()
    }
}
