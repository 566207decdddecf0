//! Interfaces that come, go and change while an announcer runs.
//!
//! Topology: `e2e::segment`. The client asks every 10 ms, and sees every ARP frame. What changes is
//! noticed and announced within 100 ms of the end of the command that changed it, in the median of
//! some rounds: a machine that runs tests pauses at times. What it pauses the prober for does not count.
//!
//! 1. An interface that appears answers and announces; one that vanishes hands over.
//! 2. A new hardware address is announced.
//! 3. A renamed interface goes by its new name: excluded it falls silent, allowed it is announced.
//! 4. An interface that joins a bridge stops, and the bridge answers; both are announced.
//! 5. A link that was down for some milliseconds is announced again.
//! 6. An interface that is only new starts no hold-down; one that was gone does.
//! 7. Others are told another address when the one that they were told is gone.
//! 8. MetalLB's list of exclusions decides what answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::segment::{SOON, Segment};
use pharos_testbed::arp::{Frame, Prober};
use pharos_testbed::{skip, wait};
use pnet_base::MacAddr;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const ROUNDS: usize = 3;
const BAR: Duration = Duration::from_millis(100);
/// What was handed over is kept for half a second at least.
const TENURE: Duration = Duration::from_millis(600);
/// Longer than between two rounds of a burst (1.1 s), and shorter than to a refresh (54 s).
const OVER: Duration = Duration::from_millis(1600);

/// How long something took, and the longest pause of the prober in that time.
#[derive(Debug, Clone, Copy)]
struct Figure {
    took: Duration,
    pause: Duration,
}

impl Figure {
    /// Of what was seen `at` that time, after a command that ended then.
    fn of(prober: &Prober, end: Duration, at: Duration) -> Self {
        Self {
            took: at.saturating_sub(end),
            pause: prober.record().longest_unasked(end, at),
        }
    }

    fn without_pause(&self) -> Duration {
        self.took.saturating_sub(self.pause)
    }
}

/// Figures of some rounds of one change; fails if their median is over the bar.
fn check(what: &str, mut figures: Vec<Figure>) {
    figures.sort_by_key(Figure::without_pause);
    eprintln!("{what}: {figures:?}");
    let median = figures[figures.len() / 2];
    assert!(median.without_pause() <= BAR, "{what}: {figures:?}");
}

/// Runs a command on the node; gives its begin and end by the prober's clock.
fn command(
    segment: &Segment,
    node: &str,
    prober: &Prober,
    command: &str,
) -> anyhow::Result<(Duration, Duration)> {
    let host = segment.lan.host(node)?;
    let begin = prober.now();
    host.namespace.exec(&["sh", "-ec", command])?;
    Ok((begin, prober.now()))
}

/// Gratuitous requests from a hardware address since a moment.
fn announcements(prober: &Prober, mac: MacAddr, since: Duration) -> Vec<Frame> {
    let frames = prober.frames().into_iter();
    let of_mac = frames.filter(|frame| frame.sender_mac == mac && frame.at >= since);
    of_mac
        .filter(|frame| frame.is_gratuitous() && !frame.reply && frame.sender == ADDRESS)
        .collect()
}

/// Waits for the first announcement since the begin of a command; says how long after its end.
fn announced_after(
    prober: &Prober,
    mac: MacAddr,
    (begin, end): (Duration, Duration),
) -> anyhow::Result<Figure> {
    let first = wait::until("an announcement", SOON, || {
        announcements(prober, mac, begin).first().copied()
    })?;
    Ok(Figure::of(prober, end, first.at))
}

/// Waits until a burst that began since this moment is over: what comes then is a new one.
fn wait_for_rest(prober: &Prober, mac: MacAddr, since: Duration) -> anyhow::Result<()> {
    wait::until("the end of a burst", SOON, || {
        let last = announcements(prober, mac, since).last()?.at;
        (prober.now() > last + OVER).then_some(())
    })
}

/// Waits until nobody has answered for a while; gives the last answer.
fn silent_since(prober: &Prober) -> anyhow::Result<Duration> {
    wait::until("silence", SOON, || {
        let last = prober.record().of(ADDRESS).last().map(|answer| answer.at)?;
        (prober.now() > last + 3 * BAR).then_some(last)
    })
}

/// Gives a node a second interface on the segment; gives its hardware address.
fn plug_second(segment: &Segment, node: &str, octet: u8) -> anyhow::Result<MacAddr> {
    let mac = MacAddr(2, 0, 0, 0, 1, octet);
    let switch = segment.lan.switch();
    let end = format!("{node}b");
    let host = segment.lan.host(node)?;
    host.namespace.exec(&[
        "ip",
        "link",
        "add",
        "eth1",
        "address",
        &mac.to_string(),
        "type",
        "veth",
        "peer",
        "name",
        &end,
        "netns",
        switch.name(),
    ])?;
    switch.exec(&["ip", "link", "set", "dev", &end, "master", "br0", "up"])?;
    Ok(mac)
}

