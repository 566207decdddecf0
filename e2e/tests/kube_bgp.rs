//! Topology: one Kubernetes API with Nodes and no kubelets, one adapter, one ipam-service, announcers that say
//! nothing (e2e/src/adapters.rs).
//!
//! 1. Without the Secret of a peer's password all BGPPeers wait, and ConfigurationState says for what. With it
//!    BGPPeers of both versions and BFDProfiles are in ipam-service, and a node can have its passwords.
//! 2. BGPAdvertisements are, too, beside L2Advertisements of the same names, with the communities that their
//!    names stand for; an address of a Service has their routes.
//! 3. A name that no Community gives yet holds BGPAdvertisements back until one does.
//! 4. A wrong BGPPeer changes nothing of what is in force; one that goes, goes.
//! 5. An address that BGP alone advertises says that there is no session.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use e2e::adapters::{Pretender, Stage};
use e2e::site::DEADLINE;
use pharos_proto::v1;
use pharos_proto::v1::advertisement::Protocol;
use pharos_proto::v1::advertisement_service_client::AdvertisementServiceClient;
use pharos_proto::v1::announcement::Reason;
use pharos_proto::v1::announcement_service_client::AnnouncementServiceClient;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_testbed::wait;
use serde_json::{Value, json};

const EAST: &str = "east";

fn none() -> Value {
    json!({})
}

/// A cluster with two nodes and what a user of MetalLB has, but for the Secret.
fn stage() -> Option<(Stage, Vec<Pretender>)> {
    let mut stage = Stage::start().unwrap()?;
    stage.add_cluster(EAST).unwrap();
    stage.apply_crds(EAST).unwrap();
    let announcers = ["n1", "n2"].map(|node| {
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": node, "labels": { "kubernetes.io/hostname": node } },
        });
        stage.apply(EAST, &object.to_string()).unwrap();
        stage.pretend_announcer(EAST, node).unwrap()
    });
    let samples = e2e::site::repository().join("e2e/manifests/metallb-samples.yaml");
    let samples = samples.display().to_string();
    stage.kubectl(EAST, &["apply", "-f", &samples]).unwrap();
    stage.start_adapter(EAST, &[]).unwrap();
    Some((stage, announcers.into()))
}

fn peers(stage: &Stage) -> anyhow::Result<BTreeMap<String, v1::BgpPeer>> {
    let listed = stage.call(|channel| async move {
        let mut client = AdvertisementServiceClient::new(channel);
        client
            .list_bgp_peers(v1::ListBgpPeersRequest::default())
            .await
    })?;
    let peers = listed.into_inner().peers.into_iter();
    Ok(peers.map(|peer| (peer.name.clone(), peer)).collect())
}

fn profiles(stage: &Stage) -> anyhow::Result<Vec<v1::BfdProfile>> {
    let listed = stage.call(|channel| async move {
        let mut client = AdvertisementServiceClient::new(channel);
        let request = v1::ListBfdProfilesRequest::default();
        client.list_bfd_profiles(request).await
    })?;
    Ok(listed.into_inner().profiles)
}

/// By BGP, and the names of all others.
fn advertisements(
    stage: &Stage,
) -> anyhow::Result<(BTreeMap<String, v1::advertisement::Bgp>, Vec<String>)> {
    let listed = stage.call(|channel| async move {
        let mut client = AdvertisementServiceClient::new(channel);
        let request = v1::ListAdvertisementsRequest::default();
        client.list_advertisements(request).await
    })?;
    let (mut by_bgp, mut others) = (BTreeMap::new(), Vec::new());
    for one in listed.into_inner().advertisements {
        match one.protocol {
            Some(Protocol::Bgp(bgp)) => drop(by_bgp.insert(one.name, bgp)),
            Some(Protocol::L2(_)) | None => others.push(one.name),
        }
    }
    Ok((by_bgp, others))
}

