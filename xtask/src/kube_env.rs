//! `cargo xtask kube-env`: a real Kubernetes API to try things against.

use std::time::Duration;

use pharos_testbed::kube::{Assets, Kube};
use pharos_testbed::wait;

/// Longer than anybody waits; the wait ends with the interrupt.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) fn run() -> anyhow::Result<()> {
    let assets = Assets::find_or_build()?;
    let mut kube = Kube::start(&assets)?;
    println!("{}", kube.kubeconfig().display());
    eprintln!(
        "kube-apiserver at {}; kubectl is {}; Ctrl-C stops it",
        kube.url(),
        assets.kubectl.display()
    );
    let ended = wait::until("the end of kube-apiserver", FOREVER, || {
        (!kube.apiserver().is_running()).then_some(())
    });
    if wait::interrupted() {
        return Ok(());
    }
    ended?;
    anyhow::bail!(
        "kube-apiserver ended by itself; its log:\n{}",
        kube.apiserver().log_tail()
    )
}
