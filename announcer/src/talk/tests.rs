use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::election::{Candidacy, Families, Wanted};
use crate::handover::{Action, Gained};
use crate::l2::hold::Report;

const GROUP: GroupId = GroupId(7);

fn talk(index: u8, now: Instant) -> Talk {
    let condition = Condition {
        ready: true,
        hold_down: false,
        draining: false,
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        interfaces6: BTreeSet::new(),
        macs: BTreeSet::new(),
    };
    let me = Peer {
        node: format!("n{index}").as_str().into(),
        endpoint: SocketAddr::from(([10, 0, 0, index], 7946)),
        epoch: 1,
    };
    Talk::new(me, condition, u64::from(index), now)
}

/// Two nodes that know of each other all that there is to know.
fn two(now: Instant) -> (Talk, Talk) {
    let (mut one, mut other) = (talk(1, now), talk(2, now));
    let hello = Greeting {
        from: one.me().into(),
        dead_epoch: 0,
    };
    other.receive(Body::Hello(hello), now, now);
    for _ in 0..4 {
        carry(&mut other, &mut one, now);
        carry(&mut one, &mut other, now);
    }
    (one, other)
}

fn carry(from: &mut Talk, to: &mut Talk, now: Instant) {
    for (_, datagram) in from.take_unsent() {
        to.receive(datagram.body.expect("a body"), now, now);
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn who_is_busy_for_seconds_is_not_taken_for_dead() {
    let mut now = Instant::now();
    let (mut idle, mut busy) = two(now);
    let mut followed_later = Vec::new();
    for _ in 0..300 {
        now += Duration::from_millis(10);
        idle.tick(now);
        for (_, datagram) in idle.take_unsent() {
            let mut heard = busy.hear(datagram.body.expect("a body"), now, now);
            for (_, answer) in heard.take_answers() {
                idle.receive(answer.body.expect("a body"), now, now);
            }
            followed_later.push(heard);
        }
        // Nothing is said in the middle of what it is busy with.
        assert!(busy.take_unsent().is_empty());
        assert!(idle.ownership.roster().lives("n2"), "at {now:?}");
    }
    for heard in followed_later {
        busy.follow(heard, now);
    }
    assert!(busy.ownership.roster().lives("n1"));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn the_last_words_of_a_node_that_leaves_are_followed_before_its_end() {
    let now = Instant::now();
    let (mut leaving, mut heir) = two(now);
    let nodes: Vec<NodeName> = ["n1", "n2"].map(NodeName::from).to_vec();
    let candidacy = Candidacy {
        id: GROUP,
        listed: nodes.clone(),
        candidates: nodes.into(),
        wanted: Wanted::Any.into(),
        families: Families::Ipv4,
        addresses: 0,
    };
    heir.ownership.set_group(candidacy, now);
    let prepare = Message::Prepare(Claim(1));
    heir.ownership.hear(GROUP, "n1".into(), prepare, now);
    heir.ownership.take_effects();
    leaving.step("n2".into(), GROUP, Message::Go(Claim(2), Report::default()));
    assert!(leaving.pack_steps(now));
    leaving.leave(now);
    // All of it is heard while the heir is busy.
    let datagrams = leaving.take_unsent().into_iter();
    let heard = datagrams.map(|(_, one)| heir.hear(one.body.expect("a body"), now, now));
    for heard in heard.collect::<Vec<_>>() {
        heir.follow(heard, now);
    }
    assert!(!heir.ownership.roster().lives("n1"));
    let effects = heir.ownership.take_effects();
    let claim = Action::Claim(Claim(2), Gained::HandedOver("n1".into()));
    assert!(
        effects.iter().any(|effect| effect.action == claim),
        "{effects:?}"
    );
    assert!(heir.take_notes().is_empty(), "nothing was rejected");
}
