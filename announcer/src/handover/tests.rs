use std::sync::Arc;

use super::*;
use crate::election::{Condition, Families, Standing, Wanted, is_stronger};

mod attempts;

const GROUP: GroupId = GroupId(7);

fn name(text: &str) -> NodeName {
    Arc::from(text)
}

fn condition() -> Condition {
    Condition {
        ready: true,
        hold_down: false,
        draining: false,
        interfaces: BTreeSet::from(["eth0".to_owned()]),
        interfaces6: BTreeSet::from(["eth0".to_owned()]),
        macs: BTreeSet::new(),
    }
}

/// A node `me` in a cluster of a, b and c, wanted in this order; everybody lives.
struct Bench {
    candidacy: Candidacy,
    roster: Roster,
    now: Instant,
    seat: Seat,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the start of a test"
    )]
    fn new(me: &str) -> Self {
        let nodes: Vec<NodeName> = ["a", "b", "c"].map(name).to_vec();
        let mut roster = Roster::new(name(me), condition());
        roster.reached_anyone = true;
        for node in nodes.iter().filter(|node| &***node != me) {
            roster.set_standing(node.clone(), Standing::Known(Some(condition())));
        }
        Self {
            candidacy: Candidacy {
                id: GROUP,
                listed: nodes.clone(),
                candidates: nodes.into(),
                wanted: Wanted::Any.into(),
                families: Families::Ipv4,
                addresses: 0,
            },
            roster,
            now: Instant::now(),
            seat: Seat::default(),
        }
    }

    /// One that owns the group by claim 1.
    fn owner(me: &str) -> Self {
        let mut bench = Self::new(me);
        bench.hear("x", Message::Go(Claim(1), Report::default()));
        bench.roster.raise_peak(GROUP, Claim(1));
        assert_eq!(bench.seat.claim(), Some(Claim(1)));
        bench.wait(TENURE);
        bench
    }

    fn standing(&mut self, node: &str, change: impl Fn(&mut Condition)) {
        let mut changed = condition();
        change(&mut changed);
        self.roster
            .set_standing(name(node), Standing::Known(Some(changed)));
    }

    fn only_for(mut self, me_first: &[&str]) -> Self {
        self.candidacy.listed = me_first.iter().map(|node| name(node)).collect();
        self.candidacy.candidates = self.candidacy.listed.as_slice().into();
        self
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let scene = Scene {
            candidacy: &self.candidacy,
            roster: &self.roster,
            now: self.now,
        };
        self.seat.handle(event, &scene)
    }

    fn look(&mut self) -> Vec<Action> {
        self.event(Event::Look)
    }

    fn hear(&mut self, from: &str, message: Message) -> Vec<Action> {
        self.event(Event::Heard(name(from), message))
    }

    fn is_moving(&self) -> bool {
        let scene = Scene {
            candidacy: &self.candidacy,
            roster: &self.roster,
            now: self.now,
        };
        self.seat.is_moving(&scene)
    }

    fn wait(&mut self, by: Duration) -> Vec<Action> {
        self.now += by;
        self.look()
    }
}

fn prepare(to: &str, claim: u64) -> Action {
    Action::Send(name(to), Message::Prepare(Claim(claim)))
}

fn ack(to: &str, claim: u64) -> Action {
    Action::Send(name(to), Message::Ack(Claim(claim)))
}

fn answer() -> Action {
    Action::Duty(Duty::Answer(Report::default()))
}

#[test]
fn the_first_node_takes_an_unowned_group_and_others_queue() {
    let mut first = Bench::new("a");
    let took = [answer(), Action::Claim(Claim(1), Gained::Unowned)];
    assert_eq!(first.look(), took);
    let mut third = Bench::new("c");
    assert_eq!(third.look(), []);
    assert_eq!(third.seat.deadline(), Some(third.now + QUEUE_STEP * 2));
    assert_eq!(third.wait(QUEUE_STEP * 2 - Duration::from_millis(1)), []);
    assert_eq!(third.wait(Duration::from_millis(1)), took);
}

#[test]
fn a_dead_owner_is_replaced_by_a_higher_claim() {
    let mut bench = Bench::new("b");
    bench.roster.set_claim(GROUP, name("a"), Some(Claim(5)));
    assert_eq!(bench.look(), []);
    bench.roster.set_standing(name("a"), Standing::Dead);
    let took = [answer(), Action::Claim(Claim(6), Gained::Orphaned)];
    assert_eq!(bench.look(), took);
}

