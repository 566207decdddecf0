use std::time::Instant;

use super::*;
use crate::election::Claim;
use crate::handover::Action;
use crate::members::wire::{Body, Greeting};
use crate::talk::tests;

const GROUP: GroupId = GroupId(7);

fn talk(index: u8, addresses: u64, now: Instant) -> Talk {
    let mut talk = tests::talk(index, now);
    talk.ownership
        .set_group(tests::candidacy(GROUP, addresses), now);
    talk
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn who_knows_other_addresses_of_a_group_acks_nothing_unless_an_earlier_build_asks() {
    let now = Instant::now();
    for (of_owner, of_heir, is_told, acks) in [
        (5, 5, true, true),
        (5, 6, true, false),
        // An earlier build says nothing of it.
        (5, 6, false, true),
    ] {
        let (mut owner, mut heir) = (talk(1, of_owner, now), talk(2, of_heir, now));
        for (one, other) in [
            (&mut owner, heir.me().clone()),
            (&mut heir, talk(1, 0, now).me().clone()),
        ] {
            let from = (&other).into();
            let hello = Greeting {
                from,
                dead_epoch: 0,
            };
            one.receive(Body::Hello(hello), now, now);
            one.take_unsent();
        }
        owner.step("n2".into(), GROUP, Message::Prepare(Claim(1)));
        assert!(owner.pack_steps(now));
        for (_, datagram) in owner.take_unsent() {
            let mut body = datagram.body.expect("a body");
            if let Body::Handover(handover) = &mut body
                && !is_told
            {
                handover.steps[0].addresses = None;
            }
            heir.receive(body, now, now);
        }
        let effects = heir.ownership.take_effects();
        let ack = Action::Send("n1".into(), Message::Ack(Claim(1)));
        let has_acked = effects.iter().any(|effect| effect.action == ack);
        assert_eq!(has_acked, acks, "{of_owner} and {of_heir}, told: {is_told}");
    }
}
