use crate::state::change::Change;
use crate::state::command::Command;
use crate::state::testing::*;

use super::*;
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
