//! What the rules decide, written in batches and read back.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::{AllocationFilter, Batch, ChangeFilter, Logged, Origin, Store, check};
use crate::state::address::Address;
use crate::state::bgp::model::{BfdProfile, BgpCommand, BgpKey};
use crate::state::change::{Change, Edit};
use crate::state::command::Command;
use crate::state::model::{LeaseOwner, Placement, Tenure, TenureKey, Timestamp};
use crate::state::names::Name;
use crate::state::{State, decide};
use crate::store::{LogSpan, OwnerFilter};
use crate::testing::{
    Folder, allocate, apply_grants, apply_pool, apply_quota, apply_reservation, bgp_peer,
    delete_reservation, release, resting_pool,
};
use pharos_lease::Term;

/// A state and its store, driven without an engine.
struct Book {
    state: State,
    store: Store,
    batch: Batch,
    time: i64,
}

impl Book {
    async fn open(folder: &Folder) -> Self {
        let mut store = folder.open().await;
        let loaded = store.writer.load().await.expect("readable");
        // 0 means that nobody knows when: nothing happens then.
        let time = loaded.last_time.0.max(1);
        Self {
            state: State::restore(loaded.revision, loaded.rows),
            store,
            batch: Batch {
                time: Timestamp(time),
                ..Batch::default()
            },
            time,
        }
    }

    /// Decides a command and what follows; what is refused changes nothing.
    fn run(&mut self, command: &Command) {
        let mut next = Some(command.clone());
        while let Some(command) = next {
            for change in decide(&self.state, &command, Timestamp(self.time)).unwrap_or_default() {
                self.state.apply(&change);
                self.batch.changes.push(Logged {
                    revision: change.is_decision().then(|| self.state.revision()),
                    change,
                    origin: Arc::new(Origin::default()),
                });
            }
            next = self.state.follow_up();
        }
    }

    async fn commit(&mut self) {
        self.time += 10;
        let batch = std::mem::take(&mut self.batch);
        self.store.writer.commit(&batch).await.expect("committed");
        self.batch.time = Timestamp(self.time);
    }
}

fn bgp_key(which: u8) -> BgpKey {
    bgp_peer(&format!("peer{which}"), |_| {}).key
}

