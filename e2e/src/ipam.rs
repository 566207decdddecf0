//! ipam-service alone on loopback, on a database of its own: no cluster, no announcer.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use pharos_checker::log::Snapshot;
use pharos_proto::v1;
use pharos_proto::v1::address_space_service_client::AddressSpaceServiceClient;
use pharos_proto::v1::allocate_request::IfRefused;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use pharos_proto::v1::cluster_service_client::ClusterServiceClient;
use pharos_proto::v1::history_service_client::HistoryServiceClient;
use pharos_proto::v1::pool_service_client::PoolServiceClient;
use pharos_proto::v1::quota_service_client::QuotaServiceClient;
use pharos_proto::v1::reservation_service_client::ReservationServiceClient;
use pharos_testbed::kube::cache_directory;
use pharos_testbed::{Launch, Program, free_port, http, skip, wait};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

/// Generous: the machine may be building something else.
pub const SOON: Duration = Duration::from_secs(20);

/// A server that can be stopped, killed and started again on what it has on disk.
#[derive(Debug)]
pub struct Ipam {
    program: Program,
    database: PathBuf,
    environment: Vec<(OsString, OsString)>,
    listen: SocketAddr,
    admin: SocketAddr,
    flags: Vec<String>,
    /// Gone when dropped, after the program.
    _folder: Option<TempDir>,
}

impl Ipam {
    /// On an empty database.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// On an empty database, with more flags.
    pub fn start_with(flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ipam-").tempdir()?;
        let mut ipam = Self::launched(&folder.path().join("pharos.db"), Vec::new(), flags)?;
        ipam._folder = Some(folder);
        Ok(ipam)
    }

    /// On a database of the caller's, in this environment.
    pub fn start_on(
        database: &Path,
        environment: Vec<(OsString, OsString)>,
    ) -> anyhow::Result<Self> {
        Self::launched(database, environment, &[])
    }

    fn launched(
        database: &Path,
        environment: Vec<(OsString, OsString)>,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Ok(Self {
            program: launch(database, listen, admin, &flags, &environment)?,
            database: database.to_owned(),
            environment,
            listen,
            admin,
            flags,
            _folder: None,
        })
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.program.kill()
    }

