//! Addresses on the wire.

use std::net::IpAddr;

/// A string that is no address of the kind that the API takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 or IPv6 address")]
pub struct InvalidAddress {
    text: String,
}

/// Parses an address as the API takes it: no prefix length, no scope id, no surrounding space.
///
/// An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is refused: it would be a second name
/// of an IPv4 address.
pub fn parse_address(text: &str) -> Result<IpAddr, InvalidAddress> {
    let invalid = || InvalidAddress {
        text: text.chars().take(64).collect(),
    };
    match text.parse::<IpAddr>().map_err(|_| invalid())? {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(invalid()),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => Ok(address),
    }
}

/// The canonical text of an address (RFC 5952 for IPv6).
pub fn format_address(address: IpAddr) -> String {
    address.to_string()
}

/// The 16 bytes under which an address is ordered, hashed and stored: IPv4 as `::ffff:a.b.c.d`.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["192.0.2.1", "2001:db8::1", "::", "0.0.0.0"] {
            assert_eq!(format_address(parse_address(text).expect(text)), text);
        }
        let canonical = format_address(parse_address("2001:DB8:0:0::0001").expect("valid"));
        assert_eq!(canonical, "2001:db8::1");
    }

    #[test]
    fn what_is_no_single_unscoped_address_is_refused() {
        for text in [
            "",
            " 192.0.2.1",
            "192.0.2.1/32",
            "fe80::1%eth0",
            "::ffff:192.0.2.1",
            "a",
        ] {
            assert!(parse_address(text).is_err(), "{text:?}");
        }
    }
}