/// Few owners and addresses, so that they meet.
fn commands() -> impl Strategy<Value = Command> {
    let owner = (0..2_u8, 0..5_u8).prop_map(|(cluster, name)| format!("c{cluster}/ns/svc{name}"));
    let claim = (owner.clone(), 0..4_u16, 0..3_u8, any::<bool>(), 0..8_u8);
    prop_oneof![
        6 => claim.prop_map(|(owner, port, key, queue, pick)| allocate(&owner, |wire| {
            wire.ports[0].port = 80 + u32::from(port);
            if key > 0 {
                wire.sharing_key = format!("key {key} \" \\ ü");
            }
            if queue {
                wire.if_refused = pharos_proto::v1::allocate_request::IfRefused::Queue.into();
            }
            match pick {
                0..=3 => wire.addresses = vec![format!("192.0.2.{pick}")],
                4 => wire.families = vec![1, 2],
                _ => {}
            }
        })),
        3 => owner.prop_map(|owner| release(&owner)),
        1 => (0..3_u8, 0..2_u8, 0..4_u32).prop_map(|(which, cluster, limit)| {
            apply_quota(&format!("q{which}"), |wire| {
                wire.cluster = format!("c{cluster}");
                wire.each_namespace = which == 1;
                wire.pool = if which == 2 { "pool".to_owned() } else { String::new() };
                wire.limit = Some(limit);
            })
        }),
        1 => (0..3_u8).prop_map(|which| {
            Command::DeleteQuota(Name::parse(&format!("q{which}")).expect("a name"))
        }),
        1 => (1..6_u8).prop_map(|last| {
            apply_pool("pool", &[&format!("192.0.2.0-192.0.2.{last}"), "2001:db8::/126"])
        }),
        1 => (1..6_u8).prop_map(|last| {
            // Its addresses rest for a second.
            resting_pool("pool", &[&format!("192.0.2.0-192.0.2.{last}"), "2001:db8::/126"])
        }),
        2 => (0..3_u8, 0..3_u8, 0..4_u8, 0..3_u8).prop_map(|(name, of, first, cluster)| {
            let range = format!("192.0.2.{first}-192.0.2.{}", first + of);
            let cluster = format!("c{cluster}");
            let cluster = (cluster != "c2").then_some(cluster.as_str());
            apply_reservation(&format!("r{name}"), &[&range], cluster)
        }),
        1 => (0..3_u8).prop_map(|name| delete_reservation(&format!("r{name}"))),
        1 => (0..4_u8, any::<bool>()).prop_map(|(first, all)| {
            let range = format!("192.0.2.{first}-192.0.2.9");
            let own: &[&str] = &[&range, "2001:db8::/64"];
            let grants = [("c0", own), ("c1", &["192.0.2.0/24"])];
            apply_grants(if all { &grants } else { &grants[..1] })
        }),
        2 => (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(which, password, keep)| {
            let peer = bgp_peer(&format!("peer{which}"), |wire| {
                if password > 0 {
                    wire.password = format!("secret {password}");
                }
                wire.bfd_profile = "fast".to_owned();
                wire.hold_time = Some(prost_types::Duration { seconds: 9, nanos: 0 });
                wire.password_revision = u64::from(keep);
            });
            Command::Bgp(BgpCommand::ApplyPeer(Box::new(peer)))
        }),
        1 => (0..3_u8).prop_map(|which| Command::Bgp(BgpCommand::DeletePeer(bgp_key(which)))),
        1 => (0..3_u8, 10..13_u64).prop_map(|(which, millis)| {
            Command::Bgp(BgpCommand::ApplyProfile(BfdProfile {
                key: bgp_key(which),
                receive_interval: Some(std::time::Duration::from_millis(millis)),
                transmit_interval: None,
                detect_multiplier: Some(255),
                passive_mode: true,
                minimum_ttl: None,
                revision: 0,
            }))
        }),
        1 => (0..3_u8).prop_map(|which| Command::Bgp(BgpCommand::DeleteProfile(bgp_key(which)))),
        1 => Just(Command::DeleteAddressSpace {
            name: Name::parse("default").expect("a name"),
            if_revision: None,
        }),
    ]
}

proptest! {
    // Each case opens two databases and syncs some twenty times.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_restart_finds_what_was_decided(
        batches in proptest::collection::vec(proptest::collection::vec(commands(), 1..12), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let folder = Folder::new();
            let mut book = Book::open(&folder).await;
            book.run(&apply_pool("pool", &["192.0.2.0-192.0.2.3", "2001:db8::/126"]));
            for batch in &batches {
                for command in batch {
                    book.run(command);
                }
                book.commit().await;
            }
            let Book { state, store, .. } = book;
            let span = store.reader.log_span().await.expect("readable");
            let revision = state.revision();
            assert_eq!(span, LogSpan { oldest: 1, revision });
            let everything = store.reader.changes(&ChangeFilter::default(), None, 1000).await;
            let revisions: Vec<u64> =
                everything.expect("readable").items.iter().map(|change| change.revision).collect();
            let expected: Vec<u64> = (1..=revision).rev().take(1000).collect();
            assert_eq!(revisions, expected);
            let listed = store.reader.allocations(&AllocationFilter::default(), None, 1000).await;
            let listed: Vec<u64> = listed.expect("readable").items.iter().map(|it| it.id).collect();
            let held: Vec<u64> = state.allocations().map(|it| it.id).collect();
            assert_eq!(listed, held);
            drop(store);
            assert_eq!(check(&folder.location()).await.expect("checked"), Vec::<String>::new());

            let again = Book::open(&folder).await;
            assert_eq!(again.state.revision(), revision);
            assert!(again.state.allocations().eq(state.allocations()), "allocations");
            assert!(again.state.pools().eq(state.pools()), "pools");
            assert!(again.state.clusters().eq(state.clusters()), "clusters");
            assert!(again.state.all_unavailable().eq(state.all_unavailable()), "unavailable");
            assert!(again.state.reservations().eq(state.reservations()), "reservations");
            assert_eq!(again.state.bgp(), state.bgp());
            assert!(again.state.quotas().eq(state.quotas()), "quotas");
            assert!(again.state.address_spaces().eq(state.address_spaces()), "address spaces");
            for quota in state.quotas() {
                assert_eq!(again.state.quota_usage(quota), state.quota_usage(quota));
            }
        });
    }
}

