//! What this node is and answers for, as it is told upstream: whole at the begin of a stream, then
//! what changed.
//!
//! Synchronous: it knows neither the stream nor the engine. Nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pharos_proto::v1;
use pharos_proto::v1::announcer_report::Status;
use pharos_proto::v1::ownership::{Answers, Why};
use prost::Message as _;

use crate::election::{Condition, GroupId, NodeName};
use crate::handover::Gained;

/// Longest report in bytes, as frames of the stream are.
const MAX_BYTES: usize = 64 * 1024;

/// Bytes that a group takes beside its own: a tag and a length.
const OVERHEAD: usize = 5;

/// Most BGP sessions that are told: with names of the longest they leave a report well below the size that is
/// refused, which would cost the node its stream.
const MAX_SESSIONS: usize = 256;

/// Why there is no session.
const SPEAKS_NO_BGP: &str = "this version speaks no BGP";

/// Everything that can be told. What does not change is shared between its values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    node: v1::NodeStatus,
    owned: BTreeMap<GroupId, Arc<v1::Ownership>>,
}

/// What is told of the addresses of a group that this node owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// They are not answered yet.
    pub probing: Vec<String>,
    /// They are, and ipam-service does not know of it.
    pub answered: Vec<String>,
    /// They are answered.
    pub answers: Vec<String>,
    /// They are to be answered, and no interface can.
    pub nowhere: Vec<String>,
}

impl Addresses {
    fn of(told: &v1::Ownership) -> Self {
        let answers = told.answers.clone().unwrap_or_default();
        Self {
            probing: told.probing.clone(),
            answered: told.answered.clone(),
            answers: answers.addresses,
            nowhere: answers.nowhere,
        }
    }

    fn put_into(self, told: &mut v1::Ownership) {
        told.probing = self.probing;
        told.answered = self.answered;
        told.answers = Some(Answers {
            addresses: self.answers,
            nowhere: self.nowhere,
        });
    }
}

impl Standing {
    /// What the node says of itself; whether that is news.
    pub fn set_node(
        &mut self,
        own: &Condition,
        members_unreachable: bool,
        deaf: Vec<String>,
    ) -> bool {
        let node = v1::NodeStatus {
            ready: own.ready,
            hold_down: own.hold_down,
            draining: own.draining,
            interfaces: own.answering().into_iter().collect(),
            members_unreachable,
            deaf,
            bgp_sessions: std::mem::take(&mut self.node.bgp_sessions),
        };
        let is_news = v1::NodeStatus {
            bgp_sessions: node.bgp_sessions.clone(),
            ..std::mem::take(&mut self.node)
        } != node;
        self.node = node;
        is_news
    }

    /// The BGP peers that the node is to have sessions with; whether that is news. It has none.
    pub fn set_sessions(&mut self, peers: BTreeSet<String>) -> bool {
        let sessions = peers.into_iter().take(MAX_SESSIONS);
        let sessions = sessions.map(|peer| v1::BgpSession {
            peer,
            state: v1::bgp_session::State::Idle.into(),
            detail: SPEAKS_NO_BGP.to_owned(),
        });
        let sessions = sessions.collect();
        let is_news = self.node.bgp_sessions != sessions;
        self.node.bgp_sessions = sessions;
        is_news
    }

    /// The node answers for a group from now on; `at`: since 1970.
    pub fn gain(
        &mut self,
        group: GroupId,
        at: Duration,
        why: &Gained,
        (names, addresses): (BTreeSet<String>, Addresses),
    ) {
        let (why, from) = match why {
            Gained::Unowned => (Why::Unowned, None),
            Gained::Inherited => (Why::Inherited, None),
            Gained::Orphaned => (Why::OwnerGone, None),
            Gained::HandedOver(from) => (Why::HandedOver, Some(from)),
        };
        let mut ownership = v1::Ownership {
            group: group.0,
            since: Some(timestamp(at)),
            why: why.into(),
            from: from.map(NodeName::to_string).unwrap_or_default(),
            interfaces: names.into_iter().collect(),
            ..v1::Ownership::default()
        };
        addresses.put_into(&mut ownership);
        self.owned.insert(group, Arc::new(ownership));
    }

