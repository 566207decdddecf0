//! Flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum};
use jiff::SignedDuration;
use pharos_process::{Flags, LogOptions, UsageError};

use crate::claim::Settings;
use crate::webhook;

/// The API server needs some seconds to trust the next certificate.
const SHORTEST_LIFETIME: SignedDuration = SignedDuration::from_secs(30);
/// Ten years.
const LONGEST_LIFETIME: SignedDuration = SignedDuration::from_hours(87_600);

/// Connects one Kubernetes cluster to the address book.
///
/// Gives Services of type LoadBalancer their addresses, and tells ipam-service which nodes can
/// announce them. Understands MetalLB's resources and annotations.
#[derive(Debug, Parser)]
#[command(name = "k8s-adapter", version)]
pub struct Args {
    /// Address of ipam-service
    #[arg(
        long,
        env = "PHAROS_IPAM",
        value_name = "URL",
        default_value = "http://127.0.0.1:7471"
    )]
    pub ipam: tonic::transport::Uri,
    /// Name of this cluster in the address book; no two clusters may have the same
    #[arg(long, env = "PHAROS_CLUSTER", value_name = "NAME", value_parser = parse_name)]
    pub cluster: String,
    /// How to reach the Kubernetes API [default: KUBECONFIG, ~/.kube/config, or the pod's own
    /// ServiceAccount]
    #[arg(long, env = "PHAROS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where MetalLB's resources are read; others are ignored
    #[arg(
        long,
        env = "PHAROS_NAMESPACE",
        value_name = "NAME",
        default_value = "metallb-system"
    )]
    pub namespace: String,
    /// Serve only Services of this loadBalancerClass [default: only those without a class]
    #[arg(long, env = "PHAROS_LB_CLASS", value_name = "CLASS", value_parser = parse_name)]
    pub lb_class: Option<String>,
    /// The adapter's own Deployment in that namespace: status objects that it writes go with it [default: they
    /// have no owner, and stay]
    #[arg(long, env = "PHAROS_DEPLOYMENT", value_name = "NAME", value_parser = parse_name)]
    pub deployment: Option<String>,
    /// Address space of this cluster's pools: addresses in different spaces are different
    #[arg(
        long,
        env = "PHAROS_ADDRESS_SPACE",
        value_name = "NAME",
        default_value = pharos_proto::DEFAULT_ADDRESS_SPACE,
        value_parser = parse_name
    )]
    pub address_space: String,
    /// Let nodes announce that have the label node.kubernetes.io/exclude-from-external-load-balancers
    #[arg(long, env = "PHAROS_IGNORE_EXCLUDE_LB", value_parser = BoolishValueParser::new())]
    pub ignore_exclude_lb: bool,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(
        long,
        env = "PHAROS_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:7474"
    )]
    pub admin: SocketAddr,
    /// Where admission webhooks are served over HTTPS [default: nowhere]
    #[arg(long, env = "PHAROS_WEBHOOK_LISTEN", value_name = "ADDR:PORT")]
    pub webhook_listen: Option<SocketAddr>,
    /// Certificate of the webhooks in PEM, and those that it was signed with; read again when it changes
    /// [default: one that is made, which the API server is told to trust]
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_CERT",
        value_name = "FILE",
        requires_all = ["webhook_listen", "webhook_key"]
    )]
    pub webhook_cert: Option<PathBuf>,
    /// Key of that certificate in PEM
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_KEY",
        value_name = "FILE",
        requires_all = ["webhook_listen", "webhook_cert"]
    )]
    pub webhook_key: Option<PathBuf>,
    /// The ValidatingWebhookConfiguration in which the API server is told to trust a certificate that was
    /// made; no other is touched
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        default_value = "metallb-webhook-configuration",
        value_parser = parse_name
    )]
    pub webhook_configuration: String,
    /// How long a certificate lasts that was made, from 30s on; a new one is made after two thirds of it
    #[arg(
        long,
        env = "PHAROS_WEBHOOK_CERTIFICATE_LIFETIME",
        value_name = "TIME",
        default_value = "720h",
        value_parser = parse_lifetime
    )]
    pub webhook_certificate_lifetime: SignedDuration,
    #[command(flatten)]
    pub log: LogOptions,
}

impl Args {
    /// What decides about Services.
    pub fn settings(&self) -> Settings {
        Settings {
            cluster: self.cluster.clone(),
            lb_class: self.lb_class.clone(),
            address_space: self.address_space.clone(),
            ignore_exclude_lb: self.ignore_exclude_lb,
        }
    }

    /// What is said of webhooks; `None`: there are none.
    pub fn webhook(&self) -> Option<webhook::Settings> {
        let files = self.webhook_cert.clone().zip(self.webhook_key.clone());
        let source = match files {
            Some((certificate, key)) => webhook::Source::Files { certificate, key },
            None => webhook::Source::Own {
                configuration: self.webhook_configuration.clone(),
                life: self.webhook_certificate_lifetime.as_secs(),
            },
        };
        Some(webhook::Settings {
            listen: self.webhook_listen?,
            source,
        })
    }
}

