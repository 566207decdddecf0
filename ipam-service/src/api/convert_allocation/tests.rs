//! What is stored of an allocation reads back as it was.

use proptest::prelude::*;

use super::*;
use crate::state::command::Command;
use crate::state::{State, decide};
use crate::testing::{allocate, apply_pool, apply_pool_in, release};

/// As the store keeps it and reads it back.
fn stored(allocation: &Allocation) -> Allocation {
    let pool = allocation.pool.as_ref();
    let extras = AllocationExtras {
        pool_cluster: pool
            .and_then(|pool| pool.cluster.as_ref())
            .map_or_else(String::new, |cluster| cluster.as_str().to_owned()),
        held_claim: match &allocation.standing {
            Standing::Stale { held_claim, .. } => Some(claim_to_wire(held_claim)),
            Standing::Assigned | Standing::Pending(_) => None,
        },
    };
    allocation_from_wire(&allocation_to_wire(allocation), &extras).expect("it reads back")
}

/// Decides commands one after the other; what is refused changes nothing.
fn state_after(commands: &[Command]) -> State {
    let mut state = State::new();
    for (time, command) in (1..).zip(commands) {
        let mut next = Some(command.clone());
        while let Some(command) = next {
            for change in decide(&state, &command, Timestamp(time)).unwrap_or_default() {
                state.apply(&change);
            }
            next = state.follow_up();
        }
    }
    state
}

fn assert_reads_back(state: &State) {
    for allocation in state.allocations() {
        assert_eq!(stored(allocation), **allocation);
    }
}

fn queue(wire: &mut v1::AllocateRequest) {
    wire.if_refused = v1::allocate_request::IfRefused::Queue.into();
}

#[test]
fn what_is_held_in_one_space_while_another_is_asked_for_stays_in_its_space() {
    let state = state_after(&[
        apply_pool("p", &["192.0.2.1/32"]),
        allocate("east/x/a", |_| {}),
        allocate("east/x/a", |wire| {
            wire.address_space = "other".to_owned();
            queue(wire);
        }),
    ]);
    let held = state.allocations().next().expect("it is held");
    assert!(matches!(held.standing, Standing::Stale { .. }), "{held:?}");
    assert_reads_back(&state);
}

#[test]
fn addresses_of_two_pools_keep_their_pools() {
    let both = |wire: &mut v1::AllocateRequest| {
        wire.families = vec![1, 2];
        wire.dual_stack_pools = v1::claim::DualStackPools::AnyPools.into();
    };
    let state = state_after(&[
        apply_pool("four", &["192.0.2.1/32"]),
        apply_pool("six", &["2001:db8::1/128"]),
        allocate("east/x/a", both),
    ]);
    let held = state.allocations().next().expect("it is held");
    let wire = allocation_to_wire(held);
    let pools: Vec<&str> = wire.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!((wire.pool.as_str(), pools), ("four", vec!["four", "six"]));
    assert_reads_back(&state);
    // What an earlier version has stored names the first pool only.
    let mut old = wire;
    old.pools.clear();
    old.addresses.truncate(1);
    let read = allocation_from_wire(&old, &AllocationExtras::default()).expect("it reads back");
    assert_eq!(
        (read.pool.as_ref(), read.second_pool),
        (held.pool.as_ref(), None)
    );
}

/// An operator's pool may be named so that it reads like the pool of a cluster.
#[test]
fn a_refusal_by_a_pool_of_any_name_reads_back() {
    for pool in ["east/", "east/p", "/", "p"] {
        let state = state_after(&[
            apply_pool(pool, &["192.0.2.1/32"]),
            allocate("east/x/a", |_| {}),
            allocate("east/x/b", queue),
        ]);
        assert_eq!(state.allocations().count(), 2);
        assert_reads_back(&state);
    }
}

fn commands() -> impl Strategy<Value = Command> {
    let owner = (0..2_u8, 0..4_u8).prop_map(|(cluster, name)| format!("c{cluster}/ns/svc{name}"));
    let space = prop_oneof![3 => Just(""), 1 => Just("other")];
    let ask = (owner.clone(), space.clone(), 0..3_u32, 0..3_u8, 0..9_u8);
    prop_oneof![
        6 => ask.prop_map(|(owner, space, port, key, pick)| allocate(&owner, |wire| {
            space.clone_into(&mut wire.address_space);
            wire.ports[0].port = 80 + port;
            queue(wire);
            if key > 0 {
                wire.sharing_key = format!("key {key}");
            }
            match pick {
                0..=2 => wire.addresses = vec![format!("192.0.2.{pick}")],
                3 => {
                    wire.families = vec![1, 2];
                    wire.dual_stack_pools = i32::from(wire.sharing_key.is_empty()) + 1;
                }
                4 => {
                    wire.families = vec![2, 1];
                    wire.family_policy = v1::claim::FamilyPolicy::PreferDualStack.into();
                }
                5 => wire.addresses = vec!["2001:db8::1".to_owned(), "192.0.2.1".to_owned()],
                6 => wire.pool = "c0/p".to_owned(),
                _ => {}
            }
        })),
        2 => owner.prop_map(|owner| release(&owner)),
        1 => (0..3_u8, space).prop_map(|(last, space)| {
            apply_pool_in(space, "c0/p", &[&format!("192.0.2.0-192.0.2.{last}"), "2001:db8::/127"])
        }),
        1 => Just(apply_pool_in("", "c0/p", &["192.0.2.0/30"])),
        1 => Just(apply_pool_in("", "six", &["2001:db8:6::/127"])),
    ]
}

proptest! {
    #[test]
    fn whatever_is_decided_reads_back(commands in proptest::collection::vec(commands(), 1..40)) {
        assert_reads_back(&state_after(&commands));
    }
}
