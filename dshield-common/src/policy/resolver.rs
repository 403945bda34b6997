//! Who says which addresses a name has: `"system"`, or a name server that is spoken to over TLS.
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::diagnostic::did_you_mean;
use crate::destination::Destination;
use crate::name::HostName;

const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;
const DEFAULT_PATH: &str = "/dns-query";

/// Who is asked for the addresses of allowed names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum UpstreamResolver {
    /// Whomever the machine asks: `/etc/hosts` and the name servers of `/etc/resolv.conf`.
    #[default]
    System,
    /// DNS over TLS (RFC 7858).
    Tls(NamedServer),
    /// DNS over HTTPS (RFC 8484), with the path of its queries.
    Https(NamedServer, String),
}

/// A name server: where it is, and the name that its certificate must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedServer {
    /// Its address and port; port 0 is not one.
    pub address: SocketAddr,
    /// The name.
    pub name: HostName,
}

impl FromStr for UpstreamResolver {
    type Err = UpstreamResolverError;

    fn from_str(text: &str) -> Result<Self, UpstreamResolverError> {
        if text == "system" {
            return Ok(Self::System);
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UpstreamResolverError::scheme(text))?;
        let (server, name) = rest.split_once('#').ok_or(UpstreamResolverError::Name)?;
        let name = HostName::parse(name).map_err(|_| UpstreamResolverError::Name)?;
        match scheme {
            "tls" => Ok(Self::Tls(NamedServer { address: address(server, TLS_PORT)?, name })),
            "https" => {
                let (server, path) = server.split_at(server.find('/').unwrap_or(server.len()));
                let path = if path.is_empty() { DEFAULT_PATH } else { path };
                // What a URI's path may hold unencoded and without a query (RFC 3986, section 3.3).
                let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
                if !path.bytes().all(in_path) {
                    return Err(UpstreamResolverError::Path);
                }
                Ok(Self::Https(NamedServer { address: address(server, HTTPS_PORT)?, name }, path.to_owned()))
            }
            other => Err(UpstreamResolverError::scheme(other)),
        }
    }
}

fn address(text: &str, default_port: u16) -> Result<SocketAddr, UpstreamResolverError> {
    // A lone IPv6 address needs no brackets here.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address.to_canonical(), default_port));
    }
    match Destination::parse_authority(text.as_bytes()) {
        Ok((Destination::Address(address), port)) => Ok(SocketAddr::new(address, port.unwrap_or(default_port))),
        _ => Err(UpstreamResolverError::Address),
    }
}

/// As it may be written, with every default.
impl fmt::Display for UpstreamResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Tls(server) => write!(f, "tls://{}#{}", server.address, server.name),
            Self::Https(server, path) => write!(f, "https://{}{path}#{}", server.address, server.name),
        }
    }
}

/// Why a text is not an [`UpstreamResolver`]. The fault is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamResolverError {
    /// Neither `system` nor a known scheme.
    #[error("{0}")]
    Scheme(String),
    /// Not an IP address.
    #[error("name the server by its IP address, perhaps with a port: who would look its name up?")]
    Address,
    /// No name after `#`.
    #[error(
        "write the name that the server's certificate must prove behind it, such as \"tls://1.1.1.1#cloudflare-dns.com\""
    )]
    Name,
    /// A query, or a character that no path has.
    #[error("its path is not one; most servers have \"/dns-query\"")]
    Path,
}

impl UpstreamResolverError {
    fn scheme(text: &str) -> Self {
        let words = "it can be \"system\", \"tls://ADDRESS#NAME\" or \"https://ADDRESS/dns-query#NAME\"";
        Self::Scheme(did_you_mean(text, ["system", "tls", "https"]).unwrap_or_else(|| words.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_written_back_with_every_default() {
        for (text, full) in [
            ("system", "system"),
            ("tls://1.1.1.1#Cloudflare-DNS.com", "tls://1.1.1.1:853#cloudflare-dns.com"),
            ("tls://[2606:4700::1111]:8853#a.example", "tls://[2606:4700::1111]:8853#a.example"),
            ("tls://2606:4700::1111#a.example", "tls://[2606:4700::1111]:853#a.example"),
            ("https://1.1.1.1/dns-query#a.example", "https://1.1.1.1:443/dns-query#a.example"),
            ("https://1.1.1.1:8443#a.example", "https://1.1.1.1:8443/dns-query#a.example"),
            ("https://10.0.0.53/q/x-1#a.example", "https://10.0.0.53:443/q/x-1#a.example"),
        ] {
            let read: UpstreamResolver = text.parse().unwrap();
            assert_eq!(read.to_string(), full);
            assert_eq!(full.parse::<UpstreamResolver>().unwrap(), read);
        }
    }

    #[test]
    fn a_resolver_without_address_or_name_is_refused() {
        use UpstreamResolverError::{Address, Name, Path};
        for (text, error) in [
            ("tls://dns.example#dns.example", Address),
            ("tls://1.1.1.1:0#a.example", Address),
            ("tls://1.1.1.1/x#a.example", Address),
            ("tls://2130706433#a.example", Address),
            ("https:///dns-query#a.example", Address),
            ("tls://1.1.1.1", Name),
            ("tls://1.1.1.1#", Name),
            ("tls://1.1.1.1#1.1.1.1", Name),
            ("https://1.1.1.1/q?x=1#a.example", Path),
        ] {
            assert_eq!(text.parse::<UpstreamResolver>(), Err(error), "{text}");
        }
        let error = |text: &str| text.parse::<UpstreamResolver>().unwrap_err().to_string();
        assert_eq!(error("sytem"), "did you mean `system`?");
        assert!(error("1.1.1.1").contains("tls://ADDRESS#NAME") && error("udp://1.1.1.1#a").contains("it can be"));
    }
}
