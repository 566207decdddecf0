//! The search for the next free address is inside ipam-service, which nothing links: it measures
//! itself, in a bench of its own crate, and prints the lines.

use anyhow::{Context as _, bail};

use crate::cargo::cargo;

pub(super) fn run() -> anyhow::Result<()> {
    let bench = [
        "bench",
        "--quiet",
        "--package",
        "ipam-service",
        "--bench",
        "next_free",
    ];
    let status = cargo(&bench).status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo bench next_free: {status}");
    }
    Ok(())
}
