//! Many clients that take and give back addresses until the server is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pharos_proto::v1;
use pharos_proto::v1::allocation_service_client::AllocationServiceClient;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::ledger::{Call, Ledger};
use crate::ipam::{Ipam, claim, release};

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
                acknowledged: self.acknowledged,
                random: StdRng::seed_from_u64(self.seed ^ (self.round << 32) ^ u64::from(number)),
            };
            tasks.spawn(client.run());
        }
        Ok(tasks)
    }

    /// Compares what the server has now with what the clients know.
    pub async fn audit(&self, ipam: &Ipam) -> anyhow::Result<()> {
        let mut client = ipam.allocations()?;
        let (mut held, mut token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAllocationsRequest {
                page_size: 1000,
                page_token: token,
                ..v1::ListAllocationsRequest::default()
            };
            let page = client.list_allocations(request).await?.into_inner();
            for allocation in page.allocations {
                let owner = allocation.owner.unwrap_or_default().name;
                held.extend(
                    allocation
                        .addresses
                        .into_iter()
                        .map(|it| (owner.clone(), it)),
                );
            }
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        self.ledger().audit(&held);
        Ok(())
    }
}

struct Client {
    name: String,
    rpc: AllocationServiceClient<Channel>,
    ledger: Arc<Mutex<Ledger>>,
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
        let Ok(answer) = self
            .rpc
            .allocate(claim(&format!("east/load/{owner}")))
            .await
        else {
            return false;
        };
        let allocation = answer.into_inner().allocation.unwrap_or_default();
        lock(&self.ledger).allocated(owner, allocation.addresses.first().map(String::as_str));
        true
    }

    async fn give_back(&mut self, owner: &str) -> bool {
        lock(&self.ledger).sent(owner, Call::Release);
        if self.acknowledged == Acknowledged::OnSend {
            lock(&self.ledger).released(owner);
        }
        let done = self
            .rpc
            .release(release(&format!("east/load/{owner}")))
            .await
            .is_ok();
        if done {
            lock(&self.ledger).released(owner);
        }
        done
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
