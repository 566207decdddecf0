//! For tests: a context whose API server is a few lines, and questions to ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use pharos_process::Readiness;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::claim::Settings;
use crate::client::Ipam;
use crate::context::Context;
use crate::index::Kind;
use crate::kubernetes::Clients;
use crate::metrics::Metrics;
use crate::watches::SILENCE;
use crate::world::World;

pub(super) const NAMESPACE: &str = "metallb-system";

/// How an API server answers lists.
#[derive(Debug, Clone)]
pub(super) enum Lists {
    /// These pools, and nothing else.
    Pools(Vec<Value>),
    /// The same, and counts how often pools are listed.
    Counted(Vec<Value>, Arc<AtomicUsize>),
    /// With an error.
    Fails,
    /// Never.
    Silent,
}

/// A pool as the API server has it.
pub(super) fn pool(name: &str, addresses: &str) -> Value {
    json!({
        "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "addresses": [addresses] },
    })
}

/// The question whether a pool may be created.
pub(super) fn creates(pool: &Value) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "CREATE", "name": "x", "namespace": NAMESPACE,
            "kind": { "group": "metallb.io", "version": "v1beta1", "kind": "IPAddressPool" },
            "object": pool,
        },
    });
    review.to_string().into_bytes()
}

/// A context in which nothing was listed yet.
pub(super) async fn context(lists: Lists) -> Arc<Context> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let api = Router::new().fallback(list).with_state(Arc::new(lists));
    tokio::spawn(async move { axum::serve(listener, api).await });
    let settings = Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    };
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let ipam = format!("http://{nobody}").parse().expect("a URL");
    let kube = format!("http://{address}").parse().expect("a URL");
    Arc::new(Context::new(
        World::new(settings.clone()),
        Clients::new(kube::Config::new(kube), SILENCE).expect("clients"),
        Ipam::new(ipam, settings),
        NAMESPACE.to_owned(),
        None,
        Readiness::default(),
        Metrics::register(&mut Registry::default()),
    ))
}

/// The same where every kind was listed, and there are these pools.
pub(super) async fn knowing(pools: &[Value], lists: Lists) -> Arc<Context> {
    use crate::watches::Watched as _;
    type Pool = kube::core::DeserializeGuard<crate::crd::IPAddressPool>;
    let context = context(lists).await;
    let pools = pools.iter().map(|pool| {
        let pool: Pool = serde_json::from_value(pool.clone()).expect("a pool");
        pool.keep().expect("it has a name")
    });
    {
        let mut world = context.world();
        world.index.replace_pools(pools.collect());
        world.index.replace_nodes(Vec::new());
        for kind in [
            Kind::L2Advertisements,
            Kind::BgpAdvertisements,
            Kind::Communities,
            Kind::BgpPeers,
            Kind::BfdProfiles,
        ] {
            world.absent.insert(kind);
        }
    }
    context
}

async fn list(State(lists): State<Arc<Lists>>, uri: Uri) -> Response {
    let pools = match &*lists {
        Lists::Pools(pools) if uri.path().ends_with("/ipaddresspools") => pools.clone(),
        Lists::Counted(pools, count) if uri.path().ends_with("/ipaddresspools") => {
            count.fetch_add(1, Ordering::SeqCst);
            pools.clone()
        }
        Lists::Pools(_) | Lists::Counted(..) => Vec::new(),
        Lists::Fails => return StatusCode::FORBIDDEN.into_response(),
        Lists::Silent => std::future::pending().await,
    };
    let list = json!({ "apiVersion": "metallb.io/v1beta1", "kind": "List", "metadata": {}, "items": pools });
    list.to_string().into_response()
}
