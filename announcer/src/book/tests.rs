mod bgp;

use pharos_proto::v1::assignment::{ByNodes, L2};
use pharos_proto::v1::assignment_update::Synced;

use super::*;

fn assignment(address: &str, nodes: &[&str]) -> v1::Assignment {
    v1::Assignment {
        address_space: "default".to_owned(),
        address: address.to_owned(),
        group: 7,
        nodes: nodes.iter().map(ToString::to_string).collect(),
        candidates: 99,
        l2: Some(L2::default()),
        owners: vec!["east/default/web".to_owned()],
        probe: false,
        fenced: None,
        bgp: Vec::new(),
    }
}

fn header(authoritative: bool) -> Update {
    Update::Header(Header {
        store_id: "store".to_owned(),
        authoritative,
        cluster: "east".to_owned(),
    })
}

fn bucket(assignments: &[v1::Assignment]) -> Update {
    let index = bucket_of("default", &assignments[0].address).expect("valid");
    Update::Bucket(Bucket {
        index: u32::try_from(index).expect("small"),
        assignments: assignments.to_vec(),
    })
}

fn empty_bucket(address: &str) -> Update {
    let index = bucket_of("default", address).expect("valid");
    Update::Bucket(Bucket {
        index: u32::try_from(index).expect("small"),
        assignments: Vec::new(),
    })
}

fn changes(upserts: &[v1::Assignment], removals: &[&str]) -> Update {
    Update::Changes(Changes {
        position: 5,
        upserts: upserts.to_vec(),
        removals: removals
            .iter()
            .map(|address| v1::AssignmentKey {
                address_space: "default".to_owned(),
                address: (*address).to_owned(),
            })
            .collect(),
    })
}

fn members(names: &[&str]) -> Update {
    Update::Members(v1::Members {
        members: names
            .iter()
            .map(|node| v1::members::Member {
                node: (*node).to_owned(),
                endpoint: "192.0.2.9:7946".to_owned(),
            })
            .collect(),
    })
}

fn synced() -> Update {
    Update::Synced(Synced { position: 4 })
}

fn apply(book: &mut Book, update: Update) -> Result<Difference, StreamError> {
    book.apply(v1::AssignmentUpdate {
        update: Some(update),
    })
}

/// Applies frames that must be accepted; gives the last difference.
fn apply_all(book: &mut Book, updates: impl IntoIterator<Item = Update>) -> Difference {
    let differences = updates
        .into_iter()
        .map(|update| apply(book, update).expect("accepted"));
    differences.last().expect("at least one")
}

fn addresses(book: &Book) -> Vec<String> {
    let mut all: Vec<String> = book
        .assigned()
        .iter()
        .map(|assigned| assigned.key.address.to_string())
        .collect();
    all.sort();
    all
}

fn synced_book(assignments: &[v1::Assignment]) -> Book {
    let mut book = Book::new("east");
    let buckets = assignments
        .iter()
        .map(|one| bucket(std::slice::from_ref(one)));
    let frames = std::iter::once(header(true))
        .chain(buckets)
        .chain([synced()]);
    apply_all(&mut book, frames);
    book
}

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";

#[test]
fn nothing_takes_effect_before_synced() {
    let mut book = Book::new("east");
    for update in [
        header(true),
        members(&["a"]),
        bucket(&[assignment(A, &["a"])]),
    ] {
        assert_eq!(apply(&mut book, update), Ok(Difference::default()));
        assert!(book.is_empty());
    }
    let difference = apply(&mut book, synced()).expect("accepted");
    assert!(difference.synced);
    assert_eq!(difference.position, Some(4));
    assert_eq!(difference.upserts.len(), 1);
    assert_eq!(difference.members.map(|members| members.len()), Some(1));
    assert_eq!(addresses(&book), [A]);
}

#[test]
fn a_synchronisation_is_applied_as_a_difference() {
    let mut book = synced_book(&[assignment(A, &["a"]), assignment(B, &["a"])]);
    book.disconnected();
    let frames = [
        header(true),
        empty_bucket(A),
        bucket(&[assignment(B, &["a"])]),
        synced(),
    ];
    let difference = apply_all(&mut book, frames);
    assert_eq!(difference.upserts, [], "B is as it was");
    let removed: Vec<String> = difference
        .removals
        .iter()
        .map(|key| key.address.to_string())
        .collect();
    assert_eq!(removed, [A]);
    assert_eq!(addresses(&book), [B]);
}

