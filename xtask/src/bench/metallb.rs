//! MetalLB's speaker and the announcer on the same bridge, one after the other, seen by the same
//! prober: how long an address is silent, how long an answer takes, memory.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pharos_testbed::arp::{INTERVAL, Prober};
use pharos_testbed::kube::{Assets, Kube, Options as KubeOptions};
use pharos_testbed::metallb::Metallb;
use pharos_testbed::{Launch, Program, wait};
use pnet_base::MacAddr;

use super::failover::two_owners;
use super::{Options, arp, mebibytes, quantile, report, report_ratio};
use crate::scene::{self, Scene};

const NODES: usize = 3;
/// MetalLB is silent for seconds, and needs twenty after a heal: few runs take minutes.
const MOST_RUNS: usize = 5;
const DEADLINE: Duration = Duration::from_secs(120);
/// A cut lasts so long: both sides have given up the other by then.
const CUT: Duration = Duration::from_secs(15);
/// One owner has answered for so long, without a gap.
const QUIET: Duration = Duration::from_secs(3);
const OURS: &str = "192.168.12.100";
const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 150);

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let metallb = match Metallb::find_or_build() {
        Ok(metallb) => metallb,
        Err(error) => {
            println!("metallb SKIPPED: {error:#}");
            return Ok(());
        }
    };
    let Some(assets) = Assets::find() else {
        println!("metallb SKIPPED: no kube-apiserver (cargo xtask kube-env builds one)");
        return Ok(());
    };
    if !nix::unistd::geteuid().is_root() {
        println!("metallb SKIPPED: needs root for network namespaces");
        return Ok(());
    }
    let runs = options.runs.min(MOST_RUNS);
    let mut scene = Scene::start_with(NODES, &["--hold-down", "1"])?;
    let ours = of_announcers(&mut scene, runs)?;
    for index in 0..NODES {
        scene.announcer(index)?.terminate(DEADLINE)?;
    }
    let theirs = of_speakers(&mut scene, &metallb, &assets, runs)?;
    for (part, theirs, ours) in [
        ("kill9.silent", theirs.killed, ours.killed),
        ("cut.silent", theirs.cut, ours.cut),
        (
            "cut.two_owners_after_heal",
            theirs.two_owners,
            ours.two_owners,
        ),
    ] {
        let (theirs, ours) = (median(theirs)?, median(ours)?);
        let reference = format!("announcer.{part}.median");
        report(&reference, ours, "ms");
        report_ratio(
            &format!("metallb.{part}.median"),
            theirs,
            "ms",
            &reference,
            ours,
        );
    }
    let (theirs, ours) = (mebibytes(theirs.resident), mebibytes(ours.resident));
    report_ratio("metallb.rss", theirs, "MiB", "announcer.rss", ours);
    Ok(())
}

struct Figures {
    killed: Vec<Duration>,
    cut: Vec<Duration>,
    two_owners: Vec<Duration>,
    /// Memory of the owner.
    resident: u64,
}

fn median(mut times: Vec<Duration>) -> anyhow::Result<f64> {
    times.sort_unstable();
    let median = quantile(&times, 0.5).context("no runs")?;
    Ok(median.as_secs_f64() * 1000.0)
}

fn of_announcers(scene: &mut Scene, runs: usize) -> anyhow::Result<Figures> {
    scene.call(async |channel| scene::configure(channel, &format!("{OURS}/32")).await)?;
    let allocation = scene.call(async |channel| scene::allocate(channel, "web").await)?;
    let address = scene::address_of(&allocation)?;
    scene.wait_until_answered(address)?;
    let compared = own_address(scene)?;
    arp::compare("announcer", scene.client()?, address, compared)?;
    let prober = Prober::start(scene.client()?, &[address])?;
    let killed = lose(
        scene,
        &prober,
        address,
        runs,
        Duration::ZERO,
        |scene, index| {
            scene.announcer(index)?.kill()?;
            Ok(())
        },
        Scene::start_announcer,
    )?;
    let cut = lose(
        scene,
        &prober,
        address,
        runs,
        CUT,
        Scene::isolate,
        |scene, _| scene.heal(),
    )?;
    let owner = quiet_owner(scene, &prober, address)?.0;
    Ok(Figures {
        killed: killed.silent,
        cut: cut.silent,
        two_owners: cut.two_owners,
        resident: scene.announcer(owner)?.resident_bytes()?,
    })
}

