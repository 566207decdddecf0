//! Which sockets are open: for each interface one of each protocol that it speaks.
//!
//! Synchronous, and it knows no socket: how one is opened is handed in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

use super::table::{Place, Port, Protocol};

/// What could not be opened.
#[derive(Debug)]
pub struct Failure {
    pub port: Port,
    pub protocol: Protocol,
    pub error: io::Error,
}

/// The open sockets.
#[derive(Debug)]
pub struct Sockets<S> {
    open: BTreeMap<Place, S>,
}

impl<S> Default for Sockets<S> {
    fn default() -> Self {
        let open = BTreeMap::new();
        Self { open }
    }
}

impl<S> Sockets<S> {
    /// The socket there.
    pub fn get(&self, place: Place) -> Option<&S> {
        self.open.get(&place)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &S)> {
        self.open.iter().map(|(place, socket)| (*place, socket))
    }

    /// Opens what an interface needs and has not, and closes what it does not need any more. Where one
    /// protocol fails the other one is open all the same.
    pub fn set(
        &mut self,
        port: &Port,
        mut open: impl FnMut(Place) -> io::Result<S>,
    ) -> Vec<Failure> {
        let mut failed = Vec::new();
        for protocol in Protocol::ALL {
            let place = (port.index, protocol);
            if !port.speaks(protocol) {
                self.open.remove(&place);
            } else if let Entry::Vacant(entry) = self.open.entry(place) {
                match open(place) {
                    Ok(socket) => drop(entry.insert(socket)),
                    Err(error) => failed.push(Failure {
                        port: port.clone(),
                        protocol,
                        error,
                    }),
                }
            }
        }
        failed
    }

    /// Closes those of an interface.
    pub fn close(&mut self, interface: u32) {
        for protocol in Protocol::ALL {
            self.open.remove(&(interface, protocol));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use pnet_base::MacAddr;

    use super::*;

    fn port(link_local: Option<Ipv6Addr>) -> Port {
        Port {
            index: 2,
            name: "eth0".to_owned(),
            mac: MacAddr(2, 0, 0, 0, 0, 1),
            link_local,
        }
    }

    fn open(sockets: &Sockets<()>) -> Vec<Protocol> {
        sockets.iter().map(|((_, protocol), ())| protocol).collect()
    }

    #[test]
    fn a_protocol_whose_socket_cannot_be_opened_takes_the_other_one_nothing() {
        for bad in Protocol::ALL {
            let fails = |(_, protocol): Place| match protocol == bad {
                true => Err(io::ErrorKind::OutOfMemory.into()),
                false => Ok(()),
            };
            let port = port(Some(Ipv6Addr::LOCALHOST));
            let mut sockets = Sockets::default();
            let failed = sockets.set(&port, fails);
            let protocols: Vec<Protocol> = failed.iter().map(|failed| failed.protocol).collect();
            assert_eq!(protocols, [bad]);
            assert_eq!(open(&sockets).len(), 1);
            assert!(!open(&sockets).contains(&bad));
            // The next time only what lacks is opened.
            let again = sockets.set(&port, |place| {
                assert_eq!(place, (2, bad));
                Ok(())
            });
            assert!(again.is_empty());
            assert_eq!(open(&sockets), Protocol::ALL);
        }
    }

    #[test]
    fn an_interface_has_a_socket_for_each_protocol_that_it_speaks() {
        let mut sockets = Sockets::default();
        for (link_local, expected) in [
            (None, &Protocol::ALL[..1]),
            (Some(Ipv6Addr::LOCALHOST), &Protocol::ALL[..]),
            (None, &Protocol::ALL[..1]),
        ] {
            let failed = sockets.set(&port(link_local), |_| Ok(()));
            assert!(failed.is_empty());
            assert_eq!(open(&sockets), expected);
        }
        sockets.close(2);
        assert_eq!(open(&sockets), []);
    }
}
