//! Another announcer under this node's name: two nodes that both take what is meant for one.
//!
//! Nobody can tell the two apart, so nothing can be put right here: it is only made sure of, and
//! told. Whoever is named by the stream in this node's place, or speaks under its name, is greeted
//! until it is silent; an answer in this node's name, from elsewhere, is the proof. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often it is greeted.
const GREETINGS: Duration = Duration::from_millis(500);
/// After so long a silence it is gone, or never was.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is told of again.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Something that is to be done or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Greet whoever is there.
    Greet(SocketAddr),
    /// It is there, since now or since a minute or more.
    Present(SocketAddr),
    /// It is there no longer.
    Gone,
}

/// What is known of a namesake.
#[derive(Debug, Default)]
pub struct Namesake {
    suspect: Option<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    endpoint: SocketAddr,
    next_greeting: Instant,
    /// When it was last named or heard.
    seen: Instant,
    is_proven: bool,
    tell_at: Instant,
}

impl Namesake {
    /// Somebody else says that this node is there.
    pub fn suspect(&mut self, endpoint: SocketAddr, now: Instant) {
        match &mut self.suspect {
            Some(suspect) if suspect.is_proven => {}
            Some(suspect) if suspect.endpoint == endpoint => suspect.seen = now,
            Some(_) | None => {
                self.suspect = Some(Suspect {
                    endpoint,
                    next_greeting: now,
                    seen: now,
                    is_proven: false,
                    tell_at: now,
                });
            }
        }
    }

    /// It spoke.
    pub fn heard(&mut self, endpoint: SocketAddr, now: Instant) {
        self.suspect(endpoint, now);
        if let Some(suspect) = &mut self.suspect {
            suspect.endpoint = endpoint;
            suspect.seen = now;
            suspect.is_proven = true;
        }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.suspect.as_ref().is_some_and(|one| one.is_proven)
    }

    /// When [`Self::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let suspect = self.suspect.as_ref()?;
        let mut next = suspect.next_greeting.min(suspect.seen + PATIENCE);
        if suspect.is_proven {
            next = next.min(suspect.tell_at);
        }
        Some(next)
    }

    /// What is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Event> {
        let Some(suspect) = &mut self.suspect else {
            return Vec::new();
        };
        if now >= suspect.seen + PATIENCE {
            let told = suspect.is_proven.then_some(Event::Gone);
            self.suspect = None;
            return told.into_iter().collect();
        }
        let mut events = Vec::new();
        if suspect.is_proven && now >= suspect.tell_at {
            suspect.tell_at = now + TELL_AGAIN;
            events.push(Event::Present(suspect.endpoint));
        }
        if now >= suspect.next_greeting {
            suspect.next_greeting = now + GREETINGS;
            events.push(Event::Greet(suspect.endpoint));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now as start;

    const THERE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    /// Runs until so many seconds after the start; gives what it asked for, but no greetings.
    fn told(namesake: &mut Namesake, start: Instant, seconds: u64) -> Vec<Event> {
        let mut told = Vec::new();
        while let Some(at) = namesake.next_deadline() {
            if at > start + Duration::from_secs(seconds) {
                break;
            }
            told.extend(namesake.tick(at));
        }
        told.retain(|event| *event != Event::Greet(THERE));
        told
    }

    #[test]
    fn one_that_is_only_named_is_greeted_and_forgotten_when_it_does_not_answer() {
        let start = start();
        let mut namesake = Namesake::default();
        namesake.suspect(THERE, start);
        assert_eq!(namesake.tick(start), [Event::Greet(THERE)]);
        assert_eq!(told(&mut namesake, start, 100), []);
        assert_eq!(namesake.next_deadline(), None);
    }

    #[test]
    fn one_that_speaks_is_told_of_at_once_and_each_minute_until_it_is_silent() {
        let start = start();
        let mut namesake = Namesake::default();
        let mut all = Vec::new();
        for second in 0..90 {
            namesake.heard(THERE, start + Duration::from_secs(second));
            assert!(namesake.is_there());
            all.extend(told(&mut namesake, start, second));
        }
        assert_eq!(all, [Event::Present(THERE), Event::Present(THERE)]);
        assert_eq!(told(&mut namesake, start, 100), [Event::Gone]);
        assert!(!namesake.is_there());
    }
}