/// What the program is started for.
#[derive(Debug)]
pub enum Program {
    /// To connect a cluster to the address book, until it is stopped.
    Serve(Box<Args>),
    /// To say what would become of a cluster that is served by something else now.
    Migrate(Box<MigrateArgs>),
}

const MIGRATE: &str = "migrate";

impl CommandFactory for Program {
    fn command() -> clap::Command {
        Args::command()
            .subcommand(MigrateArgs::command())
            // It has flags of its own.
            .subcommand_negates_reqs(true)
    }

    fn command_for_update() -> clap::Command {
        Self::command()
    }
}

impl FromArgMatches for Program {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(match matches.subcommand() {
            Some((MIGRATE, matches)) => {
                Self::Migrate(Box::new(MigrateArgs::from_arg_matches(matches)?))
            }
            Some(_) | None => Self::Serve(Box::new(Args::from_arg_matches(matches)?)),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Parser for Program {}

impl Flags for Program {
    fn log_options(&self) -> &LogOptions {
        match self {
            Self::Serve(args) => &args.log,
            Self::Migrate(args) => &args.log,
        }
    }
}

/// What served the cluster before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Incumbent {
    Metallb,
}

/// How a report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Say what would become of a cluster that MetalLB serves now: each Service, before and after
///
/// Reads the cluster and writes nothing to it. The adoption is rehearsed on an empty ipam-service, which is started
/// for it and thrown away. Exit code 0: no address would change and nothing would be lost. 1: something would, or
/// it could not be found out.
#[derive(Debug, Parser)]
#[command(name = MIGRATE, version)]
pub struct MigrateArgs {
    /// What serves the cluster now
    #[arg(long, env = "PHAROS_FROM", value_enum)]
    pub from: Incumbent,
    /// The ipam-service that is to serve the cluster. Without --apply it is only asked, if it answers
    #[arg(
        long,
        env = "PHAROS_IPAM",
        value_name = "URL",
        default_value = "http://127.0.0.1:7471"
    )]
    pub ipam: tonic::transport::Uri,
    /// Name that the cluster is to have in the address book
    #[arg(long, env = "PHAROS_CLUSTER", value_name = "NAME", value_parser = parse_name)]
    pub cluster: String,
    /// How to reach the Kubernetes API [default: KUBECONFIG, ~/.kube/config, or the pod's own
    /// ServiceAccount]
    #[arg(long, env = "PHAROS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where MetalLB and its resources are
    #[arg(
        long,
        env = "PHAROS_NAMESPACE",
        value_name = "NAME",
        default_value = "metallb-system"
    )]
    pub namespace: String,
    /// As the adapter is to be started: only Services of this loadBalancerClass [default: only those without a class]
    #[arg(long, env = "PHAROS_LB_CLASS", value_name = "CLASS", value_parser = parse_name)]
    pub lb_class: Option<String>,
    /// As the adapter is to be started: address space of this cluster's pools
    #[arg(
        long,
        env = "PHAROS_ADDRESS_SPACE",
        value_name = "NAME",
        default_value = pharos_proto::DEFAULT_ADDRESS_SPACE,
        value_parser = parse_name
    )]
    pub address_space: String,
    /// As the adapter is to be started: nodes that are excluded from external load balancers announce
    #[arg(long, env = "PHAROS_IGNORE_EXCLUDE_LB", value_parser = BoolishValueParser::new())]
    pub ignore_exclude_lb: bool,
    /// An empty ipam-service to rehearse on, which is to be thrown away [default: `ipam-service`, from beside this
    /// program or from PATH, is started for it]
    #[arg(long, env = "PHAROS_REHEARSAL", value_name = "URL")]
    pub rehearsal: Option<tonic::transport::Uri>,
    /// Write what MetalLB was told to this file, which must not exist yet; `kubectl apply -f` takes it back
    #[arg(long, env = "PHAROS_BACKUP", value_name = "FILE")]
    pub backup: Option<PathBuf>,
    /// Hand the pools over to --ipam, and have it hold what the Services have, if no address changes by that.
    /// Nothing is written to the cluster. Needs --backup
    #[arg(
        long,
        env = "PHAROS_APPLY",
        requires = "backup",
        value_parser = BoolishValueParser::new()
    )]
    pub apply: bool,
    /// How the report looks
    #[arg(long, env = "PHAROS_OUTPUT", value_enum, default_value = "table")]
    pub output: Output,
    #[command(flatten)]
    pub log: LogOptions,
}

impl MigrateArgs {
    /// What decides about Services.
    pub fn settings(&self) -> Settings {
        Settings {
            cluster: self.cluster.clone(),
            lb_class: self.lb_class.clone(),
            address_space: self.address_space.clone(),
            ignore_exclude_lb: self.ignore_exclude_lb,
        }
    }
}

