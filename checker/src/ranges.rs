//! Ranges of addresses as messages write them.

use std::net::IpAddr;

/// First and last address of `192.0.2.7`, `192.0.2.0/28` or `192.0.2.1-192.0.2.9`.
pub(crate) fn range_of(text: &str) -> (IpAddr, IpAddr) {
    if let Some((first, last)) = text.split_once('-') {
        return (parse(first), parse(last));
    }
    let Some((first, length)) = text.split_once('/') else {
        return (parse(text), parse(text));
    };
    let length: u32 = length.parse().expect("a length in the log");
    let first = parse(first);
    let host = |width: u32| u128::MAX.checked_shr(128 - (width - length)).unwrap_or(0);
    let last = match first {
        IpAddr::V4(v4) => {
            let host = u32::try_from(host(32)).expect("32 bits");
            IpAddr::V4((v4.to_bits() | host).into())
        }
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | host(128)).into()),
    };
    (first, last)
}

pub(crate) fn parse(text: &str) -> IpAddr {
    text.trim().parse().expect("an address in the log")
}

pub(crate) fn size((first, last): (IpAddr, IpAddr)) -> u128 {
    bits(last) - bits(first) + 1
}

pub(crate) fn within(address: IpAddr, (first, last): (IpAddr, IpAddr)) -> bool {
    address.is_ipv4() == first.is_ipv4() && (first..=last).contains(&address)
}

/// What two ranges have in common.
pub(crate) fn common(one: (IpAddr, IpAddr), other: (IpAddr, IpAddr)) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = (one.0.max(other.0), one.1.min(other.1));
    (one.0.is_ipv4() == other.0.is_ipv4() && first <= last).then_some((first, last))
}

/// Whether an address lies in one of these ranges.
pub(crate) fn any_has(ranges: &[String], address: IpAddr) -> bool {
    ranges.iter().any(|text| within(address, range_of(text)))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
