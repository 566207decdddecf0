//! `k8s-adapter migrate`: what would become of a cluster that another controller serves now; and, if asked
//! to, the first half of it, which changes nothing in Kubernetes.
//!
//! The main path: [`read`] lists what there is; [`adopt`] does at an ipam-service what the adapter itself would do
//! at its first start: one that is thrown away ([`scratch`]), so that what decides is the code that will; [`judge`]
//! makes the report of it. With `--apply` the same is done at the ipam-service that is to serve the cluster.

pub mod adopt;
pub mod judge;
pub mod read;
mod scratch;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use pharos_process::{Shutdown, UsageError};

use crate::claim::address_space;
use crate::client::{CallError, Holder, Ipam};
use crate::config::{MigrateArgs, Output, http_url, kube_config};
use crate::context::Context;
use crate::index::Index;
use crate::kubernetes::Clients;
use crate::policy::{self, Configuration};
use crate::watches::SILENCE;
use crate::world::World;
use adopt::{AdoptError, Whom};
use judge::{AddressBook, Facts, MetalLb, Remark, Report, Row, Weight};
use scratch::Scratch;

/// Who holds which address, by address space.
type Taken = BTreeMap<(String, IpAddr), String>;

/// Reports, and says by an error that not every address would stay.
pub async fn run(args: MigrateArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.stopping() => bail!("interrupted"),
        outcome = migrate(args) => outcome,
    }
}

