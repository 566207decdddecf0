//! Announcers behind the real ipam-service, without Kubernetes.
//!
//! Topology: ipam 192.168.12.1 runs ipam-service; n1, n2 run announcers; the client asks.
//!
//! 1. An allocated address is answered by exactly one node; a released one by nobody.
//! 2. ipam-service killed: the address is still answered, also after its owner was killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pharos_proto::v1;
use pharos_testbed::arp::Prober;
use pharos_testbed::{Lan, Launch, Program, skip, wait};
use tonic::transport::Channel;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const SOON: Duration = Duration::from_secs(20);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7472);

/// Calls ipam-service from the namespace in which it runs.
struct Caller {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Caller {
    fn new(lan: &Lan) -> anyhow::Result<Self> {
        // The one thread that connects lives in the namespace, and so does its socket.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let endpoint = tonic::transport::Endpoint::from_static("http://192.168.12.1:7471");
        let host = lan.host("ipam")?;
        let channel = host
            .namespace
            .run(|| runtime.block_on(endpoint.connect()))??;
        Ok(Self { runtime, channel })
    }

    fn announce_a_pool(&self) -> anyhow::Result<()> {
        use v1::advertisement::{L2, Protocol};
        use v1::advertisement_service_client::AdvertisementServiceClient;
        use v1::pool_service_client::PoolServiceClient;
        let pool = v1::Pool {
            name: "default-pool".to_owned(),
            addresses: vec!["192.168.12.100-192.168.12.120".to_owned()],
            ..v1::Pool::default()
        };
        let pool = v1::ApplyPoolRequest {
            pool: Some(pool),
            ..v1::ApplyPoolRequest::default()
        };
        let mut pools = PoolServiceClient::new(self.channel.clone());
        self.runtime.block_on(pools.apply_pool(pool))?;
        let advertisement = v1::Advertisement {
            name: "default".to_owned(),
            cluster: "east".to_owned(),
            protocol: Some(Protocol::L2(L2::default())),
            ..v1::Advertisement::default()
        };
        let advertisement = v1::ApplyAdvertisementRequest {
            advertisement: Some(advertisement),
            ..v1::ApplyAdvertisementRequest::default()
        };
        let mut advertisements = AdvertisementServiceClient::new(self.channel.clone());
        self.runtime
            .block_on(advertisements.apply_advertisement(advertisement))?;
        Ok(())
    }

    fn owner() -> v1::Owner {
        v1::Owner {
            cluster: "east".to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            ..v1::Owner::default()
        }
    }

    fn allocate(&self) -> anyhow::Result<()> {
        use v1::allocation_service_client::AllocationServiceClient;
        let request = v1::AllocateRequest {
            owner: Some(Self::owner()),
            addresses: vec![ADDRESS.to_string()],
            ..v1::AllocateRequest::default()
        };
        let mut client = AllocationServiceClient::new(self.channel.clone());
        self.runtime.block_on(client.allocate(request))?;
        Ok(())
    }

    fn release(&self) -> anyhow::Result<()> {
        use v1::allocation_service_client::AllocationServiceClient;
        let request = v1::ReleaseRequest {
            owner: Some(Self::owner()),
            ..v1::ReleaseRequest::default()
        };
        let mut client = AllocationServiceClient::new(self.channel.clone());
        self.runtime.block_on(client.release(request))?;
        Ok(())
    }
}

fn start_ipam(lan: &Lan) -> anyhow::Result<Program> {
    let host = lan.host("ipam")?;
    let mut ipam = Launch::workspace("ipam-service")?
        .args(["--listen", "192.168.12.1:7471", "--insecure", "--create"])
        .start_in(&host.namespace)?;
    ipam.wait_ready(Some(&host.namespace), ADMIN, SOON)?;
    Ok(ipam)
}

fn start_announcer(lan: &Lan, node: &str) -> anyhow::Result<Program> {
    let host = lan.host(node)?;
    let mut announcer = Launch::workspace("announcer")?
        .named(&format!("announcer of {node}"))
        .args(["--cluster", "east", "--node", node, "--state-dir", "state"])
        .args(["--ipam", "http://192.168.12.1:7471"])
        .start_in(&host.namespace)?;
    let admin = SocketAddr::from(([127, 0, 0, 1], 7473));
    announcer.wait_ready(Some(&host.namespace), admin, SOON)?;
    Ok(announcer)
}

#[test]
fn an_allocated_address_is_answered_with_and_without_ipam_service() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let lan = Lan::new(&[
        ("ipam", "192.168.12.1/24"),
        ("n1", "192.168.12.11/24"),
        ("n2", "192.168.12.12/24"),
        ("client", "192.168.12.200/24"),
    ])?;
    let mut ipam = start_ipam(&lan)?;
    let mut announcers = [start_announcer(&lan, "n1")?, start_announcer(&lan, "n2")?];
    let prober = Prober::start(lan.host("client")?, &[ADDRESS])?;
    let caller = Caller::new(&lan)?;
    caller.announce_a_pool()?;
    caller.allocate()?;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    wait::until("a second of answers", SOON, || {
        (prober.now() > first.at + Duration::from_secs(1)).then_some(())
    })?;
    let answerers = prober
        .record()
        .answerers(ADDRESS, Duration::ZERO, prober.now());
    assert_eq!(answerers.len(), 1, "{answerers:?}");

    caller.release()?;
    wait::until("nobody answers any more", SOON, || {
        let since = prober.now().saturating_sub(Duration::from_millis(300));
        let record = prober.record();
        record
            .answerers(ADDRESS, since, prober.now())
            .is_empty()
            .then_some(())
    })?;
    caller.allocate()?;
    let again = prober.wait_answer(ADDRESS, prober.now(), None, SOON)?;

    ipam.kill()?;
    let owner = lan.host_by_mac(again.mac).map(|host| host.name.clone());
    let index = usize::from(owner.as_deref() != Some("n1"));
    announcers[index].kill()?;
    let killed = prober.now();
    let answer = prober.wait_answer(ADDRESS, killed, Some(again.mac), SOON)?;
    eprintln!("failover without ipam-service: {:?}", answer.at - killed);
    Ok(())
}
