//! The announcer. What it does is told in the crate documentation of its library.

use std::process::ExitCode;

fn main() -> ExitCode {
    announcer::heap::limit();
    pharos_process::main(announcer::run)
}