/// How to reach the Kubernetes API: as the file of `--kubeconfig` says, or as is usual. Nothing is called yet.
pub async fn kube_config(file: Option<&Path>) -> anyhow::Result<kube::Config> {
    Ok(match file {
        Some(path) => {
            let usage = |error: &dyn std::fmt::Display| {
                UsageError(format!("--kubeconfig {}: {error}", path.display()))
            };
            let file = kube::config::Kubeconfig::read_from(path).map_err(|error| usage(&error))?;
            let options = kube::config::KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| usage(&error))?
        }
        None => kube::Config::infer()
            .await
            .map_err(|error| UsageError(format!("no way to reach the Kubernetes API: {error}")))?,
    })
}

/// Refuses what is no URL of an ipam-service.
pub fn http_url(flag: &str, url: &tonic::transport::Uri) -> Result<(), UsageError> {
    if url.scheme_str() == Some("http") && url.host().is_some() {
        return Ok(());
    }
    Err(UsageError(format!(
        "{flag} {url} is no URL of the form http://host:port"
    )))
}

/// A name as the API takes it: 1 to 253 bytes without control characters.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
        return Err("must have 1 to 253 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// A time that leaves room for what has to be done before it is over.
fn parse_lifetime(text: &str) -> Result<SignedDuration, String> {
    let lifetime: SignedDuration = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    if lifetime < SHORTEST_LIFETIME || lifetime > LONGEST_LIFETIME {
        return Err("must be from 30s to 87600h".to_owned());
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_required_and_the_rest_has_defaults() {
        let args = Args::try_parse_from(["k8s-adapter", "--cluster", "east"]).expect("accepted");
        assert_eq!(args.ipam.to_string(), "http://127.0.0.1:7471/");
        assert_eq!(args.namespace, "metallb-system");
        assert_eq!(args.admin.to_string(), "127.0.0.1:7474");
        assert_eq!(
            (args.lb_class, args.address_space.as_str()),
            (None, "default")
        );
        assert!(!args.ignore_exclude_lb);
        assert!(Args::try_parse_from(["k8s-adapter"]).is_err());
    }

    #[test]
    fn migrate_has_flags_of_its_own_and_needs_a_backup_to_go_on() {
        let parse = |flags: &[&str]| {
            let all = [&["k8s-adapter"], flags].concat();
            Program::try_parse_from(all)
        };
        let least = ["migrate", "--from", "metallb", "--cluster", "east"];
        let Ok(Program::Migrate(args)) = parse(&least) else {
            panic!("migrate");
        };
        assert_eq!((args.apply, args.output), (false, Output::Table));
        assert_eq!(args.namespace, "metallb-system");
        let go_on = [&least[..], &["--apply", "--backup", "b.yaml"]].concat();
        assert!(matches!(parse(&go_on), Ok(Program::Migrate(args)) if args.apply));
        for wrong in [
            &least[..3],
            &[&least[..], &["--apply"]].concat(),
            &["migrate", "--from", "purelb", "--cluster", "east"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(matches!(
            parse(&["--cluster", "east"]),
            Ok(Program::Serve(_))
        ));
        assert!(parse(&[]).is_err());
        Program::command().debug_assert();
    }

    #[test]
    fn a_certificate_is_given_whole_or_made_and_lasts_for_a_while() {
        let parsed = |flags: &[&str]| {
            let all = [&["k8s-adapter", "--cluster", "east"], flags].concat();
            Args::try_parse_from(all).map(|args| args.webhook())
        };
        assert!(parsed(&[]).expect("accepted").is_none());
        let listen = ["--webhook-listen", "0.0.0.0:9443"];
        let made = parsed(&listen).expect("accepted").expect("webhooks");
        let webhook::Source::Own {
            configuration,
            life,
        } = made.source
        else {
            panic!("{made:?}");
        };
        let month = 30 * 24 * 60 * 60;
        assert_eq!(
            (configuration.as_str(), life),
            ("metallb-webhook-configuration", month)
        );
        let files = ["--webhook-cert", "c", "--webhook-key", "k"];
        let given = parsed(&[&listen[..], &files].concat()).expect("accepted");
        assert!(matches!(
            given.expect("webhooks").source,
            webhook::Source::Files { .. }
        ));
        for wrong in [
            &files[..],
            &["--webhook-cert", "c", "--webhook-listen", "0.0.0.0:9443"],
            &["--webhook-certificate-lifetime", "29s"],
            &["--webhook-certificate-lifetime", "a day"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_that_the_api_would_refuse_are_refused_here() {
        for name in ["", "a\nb", &"x".repeat(254)] {
            let parsed = Args::try_parse_from(["k8s-adapter", "--cluster", name]);
            assert!(parsed.is_err(), "{name:?}");
        }
    }
}
