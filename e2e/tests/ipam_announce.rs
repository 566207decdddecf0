//! Topology: one ipam-service; grpcurl and a bare gRPC client as announcer `a` of cluster `east`.
//!
//! 1. The call of the manual for an advertisement works to the letter; one that is bad says where.
//! 2. An allocation is streamed to the announcer that calls, and listed for people.
//! 3. A client that has followed the stream is sent no bucket again after `kill -9` and a restart.
//! 4. One that does not say that it knows of fencing is no candidate for a fenced address, and people are
//!    told why; it is one for any other address.

use e2e::ipam::{Ipam, SOON, claim, grpcurl};
use pharos_proto::digest::{Digests, assignment_digest, bucket_of};
use pharos_proto::feature::FENCED;
use pharos_proto::v1;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::announcer_report::{Hello, Report};
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_proto::v1::assignment_update::Update;
use pharos_proto::v1::explained_node::Verdict;
use serde_json::json;
use tokio_stream::StreamExt as _;

const ADVERTISEMENT: &str = r#"{"advertisement":{"name":"default","cluster":"east",
    "pools":["default-pool"],"pool_selectors":[],"node_selectors":[{"match_labels":{"rack":"1"}}],
    "l2":{"interfaces":["eth0"],"preferred_nodes":[],"ownership":"AVAILABLE"}}}"#;

#[test]
fn the_call_of_the_manual_for_an_advertisement_works_to_the_letter() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let method = "pharos.v1.AdvertisementService/ApplyAdvertisement";
    let answer = ipam.grpcurl(Some(ADVERTISEMENT), method).unwrap();
    let advertisement = &answer["advertisement"];
    assert_eq!(advertisement["cluster"], "east");
    assert_eq!(advertisement["addressSpace"], "default");
    assert_eq!(advertisement["l2"]["ownership"], "AVAILABLE");
    assert_eq!(advertisement["l2"]["interfaces"], json!(["eth0"]));

    let list = "pharos.v1.AdvertisementService/ListAdvertisements";
    let listed = ipam.grpcurl(None, list).unwrap();
    assert_eq!(&listed["advertisements"][0], advertisement);

    let fenced = ADVERTISEMENT.replace("AVAILABLE", "FENCED");
    let answer = ipam.grpcurl(Some(&fenced), method).unwrap();
    assert_eq!(answer["advertisement"]["l2"]["ownership"], "FENCED");
    let wrong = ADVERTISEMENT.replace("\"AVAILABLE\"", "7");
    let refused = ipam.grpcurl(Some(&wrong), method).unwrap_err().to_string();
    assert!(refused.contains("advertisement.l2.ownership"), "{refused}");
}

/// What an announcer has, and how many buckets it was sent for it.
struct Announcer {
    node: &'static str,
    features: Vec<String>,
    assignments: Vec<v1::Assignment>,
    buckets: usize,
}

impl Announcer {
    fn of(node: &'static str, features: &[&str]) -> Self {
        Self {
            node,
            features: features.iter().map(|it| (*it).to_owned()).collect(),
            assignments: Vec::new(),
            buckets: 0,
        }
    }

    fn hello(&self) -> v1::AnnouncerReport {
        let mut digests = Digests::default();
        for one in &self.assignments {
            let bucket = bucket_of(&one.address_space, &one.address).expect("an address");
            digests.toggle(bucket, assignment_digest(one));
        }
        let hello = Hello {
            cluster: "east".to_owned(),
            node: self.node.to_owned(),
            features: self.features.clone(),
            labels: [("rack".to_owned(), "1".to_owned())].into(),
            member_endpoint: "192.0.2.1:7946".to_owned(),
            digests: digests.to_wire(),
            ..Hello::default()
        };
        v1::AnnouncerReport {
            report: Some(Report::Hello(hello)),
        }
    }

