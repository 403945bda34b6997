//! Names to addresses by the machine's resolver, cached. Asked only for names that a rule allows.
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dshield_common::name::HostName;

/// How long an answer is used: the machine's resolver does not tell the record's time to live.
const LIFETIME: Duration = Duration::from_secs(30);
/// How long a lookup may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CACHED: usize = 4096;

/// The cache.
#[derive(Debug, Default)]
pub struct Resolver {
    cache: Mutex<HashMap<HostName, (Instant, Vec<IpAddr>)>>,
}

impl Resolver {
    /// The addresses of `name`, at least one.
    ///
    /// # Errors
    /// What the machine's resolver says, or that it took too long.
    pub(super) async fn addresses(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        // The final dot keeps the machine's search list out: the name that was decided on is looked up.
        let absolute = format!("{name}.");
        let lookup = tokio::net::lookup_host((absolute.as_str(), 0));
        let found = tokio::time::timeout(TIMEOUT, lookup).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(name.clone(), (Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn cached(&self, name: &HostName) -> Option<Vec<IpAddr>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, addresses) = cache.get(name)?;
        (since.elapsed() < LIFETIME).then(|| addresses.clone())
    }
}
