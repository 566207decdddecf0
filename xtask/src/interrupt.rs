//! Ctrl-C and SIGTERM: what was started is ended and removed before the process goes.

use anyhow::Context as _;
use pharos_testbed::wait;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `work` to its end. At the first signal every wait in `work` fails, so that it returns and
/// drops, which is to say cleans up, what it holds; a second signal ends the process at once.
pub(crate) fn until_done(
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let worker = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut worker = tokio::task::spawn_blocking(work);
        loop {
            tokio::select! {
                outcome = &mut worker => return anyhow::Ok(outcome),
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if wait::interrupted() {
                std::process::exit(130);
            }
            eprintln!("stopping, and cleaning up (a second Ctrl-C does not wait)");
            wait::interrupt();
        }
    })?;
    worker.context("the command panicked")?
}