/// A segment on which n1 answers and has announced all that it had to, with its hardware address;
/// `None`, after a loud line, where that cannot run.
fn at_rest() -> anyhow::Result<Option<(Segment, Prober, MacAddr)>> {
    if !skip::can_use_namespaces() {
        return Ok(None);
    }
    let segment = Segment::start(&["n1"], &["--hold-down", "0"])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    let begin = segment.wait_owner(&prober, ADDRESS, "n1")?;
    let mac = segment.lan.host("n1")?.mac;
    wait_for_rest(&prober, mac, begin.saturating_sub(BAR))?;
    Ok(Some((segment, prober, mac)))
}

#[test]
fn an_interface_that_appears_answers_and_one_that_vanishes_hands_over() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    let second = plug_second(&segment, "n2", 2)?;
    let prober = segment.probe(&[ADDRESS])?;
    command(&segment, "n2", &prober, "ip link set eth1 up")?;
    segment.peer.assign_on(ADDRESS, 1, &["n1", "n2"], &["eth1"]);
    prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = plug_second(&segment, "n1", 0x10 + u8::try_from(round)?)?;
        let (begin, end) = command(&segment, "n1", &prober, "ip link set eth1 up")?;
        appeared.push(announced_after(&prober, first, (begin, end))?);
        prober.wait_answer(ADDRESS, begin, Some(second), SOON)?;
        let (begin, end) = command(&segment, "n1", &prober, "ip link del eth1")?;
        let answer = prober.wait_answer(ADDRESS, begin, Some(first), SOON)?;
        assert_eq!(answer.mac, second);
        vanished.push(Figure::of(&prober, end, answer.at));
        wait::until("it may be handed over again", SOON, || {
            (prober.now() > answer.at + TENURE).then_some(())
        })?;
    }
    check("an interface appears", appeared);
    check("an interface vanishes", vanished);
    Ok(())
}

#[test]
fn a_new_hardware_address_is_announced() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1"], &["--hold-down", "0"])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    let mut figures = Vec::new();
    for round in 0..ROUNDS {
        let mac = MacAddr(2, 0, 0, 0, 2, u8::try_from(round)?);
        let change = format!("ip link set eth0 address {mac}");
        let (begin, end) = command(&segment, "n1", &prober, &change)?;
        figures.push(announced_after(&prober, mac, (begin, end))?);
        let answers = wait::until("answers", SOON, || {
            let record = prober.record();
            let later: Vec<_> = record.of(ADDRESS).filter(|it| it.at > end + BAR).collect();
            (later.len() > 5).then(|| later.iter().all(|answer| answer.mac == mac))
        })?;
        assert!(answers, "answers of the former hardware address");
    }
    check("a new hardware address", figures);
    Ok(())
}

#[test]
fn a_renamed_interface_goes_by_its_new_name() -> anyhow::Result<()> {
    let Some((segment, prober, mac)) = at_rest()? else {
        return Ok(());
    };
    let (mut renamed, mut excluded, mut allowed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // What MetalLB excludes.
        let times = command(&segment, "n1", &prober, "ip link set eth0 name veth0")?;
        excluded.push(Figure::of(&prober, times.1, silent_since(&prober)?));
        let times = command(&segment, "n1", &prober, "ip link set veth0 name uplink0")?;
        allowed.push(announced_after(&prober, mac, times)?);
        wait_for_rest(&prober, mac, times.0)?;
        let times = command(&segment, "n1", &prober, "ip link set uplink0 name eth0")?;
        renamed.push(announced_after(&prober, mac, times)?);
        // The next change makes it silent, so this burst need not be waited for.
    }
    check("renamed to what is excluded", excluded);
    check("renamed to what is allowed", allowed);
    check("renamed", renamed);
    Ok(())
}

#[test]
fn an_interface_that_joins_a_bridge_leaves_the_answers_to_it() -> anyhow::Result<()> {
    let Some((segment, prober, mac)) = at_rest()? else {
        return Ok(());
    };
    // The hardware address of a bridge without one of its own is that of its port: it is the same
    // frame that comes from another interface.
    let make = "ip link add br0 type bridge forward_delay 0 && ip link set br0 up";
    command(&segment, "n1", &prober, make)?;
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let times = command(&segment, "n1", &prober, "ip link set eth0 master br0")?;
        joined.push(announced_after(&prober, mac, times)?);
        wait_for_rest(&prober, mac, times.0)?;
        let (_, log) = segment.admin("n1", "/readyz")?;
        assert_eq!(log.trim(), "ok");
        let times = command(&segment, "n1", &prober, "ip link set eth0 nomaster")?;
        left.push(announced_after(&prober, mac, times)?);
        wait_for_rest(&prober, mac, times.0)?;
    }
    check("joined a bridge", joined);
    check("left a bridge", left);
    Ok(())
}

#[test]
fn a_link_that_flapped_is_announced_again() -> anyhow::Result<()> {
    let Some((segment, prober, mac)) = at_rest()? else {
        return Ok(());
    };
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let begin = prober.now();
        let flap = "ip link set n1 down; ip link set n1 up";
        segment.lan.switch().exec(&["sh", "-ec", flap])?;
        let times = (begin, prober.now());
        figures.push(announced_after(&prober, mac, times)?);
        wait_for_rest(&prober, mac, times.0)?;
    }
    check("a flap", figures);
    Ok(())
}

