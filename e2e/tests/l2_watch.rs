//! Who answers, as somebody is told who watches.
//!
//! Topology: `e2e::fleet`, with n1 and n2; n3 is a stranger.
//!
//! 1. An address is told of as soon as it is held, with the reason why nobody answers, and then with who does.
//! 2. A move is followed: the new owner, and whom it has the address from.
//! 3. A machine that uses the address is told of with both hardware addresses, and when it is gone.
//! 4. After a restart of ipam-service the address is not said to be silent before its nodes have told: what is
//!    not known is called so.
//! 5. A released address is told of as removed.
//! 6. An owner that cannot reach ipam-service any more goes on answering, and is not said to be silent.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::fleet::{CLUSTER, Fleet, SOON};
use nix::sys::signal::Signal;
use pharos_proto::v1;
use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::ownership::Why;
use pharos_testbed::arp::Prober;
use tonic::{Response, Status, Streaming};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

/// What a watcher has been told so far.
struct Watcher {
    stream: Streaming<v1::WatchAnnouncementsResponse>,
    shown: BTreeMap<String, v1::Announcement>,
}

impl Watcher {
    fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let request = v1::WatchAnnouncementsRequest {
            cluster: CLUSTER.to_owned(),
        };
        let stream = fleet.call(|channel| async {
            let mut announcements = AnnouncementServiceClient::new(channel);
            announcements.watch_announcements(request).await
        })?;
        let mut watcher = Self {
            stream,
            shown: BTreeMap::new(),
        };
        while !watcher.take(fleet)? {}
        Ok(watcher)
    }

    /// Takes in one message; whether everything has been told.
    fn take(&mut self, fleet: &Fleet) -> anyhow::Result<bool> {
        let stream = &mut self.stream;
        let told = fleet.call(|_| async {
            let told = tokio::time::timeout(SOON, stream.message()).await;
            let told = told.map_err(|_| Status::deadline_exceeded("nothing is told"))?;
            let told = told?.ok_or_else(|| Status::aborted("the stream ended"))?;
            Ok(Response::new(told))
        })?;
        for one in told.announcements {
            eprintln!("{}: {:?} {:?}", one.address, one.reason(), who(&one));
            self.shown.insert(one.address.clone(), one);
        }
        for gone in told.removed {
            self.shown.remove(&gone.address);
        }
        Ok(told.synced)
    }

    fn shown(&self) -> Option<&v1::Announcement> {
        self.shown.get(&ADDRESS.to_string())
    }

    /// Reads on until the address is so.
    fn wait(
        &mut self,
        fleet: &Fleet,
        is_wanted: impl Fn(&v1::Announcement) -> bool,
    ) -> anyhow::Result<v1::Announcement> {
        loop {
            if let Some(shown) = self.shown().filter(|shown| is_wanted(shown)) {
                return Ok(shown.clone());
            }
            self.take(fleet)?;
        }
    }
}

/// Who answers, and why that one.
fn who(announcement: &v1::Announcement) -> Vec<(&str, Why, &str)> {
    let answerers = announcement.answerers.iter();
    let read = answerers.map(|one| {
        let ownership = one.ownership.as_ref();
        let why = ownership.map_or(Why::Unspecified, v1::Ownership::why);
        let from = ownership.map_or("", |it| it.from.as_str());
        (one.node.as_str(), why, from)
    });
    read.collect()
}

