//! The address book as a pure, synchronous value: what is held, and the rules for changing it.
//!
//! `decide(&State, &Command, now)` says what a command changes, or why not. [`State::apply`] makes
//! a change true and [`State::undo`] takes it back; the same `apply` serves the live path and
//! start-up. [`State::follow_up`] names the next command that earlier changes made necessary.
//!
//! In here there is no I/O, no clock and no randomness.

pub mod address;
pub mod change;
pub mod command;
pub mod model;
pub mod names;
pub mod refusal;
pub mod selector;
