//! docker-compose.yml as a user starts it, by podman: ipam-service and two announcers in containers.
//!
//! The images are made by the Dockerfile of users, from the binaries of this build (no registry is
//! needed). What only Docker's own engine could show is not shown here.
//!
//! 1. Every process runs as a user other than root, on a read-only root; an announcer has NET_RAW
//!    and nothing else, ipam-service nothing at all.
//! 2. The healthchecks pass.
//! 3. An address taken by grpcurl is answered for by an announcer.
//! 4. The announcer that answers is killed: the other one answers.
//! 5. A restarted ipam-service still has the address: it is on the volume.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use e2e::site::{DEADLINE, repository};
use pharos_testbed::kube::cache_directory;
use pharos_testbed::{free_port, skip, wait, workspace_binary};
use tempfile::TempDir;

const ADDRESS: &str = "192.168.212.100";
/// CAP_NET_RAW is bit 13 (capabilities(7)).
const NET_RAW: &str = "0000000000002000";
const NONE: &str = "0000000000000000";

#[test]
fn the_compose_file_brings_up_an_address_book_and_announcers_that_answer() {
    if !can_run() {
        return;
    }
    let compose = Compose::up().unwrap();
    for (service, capabilities) in [
        ("ipam-service", NONE),
        ("announcer-1", NET_RAW),
        ("announcer-2", NET_RAW),
    ] {
        compose.wait_healthy(service).unwrap();
        compose
            .runs_with_least_privilege(service, capabilities)
            .unwrap();
    }
    let pool = format!(
        r#"{{"pool":{{"name":"default-pool","addresses":["{ADDRESS}-192.168.212.120"]}}}}"#
    );
    compose
        .grpcurl(&pool, "pharos.v1.PoolService/ApplyPool")
        .unwrap();
    let advertisement = r#"{"advertisement":{"name":"default","pools":["default-pool"],"l2":{}}}"#;
    let apply = "pharos.v1.AdvertisementService/ApplyAdvertisement";
    compose.grpcurl(advertisement, apply).unwrap();
    let owner = r#"{"owner":{"cluster":"east","namespace":"default","name":"web"}}"#;
    let allocate = "pharos.v1.AllocationService/Allocate";
    let answer = compose.grpcurl(owner, allocate).unwrap();
    assert!(answer.contains(ADDRESS), "{answer}");

    let first = compose.wait_answer(&BTreeSet::new()).unwrap();
    let owner_name = compose.container_with(&first).unwrap();
    compose
        .podman(&["kill", "--signal", "KILL", &owner_name])
        .unwrap();
    let second = compose.wait_answer(&BTreeSet::from([first])).unwrap();
    assert_ne!(compose.container_with(&second).unwrap(), owner_name);

    compose
        .podman(&["restart", &compose.container("ipam-service")])
        .unwrap();
    compose.wait_healthy("ipam-service").unwrap();
    let again = compose.grpcurl(owner, allocate).unwrap();
    assert!(again.contains(ADDRESS), "{again}");
    compose.down().unwrap();
}

fn can_run() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip::skip("needs root for containers");
        return false;
    }
    for name in ["grpcurl", "podman-compose"] {
        if tool(name).is_none() {
            skip::skip(&format!("needs {name} (cargo xtask test gets it)"));
            return false;
        }
    }
    skip::has_programs(&["podman", "runc", "netavark", "arping", "ldd"])
}

/// A program that `cargo xtask test` gets, which is in its cache; or one that the machine has.
fn tool(name: &str) -> Option<PathBuf> {
    let cached = cache_directory().join("bin").join(name);
    Some(cached)
        .filter(|path| path.is_file())
        .or_else(|| skip::find_program(name))
}

/// A running project, with images and containers in a store of its own.
struct Compose {
    directory: TempDir,
    project: String,
    port: u16,
}

impl Compose {
    fn up() -> anyhow::Result<Self> {
        let compose = Self {
            directory: tempfile::Builder::new()
                .prefix("pharos-compose-")
                .tempdir()?,
            project: format!("pharos{}", std::process::id()),
            port: free_port(),
        };
        compose.write_configuration()?;
        let context = compose.directory.path().join("context");
        write_context(&context)?;
        for program in ["ipam-service", "announcer"] {
            compose.build(program, &context)?;
        }
        compose.compose(&["up", "-d", "--no-build"])?;
        Ok(compose)
    }

    /// podman keeps off the machine's own images, and asks for nothing that a container in which
    /// this test may itself run could not give.
    fn write_configuration(&self) -> anyhow::Result<()> {
        let path = self.directory.path();
        std::fs::write(
            path.join("containers.conf"),
            "[containers]\ndefault_ulimits = []\n[engine]\nruntime = \"runc\"\n\
             cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        )?;
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{0}/store\"\nrunroot = \"{0}/run\"\n",
            path.display()
        );
        std::fs::write(path.join("storage.conf"), storage)?;
        Ok(())
    }

    fn build(&self, program: &str, context: &Path) -> anyhow::Result<()> {
        let dockerfile = repository().join("deploy/docker/Dockerfile");
        self.podman(&[
            "build",
            "--isolation=chroot",
            "--build-arg=BINARIES=prebuilt",
            &format!("--target={program}"),
            &format!("--tag=pharos/{program}:dev"),
            &format!("--file={}", dockerfile.display()),
            &context.display().to_string(),
        ])?;
        Ok(())
    }

