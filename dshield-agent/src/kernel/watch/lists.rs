//! The programs that run at one place, ours and foreign ones, by attach type and in their order.
//!
//! What was there at the start is what must be there: programs that the machine's own manager attached above
//! the agent's cgroup belong to it.
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::pins;
use crate::kernel::bpf;
use crate::kernel::broken::Broken;

/// `BPF_F_QUERY_EFFECTIVE`: with what ancestors have attached.
const EFFECTIVE: u32 = 1;

/// An attach type: its number in `enum bpf_attach_type` and bpftool's word for it.
type Hook = (u32, &'static str);

/// Everything at a cgroup that sees sockets or packets.
const CGROUP: [Hook; 27] = [
    (0, "cgroup_inet_ingress"),
    (1, "cgroup_inet_egress"),
    (2, "cgroup_inet_sock_create"),
    (3, "cgroup_sock_ops"),
    (8, "cgroup_inet4_bind"),
    (9, "cgroup_inet6_bind"),
    (10, "cgroup_inet4_connect"),
    (11, "cgroup_inet6_connect"),
    (12, "cgroup_inet4_post_bind"),
    (13, "cgroup_inet6_post_bind"),
    (14, "cgroup_udp4_sendmsg"),
    (15, "cgroup_udp6_sendmsg"),
    (19, "cgroup_udp4_recvmsg"),
    (20, "cgroup_udp6_recvmsg"),
    (21, "cgroup_getsockopt"),
    (22, "cgroup_setsockopt"),
    (29, "cgroup_inet4_getpeername"),
    (30, "cgroup_inet6_getpeername"),
    (31, "cgroup_inet4_getsockname"),
    (32, "cgroup_inet6_getsockname"),
    (34, "cgroup_inet_sock_release"),
    (43, "lsm_cgroup"),
    (49, "cgroup_unix_connect"),
    (50, "cgroup_unix_sendmsg"),
    (51, "cgroup_unix_recvmsg"),
    (52, "cgroup_unix_getpeername"),
    (53, "cgroup_unix_getsockname"),
];

/// Everything at a network namespace.
const NETNS: [Hook; 2] = [(17, "flow_dissector"), (36, "sk_lookup")];

/// Everything at a sockmap.
const SOCKMAP: [Hook; 4] =
    [(4, "sk_skb_stream_parser"), (5, "sk_skb_stream_verdict"), (7, "sk_msg_verdict"), (38, "sk_skb_verdict")];

/// bpftool's word for an attach type, where it is one that is watched.
#[must_use]
pub fn hook_name(attach_type: u32) -> Option<&'static str> {
    let hooks = CGROUP.iter().chain(&NETNS).chain(&SOCKMAP);
    hooks.into_iter().find(|(number, _)| *number == attach_type).map(|(_, name)| *name)
}

/// A place, and what ran there when it was noted.
#[derive(Debug)]
pub(super) struct Lists {
    place: String,
    target: Arc<OwnedFd>,
    flags: u32,
    noted: Vec<(Hook, Vec<u32>)>,
}

impl Lists {
    /// The programs that run for processes in a cgroup.
    pub(super) fn of_cgroup(place: String, folder: impl Into<OwnedFd>) -> Result<Self, Broken> {
        Self::take(place, Arc::new(folder.into()), &CGROUP, EFFECTIVE)
    }

    /// The programs of a network namespace.
    pub(super) fn of_netns(place: String, netns: Arc<OwnedFd>) -> Result<Self, Broken> {
        Self::take(place, netns, &NETNS, 0)
    }

    /// The programs of a sockmap.
    pub(super) fn of_sockmap(place: String, map: Arc<OwnedFd>) -> Result<Self, Broken> {
        Self::take(place, map, &SOCKMAP, 0)
    }

    /// The same programs at another place.
    pub(super) fn same_at(&self, place: String, target: impl Into<OwnedFd>) -> Self {
        Self { place, target: Arc::new(target.into()), flags: self.flags, noted: self.noted.clone() }
    }

    fn take(place: String, target: Arc<OwnedFd>, hooks: &[Hook], flags: u32) -> Result<Self, Broken> {
        let mut noted = Vec::new();
        for hook in hooks {
            match bpf::query(target.as_fd(), hook.0, flags) {
                Ok(programs) => noted.push((*hook, programs)),
                // Older than this hook; a kernel does not learn it while it runs.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                Err(error) => return Err(Self::fault(&place, hook.1, &error)),
            }
        }
        Ok(Self { place, target, flags, noted })
    }

    /// Whether this program runs at any of the hooks.
    pub(super) fn runs(&self, program: u32) -> bool {
        self.noted.iter().any(|(_, programs)| programs.contains(&program))
    }

    /// Exactly these programs run at this hook, and none at any other.
    pub(super) fn expect_only(&self, hook: &str, programs: &[u32]) -> Result<(), Broken> {
        for ((_, name), now) in &self.noted {
            self.compare(name, if *name == hook { programs } else { &[] }, now)?;
        }
        Ok(())
    }

    /// Compares with what was noted.
    pub(super) fn check(&self) -> Result<(), Broken> {
        for (hook, before) in &self.noted {
            let now = bpf::query(self.target.as_fd(), hook.0, self.flags)
                .map_err(|error| Self::fault(&self.place, hook.1, &error))?;
            self.compare(hook.1, before, &now)?;
        }
        Ok(())
    }

    fn compare(&self, hook: &str, before: &[u32], now: &[u32]) -> Result<(), Broken> {
        match difference(before, now) {
            None => Ok(()),
            Some(what) => Err(Broken::changed(format!("{}: {hook}: {what}", self.place))),
        }
    }

    fn fault(place: &str, hook: &str, error: &io::Error) -> Broken {
        // What the kernel answers for the descriptor of a cgroup that was removed.
        if error.raw_os_error() == Some(Errno::ENOENT as i32) {
            return Broken::changed(format!("{place}: it was removed"));
        }
        Broken::io(format_args!("{place}: {hook}"), error)
    }
}

/// The first difference between two lists, in words.
fn difference(before: &[u32], now: &[u32]) -> Option<String> {
    if before == now {
        return None;
    }
    let times = |list: &[u32], id: &u32| list.iter().filter(|other| *other == id).count();
    if let Some(gone) = before.iter().find(|id| times(now, id) < times(before, id)) {
        return Some(format!("{} does not run any more", pins::program(*gone)));
    }
    if let Some(new) = now.iter().find(|id| times(now, id) > times(before, id)) {
        return Some(format!("{} runs too", pins::program(*new)));
    }
    let names: Vec<_> = now.iter().map(|id| pins::program(*id)).collect();
    Some(format!("the programs run in another order: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        let id = |number: u32| 2_000_000_000 + number;
        let told = |before: &[u32], now: &[u32]| {
            difference(
                &before.iter().map(|n| id(*n)).collect::<Vec<_>>(),
                &now.iter().map(|n| id(*n)).collect::<Vec<_>>(),
            )
        };
        assert_eq!(told(&[1, 2], &[1, 2]), None);
        assert_eq!(told(&[1, 2], &[2]).as_deref(), Some("program id 2000000001 does not run any more"));
        assert_eq!(told(&[1], &[1, 3]).as_deref(), Some("program id 2000000003 runs too"));
        assert!(told(&[1, 2], &[2, 1]).is_some_and(|what| what.contains("another order")));
        assert_eq!(told(&[1], &[1, 1]).as_deref(), Some("program id 2000000001 runs too"), "it runs twice");
    }
}
