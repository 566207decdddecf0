//! The gRPC services: wire -> domain, one call of the engine or the store, domain -> wire.
//!
//! Nothing is decided here. What a request says is checked and made canonical in `convert*`; what
//! went wrong becomes a [`tonic::Status`] in [`status`].

pub mod address_spaces;
pub mod advertisements;
pub mod allocations;
pub mod announcements;
pub mod announcer;
mod bgp;
pub mod call;
pub mod clusters;
mod codec;
mod consequences;
pub mod convert;
pub mod convert_address_space;
pub mod convert_allocation;
pub mod convert_announce;
pub mod convert_bgp;
pub mod convert_history;
pub mod convert_lease;
pub mod convert_pool;
pub mod convert_quota;
pub mod convert_refusal;
pub mod convert_reservation;
pub mod convert_status;
pub mod convert_unavailable;
mod explain;
pub mod fields;
pub mod history;
mod listing;
pub mod paging;
pub mod pools;
pub mod quotas;
pub mod reservations;
pub mod server_info;
pub mod status;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod garbage;
#[cfg(test)]
mod testing;
