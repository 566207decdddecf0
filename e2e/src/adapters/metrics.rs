//! What adapters tell of themselves.

use anyhow::bail;
use pharos_testbed::wait;

use super::Stage;
use crate::site::DEADLINE;

impl Stage {
    /// The value of a series in an adapter's metrics; `None`: there is no such series.
    pub fn metric(&self, adapter: &str, series: &str) -> anyhow::Result<Option<f64>> {
        let value = self.series(adapter, series)?;
        Ok(value.map(|value| value.parse()).transpose()?)
    }

    fn series(&self, adapter: &str, series: &str) -> anyhow::Result<Option<String>> {
        let (_, text) = self.admin(adapter, "/metrics")?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.map(str::to_owned))
    }

    /// How often an adapter has written a Service.
    pub fn status_writes(&self, adapter: &str) -> anyhow::Result<u32> {
        let value = self.series(adapter, "pharos_adapter_status_writes_total")?;
        Ok(value.as_deref().unwrap_or("0").parse()?)
    }

    /// Waits until an adapter is the one that writes.
    pub fn wait_leader(&self, adapter: &str) -> anyhow::Result<()> {
        self.wait_leadership(adapter, 1.0)
    }

    /// Waits until an adapter knows that it is not the one that writes.
    pub fn wait_no_leader(&self, adapter: &str) -> anyhow::Result<()> {
        self.wait_leadership(adapter, 0.0)
    }

    fn wait_leadership(&self, adapter: &str, expected: f64) -> anyhow::Result<()> {
        let what = format!("pharos_adapter_leader of {adapter} is {expected}");
        wait::until_ok(&what, DEADLINE, || {
            let found = self.metric(adapter, "pharos_adapter_leader")?;
            if found != Some(expected) {
                bail!("it is {found:?}");
            }
            Ok(())
        })
    }
}
