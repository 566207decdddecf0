//! One site: a LAN on which clusters and their clients live.
//!
//! ```text
//!   book     192.168.12.2    ipam-service
//!   east     192.168.12.5    etcd, kube-apiserver and k8s-adapter of cluster east
//!   west     192.168.12.6    the same of cluster west
//!   n1..n3   192.168.12.11+  nodes of east: announcer, kube-proxy
//!   client   192.168.12.50
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::kube::{Assets, Kube, Options, User};
use pharos_testbed::{Host, Lan, Launch, Namespace, Program, skip};
use tempfile::TempDir;

/// A busy machine of two cores is slow; nothing that is waited for takes more than seconds alone.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const BOOK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 12, 2)), 7471);
/// Where announcers hear one another, unless they are told otherwise.
const MEMBERS: u16 = 7946;
const PROXY_USER: &str = "system:kube-proxy";
/// A user of every cluster who may do nothing, until it is granted.
pub const READER: &str = "reader";

/// A cluster's API, and the adapter that translates it.
#[derive(Debug)]
pub struct Cluster {
    pub name: String,
    /// `None` while it is down.
    pub adapter: Option<Program>,
    pub kube: Kube,
}

/// Everything on one LAN. Dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Site {
    // Dropped in this order: programs before what they talk to, namespaces last.
    clusters: BTreeMap<String, Cluster>,
    announcers: BTreeMap<String, Program>,
    proxies: Vec<Program>,
    book: Program,
    assets: Assets,
    lan: Lan,
    directory: TempDir,
}

impl Site {
    /// A LAN with ipam-service and a client; `None`, after a loud line, where that cannot run.
    pub fn start() -> anyhow::Result<Option<Self>> {
        if !skip::can_use_namespaces() {
            return Ok(None);
        }
        let Some(assets) = Assets::or_skip() else {
            return Ok(None);
        };
        let lan = Lan::new(&[("book", "192.168.12.2/24"), ("client", "192.168.12.50/24")])?;
        let directory = tempfile::Builder::new().prefix("pharos-site-").tempdir()?;
        let book = start_book(lan.host("book")?, &directory.path().join("pharos.db"))?;
        Ok(Some(Self {
            clusters: BTreeMap::new(),
            announcers: BTreeMap::new(),
            proxies: Vec::new(),
            book,
            assets,
            lan,
            directory,
        }))
    }

    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// The host of the clients.
    pub fn client(&self) -> anyhow::Result<&Host> {
        self.lan.host("client")
    }

    /// ipam-service.
    pub fn book(&mut self) -> &mut Program {
        &mut self.book
    }

    /// A cluster that was added.
    pub fn cluster(&self, name: &str) -> anyhow::Result<&Cluster> {
        self.clusters
            .get(name)
            .with_context(|| format!("no cluster {name}"))
    }

    /// kubectl of a cluster, as its administrator.
    pub fn kubectl(&self, cluster: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster(cluster)?.kube.kubectl(arguments)
    }

    /// Starts a cluster's API with the custom resources applied and the adapter running. `address`
    /// is in 192.168.12.0/24.
    pub fn add_cluster(&mut self, name: &str, address: &str) -> anyhow::Result<()> {
        self.add_api(name, address)?;
        self.install(name)?;
        self.start_adapter(name)
    }

    /// Starts a cluster's API, with nothing of ours in it.
    pub fn add_api(&mut self, name: &str, address: &str) -> anyhow::Result<()> {
        self.lan.add(name, &format!("{address}/24"))?;
        let host = self.lan.host(name)?;
        let options = Options {
            address: host.address,
            users: vec![User::new(PROXY_USER, &[]), User::new(READER, &[])],
            ..Options::default()
        };
        let kube = Kube::start_with(&self.assets, Some(&host.namespace), &options)?;
        let cluster = Cluster {
            name: name.to_owned(),
            adapter: None,
            kube,
        };
        self.clusters.insert(name.to_owned(), cluster);
        Ok(())
    }

