//! Connects one Kubernetes cluster to the address book.
//!
//! The main path, for a Service that wants an address: [`watches`] put it into [`index`];
//! [`reconcile`] takes its name from [`queue`] and asks [`plan`] what to do, which asks [`claim`]
//! what the Service wants; [`ask`] makes the claim at ipam-service ([`client`]) and notes the
//! answer in [`book`]; the next plan is to write status and events ([`write`], [`notice`]).
//! [`session`] keeps the conversation with ipam-service: the cluster's inventory at its start,
//! pools and advertisements ([`policy`], [`sets`], [`confirm`]), late answers. [`sweep`] looks for Services that vanished
//! unseen, [`identity`] for another cluster at the same address.
//! [`webhook`] judges what people apply before it is stored.
//! Every replica does all this, but only the one that holds the [`lease`] writes.
//! [`status`] writes the objects that only tell. [`migrate`] says beforehand what would become of a cluster.
//! [`facts`] reports nodes and endpoints ([`eligibility`]) on a stream of their own.
//!
//! What decides is pure: `book`, `claim`, `crd`, `eligibility`, `index`, `notice`, `plan`,
//! `policy`, `service`, `world`, `lease::machine` and all of `status` but its drivers do no I/O and read no clock. The adapter decides
//! nothing about addresses.

pub mod ask;
pub mod book;
pub mod claim;
pub mod client;
pub mod config;
pub mod confirm;
pub mod context;
pub mod crd;
pub mod eligibility;
pub mod facts;
pub mod identity;
pub mod index;
pub mod kubernetes;
pub mod lease;
pub mod metrics;
pub mod migrate;
pub mod notice;
pub mod plan;
pub mod policy;
pub mod queue;
pub mod reconcile;
pub mod secrets;
pub mod service;
pub mod session;
pub mod sets;
pub mod status;
pub mod sweep;
pub mod usage;
pub mod watches;
pub mod webhook;
pub mod world;
pub mod write;

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use pharos_process::{Health, Readiness, Shutdown, UsageError, serve_admin};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use config::{Args, Program, http_url, kube_config};
use context::Context;
use crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, BGPSessionState, Community, ConfigurationState,
    IPAddressPool, L2Advertisement, ServiceL2Status,
};
use identity::AnotherCluster;
use kubernetes::Clients;
use metrics::Metrics;
use watches::{Watched, watch};
use webhook::Webhook;
use world::World;

/// Does what it was started for.
pub async fn run(program: Program, shutdown: Shutdown) -> anyhow::Result<()> {
    match program {
        Program::Serve(args) => serve(*args, shutdown).await,
        Program::Migrate(args) => migrate::run(*args, shutdown).await,
    }
}

/// Runs until `shutdown`, then drains.
async fn serve(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    http_url("--ipam", &args.ipam)?;
    let listener = TcpListener::bind(args.admin)
        .await
        .map_err(|error| UsageError(format!("--admin {}: {error}", args.admin)))?;
    let webhook = match args.webhook() {
        Some(settings) => Some(Webhook::bind(settings).await?),
        None => None,
    };
    let kube = Clients::new(
        kube_config(args.kubeconfig.as_deref()).await?,
        watches::SILENCE,
    )?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::default();
    let settings = args.settings();
    let ipam = client::Ipam::new(args.ipam, settings.clone());
    let context = Arc::new(Context::new(
        World::new(settings),
        kube,
        ipam,
        args.namespace,
        args.deployment,
        readiness.clone(),
        metrics,
    ));
    tracing::info!(cluster = args.cluster, admin = %listener.local_addr()?, "started");

    let mut tasks = Tasks::new(&context, &shutdown);
    let watches = &context.kube.watches;
    tasks.watch(Api::<Namespace>::all(watches.clone()));
    tasks.watch(Api::<Service>::all(watches.clone()));
    tasks.watch(Api::<EndpointSlice>::all(watches.clone()));
    tasks.watch(Api::<Node>::all(watches.clone()));
    tasks.watch_declared::<IPAddressPool>();
    tasks.watch_declared::<L2Advertisement>();
    tasks.watch_declared::<BGPAdvertisement>();
    tasks.watch_declared::<Community>();
    tasks.watch_declared::<BGPPeer>();
    tasks.watch_declared::<BFDProfile>();
    tasks.watch_declared::<ServiceL2Status>();
    tasks.watch_declared::<BGPSessionState>();
    tasks.watch_declared::<ConfigurationState>();
    tasks.spawn(identity::probe);
    tasks.drive(session::run);
    tasks.drive(facts::run);
    tasks.drive(reconcile::run);
    tasks.drive(sweep::run);
    tasks.drive(usage::run);
    tasks.drive(status::run);
    if let Some(webhook) = webhook {
        tasks.drive(|context, shutdown| webhook.run(context, shutdown));
    }
    let mut tasks = tasks.set;
    // Kept until nobody writes any more.
    let written = Shutdown::default();
    let mut lease = tokio::spawn(lease::run(Arc::clone(&context), written.clone()));
    let health = Health {
        registry,
        readiness,
    };
    let admin = serve_admin(listener, health, axum::Router::new(), shutdown.clone());
    tokio::pin!(admin);
    tokio::select! {
        outcome = &mut admin => outcome.context("admin listener")?,
        Some(outcome) = tasks.join_next() => outcome.context("a task failed")??,
        ended = &mut lease => ended.context("the lease failed")?,
    }
    if !shutdown.is_stopping() {
        anyhow::bail!("an essential task ended");
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.context("a task failed while stopping")??;
    }
    written.stop();
    lease.await.context("the lease failed while stopping")?;
    Ok(())
}

/// Each of these is essential: none ends before the process is asked to stop, unless all must.
struct Tasks<'a> {
    set: JoinSet<Result<(), AnotherCluster>>,
    context: &'a Arc<Context>,
    shutdown: &'a Shutdown,
}

impl<'a> Tasks<'a> {
    fn new(context: &'a Arc<Context>, shutdown: &'a Shutdown) -> Self {
        Self {
            set: JoinSet::new(),
            context,
            shutdown,
        }
    }

    fn spawn<F>(&mut self, task: impl FnOnce(Arc<Context>, Shutdown) -> F)
    where
        F: Future<Output = Result<(), AnotherCluster>> + Send + 'static,
    {
        let task = task(Arc::clone(self.context), self.shutdown.clone());
        self.set.spawn(task);
    }

    fn drive<F>(&mut self, driver: impl FnOnce(Arc<Context>, Shutdown) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(|context, shutdown| {
            let driver = driver(context, shutdown);
            async move {
                driver.await;
                Ok(())
            }
        });
    }

    fn watch<K: Watched + 'static>(&mut self, api: Api<K>) {
        self.spawn(|context, shutdown| watch(api, context, shutdown));
    }

    /// A custom resource, in the one namespace where they count.
    fn watch_declared<K>(&mut self)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        DeserializeGuard<K>: Watched + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: 'static,
    {
        let client = self.context.kube.watches.clone();
        let api = Api::<DeserializeGuard<K>>::namespaced(client, &self.context.namespace);
        self.watch(api);
    }
}
