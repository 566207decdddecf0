//! IPv6 addresses that change their owner.
//!
//! Topology: `e2e::segment`; every host has a link-local address.
//!
//! 1. A stopped owner hands over: no answer is lost, and no two nodes answer; the heir advertises itself.
//! 2. A killed owner (-9) is replaced within half a second, and a client with a warm neighbour entry
//!    learns of it without asking.
//! 3. The addresses of a dual-stack Service move together.
//! 4. A switch that forwards multicast only to who has joined (MLD snooping with a querier) forwards the
//!    questions to the owner, also after a move, and to nobody who has left.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::ndp::{Prober, solicited_node};
use pharos_testbed::record::Recorder as _;
use pharos_testbed::{Host, skip, wait};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0x12, 0x3456);
const IPV4: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Where the servers of the warm client listen.
const PORT: u16 = 7007;

#[test]
fn a_stopped_owner_hands_over_without_a_lost_answer() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "2"])?;
    let prober = Prober::start(segment.lan.host("client")?, &[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let before = prober.now();
    segment.announcer("n1")?.terminate(SOON)?;
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    segment.check_moves(&prober, ADDRESS, before)?;
    let heir = segment.lan.host("n2")?.mac;
    wait::until("the heir advertises itself", SOON, || {
        let frames = prober.frames();
        let mut unasked = frames
            .iter()
            .filter(|frame| frame.advertisement && frame.to.is_multicast());
        unasked.any(|frame| frame.source == heir).then_some(())
    })?;
    // It takes the address back after its hold-down.
    segment.start_announcer("n1")?;
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    segment.check_moves(&prober, ADDRESS, before)
}

/// The address on a host, and a server behind it that tells the name of the host.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host) -> anyhow::Result<Self> {
        let address = format!("{ADDRESS}/128");
        for command in [
            ["ip", "-6", "addr", "add", &address, "dev", "lo"],
            ["ip", "-6", "route", "add", "fd12::/64", "dev", "eth0"],
        ] {
            host.namespace.exec(&command)?;
        }
        let bind = || UdpSocket::bind(SocketAddr::from((ADDRESS, PORT)));
        let socket = wait::until_ok("the address can be bound", SOON, || {
            Ok(host.namespace.run(bind)??)
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (name, stopped) = (host.name.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    // Who does not hear it asks again.
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed by it.
            let _ = thread.join();
        }
    }
}

/// Asks the address every 10 ms until this host answers; gives how long that took.
fn ask_until(client: &UdpSocket, wanted: &str) -> anyhow::Result<Duration> {
    let began = wait::now();
    let mut buffer = [0; 64];
    wait::until(&format!("{wanted} answers the client"), SOON, || {
        client
            .send_to(b"who", SocketAddr::from((ADDRESS, PORT)))
            .ok()?;
        let (length, _) = client.recv_from(&mut buffer).ok()?;
        (buffer[..length] == *wanted.as_bytes()).then(|| began.elapsed())
    })
}

#[test]
fn a_killed_owner_is_replaced_within_half_a_second_for_a_warm_client() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2", "n3"]);
    let client = segment.lan.host("client")?;
    let add = ["ip", "-6", "addr", "add", "fd12::200/64", "dev", "eth0"];
    client.namespace.exec(&add)?;
    let bind = || UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let socket = client.namespace.run(bind)??;
    socket.set_read_timeout(Some(Duration::from_millis(10)))?;
    let _servers = [
        Server::start(segment.lan.host("n1")?)?,
        Server::start(segment.lan.host("n2")?)?,
    ];
    let mut figures = Vec::new();
    for _ in 0..4 {
        ask_until(&socket, "n1")?;
        segment.announcer("n1")?.kill()?;
        figures.push(ask_until(&socket, "n2")?);
        segment.start_announcer("n1")?;
    }
    eprintln!("failover after kill -9, for a warm client: {figures:?}");
    figures.sort();
    let typical = figures[figures.len() / 2];
    assert!(typical <= Duration::from_millis(500), "{figures:?}");
    Ok(())
}

#[test]
fn the_addresses_of_a_dual_stack_service_move_together() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &[])?;
    let client = segment.lan.host("client")?;
    let ipv6 = Prober::start(client, &[ADDRESS])?;
    let ipv4 = segment.probe(&[IPV4])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2", "n3"]);
    segment.peer.assign(IPV4, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&ipv6, ADDRESS, "n1")?;
    segment.wait_owner(&ipv4, IPV4, "n1")?;
    segment.wait_metric("n1", "pharos_announcer_owned_groups", "1")?;
    let (before6, before4) = (ipv6.now(), ipv4.now());
    segment.announcer("n1")?.terminate(SOON)?;
    segment.wait_owner(&ipv6, ADDRESS, "n2")?;
    segment.wait_owner(&ipv4, IPV4, "n2")?;
    segment.check_moves(&ipv6, ADDRESS, before6)?;
    segment.check_moves(&ipv4, IPV4, before4)
}

/// The ports of the switch that have joined the group of the address.
fn members(segment: &Segment) -> anyhow::Result<BTreeSet<String>> {
    let switch = segment.lan.switch();
    let said = switch.exec(&["bridge", "mdb", "show", "dev", "br0"])?;
    let group = format!(" grp {} ", solicited_node(ADDRESS));
    let lines = said.lines().filter(|line| line.contains(&group));
    let port = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "port");
        words.nth(1).map(str::to_owned)
    };
    Ok(lines.filter_map(port).collect())
}

fn wait_only_member(segment: &Segment, node: &str) -> anyhow::Result<()> {
    let what = format!("only {node} has joined");
    let expected = BTreeSet::from([node.to_owned()]);
    wait::until(&what, SOON, || {
        (members(segment).ok()? == expected).then_some(())
    })
}

#[test]
fn a_switch_that_forwards_only_to_who_has_joined_forwards_to_the_owner() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["bridge"]) {
        return Ok(());
    }
    let mut segment = Segment::start(&NODES, &["--hold-down", "1"])?;
    let switch = segment.lan.switch();
    // Asks at once, and every second; takes who does not answer out after another one.
    let set = "ip link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
               mcast_query_response_interval 50 mcast_last_member_interval 10 \
               mcast_startup_query_interval 50 mcast_mld_version 2";
    switch.exec(&set.split_whitespace().collect::<Vec<_>>())?;
    let prober = Prober::start(segment.lan.host("client")?, &[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2", "n3"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait_only_member(&segment, "n1")?;
    segment.announcer("n1")?.terminate(SOON)?;
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    wait_only_member(&segment, "n2")
}
