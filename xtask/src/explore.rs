//! `cargo xtask explore`: the tests of ipam-service that choose at random, with new seeds, round after
//! round.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pharos_testbed::wait;

use crate::cargo::cargo;

/// Tests that take as many cases as they are asked to.
const TESTS: [&str; 4] = [
    "state::tests::random",
    "state::tests::drains",
    "state::tests::spaces",
    "simulation::whatever",
];

/// Sequences of commands in a round, of each test.
const SEQUENCES: u32 = 50_000;

/// Simulations in a round: about as long as the sequences take beside them.
const SIMULATIONS: u32 = 500;

/// Rounds until the time is up; ends at the first that fails.
pub(crate) fn run(minutes: u64, seed: Option<u32>) -> anyhow::Result<()> {
    let end = wait::now() + Duration::from_secs(60 * minutes);
    let mut seed = seed.unwrap_or_else(rand::random);
    loop {
        println!("seed {seed}: {SEQUENCES} sequences of each test, {SIMULATIONS} simulations");
        let test = ["test", "--quiet", "--profile", "explore"];
        let package = ["--package", "ipam-service", "--lib", "--"];
        let status = cargo(&[&test[..], &package, &TESTS].concat())
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
        if wait::now() >= end {
            return Ok(());
        }
        seed = seed.wrapping_add(SIMULATIONS);
    }
}
