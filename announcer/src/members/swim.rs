//! The SWIM protocol: one random probe per period and node, whatever the size of the cluster.
//!
//! This wraps `foca`, which is a pure state machine: bytes and time go in; datagrams, and who came
//! and went, come out. It also gossips the version of what each node says about itself, so that
//! whoever missed a change asks for it.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foca::{
    AccumulatingRuntime, BroadcastHandler, Config, Foca, Identity, Invalidates, Member,
    OwnedNotification, PeriodicParams, State, Timer,
};
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Peer;
use super::wire::Version;
use crate::election::NodeName;
use codec::Codec;

mod codec;
#[cfg(test)]
mod tests;

/// One probe per period. With the two below a node that falls silent in a cluster of three is
/// replaced after 420 ms on average and 540 ms at worst, and one that is merely slow may be silent
/// for 240 ms without being suspected for long.
const PROBE_PERIOD: Duration = Duration::from_millis(120);
/// How long a probe may take before others are asked to try; hundreds of LAN round trips.
const PROBE_RTT: Duration = Duration::from_millis(50);
/// How long a suspected node may object.
const SUSPICION: Duration = Duration::from_millis(180);
/// How long a dead run of a node is remembered; a new run has a new epoch and is not affected.
const FORGET_DEAD: Duration = Duration::from_secs(24 * 3600);
/// How often a version that is known is gossiped again, each in turn: whoever was away when it was
/// news, and does not hear the node itself, learns of it by this. By how many nodes at once it is
/// done grows with their number, so the time that it takes hardly does.
const GOSSIP_AGAIN: Duration = Duration::from_millis(100);
/// So many of the first members that it gets to know are asked by a newcomer whom they know: some may
/// not hear its greeting.
const ASKED_FOR_MEMBERS: usize = 3;
/// No clock gets there: who says that it believes a later run dead speaks nonsense. Half of what is
/// accepted of a [`Peer`], so that there is always a next one.
const MOST_OUTLIVED: u64 = Peer::LAST_EPOCH / 2;
/// Most bytes of one message: leaves room for the seal within an Ethernet frame.
const MAX_PACKET: NonZeroUsize = NonZeroUsize::new(1300).unwrap();

/// Something that SWIM asks for or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send these bytes.
    Send(Peer, Vec<u8>),
    /// A node lives.
    Up(Peer),
    /// A node is dead.
    Down(Peer),
    /// A node said something new about itself.
    News {
        node: NodeName,
        epoch: u64,
        version: u64,
    },
    /// Others believed this node dead: it goes on under this epoch.
    Renewed(u64),
}

type Machine = Foca<Peer, Codec, StdRng, Gossip>;

/// The machine and its timers.
pub struct Swim {
    foca: Machine,
    runtime: AccumulatingRuntime<Peer>,
    timers: BTreeMap<(Instant, u64), Timer<Peer>>,
    sequence: u64,
    gossip: Arc<Mutex<Heard>>,
    gossip_again: Instant,
    /// Whose version was gossiped again last.
    gossiped: String,
    /// The first epoch of this process, and when that was.
    began: (u64, Instant),
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim")
            .field("me", self.foca.identity())
            .field("members", &self.foca.num_members())
            .finish_non_exhaustive()
    }
}

impl Swim {
    /// A node that knows nobody.
    pub fn new(me: Peer, seed: u64, now: Instant) -> Self {
        let began = (me.epoch, now);
        let gossip = Arc::new(Mutex::new(Heard::default()));
        let handler = Gossip(gossip.clone());
        let rng = StdRng::seed_from_u64(seed);
        Self {
            foca: Foca::with_custom_broadcast(me, config(), rng, Codec, handler),
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            sequence: 0,
            gossip,
            gossip_again: now + GOSSIP_AGAIN,
            gossiped: String::new(),
            began,
        }
    }

    /// This node's own run.
    pub fn me(&self) -> &Peer {
        self.foca.identity()
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        Some(timer.map_or(self.gossip_again, |at| at.min(self.gossip_again)))
    }

    /// A node made itself known.
    pub fn introduce(&mut self, peer: Peer, now: Instant) -> Vec<Event> {
        let alive = std::iter::once(Member::alive(peer));
        let result = self.foca.apply_many(alive, true, &mut self.runtime);
        self.drain(result, now)
    }

