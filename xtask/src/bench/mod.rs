//! `cargo xtask bench`: figures of the builds that users get, a line each: `name value unit`, and the
//! ratio to what limits it where that was measured in the same run.

mod alloc;
mod arp;
mod failover;
mod herd;
mod kube;
mod load;
mod memory;
mod metallb;
mod million;
mod next_free;
mod strain;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use pharos_testbed::{Program, free_port};

use crate::cargo::cargo;

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Durable allocations per second over gRPC, 64 clients, beside Health/Check on the same server;
    /// in an empty pool and in one that is 99 % full.
    Alloc,
    /// The same with two ports and ten labels per claim, half of the calls releases; then with
    /// 1,000,000 allocations: start, memory, rates, a full listing.
    Million,
    /// 1,000 announcers that connect at once, 10,000 assignments.
    Herd,
    /// Time to find the next free address in a /12, from 0 to 99 % full.
    NextFree,
    /// How long an address is silent when its owner is lost: killed, cut off, stopped; 3 and 7 nodes,
    /// 1 and 1,000 addresses; a client that asks and one that has a neighbour entry. Needs root.
    Failover,
    /// How long an ARP answer takes, beside the kernel's. Needs root.
    Arp,
    /// 50,000 ARP requests a second. Needs root.
    Storm,
    /// Six busy loops, for ten minutes. Needs root.
    Spinners,
    /// MetalLB's speaker beside the announcer, on the same bridge. Needs root and Go.
    Metallb,
    /// Bursts of 500 and 2,000 Services: the adapter beside MetalLB's controller, on the same API server.
    /// Needs Go.
    Kube,
    /// Resident memory of each program.
    Memory,
}

/// What to take of the benchmarks that have parts.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// failover: only this way to lose an owner.
    #[arg(long, value_enum)]
    way: Option<failover::Way>,
    /// failover: only with so many nodes.
    #[arg(long)]
    nodes: Option<usize>,
    /// failover: only with so many addresses.
    #[arg(long)]
    addresses: Option<usize>,
    /// failover: runs of each part.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// million: a database with the rows. Made if it is not there; otherwise only what is measured on
    /// the rows is, on a copy of it.
    #[arg(long)]
    rows: Option<PathBuf>,
    /// spinners: how long.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

const ALL: [Name; 11] = [
    Name::Alloc,
    Name::Million,
    Name::Herd,
    Name::NextFree,
    Name::Failover,
    Name::Arp,
    Name::Storm,
    Name::Spinners,
    Name::Metallb,
    Name::Kube,
    Name::Memory,
];

pub(crate) fn run(name: Option<Name>, options: &Options) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        return as_shipped();
    }
    let names = name.map_or_else(|| ALL.to_vec(), |name| vec![name]);
    for name in names {
        match name {
            Name::Alloc => alloc::run(),
            Name::Million => million::run(options),
            Name::Herd => herd::run(),
            Name::NextFree => next_free::run(),
            Name::Failover => failover::run(options),
            Name::Arp => arp::run(),
            Name::Storm => strain::storm(),
            Name::Spinners => strain::spinners(options),
            Name::Metallb => metallb::run(options),
            Name::Kube => kube::run(),
            Name::Memory => memory::run(),
        }
        .with_context(|| format!("benchmark {name:?}"))?;
    }
    Ok(())
}

/// The profile of the images and packages.
const SHIPPED: &str = "dist";

/// Debug builds are not worth measuring: builds what users get, and runs the xtask of that profile.
fn as_shipped() -> anyhow::Result<()> {
    let packages = ["ipam-service", "announcer", "k8s-adapter"];
    let mut build = cargo(&["build", "--profile", SHIPPED]);
    for package in packages {
        build.args(["--package", package]);
    }
    let status = build.status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo build --profile {SHIPPED}: {status}");
    }
    let mut again = cargo(&[
        "run",
        "--profile",
        SHIPPED,
        "--quiet",
        "--package",
        "xtask",
        "--",
    ]);
    // The same command line, whatever it asks for.
    again.args(std::env::args_os().skip(1));
    let status = again.status().context("starting cargo")?;
    if !status.success() {
        bail!("the benchmarks: {status}");
    }
    Ok(())
}

/// A figure on a line of its own.
fn report(name: &str, value: f64, unit: &str) {
    println!("{name} {} {unit}", digits(value));
}

/// A figure with its ratio to another one of the same run.
fn report_ratio(name: &str, value: f64, unit: &str, to: &str, reference: f64) {
    println!(
        "{name} {} {unit} ({:.2} x {to} = {})",
        digits(value),
        value / reference,
        digits(reference)
    );
}

/// Resident memory of a program.
fn report_rss(name: &str, program: &Program) -> anyhow::Result<()> {
    report(name, mebibytes(program.resident_bytes()?), "MiB");
    Ok(())
}

/// Nothing listens there yet.
fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Three significant digits are all that such a figure has.
fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value below which `part` (0 to 1) of the sorted values lie.
fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_values_are_values() {
        let values = [1, 2, 3, 4, 100];
        assert_eq!(quantile(&values, 0.5), Some(3));
        assert_eq!(quantile(&values, 0.99), Some(100));
        assert_eq!(quantile(&values, 0.0), Some(1));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(digits(12345.6), "12346");
        assert_eq!(digits(12.34), "12.3");
        assert_eq!(digits(0.1234), "0.12");
    }
}
