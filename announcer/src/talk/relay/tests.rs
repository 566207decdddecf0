use std::time::{Duration, Instant};

use super::*;
use crate::talk::tests::talk;

fn peer(index: u8, epoch: u64) -> Peer {
    Peer {
        node: format!("n{index}").as_str().into(),
        endpoint: SocketAddr::from(([10, 0, 0, index], 7946)),
        epoch,
    }
}

fn hear_of(talk: &mut Talk, peer: &Peer, now: Instant) {
    let hello = Greeting {
        from: peer.into(),
        dead_epoch: 0,
    };
    talk.receive(Body::Hello(hello), now, now);
}

/// What one sends to the other arrives there, and nothing else anywhere; of the membership protocol
/// it is said often enough, but was in vain long ago.
fn carry(from: &mut Talk, to: &mut Talk, now: Instant) {
    let there = to.me().endpoint;
    for (endpoint, datagram) in from.take_unsent() {
        if endpoint == there
            && let Some(body) = datagram.body
            && !matches!(body, Body::Swim(_))
        {
            to.receive(body, now, now);
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn who_missed_that_a_node_goes_on_anew_learns_it_from_the_others() {
    let start = Instant::now();
    // The third one does not hear the first, nor the other way round, and goes on under another epoch.
    let (mut first, mut second) = (talk(1, start), talk(2, start));
    hear_of(&mut first, second.me(), start);
    hear_of(&mut first, &peer(3, 1), start);
    hear_of(&mut second, first.me(), start);
    hear_of(&mut second, &peer(3, 5), start);
    let events = first.swim.declare_dead("n3", start);
    first.keep_and_send(events, start);
    while first.follow(start) {}
    assert_eq!(first.swim.dead_epoch("n3"), 1);
    let later = start + Duration::from_millis(500);
    for event in first.peers.tick(later) {
        first.on_peer(event, later);
    }
    second.take_unsent();
    carry(&mut first, &mut second, later);
    carry(&mut second, &mut first, later);
    assert_eq!(first.swim.active("n3"), Some(peer(3, 5)));
    let roster = first.ownership.roster();
    assert_eq!(roster.standing("n3"), Some(&Standing::Silent));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn a_node_that_never_answered_is_learnt_from_whoever_hears_it() {
    let start = Instant::now();
    let (mut first, mut second) = (talk(1, start), talk(2, start));
    let third = peer(3, 5);
    first.set_members(&[(third.node.clone(), Some(third.endpoint))], start);
    hear_of(&mut second, first.me(), start);
    hear_of(&mut second, &third, start);
    let mut now = start;
    while first.ownership.roster().standing("n3") != Some(&Standing::Dead) {
        now += Duration::from_millis(10);
        first.tick(now);
    }
    hear_of(&mut first, second.me(), now);
    now += Duration::from_millis(500);
    first.take_unsent();
    for event in first.peers.tick(now) {
        first.on_peer(event, now);
    }
    second.take_unsent();
    carry(&mut first, &mut second, now);
    carry(&mut second, &mut first, now);
    assert_eq!(first.swim.active("n3"), Some(third));
}
