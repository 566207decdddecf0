//! `cargo xtask demo`: the main job of Pharos, happening on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::history_service_client::HistoryServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::{
    Allocation, ApplyPoolRequest, Change, GetAllocationRequest, ListChangesRequest, Pool,
    ReleaseRequest,
};
use pharos_testbed::arp::{INTERVAL, Prober};
use pharos_testbed::{Host, Launch, Program, free_port, http, skip, wait};
use tonic::transport::Channel;

use crate::scene::{self, Scene};
use crate::{cargo, client};

const DEADLINE: Duration = Duration::from_secs(20);
/// How long the client watches without ipam-service: 100 requests.
const WITHOUT_SERVICE: Duration = Duration::from_secs(1);
const RANGE: &str = "192.168.12.100-192.168.12.120";

pub(crate) fn run() -> anyhow::Result<()> {
    let start = wait::now();
    let say = Narrator::default();
    cargo::build(&["ipam-service", "announcer"])?;
    say.step(start, "built ipam-service and announcer");
    let network = nix::unistd::geteuid().is_root() && skip::find_program("ip").is_some();
    if network {
        on_a_lan(&say)?;
    } else {
        println!(
            "    Not root (or no `ip`): without network namespaces this cannot show an answered ARP\n    \
             request, an HTTP request to the address, or a failover. The address book it can:"
        );
        address_book(&say)?;
    }
    println!(
        "done in {:.1} s, and cleaned up",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Numbered lines of plain words, each with the time it took.
#[derive(Default)]
struct Narrator {
    steps: std::cell::Cell<u32>,
}

impl Narrator {
    fn step(&self, since: Instant, what: &str) {
        self.say(&format!("{what} ({})", milliseconds(since.elapsed())));
    }

    fn say(&self, what: &str) {
        let number = self.steps.get() + 1;
        self.steps.set(number);
        println!("{number:2}  {what}");
    }
}

fn milliseconds(time: Duration) -> String {
    let value = time.as_secs_f64() * 1000.0;
    match value {
        small if small < 10.0 => format!("{small:.1} ms"),
        middle if middle < 1000.0 => format!("{middle:.0} ms"),
        large => format!("{:.1} s", large / 1000.0),
    }
}

fn on_a_lan(say: &Narrator) -> anyhow::Result<()> {
    let start = wait::now();
    let mut scene = Scene::start(2)?;
    say.step(
        start,
        "a LAN of network namespaces: ipam-service on SQLite, announcers on node1 and node2, a client",
    );
    scene.call(async |channel| scene::configure(channel, RANGE).await)?;
    let address = take_address(say, &scene)?;
    let _backends = serve_on_nodes(&scene, address)?;

    let prober = Prober::start(scene.client()?, &[address])?;
    let owner = first_answer(say, &scene, &prober, address)?;
    fetch(say, &scene, address, owner)?;
    without_service(say, &mut scene, &prober, address)?;
    let other = kill_owner(say, &mut scene, &prober, address, owner)?;
    fetch(say, &scene, address, other)?;
    tell_history(
        say,
        scene.call(async |channel| history(channel, address).await)?,
    );
    scene.call(release)?;
    let silent = silence_after_release(&prober, address)?;
    say.say(&format!("released: {silent}"));
    let (_, _) = prober.stop()?;
    Ok(())
}

fn take_address(say: &Narrator, scene: &Scene) -> anyhow::Result<Ipv4Addr> {
    let (allocation, took) = scene.call(timed_allocate)?;
    let address = scene::address_of(&allocation)?;
    say.say(&format!(
        "demo/default/web took {address} from {} by gRPC, on disk before the answer ({})",
        allocation.pool,
        milliseconds(took)
    ));
    Ok(address)
}

async fn timed_allocate(channel: Channel) -> Result<(Allocation, Duration), tonic::Status> {
    let start = wait::now();
    let allocation = scene::allocate(channel, "web").await?;
    Ok((allocation, start.elapsed()))
}

/// A web server behind the address on each node. The address is on `lo`, and `arp_ignore` keeps the
/// kernel from answering for it: whoever answers is an announcer. (With Kubernetes, kube-proxy's
/// rules stand here.)
fn serve_on_nodes(scene: &Scene, address: Ipv4Addr) -> anyhow::Result<Vec<http::Server>> {
    let serve = |index: usize| {
        let host = scene.node(index)?;
        host.keep_quiet_about_local_addresses()?;
        let local = format!("{address}/32");
        host.namespace
            .exec(&["ip", "addr", "add", &local, "dev", "lo"])?;
        http::Server::start(Some(&host.namespace), (address, 80).into(), &host.name)
    };
    (0..2).map(serve).collect()
}

/// Waits for the first ARP answer; gives the number of the node.
fn first_answer(
    say: &Narrator,
    scene: &Scene,
    prober: &Prober,
    address: Ipv4Addr,
) -> anyhow::Result<usize> {
    let start = wait::now();
    let answer = prober.wait_answer(address, Duration::ZERO, None, DEADLINE)?;
    let owner = scene
        .lan()
        .host_by_mac(answer.mac)
        .context("a stranger answered")?;
    say.step(
        start,
        &format!(
            "the client asked by ARP who has {address}: {} answered, {}",
            owner.name, answer.mac
        ),
    );
    (0..2)
        .find(|index| scene.node(*index).is_ok_and(|host| host.mac == answer.mac))
        .context("the answer came from no node")
}

/// Asks over HTTP until the node that owns the address serves the request.
fn fetch(say: &Narrator, scene: &Scene, address: Ipv4Addr, owner: usize) -> anyhow::Result<()> {
    let start = wait::now();
    let expected = scene.node(owner)?.name.clone();
    let client = &scene.client()?.namespace;
    wait::until_ok("an HTTP answer from the owner", DEADLINE, || {
        let ask = || http::get((address, 80).into(), "/", Duration::from_secs(1));
        let (status, body) = client.run(ask)??;
        anyhow::ensure!(status == 200 && body == expected, "{status} from {body}");
        Ok(())
    })?;
    say.step(
        start,
        &format!("GET http://{address}/ from the client: served by {expected}"),
    );
    Ok(())
}

/// ipam-service away: the address is answered for all the same, and the book is what it was.
fn without_service(
    say: &Narrator,
    scene: &mut Scene,
    prober: &Prober,
    address: Ipv4Addr,
) -> anyhow::Result<()> {
    scene.service().kill()?;
    let from = prober.now();
    wait::until("a second without ipam-service", DEADLINE, || {
        (prober.now() >= from + WITHOUT_SERVICE).then_some(())
    })?;
    let gap = prober.record().longest_gap(address, from, prober.now());
    say.say(&format!(
        "ipam-service killed with -9: the address is answered for as before (longest gap in {} of requests \
         every {}: {})",
        milliseconds(WITHOUT_SERVICE),
        milliseconds(INTERVAL),
        milliseconds(gap)
    ));
    let start = wait::now();
    scene.restart_service()?;
    let held = scene.call(held_addresses)?;
    for index in 0..2 {
        scene.wait_until_followed(index)?;
    }
    say.step(
        start,
        &format!(
            "it is back on its database: web still holds {held}, and both nodes follow it again"
        ),
    );
    Ok(())
}

/// Kills the owner's announcer; gives the number of the node that took over.
fn kill_owner(
    say: &Narrator,
    scene: &mut Scene,
    prober: &Prober,
    address: Ipv4Addr,
    owner: usize,
) -> anyhow::Result<usize> {
    let (name, mac) = {
        let host: &Host = scene.node(owner)?;
        (host.name.clone(), host.mac)
    };
    let other = 1 - owner;
    let killed = prober.now();
    scene.announcer(owner)?.kill()?;
    let answer = prober.wait_answer(address, killed, Some(mac), DEADLINE)?;
    say.say(&format!(
        "announcer of {name} killed with -9: {} answers {} later (requests every {})",
        scene.node(other)?.name,
        milliseconds(answer.at.saturating_sub(killed)),
        milliseconds(INTERVAL)
    ));
    anyhow::ensure!(
        answer.mac == scene.node(other)?.mac,
        "a stranger answers: {}",
        answer.mac
    );
    Ok(other)
}

/// Waits until ten requests in a row stay without an answer; tells when the last answer came.
fn silence_after_release(prober: &Prober, address: Ipv4Addr) -> anyhow::Result<String> {
    // As near after the release as this process can tell.
    let from = prober.now();
    let last = wait::until("silence", DEADLINE, || {
        let record = prober.record();
        let last = record.of(address).last().map_or(from, |answer| answer.at);
        (prober.now() > last + 10 * INTERVAL).then_some(last)
    })?;
    let after = last.saturating_sub(from);
    if after.is_zero() {
        return Ok("no later request was answered".to_owned());
    }
    Ok(format!(
        "the last answer came {} later",
        milliseconds(after)
    ))
}

/// What can be shown without a network: ipam-service alone, on loopback.
fn address_book(say: &Narrator) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let database = directory.path().join("pharos.db");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let start = wait::now();
    let mut service = start_alone(address, &database)?;
    say.step(start, "ipam-service on SQLite");
    client::call(None, address, pool_only)?;
    let (allocation, took) = client::call(None, address, timed_allocate)?;
    let given = scene::address_of(&allocation)?;
    say.say(&format!(
        "demo/default/web took {given} from {} by gRPC, on disk before the answer ({})",
        allocation.pool,
        milliseconds(took)
    ));
    let again = client::call(None, address, timed_allocate)?.0;
    say.say(&format!(
        "asked again, it got the same answer: {} at revision {}",
        again.addresses.join(", "),
        again.revision
    ));
    service.kill()?;
    let start = wait::now();
    let _service = start_alone(address, &database)?;
    let held = client::call(None, address, held_addresses)?;
    say.step(
        start,
        &format!("killed with -9 and started again: web still holds {held}"),
    );
    tell_history(
        say,
        client::call(None, address, async |channel| history(channel, given).await)?,
    );
    client::call(None, address, release)?;
    say.say("released");
    Ok(())
}

fn start_alone(address: SocketAddr, database: &std::path::Path) -> anyhow::Result<Program> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut service = Launch::workspace("ipam-service")?
        .args([
            "--listen",
            &address.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args(["--database", &format!("sqlite:{}", database.display())])
        .start()?;
    service.wait_ready(None, admin, DEADLINE)?;
    Ok(service)
}

async fn pool_only(channel: Channel) -> Result<(), tonic::Status> {
    let pool = Pool {
        name: "default-pool".to_owned(),
        addresses: vec![RANGE.to_owned()],
        ..Pool::default()
    };
    let request = ApplyPoolRequest {
        pool: Some(pool),
        ..ApplyPoolRequest::default()
    };
    PoolServiceClient::new(channel).apply_pool(request).await?;
    Ok(())
}

async fn held_addresses(channel: Channel) -> Result<String, tonic::Status> {
    let request = GetAllocationRequest {
        owner: Some(scene::owner("web")),
    };
    let answer = AllocationServiceClient::new(channel)
        .get_allocation(request)
        .await?;
    let allocation = answer.into_inner().allocation.unwrap_or_default();
    Ok(allocation.addresses.join(", "))
}

async fn history(channel: Channel, address: Ipv4Addr) -> Result<Vec<Change>, tonic::Status> {
    let request = ListChangesRequest {
        address: address.to_string(),
        ..ListChangesRequest::default()
    };
    let answer = HistoryServiceClient::new(channel)
        .list_changes(request)
        .await?;
    Ok(answer.into_inner().changes)
}

fn tell_history(say: &Narrator, changes: Vec<Change>) {
    for change in changes {
        say.say(&format!(
            "history of the address: revision {}, {:?} by {}",
            change.revision,
            change.r#type(),
            if change.actor.is_empty() {
                "nobody"
            } else {
                &change.actor
            }
        ));
    }
}

async fn release(channel: Channel) -> Result<(), tonic::Status> {
    let request = ReleaseRequest {
        owner: Some(scene::owner("web")),
        ..ReleaseRequest::default()
    };
    AllocationServiceClient::new(channel)
        .release(request)
        .await?;
    Ok(())
}
