//! What the end-to-end tests, the demo and the benchmarks stand on. Synchronous, and free of our
//! own code: it starts the binaries and never links them.
//!
//! - [`Launch`] and [`Program`]: a program with its log file, ready when a condition holds, killed
//!   when dropped.
//! - [`Namespace`] and [`Lan`]: network namespaces, and hosts joined by a switch whose links can be
//!   cut.
//! - [`arp`], [`ndp`]: ask every 10 ms who has an address; [`record`]: which requests were lost or answered
//!   twice, by whom, and the gaps between.
//! - [`latency`]: how long an answer takes; [`storm`]: more requests than any segment has.
//! - [`warm`]: a client that has a neighbour entry and sends, and servers that echo.
//! - [`http`]: a server and a client of a few lines.
//! - [`kube`]: a real etcd and kube-apiserver, with kubectl.
//! - [`metallb`]: MetalLB's own programs.
//! - [`skip`]: says loudly what a machine cannot run; in CI that is a failure.
//! - [`wait`]: conditions with a deadline, instead of sleeps.

pub mod arp;
pub mod http;
pub mod kube;
mod lan;
pub mod latency;
pub mod metallb;
mod namespace;
pub mod ndp;
mod packet;
mod ports;
mod program;
pub mod record;
pub mod skip;
pub mod storm;
pub mod wait;
pub mod warm;

pub use lan::{Host, Lan};
pub use namespace::{Namespace, run};
pub use ports::free_port;
pub use program::{Launch, Program, workspace_binary};
