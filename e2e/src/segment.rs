//! Announcers on one Ethernet segment, fed by a real gRPC peer that says exactly what a scenario
//! wants to be said.
//!
//! ```text
//!   ipam     192.168.12.1     the peer in place of ipam-service
//!   n1..n7   192.168.12.11+   announcers; n1, n2 and n3 are always there
//!   client   192.168.12.200   asks, and sees every ARP frame
//! ```

mod peer;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::arp::Prober;
use pharos_testbed::record::Recorder;
use pharos_testbed::warm::{Echo, Warm};
use pharos_testbed::{Lan, Launch, Program, http, wait, workspace_binary};
use tempfile::TempDir;

pub use self::peer::Peer;

/// Cluster of every announcer here.
pub const CLUSTER: &str = "east";
/// Longest wait for anything that should happen soon; machines that run tests are busy.
pub const SOON: Duration = Duration::from_secs(20);
/// How long after a request a second answer may still come, from a handover under way.
const STEADY: Duration = Duration::from_millis(400);
/// How long a node must have answered without another to be the only one.
const ALONE: Duration = Duration::from_millis(500);
/// How long a request may wait for its answer on a busy machine.
const SETTLED: Duration = Duration::from_secs(3);

/// So many addresses, each with the number of its group, from 192.168.20.0 on.
pub fn many(count: u16) -> Vec<(Ipv4Addr, u64)> {
    let numbers = (0..count).map(|number| {
        let [high, low] = number.to_be_bytes();
        (
            Ipv4Addr::new(192, 168, 20 + high, low),
            u64::from(number) + 1,
        )
    });
    numbers.collect()
}

/// The segment. Dropping it stops everything.
#[derive(Debug)]
pub struct Segment {
    announcers: BTreeMap<String, Program>,
    states: BTreeMap<String, TempDir>,
    /// The peer in place of ipam-service.
    pub peer: Peer,
    /// The hosts.
    pub lan: Lan,
    flags: Vec<String>,
    /// URL under which announcers look for the peer.
    ipam: String,
}

impl Segment {
    /// Starts announcers on these nodes (of n1, n2, n3), each with these flags besides the usual
    /// ones, and waits until they have met.
    pub fn start(nodes: &[&str], flags: &[&str]) -> anyhow::Result<Self> {
        let mut segment = Self::without_announcers(3, flags)?;
        segment.start_announcers(nodes)?;
        Ok(segment)
    }

    /// The same with nodes n1, n2 and so on, all of which run an announcer.
    pub fn with_nodes(count: u8, flags: &[&str]) -> anyhow::Result<Self> {
        let mut segment = Self::without_announcers(count, flags)?;
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        segment.start_announcers(&names)?;
        Ok(segment)
    }

    /// The peer, a client and so many hosts on which announcers may be started.
    pub fn without_announcers(nodes: u8, flags: &[&str]) -> anyhow::Result<Self> {
        let mut lan = Lan::new(&[("ipam", "192.168.12.1/24"), ("client", "192.168.12.200/24")])?;
        for number in 1..=nodes {
            let address = format!("192.168.12.{}/24", 10 + number);
            lan.add(&format!("n{number}"), &address)?;
        }
        let peer = Peer::start(lan.host("ipam")?)?;
        Ok(Self {
            announcers: BTreeMap::new(),
            states: BTreeMap::new(),
            peer,
            lan,
            flags: flags.iter().map(ToString::to_string).collect(),
            ipam: "http://192.168.12.1:7471".to_owned(),
        })
    }

    /// Starts the announcers of these nodes, and waits until they have met.
    pub fn start_announcers(&mut self, nodes: &[&str]) -> anyhow::Result<()> {
        for node in nodes {
            self.start_announcer(node)?;
        }
        for node in nodes {
            let others = (nodes.len() - 1).to_string();
            self.wait_metric(node, "pharos_announcer_members_alive", &others)?;
            self.wait_metric(node, "pharos_announcer_stream_connected", "1")?;
        }
        Ok(())
    }

