//! Fenced ownership: at any moment at most one node answers for an address, whatever is lost.
//!
//! Pure: no clock, no socket, no chance. Both ends use it, so that one simulation judges them
//! together: ipam-service has the [`Granter`] and decides by [`next`]; an announcer has the
//! [`Holder`].
//!
//! ```text
//!   node                                ipam-service
//!     | -- give me a lease -----------> |  term 7, until (receipt + LENGTH + GRACE)
//!     | <------ term 7, LENGTH -------- |
//!   answers until (sending + LENGTH - CUSHION), and only for what names it under term 7
//!     | -- renew term 7 --------------> |  each RENEW_EVERY
//! ```
//!
//! A node has one lease for all its addresses, so its cost does not grow with them. The lease alone
//! gives no right to answer: the service names the [`Owner`] of an address as a node *under a term*.
//! It names another only when the owner has said that it stopped, or when the owner's term is surely
//! over. A node whose term is over gets a new one, under which it owns nothing until it is named
//! again; so it does not matter which of two messages overtakes the other.
//!
//! Why this is safe although nothing is known of the network: a term is over at the node before it
//! is over at the service. The node counts from when it *sent* what was granted, the service from
//! when it *received* it, which is later, and the service adds [`GRACE`] for clocks that run at
//! different speeds. Both must be clocks that nobody sets; that of the node must go on while the
//! machine sleeps (CLOCK_BOOTTIME).

mod granter;
mod holder;
mod owner;
#[cfg(test)]
mod simulation;

use std::time::Duration;

pub use granter::{Granter, News, Over};
pub use holder::{Answer, Ask, Holder};
pub use owner::{Next, Owner, OwnersTerm, next};

/// How long a node may answer after it asked for what it was then granted.
pub const LENGTH: Duration = Duration::from_secs(3);

/// How often a node renews: two renewals may be lost, and the third is in time.
pub const RENEW_EVERY: Duration = Duration::from_millis(900);

/// After which time a node asks again that got no answer.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How much longer the service takes a term to run: clocks that differ in speed by 1 % each are
/// 60 ms apart after [`LENGTH`].
pub const GRACE: Duration = Duration::from_millis(100);

/// How much earlier a node stops: the answer that it has begun to send leaves within this time.
pub const CUSHION: Duration = Duration::from_millis(100);

/// One uninterrupted right of a node to answer. A number that nobody else has, or had: two services
/// that know nothing of one another never give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// Time of one side's own clock, since some moment of its own.
pub type Moment = Duration;
