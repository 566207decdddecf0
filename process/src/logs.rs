//! Logs: JSON lines for machines, text for people, on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging flags, the same in every binary. What is logged is set by `RUST_LOG` (default `info`).
#[derive(Debug, Clone, clap::Args)]
pub struct LogOptions {
    /// Format of log lines on stderr [default: text on a terminal, else json]
    #[arg(long, env = "PHAROS_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

pub(crate) fn init(options: &LogOptions) {
    let terminal = std::io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(terminal).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
