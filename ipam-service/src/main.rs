//! The address book server.

use std::process::ExitCode;

fn main() -> ExitCode {
    pharos_process::main(ipam_service::server::run)
}
