//! Metrics that are looked up when somebody asks: how many watch, which reads failed, what announcers told in vain.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::feed::Feeds;
use crate::store::{ReadFailure, Reader};

/// Who reads.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) feeds: Feeds,
    pub(super) reader: Reader,
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self { feeds, reader } = self;
        let mut watchers = encoder.encode_descriptor(
            "pharos_ipam_watchers",
            "Streams that follow what is committed, by what they follow",
            None,
            MetricType::Gauge,
        )?;
        for (kind, count) in [
            ("allocations", feeds.allocations.watchers()),
            ("changes", feeds.changes.watchers()),
            ("assignments", feeds.assignments.watchers()),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(watchers.encode_family(&[("kind", kind)])?)?;
        }
        let cut = encoder.encode_descriptor(
            "pharos_ipam_announcers_told_in_part",
            "Announcers that told of more groups than are kept",
            None,
            MetricType::Gauge,
        )?;
        let count = i64::try_from(feeds.status.cut_count()).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(cut)?;
        let refused = encoder.encode_descriptor(
            "pharos_ipam_announcer_reports_refused",
            "Reports of announcers that could not be read or had a text that is too long; the stream ended",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(feeds.status.refused()).encode(refused)?;
        let mut failures = encoder.encode_descriptor(
            "pharos_ipam_database_read_errors",
            "Reads of the database that failed, by what went wrong",
            None,
            MetricType::Counter,
        )?;
        for kind in ReadFailure::ALL {
            let counter = ConstCounter::new(reader.failures(kind));
            counter.encode(failures.encode_family(&[("kind", kind.as_str())])?)?;
        }
        Ok(())
    }
}
