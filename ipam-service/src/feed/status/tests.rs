use std::net::Ipv4Addr;

use super::*;
use crate::feed::touched::Keys;

mod conflicts;

fn name(text: &str) -> Name {
    Name::parse(text).expect("valid")
}

fn node(text: &str) -> NodeKey {
    NodeKey {
        cluster: name("east"),
        node: name(text),
    }
}

fn feed() -> StatusFeed {
    StatusFeed::new(Instant::now())
}

fn address() -> AssignmentKey {
    AssignmentKey {
        space: name("default"),
        address: Ipv4Addr::new(192, 0, 2, 1).into(),
    }
}

fn owned(groups: &[u64]) -> Status {
    let owned = groups.iter().map(|group| v1::Ownership {
        group: *group,
        ..v1::Ownership::default()
    });
    Status {
        owned: owned.collect(),
        ..Status::default()
    }
}

fn whole(groups: &[u64]) -> Status {
    Status {
        whole: true,
        node: Some(v1::NodeStatus::default()),
        ..owned(groups)
    }
}

/// Group and node, and whether the stream of that has ended.
fn shown(feed: &StatusFeed, now: Instant) -> Vec<(u64, String, bool)> {
    let groups = 1..=5;
    let cluster = name("east");
    let view = feed.view(&cluster, now);
    let shown = groups.flat_map(|group: u64| {
        view.answerers(group).into_iter().map(move |one| {
            let is_gone = one.unknown_since.is_some();
            (group, one.node.to_string(), is_gone)
        })
    });
    shown.collect()
}

#[test]
fn differences_add_up_and_a_whole_report_replaces_everything() {
    let (feed, now) = (feed(), Instant::now());
    let stream = feed.enter(&node("a"), now);
    feed.tell(&node("a"), stream, &whole(&[1, 2]));
    let lost = Status {
        lost: vec![1],
        ..owned(&[3])
    };
    feed.tell(&node("a"), stream, &lost);
    let of_a = |group| (group, "a".to_owned(), false);
    assert_eq!(shown(&feed, now), [of_a(2), of_a(3)]);
    feed.tell(&node("a"), stream, &whole(&[4]));
    assert_eq!(shown(&feed, now), [of_a(4)]);
    assert!(feed.view(&name("west"), now).answerers(4).is_empty());
}

#[test]
fn what_a_node_tells_beyond_its_limit_is_not_kept_and_its_groups_are_unknown() {
    let (feed, now) = (feed(), Instant::now());
    let stream = feed.enter(&node("a"), now);
    let long = |group| Status {
        owned: vec![v1::Ownership {
            group,
            interfaces: vec!["x".repeat(MAX_TEXT_BYTES / 2 - size_of::<String>())],
            ..v1::Ownership::default()
        }],
        ..Status::default()
    };
    feed.tell(&node("a"), stream, &whole(&[]));
    let known = || (presence(&feed, &["a"], now), feed.cut_count());
    for group in [1, 2] {
        feed.tell(&node("a"), stream, &long(group));
    }
    assert_eq!(known(), (Presence::Told, 0));
    let cluster = name("east");
    let touched = feed.touched(&cluster);
    for group in [3, 1] {
        feed.tell(&node("a"), stream, &long(group));
    }
    // It may answer for whatever it is not known to.
    assert_eq!(known(), (Presence::Mute(vec![name("a")]), 1));
    assert_eq!(feed.cut(&cluster), BTreeSet::from([name("a")]));
    let of = |groups: [u64; 2]| {
        let groups = groups.map(Matter::Group).into_iter();
        groups.chain([Matter::Node(name("a"))])
    };
    assert_eq!(touched.take(), Keys::These(of([1, 3]).collect()));
    let of_a = |group| (group, "a".to_owned(), false);
    assert_eq!(shown(&feed, now), [of_a(1), of_a(2)]);
    // What is lost makes room.
    let lost = Status {
        lost: vec![1],
        ..long(3)
    };
    feed.tell(&node("a"), stream, &lost);
    assert_eq!(shown(&feed, now), [of_a(2), of_a(3)]);
    assert_eq!(known(), (Presence::Mute(vec![name("a")]), 1));
    feed.tell(&node("a"), stream, &whole(&[4]));
    assert_eq!(known(), (Presence::Told, 0));
    feed.tell(&node("a"), stream, &long(5));
    assert_eq!(shown(&feed, now), [of_a(4), of_a(5)]);
}

