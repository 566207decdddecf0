//! MetalLB itself, for migrations and comparisons: built by Go once per machine, and kept beside the other
//! programs of the cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::kube::cache_directory;
use crate::skip;

/// The version that is built.
pub const METALLB: &str = "v0.15.2";

const MODULE: &str = "go.universe.tf/metallb";
const PROGRAMS: [&str; 2] = ["controller", "speaker"];
/// The definitions of its kinds, as they lie in its sources.
const DEFINITIONS: &str = "config/crd/bases";
const MANIFEST: &str = "config/manifests/metallb-native.yaml";

/// Its programs, and the definitions of its kinds.
#[derive(Debug, Clone)]
pub struct Metallb {
    pub controller: PathBuf,
    pub speaker: PathBuf,
    /// A folder that `kubectl apply -f` takes.
    pub definitions: PathBuf,
    /// What its users apply.
    pub manifest: PathBuf,
}

impl Metallb {
    /// What is in the cache; `None` if something is missing.
    pub fn find() -> Option<Self> {
        let directory = directory();
        let file = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
        Some(Self {
            controller: file("controller")?,
            speaker: file("speaker")?,
            definitions: Some(directory.join("crds")).filter(|path| path.is_dir())?,
            manifest: file("metallb-native.yaml")?,
        })
    }

    /// What is there, or what Go builds now.
    pub fn find_or_build() -> anyhow::Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let go = skip::find_go().context("no Go to build MetalLB with")?;
        build(&go)?;
        Self::find().context("the build left no MetalLB")
    }

    /// For tests: MetalLB, or a loud skip.
    pub fn or_skip() -> Option<Self> {
        match Self::find_or_build() {
            Ok(metallb) => Some(metallb),
            Err(error) => {
                skip::skip(&format!("needs MetalLB {METALLB}: {error:#}"));
                None
            }
        }
    }
}

fn directory() -> PathBuf {
    cache_directory().join(format!("metallb-{METALLB}"))
}

fn build(go: &Path) -> anyhow::Result<()> {
    let directory = directory();
    std::fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    // Of several processes one builds, and the others wait for it.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("locking the cache")?;
    if Metallb::find().is_some() {
        return Ok(());
    }
    eprintln!("building MetalLB {METALLB} (once per machine)");
    let packages = PROGRAMS.map(|name| format!("{MODULE}/{name}@{METALLB}"));
    let status = Command::new(go)
        .args(["install", "-ldflags", "-s -w"])
        .args(packages)
        .env("GOBIN", &directory)
        .status()
        .context("starting go")?;
    if !status.success() {
        bail!("go install of MetalLB: {status}");
    }
    let definitions = directory.join("crds");
    std::fs::create_dir_all(&definitions)?;
    let sources = sources(go)?;
    for entry in std::fs::read_dir(sources.join(DEFINITIONS))? {
        let entry = entry?;
        copy(&entry.path(), &definitions.join(entry.file_name()))?;
    }
    copy(
        &sources.join(MANIFEST),
        &directory.join("metallb-native.yaml"),
    )?;
    Ok(())
}

/// By content: files of Go's cache cannot be written to, nor could their copies.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    Ok(std::fs::write(to, text)?)
}

/// Where Go keeps the sources that it has just built.
fn sources(go: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new(go)
        .args(["mod", "download", "-json", &format!("{MODULE}@{METALLB}")])
        .output()
        .context("starting go")?;
    let module: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let directory = module.get("Dir").and_then(|directory| directory.as_str());
    let directory = directory.context("go does not say where MetalLB's sources are")?;
    Ok(PathBuf::from(directory))
}