    /// Applies the custom resource definitions and the adapter's permissions, in the place of whatever is there.
    pub fn install(&self, name: &str) -> anyhow::Result<()> {
        let kube = &self.cluster(name)?.kube;
        let crds = repository().join("k8s-adapter/crds").display().to_string();
        kube.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])?;
        kube.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])?;
        // With the Lease.
        let permissions = repository().join("deploy/k8s-adapter-rbac.yaml");
        kube.kubectl(&["apply", "-f", &permissions.display().to_string()])?;
        Ok(())
    }

    /// Kills a cluster's adapter, API server and store.
    pub fn stop_cluster(&mut self, name: &str) -> anyhow::Result<()> {
        let cluster = self.clusters.remove(name);
        cluster
            .map(drop)
            .with_context(|| format!("no cluster {name}"))
    }

    /// Starts a cluster's adapter and waits until it is ready.
    pub fn start_adapter(&mut self, name: &str) -> anyhow::Result<()> {
        let cluster = self.clusters.get_mut(name).context("no such cluster")?;
        let namespace = &self.lan.host(name)?.namespace;
        let admin = loopback(7474);
        let mut adapter = Launch::workspace("k8s-adapter")?
            .named(&format!("k8s-adapter of {name}"))
            .args(["--ipam", &format!("http://{BOOK}"), "--cluster", name])
            .args(["--admin", &admin.to_string()])
            .arg("--kubeconfig")
            .arg(cluster.kube.kubeconfig())
            .start_in(namespace)?;
        adapter.wait_ready(Some(namespace), admin, DEADLINE)?;
        cluster.adapter = Some(adapter);
        Ok(())
    }

    /// SIGTERM to a cluster's adapter; an error unless it exits with 0.
    pub fn stop_adapter(&mut self, name: &str) -> anyhow::Result<()> {
        let cluster = self.clusters.get_mut(name).context("no such cluster")?;
        let mut adapter = cluster.adapter.take().context("it does not run")?;
        let status = adapter.terminate(DEADLINE)?;
        anyhow::ensure!(status.success(), "the adapter ended with {status}");
        Ok(())
    }

    /// Adds a node to a cluster: a Node object and its announcer.
    pub fn add_node(&mut self, cluster: &str, name: &str, address: &str) -> anyhow::Result<()> {
        self.add_bare_node(cluster, name, address)?;
        self.start_announcer(cluster, name)
    }

    /// Adds a node to a cluster: a host and a Node object.
    pub fn add_bare_node(
        &mut self,
        cluster: &str,
        name: &str,
        address: &str,
    ) -> anyhow::Result<()> {
        self.lan.add(name, &format!("{address}/24"))?;
        let namespace = &self.lan.host(name)?.namespace;
        // What a node of Kubernetes is: a router for its pods.
        namespace.write_sysctl("net/ipv4/ip_forward", "1")?;
        let kube = &self.cluster(cluster)?.kube;
        kube.apply(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: \
             {{kubernetes.io/hostname: {name}}}}}}}"
        ))?;
        let status = serde_json::json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}],
        }});
        kube.kubectl(&[
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ])?;
        Ok(())
    }

    /// Starts a node's announcer and waits until it is ready.
    pub fn start_announcer(&mut self, cluster: &str, node: &str) -> anyhow::Result<()> {
        self.launch_announcer(cluster, node, MEMBERS)?;
        let namespace = &self.lan.host(node)?.namespace;
        let announcer = self.announcers.get_mut(node).context("just started")?;
        announcer.wait_ready(Some(namespace), loopback(7473), DEADLINE)
    }

    /// Starts a node's announcer, which hears others at this port, and does not wait.
    pub fn launch_announcer(
        &mut self,
        cluster: &str,
        node: &str,
        members: u16,
    ) -> anyhow::Result<()> {
        let host = self.lan.host(node)?;
        let admin = loopback(7473);
        let announcer = Launch::workspace("announcer")?
            .named(&format!("announcer of {node}"))
            .args(["--ipam", &format!("http://{BOOK}")])
            .args(["--cluster", cluster, "--node", node])
            .args(["--admin", &admin.to_string()])
            .args(["--members-listen", &format!("{}:{members}", host.address)])
            .arg("--state-dir")
            .arg(self.directory.path().join(node))
            .start_in(&host.namespace)?;
        self.announcers.insert(node.to_owned(), announcer);
        Ok(())
    }

    /// SIGTERM to a node's announcer.
    pub fn stop_announcer(&mut self, node: &str) -> anyhow::Result<()> {
        let announcer = self.announcers.remove(node);
        let mut announcer = announcer.with_context(|| format!("no announcer on {node}"))?;
        announcer.terminate(DEADLINE)?;
        Ok(())
    }

    /// A node's announcer.
    pub fn announcer(&mut self, node: &str) -> anyhow::Result<&mut Program> {
        let announcer = self.announcers.get_mut(node);
        announcer.with_context(|| format!("no announcer on {node}"))
    }

    /// Starts the real kube-proxy in nftables mode on a node. `false`, after a loud line, where
    /// there is none (`KUBEBUILDER_ASSETS` brings none).
    pub fn start_kube_proxy(&mut self, cluster: &str, node: &str) -> anyhow::Result<bool> {
        let Some(program) = self.assets.kube_proxy.clone() else {
            skip::skip("needs kube-proxy");
            return Ok(false);
        };
        let host = self.lan.host(node)?;
        let config = self.directory.path().join(format!("{node}-proxy.json"));
        let kubeconfig = self.cluster(cluster)?.kube.kubeconfig_of(PROXY_USER);
        let json = proxy_configuration(node, &kubeconfig);
        std::fs::write(&config, serde_json::to_string_pretty(&json)?)?;
        let mut proxy = Launch::program(program)
            .named(&format!("kube-proxy of {node}"))
            .arg("--config")
            .arg(&config)
            .start_in(&host.namespace)?;
        wait_for_rules(&mut proxy, &host.namespace)?;
        self.proxies.push(proxy);
        Ok(true)
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Manifests as users of MetalLB have them.
pub fn manifest(name: &str) -> String {
    let path = repository().join("e2e/manifests").join(name);
    path.display().to_string()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn start_book(host: &Host, database: &Path) -> anyhow::Result<Program> {
    let admin = loopback(7472);
    let mut book = Launch::workspace("ipam-service")?
        .args(["--listen", &BOOK.to_string(), "--admin", &admin.to_string()])
        .args(["--database", &format!("sqlite:{}", database.display())])
        // Namespaces of the test's own are the whole network.
        .args(["--create", "--insecure"])
        .start_in(&host.namespace)?;
    book.wait_ready(Some(&host.namespace), admin, DEADLINE)?;
    Ok(book)
}

fn proxy_configuration(node: &str, kubeconfig: &Path) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": "10.244.0.0/16,fd00:10:244::/56",
        "hostnameOverride": node,
        "bindAddress": "0.0.0.0",
        // The machine's limits are not ours to write, from inside a namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
        "nftables": {"minSyncPeriod": "100ms"},
    })
}

fn wait_for_rules(proxy: &mut Program, namespace: &Namespace) -> anyhow::Result<()> {
    proxy.wait_until("kube-proxy wrote its table", DEADLINE, || {
        let tables = namespace.exec(&["nft", "list", "tables"]).ok()?;
        tables.contains("kube-proxy").then_some(())
    })
}