/// The passwords of a node, by peer.
fn passwords(stage: &Stage, node: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let request = v1::GetPeerSecretsRequest {
        cluster: EAST.to_owned(),
        node: node.to_owned(),
    };
    let told = stage.call(|channel| async move {
        let mut client = AnnouncerServiceClient::new(channel);
        client.get_peer_secrets(request).await
    })?;
    let secrets = told.into_inner().secrets.into_iter();
    Ok(secrets.map(|one| (one.name, one.password)).collect())
}

#[track_caller]
fn wait_for<T>(what: &str, check: impl Fn() -> anyhow::Result<T>) -> T {
    wait::until_ok(what, DEADLINE, check).unwrap()
}

/// Waits until the verdict on the configuration has these words; none: nothing is wrong.
#[track_caller]
fn wait_verdict(stage: &Stage, words: &str) {
    let result = if words.is_empty() { "Valid" } else { "Invalid" };
    wait_for(&format!("{result}: {words}"), || {
        let name = "configurationstate/controller";
        let get = ["get", name, "-n", "metallb-system", "-o", "json"];
        let state: Value = serde_json::from_str(&stage.kubectl(EAST, &get)?)?;
        let status = &state["status"];
        let summary = status["errorSummary"].as_str().unwrap_or_default();
        anyhow::ensure!(
            status["result"] == result && summary.contains(words),
            "{status}"
        );
        Ok(())
    });
}

fn secret(password: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": { "name": "rack-password", "namespace": "metallb-system" },
        "stringData": { "password": password },
    })
    .to_string()
}

/// Whatever is declared is looked at again.
fn touch(stage: &Stage, value: &str) {
    let label = format!("touched={value}");
    let peer = [
        "label",
        "bgppeer",
        "rack",
        "-n",
        "metallb-system",
        "--overwrite",
    ];
    stage
        .kubectl(EAST, &[&peer[..], &[label.as_str()]].concat())
        .unwrap();
}

#[test]
fn what_is_declared_about_bgp_is_in_ipam_service() {
    let Some((stage, _announcers)) = stage() else {
        return;
    };
    let missing = "Secret \"metallb-system/rack-password\": there is none";
    wait_verdict(&stage, missing);
    assert!(peers(&stage).unwrap().is_empty());
    let early = advertisements(&stage).unwrap();
    assert!(early.0.is_empty() && !early.1.is_empty(), "{early:?}");
    stage.apply(EAST, &secret("of the rack")).unwrap();
    touch(&stage, "1");
    wait_verdict(&stage, "");
    peers_and_profiles_are_there(&stage);
    advertisements_are_there(&stage);
    an_address_has_routes(&stage);
    a_name_that_nobody_gives_holds_back(&stage);
    what_is_wrong_changes_nothing(&stage);
    what_goes_goes(&stage);
}

fn peers_and_profiles_are_there(stage: &Stage) {
    let peers = wait_for("the peers", || {
        let peers = peers(stage)?;
        anyhow::ensure!(
            peers.keys().eq(["before", "rack", "spine", "tenant"]),
            "{peers:?}"
        );
        Ok(peers)
    });
    let rack = &peers["rack"];
    assert_eq!(
        (rack.cluster.as_str(), rack.address.as_str()),
        (EAST, "10.9.0.1")
    );
    assert_eq!((rack.my_asn, rack.peer_asn), (64500, 64501));
    assert_eq!(rack.bfd_profile, "quick");
    assert!(rack.ebgp_multihop && rack.graceful_restart && rack.password_revision > 0);
    let seconds = |time: &Option<_>| time.as_ref().map(|it: &prost_types::Duration| it.seconds);
    assert_eq!(seconds(&rack.hold_time), Some(90));
    assert_eq!(seconds(&rack.connect_time), Some(10));
    let spine = &peers["spine"];
    assert_eq!(spine.dynamic_asn(), v1::bgp_peer::DynamicAsn::External);
    assert_eq!((spine.interface.as_str(), spine.local_asn), ("eth1", 65010));
    let before = &peers["before"];
    assert_eq!((before.hold_time, before.port), (None, Some(179)));
    let listed = profiles(stage).unwrap();
    let names: Vec<&str> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["defaults", "quick"]);
    assert_eq!(listed[1].transmit_interval_ms, Some(150));

    let of = |node| passwords(stage, node).unwrap();
    let told = [("rack", "of the rack"), ("tenant", "secret")];
    let told = told.map(|(peer, password)| (peer.to_owned(), password.to_owned()));
    assert_eq!(of("n1"), BTreeMap::from(told));
    stage.apply(EAST, &secret("another")).unwrap();
    touch(stage, "2");
    wait_for("another password", || {
        let told = passwords(stage, "n2")?;
        anyhow::ensure!(told["rack"] == "another", "not yet");
        Ok(())
    });
}

