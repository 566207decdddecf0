//! Where other announcers reach this one, when nobody says it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::bind::netlink::is_label;
use crate::links::rules::InterfaceRules;

/// What others are told, kept true while addresses come and go.
#[derive(Debug)]
pub struct Advertised {
    listen: SocketAddr,
    /// Somebody said what others are to be told.
    fixed: bool,
    ipam: Vec<Endpoint>,
    rules: InterfaceRules,
    told: watch::Sender<SocketAddr>,
}

impl Advertised {
    /// `named` is what others are to be told; else it is found.
    pub fn new(
        named: Option<SocketAddr>,
        listen: SocketAddr,
        ipam: &[Endpoint],
        rules: &InterfaceRules,
    ) -> Self {
        let told = named.unwrap_or_else(|| advertised(listen, ipam, rules));
        Self {
            listen,
            fixed: named.is_some() || !listen.ip().is_unspecified(),
            ipam: ipam.to_vec(),
            rules: rules.clone(),
            told: watch::Sender::new(told),
        }
    }

    /// What others are told now.
    pub fn told(&self) -> watch::Receiver<SocketAddr> {
        self.told.subscribe()
    }

    /// Looks again, to be called when addresses changed. Gives what others are to be told from now
    /// on, if that is another address: because the one before is not this node's any more, and
    /// there is one that is.
    pub fn look_again(&self) -> Option<SocketAddr> {
        let told = *self.told.borrow();
        if self.fixed || (!told.ip().is_loopback() && is_local(told.ip())) {
            return None;
        }
        let found = advertised(self.listen, &self.ipam, &self.rules);
        let is_better = found != told && !found.ip().is_loopback();
        is_better.then(|| {
            tracing::info!(endpoint = %found, before = %told, "other announcers reach this one elsewhere");
            self.told.send_replace(found);
            found
        })
    }
}

/// Whether this node has the address. If that cannot be read: yes, nothing is to change.
fn is_local(ip: IpAddr) -> bool {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        return true;
    };
    let mut storages = addresses.filter_map(|one| one.address);
    storages.any(|storage| {
        let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let v6 = storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
        v4.or(v6) == Some(ip)
    })
}

/// The address that others are told: of the listener if it names one, else the one from which
/// ipam-service is reached, else the first of an interface that may answer; loopback if there is
/// no other yet.
fn advertised(listen: SocketAddr, ipam: &[Endpoint], rules: &InterfaceRules) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let ip = ipam
        .iter()
        .find_map(|endpoint| source_towards(endpoint.uri()))
        .or_else(|| first_of_interfaces(rules))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, listen.port())
}

/// The source address that the kernel would choose. Only for literal addresses: looking up a name
/// could block for long.
fn source_towards(uri: &tonic::transport::Uri) -> Option<IpAddr> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let target: IpAddr = host.parse().ok()?;
    let any: SocketAddr = if target.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], 0))
    } else {
        SocketAddr::from(([0_u16; 8], 0))
    };
    let socket = UdpSocket::bind(any).ok()?;
    // Sends nothing: connecting a UDP socket only chooses the route.
    socket
        .connect((target, uri.port_u16().unwrap_or(80)))
        .ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback() && !source.is_unspecified()).then_some(source)
}

fn first_of_interfaces(rules: &InterfaceRules) -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|one| rules.allows(&one.interface_name) && !is_label(&one.interface_name))
        .filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
        .map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_names_an_address_is_what_others_are_told() {
        let listen = SocketAddr::from(([192, 0, 2, 1], 7946));
        let rules = InterfaceRules::metallb().expect("valid");
        assert_eq!(advertised(listen, &[], &rules), listen);
    }

    #[test]
    fn without_any_interface_the_loopback_address_is_told() {
        let listen = SocketAddr::from(([0, 0, 0, 0], 7946));
        let rules = InterfaceRules::only(&["no-such-interface".to_owned()]).expect("valid");
        let local = Endpoint::from_static("http://127.0.0.1:7471");
        let expected = SocketAddr::from(([127, 0, 0, 1], 7946));
        assert_eq!(advertised(listen, &[local], &rules), expected);
    }

    /// An address that no machine has (RFC 5737).
    const FOREIGN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 7946);

    fn nowhere() -> InterfaceRules {
        InterfaceRules::only(&["no-such-interface".to_owned()]).expect("valid")
    }

    #[test]
    fn what_is_named_stays_whatever_addresses_there_are() {
        let any = SocketAddr::from(([0, 0, 0, 0], 7946));
        for (named, listen) in [(Some(FOREIGN), any), (None, FOREIGN)] {
            let advertised = Advertised::new(named, listen, &[], &nowhere());
            assert_eq!(*advertised.told().borrow(), FOREIGN);
            assert_eq!(advertised.look_again(), None);
        }
    }

    #[test]
    fn without_a_better_address_others_are_told_the_same() {
        let any = SocketAddr::from(([0, 0, 0, 0], 7946));
        let advertised = Advertised::new(None, any, &[], &nowhere());
        advertised.told.send_replace(FOREIGN);
        assert_eq!(advertised.look_again(), None);
        assert_eq!(*advertised.told().borrow(), FOREIGN);
    }
}