    /// A node is dead beyond doubt.
    pub fn declare_dead(&mut self, node: &str, now: Instant) -> Vec<Event> {
        let Some(peer) = self.active(node) else {
            return Vec::new();
        };
        let dead = std::iter::once(Member::down(peer));
        let mut result = self.foca.apply_many(dead, true, &mut self.runtime);
        if result.is_ok() {
            result = self.foca.gossip(&mut self.runtime);
        }
        self.drain(result, now)
    }

    /// The epoch up to which a node is believed dead; 0 if it lives or is not known.
    pub fn dead_epoch(&self, node: &str) -> u64 {
        let known = self
            .foca
            .iter_membership_state()
            .find(|member| &*member.id().node == node);
        known
            .filter(|member| member.state() == State::Down)
            .map_or(0, |member| member.id().epoch)
    }

    /// The running epoch of a member that lives.
    pub fn active(&self, node: &str) -> Option<Peer> {
        let mut members = self.foca.iter_members();
        members
            .find(|member| &*member.id().node == node)
            .map(|member| member.id().clone())
    }

    /// Somebody believes this node dead up to this epoch: go on under a later one.
    pub fn outlive(&mut self, epoch: u64, now: Instant) -> Vec<Event> {
        if epoch < self.me().epoch || epoch > MOST_OUTLIVED {
            return Vec::new();
        }
        let renewed = Peer {
            epoch: self.next_epoch(now).max(epoch + 1),
            ..self.me().clone()
        };
        self.change(renewed, now)
    }

    /// This node is reached elsewhere now.
    pub fn set_endpoint(&mut self, endpoint: std::net::SocketAddr, now: Instant) -> Vec<Event> {
        let moved = Peer {
            endpoint,
            epoch: self.next_epoch(now),
            node: self.me().node.clone(),
        };
        self.change(moved, now)
    }

    /// Tells everybody that this node leaves.
    pub fn leave(&mut self, now: Instant) -> Vec<Event> {
        let result = self.foca.leave_cluster(&mut self.runtime);
        self.drain(result, now)
    }

