use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::election::{Candidacy, Families, Wanted};
use crate::handover::{Action, Gained};
use crate::l2::hold::Report;
use crate::members::wire::{AskAbout, Version};

const GROUP: GroupId = GroupId(7);

impl Talk {
    /// A datagram that arrived at `at` is read now, and all that was heard is followed at once.
    pub(crate) fn receive(&mut self, body: Body, at: Instant, now: Instant) {
        let answers = self.hear(body, at, now);
        self.unsent.extend(answers);
        while self.follow(now) {}
    }
}

/// A node that is ready, and knows nobody.
pub(super) fn talk(index: u8, now: Instant) -> Talk {
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

/// Of a group that both may own; `addresses`: their digest.
pub(super) fn candidacy(group: GroupId, addresses: u64) -> Candidacy {
    let nodes: Vec<NodeName> = ["n1", "n2"].map(NodeName::from).to_vec();
    Candidacy {
        id: group,
        listed: nodes.clone(),
        candidates: nodes.into(),
        wanted: Wanted::Any.into(),
        families: Families::Ipv4,
        addresses,
    }
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
    for _ in 0..300 {
        now += Duration::from_millis(10);
        let asked = idle.tick_members(now);
        assert!(!idle.has_heard(), "at {now:?}");
        for (_, datagram) in asked {
            let answers = busy.hear(datagram.body.expect("a body"), now, now);
            for (_, answer) in answers {
                idle.receive(answer.body.expect("a body"), now, now);
            }
        }
        // Nothing is said in the middle of what it is busy with.
        assert!(busy.take_unsent().is_empty());
        assert!(idle.ownership.roster().lives("n2"), "at {now:?}");
    }
    while busy.follow(now) {}
    assert!(busy.ownership.roster().lives("n1"));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn what_was_heard_of_a_node_is_followed_in_the_order_in_which_it_was() {
    let now = Instant::now();
    let (mut this, other) = two(now);
    let later = Peer {
        epoch: 2,
        ..other.me().clone()
    };
    // It is back before this node learns that its former run is dead.
    let hello = Greeting {
        from: (&later).into(),
        dead_epoch: 0,
    };
    this.hear(Body::Hello(hello), now, now);
    let former = this.swim.declare_dead("n2", now);
    this.keep_and_send(former, now);
    let back = this.swim.introduce(
        Peer {
            epoch: 3,
            ..later.clone()
        },
        now,
    );
    this.keep_and_send(back, now);
    while this.follow(now) {}
    assert!(this.ownership.roster().lives("n2"));
    assert_eq!(this.reports.known("n2").map(|known| known.epoch), Some(3));
    assert_eq!(this.swim.active("n2").map(|peer| peer.epoch), Some(3));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn no_time_is_over_while_what_arrived_in_it_waits_to_be_followed() {
    let now = Instant::now();
    let (mut this, mut other) = two(now);
    this.refused(other.me().endpoint, now);
    let at = |millis| now + Duration::from_millis(millis);
    this.tick(at(20));
    // It is greeted once more, and has 60 ms to answer.
    let greetings = this.take_unsent();
    let is_hello = |datagram: &Datagram| matches!(datagram.body, Some(Body::Hello(_)));
    let hello = greetings
        .into_iter()
        .find(|(_, datagram)| is_hello(datagram));
    let (_, hello) = hello.expect("a greeting");
    other.receive(hello.body.expect("a body"), at(30), at(30));
    for (_, welcome) in other.take_unsent() {
        this.hear(welcome.body.expect("a body"), at(40), at(40));
    }
    // Busy until now.
    this.tick(at(500));
    while this.follow(at(500)) {}
    this.tick(at(500));
    while this.follow(at(500)) {}
    assert!(this.ownership.roster().lives("n2"));
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn a_limit_that_begins_while_this_node_is_behind_is_as_long_as_any() {
    let now = Instant::now();
    let (mut this, other) = two(now);
    let at = |millis| now + Duration::from_millis(millis);
    this.refused(other.me().endpoint, now);
    let about = AskAbout {
        from: other.me().into(),
        known: Version::default(),
        dead_epoch: 0,
    };
    this.hear(Body::AskAbout(about), at(15), at(15));
    // Busy until now: the greeting leaves only now.
    this.tick(at(500));
    assert!(!this.take_unsent().is_empty());
    while this.follow(at(500)) {}
    for (millis, lives) in [(510, true), (550, true), (570, false)] {
        this.tick(at(millis));
        while this.follow(at(millis)) {}
        assert_eq!(this.ownership.roster().lives("n2"), lives, "{millis} ms");
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the start of a test"
)]
fn the_last_words_of_a_node_that_leaves_are_followed_before_its_end() {
    let now = Instant::now();
    let (mut leaving, mut heir) = two(now);
    heir.ownership.set_group(candidacy(GROUP, 0), now);
    let prepare = Message::Prepare(Claim(1));
    heir.ownership.hear(GROUP, "n1".into(), prepare, now);
    heir.ownership.take_effects();
    leaving.step("n2".into(), GROUP, Message::Go(Claim(2), Report::default()));
    assert!(leaving.pack_steps(now));
    leaving.leave(now);
    // All of it is heard while the heir is busy.
    for (_, datagram) in leaving.take_unsent() {
        heir.hear(datagram.body.expect("a body"), now, now);
    }
    while heir.follow(now) {}
    assert!(!heir.ownership.roster().lives("n1"));
    let effects = heir.ownership.take_effects();
    let claim = Action::Claim(Claim(2), Gained::HandedOver("n1".into()));
    assert!(
        effects.iter().any(|effect| effect.action == claim),
        "{effects:?}"
    );
    assert!(heir.take_notes().is_empty(), "nothing was rejected");
}
