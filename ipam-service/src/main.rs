//! The address book server.

use std::process::ExitCode;

/// See docs/decisions/0017-how-a-batch-is-written.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pharos_process::main(ipam_service::server::run)
}
