//! Hosts on one Ethernet segment: namespaces joined by a bridge in a namespace of its own.
//!
//! ```text
//!   host a: eth0 ---- a   \
//!   host b: eth0 ---- b    > br0   (namespace "switch")
//!           eth1 ---- b.1 /
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Context as _;
use pnet_base::MacAddr;

use crate::namespace::{Namespace, wait_for_carrier};
use crate::packet;

/// A host of a [`Lan`], with an interface `eth0`, and more if they are added.
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
    /// Hardware addresses of eth1 and so on.
    pub more: Vec<MacAddr>,
}

impl Host {
    /// The kernel answers ARP only for addresses of the interface that is asked: not for those on
    /// `lo`, which are there for servers to listen on.
    pub fn keep_quiet_about_local_addresses(&self) -> anyhow::Result<()> {
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            self.namespace
                .write_sysctl(&format!("net/ipv4/conf/all/{key}"), value)?;
        }
        Ok(())
    }

    /// Its ports on the switch: of eth0, eth1 and so on.
    fn ports(&self) -> impl Iterator<Item = String> {
        (0..=self.more.len()).map(|number| port(&self.name, number))
    }
}

/// The switch's name of a host's interface `ethNUMBER`.
fn port(host: &str, number: usize) -> String {
    match number {
        0 => host.to_owned(),
        more => format!("{host}.{more}"),
    }
}

/// Hosts on one segment. Dropping it removes all namespaces.
#[derive(Debug)]
pub struct Lan {
    switch: Namespace,
    hosts: Vec<Host>,
    /// Pairs of hosts between which the switch forwards nothing, in both directions.
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
        let mac = self.connect(&namespace, "eth0", name)?;
        namespace.exec(&["ip", "addr", "add", address, "dev", "eth0"])?;
        let ip = address.split('/').next().unwrap_or(address);
        self.hosts.push(Host {
            name: name.to_owned(),
            address: ip.parse().with_context(|| format!("address {ip}"))?,
            namespace,
            mac,
            more: Vec::new(),
        });
        self.host(name)
    }

    /// Plugs one more interface of a host into the switch: eth1, then eth2 and so on, without an
    /// address.
    pub fn add_interface(&mut self, name: &str) -> anyhow::Result<MacAddr> {
        let host = self.host(name)?;
        let number = host.more.len() + 1;
        let interface = format!("eth{number}");
        let mac = self.connect(&host.namespace, &interface, &port(name, number))?;
        for host in self.hosts.iter_mut().filter(|host| host.name == name) {
            host.more.push(mac);
        }
        Ok(mac)
    }

    /// A cable between an interface, which is made, and a port of the switch.
    fn connect(
        &self,
        namespace: &Namespace,
        interface: &str,
        port: &str,
    ) -> anyhow::Result<MacAddr> {
        let switch = self.switch.name();
        namespace.exec(&[
            "ip", "link", "add", interface, "type", "veth", "peer", "name", port, "netns", switch,
        ])?;
        self.switch
            .exec(&["ip", "link", "set", "dev", port, "master", "br0", "up"])?;
        namespace.exec(&["ip", "link", "set", interface, "up"])?;
        wait_for_carrier(namespace, interface)?;
        Ok(namespace.run(|| packet::interface(interface))??.mac)
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

    /// The host with an interface of this hardware address.
    pub fn host_by_mac(&self, mac: MacAddr) -> Option<&Host> {
        self.hosts
            .iter()
            .find(|host| host.mac == mac || host.more.contains(&mac))
    }

    /// The namespace of the bridge, for rules of one's own.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Pulls the cable of a host's eth0: both ends lose carrier.
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
            let (a, b) = (self.host(a)?, self.host(b)?);
            for (from, to) in [(a, b), (b, a)] {
                let pairs = from
                    .ports()
                    .flat_map(|from| to.ports().map(move |to| (from.clone(), to)));
                for (from, to) in pairs {
                    writeln!(rules, "iifname \"{from}\" oifname \"{to}\" drop")?;
                }
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
