//! Other machines that nodes see.

use super::*;

fn conflicts(feed: &StatusFeed, cluster: &str, now: Instant) -> Vec<SeenConflict> {
    let seen = feed.conflicts(&name(cluster), None, usize::MAX, now);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

#[test]
fn a_conflict_is_shown_until_it_is_not_seen_any_more() {
    let (feed, now) = (feed(), Instant::now());
    let conflict = Conflict {
        address: "192.0.2.1".to_owned(),
        mac: "02:00:00:00:00:09".to_owned(),
        ..Conflict::default()
    };
    feed.see(&node("a"), &address(), &conflict, now, Timestamp(1));
    let again = now + Duration::from_secs(60);
    feed.see(&node("a"), &address(), &conflict, again, Timestamp(2));
    let seen = conflicts(&feed, "east", now + CONFLICT_KEPT);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].first_seen, Timestamp(1));
    assert_eq!(seen[0].last_seen, Timestamp(2));
    assert_eq!(seen[0].conflict, conflict);
    assert!(conflicts(&feed, "west", now).is_empty());
    assert!(conflicts(&feed, "east", again + CONFLICT_KEPT).is_empty());
}

#[test]
fn a_conflict_that_its_node_says_is_over_is_not_shown() {
    let (feed, now) = (feed(), Instant::now());
    let conflict = |mac: &str, over| Conflict {
        address: "192.0.2.1".to_owned(),
        mac: mac.to_owned(),
        over,
        ..Conflict::default()
    };
    for mac in ["02:00:00:00:00:09", "02:00:00:00:00:08"] {
        feed.see(
            &node("a"),
            &address(),
            &conflict(mac, false),
            now,
            Timestamp(1),
        );
    }
    let over = conflict("02:00:00:00:00:09", true);
    for who in ["b", "a", "a"] {
        feed.see(&node(who), &address(), &over, now, Timestamp(2));
    }
    let seen = conflicts(&feed, "east", now);
    let macs: Vec<&str> = seen.iter().map(|one| &*one.conflict.mac).collect();
    assert_eq!(macs, ["02:00:00:00:00:08"]);
}

#[test]
fn a_machine_is_shown_at_the_address_that_it_uses() {
    let (feed, now) = (feed(), Instant::now());
    let cluster = name("east");
    // Of no node anything else is known later.
    feed.forget(now + KEPT);
    let touched = feed.touched(&cluster);
    let conflict = Conflict {
        mac: "02:00:00:00:00:09".to_owned(),
        ..Conflict::default()
    };
    feed.see(&node("a"), &address(), &conflict, now, Timestamp(1));
    feed.see(&node("b"), &address(), &conflict, now, Timestamp(1));
    let other = AssignmentKey {
        space: name("other"),
        ..address()
    };
    let at = |key: &AssignmentKey, now| feed.view(&cluster, now).conflicts(key).0.len();
    assert_eq!((at(&address(), now), at(&other, now)), (2, 0));
    let of_address = || Keys::These(BTreeSet::from([Matter::Address(address())]));
    assert_eq!(touched.take(), of_address());
    assert_eq!(at(&address(), now + CONFLICT_KEPT), 0);
    assert_eq!(touched.take(), of_address());
}

#[test]
fn of_the_many_machines_at_one_address_some_are_shown_and_lists_have_all_page_by_page() {
    let (feed, now) = (feed(), Instant::now());
    let conflict = |number: usize| Conflict {
        mac: format!("{number:02}"),
        ..Conflict::default()
    };
    let all = CONFLICTS_SHOWN + 1;
    for number in 0..all {
        let who = node(["a", "b"][number % 2]);
        feed.see(&who, &address(), &conflict(number), now, Timestamp(1));
    }
    let cluster = name("east");
    let (shown, is_more) = feed.view(&cluster, now).conflicts(&address());
    assert_eq!((shown.len(), is_more), (CONFLICTS_SHOWN, true));
    let over = Conflict {
        over: true,
        ..conflict(0)
    };
    feed.see(&node("a"), &address(), &over, now, Timestamp(2));
    let (shown, is_more) = feed.view(&cluster, now).conflicts(&address());
    assert_eq!((shown.len(), is_more), (CONFLICTS_SHOWN, false));
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = feed.conflicts(&cluster, after.as_ref(), 5, now);
        let Some((last, _)) = page.last() else {
            break;
        };
        assert!(page.len() <= 5);
        after = Some(last.clone());
        listed.extend(page.into_iter().map(|(key, seen)| {
            assert_eq!((&key.node, &key.mac), (&seen.node, &seen.conflict.mac));
            key
        }));
    }
    assert_eq!(listed.len(), CONFLICTS_SHOWN);
    assert!(listed.is_sorted());
}
