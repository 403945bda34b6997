//! Many who follow the log: the writer knows of none, each gets all in order, and who does not read is dropped.
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::log::{BootFacts, Storage};

/// No test here takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
const READERS: usize = 1000;

fn record(bytes: usize) -> Record {
    Record::agent(Event::Lost { count: 1, source: "x".repeat(bytes) })
}

/// An open stream.
struct Reader(BufReader<TcpStream>);

impl Reader {
    /// One that has seen that it is open. `receive`: how many bytes it takes before it reads.
    async fn open(address: SocketAddr, query: &str, header: &str, receive: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET /v1/log/stream{query} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self(BufReader::new(stream));
        let mut line = String::new();
        while !line.starts_with(": dshield log") {
            line.clear();
            assert!(reader.0.read_line(&mut line).await.unwrap() > 0, "not opened");
            assert!(!line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.1 200"), "{line}");
        }
        reader
    }

    /// The number of the next entry; none at the end.
    async fn next(&mut self) -> Option<u64> {
        let mut line = String::new();
        loop {
            line.clear();
            // A connection that was cut off may say so in either way.
            if self.0.read_line(&mut line).await.unwrap_or_default() == 0 {
                return None;
            }
            if let Some(id) = line.strip_prefix("id: ") {
                return Some(id.trim_end().parse().unwrap());
            }
        }
    }

    /// Reads from entry `first` to entry `last`, which have to come in order.
    async fn read(&mut self, first: u64, last: u64) {
        for expected in first..=last {
            assert_eq!(self.next().await, Some(expected));
        }
    }
}

/// The median time of so many appends, one after the other.
async fn median_append(log: &Log, appends: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..appends {
        let begun = Instant::now();
        log.append(record(200)).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[appends / 2]
}

/// How many readers fit, with both ends of their connections in this process.
fn room() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = (READERS as u64 * 2 + 500).min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
    READERS.min(usize::try_from(wanted.max(soft).saturating_sub(400) / 2).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_get_each_entry_in_order_and_do_not_slow_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::File(folder.path().join("log.redb"));
    let log = Log::open(storage, BootFacts::default()).unwrap();
    let api = Api::start(log.clone(), Vec::new()).await;
    let alone = median_append(&log, 100).await;

    let (many, first) = (room(), *log.head().borrow());
    let last = first + 100 - 1;
    let (mut reading, mut idle) = (JoinSet::new(), Vec::new());
    for number in 0..many {
        let mut reader = Reader::open(api.address, &format!("?from={first}"), "", None).await;
        // Half of them do not read before the end.
        if number % 2 == 0 {
            reading.spawn(async move { reader.read(first, last).await });
        } else {
            idle.push(reader);
        }
    }
    let beside = median_append(&log, 100).await;
    // They share two processors with a thousand tasks that read; each waits for none of them.
    assert!(beside < alone * 10 + Duration::from_millis(20), "{alone:?} alone, {beside:?} beside {many} readers");
    let all = async {
        while let Some(read) = reading.join_next().await {
            read.unwrap();
        }
        for mut reader in idle {
            reader.read(first, last).await;
        }
    };
    timeout(PATIENCE, all).await.expect("some readers never got all");
    println!("{many} readers; an append took {alone:?} alone and {beside:?} beside them");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_dropped_while_others_go_on_and_comes_back_without_a_gap() {
    let log = log();
    let api = Api::start(log.clone(), Vec::new()).await;
    let mut lazy = Reader::open(api.address, "", "", Some(4096)).await;
    let mut eager = Reader::open(api.address, "", "", None).await;
    // More than sockets and rings hold, and less than the log keeps in memory.
    let (first, last) = (1, 400);
    let reading = tokio::spawn(async move {
        eager.read(first, last).await;
        eager
    });
    for _ in first..=last {
        log.append(record(60_000)).await.unwrap();
    }
    let mut eager = timeout(PATIENCE, reading).await.expect("it reads").unwrap();
    // Without a look at the lazy one's data, which would make it a reader.
    let begun = Instant::now();
    let mut after = last;
    while begun.elapsed() < super::super::stream::SLOW * 2 {
        after = log.append(record(10)).await.unwrap();
        eager.read(after, after).await;
    }
    let mut got = 0;
    while let Some(seq) = timeout(PATIENCE, lazy.next()).await.expect("it was not dropped") {
        assert_eq!(seq, got + 1);
        got = seq;
    }
    assert!(got < last, "it had room for everything");
    // The last event may have been cut off; what comes again is told by its number.
    let header = format!("Last-Event-ID: {}\r\n", got.saturating_sub(1));
    let mut again = Reader::open(api.address, "?from=0", &header, None).await;
    timeout(PATIENCE, again.read(got.max(1), after)).await.expect("it gets the rest");
}
