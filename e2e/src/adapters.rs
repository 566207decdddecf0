//! Adapters between real Kubernetes APIs and a real ipam-service, all on loopback: no nodes, no
//! announcers. Each adapter runs as the ServiceAccount of `deploy/k8s-adapter-rbac.yaml`, so that a
//! verb that is missing there fails the tests.

mod access;
mod book;
mod metrics;
mod objects;
mod old;
mod proxy;
mod relay;
mod webhook;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::{Api, ListParams};
use pharos_testbed::kube::{Assets, Kube, Options, User};
use pharos_testbed::{Launch, Program, free_port, http, wait};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use access::{Audit, Grant, grants, uncovered, unused};
pub use book::Pretender;
pub use old::OldBook;
pub use proxy::{Call, Harm, Proxy};
pub use relay::Relay;
pub use webhook::{CONFIGURATION, Webhook};

use crate::site::DEADLINE;

const ADAPTER_USER: &str = "system:serviceaccount:metallb-system:k8s-adapter";

/// Adapters, their clusters, and the address book. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Stage {
    // Dropped in this order: programs before what they talk to.
    adapters: BTreeMap<String, Adapter>,
    clusters: BTreeMap<String, Cluster>,
    book: Option<Program>,
    book_address: SocketAddr,
    assets: Assets,
    directory: TempDir,
    runtime: Runtime,
}

#[derive(Debug)]
struct Adapter {
    program: Program,
    admin: SocketAddr,
}

#[derive(Debug)]
struct Cluster {
    kube: Kube,
    client: Client,
}

