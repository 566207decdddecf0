//! A relay between one adapter and its API server, which can hold back whatever flows: the adapter
//! then sees the cluster as it was, while everybody else sees it as it is.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use pharos_testbed::kube::Kube;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// See the module. Dropping it closes every connection.
#[derive(Debug)]
pub struct Relay {
    pub(super) address: SocketAddr,
    flows: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to an API server. Must be called inside a runtime.
    pub(super) async fn start(kube: &Kube) -> anyhow::Result<Self> {
        let upstream = kube.url().strip_prefix("https://").context("no https")?;
        let upstream: SocketAddr = upstream.parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (flows, may_flow) = watch::channel(true);
        let task = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let may_flow = may_flow.clone();
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(upstream).await {
                        relay(client, server, may_flow).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            flows,
            task,
        })
    }

    /// From now on nothing arrives on either side; connections stay open.
    pub fn hold(&self) {
        self.flows.send_replace(false);
    }

    /// What was held back arrives.
    pub fn release(&self) {
        self.flows.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, server: TcpStream, may_flow: watch::Receiver<bool>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // A connection that one side ends is over.
    tokio::select! {
        () = copy(from_client, to_server, may_flow.clone()) => {}
        () = copy(from_server, to_client, may_flow) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut may_flow: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if may_flow.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
