//! Other machines that use an address of a node.
//!
//! Topology: `e2e::segment` with announcers on n1 and n2; n3 is a stranger. A client asks every 10 ms.
//!
//! 1. A stranger that has the address, and only answers who asks it, is seen within a second: in the metric
//!    with both hardware addresses, in the log, and at ipam-service. The owner goes on answering, defends
//!    the address at most once in 10 s, and says when it is over.
//! 2. The same for IPv6.
//! 3. The kernel of another node of the cluster is told apart, and not defended against.
//! 4. Nodes that come, go and hand over are no conflict.
//! 5. A conflict goes on while the machine is there, although nobody asks for the address.
//! 6. With the real ipam-service (`e2e::fleet`): it shows who saw which machine, gives the address to nobody
//!    else, and forgets the conflict when it is over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use e2e::fleet::Fleet;
use e2e::segment::{SOON, Segment};
use pharos_proto::v1;
use pharos_testbed::arp::Prober;
use pharos_testbed::record::Recorder;
use pharos_testbed::{ndp, skip, wait};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100);
/// The bar for a conflict to be seen.
const SEEN: Duration = Duration::from_secs(1);
/// Longer than a conflict lasts that is not seen any more (10 s).
const UNSEEN: Duration = Duration::from_secs(14);

fn series(segment: &Segment, address: IpAddr, kind: &str, other: &str) -> anyhow::Result<String> {
    let mac = segment.lan.host(other)?.mac;
    let own = segment.lan.host("n1")?.mac;
    Ok(format!(
        "pharos_announcer_conflicts{{ip=\"{address}\",kind=\"{kind}\",mac=\"{mac}\",own_mac=\"{own}\"}} 1"
    ))
}

fn shows(segment: &Segment, series: &str) -> Option<bool> {
    let (_, text) = segment.admin("n1", "/metrics").ok()?;
    Some(text.lines().any(|line| line == series))
}

/// Waits until the metric is there.
fn wait_seen(segment: &Segment, series: &str) -> anyhow::Result<()> {
    wait::until(series, SOON, || shows(segment, series)?.then_some(()))
}

/// Waits until the metric is there; fails when that took longer than the bar, and what the machine
/// paused for meanwhile.
fn check_seen(prober: &impl Recorder, segment: &Segment, series: &str) -> anyhow::Result<()> {
    let began = prober.now();
    wait_seen(segment, series)?;
    let seen = prober.now();
    let pause = prober.record().longest_unasked(began, seen);
    let took = seen - began;
    eprintln!("seen after {took:?} (the machine paused for up to {pause:?})");
    anyhow::ensure!(took <= SEEN + pause, "seen after {took:?}, {pause:?}");
    Ok(())
}

fn wait_over(segment: &Segment, series: &str) -> anyhow::Result<()> {
    wait::until("the conflict is over", SOON, || {
        (!shows(segment, series)?).then_some(())
    })
}

/// Waits until the owner has answered for so long.
fn wait_answered(prober: &impl Recorder, since: Duration, time: Duration) -> anyhow::Result<()> {
    wait::until("answers for a while", SOON, || {
        (prober.now() > since + time).then_some(())
    })
}

#[test]
fn a_stranger_is_seen_within_a_second_and_told_of_and_nothing_changes() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    let since = segment.wait_owner(&prober, ADDRESS, "n1")?;
    // Behind the rounds of the take-over a gratuitous frame is a defence.
    wait_answered(&prober, since, Duration::from_secs(6))?;

    let stranger = segment.lan.host("n3")?;
    let (mac, own) = (stranger.mac, segment.lan.host("n1")?.mac);
    let begun = prober.now();
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    stranger.namespace.exec(&add)?;
    let metric = series(&segment, ADDRESS.into(), "foreign", "n3")?;
    check_seen(&prober, &segment, &metric)?;
    let (node, conflict) = wait::until("the report", SOON, || segment.peer.conflicts().pop())?;
    assert_eq!(
        (node.as_str(), conflict.address.as_str()),
        ("n1", "192.168.12.100")
    );
    assert_eq!(
        (conflict.mac, conflict.own_mac),
        (mac.to_string(), own.to_string())
    );

    assert_eq!((&*conflict.interface, &*conflict.member), ("eth0", ""));

    wait_answered(&prober, begun, Duration::from_secs(12))?;
    let frames = prober.frames().into_iter();
    let defences: Vec<Duration> = frames
        .filter(|frame| {
            frame.is_gratuitous() && !frame.reply && frame.at > begun && frame.source == own
        })
        .map(|frame| frame.at)
        .collect();
    assert!((1..=2).contains(&defences.len()), "{defences:?}");
    for pair in defences.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(10), "{defences:?}");
    }
    let now = prober.now();
    let answerers = prober.record().answerers(ADDRESS, begun, now);
    assert!(
        answerers.contains(&own),
        "the owner fell silent: {answerers:?}"
    );
    assert_eq!(segment.peer.conflicts().len(), 1, "told once");

    segment.lan.host("n3")?.namespace.exec(&del)?;
    wait_over(&segment, &metric)?;
    let is_over = |(_, one): &(String, v1::announcer_report::Conflict)| one.over;
    wait::until("the report that it is over", SOON, || {
        segment.peer.conflicts().iter().any(is_over).then_some(())
    })?;
    let announcer = segment.announcer("n1")?;
    announcer.wait_log("another machine uses an address of this node", SOON)?;
    announcer.wait_log("does not use the address any more", SOON)
}

