//! What every Pharos process does alike: read its flags, write its logs, serve its admin port,
//! stop when asked, and exit with the right code.
//!
//! `main` of each binary is one call of [`main`]: flags -> logs -> the program's own `run`, which
//! is handed a [`Shutdown`] and returns when it has drained. `PROGRAM healthcheck` asks a running
//! one whether it is ready.

mod admin;
mod healthcheck;
mod logs;
mod readiness;
mod shutdown;

use std::process::ExitCode;

use clap::Parser;

pub use admin::{AdminError, Health, serve_admin};
pub use logs::{LogFormat, LogOptions};
pub use readiness::Readiness;
pub use shutdown::Shutdown;

/// A mistake of the person who started the process: a bad flag, file or address. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Flags of a binary: how to find the logging options among them.
pub trait Flags: Parser {
    /// Threads of the async runtime; `None`: one per core. A program that does little there says how
    /// many, or it takes memory for each core of a large machine.
    const WORKER_THREADS: Option<usize> = None;

    /// The flattened [`LogOptions`].
    fn log_options(&self) -> &LogOptions;
}

/// Runs a Pharos program: exit code 0 when `run` ends well, 2 for a mistake in how it was started
/// (one line on stderr), 1 for anything else.
pub fn main<F, R, Fut>(run: R) -> ExitCode
where
    F: Flags,
    R: FnOnce(F, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let flags = match parse::<F>() {
        Ok(Asked::Program(flags)) => flags,
        Ok(Asked::Healthcheck(matches)) => return healthcheck::run(&matches),
        Err(error) => return exit_of_clap(&error),
    };
    logs::init(flags.log_options());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = F::WORKER_THREADS {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error)),
    };
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        run(flags, shutdown).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// What the command line asks for.
enum Asked<F> {
    Program(F),
    Healthcheck(clap::ArgMatches),
}

fn parse<F: Flags>() -> Result<Asked<F>, clap::Error> {
    let mut command = healthcheck::add_to(F::command());
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    match matches.remove_subcommand() {
        Some((name, matches)) if name == healthcheck::NAME => Ok(Asked::Healthcheck(matches)),
        Some(_) => F::try_parse().map(Asked::Program),
        None => F::from_arg_matches(&matches)
            .map(Asked::Program)
            .map_err(|error| error.format(&mut command)),
    }
}

/// `--help` and `--version` go to stdout with code 0; a mistake becomes its first line and code 2.
fn exit_of_clap(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nothing can be done about a closed stdout.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = lines.next().unwrap_or("error: bad flags").to_owned();
    if message.ends_with(':') {
        // clap lists missing flags on lines of their own.
        let rest: Vec<&str> = lines
            .take_while(|line| !line.starts_with("Usage"))
            .collect();
        message = format!("{message} {}", rest.join(", "));
    }
    eprintln!("{message} (try --help)");
    ExitCode::from(2)
}

fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<UsageError>().is_some() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    eprintln!("error: {}", in_one_line(error));
    ExitCode::FAILURE
}

/// An error and its causes, each said once: many errors repeat their cause in their own text.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_error_repeats_is_said_once() {
        let disk = || std::io::Error::other("disk on fire");
        let repeats = anyhow::Error::new(AdminError::from(disk())).context("serving");
        assert_eq!(
            in_one_line(&repeats),
            "serving: admin listener: disk on fire"
        );
        let plain = anyhow::Error::new(disk()).context("serving");
        assert_eq!(in_one_line(&plain), "serving: disk on fire");
    }
}
