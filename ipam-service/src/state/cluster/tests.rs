use crate::state::change::{Change, Edit};
use crate::state::command::{Allocate, Command, Fact, InUse, Release, Scope};
use crate::state::model::{
    AddressSpace, AllocationId, Claim, Families, NodeKey, Owner, ReportedNode, Timestamp,
};
use crate::state::refusal::Reason;
use crate::state::testing::*;
use crate::state::{State, decide};

use super::*;

mod losses;

const WEB: &str = "east/default/web";

fn begin(cluster: &str, uid: &str, fence: u64) -> Command {
    Command::BeginSync {
        cluster: name(cluster),
        uid: uid.to_owned(),
        fence,
    }
}

fn end(cluster: &str) -> Command {
    Command::EndSync {
        cluster: name(cluster),
        fence: 0,
    }
}

/// A store that was lost: these clusters have yet to report.
fn recovering(clusters: &[&str]) -> Book {
    let expected = clusters.iter().map(|cluster| {
        let cluster = Cluster {
            name: name(cluster),
            uid: String::new(),
            inventory: Inventory::Expected,
            fence: 0,
            create_time: Timestamp(0),
            revision: 1,
        };
        Change::Cluster(Edit {
            before: None,
            after: Some(Arc::new(cluster)),
        })
    });
    let mut book = Book::default();
    book.state = State::restore(100, expected);
    book.apply_pool(&pool("p", &["192.0.2.0/29"]))
        .expect("applied");
    book
}

fn using(texts: &[&str], command: Allocate) -> Allocate {
    Allocate {
        held: addresses(texts),
        ..command
    }
}

#[test]
fn a_lower_fence_is_turned_away_and_a_higher_one_remembered() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    let with_fence = |fence| Allocate {
        fence,
        ..allocate(WEB, claim())
    };
    book.run(with_fence(5)).expect("granted");
    let stale = Rejection::StaleFence {
        cluster: name("east"),
        current: 5,
        given: 4,
    };
    assert_eq!(book.run(with_fence(4)), Err(stale.clone()));
    let late_release = Release {
        fence: 4,
        allow_missing: true,
        ..release("east/default/other")
    };
    let late: [Command; 5] = [
        late_release.into(),
        Command::SyncPools {
            cluster: name("east"),
            pools: Vec::new(),
            fence: 4,
        },
        Command::SyncAdvertisements {
            cluster: name("east"),
            advertisements: Vec::new(),
            scope: Scope::Every,
            fence: 4,
        },
        begin("east", "", 4),
        Command::EndSync {
            cluster: name("east"),
            fence: 4,
        },
    ];
    for command in late {
        assert_eq!(book.run(command), Err(stale.clone()));
    }
    assert_eq!(book.run(with_fence(0)), Ok(Vec::new()), "people give none");
    assert_eq!(book.run(with_fence(5)), Ok(Vec::new()));
    let changes = book
        .run(with_fence(6))
        .expect("unchanged but for the fence");
    assert!(matches!(changes.as_slice(), [Change::Cluster(_)]));
    assert_eq!(book.state.cluster("east").map(|one| one.fence), Some(6));
    // Other clusters have their own.
    let west = Allocate {
        fence: 1,
        ..allocate("west/default/web", claim())
    };
    book.run(west).expect("granted");
}

#[test]
fn two_installations_do_not_become_one_owner() {
    let mut book = Book::default();
    book.run(begin("east", "", 0)).expect("without uid");
    book.run(begin("east", "one", 0)).expect("learnt");
    assert_eq!(book.run(begin("east", "one", 0)), Ok(Vec::new()));
    assert_eq!(book.run(begin("east", "", 0)), Ok(Vec::new()));
    assert_eq!(
        book.run(begin("east", "two", 0)),
        Err(Rejection::ClusterUidMismatch {
            cluster: name("east"),
            registered: "one".to_owned(),
            given: "two".to_owned(),
        })
    );
}