fn advertisements_are_there(stage: &Stage) {
    let (by_bgp, others) = wait_for("the advertisements", || {
        let all = advertisements(stage)?;
        let names = ["bgp/aggregate", "bgp/plain", "bgp/shop"];
        anyhow::ensure!(all.0.keys().eq(names), "{all:?}");
        Ok(all)
    });
    assert!(!others.is_empty());
    let aggregate = &by_bgp["bgp/aggregate"];
    assert_eq!(aggregate.aggregation_length, Some(24));
    assert_eq!(
        (aggregate.local_pref, &aggregate.peers[..]),
        (200, &["rack".to_owned()][..])
    );
    let communities = ["64500:30", "65535:65281", "large:64500:1:2"];
    assert_eq!(aggregate.communities, communities);
    // An L2Advertisement of the same name is another one.
    let same = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
        "metadata": { "name": "plain", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &same.to_string()).unwrap();
    wait_for("both of one name", || {
        let (by_bgp, others) = advertisements(stage)?;
        anyhow::ensure!(others.contains(&"plain".to_owned()), "{others:?}");
        anyhow::ensure!(by_bgp.contains_key("bgp/plain"), "{by_bgp:?}");
        Ok(())
    });
}

/// A Service with an endpoint somewhere; its address.
fn serve(stage: &Stage) -> String {
    stage.apply_service(EAST, "web", &none(), &none()).unwrap();
    stage.set_endpoint(EAST, true).unwrap();
    stage.wait_any_address(EAST, "web").unwrap()
}

fn an_address_has_routes(stage: &Stage) {
    let address = serve(stage);
    wait_for("a route of every node", || {
        let request = v1::ListAssignmentsRequest {
            cluster: EAST.to_owned(),
        };
        let listed = stage.call(|channel| async move {
            let mut client = AnnouncerServiceClient::new(channel);
            client.list_assignments(request).await
        })?;
        let listed = listed.into_inner();
        let mut assignments = listed.assignments.iter();
        let found = assignments.find(|one| one.address == address);
        let entries = found.map(|one| one.bgp.as_slice()).unwrap_or_default();
        let [entry] = entries else {
            anyhow::bail!("{found:?}");
        };
        let mut sets = listed.node_sets.iter();
        let nodes = sets.find(|set| set.id == entry.nodes);
        anyhow::ensure!(
            nodes.is_some_and(|set| set.nodes == ["n1", "n2"]),
            "{nodes:?}"
        );
        let length = if address.contains(':') { 128 } else { 32 };
        let prefix = format!("{address}/{length}");
        let mut routes = entry.routes.iter();
        anyhow::ensure!(routes.any(|route| route.prefix == prefix), "{entry:?}");
        let peers = listed.bgp_peers.unwrap_or_default();
        anyhow::ensure!(
            peers.peers.len() == 4 && peers.profiles.len() == 1,
            "{peers:?}"
        );
        Ok(())
    });
}