    /// For example SIGSTOP.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.program.signal(signal)
    }

    /// SIGSTOP; returns when none of its threads is in a call to the kernel any more: what such a call
    /// does to a disk is done.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.program.pid());
        wait::until("all threads to stop", SOON, || {
            let mut tasks = std::fs::read_dir(&tasks).ok()?;
            let stopped = |task: std::io::Result<std::fs::DirEntry>| {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                Ok::<bool, std::io::Error>(status.contains("\nState:\tT"))
            };
            tasks
                .all(|task| stopped(task).unwrap_or(false))
                .then_some(())
        })
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.program.signal(Signal::SIGCONT)
    }

    /// Status and text of `/readyz`.
    pub fn readyz(&self) -> anyhow::Result<(u16, String)> {
        http::get(self.admin, "/readyz", Duration::from_secs(2))
    }

    /// Waits until it is ready, or is not; the text of `/readyz`.
    pub fn wait_ready(&self, ready: bool) -> anyhow::Result<String> {
        wait::until("readiness", SOON, || {
            let (code, text) = self.readyz().ok()?;
            ((code == 200) == ready).then_some(text)
        })
    }

    /// SIGTERM; the exit code.
    pub fn terminate(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.program.terminate(SOON)?.code())
    }

    /// Starts it again on the same database and the same ports.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.program.kill()?;
        let (flags, environment) = (&self.flags, &self.environment);
        self.program = launch(&self.database, self.listen, self.admin, flags, environment)?;
        Ok(())
    }

    /// Loses the database, as a volume is lost. The server must be down.
    pub fn lose_database(&self) -> anyhow::Result<()> {
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let mut path = self.database().into_os_string();
            path.push(suffix);
            match std::fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Runs `ipam-service ARGUMENTS --database` on its database; exit code and output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        run(&self.database(), arguments)
    }

    /// Starts it again, and kills it so long after: most likely before it serves.
    pub fn kill_while_starting(&mut self, after: Duration) -> anyhow::Result<()> {
        self.program.kill()?;
        self.program = command(&self.database(), self.listen, self.admin)?.start()?;
        std::thread::sleep(after);
        self.program.kill()
    }

    /// Path of the database file.
    pub fn database(&self) -> PathBuf {
        self.database.clone()
    }

    /// Address of the gRPC listener.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// A connection that is made with the first call, and again when it breaks.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.listen))?;
        Ok(endpoint.tcp_nodelay(true).connect_lazy())
    }

    /// Client of AllocationService.
    pub fn allocations(&self) -> anyhow::Result<AllocationServiceClient<Channel>> {
        Ok(AllocationServiceClient::new(self.channel()?))
    }

    /// Client of PoolService.
    pub fn pools(&self) -> anyhow::Result<PoolServiceClient<Channel>> {
        Ok(PoolServiceClient::new(self.channel()?))
    }

    /// Client of ReservationService.
    pub fn reservations(&self) -> anyhow::Result<ReservationServiceClient<Channel>> {
        Ok(ReservationServiceClient::new(self.channel()?))
    }

    /// Client of HistoryService.
    pub fn history(&self) -> anyhow::Result<HistoryServiceClient<Channel>> {
        Ok(HistoryServiceClient::new(self.channel()?))
    }

    /// Client of ClusterService.
    pub fn clusters(&self) -> anyhow::Result<ClusterServiceClient<Channel>> {
        Ok(ClusterServiceClient::new(self.channel()?))
    }

    /// Client of AddressSpaceService.
    pub fn address_spaces(&self) -> anyhow::Result<AddressSpaceServiceClient<Channel>> {
        Ok(AddressSpaceServiceClient::new(self.channel()?))
    }

    /// Client of QuotaService.
    pub fn quotas(&self) -> anyhow::Result<QuotaServiceClient<Channel>> {
        Ok(QuotaServiceClient::new(self.channel()?))
    }

    /// Makes an operator's pool.
    pub async fn apply_pool(&self, name: &str, ranges: &[&str]) -> anyhow::Result<()> {
        self.apply_pool_of("", name, ranges).await
    }

    /// Makes a pool of a cluster; of the operator, if `cluster` is empty.
    pub async fn apply_pool_of(
        &self,
        cluster: &str,
        name: &str,
        ranges: &[&str],
    ) -> anyhow::Result<()> {
        let pool = v1::Pool {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            addresses: ranges.iter().map(|range| (*range).to_owned()).collect(),
            ..v1::Pool::default()
        };
        let request = v1::ApplyPoolRequest {
            pool: Some(pool),
            ..v1::ApplyPoolRequest::default()
        };
        self.pools()?.apply_pool(request).await?;
        Ok(())
    }

    /// Makes a claim; gives what it got.
    pub async fn allocate(&self, request: v1::AllocateRequest) -> Result<v1::Allocation, Status> {
        let mut client = self.allocations().expect("an address to connect to");
        let answer = client.allocate(request).await?.into_inner();
        Ok(answer.allocation.expect("an allocation"))
    }

    /// What an owner (`cluster/namespace/name`) is stored with.
    pub async fn get(&self, text: &str) -> Result<v1::Allocation, Status> {
        let request = v1::GetAllocationRequest {
            owner: Some(owner(text)),
        };
        let mut client = self.allocations().expect("an address to connect to");
        let answer = client.get_allocation(request).await?.into_inner();
        Ok(answer.allocation.expect("an allocation"))
    }

    /// Every allocation, with the revision of the list.
    pub async fn list(&self) -> anyhow::Result<Snapshot> {
        let mut client = self.allocations()?;
        let (mut allocations, mut token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAllocationsRequest {
                page_size: 1000,
                page_token: token,
                ..v1::ListAllocationsRequest::default()
            };
            let page = client.list_allocations(request).await?.into_inner();
            allocations.extend(page.allocations);
            token = page.next_page_token;
            if token.is_empty() {
                let revision = page.revision;
                return Ok(Snapshot {
                    revision,
                    allocations,
                });
            }
        }
    }

    /// The whole change log, oldest first.
    pub async fn log(&self) -> anyhow::Result<Vec<v1::Change>> {
        let mut client = self.history()?;
        let (mut log, mut token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListChangesRequest {
                page_size: 1000,
                page_token: token,
                ..v1::ListChangesRequest::default()
            };
            let page = client.list_changes(request).await?.into_inner();
            log.extend(page.changes);
            token = page.next_page_token;
            if token.is_empty() {
                log.reverse();
                return Ok(log);
            }
        }
    }

    /// `grpcurl -plaintext -d DATA ADDRESS METHOD`; the JSON that it prints.
    pub fn grpcurl(&self, data: Option<&str>, method: &str) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.grpcurl_text(data, method)?)?)
    }

    /// The same as it is printed.
    pub fn grpcurl_text(&self, data: Option<&str>, method: &str) -> anyhow::Result<String> {
        let mut command = Command::new(grpcurl().context("no grpcurl")?);
        command.arg("-plaintext");
        if let Some(data) = data {
            command.args(["-d", data]);
        }
        let output = command.arg(self.listen.to_string()).arg(method).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// `cluster/namespace/name`.
pub fn owner(text: &str) -> v1::Owner {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    v1::Owner {
        cluster: next(),
        namespace: next(),
        name: next(),
        uid: String::new(),
    }
}

/// A claim of `owner` for TCP port 80.
pub fn claim(text: &str) -> v1::AllocateRequest {
    v1::AllocateRequest {
        owner: Some(owner(text)),
        ports: vec![tcp(80)],
        ..v1::AllocateRequest::default()
    }
}

/// The same; a refusal is queued.
pub fn queued(text: &str) -> v1::AllocateRequest {
    v1::AllocateRequest {
        if_refused: IfRefused::Queue.into(),
        ..claim(text)
    }
}

/// The reason that an error names (`google.rpc.ErrorInfo`), which it must have.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("ErrorInfo").reason.clone()
}