/// `kube::Client` has no `Debug`.
struct Client(kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

// === the programs ===

impl Stage {
    /// A running ipam-service and nothing else; `None`, after a loud line, where there is no
    /// kube-apiserver.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let Some(assets) = Assets::or_skip() else {
            return Ok(None);
        };
        let mut stage = Self {
            adapters: BTreeMap::new(),
            clusters: BTreeMap::new(),
            book: None,
            book_address: (Ipv4Addr::LOCALHOST, free_port()).into(),
            assets,
            directory: tempfile::Builder::new().prefix("pharos-stage-").tempdir()?,
            runtime: Runtime::new()?,
        };
        stage.start_book()?;
        Ok(Some(stage))
    }

    /// The same with one cluster, its custom resources and its adapter.
    pub fn with_cluster(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut stage) = Self::start()? else {
            return Ok(None);
        };
        stage.add_cluster(name)?;
        stage.apply_crds(name)?;
        stage.start_adapter(name, &[])?;
        Ok(Some(stage))
    }

    /// Starts ipam-service on the database that it had.
    pub fn start_book(&mut self) -> anyhow::Result<()> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let database = self.directory.path().join("pharos.db");
        let mut book = Launch::workspace("ipam-service")?
            .args(["--listen", &self.book_address.to_string()])
            .args(["--admin", &admin.to_string()])
            .args(["--database", &format!("sqlite:{}", database.display())])
            .start()?;
        book.wait_ready(None, admin, DEADLINE)?;
        self.book = Some(book);
        Ok(())
    }

    /// Kills ipam-service.
    pub fn kill_book(&mut self) -> anyhow::Result<()> {
        self.book
            .take()
            .context("ipam-service does not run")?
            .kill()
    }

    /// Kills ipam-service and starts it on an empty database.
    pub fn lose_book(&mut self) -> anyhow::Result<()> {
        self.kill_book()?;
        for entry in std::fs::read_dir(self.directory.path())? {
            std::fs::remove_file(entry?.path())?;
        }
        self.start_book()
    }

    /// The same, and nothing is given away before these clusters have reported what they hold.
    pub fn lose_book_of(&mut self, clusters: &[&str]) -> anyhow::Result<()> {
        self.kill_book()?;
        for entry in std::fs::read_dir(self.directory.path())? {
            let path = entry?.path();
            if path.extension().is_none_or(|it| it != "kubeconfig") {
                std::fs::remove_file(path)?;
            }
        }
        let database = self.directory.path().join("pharos.db");
        let status = Launch::workspace("ipam-service")?
            .args(["init", "--recover", &clusters.join(",")])
            .args(["--database", &format!("sqlite:{}", database.display())])
            .start()?
            .wait(DEADLINE)?;
        anyhow::ensure!(status.success(), "init ended with {status}");
        self.start_book()
    }

    /// Starts a Kubernetes API with the adapter's permissions, without custom resources.
    pub fn add_cluster(&mut self, name: &str) -> anyhow::Result<()> {
        self.add_cluster_with(name, &[])
    }

    /// The same with more flags of kube-apiserver.
    pub fn add_cluster_with(&mut self, name: &str, flags: &[String]) -> anyhow::Result<()> {
        let options = Options {
            users: vec![User::new(ADAPTER_USER, &["system:serviceaccounts"])],
            flags: flags.to_vec(),
            ..Options::default()
        };
        let kube = Kube::start_with(&self.assets, None, &options)?;
        grant(&kube)?;
        let client = self.runtime.block_on(client(&kube.kubeconfig()))?;
        self.clusters.insert(
            name.to_owned(),
            Cluster {
                kube,
                client: Client(client),
            },
        );
        Ok(())
    }

    /// Applies the custom resource definitions, as the README tells users to.
    pub fn apply_crds(&self, cluster: &str) -> anyhow::Result<()> {
        let crds = repository().join("k8s-adapter/crds").display().to_string();
        self.kubectl(cluster, &["apply", "--server-side", "-f", &crds])?;
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ];
        self.kubectl(cluster, &established)?;
        Ok(())
    }

    /// Starts an adapter and waits until it is ready.
    pub fn start_adapter(&mut self, cluster: &str, flags: &[&str]) -> anyhow::Result<()> {
        self.start_adapter_as(cluster, cluster, flags)?;
        self.wait_adapter(cluster)
    }

    fn wait_adapter(&mut self, cluster: &str) -> anyhow::Result<()> {
        let adapter = self.adapters.get_mut(cluster).context("just started")?;
        adapter.program.wait_ready(None, adapter.admin, DEADLINE)
    }

    /// Starts an adapter of a Kubernetes API under any name, and does not wait.
    pub fn start_adapter_as(
        &mut self,
        cluster: &str,
        name: &str,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let kubeconfig = self.cluster(cluster)?.kube.kubeconfig_of(ADAPTER_USER);
        self.launch_adapter(cluster, name, &kubeconfig, flags)
    }

    fn launch_adapter(
        &mut self,
        cluster: &str,
        name: &str,
        kubeconfig: &Path,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let program = Launch::workspace("k8s-adapter")?
            .named(&format!("k8s-adapter of {cluster}"))
            .args([
                "--ipam",
                &format!("http://{}", self.book_address),
                "--cluster",
                name,
            ])
            .args(["--admin", &admin.to_string()])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags.iter().copied())
            .start()?;
        self.adapters
            .insert(cluster.to_owned(), Adapter { program, admin });
        Ok(())
    }

    /// Starts an adapter that reaches its API server through a relay, and waits until it is ready.
    pub fn start_adapter_behind_relay(&mut self, cluster: &str) -> anyhow::Result<Relay> {
        let kube = &self.cluster(cluster)?.kube;
        let relay = self.runtime.block_on(Relay::start(kube))?;
        let text = std::fs::read_to_string(kube.kubeconfig_of(ADAPTER_USER))?;
        let text = text.replace(kube.url(), &format!("https://{}", relay.address));
        let kubeconfig = self.directory.path().join("relayed.kubeconfig");
        std::fs::write(&kubeconfig, text)?;
        self.launch_adapter(cluster, cluster, &kubeconfig, &[])?;
        self.wait_adapter(cluster)?;
        Ok(relay)
    }

    /// A proxy to a cluster's API server, for adapters of it.
    pub fn proxy(&self, cluster: &str) -> anyhow::Result<Proxy> {
        let kubeconfig = self.cluster(cluster)?.kube.kubeconfig_of(ADAPTER_USER);
        Proxy::start(self.runtime.handle(), &kubeconfig)
    }

    /// Starts an adapter that reaches its API server through a proxy, and does not wait.
    pub fn start_adapter_behind(
        &mut self,
        cluster: &str,
        proxy: &Proxy,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let kube = &self.cluster(cluster)?.kube;
        let text = std::fs::read_to_string(kube.kubeconfig_of(ADAPTER_USER))?;
        let text = text.replace(kube.url(), &proxy.url());
        let kubeconfig = self.directory.path().join("proxied.kubeconfig");
        std::fs::write(&kubeconfig, text)?;
        self.launch_adapter(cluster, cluster, &kubeconfig, flags)
    }

    /// Starts another replica of a cluster's adapter, which counts as the adapter of `replica` in
    /// the other calls.
    pub fn start_replica(&mut self, cluster: &str, replica: &str) -> anyhow::Result<()> {
        let first = self.adapters.remove(cluster).context("no such adapter")?;
        self.start_adapter(cluster, &[])?;
        let second = self.adapters.insert(cluster.to_owned(), first);
        let second = second.context("just started")?;
        self.adapters.insert(replica.to_owned(), second);
        Ok(())
    }

    /// From now on the adapter counts as that of `replica` in the other calls, which leaves room for
    /// another one of the cluster.
    pub fn rename_adapter(&mut self, cluster: &str, replica: &str) -> anyhow::Result<()> {
        let adapter = self.adapters.remove(cluster).context("no such adapter")?;
        self.adapters.insert(replica.to_owned(), adapter);
        Ok(())
    }

    /// SIGTERM; an error unless it exits with 0.
    pub fn stop_adapter(&mut self, cluster: &str) -> anyhow::Result<()> {
        let mut adapter = self.adapters.remove(cluster).context("no such adapter")?;
        let status = adapter.program.terminate(DEADLINE)?;
        if !status.success() {
            bail!("the adapter of {cluster} ended with {status}");
        }
        Ok(())
    }

    /// `kill -9`.
    pub fn kill_adapter(&mut self, cluster: &str) -> anyhow::Result<()> {
        self.adapters
            .remove(cluster)
            .context("no such adapter")?
            .program
            .kill()
    }

    /// The process of ipam-service, to pause it.
    pub fn book(&mut self) -> anyhow::Result<&mut Program> {
        self.book.as_mut().context("ipam-service does not run")
    }

    /// The adapter's process.
    pub fn adapter(&mut self, cluster: &str) -> anyhow::Result<&mut Program> {
        Ok(&mut self
            .adapters
            .get_mut(cluster)
            .context("no such adapter")?
            .program)
    }

    /// The process of a cluster's API server, to pause it.
    pub fn apiserver(&mut self, cluster: &str) -> anyhow::Result<&mut Program> {
        let cluster = self.clusters.get_mut(cluster).context("no such cluster")?;
        Ok(cluster.kube.apiserver())
    }

    /// The API server loses all that it stored, and starts anew with the adapter's permissions.
    pub fn lose_cluster(&mut self, cluster: &str) -> anyhow::Result<()> {
        let cluster = self.clusters.get_mut(cluster).context("no such cluster")?;
        cluster.kube.lose_store()?;
        grant(&cluster.kube)
    }

    /// What the adapter's admin port says at `path`: status and text.
    pub fn admin(&self, cluster: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let adapter = self.adapters.get(cluster).context("no such adapter")?;
        http::get(adapter.admin, path, Duration::from_secs(5))
    }

    /// Waits until `/readyz` answers so: 200 with `ok`, or 503 with these words.
    pub fn wait_readiness(&self, cluster: &str, words: &str) -> anyhow::Result<()> {
        wait::until_ok(&format!("/readyz says {words:?}"), DEADLINE, || {
            let (_, text) = self.admin(cluster, "/readyz")?;
            if !text.contains(words) {
                bail!("it says {text:?}");
            }
            Ok(())
        })
    }

    fn cluster(&self, name: &str) -> anyhow::Result<&Cluster> {
        self.clusters
            .get(name)
            .with_context(|| format!("no cluster {name}"))
    }
}