fn a_name_that_nobody_gives_holds_back(stage: &Stage) {
    let later = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "BGPAdvertisement",
        "metadata": { "name": "later", "namespace": "metallb-system" },
        "spec": { "communities": ["LATER"], "aggregationLength": 30, "ipAddressPools": ["none"] },
    });
    stage.apply(EAST, &later.to_string()).unwrap();
    wait_verdict(
        stage,
        "no Community gives \"LATER\" of BGPAdvertisement \"later\"",
    );
    assert_eq!(advertisements(stage).unwrap().0.len(), 3);
    let names = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "Community",
        "metadata": { "name": "names", "namespace": "metallb-system" },
        "spec": { "communities": [{ "name": "LATER", "value": "64500:99" }] },
    });
    stage.apply(EAST, &names.to_string()).unwrap();
    wait_for("the name", || {
        let (by_bgp, _) = advertisements(stage)?;
        let later = by_bgp.get("bgp/later");
        anyhow::ensure!(
            later.is_some_and(|it| it.communities == ["64500:99"]),
            "{by_bgp:?}"
        );
        Ok(())
    });
    wait_verdict(stage, "");
}

fn what_is_wrong_changes_nothing(stage: &Stage) {
    let peer = |address: &str| {
        json!({
            "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer",
            "metadata": { "name": "spine", "namespace": "metallb-system" },
            "spec": { "myASN": 64500, "peerASN": 64502, "peerAddress": address },
        })
        .to_string()
    };
    let before = peers(stage).unwrap();
    let replace = |address: &str| {
        let delete = ["delete", "bgppeer", "spine", "-n", "metallb-system"];
        stage.kubectl(EAST, &delete).unwrap();
        stage.apply(EAST, &peer(address)).unwrap();
    };
    replace("10.9.0");
    wait_verdict(stage, "invalid BGPPeer address \"10.9.0\"");
    let mut now = peers(stage).unwrap();
    // Between the two commands there was none.
    now.entry("spine".to_owned())
        .or_insert_with(|| before["spine"].clone());
    assert_eq!(now, before);
    replace("10.9.0.3");
    wait_for("the peer", || {
        let peers = peers(stage)?;
        let spine = peers.get("spine").map(|it| it.address.as_str());
        anyhow::ensure!(spine == Some("10.9.0.3"), "{spine:?}");
        Ok(())
    });
}

fn what_goes_goes(stage: &Stage) {
    for kind in [
        "bgpadvertisement",
        "bgppeer",
        "bfdprofile",
        "l2advertisement",
    ] {
        let delete = ["delete", kind, "--all", "-n", "metallb-system"];
        stage.kubectl(EAST, &delete).unwrap();
    }
    wait_for("nothing", || {
        let (by_bgp, others) = advertisements(stage)?;
        anyhow::ensure!(
            by_bgp.is_empty() && others.is_empty(),
            "{by_bgp:?} {others:?}"
        );
        let (peers, profiles) = (peers(stage)?, profiles(stage)?);
        anyhow::ensure!(
            peers.is_empty() && profiles.is_empty(),
            "{peers:?} {profiles:?}"
        );
        Ok(())
    });
    wait_verdict(stage, "");
    // By BGP alone.
    let plain = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "BGPAdvertisement",
        "metadata": { "name": "plain", "namespace": "metallb-system" },
    });
    stage.apply(EAST, &plain.to_string()).unwrap();
    wait_for("that there is no session", || {
        let request = v1::ListAnnouncementsRequest {
            cluster: EAST.to_owned(),
            ..v1::ListAnnouncementsRequest::default()
        };
        let listed = stage.call(|channel| async move {
            let mut client = AnnouncementServiceClient::new(channel);
            client.list_announcements(request).await
        })?;
        let listed = listed.into_inner().announcements;
        let reasons: Vec<Reason> = listed.iter().map(v1::Announcement::reason).collect();
        anyhow::ensure!(reasons == [Reason::BgpNoSession], "{reasons:?}");
        Ok(())
    });
}
