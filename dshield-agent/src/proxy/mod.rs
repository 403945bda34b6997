//! The one door to the network: every connection of every function ends here.
//!
//! In: the sockets of a sealed namespace. Out: at most the connections and requests that the policy
//! allows, each in the log before its first byte goes upstream.
//!
//! ```text
//! accept ─ name ([names]) ─┬─ decide (policy) ─ hello ([hello]) ─ log ─┬─ inspect, none: [http] ────┐
//! [explicit] ─ CONNECT ────┤          │                                └─ passthrough, tcp: [relay] ┤
//!          dns ────────────┘          └─ refused: [deny]                       dial ([upstream]) ◄──┘
//! ```
//!
//! What the agent sends by itself goes the same way: [own].
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dshield_common::log::entry::Process;
use dshield_common::policy::{FunctionPolicy, LogLevel, Policy, UpstreamResolver};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use self::ca::Leaves;
pub use self::ca::{CaError, InspectionCa};
use self::limits::Limits;
use self::names::Names;
pub use self::own::{OwnEgress, OwnError};
pub use self::resolver::Resolver;
use self::times::Times;
use self::upstream::Upstream;
use crate::instance::Instance;
use crate::kernel::Sockets;
use crate::log::Log;
use crate::refusals::Refusals;
use crate::secrets::Secrets;

mod allowed;
mod body;
mod ca;
mod connection;
mod counted;
mod deny;
mod dial;
mod dns;
mod explicit;
#[doc(hidden)]
pub mod fuzz;
mod hello;
mod http;
mod limits;
mod names;
mod own;
mod relay;
mod resolver;
mod tasks;
#[cfg(test)]
mod testing;
mod times;
mod trust;
mod upstream;

/// What the log says in place of a rule where none speaks for the destination.
const NO_RULE: &str = "default";

/// Asks the kernel side who opened a connection: namespace cookie and source.
pub type WhoAsked = Arc<dyn Fn(u64, SocketAddr) -> Option<Process> + Send + Sync>;

/// What all instances share.
pub struct Proxy {
    log: Log,
    ca: Arc<InspectionCa>,
    /// The one in use, with what the policy said of it: a deployment that says the same goes on with its answers.
    resolver: Mutex<Option<(UpstreamResolver, Arc<Resolver>)>>,
    who_asked: WhoAsked,
    connections: Arc<AtomicU64>,
    serving: Arc<watch::Sender<usize>>,
}

/// Counts the instances that have not written their last entry.
struct Unfinished(Arc<watch::Sender<usize>>);