#[test]
fn a_program_that_introduces_itself_registers_its_cluster_and_is_held_against_its_uid() {
    let introduce = |uid: &str| Command::Introduce {
        cluster: name("east"),
        uid: uid.to_owned(),
    };
    let mut book = Book::default();
    assert_eq!(book.run(introduce("")).map(|changes| changes.len()), Ok(1));
    assert_eq!(
        book.run(introduce("one")).map(|changes| changes.len()),
        Ok(1)
    );
    assert_eq!(book.run(introduce("one")), Ok(Vec::new()));
    assert_eq!(book.run(introduce("")), Ok(Vec::new()));
    let mismatch = book.run(introduce("two"));
    assert!(matches!(
        mismatch,
        Err(Rejection::ClusterUidMismatch { .. })
    ));
    let inventory = book.state.cluster("east").map(|one| one.inventory);
    assert_eq!(inventory, Some(Inventory::New));
}

#[test]
fn inventories_go_from_expected_over_reporting_to_complete() {
    let inventory = |book: &Book| book.state.cluster("east").map(|one| one.inventory);
    let mut book = recovering(&["east"]);
    assert_eq!(
        book.run(end("east")),
        Err(Rejection::NotSyncing(name("east")))
    );
    for resync in [false, true] {
        book.run(begin("east", "", 0)).expect("begun");
        assert_eq!(inventory(&book), Some(Inventory::Reporting { resync }));
        assert_eq!(book.run(begin("east", "", 0)), Ok(Vec::new()));
        book.run(end("east")).expect("ended");
        assert_eq!(inventory(&book), Some(Inventory::Complete));
    }
    assert_eq!(
        book.run(end("west")),
        Err(Rejection::NotSyncing(name("west"))),
        "never seen"
    );
}

#[test]
fn who_waits_for_a_recovery_is_told_for_whom() {
    let mut book = recovering(&["a", "b", "c", "d", "e", "west"]);
    let told = |book: &mut Book, owner: &str| book.refused(owner, claim()).message;
    let start = "the store was replaced and waits until every cluster has reported what it holds";
    assert_eq!(
        told(&mut book, "north/default/new"),
        format!("{start}; yet to report: cluster a, cluster b, cluster c and 3 more")
    );
    assert_eq!(
        book.refused("north/default/at", for_addresses(&["192.0.2.6"]))
            .message,
        format!("{start}; yet to report: cluster a, cluster b, cluster c and 3 more")
    );
    for done in ["a", "b", "c", "d"] {
        book.run(begin(done, "", 0)).expect("begun");
        book.run(end(done)).expect("ended");
    }
    assert_eq!(
        told(&mut book, "north/default/new"),
        format!("{start}; yet to report: cluster e, cluster west")
    );
    // Another cluster's name is not told where holders are hidden: it may have addresses of any space.
    let space = AddressSpace {
        hide_holders: true,
        ..AddressSpace::new(name("elsewhere"))
    };
    book.run(apply_space(space, InUse::Refuse)).expect("hidden");
    assert_eq!(
        told(&mut book, "west/default/new"),
        format!("{start}; yet to report: cluster west and 1 more")
    );
    assert_eq!(
        told(&mut book, "north/default/new"),
        format!("{start}; yet to report: 2 other clusters")
    );
    book.run(begin("e", "", 0)).expect("begun");
    book.run(end("e")).expect("ended");
    assert_eq!(
        told(&mut book, "north/default/new"),
        format!("{start}; yet to report: another cluster")
    );
}

#[test]
fn until_all_clusters_have_reported_only_what_is_in_use_is_granted() {
    let mut book = recovering(&["east", "west"]);
    let waits = "(RECOVERING)";
    assert_eq!(book.queue(WEB, claim()), waits);
    assert_eq!(book.queue("north/default/new", claim()), waits);
    assert_eq!(
        book.queue("east/default/at", for_addresses(&["192.0.2.6"])),
        waits
    );
    assert_eq!(
        book.refused("east/default/fail", claim()).reason,
        Reason::Recovering
    );
    book.run(begin("east", "", 0)).expect("begun");
    book.run(using(&["192.0.2.1"], queued("east/default/a", claim())))
        .expect("adopted");
    assert_eq!(book.held("east/default/a"), "192.0.2.1");
    let at = for_addresses(&["192.0.2.2"]);
    book.run(using(&["192.0.2.2"], queued("east/default/b", at)))
        .expect("adopted");
    assert_eq!(book.held("east/default/b"), "192.0.2.2");
    // Somebody else has it already: it waits, and is not refused for good.
    book.run(using(&["192.0.2.1"], queued("east/default/c", claim())))
        .expect("queued");
    assert_eq!(book.held("east/default/c"), waits);
    // A claim that waits may still say what it uses.
    book.run(using(&["192.0.2.0"], queued(WEB, claim())))
        .expect("adopted");
    assert_eq!(book.held(WEB), "192.0.2.0");
    book.run(end("east")).expect("ended");
    assert_eq!(book.held("east/default/c"), waits, "west is still expected");
    book.run(begin("west", "", 0)).expect("begun");
    book.run(end("west")).expect("ended");
    assert_eq!(
        book.held("north/default/new"),
        "192.0.2.3",
        "in arrival order"
    );
    assert_eq!(book.held("east/default/at"), "192.0.2.6");
    assert_eq!(book.held("east/default/c"), "192.0.2.4");
}

