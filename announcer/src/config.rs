//! Flags, and what they mean. Every mistake is one clear line, and exit code 2.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pharos_process::{Flags, LogOptions, UsageError};
use tonic::transport::{Endpoint, Uri};

use crate::links::rules::{ExclusionsError, InterfaceRules};
use crate::members::seal::Seal;

/// Port of the membership protocol where none is given.
const MEMBERS_PORT: u16 = 7946;
/// Port of http where a URL names none.
const HTTP_PORT: u16 = 80;
/// A Kubernetes node name is at most this long (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// Where MetalLB mounts its list of interfaces not to answer on.
const METALLB_EXCLUSIONS: &str = "/etc/metallb/excludel2.yaml";
/// A list of interfaces is no longer than this, in bytes.
const MAX_EXCLUSIONS: u64 = 1 << 20;

/// Announces the addresses that this node owns: answers ARP and neighbour solicitations
/// for them, and watches the other nodes.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "announcer", version)]
pub struct Args {
    /// ipam-service to follow, as http://HOST:PORT; repeatable (environment: comma-separated)
    #[arg(
        long,
        env = "PHAROS_IPAM",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7471"
    )]
    pub ipam: Vec<String>,
    /// Cluster that this node belongs to
    #[arg(long, env = "PHAROS_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Name of this node; for Kubernetes that of its Node [default: the host name]
    #[arg(long, env = "PHAROS_NODE")]
    pub node: Option<String>,
    /// Directory in which the last assignments are kept
    #[arg(long, env = "PHAROS_STATE_DIR", default_value = "/var/lib/pharos")]
    pub state_dir: PathBuf,
    /// Address of the admin listener: /metrics, /healthz, /readyz
    #[arg(long, env = "PHAROS_ADMIN", default_value = "127.0.0.1:7473")]
    pub admin: SocketAddr,
    /// Interfaces that may answer, as a regular expression for the whole name; repeatable, or
    /// separated by commas, so that none has a comma [default: all but the excluded ones]
    #[arg(
        long,
        env = "PHAROS_INTERFACE",
        value_name = "REGEX",
        value_delimiter = ','
    )]
    pub interface: Vec<String>,
    /// File like MetalLB's excludel2.yaml, read at the start, that names the interfaces that may
    /// not answer; --interface goes before it [default: /etc/metallb/excludel2.yaml if it is
    /// there, else what MetalLB excludes, among them lo and ^veth.*]
    #[arg(long, env = "PHAROS_EXCLUDE_INTERFACES_FILE", value_name = "FILE")]
    pub exclude_interfaces_file: Option<PathBuf>,
    /// Keep the addresses that this node answers for on one of its interfaces, so that any program
    /// here serves them; without a value on lo. Needs the capability NET_ADMIN [default: somebody
    /// else takes them in, as kube-proxy does]
    #[arg(
        long,
        env = "PHAROS_BIND_ADDRESSES",
        value_name = "INTERFACE",
        num_args = 0..=1,
        default_missing_value = "lo"
    )]
    pub bind_addresses: Option<String>,
    /// Address (UDP) on which other announcers reach this one
    #[arg(long, env = "PHAROS_MEMBERS_LISTEN", default_value = "0.0.0.0:7946")]
    pub members_listen: SocketAddr,
    /// Other announcers to begin with, as HOST or HOST:PORT; repeatable, or separated by commas.
    /// Others are learnt from the stream
    #[arg(
        long,
        env = "PHAROS_MEMBERS_JOIN",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub members_join: Vec<String>,
    /// File with a 32-byte key in base64 per line: the first encrypts, all decrypt [default:
    /// datagrams in the clear, with a warning]
    #[arg(long, env = "PHAROS_MEMBERS_KEY_FILE", value_name = "FILE")]
    pub members_key_file: Option<PathBuf>,
    /// Address that other announcers are told [default: --members-listen if it names one; else, if
    /// --ipam has an address and no name, the one from which that is reached; else the first IPv4
    /// address of an interface that may answer]
    #[arg(long, env = "PHAROS_MEMBERS_ADVERTISE", value_name = "ADDR:PORT")]
    pub members_advertise: Option<SocketAddr>,
    /// Label of this node, for nodes that no Kubernetes labels; repeatable, or separated by commas
    #[arg(
        long,
        env = "PHAROS_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    pub label: Vec<String>,
    /// Seconds after a start, or after an interface came back, in which this node takes no address
    /// back from a living owner
    #[arg(
        long,
        env = "PHAROS_HOLD_DOWN",
        value_name = "SECONDS",
        default_value = "5"
    )]
    pub hold_down: f64,
    /// Seconds after which assignments kept before a reboot are acted on without ipam-service; 0 on
    /// hosts that forward without Kubernetes
    #[arg(
        long,
        env = "PHAROS_ANNOUNCE_AFTER_BOOT",
        value_name = "SECONDS",
        default_value = "30"
    )]
    pub announce_after_boot: f64,
    #[command(flatten)]
    pub log: LogOptions,
}

