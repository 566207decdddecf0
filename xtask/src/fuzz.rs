//! `cargo xtask fuzz`: the targets of ipam-service/fuzz, one after the other. Needs a nightly compiler
//! and cargo-fuzz.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::cargo::root;

/// A target of ipam-service/fuzz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Requests as bytes.
    Wire,
    /// Commands against the naive model.
    State,
    /// Rows of a damaged database.
    Rows,
    /// Addresses, ranges, names and tokens.
    Text,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::State => "state",
            Self::Rows => "rows",
            Self::Text => "text",
        }
    }
}

/// Gives each target so many seconds, or all of them where none is named.
pub(crate) fn run(target: Option<Target>, seconds: u32) -> anyhow::Result<()> {
    let all = Target::value_variants();
    let targets = target.as_ref().map_or(all, std::slice::from_ref);
    for target in targets {
        let name = target.name();
        println!("{name}: {seconds} s");
        let corpus = format!("fuzz/corpus/{name}");
        std::fs::create_dir_all(root().join("ipam-service").join(&corpus))?;
        let status = Command::new("cargo")
            // There is no unsafe code of ours for a sanitizer to look at, and without one it is faster.
            .args(["+nightly", "fuzz", "run", "--sanitizer", "none", name])
            .args([&corpus, &format!("fuzz/seeds/{name}"), "--"])
            .arg(format!("-max_total_time={seconds}"))
            .arg("-timeout=20")
            .current_dir(root().join("ipam-service"))
            // Set by the cargo that runs this, for its own compiler.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .stdin(Stdio::null())
            .status()
            .context("starting cargo")?;
        if !status.success() {
            bail!("{name}: {status}; is there a nightly compiler, and cargo-fuzz?");
        }
    }
    Ok(())
}