#[test]
fn a_planned_change_goes_prepare_ack_release() {
    let mut bench = Bench::owner("b");
    let actions = bench.look();
    // It began when b had been the owner for long enough: a is wanted more.
    assert_eq!(actions, []);
    assert_eq!(bench.wait(PREPARE_REPEAT), [prepare("a", 1)]);
    let released = [Action::Release(name("a"), Claim(2))];
    assert_eq!(bench.hear("a", Message::Ack(Claim(1))), released);
    assert_eq!(bench.seat.claim(), None);
    let said = Statement {
        group: GROUP,
        holder: Some(name("a")),
        claim: Some(Claim(2)),
    };
    assert_eq!(bench.seat.statement(GROUP), Some(said));
    bench.roster.set_claim(GROUP, name("a"), Some(Claim(2)));
    assert_eq!(bench.look(), [Action::Unclaim(Lost::HandedOver(name("a")))]);
    assert_eq!(bench.seat, Seat::default());
}

#[test]
fn what_was_handed_over_is_kept_for_a_while_unless_the_node_must_go() {
    let owner = || {
        let mut bench = Bench::new("b");
        bench.hear("a", Message::Go(Claim(1), Report::default()));
        bench
    };
    let mut stays = owner();
    assert_eq!(stays.look(), [], "a is wanted more, and is behind");
    assert_eq!(stays.seat.deadline(), Some(stays.now + TENURE));
    let hands_back = [Action::Duty(Duty::Record), prepare("a", 1)];
    assert_eq!(stays.wait(TENURE), hands_back);
    let mut goes = owner();
    goes.roster.own.draining = true;
    goes.seat.retry_now();
    assert_eq!(goes.look(), hands_back);
}

#[test]
fn a_go_is_repeated_until_the_new_owner_is_heard_of() {
    let mut bench = Bench::owner("b");
    bench.hear("a", Message::Ack(Claim(1)));
    bench.roster.raise_peak(GROUP, Claim(2));
    for _ in 0..3 {
        assert_eq!(
            bench.wait(GO_REPEAT),
            [Action::RepeatGo(name("a"), Claim(2))]
        );
    }
    assert_eq!(
        bench.hear("a", Message::Ack(Claim(1))),
        [Action::RepeatGo(name("a"), Claim(2))]
    );
}

#[test]
fn the_old_owner_takes_the_group_back_if_the_new_one_dies_on_the_way() {
    let mut bench = Bench::owner("b");
    bench.hear("a", Message::Ack(Claim(1)));
    bench.roster.raise_peak(GROUP, Claim(2));
    bench.roster.set_standing(name("a"), Standing::Dead);
    let expected = [
        Action::Unclaim(Lost::HandedOver(name("a"))),
        answer(),
        Action::Claim(Claim(3), Gained::Orphaned),
    ];
    assert_eq!(bench.look(), expected);
}

#[test]
fn without_an_ack_the_next_node_is_asked_and_without_any_the_owner_keeps_answering() {
    let mut bench = Bench::owner("a");
    bench.roster.own.draining = true;
    assert_eq!(bench.look(), [Action::Duty(Duty::Record), prepare("b", 1)]);
    assert_eq!(bench.wait(ACK_TIMEOUT), [prepare("c", 1)]);
    // Too late: it was not waited for.
    assert_eq!(bench.hear("b", Message::Ack(Claim(1))), []);
    assert_eq!(bench.wait(ACK_TIMEOUT), [answer(), Action::Raise(Claim(2))]);
    assert!(bench.is_moving(), "one of them may have been suspended");
    let tries_again = [Action::Duty(Duty::Record), prepare("b", 2)];
    assert_eq!(bench.wait(DRAIN_RETRY), tries_again);
    for node in ["b", "c"] {
        bench.roster.set_standing(name(node), Standing::Dead);
    }
    assert_eq!(bench.look(), [answer(), Action::Raise(Claim(3))]);
    assert!(!bench.is_moving(), "nothing more can be done");
}

#[test]
fn what_is_held_for_an_attempt_that_was_taken_back_is_not_for_the_next_one() {
    let mut bench = Bench::owner("b");
    bench.roster.raise_peak(GROUP, Claim(4));
    bench.standing("a", |a| a.draining = true);
    assert_eq!(bench.look(), [answer(), Action::Raise(Claim(5))]);
    assert_eq!(bench.seat.claim(), Some(Claim(5)));
    bench.standing("a", |_| {});
    assert_eq!(bench.look(), [Action::Duty(Duty::Record), prepare("a", 5)]);
    // It held what this node answered in between.
    assert_eq!(bench.hear("a", Message::Ack(Claim(1))), []);
    let mut heir = Bench::new("a");
    let held = |claim| [Action::Duty(Duty::Hold), ack("b", claim)];
    assert_eq!(heir.hear("b", Message::Prepare(Claim(1))), held(1));
    assert_eq!(heir.hear("b", Message::Prepare(Claim(5))), held(5));
}

