//! Names to addresses: by the machine's own configuration, or by a name server that the policy names. Asked only for
//! names that a rule allows.
//!
//! Answers are kept as long as their time to live says, within bounds, and so are answers that there is nothing. The name asked is
//! absolute: the machine's search list has no part in it.
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dshield_common::name::HostName;
use dshield_common::policy::{NamedServer, UpstreamResolver};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use rustls::{ClientConfig, RootCertStore};

use self::system::System;
use super::trust;

mod system;

/// How long a lookup may take, all servers and attempts together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the addresses of one family wait for those of the other (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Answers kept. A function may make names up below a wildcard, and whoever answers for them makes the answers large.
const MAX_CACHED: u64 = 1024;
/// Bounds on what an answer says of its own lifetime. The least is for answers that say 0: with them whoever answers
/// for a name could give each connection another address (DNS rebinding), and would be asked, and so told, by each
/// connection of a function. Every address is judged all the same, each time that it is dialled.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);
const SHORTEST_NEGATIVE: Duration = Duration::from_secs(5);
const LONGEST_NEGATIVE: Duration = Duration::from_secs(60);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name server says so.
    #[error("there is no such name")]
    NoSuchName,
    /// The name is there, for other things.
    #[error("the name has no address")]
    NoAddress,
    /// Nobody answered in time.
    #[error("no name server answered in {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The machine's configuration names nobody to ask.
    #[error("{0}")]
    Configuration(String),
    /// The name server cannot be reached or does not prove its name, or what it says is of no use.
    #[error("{0}")]
    Server(String),
}

/// Who is asked, with what was answered.
pub struct Resolver {
    source: Source,
    /// [`RESOLUTION_DELAY`]; tests have no hurry.
    delay: Duration,
}

enum Source {
    System(Box<System>),
    Server(Arc<TokioResolver>),
}

impl Resolver {
    /// As the policy says.
    ///
    /// # Errors
    /// The machine has no random numbers, or a defect here.
    pub fn new(from: &UpstreamResolver) -> io::Result<Self> {
        Self::with_roots(from, trust::usual_anchors())
    }

    /// [`Resolver::new`], with these anchors for the name server's certificate.
    fn with_roots(from: &UpstreamResolver, roots: RootCertStore) -> io::Result<Self> {
        let (server, protocol) = match from {
            UpstreamResolver::System => return Ok(Self::of(Source::System(Box::default()))),
            UpstreamResolver::Tls(server) => (server, ProtocolConfig::Tls { server_name: name(server) }),
            UpstreamResolver::Https(server, path) => {
                (server, ProtocolConfig::Https { server_name: name(server), path: path.as_str().into() })
            }
        };
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.address.port();
        let server = NameServerConfig::new(server.address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let resolver = build(config, ResolverOpts::default(), Some(tls(roots)?)).map_err(io::Error::other)?;
        Ok(Self::of(Source::Server(Arc::new(resolver))))
    }

    fn of(source: Source) -> Self {
        Self { source, delay: RESOLUTION_DELAY }
    }

    /// The addresses of `name`, at least one, each once.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub(super) async fn addresses(&self, name: &HostName) -> Result<Vec<IpAddr>, ResolveError> {
        let absolute = absolute(name)?;
        let resolver = match &self.source {
            Source::Server(resolver) => resolver.clone(),
            Source::System(system) => match system.look(&absolute) {
                system::Found::InHosts(addresses) => return Ok(addresses),
                system::Found::Ask(resolver) => resolver?,
            },
        };
        let lookup = both_families(&resolver, &absolute, self.delay);
        tokio::time::timeout(TIMEOUT, lookup).await.unwrap_or(Err(ResolveError::Timeout))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

fn name(server: &NamedServer) -> Arc<str> {
    server.name.as_str().into()
}

/// The name with its final dot: no search list, and no reading of it as anything else.
fn absolute(name: &HostName) -> Result<Name, ResolveError> {
    let labels = name.as_str().split('.').map(str::as_bytes);
    Name::from_labels(labels).map_err(|error| ResolveError::Server(error.to_string()))
}

fn tls(roots: RootCertStore) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

fn build(config: ResolverConfig, options: ResolverOpts, tls: Option<ClientConfig>) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = bounded(options);
    match tls {
        Some(tls) => builder.with_tls_config(tls).build(),
        None => builder.build(),
    }
}

fn bounded(mut options: ResolverOpts) -> ResolverOpts {
    // `System` reads it itself, before anybody is asked.
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = MAX_CACHED;
    options.positive_min_ttl = Some(SHORTEST);
    options.positive_max_ttl = Some(LONGEST);
    options.negative_min_ttl = Some(SHORTEST_NEGATIVE);
    options.negative_max_ttl = Some(LONGEST_NEGATIVE);
    options
}

/// Asks for both families at once. Where one has answered with addresses, the other gets a moment more, so that a name
/// server that ignores questions for IPv6 does not hold everything up.
async fn both_families(resolver: &TokioResolver, name: &Name, delay: Duration) -> Result<Vec<IpAddr>, ResolveError> {
    let ask = |kind| one_family(resolver, name, kind);
    let (asked_v6, asked_v4) = (ask(RecordType::AAAA), ask(RecordType::A));
    tokio::pin!(asked_v6, asked_v4);
    let (mut v6, mut v4): (Option<Family>, Option<Family>) = (None, None);
    while v6.is_none() || v4.is_none() {
        let found = [&v6, &v4].iter().any(|answer| matches!(answer, Some(Ok(addresses)) if !addresses.is_empty()));
        tokio::select! {
            answer = &mut asked_v6, if v6.is_none() => v6 = Some(answer),
            answer = &mut asked_v4, if v4.is_none() => v4 = Some(answer),
            () = tokio::time::sleep(delay), if found => break,
        }
    }
    merged([v6, v4])
}

/// All addresses, or the reason why there is none.
fn merged(answers: [Option<Family>; 2]) -> Result<Vec<IpAddr>, ResolveError> {
    let mut addresses = Vec::new();
    let mut reason: Option<ResolveError> = None;
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(found) => addresses.extend(found),
            // That the name is not there is less than that somebody could not say.
            Err(error) if matches!(reason, None | Some(ResolveError::NoSuchName)) => reason = Some(error),
            Err(_) => {}
        }
    }
    if addresses.is_empty() { Err(reason.unwrap_or(ResolveError::NoAddress)) } else { Ok(addresses) }
}

type Family = Result<Vec<IpAddr>, ResolveError>;

async fn one_family(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Family {
    match resolver.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in lookup.answers().iter().filter_map(|record| record.data.ip_addr()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        }
        Err(error) if error.is_nx_domain() => Err(ResolveError::NoSuchName),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NoError => {
            Ok(Vec::new())
        }
        Err(NetError::Timeout) => Err(ResolveError::Timeout),
        Err(error) => Err(ResolveError::Server(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
