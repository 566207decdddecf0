//! Hosts on one Ethernet segment: namespaces joined by a bridge in a namespace of its own.
//!
//! ```text
//!   host a: eth0 ---- a \
//!   host b: eth0 ---- b  > br0   (namespace "switch")
//!   host c: eth0 ---- c /
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Context as _;
use pnet_base::MacAddr;

use crate::namespace::{Namespace, wait_for_carrier};
use crate::packet;

/// A host of a [`Lan`], with one interface `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Name on the LAN; also the name of its port on the switch.
    pub name: String,
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its address on eth0.
    pub address: IpAddr,
    /// Hardware address of eth0.
    pub mac: MacAddr,
}

/// Hosts on one segment. Dropping it removes all namespaces.
#[derive(Debug)]
pub struct Lan {
    switch: Namespace,
    hosts: Vec<Host>,
    /// Pairs of ports between which the switch forwards nothing, in both directions.
    cut: BTreeSet<(String, String)>,
}

impl Lan {
    /// Makes hosts from `(name, address/prefix length)`, for example `("n1", "192.168.12.11/24")`.
    /// Names have at most 15 bytes, and no `-`.
    pub fn new(hosts: &[(&str, &str)]) -> anyhow::Result<Self> {
        let switch = Namespace::new("switch")?;
        // No snooping: a multicast frame reaches every port, as on a plain switch.
        switch.exec(&[
            "ip",
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        switch.exec(&["ip", "link", "set", "br0", "up"])?;
        let mut lan = Self {
            switch,
            hosts: Vec::new(),
            cut: BTreeSet::new(),
        };
        for (name, address) in hosts {
            lan.add(name, address)?;
        }
        Ok(lan)
    }

    /// Plugs one more host in.
    pub fn add(&mut self, name: &str, address: &str) -> anyhow::Result<&Host> {
        let namespace = Namespace::new(name)?;
        namespace.exec(&[
            "ip",
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            self.switch.name(),
        ])?;
        self.switch
            .exec(&["ip", "link", "set", "dev", name, "master", "br0", "up"])?;
        namespace.exec(&["ip", "addr", "add", address, "dev", "eth0"])?;
        namespace.exec(&["ip", "link", "set", "eth0", "up"])?;
        wait_for_carrier(&namespace, "eth0")?;
        let mac = namespace.run(|| packet::interface("eth0"))??.mac;
        let ip = address.split('/').next().unwrap_or(address);
        self.hosts.push(Host {
            name: name.to_owned(),
            address: ip.parse().with_context(|| format!("address {ip}"))?,
            namespace,
            mac,
        });
        self.host(name)
    }

    /// All hosts, in the order in which they were added.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .with_context(|| format!("no host {name} on this LAN"))
    }

    /// The host with this hardware address.
    pub fn host_by_mac(&self, mac: MacAddr) -> Option<&Host> {
        self.hosts.iter().find(|host| host.mac == mac)
    }

    /// The namespace of the bridge, for rules of one's own.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Pulls the cable of a host: both ends lose carrier.
    pub fn unplug(&self, name: &str) -> anyhow::Result<()> {
        self.switch
            .exec(&["ip", "link", "set", "dev", name, "down"])?;
        Ok(())
    }

    /// Puts the cable of a host back.
    pub fn plug(&self, name: &str) -> anyhow::Result<()> {
        self.switch
            .exec(&["ip", "link", "set", "dev", name, "up"])?;
        wait_for_carrier(&self.host(name)?.namespace, "eth0")
    }

    /// The switch forwards nothing to or from a host, whose link stays up. Needs `nft`.
    pub fn isolate(&mut self, name: &str) -> anyhow::Result<()> {
        let others: Vec<String> = self.hosts.iter().map(|host| host.name.clone()).collect();
        for other in others.iter().filter(|other| *other != name) {
            self.cut.insert(pair(name, other));
        }
        self.write_cuts()
    }

    /// The switch forwards nothing between two hosts. Needs `nft`.
    pub fn cut(&mut self, a: &str, b: &str) -> anyhow::Result<()> {
        self.cut.insert(pair(a, b));
        self.write_cuts()
    }

    /// Forgets every [`Lan::cut`] and [`Lan::isolate`].
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.cut.clear();
        self.write_cuts()
    }

    fn write_cuts(&self) -> anyhow::Result<()> {
        let mut rules = String::from(
            "add table bridge cut\ndelete table bridge cut\ntable bridge cut {\n\
             chain forward { type filter hook forward priority 0;\n",
        );
        for (a, b) in &self.cut {
            for (from, to) in [(a, b), (b, a)] {
                writeln!(rules, "iifname \"{from}\" oifname \"{to}\" drop")?;
            }
        }
        rules.push_str("}\n}\n");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &rules)?;
        let path = file.path().to_string_lossy().into_owned();
        self.switch.exec(&["nft", "-f", &path])?;
        Ok(())
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    (low.to_owned(), high.to_owned())
}
