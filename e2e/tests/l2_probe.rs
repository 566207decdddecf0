//! A new address, chosen by ipam-service, is asked for before it is answered for the first time.
//!
//! Topology: `e2e::fleet` with an announcer on n1; n3 is a stranger. A client asks every 10 ms.
//!
//! 1. Three probes 200 ms apart are on the wire before the first answer. What was answered once is not
//!    probed after a restart.
//! 2. A stranger that has the address keeps it, also when the owner's interface gets another hardware
//!    address: nobody announces it, the conflict is listed, and the address is answered within one
//!    interval after the stranger is gone.
//! 3. The same for IPv6.
//! 4. A fenced address is asked for by the first node that is named its owner, and by no later one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use e2e::fleet::{CLUSTER, Fleet, SOON};
use pharos_proto::v1;
use pharos_proto::v1::advertisement::l2::Ownership;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_testbed::record::Recorder;
use pharos_testbed::{arp, ndp, wait};
use pnet_base::MacAddr;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0x100);
/// Between two probes, and after the last.
const INTERVAL: Duration = Duration::from_millis(200);
/// After which a taken address is probed again, and the probes.
const AGAIN: Duration = Duration::from_millis(10_600);

/// What the service chooses, which is the only address of its pool.
fn choose(fleet: &Fleet, address: IpAddr) -> anyhow::Result<()> {
    choose_as(fleet, Ownership::Available, address)
}

fn choose_as(fleet: &Fleet, ownership: Ownership, address: IpAddr) -> anyhow::Result<()> {
    fleet.apply_pool(&format!("{address}-{address}"))?;
    fleet.advertise_as(ownership, "all", &[], &[])?;
    let addresses = fleet.allocate_any("web")?;
    anyhow::ensure!(addresses == [address.to_string()], "{addresses:?}");
    Ok(())
}

/// Waits until the conflict is listed as one of before the first answer.
fn wait_listed(fleet: &Fleet, address: IpAddr, stranger: MacAddr) -> anyhow::Result<()> {
    let seen = wait::until("the conflict", SOON, || fleet.conflicts().ok()?.pop())?;
    let conflict = seen.conflict.unwrap_or_default();
    assert_eq!(conflict.address, address.to_string());
    assert_eq!(conflict.mac, stranger.to_string());
    assert!(conflict.while_probing, "{conflict:?}");
    Ok(())
}

/// Waits until some answer was given, and fails if one of these machines gave one before.
fn wait_silent(
    prober: &impl Recorder,
    address: IpAddr,
    silent: MacAddr,
    time: Duration,
) -> anyhow::Result<()> {
    let begun = prober.now();
    wait::until("a while", SOON, || {
        (prober.now() > begun + time).then_some(())
    })?;
    let now = prober.now();
    let answerers = prober.record().answerers(address, Duration::ZERO, now);
    anyhow::ensure!(!answerers.contains(&silent), "it answered: {answerers:?}");
    Ok(())
}

/// Three, one interval apart, and the first answer after the last.
fn check_probes(probes: &[Duration], answered: Duration) {
    assert_eq!(probes.len(), 3, "{probes:?}");
    let steps = [
        probes[1] - probes[0],
        probes[2] - probes[1],
        answered - probes[2],
    ];
    eprintln!(
        "probes {steps:?} apart, the answer {:?} after the first",
        answered - probes[0]
    );
    // As a frame is seen a little late on a busy machine, the next one seems to come early.
    let early = Duration::from_millis(50);
    assert!(
        steps.iter().all(|step| *step + early >= INTERVAL),
        "{steps:?}"
    );
}

fn is_probe(frame: &&arp::Frame) -> bool {
    frame.sender.is_unspecified() && frame.target == ADDRESS
}

/// Checks that n1 asked for the address before it answered and announced it; gives when it answered first.
fn check_asked_first(fleet: &Fleet, prober: &arp::Prober) -> anyhow::Result<Duration> {
    let own = fleet.lan.host("n1")?.mac;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    assert_eq!(first.mac, own);
    let frames = prober.frames();
    let from_owner = || frames.iter().filter(|frame| frame.source == own);
    let probes: Vec<Duration> = from_owner().filter(is_probe).map(|one| one.at).collect();
    check_probes(&probes, first.at);
    let announced = from_owner().filter(|frame| frame.is_gratuitous());
    assert!(announced.map(|one| one.at).all(|at| at > probes[2]));
    Ok(first.at)
}

#[test]
fn a_new_fenced_address_is_asked_for_by_its_first_owner_alone() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    let prober = arp::Prober::start(fleet.client()?, &[ADDRESS])?;
    choose_as(&fleet, Ownership::Fenced, ADDRESS.into())?;
    let first = prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    let is_first = |node: &&str| fleet.lan.host(node).is_ok_and(|host| host.mac == first.mac);
    let owner = ["n1", "n2"].into_iter().find(is_first).unwrap_or_default();
    let other = if owner == "n1" { "n2" } else { "n1" };
    let frames = prober.frames();
    let probes = frames
        .iter()
        .filter(is_probe)
        .filter(|frame| frame.at < first.at);
    assert!(probes.clone().all(|frame| frame.source == first.mac));
    check_probes(&probes.map(|one| one.at).collect::<Vec<_>>(), first.at);
    wait::until("ipam-service knows that it is answered", SOON, || {
        let request = v1::ListAssignmentsRequest {
            cluster: CLUSTER.to_owned(),
        };
        let listed = fleet.call(|channel| async {
            let mut announcers = AnnouncerServiceClient::new(channel);
            announcers.list_assignments(request).await
        });
        let assignments = listed.ok()?.assignments;
        assignments.iter().all(|one| !one.probe).then_some(())
    })?;
    // Whoever is named next does not ask.
    fleet.announcer(owner)?.kill()?;
    prober.wait_answer(ADDRESS, prober.now(), Some(first.mac), SOON)?;
    fleet.wait_metric(other, "pharos_announcer_probes_total", "0")
}

