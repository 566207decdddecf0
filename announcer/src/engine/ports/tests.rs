use pnet_base::MacAddr;

use super::*;

fn uplink(index: u32, life: u64, turns: u64) -> Uplink {
    Uplink {
        port: Port {
            index,
            name: format!("eth{index}"),
            mac: MacAddr(2, 0, 0, 0, 0, 1),
            link_local: Some(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
        },
        life,
        turns,
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn an_interface_that_turned_and_one_that_was_replaced_are_told_apart() {
    let known = Uplinks {
        told: vec![uplink(1, 1, 0), uplink(2, 2, 0), uplink(3, 3, 0)],
        ..Uplinks::default()
    };
    let mut moved = uplink(3, 3, 1);
    moved.port.mac = MacAddr(2, 0, 0, 0, 0, 9);
    // The new one has no link-local address yet.
    let mut replaced = uplink(2, 5, 0);
    replaced.port.link_local = None;
    let news = known.news(&[uplink(1, 1, 1), replaced, moved, uplink(4, 4, 0)]);
    // Those that are new, or have a new address, are opened anew anyway.
    let expected = News {
        turned: [1].into(),
        replaced: [2].into(),
        new: [3, 4].into(),
    };
    assert_eq!(news, expected);
}

#[test]
fn only_what_answered_before_and_was_gone_or_the_first_of_all_is_a_return() {
    let mut uplinks = Uplinks::default();
    let mut comes_back =
        |before: &[&str], now: &[&str]| uplinks.comes_back(&names(before), &names(now));
    assert!(!comes_back(&[], &[]), "none");
    assert!(comes_back(&[], &["eth0"]), "the first");
    assert!(!comes_back(&["eth0"], &["eth0"]), "nothing new");
    assert!(!comes_back(&["eth0"], &["eth0", "eth5"]), "a new one");
    assert!(!comes_back(&["eth0", "eth5"], &["eth0"]), "one is gone");
    assert!(comes_back(&["eth0"], &["eth0", "eth5"]), "it is back");
    assert!(!comes_back(&["eth0", "eth5"], &[]), "none");
    assert!(comes_back(&[], &["eth7"]), "the first again");
}
