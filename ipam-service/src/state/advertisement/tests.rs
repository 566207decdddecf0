use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::testing::*;

use super::*;
use crate::state::model::{AdvertisementProtocol, RouteAttributes};
use crate::testing::advertisement;

fn for_pool(key: &str, pool: &str) -> Advertisement {
    Advertisement {
        pools: [name(pool)].into(),
        ..advertisement(key)
    }
}

fn sync(all: &[Advertisement]) -> Command {
    Command::SyncAdvertisements {
        cluster: name("east"),
        advertisements: all.to_vec(),
        scope: Scope::Every,
        fence: 0,
    }
}

fn kinds(changes: &[Change]) -> Vec<(String, bool, bool)> {
    let edits = changes.iter().filter_map(|change| {
        let Change::Advertisement(edit) = change else {
            assert!(matches!(change, Change::Cluster(_)), "{change:?}");
            return None;
        };
        let name = edit.subject().key.name.to_string();
        Some((name, edit.before.is_some(), edit.after.is_some()))
    });
    edits.collect()
}

#[test]
fn an_advertisement_is_created_replaced_and_deleted() {
    let mut book = Book::default();
    let apply = |one: Advertisement| Command::ApplyAdvertisement(Box::new(one));
    book.run(apply(advertisement("l2"))).expect("created");
    assert_eq!(
        book.run(apply(advertisement("l2"))),
        Ok(Vec::new()),
        "equal"
    );
    book.run(apply(for_pool("l2", "p"))).expect("replaced");
    let stored = book.state.advertisement(&advertisement("l2").key);
    let stored = stored.expect("stored");
    assert_eq!((stored.revision, stored.pools.len()), (2, 1));
    let delete = || Command::DeleteAdvertisement(advertisement("l2").key);
    book.run(delete()).expect("deleted");
    assert_eq!(
        book.run(delete()),
        Err(Rejection::UnknownAdvertisement("l2".to_owned()))
    );
}

#[test]
fn a_whole_set_replaces_the_clusters_and_nobody_elses() {
    let mut book = Book::default();
    book.run(Command::ApplyAdvertisement(Box::new(advertisement("l2"))))
        .expect("operator's");
    book.run(sync(&[advertisement("east/a"), advertisement("east/b")]))
        .expect("synced");
    let next = [advertisement("east/b"), for_pool("east/c", "p")];
    let changes = book.run(sync(&next)).expect("synced");
    let expected = [("a", true, false), ("c", false, true)];
    assert_eq!(
        kinds(&changes),
        expected.map(|(n, b, a)| (n.to_owned(), b, a))
    );
    assert_eq!(book.run(sync(&next)), Ok(Vec::new()));
    assert_eq!(book.state.advertisements().count(), 3);
}

#[test]
fn a_set_that_names_one_twice_is_refused() {
    let twice = [advertisement("east/a"), advertisement("east/a")];
    match Book::default().run(sync(&twice)) {
        Err(Rejection::Invalid(fields)) => assert_eq!(fields[0].field, "advertisements[1].name"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_set_of_one_protocol_leaves_the_other_alone() {
    let mut book = Book::default();
    let by_bgp = |key: &str| Advertisement {
        protocol: AdvertisementProtocol::Bgp(RouteAttributes {
            peers: BTreeSet::new(),
            length_v4: 32,
            length_v6: 128,
            local_pref: 0,
            communities: BTreeSet::new(),
        }),
        ..advertisement(key)
    };
    let sync = |scope, advertisements: &[Advertisement]| Command::SyncAdvertisements {
        cluster: name("east"),
        advertisements: advertisements.to_vec(),
        scope,
        fence: 0,
    };
    let all = |book: &Book| {
        let all = book.state.advertisements();
        all.map(|one| one.key.name.to_string()).collect::<Vec<_>>()
    };
    let l2 = advertisement("east/l2");
    book.run(sync(Scope::L2, std::slice::from_ref(&l2)))
        .expect("taken");
    let two = [by_bgp("east/bgp/a"), by_bgp("east/bgp/b")];
    book.run(sync(Scope::Bgp, &two)).expect("taken");
    assert_eq!(all(&book), ["bgp/a", "bgp/b", "l2"]);
    book.run(sync(Scope::Bgp, &two[1..])).expect("taken");
    assert_eq!(all(&book), ["bgp/b", "l2"]);
    book.run(sync(Scope::L2, &[])).expect("taken");
    assert_eq!(all(&book), ["bgp/b"]);
    // A name means one advertisement.
    let taken = book.run(sync(Scope::L2, &[advertisement("east/bgp/b")]));
    let Err(Rejection::Invalid(invalid)) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(invalid[0].field, "advertisements[0].name");
    book.run(sync(Scope::Every, &[l2])).expect("taken");
    assert_eq!(all(&book), ["l2"]);
}
