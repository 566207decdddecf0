//! Who answers for what, as ipam-service tells it.
//!
//! Topology: `e2e::fleet`, with n1 and n2.
//!
//! 1. The owner is shown with the interfaces on which it answers, and why it has the address; an explanation
//!    names every node.
//! 2. After a SIGTERM the next node is shown as having it from the first.
//! 3. After `kill -9` of the owner the node that took it over is shown, and the dead one as unknown.
//! 4. An ipam-service that starts anew is told everything again.

use std::net::Ipv4Addr;

use e2e::fleet::{CLUSTER, Fleet, SOON};
use pharos_proto::v1;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::explained_node::Verdict;
use pharos_proto::v1::ownership::Why;
use pharos_testbed::wait;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);

fn announcement(fleet: &Fleet) -> anyhow::Result<v1::Announcement> {
    let request = v1::ListAnnouncementsRequest {
        cluster: CLUSTER.to_owned(),
        address: ADDRESS.to_string(),
        ..v1::ListAnnouncementsRequest::default()
    };
    let listed = fleet.call(|channel| async {
        let mut announcements = AnnouncementServiceClient::new(channel);
        announcements.list_announcements(request).await
    })?;
    let found = listed.announcements.into_iter().next();
    found.ok_or_else(|| anyhow::anyhow!("{ADDRESS} is not announced"))
}

/// Waits until exactly these are shown: node, why, whom it has it from, whether its stream has ended.
fn wait_answerers(fleet: &Fleet, expected: &[(&str, Why, &str, bool)]) -> anyhow::Result<()> {
    wait::until_ok(&format!("{expected:?}"), SOON, || {
        let shown = announcement(fleet)?.answerers;
        let read = shown.iter().map(|answerer| {
            let ownership = answerer.ownership.clone().unwrap_or_default();
            let is_gone = answerer.unknown_since.is_some();
            (
                answerer.node.clone(),
                ownership.why(),
                ownership.from,
                is_gone,
            )
        });
        let read: Vec<_> = read.collect();
        let expected = expected.iter();
        let expected = expected.map(|(node, why, from, is_gone)| {
            ((*node).to_owned(), *why, (*from).to_owned(), *is_gone)
        });
        anyhow::ensure!(read.iter().cloned().eq(expected), "{read:?}");
        Ok(())
    })
}

#[test]
fn the_owner_is_shown_with_how_it_came_to_be_that() -> anyhow::Result<()> {
    let Some(mut fleet) = Fleet::start(&["n1"])? else {
        return Ok(());
    };
    fleet.apply_pool("192.168.12.100-192.168.12.120")?;
    fleet.advertise("all", &[], &[])?;
    fleet.allocate("web", ADDRESS)?;
    wait_answerers(&fleet, &[("n1", Why::Unowned, "", false)])?;
    let shown = announcement(&fleet)?;
    assert_eq!(shown.owners, ["east/default/web"]);
    let ownership = shown.answerers[0].ownership.clone().expect("told");
    assert_eq!(ownership.interfaces, ["eth0"]);
    assert!(ownership.since.is_some_and(|since| since.seconds > 0));

    fleet.start_announcer("n2")?;
    let request = v1::ExplainAssignmentRequest {
        cluster: CLUSTER.to_owned(),
        address: ADDRESS.to_string(),
        ..v1::ExplainAssignmentRequest::default()
    };
    wait::until_ok("both nodes are explained", SOON, || {
        let request = request.clone();
        let explained = fleet.call(|channel| async {
            let mut announcements = AnnouncementServiceClient::new(channel);
            announcements.explain_assignment(request).await
        })?;
        let read = explained.nodes.iter().map(|node| {
            let interfaces = node.status.as_ref().map(|status| status.interfaces.len());
            (&*node.node, node.verdict(), node.position, interfaces)
        });
        let read: Vec<_> = read.collect();
        let expected = [
            ("n1", Verdict::Candidate, 1, Some(1)),
            ("n2", Verdict::Candidate, 2, Some(1)),
        ];
        anyhow::ensure!(read == expected, "{read:?}");
        Ok(())
    })?;

    // Its list goes with it: n2 owns the address, and keeps it.
    fleet.announcer("n1")?.terminate(SOON)?;
    wait_answerers(&fleet, &[("n2", Why::HandedOver, "n1", false)])?;
    fleet.start_announcer("n1")?;
    wait_answerers(&fleet, &[("n1", Why::HandedOver, "n2", false)])?;

    fleet.announcer("n1")?.kill()?;
    let died = ("n1", Why::HandedOver, "n2", true);
    wait_answerers(&fleet, &[died, ("n2", Why::OwnerGone, "", false)])?;

    fleet.kill_ipam()?;
    fleet.start_ipam()?;
    wait_answerers(&fleet, &[("n2", Why::OwnerGone, "", false)])
}
