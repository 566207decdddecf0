//! ipam-service: the durable address book of Pharos.
//!
//! The main path: [`server`] wires; a call enters [`api`], which turns it into a command; the
//! single writer in [`engine`] lets [`state`] decide it, has [`store`] write what it changes, and
//! only then answers and publishes to [`feed`].
//!
//! [`state`] is pure. Only [`store`] speaks SQL. Nothing is acknowledged before it is on disk.

pub mod api;
pub mod config;
pub mod engine;
pub mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod retention;
pub mod server;
pub mod state;
pub mod store;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