/// Its stream is authoritative: its own nodes have stopped answering for whatever it did not report,
/// and a cluster that is still to report may be answering.
#[test]
fn a_cluster_that_has_reported_takes_nothing_that_another_may_be_using() {
    let mut book = recovering(&["east", "west"]);
    book.apply_pool(&pool("dual", &["198.51.100.0/29", "2001:db8::/125"]))
        .expect("applied");
    book.run(begin("east", "", 0)).expect("begun");
    let mut own = using(&["192.0.2.1"], queued(WEB, claim()));
    own.owner.uid = "one".to_owned();
    book.run(own.clone()).expect("adopted");
    let dual = Claim {
        families: Families::Both,
        ..claim()
    };
    let both = using(&["198.51.100.1"], queued("east/x/dual", dual.clone()));
    book.run(both.clone()).expect("queued");
    book.run(end("east")).expect("ended");

    let waits = "(RECOVERING)";
    let late = |owner, claim| using(&["192.0.2.2"], queued(owner, claim));
    let second = ["198.51.100.1", "2001:db8::1"];
    for late in [
        late("east/x/any", claim()),
        late("east/x/exactly", for_addresses(&["192.0.2.2"])),
        using(&second, both),
        // Of these the store has heard nothing, nor are they expected.
        late("north/x/any", claim()),
    ] {
        book.run(late.clone()).expect("queued");
        assert_eq!(book.held(&late.owner.key.to_string()), waits);
    }
    // What the store knows to be its own an owner keeps, whoever follows it.
    own.owner.uid = "two".to_owned();
    own.held = addresses(&["192.0.2.2"]);
    book.run(own).expect("granted");
    assert_eq!(book.held(WEB), "192.0.2.1");

    book.run(begin("west", "", 0)).expect("begun");
    for (owner, used) in [("west/x/a", ["192.0.2.2"]), ("west/x/b", ["2001:db8::1"])] {
        let any = Claim {
            families: Families::Any,
            ..claim()
        };
        book.run(using(&used, queued(owner, any))).expect("adopted");
        assert_eq!(book.held(owner), used[0]);
    }
}

/// A backup may be older than what its owners hold: one has moved since, and who got its former
/// address uses that.
#[test]
fn what_is_in_use_goes_before_what_an_older_store_has_on_record() {
    let incarnation = Allocate {
        owner: Owner {
            key: owner(WEB),
            uid: "two".to_owned(),
        },
        ..queued(WEB, claim())
    };
    for asking in [
        queued(WEB, claim()),
        queued(WEB, shared("key", 443)),
        incarnation,
    ] {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
        let before = Allocate {
            owner: Owner {
                key: owner(WEB),
                uid: "one".to_owned(),
            },
            ..allocate(WEB, claim())
        };
        book.run(before).expect("granted");
        let uid = match asking.owner.uid.as_str() {
            "" => "one".to_owned(),
            other => other.to_owned(),
        };
        book.lose_the_store();
        // Nobody's word is taken for it, but of a cluster that is still to report.
        let told = using(&["192.0.2.5"], asking);
        book.run(told).expect("taken back");
        assert_eq!(book.held(WEB), "192.0.2.5");
        assert_eq!(book.get(WEB).owner.uid, uid);
        book.run(using(&["192.0.2.0"], queued("east/default/next", claim())))
            .expect("taken back");
        assert_eq!(book.held("east/default/next"), "192.0.2.0");
    }
}