async fn migrate(args: MigrateArgs) -> anyhow::Result<()> {
    http_url("--ipam", &args.ipam)?;
    if let Some(url) = &args.rehearsal {
        http_url("--rehearsal", url)?;
    }
    let config = kube_config(args.kubeconfig.as_deref()).await?;
    let clients = Clients::new(config, SILENCE)?;
    let facts = read::read(&clients.calls, &args.namespace).await?;
    if let Some(file) = &args.backup {
        write_backup(file, &facts, &args.cluster)?;
    }
    let cluster = Cluster::new(&args, clients, facts)?;
    let (services, error) = cluster.rehearse(&args).await?;
    let mut report = cluster.report(&args, services).await;
    report.remarks.extend(error);
    if args.apply && report.obstacle().is_none() {
        let rows = cluster.apply(&args).await?;
        report.services = rows;
        report.applied = report.obstacle().is_none();
    }
    print(&report, args.output)?;
    match report.obstacle() {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

/// What was read, and what follows from it alone.
struct Cluster {
    clients: Clients,
    facts: Facts,
    world: World,
    configuration: Configuration,
}

impl Cluster {
    fn new(args: &MigrateArgs, clients: Clients, facts: Facts) -> anyhow::Result<Self> {
        let mut world = World::new(args.settings());
        world.index = read::index(&facts)?;
        let configuration = policy::examine(&world.index.objects(), &world.settings);
        Ok(Self {
            clients,
            facts,
            world,
            configuration,
        })
    }

    fn index(&self) -> anyhow::Result<Index> {
        Ok(read::index(&self.facts)?)
    }

    fn context(&self, args: &MigrateArgs, ipam: Ipam) -> anyhow::Result<Context> {
        let index = self.index()?;
        Ok(adopt::context(
            index,
            ipam,
            self.clients.clone(),
            &args.namespace,
        ))
    }

    /// Each Service after a rehearsal; and what is to be said where none could be.
    async fn rehearse(&self, args: &MigrateArgs) -> anyhow::Result<(Vec<Row>, Option<Remark>)> {
        let Ok(pools) = self.configuration.pools() else {
            // What is wrong with them is among the remarks.
            let rows = judge::unknown_rows(&self.world, "the pools are wrong");
            return Ok((rows, None));
        };
        let scratch = Scratch::open(args.rehearsal.clone(), &self.world.settings).await?;
        let context = self.context(args, scratch.ipam.clone())?;
        let uid = &self.facts.cluster_uid;
        match adopt::inventory(&context, uid, pools, Whom::Everybody).await {
            Ok(()) => {
                let taken = self.taken(args).await;
                Ok((judge::rows(&context.world(), &taken), None))
            }
            Err(AdoptError::Call(CallError::Refused(why))) => {
                let rows = judge::unknown_rows(&self.world, "ipam-service does not take the pools");
                let remark = Remark {
                    weight: Weight::Blocks,
                    object: "pools".to_owned(),
                    message: format!("ipam-service does not take them: {why}"),
                };
                Ok((rows, Some(remark)))
            }
            Err(error) => Err(error).context("the rehearsal failed"),
        }
    }

    /// What others than this cluster's Services hold at the ipam-service that is to serve it. Nothing is known of
    /// one that does not answer, which the report says.
    async fn taken(&self, args: &MigrateArgs) -> Taken {
        let ipam = Ipam::new(args.ipam.clone(), self.world.settings.clone());
        let mut taken = Taken::new();
        for service in self.world.index.services() {
            let space = address_space(service, &self.world.settings);
            for address in service.addresses() {
                let Ok(holders) = ipam.holders(space, address).await else {
                    return taken;
                };
                // Services of this cluster may share an address.
                let is_known = |holder: &Holder| {
                    let key = holder.in_cluster(&args.cluster);
                    let service = key.and_then(|key| self.world.index.service(key));
                    service.is_some_and(|service| service.addresses().contains(&address))
                };
                let other = holders.into_iter().find(|holder| !is_known(holder));
                if let Some(other) = other {
                    taken.insert((space.to_owned(), address), other.to_string());
                }
            }
        }
        taken
    }

    async fn report(&self, args: &MigrateArgs, services: Vec<Row>) -> Report {
        let metallb = MetalLb::find(&self.facts);
        let version = metallb.components().map(|it| it.version.clone()).next();
        let settings = &self.world.settings;
        let mut remarks = judge::remarks(&self.facts, &metallb, settings, &self.configuration);
        let address_book = self.address_book(args, &mut remarks).await;
        Report {
            cluster: args.cluster.clone(),
            namespace: args.namespace.clone(),
            kubernetes: self.facts.kubernetes.clone(),
            metallb: version.unwrap_or_default(),
            bgp_mode: metallb.bgp_mode().to_owned(),
            address_book,
            applied: false,
            backup: args.backup.as_ref().map(|file| {
                let count = judge::backup::count(&self.facts);
                format!("{count} objects in {}", file.display())
            }),
            services,
            remarks,
        }
    }

    /// Asks the ipam-service that is to serve the cluster whether it would, without changing anything.
    async fn address_book(&self, args: &MigrateArgs, remarks: &mut Vec<Remark>) -> AddressBook {
        let ipam = Ipam::new(args.ipam.clone(), self.world.settings.clone());
        let url = args.ipam.to_string();
        let pools = self
            .configuration
            .pools()
            .map(<[_]>::to_vec)
            .unwrap_or_default();
        let (version, unknown) = match ipam.server_version().await {
            Ok(version) => (version, String::new()),
            Err(error) => (String::new(), error.to_string()),
        };
        if unknown.is_empty()
            && let Err(error) = ipam.would_serve(&self.facts.cluster_uid, pools).await
        {
            remarks.push(Remark {
                weight: Weight::Blocks,
                object: format!("ipam-service {url}"),
                message: error.to_string(),
            });
        }
        AddressBook {
            url,
            version,
            unknown,
        }
    }

    /// Hands pools over to the ipam-service that is to serve the cluster, and has it hold what the Services have.
    async fn apply(&self, args: &MigrateArgs) -> anyhow::Result<Vec<Row>> {
        let pools = self.configuration.pools().unwrap_or_default();
        let ipam = Ipam::new(args.ipam.clone(), self.world.settings.clone());
        let context = self.context(args, ipam)?;
        let uid = &self.facts.cluster_uid;
        let outcome = adopt::inventory(&context, uid, pools, Whom::Holders).await;
        outcome.with_context(|| format!("--ipam {}", args.ipam))?;
        Ok(judge::rows(&context.world(), &Taken::new()))
    }
}

/// Writes a new file, and makes sure that it is on the disk.
fn write_backup(path: &Path, facts: &Facts, cluster: &str) -> anyhow::Result<()> {
    let usage = |error: std::io::Error| UsageError(format!("--backup {}: {error}", path.display()));
    let when = jiff::Timestamp::now().strftime("%F %T UTC").to_string();
    let text = judge::backup::file(facts, cluster, &when);
    let mut file = std::fs::File::create_new(path).map_err(usage)?;
    file.write_all(text.as_bytes()).map_err(usage)?;
    file.sync_all().map_err(usage)?;
    Ok(())
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => judge::text(report),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .context("writing the report")?;
    out.flush().context("writing the report")
}
