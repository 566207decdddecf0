//! kill -9 of the owner's announcer, seen by a client that asks by ARP every 10 ms.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::arp::{INTERVAL, Prober};
use pharos_testbed::wait;

use super::{quantile, report};
use crate::scene::{self, Scene};

const NODES: usize = 3;
const RUNS: usize = 11;
const DEADLINE: Duration = Duration::from_secs(30);
/// Answers of one node, in a row, after which the scene counts as quiet.
const QUIET: Duration = Duration::from_secs(2);

pub(super) fn run() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("failover SKIPPED: needs root for network namespaces");
        return Ok(());
    }
    let mut scene = Scene::start(NODES)?;
    scene.call(async |channel| scene::configure(channel, "192.168.12.100/32").await)?;
    let allocation = scene.call(async |channel| scene::allocate(channel, "web").await)?;
    let address = scene::address_of(&allocation)?;
    scene.wait_for_assignments(1, NODES)?;
    let prober = Prober::start(scene.client()?, &[address])?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(one_failover(&mut scene, &prober, address)?);
    }
    times.sort_unstable();
    let milliseconds = |time: Option<Duration>| -> anyhow::Result<f64> {
        Ok(time.context("no runs")?.as_secs_f64() * 1000.0)
    };
    report(
        "failover.kill9.median",
        milliseconds(quantile(&times, 0.5))?,
        "ms",
    );
    report(
        "failover.kill9.worst",
        milliseconds(times.last().copied())?,
        "ms",
    );
    let overlaps = prober.record().overlaps(address).len();
    println!("failover.kill9.two_answerers {overlaps} times (in {RUNS} runs)");
    Ok(())
}

/// Waits until one node answers and all run, kills it, and gives the time without an answer.
fn one_failover(scene: &mut Scene, prober: &Prober, address: Ipv4Addr) -> anyhow::Result<Duration> {
    let owner = quiet_owner(scene, prober, address)?;
    let mac = scene.node(owner)?.mac;
    let killed = prober.now();
    scene.announcer(owner)?.kill()?;
    let answer = prober.wait_answer(address, killed, Some(mac), DEADLINE)?;
    let record = prober.record();
    // The time in which a client gets no answer: from the last of the old owner.
    let last = record
        .of(address)
        .filter(|old| old.mac == mac && old.at < answer.at)
        .map(|old| old.at)
        .last()
        .unwrap_or(killed);
    scene.start_announcer(owner)?;
    Ok(answer.at - last)
}

/// The node that alone has answered every request of the last two seconds.
fn quiet_owner(scene: &Scene, prober: &Prober, address: Ipv4Addr) -> anyhow::Result<usize> {
    let began = prober.now();
    let mac = wait::until("one owner, without gaps", DEADLINE, || {
        let now = prober.now();
        let from = now.checked_sub(QUIET).filter(|from| *from >= began)?;
        let record = prober.record();
        let answerers = record.answerers(address, from, now);
        let gap = record.longest_gap(address, from, now);
        let single = answerers.len() == 1 && gap < 10 * INTERVAL;
        single.then(|| answerers.first().copied()).flatten()
    })?;
    (0..NODES)
        .find(|index| scene.node(*index).is_ok_and(|host| host.mac == mac))
        .context("no node has the hardware address that answers")
}