fn of_speakers(
    scene: &mut Scene,
    metallb: &Metallb,
    assets: &Assets,
    runs: usize,
) -> anyhow::Result<Figures> {
    let service = scene.lan().host("service")?;
    let options = KubeOptions {
        address: service.address,
        ..KubeOptions::default()
    };
    let kube = Kube::start_with(assets, Some(&service.namespace), &options)?;
    apply_objects(scene, &kube, &metallb.definitions)?;
    let kubeconfig = kube.kubeconfig();
    let start =
        |scene: &Scene, index: usize| start_speaker(scene, index, &metallb.speaker, &kubeconfig);
    let mut speakers: Vec<Program> = (0..NODES)
        .map(|index| start(scene, index))
        .collect::<Result<_, _>>()?;
    let client = scene.client()?;
    let prober = Prober::start(client, &[THEIRS])?;
    prober.wait_answer(THEIRS, Duration::ZERO, None, DEADLINE)?;
    let owner = quiet_owner(scene, &prober, THEIRS)?.0;
    drop(prober);
    let compared = own_address(scene)?;
    arp::compare("metallb", client, THEIRS, compared)?;
    let resident = speakers[owner].resident_bytes()?;
    let prober = Prober::start(client, &[THEIRS])?;
    let speakers = std::cell::RefCell::new(&mut speakers);
    let killed = lose(
        scene,
        &prober,
        THEIRS,
        runs,
        Duration::ZERO,
        |_, index| speakers.borrow_mut()[index].kill(),
        |scene, index| {
            speakers.borrow_mut()[index] = start(scene, index)?;
            Ok(())
        },
    )?;
    let cut = lose(
        scene,
        &prober,
        THEIRS,
        runs,
        CUT,
        Scene::isolate,
        |scene, _| scene.heal(),
    )?;
    Ok(Figures {
        killed: killed.silent,
        cut: cut.silent,
        two_owners: cut.two_owners,
        resident,
    })
}

struct Lost {
    silent: Vec<Duration>,
    two_owners: Vec<Duration>,
}

/// Loses the owner some times, at least for so long, and brings it back; gives how long the address was silent, and how
/// long two answered afterwards.
fn lose(
    scene: &mut Scene,
    prober: &Prober,
    address: Ipv4Addr,
    runs: usize,
    lasts: Duration,
    mut take_away: impl FnMut(&mut Scene, usize) -> anyhow::Result<()>,
    mut bring_back: impl FnMut(&mut Scene, usize) -> anyhow::Result<()>,
) -> anyhow::Result<Lost> {
    let mut lost = Lost {
        silent: Vec::new(),
        two_owners: Vec::new(),
    };
    for _ in 0..runs {
        let (owner, mac) = quiet_owner(scene, prober, address)?;
        let from = prober.now();
        take_away(scene, owner)?;
        prober.wait_answer(address, from, Some(mac), DEADLINE)?;
        let back = prober.now();
        let record = prober.record();
        lost.silent.push(record.longest_gap(address, from, back));
        wait::until("the end of the loss", DEADLINE, || {
            (prober.now() >= from + lasts).then_some(())
        })?;
        bring_back(scene, owner)?;
        let healed = prober.now();
        quiet_owner(scene, prober, address)?;
        let (record, now) = (prober.record(), prober.now());
        lost.two_owners
            .push(two_owners(&record, &[address], healed, now));
    }
    Ok(lost)
}

