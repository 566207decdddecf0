use super::*;
use crate::clock::now as start;

const ENDPOINT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn node() -> NodeName {
    NodeName::from("b")
}

/// Runs the table until so many milliseconds after the start; gives what it asked for.
fn run(peers: &mut Peers, start: Instant, until: u64) -> Vec<(u128, Event)> {
    let mut seen = Vec::new();
    while let Some(at) = peers.next_deadline() {
        if at > start + Duration::from_millis(until) {
            break;
        }
        let events = peers.tick(at).into_iter();
        seen.extend(events.map(|event| ((at - start).as_millis(), event)));
    }
    seen
}

#[test]
fn a_named_node_is_presumed_to_live_until_it_was_greeted_in_vain() {
    let start = start();
    let mut peers = Peers::default();
    assert!(peers.name(&node(), ENDPOINT, start));
    assert!(!peers.name(&node(), ENDPOINT, start));
    let greet = |ms| (ms, Event::Greet(ENDPOINT));
    let failed = (350, Event::Failed(node()));
    let expected = [
        greet(0),
        greet(20),
        greet(70),
        greet(150),
        greet(250),
        failed,
        greet(850),
    ];
    assert_eq!(run(&mut peers, start, 1000), expected);
}

#[test]
fn a_named_node_whose_host_refuses_twice_has_failed() {
    let start = start();
    let mut peers = Peers::default();
    peers.name(&node(), ENDPOINT, start);
    run(&mut peers, start, 25);
    assert_eq!(peers.refused(ENDPOINT, start), []);
    assert_eq!(peers.refused(ENDPOINT, start), [Event::Failed(node())]);
}

#[test]
fn one_refusal_kills_no_member() {
    let start = start();
    let mut peers = Peers::default();
    peers.up(&node(), ENDPOINT, start);
    // Several datagrams were under way when it died, or only restarted.
    for _ in 0..3 {
        assert_eq!(peers.refused(ENDPOINT, start), []);
    }
    assert_eq!(run(&mut peers, start, 20), [(10, Event::Greet(ENDPOINT))]);
    peers.answered(&node());
    assert_eq!(run(&mut peers, start, 1000), []);
    assert_eq!(peers.live().count(), 1);
}

#[test]
fn a_member_that_refuses_the_next_greeting_too_is_dead() {
    let start = start();
    let mut peers = Peers::default();
    peers.up(&node(), ENDPOINT, start);
    peers.refused(ENDPOINT, start);
    run(&mut peers, start, 20);
    assert_eq!(peers.refused(ENDPOINT, start), [Event::Killed(node())]);
    assert_eq!(peers.live().count(), 0);
}

#[test]
fn a_member_that_refuses_once_and_then_says_nothing_is_dead() {
    let start = start();
    let mut peers = Peers::default();
    peers.up(&node(), ENDPOINT, start);
    peers.refused(ENDPOINT, start);
    let expected = [(10, Event::Greet(ENDPOINT)), (70, Event::Killed(node()))];
    assert_eq!(run(&mut peers, start, 100), expected);
}

#[test]
fn a_dead_member_is_greeted_twice_a_second_until_it_is_forgotten() {
    let start = start();
    let mut peers = Peers::default();
    peers.up(&node(), ENDPOINT, start);
    peers.down(&node(), start);
    let greeted = run(&mut peers, start, 5000);
    assert_eq!(greeted.len(), 10);
    assert_eq!(peers.keep_only(|_| true), []);
    assert_eq!(peers.keep_only(|_| false), [node()]);
    assert_eq!(peers.next_deadline(), None);
}

#[test]
fn a_live_member_is_kept_although_the_stream_does_not_name_it() {
    let start = start();
    let mut peers = Peers::default();
    peers.up(&node(), ENDPOINT, start);
    assert_eq!(peers.keep_only(|_| false), []);
    assert_eq!(peers.len(), 1);
}

#[test]
fn an_address_to_join_is_greeted_until_a_member_lives_there() {
    let start = start();
    let mut peers = Peers::default();
    peers.set_joins(&[ENDPOINT], start);
    let greet = |ms| (ms, Event::Greet(ENDPOINT));
    assert_eq!(run(&mut peers, start, 600), [greet(0), greet(500)]);
    peers.up(&node(), ENDPOINT, start);
    assert_eq!(run(&mut peers, start, 3000), []);
}

#[test]
fn a_node_that_goes_on_under_new_epochs_is_told_of_seldom() {
    let start = start();
    let mut peers = Peers::default();
    let told = |peers: &mut Peers, after: u64| {
        let at = start + Duration::from_secs(after);
        peers.up(&node(), ENDPOINT, at)
    };
    assert!(told(&mut peers, 0));
    assert!(!told(&mut peers, 1));
    assert!(!told(&mut peers, 9));
    assert!(told(&mut peers, 10));
    peers.down(&node(), start);
    assert!(told(&mut peers, 11), "one that was dead is news");
}

#[test]
fn a_member_that_dies_after_it_left_the_list_is_forgotten_a_minute_later() {
    let start = start();
    let mut peers = Peers::default();
    peers.name(&node(), ENDPOINT, start);
    peers.up(&node(), ENDPOINT, start);
    assert_eq!(peers.keep_only(|_| false), [], "it lives");
    peers.down(&node(), start);
    let seen = run(&mut peers, start, 100_000);
    let greeted = seen.len() - 1;
    assert_eq!(greeted, 119, "twice a second: the list may be behind");
    assert_eq!(seen[greeted], (60_000, Event::Forgotten(node())));
    assert!(peers.is_empty());
    assert_eq!(peers.next_deadline(), None);
}

#[test]
fn a_dead_member_is_greeted_for_ever_if_a_list_names_it_or_there_is_none() {
    let start = start();
    for has_list in [false, true] {
        let mut peers = Peers::default();
        peers.up(&node(), ENDPOINT, start);
        if has_list {
            assert_eq!(peers.keep_only(|_| false), []);
            peers.name(&node(), ENDPOINT, start);
        }
        peers.down(&node(), start);
        let seen = run(&mut peers, start, 100_000);
        assert_eq!(seen.len(), 200, "{has_list}");
        assert_eq!(peers.len(), 1);
    }
}
