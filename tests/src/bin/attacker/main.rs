//! Hostile code: tries every technique of the escape catalogue, each in a process of its own, and says on stdout
//! what it got: `attack NAME did|not DETAIL`, and `attack end`.
//!
//! Run as a function's `bootstrap`. Nobody tells it what to do, because with some walls away the Runtime API is out
//! of its reach. With `ATTACK_ROLE=victim` it is the other function, and waits.
mod calls;
mod files;
mod net;
mod processes;
mod resources;
mod special;
mod uring;

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::Duration;

use dshield_tests::catalogue::{TECHNIQUES, number};

/// What an attempt got: what it did, or what it was told.
type Got = Result<String, String>;

fn main() {
    if std::env::var("ATTACK_ROLE").is_ok_and(|role| role == "victim") {
        processes::be_the_victim();
    }
    let _invocation = ask_for_work();
    // Before any attempt, because with the pid namespace away this is the agent.
    let parent = processes::parent();
    for technique in TECHNIQUES {
        let number = number(technique.name).unwrap_or_default();
        let got = aside(|| attempt(technique.name, number, parent));
        match got {
            Ok(detail) => println!("attack {} did {detail}", technique.name),
            Err(detail) => println!("attack {} not {detail}", technique.name),
        }
    }
    println!("attack end");
    // Not at once: what was printed is read by the agent after this.
    std::thread::sleep(Duration::from_millis(50));
}

/// Fetches its invocation, so that it has the whole time of one; with some walls away the Runtime API is out of reach.
fn ask_for_work() -> std::io::Result<std::net::TcpStream> {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap_or_default();
    let mut stream = std::net::TcpStream::connect(api)?;
    stream.write_all(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: runtime\r\n\r\n")?;
    let _answer = stream.read(&mut [0; 1024])?;
    Ok(stream)
}

fn attempt(name: &str, number: u8, parent: i32) -> Got {
    match name {
        "tcp4" => net::tcp4(number),
        "tcp6" => net::tcp6(number),
        "tcp_mapped" => net::tcp_mapped(number),
        "tcp_fastopen" => net::fast_open(number),
        "tcp_fastopen_connect" => net::fast_open_connect(number),
        "tcp_reconnect" => net::reconnect(number),
        "udp4" => net::udp4(number),
        "udp6" => net::udp6(number),
        "udp_mapped" => net::udp_mapped(number),
        "udp_unspec" => net::udp_unspec(number),
        "udp_connected" => net::udp_connected(number),
        "udp_sendmmsg" => net::sendmmsg(number),
        "udp_broadcast" => net::broadcast(number),
        "udp_multicast4" => net::multicast4(number),
        "udp_multicast6" => net::multicast6(number),
        "udp_options" => net::source_route(number),
        "so_mark" => net::marked(number),
        "so_bindtodevice" => net::bound_to_device(number),
        "ip_transparent" => net::transparent(number),
        "raw4" => net::raw4(number),
        "raw6" => net::raw6(number),
        "ping" => net::ping(number),
        "af_packet" => net::frame(number),
        "udplite" => net::udplite(number),
        "udplite_connected" => net::udplite_connected(number),
        "sctp" => net::stream_of(number, calls::IPPROTO_SCTP),
        "mptcp" => net::stream_of(number, libc::IPPROTO_MPTCP),
        "io_uring_connect" => uring::connect(number),
        "inet_protocols" => net::protocols(),
        "families" => net::families(),
        "vsock" => net::one_socket(libc::AF_VSOCK, libc::SOCK_STREAM),
        "io_uring_vsock" => uring::socket(libc::AF_VSOCK),
        "af_alg" => net::one_socket(libc::AF_ALG, libc::SOCK_SEQPACKET),
        "af_xdp" => net::one_socket(libc::AF_XDP, libc::SOCK_RAW),
        "sock_diag" => special::sock_diag(),
        "new_address" => special::new_address(),
        "setns" => processes::enter_network(number),
        "cgroup_move" => files::leave_cgroup(number),
        "cgroup_clone" => files::clone_into_cgroup(number),
        "user_namespace" => processes::unshare(libc::CLONE_NEWUSER),
        "clone_user_namespace" => processes::clone_user_namespace(),
        "net_namespace" => processes::unshare(libc::CLONE_NEWNET),
        "unix_abstract" => special::unix_abstract(),
        "unix_path" => special::unix_path(),
        "unix_pair" => special::unix_pair(),
        "scm_rights" => special::received_socket(number),
        "agent_ptrace" => processes::ptrace(parent),
        "agent_vm_read" => processes::vm_read(parent),
        "agent_mem" => processes::open_memory(parent),
        "agent_fds" => processes::descriptors(parent),
        "agent_getfd" => processes::take_descriptor(parent),
        "agent_signal" => processes::signal(parent),
        "other_ptrace" => processes::ptrace(processes::victim()?),
        "other_vm_read" => processes::vm_read(processes::victim()?),
        "other_mem" => processes::open_memory(processes::victim()?),
        "other_getfd" => processes::take_descriptor(processes::victim()?),
        "other_signal" => processes::signal(processes::victim()?),
        "other_files" => processes::write_file(processes::victim()?),
        "mount" => files::mount(),
        "mount_new_api" => files::mount_new_api(),
        "mount_over_trust" => files::mount_over(),
        "pivot_root" => files::change_root(),
        "proc_sys" => files::open_for_writing(&["/proc/sys/kernel/core_pattern"]),
        "sysfs" => {
            files::open_for_writing(&["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_seqnum"])
        }
        "host_file" => files::write_on_the_machine(),
        "mknod" => files::mknod(),
        "tun" => files::tun(),
        "bpf" => special::bpf(),
        "kernel_calls" => special::kernel_calls(),
        "terminal" => special::terminal(),
        "x32" => special::x32(),
        "ia32" => special::ia32(),
        "core_dump" => resources::core_dump(),
        "descriptors" => resources::descriptors(),
        "tmp_full" => resources::fill_tmp(),
        "many_tasks" => resources::many_tasks(),
        "memory_bomb" => resources::memory_bomb(),
        other => Err(format!("the attacker knows no technique called {other}")),
    }
}

/// Runs `work` in a child: what it changes about itself, and how it dies, stays there.
fn aside(work: impl FnOnce() -> Got) -> Got {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors.
    calls::check("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    // SAFETY: this program has one thread.
    let child = calls::check("fork", unsafe { libc::fork() }.into())?;
    // SAFETY: each end is owned once in each process.
    let (mut reader, mut writer) =
        unsafe { (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1])) };
    if child == 0 {
        drop(reader);
        // SAFETY: plain integers. A technique that hangs must not hold up the others.
        unsafe { libc::alarm(10) };
        let text = match work() {
            Ok(detail) => format!("did {detail}"),
            Err(detail) => format!("not {detail}"),
        };
        let _ = writer.write_all(text.as_bytes());
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) }
    }
    drop(writer);
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    let mut status = 0;
    // SAFETY: the status outlives the call; the child is ours.
    unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, 0) };
    match (read, text.split_once(' ')) {
        (Ok(_), Some(("did", detail))) => Ok(detail.to_owned()),
        (Ok(_), Some(("not", detail))) => Err(detail.to_owned()),
        _ if libc::WIFSIGNALED(status) => Err(format!("killed by signal {}", libc::WTERMSIG(status))),
        _ => Err("it ended without a word".to_owned()),
    }
}
