//! Routes and BGP peers are kept with all else, and nothing is made of them.

use prost::Message as _;

use super::*;

const A: &str = "192.0.2.1";

/// By BGP only.
fn routed(nodes: u64, prefix: &str) -> v1::Assignment {
    v1::Assignment {
        nodes: Vec::new(),
        candidates: 0,
        l2: None,
        bgp: vec![v1::assignment::NodeRoutes {
            nodes,
            routes: vec![v1::assignment::Route {
                prefix: prefix.to_owned(),
                communities: vec!["64512:7".to_owned()],
                ..v1::assignment::Route::default()
            }],
        }],
        ..assignment(A, &[])
    }
}

fn set(id: u64, nodes: &[&str]) -> Update {
    Update::NodeSet(v1::NodeSet {
        id,
        nodes: nodes.iter().map(ToString::to_string).collect(),
    })
}

fn peers(peers: &[(&str, u64)]) -> Update {
    let peers = peers.iter().map(|(name, nodes)| v1::bgp_peers::Peer {
        peer: Some(v1::BgpPeer {
            name: (*name).to_owned(),
            ..v1::BgpPeer::default()
        }),
        nodes: *nodes,
    });
    Update::BgpPeers(v1::BgpPeers {
        peers: peers.collect(),
        profiles: Vec::new(),
    })
}

fn named(difference: &Difference) -> Option<Vec<(&str, usize)>> {
    let peers = difference.bgp_peers.as_ref()?.iter();
    Some(
        peers
            .map(|(name, nodes)| (name.as_str(), nodes.len()))
            .collect(),
    )
}

#[test]
fn routes_are_kept_with_their_digests_and_are_no_matter_of_layer_2() {
    let mut book = Book::new("east");
    let told = routed(5, "192.0.2.1/32");
    let frames = [
        header(true),
        set(5, &["a", "b"]),
        bucket(std::slice::from_ref(&told)),
        synced(),
    ];
    let difference = apply_all(&mut book, frames);
    let [assigned] = &difference.upserts[..] else {
        panic!("{difference:?}");
    };
    assert!(assigned.wanted.is_none() && assigned.candidates.is_empty());
    // What the disk gives back has the same digests, and so the server sends nothing again.
    let digests = book.digests().expect("something");
    let restored = Book::restore("east", book.contents());
    assert_eq!(restored.digests(), Some(digests.clone()));
    assert_eq!(restored.contents(), book.contents());
    assert_eq!(restored.contents().node_sets.len(), 1);
    // A version without the field would have others: it is sent the bucket again, and no harm is done.
    let blind = v1::Assignment {
        bgp: Vec::new(),
        ..told.clone()
    };
    assert_ne!(assignment_digest(&blind), assignment_digest(&told));

    // Who announces may be another one then: that has to be on the disk before it is acknowledged.
    let difference = apply_all(
        &mut book,
        [set(6, &["b"]), changes(&[routed(6, "192.0.2.1/32")], &[])],
    );
    assert!(difference.takes_away);
    let difference = apply_all(&mut book, [changes(&[], &[A])]);
    assert!(difference.takes_away && book.is_empty());
}

#[test]
fn an_unknown_field_or_update_of_a_later_version_is_no_error() {
    // Field 999 of an assignment, and of an update.
    let later = [0xba, 0x3e, 0x01, 0x07];
    let mut bytes = routed(5, "192.0.2.1/32").encode_to_vec();
    bytes.extend(later);
    let read = v1::Assignment::decode(&bytes[..]).expect("decodes");
    assert_eq!(read, routed(5, "192.0.2.1/32"));
    let frame = v1::AssignmentUpdate::decode(&later[..]).expect("decodes");
    let ignored = Book::new("east").apply(frame).expect("ignored").ignored;
    assert_eq!(ignored.len(), 1);
}

#[test]
fn peers_are_told_whole_and_are_gone_when_a_start_tells_none() {
    let mut book = Book::new("east");
    let both = [("spine", 5), ("tor", 6)];
    let sets = || [set(5, &["a", "b"]), set(6, &["b"])];
    let [one, two] = sets();
    let difference = apply_all(&mut book, [header(true), one, two, peers(&both), synced()]);
    assert_eq!(named(&difference), Some(vec![("spine", 2), ("tor", 1)]));
    let kept = Book::restore("east", book.contents());
    assert_eq!(kept.bgp_peers(), book.bgp_peers());

    // The same once more is no news.
    let [one, two] = sets();
    let difference = apply_all(&mut book, [header(true), one, two, peers(&both), synced()]);
    assert_eq!(named(&difference), None);
    // While it goes on.
    let difference = apply_all(&mut book, [peers(&both[1..])]);
    assert_eq!(named(&difference), Some(vec![("tor", 1)]));
    // A server that does not know everything takes none away.
    let difference = apply_all(&mut book, [header(false), synced()]);
    assert_eq!(named(&difference), None);
    let [one, _] = sets();
    let difference = apply_all(&mut book, [header(false), one, peers(&both[..1]), synced()]);
    assert_eq!(named(&difference), Some(vec![("spine", 2), ("tor", 1)]));
    // One that does, does.
    let difference = apply_all(&mut book, [header(true), synced()]);
    assert_eq!(named(&difference), Some(vec![]));
    assert_eq!(book.contents().node_sets, []);
}

#[test]
fn sets_of_peers_that_are_gone_go_while_nothing_else_changes() {
    let mut book = Book::new("east");
    apply_all(&mut book, [header(true), synced()]);
    for id in 1..20 {
        apply_all(&mut book, [set(id, &["a"]), peers(&[("tor", id)])]);
        assert!(book.contents().node_sets.len() <= 2, "{id}");
    }
    assert_eq!(book.bgp_peers()[0].1.len(), 1);
}

#[test]
fn peers_before_a_header_are_no_valid_stream() {
    let refused = apply(&mut Book::new("east"), peers(&[]));
    assert!(matches!(refused, Err(StreamError::NoHeader("bgp_peers"))));
}
