//! A burst of Services: how soon each has its address, the adapter beside MetalLB's controller, one after
//! the other on the same kube-apiserver.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use pharos_testbed::kube::{Assets, Kube};
use pharos_testbed::metallb::Metallb;
use pharos_testbed::{Launch, Program, wait};
use serde_json::json;
use tokio::sync::mpsc;

use super::{loopback, mebibytes, quantile, report, report_ratio};
use crate::cargo::root;

const BURSTS: [usize; 2] = [500, 2000];
/// MetalLB takes half a minute for the smaller burst.
const DEADLINE: Duration = Duration::from_secs(900);
/// Services that are being made at one time.
const HANDS: usize = 16;
const NAMESPACE: &str = "metallb-system";

pub(super) fn run() -> anyhow::Result<()> {
    let Some(assets) = Assets::find() else {
        println!("kube SKIPPED: no kube-apiserver (cargo xtask kube-env builds one)");
        return Ok(());
    };
    let metallb = match Metallb::find_or_build() {
        Ok(metallb) => metallb,
        Err(error) => {
            println!("kube SKIPPED: {error:#}");
            return Ok(());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kube = start_cluster(&assets, &metallb)?;
    let theirs = {
        let mut controller = start_controller(&kube, &metallb)?;
        runtime.block_on(bursts(&kube, &mut controller))?
    };
    // As those who come from MetalLB do it.
    let patch = r#"[{"op":"replace","path":"/spec/conversion","value":{"strategy":"None"}}]"#;
    let crd = ["crd", "bgppeers.metallb.io", "--type=json", "-p", patch];
    kube.kubectl(&[&["patch"], &crd[..]].concat())?;
    let mut pharos = Pharos::start(&kube)?;
    let ours = runtime.block_on(bursts(&kube, &mut pharos.adapter))?;
    for (size, (theirs, ours)) in BURSTS.iter().zip(theirs.iter().zip(&ours)) {
        tell(*size, theirs, ours);
    }
    Ok(())
}

fn tell(size: usize, theirs: &Figures, ours: &Figures) {
    let of_us = |part: &str| format!("kube.{size}.adapter.{part}");
    let of_them = |part: &str| format!("kube.{size}.metallb.{part}");
    for (part, theirs, ours) in [
        ("p50", theirs.median, ours.median),
        ("p99", theirs.late, ours.late),
    ] {
        report(&of_us(part), millis(ours), "ms");
        report_ratio(
            &of_them(part),
            millis(theirs),
            "ms",
            &of_us(part),
            millis(ours),
        );
    }
    for (name, one) in [(of_us("all"), ours), (of_them("all"), theirs)] {
        report_ratio(
            &name,
            one.all.as_secs_f64(),
            "s",
            "making them",
            one.made.as_secs_f64(),
        );
    }
    for (name, one) in [(of_us("writes"), ours), (of_them("writes"), theirs)] {
        report(&name, one.writes / size as f64, "status writes per Service");
    }
    report(&of_us("rss"), mebibytes(ours.resident), "MiB at most");
    report_ratio(
        &of_them("rss"),
        mebibytes(theirs.resident),
        "MiB at most",
        &of_us("rss"),
        mebibytes(ours.resident),
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A Kubernetes API with the kinds of MetalLB and one pool.
fn start_cluster(assets: &Assets, metallb: &Metallb) -> anyhow::Result<Kube> {
    let kube = Kube::start(assets)?;
    let manifest = metallb.manifest.display().to_string();
    kube.kubectl(&["apply", "-f", &manifest])?;
    let established = "--for=condition=Established";
    kube.kubectl(&["wait", established, "--timeout=60s", "crd", "--all"])?;
    // Nobody answers for it, and without an answer nobody could apply a pool.
    kube.kubectl(&[
        "delete",
        "validatingwebhookconfiguration",
        "metallb-webhook-configuration",
    ])?;
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": "bench", "namespace": NAMESPACE },
        "spec": { "addresses": ["198.18.0.0/18"] },
    });
    kube.apply(&pool.to_string())?;
    Ok(kube)
}

fn start_controller(kube: &Kube, metallb: &Metallb) -> anyhow::Result<Program> {
    let mut controller = Launch::program(&metallb.controller)
        .named("MetalLB's controller")
        .env("KUBECONFIG", kube.kubeconfig())
        .args(["--namespace", NAMESPACE])
        .args(["--webhook-mode", "disabled", "--disable-cert-rotation"])
        .start()?;
    controller.wait_log("Starting workers", DEADLINE)?;
    Ok(controller)
}

/// ipam-service and the adapter of a cluster. Dropping it ends both.
pub(super) struct Pharos {
    pub(super) adapter: Program,
    _service: Program,
    _directory: tempfile::TempDir,
}

impl Pharos {
    /// With our kinds and permissions.
    pub(super) fn start(kube: &Kube) -> anyhow::Result<Self> {
        let crds = root().join("k8s-adapter/crds").display().to_string();
        kube.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])?;
        // With the Lease.
        let permissions = root().join("deploy/k8s-adapter-rbac.yaml");
        kube.kubectl(&["apply", "-f", &permissions.display().to_string()])?;
        let directory = tempfile::tempdir()?;
        let (listen, admin) = (loopback(), loopback());
        let database = directory.path().join("pharos.db");
        let mut service = Launch::workspace("ipam-service")?
            .args(["--listen", &listen.to_string()])
            .args(["--admin", &admin.to_string()])
            .args(["--database", &format!("sqlite:{}", database.display())])
            .start()?;
        service.wait_ready(None, admin, DEADLINE)?;
        let admin = loopback();
        let mut adapter = Launch::workspace("k8s-adapter")?
            .args(["--ipam", &format!("http://{listen}"), "--cluster", "bench"])
            .args(["--admin", &admin.to_string()])
            .arg("--kubeconfig")
            .arg(kube.kubeconfig())
            .start()?;
        adapter.wait_ready(None, admin, DEADLINE)?;
        Ok(Self {
            adapter,
            _service: service,
            _directory: directory,
        })
    }
}