#[test]
fn only_an_interface_that_was_gone_starts_a_hold_down() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    // Long enough that the end of the test is before its end.
    let mut segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    let prober = segment.probe(&[ADDRESS])?;
    segment.set_flags(&["--hold-down", "3"]);
    segment.announcer("n1")?.kill()?;
    segment.start_announcer("n1")?;
    let handed_over = |segment: &Segment, group: u64| -> anyhow::Result<Duration> {
        segment.peer.assign(ADDRESS, group, &["n2", "n1"]);
        segment.wait_owner(&prober, ADDRESS, "n2")?;
        let since = prober.now();
        segment.peer.assign(ADDRESS, group, &["n1", "n2"]);
        Ok(segment.wait_owner(&prober, ADDRESS, "n1")? - since)
    };
    // Its hold-down after the start is over when this is done.
    segment.peer.assign(ADDRESS, 1, &["n2", "n1"]);
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    segment.wait_owner(&prober, ADDRESS, "n1")?;
    plug_second(&segment, "n1", 1)?;
    command(&segment, "n1", &prober, "ip link set eth1 up")?;
    segment.announcer("n1")?.wait_log("eth1", SOON)?;
    let took = handed_over(&segment, 1)?;
    assert!(
        took < Duration::from_secs(2),
        "an interface is new: {took:?}"
    );
    command(&segment, "n1", &prober, "ip link set eth1 down")?;
    wait::until("eth1 is not used", SOON, || {
        let log = segment.announcer("n1").ok()?.log();
        let last = log
            .lines()
            .rfind(|line| line.contains("usable interfaces"))?;
        (!last.contains("eth1")).then_some(())
    })?;
    segment.peer.assign(ADDRESS, 1, &["n2", "n1"]);
    segment.wait_owner(&prober, ADDRESS, "n2")?;
    command(&segment, "n1", &prober, "ip link set eth1 up")?;
    let back = prober.now();
    segment.peer.assign(ADDRESS, 1, &["n1", "n2"]);
    // It may answer from either of its interfaces.
    let other = segment.lan.host("n2")?.mac;
    let answer = prober.wait_answer(ADDRESS, back, Some(other), SOON)?;
    let took = answer.at - back;
    assert!(
        took > Duration::from_secs(2),
        "an interface came back: {took:?}"
    );
    Ok(())
}

#[test]
fn others_are_told_another_address_when_the_one_that_they_know_is_gone() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let segment = Segment::start(&["n1", "n2"], &["--hold-down", "0"])?;
    let told = || -> Vec<String> {
        let hellos = segment.peer.hellos().into_iter();
        hellos
            .filter(|hello| hello.node == "n1")
            .map(|hello| hello.member_endpoint)
            .collect()
    };
    assert_eq!(told(), ["192.168.12.11:7946"]);
    let prober = segment.probe(&[])?;
    let change = "ip addr add 192.168.12.21/24 dev eth0; ip addr del 192.168.12.11/24 dev eth0; \
                  ip addr show dev eth0 | grep -q 192.168.12.21 || \
                  ip addr add 192.168.12.21/24 dev eth0";
    command(&segment, "n1", &prober, change)?;
    wait::until("n1 tells its new address", SOON, || {
        (told().last()? == "192.168.12.21:7946").then_some(())
    })?;
    for node in ["n1", "n2"] {
        segment.wait_metric(node, "pharos_announcer_members_alive", "1")?;
    }
    // Whoever knew only the old address would be believed dead half a second later.
    let since = prober.now();
    wait::until("a while in which all live", SOON, || {
        for node in ["n1", "n2"] {
            let (_, text) = segment.admin(node, "/metrics").ok()?;
            assert!(text.contains("pharos_announcer_members_alive 1"), "{node}");
        }
        (prober.now() > since + Duration::from_secs(2)).then_some(())
    })?;
    Ok(())
}

#[test]
fn the_exclusions_of_metallbs_file_decide_what_answers() -> anyhow::Result<()> {
    if !skip::can_use_namespaces() {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("excludel2.yaml");
    std::fs::write(&file, "announcedInterfacesToExclude: ['^eth0$']\n")?;
    let path = file.to_string_lossy().into_owned();
    let flags = ["--hold-down", "0", "--exclude-interfaces-file", &path];
    let segment = Segment::start(&["n1"], &flags)?;
    let mac = plug_second(&segment, "n1", 1)?;
    let prober = segment.probe(&[ADDRESS])?;
    // The defaults are replaced: an interface of this name would be left out by them.
    let rename = "ip link set eth1 name veth1; ip link set veth1 up";
    command(&segment, "n1", &prober, rename)?;
    segment.peer.assign(ADDRESS, 1, &["n1"]);
    prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    wait::until("some answers", SOON, || {
        (prober.record().of(ADDRESS).count() > 20).then_some(())
    })?;
    let answerers = prober.record().answerers(ADDRESS, Duration::ZERO, SOON);
    assert!(answerers.iter().eq(&[mac]), "{answerers:?}");
    Ok(())
}