#[test]
fn an_owner_keeps_answering_when_its_heir_dies_before_the_ack() {
    let mut bench = Bench::owner("b").only_for(&["a", "b"]);
    bench.look();
    bench.roster.set_standing(name("a"), Standing::Dead);
    assert_eq!(bench.look(), [answer(), Action::Raise(Claim(2))]);
}

#[test]
fn whoever_is_prepared_holds_requests_acks_and_answers_on_go() {
    let mut bench = Bench::new("b");
    bench.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
    let held = [Action::Duty(Duty::Hold), ack("a", 4)];
    assert_eq!(bench.hear("a", Message::Prepare(Claim(4))), held);
    assert_eq!(
        bench.hear("a", Message::Prepare(Claim(4))),
        [ack("a", 4)],
        "a repetition"
    );
    let got = [
        answer(),
        Action::Claim(Claim(5), Gained::HandedOver(name("a"))),
    ];
    // c is wanted less than b: b keeps what it got.
    bench.standing("a", |a| a.draining = true);
    assert_eq!(
        bench.hear("a", Message::Go(Claim(5), Report::default())),
        got
    );
}

#[test]
fn a_repeated_go_is_answered_by_telling_what_is_owned() {
    let mut bench = Bench::owner("a");
    let told = [Action::Inform(name("b"))];
    assert_eq!(
        bench.hear("b", Message::Go(Claim(1), Report::default())),
        told
    );
}

#[test]
fn a_go_that_somebody_has_outbid_is_ignored() {
    let mut bench = Bench::new("b");
    bench.roster.set_claim(GROUP, name("c"), Some(Claim(9)));
    assert_eq!(
        bench.hear("a", Message::Go(Claim(9), Report::default())),
        []
    );
    assert_eq!(bench.seat.claim(), None);
}

#[test]
fn holding_ends_by_itself_when_the_old_owner_changes_its_mind() {
    let mut bench = Bench::new("b");
    bench.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
    bench.hear("a", Message::Prepare(Claim(4)));
    assert_eq!(bench.wait(HOLD_TIMEOUT), [Action::Duty(Duty::Silent)]);
    // Or at once when somebody else got it.
    bench.hear("a", Message::Prepare(Claim(4)));
    bench.roster.set_claim(GROUP, name("c"), Some(Claim(5)));
    assert_eq!(bench.look(), [Action::Duty(Duty::Silent)]);
}

#[test]
fn requests_held_for_an_owner_that_dies_are_answered_by_whoever_takes_over() {
    let mut bench = Bench::new("b");
    bench.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
    bench.hear("a", Message::Prepare(Claim(4)));
    bench.roster.set_standing(name("a"), Standing::Dead);
    let took = [answer(), Action::Claim(Claim(5), Gained::Orphaned)];
    assert_eq!(bench.look(), took);
}

#[test]
fn a_node_that_cannot_serve_acks_nothing() {
    let spoilers: [fn(&mut Condition); 3] = [
        |own| own.draining = true,
        |own| own.ready = false,
        |own| own.interfaces.clear(),
    ];
    for spoil in spoilers {
        let mut bench = Bench::new("b");
        bench.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
        spoil(&mut bench.roster.own);
        assert_eq!(bench.hear("a", Message::Prepare(Claim(4))), []);
    }
}

#[test]
fn of_two_owners_the_weaker_one_stops_on_receipt() {
    let mut bench = Bench::owner("b");
    bench.roster.set_claim(GROUP, name("c"), Some(Claim(2)));
    let lost = [
        Action::Duty(Duty::Silent),
        Action::Unclaim(Lost::Outbid(name("c"))),
    ];
    assert_eq!(bench.look(), lost);
}

#[test]
fn of_two_owners_by_equal_claims_the_stronger_one_takes_a_higher_claim() {
    for rival in ["b", "c"].map(name) {
        let mut bench = Bench::owner("a");
        bench.roster.set_claim(GROUP, rival.clone(), Some(Claim(1)));
        let done = bench.look();
        if is_stronger(GROUP, (&name("a"), Claim(1)), (&rival, Claim(1))) {
            assert_eq!(done, [Action::Raise(Claim(2))]);
            assert_eq!(bench.seat.claim(), Some(Claim(2)));
            assert_eq!(bench.look(), [], "once");
        } else {
            let lost = Lost::Outbid(rival);
            assert_eq!(done, [Action::Duty(Duty::Silent), Action::Unclaim(lost)]);
        }
    }
}

#[test]
fn an_owner_that_is_prepared_by_a_weaker_one_tells_it_so() {
    let mut bench = Bench::owner("a");
    bench.hear("x", Message::Go(Claim(5), Report::default()));
    let told = [Action::Inform(name("b"))];
    assert_eq!(bench.hear("b", Message::Prepare(Claim(4))), told);
    assert_eq!(bench.seat.claim(), Some(Claim(5)));
}

