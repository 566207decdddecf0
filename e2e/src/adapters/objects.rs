//! Objects of a cluster that several tests write or compare.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use pharos_testbed::wait;
use serde_json::{Value, json};

use super::{Stage, addresses};
use crate::site::DEADLINE;

/// Objects that are written at once, where there are many.
const AT_ONCE: usize = 32;

impl Stage {
    /// The administrator's kubeconfig of a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> anyhow::Result<PathBuf> {
        Ok(self.cluster(cluster)?.kube.kubeconfig())
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, cluster: &str, manifest: &str) -> anyhow::Result<()> {
        self.cluster(cluster)?.kube.apply(manifest).map(drop)
    }

    /// The same, while the caller goes on.
    pub fn apply_in_background(&self, cluster: &str, manifest: &str) -> anyhow::Result<Child> {
        let file = self.directory.path().join("background.yaml");
        std::fs::write(&file, manifest)?;
        let kubectl = Command::new(&self.assets.kubectl)
            .arg("--kubeconfig")
            .arg(self.cluster(cluster)?.kube.kubeconfig())
            .args(["apply", "-f"])
            .arg(file)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(kubectl)
    }

    /// A pool with these addresses, one after the other.
    pub fn apply_pool(&self, cluster: &str, name: &str, addresses: &[&str]) -> anyhow::Result<()> {
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": name, "namespace": "metallb-system" },
            "spec": { "addresses": addresses },
        });
        self.put(cluster, &pool)
    }

    /// Waits until ipam-service has a pool, which its status shows then.
    pub fn wait_in_force(&self, cluster: &str, pool: &str) -> anyhow::Result<()> {
        wait::until_ok("the pool is in force", DEADLINE, || {
            let available = self.pool_status(cluster, pool, "{.status.availableIPv4}")?;
            anyhow::ensure!(!available.is_empty() && available != "0", "{available:?}");
            Ok(())
        })
    }

    /// Waits until the status of a pool counts so many IPv4 addresses as assigned. It follows last.
    pub fn wait_assigned(&self, cluster: &str, pool: &str, count: usize) -> anyhow::Result<()> {
        self.wait_pool_status(cluster, pool, "{.status.assignedIPv4}", &count.to_string())
    }

    /// The same with those that are available: `ASSIGNED AVAILABLE`.
    pub fn wait_usage(&self, cluster: &str, pool: &str, expected: &str) -> anyhow::Result<()> {
        let path = "{.status.assignedIPv4} {.status.availableIPv4}";
        self.wait_pool_status(cluster, pool, path, expected)
    }

    fn wait_pool_status(
        &self,
        cluster: &str,
        pool: &str,
        path: &str,
        expected: &str,
    ) -> anyhow::Result<()> {
        let what = format!("the status of pool {pool} says {expected}");
        wait::until_ok(&what, DEADLINE, || {
            let found = self.pool_status(cluster, pool, path)?;
            anyhow::ensure!(found == expected, "{found}");
            Ok(())
        })
    }

    /// What a JSONPath finds in a pool, as users look for it.
    fn pool_status(&self, cluster: &str, pool: &str, path: &str) -> anyhow::Result<String> {
        let path = format!("jsonpath={path}");
        let get = ["get", "ipaddresspool", pool, "-n", "metallb-system", "-o"];
        self.kubectl(cluster, &[&get[..], &[&path]].concat())
    }

    /// A Service of type LoadBalancer in namespace `default`: its annotations, and what differs in
    /// its spec from one TCP port 80.
    pub fn apply_service(
        &self,
        cluster: &str,
        name: &str,
        annotations: &Value,
        spec: &Value,
    ) -> anyhow::Result<()> {
        self.put(cluster, &load_balancer(name, annotations, spec))
    }

    /// Applies one object by a call, as `kubectl apply --server-side` does; an object of a namespace that names
    /// none is in `default`. Much faster than a process of kubectl.
    pub fn put(&self, cluster: &str, object: &Value) -> anyhow::Result<()> {
        let client = self.client(cluster)?;
        let call = async {
            let object: DynamicObject = serde_json::from_value(object.clone())?;
            let types = object.types.as_ref().context("no kind")?;
            let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
            let api: Api<DynamicObject> = match kind.kind.as_str() {
                "Node" | "Namespace" => Api::all_with(client, &kind),
                _ => {
                    let namespace = object.metadata.namespace.as_deref();
                    Api::namespaced_with(client, namespace.unwrap_or("default"), &kind)
                }
            };
            let name = object.metadata.name.clone().context("no name")?;
            api.patch(&name, &as_kubectl(), &Patch::Apply(&object))
                .await?;
            anyhow::Ok(())
        };
        self.runtime.block_on(call)
    }

    /// Makes so many Services, `PREFIX0` and so on, which take no ports of nodes: of those there are
    /// fewer than three thousand.
    pub fn create_services(&self, cluster: &str, prefix: &str, count: usize) -> anyhow::Result<()> {
        self.create_all(cluster, (0..count).map(|number| many(prefix, number)), None)
    }

    /// The same, each with an address of 198.18.0.0/15 from a pool, as an adapter leaves it.
    pub fn create_served_services(
        &self,
        cluster: &str,
        prefix: &str,
        count: usize,
        pool: &str,
    ) -> anyhow::Result<()> {
        let make = |number| {
            let mut service = many(prefix, number);
            service["metadata"]["annotations"] =
                json!({ "metallb.io/ip-allocated-from-pool": pool });
            service
        };
        let address = |number: usize| format!("198.18.{}.{}", number / 256, number % 256);
        self.create_all(cluster, (0..count).map(make), Some(&address))
    }

    fn create_all(
        &self,
        cluster: &str,
        services: impl Iterator<Item = Value>,
        address: Option<&dyn Fn(usize) -> String>,
    ) -> anyhow::Result<()> {
        let api: Api<Service> = Api::namespaced(self.client(cluster)?, "default");
        let services = services.enumerate().map(|(number, service)| {
            let ip = address.map(|address| address(number));
            (
                service,
                ip.map(|ip| json!({ "status": { "loadBalancer": { "ingress": [{ "ip": ip }] } } })),
            )
        });
        let creations = futures::stream::iter(services).map(Ok);
        self.runtime.block_on(
            creations.try_for_each_concurrent(AT_ONCE, |(service, status)| {
                let api = api.clone();
                async move {
                    let service: Service = serde_json::from_value(service)?;
                    let name = service.metadata.name.clone().unwrap_or_default();
                    api.create(&Default::default(), &service).await?;
                    if let Some(status) = status {
                        let patch = Patch::Merge(status);
                        api.patch_status(&name, &Default::default(), &patch).await?;
                    }
                    Ok(())
                }
            }),
        )
    }

    /// Deletes Services of namespace `default`.
    pub fn delete_services(&self, cluster: &str, names: &[String]) -> anyhow::Result<()> {
        let api: Api<Service> = Api::namespaced(self.client(cluster)?, "default");
        let deletions = names
            .iter()
            .map(Ok)
            .collect::<Vec<anyhow::Result<&String>>>();
        self.runtime
            .block_on(
                futures::stream::iter(deletions).try_for_each_concurrent(AT_ONCE, |name| {
                    let api = api.clone();
                    async move {
                        api.delete(name, &Default::default()).await?;
                        Ok(())
                    }
                }),
            )
    }

    fn put_all<K>(&self, cluster: &str, objects: impl Iterator<Item = Value>) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client(cluster)?, "default");
        let puts = futures::stream::iter(objects).map(Ok);
        self.runtime
            .block_on(puts.try_for_each_concurrent(AT_ONCE, |object| {
                let api = api.clone();
                async move {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    api.patch(name, &as_kubectl(), &Patch::Apply(&object))
                        .await?;
                    Ok(())
                }
            }))
    }

    /// Resource version and addresses of each Service: equal only if nobody wrote anything.
    pub fn versions(
        &self,
        cluster: &str,
    ) -> anyhow::Result<BTreeMap<String, (String, Vec<String>)>> {
        let services = self.services(cluster)?.into_iter();
        services
            .map(|(name, service)| {
                let version = service.metadata.resource_version.clone();
                let version = version.context("a Service has a version")?;
                Ok((name, (version, addresses(&service))))
            })
            .collect()
    }

    /// All pools are announced from everywhere by layer 2. (A Service whose pool nobody announces is told so by
    /// a condition, after ten seconds; where there is no announcer, after a minute.)
    pub fn advertise_all(&self, cluster: &str) -> anyhow::Result<()> {
        let everywhere = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": { "name": "default", "namespace": "metallb-system" },
        });
        self.apply(cluster, &everywhere.to_string())
    }

    /// Waits until a condition of a Service has this reason.
    pub fn wait_condition(
        &self,
        cluster: &str,
        name: &str,
        of: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        let what = format!("{cluster}: condition {of} of {name} has reason {reason}");
        wait::until_ok(&what, DEADLINE, || {
            let status = self.service(cluster, name)?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let found = conditions.iter().find(|condition| condition.type_ == of);
            let is_so = found.is_some_and(|condition| condition.reason == reason);
            anyhow::ensure!(is_so, "{conditions:?}");
            Ok(())
        })
    }

    /// The Service `web` has one endpoint, on node `n1`, which is ready or not.
    pub fn set_endpoint(&self, cluster: &str, ready: bool) -> anyhow::Result<()> {
        self.put(cluster, &slice("web", ready))
    }

    /// The same of several Services at once.
    pub fn set_endpoints(
        &self,
        cluster: &str,
        services: &[String],
        ready: bool,
    ) -> anyhow::Result<()> {
        let slices = services.iter().map(|service| slice(service, ready));
        self.put_all::<EndpointSlice>(cluster, slices)
    }
}

fn slice(service: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4", "ports": [{ "name": "p", "port": 8080 }],
        "endpoints": [{
            "addresses": ["10.244.0.9"], "nodeName": "n1", "conditions": { "ready": ready },
        }],
    })
}

fn load_balancer(name: &str, annotations: &Value, spec: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": { "type": "LoadBalancer", "ports": [{ "name": "p", "port": 80 }] },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

/// One of very many.
fn many(prefix: &str, number: usize) -> Value {
    let spec = json!({ "allocateLoadBalancerNodePorts": false });
    load_balancer(&format!("{prefix}{number}"), &json!({}), &spec)
}

/// Whatever others wrote, people's word counts.
fn as_kubectl() -> PatchParams {
    PatchParams::apply("kubectl").force()
}
