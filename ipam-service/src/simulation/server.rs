//! One process: the services over a real writer, on files in a folder.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pharos_process::{Readiness, Shutdown};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::call::Api;
use crate::engine::{self, EngineMetrics};
use crate::retention::{Keep, Policy, Retention};
use crate::state::State;
use crate::state::address::Address;
use crate::state::model::{
    AddressSpace, Allocation, AllocationId, Claim, Cluster, Owner, OwnerKey, Placement, Pool,
    PoolKey, Quota, Reservation, Timestamp, Unavailable, UnavailableKey,
};
use crate::state::tests::random::check_settled;
use crate::store::{Location, Missing, Store};

/// The wall clock of a run, which shows the time of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begun: Instant,
    /// How many times slower it is.
    slower: u32,
}

impl Clock {
    pub(super) fn new(slower: u32) -> Self {
        Self {
            begun: Instant::now(),
            slower,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = (self.begun.elapsed() / self.slower).as_micros();
        Timestamp(1 + i64::try_from(passed).expect("a run is short"))
    }
}

/// A running process.
pub(super) struct Server {
    pub(super) api: Api,
    /// Of its term as writer.
    pub(super) epoch: u64,
    folder: TempDir,
    clock: Clock,
    stop_writer: Shutdown,
    writer: JoinHandle<()>,
}

/// What a server knows, in so far as it is to be the same after a restart. Why a claim waits is not:
/// it is decided anew, and the reason may have become another one.
#[derive(Debug, PartialEq)]
pub(super) struct Knowledge {
    holders: Vec<Holder>,
    pools: Vec<Arc<Pool>>,
    clusters: Vec<Arc<Cluster>>,
    spaces: Vec<Arc<AddressSpace>>,
    reservations: Vec<Arc<Reservation>>,
    quotas: Vec<Arc<Quota>>,
    resting: Vec<Resting>,
    placements: Vec<Arc<Placement>>,
}

/// An allocation without its reasons.
#[derive(Debug, PartialEq)]
struct Holder {
    id: AllocationId,
    owner: Owner,
    claim: Claim,
    held_claim: Claim,
    addresses: Vec<Address>,
    pool: Option<PoolKey>,
}

/// Why an address is not to be given away yet. How long is counted anew.
#[derive(Debug, PartialEq)]
struct Resting {
    key: UnavailableKey,
    for_owner: Option<OwnerKey>,
    period: Duration,
}

impl Resting {
    fn of(row: &Arc<Unavailable>) -> Self {
        Self {
            key: row.key.clone(),
            for_owner: row.for_owner.clone(),
            period: row.period,
        }
    }
}

impl Holder {
    fn of(allocation: &Arc<Allocation>) -> Self {
        Self {
            id: allocation.id,
            owner: allocation.owner.clone(),
            claim: Claim::clone(&allocation.claim),
            held_claim: allocation.effective_claim().clone(),
            addresses: allocation.addresses.clone(),
            pool: allocation.pool.clone(),
        }
    }
}

/// In memory where there is such a folder: what a disk may lose is cut off by hand here.
pub(super) fn new_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a temporary folder")
}

fn database(folder: &Path) -> PathBuf {
    folder.join("pharos.db")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("pharos.db-wal")
}

impl Server {
    /// On what is in a folder; makes a database where there is none.
    /// Its wall clock is that of the run.
    pub(super) async fn start(folder: TempDir, clock: Clock) -> Self {
        let location = Location::Sqlite(database(folder.path()));
        let store = Store::open(&location, Missing::Create, Timestamp(1)).await;
        let store = store.expect("the database opens");
        let metrics = EngineMetrics::register(&mut Registry::default());
        let stop_writer = Shutdown::default();
        let opened = engine::open(store, metrics, Readiness::default(), stop_writer.clone());
        let mut opened = opened.await.expect("the database loads");
        opened.task.set_wall_clock(move || clock.now());
        let policy = Policy {
            keep: Keep::Forever,
            floor: 0,
        };
        let retention = Retention::new(
            policy,
            opened.engine.clone(),
            opened.reader.clone(),
            opened.compactor,
            &mut Registry::default(),
            Readiness::default(),
        );
        let api = Api {
            retention,
            engine: opened.engine,
            reader: opened.reader,
            feeds: opened.feeds,
            leases: opened.leases,
            store_id: Arc::from(opened.store_id),
            shutdown: Shutdown::default(),
        };
        Self {
            api,
            epoch: opened.epoch,
            folder,
            clock,
            stop_writer,
            writer: tokio::spawn(opened.task.run()),
        }
    }

