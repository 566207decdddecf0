//! Clients of the Kubernetes API, and the calls that answer once.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{Api, ListParams};

use crate::service::{ServiceKey, ServiceState};

/// Longest time for a call that answers once, with whatever repetitions a busy API server asks
/// for. A page of 500 Services takes a fraction of a second.
const CALL: Duration = Duration::from_secs(10);
/// Objects per page, as many as kubectl asks for.
const PAGE: u32 = 500;

/// The clients. Clones share their connections.
#[derive(Clone)]
pub struct Clients {
    /// For calls that answer once, each through [`within`]. What a busy API server turns away is
    /// repeated.
    pub calls: kube::Client,
    /// For watches and their lists, and for the Lease, which have their own pauses after an error and say
    /// what it was.
    pub watches: kube::Client,
}

/// A call that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("no answer within {} s", CALL.as_secs())]
    Slow,
    #[error("{}", short(.0))]
    Failed(#[from] kube::Error),
}

impl Clients {
    /// Nothing is called yet. A watch says something at least every `silence`: a connection that
    /// does not is dead, whatever TCP thinks of it.
    pub fn new(config: kube::Config, silence: Duration) -> Result<Self, kube::Error> {
        let mut watches = config.clone();
        watches.read_timeout = Some(silence);
        // Counts from the request, not from when the connection was last used.
        watches.reset_reader_on_write = true;
        // Its pauses double up to many minutes, unseen by anybody.
        watches.default_retry = false;
        Ok(Self {
            calls: kube::Client::try_from(config)?,
            watches: kube::Client::try_from(watches)?,
        })
    }
}

/// A call of the API, given up after a while: an API server that went without a word would keep
/// it for as long as TCP hopes, which is a quarter of an hour.
pub async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, KubeError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(KubeError::Slow),
    }
}

/// What a person needs of an error of the API server.
pub fn short(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    error.to_string()
}

/// The uid of namespace `kube-system`, which names the cluster for ever.
pub async fn cluster_uid(client: &kube::Client) -> Result<Option<String>, KubeError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let parameters = ListParams::default().fields("metadata.name=kube-system");
    let list = within(api.list_metadata(&parameters)).await?;
    Ok(list.items.into_iter().find_map(|item| item.metadata.uid))
}

/// A Service as it is, from a read that bypasses every cache; `None`: it does not exist.
pub async fn fetch_service(
    client: &kube::Client,
    key: &ServiceKey,
) -> Result<Option<ServiceState>, KubeError> {
    let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
    // A list of one needs no permission beside those of the watches.
    let parameters = ListParams::default().fields(&format!("metadata.name={}", key.name));
    let list = within(api.list(&parameters)).await?;
    Ok(list.items.iter().find_map(ServiceState::parse))
}

/// The uids of all Services, from a list that bypasses every cache.
pub async fn list_services(
    client: &kube::Client,
) -> Result<HashMap<ServiceKey, String>, KubeError> {
    let api: Api<Service> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    let mut services = HashMap::new();
    loop {
        let page = within(api.list_metadata(&parameters)).await?;
        services.extend(page.items.into_iter().filter_map(|item| {
            let meta = item.metadata;
            let key = ServiceKey::new(meta.namespace?, meta.name?);
            Some((key, meta.uid?))
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(services),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(300);
    /// Far more than what is waited for here, and far less than what must not be waited for.
    const SOON: Duration = Duration::from_secs(30);

    fn clients(server: SocketAddr) -> Clients {
        let url = format!("http://{server}").parse().expect("a URL");
        Clients::new(kube::Config::new(url), SILENCE).expect("clients")
    }

    fn namespaces(client: &kube::Client) -> Api<Namespace> {
        Api::all(client.clone())
    }

    #[tokio::test]
    async fn a_watch_that_is_turned_away_is_told_so_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let clients = clients(listener.local_addr().expect("bound"));
        let server = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _ = stream.read(&mut [0; 4096]).await;
                let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(busy).await;
            }
        };
        let api = namespaces(&clients.watches);
        let parameters = ListParams::default();
        tokio::select! {
            () = server => {}
            outcome = tokio::time::timeout(SOON, api.list(&parameters)) => {
                assert!(outcome.expect("soon").is_err());
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_by_watches() {
        // It takes connections, and never looks at them.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let clients = clients(listener.local_addr().expect("bound"));
        let api = namespaces(&clients.watches);
        let parameters = ListParams::default();
        let outcome = tokio::time::timeout(SOON, api.list(&parameters)).await;
        assert!(outcome.expect("soon").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_never_answered_is_given_up() {
        let never = std::future::pending::<Result<(), kube::Error>>();
        assert!(matches!(within(never).await, Err(KubeError::Slow)));
    }
}
