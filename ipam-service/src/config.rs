//! Flags and subcommands.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{ArgGroup, Parser, Subcommand};
use pharos_process::{Flags, LogOptions, UsageError};

use crate::retention::{Keep, Policy};
use crate::store::{Location, Missing};

/// The address book: pools, allocations and their history, as a durable gRPC service.
#[derive(Debug, Clone, Parser)]
#[command(name = "ipam-service", version)]
pub struct Config {
    /// Address and port of the gRPC listener
    #[arg(long, env = "PHAROS_LISTEN", default_value = "127.0.0.1:7471", value_parser = address)]
    pub listen: SocketAddr,

    /// Address and port of the admin listener (HTTP): /metrics, /healthz, /readyz
    #[arg(long, env = "PHAROS_ADMIN", default_value = "127.0.0.1:7472", value_parser = address)]
    pub admin: SocketAddr,

    /// Where the address book is kept: sqlite:PATH
    #[arg(
        long,
        env = "PHAROS_DATABASE",
        default_value = "sqlite:pharos.db",
        global = true
    )]
    pub database: Location,

    /// Make the database if it is missing (implied when --listen is a loopback address)
    #[arg(long, env = "PHAROS_CREATE", value_parser = BoolishValueParser::new())]
    pub create: bool,

    /// Serve without TLS on an address that is not loopback: whoever reaches it can change
    /// everything
    #[arg(long, env = "PHAROS_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// How long changes stay in the history: a number with d, h, m or s, or `forever`. Who held
    /// which address when is kept for ever
    #[arg(
        long,
        env = "PHAROS_HISTORY_RETENTION",
        default_value = "400d",
        value_name = "TIME"
    )]
    pub history_retention: Keep,

    /// So many of the newest changes stay in the history, however old they are
    #[arg(
        long,
        env = "PHAROS_HISTORY_FLOOR",
        default_value_t = 10_000,
        value_name = "CHANGES",
        value_parser = whole::<u64>
    )]
    pub history_floor: u64,

    /// Most claims of one cluster that may wait; more are refused with TOO_MANY_PENDING
    #[arg(
        long,
        env = "PHAROS_MAX_PENDING",
        default_value_t = 10_000,
        value_name = "CLAIMS",
        value_parser = whole::<usize>
    )]
    pub max_pending: usize,

    /// Serve MetalLB's metrics of pools (metallb_allocator_*) too. For where no k8s-adapter is
    /// scraped, which has them: from both, dashboards would count every address twice
    #[arg(long, env = "PHAROS_METALLB_METRICS", value_parser = BoolishValueParser::new())]
    pub metallb_metrics: bool,

    #[command(flatten)]
    pub logs: LogOptions,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Make the database, which must not exist yet: with --fresh or with --recover
    #[command(group = ArgGroup::new("holders").required(true).args(["fresh", "recover"]))]
    Init {
        /// No cluster has ever used this address book: nobody holds anything
        #[arg(long)]
        fresh: bool,
        /// The store was lost: give out addresses only after these clusters have reported what they
        /// hold (names, separated by commas)
        #[arg(long, value_name = "CLUSTER", value_delimiter = ',')]
        recover: Vec<String>,
    },
    /// Check that the database is whole and that its tables agree; can run beside the server
    Check,
    /// Copy the database into one new file; can run beside the server
    Backup {
        /// The file, which must not exist yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Make a database out of a backup. No address that was given out since is given to somebody
    /// else: every cluster has to report what it holds before anybody gets a new one
    Restore {
        /// The backup
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Move an existing database aside (to PATH.replaced-TIME); nothing is deleted
        #[arg(long)]
        force: bool,
        /// Clusters that came after the backup: they have to report as well (names, separated by
        /// commas)
        #[arg(long, value_name = "CLUSTER", value_delimiter = ',')]
        recover: Vec<String>,
    },
    /// Write everything as JSON lines; can run beside the server
    Export {
        /// The file, which must not exist yet; standard output if not given
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// The history as well: the log of changes, and who held which address when
        #[arg(long)]
        history: bool,
        /// The passwords of BGP peers as well, in plain text. Without them they have to be set again
        /// after an import
        #[arg(long)]
        passwords: bool,
    },
    /// Make a database out of an export, which must be whole. As after a restore every cluster has to
    /// report what it holds before anybody gets a new address
    Import {
        /// The export
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Clusters that came after the export: they have to report as well (names, separated by
        /// commas)
        #[arg(long, value_name = "CLUSTER", value_delimiter = ',')]
        recover: Vec<String>,
    },
}

impl Flags for Config {
    fn log_options(&self) -> &LogOptions {
        &self.logs
    }
}

impl Config {
    /// Refuses what would be unsafe.
    pub fn check(&self) -> Result<(), UsageError> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(UsageError(format!(
                "--listen {} is not a loopback address and there is no TLS: anybody who reaches \
                 it could change everything; use a loopback address, or --insecure to accept that",
                self.listen
            )));
        }
        if self.listen == self.admin && self.listen.port() != 0 {
            return Err(UsageError(format!(
                "--listen and --admin are both {}; they need a port each",
                self.listen
            )));
        }
        Ok(())
    }

    /// What of the history is kept.
    pub fn retention(&self) -> Policy {
        Policy {
            keep: self.history_retention,
            floor: self.history_floor,
        }
    }

    /// What to do without a database.
    pub fn missing(&self) -> Missing {
        if self.create || self.listen.ip().is_loopback() {
            Missing::Create
        } else {
            Missing::Refuse
        }
    }
}

