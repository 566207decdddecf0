//! Disks with faults for a program under test: one whose syncs fail, hang or may not be written, by
//! a library that is preloaded; and a small one of its own, by a loop device.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use pharos_testbed::skip;
use tempfile::TempDir;

/// Source of the preloaded library; it says what it can do.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/shim/disk.c");

/// A folder whose disk fails on command.
#[derive(Debug)]
pub struct FaultyDisk {
    folder: TempDir,
}

impl FaultyDisk {
    /// A disk that works so far; `None`, after a loud line, where there is no C compiler.
    pub fn new() -> anyhow::Result<Option<Self>> {
        if !skip::has_programs(&["cc"]) {
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("disk-").tempdir()?;
        let disk = Self { folder };
        std::fs::create_dir(disk.data())?;
        let output = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(disk.library())
            .args([SHIM, "-ldl"])
            .output()?;
        if !output.status.success() {
            bail!("{SHIM}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Some(disk))
    }

    /// Path of a database on it.
    pub fn database(&self) -> PathBuf {
        self.data().join("pharos.db")
    }

    /// What the program must find in its environment.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let pair = |key: &str, value: PathBuf| (OsString::from(key), value.into_os_string());
        vec![
            pair("LD_PRELOAD", self.library()),
            pair("DISK_CONTROL", self.control()),
            pair("DISK_UNDER", self.data()),
        ]
    }

    /// From now on it fails so, or works (an empty text). In one step, as the program reads it at
    /// any moment.
    pub fn fail(&self, how: &str) -> anyhow::Result<()> {
        let new = self.folder.path().join("control.new");
        std::fs::write(&new, how)?;
        Ok(std::fs::rename(new, self.control())?)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("disk.so")
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }
}

/// An ext4 file system in a file, which goes read-only by itself after an error. Gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
    device: String,
}

impl SmallDisk {
    /// Of so many MiB; `None`, after a loud line, without root or loop devices.
    pub fn new(mib: u64) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            skip::skip("needs root to mount a small disk");
            return Ok(None);
        }
        if !skip::has_programs(&["mkfs.ext4", "losetup", "mount", "umount", "fsck.ext4"]) {
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix("small-").tempdir()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len(mib * 1024 * 1024)?;
        std::fs::create_dir(folder.path().join("mounted"))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        let mut setup = Command::new("losetup");
        let device = match run(setup.args(["--find", "--show"]).arg(&image)) {
            Ok(device) => device.trim().to_owned(),
            Err(error) => {
                skip::skip(&format!("needs loop devices: {error:#}"));
                return Ok(None);
            }
        };
        let disk = Self { folder, device };
        disk.mount()?;
        Ok(Some(disk))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Fills it up to so many KiB that stay free. The file can be removed again.
    pub fn fill(&self, kib_free: u64) -> anyhow::Result<PathBuf> {
        let free = nix::sys::statvfs::statvfs(&self.path())?;
        let free = free.blocks_available() * free.fragment_size();
        let filler = self.path().join("filler");
        let length = usize::try_from(free.saturating_sub(kib_free * 1024))?;
        std::fs::write(&filler, vec![1; length])?;
        std::fs::File::open(&filler)?.sync_all()?;
        Ok(filler)
    }

    /// The file system meets an error, as it would on a broken disk: it is read-only from now on.
    pub fn break_down(&self) -> anyhow::Result<()> {
        let name = Path::new(&self.device).file_name().context("a device")?;
        let trigger = Path::new("/sys/fs/ext4")
            .join(name)
            .join("trigger_fs_error");
        std::fs::write(&trigger, "1").with_context(|| trigger.display().to_string())
    }

    /// Checks and mounts it again. Nobody may use it.
    pub fn repair(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(self.path()))?;
        // Exit code 1: errors were corrected.
        let status = Command::new("fsck.ext4")
            .args(["-p", &self.device])
            .output()?;
        if !matches!(status.status.code(), Some(0 | 1)) {
            bail!("fsck: {}", String::from_utf8_lossy(&status.stdout));
        }
        self.mount()
    }

    fn mount(&self) -> anyhow::Result<()> {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", "errors=remount-ro", &self.device])
            .arg(self.path());
        run(&mut mount).map(drop)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
        let _ = Command::new("losetup")
            .args(["--detach", &self.device])
            .status();
    }
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
