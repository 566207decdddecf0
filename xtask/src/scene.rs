//! ipam-service and announcers on a LAN of namespaces: the stage of the demo and of the benchmarks.
//!
//! ```text
//!   service  192.168.12.2    ipam-service on SQLite
//!   node-N   192.168.12.1N   an announcer each
//!   client   192.168.12.50   asks by ARP, and by HTTP
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::{
    Advertisement, AllocateRequest, Allocation, ApplyAdvertisementRequest, ApplyPoolRequest,
    ListAssignmentsRequest, ListAssignmentsResponse, Owner, Pool, Port, advertisement, port,
};
use pharos_testbed::arp::Prober;
use pharos_testbed::{Host, Lan, Launch, Program, http, wait};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::client;

const DEADLINE: Duration = Duration::from_secs(30);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);
const CLUSTER: &str = "demo";

/// A LAN with the service and some announcers. Dropping it ends and removes everything.
pub(crate) struct Scene {
    // Programs end before their namespaces go.
    service: Program,
    announcers: Vec<Option<Program>>,
    lan: Lan,
    directory: TempDir,
    flags: Vec<String>,
}

impl Scene {
    /// Starts everything and waits until it is ready. The nodes have made out one another when
    /// this returns.
    pub(crate) fn start(nodes: usize) -> anyhow::Result<Self> {
        Self::start_with(nodes, &[])
    }

    /// The same; the announcers get these flags besides the usual ones.
    pub(crate) fn start_with(nodes: usize, flags: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("pharos-scene-").tempdir()?;
        let mut lan = Lan::new(&[
            ("service", "192.168.12.2/24"),
            ("client", "192.168.12.50/24"),
        ])?;
        for index in 0..nodes {
            lan.add(&node_name(index), &format!("192.168.12.{}/24", 11 + index))?;
        }
        let service = start_service(lan.host("service")?, directory.path().join("pharos.db"))?;
        let mut scene = Self {
            service,
            announcers: Vec::new(),
            lan,
            directory,
            flags: flags.iter().map(ToString::to_string).collect(),
        };
        for index in 0..nodes {
            scene.announcers.push(None);
            scene.start_announcer(index)?;
        }
        Ok(scene)
    }

    pub(crate) fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Plugs one more host in.
    pub(crate) fn add_host(&mut self, name: &str, address: &str) -> anyhow::Result<&Host> {
        self.lan.add(name, address)
    }

    /// The switch forwards nothing to or from a node.
    pub(crate) fn isolate(&mut self, index: usize) -> anyhow::Result<()> {
        self.lan.isolate(&node_name(index))
    }

    /// The switch forwards everything again.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        self.lan.heal()
    }

    pub(crate) fn client(&self) -> anyhow::Result<&Host> {
        self.lan.host("client")
    }

    /// The host of a node.
    pub(crate) fn node(&self, index: usize) -> anyhow::Result<&Host> {
        self.lan.host(&node_name(index))
    }

    pub(crate) fn service(&mut self) -> &mut Program {
        &mut self.service
    }

    /// Starts ipam-service again on the database it had.
    pub(crate) fn restart_service(&mut self) -> anyhow::Result<()> {
        let database = self.directory.path().join("pharos.db");
        self.service = start_service(self.lan.host("service")?, database)?;
        Ok(())
    }

    /// The announcer of a node, if it runs.
    pub(crate) fn announcer(&mut self, index: usize) -> anyhow::Result<&mut Program> {
        let slot = self.announcers.get_mut(index).and_then(Option::as_mut);
        slot.with_context(|| format!("no announcer on {}", node_name(index)))
    }

    /// Starts the announcer of a node and waits until it is ready.
    pub(crate) fn start_announcer(&mut self, index: usize) -> anyhow::Result<()> {
        let name = node_name(index);
        let host = self.lan.host(&name)?;
        let mut announcer = Launch::workspace("announcer")?
            .named(&format!("announcer of {name}"))
            .args(["--ipam", &format!("http://{}", service_address())])
            .args(["--cluster", CLUSTER, "--node", &name])
            .args(["--admin", &ADMIN.to_string()])
            .args(["--members-listen", &format!("{}:7946", host.address)])
            .arg("--state-dir")
            .arg(self.directory.path().join(&name))
            .args(&self.flags)
            // Tells in the log when its timers fire late.
            .env("RUST_LOG", "info,announcer::engine=debug")
            .start_in(&host.namespace)?;
        announcer.wait_ready(Some(&host.namespace), ADMIN, DEADLINE)?;
        self.announcers[index] = Some(announcer);
        Ok(())
    }

    /// Waits until the announcer of a node follows ipam-service (again).
    pub(crate) fn wait_until_followed(&self, index: usize) -> anyhow::Result<()> {
        self.wait_metric(index, "pharos_announcer_stream_connected", 1)
    }

    /// Waits until the announcer of a node has made out so many others.
    pub(crate) fn wait_until_met(&self, index: usize, others: usize) -> anyhow::Result<()> {
        self.wait_metric(index, "pharos_announcer_members_alive", others as u64)
    }

    fn wait_metric(&self, index: usize, name: &str, expected: u64) -> anyhow::Result<()> {
        let what = format!("{name} is {expected} on {}", node_name(index));
        wait::until_ok(&what, DEADLINE, || {
            let value = self.metric(index, name)?;
            anyhow::ensure!(value == expected, "it is {value}");
            Ok(())
        })
    }

    /// A whole number that the announcer of a node shows; `name` with its labels.
    pub(crate) fn metric(&self, index: usize, name: &str) -> anyhow::Result<u64> {
        let host = self.node(index)?;
        let ask = || http::get(ADMIN, "/metrics", Duration::from_secs(2));
        let (_, metrics) = host.namespace.run(ask)??;
        let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
        let value = lines.find_map(|(found, value)| (found == name).then_some(value));
        value
            .with_context(|| format!("no {name}"))?
            .parse()
            .context(name.to_owned())
    }

    /// Calls ipam-service from the client's namespace.
    pub(crate) fn call<T: Send>(
        &self,
        work: impl AsyncFnOnce(Channel) -> Result<T, tonic::Status> + Send,
    ) -> anyhow::Result<T> {
        client::call(Some(&self.client()?.namespace), service_address(), work)
    }

    /// Waits until some node answers ARP for an address.
    pub(crate) fn wait_until_answered(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let prober = Prober::start(self.client()?, &[address])?;
        prober.wait_answer(address, Duration::ZERO, None, DEADLINE)?;
        Ok(())
    }

    /// The addresses that the service streams, in order.
    pub(crate) fn assigned(&self) -> anyhow::Result<Vec<Ipv4Addr>> {
        let answer = self.call(list_assignments)?;
        let texts = answer
            .assignments
            .iter()
            .map(|assignment| &assignment.address);
        let mut addresses = texts
            .map(|text| text.parse().with_context(|| format!("address {text:?}")))
            .collect::<anyhow::Result<Vec<Ipv4Addr>>>()?;
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Waits until the service streams `count` addresses, each with every node as a candidate.
    pub(crate) fn wait_for_assignments(&self, count: usize, nodes: usize) -> anyhow::Result<()> {
        wait::until_ok("the assignments", DEADLINE, || {
            let answer = self.call(list_assignments)?;
            let complete = answer.assignments.len() == count
                && answer.assignments.iter().all(|assignment| {
                    let candidates = |set: &&pharos_proto::v1::NodeSet| {
                        set.id == assignment.candidates && set.nodes.len() == nodes
                    };
                    answer.node_sets.iter().any(|set| candidates(&set))
                });
            anyhow::ensure!(complete, "{} assignments so far", answer.assignments.len());
            Ok(())
        })
    }
}

