//! Addresses of an interface, by rtnetlink, one call at a time.
//!
//! What is added here bears a mark, by which it is found again after a crash, and which tells it
//! from what others have added: a protocol number, and for kernels before 5.18, which drop that,
//! the label of IPv4 addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// Free for users (linux/if_addr.h names 1 to 3).
const PROTOCOL: u8 = 0x50;
const LABEL: &str = ":pharos";
/// A label of the kernel is no longer (IFNAMSIZ without its zero).
const LONGEST_LABEL: usize = 15;
/// The kernel answers in microseconds. Whoever waits decides about answers.
const PATIENCE: Duration = Duration::from_millis(20);
/// Lifetime without end.
const FOR_EVER: u32 = u32::MAX;

/// A socket to the kernel, for the addresses of one interface.
#[derive(Debug)]
pub struct Addresses {
    socket: Socket,
    interface: String,
    sequence: u32,
}

/// What became of an address that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Ours,
    /// It is there already, and not by us: it stays when we go.
    Foreign,
}

impl Addresses {
    /// An error if there is no such interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        let addresses = Self {
            socket,
            interface: interface.to_owned(),
            sequence: 0,
        };
        addresses.index()?;
        Ok(addresses)
    }

    /// Adds an address with no network around it.
    pub fn add(&mut self, address: IpAddr) -> io::Result<Added> {
        let message = RouteNetlinkMessage::NewAddress(self.message(address, true)?);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.call(message, flags) {
            Ok(_) => Ok(Added::Ours),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Added::Foreign),
            Err(error) => Err(error),
        }
    }

    /// Removes an address; it is no error if it is gone.
    pub fn remove(&mut self, address: IpAddr) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(self.message(address, false)?);
        match self.call(message, NLM_F_REQUEST | NLM_F_ACK) {
            Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The addresses of the interface that bear the mark.
    pub fn marked(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        let index = self.index()?;
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.call(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let here = answers.iter().filter(|one| one.header.index == index);
        Ok(here.filter_map(marked).collect())
    }

    /// Looked up for each call: an interface may be made anew.
    fn index(&self) -> io::Result<u32> {
        Ok(nix::net::if_::if_nametoindex(self.interface.as_str())?)
    }

    fn message(&self, address: IpAddr, new: bool) -> io::Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.index = self.index()?;
        (message.header.family, message.header.prefix_len) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
        ];
        if new {
            attributes.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
            match address {
                // The host does not choose it as a source by itself.
                IpAddr::V4(_) => {
                    message.header.scope = AddressScope::Host;
                    let label = format!("{}{LABEL}", self.interface);
                    if label.len() <= LONGEST_LABEL {
                        attributes.push(AddressAttribute::Label(label));
                    }
                }
                IpAddr::V6(_) => {
                    let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
                    attributes.push(AddressAttribute::Flags(flags));
                    let mut lifetimes = CacheInfo::default();
                    lifetimes.ifa_valid = FOR_EVER;
                    attributes.push(AddressAttribute::CacheInfo(lifetimes));
                }
            }
        }
        message.attributes = attributes;
        Ok(message)
    }

    /// Sends a request and waits for all of its answer.
    fn call(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<AddressMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            if self.take(&bytes, &mut found)? {
                return Ok(found);
            }
        }
    }

    /// Takes the messages of a datagram; says whether they end the answer to the last request.
    fn take(&self, mut bytes: &[u8], found: &mut Vec<AddressMessage>) -> io::Result<bool> {
        while !bytes.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                // Of a request that was given up.
                continue;
            }
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(true),
                        Some(_) => Err(error.to_io()),
                    };
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
                    found.push(address);
                }
                NetlinkPayload::InnerMessage(_)
                | NetlinkPayload::Noop
                | NetlinkPayload::Overrun(_)
                | _ => {}
            }
        }
        Ok(false)
    }
}

fn marked(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    let mut is_marked = false;
    for attribute in &message.attributes {
        if let AddressAttribute::Address(it) = attribute {
            // That of the other end, where there is one; IPv4 has its own in Local.
            address = address.or(Some(*it));
        } else if let AddressAttribute::Local(it) = attribute {
            address = Some(*it);
        } else if let AddressAttribute::Protocol(protocol) = attribute {
            is_marked |= u8::from(*protocol) == PROTOCOL;
        } else if let AddressAttribute::Label(label) = attribute {
            is_marked |= label.ends_with(LABEL);
        }
    }
    address.filter(|_| is_marked)
}

/// Whether an interface, as getifaddrs(3) names it, is an IPv4 address that was bound here.
pub fn is_label(name: &str) -> bool {
    name.ends_with(LABEL)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use pharos_testbed::skip;

    use super::*;

    /// Runs in a network namespace of its own, in which only lo is.
    fn alone(work: impl FnOnce() + Send + 'static) {
        if !skip::can_use_namespaces() {
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            work();
        });
        thread.join().expect("the work is done");
    }

    fn both() -> [IpAddr; 2] {
        ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("valid"))
    }

    #[test]
    fn what_is_added_bears_the_mark_until_it_is_removed() {
        alone(|| {
            let mut lo = Addresses::open("lo").expect("lo is there");
            for address in both() {
                assert_eq!(lo.add(address).expect("is added"), Added::Ours);
                assert_eq!(lo.add(address).expect("is there"), Added::Foreign);
            }
            let mut again = Addresses::open("lo").expect("lo is there");
            assert_eq!(again.marked().expect("is told"), both().into());
            for address in both() {
                again.remove(address).expect("is removed");
                again.remove(address).expect("is gone");
            }
            assert_eq!(lo.marked().expect("is told"), BTreeSet::new());
        });
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        alone(|| {
            assert!(Addresses::open("eth7").is_err());
        });
    }

    #[test]
    fn an_older_kernel_shows_the_mark_in_the_label_of_ipv4() {
        let mut message = AddressMessage::default();
        let [address, _] = both();
        message.attributes = vec![AddressAttribute::Local(address)];
        assert_eq!(marked(&message), None);
        let label = AddressAttribute::Label("lo:pharos".to_owned());
        message.attributes.push(label);
        assert_eq!(marked(&message), Some(address));
    }
}
