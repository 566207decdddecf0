//! Where other announcers reach this one, when nobody says it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use tonic::transport::Endpoint;

use crate::links::InterfaceRules;

/// The address that others are told: of the listener if it names one, else the one from which
/// ipam-service is reached, else the first of an interface that may answer; loopback if there is
/// no other yet.
pub fn advertised(listen: SocketAddr, ipam: &[Endpoint], rules: &InterfaceRules) -> SocketAddr {
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
        .filter(|one| rules.allows(&one.interface_name))
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
        let rules = InterfaceRules::new(&[]).expect("valid");
        assert_eq!(advertised(listen, &[], &rules), listen);
    }

    #[test]
    fn without_any_interface_the_loopback_address_is_told() {
        let listen = SocketAddr::from(([0, 0, 0, 0], 7946));
        let rules = InterfaceRules::new(&["no-such-interface".to_owned()]).expect("valid");
        let local = Endpoint::from_static("http://127.0.0.1:7471");
        let expected = SocketAddr::from(([127, 0, 0, 1], 7946));
        assert_eq!(advertised(listen, &[local], &rules), expected);
    }
}