#[test]
fn a_server_that_does_not_know_everything_yet_removes_nothing() {
    let mut book = synced_book(&[assignment(A, &["a"])]);
    apply_all(&mut book, [members(&["a", "b"])]);
    book.disconnected();
    let frames = [header(false), members(&["a"]), empty_bucket(A), synced()];
    let difference = apply_all(&mut book, frames);
    assert_eq!(difference.removals, []);
    assert_eq!(book.members().len(), 2);
    let difference = apply_all(&mut book, [changes(&[assignment(B, &["b"])], &[A])]);
    assert_eq!(difference.removals, []);
    assert_eq!(difference.upserts.len(), 1);
    assert_eq!(addresses(&book), [A, B]);
}

#[test]
fn losing_the_stream_changes_nothing_and_drops_what_was_not_complete() {
    let mut book = synced_book(&[assignment(A, &["a"])]);
    apply_all(&mut book, [header(true), empty_bucket(A)]);
    book.disconnected();
    assert_eq!(addresses(&book), [A]);
    assert_eq!(
        apply(&mut book, synced()),
        Err(StreamError::NoHeader("synced"))
    );
}

#[test]
fn live_changes_take_effect_one_by_one() {
    let mut book = synced_book(&[assignment(A, &["a"])]);
    let difference = apply_all(&mut book, [changes(&[assignment(B, &["b"])], &[A])]);
    assert_eq!(difference.position, Some(5));
    assert_eq!(
        (difference.upserts.len(), difference.removals.len()),
        (1, 1)
    );
    let again = apply_all(&mut book, [changes(&[], &[A])]);
    assert_eq!(again.removals, [], "what is not there is not removed");
}

#[test]
fn a_stream_that_breaks_the_rules_is_refused() {
    let other = Update::Header(Header {
        cluster: "west".to_owned(),
        ..Header::default()
    });
    let far = Update::Bucket(Bucket {
        index: 256,
        assignments: Vec::new(),
    });
    let cases: Vec<(Vec<Update>, StreamError)> = vec![
        (vec![synced()], StreamError::NoHeader("synced")),
        (vec![members(&["a"])], StreamError::NoHeader("members")),
        (vec![empty_bucket(A)], StreamError::NoHeader("bucket")),
        (vec![changes(&[], &[])], StreamError::NoHeader("changes")),
        (
            vec![header(true), changes(&[], &[])],
            StreamError::ChangesBeforeSynced,
        ),
        (vec![header(true), far], StreamError::NoSuchBucket(256)),
        (vec![other], StreamError::OtherCluster("west".to_owned())),
    ];
    for (updates, expected) in cases {
        let mut book = Book::new("east");
        let refused = updates
            .into_iter()
            .find_map(|update| apply(&mut book, update).err());
        assert_eq!(refused, Some(expected));
    }
}

#[test]
fn what_is_of_no_use_is_named_and_the_rest_of_its_frame_counts() {
    let mut book = synced_book(&[]);
    for bad in ["192.0.2.300", "", "0.0.0.0", "127.0.0.1", "224.0.0.5", "::"] {
        let frame = changes(&[assignment(B, &["a"]), assignment(bad, &["a"])], &[bad]);
        let difference = apply_all(&mut book, [frame]);
        assert_eq!(difference.upserts.len(), 1, "{bad}");
        assert_eq!(difference.ignored.len(), 2, "{bad}");
        assert!(difference.ignored[0].contains(bad), "{bad}");
        assert_eq!(addresses(&book), [B], "{bad}");
    }
    let unknown = book.apply(v1::AssignmentUpdate { update: None });
    assert_eq!(unknown.map(|difference| difference.ignored.len()), Ok(1));
    // In a bucket too: one that is no address, and one that belongs elsewhere.
    let mixed = [
        assignment(A, &["a"]),
        assignment("x", &["a"]),
        assignment(B, &["a"]),
    ];
    let mut book = Book::new("east");
    apply_all(&mut book, [header(true)]);
    let told = apply_all(&mut book, [bucket(&mixed)]);
    assert_eq!(told.ignored.len(), 2, "{:?}", told.ignored);
    apply_all(&mut book, [synced()]);
    assert_eq!(addresses(&book), [A]);
}

#[test]
fn an_address_that_is_removed_and_told_anew_in_one_frame_is_there() {
    let mut book = synced_book(&[assignment(A, &["a"])]);
    let difference = apply_all(&mut book, [changes(&[assignment(A, &["b"])], &[A])]);
    assert_eq!(addresses(&book), [A]);
    assert_eq!(
        (difference.removals.len(), difference.upserts.len()),
        (1, 1)
    );
}