#[test]
fn what_is_on_record_stays_where_it_is_asked_for_or_what_is_in_use_cannot_be_had() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    book.take(WEB, claim());
    book.take("east/default/exactly", for_addresses(&["192.0.2.1"]));
    book.take("west/default/other", claim());
    book.lose_the_store();
    for (owner, claim, says, has) in [
        (WEB, claim(), "192.0.2.2", "192.0.2.0"),
        (WEB, claim(), "203.0.113.1", "192.0.2.0"),
        (
            "east/default/exactly",
            for_addresses(&["192.0.2.1"]),
            "192.0.2.5",
            "192.0.2.1",
        ),
    ] {
        let told = using(&[says], queued(owner, claim));
        assert_eq!(book.run(told), Ok(Vec::new()));
        assert_eq!(book.held(owner), has);
    }
    // Of a cluster that has reported the store knows what it holds.
    book.run(begin("east", "", 0)).expect("begun");
    book.run(end("east")).expect("ended");
    let late = using(&["192.0.2.5"], queued(WEB, claim()));
    assert_eq!(book.run(late), Ok(Vec::new()));
}

#[test]
fn what_is_held_may_change_while_others_are_awaited() {
    let mut book = recovering(&["west"]);
    book.run(begin("east", "", 0)).expect("begun");
    book.run(using(&["192.0.2.1"], allocate(WEB, claim())))
        .expect("adopted");
    assert_eq!(book.take(WEB, shared("key", 80)), "192.0.2.1");
    let dual = Claim {
        families: Families::Both,
        ..claim()
    };
    assert_eq!(book.queue(WEB, dual), "192.0.2.1 (RECOVERING)");
    book.run(release(WEB)).expect("released");
    assert_eq!(book.queue(WEB, claim()), "(RECOVERING)");
}

#[test]
fn a_cluster_that_will_never_report_can_be_deleted() {
    let mut book = recovering(&["west"]);
    assert_eq!(book.queue(WEB, claim()), "(RECOVERING)");
    book.run(Command::DeleteCluster {
        cluster: name("west"),
    })
    .expect("deleted");
    assert_eq!(book.held(WEB), "192.0.2.0");
}

fn finish(cluster: Option<&str>) -> Command {
    Command::FinishRecovery {
        cluster: cluster.map(name),
    }
}

#[test]
fn an_operator_ends_the_wait_for_one_cluster_or_for_all() {
    let mut book = recovering(&["east", "north", "west"]);
    assert_eq!(book.queue(WEB, claim()), "(RECOVERING)");
    assert_eq!(
        book.run(finish(Some("south"))),
        Err(Rejection::UnknownCluster(name("south")))
    );
    let changes = book.run(finish(Some("west"))).expect("finished");
    assert!(matches!(changes.as_slice(), [Change::Cluster(_)]));
    assert_eq!(book.run(finish(Some("west"))), Ok(Vec::new()));
    assert_eq!(book.held(WEB), "(RECOVERING)", "two are still expected");
    let changes = book.run(finish(None)).expect("finished");
    let clusters = |change: &&Change| matches!(change, Change::Cluster(_));
    assert_eq!(changes.iter().filter(clusters).count(), 2);
    assert!(!book.state.is_recovering());
    assert_eq!(book.held(WEB), "192.0.2.0");
    assert_eq!(book.run(finish(None)), Ok(Vec::new()));
}

#[test]
fn an_adapter_in_the_middle_of_its_report_is_not_told_that_it_never_began() {
    let mut book = recovering(&["east"]);
    book.run(begin("east", "", 0)).expect("begun");
    book.run(finish(Some("east"))).expect("finished");
    assert!(!book.state.is_recovering());
    book.run(end("east")).expect("its report is still its own");
    let inventory = book.state.cluster("east").map(|one| one.inventory);
    assert_eq!(inventory, Some(Inventory::Complete));
}

#[test]
fn another_installation_takes_a_cluster_over_by_adoption_and_the_old_one_is_turned_away() {
    let adopt = |uid: &str| Command::AdoptCluster {
        cluster: name("east"),
        uid: uid.to_owned(),
    };
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/29"])]);
    assert_eq!(
        book.run(adopt("two")),
        Err(Rejection::UnknownCluster(name("east")))
    );
    book.run(begin("east", "one", 7)).expect("registered");
    book.take(WEB, claim());
    book.run(begin("east", "two", 1)).expect_err("another");
    book.run(adopt("two")).expect("adopted");
    assert_eq!(book.run(adopt("two")), Ok(Vec::new()));
    book.run(begin("east", "two", 1))
        .expect("its own fences count");
    assert_eq!(book.held(WEB), "192.0.2.0", "and it has what was held");
    let mismatch = book.run(begin("east", "one", 8));
    assert!(matches!(
        mismatch,
        Err(Rejection::ClusterUidMismatch { .. })
    ));
    // Without a uid: whoever comes next.
    book.run(adopt("")).expect("adopted");
    book.run(begin("east", "three", 1)).expect("learnt");
}

