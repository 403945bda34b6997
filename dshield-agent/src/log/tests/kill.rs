//! kill -9 in the middle of the load: this test runs itself as the process to kill.
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Where the child keeps its log; unset in the test itself.
const CHILD: &str = "DSHIELD_TEST_LOG_TO_KILL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(path) = env::var_os(CHILD) else {
        return;
    };
    let log = open(Path::new(&path));
    let mut writers = Vec::new();
    for writer in 0..16 {
        let log = log.clone();
        writers.push(tokio::spawn(async move {
            for turn in 0.. {
                let id = writer * 1_000_000 + turn;
                let seq = log.append(record(id)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {seq} {id}").unwrap();
                out.flush().unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Starts the child, kills it once it acknowledged `enough` entries, and returns all that it acknowledged.
fn run_and_kill(path: &Path, enough: usize) -> Vec<(u64, u64)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["log::tests::kill::child", "--exact", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut killed = false;
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        if !killed && acknowledged.len() >= enough {
            child.kill().unwrap();
            killed = true;
        }
        let Some(Ok(line)) = output.next() else { break };
        // A line that the kill cut short was not acknowledged to anybody.
        let numbers = line.split_once("acknowledged ").and_then(|(_, rest)| rest.split_once(' '));
        if let Some((seq, id)) = numbers
            && let (Ok(seq), Ok(id)) = (seq.parse(), id.parse())
        {
            acknowledged.push((seq, id));
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_before_kill_9_is_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut acknowledged = Vec::new();
    for enough in [0, 1, 50, 333, 1000] {
        acknowledged.extend(run_and_kill(&path, enough));
        let log = open(&path);
        verify(&log).await;
        let lines = lines(&log).await;
        for &(seq, expected) in &acknowledged {
            let line = lines.get(usize::try_from(seq).unwrap());
            assert_eq!(line.and_then(|line| id(line)), Some(expected), "entry {seq}");
        }
        log.close().await;
    }
}
