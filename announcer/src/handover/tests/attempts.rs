//! Attempts to hand over that come to nothing, and what follows.

use super::*;

#[test]
fn one_that_need_not_go_asks_again_after_a_second() {
    let mut bench = Bench::owner("b");
    assert_eq!(bench.look(), []);
    assert_eq!(bench.wait(PREPARE_REPEAT), [prepare("a", 1)]);
    assert_eq!(
        bench.wait(ACK_TIMEOUT - PREPARE_REPEAT),
        [answer(), Action::Raise(Claim(2))]
    );
    assert!(!bench.is_moving());
    assert_eq!(bench.wait(RETRY - Duration::from_millis(1)), []);
    let tries_again = [Action::Duty(Duty::Record), prepare("a", 2)];
    assert_eq!(bench.wait(Duration::from_millis(1)), tries_again);
}

#[test]
fn what_a_heir_acked_for_other_addresses_is_no_ack_any_more() {
    let mut bench = Bench::owner("b");
    assert_eq!(bench.look(), []);
    assert_eq!(bench.wait(PREPARE_REPEAT), [prepare("a", 1)]);
    bench.candidacy.addresses = 1;
    let asks_anew = [
        answer(),
        Action::Raise(Claim(2)),
        Action::Duty(Duty::Record),
        prepare("a", 2),
    ];
    assert_eq!(bench.event(Event::Readdressed), asks_anew);
    assert_eq!(bench.hear("a", Message::Ack(Claim(1))), []);
    let released = [Action::Release(name("a"), Claim(3))];
    bench.roster.raise_peak(GROUP, Claim(2));
    assert_eq!(bench.hear("a", Message::Ack(Claim(2))), released);
}
