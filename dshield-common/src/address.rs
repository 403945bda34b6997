//! Networks of IP addresses, those that are not on the public internet among them.
//!
//! Text flows in, a [`Network`] flows out. What is special about an address ([`special_purpose`]) and which addresses
//! stand for names ([`is_synthetic`]) is said here and nowhere else.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// 198.18.0.0/15, set aside for benchmarks of interconnecting devices (RFC 2544): nobody's address. Inside an instance
/// each stands for a name.
pub const SYNTHETIC_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// A /64 of unique local addresses (RFC 4193) with a global id of our own, for the same.
pub const SYNTHETIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd64, 0x7368, 0x6965, 0x6c64, 0, 0, 0, 0), 64);

/// An IP address or a block of them: a prefix, and how many of its bits count. The others are zero. Never an
/// IPv4-mapped IPv6 address, which is another spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// This address alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: bits(address) }
    }

    /// How many bits of an address are the network's: the more, the narrower it is.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// True when `address` is one of the network's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        shares_prefix(self.address, address.to_canonical(), self.length)
    }

    /// Why every address of the network is special; `None` when some are on the public internet.
    #[must_use]
    pub fn special_purpose(&self) -> Option<&'static str> {
        range_of(self.address).filter(|(_, length, _)| *length <= self.length).map(|(_, _, why)| why)
    }

    /// True when some address of the network is special.
    #[must_use]
    pub fn has_special_purpose(&self) -> bool {
        range_of(self.address).is_some() || special_ranges().any(|(network, _, _)| self.contains(network))
    }

    /// True when every address of the network stands for a name inside an instance, or might.
    #[must_use]
    pub fn is_synthetic(&self) -> bool {
        synthetic().iter().any(|own| own.length <= self.length && own.contains(self.address))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        if address != address.to_canonical() {
            return Err(NetworkError::Mapped);
        }
        let Some(length) = length else { return Ok(Self::host(address)) };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length = length.parse().ok().filter(|length| is_number && *length <= bits(address));
        match length.ok_or(NetworkError::Length)? {
            0 => Err(NetworkError::Everything),
            length if masked(address, length) != address => {
                Err(NetworkError::HostBits(masked(address, length), length))
            }
            length => Ok(Self { address, length }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == bits(self.address) {
            return self.address.fmt(f);
        }
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

/// Why a text is not a [`Network`]. The fault is the writer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Neither an IPv4 address in dotted form nor an IPv6 address without brackets and zone.
    #[error("it is no IP address in its usual form")]
    Address,
    /// `::ffff:1.2.3.4`.
    #[error("it is an IPv4 address in IPv6 form; write it as an IPv4 address")]
    Mapped,
    /// After the `/` stands no number of bits that such an address has.
    #[error("after `/` stands the number of leading bits that count: 1 to 32, for IPv6 1 to 128")]
    Length,
    /// `/0`.
    #[error("a network cannot be every address")]
    Everything,
    /// Bits that do not count are not zero.
    #[error("the bits behind the network's are not zero; did you mean \"{0}/{1}\"?")]
    HostBits(IpAddr, u8),
}

/// True when `address` stands for a name inside an instance, or might.
#[must_use]
pub fn is_synthetic(address: IpAddr) -> bool {
    synthetic().iter().any(|network| network.contains(address))
}

fn synthetic() -> [Network; 2] {
    let (v4, v6) = (SYNTHETIC_V4, SYNTHETIC_V6);
    [Network { address: v4.0.into(), length: v4.1 }, Network { address: v6.0.into(), length: v6.1 }]
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let kept = |bits: u8| u32::from(bits - length);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(kept(32)).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(kept(128)).unwrap_or(0)).into(),
    }
}

/// True when the first `length` bits are the same; never for addresses of two families.
fn shares_prefix(a: IpAddr, b: IpAddr, length: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros() >= length.into(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros() >= length.into(),
        _ => false,
    }
}

/// IANA's special-purpose registries (RFC 6890 and later), with the embedded-IPv4 ranges of IPv6, whose
/// traffic may end at any IPv4 address. The word says why, for the log.
const V4: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "this network"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "IETF protocol assignments"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 31, 196, 0], 24, "AS112"),
    ([192, 52, 193, 0], 24, "AMT"),
    ([192, 88, 99, 0], 24, "6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([192, 175, 48, 0], 24, "AS112"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

const V6: &[([u16; 8], u8, &str)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "unspecified, loopback or IPv4-compatible"),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "NAT64"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 63, "discard-only"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "IETF protocol assignments"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Why `address` is special, or `None` for an address of the public internet.
#[must_use]
pub fn special_purpose(address: IpAddr) -> Option<&'static str> {
    range_of(address).map(|(_, _, why)| why)
}

