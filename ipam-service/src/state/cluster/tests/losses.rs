//! A store that was made in place of one that was lost, and was not told so.

use super::*;

const WEST: &str = "west/default/web";

fn loss(cluster: &str) -> Command {
    Command::ReportLoss {
        cluster: name(cluster),
    }
}

fn inventory(book: &Book, cluster: &str) -> Option<Inventory> {
    book.state.cluster(cluster).map(|one| one.inventory)
}

fn empty() -> Book {
    Book::with_pools(&[pool("p", &["192.0.2.0/29"])])
}

fn report(book: &mut Book, cluster: &str) {
    book.run(begin(cluster, "", 0)).expect("begun");
    book.run(end(cluster)).expect("ended");
}

#[test]
fn an_empty_store_serves_nobody_until_those_whom_another_one_knew_have_reported() {
    let mut book = empty();
    book.run(loss("east")).expect("noted");
    assert_eq!(inventory(&book, "east"), Some(Inventory::Expected));
    // It is said once.
    assert_eq!(book.run(loss("east")), Ok(Vec::new()));
    assert_eq!(book.refused(WEST, claim()).reason, Reason::Recovering);
    let taken = using(&["192.0.2.0"], allocate(WEB, claim()));
    book.step(taken).expect("what it uses");
    report(&mut book, "east");
    assert_eq!(book.take(WEST, claim()), "192.0.2.1");
}

#[test]
fn a_store_that_others_use_serves_them_and_does_not_claim_to_know_the_lost_one() {
    let holds = |book: &mut Book| drop(book.take(WEST, claim()));
    let reports = |book: &mut Book| report(book, "west");
    let uses: [&dyn Fn(&mut Book); 2] = [&holds, &reports];
    for uses in uses {
        let mut book = empty();
        uses(&mut book);
        book.run(loss("east")).expect("noted");
        assert_eq!(inventory(&book, "east"), Some(Inventory::Missing));
        assert!(!Inventory::Missing.is_authoritative());
        book.take("west/default/db", claim());
        book.run(begin("east", "", 0)).expect("begun");
        let first = Inventory::FirstReport { missing: true };
        assert_eq!(inventory(&book, "east"), Some(first));
        assert!(!first.is_authoritative());
        book.take("west/default/third", claim());
        book.run(end("east")).expect("ended");
        assert_eq!(inventory(&book, "east"), Some(Inventory::Complete));
    }
}

#[test]
fn a_cluster_that_holds_something_or_has_reported_is_not_lost() {
    let mut book = empty();
    book.take(WEB, claim());
    assert_eq!(book.run(loss("east")), Ok(Vec::new()));
    let mut book = empty();
    report(&mut book, "east");
    assert_eq!(book.run(loss("east")), Ok(Vec::new()));
    assert_eq!(inventory(&book, "east"), Some(Inventory::Complete));
}

/// A cluster that was deleted has nodes that must stop, and begins anew like any other.
#[test]
fn a_first_report_withdraws_nothing_only_if_nodes_show_a_loss() {
    let mut book = empty();
    book.run(begin("east", "", 0)).expect("begun");
    let authoritative = |book: &Book| {
        let inventory = inventory(book, "east");
        inventory.expect("known").is_authoritative()
    };
    assert!(authoritative(&book));
    book.take(WEB, claim());
    book.run(loss("east")).expect("noted");
    assert!(!authoritative(&book));
    assert_eq!(book.run(loss("east")), Ok(Vec::new()));
    book.run(end("east")).expect("ended");
    assert!(authoritative(&book));
}

#[test]
fn an_operator_ends_the_wait_for_whoever_reports_nothing() {
    let finish = Command::FinishRecovery { cluster: None };
    let mut book = empty();
    book.run(loss("east")).expect("noted");
    book.refused(WEST, claim());
    book.run(finish.clone()).expect("finished");
    assert_eq!(inventory(&book, "east"), Some(Inventory::Complete));
    book.take(WEST, claim());
    book.run(begin("north", "", 0)).expect("begun");
    book.run(finish).expect("finished");
    let again = Inventory::Reporting { resync: true };
    assert_eq!(inventory(&book, "north"), Some(again));
    // What an operator has said stands.
    assert_eq!(book.run(loss("east")), Ok(Vec::new()));
}
