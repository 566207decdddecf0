//! Nodes whose streams are apart, so that they know different addresses of a group.

use super::*;
use crate::handover::ACK_TIMEOUT;

fn with(addresses: u64) -> Candidacy {
    Candidacy {
        addresses,
        ..candidacy(&[0, 1, 2])
    }
}

#[test]
fn only_who_must_go_and_found_nobody_hands_over_to_who_knows_other_addresses() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let owner = &mut world.nodes[0].ownership;
    owner.set_group(with(5), now);
    assert_eq!(owner.told_addresses(GROUP), Some(5));
    let draining = Condition {
        draining: true,
        ..condition()
    };
    owner.set_own(draining, now);
    assert_eq!(owner.told_addresses(GROUP), Some(5));
    // Both others are asked in vain.
    owner.tick(now + ACK_TIMEOUT);
    assert_eq!(owner.told_addresses(GROUP), Some(5));
    owner.tick(now + 2 * ACK_TIMEOUT);
    assert_eq!(owner.told_addresses(GROUP), None);
    owner.set_own(condition(), now + 2 * ACK_TIMEOUT);
    assert_eq!(owner.told_addresses(GROUP), Some(5), "it need not go");
    let other = &mut world.nodes[1].ownership;
    assert!(other.has_others(GROUP, 5));
    other.set_group(with(5), now);
    assert!(!other.has_others(GROUP, 5));
}

#[test]
fn who_hands_over_what_gets_other_addresses_asks_anew() {
    let mut world = World::new(1, 0.0);
    world.run(400);
    let now = world.now;
    let owner = &mut world.nodes[0].ownership;
    let draining = Condition {
        draining: true,
        ..condition()
    };
    owner.set_own(draining, now);
    owner.take_effects();
    owner.set_group(with(5), now);
    // An ack that is under way is none for these.
    owner.hear(GROUP, name(1), Message::Ack(Claim(1)), now);
    let effects = owner.take_effects();
    let prepares = Action::Send(name(1), Message::Prepare(Claim(2)));
    assert_eq!(effects.last().map(|effect| &effect.action), Some(&prepares));
}
