//! Layer 2: answering and announcing addresses by ARP.
//!
//! [`arp`], [`reply`], [`hold`] and [`burst`] decide and are pure; [`socket`] and [`responder`] act.
//! Nothing here knows of assignments, of other nodes or of gRPC: it is told which address has which
//! duty on which interface.

pub mod arp;
pub mod burst;
pub mod hold;
pub mod reply;
pub mod responder;
pub mod socket;
