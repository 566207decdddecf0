//! What nodes that do not hear each other learn by way of others. Each of the two lives, as the others
//! can tell; so each must know what the other one owns, or both would own it.

use std::net::SocketAddr;

use super::Talk;
use crate::election::{NodeName, Standing};
use crate::members::Peer;
use crate::members::reports::states;
use crate::members::wire::{AskAbout, Body, Greeting, Version};

#[cfg(test)]
mod tests;

/// How many members are asked about one that does not answer: one of them may not hear it either.
const RELAYS: usize = 2;

impl Talk {
    /// Asks two other members for what a node says that does not answer this one, others each time.
    pub(super) fn ask_about(&mut self, node: &NodeName, turn: u32) {
        if let Some(known) = self.reports.known(node) {
            self.ask_others(node, turn, &known, 0);
        }
    }

    fn ask_others(&mut self, node: &NodeName, turn: u32, known: &Version, dead_epoch: u64) {
        let others: Vec<SocketAddr> = self
            .peers
            .live()
            .filter(|(other, _)| *other != node)
            .map(|(_, endpoint)| endpoint)
            .collect();
        let first = usize::try_from(turn).unwrap_or_default() * RELAYS;
        let asked = others.iter().cycle().skip(first % others.len().max(1));
        for endpoint in asked.take(RELAYS.min(others.len())) {
            let question = AskAbout {
                from: self.me().into(),
                known: known.clone(),
                dead_epoch,
            };
            self.send(*endpoint, Body::AskAbout(question));
        }
    }

    /// Tells what this node knows of another one, if that is more than the asker does.
    pub(super) fn on_ask_about(&mut self, question: AskAbout) {
        let node = question.known.node.as_str();
        if let Some(peer) = self.swim.active(node)
            && question.known.epoch == 0
        {
            self.on_ask_about_dead(&peer, &question);
        }
        let Some(known) = self.reports.known(node) else {
            return;
        };
        let is_news = known.epoch == question.known.epoch && known.version > question.known.version;
        let roster = self.ownership.roster();
        let Some(Standing::Known(Some(condition))) = roster.standing(node).filter(|_| is_news)
        else {
            return;
        };
        if let Ok(asker) = Peer::try_from(question.from) {
            for state in states(&known, condition, &roster.statements_of(node)) {
                self.send(asker.endpoint, Body::Relayed(state));
            }
        }
    }

    /// That node lives. Either it goes on anew, or the asker only missed that it did, or never heard it.
    fn on_ask_about_dead(&mut self, peer: &Peer, question: &AskAbout) {
        if peer.epoch <= question.dead_epoch {
            let hello = Greeting {
                from: self.me().into(),
                dead_epoch: question.dead_epoch,
            };
            self.send(peer.endpoint, Body::Hello(hello));
        } else if let Ok(asker) = Peer::try_from(question.from.clone()) {
            let in_its_name = Greeting {
                from: peer.into(),
                dead_epoch: 0,
            };
            self.send(asker.endpoint, Body::Hello(in_its_name));
        }
    }

    /// A node that is believed dead may live, and it may be only this one that it does not hear:
    /// whoever hears it tells it.
    pub(super) fn ask_about_dead(&mut self, node: &NodeName, dead_epoch: u64) {
        self.turn = self.turn.wrapping_add(1);
        let known = Version {
            node: node.to_string(),
            ..Version::default()
        };
        self.ask_others(node, self.turn, &known, dead_epoch);
    }
}
