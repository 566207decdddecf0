//! Layer 2: answering and announcing addresses by ARP and by neighbour discovery.
//!
//! [`table`] decides and is pure, with what it is made of: [`arp`], [`ndp`], [`reply`], [`question`],
//! [`hold`], [`recent`], [`waiting`], [`burst`], [`groups`], [`limit`], [`conflict`],
//! [`check`] and [`probe`]; so are
//! [`filter`] and [`narrow`], which say what the kernel lets through. [`socket`], [`multicast`] and
//! [`responder`] act.
//! Nothing here knows of assignments, of other nodes or of gRPC: it is told which address has which
//! duty on which interface.

pub mod arp;
pub mod burst;
pub mod check;
pub mod conflict;
pub mod fences;
pub mod filter;
pub mod groups;
pub mod hold;
pub mod limit;
pub mod multicast;
pub mod narrow;
pub mod ndp;
pub mod probe;
pub mod question;
pub mod recent;
pub mod reply;
pub mod responder;
pub mod socket;
pub mod sockets;
pub mod table;
pub mod waiting;