    /// Where it answers for a group changed; whether that is news.
    pub fn set_interfaces(&mut self, group: GroupId, names: BTreeSet<String>) -> bool {
        let Some(known) = self.owned.get_mut(&group) else {
            return false;
        };
        if known.interfaces.iter().eq(&names) {
            return false;
        }
        Arc::make_mut(known).interfaces = names.into_iter().collect();
        true
    }

    /// Which addresses of a group it answers changed; whether that is news.
    pub fn set_addresses(&mut self, group: GroupId, addresses: Addresses) -> bool {
        let Some(known) = self.owned.get_mut(&group) else {
            return false;
        };
        if Addresses::of(known) == addresses {
            return false;
        }
        addresses.put_into(Arc::make_mut(known));
        true
    }

    #[cfg(test)]
    pub fn addresses(&self, group: GroupId) -> Addresses {
        let known = self.owned.get(&group);
        known.map(|known| Addresses::of(known)).unwrap_or_default()
    }

    #[cfg(test)]
    pub fn interfaces(&self, group: GroupId) -> Vec<String> {
        let known = self.owned.get(&group);
        known
            .map(|known| known.interfaces.clone())
            .unwrap_or_default()
    }

    /// It does not answer for a group any more.
    pub fn lose(&mut self, group: GroupId) {
        self.owned.remove(&group);
    }
}

/// What has been told on a stream.
#[derive(Debug, Default)]
pub struct Teller {
    told: Option<Standing>,
}

impl Teller {
    /// What is to be told now, in as many parts as its size asks for; none: nothing changed.
    pub fn tell(&mut self, now: Standing) -> Vec<Status> {
        let mut open = Status {
            whole: self.told.is_none(),
            ..Status::default()
        };
        let before = self.told.take().unwrap_or_default();
        if open.whole || before.node != now.node {
            open.node = Some(now.node.clone());
        }
        let gone = before.owned.keys().filter(|id| !now.owned.contains_key(id));
        open.lost = gone.map(|group| group.0).collect();
        let mut parts = Vec::new();
        let mut size = open.encoded_len();
        for (group, ownership) in &now.owned {
            if before.owned.get(group) == Some(ownership) {
                continue;
            }
            let bytes = ownership.encoded_len() + OVERHEAD;
            if size + bytes > MAX_BYTES {
                parts.push(std::mem::take(&mut open));
                size = 0;
            }
            size += bytes;
            open.owned.push(v1::Ownership::clone(ownership));
        }
        if open != Status::default() {
            parts.push(open);
        }
        if parts.first().is_some_and(|first| first.whole)
            && let Some((_last, others)) = parts.split_last_mut()
        {
            others.iter_mut().for_each(|part| part.more = true);
        }
        self.told = Some(now);
        parts
    }
}