/// A number, without a sign.
fn whole<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse()
        .map_err(|_| "is not a whole number, such as 10000")
}

/// `address:port` or `name:port`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let mut found = text
        .to_socket_addrs()
        .map_err(|_| "is not ADDRESS:PORT".to_owned())?;
    found.next().ok_or_else(|| "is not ADDRESS:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Config {
        let arguments = std::iter::once(&"ipam-service").chain(arguments);
        Config::try_parse_from(arguments).expect("valid flags")
    }

    #[test]
    fn only_a_loopback_listener_is_plaintext_unless_one_insists() {
        assert!(config(&[]).check().is_ok());
        assert!(config(&["--listen", "[::1]:7471"]).check().is_ok());
        let open = config(&["--listen", "0.0.0.0:7471"]);
        let message = open.check().expect_err("refused").to_string();
        assert!(message.contains("--insecure"), "{message}");
        assert_eq!(open.missing(), Missing::Refuse);
        let insecure = config(&["--listen", "0.0.0.0:7471", "--insecure", "--create"]);
        assert!(insecure.check().is_ok());
        assert_eq!(insecure.missing(), Missing::Create);
    }

    fn mistake(arguments: &[&str]) -> String {
        let arguments = std::iter::once(&"ipam-service").chain(arguments);
        let error = Config::try_parse_from(arguments).expect_err("a mistake");
        error.to_string()
    }

    /// Both could be bound, and the second would fail only when a database has been made.
    #[test]
    fn two_listeners_need_a_port_each() {
        let one = config(&["--listen", "127.0.0.1:7471", "--admin", "127.0.0.1:7471"]);
        let message = one.check().expect_err("refused").to_string();
        assert!(
            message.contains("--listen and --admin are both 127.0.0.1:7471"),
            "{message}"
        );
        let any = config(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        assert!(any.check().is_ok());
    }

    #[test]
    fn init_says_either_that_nobody_holds_anything_or_who_may() {
        for wrong in [&["init"][..], &["init", "--fresh", "--recover", "east"]] {
            let text = mistake(wrong);
            assert!(
                text.contains("--fresh") && text.contains("--recover"),
                "{text}"
            );
        }
        config(&["init", "--fresh"]);
        config(&["init", "--recover", "east,west"]);
    }

    #[test]
    fn a_number_that_is_none_is_told_what_is_expected() {
        for flag in ["--history-floor", "--max-pending"] {
            for text in ["x", "-1", "1.5", ""] {
                let text = mistake(&[&format!("{flag}={text}")]);
                assert!(
                    text.contains(flag) && text.contains("is not a whole number"),
                    "{text}"
                );
            }
        }
        assert_eq!(config(&["--history-floor", "7"]).history_floor, 7);
        assert_eq!(config(&["--max-pending", "0"]).max_pending, 0);
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let config = config(&[]);
        assert_eq!(config.listen.to_string(), "127.0.0.1:7471");
        assert_eq!(config.admin.to_string(), "127.0.0.1:7472");
        assert_eq!(config.database.to_string(), "sqlite:pharos.db");
        assert_eq!(config.missing(), Missing::Create);
    }
}
