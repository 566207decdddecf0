//! Who writes: from what the Lease in the cluster says, and this replica's own clock. Pure.
//!
//! A replica counts on a renewal for [`VALID`] from the moment it began to make it. Others respect it for
//! [`DURATION`] from the moment they saw it, which is later. So clocks need not agree, and nobody takes over
//! from one who still believes to hold it, however long its renewal was on its way.

use std::time::{Duration, Instant};

/// How long a holder that does not renew is respected.
pub const DURATION: Duration = Duration::from_secs(8);
/// How often the holder renews.
pub const RENEW: Duration = Duration::from_secs(2);
/// How long a renewal counts for the holder itself. Two seconds are left for clocks that do not run equally
/// fast, and for a write that is on its way when it ends.
pub const VALID: Duration = Duration::from_secs(6);
/// How often the others look. A holder that stops well is followed after this time.
pub const LOOK: Duration = Duration::from_secs(1);
/// No holder is respected for longer, whatever it asks for: the number may be anybody's mistake.
const LONGEST: Duration = Duration::from_secs(60);

/// What the Lease says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Empty: nobody.
    pub holder: String,
    /// When it was renewed, by the holder's clock: it says no more than that it changed.
    pub renewed: String,
    /// How long the holder asks to be respected; none: it does not say.
    pub duration: Option<Duration>,
    /// How often it went from one holder to another.
    pub transitions: i32,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Renew what is ours.
    Renew,
    /// Take it, as nobody has it any more. It changes hands for the `transitions`th time.
    Take { transitions: i32 },
    /// Somebody else has it: look again then.
    Look { at: Instant },
}

/// One replica.
#[derive(Debug)]
pub struct Machine {
    identity: String,
    /// The record that was seen last, and when it was seen first.
    seen: Option<(Record, Instant)>,
    /// The last renewal that was tried: what the Lease says if it arrived, and when it began.
    tried: Option<(String, Instant)>,
    valid_until: Option<Instant>,
}

impl Machine {
    /// A replica that no other has the name of. It knows nothing yet.
    pub fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            tried: None,
            valid_until: None,
        }
    }

    /// The name in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What follows from a record that was read, or written, at this time.
    pub fn observe(&mut self, record: &Record, now: Instant) -> Action {
        if record.holder == self.identity {
            // The answer was lost, or late, and the renewal was not.
            let tried = self
                .tried
                .take_if(|(renewed, _)| *renewed == record.renewed);
            if let Some((_, begun)) = tried {
                self.wrote(begun);
            }
            return Action::Renew;
        }
        // Whoever has it now, it is not this replica.
        self.valid_until = None;
        let take = Action::Take {
            transitions: record.transitions.saturating_add(1),
        };
        if record.holder.is_empty() {
            return take;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == record => *since,
            Some(_) | None => now,
        };
        self.seen = Some((record.clone(), since));
        let duration = record.duration.unwrap_or(DURATION).clamp(DURATION, LONGEST);
        let over = since + duration;
        if now >= over {
            take
        } else {
            Action::Look {
                at: over.min(now + LOOK),
            }
        }
    }

    /// A call begins that writes that this replica holds it, renewed at a time that no other call names.
    pub fn tries(&mut self, renewed: String, begun: Instant) {
        self.tried = Some((renewed, begun));
    }

    /// It was written that this replica holds it, by a call that began then.
    pub fn wrote(&mut self, begun: Instant) {
        self.tried = None;
        self.valid_until = Some(begun + VALID);
    }

    /// Until when this replica holds it; none: it does not.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.valid_until.filter(|until| now < *until)
    }

    /// When the last change by another holder was seen; none: there was no other.
    pub fn other_since(&self) -> Option<Instant> {
        self.seen.as_ref().map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests;
