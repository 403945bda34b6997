//! A name server that gives every name the same address, and a way to make an agent ask it.
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::background::Background;

/// A running name server; it stops when dropped.
#[derive(Debug)]
pub struct NameServer {
    address: Ipv4Addr,
    questions: Arc<AtomicUsize>,
    addresses_asked: Arc<AtomicUsize>,
    _server: Background,
}

impl NameServer {
    /// Answers every A question with `answer`, good for a minute, on port 53 of a free loopback address.
    #[must_use]
    pub fn start(answer: Ipv4Addr) -> Self {
        Self::start_with_ttl(answer, 60)
    }

    /// [`Self::start`], with answers that are good for so many seconds.
    #[must_use]
    pub fn start_with_ttl(answer: Ipv4Addr, ttl: u8) -> Self {
        // Every address below 127.0.0.0/8 is this machine, so tests that run side by side need not share one.
        let (address, socket) = (1..=250)
            .find_map(|last| {
                let address = Ipv4Addr::new(127, 92, 53, last);
                Some((address, UdpSocket::bind((address, 53)).ok()?))
            })
            .expect("port 53 of one of 250 loopback addresses is free for root");
        let questions = Arc::new(AtomicUsize::new(0));
        let addresses_asked = Arc::new(AtomicUsize::new(0));
        let counted = [Arc::clone(&questions), Arc::clone(&addresses_asked)];
        let server = Background::spawn("name-server", move || serve(socket, answer, ttl, counted));
        Self { address, questions, addresses_asked, _server: server }
    }

    /// How many questions it was asked.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    /// How many of them were for an IPv4 address.
    #[must_use]
    pub fn addresses_asked(&self) -> usize {
        self.addresses_asked.load(Ordering::Relaxed)
    }

    /// [`wrapper`] for this server, which has longer to answer.
    #[must_use]
    pub fn wrapper(&self, folder: &Path) -> Vec<String> {
        asking(self.address, 5, folder)
    }
}

/// A [`crate::agent::Launch::wrapper`] under which the agent asks the name server at `address` and no other, and waits
/// for it for a second. It needs `unshare`, and `folder` for a file.
#[must_use]
pub fn wrapper(address: Ipv4Addr, folder: &Path) -> Vec<String> {
    asking(address, 1, folder)
}

fn asking(address: Ipv4Addr, seconds: u32, folder: &Path) -> Vec<String> {
    let resolver = folder.join("resolv.conf");
    let text = format!("nameserver {address}\noptions timeout:{seconds} attempts:1\n");
    std::fs::write(&resolver, text).expect("the folder is ours");
    let bind = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, &resolver.to_string_lossy()];
    line.map(str::to_owned).to_vec()
}

async fn serve(socket: UdpSocket, answer: Ipv4Addr, ttl: u8, [questions, addresses_asked]: [Arc<AtomicUsize>; 2]) {
    socket.set_nonblocking(true).expect("a socket can be made non-blocking");
    let socket = tokio::net::UdpSocket::from_std(socket).expect("a socket of this process");
    let mut bytes = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
        questions.fetch_add(1, Ordering::Relaxed);
        if let Some((found, reply)) = reply(&bytes[..length], answer, ttl) {
            addresses_asked.fetch_add(found.into(), Ordering::Relaxed);
            // A client that went away misses its answer, nothing else.
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

/// The answer to a message with one question (RFC 1035, section 4), and whether there is an address in it.
fn reply(message: &[u8], answer: Ipv4Addr, ttl: u8) -> Option<(bool, Vec<u8>)> {
    const HEADER: usize = 12;
    const A: [u8; 4] = [0, 1, 0, 1];
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += 1 + usize::from(message[end]);
    }
    let kind = message.get(end + 1..end + 5)?;
    let found = u8::from(kind == A);
    // A response without error; one question, so many answers, nothing else.
    let mut reply = [&message[..2], &[0x81, 0x80, 0, 1, 0, found, 0, 0, 0, 0], &message[HEADER..end + 5]].concat();
    if found == 1 {
        // The name is the question's; class and type as asked; how long it is good; four bytes.
        reply.extend([0xC0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4]);
        reply.extend(answer.octets());
    }
    Some((found == 1, reply))
}