    /// Servers on every node that echo what comes for these addresses.
    pub fn echo(&self, addresses: &[Ipv4Addr]) -> anyhow::Result<Vec<Echo>> {
        let hosts = self.lan.hosts().iter();
        let nodes = hosts.filter(|host| host.name.starts_with('n'));
        nodes.map(|host| Echo::start(host, addresses)).collect()
    }

    /// A client that has a neighbour entry for an address, and sends to it every 10 ms. Some node
    /// answers for it, and [`Self::echo`] serves it.
    pub fn warm(&self, address: Ipv4Addr) -> anyhow::Result<Warm> {
        Warm::start(self.lan.host("client")?, address, SOON)
    }

    /// Starts the announcer of a node, with the state directory that it had.
    pub fn start_announcer(&mut self, node: &str) -> anyhow::Result<()> {
        self.start_announcer_as(node, node)
    }

    /// Starts an announcer on the host of a node, under any name.
    pub fn start_announcer_as(&mut self, node: &str, name: &str) -> anyhow::Result<()> {
        let launch = Launch::workspace("announcer")?;
        self.start_launch(launch, node, name)
    }

    /// Starts the announcer of a node as if its host had booted since: it reads another boot id.
    pub fn start_announcer_after_boot(&mut self, node: &str) -> anyhow::Result<()> {
        let boot_id = self.state_directory(node)?.join("boot_id");
        std::fs::write(&boot_id, "another boot")?;
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let launch = Launch::program("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(boot_id)
            .arg(workspace_binary("announcer")?);
        self.start_launch(launch, node, node)
    }

    /// Makes the state directory of a node, for an announcer that runs as this user.
    pub fn make_state_directory(&mut self, node: &str, user: u32) -> anyhow::Result<PathBuf> {
        let state = match self.states.entry(node.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(tempfile::tempdir()?),
        };
        std::os::unix::fs::chown(state.path(), Some(user), Some(user))?;
        Ok(state.path().to_owned())
    }

    /// Starts what is to become the announcer of a node; its usual flags are added.
    pub fn start_launch(&mut self, launch: Launch, node: &str, name: &str) -> anyhow::Result<()> {
        let state = match self.states.entry(node.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(tempfile::tempdir()?),
        };
        let state = Path::new(state.path()).to_owned();
        let host = self.lan.host(node)?;
        let program = launch
            .named(&format!("announcer of {node}"))
            .args(["--cluster", CLUSTER, "--node", name])
            .args(["--ipam", &self.ipam])
            .arg("--state-dir")
            .arg(state)
            .args(&self.flags)
            .start_in(&host.namespace)?;
        self.announcers.insert(node.to_owned(), program);
        Ok(())
    }

    /// Announcers that are started from now on look for the peer under this URL.
    pub fn set_ipam(&mut self, url: &str) {
        url.clone_into(&mut self.ipam);
    }

    /// Announcers that are started from now on get these flags instead.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(ToString::to_string).collect();
    }

    /// Where a node keeps its state.
    pub fn state_directory(&self, node: &str) -> anyhow::Result<PathBuf> {
        let state = self.states.get(node).context("no such node")?;
        Ok(Path::new(state.path()).to_owned())
    }

    /// The announcer of a node.
    pub fn announcer(&mut self, node: &str) -> anyhow::Result<&mut Program> {
        self.announcers.get_mut(node).context("no such announcer")
    }

    /// Asks for addresses every 10 ms from the client, and records every ARP frame.
    pub fn probe(&self, addresses: &[Ipv4Addr]) -> anyhow::Result<Prober> {
        Prober::start(self.lan.host("client")?, addresses)
    }

    /// Waits until an address is answered by a node.
    pub fn wait_owner(
        &self,
        prober: &impl Recorder,
        address: impl Into<IpAddr>,
        node: &str,
    ) -> anyhow::Result<Duration> {
        let address = address.into();
        let mac = self.lan.host(node)?.mac;
        let since = prober.now();
        let what = format!("{node} answers for {address}");
        let answer = prober.wait_for_answer(&what, SOON, |answer| {
            answer.address == address && answer.at >= since && answer.mac == mac
        });
        Ok(answer.with_context(|| self.log_tails())?.at)
    }