#[test]
fn a_stranger_with_an_ipv6_address_is_seen_within_a_second() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = ndp::Prober::start(segment.lan.host("client")?, &[IPV6])?;
    segment.peer.assign(IPV6, 1, &["n1", "n2"]);
    let since = segment.wait_owner(&prober, IPV6, "n1")?;
    wait_answered(&prober, since, Duration::from_secs(4))?;
    let stranger = &segment.lan.host("n3")?.namespace;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "-6", "addr", what, "fd12::100/128", "dev", "eth0"]);
    stranger.exec(&[&add[..], &["nodad"]].concat())?;
    let metric = series(&segment, IPV6.into(), "foreign", "n3")?;
    check_seen(&prober, &segment, &metric)?;
    wait::until("the report", SOON, || segment.peer.conflicts().pop())?;
    stranger.exec(&del)?;
    wait_over(&segment, &metric)
}

#[test]
fn the_kernel_of_a_member_is_told_apart() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    let since = segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait_answered(&prober, since, Duration::from_secs(6))?;
    // As kube-proxy does it with kube-ipvs0: on any interface of the node, and its kernel answers.
    let member = &segment.lan.host("n2")?.namespace;
    let begun = prober.now();
    member.exec(&["ip", "addr", "add", "192.168.12.100/32", "dev", "lo"])?;
    let metric = series(&segment, ADDRESS.into(), "kernel_answers", "n2")?;
    wait_seen(&segment, &metric)?;
    let own = segment.lan.host("n1")?.mac;
    let frames = prober.frames().into_iter();
    let defences =
        frames.filter(|frame| frame.is_gratuitous() && frame.at > begun && frame.source == own);
    assert_eq!(defences.count(), 0, "defended against a member");
    let reported = segment.peer.conflicts();
    let is_member = |(_, one): &(String, v1::announcer_report::Conflict)| {
        one.kind() == v1::announcer_report::conflict::Kind::KernelAnswers
            && (one.over, &*one.interface, &*one.member) == (false, "eth0", "n2")
    };
    assert!(reported.iter().all(is_member), "{reported:?}");
    segment
        .announcer("n1")?
        .wait_log("set kube-proxy ipvs strictARP: true", SOON)
}

#[test]
fn a_conflict_goes_on_while_nobody_asks() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &[])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    let since = segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait_answered(&prober, since, Duration::from_secs(2))?;
    let stranger = &segment.lan.host("n3")?.namespace;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    stranger.exec(&add)?;
    let metric = series(&segment, ADDRESS.into(), "foreign", "n3")?;
    wait_seen(&segment, &metric)?;
    // The last one that asks.
    drop(prober);
    let began = wait::now();
    let last = wait::until("time in which nobody asks", SOON, || {
        let shown = shows(&segment, &metric)?;
        (!shown || began.elapsed() > UNSEEN).then_some(shown)
    })?;
    assert!(last, "over after {:?}", began.elapsed());
    stranger.exec(&del)?;
    wait_over(&segment, &metric)
}

#[test]
fn nodes_that_come_and_go_are_no_conflict() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let mut segment = Segment::start(&["n1", "n2"], &["--hold-down", "1"])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    segment.announcer("n1")?.terminate(SOON)?;
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    segment.start_announcer("n1")?;
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    segment.announcer("n1")?.kill()?;
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    segment.start_announcer("n1")?;
    let back = segment.wait_owner(&prober, ADDRESS, "n1")?;
    wait_answered(&prober, back, Duration::from_secs(2))?;
    for node in ["n1", "n2"] {
        let (_, text) = segment.admin(node, "/metrics")?;
        let conflicts = text
            .lines()
            .filter(|line| line.starts_with("pharos_announcer_conflicts{"));
        assert_eq!(conflicts.count(), 0, "{node}: {text}");
    }
    assert_eq!(segment.peer.conflicts(), []);
    Ok(())
}

#[test]
fn ipam_service_shows_the_other_machine_and_gives_its_address_to_nobody_else() -> anyhow::Result<()>
{
    let Some(fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.101")?;
    fleet.advertise("all", &[], &[])?;
    assert_eq!(fleet.allocate_any("web")?, ["192.168.12.100"]);
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    wait_answered(&prober, first.at, Duration::from_secs(2))?;
    assert_eq!(fleet.conflicts()?, []);

    let stranger = fleet.lan.host("n2")?;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    stranger.namespace.exec(&add)?;
    let seen = wait::until("the conflict", SOON, || fleet.conflicts().ok()?.pop())?;
    let conflict = seen.conflict.unwrap_or_default();
    assert_eq!((&*seen.node, &*conflict.address), ("n1", "192.168.12.100"));
    let macs = [stranger.mac, fleet.lan.host("n1")?.mac].map(|mac| mac.to_string());
    assert_eq!([conflict.mac, conflict.own_mac], macs);
    assert_eq!(conflict.interface, "eth0");

    // Its holder keeps it; after a release others are passed by it.
    fleet.release("web")?;
    assert_eq!(fleet.allocate_any("api")?, ["192.168.12.101"]);
    stranger.namespace.exec(&del)?;
    wait::until("nobody tells of it any more", SOON, || {
        fleet.conflicts().ok()?.is_empty().then_some(())
    })
}