#[tokio::test]
async fn an_entry_without_content_reads_back_as_it_was_written() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    let nowhere = Change::Placement(Edit {
        before: None,
        after: Some(Arc::new(Placement {
            group: 7,
            cluster: Name::parse("east").expect("a name"),
            nodes: Vec::new(),
            announced: [].into(),
        })),
    });
    book.batch.changes.push(Logged {
        revision: None,
        change: nowhere.clone(),
        origin: Arc::new(Origin::default()),
    });
    book.commit().await;
    let rows = book.store.writer.load().await.expect("readable").rows;
    assert_eq!(format!("{rows:?}"), format!("{:?}", [nowhere]));
}

#[tokio::test]
async fn who_owns_a_fenced_address_is_kept_and_goes() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    let name = |text| Name::parse(text).expect("a name");
    let tenure = |term, epoch| {
        Arc::new(Tenure {
            key: TenureKey {
                cluster: name("east"),
                space: name("default"),
                address: Address::from(std::net::IpAddr::from([192, 0, 2, 1])),
            },
            owner: LeaseOwner {
                node: name("a"),
                term: Term(term),
            },
            epoch,
        })
    };
    let first = tenure(1, 1);
    // The greatest term that there is.
    let last = tenure(u64::MAX >> 1, 2);
    let edits = [
        (None, Some(&first)),
        (Some(&first), Some(&last)),
        (Some(&last), None),
    ];
    for (before, after) in edits {
        let edit = Edit {
            before: before.cloned(),
            after: after.cloned(),
        };
        book.batch.changes.push(Logged {
            revision: None,
            change: Change::Tenure(edit),
            origin: Arc::new(Origin::default()),
        });
        book.commit().await;
        let rows = book.store.writer.load().await.expect("readable").rows;
        let expected = after.map(|after| {
            Change::Tenure(Edit {
                before: None,
                after: Some(Arc::clone(after)),
            })
        });
        assert_eq!(rows, Vec::from_iter(expected));
    }
}

#[tokio::test]
async fn history_is_found_by_address_owner_and_time() {
    let folder = Folder::new();
    let mut book = Book::open(&folder).await;
    book.run(&apply_pool("pool", &["192.0.2.1-192.0.2.9"]));
    book.commit().await;
    book.run(&allocate("east/default/web", |_| {}));
    book.run(&allocate("east/default/api", |_| {}));
    book.commit().await;
    let before_release = book.time;
    book.commit().await;
    book.run(&release("east/default/web"));
    book.commit().await;
    let reader = &book.store.reader;
    let kinds = |filter: ChangeFilter| async move {
        let page = reader.changes(&filter, None, 10).await.expect("readable");
        page.items
            .iter()
            .map(|change| change.r#type().as_str_name().to_owned())
            .collect::<Vec<_>>()
    };
    let web = book.state.allocations().next().expect("api").addresses[0];
    let first = crate::state::address::Address::from_bits(web.bits() - 1);
    let of_web = ChangeFilter {
        address: Some(("default".to_owned(), first)),
        ..ChangeFilter::default()
    };
    assert_eq!(kinds(of_web.clone()).await, ["DELETED", "CREATED"]);
    let early = ChangeFilter {
        end: Some(Timestamp(before_release)),
        ..of_web.clone()
    };
    assert_eq!(kinds(early).await, ["CREATED"]);
    let late = ChangeFilter {
        start: Some(Timestamp(before_release)),
        ..of_web
    };
    assert_eq!(kinds(late).await, ["DELETED"]);
    let of_owner = ChangeFilter {
        owner: Some(OwnerFilter {
            cluster: "east".to_owned(),
            namespace: Some("default".to_owned()),
            name: Some("api".to_owned()),
        }),
        ..ChangeFilter::default()
    };
    assert_eq!(kinds(of_owner).await, ["CREATED"]);
    let nobody = ChangeFilter {
        start: Some(Timestamp(i64::MAX)),
        ..ChangeFilter::default()
    };
    assert_eq!(kinds(nobody).await, Vec::<String>::new());
}
