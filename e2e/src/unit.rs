//! Units of systemd, as `deploy/` has them.

use anyhow::Context as _;
use pharos_testbed::workspace_binary;
use tempfile::TempDir;

use crate::site::repository;

/// A unit of `deploy/systemd` that starts the program which was built here.
#[derive(Debug)]
pub struct Unit {
    /// Its text, as it is delivered.
    pub text: String,
    path: String,
    directory: TempDir,
}

impl Unit {
    /// The unit of a program.
    pub fn of(program: &str) -> anyhow::Result<Self> {
        let name = format!("{program}.service");
        let text = std::fs::read_to_string(repository().join("deploy/systemd").join(&name))?;
        let built = workspace_binary(program)?;
        let built = built.to_str().context("a path of text")?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join(name);
        let installed = format!("/usr/local/bin/{program}");
        std::fs::write(&path, text.replace(&installed, built))?;
        let path = path.to_str().context("a path of text")?.to_owned();
        Ok(Self {
            text,
            path,
            directory,
        })
    }

    /// `systemd-analyze verify`.
    pub fn verify(&self) -> anyhow::Result<()> {
        pharos_testbed::run(&["systemd-analyze", "verify", &self.path])?;
        Ok(())
    }

    /// The same with what a drop-in adds.
    pub fn verify_with(&self, added: &str) -> anyhow::Result<()> {
        let both = self.directory.path().join("with-more.service");
        let text = std::fs::read_to_string(&self.path)?;
        std::fs::write(&both, format!("{text}\n{added}"))?;
        let both = both.to_str().context("a path of text")?;
        pharos_testbed::run(&["systemd-analyze", "verify", both])?;
        Ok(())
    }

    /// Fails if `systemd-analyze security` counts more than `most`, in tenths.
    pub fn is_tight(&self, most: &str) -> anyhow::Result<()> {
        let threshold = format!("--threshold={most}");
        pharos_testbed::run(&[
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            &threshold,
            &self.path,
        ])?;
        Ok(())
    }
}
