//! Waiting for a condition, with a deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at: short against every figure that tests check.
const POLL: Duration = Duration::from_millis(5);

/// The clock of tests, demo and benchmarks.
#[expect(
    clippy::disallowed_methods,
    reason = "a test bed measures the world; nothing here decides by time"
)]
pub fn now() -> Instant {
    Instant::now()
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on every wait of this process fails, so that its callers return and clean up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Calls `probe` until it gives a value; after `deadline` the error names `what` did not happen.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if interrupted() {
            bail!("interrupted while waiting for: {what}");
        }
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain: {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// The same for a probe that can fail; the error carries its last failure.
pub fn until_ok<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(_) if interrupted() => bail!("interrupted while waiting for: {what}"),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error.context(format!("waited {deadline:?} in vain: {what}")));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_late_is_found() {
        let mut calls = 0;
        let value = until("third call", Duration::from_secs(5), || {
            calls += 1;
            (calls == 3).then_some(calls)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn the_error_says_what_did_not_happen_and_why() {
        let error = until_ok("the sky falls", Duration::from_millis(20), || {
            anyhow::bail!("still up") as anyhow::Result<()>
        })
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("the sky falls") && text.contains("still up"),
            "{text}"
        );
    }
}