impl Flags for Args {
    // Answers and elections have threads of their own; here are one stream and the admin port.
    const WORKER_THREADS: Option<usize> = Some(2);

    fn log_options(&self) -> &LogOptions {
        &self.log
    }
}

/// What the flags mean.
#[derive(Debug)]
pub struct Config {
    pub ipam: Vec<Endpoint>,
    pub cluster: String,
    pub node: String,
    pub state_dir: PathBuf,
    pub admin: SocketAddr,
    pub interfaces: InterfaceRules,
    /// The interface on which addresses are bound.
    pub bind_addresses: Option<String>,
    pub members_listen: SocketAddr,
    /// Hosts, by name or address, and ports.
    pub members_join: Vec<(String, u16)>,
    pub seal: Arc<Seal>,
    pub members_advertise: Option<SocketAddr>,
    pub labels: BTreeMap<String, String>,
    pub hold_down: Duration,
    pub announce_after_boot: Duration,
}

impl Config {
    /// Checks the flags.
    pub fn from_args(args: Args) -> Result<Self, UsageError> {
        let Args {
            ipam,
            cluster,
            node,
            state_dir,
            admin,
            interface,
            exclude_interfaces_file,
            bind_addresses,
            members_listen,
            members_join,
            members_key_file,
            members_advertise,
            label,
            hold_down,
            announce_after_boot,
            log: _,
        } = args;
        let cluster = name("--cluster", cluster)?;
        let seal = match members_key_file {
            Some(path) => Seal::from_file(&cluster, &path)
                .map_err(|error| UsageError(format!("--members-key-file: {error}")))?,
            None => Seal::plaintext(&cluster),
        };
        let advertises_nothing = members_advertise
            .is_some_and(|address| address.ip().is_unspecified() || address.port() == 0);
        if advertises_nothing {
            return Err(UsageError(
                "--members-advertise: must name an address and a port".to_owned(),
            ));
        }
        Ok(Self {
            ipam: ipam
                .iter()
                .map(|url| endpoint(url))
                .collect::<Result<_, _>>()?,
            node: match node {
                Some(node) => name("--node", node)?,
                None => host_name()?,
            },
            cluster,
            state_dir,
            admin,
            interfaces: interfaces(&interface, exclude_interfaces_file.as_deref())?,
            bind_addresses,
            members_listen,
            members_join: members_join
                .iter()
                .map(|text| join(text))
                .collect::<Result<_, _>>()?,
            seal: Arc::new(seal),
            members_advertise,
            labels: label
                .iter()
                .map(|text| parse_label(text))
                .collect::<Result<_, _>>()?,
            hold_down: seconds("--hold-down", hold_down)?,
            announce_after_boot: seconds("--announce-after-boot", announce_after_boot)?,
        })
    }
}

