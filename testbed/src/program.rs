//! Programs under test: started with a log file, ready when a condition holds, killed when dropped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Namespace, http, wait};

/// Lines of the log that an error or a failed test shows.
const TAIL: usize = 25;

/// A program that is about to start.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    name: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Launch {
    /// A binary of this workspace, for example `ipam-service`. Nothing is built: `cargo build` must
    /// have run. Its logs are JSON, and flags set by the caller's own environment are ignored.
    pub fn workspace(name: &str) -> anyhow::Result<Self> {
        Ok(Self::program(workspace_binary(name)?))
    }

    /// Any other program.
    pub fn program(path: impl Into<PathBuf>) -> Self {
        let program = path.into();
        let name = program.file_name().unwrap_or(OsStr::new("program"));
        Self {
            name: name.to_string_lossy().into_owned(),
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Name in messages, for when several of one kind run.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Starts it in this process's own namespace.
    pub fn start(self) -> anyhow::Result<Program> {
        self.start_where(None)
    }

    /// Starts it inside a namespace.
    pub fn start_in(self, namespace: &Namespace) -> anyhow::Result<Program> {
        self.start_where(Some(namespace))
    }

    fn start_where(self, namespace: Option<&Namespace>) -> anyhow::Result<Program> {
        let directory = tempfile::Builder::new().prefix("pharos-").tempdir()?;
        let log = directory.path().join("log");
        let out = File::create(&log)?;
        let mut command = Command::new(&self.program);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("PHAROS_") {
                command.env_remove(key);
            }
        }
        command
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = match namespace {
            // A child is born in the namespace of the thread that starts it.
            Some(namespace) => namespace.run(|| command.spawn())?,
            None => command.spawn(),
        }
        .with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Program {
            name: self.name,
            child,
            status: None,
            log,
            directory,
        })
    }
}

/// A running program. Dropping it kills it; if the test is failing then, its log's end is printed.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
    directory: TempDir,
}

impl Program {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its working directory, empty at start, gone when dropped.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything it wrote to stdout and stderr.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Waits until `probe` gives a value. Fails early when the program ends, and with the log's end.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut ended = None;
        let found = wait::until(what, deadline, || {
            // Looked at before the probe, so that a last word just before the end still counts.
            ended = self.ended();
            match probe() {
                Some(value) => Some(Some(value)),
                None => ended.is_some().then_some(None),
            }
        });
        match found {
            Ok(Some(value)) => Ok(value),
            Ok(None) => bail!(
                "{} ended ({}) before: {what}; its log:\n{}",
                self.name,
                ended.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
                self.log_tail()
            ),
            Err(error) => bail!("{}: {error}; its log:\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits for `200` at `http://admin/readyz`; `namespace` is where it runs.
    pub fn wait_ready(
        &mut self,
        namespace: Option<&Namespace>,
        admin: SocketAddr,
        deadline: Duration,
    ) -> anyhow::Result<()> {
        let ask = || http::get(admin, "/readyz", Duration::from_secs(2));
        let mut reason = String::new();
        let ready = self.wait_until(&format!("{admin}/readyz says 200"), deadline, || {
            let answer = match namespace {
                Some(namespace) => namespace.run(ask).and_then(|answer| answer),
                None => ask(),
            };
            match answer {
                Ok((200, _)) => Some(()),
                Ok((_, body)) => {
                    reason = body;
                    None
                }
                Err(_) => None,
            }
        });
        ready.with_context(|| format!("last reason: {}", reason.trim()))
    }

    /// Waits until a TCP connection to `address` is accepted; `namespace` is where it runs.
    pub fn wait_tcp(
        &mut self,
        namespace: Option<&Namespace>,
        address: SocketAddr,
        deadline: Duration,
    ) -> anyhow::Result<()> {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
        self.wait_until(&format!("{address} accepts"), deadline, || {
            match namespace {
                Some(namespace) => namespace.run(connect).ok()?,
                None => connect(),
            }
            .ok()
        })?;
        Ok(())
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&mut self, text: &str, deadline: Duration) -> anyhow::Result<()> {
        let log = self.log.clone();
        self.wait_until(&format!("its log says {text:?}"), deadline, || {
            let bytes = std::fs::read(&log).ok()?;
            String::from_utf8_lossy(&bytes).contains(text).then_some(())
        })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Sends a signal, for example SIGSTOP or SIGCONT. Nothing happens if it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended().is_none() {
            // The child is not reaped while its status is unknown, so the id is still its own.
            kill(self.nix_pid()?, signal).with_context(|| format!("{signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.ended().is_none() {
            self.child.kill()?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let ended = wait::until("the end of the program", deadline, || self.ended());
        ended.with_context(|| format!("{}; its log:\n{}", self.name, self.log_tail()))
    }

    /// Resident memory in bytes (VmRSS of /proc/PID/status).
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most that it has been (VmHWM).
    pub fn peak_resident_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
        let kib: u64 = kib.with_context(|| format!("no {field}"))?.trim().parse()?;
        Ok(kib * 1024)
    }

    /// CPU time used so far, user and system together, of all threads (/proc/PID/stat).
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name, second field, may contain spaces: fields are counted after its bracket.
        let rest = text.rsplit_once(')').context("no name in stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> anyhow::Result<u64> {
            Ok(fields.get(index).context("short stat")?.parse()?)
        };
        // proc(5): utime and stime are fields 14 and 15; after the name the first is field 3.
        let total = ticks(11)? + ticks(12)?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
        let per_second = u64::try_from(per_second.context("no clock tick rate")?)?;
        Ok(Duration::from_micros(total * 1_000_000 / per_second))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    fn nix_pid(&self) -> anyhow::Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the log of {}:\n{}", self.name, self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("{} could not be killed: {error:#}", self.name);
        }
    }
}

/// Path of a binary of this workspace: beside the running test or tool in the target directory.
pub fn workspace_binary(name: &str) -> anyhow::Result<PathBuf> {
    let current = std::env::current_exe()?;
    let mut directory = current.parent().context("no target directory")?;
    // Tests lie in deps/, examples in examples/, binaries one level up.
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory = directory.parent().context("no target directory")?;
    }
    let path = directory.join(name);
    if !path.is_file() {
        bail!("no {}: run `cargo build` first", path.display());
    }
    Ok(path)
}
