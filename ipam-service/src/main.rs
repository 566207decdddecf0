//! The address book server.

use std::process::ExitCode;

/// See docs/decisions/0017-how-a-batch-is-written.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, which an empty service would take 20 MiB more for. Where the kernel
    // knows nothing of them there is nothing to turn off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    pharos_process::main(ipam_service::server::run)
}