    fn podman(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("podman", arguments)
    }

    fn compose(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let file = repository()
            .join("docker-compose.yml")
            .display()
            .to_string();
        let project = ["-p", &self.project, "-f", &file];
        self.run("podman-compose", &[&project[..], arguments].concat())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let path = self.directory.path();
        let program = tool(program).with_context(|| format!("no {program}"))?;
        let output = Command::new(&program)
            .args(arguments)
            .env("CONTAINERS_CONF", path.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", path.join("storage.conf"))
            .env("PHAROS_PORT", self.port.to_string())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        anyhow::ensure!(
            output.status.success(),
            "{} {}: {}\n{}",
            program.display(),
            arguments.join(" "),
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    fn container(&self, service: &str) -> String {
        format!("{}_{service}_1", self.project)
    }

    /// Runs the container's own healthcheck until it passes.
    fn wait_healthy(&self, service: &str) -> anyhow::Result<()> {
        let container = self.container(service);
        let healthy = wait::until_ok(&format!("{service} is healthy"), DEADLINE, || {
            self.podman(&["healthcheck", "run", &container])
        });
        healthy.map(drop).with_context(|| {
            let logs = Command::new("podman")
                .args(["logs", &container])
                .env(
                    "CONTAINERS_STORAGE_CONF",
                    self.directory.path().join("storage.conf"),
                )
                .output();
            logs.map(|logs| String::from_utf8_lossy(&logs.stderr).into_owned())
                .unwrap_or_default()
        })
    }

    fn runs_with_least_privilege(&self, service: &str, capabilities: &str) -> anyhow::Result<()> {
        let container = self.container(service);
        let read_only = "{{.HostConfig.ReadonlyRootfs}}";
        let read_only = self.podman(&["inspect", "--format", read_only, &container])?;
        assert_eq!(read_only, "true", "{service}");
        let pid = self.podman(&["inspect", "--format", "{{.State.Pid}}", &container])?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        assert!(
            field("Uid:").starts_with("65532\t65532"),
            "{service}: {}",
            field("Uid:")
        );
        assert_eq!(field("CapEff:"), capabilities, "{service}");
        Ok(())
    }

    fn grpcurl(&self, request: &str, method: &str) -> anyhow::Result<String> {
        let program = tool("grpcurl").context("no grpcurl")?.display().to_string();
        let server = format!("127.0.0.1:{}", self.port);
        pharos_testbed::run(&[&program, "-plaintext", "-d", request, &server, method])
    }

    /// Asks by ARP from this machine until somebody else than `not` answers; gives who.
    fn wait_answer(&self, not: &BTreeSet<String>) -> anyhow::Result<String> {
        let network = format!("{}_lan", self.project);
        let format = "{{.NetworkInterface}}";
        let bridge = self.podman(&["network", "inspect", "--format", format, &network])?;
        wait::until_ok("an ARP answer", DEADLINE, || {
            // One request, one second; -r prints nothing but hardware addresses.
            let ask = ["arping", "-r", "-c", "1", "-w", "1", "-i", &bridge, ADDRESS];
            let answer = pharos_testbed::run(&ask)?;
            let mac = answer.lines().next().unwrap_or_default().trim().to_owned();
            anyhow::ensure!(
                !mac.is_empty() && !not.contains(&mac),
                "answered by {mac:?}"
            );
            Ok(mac)
        })
    }

    /// The announcer's container with this hardware address.
    fn container_with(&self, mac: &str) -> anyhow::Result<String> {
        for service in ["announcer-1", "announcer-2"] {
            let container = self.container(service);
            let format = "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}";
            if self.podman(&["inspect", "--format", format, &container])? == mac {
                return Ok(container);
            }
        }
        anyhow::bail!("no announcer has {mac}")
    }

    fn down(&self) -> anyhow::Result<()> {
        self.compose(&["down", "-v", "-t", "5"])?;
        Ok(())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        // After a failure something may still run; after a success there is nothing to do.
        let _ = self.down();
        let _ = self.podman(&["rmi", "--all", "--force"]);
        // podman bind-mounts the store onto itself.
        let store = self
            .directory
            .path()
            .join("store/overlay")
            .display()
            .to_string();
        let _ = pharos_testbed::run(&["umount", "-l", &store]);
    }
}

/// The build context of the Dockerfile's `prebuilt` stage: the binaries and the libraries they name.
fn write_context(context: &Path) -> anyhow::Result<()> {
    for folder in ["bin", "data", "runtime"] {
        std::fs::create_dir_all(context.join(folder))?;
    }
    for program in ["ipam-service", "announcer"] {
        let binary = workspace_binary(program)?;
        std::fs::copy(&binary, context.join("bin").join(program))?;
        let listed = pharos_testbed::run(&["ldd", &binary.display().to_string()])?;
        let libraries = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for library in libraries {
            let target = context
                .join("runtime")
                .join(library.trim_start_matches('/'));
            std::fs::create_dir_all(target.parent().context("a library at the root")?)?;
            std::fs::copy(library, target)?;
        }
    }
    Ok(())
}
