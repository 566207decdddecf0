//! ipam-service: the durable address book of Pharos.

pub mod state;
