//! An announcer that is told of BGP, which it does not speak.
//!
//! Topology: `e2e::fleet`, with n1 and n2.
//!
//! 1. An address that BGP alone advertises is answered by nobody; one that layer 2 advertises, too, is.
//! 2. Each node tells of the sessions that it is to have, and that it has none of them.
//! 3. Routes and peers are on its disk. An announcer that starts without ipam-service is none the worse for them,
//!    and tells the same again when it is back.
//! 4. No password is told to another machine.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::fleet::{CLUSTER, Fleet, SOON};
use pharos_proto::v1;
use pharos_proto::v1::advertisement::{Bgp, Protocol};
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::bgp_session::State;
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;

const ROUTED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const ANSWERED: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 120);
const PASSWORD: &str = "hush-hush";

fn apply(fleet: &Fleet, advertisement: v1::Advertisement) -> anyhow::Result<()> {
    let request = v1::ApplyAdvertisementRequest {
        advertisement: Some(advertisement),
        ..v1::ApplyAdvertisementRequest::default()
    };
    fleet.call(|channel| async {
        let mut advertisements = AdvertisementServiceClient::new(channel);
        advertisements.apply_advertisement(request).await
    })?;
    Ok(())
}

/// Of one host; a password comes with it.
fn apply_peer(fleet: &Fleet, name: &str, host: &str) -> anyhow::Result<()> {
    let peer = v1::BgpPeer {
        name: name.to_owned(),
        cluster: CLUSTER.to_owned(),
        my_asn: 64512,
        peer_asn: 64513,
        address: "192.168.12.254".to_owned(),
        password: PASSWORD.to_owned(),
        node_selectors: vec![v1::LabelSelector {
            match_labels: [("host".to_owned(), host.to_owned())].into(),
            ..v1::LabelSelector::default()
        }],
        ..v1::BgpPeer::default()
    };
    let request = v1::ApplyBgpPeerRequest {
        peer: Some(peer),
        ..v1::ApplyBgpPeerRequest::default()
    };
    fleet.call(|channel| async {
        let mut advertisements = AdvertisementServiceClient::new(channel);
        advertisements.apply_bgp_peer(request).await
    })?;
    Ok(())
}

/// What is said of an address, and of each node.
fn explain(fleet: &Fleet, address: Ipv4Addr) -> anyhow::Result<v1::ExplainAssignmentResponse> {
    let request = v1::ExplainAssignmentRequest {
        cluster: CLUSTER.to_owned(),
        address: address.to_string(),
        ..v1::ExplainAssignmentRequest::default()
    };
    fleet.call(|channel| async {
        let mut announcements = AnnouncementServiceClient::new(channel);
        announcements.explain_assignment(request).await
    })
}

/// Waits until each node tells of the session with its own peer, and of no other.
fn wait_sessions(fleet: &Fleet) -> anyhow::Result<()> {
    wait::until_ok("sessions that are idle", SOON, || {
        let explained = explain(fleet, ROUTED)?;
        let told = explained.nodes.iter().map(|node| {
            let sessions = node.status.iter().flat_map(|status| &status.bgp_sessions);
            let sessions = sessions.map(|it| (it.peer.as_str(), it.state(), it.detail.as_str()));
            (node.node.as_str(), sessions.collect::<Vec<_>>())
        });
        let told: Vec<_> = told.collect();
        let idle = |peer| vec![(peer, State::Idle, "this version speaks no BGP")];
        anyhow::ensure!(
            told == [("n1", idle("one")), ("n2", idle("two"))],
            "{told:?}"
        );
        Ok(())
    })
}

fn check_routed(fleet: &Fleet) -> anyhow::Result<()> {
    let announcement = explain(fleet, ROUTED)?.announcement.unwrap_or_default();
    assert_eq!(
        announcement.reason(),
        Reason::BgpNoSession,
        "{announcement:?}"
    );
    assert!(announcement.answerers.is_empty(), "{announcement:?}");
    Ok(())
}

#[test]
fn an_announcer_keeps_what_it_is_told_of_bgp_and_says_that_it_holds_no_session()
-> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1", "n2"])? else {
        return Ok(());
    };
    let prober = Prober::start(fleet.client()?, &[ROUTED, ANSWERED])?;
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    let by_bgp = v1::Advertisement {
        name: "bgp".to_owned(),
        cluster: CLUSTER.to_owned(),
        protocol: Some(Protocol::Bgp(Bgp {
            communities: vec!["64512:77".to_owned()],
            ..Bgp::default()
        })),
        ..v1::Advertisement::default()
    };
    apply(&fleet, by_bgp)?;
    for (name, host) in [("one", "n1"), ("two", "n2")] {
        apply_peer(&fleet, name, host)?;
    }
    fleet.allocate("routed", ROUTED)?;
    wait_sessions(&fleet)?;
    check_routed(&fleet)?;

    fleet.advertise("all", &[], &[])?;
    fleet.allocate("answered", ANSWERED)?;
    prober.wait_answer(ROUTED, Duration::ZERO, None, SOON)?;
    prober.wait_answer(ANSWERED, Duration::ZERO, None, SOON)?;
    // Layer 2 goes, and with it the answers.
    let request = v1::DeleteAdvertisementRequest {
        name: "all".to_owned(),
        cluster: CLUSTER.to_owned(),
        ..v1::DeleteAdvertisementRequest::default()
    };
    fleet.call(|channel| async {
        let mut advertisements = AdvertisementServiceClient::new(channel);
        advertisements.delete_advertisement(request).await
    })?;
    wait::until("nobody answers any more", SOON, || {
        let since = prober.now().saturating_sub(Duration::from_millis(300));
        let (record, now) = (prober.record(), prober.now());
        let silent = |address| record.answerers(address, since, now).is_empty();
        (silent(ROUTED) && silent(ANSWERED)).then_some(())
    })?;
    wait::until_ok("no session announces it", SOON, || check_routed(&fleet))?;

    // What it knows is on its disk, and no password.
    let file = fleet
        .database()
        .with_file_name("n1")
        .join("assignments.bin");
    let kept = wait::until("the disk has routes and peers", SOON, || {
        let bytes = std::fs::read(&file).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let has = |what: &str| text.contains(what);
        (has("64512:77") && has("192.168.12.254") && has("192.168.12.100/32")).then_some(text)
    })?;
    assert!(!kept.contains(PASSWORD));
    fleet.kill_ipam()?;
    fleet.announcer("n1")?.kill()?;
    fleet.start_announcer("n1")?;
    fleet.start_ipam()?;
    wait_sessions(&fleet)?;
    check_routed(&fleet)?;

    let request = v1::GetPeerSecretsRequest {
        cluster: CLUSTER.to_owned(),
        node: "n1".to_owned(),
    };
    let refused = fleet.call(|channel| async {
        let mut announcers = AnnouncerServiceClient::new(channel);
        announcers.get_peer_secrets(request).await
    });
    let refused = refused.map(drop).expect_err("another machine").to_string();
    assert!(
        refused.contains("only to callers on this machine"),
        "{refused}"
    );
    Ok(())
}
