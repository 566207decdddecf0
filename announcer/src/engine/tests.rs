use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pharos_testbed::skip;
use pnet_base::MacAddr;
use prometheus_client::registry::Registry;

use super::*;
use crate::book::{Assigned, Key};
use crate::election::Wanted;
use crate::l2::responder::Port;

mod probes;
mod told;

/// An address that these nodes may announce.
fn assigned(nodes: &[&str]) -> Difference {
    let nodes: Vec<NodeName> = nodes.iter().map(|node| NodeName::from(*node)).collect();
    Difference {
        upserts: vec![Assigned {
            key: Key {
                space: "default".to_owned(),
                address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            },
            group: GroupId(1),
            listed: nodes.clone(),
            candidates: nodes.into(),
            wanted: Some(Wanted::Any.into()),
            owners: Vec::new(),
            probe: false,
            fenced: None,
        }],
        ..Difference::default()
    }
}

fn settings(metrics: &Metrics, responder: Responder) -> Settings {
    Settings {
        me: Peer {
            node: "a".into(),
            endpoint: "127.0.0.1:7946".parse().expect("valid"),
            epoch: 1,
        },
        listen: "127.0.0.1:0".parse().expect("valid"),
        seal: Arc::new(Seal::plaintext("east")),
        hold_down: Duration::ZERO,
        metrics: metrics.clone(),
        readiness: Readiness::default(),
        responder,
        binder: None,
        fence: FenceOutlets {
            standing: watch::channel(None).0,
            released: watch::channel(BTreeSet::new()).0,
        },
    }
}

fn loopback(mac: MacAddr, link_local: Option<Ipv6Addr>) -> Uplink {
    Uplink {
        port: Port {
            index: 1,
            name: "lo".to_owned(),
            mac,
            link_local,
        },
        life: 1,
        turns: 0,
    }
}

#[test]
fn a_drain_that_takes_long_waits_for_nothing_that_is_over() {
    let since = clock::now();
    let limits = [DRAIN_TIMEOUT, LEAVE_LIMIT];
    let mut now = since;
    for limit in limits {
        assert_eq!(next_of_drain(since, now), Some(since + limit));
        now = since + limit;
    }
    assert_eq!(next_of_drain(since, now), None);
}

#[tokio::test]
async fn a_mark_is_told_when_nothing_is_answered_any_more_that_was_taken_away() {
    if !skip::can_use_namespaces() {
        return;
    }
    let metrics = Metrics::register(&mut Registry::default());
    let (responder, _responder_thread, _conflicts) =
        crate::l2::responder::start(&metrics).expect("starts");
    let engine = start(settings(&metrics, responder)).expect("starts");
    let mut applied = engine.applied();
    let tell = async |command| engine.commands().expect("runs").send(command).await;
    let uplinks = vec![loopback(MacAddr::zero(), None)];
    tell(Command::Uplinks(uplinks)).await.expect("told");
    tell(Command::Ready).await.expect("told");
    for (mark, nodes, owned) in [(1, "a", 1), (2, "b", 0)] {
        let difference = assigned(&[nodes]);
        let command = Command::Assignments { difference, mark };
        tell(command).await.expect("told");
        let told = applied.wait_for(|applied| *applied == mark);
        let told = tokio::time::timeout(Duration::from_secs(20), told).await;
        told.expect("in time").expect("the engine runs");
        assert_eq!(metrics.owned.get(), owned, "after mark {mark}");
    }
}
