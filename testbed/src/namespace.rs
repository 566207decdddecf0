//! Network namespaces, named so that leftovers of a killed run are recognised and removed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{skip, wait};

/// Names are `PREFIX-label-pid-number`: the pid tells whether the process that made it still lives.
const PREFIX: &str = "pharos";
const DIRECTORY: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A network namespace. Dropping it kills what still runs inside, and deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up. `label` is for people, and free of `-`.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        SWEEP.call_once(remove_leftovers);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{label}-{}-{number}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self { name };
        // An IPv6 address is usable at once: duplicate detection would cost each test a second.
        namespace.exec(&["ip", "link", "set", "lo", "up"])?;
        for scope in ["all", "default"] {
            namespace.write_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            // A prober asks from addresses that nobody has a route to.
            namespace.write_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        Ok(namespace)
    }

    /// Name under /run/netns, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there, and
    /// processes started there live there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering namespace {}", self.name))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command inside and gives its stdout; an error carries its stderr.
    pub fn exec(&self, command: &[&str]) -> anyhow::Result<String> {
        self.run(|| run(command))
            .and_then(|result| result.with_context(|| format!("in namespace {}", self.name)))
    }

    /// Writes a value below /proc/sys as seen inside, for example `net/ipv4/ip_forward`.
    pub fn write_sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("writing {value} to {}", path.display()))
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// Runs a command and gives its stdout; an error carries its stderr.
pub fn run(command: &[&str]) -> anyhow::Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{}: {}: {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &[&str]) -> anyhow::Result<Output> {
    let (name, arguments) = command.split_first().context("an empty command")?;
    let program = skip::find_program(name).unwrap_or_else(|| PathBuf::from(name));
    Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {name}"))
}

/// Kills what runs in a namespace and deletes it.
fn remove(name: &str) -> anyhow::Result<()> {
    let inside = || -> Vec<Pid> {
        run(&["ip", "netns", "pids", name])
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
            .map(Pid::from_raw)
            .collect()
    };
    for pid in inside() {
        // It may have ended by itself meanwhile.
        let _ = kill(pid, Signal::SIGKILL);
    }
    run(&["ip", "netns", "del", name])?;
    Ok(())
}

/// Removes the namespaces of runs that were killed before they could clean up.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = maker_of(&name) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            // Two new runs may do this at once; one of them then finds nothing to delete.
            let _ = remove(&name);
        }
    }
}

/// Process id of the run that made the namespace of this name; `None` if it is not ours.
fn maker_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    let (_label, pid, _number) = (parts.next()?, parts.next()?, parts.next()?);
    pid.parse().ok()
}

/// Waits until an interface of the namespace is up with carrier.
pub(crate) fn wait_for_carrier(namespace: &Namespace, interface: &str) -> anyhow::Result<()> {
    wait::until_ok("carrier", Duration::from_secs(5), || {
        let text = namespace.exec(&["ip", "-o", "link", "show", "dev", interface])?;
        if !text.contains("LOWER_UP") || text.contains("NO-CARRIER") {
            bail!("{text}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_taken_for_leftovers() {
        assert_eq!(maker_of("pharos-node1-4711-3"), Some(4711));
        assert_eq!(maker_of("pharos-node1"), None);
        assert_eq!(maker_of("blue-4711-3"), None);
    }

    #[test]
    fn a_namespace_of_a_dead_process_is_removed_and_a_living_one_is_kept() {
        if !skip::can_use_namespaces() {
            return;
        }
        // No process can have this id: it is above the kernel's greatest (2^22).
        let dead = "pharos-left-4999999-0";
        run(&["ip", "netns", "add", dead]).unwrap();
        let living = Namespace::new("living").unwrap();
        remove_leftovers();
        let list = run(&["ip", "netns", "list"]).unwrap();
        assert!(!list.contains(dead), "{list}");
        assert!(list.contains(living.name()), "{list}");
    }

    #[test]
    fn work_runs_inside_and_leaves_the_caller_where_it_was() {
        if !skip::can_use_namespaces() {
            return;
        }
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let namespace = Namespace::new("inside").unwrap();
        let there = namespace
            .run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap())
            .unwrap();
        assert_ne!(here, there);
        assert_eq!(
            here,
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        );
        let name = namespace.name().to_owned();
        drop(namespace);
        assert!(!Path::new(DIRECTORY).join(name).exists());
    }
}
