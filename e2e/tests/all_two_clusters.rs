//! Topology: e2e/src/site.rs, clusters east and west (an API server and an adapter each), no nodes:
//! what is at stake is the book.
//!
//! 1. Both apply the very same pool manifest, and draw from one range at once without a double.
//! 2. An address that east holds and west asks for stays with east; west's Service says who has it.
//! 3. What one cluster releases the other gets, without a hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use e2e::site::{DEADLINE, Site, manifest};
use e2e::workload;
use pharos_testbed::wait;

const ENVOY: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
/// 192.168.12.100 to 192.168.12.120.
const POOL: usize = 21;
/// Services per cluster: together more than the pool has.
const EACH: usize = 12;

#[test]
fn two_clusters_share_one_range_without_a_double() {
    let Some(mut site) = Site::start().unwrap() else {
        return;
    };
    for (cluster, address) in [("east", "192.168.12.5"), ("west", "192.168.12.6")] {
        site.add_cluster(cluster, address).unwrap();
        for name in ["00-namespaces.yaml", "10-default-pool.yaml"] {
            site.kubectl(cluster, &["apply", "-f", &manifest(name)])
                .unwrap();
        }
    }
    what_east_holds_stays_with_east(&site);
    both_fill_the_pool(&site);
    what_one_releases_the_other_gets(&site);
}

fn what_east_holds_stays_with_east(site: &Site) {
    let envoy = manifest("20-envoy-gateway.yaml");
    let (east, west) = (site.cluster("east").unwrap(), site.cluster("west").unwrap());
    let namespace = "envoy-gateway-system";
    east.kube.kubectl(&["apply", "-f", &envoy]).unwrap();
    workload::wait_for_address(east, namespace, "envoy-gateway", ENVOY).unwrap();
    west.kube.kubectl(&["apply", "-f", &envoy]).unwrap();
    let words = ["192.168.12.100", "east"];
    let message =
        workload::wait_for_event(west, namespace, "envoy-gateway", "AllocationFailed", &words);
    eprintln!("west is told: {}", message.unwrap());
    assert_eq!(
        workload::address_of(west, namespace, "envoy-gateway").unwrap(),
        None
    );
    assert_eq!(
        workload::address_of(east, namespace, "envoy-gateway").unwrap(),
        Some(ENVOY)
    );
}

fn both_fill_the_pool(site: &Site) {
    let mut services = String::new();
    for number in 0..EACH {
        writeln!(
            services,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{number}, namespace: shop}}, \
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
        )
        .unwrap();
    }
    std::thread::scope(|scope| {
        for cluster in ["east", "west"] {
            scope.spawn(|| {
                site.cluster(cluster)
                    .unwrap()
                    .kube
                    .apply(&services)
                    .unwrap()
            });
        }
    });
    wait_until_full(site);
}

/// Waits until every address of the pool is held, by one Service each.
fn wait_until_full(site: &Site) {
    wait::until_ok("every address is held", DEADLINE, || {
        let holders = holders(site)?;
        anyhow::ensure!(
            holders.len() == POOL,
            "{} of {POOL}: {holders:?}",
            holders.len()
        );
        Ok(())
    })
    .unwrap();
}

/// Address -> its Services, over both clusters. Fails on a double.
fn holders(site: &Site) -> anyhow::Result<BTreeMap<String, String>> {
    let mut holders = BTreeMap::new();
    for cluster in ["east", "west"] {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.loadBalancer.ingress[0].ip}\
                    {\"\\n\"}{end}";
        let list = site.kubectl(cluster, &["get", "svc", "-A", "-o", path])?;
        for line in list.lines() {
            let Some((service, address)) = line.split_once(' ').filter(|(_, ip)| !ip.is_empty())
            else {
                continue;
            };
            let holder = format!("{cluster}/{service}");
            if let Some(other) = holders.insert(address.to_owned(), holder.clone()) {
                // Not an error that waiting could heal.
                panic!("{address} is held by {other} and by {holder}");
            }
        }
    }
    Ok(holders)
}

fn what_one_releases_the_other_gets(site: &Site) {
    let (east, west) = (site.cluster("east").unwrap(), site.cluster("west").unwrap());
    let namespace = "envoy-gateway-system";
    east.kube
        .kubectl(&["delete", "svc", "-n", namespace, "envoy-gateway"])
        .unwrap();
    // west's claim for this very address is older than all that wait for just any.
    workload::wait_for_address(west, namespace, "envoy-gateway", ENVOY).unwrap();
    wait_until_full(site);

    // Everything that west holds goes: every Service of east that waited has an address now.
    west.kube
        .kubectl(&["delete", "svc", "-n", "shop", "--all"])
        .unwrap();
    wait::until_ok("all of east's Services have an address", DEADLINE, || {
        let held = holders(site)?;
        let east = held
            .values()
            .filter(|holder| holder.starts_with("east/s"))
            .count();
        anyhow::ensure!(east == EACH, "{east} of {EACH}: {held:?}");
        Ok(())
    })
    .unwrap();
}
