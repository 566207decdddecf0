//! What a machine or a segment that is far too busy does to the announcers: nobody may be taken for
//! dead, and the addresses stay answered.

use std::net::Ipv4Addr;
use std::time::Duration;

use pharos_testbed::arp::{INTERVAL, Prober};
use pharos_testbed::record::Record;
use pharos_testbed::storm::Storm;
use pharos_testbed::{Launch, Program, wait};

use super::{Options, mebibytes, quantile, report};
use crate::scene::{self, Scene};

const NODES: usize = 3;
const SPINNERS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(60);
const STORM: u32 = 50_000;
const STORM_LASTS: Duration = Duration::from_secs(10);
/// Nobody has it.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 222);
/// What an announcer logs when its timers fire late; see [`Scene::start_with`].
const LATE: &str = "this process did not run for a while";

/// 50,000 broadcast requests a second: for an address that nobody has, and for one that is owned.
pub(super) fn storm() -> anyhow::Result<()> {
    let Some(mut stage) = Stage::start("storm")? else {
        return Ok(());
    };
    stage.scene.add_host("storm", "192.168.12.66/24")?;
    for (name, target) in [("not_owned", NOBODYS), ("owned", stage.address)] {
        let before = stage.resident()?;
        let from = stage.prober.now();
        let storm = Storm::start(stage.scene.lan().host("storm")?, target, STORM)?;
        stage.wait_until(from + STORM_LASTS)?;
        let rate = storm.rate();
        drop(storm);
        report(&format!("storm.{name}.rate"), rate, "requests/s");
        stage.tell(&format!("storm.{name}"), from)?;
        report(
            &format!("storm.{name}.rss.before"),
            mebibytes(before),
            "MiB",
        );
        report(
            &format!("storm.{name}.rss.after"),
            mebibytes(stage.resident()?),
            "MiB",
        );
    }
    Ok(())
}

/// Six busy loops on two cores, for a while.
pub(super) fn spinners(options: &Options) -> anyhow::Result<()> {
    let Some(mut stage) = Stage::start("spinners")? else {
        return Ok(());
    };
    let spin = || {
        Launch::program("sh")
            .args(["-c", "while :; do :; done"])
            .start()
    };
    let spinners: Vec<Program> = (0..SPINNERS).map(|_| spin()).collect::<Result<_, _>>()?;
    let from = stage.prober.now();
    stage.wait_until(from + Duration::from_secs(options.seconds))?;
    drop(spinners);
    stage.tell(&format!("spinners.{}_s", options.seconds), from)
}

/// Three announcers, an address, and a client that asks for it.
struct Stage {
    prober: Prober,
    scene: Scene,
    address: Ipv4Addr,
    failovers: u64,
    late: usize,
}

impl Stage {
    fn start(name: &str) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("{name} SKIPPED: needs root for network namespaces");
            return Ok(None);
        }
        let scene = Scene::start(NODES)?;
        scene.call(async |channel| scene::configure(channel, "192.168.12.100/32").await)?;
        let allocation = scene.call(async |channel| scene::allocate(channel, "web").await)?;
        let address = scene::address_of(&allocation)?;
        let prober = Prober::start(scene.client()?, &[address])?;
        prober.wait_answer(address, Duration::ZERO, None, DEADLINE)?;
        for index in 0..NODES {
            scene.wait_until_met(index, NODES - 1)?;
        }
        let mut stage = Self {
            prober,
            scene,
            address,
            failovers: 0,
            late: 0,
        };
        stage.failovers = stage.count_failovers()?;
        stage.late = stage.count_late()?;
        Ok(Some(stage))
    }

    fn wait_until(&self, end: Duration) -> anyhow::Result<()> {
        let left = end.saturating_sub(self.prober.now());
        wait::until("the end of the strain", left + DEADLINE, || {
            std::thread::sleep(10 * INTERVAL);
            (self.prober.now() >= end).then_some(())
        })
    }

    fn count_failovers(&self) -> anyhow::Result<u64> {
        let of = |index| self.scene.metric(index, "pharos_announcer_failovers_total");
        (0..NODES).map(of).sum()
    }

    fn count_late(&mut self) -> anyhow::Result<usize> {
        let mut late = 0;
        for index in 0..NODES {
            late += self.scene.announcer(index)?.log().matches(LATE).count();
        }
        Ok(late)
    }

    /// Resident memory of the largest announcer.
    fn resident(&mut self) -> anyhow::Result<u64> {
        let mut most = 0;
        for index in 0..NODES {
            most = most.max(self.scene.announcer(index)?.resident_bytes()?);
        }
        Ok(most)
    }

    /// Prints what the strain since `from` did.
    fn tell(&mut self, name: &str, from: Duration) -> anyhow::Result<()> {
        let to = self.prober.now();
        for index in 0..NODES {
            self.scene.wait_until_met(index, NODES - 1)?;
        }
        let record = self.prober.record();
        let failovers = self.count_failovers()?;
        println!(
            "{name}.failovers {} (of {NODES} nodes)",
            failovers - self.failovers
        );
        self.failovers = failovers;
        let late = self.count_late()?;
        println!(
            "{name}.engine_late {} times by more than 60 ms",
            late - self.late
        );
        self.late = late;
        let answerers = record.answerers(self.address, from, to).len();
        let asked = record.requests(self.address, from, to).len();
        let lost = record
            .lost(self.address, from, to.saturating_sub(DEADLINE / 60))
            .len();
        println!("{name}.answers {lost} lost of {asked} requests, by {answerers} node");
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let gap = record.longest_gap(self.address, from, to);
        report(&format!("{name}.longest_gap"), milliseconds(gap), "ms");
        let unasked = record.longest_unasked(from, to);
        report(
            &format!("{name}.longest_time_the_client_did_not_run"),
            milliseconds(unasked),
            "ms",
        );
        let times = answer_times(&record, self.address, from);
        for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(time) = quantile(&times, part) {
                report(&format!("{name}.answer.{label}"), milliseconds(time), "ms");
            }
        }
        Ok(())
    }
}

fn answer_times(record: &Record, address: Ipv4Addr, from: Duration) -> Vec<Duration> {
    let answers = record.of(address).filter(|answer| answer.at >= from);
    let mut times: Vec<Duration> = answers
        .filter_map(|answer| Some(answer.at - *record.asked.get(answer.round)?))
        .collect();
    times.sort_unstable();
    times
}