#[test]
fn every_text_that_a_node_tells_of_a_group_counts() {
    let text = || vec!["x".repeat(MAX_TEXT_BYTES / 2)];
    let of = [
        v1::Ownership {
            probing: text(),
            ..v1::Ownership::default()
        },
        v1::Ownership {
            answered: text(),
            ..v1::Ownership::default()
        },
        v1::Ownership {
            answers: Some(v1::ownership::Answers {
                addresses: text(),
                nowhere: Vec::new(),
            }),
            ..v1::Ownership::default()
        },
        // A text takes room even if it is empty.
        v1::Ownership {
            probing: vec![String::new(); MAX_TEXT_BYTES / size_of::<String>()],
            ..v1::Ownership::default()
        },
    ];
    for one in of {
        let (feed, now) = (feed(), Instant::now());
        let stream = feed.enter(&node("a"), now);
        for group in [1, 2] {
            let owned = vec![v1::Ownership {
                group,
                ..one.clone()
            }];
            let told = Status {
                owned,
                ..Status::default()
            };
            feed.tell(&node("a"), stream, &told);
        }
        assert_eq!(feed.cut_count(), 1);
        assert_eq!(shown(&feed, now).len(), 1);
    }
}

/// A part of everything, which is not the last.
fn part(groups: &[u64]) -> Status {
    Status {
        more: true,
        ..owned(groups)
    }
}

#[test]
fn everything_that_is_told_in_parts_counts_when_the_last_of_them_is_there() {
    let (feed, now) = (feed(), Instant::now());
    let known = |feed: &StatusFeed| {
        let groups = shown(feed, now).into_iter().map(|(group, ..)| group);
        (groups.collect::<Vec<u64>>(), presence(feed, &["a"], now))
    };
    let tell = |stream: u64, status: &Status| feed.tell(&node("a"), stream, status);
    let first = |groups: &[u64]| Status {
        whole: true,
        ..part(groups)
    };
    let stream = feed.enter(&node("a"), now);
    tell(stream, &first(&[1]));
    tell(stream, &part(&[2]));
    assert_eq!(known(&feed), (vec![1, 2], Presence::Unknown));
    tell(stream, &owned(&[3]));
    assert_eq!(known(&feed), (vec![1, 2, 3], Presence::Told));
    // A stream that ends before.
    let stream = feed.enter(&node("a"), now);
    tell(stream, &first(&[1, 4]));
    assert_eq!(
        known(&feed),
        (vec![1, 2, 3, 4], Presence::Told),
        "it stands"
    );
    let stream = feed.enter(&node("a"), now);
    tell(stream, &owned(&[]));
    assert_eq!(known(&feed).0, [1, 2, 3, 4], "a difference ends nothing");
    tell(stream, &first(&[1]));
    let lost = Status {
        lost: vec![1],
        ..owned(&[5])
    };
    let touched = feed.touched(&name("east"));
    tell(stream, &lost);
    assert_eq!(known(&feed), (vec![5], Presence::Told));
    let groups = (1..=5).map(Matter::Group);
    assert_eq!(touched.take(), Keys::These(groups.collect()));
}

#[test]
fn what_is_told_anew_has_room_before_what_it_replaces() {
    let (feed, now) = (feed(), Instant::now());
    let half = |group| v1::Ownership {
        group,
        interfaces: vec!["x".repeat(MAX_TEXT_BYTES / 2 - size_of::<String>())],
        ..v1::Ownership::default()
    };
    let everything = |groups: [u64; 2]| Status {
        owned: groups.map(half).into(),
        ..whole(&[])
    };
    let stream = feed.enter(&node("a"), now);
    feed.tell(&node("a"), stream, &everything([1, 2]));
    feed.tell(&node("a"), stream, &everything([3, 4]));
    let of_a = |group| (group, "a".to_owned(), false);
    assert_eq!(shown(&feed, now), [of_a(3), of_a(4)]);
    assert_eq!(feed.cut_count(), 0);
}

