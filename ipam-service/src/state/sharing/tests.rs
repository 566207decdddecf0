use proptest::prelude::*;

use super::*;
use crate::state::model::Protocol;

fn port(number: u16) -> Port {
    Port {
        protocol: Protocol::Tcp,
        number,
    }
}

fn address(low: u128) -> Address {
    Address::from_bits(0xffff_0a00_0000 + low)
}

#[derive(Debug, Clone)]
enum Edit {
    Enter(u128),
    Leave(u128),
    Use(u128, u16),
    Free(u128, u16),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => (0_u128..24).prop_map(Edit::Enter),
        1 => (0_u128..24).prop_map(Edit::Leave),
        5 => (0_u128..24, 1_u16..4).prop_map(|(low, port)| Edit::Use(low, port)),
        2 => (0_u128..24, 1_u16..4).prop_map(|(low, port)| Edit::Free(low, port)),
    ];
    proptest::collection::vec(edit, 1..120)
}

proptest! {
    /// Runs of every port are maximal, and the search finds what a scan of all addresses finds.
    #[test]
    fn the_lowest_address_that_accepts_the_ports_is_what_a_scan_finds(
        edits in edits(),
        asked in proptest::collection::btree_set(1_u16..4, 0..4),
        window in (0_u128..24, 0_u128..24),
    ) {
        let mut group = ShareGroup::default();
        let mut plain: BTreeMap<u128, BTreeSet<u16>> = BTreeMap::new();
        for edit in edits {
            match edit {
                Edit::Enter(low) => {
                    plain.entry(low).or_default();
                    group.add_address(address(low));
                }
                Edit::Leave(low) => {
                    for number in plain.remove(&low).into_iter().flatten() {
                        group.free_port(address(low), port(number));
                    }
                    group.remove_address(address(low));
                }
                Edit::Use(low, number) => {
                    if plain.get_mut(&low).is_some_and(|ports| ports.insert(number)) {
                        group.use_port(address(low), port(number));
                    }
                }
                Edit::Free(low, number) => {
                    if plain.get_mut(&low).is_some_and(|ports| ports.remove(&number)) {
                        group.free_port(address(low), port(number));
                    }
                }
            }
            for (used, runs) in &group.used {
                let covered: Vec<Address> = group
                    .addresses
                    .iter()
                    .filter(|at| runs.iter().any(|(first, last)| first <= *at && *at <= last))
                    .copied()
                    .collect();
                let expected: Vec<Address> = plain
                    .iter()
                    .filter(|(_, ports)| ports.contains(&used.number))
                    .map(|(low, _)| address(*low))
                    .collect();
                prop_assert_eq!(covered, expected);
                let touching = runs.values().any(|last| {
                    group.after(*last).is_some_and(|next| runs.contains_key(&next))
                });
                prop_assert!(!touching, "{runs:?}");
            }
        }
        let (low, high) = (window.0.min(window.1), window.0.max(window.1));
        let ports: Vec<Port> = asked.iter().map(|number| port(*number)).collect();
        let expected = plain
            .range(low..=high)
            .find(|(_, used)| used.is_disjoint(&asked))
            .map(|(low, _)| address(*low));
        prop_assert_eq!(group.lowest(&ports, address(low), address(high)), expected);
    }
}

mod scenarios {
    use crate::state::model::{Claim, Families};
    use crate::state::refusal::Reason;
    use crate::state::testing::*;

    const A: &str = "east/default/a";
    const B: &str = "east/other/b";
    const C: &str = "east/default/c";

    fn book() -> Book {
        Book::with_pools(&[pool("p", &["192.0.2.0/29", "2001:db8::/125"])])
    }

    fn at(text: &str, claim: Claim) -> Claim {
        Claim {
            addresses: addresses(&[text]),
            ..claim
        }
    }

    #[test]
    fn owners_of_a_cluster_share_under_equal_keys_and_different_ports() {
        let mut book = book();
        assert_eq!(book.take(A, shared("key", 80)), "192.0.2.0");
        assert_eq!(book.take(B, shared("key", 443)), "192.0.2.0");
        assert_eq!(
            book.take(C, shared("key", 80)),
            "192.0.2.1",
            "the port is in use"
        );
        let udp = Claim {
            ports: vec![super::Port {
                protocol: super::Protocol::Udp,
                number: 80,
            }],
            ..shared("key", 1)
        };
        assert_eq!(book.take("east/default/udp", udp), "192.0.2.0");
        assert_eq!(
            book.state.holders(&space(), address("192.0.2.0")).count(),
            3
        );
    }

