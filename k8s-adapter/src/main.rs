use std::process::ExitCode;

fn main() -> ExitCode {
    pharos_process::main(k8s_adapter::run)
}
