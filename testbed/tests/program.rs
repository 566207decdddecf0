//! Programs of the system stand in for ours: what is tested is the test bed.

use std::time::Duration;

use nix::sys::signal::Signal;
use pharos_testbed::{Launch, Namespace, free_port, http, skip};

const DEADLINE: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Launch {
    Launch::program("/bin/sh").args(["-c", script])
}

#[test]
fn a_program_that_ends_early_is_told_with_the_end_of_its_log() {
    let mut program = shell("echo broken flag >&2; exit 2").start().unwrap();
    let error = program.wait_log("ready", DEADLINE).unwrap_err().to_string();
    assert!(
        error.contains("broken flag") && error.contains("exit status: 2"),
        "{error}"
    );
}

#[test]
fn a_last_word_before_the_end_counts() {
    let mut program = shell("echo ready").start().unwrap();
    program.wait_log("ready", DEADLINE).unwrap();
}

#[test]
fn a_program_is_stopped_continued_and_terminated() {
    let mut program = shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done")
        .start()
        .unwrap();
    program.wait_log("up", DEADLINE).unwrap();
    program.signal(Signal::SIGSTOP).unwrap();
    assert!(program.is_running());
    program.signal(Signal::SIGCONT).unwrap();
    assert_eq!(program.terminate(DEADLINE).unwrap().code(), Some(7));
    assert!(!program.is_running());
}

#[test]
fn a_dropped_program_is_killed() {
    let program = shell("exec sleep 1000").start().unwrap();
    let pid = program.pid();
    let directory = program.directory().to_owned();
    assert!(program.resident_bytes().unwrap() > 0);
    drop(program);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!directory.exists());
}

#[test]
fn cpu_time_grows_with_work() {
    let program = shell("while :; do :; done").start().unwrap();
    pharos_testbed::wait::until("100 ms of CPU", DEADLINE, || {
        (program.cpu_time().ok()? >= Duration::from_millis(100)).then_some(())
    })
    .unwrap();
}

#[test]
fn readiness_over_http_works_inside_a_namespace() {
    if !skip::can_use_namespaces() {
        return;
    }
    let namespace = Namespace::new("ready").unwrap();
    let address = ([127, 0, 0, 1], free_port()).into();
    let _server = http::Server::start(Some(&namespace), address, "ok").unwrap();
    let mut program = shell("exec sleep 1000").start_in(&namespace).unwrap();
    program
        .wait_ready(Some(&namespace), address, DEADLINE)
        .unwrap();
    program
        .wait_tcp(Some(&namespace), address, DEADLINE)
        .unwrap();
    assert!(
        program
            .wait_tcp(None, address, Duration::from_millis(50))
            .is_err()
    );
}
