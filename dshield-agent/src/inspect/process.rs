//! What `/proc` tells about an instance's processes and its network namespace.
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

/// A process of an instance.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Its id, in this pid namespace.
    pub pid: u32,
    /// Its name; the function chooses it, so only what can be printed is kept.
    pub comm: String,
    /// How many threads it has.
    pub threads: u32,
    /// Its user id.
    pub uid: u32,
    /// `none`, `strict` or `filter`.
    pub seccomp: &'static str,
    /// How many filters are installed.
    pub seccomp_filters: u32,
    /// The inode of its network namespace.
    pub netns_inode: u64,
}

/// A network namespace.
#[derive(Clone, Debug, Serialize)]
pub struct Netns {
    /// To be pasted into a root shell.
    pub commands: Vec<String>,
    /// The namespace to which the steering is attached.
    pub inode: Option<u64>,
    /// Whether every process of the instance is in it.
    pub holds_all: bool,
    /// The interfaces in it.
    pub interfaces: Vec<String>,
    /// The sockets that take connections or datagrams in it.
    pub listening: Vec<Socket>,
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where it listens; an IPv6 socket at `[::]` takes IPv4 too.
    pub address: SocketAddr,
    /// Whose it is: 0 is the agent's, else the function's.
    pub uid: u32,
}

/// The processes in a cgroup; one that ends meanwhile is left out.
pub(super) fn of(cgroup: &Path) -> Vec<Process> {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(process).collect()
}

fn process(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_whitespace().next()
    };
    let number = |name: &str| field(name).and_then(|value| value.parse().ok());
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    Some(Process {
        pid,
        comm: comm.trim_end_matches('\n').chars().map(printable).collect(),
        threads: number("Threads")?,
        uid: number("Uid")?,
        seccomp: match field("Seccomp") {
            Some("0") => "none",
            Some("1") => "strict",
            Some("2") => "filter",
            _ => "unknown",
        },
        // Told since Linux 5.9.
        seccomp_filters: number("Seccomp_filters").unwrap_or(0),
        netns_inode: fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino(),
    })
}

/// Looks into the namespace through one of its processes: `/proc/PID/net` is that process's view.
pub(super) fn netns(inode: Option<u64>, processes: &[Process]) -> Netns {
    let inside = processes.iter().find(|process| Some(process.netns_inode) == inode);
    let through = inside.map(|process| Path::new("/proc").join(process.pid.to_string()));
    let read = |file: &str| {
        let path = through.as_ref().map(|process| process.join("net").join(file));
        path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    };
    let protocols = [("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6")];
    let enter = |what: &str| through.as_ref().map(|path| format!("nsenter --net={}/ns/net {what}", path.display()));
    let shown = ["ip address", "ip route show table local", "ss -lntu"];
    Netns {
        commands: shown.into_iter().filter_map(enter).collect(),
        inode,
        holds_all: processes.iter().all(|process| Some(process.netns_inode) == inode),
        interfaces: interfaces(&read("dev")),
        listening: protocols.into_iter().flat_map(|(protocol, file)| listening(protocol, &read(file))).collect(),
    }
}

/// proc_pid_net(5), `dev`: two lines of heads, then `name: numbers`.
fn interfaces(dev: &str) -> Vec<String> {
    dev.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// proc_pid_net(5), `tcp` and `udp`: state 0A is a TCP socket that listens, 07 an unconnected UDP socket.
fn listening(protocol: &'static str, table: &str) -> Vec<Socket> {
    let wanted = if protocol == "tcp" { "0A" } else { "07" };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state, uid) = (words.next()?, words.nth(1)?, words.nth(3)?);
            (state == wanted).then_some(())?;
            Some(Socket { protocol, address: address(local)?, uid: uid.parse().ok()? })
        })
        .collect()
}

/// `0100007F:2329`: each 32 bits of the address as this machine holds them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (number, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(number * 8)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_told_from_those_that_are_connected() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
            0: 0100007F:2329 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2095322 1\n\
            1: 0100007F:2329 0100007F:E2D4 01 00000000:00000000 00:00000000 00000000     0        0 2094747 2\n";
        let expected = Socket { protocol: "tcp", address: "127.0.0.1:9001".parse().unwrap(), uid: 0 };
        assert_eq!(listening("tcp", table), [expected]);
    }

    #[test]
    fn addresses_are_read_in_the_machines_order() {
        // As a little-endian machine prints ::1.
        let text = "00000000000000000000000001000000:0035";
        if cfg!(target_endian = "little") {
            assert_eq!(address(text), Some("[::1]:53".parse().unwrap()));
        }
        assert_eq!(address("0100:0035"), None);
    }

    #[test]
    fn a_process_without_filters_is_shown_as_such() {
        let own = process(std::process::id()).unwrap();
        assert_eq!(own.uid, nix::unistd::getuid().as_raw());
        assert!(own.threads >= 1 && own.netns_inode != 0);
    }
}
