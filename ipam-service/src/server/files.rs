//! Sizes of the database's files, looked up when somebody asks.

use std::path::{Path, PathBuf};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// The database and its write-ahead log.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    database: PathBuf,
    log: PathBuf,
}

impl DatabaseFiles {
    pub(super) fn of(path: &Path) -> Self {
        // SQLite names the log after the file itself.
        let database = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut log = database.clone().into_os_string();
        log.push("-wal");
        Self {
            database,
            log: log.into(),
        }
    }
}

impl Collector for DatabaseFiles {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, path) in [
            (
                "pharos_ipam_database_bytes",
                "Size of the database file",
                &self.database,
            ),
            (
                "pharos_ipam_database_log_bytes",
                "Size of the write-ahead log beside the database file",
                &self.log,
            ),
        ] {
            let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
