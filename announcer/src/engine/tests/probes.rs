//! Addresses that nobody has answered for yet, under an engine that runs when it is told to, on a machine
//! where nobody answers.

use super::*;
use crate::fenced::Told;
use crate::l2::burst::Spot;
use crate::l2::reply::AddressDuty;
use crate::l2::responder::ResponderThread;

pub(super) const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(super) const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1));
pub(super) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const FIRST_MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const OTHER_MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

pub(super) struct Bench {
    engine: Engine,
    now: Instant,
    pub(super) status: watch::Receiver<Standing>,
    _thread: ResponderThread,
}

impl Bench {
    /// With one interface that answers; `None`: this machine lets no test answer.
    pub(super) fn start(link_local: Option<Ipv6Addr>) -> Option<Self> {
        if !skip::can_use_namespaces() {
            return None;
        }
        let metrics = Metrics::register(&mut Registry::default());
        let (responder, thread, _) = crate::l2::responder::start(&metrics).expect("starts");
        let (status, told) = watch::channel(Standing::default());
        let settings = settings(&metrics, responder);
        let mut bench = Self {
            engine: Engine::new(settings, watch::channel(0).0, status),
            now: clock::now(),
            status: told,
            _thread: thread,
        };
        bench.uplinks(vec![loopback(FIRST_MAC, link_local)]);
        bench.tell(Command::Ready);
        Some(bench)
    }

    pub(super) fn tell(&mut self, command: Command) {
        self.engine.on_command(command, self.now);
        self.engine.settle(self.now);
    }

    pub(super) fn uplinks(&mut self, uplinks: Vec<Uplink>) {
        self.tell(Command::Uplinks(uplinks));
    }

    /// These are the addresses of the group, and this node owns it.
    pub(super) fn own(&mut self, group: u64, addresses: &[(IpAddr, bool)]) {
        let list = assigned(&["a"]).upserts.remove(0);
        let upserts = addresses.iter().map(|(address, probe)| Assigned {
            key: Key {
                address: *address,
                ..list.key.clone()
            },
            group: GroupId(group),
            probe: *probe,
            ..list.clone()
        });
        let difference = Difference {
            upserts: upserts.collect(),
            ..Difference::default()
        };
        self.tell(Command::Assignments {
            difference,
            mark: 1,
        });
        for _ in 0..100 {
            if self.engine.shown.contains_key(&GroupId(group)) {
                return;
            }
            self.now += Duration::from_millis(100);
            self.engine.tick(self.now);
            self.engine.settle(self.now);
        }
        panic!("nobody owns it");
    }

    fn duty(&self, address: IpAddr) -> Option<AddressDuty> {
        self.engine.responder.duty(Spot {
            interface: 1,
            address,
        })
    }

    fn is_probed(&self, address: IpAddr) -> bool {
        matches!(self.duty(address), Some(AddressDuty::Probe { .. }))
    }

    /// What is told of a group as not answered yet.
    fn unanswered(&self, group: u64) -> Vec<String> {
        self.status.borrow().addresses(GroupId(group)).probing
    }
}

#[test]
fn an_interface_that_changes_or_goes_and_comes_ends_no_probe() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, true)]);
    assert!(bench.is_probed(V4));
    bench.uplinks(vec![loopback(OTHER_MAC, None)]);
    assert!(bench.is_probed(V4), "another hardware address");
    bench.uplinks(Vec::new());
    assert_eq!(bench.duty(V4), None);
    assert_eq!(bench.unanswered(1), [V4.to_string()]);
    bench.uplinks(vec![loopback(OTHER_MAC, None)]);
    assert!(bench.is_probed(V4), "gone and back");
}

#[test]
fn an_address_that_could_not_be_answered_yet_is_asked_for_when_it_can_be() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, true), (V6, true)]);
    assert_eq!(bench.unanswered(1), [V4.to_string(), V6.to_string()]);
    bench.uplinks(vec![loopback(FIRST_MAC, Some(LINK_LOCAL))]);
    assert!(bench.is_probed(V6));
}

#[test]
fn an_address_that_joins_one_that_is_answered_in_a_new_group_is_asked_for() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, false)]);
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
    bench.own(2, &[(V4, false), (OTHER, true)]);
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
    assert!(bench.is_probed(OTHER));
}

#[test]
fn what_this_node_began_with_is_answered_at_once_and_told() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.tell(Command::Tried(vec![V4]));
    // Somebody else owns it for a while.
    let mut other = assigned(&["b"]);
    other.upserts[0].key.address = V4;
    other.upserts[0].probe = true;
    bench.tell(Command::Assignments {
        difference: other,
        mark: 1,
    });
    bench.own(1, &[(V4, true), (OTHER, true)]);
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
    assert!(bench.is_probed(OTHER), "it came later");
    let told = bench.status.borrow().addresses(GroupId(1)).answered;
    assert_eq!(told, [V4.to_string()]);
}

/// The address is fenced, and this node, under its first term, or another one owns it.
fn fenced_of(owner: &str, epoch: u64) -> Difference {
    let mut difference = assigned(&["a", "b"]);
    difference.upserts[0].fenced = Some(Told {
        owner: Some((owner.into(), Term(1))),
        epoch,
        ..Told::default()
    });
    difference
}

#[test]
fn what_is_fenced_no_more_is_answered_all_the_time_by_the_owner_that_was_named() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.tell(Command::Lease(Some(Term(1))));
    let difference = fenced_of("a", 1);
    bench.tell(Command::Assignments {
        difference,
        mark: 1,
    });
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
    // It is not the first of the list, and would wait its turn for what nobody owns.
    let difference = assigned(&["b", "a"]);
    bench.tell(Command::Assignments {
        difference,
        mark: 2,
    });
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
    assert!(bench.engine.shown.contains_key(&GroupId(1)));
}

#[test]
fn what_was_asked_for_before_it_was_fenced_is_not_asked_for_by_a_later_owner() {
    let Some(mut bench) = Bench::start(None) else {
        return;
    };
    bench.own(1, &[(V4, true)]);
    assert!(bench.is_probed(V4));
    bench.tell(Command::Lease(Some(Term(1))));
    // Another node is named, and answers in the end.
    for (owner, epoch, probe) in [("b", 1, true), ("a", 2, false)] {
        let mut difference = fenced_of(owner, epoch);
        difference.upserts[0].probe = probe;
        bench.tell(Command::Assignments {
            difference,
            mark: 1,
        });
    }
    assert_eq!(bench.duty(V4), Some(AddressDuty::Answer));
}
