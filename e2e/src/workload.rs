//! What stands for pods: web servers in the namespaces of nodes, and the EndpointSlices that a
//! cluster's controllers would have written for them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use pharos_testbed::{Host, Namespace, http, wait};

use crate::site::{Cluster, DEADLINE, Site};

/// The port of every web server, as `targetPort` in the manifests.
pub const PORT: u16 = 8080;

/// A web server on a node that answers with the node's name.
pub fn serve(host: &Host) -> anyhow::Result<http::Server> {
    let address = SocketAddr::new(host.address, PORT);
    http::Server::start(Some(&host.namespace), address, &host.name)
}

/// Says that the Service has one ready endpoint on each of these nodes.
pub fn set_endpoints(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    port_name: &str,
    nodes: &[&Host],
) -> anyhow::Result<()> {
    let endpoints: Vec<serde_json::Value> = nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "addresses": [node.address],
                "nodeName": node.name,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-test"),
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": port_name, "port": PORT, "protocol": "TCP"}],
    });
    cluster.kube.apply(&slice.to_string())?;
    Ok(())
}

/// Waits until the Service's status names this address.
pub fn wait_for_address(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    address: Ipv4Addr,
) -> anyhow::Result<()> {
    let condition = format!("--for=jsonpath={{.status.loadBalancer.ingress[0].ip}}={address}");
    let timeout = format!("--timeout={}s", DEADLINE.as_secs());
    let name = format!("service/{service}");
    let waited = cluster
        .kube
        .kubectl(&["wait", "-n", namespace, &name, &condition, &timeout]);
    waited.map(drop).with_context(|| {
        let events = cluster.kube.kubectl(&["get", "events", "-A"]);
        format!(
            "{namespace}/{service} has no {address}; events:\n{}",
            events.unwrap_or_default()
        )
    })
}

/// The address in the Service's status, if it has one.
pub fn address_of(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
) -> anyhow::Result<Option<Ipv4Addr>> {
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let text = cluster
        .kube
        .kubectl(&["get", "service", "-n", namespace, service, "-o", path])?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        text.parse().with_context(|| format!("address {text:?}"))?,
    ))
}

/// Waits until an event of the Service with this reason contains all of `words`; gives its message.
pub fn wait_for_event(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
    reason: &str,
    words: &[&str],
) -> anyhow::Result<String> {
    let selector = format!("involvedObject.name={service},reason={reason}");
    let what = format!("event {reason} of {namespace}/{service} with {words:?}");
    wait::until_ok(&what, DEADLINE, || {
        let path = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
        let arguments = [
            "get",
            "events",
            "-n",
            namespace,
            "--field-selector",
            &selector,
            "-o",
            path,
        ];
        let messages = cluster.kube.kubectl(&arguments)?;
        let found = messages
            .lines()
            .find(|message| words.iter().all(|word| message.contains(word)));
        found
            .map(str::to_owned)
            .with_context(|| format!("so far: {messages}"))
    })
}

/// Asks `http://address:port/` from a namespace until the answer is from `expected` (a node's name).
pub fn wait_served_by(
    from: &Namespace,
    address: Ipv4Addr,
    port: u16,
    expected: &str,
) -> anyhow::Result<()> {
    let what = format!("http://{address}:{port}/ served by {expected}");
    wait::until_ok(&what, DEADLINE, || {
        let body = ask(from, address, port)?;
        anyhow::ensure!(body == expected, "served by {body}");
        Ok(())
    })
}

/// One request; gives the name of the node that served it.
pub fn ask(from: &Namespace, address: Ipv4Addr, port: u16) -> anyhow::Result<String> {
    let target = SocketAddr::new(IpAddr::V4(address), port);
    let (status, body) = from.run(|| http::get(target, "/", Duration::from_secs(2)))??;
    anyhow::ensure!(status == 200, "status {status}");
    Ok(body)
}

/// Name of the host that has a hardware address.
pub fn name_of(site: &Site, mac: pnet_base::MacAddr) -> anyhow::Result<String> {
    let host = site
        .lan()
        .host_by_mac(mac)
        .with_context(|| format!("nobody has {mac}"))?;
    Ok(host.name.clone())
}
