//! What each living node says about itself, put together from datagrams that may be lost, late or
//! repeated.
//!
//! A node's report has a version that grows with each change. Changes are sent to everybody
//! directly; whoever misses one learns of the version by gossip, and asks for the whole. If that is in
//! vain, other members are asked for it: two nodes that cannot hear each other must know of each
//! other what they own. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::wire::{Delta, State, Version, WireStatement, cut};
use crate::election::{Condition, NodeName, Statement};

#[cfg(test)]
mod tests;

/// How long a node may take to say what it owns before it counts as saying nothing.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// The same for one that answers greetings: it lives, hears this node, and is busy.
const PATIENCE_WITH_BUSY: Duration = Duration::from_secs(3);
/// How often it is asked until then.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How often a node is asked whose report is merely old.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So many times a node is asked itself before others are asked about it.
const ASKS_IN_VAIN: u32 = 2;
/// Most parts of a report: some 100,000 groups owned by one node.
const MAX_PARTS: u32 = 4_000;

/// Something learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learnt {
    /// All that a node says.
    Whole(Condition, Vec<Statement>),
    /// Its condition, and what it says anew.
    Changed(Condition, Vec<Statement>),
    /// Nothing new.
    Nothing,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Ask this node for its state.
    Ask(NodeName),
    /// Ask others for it. The number differs each time: others are asked each time.
    AskAbout(NodeName, u32),
    /// It does not say anything: go on without.
    GaveUp(NodeName),
}

#[derive(Debug)]
struct Report {
    epoch: u64,
    /// The version that is known whole; `None`: nothing yet.
    version: Option<u64>,
    /// The newest version heard of.
    newest: u64,
    parts: BTreeMap<u32, Vec<WireStatement>>,
    parts_of: u64,
    since: Instant,
    /// Until when it is waited for.
    patient_until: Instant,
    gave_up: bool,
    next_ask: Option<Instant>,
    /// How often it was asked since it last told something new.
    asks: u32,
}

/// The reports of all living nodes.
#[derive(Debug, Default)]
pub struct Reports {
    nodes: BTreeMap<NodeName, Report>,
}

impl Reports {
    /// A run of a node began to live.
    pub fn up(&mut self, node: &NodeName, epoch: u64, now: Instant) {
        let silent = self.nodes.get(node);
        let silent = silent.filter(|known| known.version.is_none() && !known.gave_up);
        // One that lives under another epoch all the time is not waited for for ever.
        let since = silent.map_or(now, |known| known.since);
        let report = Report {
            epoch,
            version: None,
            newest: 0,
            parts: BTreeMap::new(),
            parts_of: 0,
            since,
            patient_until: (now + PATIENCE).min(since + PATIENCE_WITH_BUSY),
            gave_up: false,
            next_ask: Some(now),
            asks: 0,
        };
        self.nodes.insert(node.clone(), report);
    }

    /// A node answered a greeting.
    pub fn answered(&mut self, node: &str, now: Instant) {
        if let Some(report) = self.nodes.get_mut(node) {
            let longest = report.since + PATIENCE_WITH_BUSY;
            let until = (now + PATIENCE).min(longest);
            report.patient_until = report.patient_until.max(until);
        }
    }