    /// What it knows, once nothing is left to do. Whoever waits for it finds the writer idle.
    pub(super) async fn knowledge(&self) -> Knowledge {
        let read = self.api.engine.read(|state| Knowledge {
            holders: state.allocations().map(Holder::of).collect(),
            pools: state.pools().cloned().collect(),
            clusters: state.clusters().cloned().collect(),
            spaces: state.address_spaces().cloned().collect(),
            reservations: state.reservations().cloned().collect(),
            quotas: state.quotas().cloned().collect(),
            resting: state.all_unavailable().map(Resting::of).collect(),
            placements: state.placements().cloned().collect(),
        });
        read.await.expect("the writer runs")
    }

    /// Waits until the writer has done what nobody asked it for: what acknowledgements and a start make
    /// necessary. How long its threads take to write that must not decide what comes first.
    pub(super) async fn settle(&self) {
        let is_busy = |state: &State| state.has_ended() || state.has_follow_up();
        while self.api.engine.read(is_busy).await.unwrap_or(false) {}
    }

    /// Compares what it knows with the naive model: nobody waits for what is there, everybody may hold
    /// what is held, and counts are right.
    pub(super) async fn check_settled(&self) {
        self.settle().await;
        // A panic is to be that of the run, not of the writer.
        let check =
            |state: &State| std::panic::catch_unwind(AssertUnwindSafe(|| check_settled(state)));
        let checked = self.api.engine.read(check).await.expect("the writer runs");
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    /// Of the newest decision.
    pub(super) async fn revision(&self) -> u64 {
        let read = self.api.engine.read(|state| state.revision());
        read.await.expect("the writer runs")
    }

    /// SIGTERM, and a new process on the same files.
    pub(super) async fn restart(self) -> Self {
        let (before, clock) = (self.knowledge().await, self.clock);
        let folder = self.stop().await;
        let after = Self::start(folder, clock).await;
        assert_eq!(after.knowledge().await, before, "after a restart");
        after
    }

    /// SIGTERM; what is left is the folder.
    pub(super) async fn stop(self) -> TempDir {
        self.api.shutdown.stop();
        self.api.reader.close().await;
        self.stop_writer.stop();
        self.writer.await.expect("the writer ends well");
        self.folder
    }

    /// What a crash at this moment would leave. The writer must be idle.
    pub(super) fn copy(&self) -> TempDir {
        let copy = new_folder();
        let from = self.folder.path();
        for (from, to) in [
            (database(from), database(copy.path())),
            (log(from), log(copy.path())),
        ] {
            if from.exists() {
                std::fs::copy(from, to).expect("a copy");
            }
        }
        copy
    }

    /// Bytes of the write-ahead log.
    pub(super) fn log_bytes(&self) -> u64 {
        std::fs::metadata(log(self.folder.path())).map_or(0, |file| file.len())
    }

    /// kill -9: nothing of it remains.
    pub(super) fn kill(self) {
        self.writer.abort();
    }

    /// What `ipam-service check` finds wrong with its database.
    pub(super) async fn problems(&self) -> Vec<String> {
        let location = Location::Sqlite(database(self.folder.path()));
        crate::store::check(&location).await.expect("readable")
    }
}

/// Cuts the log of a copy off at so many bytes.
pub(super) fn cut_log(copy: &TempDir, bytes: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(log(copy.path()));
    let file = file.expect("there is a log");
    file.set_len(bytes).expect("cut off");
}