// === Kubernetes ===

impl Stage {
    /// kubectl as administrator.
    pub fn kubectl(&self, cluster: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster(cluster)?.kube.kubectl(arguments)
    }

    /// A Service of namespace `default`.
    pub fn service(&self, cluster: &str, name: &str) -> anyhow::Result<Service> {
        let api: Api<Service> = Api::namespaced(self.client(cluster)?, "default");
        Ok(self.runtime.block_on(api.get(name))?)
    }

    /// All Services of namespace `default`, by name.
    pub fn services(&self, cluster: &str) -> anyhow::Result<BTreeMap<String, Service>> {
        let api: Api<Service> = Api::namespaced(self.client(cluster)?, "default");
        let list = self.runtime.block_on(api.list(&ListParams::default()))?;
        let named = list.items.into_iter();
        Ok(named
            .filter_map(|service| Some((service.metadata.name.clone()?, service)))
            .collect())
    }

    /// How many Services of namespace `default` have an address.
    pub fn served(&self, cluster: &str) -> anyhow::Result<usize> {
        let services = self.services(cluster)?.into_values();
        Ok(services
            .filter(|service| !addresses(service).is_empty())
            .count())
    }

    /// How many events of namespace `default` have this reason.
    pub fn count_events(&self, cluster: &str, reason: &str) -> anyhow::Result<usize> {
        let api: Api<Event> = Api::namespaced(self.client(cluster)?, "default");
        let fields = ListParams::default().fields(&format!("reason={reason}"));
        let list = self.runtime.block_on(api.list_metadata(&fields))?;
        Ok(list.items.len())
    }