/// The node that alone has answered every request of the last seconds.
fn quiet_owner(
    scene: &Scene,
    prober: &Prober,
    address: Ipv4Addr,
) -> anyhow::Result<(usize, MacAddr)> {
    let began = prober.now();
    let mac = wait::until("one owner, without gaps", DEADLINE, || {
        std::thread::sleep(10 * INTERVAL);
        let now = prober.now();
        let from = now.checked_sub(QUIET).filter(|from| *from >= began)?;
        let record = prober.record();
        let answerers = record.answerers(address, from, now);
        let gap = record.longest_gap(address, from, now);
        let single = answerers.len() == 1 && gap < 10 * INTERVAL;
        single.then(|| answerers.first().copied()).flatten()
    })?;
    let index = (0..NODES).find(|index| scene.node(*index).is_ok_and(|host| host.mac == mac));
    Ok((
        index.context("no node has the hardware address that answers")?,
        mac,
    ))
}

/// An address that the kernel of the first node answers for.
fn own_address(scene: &Scene) -> anyhow::Result<Ipv4Addr> {
    match scene.node(0)?.address {
        IpAddr::V4(own) => Ok(own),
        IpAddr::V6(_) => bail!("the node has no IPv4 address"),
    }
}

fn start_speaker(
    scene: &Scene,
    index: usize,
    speaker: &Path,
    kubeconfig: &Path,
) -> anyhow::Result<Program> {
    let host = scene.node(index)?;
    Launch::program(speaker)
        .named(&format!("speaker of {}", host.name))
        .env("KUBECONFIG", kubeconfig)
        .args(["--namespace", "metallb-system", "--node-name", &host.name])
        .args(["--pod-name", &format!("speaker-{}", host.name)])
        .args([
            "--ml-bindaddr",
            &host.address.to_string(),
            "--ml-bindport",
            "7947",
        ])
        .args(["--ml-labels", "app=metallb,component=speaker"])
        .args(["--host", "127.0.0.1"])
        .start_in(&host.namespace)
}

/// What a cluster would have: MetalLB's kinds, nodes, pods of speakers, and a Service with an
/// address and an endpoint on each node.
fn apply_objects(scene: &Scene, kube: &Kube, definitions: &Path) -> anyhow::Result<()> {
    let crds = definitions.display().to_string();
    kube.kubectl(&["apply", "--server-side", "-f", &crds])?;
    kube.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=60s",
    ])?;
    kube.kubectl(&["create", "namespace", "metallb-system"])?;
    let mut endpoints = Vec::new();
    for index in 0..NODES {
        let host = scene.node(index)?;
        kube.apply(
            &serde_json::json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": host.name},
            })
            .to_string(),
        )?;
        let pod = format!("speaker-{}", host.name);
        kube.apply(
            &serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": pod, "namespace": "metallb-system",
                    "labels": {"app": "metallb", "component": "speaker"},
                },
                "spec": {
                    "nodeName": host.name, "hostNetwork": true,
                    "containers": [{"name": "speaker", "image": "speaker"}],
                },
            })
            .to_string(),
        )?;
        set_status(
            kube,
            "metallb-system",
            "pod",
            &pod,
            &serde_json::json!({
                "phase": "Running", "podIP": host.address, "podIPs": [{"ip": host.address}],
            }),
        )?;
        endpoints.push(serde_json::json!({
            "addresses": [host.address], "nodeName": host.name,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }));
    }
    kube.apply(
        &serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": {"name": "pool", "namespace": "metallb-system"},
            "spec": {"addresses": [format!("{THEIRS}/32")]},
        })
        .to_string(),
    )?;
    kube.apply(
        &serde_json::json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": {"name": "all", "namespace": "metallb-system"},
        })
        .to_string(),
    )?;
    kube.apply(
        &serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        })
        .to_string(),
    )?;
    kube.apply(
        &serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"port": 8080, "protocol": "TCP"}],
        })
        .to_string(),
    )?;
    set_status(
        kube,
        "default",
        "service",
        "web",
        &serde_json::json!({
            "loadBalancer": {"ingress": [{"ip": THEIRS, "ipMode": "VIP"}]},
        }),
    )
}

fn set_status(
    kube: &Kube,
    namespace: &str,
    kind: &str,
    name: &str,
    status: &serde_json::Value,
) -> anyhow::Result<()> {
    let patch = serde_json::json!({"status": status}).to_string();
    kube.kubectl(&[
        "patch",
        "-n",
        namespace,
        kind,
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    Ok(())
}