#[test]
fn a_stream_that_told_in_vain_is_begun_again_when_the_one_that_counted_ends() {
    let (feed, now) = (feed(), Instant::now());
    // The node made the first one last, and it was taken in first.
    let [lasting, late] = [(); 2].map(|()| feed.enter(&node("a"), now));
    let to_begin_again = feed.begin_again(&node("a"), lasting);
    feed.tell(&node("a"), lasting, &whole(&[1]));
    assert!(!to_begin_again.is_cancelled());
    feed.leave(&node("a"), late, now, Timestamp(7));
    assert!(to_begin_again.is_cancelled());
    feed.leave(&node("a"), lasting, now, Timestamp(8));
    let next = feed.enter(&node("a"), now);
    assert!(!feed.begin_again(&node("a"), next).is_cancelled());
    feed.tell(&node("a"), next, &whole(&[1]));
    assert_eq!(presence(&feed, &["a"], now), Presence::Told);
    // The usual order: the former one ends late.
    let [former, newest] = [(); 2].map(|()| feed.enter(&node("b"), now));
    let to_begin_again = feed.begin_again(&node("b"), newest);
    feed.leave(&node("b"), former, now, Timestamp(9));
    assert!(!to_begin_again.is_cancelled());
}

#[test]
fn what_a_node_told_is_shown_for_half_a_minute_after_its_stream() {
    let (feed, now) = (feed(), Instant::now());
    let stream = feed.enter(&node("a"), now);
    feed.tell(&node("a"), stream, &whole(&[1]));
    assert_eq!(feed.statuses(&name("east")).len(), 1);
    feed.leave(&node("a"), stream, now, Timestamp(7));
    assert_eq!(feed.statuses(&name("east")).len(), 0);
    assert_eq!(shown(&feed, now), [(1, "a".to_owned(), true)]);
    let before = now + KEPT - Duration::from_millis(1);
    assert_eq!(shown(&feed, before).len(), 1);
    // It comes back, and stands by what it said until it tells anew.
    let again = feed.enter(&node("a"), before);
    assert_eq!(shown(&feed, before), [(1, "a".to_owned(), false)]);
    feed.leave(&node("a"), again, before, Timestamp(8));
    assert_eq!(shown(&feed, now + KEPT).len(), 1);
    assert_eq!(shown(&feed, before + KEPT).len(), 0);
}

#[test]
fn only_the_newest_stream_of_a_node_counts() {
    let (feed, now) = (feed(), Instant::now());
    let old = feed.enter(&node("a"), now);
    let new = feed.enter(&node("a"), now);
    feed.tell(&node("a"), new, &whole(&[2]));
    feed.tell(&node("a"), old, &whole(&[1]));
    feed.leave(&node("a"), old, now, Timestamp(7));
    assert_eq!(shown(&feed, now), [(2, "a".to_owned(), false)]);
}

#[test]
fn a_node_that_stopped_does_not_have_what_its_heir_says_to_have_from_it() {
    let (feed, now) = (feed(), Instant::now());
    let of = |why: v1::ownership::Why, from: &str, seconds| Status {
        owned: vec![v1::Ownership {
            group: 1,
            why: why.into(),
            from: from.to_owned(),
            since: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..v1::Ownership::default()
        }],
        ..whole(&[])
    };
    let handed = v1::ownership::Why::HandedOver;
    let (a, b) = (feed.enter(&node("a"), now), feed.enter(&node("b"), now));
    feed.tell(&node("a"), a, &of(v1::ownership::Why::Unowned, "", 100));
    feed.tell(&node("b"), b, &of(handed, "a", 200));
    // While both have a stream both count.
    assert_eq!(shown(&feed, now).len(), 2);
    feed.leave(&node("a"), a, now, Timestamp(7));
    assert_eq!(shown(&feed, now), [(1, "b".to_owned(), false)]);
    // It took the group again since.
    let again = feed.enter(&node("a"), now);
    feed.tell(
        &node("a"),
        again,
        &of(v1::ownership::Why::OwnerGone, "", 300),
    );
    feed.leave(&node("a"), again, now, Timestamp(8));
    assert_eq!(shown(&feed, now).len(), 2);
}

