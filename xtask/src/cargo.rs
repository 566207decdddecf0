//! cargo, and other commands of the repository, as child processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// cargo, in the root of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Builds binaries of the workspace in the profile of this xtask, so that they lie beside it.
/// cargo's own progress is shown.
pub(crate) fn build(packages: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo(&["build", "--quiet"]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.args(["--profile", &profile()?]);
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo build: {status}");
    }
    Ok(())
}

/// The profile that this xtask was built in: cargo names the directory of its builds after it.
fn profile() -> anyhow::Result<String> {
    let program = std::env::current_exe().context("finding this xtask")?;
    let directory = program.parent().and_then(Path::file_name);
    let name = directory.context("this xtask lies in no directory of builds")?;
    Ok(match name.to_string_lossy().as_ref() {
        "debug" => "dev".to_owned(),
        name => name.to_owned(),
    })
}

/// What a command wrote (stdout and stderr in order), and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) output: String,
}

/// Runs a command to its end.
pub(crate) fn capture(mut command: Command) -> anyhow::Result<Outcome> {
    let file = tempfile::NamedTempFile::new()?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.reopen()?)
        .stderr(file.as_file().try_clone()?)
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let output = std::fs::read(file.path())?;
    Ok(Outcome {
        success: status.success(),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}
