//! How long an ARP answer takes: by the announcer, and by the kernel of the same node, in turn.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::{Host, latency};

use super::{quantile, report, report_ratio};
use crate::scene::{self, Scene};

/// Pairs of questions.
const ROUNDS: usize = 3000;
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
    latency::measure(scene.client()?, &[announced, own], WARM_UP)?;
    compare("announcer", scene.client()?, announced, own)
}

/// Prints how long `name` takes to answer for `announced`, beside the kernel of the same node.
pub(super) fn compare(
    name: &str,
    client: &Host,
    announced: Ipv4Addr,
    of_kernel: Ipv4Addr,
) -> anyhow::Result<()> {
    let mut times = latency::measure(client, &[announced, of_kernel], ROUNDS)?;
    times.iter_mut().for_each(|times| times.sort_unstable());
    let micros = |times: &[Duration], part| -> anyhow::Result<f64> {
        Ok(quantile(times, part).context("no answers")?.as_secs_f64() * 1e6)
    };
    for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
        let kernel = micros(&times[1], part)?;
        let ours = micros(&times[0], part)?;
        let reference = format!("arp.kernel.{label}");
        report_ratio(
            &format!("arp.{name}.{label}"),
            ours,
            "us",
            &reference,
            kernel,
        );
        report(
            &format!("arp.{name}.{label}.above_the_kernel"),
            ours - kernel,
            "us",
        );
    }
    let unanswered = ROUNDS - times[0].len();
    println!("arp.{name}.unanswered {unanswered} (of {ROUNDS})");
    Ok(())
}