/// A TCP port.
pub fn tcp(port: u32) -> v1::Port {
    v1::Port {
        protocol: v1::port::Protocol::Tcp.into(),
        port,
    }
}

/// A release by `owner`.
pub fn release(text: &str) -> v1::ReleaseRequest {
    v1::ReleaseRequest {
        owner: Some(owner(text)),
        ..v1::ReleaseRequest::default()
    }
}

/// grpcurl on the `PATH` or in the cache; `None`, after a loud line, where there is none.
pub fn grpcurl() -> Option<PathBuf> {
    let cached = cache_directory().join("bin/grpcurl");
    let found = skip::find_program("grpcurl").or_else(|| cached.is_file().then_some(cached));
    if found.is_none() {
        skip::skip("needs grpcurl");
    }
    found
}

/// A launch of ipam-service with these flags and nothing else.
pub fn command(database: &Path, listen: SocketAddr, admin: SocketAddr) -> anyhow::Result<Launch> {
    Ok(Launch::workspace("ipam-service")?
        .arg("--listen")
        .arg(listen.to_string())
        .arg("--admin")
        .arg(admin.to_string())
        .arg("--database")
        .arg(format!("sqlite:{}", database.display())))
}

/// Runs `ipam-service ARGUMENTS --database sqlite:DATABASE`; exit code and output.
pub fn run(database: &Path, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let launch = Launch::workspace("ipam-service")?.args(arguments.to_vec());
    let mut program = launch
        .arg("--database")
        .arg(format!("sqlite:{}", database.display()))
        .start()?;
    let status = program.wait(SOON)?;
    Ok((status.code(), program.log()))
}

fn launch(
    database: &Path,
    listen: SocketAddr,
    admin: SocketAddr,
    flags: &[String],
    environment: &[(OsString, OsString)],
) -> anyhow::Result<Program> {
    let mut launch = command(database, listen, admin)?.args(flags.to_vec());
    for (key, value) in environment {
        launch = launch.env(key, value);
    }
    let mut program = launch.start()?;
    program.wait_ready(None, admin, SOON)?;
    Ok(program)
}
