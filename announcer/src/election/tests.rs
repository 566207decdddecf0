use std::collections::BTreeMap;

use super::*;

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

fn candidacy(listed: &[&str], others: &[&str]) -> Candidacy {
    let all: Vec<NodeName> = listed.iter().chain(others).map(|node| name(node)).collect();
    Candidacy {
        id: GroupId(7),
        listed: listed.iter().map(|node| name(node)).collect(),
        candidates: all.into(),
        wanted: Wanted::Any.into(),
        families: Families::Ipv4,
        addresses: 0,
    }
}

fn known() -> Standing {
    Standing::Known(Some(condition()))
}

fn with(change: impl Fn(&mut Condition)) -> Standing {
    let mut changed = condition();
    change(&mut changed);
    Standing::Known(Some(changed))
}

/// A roster of node `me` in which the others stand as told.
fn roster(me: &str, others: &[(&str, Standing)]) -> Roster {
    let mut roster = Roster::new(name(me), condition());
    roster.reached_anyone = true;
    for (node, standing) in others {
        roster.set_standing(name(node), standing.clone());
    }
    roster
}

#[test]
fn an_unowned_group_goes_to_the_first_node_that_can_serve_it() {
    let abc = candidacy(&["a", "b", "c"], &[]);
    type Others<'a> = &'a [(&'a str, Standing)];
    let cases: &[(&str, Others<'_>, Verdict)] = &[
        ("a", &[("b", known()), ("c", known())], Verdict::Take),
        ("b", &[("a", known()), ("c", known())], Verdict::Queue(1)),
        ("c", &[("a", known()), ("b", known())], Verdict::Queue(2)),
        ("b", &[("a", Standing::Dead), ("c", known())], Verdict::Take),
        (
            "c",
            &[("a", Standing::Dead), ("b", known())],
            Verdict::Queue(1),
        ),
        ("b", &[("a", with(|c| c.draining = true))], Verdict::Take),
        ("b", &[("a", with(|c| c.ready = false))], Verdict::Take),
        ("b", &[("a", with(|c| c.interfaces.clear()))], Verdict::Take),
        // Hold-down is about taking back, not about a group that nobody owns.
        (
            "b",
            &[("a", with(|c| c.hold_down = true))],
            Verdict::Queue(1),
        ),
        ("b", &[("a", Standing::Known(None))], Verdict::Queue(1)),
        (
            "b",
            &[("a", Standing::Presumed)],
            Verdict::Leave(Leave::Asking),
        ),
        (
            "a",
            &[("b", Standing::Presumed)],
            Verdict::Leave(Leave::Asking),
        ),
        (
            "a",
            &[("b", Standing::Silent)],
            Verdict::Leave(Leave::Asking),
        ),
        // A node without an announcer is no member and delays nobody.
        ("b", &[], Verdict::Take),
        ("d", &[("a", known())], Verdict::Leave(Leave::NotCandidate)),
    ];
    for (me, others, expected) in cases {
        let verdict = roster(me, others).judge_unowned(&abc);
        assert_eq!(&verdict, expected, "{me} with {others:?}");
    }
}

#[test]
fn a_node_that_cannot_serve_takes_nothing() {
    let ab = candidacy(&["a", "b"], &[]);
    let spoilers: [fn(&mut Condition); 3] = [
        |own| own.ready = false,
        |own| own.draining = true,
        |own| own.interfaces.clear(),
    ];
    for spoil in spoilers {
        let mut roster = roster("a", &[("b", known())]);
        spoil(&mut roster.own);
        assert_eq!(roster.judge_unowned(&ab), Verdict::Leave(Leave::Unfit));
    }
}

#[test]
fn a_node_that_has_reached_nobody_takes_only_what_wants_it_first() {
    let mut alone = roster("b", &[("a", Standing::Dead)]);
    alone.reached_anyone = false;
    let isolated = Verdict::Leave(Leave::Isolated);
    assert_eq!(alone.judge_unowned(&candidacy(&["a", "b"], &[])), isolated);
    assert_eq!(
        alone.judge_unowned(&candidacy(&["b", "a"], &[])),
        Verdict::Take
    );
    assert_eq!(alone.judge_unowned(&candidacy(&["b"], &[])), Verdict::Take);
}

#[test]
fn past_the_end_of_the_list_the_rendezvous_hash_decides() {
    let others = ["d", "e", "f", "g"];
    let group = candidacy(&["a"], &others);
    let dead_a = |node: &NodeName| &**node != "a";
    let mut by_hash = others.to_vec();
    by_hash.sort_by_key(|node| rendezvous_rank(7, node));
    assert_eq!(group.first(dead_a).map(|node| &**node), Some(by_hash[0]));
    for (position, node) in by_hash.iter().enumerate() {
        assert_eq!(group.ahead_of(node, dead_a), position);
        assert_eq!(group.ahead_of(node, |_| true), position + 1);
    }
}

#[test]
fn a_living_owner_is_left_alone_by_everyone_else() {
    let ab = candidacy(&["a", "b"], &[]);
    let mut seen_by_a = roster("a", &[("b", known())]);
    seen_by_a.set_claim(GroupId(7), name("b"), Some(Claim(4)));
    let owned = Verdict::Leave(Leave::Owned);
    assert_eq!(seen_by_a.judge_unowned(&ab), owned);
    seen_by_a.set_standing(name("b"), Standing::Dead);
    assert_eq!(seen_by_a.judge_unowned(&ab), Verdict::Take);
    assert_eq!(seen_by_a.peak(GroupId(7)), Claim(4));
}

#[test]
fn an_owner_hands_over_to_a_node_that_is_wanted_more_once_its_hold_down_ends() {
    let ab = candidacy(&["a", "b"], &[]);
    let held_down = with(|c| c.hold_down = true);
    let cases = [
        (held_down, Verdict::Keep),
        (known(), Verdict::HandTo(name("a"))),
        (with(|c| c.draining = true), Verdict::Keep),
        (with(|c| c.interfaces.clear()), Verdict::Keep),
        (Standing::Known(None), Verdict::Keep),
        (Standing::Silent, Verdict::Keep),
        (Standing::Presumed, Verdict::Keep),
        (Standing::Dead, Verdict::Keep),
    ];
    for (standing, expected) in cases {
        let verdict = roster("b", &[("a", standing.clone())]).judge_owned(&ab, Claim(1));
        assert_eq!(verdict, expected, "{standing:?}");
    }
}

#[test]
fn an_owner_that_must_go_hands_over_even_to_a_node_in_hold_down() {
    let abc = candidacy(&["a", "b", "c"], &[]);
    let held_down = with(|c| c.hold_down = true);
    let mut draining = roster("a", &[("b", held_down.clone()), ("c", known())]);
    draining.own.draining = true;
    let to_c = Verdict::HandTo(name("c"));
    assert_eq!(draining.judge_owned(&abc, Claim(1)), to_c);
    draining.set_standing(name("c"), Standing::Dead);
    let to_b = Verdict::HandTo(name("b"));
    assert_eq!(draining.judge_owned(&abc, Claim(1)), to_b);
    draining.set_standing(name("b"), Standing::Dead);
    assert_eq!(draining.judge_owned(&abc, Claim(1)), Verdict::Keep);
}

#[test]
fn an_owner_without_a_usable_interface_hands_over() {
    let ab = candidacy(&["a", "b"], &[]);
    let mut cut = roster("a", &[("b", known())]);
    cut.own.interfaces.clear();
    assert_eq!(cut.judge_owned(&ab, Claim(1)), Verdict::HandTo(name("b")));
}

#[test]
fn of_two_owners_the_higher_claim_wins_and_among_equals_one_whatever_the_lists_say() {
    let yields = |me: &str, mine, other: &str, theirs, list: &[&str]| {
        let held_down = with(|c| c.hold_down = true);
        let mut roster = roster(me, &[(other, held_down)]);
        roster.set_claim(GroupId(7), name(other), Some(theirs));
        roster.judge_owned(&candidacy(list, &[]), mine) == Verdict::Yield(name(other))
    };
    assert!(yields("a", Claim(2), "b", Claim(3), &["a", "b"]));
    assert!(!yields("a", Claim(3), "b", Claim(2), &["b", "a"]));
    // A new list has reached one of them only, or both, or none.
    let lists = [["a", "b"], ["b", "a"]];
    for list_of_a in &lists {
        for list_of_b in &lists {
            let a = yields("a", Claim(2), "b", Claim(2), list_of_a);
            let b = yields("b", Claim(2), "a", Claim(2), list_of_b);
            assert!(a != b, "{list_of_a:?} {list_of_b:?}: {a} {b}");
        }
    }
}

#[test]
fn interfaces_of_sharers_are_taken_together() {
    let named = |text: &str| Wanted::Named(BTreeSet::from([text.to_owned()]));
    let both = named("eth0").union(&named("eth1"));
    assert!(both.includes("eth0") && both.includes("eth1") && !both.includes("eth2"));
    assert_eq!(named("eth0").union(&Wanted::Any), Wanted::Any);
}

#[test]
fn interfaces_of_sharers_are_taken_together_node_by_node() {
    let named = |text: &str| Wanted::Named(BTreeSet::from([text.to_owned()]));
    let only = |nodes: &[&str], rest: Wanted, theirs: Wanted| {
        let nodes = nodes.iter().map(|node| name(node)).collect();
        WantedBy::new(rest, vec![(nodes, theirs)])
    };
    let one = only(&["a", "b"], named("eth0"), named("eth1"));
    let two = only(&["b", "c"], named("eth0"), named("eth2"));
    let both = one.union(&two);
    let wanted = |node: &str| both.of(node).clone();
    assert_eq!(wanted("a"), named("eth1").union(&named("eth0")));
    assert_eq!(wanted("b"), named("eth1").union(&named("eth2")));
    assert_eq!(wanted("c"), named("eth0").union(&named("eth2")));
    assert_eq!(wanted("d"), named("eth0"));
    assert_eq!(both, two.union(&one));
    // Nodes that end up with what all have are not told apart.
    assert_eq!(one.union(&Wanted::Any.into()), Wanted::Any.into());
}

#[test]
fn a_node_is_judged_by_the_interfaces_that_are_wanted_of_it() {
    let eth1 = Wanted::Named(BTreeSet::from(["eth1".to_owned()]));
    // Everybody has eth0 only.
    let roster = roster("b", &[("a", known()), ("c", known())]);
    let of_a = WantedBy::new(Wanted::Any, vec![([name("a")].into(), eth1.clone())]);
    let candidacy = Candidacy {
        wanted: of_a,
        ..candidacy(&["a", "b", "c"], &[])
    };
    assert_eq!(roster.judge_unowned(&candidacy), Verdict::Take);
    let of_b = WantedBy::new(Wanted::Any, vec![([name("b")].into(), eth1)]);
    let candidacy = Candidacy {
        wanted: of_b,
        ..candidacy
    };
    let unfit = Verdict::Leave(Leave::Unfit);
    assert_eq!(roster.judge_unowned(&candidacy), unfit);
    // It owns it still: the first that can answer gets it.
    let handed = Verdict::HandTo(name("a"));
    assert_eq!(roster.judge_owned(&candidacy, Claim(1)), handed);
}

/// A node that cannot answer IPv6 anywhere.
fn without_ipv6() -> Standing {
    with(|condition| condition.interfaces6.clear())
}

#[test]
fn a_node_that_cannot_answer_a_family_is_no_candidate_for_it() {
    let of = |families| Candidacy {
        families,
        ..candidacy(&["a", "b"], &[])
    };
    let [ipv4, ipv6] = [Families::Ipv4, Families::Ipv6].map(of);
    // The other node's view, and then its own.
    let theirs = roster("b", &[("a", without_ipv6())]);
    assert_eq!(theirs.judge_unowned(&ipv4), Verdict::Queue(1));
    assert_eq!(theirs.judge_unowned(&ipv6), Verdict::Take);
    let mut own = roster("a", &[("b", known())]);
    own.own.interfaces6.clear();
    assert_eq!(own.judge_unowned(&ipv4), Verdict::Take);
    assert_eq!(own.judge_unowned(&ipv6), Verdict::Leave(Leave::Unfit));
    assert_eq!(own.judge_owned(&ipv4, Claim(1)), Verdict::Keep);
    let handed = Verdict::HandTo(name("b"));
    assert_eq!(own.judge_owned(&ipv6, Claim(1)), handed);
    // The same for IPv4.
    own.own.interfaces6 = std::mem::take(&mut own.own.interfaces);
    assert_eq!(own.judge_owned(&ipv6, Claim(1)), Verdict::Keep);
    assert_eq!(own.judge_owned(&ipv4, Claim(1)), handed);
}

#[test]
fn a_group_of_both_families_goes_to_whoever_answers_both_and_else_to_one_of_the_others() {
    let both = Candidacy {
        families: Families::Both,
        ..candidacy(&["a", "b", "c"], &[])
    };
    let own = |me: &str, others: &[(&str, Standing)]| {
        let mut roster = roster(me, others);
        roster.own.interfaces6.clear();
        roster
    };
    let one_can = own("a", &[("b", without_ipv6()), ("c", known())]);
    assert_eq!(one_can.judge_unowned(&both), Verdict::Queue(1));
    let handed = Verdict::HandTo(name("c"));
    assert_eq!(one_can.judge_owned(&both, Claim(1)), handed);
    let can = roster("c", &[("a", without_ipv6()), ("b", without_ipv6())]);
    assert_eq!(can.judge_unowned(&both), Verdict::Take);
    assert_eq!(can.judge_owned(&both, Claim(1)), Verdict::Keep);
    // Nobody speaks IPv6: as with IPv4 alone.
    let nobody_can = own("b", &[("a", without_ipv6()), ("c", without_ipv6())]);
    assert_eq!(nobody_can.judge_unowned(&both), Verdict::Queue(1));
    let handed = Verdict::HandTo(name("a"));
    assert_eq!(nobody_can.judge_owned(&both, Claim(1)), handed);
    let first = own("a", &[("b", without_ipv6()), ("c", without_ipv6())]);
    assert_eq!(first.judge_owned(&both, Claim(1)), Verdict::Keep);
    // It is not given back before the one that can answer both has settled.
    let held_down = with(|condition| condition.hold_down = true);
    let waits = own("a", &[("b", without_ipv6()), ("c", held_down)]);
    assert_eq!(waits.judge_owned(&both, Claim(1)), Verdict::Keep);
}

#[test]
fn replacing_the_claims_of_a_node_tells_what_changed() {
    let mut roster = roster("a", &[("b", known())]);
    let first = BTreeMap::from([(GroupId(1), Claim(1)), (GroupId(2), Claim(1))]);
    let changed = roster.replace_claims(&name("b"), &first);
    assert_eq!(changed, BTreeSet::from([GroupId(1), GroupId(2)]));
    let second = BTreeMap::from([(GroupId(2), Claim(1)), (GroupId(3), Claim(9))]);
    let changed = roster.replace_claims(&name("b"), &second);
    assert_eq!(changed, BTreeSet::from([GroupId(1), GroupId(3)]));
    // What has been claimed stays known, so that it can be beaten.
    assert_eq!(roster.peak(GroupId(1)), Claim(1));
    assert_eq!(roster.peak(GroupId(3)), Claim(9));
}
