//! Many clients that take and give back addresses until the server is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use pharos_checker::calls as checker;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::ledger::{Call, Ledger};
use crate::ipam::{Ipam, SOON, claim, release};

/// Connections that the clients share.
const CONNECTIONS: usize = 4;

/// When a client counts a call as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// When the server has answered.
    OnAnswer,
    /// When it was sent: as if the server answered before it commits. A control must be caught so.
    OnSend,
}

/// A load that survives its server.
#[derive(Debug)]
pub struct Load {
    ledger: Arc<Mutex<Ledger>>,
    recorder: Arc<Recorder>,
    clients: u32,
    acknowledged: Acknowledged,
    seed: u64,
    round: u64,
}

impl Load {
    /// `clients` at once; the same `seed` makes the same choices.
    pub fn new(clients: u32, acknowledged: Acknowledged, seed: u64) -> Self {
        Self {
            ledger: Arc::default(),
            recorder: Arc::default(),
            clients,
            acknowledged,
            seed,
            round: 0,
        }
    }

    /// What the clients know.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Lets the clients loose. Each ends with its first call that gets no answer.
    pub fn start(&mut self, ipam: &Ipam) -> anyhow::Result<JoinSet<()>> {
        self.round += 1;
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            channels.push(ipam.channel()?);
        }
        let mut tasks = JoinSet::new();
        for (number, channel) in (0..self.clients).zip(channels.iter().cycle()) {
            let client = Client {
                name: format!("{}-{number}", self.round),
                rpc: AllocationServiceClient::new(channel.clone()),
                ledger: Arc::clone(&self.ledger),
                recorder: Arc::clone(&self.recorder),
                acknowledged: self.acknowledged,
                random: StdRng::seed_from_u64(self.seed ^ (self.round << 32) ^ u64::from(number)),
            };
            tasks.spawn(client.run());
        }
        Ok(tasks)
    }

    /// Waits until so many more calls are acknowledged.
    pub async fn acknowledged(&self, more: u64) -> anyhow::Result<()> {
        let goal = self.ledger().acknowledged() + more;
        let wait = async {
            while self.ledger().acknowledged() < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, wait).await;
        waited.context("too few calls are acknowledged")
    }

    /// Compares what the server has now with what the clients know.
    pub async fn audit(&self, ipam: &Ipam) -> anyhow::Result<()> {
        let mut held = Vec::new();
        for allocation in ipam.list().await?.allocations {
            let owner = allocation.owner.unwrap_or_default().name;
            let addresses = allocation.addresses.into_iter();
            held.extend(addresses.map(|it| (owner.clone(), it)));
        }
        self.ledger().audit(&held);
        Ok(())
    }

    /// Every call of the clients so far.
    pub fn calls(&self) -> Vec<checker::Call> {
        self.recorder.calls()
    }
}

/// Waits until every client has ended with a call that was not acknowledged.
pub async fn all_turned_away(mut clients: JoinSet<()>) -> anyhow::Result<()> {
    let wait = async { while clients.join_next().await.is_some() {} };
    let waited = tokio::time::timeout(SOON, wait).await;
    waited.context("some calls are not answered")
}

/// Every call, with the order in which calls began and ended.
#[derive(Debug, Default)]
struct Recorder {
    clock: AtomicU64,
    calls: Mutex<Vec<checker::Call>>,
}

impl Recorder {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// A call has its answer, or its server is gone.
    fn ended(&self, start: u64, request: checker::Request, outcome: checker::Outcome) {
        let call = checker::Call {
            start,
            end: Some(self.now()),
            request,
            outcome,
        };
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
    }

    fn calls(&self) -> Vec<checker::Call> {
        let calls = self.calls.lock();
        calls.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Client {
    name: String,
    rpc: AllocationServiceClient<Channel>,
    ledger: Arc<Mutex<Ledger>>,
    recorder: Arc<Recorder>,
    acknowledged: Acknowledged,
    random: StdRng,
}

impl Client {
    async fn run(mut self) {
        let mut mine: Vec<String> = Vec::new();
        for number in 0_u64.. {
            let give_back = !mine.is_empty() && self.random.random_bool(0.45);
            let answered = if give_back {
                let owner = mine.swap_remove(self.random.random_range(..mine.len()));
                self.give_back(&owner).await
            } else {
                let owner = format!("{}-{number}", self.name);
                let answered = self.take(&owner).await;
                mine.push(owner);
                answered
            };
            if !answered {
                return;
            }
        }
    }

    async fn take(&mut self, owner: &str) -> bool {
        lock(&self.ledger).sent(owner, Call::Allocate);
        if self.acknowledged == Acknowledged::OnSend {
            lock(&self.ledger).allocated(owner, None);
        }
        let request = claim(&format!("east/load/{owner}"));
        let start = self.recorder.now();
        let answer = self.rpc.allocate(request.clone()).await;
        let request = checker::Request::Allocate(Box::new(request));
        let Ok(answer) = answer else {
            let unknown = checker::Outcome::Unknown;
            self.recorder.ended(start, request, unknown);
            return false;
        };
        let allocation = answer.into_inner().allocation.unwrap_or_default();
        lock(&self.ledger).allocated(owner, allocation.addresses.first().map(String::as_str));
        let told = checker::Outcome::Allocated(Box::new(allocation));
        self.recorder.ended(start, request, told);
        true
    }

    async fn give_back(&mut self, owner: &str) -> bool {
        lock(&self.ledger).sent(owner, Call::Release);
        if self.acknowledged == Acknowledged::OnSend {
            lock(&self.ledger).released(owner);
        }
        let request = release(&format!("east/load/{owner}"));
        let start = self.recorder.now();
        let answer = self.rpc.release(request.clone()).await;
        let outcome = match answer {
            Ok(answer) => {
                lock(&self.ledger).released(owner);
                checker::Outcome::Released(answer.into_inner().released.map(Box::new))
            }
            Err(_) => checker::Outcome::Unknown,
        };
        let done = outcome != checker::Outcome::Unknown;
        let request = checker::Request::Release(request);
        self.recorder.ended(start, request, outcome);
        done
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
