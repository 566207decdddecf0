//! The gRPC interface of Pharos (`pharos/v1/*.proto`), as Rust types, clients and servers.
//!
//! - [`v1`] is generated from the `.proto` files, which are the public reference.
//! - [`net`] is the only place where addresses on the wire become [`std::net::IpAddr`] and back.
//! - [`digest`] is the content digest of the assignment stream, which both of its ends compute.
//!
//! This crate imports nothing else of Pharos.

pub mod digest;
pub mod net;

/// Messages, clients and servers of package `pharos.v1`.
#[allow(unreachable_pub, clippy::all, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("pharos.v1");
}

/// What announcers may know of (`AnnouncerReport.Hello.features`), by name.
pub mod feature {
    /// A fenced address is answered by its named owner only, under its lease.
    pub const FENCED: &str = "fenced";
}

/// Encoded `FileDescriptorSet` of the package and its imports, for server reflection.
pub const DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/pharos_descriptor.bin"));

/// Address space that an empty name means.
pub const DEFAULT_ADDRESS_SPACE: &str = "default";
