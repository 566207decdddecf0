//! An ipam-service for a rehearsal: empty, on loopback, and gone afterwards.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pharos_process::UsageError;
use tokio::process::{Child, Command};
use tonic::transport::Uri;
use uuid::Uuid;

use crate::claim::Settings;
use crate::client::Ipam;

const PROGRAM: &str = "ipam-service";
/// It takes a fraction of a second, on a machine that has something else to do a few.
const READY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Where a rehearsal takes place. Dropping it ends what was started for it.
pub(super) struct Scratch {
    pub(super) ipam: Ipam,
    // Dropped in this order: the program before its files.
    _child: Option<Child>,
    _directory: Option<Directory>,
}

impl Scratch {
    /// At this URL, which must be that of an empty ipam-service; or one that is started now.
    pub(super) async fn open(url: Option<Uri>, settings: &Settings) -> anyhow::Result<Self> {
        match url {
            Some(url) => Self::at(url, settings).await,
            None => Self::start(settings).await,
        }
    }

    async fn at(url: Uri, settings: &Settings) -> anyhow::Result<Self> {
        let ipam = Ipam::new(url.clone(), settings.clone());
        let clusters = ipam.known_clusters().await;
        let clusters = clusters.with_context(|| format!("--rehearsal {url}"))?;
        if let Some(cluster) = clusters.first() {
            // What it is told would stay there.
            return Err(UsageError(format!(
                "--rehearsal {url}: it is not empty, as it knows cluster {cluster:?}; a rehearsal needs one that can \
                 be thrown away"
            ))
            .into());
        }
        Ok(Self {
            ipam,
            _child: None,
            _directory: None,
        })
    }

    async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let program = find().ok_or_else(|| {
            UsageError(format!(
                "no {PROGRAM} beside this program or in PATH, on which the migration is rehearsed: put it there, or \
                 name an empty one by --rehearsal"
            ))
        })?;
        let directory = Directory::make()?;
        let (listen, admin) = (free_port()?, free_port()?);
        let log = directory.0.join("log");
        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os() {
            // Those are meant for this program, or for another ipam-service.
            if name.to_string_lossy().starts_with("PHAROS_") {
                command.env_remove(name);
            }
        }
        let database = directory.0.join("rehearsal.db");
        let mut child = command
            .args(["--listen", &listen.to_string()])
            .args(["--admin", &admin.to_string()])
            .arg("--database")
            .arg(format!("sqlite:{}", database.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let url = format!("http://{listen}").parse()?;
        let ipam = Ipam::new(url, settings.clone());
        wait_ready(&mut child, &ipam, &log).await?;
        Ok(Self {
            ipam,
            _child: Some(child),
            _directory: Some(directory),
        })
    }
}

async fn wait_ready(child: &mut Child, ipam: &Ipam, log: &Path) -> anyhow::Result<()> {
    let said = || std::fs::read_to_string(log).unwrap_or_default();
    let ready = async {
        loop {
            if ipam.server_version().await.is_ok() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = ready => Ok(()),
        ended = child.wait() => bail!("{PROGRAM} for the rehearsal ended ({}): {}", ended?, said()),
        () = tokio::time::sleep(READY) => {
            bail!("{PROGRAM} for the rehearsal is not ready within {} s: {}", READY.as_secs(), said())
        }
    }
}

/// Beside this program, as packages have it, or where the shell would find it.
fn find() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(std::env::split_paths(&path));
    let mut files = directories.map(|directory| directory.join(PROGRAM));
    files.find(|file| file.is_file())
}

/// A port that nobody has, a moment ago: whoever is faster makes the start fail, and it can be repeated.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// A directory that goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let name = format!("pharos-rehearsal-{}", Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "what the rehearsal left could not be removed");
        }
    }
}