    #[test]
    fn who_may_not_share_and_what_it_is_told() {
        let local = |claim: Claim| Claim {
            backend_key: "app=web".to_owned(),
            ..claim
        };
        let mut book = book();
        book.take(A, shared("key", 80));
        let on_a = "address 192.0.2.0 of pool \"p\" is held by";
        let other_key = "can't change sharing key for \"east/other/b\", address also in use by \
                         east/default/a (192.0.2.0)";
        let cases = [
            (
                B,
                claim(),
                Reason::AddressTaken,
                format!("{on_a} east/default/a"),
            ),
            (
                B,
                shared("other", 81),
                Reason::SharingMismatch,
                other_key.to_owned(),
            ),
            (
                B,
                local(shared("key", 81)),
                Reason::SharingMismatch,
                other_key.to_owned(),
            ),
            (
                B,
                shared("key", 80),
                Reason::PortInUse,
                "port TCP/80 is already in use on \"192.0.2.0\" by east/default/a".to_owned(),
            ),
            (
                "west/default/a",
                shared("key", 81),
                Reason::AddressTaken,
                format!("{on_a} cluster east"),
            ),
        ];
        for (owner, claim, reason, message) in cases {
            let refusal = book.refused(owner, at("192.0.2.0", claim));
            assert_eq!((refusal.reason, refusal.message), (reason, message));
        }
    }

    #[test]
    fn a_lower_free_address_is_preferred_to_a_higher_shared_one() {
        let mut book = book();
        book.take(C, claim());
        book.take(A, shared("key", 80));
        book.run(release(C)).expect("released");
        assert_eq!(book.take(B, shared("key", 81)), "192.0.2.0");
        // Now both are shared: the lower one again.
        assert_eq!(book.take(C, shared("key", 82)), "192.0.2.0");
    }

    #[test]
    fn a_sole_owner_may_change_its_key_freely() {
        let mut book = book();
        book.take(A, shared("key", 80));
        assert_eq!(book.take(A, shared("new", 80)), "192.0.2.0");
        assert_eq!(book.take(A, claim()), "192.0.2.0");
        assert_eq!(book.take(B, shared("key", 81)), "192.0.2.1");
    }

    #[test]
    fn who_shares_cannot_change_its_key_in_place() {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
        book.take(A, shared("key", 80));
        book.take(B, shared("key", 81));
        let in_place = "can't change sharing key for \"east/other/b\", address also in use by \
                        east/default/a (192.0.2.0)";
        for changed in [
            shared("new", 81),
            Claim {
                ports: vec![tcp(81)],
                ..claim()
            },
        ] {
            let refusal = book.refused(B, at("192.0.2.0", changed.clone()));
            assert_eq!(
                (refusal.reason, refusal.message.as_str()),
                (Reason::SharingMismatch, in_place)
            );
            // Nowhere else to go: the refusal says both.
            let refusal = book.refused(B, changed);
            assert_eq!(refusal.reason, Reason::NoFreeAddress);
            assert_eq!(refusal.attempts[0].message, in_place);
            assert!(refusal.message.starts_with(in_place));
        }
        let refusal = book.refused(B, shared("key", 80));
        assert!(
            refusal
                .message
                .starts_with("port TCP/80 is already in use on \"192.0.2.0\"")
        );
        // Where there is room it moves.
        book.apply_pool(&pool("p", &["192.0.2.0/31"]))
            .expect("applied");
        assert_eq!(book.take(B, shared("new", 81)), "192.0.2.1");
    }

    #[test]
    fn a_stale_sharer_holds_under_the_claim_that_the_others_agreed_to() {
        let mut book = Book::with_pools(&[pool("p", &["192.0.2.0/32"])]);
        book.take(A, shared("key", 80));
        book.take(B, shared("key", 81));
        assert_eq!(
            book.queue(B, shared("new", 82)),
            "192.0.2.0 (NO_FREE_ADDRESS)"
        );
        assert_eq!(book.take(C, shared("key", 82)), "192.0.2.0");
        assert_eq!(
            book.refused("east/default/d", shared("key", 81)).reason,
            Reason::NoFreeAddress
        );
        book.run(release(A)).expect("released");
        book.run(release(C)).expect("released");
        assert_eq!(book.held(B), "192.0.2.0", "alone, it may change its key");
        assert_eq!(book.get(B).effective_claim(), &shared("new", 82));
    }

    #[test]
    fn two_families_are_shared_address_by_address() {
        let mut book = book();
        let both = |key: &str, port| Claim {
            families: Families::Both,
            ..shared(key, port)
        };
        book.take(A, both("key", 80));
        assert_eq!(book.take(B, both("key", 81)), "192.0.2.0 2001:db8::");
        assert_eq!(book.take(C, both("key", 81)), "192.0.2.1 2001:db8::1");
        let usage = book.state.pool_usage(&pool_key("p")).expect("a pool");
        assert_eq!((usage.v4.held, usage.v6.held), (2, 2));
    }
}
