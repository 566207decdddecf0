//! What the end-to-end tests need beside this repository: Debian packages, Kubernetes' own programs
//! and grpcurl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use pharos_testbed::kube::{Assets, cache_directory};
use pharos_testbed::skip;

use crate::cargo::{Outcome, capture};
use crate::steps::Steps;

/// Programs that tests look for, and the Debian package of each.
const PACKAGES: [(&str, &str); 14] = [
    ("aardvark-dns", "aardvark-dns"),
    ("arping", "arping"),
    ("buildah", "buildah"),
    ("conntrack", "conntrack"),
    ("etcd", "etcd-server"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("jq", "jq"),
    ("netavark", "netavark"),
    ("nft", "nftables"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("sqlite3", "sqlite3"),
    ("tcpdump", "tcpdump"),
];

const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";

/// Gets what can be got and says what is missing. With `CI=true` whatever is missing is a failure.
pub(crate) fn prepare(steps: &mut Steps) {
    let missing = missing_packages();
    if !missing.is_empty() {
        steps.run("Debian packages", || tolerate(install(&missing)));
    }
    steps.run("Kubernetes programs", || {
        tolerate(Assets::find_or_build().map(|_| String::new()))
    });
    steps.run("grpcurl", || tolerate(grpcurl().map(|_| String::new())));
}

/// Outside CI a missing peer is a skip, and tests that need it say so themselves.
fn tolerate(result: anyhow::Result<String>) -> anyhow::Result<Outcome> {
    match result {
        Ok(output) => Ok(Outcome {
            success: true,
            output,
        }),
        Err(error) if skip::is_ci() => Err(error),
        Err(error) => Ok(Outcome {
            success: true,
            output: format!("SKIPPED: {error:#}"),
        }),
    }
}

fn missing_packages() -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|(program, _)| {
            skip::find_program(program).is_none()
                // Helpers of podman, on nobody's PATH.
                && !Path::new("/usr/lib/podman").join(program).is_file()
        })
        .map(|(_, package)| *package)
        .collect()
}

fn install(packages: &[&str]) -> anyhow::Result<String> {
    let list = packages.join(" ");
    if !Path::new("/etc/debian_version").exists() {
        bail!("not installed, and this is no Debian: {list}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("not installed, and only root may: apt-get install {list}");
    }
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)?;
    Ok(format!("installed {list}"))
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Packages start no service of theirs in single-user mode: tests start their own etcd.
        .env("RUNLEVEL", "1");
    let outcome = capture(command)?;
    if !outcome.success {
        bail!("apt-get {}: {}", arguments.join(" "), outcome.output.trim());
    }
    Ok(())
}

/// grpcurl from the `PATH` or the cache, else built by Go into the cache.
fn grpcurl() -> anyhow::Result<PathBuf> {
    if let Some(path) = skip::find_program("grpcurl") {
        return Ok(path);
    }
    let directory = cache_directory().join("bin");
    let path = directory.join("grpcurl");
    if path.is_file() {
        return Ok(path);
    }
    let go = skip::find_go().context("no grpcurl, and no Go to build it")?;
    let mut command = Command::new(go);
    command.args(["install", GRPCURL]).env("GOBIN", &directory);
    let outcome = capture(command)?;
    if !outcome.success {
        bail!("go install {GRPCURL}: {}", outcome.output.trim());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once_and_by_a_program_that_it_brings() {
        let mut packages: Vec<&str> = PACKAGES.iter().map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        assert_eq!(packages.len(), PACKAGES.len());
    }
}
