//! Addresses and ranges as numbers, so that they can be ordered, counted and stored alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, IPv4 first: the order in which answers list them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// `::ffff:0:0/96`, where IPv4 addresses lie (RFC 4291 section 2.5.5.2).
const V4_BASE: u128 = 0xffff_0000_0000;

/// An address, as the number that its 16 bytes form: IPv4 is v4-mapped, so all IPv4 addresses
/// form one block and order, storage and arithmetic are the same for both families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u128);

impl Address {
    /// The address of a number in the sense above.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The number in the sense above.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// The 16 bytes under which the address is stored.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The address of 16 stored bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// IP version.
    pub fn family(self) -> Family {
        if self.0 >> 32 == V4_BASE >> 32 {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// As the standard library has it.
    pub fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.0);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }

    /// Whether some old devices mishandle it: an IPv4 address that ends in .0 or .255 (MetalLB's
    /// `avoidBuggyIPs`).
    pub fn is_buggy(self) -> bool {
        self.family() == Family::V4 && matches!(self.0 & 0xff, 0 | 0xff)
    }

    /// The next address; `None` at the end of the number space.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The address before; `None` at the beginning of the number space.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(V4_BASE | u128::from(u32::from(v4))),
            IpAddr::V6(v6) => Self(u128::from(v6)),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from(IpAddr::V4(ip))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// Consecutive addresses of one family, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: Address,
    last: Address,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    #[error("{0:?} is neither a CIDR (192.0.2.0/28) nor a range (192.0.2.10-192.0.2.20)")]
    NotARange(String),
    #[error("invalid CIDR {0:?}")]
    InvalidCidr(String),
    #[error("invalid start IP {start:?} in range {range:?}")]
    InvalidStart { range: String, start: String },
    #[error("invalid end IP {end:?} in range {range:?}")]
    InvalidEnd { range: String, end: String },
    #[error("range {0:?} starts with one address family and ends with the other")]
    MixedFamilies(String),
    #[error("invalid range {0:?}: start is after end")]
    StartAfterEnd(String),
    #[error("invalid range {0:?}: the IPv4-mapped addresses (::ffff:0:0/96) lie within it")]
    AroundIpv4(String),
}

impl AddressRange {
    /// `None` if the ends are of two families or in the wrong order, or if an IPv6 range has the
    /// v4-mapped block within it.
    pub fn new(first: Address, last: Address) -> Option<Self> {
        let spans_ipv4 = first.bits() < V4_BASE && last.bits() > V4_BASE;
        (first.family() == last.family() && first <= last && !spans_ipv4)
            .then_some(Self { first, last })
    }