impl Unfinished {
    fn one_of(all: &Arc<watch::Sender<usize>>) -> Self {
        all.send_modify(|count| *count += 1);
        Self(all.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What all instances of one function share: its policy, with what that counts and asks.
#[derive(Debug)]
pub struct FunctionEgress {
    policy: Arc<FunctionPolicy>,
    log_level: LogLevel,
    resolver: Arc<Resolver>,
    /// What its rules inject.
    secrets: Arc<Secrets>,
    limits: Limits,
    leaves: Leaves,
    /// Of each instance.
    connections: usize,
}

/// What the connections of one instance share.
struct Context {
    instance: Arc<Instance>,
    egress: Arc<FunctionEgress>,
    /// Its own: what one instance leaves unread holds up no other on a connection that both use.
    upstream: Upstream,
    refusals: Arc<Refusals>,
    names: Names,
    /// Whether the instance has IPv6.
    ipv6: bool,
    log: Log,
    log_level: LogLevel,
    ca: Arc<InspectionCa>,
    who_asked: WhoAsked,
    connections: Arc<AtomicU64>,
    /// Places for connections that the instance may still make.
    free: Arc<Semaphore>,
    /// And for requests: an HTTP/2 connection carries many, and each may need a connection upstream.
    turns: Arc<Semaphore>,
    times: Times,
    /// Each connection that has entries to write has this context.
    _unfinished: Unfinished,
}

/// Serving one instance; dropping it closes every socket and connection of the instance.
#[derive(Debug)]
pub struct Serving {
    tasks: Vec<AbortHandle>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Proxy {
    /// A proxy that logs to `log`, with this boot's inspection CA.
    #[must_use]
    pub fn new(log: Log, ca: Arc<InspectionCa>, who_asked: WhoAsked) -> Self {
        Self { log, ca, resolver: Mutex::default(), who_asked, connections: Arc::default(), serving: Arc::default() }
    }

    /// Resolves when all connections of instances that are served no more have their last entries in the log.
    pub async fn finished(&self) {
        // The sender is `self`.
        let _ = self.serving.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Prepares a function of `policy`, each of whose instances may have so many connections at a time.
    ///
    /// # Errors
    /// The policy's resolver cannot be used here.
    pub fn function(
        &self,
        function: Arc<FunctionPolicy>,
        policy: &Policy,
        secrets: Arc<Secrets>,
        connections: usize,
    ) -> std::io::Result<Arc<FunctionEgress>> {
        let resolver = self.resolver(&policy.resolver)?;
        let (limits, leaves, log_level) = (Limits::new(&function), Leaves::default(), policy.log_level);
        Ok(Arc::new(FunctionEgress { policy: function, log_level, resolver, secrets, limits, leaves, connections }))
    }

    fn resolver(&self, from: &UpstreamResolver) -> std::io::Result<Arc<Resolver>> {
        let mut in_use = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((said, resolver)) = in_use.as_ref()
            && said == from
        {
            return Ok(resolver.clone());
        }
        let resolver = Arc::new(Resolver::new(from)?);
        *in_use = Some((from.clone(), resolver.clone()));
        Ok(resolver)
    }

    /// The agent's own way out: to what `function` allows, decided and logged like everything else.
    ///
    /// # Errors
    /// The policy's resolver cannot be used here.
    pub fn own(&self, function: FunctionPolicy, policy: &Policy) -> std::io::Result<OwnEgress> {
        let function = Arc::new(function);
        let egress = self.function(function.clone(), policy, Arc::default(), OWN_CONNECTIONS)?;
        let instance = Arc::new(Instance::agent(function));
        let refusals = Refusals::new(instance.clone(), self.log.clone());
        Ok(OwnEgress::new(Arc::new(self.context(instance, egress, refusals, false, Times::default()))))
    }

    /// Serves the proxy and DNS sockets of one instance.
    ///
    /// # Errors
    /// A socket cannot be registered with the reactor.
    pub fn serve(
        &self,
        instance: Arc<Instance>,
        egress: Arc<FunctionEgress>,
        refusals: Arc<Refusals>,
        sockets: ServedSockets,
    ) -> Serving {
        let ServedSockets { proxy, explicit_proxy, dns_tcp, dns_udp, ipv6 } = sockets;
        let context = Arc::new(self.context(instance, egress, refusals, ipv6, Times::default()));
        let mut tasks = vec![
            tokio::spawn(accept(proxy, context.clone(), connection::handle)).abort_handle(),
            tokio::spawn(accept(explicit_proxy, context.clone(), explicit::handle)).abort_handle(),
            tokio::spawn(accept(dns_tcp, context.clone(), dns::serve_tcp)).abort_handle(),
        ];
        tasks.extend(dns_udp.into_iter().map(|s| tokio::spawn(dns::serve_udp(s, context.clone())).abort_handle()));
        Serving { tasks }
    }

    fn context(
        &self,
        instance: Arc<Instance>,
        egress: Arc<FunctionEgress>,
        refusals: Arc<Refusals>,
        ipv6: bool,
        times: Times,
    ) -> Context {
        let log_level = egress.log_level;
        let [free, turns] = [(); 2].map(|()| Arc::new(Semaphore::new(egress.connections)));
        let upstream = Upstream::new(egress.resolver.clone(), egress.connections);
        Context {
            instance,
            egress,
            upstream,
            refusals,
            names: Names::default(),
            ipv6,
            log: self.log.clone(),
            log_level,
            ca: self.ca.clone(),
            who_asked: self.who_asked.clone(),
            connections: self.connections.clone(),
            free,
            turns,
            times,
            _unfinished: Unfinished::one_of(&self.serving),
        }
    }
}

/// The sockets that the proxy serves, registered with the reactor.
#[derive(Debug)]
pub struct ServedSockets {
    proxy: TcpListener,
    explicit_proxy: TcpListener,
    dns_tcp: TcpListener,
    dns_udp: Vec<UdpSocket>,
    ipv6: bool,
}

impl ServedSockets {
    /// Takes the proxy's share of a namespace's sockets; the Runtime API's listener comes back.
    ///
    /// # Errors
    /// A socket cannot be registered with the reactor.
    pub fn from_namespace(sockets: Sockets) -> std::io::Result<(Self, TcpListener)> {
        let Sockets { proxy, dns_tcp, dns_udp4, dns_udp6, runtime_api, explicit_proxy } = sockets;
        let ipv6 = dns_udp6.is_some();
        let dns_udp = [Some(dns_udp4), dns_udp6].into_iter().flatten().map(UdpSocket::from_std);
        let own = Self {
            proxy: TcpListener::from_std(proxy)?,
            explicit_proxy: TcpListener::from_std(explicit_proxy)?,
            dns_tcp: TcpListener::from_std(dns_tcp)?,
            dns_udp: dns_udp.collect::<Result<_, _>>()?,
            ipv6,
        };
        Ok((own, TcpListener::from_std(runtime_api)?))
    }
}

impl Context {
    /// A number that no other connection of this boot has.
    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}

/// Connections of the agent itself at a time.
const OWN_CONNECTIONS: usize = 8;

/// The most connections of one instance at a time. Further ones wait in the kernel: the agent's descriptors and memory
/// are shared by all functions.
const MAX_CONNECTIONS: u64 = 512;
/// The fewest, which the agent's descriptors may not suffice for.
const MIN_CONNECTIONS: u64 = 16;
/// Descriptors for the API, the log and the rest of the agent, …
const OWN_DESCRIPTORS: u64 = 1536;
/// … and for an instance without connections.
const INSTANCE_DESCRIPTORS: u64 = 48;
/// A connection has one on either side; those upstream that are idle count among them.
const CONNECTION_DESCRIPTORS: u64 = 2;

/// How many connections each instance may have at a time, so that those of all `instances` leave the agent descriptors
/// to work with, when it may have so many.
///
/// # Errors
/// It is the least, and may be too much.
pub fn fair_share(descriptors: u64, instances: u64) -> Result<usize, usize> {
    let each = (descriptors.saturating_sub(OWN_DESCRIPTORS) / instances.max(1)).saturating_sub(INSTANCE_DESCRIPTORS);
    let share = (each / CONNECTION_DESCRIPTORS).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS) as usize;
    if each / CONNECTION_DESCRIPTORS < MIN_CONNECTIONS { Err(share) } else { Ok(share) }
}

/// How many instances may run at once under such a limit of descriptors, each with the fewest connections.
#[must_use]
pub fn most_instances(descriptors: u64) -> u64 {
    descriptors.saturating_sub(OWN_DESCRIPTORS) / (INSTANCE_DESCRIPTORS + CONNECTION_DESCRIPTORS * MIN_CONNECTIONS)
}

async fn accept<F>(
    listener: TcpListener,
    context: Arc<Context>,
    handle: fn(tokio::net::TcpStream, SocketAddr, Arc<Context>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    // Connections end with this task: a JoinSet aborts what it holds when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = context.free.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let handled = handle(stream, peer, context.clone());
                    connections.spawn(async move {
                        handled.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or memory: what is open may end first.
                    tracing::warn!(instance = context.instance.id(), "accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instances_together_leave_the_agent_descriptors_to_work_with() {
        for (descriptors, instances) in [(4096, 12), (20_000, 68), (524_288, 1000), (1_048_576, 4)] {
            let share = fair_share(descriptors, instances).unwrap() as u64;
            assert!((MIN_CONNECTIONS..=MAX_CONNECTIONS).contains(&share));
            assert!(
                instances * (CONNECTION_DESCRIPTORS * share + INSTANCE_DESCRIPTORS) + OWN_DESCRIPTORS <= descriptors
            );
        }
        for descriptors in [2048, 4096, 20_000] {
            let most = most_instances(descriptors);
            assert!(fair_share(descriptors, most).is_ok() && fair_share(descriptors, most + 1).is_err());
        }
        assert_eq!(most_instances(1024), 0);
        assert_eq!(fair_share(1024, 4), Err(16));
        assert_eq!(fair_share(u64::MAX, 0), Ok(512));
    }
}
