//! Every method that the server has, out of the descriptors: what kind it is, and its metrics.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

/// Methods by path.
#[derive(Debug)]
pub(super) struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    /// For paths that nobody serves.
    unknown: Arc<Method>,
    pub(super) shed: Shed,
}

/// Calls that were turned away unseen, by whose places were all taken.
#[derive(Debug)]
pub(super) struct Shed {
    pub(super) of_client: Counter,
    pub(super) of_server: Counter,
}

/// One method.
#[derive(Debug)]
pub(super) struct Method {
    /// `pharos.v1.PoolService/ApplyPool`
    pub(super) name: String,
    /// Whether either side may send more than one message: such a call may last for ever.
    pub(super) streaming: bool,
    families: Families,
    // A series for each method and code from the start would be most of a scrape, and nearly all 0.
    /// By gRPC code.
    calls: [OnceLock<Counter>; CODES.len()],
    seconds: OnceLock<Histogram>,
    in_flight: OnceLock<Gauge>,
}

/// Codes that are counted from the start: an alert asks whether they increase, and from nothing to 1
/// is no increase.
const FROM_THE_START: [Code; 4] = [
    Code::Unknown,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
];

/// As the gRPC specification writes them, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Place of the code for what has no other.
const UNKNOWN: usize = Code::Unknown as usize;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

#[derive(Debug, Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    /// 0.1 ms to 3.3 s.
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.0001, 2.0, 16))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

/// The families of all methods. Clones share them.
#[derive(Debug, Clone)]
struct Families {
    calls: Family<CallLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, Buckets>,
    in_flight: Family<MethodLabels, Gauge>,
}

impl Methods {
    /// Registers the metrics of every method. All but those of [`FROM_THE_START`] appear when a method
    /// is first called.
    pub(super) fn register(registry: &mut Registry) -> Result<Self, prost::DecodeError> {
        let families = Families {
            calls: Family::default(),
            seconds: Family::new_with_constructor(Buckets),
            in_flight: Family::default(),
        };
        registry.register(
            "pharos_ipam_grpc_calls",
            "Calls answered, by method and code; of a stream: how it began",
            families.calls.clone(),
        );
        registry.register_with_unit(
            "pharos_ipam_grpc_call",
            "Time until the answer of a call; of a stream: until it began",
            Unit::Seconds,
            families.seconds.clone(),
        );
        registry.register(
            "pharos_ipam_grpc_calls_in_flight",
            "Calls that have no answer yet; streams that have not begun",
            families.in_flight.clone(),
        );
        let mut by_path = HashMap::new();
        for encoded in [
            pharos_proto::DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            for method in methods_of(&FileDescriptorSet::decode(encoded)?) {
                let (path, name, streaming) = method;
                by_path.insert(path, Arc::new(families.method(name, streaming)));
            }
        }
        Ok(Self {
            by_path,
            unknown: Arc::new(families.method("unknown".to_owned(), false)),
            shed: Shed::register(registry),
        })
    }

    /// The method of a request path.
    pub(super) fn get(&self, path: &str) -> &Arc<Method> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }
}

/// Path, name, and whether it streams.
fn methods_of(set: &FileDescriptorSet) -> Vec<(String, String, bool)> {
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                let streaming = method.client_streaming() || method.server_streaming();
                methods.push((format!("/{name}"), name, streaming));
            }
        }
    }
    methods
}

impl Shed {
    fn register(registry: &mut Registry) -> Self {
        let family: Family<LimitLabel, Counter> = Family::default();
        registry.register(
            "pharos_ipam_grpc_calls_shed",
            "Calls turned away as too many were under way: of one client, or of all",
            family.clone(),
        );
        let of = |limit: &'static str| family.get_or_create(&LimitLabel { limit }).clone();
        Self {
            of_client: of("client"),
            of_server: of("server"),
        }
    }
}

impl Families {
    fn method(&self, name: String, streaming: bool) -> Method {
        let method = Method {
            name,
            streaming,
            families: self.clone(),
            calls: [const { OnceLock::new() }; CODES.len()],
            seconds: OnceLock::new(),
            in_flight: OnceLock::new(),
        };
        for code in FROM_THE_START {
            method.calls(code);
        }
        method
    }
}

impl Method {
    /// A call got its answer.
    pub(super) fn answered(&self, code: Code, after: Duration) {
        self.calls(code).inc();
        let seconds = self.seconds.get_or_init(|| {
            let seconds = self.families.seconds.get_or_create(&self.labels());
            seconds.clone()
        });
        seconds.observe(after.as_secs_f64());
    }

    /// Calls that have no answer yet.
    pub(super) fn in_flight(&self) -> &Gauge {
        self.in_flight.get_or_init(|| {
            let in_flight = self.families.in_flight.get_or_create(&self.labels());
            in_flight.clone()
        })
    }

    fn calls(&self, code: Code) -> &Counter {
        let index = usize::try_from(i32::from(code)).unwrap_or(UNKNOWN);
        let index = if index < CODES.len() { index } else { UNKNOWN };
        self.calls[index].get_or_init(|| {
            let labels = CallLabels {
                method: self.name.clone(),
                code: CODES[index],
            };
            self.families.calls.get_or_create(&labels).clone()
        })
    }

    fn labels(&self) -> MethodLabels {
        MethodLabels {
            method: self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scrape of a server that was not called yet, and one after it was, are read by people too.
    #[test]
    fn a_method_is_measured_from_its_first_call_and_its_failures_from_the_start() {
        let mut registry = Registry::default();
        let methods = Methods::register(&mut registry).expect("valid descriptors");
        let scrape = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        let name = "pharos.v1.AllocationService/Allocate";
        let series = |code: &str| {
            format!("pharos_ipam_grpc_calls_total{{method=\"{name}\",code=\"{code}\"}}")
        };
        let before = scrape();
        assert!(before.len() < 35_000, "{} bytes", before.len());
        // The first failure is an increase only if there was a 0 before.
        for code in ["UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"] {
            assert!(before.contains(&format!("{} 0\n", series(code))), "{code}");
        }
        let method = methods.get(&format!("/{name}"));
        method.answered(Code::Ok, Duration::from_millis(1));
        method.answered(Code::Internal, Duration::from_millis(1));
        let after = scrape();
        assert!(after.contains(&format!("{} 1\n", series("OK"))));
        assert!(after.contains(&format!("{} 1\n", series("INTERNAL"))));
        assert!(!after.contains("NOT_FOUND"));
        let count = format!("pharos_ipam_grpc_call_seconds_count{{method=\"{name}\"}} 2\n");
        assert!(after.contains(&count));
    }

    #[test]
    fn long_streams_are_told_from_single_calls() {
        let methods = Methods::register(&mut Registry::default()).expect("valid descriptors");
        let streaming = |path: &str| methods.get(path).streaming;
        assert!(!streaming("/pharos.v1.AllocationService/Allocate"));
        assert!(streaming("/pharos.v1.AllocationService/WatchAllocations"));
        assert!(streaming("/pharos.v1.AdvertisementService/SyncFacts"));
        assert!(streaming("/pharos.v1.AnnouncerService/Announce"));
        assert!(!streaming("/grpc.health.v1.Health/Check"));
        assert!(streaming("/grpc.health.v1.Health/Watch"));
        assert_eq!(methods.get("/no/such").name, "unknown");
    }
}
