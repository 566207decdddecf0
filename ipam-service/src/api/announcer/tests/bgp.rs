//! What announcers are told of BGP: routes, peers, and who gets which password.

use super::*;

async fn advertise(server: &TestServer, bgp: v1::advertisement::Bgp) {
    let advertisement = v1::Advertisement {
        name: "bgp".to_owned(),
        protocol: Some(v1::advertisement::Protocol::Bgp(bgp)),
        ..v1::Advertisement::default()
    };
    let request = v1::ApplyAdvertisementRequest {
        advertisement: Some(advertisement),
        ..v1::ApplyAdvertisementRequest::default()
    };
    let mut advertisements = server.advertisements().await;
    let applied = advertisements.apply_advertisement(request).await;
    applied.expect("applied");
}

fn peer(name: &str, cluster: &str, password: &str) -> v1::BgpPeer {
    v1::BgpPeer {
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        my_asn: 64512,
        peer_asn: 64513,
        address: "192.0.2.254".to_owned(),
        password: password.to_owned(),
        bfd_profile: "fast".to_owned(),
        ..v1::BgpPeer::default()
    }
}

async fn apply(server: &TestServer, peer: v1::BgpPeer) {
    let request = v1::ApplyBgpPeerRequest {
        peer: Some(peer),
        ..v1::ApplyBgpPeerRequest::default()
    };
    let mut advertisements = server.advertisements().await;
    let applied = advertisements.apply_bgp_peer(request).await;
    applied.expect("applied");
}

fn of_node(node: &str) -> Vec<v1::LabelSelector> {
    vec![v1::LabelSelector {
        match_labels: [("host".to_owned(), node.to_owned())].into(),
        ..v1::LabelSelector::default()
    }]
}

#[tokio::test]
async fn routes_and_peers_are_streamed_resumed_by_digests_and_taken_back() {
    let server = TestServer::start().await.with_pool().await;
    advertise(
        &server,
        v1::advertisement::Bgp {
            aggregation_length: Some(24),
            communities: vec!["64512:7".to_owned()],
            local_pref: 100,
            ..Default::default()
        },
    )
    .await;
    let address = server.allocate(owner("web"), Backends::Unmanaged).await;
    let mut follower = Follower::new("a");
    follower.connect(&server).await;
    follower.converge(&server).await;
    assert_eq!(follower.client.bgp_peers, None);
    let told = follower.client.assignments.values().next().expect("one");
    assert!(told.l2.is_none() && told.nodes.is_empty() && told.candidates == 0);
    let [entry] = &told.bgp[..] else {
        panic!("{told:?}");
    };
    assert_eq!(follower.client.node_sets[&entry.nodes].nodes, ["a"]);
    let network = address.rsplit_once('.').expect("IPv4").0;
    let route = v1::assignment::Route {
        prefix: format!("{network}.0/24"),
        peers: Vec::new(),
        local_pref: 100,
        communities: vec!["64512:7".to_owned()],
    };
    assert_eq!(entry.routes, [route]);

    // A peer comes while it follows, without its password and its selectors.
    let tor = v1::BgpPeer {
        node_selectors: of_node("nowhere"),
        ..peer("tor", "east", "secret")
    };
    apply(&server, tor).await;
    follower.converge(&server).await;
    let peers = follower.client.bgp_peers.clone().expect("told");
    let told = peers.peers[0].peer.as_ref().expect("told");
    assert_eq!((told.name.as_str(), told.password.as_str()), ("tor", ""));
    assert!(told.password_revision > 0 && told.node_selectors.is_empty());
    let nodes = &follower.client.node_sets[&peers.peers[0].nodes].nodes;
    assert_eq!(nodes, &Vec::<String>::new());

    // Whoever has it all is sent no bucket again, and the peers all the same.
    follower.connect(&server).await;
    follower.synchronise().await;
    assert_eq!(follower.client.buckets_received, 0);
    assert_eq!(follower.client.bgp_peers, Some(peers));

    let gone = v1::DeleteBgpPeerRequest {
        name: "tor".to_owned(),
        cluster: "east".to_owned(),
        ..v1::DeleteBgpPeerRequest::default()
    };
    let mut advertisements = server.advertisements().await;
    let deleted = advertisements.delete_bgp_peer(gone).await;
    deleted.expect("deleted");
    let gone = v1::DeleteAdvertisementRequest {
        name: "bgp".to_owned(),
        ..v1::DeleteAdvertisementRequest::default()
    };
    let deleted = advertisements.delete_advertisement(gone).await;
    deleted.expect("deleted");
    follower.converge(&server).await;
    assert_eq!(follower.client.bgp_peers, None);
    assert_eq!(follower.client.assignments.len(), 0);
    drop(follower);
    server.stopped().await;
}

#[tokio::test]
async fn a_node_is_told_the_passwords_of_its_own_peers_and_no_others() {
    let server = TestServer::start().await;
    let mut follower = Follower::new("a");
    let (reports, receiver) = mpsc::channel(16);
    let own = Hello {
        labels: [("host".to_owned(), "a".to_owned())].into(),
        ..hello("a")
    };
    let sent = reports.send(report(Report::Hello(own))).await;
    sent.expect("the stream is open");
    let mut announcers = server.announcers().await;
    let stream = announcers.announce(ReceiverStream::new(receiver)).await;
    follower.stream = Some((reports, stream.expect("welcome").into_inner()));
    for (name, cluster, node, password) in [
        ("own", "east", "a", "of a"),
        ("other", "east", "b", "of b"),
        ("shared", "", "a", "of the operator"),
        ("plain", "east", "a", ""),
        ("elsewhere", "west", "a", "of west"),
    ] {
        let peer = v1::BgpPeer {
            node_selectors: of_node(node),
            ..peer(name, cluster, password)
        };
        apply(&server, peer).await;
    }
    let request = |node: &str| v1::GetPeerSecretsRequest {
        cluster: "east".to_owned(),
        node: node.to_owned(),
    };
    let told = announcers.get_peer_secrets(request("a")).await;
    let told = told.expect("told").into_inner().secrets;
    let pairs = told.iter();
    let pairs: Vec<_> = pairs
        .map(|one| (one.name.as_str(), one.password.as_str()))
        .collect();
    assert_eq!(pairs, [("own", "of a"), ("shared", "of the operator")]);
    assert!(told.iter().all(|one| one.password_revision > 0));

    let unknown = announcers.get_peer_secrets(request("b")).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    let nobody = announcers.get_peer_secrets(request("")).await;
    assert_eq!(nobody.expect_err("invalid").code(), Code::InvalidArgument);
    drop(follower);
    server.stopped().await;
}
