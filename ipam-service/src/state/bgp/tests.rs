use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::testing::*;
use crate::testing::bgp_peer;

use super::model::Password;
use super::*;

fn key(cluster: Option<&str>, text: &str) -> BgpKey {
    BgpKey {
        cluster: cluster.map(name),
        name: name(text),
    }
}

fn peer(text: &str, password: &str) -> BgpPeer {
    BgpPeer {
        password: (!password.is_empty()).then(|| Password::new(password.to_owned())),
        ..bgp_peer(text, |_| {})
    }
}

fn of_east(peer: BgpPeer) -> BgpPeer {
    let key = BgpKey {
        cluster: Some(name("east")),
        ..peer.key
    };
    BgpPeer { key, ..peer }
}

fn profile(cluster: Option<&str>, text: &str) -> BfdProfile {
    BfdProfile {
        key: key(cluster, text),
        receive_interval: None,
        transmit_interval: None,
        detect_multiplier: Some(3),
        passive_mode: false,
        minimum_ttl: None,
        revision: 0,
    }
}

fn apply(peer: BgpPeer) -> Command {
    Command::Bgp(BgpCommand::ApplyPeer(Box::new(peer)))
}

fn sync(peers: &[BgpPeer], profiles: &[BfdProfile], fence: u64) -> Command {
    Command::Bgp(BgpCommand::Sync {
        cluster: name("east"),
        peers: peers.to_vec(),
        profiles: profiles.to_vec(),
        fence,
    })
}

fn stored(book: &Book, cluster: Option<&str>, text: &str) -> BgpPeer {
    let found = book.state.bgp().peer(&key(cluster, text));
    BgpPeer::clone(found.expect("a peer"))
}

/// What changed: `+peer a`, `~peer a`, `-profile b`.
fn told(changes: &[Change]) -> Vec<String> {
    fn mark<T>(edit: &crate::state::change::Edit<T>) -> char {
        match (&edit.before, &edit.after) {
            (None, _) => '+',
            (Some(_), Some(_)) => '~',
            (Some(_), None) => '-',
        }
    }
    let told = changes.iter().filter_map(|change| {
        if let Change::BgpPeer(edit) = change {
            return Some(format!("{}peer {}", mark(edit), edit.subject().key));
        }
        let Change::BfdProfile(edit) = change else {
            assert!(matches!(change, Change::Cluster(_)), "{change:?}");
            return None;
        };
        Some(format!("{}profile {}", mark(edit), edit.subject().key))
    });
    told.collect()
}

fn bad_fields(outcome: Result<Vec<Change>, Rejection>) -> Vec<String> {
    let Err(Rejection::Invalid(fields)) = outcome else {
        panic!("{outcome:?}");
    };
    fields.into_iter().map(|bad| bad.field).collect()
}

#[test]
fn a_peer_is_created_replaced_and_deleted_and_an_equal_one_changes_nothing() {
    let mut book = Book::default();
    assert_eq!(
        told(&book.run(apply(peer("tor", ""))).unwrap()),
        ["+peer tor"]
    );
    assert_eq!(book.run(apply(peer("tor", ""))), Ok(Vec::new()));
    let other = BgpPeer {
        my_asn: 64999,
        ..peer("tor", "")
    };
    assert_eq!(told(&book.run(apply(other)).unwrap()), ["~peer tor"]);
    assert_eq!(stored(&book, None, "tor").revision, 2);
    let delete = || Command::Bgp(BgpCommand::DeletePeer(key(None, "tor")));
    book.run(delete()).unwrap();
    let unknown = Rejection::UnknownBgpPeer("tor".to_owned());
    assert_eq!(book.run(delete()), Err(unknown));
    let unknown = Rejection::UnknownBfdProfile("east/fast".to_owned());
    let delete = Command::Bgp(BgpCommand::DeleteProfile(key(Some("east"), "fast")));
    assert_eq!(book.run(delete), Err(unknown));
}

#[test]
fn a_password_is_of_the_revision_that_set_it_and_stays_only_if_that_is_named() {
    let mut book = Book::default();
    book.run(apply(peer("tor", "one"))).unwrap();
    assert_eq!(stored(&book, None, "tor").password_revision, 1);
    // Given again: the same.
    assert_eq!(book.run(apply(peer("tor", "one"))), Ok(Vec::new()));
    // What a reader gets, edited: the password stays.
    let read = BgpPeer {
        my_asn: 64999,
        password: None,
        ..stored(&book, None, "tor")
    };
    book.run(apply(read.clone())).unwrap();
    let after = stored(&book, None, "tor");
    assert_eq!(
        (after.my_asn, after.password_revision, after.revision),
        (64999, 1, 2)
    );
    assert_eq!(after.password, peer("tor", "one").password);
    // Another one has its own revision; whoever read before does not bring the old one back.
    book.run(apply(peer("tor", "two"))).unwrap();
    assert_eq!(stored(&book, None, "tor").password_revision, 3);
    assert_eq!(
        bad_fields(book.run(apply(read))),
        ["peer.password_revision"]
    );
    // Neither: it is taken away, and cannot be kept.
    book.run(apply(peer("tor", ""))).unwrap();
    let without = stored(&book, None, "tor");
    assert_eq!((without.password, without.password_revision), (None, 0));
    let keep = BgpPeer {
        password_revision: 3,
        ..peer("tor", "")
    };
    assert_eq!(
        bad_fields(book.run(apply(keep))),
        ["peer.password_revision"]
    );
}

#[test]
fn a_password_is_never_printed() {
    let command = apply(peer("tor", "hush-hush"));
    assert!(!format!("{command:?}").contains("hush"), "{command:?}");
    let mut book = Book::default();
    let changes = book.run(command).unwrap();
    assert!(!format!("{changes:?}").contains("hush"), "{changes:?}");
}

#[test]
fn a_whole_set_replaces_the_clusters_peers_and_profiles_and_nobody_elses() {
    let mut book = Book::default();
    book.run(apply(peer("operators", ""))).unwrap();
    let first = [of_east(peer("a", "x")), of_east(peer("b", ""))];
    let fast = profile(Some("east"), "fast");
    let done = book
        .run(sync(&first, std::slice::from_ref(&fast), 5))
        .unwrap();
    assert_eq!(
        told(&done),
        ["+profile east/fast", "+peer east/a", "+peer east/b"]
    );
    assert_eq!(
        book.run(sync(&first, std::slice::from_ref(&fast), 5)),
        Ok(Vec::new())
    );
    let slow = profile(Some("east"), "slow");
    let done = book.run(sync(&first[..1], &[slow], 5)).unwrap();
    assert_eq!(
        told(&done),
        ["-peer east/b", "-profile east/fast", "+profile east/slow"]
    );
    let stale = book.run(sync(&[], &[], 4));
    assert!(
        matches!(stale, Err(Rejection::StaleFence { .. })),
        "{stale:?}"
    );
    let twice = [of_east(peer("a", "")), of_east(peer("a", ""))];
    let both = [profile(Some("east"), "a"), profile(Some("east"), "a")];
    let bad = bad_fields(book.run(sync(&twice, &both, 5)));
    assert_eq!(bad, ["peers[1].name", "profiles[1].name"]);
    let cluster = name("east");
    let gone = book.run(Command::DeleteCluster { cluster }).unwrap();
    assert_eq!(told(&gone), ["-peer east/a", "-profile east/slow"]);
    assert_eq!(book.state.bgp().peers().count(), 1, "the operator's stays");
}