/// Named interfaces go before a file, and a file before the list that MetalLB has built in.
fn interfaces(names: &[String], file: Option<&Path>) -> Result<InterfaceRules, UsageError> {
    if !names.is_empty() {
        return InterfaceRules::only(names).map_err(|error| {
            UsageError(format!(
                "--interface: not a regular expression for a name: {}",
                one_line(&error)
            ))
        });
    }
    let usual = Path::new(METALLB_EXCLUSIONS);
    let Some(path) = file.or_else(|| usual.exists().then_some(usual)) else {
        return InterfaceRules::metallb().map_err(|error| UsageError(one_line(&error)));
    };
    let bad = |why: String| {
        let path = path.display();
        UsageError(format!("--exclude-interfaces-file {path}: {why}"))
    };
    let yaml = read_bounded(path).map_err(|error| bad(error.to_string()))?;
    InterfaceRules::from_exclusions(&yaml).map_err(|error| match error {
        ExclusionsError::Yaml(_) => bad(error.to_string()),
        ExclusionsError::Pattern(error) => {
            bad(format!("not a regular expression: {}", one_line(&error)))
        }
    })
}

/// The text of a file; an error if it is too long to be what it should be.
fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let mut file = std::fs::File::open(path)?.take(MAX_EXCLUSIONS + 1);
    file.read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_EXCLUSIONS) {
        return Err(std::io::Error::other("longer than 1 MiB"));
    }
    Ok(text)
}

fn name(flag: &str, text: String) -> Result<String, UsageError> {
    let bad = text.is_empty()
        || text.len() > MAX_NAME
        || text.chars().any(|c| c.is_control() || c.is_whitespace());
    if bad {
        return Err(UsageError(format!(
            "{flag}: must be 1 to {MAX_NAME} characters without spaces"
        )));
    }
    Ok(text)
}

fn host_name() -> Result<String, UsageError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|error| UsageError(format!("--node: cannot read the host name: {error}")))?;
    name("--node", text.trim().to_owned())
}

fn endpoint(url: &str) -> Result<Endpoint, UsageError> {
    let bad = |why: &str| UsageError(format!("--ipam {url:?}: {why}"));
    let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("TLS is not supported by this version: use http")),
        _ => return Err(bad("must begin with http://")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("has no host"));
    }
    Ok(patient(Endpoint::from(uri)))
}

fn patient(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
}

/// The same server at this address of its name.
pub fn at(server: &Endpoint, address: IpAddr) -> Result<Endpoint, tonic::codegen::http::Error> {
    let port = server.uri().port_u16().unwrap_or(HTTP_PORT);
    let uri = Uri::builder()
        .scheme("http")
        .authority(SocketAddr::new(address, port).to_string())
        .path_and_query("/")
        .build()?;
    Ok(patient(Endpoint::from(uri)).origin(server.uri().clone()))
}

fn join(text: &str) -> Result<(String, u16), UsageError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((ip.to_string(), MEMBERS_PORT));
    }
    let bad = || {
        UsageError(format!(
            "--members-join {text:?}: must be HOST or HOST:PORT"
        ))
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().map_err(|_| bad())?),
        None => (text, MEMBERS_PORT),
    };
    let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_');
    if host.is_empty() || port == 0 || host.chars().any(odd) {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

fn parse_label(text: &str) -> Result<(String, String), UsageError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(UsageError(format!("--label {text:?}: must be KEY=VALUE"))),
    }
}

fn seconds(flag: &str, value: f64) -> Result<Duration, UsageError> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(86_400))
        .ok_or_else(|| UsageError(format!("{flag} {value}: must be 0 to 86400 seconds")))
}