#[test]
fn node_sets_that_nothing_refers_to_any_more_go_while_the_stream_lives() {
    let set = |id: u64| {
        Update::NodeSet(v1::NodeSet {
            id,
            nodes: vec![format!("n{id}")],
        })
    };
    let of = |id: u64| v1::Assignment {
        candidates: id,
        ..assignment(A, &["a"])
    };
    let mut book = synced_book(&[]);
    for id in 0..100 {
        // Two sets are told at once, and the second change refers to the second of them.
        let frames = [set(id), set(1000 + id), changes(&[of(id)], &[])];
        apply_all(&mut book, frames);
        let difference = apply_all(&mut book, [changes(&[of(1000 + id)], &[])]);
        let candidate = difference.upserts[0].candidates[0].to_string();
        assert_eq!(candidate, format!("n{}", 1000 + id));
        assert!(book.contents().node_sets.len() <= 3, "{id}");
    }
}

#[test]
fn each_node_has_the_interfaces_of_its_set_and_else_those_of_all() {
    let of_set = |id: u64, node: &str| {
        Update::NodeSet(v1::NodeSet {
            id,
            nodes: vec![node.to_owned()],
        })
    };
    let entry = |nodes: u64, interfaces: &[&str]| ByNodes {
        nodes,
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
    };
    let told = v1::Assignment {
        l2: Some(L2 {
            interfaces: vec!["eth0".to_owned()],
            by_nodes: vec![entry(1, &["eth1"]), entry(2, &[]), entry(3, &["eth3"])],
        }),
        ..assignment(A, &["a", "b", "c"])
    };
    let mut book = Book::new("east");
    let sets = [of_set(99, "a"), of_set(1, "a"), of_set(2, "b")];
    let end = [bucket(&[told]), synced()];
    let begin = std::iter::once(header(true));
    apply_all(&mut book, begin.chain(sets).chain(end));
    let named = |name: &str| Wanted::Named(BTreeSet::from([name.to_owned()]));
    let check = |book: &Book| {
        let assigned = &book.assigned()[0];
        let wanted = assigned.wanted.as_ref().expect("by layer 2");
        assert_eq!(*wanted.of("a"), named("eth1"));
        assert_eq!(*wanted.of("b"), Wanted::Any);
        // The set of c was never told.
        assert_eq!(*wanted.of("c"), named("eth0"));
    };
    check(&book);
    // Sets that only interfaces refer to are kept, also on disk.
    apply_all(
        &mut book,
        [changes(&[assignment(B, &["a"])], &[]), of_set(5, "d")],
    );
    check(&book);
    check(&Book::restore("east", book.contents()));
}

#[test]
fn candidates_come_from_the_node_set_and_else_from_the_list() {
    let set = Update::NodeSet(v1::NodeSet {
        id: 99,
        nodes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
    });
    let with_set = assignment(A, &["a"]);
    let without = v1::Assignment {
        candidates: 0,
        ..assignment(B, &["b"])
    };
    let mut book = Book::new("east");
    let frames = [
        header(true),
        set,
        bucket(&[with_set]),
        bucket(&[without]),
        synced(),
    ];
    let difference = apply_all(&mut book, frames);
    let counts: BTreeMap<String, usize> = difference
        .upserts
        .iter()
        .map(|assigned| (assigned.key.address.to_string(), assigned.candidates.len()))
        .collect();
    assert_eq!(
        counts,
        BTreeMap::from([(A.to_owned(), 3), (B.to_owned(), 1)])
    );
}

#[test]
fn what_was_kept_has_the_digests_of_what_was_told() {
    let book = synced_book(&[assignment(A, &["a"]), assignment(B, &["b"])]);
    let restored = Book::restore("east", book.contents());
    assert!(book.digests().is_some());
    assert_eq!(restored.digests(), book.digests());
    assert_eq!(restored.contents(), book.contents());
    assert_eq!(restored.store_id(), "store");
    assert_eq!(Book::new("east").digests(), None);
}

#[test]
fn what_becomes_fenced_is_taken_away_and_what_is_fenced_and_told_anew_is_not() {
    let fenced = |owner: &str| v1::Assignment {
        fenced: Some(v1::assignment::Fenced {
            owner: owner.to_owned(),
            term: 1,
            ..Default::default()
        }),
        ..assignment(A, &["a"])
    };
    let free = || assignment(A, &["a"]);
    // Told by the stream.
    let mut book = synced_book(&[free()]);
    for (told, expected) in [(fenced(""), true), (fenced("a"), false), (free(), false)] {
        let difference = apply(&mut book, changes(&[told], &[])).expect("accepted");
        assert_eq!(difference.takes_away, expected);
    }
    // Found out when the stream begins.
    let found = [header(true), bucket(&[fenced("")]), synced()];
    assert!(apply_all(&mut book, found).takes_away);
}
