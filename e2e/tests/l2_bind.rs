//! Plain servers on announced addresses: `--bind-addresses` keeps what a node answers for on its lo.
//!
//! Topology: `e2e::segment` with two nodes, each with a server that listens on all addresses and
//! says its node's name. The client is a plain one: it asks by its own kernel.
//!
//! 1. The owner's server answers; after a stop (SIGTERM) the other node's, and the first has nothing
//!    bound any more.
//! 2. What a killed announcer left is removed by the next one, which owns nothing yet.
//! 3. What somebody else removes comes back, and what somebody else bound stays.
//! 4. Without NET_ADMIN, or without the interface, it does not start, and says why.
//! 5. No request is lost and none answered twice while the owner changes in order.
//! 6. IPv6 addresses are served in the same way.
//! 7. Where IPv6 is disabled a dual-stack group is served by IPv4, and the node is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::{Launch, http, skip, wait, workspace_binary};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 101);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100);
const PORT: u16 = 8080;
const NODES: [&str; 2] = ["n1", "n2"];
const FLAGS: [&str; 3] = ["--bind-addresses", "--hold-down", "0"];

/// Two nodes with their servers.
fn site() -> anyhow::Result<(Segment, Vec<http::Server>)> {
    let segment = Segment::start(&[], &FLAGS)?;
    let mut servers = Vec::new();
    for node in NODES {
        let namespace = &segment.lan.host(node)?.namespace;
        // The kernel leaves the answers to the announcer.
        namespace.write_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        servers.push(http::Server::start(Some(namespace), any, node)?);
    }
    Ok((segment, servers))
}

fn start(segment: &mut Segment) -> anyhow::Result<()> {
    for node in NODES {
        segment.start_announcer(node)?;
    }
    for node in NODES {
        segment.wait_metric(node, "pharos_announcer_members_alive", "1")?;
        segment.wait_metric(node, "pharos_announcer_stream_connected", "1")?;
    }
    Ok(())
}

/// Waits until the client gets its answer from this node.
fn wait_served(segment: &Segment, node: &str) -> anyhow::Result<()> {
    wait_served_at(segment, ADDRESS.into(), node)
}

fn wait_served_at(segment: &Segment, address: IpAddr, node: &str) -> anyhow::Result<()> {
    let client = segment.lan.host("client")?;
    wait::until(&format!("{node} serves the client"), SOON, || {
        let server = SocketAddr::new(address, PORT);
        let ask = || http::get(server, "/", Duration::from_secs(1));
        let answer = client.namespace.run(ask).ok()?.ok()?;
        (answer.1 == node).then_some(())
    })
}

fn is_bound(segment: &Segment, node: &str, address: impl Into<IpAddr>) -> anyhow::Result<bool> {
    let namespace = &segment.lan.host(node)?.namespace;
    let shown = namespace.exec(&["ip", "-o", "addr", "show", "dev", "lo"])?;
    let address = match address.into() {
        IpAddr::V4(address) => format!(" {address}/32 "),
        IpAddr::V6(address) => format!(" {address}/128 "),
    };
    Ok(shown.contains(&address))
}

fn wait_bound(segment: &Segment, node: &str, expected: bool) -> anyhow::Result<()> {
    let what = format!("{ADDRESS} on {node}: {expected}");
    wait::until(&what, SOON, || {
        (is_bound(segment, node, ADDRESS).ok()? == expected).then_some(())
    })
}

#[test]
fn the_owners_server_answers_and_after_a_stop_that_of_the_next() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    start(&mut segment)?;
    segment.peer.assign(ADDRESS, 1, &NODES);
    wait_served(&segment, "n1")?;
    assert!(is_bound(&segment, "n1", ADDRESS)?);
    assert!(!is_bound(&segment, "n2", ADDRESS)?);
    let status = segment.announcer("n1")?.terminate(SOON)?;
    assert!(status.success(), "{status}");
    assert!(!is_bound(&segment, "n1", ADDRESS)?);
    wait_served(&segment, "n2")?;
    segment.start_announcer("n1")?;
    wait_served(&segment, "n1")?;
    wait_bound(&segment, "n2", false)?;
    segment.peer.unassign(ADDRESS);
    wait_bound(&segment, "n1", false)
}

#[test]
fn what_a_killed_announcer_left_is_removed() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    start(&mut segment)?;
    segment.peer.assign(ADDRESS, 1, &NODES);
    wait_served(&segment, "n1")?;
    segment.announcer("n1")?.kill()?;
    assert!(is_bound(&segment, "n1", ADDRESS)?, "nobody could remove it");
    wait_served(&segment, "n2")?;
    // Of people, with no mark.
    let namespace = &segment.lan.host("n1")?.namespace;
    namespace.exec(&["ip", "addr", "add", "192.168.12.101/32", "dev", "lo"])?;
    segment.set_flags(&["--bind-addresses", "--hold-down", "60"]);
    segment.start_announcer("n1")?;
    wait_bound(&segment, "n1", false)?;
    assert!(is_bound(&segment, "n1", OTHER)?);
    wait_served(&segment, "n2")
}

