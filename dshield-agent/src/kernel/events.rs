//! The refusals that the kernel programs report, as a stream.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use dshield_common::abi::{AF_INET, AF_INET6, Asker, Hook, Reason, Refusal};
use dshield_common::address::is_synthetic;
use dshield_common::log::entry::Process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// One refusal, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRefusal {
    /// Cookie of the network namespace; 0 where the hook cannot know it.
    pub netns: u64,
    /// Id of the cgroup.
    pub cgroup: u64,
    /// Why.
    pub reason: Reason,
    /// The program that refused.
    pub program: &'static str,
    /// What was tried, in words.
    pub detail: String,
    /// Who tried; `None` where the hook runs outside the caller's context.
    pub process: Option<Process>,
    /// True when a library only wanted to know in which order to try a name's addresses: see [`orders_addresses`].
    pub orders_addresses: bool,
}

/// The ring buffer's reading end.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
    lost_reported: u64,
}

/// What [`Events::next`] delivers.
#[derive(Debug)]
pub enum KernelEvent {
    /// A refusal.
    Refused(KernelRefusal),
    /// So many refusals did not fit into the buffer since the last time.
    Lost(u64),
}

impl Events {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The descriptor cannot be registered with the reactor.
    pub(super) fn new(ring: RingBuf<MapData>, lost: PerCpuArray<MapData, u64>) -> Result<Self, KernelError> {
        // SAFETY: the ring buffer owns its descriptor, which stays the same until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| KernelError::file("DS_EVENTS")(error.into()))?;
        Ok(Self { ring, lost, lost_reported: 0 })
    }

    /// Forgets what was refused so far: the agent's own attempts, before there is anybody else.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn forget(&mut self) -> io::Result<()> {
        while self.ring.get_mut().next().is_some() {}
        self.lost_reported = self.lost.get(&0, 0).map_err(io::Error::other)?.iter().sum();
        Ok(())
    }

    /// Waits for what is new, and delivers all of it.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn next(&mut self) -> io::Result<Vec<KernelEvent>> {
        let mut events = Vec::new();
        while events.is_empty() {
            let mut guard = self.ring.readable_mut().await?;
            let ring = guard.get_inner_mut();
            while let Some(item) = ring.next() {
                match parse(&item) {
                    Some(refusal) => events.push(KernelEvent::Refused(refusal)),
                    // Never silently: an event that this build cannot read still counts.
                    None => events.push(KernelEvent::Lost(1)),
                }
                if events.len() >= 1024 {
                    break;
                }
            }
            if events.len() < 1024 {
                guard.clear_ready();
            }
        }
        if let Ok(values) = self.lost.get(&0, 0) {
            let lost: u64 = values.iter().sum();
            if lost > self.lost_reported {
                events.push(KernelEvent::Lost(lost - self.lost_reported));
                self.lost_reported = lost;
            }
        }
        Ok(events)
    }
}

fn parse(bytes: &[u8]) -> Option<KernelRefusal> {
    let refusal = Refusal::from_bytes(bytes)?;
    Some(KernelRefusal {
        netns: refusal.netns,
        cgroup: refusal.cgroup,
        reason: Reason::from_u8(refusal.reason)?,
        program: Hook::program(refusal.hook)?,
        detail: detail(&refusal),
        process: (refusal.asker.pid != 0).then(|| process(&refusal.asker)),
        orders_addresses: orders_addresses(&refusal),
    })
}

/// A name with several addresses has them ordered (RFC 6724) before a program sees them: for each, the C library
/// "connects" a UDP socket, which sends nothing, and asks which source address it has. That is refused as all UDP is,
/// and the order is then that of the answers; but it is no attempt to send anything, and every name that is looked up
/// would have it in the log twice. What is sent without connecting is told.
fn orders_addresses(refusal: &Refusal) -> bool {
    let connects = [Hook::Connect4 as u8, Hook::Connect6 as u8].contains(&refusal.hook);
    connects && Reason::from_u8(refusal.reason) == Some(Reason::UdpPort) && is_synthetic(address(refusal))
}

/// Who asked, for the log: a thread's name is the function's to choose, so only printable ASCII passes.
#[must_use]
pub fn process(asker: &Asker) -> Process {
    let comm = asker.comm.iter().take_while(|byte| **byte != 0);
    let comm = comm.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' });
    Process { pid: asker.pid, comm: comm.collect() }
}

fn detail(refusal: &Refusal) -> String {
    let family = match u8::try_from(refusal.family) {
        Ok(AF_INET) => "IPv4".to_owned(),
        Ok(AF_INET6) => "IPv6".to_owned(),
        _ => format!("family {}", refusal.family),
    };
    match Reason::from_u8(refusal.reason) {
        Some(Reason::SocketType) => {
            format!("socket {family} type {} protocol {}", refusal.kind, refusal.protocol)
        }
        Some(Reason::SocketFamily) => format!("socket family {} type {}", refusal.family, refusal.kind),
        Some(Reason::Bpf) => format!("bpf command {}", refusal.kind),
        Some(Reason::Ptrace) => "attach to another process".to_owned(),
        Some(Reason::LeavesLo) => format!("{family} packet to an interface other than lo"),
        _ => {
            let transport = if refusal.kind == 1 { "tcp" } else { "udp" };
            format!("{transport} {}", std::net::SocketAddr::new(address(refusal), refusal.port))
        }
    }
}

fn address(refusal: &Refusal) -> IpAddr {
    // Told apart by the hook: an IPv6 socket that sends to an IPv4 address runs sendmsg4.
    let v4 = refusal.hook == Hook::Connect4 as u8 || refusal.hook == Hook::Sendmsg4 as u8;
    if v4 {
        let [a, b, c, d, ..] = refusal.addr;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(refusal.addr).to_canonical()
    }
}