/// What one burst showed.
struct Figures {
    median: Duration,
    late: Duration,
    /// How long it took to make the Services.
    made: Duration,
    /// From the first call that makes one until the last has its address.
    all: Duration,
    writes: f64,
    /// The most that the program took.
    resident: u64,
}

/// All bursts, each without what the one before left.
async fn bursts(kube: &Kube, program: &mut Program) -> anyhow::Result<Vec<Figures>> {
    let client = client(&kube.kubeconfig()).await?;
    let services: Api<Service> = Api::namespaced(client, "default");
    let mut figures = Vec::new();
    for size in BURSTS {
        figures.push(burst(kube, &services, program, size).await?);
        remove(&services).await?;
    }
    Ok(figures)
}

async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

async fn burst(
    kube: &Kube,
    services: &Api<Service>,
    program: &mut Program,
    size: usize,
) -> anyhow::Result<Figures> {
    let before = status_writes(kube)?;
    let (told, mut seen) = mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(services.clone(), told));
    let begun = wait::now();
    let made = async {
        let names = (0..size).map(|number| format!("burst-{number}"));
        let make = |name: String| async move {
            let at = wait::now();
            let service = service(&name)?;
            services.create(&PostParams::default(), &service).await?;
            anyhow::Ok((name, at))
        };
        let made = futures::stream::iter(names).map(make);
        let made = made.buffer_unordered(HANDS);
        let made: BTreeMap<String, std::time::Instant> = made.try_collect().await?;
        anyhow::Ok((made, begun.elapsed()))
    };
    let served = async {
        let mut served = BTreeMap::new();
        while served.len() < size {
            let (name, at) = seen.recv().await.context("the watch ended")?;
            served.entry(name).or_insert(at);
        }
        anyhow::Ok(served)
    };
    let both = tokio::time::timeout(DEADLINE, async { tokio::try_join!(made, served) });
    let ((made, took), served) = both.await.context("not all were served in time")??;
    watching.abort();
    let mut times = Vec::new();
    for (name, at) in &served {
        let created = made
            .get(name)
            .with_context(|| format!("{name} was not made"))?;
        times.push(at.saturating_duration_since(*created));
    }
    times.sort();
    let last = served.values().max().context("no Services")?;
    // What is written for the last ones may be counted a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(Figures {
        median: quantile(&times, 0.5).context("no Services")?,
        late: quantile(&times, 0.99).context("no Services")?,
        made: took,
        all: last.saturating_duration_since(begun),
        writes: status_writes(kube)? - before,
        resident: program.peak_resident_bytes()?,
    })
}

fn service(name: &str) -> anyhow::Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "type": "LoadBalancer",
            // There are fewer node ports than Services.
            "allocateLoadBalancerNodePorts": false,
            "selector": { "app": name },
            "ports": [{ "port": 80, "protocol": "TCP" }],
        },
    }))?)
}

/// Tells of each Service that has an address, and when that was seen.
async fn watch(
    services: Api<Service>,
    told: mpsc::UnboundedSender<(String, std::time::Instant)>,
) -> anyhow::Result<()> {
    let services = watcher(services, watcher::Config::default()).applied_objects();
    let mut services = services.boxed();
    while let Some(service) = services.try_next().await? {
        let status = service.status.and_then(|status| status.load_balancer);
        let ingress = status.and_then(|it| it.ingress).unwrap_or_default();
        if let (Some(name), false) = (service.metadata.name, ingress.is_empty()) {
            told.send((name, wait::now()))?;
        }
    }
    bail!("the watch ended")
}

/// Removes all Services but the API's own.
async fn remove(services: &Api<Service>) -> anyhow::Result<()> {
    let burst = services.list(&ListParams::default()).await?;
    let names = burst.items.into_iter().filter_map(|it| it.metadata.name);
    let names = names.filter(|name| name.starts_with("burst-"));
    let remove = |name: String| async move {
        services.delete(&name, &DeleteParams::default()).await?;
        anyhow::Ok(())
    };
    let removed = futures::stream::iter(names).map(remove);
    removed.buffer_unordered(HANDS).try_collect::<()>().await?;
    let left = async {
        while services.list(&ListParams::default()).await?.items.len() > 1 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, left)
        .await
        .context("Services that do not go")?
}

/// How often the status of a Service was written, as the API server counts.
fn status_writes(kube: &Kube) -> anyhow::Result<f64> {
    let metrics = kube.kubectl(&["get", "--raw", "/metrics"])?;
    let is_write = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"services\"")
            && line.contains("subresource=\"status\"")
            && (line.contains("verb=\"PATCH\"")
                || line.contains("verb=\"PUT\"")
                || line.contains("verb=\"APPLY\""))
    };
    let counts = metrics.lines().filter(is_write);
    let counts = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(counts.sum())
}
