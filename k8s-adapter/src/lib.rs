//! Connects one Kubernetes cluster to the address book.
//!
//! The main path, for a Service that wants an address: [`watches`] put it into [`index`];
//! [`reconcile`] takes its name from [`queue`] and asks [`plan`] what to do, which asks [`claim`]
//! what the Service wants; [`ask`] makes the claim at ipam-service ([`client`]) and notes the
//! answer in [`book`]; the next plan is to write status and events ([`write`], [`notice`]).
//! [`session`] keeps the conversation with ipam-service: the cluster's inventory at its start,
//! pools and advertisements ([`policy`]), late answers, Services that vanished ([`sweep`]).
//! [`facts`] reports nodes and endpoints ([`eligibility`]) on a stream of their own.
//!
//! What decides is pure: `book`, `claim`, `crd`, `eligibility`, `index`, `notice`, `plan`,
//! `policy`, `service`, `sweep` and `world` do no I/O and read no clock. The adapter decides
//! nothing about addresses.

pub mod ask;
pub mod book;
pub mod claim;
pub mod client;
pub mod config;
pub mod context;
pub mod crd;
pub mod eligibility;
pub mod facts;
pub mod index;
pub mod metrics;
pub mod notice;
pub mod plan;
pub mod policy;
pub mod queue;
pub mod reconcile;
pub mod service;
pub mod session;
pub mod sweep;
pub mod usage;
pub mod watches;
pub mod world;
pub mod write;

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::core::DeserializeGuard;
use pharos_process::{Health, Readiness, Shutdown, UsageError, serve_admin};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use config::Args;
use context::Context;
use crd::{IPAddressPool, L2Advertisement};
use metrics::Metrics;
use watches::watch;
use world::World;

/// Runs until `shutdown`, then drains.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    if args.ipam.scheme_str() != Some("http") || args.ipam.host().is_none() {
        let message = format!(
            "--ipam {} is no URL of the form http://host:port",
            args.ipam
        );
        return Err(UsageError(message).into());
    }
    let listener = TcpListener::bind(args.admin)
        .await
        .map_err(|error| UsageError(format!("--admin {}: {error}", args.admin)))?;
    let kube = args.kube_client().await?;
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
        readiness.clone(),
        metrics,
    ));
    tracing::info!(cluster = args.cluster, admin = %listener.local_addr()?, "started");

    // Each of these is essential: none ends before the process is asked to stop.
    let mut tasks = JoinSet::new();
    spawn_watches(&mut tasks, &context, &shutdown);
    tasks.spawn(watches::probe(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(session::run(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(facts::run(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(reconcile::run(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(usage::run(Arc::clone(&context), shutdown.clone()));
    let health = Health {
        registry,
        readiness,
    };
    let admin = serve_admin(listener, health, axum::Router::new(), shutdown.clone());
    tokio::pin!(admin);
    tokio::select! {
        outcome = &mut admin => outcome.context("admin listener")?,
        Some(outcome) = tasks.join_next() => outcome.context("a task failed")?,
    }
    if !shutdown.is_stopping() {
        anyhow::bail!("an essential task ended");
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.context("a task failed while stopping")?;
    }
    Ok(())
}

fn spawn_watches(tasks: &mut JoinSet<()>, context: &Arc<Context>, shutdown: &Shutdown) {
    let kube = &context.kube;
    let mut spawn = |task: futures::future::BoxFuture<'static, ()>| {
        tasks.spawn(task);
    };
    let both = || (Arc::clone(context), shutdown.clone());
    let (shared, stop) = both();
    spawn(Box::pin(watch::<Namespace>(
        Api::all(kube.clone()),
        shared,
        stop,
    )));
    let (shared, stop) = both();
    spawn(Box::pin(watch::<Service>(
        Api::all(kube.clone()),
        shared,
        stop,
    )));
    let (shared, stop) = both();
    spawn(Box::pin(watch::<EndpointSlice>(
        Api::all(kube.clone()),
        shared,
        stop,
    )));
    let (shared, stop) = both();
    spawn(Box::pin(watch::<Node>(
        Api::all(kube.clone()),
        shared,
        stop,
    )));
    let (shared, stop) = both();
    let pools = Api::namespaced(kube.clone(), &context.namespace);
    spawn(Box::pin(watch::<DeserializeGuard<IPAddressPool>>(
        pools, shared, stop,
    )));
    let (shared, stop) = both();
    let advertisements = Api::namespaced(kube.clone(), &context.namespace);
    spawn(Box::pin(watch::<DeserializeGuard<L2Advertisement>>(
        advertisements,
        shared,
        stop,
    )));
}
