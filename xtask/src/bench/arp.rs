//! How long an ARP answer takes: by the announcer, and by the kernel of the same node, in turn.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::{Host, latency};

use super::{quantile, report, report_ratio};
use crate::scene::{self, Scene};

/// How a client asks: a word for it, pairs of questions, and the time between two. A busy one finds
/// caches warm and cores awake; a real one, that asks once in a while, finds neither.
const CLIENTS: [(&str, usize, Duration); 2] = [
    ("", 3000, Duration::from_millis(1)),
    (".rare", 150, Duration::from_millis(100)),
];
/// The first ones find everything cold.
const WARM_UP: usize = 200;

pub(super) fn run() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("arp SKIPPED: needs root for network namespaces");
        return Ok(());
    }
    let scene = Scene::start(1)?;
    scene.call(async |channel| scene::configure(channel, "192.168.12.100/32").await)?;
    let allocation = scene.call(async |channel| scene::allocate(channel, "web").await)?;
    let announced = scene::address_of(&allocation)?;
    scene.wait_until_answered(announced)?;
    let IpAddr::V4(own) = scene.node(0)?.address else {
        anyhow::bail!("the node has no IPv4 address");
    };
    let (_, _, pause) = CLIENTS[0];
    latency::measure(scene.client()?, &[announced, own], WARM_UP, pause)?;
    compare("announcer", scene.client()?, announced, own)
}

/// Prints how long `name` takes to answer for `announced`, beside the kernel of the same node.
pub(super) fn compare(
    name: &str,
    client: &Host,
    announced: Ipv4Addr,
    of_kernel: Ipv4Addr,
) -> anyhow::Result<()> {
    for (kind, rounds, pause) in CLIENTS {
        let times = latency::measure(client, &[announced, of_kernel], rounds, pause)?;
        print(name, kind, times, rounds)?;
    }
    Ok(())
}

fn print(
    name: &str,
    kind: &str,
    mut times: Vec<Vec<Duration>>,
    rounds: usize,
) -> anyhow::Result<()> {
    times.iter_mut().for_each(|times| times.sort_unstable());
    let micros = |times: &[Duration], part| -> anyhow::Result<f64> {
        Ok(quantile(times, part).context("no answers")?.as_secs_f64() * 1e6)
    };
    for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
        let kernel = micros(&times[1], part)?;
        let ours = micros(&times[0], part)?;
        let reference = format!("arp.kernel{kind}.{label}");
        report_ratio(
            &format!("arp.{name}{kind}.{label}"),
            ours,
            "us",
            &reference,
            kernel,
        );
        report(
            &format!("arp.{name}{kind}.{label}.above_the_kernel"),
            ours - kernel,
            "us",
        );
    }
    for (who, times) in [name, "kernel"].into_iter().zip(&times) {
        let unanswered = rounds - times.len();
        println!("arp.{who}{kind}.unanswered {unanswered} (of {rounds})");
    }
    Ok(())
}
