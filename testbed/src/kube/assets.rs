//! Where the Kubernetes programs come from.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::skip;

/// The version that e2e/kube/go.mod names.
pub const KUBERNETES: &str = "v1.36.3";

/// Programs built from e2e/kube.
const BUILT: [&str; 3] = ["kube-apiserver", "kubectl", "kube-proxy"];

/// Programs of a Kubernetes control plane.
#[derive(Debug, Clone)]
pub struct Assets {
    pub etcd: PathBuf,
    pub kube_apiserver: PathBuf,
    pub kubectl: PathBuf,
    /// `KUBEBUILDER_ASSETS` has none.
    pub kube_proxy: Option<PathBuf>,
}

impl Assets {
    /// What is there: `KUBEBUILDER_ASSETS` (the convention of controller-runtime's envtest) if it is
    /// set, else the cache. `None` if something is missing.
    pub fn find() -> Option<Self> {
        let directory = std::env::var_os("KUBEBUILDER_ASSETS")
            .filter(|directory| !directory.is_empty())
            .map_or_else(kube_directory, PathBuf::from);
        let file = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
        Some(Self {
            etcd: file("etcd").or_else(|| skip::find_program("etcd"))?,
            kube_apiserver: file("kube-apiserver")?,
            kubectl: file("kubectl").or_else(|| skip::find_program("kubectl"))?,
            kube_proxy: file("kube-proxy"),
        })
    }

    /// What is there, or what Go builds now (once per machine; some 5 minutes on two cores).
    pub fn find_or_build() -> anyhow::Result<Self> {
        if let Some(assets) = Self::find() {
            return Ok(assets);
        }
        if skip::find_program("etcd").is_none() {
            bail!("no etcd (Debian: etcd-server), and no KUBEBUILDER_ASSETS");
        }
        let go = skip::find_go()
            .context("no Go to build kube-apiserver with, and no KUBEBUILDER_ASSETS")?;
        build(&go)?;
        Self::find().context("the build left no kube-apiserver and kubectl")
    }

    /// For tests: the assets, or a loud skip.
    pub fn or_skip() -> Option<Self> {
        match Self::find_or_build() {
            Ok(assets) => Some(assets),
            Err(error) => {
                skip::skip(&format!("needs a real kube-apiserver: {error:#}"));
                None
            }
        }
    }
}

/// Where built programs are kept: `$XDG_CACHE_HOME/pharos`, else `~/.cache/pharos`.
pub fn cache_directory() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("pharos")
}

fn kube_directory() -> PathBuf {
    cache_directory().join(format!("kube-{KUBERNETES}"))
}

fn build(go: &Path) -> anyhow::Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/kube");
    let directory = kube_directory();
    std::fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    // Of several test processes one builds, and the others wait for it.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("locking the cache")?;
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
    );
    for name in BUILT {
        let file = directory.join(name);
        if file.is_file() {
            continue;
        }
        eprintln!("building {name} {KUBERNETES} (once per machine)");
        let fresh = directory.join(format!("{name}.new"));
        let status = Command::new(go)
            .args(["build", "-ldflags", &flags, "-o"])
            .arg(&fresh)
            .arg(format!("./cmd/{name}"))
            .current_dir(&sources)
            .status()
            .context("starting go")?;
        if !status.success() {
            bail!("go build of {name}: {status}");
        }
        std::fs::rename(&fresh, &file)?;
    }
    Ok(())
}