    /// Waits until the Service's status names exactly these addresses.
    pub fn wait_addresses(
        &self,
        cluster: &str,
        name: &str,
        addresses: &[&str],
    ) -> anyhow::Result<Service> {
        let what = format!("{cluster}: service {name} has {addresses:?}");
        wait::until_ok(&what, DEADLINE, || {
            let service = self.service(cluster, name)?;
            let found = self::addresses(&service);
            if found != addresses {
                bail!(
                    "it has {found:?}; events: {:?}",
                    self.events(cluster, name)?
                );
            }
            Ok(service)
        })
    }

    /// Waits until the Service has an address, and gives it.
    pub fn wait_any_address(&self, cluster: &str, name: &str) -> anyhow::Result<String> {
        let what = format!("{cluster}: service {name} has an address");
        wait::until_ok(&what, DEADLINE, || {
            let found = addresses(&self.service(cluster, name)?);
            match found.into_iter().next() {
                Some(address) => Ok(address),
                None => bail!("it has none; events: {:?}", self.events(cluster, name)?),
            }
        })
    }

    /// The events of a Service as (type, reason, component, message), but for those that
    /// kube-apiserver writes about its own ClusterIPs: its repair loop sees a Service that is being
    /// created as `ClusterIPNotAllocated`, now and then.
    pub fn events(
        &self,
        cluster: &str,
        name: &str,
    ) -> anyhow::Result<Vec<(String, String, String, String)>> {
        self.events_in(cluster, "default", name)
    }

    /// The same of any object of a namespace.
    pub fn events_in(
        &self,
        cluster: &str,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Vec<(String, String, String, String)>> {
        let api: Api<Event> = Api::namespaced(self.client(cluster)?, namespace);
        let fields = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let list = self.runtime.block_on(api.list(&fields))?;
        let text = |text: Option<String>| text.unwrap_or_default();
        let of_apiserver = |event: &Event| {
            event.reporting_component.as_deref() == Some("ipallocator-repair-controller")
        };
        let ours = list.items.into_iter().filter(|event| !of_apiserver(event));
        let events = ours.map(|event| {
            let component = event.source.and_then(|source| source.component);
            (
                text(event.type_),
                text(event.reason),
                text(component),
                text(event.message),
            )
        });
        Ok(events.collect())
    }

    /// Waits for an event of the Service with this reason whose message has all these words; gives
    /// the message.
    pub fn wait_event(
        &self,
        cluster: &str,
        name: &str,
        reason: &str,
        words: &[&str],
    ) -> anyhow::Result<String> {
        let what = format!("{cluster}: service {name} has an event {reason} with {words:?}");
        wait::until_ok(&what, DEADLINE, || {
            let events = self.events(cluster, name)?;
            let found = events.iter().find(|(_, its_reason, _, message)| {
                its_reason == reason && words.iter().all(|word| message.contains(word))
            });
            match found {
                Some((_, _, _, message)) => Ok(message.clone()),
                None => bail!("its events are {events:?}"),
            }
        })
    }

    fn client(&self, cluster: &str) -> anyhow::Result<kube::Client> {
        Ok(self.cluster(cluster)?.client.0.clone())
    }
}

/// The adapter's permissions, as the README tells users to apply them.
fn grant(kube: &Kube) -> anyhow::Result<()> {
    let permissions = repository().join("deploy/k8s-adapter-rbac.yaml");
    kube.kubectl(&["apply", "-f", &permissions.display().to_string()])?;
    Ok(())
}

async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The addresses in a Service's status.
pub fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.as_ref();
    let load_balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = load_balancer
        .and_then(|it| it.ingress.as_deref())
        .unwrap_or_default();
    ingress
        .iter()
        .filter_map(|point| point.ip.clone())
        .collect()
}

/// An annotation of a Service.
pub fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let annotations = service.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
