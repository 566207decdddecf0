//! What scenarios over all programs share: a [`site::Site`] with real Kubernetes API servers, nodes
//! that run announcers and kube-proxy, and a client.
//!
//! The scenarios themselves are in `tests/`; the prefix of each file names the boundary it meets.

pub mod adapters;
pub mod crash;
pub mod disk;
pub mod fleet;
pub mod how_to;
pub mod incumbent;
pub mod ipam;
pub mod seed;
pub mod segment;
pub mod site;
pub mod unit;
pub mod workload;