    /// Bytes came in.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) -> Vec<Event> {
        let result = self.foca.handle_data(bytes, &mut self.runtime);
        self.drain(result, now)
    }

    /// This node has something new to say about itself.
    pub fn announce_version(&mut self, version: u64, now: Instant) -> Vec<Event> {
        let me = self.me();
        let item = Version {
            node: me.node.to_string(),
            epoch: me.epoch,
            version,
        };
        let result = self.foca.add_broadcast(&item.encode_to_vec()).map(|_| ());
        self.drain(result, now)
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        if self.gossip_again <= now {
            self.gossip_again = now + GOSSIP_AGAIN;
            let result = self.gossip_known();
            events.extend(self.drain(result, now));
        }
        while let Some(((at, sequence), _)) = self.timers.first_key_value() {
            let key = (*at, *sequence);
            if key.0 > now {
                break;
            }
            if let Some(timer) = self.timers.remove(&key) {
                let result = self.foca.handle_timer(timer, &mut self.runtime);
                events.extend(self.drain(result, now));
            }
        }
        events
    }

    /// Spreads the version of the next living node again.
    fn gossip_known(&mut self) -> Result<(), foca::Error> {
        let heard = self.gossip.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (Bound::Excluded(self.gossiped.clone()), Bound::Unbounded);
        let mut turn = heard.latest.range(after).chain(&heard.latest);
        let next = turn.next().map(|(node, latest)| (node.clone(), *latest));
        drop(heard);
        let Some((node, (epoch, version))) = next else {
            return Ok(());
        };
        self.gossiped.clone_from(&node);
        let lives = self.active(&node).is_some_and(|peer| peer.epoch == epoch);
        if !lives && *self.me().node != *node {
            return Ok(());
        }
        let item = Version {
            node,
            epoch,
            version,
        };
        self.foca.add_broadcast(&item.encode_to_vec()).map(|_| ())
    }

    /// Shifts all timers: for so long this process did not run, and nobody's silence in that time
    /// means anything.
    pub fn postpone(&mut self, by: Duration) {
        self.gossip_again += by;
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers
            .into_iter()
            .map(|((at, sequence), timer)| ((at + by, sequence), timer))
            .collect();
    }

    /// The next epoch of this node: it goes with the clock, so that it is beyond whatever began
    /// before now, and not only one further.
    fn next_epoch(&self, now: Instant) -> u64 {
        let (first, began) = self.began;
        let since = now.saturating_duration_since(began).as_millis();
        let by_clock = first.saturating_add(u64::try_from(since).unwrap_or(u64::MAX));
        by_clock.max(self.me().epoch + 1)
    }

    fn change(&mut self, identity: Peer, now: Instant) -> Vec<Event> {
        let epoch = identity.epoch;
        let mut result = self.foca.change_identity(identity, &mut self.runtime);
        if result.is_ok() {
            // It begins to probe again only when it looks at its members.
            result = self
                .foca
                .apply_many(std::iter::empty(), false, &mut self.runtime);
        }
        let mut events = self.drain(result, now);
        events.push(Event::Renewed(epoch));
        events
    }

    /// A newcomer asks the first that it gets to know whom they know.
    fn ask_for_members(&mut self, notifications: &[OwnedNotification<Peer>]) {
        for notification in notifications {
            if let OwnedNotification::MemberUp(peer) = notification
                && self.foca.num_members() <= ASKED_FOR_MEMBERS
                && let Err(error) = self.foca.announce(peer.clone(), &mut self.runtime)
            {
                tracing::debug!(%error, "cannot ask for members");
            }
        }
    }

    fn drain(&mut self, result: Result<(), foca::Error>, now: Instant) -> Vec<Event> {
        if let Err(error) = result {
            // Old datagrams, and probes cut short by a renewal, are part of normal life.
            tracing::debug!(%error, "membership protocol");
        }
        let mut events = Vec::new();
        let mut is_renewed = false;
        let notifications: Vec<OwnedNotification<Peer>> =
            std::iter::from_fn(|| self.runtime.to_notify()).collect();
        self.ask_for_members(&notifications);
        while let Some((to, bytes)) = self.runtime.to_send() {
            events.push(Event::Send(to, bytes.to_vec()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.sequence += 1;
            self.timers.insert((now + after, self.sequence), timer);
        }
        for notification in notifications {
            match notification {
                OwnedNotification::MemberUp(peer) => events.push(Event::Up(peer)),
                OwnedNotification::MemberDown(peer) => events.push(Event::Down(peer)),
                OwnedNotification::Rename(_, peer) => {
                    // A new run of a node: if it lives it is news like any other.
                    if self.active(&peer.node).as_ref() == Some(&peer) {
                        events.push(Event::Up(peer));
                    }
                }
                OwnedNotification::Rejoin(_) => is_renewed = true,
                OwnedNotification::Active
                | OwnedNotification::Idle
                | OwnedNotification::Defunct => {}
            }
        }
        let mut heard = self.gossip.lock().unwrap_or_else(PoisonError::into_inner);
        events.append(&mut heard.news);
        drop(heard);
        if is_renewed {
            // To one further than before. Where two announcers have one name, and one began an
            // hour later, that would be one of millions of such steps, as fast as the network is.
            let renewed = Peer {
                epoch: self.next_epoch(now),
                ..self.me().clone()
            };
            events.extend(self.change(renewed, now));
        }
        events
    }
}

fn config() -> Config {
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
        // log10(1000 nodes) x 4, and a little.
        max_transmissions: NonZeroU8::new(15).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(FORGET_DEAD),
        max_packet_size: MAX_PACKET,
        notify_down_members: true,
        periodic_announce: Some(periodic(30_000, 1)),
        // Nodes believed dead are greeted by `peers`.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(periodic(100, 3)),
    }
}

fn periodic(millis: u64, members: usize) -> PeriodicParams {
    PeriodicParams {
        frequency: Duration::from_millis(millis),
        num_members: NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN),
    }
}

impl Identity for Peer {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            epoch: self.epoch + 1,
            ..self.clone()
        })
    }

    fn addr(&self) -> NodeName {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.epoch > adversary.epoch
    }
}

/// What is known of the versions that nodes gossip.
#[derive(Debug, Default)]
struct Heard {
    latest: BTreeMap<String, (u64, u64)>,
    news: Vec<Event>,
}

struct Gossip(Arc<Mutex<Heard>>);

/// Newer news of the same node replace older ones.
struct About(String);

impl Invalidates for About {
    fn invalidates(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl BroadcastHandler<Peer> for Gossip {
    type Key = About;
    type Error = prost::DecodeError;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Peer>,
    ) -> Result<Option<About>, prost::DecodeError> {
        let item = Version::decode(data)?;
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = (item.epoch, item.version);
        let latest = heard.latest.entry(item.node.clone()).or_default();
        // One's own word is spread as often as one likes.
        if told < *latest || (told == *latest && sender.is_some()) {
            return Ok(None);
        }
        *latest = told;
        if sender.is_some() {
            heard.news.push(Event::News {
                node: item.node.as_str().into(),
                epoch: item.epoch,
                version: item.version,
            });
        }
        Ok(Some(About(item.node)))
    }
}
