//! Moments at which a server is killed, and the rounds of a run: load, kill, restart, compare.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::wait;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::load::Load;
use super::wal;
use crate::ipam::Ipam;

/// When a server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At any moment under load.
    UnderLoad,
    /// Under load, when the log's index says that a checkpoint copies.
    Checkpoint,
    /// While it starts, on a log that another kill has left.
    StartUp,
}

/// How long a server is under load at most before it is killed.
const LONGEST_LOAD: Duration = Duration::from_millis(100);

/// Allocations that are acknowledged before a kill, so that there is something to lose however slow
/// the machine is: from 32 clients at least four transactions.
const SOME_LOAD: u64 = 128;

/// Far more than so many allocations take.
const LONGEST_WAIT_FOR_LOAD: Duration = Duration::from_secs(20);

/// A checkpoint comes with every 4 MiB of the log, which is some thousand calls.
const LONGEST_WAIT_FOR_CHECKPOINT: Duration = Duration::from_secs(10);

/// A checkpoint of 4 MiB takes a few milliseconds, of which the copying is a part.
const LONGEST_CHECKPOINT: Duration = Duration::from_millis(1);

/// What the rounds of a run have seen.
#[derive(Debug, Default)]
pub struct Kills {
    pub under_load: u32,
    pub starting: u32,
    /// Kills under load that met a checkpoint half done, as the log's index says.
    pub in_checkpoint: u32,
    /// From the start of the process until it was ready, of every start that was not cut short.
    pub restarts: Vec<Duration>,
}

impl Kills {
    /// All of them.
    pub fn count(&self) -> u32 {
        self.under_load + self.starting
    }

    /// The middle and the longest time from start to ready.
    pub fn restart_times(&self) -> (Duration, Duration) {
        let mut sorted = self.restarts.clone();
        sorted.sort_unstable();
        let middle = sorted.get(sorted.len() / 2).copied();
        (
            middle.unwrap_or_default(),
            sorted.last().copied().unwrap_or_default(),
        )
    }

    /// One round: load until the moment, kill, restart, compare. `between` is done to the files.
    pub async fn round(
        &mut self,
        ipam: &mut Ipam,
        load: &mut Load,
        moment: Moment,
        random: &mut StdRng,
        between: &dyn Fn(&Ipam),
    ) -> anyhow::Result<()> {
        if moment == Moment::StartUp {
            let (usual, _) = self.restart_times();
            ipam.kill_while_starting(random.random_range(Duration::ZERO..=usual))?;
            self.starting += 1;
        } else {
            let before = load.ledger().allocations();
            let mut clients = load.start(ipam)?;
            match moment {
                Moment::Checkpoint => wait_for_checkpoint(&ipam.database(), random).await?,
                Moment::UnderLoad | Moment::StartUp => {
                    let after = random.random_range(Duration::from_millis(10)..LONGEST_LOAD);
                    tokio::time::sleep(after).await;
                    wait_for_load(load, before + SOME_LOAD).await?;
                }
            }
            ipam.kill()?;
            self.under_load += 1;
            while let Some(client) = clients.join_next().await {
                client?;
            }
            self.in_checkpoint += u32::from(wal::in_checkpoint(&ipam.database())?);
        }
        between(ipam);
        let started = wait::now();
        ipam.restart()?;
        self.restarts.push(started.elapsed());
        load.audit(ipam).await
    }
}

/// Waits until so many allocations are acknowledged in all.
async fn wait_for_load(load: &Load, allocations: u64) -> anyhow::Result<()> {
    let from = wait::now();
    while load.ledger().allocations() < allocations {
        anyhow::ensure!(from.elapsed() < LONGEST_WAIT_FOR_LOAD, "no load");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Waits until a checkpoint copies, and then a little more.
async fn wait_for_checkpoint(database: &Path, random: &mut StdRng) -> anyhow::Result<()> {
    let database = database.to_owned();
    let more = random.random_range(Duration::ZERO..LONGEST_CHECKPOINT);
    let watch = tokio::task::spawn_blocking(move || {
        let from = wait::now();
        while !wal::in_checkpoint(&database)? {
            anyhow::ensure!(
                from.elapsed() < LONGEST_WAIT_FOR_CHECKPOINT,
                "no checkpoint under load"
            );
            // Not the usual waiting: a checkpoint is shorter than its steps.
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(more);
        Ok(())
    });
    watch.await.context("the watch of the log's index")?
}