#[test]
fn deleting_a_cluster_frees_and_forgets_all_that_is_its() {
    let mut book = Book::with_pools(&[pool("tiny", &["192.0.2.1/32"])]);
    let mut advertisement = crate::testing::advertisement("east/l2");
    advertisement.pools = [name("tiny")].into();
    let node = NodeKey {
        cluster: name("east"),
        node: name("n1"),
    };
    let commands = [
        Command::ApplyAdvertisement(Box::new(advertisement)),
        Command::Facts {
            cluster: name("east"),
            facts: vec![
                Fact::Node {
                    key: node.clone(),
                    reported: Some(ReportedNode {
                        labels: labels(&[]),
                        unavailable_reason: String::new(),
                    }),
                },
                Fact::Backends {
                    owner: owner(WEB),
                    entry: Some(crate::state::model::EntryNodes::Any),
                },
            ],
        },
    ];
    for command in commands {
        book.run(command).expect("applied");
    }
    book.sync_pools("east", &[pool("east/own", &["198.51.100.0/30"])])
        .expect("synced");
    book.take(WEB, from_pool("tiny"));
    book.queue("east/default/waits", from_pool("missing"));
    book.queue("west/default/web", claim());
    let before = book.state.revision();
    let changes = book
        .run(Command::DeleteCluster {
            cluster: name("east"),
        })
        .expect("deleted");
    let decisions = changes.iter().filter(|change| change.is_decision()).count();
    assert_eq!(
        changes.len() - decisions,
        2,
        "one node, one owner's backends"
    );
    assert_eq!(book.state.revision(), before + decisions as AllocationId);
    assert!(book.state.cluster("east").is_none());
    assert_eq!(book.state.allocations_of("east").count(), 0);
    assert_eq!(book.state.nodes_of(&name("east")).count(), 0);
    assert_eq!(book.state.backends_of(&name("east")).count(), 0);
    assert_eq!(book.state.pools().count(), 1);
    assert_eq!(book.state.advertisements().count(), 0);
    assert_eq!(book.held("west/default/web"), "192.0.2.1");
    assert_eq!(
        book.run(Command::DeleteCluster {
            cluster: name("east"),
        }),
        Err(Rejection::UnknownCluster(name("east")))
    );
}

/// What an owner holds is its own, whatever else is not known yet.
#[test]
fn while_a_store_recovers_a_sharer_that_is_left_alone_gets_its_newest_claim() {
    let mut book = recovering(&["west"]);
    book.run(begin("east", "", 0)).expect("begun");
    for (owner, port) in [("east/x/a", 80), ("east/x/b", 81)] {
        let command = using(&["192.0.2.1"], queued(owner, shared("key", port)));
        book.run(command).expect("adopted");
    }
    assert_eq!(book.queue("east/x/a", claim()), "192.0.2.1 (RECOVERING)");
    book.run(release("east/x/b")).expect("released");
    assert_eq!(book.held("east/x/a"), "192.0.2.1");
}

/// Nobody who waits comes before who uses an address, however many wait and are marked: only so many
/// marks are looked at, and more of them count as somebody who comes first.
#[test]
fn what_is_in_use_is_taken_back_whoever_waits() {
    let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/24"])]);
    book.run(Command::ApplyQuota(Box::new(quota("none", "west", 0))))
        .expect("a good quota");
    for number in 0..300 {
        book.queue(&format!("west/default/{number}"), claim());
    }
    book.expect_inventory_of("east");
    for (owner, claim) in [
        ("east/default/any", claim()),
        ("east/default/exactly", for_addresses(&["192.0.2.8"])),
    ] {
        let mut asking = allocate(owner, claim);
        asking.held = addresses(&["192.0.2.7", "192.0.2.8"]);
        let decided = decide(&book.state, &asking.into(), Timestamp(1)).expect("granted");
        assert!(
            decided.iter().any(|change| change.allocation().is_some()),
            "{decided:?}"
        );
    }
}
