//! `cargo xtask explore`: the tests that choose at random, with new seeds, round after round: those of
//! ipam-service that take as many cases as they are asked to, then all property tests of the workspace.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pharos_testbed::wait;

use crate::cargo::{capture, cargo};

/// Tests that take as many cases as they are asked to.
const TESTS: [&str; 4] = [
    "state::tests::random",
    "state::tests::drains",
    "state::tests::spaces",
    "simulation::whatever",
];

const BUILD: [&str; 4] = ["test", "--quiet", "--profile", "explore"];
const IPAM_SERVICE: [&str; 3] = ["--package", "ipam-service", "--lib"];

/// Sequences of commands in a round, of each test.
const SEQUENCES: u32 = 50_000;

/// Simulations in a round: about as long as the sequences take beside them.
const SIMULATIONS: u32 = 500;

/// Rounds until the time is up; ends at the first that fails.
pub(crate) fn run(minutes: u64, seed: Option<u32>) -> anyhow::Result<()> {
    let end = wait::now() + Duration::from_secs(60 * minutes);
    let mut seed = seed.unwrap_or_else(rand::random);
    are_there()?;
    loop {
        println!("seed {seed}: {SEQUENCES} sequences of each test, {SIMULATIONS} simulations");
        test(&[&IPAM_SERVICE[..], &["--"], &TESTS].concat(), seed)?;
        println!("seed {seed}: all property tests");
        // Those that take more cases when asked to have had them.
        let skipped = TESTS.iter().flat_map(|name| ["--skip", *name]);
        let workspace = ["--workspace", "--exclude", "e2e", "--lib", "--"];
        test(
            &workspace.into_iter().chain(skipped).collect::<Vec<_>>(),
            seed,
        )?;
        if wait::now() >= end {
            return Ok(());
        }
        seed = seed.wrapping_add(SIMULATIONS);
    }
}

/// The test runner is content when a name means no test.
fn are_there() -> anyhow::Result<()> {
    let list = [&BUILD[..], &IPAM_SERVICE, &["--", "--list"]].concat();
    let listed = capture(cargo(&list))?;
    let is_there = |name: &&str| listed.output.lines().any(|line| line.starts_with(*name));
    match TESTS.iter().find(|name| !is_there(name)) {
        Some(missing) => bail!("no test is called {missing}:\n{}", listed.output),
        None => Ok(()),
    }
}

fn test(what: &[&str], seed: u32) -> anyhow::Result<()> {
    let status = cargo(&[&BUILD[..], what].concat())
        .env("PROPTEST_RNG_SEED", seed.to_string())
        .env("PHAROS_SEQUENCES", SEQUENCES.to_string())
        .env("PHAROS_FIRST_SEED", seed.to_string())
        .env("PHAROS_SIMULATIONS", SIMULATIONS.to_string())
        .stdin(Stdio::null())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("{status}; again with --seed {seed}");
    }
    Ok(())
}