fn timestamp(at: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        // Below a thousand million.
        nanos: i32::try_from(at.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_millis(1500);

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn condition(hold_down: bool) -> Condition {
        Condition {
            ready: true,
            hold_down,
            draining: false,
            interfaces: names(&["eth0"]),
            interfaces6: names(&["eth0"]),
            macs: BTreeSet::new(),
        }
    }

    #[test]
    fn a_stream_begins_with_everything_and_goes_on_with_what_changed() {
        let deaf = vec!["eth0 answers no ndp: out of memory".to_owned()];
        let mut standing = Standing::default();
        assert!(standing.set_node(&condition(true), false, Vec::new()));
        let from = Gained::HandedOver(NodeName::from("a"));
        standing.gain(
            GroupId(7),
            AT,
            &from,
            (names(&["eth0"]), Addresses::default()),
        );
        let probing = Addresses {
            probing: vec!["192.0.2.7".to_owned()],
            ..Addresses::default()
        };
        standing.gain(GroupId(8), AT, &Gained::Orphaned, (names(&[]), probing));
        let mut teller = Teller::default();
        let whole = teller.tell(standing.clone());
        assert_eq!(whole.len(), 1);
        assert!(whole[0].whole && whole[0].lost.is_empty());
        let node = whole[0].node.as_ref().expect("told");
        assert!(node.ready && node.hold_down && node.interfaces == ["eth0"]);
        let seven = &whole[0].owned[0];
        assert_eq!((seven.group, seven.from.as_str()), (7, "a"));
        assert_eq!(seven.why(), Why::HandedOver);
        let since = seven.since.expect("told");
        assert_eq!((since.seconds, since.nanos), (1, 500_000_000));
        assert_eq!(teller.tell(standing.clone()), []);

        assert!(!standing.set_node(&condition(true), false, Vec::new()));
        assert!(standing.set_node(&condition(false), false, Vec::new()));
        assert!(standing.set_node(&condition(false), false, deaf.clone()));
        assert!(!standing.set_interfaces(GroupId(8), names(&[])));
        assert!(standing.set_interfaces(GroupId(8), names(&["eth1"])));
        assert!(!standing.set_interfaces(GroupId(9), names(&["eth1"])));
        standing.lose(GroupId(7));
        let changed = teller.tell(standing.clone());
        assert_eq!(changed.len(), 1);
        assert!(!changed[0].whole);
        assert_eq!(changed[0].lost, [7]);
        assert_eq!(changed[0].owned[0].interfaces, ["eth1"]);
        let node = changed[0].node.as_ref().expect("told");
        assert!(!node.hold_down && node.deaf == deaf);
        // Another stream knows nothing of this one.
        assert!(Teller::default().tell(standing)[0].whole);
    }

    #[test]
    fn a_session_that_the_node_is_to_have_is_told_as_idle_and_outlives_other_news() {
        let mut standing = Standing::default();
        assert!(!standing.set_sessions(names(&[])));
        assert!(standing.set_sessions(names(&["tor"])));
        assert!(!standing.set_sessions(names(&["tor"])));
        assert!(standing.set_node(&condition(true), false, Vec::new()));
        assert!(!standing.set_node(&condition(true), false, Vec::new()));
        let mut teller = Teller::default();
        let node = teller.tell(standing.clone())[0].node.clone();
        let session = v1::BgpSession {
            peer: "tor".to_owned(),
            state: v1::bgp_session::State::Idle.into(),
            detail: "this version speaks no BGP".to_owned(),
        };
        assert_eq!(node.expect("told").bgp_sessions, [session]);
        assert!(standing.set_sessions(names(&[])));
        let node = teller.tell(standing)[0].node.clone();
        assert_eq!(node.expect("told").bgp_sessions, []);
    }

    #[test]
    fn of_very_many_sessions_only_the_first_are_told() {
        // ipam-service reads no report beyond 256 KiB.
        const REFUSED: usize = 256 * 1024;
        let mut standing = Standing::default();
        let peers = (0..5000).map(|number| format!("{number:0253}"));
        assert!(standing.set_sessions(peers.collect()));
        let told = Teller::default().tell(standing);
        let sessions = &told[0].node.as_ref().expect("told").bgp_sessions;
        assert_eq!(sessions.len(), MAX_SESSIONS);
        assert_eq!(sessions[255].peer, format!("{:0253}", 255));
        assert!(told.iter().all(|part| part.encoded_len() < REFUSED / 2));
    }

    fn many(since: Duration) -> Standing {
        let mut standing = Standing::default();
        for group in 0..5000 {
            let told = (names(&["an-interface"]), Addresses::default());
            standing.gain(GroupId(group), since, &Gained::Unowned, told);
        }
        standing
    }

    #[test]
    fn what_is_large_is_told_in_parts_of_which_the_first_is_whole() {
        let mut teller = Teller::default();
        let parts = teller.tell(many(AT));
        assert!(parts.len() > 1);
        assert!(parts.iter().all(|part| part.encoded_len() <= MAX_BYTES));
        let whole: Vec<bool> = parts.iter().map(|part| part.whole).collect();
        assert!(whole[0] && !whole[1..].contains(&true));
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        let (last, others) = more.split_last().expect("several");
        assert!(!last && !others.contains(&false), "{more:?}");
        let told = parts.iter().map(|part| part.owned.len()).sum::<usize>();
        assert_eq!(told, 5000);
        // Differences say nothing of the rest.
        let parts = teller.tell(many(2 * AT));
        assert!(parts.len() > 1 && parts.iter().all(|part| !part.whole && !part.more));
    }

    #[test]
    fn a_node_without_anything_says_so_too() {
        let parts = Teller::default().tell(Standing::default());
        assert_eq!(parts.len(), 1);
        assert!(parts[0].whole);
    }
}