    /// Parses `a.b.c.d/n` (host bits are masked off) or `first-last` (spaces around `-` allowed),
    /// as MetalLB does.
    pub fn parse(text: &str) -> Result<Self, InvalidRange> {
        let shown = || text.chars().take(100).collect::<String>();
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (first.trim(), last.trim());
            let start = pharos_proto::net::parse_address(first).map_err(|_| {
                InvalidRange::InvalidStart {
                    range: shown(),
                    start: first.chars().take(64).collect(),
                }
            })?;
            let end =
                pharos_proto::net::parse_address(last).map_err(|_| InvalidRange::InvalidEnd {
                    range: shown(),
                    end: last.chars().take(64).collect(),
                })?;
            if start.is_ipv4() != end.is_ipv4() {
                return Err(InvalidRange::MixedFamilies(shown()));
            }
            return Self::new(start.into(), end.into()).ok_or_else(|| match start <= end {
                true => InvalidRange::AroundIpv4(shown()),
                false => InvalidRange::StartAfterEnd(shown()),
            });
        }
        if !text.contains('/') {
            return Err(InvalidRange::NotARange(shown()));
        }
        let invalid = || InvalidRange::InvalidCidr(shown());
        let net: ipnet::IpNet = text.trim().parse().map_err(|_| invalid())?;
        let (first, last) = (Address::from(net.network()), Address::from(net.broadcast()));
        // An IPv6 prefix must not lie in the v4-mapped block, nor around it.
        let is_v4 = matches!(net, ipnet::IpNet::V4(_));
        if is_v4 != (first.family() == Family::V4) {
            return Err(invalid());
        }
        Self::new(first, last).ok_or_else(|| InvalidRange::AroundIpv4(shown()))
    }

    /// Lowest address.
    pub fn first(self) -> Address {
        self.first
    }

    /// Highest address.
    pub fn last(self) -> Address {
        self.last
    }

    /// IP version.
    pub fn family(self) -> Family {
        self.first.family()
    }

    /// Whether the address lies in it.
    pub fn contains(self, address: Address) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether they have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Number of addresses.
    pub fn count(self) -> u128 {
        self.last.bits() - self.first.bits() + 1
    }

    /// As people write it: `192.0.2.0/28` where it is a CIDR, else `192.0.2.1-192.0.2.9`.
    pub fn written(self) -> String {
        let host = self.first.bits() ^ self.last.bits();
        let is_cidr = host & host.wrapping_add(1) == 0 && self.first.bits() & host == 0;
        if !is_cidr {
            return self.to_string();
        }
        let length = match self.family() {
            Family::V4 => host.leading_zeros() - 96,
            Family::V6 => host.leading_zeros(),
        };
        format!("{}/{length}", self.first)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> String {
        AddressRange::parse(text).expect(text).to_string()
    }

    #[test]
    fn ranges_are_read_as_metallb_reads_them() {
        assert_eq!(
            range("192.168.12.100-192.168.12.120"),
            "192.168.12.100-192.168.12.120"
        );
        assert_eq!(
            range("192.168.12.100 - 192.168.12.120"),
            "192.168.12.100-192.168.12.120"
        );
        assert_eq!(range("192.0.2.5/30"), "192.0.2.4-192.0.2.7");
        assert_eq!(range("192.0.2.5/32"), "192.0.2.5-192.0.2.5");
        assert_eq!(range("2001:db8::/126"), "2001:db8::-2001:db8::3");
        assert_eq!(range("0.0.0.0/0"), "0.0.0.0-255.255.255.255");
    }

    #[test]
    fn a_range_that_is_a_cidr_is_written_as_one() {
        let cases = [
            ("192.0.2.5/30", "192.0.2.4/30"),
            ("192.0.2.4-192.0.2.7", "192.0.2.4/30"),
            ("192.0.2.1-192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1-192.0.2.2", "192.0.2.1-192.0.2.2"),
            ("192.0.2.2-192.0.2.5", "192.0.2.2-192.0.2.5"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/64", "2001:db8::/64"),
            ("2001:db8::1-2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::1-2001:db8::3", "2001:db8::1-2001:db8::3"),
        ];
        for (text, expected) in cases {
            let range = AddressRange::parse(text).expect(text);
            assert_eq!(range.written(), expected);
            assert_eq!(AddressRange::parse(expected), Ok(range));
        }
    }

    #[test]
    fn bad_ranges_say_what_is_wrong() {
        let cases = [
            ("192.0.2.1", "neither a CIDR"),
            ("", "neither a CIDR"),
            ("192.0.2.0/33", "invalid CIDR"),
            ("192.0.2/24", "invalid CIDR"),
            ("192.0.2.9-192.0.2.1", "start is after end"),
            ("2001:db8::2-2001:db8::1", "start is after end"),
            ("::1-2001:db8::1", "IPv4-mapped"),
            ("x-192.0.2.1", "invalid start IP"),
            ("192.0.2.1-192.0.2.256", "invalid end IP"),
            ("192.0.2.1-2001:db8::1", "one address family"),
            ("::/0", "IPv4-mapped"),
            ("::/80", "IPv4-mapped"),
            ("::ffff:0:0/95", "IPv4-mapped"),
            ("::ffff:0:0/96", "invalid CIDR"),
            ("::ffff:192.0.2.0/120", "invalid CIDR"),
        ];
        for (text, expected) in cases {
            let message = AddressRange::parse(text).expect_err(text).to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn addresses_that_end_in_0_or_255_are_buggy_in_ipv4_only() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("valid"));
        assert!(address("10.0.0.0").is_buggy() && address("10.0.0.255").is_buggy());
        assert!(!address("10.0.0.1").is_buggy() && !address("2001:db8::").is_buggy());
    }
}