    /// A node died.
    pub fn down(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// A part of a report came in.
    pub fn state(&mut self, state: State) -> Learnt {
        let Some(report) = self.of(&state.version) else {
            return Learnt::Nothing;
        };
        let version = state.version.version;
        let is_old = report.version.is_some_and(|known| version <= known);
        if is_old || state.parts == 0 || state.parts > MAX_PARTS || state.part >= state.parts {
            return Learnt::Nothing;
        }
        if report.parts_of != version {
            report.parts.clear();
            report.parts_of = version;
        }
        report.parts.insert(state.part, state.statements);
        if report.parts.len() < state.parts as usize {
            return Learnt::Nothing;
        }
        let parts = std::mem::take(&mut report.parts);
        report.accept(version);
        let statements = parts.into_values().flatten().map(Statement::from);
        Learnt::Whole(state.condition.into(), statements.collect())
    }

    /// A change came in.
    pub fn delta(&mut self, delta: Delta, now: Instant) -> Learnt {
        let Some(report) = self.of(&delta.version) else {
            return Learnt::Nothing;
        };
        let version = delta.version.version;
        match report.version {
            Some(known) if version.checked_sub(1) == Some(known) => {
                report.accept(version);
                let statements = delta.statements.into_iter().map(Statement::from);
                Learnt::Changed(delta.condition.into(), statements.collect())
            }
            // One in between is missing, or the whole: ask.
            Some(_) | None => {
                report.heard_of(version, now);
                Learnt::Nothing
            }
        }
    }

    /// A version was gossiped.
    pub fn news(&mut self, node: &str, epoch: u64, version: u64, now: Instant) {
        if let Some(report) = self.nodes.get_mut(node)
            && report.epoch == epoch
        {
            report.heard_of(version, now);
        }
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.nodes
            .values()
            .filter_map(|report| report.next_ask)
            .min()
    }

    /// What is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for (node, report) in &mut self.nodes {
            if report.next_ask.is_none_or(|at| at > now) {
                continue;
            }
            let silent = report.version.is_none();
            if silent && !report.gave_up && now >= report.patient_until {
                report.gave_up = true;
                due.push(Due::GaveUp(node.clone()));
            }
            let is_new = silent && !report.gave_up && now < report.since + PATIENCE;
            let is_urgent = report.asks < ASKS_IN_VAIN || is_new;
            let interval = if is_urgent { ASK_INTERVAL } else { ASK_AGAIN };
            report.next_ask = Some(now + interval);
            due.push(Due::Ask(node.clone()));
            if report.asks >= ASKS_IN_VAIN {
                due.push(Due::AskAbout(node.clone(), report.asks));
            }
            report.asks = report.asks.saturating_add(1);
        }
        due
    }

    /// The version of a living node's report that is known whole; 0 if none is.
    pub fn known(&self, node: &str) -> Option<Version> {
        let report = self.nodes.get(node)?;
        Some(Version {
            node: node.to_owned(),
            epoch: report.epoch,
            version: report.version.unwrap_or_default(),
        })
    }

    fn of(&mut self, version: &Version) -> Option<&mut Report> {
        let report = self.nodes.get_mut(version.node.as_str())?;
        (report.epoch == version.epoch).then_some(report)
    }
}

impl Report {
    fn accept(&mut self, version: u64) {
        self.version = Some(version);
        self.asks = 0;
        self.newest = self.newest.max(version);
        if self.newest == version {
            self.next_ask = None;
        }
    }

    /// Asks a little later: what is missing may be under way.
    fn heard_of(&mut self, version: u64, now: Instant) {
        if self.version.is_none_or(|known| version > known) {
            self.newest = self.newest.max(version);
            self.next_ask.get_or_insert(now + ASK_INTERVAL);
        }
    }
}

/// All that a node says, in parts.
pub fn states(version: &Version, condition: &Condition, statements: &[Statement]) -> Vec<State> {
    let cut = cut(statements);
    let parts = u32::try_from(cut.len()).unwrap_or(u32::MAX);
    (0..)
        .zip(cut)
        .map(|(part, statements)| State {
            version: version.clone(),
            part,
            parts,
            condition: condition.into(),
            statements,
        })
        .collect()
}

/// What this node says about itself.
#[derive(Debug)]
pub struct OwnReport {
    node: NodeName,
    epoch: u64,
    version: u64,
}

impl OwnReport {
    /// Nothing said yet.
    pub fn new(node: NodeName, epoch: u64) -> Self {
        Self {
            node,
            epoch,
            version: 1,
        }
    }

    /// The version that is current.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The epoch under which this node goes on.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// This node goes on under another epoch.
    pub fn renew(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The whole, in parts.
    pub fn whole(&self, condition: &Condition, statements: &[Statement]) -> Vec<State> {
        states(&self.tag(), condition, statements)
    }

    /// Changes, each under a version of its own.
    pub fn changes(&mut self, condition: &Condition, statements: &[Statement]) -> Vec<Delta> {
        cut(statements)
            .into_iter()
            .map(|statements| {
                self.version += 1;
                Delta {
                    version: self.tag(),
                    condition: condition.into(),
                    statements,
                }
            })
            .collect()
    }

    fn tag(&self) -> Version {
        Version {
            node: self.node.to_string(),
            epoch: self.epoch,
            version: self.version,
        }
    }
}
