//! What the end-to-end tests need beside this repository: Debian packages, Kubernetes' own programs,
//! MetalLB, grpcurl and podman-compose.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use pharos_testbed::kube::{Assets, cache_directory};
use pharos_testbed::metallb::Metallb;
use pharos_testbed::skip;

use crate::cargo::{Outcome, capture};
use crate::steps::Steps;

/// Programs that tests look for, and the Debian package of each.
const PACKAGES: [(&str, &str); 18] = [
    ("aardvark-dns", "aardvark-dns"),
    ("arping", "arping"),
    ("buildah", "buildah"),
    ("conntrack", "conntrack"),
    ("etcd", "etcd-server"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("jq", "jq"),
    ("ndisc6", "ndisc6"),
    ("netavark", "netavark"),
    ("nft", "nftables"),
    ("podman", "podman"),
    ("promtool", "prometheus"),
    ("runc", "runc"),
    ("setpriv", "util-linux"),
    ("sqlite3", "sqlite3"),
    ("systemd-analyze", "systemd"),
    ("tcpdump", "tcpdump"),
];

const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";
const PODMAN_COMPOSE: &str = "podman-compose==1.6.0";

/// Gets what can be got and says what is missing. With `CI=true` whatever is missing is a failure.
pub(crate) fn prepare(steps: &mut Steps) {
    let missing = missing_packages();
    if !missing.is_empty() {
        steps.run("Debian packages", || tolerate(install(&missing)));
    }
    steps.run("Kubernetes programs", || {
        tolerate(Assets::find_or_build().map(|_| String::new()))
    });
    // After Kubernetes, with which it shares much of its sources.
    steps.run("MetalLB", || {
        tolerate(Metallb::find_or_build().map(|_| String::new()))
    });
    for (name, get) in [
        ("grpcurl", build_grpcurl as fn(&Path) -> anyhow::Result<()>),
        ("podman-compose", install_podman_compose),
    ] {
        steps.run(name, || tolerate(cached(name, get)));
    }
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
        .filter(|(program, _)| skip::find_program(program).is_none())
        .map(|(_, package)| *package)
        .chain((!has_venv()).then_some("python3-venv"))
        .collect()
}

/// Debian splits Python: `venv` works only with a package that brings no program.
fn has_venv() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import ensurepip, venv"]);
    capture(python).is_ok_and(|outcome| outcome.success)
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
    succeed(command)
}

/// Gets a program into `bin` of the cache, unless it is there.
fn cached(name: &str, get: fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let bin = cache_directory().join("bin");
    if !bin.join(name).is_file() {
        std::fs::create_dir_all(&bin)?;
        get(&bin)?;
    }
    Ok(String::new())
}

fn build_grpcurl(bin: &Path) -> anyhow::Result<()> {
    let go = skip::find_go().context("no Go to build grpcurl with")?;
    let mut command = Command::new(go);
    command.args(["install", GRPCURL]).env("GOBIN", bin);
    succeed(command)
}

/// Debian's own (1.0.3) does not know networks with fixed addresses.
fn install_podman_compose(bin: &Path) -> anyhow::Result<()> {
    let home = cache_directory().join(PODMAN_COMPOSE);
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&home);
    succeed(venv)?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["install", "--quiet", PODMAN_COMPOSE]);
    succeed(pip)?;
    std::os::unix::fs::symlink(home.join("bin/podman-compose"), bin.join("podman-compose"))?;
    Ok(())
}

fn succeed(command: Command) -> anyhow::Result<()> {
    let line = format!("{command:?}");
    let outcome = capture(command)?;
    if !outcome.success {
        bail!("{line}: {}", outcome.output.trim());
    }
    Ok(())
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
