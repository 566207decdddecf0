//! How long an address is silent when its owner is lost, and that nothing is lost when it stops in
//! order: seen by a client that asks by ARP every 10 ms (`cold`), and by one that has a neighbour
//! entry and sends every 10 ms (`warm`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::arp::{INTERVAL, Prober};
use pharos_testbed::record::{Record, Recorder as _};
use pharos_testbed::wait;
use pharos_testbed::warm::{Echo, Warm};
use pnet_base::MacAddr;

use super::{Options, quantile, report};
use crate::scene::{self, Scene};

const DEADLINE: Duration = Duration::from_secs(60);
/// All that are probed have answered for so long before an owner is lost, without a gap.
const QUIET: Duration = Duration::from_secs(1);
/// How long after the last change is looked for late answers.
const SETTLED: Duration = Duration::from_millis(400);
/// Asking for all of 1,000 addresses every 10 ms would measure the prober.
const PROBED: usize = 30;

/// How an owner is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Way {
    /// Its announcer is killed; its host lives on, and serves whoever has a neighbour entry.
    Kill9,
    /// The switch forwards nothing to or from its host, whose link stays up.
    Cut,
    /// Its announcer is stopped in order.
    Sigterm,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill9",
            Self::Cut => "cut",
            Self::Sigterm => "sigterm",
        }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("failover SKIPPED: needs root for network namespaces");
        return Ok(());
    }
    let only =
        |chosen: Option<usize>, all: &[usize]| chosen.map_or_else(|| all.to_vec(), |one| vec![one]);
    for nodes in only(options.nodes, &[3, 7]) {
        for addresses in only(options.addresses, &[1, 1000]) {
            let mut stage = Stage::start(nodes, addresses)?;
            let all = [Way::Kill9, Way::Cut, Way::Sigterm];
            for way in options.way.map_or_else(|| all.to_vec(), |one| vec![one]) {
                let runs: Vec<Run> = (0..options.runs)
                    .map(|_| stage.lose_the_owner(way))
                    .collect::<Result<_, _>>()?;
                tell(
                    &format!(
                        "failover.{}.{nodes}_nodes.{addresses}_addresses",
                        way.name()
                    ),
                    way,
                    &runs,
                )?;
            }
        }
    }
    Ok(())
}

/// What one client saw while an owner was lost and came back.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The longest time without an answer, of the address that was silent longest.
    silent: Duration,
    lost: usize,
    doubled: usize,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    cold: Seen,
    warm: Seen,
    /// For so long two nodes answered after a cut was healed.
    two_owners: Duration,
    /// For so long the machine ran not even the client.
    paused: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Client {
    Cold,
    Warm,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }

    fn of(self, run: &Run) -> Seen {
        match self {
            Self::Cold => run.cold,
            Self::Warm => run.warm,
        }
    }
}

fn tell(name: &str, way: Way, runs: &[Run]) -> anyhow::Result<()> {
    for client in [Client::Cold, Client::Warm] {
        let name = format!("{name}.{}", client.name());
        let seen: Vec<Seen> = runs.iter().map(|run| client.of(run)).collect();
        let silent = seen.iter().map(|seen| seen.silent).collect();
        spread(&format!("{name}.silent"), silent)?;
        if way == Way::Sigterm {
            let lost: usize = seen.iter().map(|seen| seen.lost).sum();
            let doubled: usize = seen.iter().map(|seen| seen.doubled).sum();
            let runs = runs.len();
            println!(
                "{name} {lost} lost, {doubled} answered twice (in {runs} runs, there and back)"
            );
        }
    }
    let paused = runs.iter().map(|run| run.paused).max().unwrap_or_default();
    report(
        &format!("{name}.the_machine_paused.worst"),
        paused.as_secs_f64() * 1000.0,
        "ms",
    );
    if way == Way::Cut {
        spread(
            &format!("{name}.two_owners_after_heal"),
            runs.iter().map(|run| run.two_owners).collect(),
        )?;
    }
    Ok(())
}

fn spread(name: &str, mut times: Vec<Duration>) -> anyhow::Result<()> {
    times.sort_unstable();
    for (part, value) in [
        ("median", quantile(&times, 0.5)),
        ("worst", times.last().copied()),
    ] {
        let value = value.context("no runs")?.as_secs_f64() * 1000.0;
        report(&format!("{name}.{part}"), value, "ms");
    }
    Ok(())
}

/// Nodes that own addresses, servers on them, and the two clients.
struct Stage {
    // The clients end before the namespaces that they live in.
    warm: Warm,
    prober: Prober,
    _servers: Vec<Echo>,
    scene: Scene,
    nodes: usize,
    probed: Vec<Ipv4Addr>,
    /// Where each address lives when all is well: lists are sticky.
    home: BTreeMap<Ipv4Addr, MacAddr>,
}

impl Stage {
    fn start(nodes: usize, addresses: usize) -> anyhow::Result<Self> {
        let scene = Scene::start_with(nodes, &["--hold-down", "1"])?;
        scene.call(async |channel| scene::configure(channel, "10.50.0.0/16").await)?;
        scene.call(async |channel| scene::allocate_many(channel, addresses).await)?;
        scene.wait_for_assignments(addresses, nodes)?;
        let step = addresses.div_ceil(PROBED);
        let probed = scene
            .assigned()?
            .into_iter()
            .step_by(step)
            .collect::<Vec<Ipv4Addr>>();
        let first = *probed.first().context("no address")?;
        let prober = Prober::start(scene.client()?, &probed)?;
        for address in &probed {
            prober.wait_answer(*address, Duration::ZERO, None, DEADLINE)?;
        }
        let servers = (0..nodes)
            .map(|index| Echo::start(scene.node(index)?, &[first]))
            .collect::<Result<_, _>>()?;
        let warm = Warm::start(scene.client()?, first, DEADLINE)?;
        let mut stage = Self {
            warm,
            prober,
            _servers: servers,
            scene,
            nodes,
            probed,
            home: BTreeMap::new(),
        };
        stage.home = stage.wait_quiet()?;
        Ok(stage)
    }

