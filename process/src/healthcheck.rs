//! `PROGRAM healthcheck`: asks a running process whether it is ready, for container runtimes whose
//! images have no shell and no curl.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};

pub(crate) const NAME: &str = "healthcheck";

/// Below the usual 3 s after which a container runtime gives up.
const TIMEOUT: Duration = Duration::from_secs(2);
/// `/readyz` answers one line; a process that sends more is not ours.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Adds the subcommand. Its `--admin` has the default of the program's own `--admin`.
pub(crate) fn add_to(command: Command) -> Command {
    let own = command
        .get_arguments()
        .find(|argument| argument.get_id() == "admin");
    let Some(own) = own else {
        return command;
    };
    let default = own.get_default_values().first().cloned();
    let mut admin = Arg::new("admin")
        .long("admin")
        .env("PHAROS_ADMIN")
        .value_name("ADMIN")
        .value_parser(value_parser!(SocketAddr))
        .help("Address of the admin listener of the process to ask");
    match default {
        Some(value) => admin = admin.default_value(value),
        None => admin = admin.required(true),
    }
    let healthcheck = Command::new(NAME)
        .about(
            "Ask a running process on this machine whether it is ready: exit code 0, or 1 and why",
        )
        .arg(admin);
    command
        .subcommand(healthcheck)
        // Flags that the program requires are no business of the question.
        .subcommand_negates_reqs(true)
}

/// Asks; prints the reason when the answer is no.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let admin = matches
        .get_one::<SocketAddr>("admin")
        .expect("it is required or has a default");
    match ask(reachable(*admin)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("not ready: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// A process that listens on every address is asked on loopback.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => admin.ip(),
    };
    SocketAddr::new(ip, admin.port())
}

fn ask(admin: SocketAddr) -> Result<(), String> {
    let answer = get_readyz(admin).map_err(|error| format!("{admin}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(body.trim().to_owned())
}

fn get_readyz(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // One write, one segment.
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one request.
    fn answer(text: &'static str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0_u8; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(text.as_bytes()).unwrap();
        });
        (address, thread)
    }

    #[test]
    fn a_ready_process_passes() {
        let (address, thread) = answer("HTTP/1.1 200 OK\r\n\r\nok\n");
        assert_eq!(ask(address), Ok(()));
        thread.join().unwrap();
    }

    #[test]
    fn one_that_is_not_ready_fails_with_its_reason() {
        let (address, thread) =
            answer("HTTP/1.1 503 Service Unavailable\r\n\r\nstore: disk full\n");
        assert_eq!(ask(address), Err("store: disk full".to_owned()));
        thread.join().unwrap();
    }

    #[test]
    fn one_that_does_not_listen_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(ask(address).is_err());
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        let asked = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:7472"), "127.0.0.1:7472");
        assert_eq!(asked("[::]:7472"), "[::1]:7472");
        assert_eq!(asked("10.0.0.1:7472"), "10.0.0.1:7472");
    }

    #[test]
    fn the_question_takes_the_default_of_the_program_and_none_of_its_duties() {
        let program = Command::new("program")
            .arg(
                Arg::new("admin")
                    .long("admin")
                    .default_value("127.0.0.1:7474"),
            )
            .arg(Arg::new("cluster").long("cluster").required(true));
        let matches = add_to(program)
            .try_get_matches_from(["program", NAME])
            .unwrap();
        let (name, matches) = matches.subcommand().unwrap();
        assert_eq!(name, NAME);
        let admin: SocketAddr = "127.0.0.1:7474".parse().unwrap();
        assert_eq!(matches.get_one("admin"), Some(&admin));
    }
}