    /// Connects and reads until the server has sent what differs.
    async fn synchronise(&mut self, ipam: &Ipam) {
        let mut client = AnnouncerServiceClient::new(ipam.channel().expect("a channel"));
        let reports = tokio_stream::iter([self.hello()]).chain(tokio_stream::pending());
        let updates = client.announce(reports).await.expect("welcome");
        let mut updates = updates.into_inner();
        self.buckets = 0;
        loop {
            let update = tokio::time::timeout(SOON, updates.message());
            let update = update.await.expect("in time").expect("an update");
            let update = update.expect("the stream goes on").update;
            match update.expect("not empty") {
                Update::Bucket(bucket) => {
                    self.buckets += 1;
                    self.assignments.extend(bucket.assignments);
                }
                Update::Synced(_) => return,
                Update::Header(header) => assert!(header.authoritative),
                Update::Members(_)
                | Update::NodeSet(_)
                | Update::BgpPeers(_)
                | Update::Changes(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_has_followed_the_stream_resumes_without_a_bucket_after_kill_9() {
    if grpcurl().is_none() {
        return;
    }
    let mut ipam = Ipam::start().unwrap();
    let range = "192.168.12.100-192.168.12.120";
    ipam.apply_pool("default-pool", &[range]).await.unwrap();
    let method = "pharos.v1.AdvertisementService/ApplyAdvertisement";
    ipam.grpcurl(Some(ADVERTISEMENT), method).unwrap();
    let mut allocations = ipam.allocations().unwrap();
    for number in 0..5 {
        let request = claim(&format!("east/default/web-{number}"));
        allocations.allocate(request).await.unwrap();
    }

    let mut announcer = Announcer::of("a", &[]);
    announcer.synchronise(&ipam).await;
    assert_eq!(announcer.assignments.len(), 5);
    assert!(announcer.buckets > 0);
    let nodes: Vec<_> = announcer.assignments.iter().map(|one| &one.nodes).collect();
    assert!(nodes.iter().all(|nodes| *nodes == &["a"]), "{nodes:?}");

    let list = "pharos.v1.AnnouncerService/ListAssignments";
    let before = ipam.grpcurl(Some(r#"{"cluster":"east"}"#), list).unwrap();
    assert_eq!(before["assignments"].as_array().unwrap().len(), 5);
    ipam.kill().unwrap();
    ipam.restart().unwrap();
    let after = ipam.grpcurl(Some(r#"{"cluster":"east"}"#), list).unwrap();
    assert_eq!(after, before);
    announcer.synchronise(&ipam).await;
    assert_eq!(announcer.buckets, 0);
}

/// Who may announce the only address that is held, and what is said of each node; by name.
async fn candidates(ipam: &Ipam) -> (Vec<String>, Vec<(String, Verdict)>) {
    let mut announcers = AnnouncerServiceClient::new(ipam.channel().expect("a channel"));
    let request = v1::ListAssignmentsRequest {
        cluster: "east".to_owned(),
    };
    let listed = announcers.list_assignments(request).await.expect("listed");
    let sets = listed.into_inner().node_sets.into_iter();
    let candidates = sets.flat_map(|set| set.nodes).collect();
    let mut announcements = AnnouncementServiceClient::new(ipam.channel().expect("a channel"));
    let request = v1::ExplainAssignmentRequest {
        cluster: "east".to_owned(),
        address: "192.168.12.100".to_owned(),
        ..v1::ExplainAssignmentRequest::default()
    };
    let explained = announcements.explain_assignment(request).await;
    let nodes = explained.expect("explained").into_inner().nodes;
    let verdicts = nodes
        .into_iter()
        .map(|one| (one.node.clone(), one.verdict()));
    (candidates, verdicts.collect())
}

#[tokio::test]
async fn an_announcer_that_does_not_know_of_fencing_is_no_candidate_for_a_fenced_address() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let range = "192.168.12.100-192.168.12.120";
    ipam.apply_pool("default-pool", &[range]).await.unwrap();
    let method = "pharos.v1.AdvertisementService/ApplyAdvertisement";
    let fenced = ADVERTISEMENT.replace("AVAILABLE", "FENCED");
    ipam.grpcurl(Some(&fenced), method).unwrap();
    let mut allocations = ipam.allocations().unwrap();
    allocations
        .allocate(claim("east/default/web"))
        .await
        .unwrap();

    let mut old = Announcer::of("a", &["of the future"]);
    old.synchronise(&ipam).await;
    assert_eq!(old.assignments, []);
    let missing = ("a".to_owned(), Verdict::FeatureMissing);
    let expected = (Vec::<String>::new(), vec![missing.clone()]);
    assert_eq!(candidates(&ipam).await, expected);

    let mut new = Announcer::of("b", &[FENCED]);
    new.synchronise(&ipam).await;
    assert_eq!(new.assignments.len(), 1);
    let candidate = |node: &str| (node.to_owned(), Verdict::Candidate);
    let expected = (vec!["b".to_owned()], vec![missing, candidate("b")]);
    assert_eq!(candidates(&ipam).await, expected);

    ipam.grpcurl(Some(ADVERTISEMENT), method).unwrap();
    let both = vec!["a".to_owned(), "b".to_owned()];
    let expected = (both, vec![candidate("a"), candidate("b")]);
    assert_eq!(candidates(&ipam).await, expected);

    // It comes back as a version that knows.
    ipam.grpcurl(Some(&fenced), method).unwrap();
    Announcer::of("a", &[FENCED]).synchronise(&ipam).await;
    assert_eq!(candidates(&ipam).await, expected);
}