fn presence(feed: &StatusFeed, nodes: &[&str], now: Instant) -> Presence {
    let nodes: Vec<Name> = nodes.iter().map(|node| name(node)).collect();
    feed.view(&name("east"), now).presence(&nodes)
}

fn absent(nodes: &[(&str, Option<i64>)]) -> Vec<Absent> {
    let nodes = nodes.iter();
    nodes
        .map(|(node, since)| Absent {
            node: name(node),
            since: since.map(Timestamp),
        })
        .collect()
}

#[test]
fn what_a_node_answers_for_is_not_known_until_it_has_told_all_or_had_time_to() {
    let began = Instant::now();
    let feed = StatusFeed::new(began);
    let at = |seconds| began + Duration::from_secs(seconds);
    let both = ["a", "b"];
    // Nobody has called since the service began.
    assert_eq!(presence(&feed, &both, at(29)), Presence::Unknown);
    let none = Presence::Away(absent(&[("a", None), ("b", None)]));
    assert_eq!(presence(&feed, &both, at(30)), none);
    assert_eq!(presence(&feed, &[], at(30)), Presence::Away(Vec::new()));
    let a = feed.enter(&node("a"), at(31));
    // A difference is not all of it.
    feed.tell(&node("a"), a, &owned(&[2]));
    assert_eq!(presence(&feed, &["a"], at(31)), Presence::Unknown);
    feed.tell(&node("a"), a, &whole(&[1]));
    assert_eq!(presence(&feed, &["a"], at(31)), Presence::Told);
    let only_b = Presence::Missing(absent(&[("b", None)]));
    assert_eq!(presence(&feed, &both, at(31)), only_b);
    // One that connects has as long, and is known afterwards to be silent about it.
    let b = feed.enter(&node("b"), at(40));
    assert_eq!(presence(&feed, &both, at(69)), Presence::Unknown);
    let silent = Presence::Mute(vec![name("b")]);
    assert_eq!(presence(&feed, &both, at(70)), silent);
    // It stands by what it told for as long as that is shown.
    feed.leave(&node("a"), a, at(80), Timestamp(1));
    feed.leave(&node("b"), b, at(80), Timestamp(2));
    let away = |who, since| Presence::Away(absent(&[(who, Some(since))]));
    assert_eq!(presence(&feed, &["a"], at(80)), away("a", 1));
    assert_eq!(presence(&feed, &["b"], at(80)), Presence::Unknown);
    feed.enter(&node("a"), at(90));
    assert_eq!(presence(&feed, &["a"], at(90)), Presence::Told);
    assert_eq!(presence(&feed, &["b"], at(110)), away("b", 2));
    // One that was away for longer tells all anew.
    feed.enter(&node("b"), at(120));
    assert_eq!(presence(&feed, &["b"], at(120)), Presence::Unknown);
}

#[test]
fn who_watches_is_told_of_whom_something_else_is_known_because_time_is_over() {
    let began = Instant::now();
    let feed = StatusFeed::new(began);
    let cluster = name("east");
    let at = |seconds| began + Duration::from_secs(seconds);
    let a = feed.enter(&node("a"), at(1));
    feed.tell(&node("a"), a, &whole(&[1]));
    feed.enter(&node("b"), at(2));
    feed.leave(&node("a"), a, at(3), Timestamp(1));
    let touched = feed.touched(&cluster);
    let told_at = |seconds| {
        feed.forget(at(seconds));
        touched.take()
    };
    let of = |matters: &[Matter]| Keys::These(matters.iter().cloned().collect());
    assert_eq!(told_at(29), of(&[]));
    assert_eq!(told_at(30), of(&[Matter::Nodes]));
    assert_eq!(told_at(32), of(&[Matter::Node(name("b"))]));
    let of_a = [Matter::Node(name("a")), Matter::Group(1)];
    assert_eq!(told_at(33), of(&of_a));
    assert_eq!(told_at(100_000), of(&[]));
}