/// The special range that `address` is in.
fn range_of(address: IpAddr) -> Option<(IpAddr, u8, &'static str)> {
    special_ranges().find(|(network, length, _)| shares_prefix(*network, address, *length))
}

fn special_ranges() -> impl Iterator<Item = (IpAddr, u8, &'static str)> {
    let v4 = V4.iter().map(|(network, length, why)| (IpAddr::from(*network), *length, *why));
    v4.chain(V6.iter().map(|(network, length, why)| (IpAddr::from(*network), *length, *why)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_one_spelling() {
        for text in ["192.0.2.7", "10.1.0.0/16", "2001:db8::1", "2001:db8::/32", "128.0.0.0/1"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
        assert_eq!(network("2001:DB8:0::1/128"), network("2001:db8::1"));
        for (text, error) in [
            ("10.1.0.1/16", NetworkError::HostBits("10.1.0.0".parse().unwrap(), 16)),
            ("2001:db8::1/64", NetworkError::HostBits("2001:db8::".parse().unwrap(), 64)),
            ("0.0.0.0/0", NetworkError::Everything),
            ("::/0", NetworkError::Everything),
            ("10.0.0.0/33", NetworkError::Length),
            ("10.0.0.0/", NetworkError::Length),
            ("10.0.0.0/+8", NetworkError::Length),
            ("10.0.0.0/08", NetworkError::Length),
            ("10.0.0.0/8/8", NetworkError::Length),
            ("2001:db8::/129", NetworkError::Length),
            ("::ffff:10.0.0.1", NetworkError::Mapped),
            ("::ffff:0:0/96", NetworkError::Mapped),
            ("0177.0.0.1", NetworkError::Address),
            ("10.1/16", NetworkError::Address),
            ("[::1]", NetworkError::Address),
            ("fe80::1%eth0", NetworkError::Address),
            ("a.com", NetworkError::Address),
            ("", NetworkError::Address),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_network_is_special_when_all_of_it_is() {
        for text in ["10.0.0.0/8", "10.1.2.3", "169.254.169.254", "fd00::/8", "::1", "198.18.0.0/16"] {
            assert!(network(text).special_purpose().is_some(), "{text}");
        }
        for text in ["8.0.0.0/5", "0.0.0.0/1", "1.1.1.1", "fc00::/6", "2606::/16", "192.0.0.0/23"] {
            assert_eq!(network(text).special_purpose(), None, "{text}");
        }
        for (text, some) in [("8.0.0.0/5", true), ("192.0.0.0/23", true), ("10.1.0.0/16", true), ("9.0.0.0/8", false)] {
            assert_eq!(network(text).has_special_purpose(), some, "{text}");
        }
    }

    #[test]
    fn the_addresses_that_stand_for_names_are_known() {
        for text in ["198.18.0.1", "198.18.0.0/15", "fd64:7368:6965:6c64::9"] {
            assert!(network(text).is_synthetic(), "{text}");
        }
        for text in ["198.16.0.0/12", "198.20.0.0/16", "fd00::/8", "fd64:7368:6965:6c65::9"] {
            assert!(!network(text).is_synthetic(), "{text}");
        }
        assert!(is_synthetic("198.19.255.255".parse().unwrap()) && is_synthetic("::ffff:198.18.0.9".parse().unwrap()));
        assert!(!is_synthetic("198.20.0.0".parse().unwrap()) && !is_synthetic("::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_network_holds_what_shares_its_prefix_and_nothing_else(own: u32, other: u32, length in 1u8..=32) {
            let text = format!("{}/{length}", masked(Ipv4Addr::from(own).into(), length));
            let network = network(&text);
            let shift = 32 - u32::from(length);
            prop_assert_eq!(network.contains(Ipv4Addr::from(other).into()), own >> shift == other >> shift);
            prop_assert!(network.contains(Ipv4Addr::from(own).into()));
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }

        #[test]
        fn reading_a_network_never_panics(text in ".{0,40}|[0-9a-f:./]{0,20}") {
            let _ = text.parse::<Network>();
        }
    }

    #[test]
    fn special_purpose_addresses_are_recognised() {
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.255.255",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001:0:1::1",
            "fd00::1",
            "fe80::1",
            "ff02::fb",
            "fd00:ec2::254",
        ] {
            assert!(special_purpose(special.parse().unwrap()).is_some(), "{special}");
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(special_purpose(public.parse().unwrap()), None, "{public}");
        }
    }
}