async fn list_assignments(channel: Channel) -> Result<ListAssignmentsResponse, tonic::Status> {
    let request = ListAssignmentsRequest {
        cluster: CLUSTER.to_owned(),
    };
    let mut client = AnnouncerServiceClient::new(channel);
    Ok(client.list_assignments(request).await?.into_inner())
}

/// Creates pool `default-pool` with one range or CIDR, and an L2 advertisement for it.
pub(crate) async fn configure(channel: Channel, range: &str) -> Result<(), tonic::Status> {
    let pool = Pool {
        name: "default-pool".to_owned(),
        addresses: vec![range.to_owned()],
        ..Pool::default()
    };
    let request = ApplyPoolRequest {
        pool: Some(pool),
        ..ApplyPoolRequest::default()
    };
    PoolServiceClient::new(channel.clone())
        .apply_pool(request)
        .await?;
    let advertisement = Advertisement {
        name: "default".to_owned(),
        pools: vec!["default-pool".to_owned()],
        protocol: Some(advertisement::Protocol::L2(advertisement::L2::default())),
        ..Advertisement::default()
    };
    let request = ApplyAdvertisementRequest {
        advertisement: Some(advertisement),
        ..ApplyAdvertisementRequest::default()
    };
    AdvertisementServiceClient::new(channel)
        .apply_advertisement(request)
        .await?;
    Ok(())
}

/// The owner `demo/default/NAME`.
pub(crate) fn owner(name: &str) -> Owner {
    Owner {
        cluster: CLUSTER.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: String::new(),
    }
}

/// Takes an address for `demo/default/NAME`, TCP port 80.
pub(crate) async fn allocate(channel: Channel, name: &str) -> Result<Allocation, tonic::Status> {
    let request = AllocateRequest {
        owner: Some(owner(name)),
        ports: vec![Port {
            protocol: port::Protocol::Tcp.into(),
            port: 80,
        }],
        ..AllocateRequest::default()
    };
    let answer = AllocationServiceClient::new(channel)
        .allocate(request)
        .await?;
    let allocation = answer.into_inner().allocation;
    allocation.ok_or_else(|| tonic::Status::internal("an answer without an allocation"))
}

/// Takes addresses for `service-0` and so on.
pub(crate) async fn allocate_many(channel: Channel, count: usize) -> Result<(), tonic::Status> {
    let mut client = AllocationServiceClient::new(channel);
    for number in 0..count {
        let request = AllocateRequest {
            owner: Some(owner(&format!("service-{number}"))),
            ..AllocateRequest::default()
        };
        client.allocate(request).await?;
    }
    Ok(())
}

/// The one IPv4 address of an allocation.
pub(crate) fn address_of(allocation: &Allocation) -> anyhow::Result<Ipv4Addr> {
    let text = allocation
        .addresses
        .first()
        .context("no address was given")?;
    text.parse().with_context(|| format!("address {text:?}"))
}

fn node_name(index: usize) -> String {
    format!("node{}", index + 1)
}

fn service_address() -> SocketAddr {
    (Ipv4Addr::new(192, 168, 12, 2), 7471).into()
}

fn start_service(host: &Host, database: PathBuf) -> anyhow::Result<Program> {
    let mut service = Launch::workspace("ipam-service")?
        .args(["--listen", &service_address().to_string()])
        .args(["--admin", &ADMIN.to_string()])
        .arg("--database")
        .arg(format!("sqlite:{}", database.display()))
        // The LAN is ours alone; anywhere else this listener would need TLS.
        .args(["--create", "--insecure"])
        .start_in(&host.namespace)?;
    service.wait_ready(Some(&host.namespace), ADMIN, DEADLINE)?;
    Ok(service)
}