#[test]
fn a_watcher_follows_an_address_through_a_move_a_conflict_and_a_restart() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    let mut watcher = Watcher::start(&fleet)?;
    assert_eq!(watcher.shown(), None);
    fleet.allocate("web", ADDRESS)?;
    let told = watcher.wait(&fleet, |_| true)?;
    assert_eq!(told.reason(), Reason::NotAdvertised);
    fleet.advertise("all", &["n1"], &[])?;
    let told = watcher.wait(&fleet, |told| told.reason() == Reason::Unspecified)?;
    assert_eq!(who(&told), [("n1", Why::Unowned, "")]);

    // A move.
    fleet.advertise("all", &["n2"], &[])?;
    let by_n2 = [("n2", Why::HandedOver, "n1")];
    let told = watcher.wait(&fleet, |told| who(told) == by_n2)?;
    assert_eq!(told.reason(), Reason::Unspecified);

    // A conflict.
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    let (stranger, owner) = (fleet.lan.host("n3")?, fleet.lan.host("n2")?);
    let [add, del] =
        ["add", "del"].map(|what| ["ip", "addr", what, "192.168.12.100/32", "dev", "eth0"]);
    stranger.namespace.exec(&add)?;
    let told = watcher.wait(&fleet, |told| !told.conflicts.is_empty())?;
    let seen = &told.conflicts[0];
    let conflict = seen.conflict.clone().unwrap_or_default();
    assert_eq!(seen.node, "n2");
    assert_eq!(conflict.mac, stranger.mac.to_string());
    assert_eq!(conflict.own_mac, owner.mac.to_string());
    assert_eq!(who(&told), by_n2, "it stays where it is");
    stranger.namespace.exec(&del)?;
    watcher.wait(&fleet, |told| told.conflicts.is_empty())?;
    drop(prober);

    // A restart, with nodes that say nothing for a while.
    for node in ["n1", "n2"] {
        fleet.announcer(node)?.signal(Signal::SIGSTOP)?;
    }
    fleet.kill_ipam()?;
    fleet.start_ipam()?;
    let mut watcher = Watcher::start(&fleet)?;
    let told = watcher.wait(&fleet, |_| true)?;
    assert_eq!((told.reason(), who(&told)), (Reason::Unknown, Vec::new()));
    for node in ["n1", "n2"] {
        fleet.announcer(node)?.signal(Signal::SIGCONT)?;
    }
    let told = watcher.wait(&fleet, |told| told.reason() != Reason::Unknown)?;
    assert_eq!(told.reason(), Reason::Unspecified);
    assert_eq!(who(&told), by_n2);

    fleet.release("web")?;
    while watcher.shown().is_some() {
        watcher.take(&fleet)?;
    }
    Ok(())
}

/// A node that never comes back is not waited for.
#[test]
fn what_nobody_tells_in_half_a_minute_is_known_to_be_told_by_nobody() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("all", &[], &[])?;
    fleet.allocate("web", ADDRESS)?;
    let mut watcher = Watcher::start(&fleet)?;
    watcher.wait(&fleet, |told| told.reason() == Reason::Unspecified)?;
    fleet.kill_ipam()?;
    fleet.announcer("n1")?.kill()?;
    fleet.start_ipam()?;
    let began = tokio::time::Instant::now();
    let told = told_after_unknown(&fleet)?;
    assert_eq!(told.reason(), Reason::NoLiveNode);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(20), "{took:?}");
    Ok(())
}

/// What a watcher is told after the half minute in which nodes may yet tell.
fn told_after_unknown(fleet: &Fleet) -> anyhow::Result<v1::Announcement> {
    let began = tokio::time::Instant::now();
    let mut watcher = Watcher::start(fleet)?;
    let told = watcher.wait(fleet, |_| true)?;
    assert_eq!(told.reason(), Reason::Unknown);
    // Nothing is told meanwhile, for longer than `SOON`.
    loop {
        match watcher.wait(fleet, |told| told.reason() != Reason::Unknown) {
            Ok(told) => return Ok(told),
            Err(error) => anyhow::ensure!(began.elapsed() < 2 * Duration::from_secs(30), "{error}"),
        }
    }
}

#[test]
fn an_owner_that_is_cut_off_for_long_is_not_said_to_be_silent() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("all", &[], &[])?;
    fleet.allocate("web", ADDRESS)?;
    let mut watcher = Watcher::start(&fleet)?;
    let told = watcher.wait(&fleet, |told| told.reason() == Reason::Unspecified)?;
    let owner = who(&told)[0].0.to_owned();
    let mac = fleet.lan.host(&owner)?.mac;
    fleet.kill_ipam()?;
    fleet.lan.cut("ipam", &owner)?;
    fleet.start_ipam()?;
    let told = told_after_unknown(&fleet)?;
    assert_eq!(told.reason(), Reason::NodeAway, "{}", told.detail);
    assert!(told.detail.contains(&owner), "{}", told.detail);
    assert_eq!(who(&told), []);
    let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
    prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
    let record = prober.record();
    let answerers = record.answerers(ADDRESS, Duration::ZERO, prober.now());
    assert!(answerers.iter().eq([&mac]), "{answerers:?}");
    Ok(())
}
