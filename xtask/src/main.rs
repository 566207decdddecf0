//! The commands of this repository (`cargo xtask COMMAND`): each is one module.
#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod bench;
mod cargo;
mod client;
mod demo;
mod explore;
mod fuzz;
mod interrupt;
mod kube_env;
mod peers;
mod scene;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, shows, tests and measures Pharos on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the main job: an address by gRPC, a client that reaches it, a killed owner, the
    /// failover time. Needs root for the network part; without root it shows the rest.
    Demo,
    /// Everything: rustfmt, clippy, tidy, unit, property and end-to-end tests. As root on Debian it
    /// installs the peers it needs; with `CI=true` a missing peer is a failure.
    Test {
        /// Leave the end-to-end tests out, and install nothing.
        #[arg(long)]
        quick: bool,
    },
    /// Benchmarks, each printing lines of `name value unit`; without a name all of them.
    Bench {
        #[arg(value_enum)]
        name: Option<bench::Name>,
        #[command(flatten)]
        options: bench::Options,
    },
    /// Bytes that nobody would send, for a while; without a target all of them. Needs a nightly
    /// compiler and cargo-fuzz.
    Fuzz {
        #[arg(value_enum)]
        target: Option<fuzz::Target>,
        /// For each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Random commands and simulated crashes that no run has tried before, for a while. The usual
    /// tests try the same ones every time.
    Explore {
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Begins with this seed instead of a new one.
        #[arg(long)]
        seed: Option<u32>,
    },
    /// A real etcd and kube-apiserver until interrupted; prints the path of a kubeconfig.
    KubeEnv,
    /// Checks the rules of this tree that no compiler knows.
    Tidy {
        /// One more word that no file may contain. Repeatable.
        #[arg(long)]
        forbid: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Demo => interrupt::until_done(demo::run),
        Command::Test { quick } => test::run(quick),
        Command::Bench { name, options } => {
            interrupt::until_done(move || bench::run(name, &options))
        }
        Command::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Command::Explore { minutes, seed } => explore::run(minutes, seed),
        Command::KubeEnv => interrupt::until_done(kube_env::run),
        Command::Tidy { forbid } => tidy::run(&forbid),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
