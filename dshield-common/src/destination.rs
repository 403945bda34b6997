//! Where a connection or a request goes: a name, or an address where there is no name.
//!
//! Bytes of a `Host` field, an `:authority`, a CONNECT or a request target flow in; out flows the one canonical
//! [`Destination`], with the port where one was written. Nothing else in D-Shield reads an authority.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::name::{HostName, NameError};

/// A host on the network, in the one spelling it has here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A name.
    Name(HostName),
    /// An address literal; never an IPv4-mapped IPv6 address.
    Address(IpAddr),
}

impl Destination {
    /// Reads `host`, `host:port`, `1.2.3.4`, `[2001:db8::1]:port` (RFC 3986, section 3.2, without user information).
    ///
    /// # Errors
    /// Whatever two readers might take for two different hosts; see [`AuthorityError`].
    pub fn parse_authority(bytes: &[u8]) -> Result<(Self, Option<u16>), AuthorityError> {
        let text = std::str::from_utf8(bytes).map_err(|_| NameError::NonAscii)?;
        // Before anything is split: which part an `@` or an escape belongs to depends on the reader.
        if text.contains('@') {
            return Err(AuthorityError::UserInfo);
        }
        if text.contains('%') {
            return Err(AuthorityError::Percent);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(AuthorityError::Brackets)?;
            let address: Ipv6Addr = address.parse().map_err(|_| AuthorityError::Brackets)?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if rest.is_empty() => None,
                None => return Err(AuthorityError::Brackets),
            };
            return Ok((IpAddr::V6(address).into(), port));
        }
        let (host, port) = match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err(AuthorityError::Brackets),
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        match host.parse::<Ipv4Addr>() {
            Ok(address) => Ok((Self::Address(address.into()), port)),
            Err(_) => Ok((Self::Name(HostName::parse(host)?), port)),
        }
    }

    /// As a URL or a `Host` field writes it: IPv6 addresses in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Address(IpAddr::V6(address)) => format!("[{address}]"),
            other => other.to_string(),
        }
    }

    /// The name; `None` for an address.
    #[must_use]
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl From<HostName> for Destination {
    fn from(name: HostName) -> Self {
        Self::Name(name)
    }
}