#[test]
fn a_new_address_is_asked_for_three_times_before_it_is_answered() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    let prober = arp::Prober::start(fleet.client()?, &[ADDRESS])?;
    choose(&fleet, ADDRESS.into())?;
    let first = check_asked_first(&fleet, &prober)?;
    let own = fleet.lan.host("n1")?.mac;

    // Nobody else is there who could say that it was announced.
    fleet.announcer("n1")?.kill()?;
    fleet.start_announcer("n1")?;
    let killed = prober.now();
    prober.wait_answer(ADDRESS, killed, None, SOON)?;
    let frames = prober.frames().into_iter();
    let again = frames.filter(|frame| frame.source == own && frame.at > first);
    let again = again.filter(|frame| is_probe(&frame));
    // A question of who else answers looks the same: once a second, from a second after the first answer.
    let again: Vec<Duration> = again.map(|one| one.at).collect();
    let fast = again.windows(2).find(|two| two[1] - two[0] < 2 * INTERVAL);
    assert_eq!(fast, None, "{again:?}");
    Ok(())
}

#[test]
fn an_address_that_a_stranger_has_is_left_to_it_until_it_is_gone() -> anyhow::Result<()> {
    let Some(fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    let stranger = fleet.lan.host("n3")?;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    stranger.namespace.exec(&add)?;
    let prober = arp::Prober::start(fleet.client()?, &[ADDRESS])?;
    choose(&fleet, ADDRESS.into())?;
    wait_listed(&fleet, ADDRESS.into(), stranger.mac)?;
    let own = fleet.lan.host("n1")?.mac;
    wait_silent(&prober, ADDRESS.into(), own, Duration::from_secs(11))?;
    // That it is another interface now is no matter of the address.
    let (before, own) = (own, MacAddr(2, 0, 0, 0, 12, 1));
    let node = &fleet.lan.host("n1")?.namespace;
    node.exec(&["ip", "link", "set", "eth0", "address", &own.to_string()])?;
    wait_silent(&prober, ADDRESS.into(), own, Duration::from_secs(3))?;
    let mut frames = prober.frames().into_iter();
    let is_own = |mac| mac == own || mac == before;
    let is_round = |frame: &arp::Frame| frame.is_gratuitous() && frame.target == ADDRESS;
    let announced = frames.find(|frame| is_own(frame.source) && is_round(frame));
    assert_eq!(announced.map(|one| one.at), None);

    stranger.namespace.exec(&del)?;
    let gone = prober.now();
    let answer = prober.wait_answer(ADDRESS, gone, Some(stranger.mac), SOON)?;
    let pause = prober.record().longest_unasked(gone, answer.at);
    let took = answer.at - gone;
    eprintln!("answered {took:?} after the stranger was gone");
    assert_eq!(answer.mac, own);
    assert!(took <= AGAIN + pause, "{took:?}, paused {pause:?}");
    wait::until("the conflict is over", SOON, || {
        fleet.conflicts().ok()?.is_empty().then_some(())
    })
}

#[test]
fn an_ipv6_address_that_a_stranger_has_is_left_to_it_until_it_is_gone() -> anyhow::Result<()> {
    let Some(fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    let stranger = fleet.lan.host("n3")?;
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "-6", "addr", what, "fd12::100/128", "dev", "eth0"]);
    stranger.namespace.exec(&[&add[..], &["nodad"]].concat())?;
    let prober = ndp::Prober::start(fleet.client()?, &[IPV6])?;
    choose(&fleet, IPV6.into())?;
    wait_listed(&fleet, IPV6.into(), stranger.mac)?;
    let own = fleet.lan.host("n1")?.mac;
    wait_silent(&prober, IPV6.into(), own, Duration::from_secs(2))?;
    stranger.namespace.exec(&del)?;
    let gone = prober.now();
    let answered = wait::until("the answer of the owner", SOON, || {
        let now = prober.now();
        let answerers = prober.record().answerers(IPV6, gone, now);
        answerers.contains(&own).then_some(now)
    })?;
    let pause = prober.record().longest_unasked(gone, answered);
    let took = answered - gone;
    assert!(took <= AGAIN + pause, "{took:?}, paused {pause:?}");
    // The last three probes before the first announcement.
    let frames = prober.frames().into_iter();
    let frames: Vec<ndp::Frame> = frames.filter(|frame| frame.source == own).collect();
    let announced = frames
        .iter()
        .find(|frame| frame.advertisement && frame.target == IPV6);
    let announced = announced.map_or(answered, |frame| frame.at);
    let is_probe = |frame: &&ndp::Frame| {
        frame.from.is_unspecified() && frame.target == IPV6 && frame.at < announced
    };
    let probes: Vec<&ndp::Frame> = frames.iter().filter(is_probe).collect();
    let last = probes.last_chunk::<3>().map(|last| last.map(|one| one.at));
    check_probes(&last.unwrap_or_default(), announced);
    assert!(
        probes
            .iter()
            .all(|one| one.is_valid && one.link_layer.is_none())
    );
    assert!(probes.iter().all(|one| one.to == ndp::solicited_node(IPV6)));
    Ok(())
}
