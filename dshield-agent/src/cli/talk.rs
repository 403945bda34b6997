//! What the agent says while it runs, on its way to stderr.
//!
//! Lines flow in from any thread, those that functions print among them; a thread of its own writes them.
//! Whoever reads stderr may stall, and a function may print without an end: neither must hold up a tokio
//! worker, for all functions share those. What does not fit the queue is dropped, and counted in the next line.
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const QUEUE: usize = 4096;
/// How long the last lines may take at the end.
const FLUSH: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue's entry, for `tracing`.
#[derive(Clone)]
pub(super) struct Talk {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Talk {
    /// Starts the thread that writes to `sink`.
    pub(super) fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::default());
        let counted = dropped.clone();
        thread::Builder::new().name("talk".into()).spawn(move || write(&messages, &counted, sink))?;
        Ok(Self { queue, dropped })
    }

    /// Waits until what was said is written, for a second at most.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH;
        let (done, written) = sync_channel(1);
        while self.queue.try_send(Message::Flush(done.clone())).is_err() {
            if Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        // It says nothing when time is over; there is nobody to tell either.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write(messages: &Receiver<Message>, dropped: &AtomicU64, mut sink: impl Write) {
    // A stderr that is closed makes no difference to anything else.
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line(line) => {
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(sink, "dshield: {lost} lines were dropped: nobody reads stderr fast enough");
                }
                let _ = sink.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Talk {
    type Writer = &'a Talk;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Talk {
    /// `tracing` writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A function that printed while nobody read the agent's stderr froze the agent: its workers hung in
    /// write(2), first the function's, then everybody's.
    #[test]
    fn a_stderr_that_nobody_reads_holds_nobody_up() {
        let (mut reader, sink) = io::pipe().unwrap();
        let talk = Talk::to(sink).unwrap();
        for _ in 0..4 * QUEUE {
            (&talk).write_all(&[b'x'; 256]).unwrap();
        }
        assert!(talk.dropped.load(Ordering::Relaxed) > 0);
        // Once somebody reads again, the rest arrives, and how much is missing.
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        while talk.dropped.load(Ordering::Relaxed) > 0 {
            (&talk).write_all(b"y").unwrap();
            thread::yield_now();
        }
        talk.flush();
        drop(talk);
        assert!(reading.join().unwrap().contains("lines were dropped"));
    }
}