    /// Waits until a node, and no other, has answered for an address for a while; gives the begin of
    /// that time.
    pub fn wait_alone(
        &self,
        prober: &Prober,
        address: Ipv4Addr,
        node: &str,
    ) -> anyhow::Result<Duration> {
        let mac = self.lan.host(node)?.mac;
        let since = prober.now();
        let found = wait::until(&format!("only {node} answers for {address}"), SOON, || {
            let record = prober.record();
            let answers: Vec<_> = record.of(address).filter(|one| one.at >= since).collect();
            let other = answers.iter().rposition(|answer| answer.mac != mac);
            let alone = &answers[other.map_or(0, |index| index + 1)..];
            let (first, last) = (alone.first()?, alone.last()?);
            (last.at >= first.at + ALONE).then_some(first.at)
        });
        found.with_context(|| self.log_tails())
    }

    /// Waits until a node has an assignment on its disk.
    pub fn wait_on_disk(&self, node: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let file = self.state_directory(node)?.join("assignments.bin");
        let text = address.to_string();
        wait::until(&format!("{address} is on the disk of {node}"), SOON, || {
            let bytes = std::fs::read(&file).ok()?;
            let mut windows = bytes.windows(text.len());
            windows
                .any(|window| window == text.as_bytes())
                .then_some(())
        })
    }

    /// What the announcers wrote last, for a failure that is to be understood.
    fn log_tails(&self) -> String {
        let announcers = self.announcers.iter();
        let tails = announcers.map(|(node, program)| {
            let log = program.log_tail();
            format!("the announcer of {node} wrote:\n{log}")
        });
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Every request for an address since `since` has exactly one answer, and no two nodes answered at
    /// the same time. What is being asked now is waited for.
    pub fn check_moves(
        &self,
        prober: &impl Recorder,
        address: impl Into<IpAddr>,
        since: Duration,
    ) -> anyhow::Result<()> {
        let address = address.into();
        let until = prober.now();
        let settled = wait::until("every request is answered", SETTLED, || {
            let late = prober.now() > until + STEADY;
            let record = late.then(|| prober.record());
            record.filter(|record| record.lost(address, since, until).is_empty())
        });
        let record = settled.unwrap_or_else(|_| prober.record());
        let told = || {
            let pause = record.longest_unasked(since, until);
            let timeline = record.timeline(address);
            format!("(the machine paused for up to {pause:?}; began at {since:?})\n{timeline}")
        };
        let lost = record.lost(address, since, until);
        anyhow::ensure!(
            lost.is_empty(),
            "{address}: requests of {lost:?} were lost {}",
            told()
        );
        let doubled = record.doubled(address, since, until);
        anyhow::ensure!(
            doubled.is_empty(),
            "{address}: answered twice: {doubled:?} {}",
            told()
        );
        let overlaps = record.overlaps(address);
        anyhow::ensure!(overlaps.is_empty(), "two at once: {overlaps:?} {}", told());
        Ok(())
    }

    /// `/metrics` of a node, or another path of its admin listener.
    pub fn admin(&self, node: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let address = SocketAddr::from(([127, 0, 0, 1], 7473));
        let host = self.lan.host(node)?;
        host.namespace
            .run(|| http::get(address, path, Duration::from_secs(5)))?
    }

    /// Waits until a metric of a node has a value; `name` with its labels.
    pub fn wait_metric(&self, node: &str, name: &str, value: &str) -> anyhow::Result<()> {
        let line = format!("{name} {value}");
        wait::until(&format!("{node} shows {line}"), SOON, || {
            let (_, text) = self.admin(node, "/metrics").ok()?;
            text.lines().any(|found| found == line).then_some(())
        })
    }
}