    /// Loses the owner of the first address, and waits until it has its own back.
    fn lose_the_owner(&mut self, way: Way) -> anyhow::Result<Run> {
        let mac = self.home[&self.probed[0]];
        let owner = self.index_of(mac)?;
        let moved: Vec<Ipv4Addr> = self
            .home
            .iter()
            .filter(|(_, home)| **home == mac)
            .map(|(address, _)| *address)
            .collect();
        let (asked, sent) = (self.prober.now(), self.warm.now());
        match way {
            Way::Kill9 => self.scene.announcer(owner)?.kill()?,
            Way::Cut => self.scene.isolate(owner)?,
            Way::Sigterm => {
                let status = self.scene.announcer(owner)?.terminate(DEADLINE)?;
                anyhow::ensure!(status.success(), "{status}");
            }
        }
        for address in &moved {
            self.prober
                .wait_answer(*address, asked, Some(mac), DEADLINE)?;
        }
        wait::until("the warm client reaches another node", DEADLINE, || {
            let record = self.warm.record();
            let mut answers = record.answers.iter().rev();
            answers
                .any(|answer| answer.at > sent && answer.mac != mac)
                .then_some(())
        })?;
        let until = (self.prober.now(), self.warm.now());
        let healed = self.prober.now();
        match way {
            Way::Kill9 | Way::Sigterm => self.scene.start_announcer(owner)?,
            Way::Cut => self.scene.heal()?,
        }
        let now = self.wait_quiet_at_home()?;
        let record = self.prober.record();
        // An orderly stop is looked at until everything is back; a loss until it is replaced.
        let until = if way == Way::Sigterm { now } else { until };
        if way == Way::Sigterm {
            blame(&record, &moved, asked, until.0);
        }
        Ok(Run {
            cold: seen(&record, &moved, asked, until.0),
            warm: seen(&self.warm.record(), &self.probed[..1], sent, until.1),
            two_owners: two_owners(&record, &moved, healed, now.0),
            paused: record.longest_unasked(asked, until.0),
        })
    }

    /// The owner of each address that is probed, once each has had one for a while, without gaps.
    fn wait_quiet(&self) -> anyhow::Result<BTreeMap<Ipv4Addr, MacAddr>> {
        let began = self.prober.now();
        wait::until("one owner of each, without gaps", DEADLINE, || {
            std::thread::sleep(10 * INTERVAL);
            let now = self.prober.now();
            let from = now.checked_sub(QUIET).filter(|from| *from >= began)?;
            let record = self.prober.record();
            let owner = |address: &Ipv4Addr| {
                let answerers = record.answerers(*address, from, now);
                let is_steady = record.longest_gap(*address, from, now) < 10 * INTERVAL;
                let single = answerers.len() == 1 && is_steady;
                Some((
                    *address,
                    single.then(|| answerers.first().copied()).flatten()?,
                ))
            };
            self.probed.iter().map(owner).collect()
        })
    }

    /// Waits until everything is where it was before; gives that moment on both clocks.
    fn wait_quiet_at_home(&self) -> anyhow::Result<(Duration, Duration)> {
        wait::until_ok("every address is at home", DEADLINE, || {
            anyhow::ensure!(self.wait_quiet()? == self.home, "some are elsewhere");
            Ok(())
        })?;
        for index in 0..self.nodes {
            self.scene.wait_until_met(index, self.nodes - 1)?;
        }
        let end = (self.prober.now(), self.warm.now());
        std::thread::sleep(SETTLED);
        Ok(end)
    }

    fn index_of(&self, mac: MacAddr) -> anyhow::Result<usize> {
        (0..self.nodes)
            .find(|index| self.scene.node(*index).is_ok_and(|host| host.mac == mac))
            .context("no node has the hardware address that answers")
    }
}

fn seen(record: &Record, addresses: &[Ipv4Addr], from: Duration, to: Duration) -> Seen {
    let mut seen = Seen::default();
    for address in addresses {
        seen.silent = seen.silent.max(record.longest_gap(*address, from, to));
        seen.lost += record.lost(*address, from, to).len();
        seen.doubled += record.doubled(*address, from, to).len();
    }
    seen
}

/// Says on stderr which requests an orderly stop lost or doubled, and how long after it.
fn blame(record: &Record, addresses: &[Ipv4Addr], from: Duration, to: Duration) {
    for address in addresses {
        for request in record.requests(*address, from, to) {
            if request.answers.len() != 1 {
                let after = request.asked - from;
                let answers: Vec<_> = request
                    .answers
                    .iter()
                    .map(|(at, mac)| (at.saturating_sub(from), mac))
                    .collect();
                eprintln!("{address} asked {after:?} after the stop, answered {answers:?}");
            }
        }
    }
}

/// How long after the heal the last request was asked that two answered.
pub(super) fn two_owners(
    record: &Record,
    addresses: &[Ipv4Addr],
    healed: Duration,
    to: Duration,
) -> Duration {
    let doubled = addresses
        .iter()
        .flat_map(|address| record.doubled(*address, healed, to));
    let last = doubled.map(|request| request.asked).max();
    last.map_or(Duration::ZERO, |asked| asked - healed)
}
