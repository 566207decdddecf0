//! Resident memory (VmRSS) of each program: as it starts, and with something to hold.

use std::net::Ipv4Addr;

use pharos_testbed::kube::{Assets, Kube};

use super::kube::Pharos;
use super::report_rss;
use crate::scene::{self, Scene};

const ADDRESSES: usize = 1000;
const NODES: usize = 1;

pub(super) fn run() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        service_and_announcer()?;
    } else {
        println!("memory of ipam-service and announcer SKIPPED: needs root for network namespaces");
    }
    adapter()
}

fn service_and_announcer() -> anyhow::Result<()> {
    let mut scene = Scene::start(NODES)?;
    report_rss("memory.ipam_service.empty", scene.service())?;
    report_rss("memory.announcer.empty", scene.announcer(0)?)?;
    scene.call(async |channel| scene::configure(channel, "10.50.0.0/16").await)?;
    scene.call(async |channel| scene::allocate_many(channel, ADDRESSES).await)?;
    scene.wait_for_assignments(ADDRESSES, NODES)?;
    scene.wait_until_answered(Ipv4Addr::new(10, 50, 3, 231))?;
    report_rss(
        &format!("memory.ipam_service.{ADDRESSES}_addresses"),
        scene.service(),
    )?;
    report_rss(
        &format!("memory.announcer.{ADDRESSES}_addresses"),
        scene.announcer(0)?,
    )
}

/// The adapter of a cluster without a single Service, against a real kube-apiserver.
fn adapter() -> anyhow::Result<()> {
    let Some(assets) = Assets::find() else {
        println!("memory.k8s_adapter SKIPPED: no kube-apiserver (cargo xtask kube-env builds one)");
        return Ok(());
    };
    let kube = Kube::start(&assets)?;
    let pharos = Pharos::start(&kube)?;
    report_rss("memory.k8s_adapter.empty", &pharos.adapter)
}