impl From<IpAddr> for Destination {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

/// The name or the bare address, as the log and the policy write it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why bytes are no authority. The fault is the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// `user@host`: what stands before the `@` is another host for some readers.
    #[error("a host with user information (`@`)")]
    UserInfo,
    /// `a%2ecom`, `[fe80::1%25eth0]`: some readers decode it.
    #[error("a host with `%`: neither escapes nor IPv6 zones are read")]
    Percent,
    /// Brackets around something other than an IPv6 address, or none around one.
    #[error("an IPv6 address stands in brackets, and nothing else does")]
    Brackets,
    /// Empty, 0, above 65535, or not digits alone.
    #[error("a port is a number from 1 to 65535, without leading zeros")]
    Port,
    /// Not a host name; an address in a spelling of its own among them.
    #[error(transparent)]
    Name(#[from] NameError),
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain).ok_or(AuthorityError::Port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(String, Option<u16>), AuthorityError> {
        Destination::parse_authority(text.as_bytes()).map(|(to, port)| (to.to_string(), port))
    }

    #[test]
    fn names_and_addresses_are_read_with_and_without_a_port() {
        for (text, host, port) in [
            ("API.Example.com.", "api.example.com", None),
            ("a.com:8443", "a.com", Some(8443)),
            ("192.0.2.7", "192.0.2.7", None),
            ("192.0.2.7:80", "192.0.2.7", Some(80)),
            ("[2001:DB8:0:0::1]", "2001:db8::1", None),
            ("[2001:db8::1]:65535", "2001:db8::1", Some(65535)),
            ("[::ffff:192.0.2.7]:1", "192.0.2.7", Some(1)),
        ] {
            assert_eq!(read(text), Ok((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn what_two_readers_might_take_for_two_hosts_is_refused() {
        use AuthorityError::{Brackets, Name, Percent, Port, UserInfo};
        for (text, error) in [
            ("user@a.com", UserInfo),
            ("a.com:80@b.com", UserInfo),
            ("@a.com", UserInfo),
            ("a%2ecom", Percent),
            ("[fe80::1%eth0]", Percent),
            ("[fe80::1%25eth0]:443", Percent),
            ("a.com:", Port),
            ("[::1]:", Port),
            ("a.com:0", Port),
            ("a.com:65536", Port),
            ("a.com:+80", Port),
            ("a.com:0443", Port),
            ("a.com: 443", Port),
            ("a.com:443 ", Port),
            ("a.com:44\u{663}", Port),
            ("::1", Brackets),
            ("2001:db8::1:443", Brackets),
            ("a.com:80:80", Brackets),
            ("[a.com]", Brackets),
            ("[192.0.2.7]", Brackets),
            ("[::1", Brackets),
            ("[::1]x", Brackets),
            ("[[::1]]", Brackets),
            ("[]", Brackets),
            ("", Name(NameError::Empty)),
            (":443", Name(NameError::Empty)),
            ("::1]", Brackets),
            ("a]", Name(NameError::Character(']'))),
            ("2130706433", Name(NameError::Address)),
            ("0x7f.1", Name(NameError::Address)),
            ("0x7f000001:443", Name(NameError::Address)),
            ("0177.1", Name(NameError::Address)),
            ("0177.0.0.1", Name(NameError::Address)),
            ("127.1", Name(NameError::Address)),
            ("127.0.0.1.", Name(NameError::Address)),
            ("a.com\0", Name(NameError::Character('\0'))),
            ("a.com,b.com", Name(NameError::Character(','))),
            ("a.com\\@b.com", UserInfo),
            ("a.com/", Name(NameError::Character('/'))),
            ("a.com#b", Name(NameError::Character('#'))),
            (" a.com", Name(NameError::Character(' '))),
            ("bücher.example", Name(NameError::NonAscii)),
        ] {
            assert_eq!(read(text), Err(error), "{text:?}");
        }
        assert_eq!(Destination::parse_authority(b"a\xff.com"), Err(Name(NameError::NonAscii)));
    }

    #[test]
    fn an_ipv6_address_is_in_brackets_only_in_an_authority() {
        let to = Destination::from("2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!((to.to_string(), to.authority()), ("2001:db8::1".to_owned(), "[2001:db8::1]".to_owned()));
        assert_eq!(serde_json::to_string(&to).unwrap(), "\"2001:db8::1\"");
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(Destination::from(mapped).authority(), "192.0.2.7");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_have_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            check(&bytes)?;
        }

        #[test]
        fn near_misses_are_refused_or_have_one_spelling(text in "[a-fx0-9.:\\[\\]@%-]{0,24}") {
            check(text.as_bytes())?;
        }

        #[test]
        fn every_address_and_port_is_read_back(v4: u32, v6: u128, port in 1u16..) {
            for address in [IpAddr::from(Ipv4Addr::from(v4)), Ipv6Addr::from(v6).into()] {
                let to = Destination::from(address);
                let text = format!("{}:{port}", to.authority());
                prop_assert_eq!(Destination::parse_authority(text.as_bytes()), Ok((to, Some(port))));
            }
        }
    }

    /// What is read has a canonical form that is read as the same, and holds nothing that another reader splits at.
    fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Ok((to, port)) = Destination::parse_authority(bytes) {
            prop_assert!(port != Some(0));
            prop_assert_eq!(Destination::parse_authority(to.authority().as_bytes()), Ok((to.clone(), None)));
            prop_assert!(!to.authority().contains(['@', '%', '/', '\\', '#', '?', '\0', ' ']));
            if let Destination::Address(address) = to {
                prop_assert_eq!(address, address.to_canonical());
            }
        }
        Ok(())
    }
}