#[test]
fn what_others_remove_comes_back_and_what_they_bound_stays() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    start(&mut segment)?;
    let ip = |action: &str, address: Ipv4Addr| -> anyhow::Result<()> {
        let namespace = &segment.lan.host("n1")?.namespace;
        let address = format!("{address}/32");
        namespace.exec(&["ip", "addr", action, &address, "dev", "lo"])?;
        Ok(())
    };
    ip("add", OTHER)?;
    segment.peer.assign(ADDRESS, 1, &NODES);
    segment.peer.assign(OTHER, 2, &NODES);
    wait_served(&segment, "n1")?;
    ip("del", ADDRESS)?;
    wait_bound(&segment, "n1", true)?;
    wait_served(&segment, "n1")?;
    segment.peer.unassign(OTHER);
    segment.peer.unassign(ADDRESS);
    wait_bound(&segment, "n1", false)?;
    assert!(is_bound(&segment, "n1", OTHER)?);
    Ok(())
}

#[test]
fn it_does_not_start_without_what_binding_needs() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() || !skip::has_programs(&["setpriv"]) {
        return Ok(());
    }
    let segment = Segment::start(&[], &[])?;
    let namespace = &segment.lan.host("n1")?.namespace;
    let state = tempfile::tempdir()?;
    let cases = [
        (["-all,+net_raw", "lo"], "needs the capability NET_ADMIN"),
        (
            ["-all,+net_raw,+net_admin", "eth7"],
            "--bind-addresses eth7: ",
        ),
    ];
    for ([capabilities, interface], reason) in cases {
        let mut program = Launch::program("setpriv")
            .args(["--bounding-set", capabilities])
            .arg(workspace_binary("announcer")?)
            .args(["--bind-addresses", interface])
            .arg("--state-dir")
            .arg(state.path())
            .start_in(namespace)?;
        let status = program.wait(SOON)?;
        assert_eq!(status.code(), Some(2), "{}", program.log());
        assert!(program.log().contains(reason), "{}", program.log());
    }
    Ok(())
}

#[test]
fn no_request_is_lost_or_answered_twice_while_the_owner_changes() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    start(&mut segment)?;
    segment.peer.assign(ADDRESS, 1, &NODES);
    // Whoever is told first takes what nobody has, and hands it over: that is not measured here.
    let calm = segment.probe(&[ADDRESS])?;
    segment.wait_alone(&calm, ADDRESS, "n1")?;
    drop(calm);
    for (nodes, before, after) in [(["n2", "n1"], "n1", "n2"), (["n1", "n2"], "n2", "n1")] {
        // A recording for each: a return within a second would look like two owners.
        let prober = segment.probe(&[ADDRESS])?;
        let began = segment.wait_owner(&prober, ADDRESS, before)?;
        segment.peer.assign(ADDRESS, 1, &nodes);
        segment.wait_owner(&prober, ADDRESS, after)?;
        segment.check_moves(&prober, ADDRESS, began)?;
    }
    Ok(())
}

#[test]
fn ipv6_addresses_are_served_in_the_same_way() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    for (host, address) in [
        ("client", "fd12::200/64"),
        ("n1", "fd12::11/64"),
        ("n2", "fd12::12/64"),
    ] {
        let namespace = &segment.lan.host(host)?.namespace;
        namespace.exec(&["ip", "addr", "add", address, "dev", "eth0"])?;
    }
    start(&mut segment)?;
    // One group: both go together.
    segment.peer.assign(ADDRESS, 1, &NODES);
    segment.peer.assign(IPV6, 1, &NODES);
    wait_served_at(&segment, IPV6.into(), "n1")?;
    wait_served(&segment, "n1")?;
    assert!(is_bound(&segment, "n1", IPV6)?);
    assert!(!is_bound(&segment, "n2", IPV6)?);
    // Not what the host itself speaks as.
    let namespace = &segment.lan.host("n1")?.namespace;
    let route = namespace.exec(&["ip", "-6", "route", "get", "fd12::200"])?;
    assert!(route.contains("src fd12::11"), "{route}");
    segment.announcer("n1")?.kill()?;
    wait_served_at(&segment, IPV6.into(), "n2")?;
    segment.set_flags(&["--bind-addresses", "--hold-down", "60"]);
    segment.start_announcer("n1")?;
    wait_bound(&segment, "n1", false)?;
    assert!(!is_bound(&segment, "n1", IPV6)?);
    segment.peer.unassign(IPV6);
    wait::until("it is gone from n2", SOON, || {
        (!is_bound(&segment, "n2", IPV6).ok()?).then_some(())
    })?;
    wait_served(&segment, "n2")
}

#[test]
fn where_ipv6_is_disabled_only_ipv4_is_bound_and_the_node_is_ready() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let (mut segment, _servers) = site()?;
    for node in NODES {
        let namespace = &segment.lan.host(node)?.namespace;
        for scope in ["lo", "eth0"] {
            namespace.write_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
    }
    start(&mut segment)?;
    segment.peer.assign(IPV6, 1, &NODES);
    segment.peer.assign(ADDRESS, 1, &NODES);
    wait_served(&segment, "n1")?;
    // What cannot be bound makes it unready before it answers for anything.
    let (_, ready) = segment.admin("n1", "/readyz")?;
    assert!(!ready.contains("bind-addresses"), "{ready}");
    assert!(!segment.announcer("n1")?.log().contains("not bound"));
    Ok(())
}
