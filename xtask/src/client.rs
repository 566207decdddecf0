//! Calls of ipam-service, made from any namespace.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::Namespace;
use tonic::transport::{Channel, Endpoint};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `work` with a connection to ipam-service at `address`, opened from inside `namespace`.
pub(crate) fn call<T: Send>(
    namespace: Option<&Namespace>,
    address: SocketAddr,
    work: impl AsyncFnOnce(Channel) -> Result<T, tonic::Status> + Send,
) -> anyhow::Result<T> {
    let connect_and_work = || {
        // Everything happens on this thread, whose sockets belong to the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(TIMEOUT)
                .timeout(TIMEOUT);
            let channel = endpoint
                .connect()
                .await
                .context("connecting to ipam-service")?;
            work(channel).await.map_err(anyhow::Error::new)
        })
    };
    match namespace {
        Some(namespace) => namespace.run(connect_and_work)?,
        None => connect_and_work(),
    }
}