#[test]
fn an_owner_that_is_no_candidate_any_more_hands_over_or_stops_after_two_seconds() {
    let mut bench = Bench::owner("a").only_for(&["b", "c"]);
    assert_eq!(bench.look(), [Action::Duty(Duty::Record), prepare("b", 1)]);
    let mut alone = Bench::owner("a").only_for(&["b"]);
    alone.roster.set_standing(name("b"), Standing::Dead);
    assert_eq!(alone.look(), []);
    assert_eq!(alone.seat.deadline(), Some(alone.now + UNLISTED_LIMIT));
    let lost = [Action::Duty(Duty::Silent), Action::Unclaim(Lost::Unlisted)];
    assert_eq!(alone.wait(UNLISTED_LIMIT), lost);
}

#[test]
fn a_group_that_is_gone_is_not_answered_a_moment_longer() {
    let owner = Bench::owner("a");
    let stopped = [Action::Duty(Duty::Silent), Action::Gone(Claim(1))];
    assert_eq!(owner.seat.dissolve(), stopped);
    let mut holding = Bench::new("b");
    holding.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
    holding.hear("a", Message::Prepare(Claim(4)));
    assert_eq!(holding.seat.dissolve(), [Action::Duty(Duty::Silent)]);
    assert_eq!(Bench::new("b").seat.dissolve(), []);
}

/// Every role meets every message: whatever comes, a node that answers or holds says so, and no
/// deadline lies in the past (which would be a busy loop).
#[test]
fn every_role_survives_every_message() {
    let make: [fn() -> Bench; 5] = [
        || Bench::new("c"),
        || {
            let mut bench = Bench::new("c");
            bench.roster.set_claim(GROUP, name("a"), Some(Claim(4)));
            bench.hear("a", Message::Prepare(Claim(4)));
            bench
        },
        || Bench::owner("a"),
        || {
            let mut bench = Bench::owner("b");
            bench.look();
            bench
        },
        || {
            let mut bench = Bench::owner("b");
            bench.hear("a", Message::Ack(Claim(1)));
            bench
        },
    ];
    for (role, make) in make.iter().enumerate() {
        for from in ["a", "b", "c"] {
            for claim in [0, 1, 2, 4, 9, u64::MAX] {
                let claim = Claim(claim);
                for message in [
                    Message::Prepare(claim),
                    Message::Ack(claim),
                    Message::Go(claim, Report::default()),
                ] {
                    let mut bench = make();
                    if *from == *bench.roster.me {
                        continue;
                    }
                    let owned = bench.seat.claim().is_some();
                    let actions = bench.hear(from, message.clone());
                    let owns = bench.seat.claim().is_some();
                    let said = actions
                        .iter()
                        .any(|action| matches!(action, Action::Duty(_) | Action::Release(..)));
                    assert!(
                        said || owned == owns,
                        "role {role}, {message:?}: {actions:?}"
                    );
                    let late = bench.seat.deadline().is_some_and(|at| at <= bench.now);
                    assert!(!late, "role {role}, {message:?}");
                }
            }
        }
    }
}

#[test]
fn an_owner_announces_again_when_another_one_has_stopped() {
    let mut owner = Bench::owner("a");
    owner.hear("x", Message::Go(Claim(5), Report::default()));
    assert_eq!(owner.look(), []);
    // The other side of a partition, with a weaker claim.
    owner.roster.set_claim(GROUP, name("b"), Some(Claim(3)));
    assert_eq!(owner.look(), []);
    owner.roster.set_claim(GROUP, name("b"), None);
    assert_eq!(owner.look(), [Action::Announce]);
    assert_eq!(owner.look(), []);
    // Whoever handed the group over has stopped before.
    owner.hear("b", Message::Go(Claim(6), Report::default()));
    owner.roster.set_claim(GROUP, name("b"), Some(Claim(5)));
    assert_eq!(owner.look(), []);
    owner.roster.set_claim(GROUP, name("b"), None);
    assert_eq!(owner.look(), []);
}

#[test]
fn what_was_held_for_one_owner_is_not_answered_for_the_next() {
    let mut heir = Bench::new("b");
    let hold = Action::Duty(Duty::Hold);
    let first = heir.hear("a", Message::Prepare(Claim(1)));
    assert_eq!(first, [hold.clone(), ack("a", 1)]);
    let again = heir.hear("a", Message::Prepare(Claim(1)));
    assert_eq!(again, [ack("a", 1)], "a repetition");
    // The ack was lost: the group went to c, which hands it on.
    let next = heir.hear("c", Message::Prepare(Claim(2)));
    assert_eq!(next, [hold, ack("c", 2)]);
}