/// The last line says what is wrong; those before draw where.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines()
        .next_back()
        .unwrap_or_default()
        .trim()
        .trim_start_matches("error: ")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let args = Args::try_parse_from(std::iter::once(&"announcer").chain(flags))
            .map_err(|error| error.to_string())?;
        Config::from_args(args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_that_are_documented() {
        let config = config(&["--node", "a"]).expect("valid");
        assert_eq!(config.ipam[0].uri(), "http://127.0.0.1:7471/");
        assert_eq!(config.cluster, "default");
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/pharos"));
        assert_eq!(config.admin, SocketAddr::from(([127, 0, 0, 1], 7473)));
        assert_eq!(
            config.members_listen,
            SocketAddr::from(([0, 0, 0, 0], 7946))
        );
        assert_eq!(config.hold_down, Duration::from_secs(5));
        assert!(!config.seal.has_keys());
        assert_eq!(config.bind_addresses, None);
    }

    #[test]
    fn the_host_name_is_the_default_node() {
        assert!(!config(&[]).expect("valid").node.is_empty());
    }

    #[test]
    fn values_are_read() {
        let flags = [
            "--ipam=http://a:1",
            "--ipam=http://b:2",
            "--members-join=192.0.2.1",
            "--members-join=node-b:7000",
            "--label=rack=1=2",
            "--hold-down=0.5",
            "--bind-addresses",
        ];
        let config = config(&flags).expect("valid");
        assert_eq!(config.ipam.len(), 2);
        let joins = [("192.0.2.1".to_owned(), 7946), ("node-b".to_owned(), 7000)];
        assert_eq!(config.members_join, joins);
        assert_eq!(config.labels["rack"], "1=2");
        assert_eq!(config.hold_down, Duration::from_millis(500));
        assert_eq!(config.bind_addresses.as_deref(), Some("lo"));
    }

    #[test]
    fn a_server_at_an_address_of_its_name_keeps_its_port_and_its_settings() {
        let config = config(&["--ipam=http://ipam:1", "--ipam=http://ipam"]).expect("valid");
        let uris: Vec<String> = ["192.0.2.1", "2001:db8::1"]
            .into_iter()
            .zip(&config.ipam)
            .map(|(ip, server)| at(server, ip.parse().expect("valid")).expect("valid"))
            .map(|endpoint| endpoint.uri().to_string())
            .collect();
        assert_eq!(uris, ["http://192.0.2.1:1/", "http://[2001:db8::1]:80/"]);
    }

    #[test]
    fn a_file_of_metallb_says_which_interfaces_may_not_answer_unless_some_are_named() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let text = "announcedInterfacesToExclude: [^eth]";
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("writes");
        let flag = format!("--exclude-interfaces-file={}", file.path().display());
        let excluding = config(&[&flag]).expect("valid").interfaces;
        assert!(!excluding.allows("eth0") && excluding.allows("veth0"));
        let named = config(&[&flag, "--interface=eth0"])
            .expect("valid")
            .interfaces;
        assert!(named.allows("eth0") && !named.allows("veth0"));
        std::io::Write::write_all(&mut file, b", bad").expect("writes");
        let error = config(&[&flag]).expect_err("not YAML any more");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn every_mistake_is_one_line_that_names_its_flag() {
        let cases = [
            "--ipam=https://a:1",
            "--ipam=a:1",
            "--ipam=http://",
            "--node=",
            "--node=a b",
            "--cluster=",
            "--interface=(",
            "--exclude-interfaces-file=/nonexistent",
            "--exclude-interfaces-file=/dev/zero",
            "--exclude-interfaces-file=/proc/self/comm",
            "--members-join=a b",
            "--members-join=a:99999",
            "--members-key-file=/nonexistent",
            "--members-advertise=0.0.0.0:7946",
            "--label==x",
            "--label=x",
            "--hold-down=-1",
            "--announce-after-boot=NaN",
        ];
        for case in cases {
            let flag = case.split('=').next().unwrap_or_default();
            let error = config(&[case]).expect_err(case);
            assert!(error.contains(flag), "{case}: {error}");
            assert_eq!(error.lines().count(), 1, "{case}: {error}");
            assert!(!error.contains("error:"), "{case}: {error}");
        }
    }
}
