//! Every system call by which the log changes its files, failed and killed in turn by strace: this test runs itself as
//! the process that is traced.
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;
use crate::log::check::Signatures;
use crate::log::fsck::fsck;
use crate::log::stored::StoredLog;

/// Where the child keeps its log; unset in the test itself.
const CHILD: &str = "DSHIELD_TEST_LOG_TO_FAIL";
/// What changes files, and makes changes durable; the child has no other file to write but its output, by write(2).
const CALLS: [&str; 9] =
    ["openat", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "linkat", "unlink", "mkdir"];
/// At most so many occurrences of one call are tried, evenly chosen; more are asked for with the variable.
const MOST: usize = 60;
const MOST_VARIABLE: &str = "DSHIELD_FAULTS";

/// Two boots with some entries each, every one of which is tried until it is acknowledged.
#[tokio::test]
async fn child() {
    let Some(path) = env::var_os(CHILD) else { return };
    let deadline = Instant::now() + Duration::from_secs(20);
    for boot in 0..2 {
        let log = match Log::open(Storage::File(PathBuf::from(&path)), facts()) {
            Ok(log) => log,
            Err(error) => return println!("not opened: {error}"),
        };
        for turn in 0..4 {
            let id = boot * 100 + turn;
            let seq = loop {
                match log.append(record(id)).await {
                    Ok(seq) => break seq,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {seq} {id}").unwrap();
            out.flush().unwrap();
        }
        // Some of it in the database too.
        if turn_over(&log).await {
            println!("carried over");
        }
        log.close().await;
    }
}

/// Lets the keeper carry the rows over, as it does by itself a second later.
async fn turn_over(log: &Log) -> bool {
    let ledger = log.shared.ledger.clone();
    tokio::task::spawn_blocking(move || ledger.take().is_ok()).await.unwrap()
}

struct Run {
    /// Numbers and what their entries say.
    acknowledged: Vec<(u64, u64)>,
    output: String,
    success: bool,
}

/// Runs the child under strace with these arguments.
fn run(path: &Path, arguments: &[&str]) -> Run {
    let output = Command::new("strace")
        // Dies with its output, which ends when this test does.
        .args(["-f", "-qqq"])
        .args(arguments)
        .arg(env::current_exe().unwrap())
        .args(["log::tests::faults::child", "--exact", "--nocapture"])
        .env(CHILD, path)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.lines().filter_map(|line| line.split_once("acknowledged ")?.1.split_once(' '));
    let acknowledged = numbers.filter_map(|(seq, id)| Some((seq.parse().ok()?, id.parse().ok()?))).collect();
    let output_text = text + &String::from_utf8_lossy(&output.stderr);
    Run { acknowledged, output: output_text, success: output.status.success() }
}

/// The log is whole, or was never made, and has all that was acknowledged.
fn assert_left_well(path: &Path, run: &Run, how: &str) {
    if !path.exists() {
        assert_eq!(run.acknowledged, [], "{how}: {}", run.output);
        return;
    }
    let log = StoredLog::open(path).unwrap_or_else(|error| panic!("{how}: {error}\n{}", run.output));
    let report = fsck(&log, Signatures::All).unwrap();
    assert_eq!(report.findings, [], "{how}: {report:#?}\n{}", run.output);
    let lines = log.lines(0, usize::MAX).unwrap();
    for (seq, expected) in &run.acknowledged {
        let line = lines.get(usize::try_from(*seq).unwrap());
        assert_eq!(line.and_then(|line| id(line)), Some(*expected), "{how}: entry {seq}\n{}", run.output);
    }
    log.close().unwrap();
}

/// How often a thread of the child makes each call, at most.
fn count(folder: &Path) -> BTreeMap<&'static str, usize> {
    let trace = folder.join("trace");
    let path = folder.join("state/log.redb");
    let calls = format!("trace={}", CALLS.join(","));
    let whole = run(&path, &["-o", &trace.to_string_lossy(), "-e", &calls]);
    assert!(whole.success && whole.acknowledged.len() == 8, "{}", whole.output);
    assert_left_well(&path, &whole, "without a fault");
    let trace = fs::read_to_string(trace).unwrap();
    // strace counts for each thread by itself.
    let made = |call: &str| {
        let mut threads = BTreeMap::<_, usize>::new();
        for line in trace.lines().filter(|line| line.contains(&format!(" {call}("))) {
            *threads.entry(line.split(' ').next()).or_default() += 1;
        }
        threads.into_values().max().unwrap_or_default()
    };
    CALLS.iter().map(|call| (*call, made(call))).collect()
}

/// Up to `most` of `count` numbers from 1 on, evenly.
fn chosen(count: usize, most: usize) -> Vec<usize> {
    let taken = count.min(most);
    (0..taken).map(|index| 1 + index * count / taken).collect()
}

fn skip(why: &str) {
    let name = "log::tests::faults::whichever_call_fails_or_is_the_last_the_log_is_whole_and_has_what_was_acknowledged";
    println!("skipped: {why}");
    if let Some(path) = env::var_os("DSHIELD_SKIP_FILE")
        && let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = file.write_all(format!("{name}: {why}\n").as_bytes());
    }
}

#[test]
fn whichever_call_fails_or_is_the_last_the_log_is_whole_and_has_what_was_acknowledged() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("strace is not installed");
    }
    let most = env::var(MOST_VARIABLE).ok().and_then(|most| most.parse().ok()).unwrap_or(MOST);
    let folder = tempfile::tempdir().unwrap();
    let counts = count(folder.path());
    for (call, least) in [("pwrite64", 10), ("fdatasync", 6), ("linkat", 2), ("unlink", 2), ("fallocate", 1)] {
        assert!(counts[call] >= least, "{counts:?}");
    }
    let mut faults = Vec::new();
    for (call, count) in &counts {
        for at in chosen(*count, most) {
            faults.extend(["error=EIO", "signal=KILL"].map(|fault| format!("{call}:{fault}:when={at}")));
        }
    }
    println!("{} of them, of {counts:?}", faults.len());
    let left = Mutex::new(faults.into_iter().enumerate());
    let (reached, folder) = (Mutex::new(0), folder.path());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((number, fault)) = left.lock().unwrap().next() else { return };
                    let path = folder.join(format!("{number}/log.redb"));
                    let call = fault.split(':').next().unwrap();
                    let (trace, inject) = (format!("trace={call}"), format!("inject={fault}"));
                    let run = run(&path, &["-o", "/dev/null", "-e", &trace, "-e", &inject]);
                    assert_left_well(&path, &run, &fault);
                    // What fails once is over at once: either it did not start, or it went on and did all.
                    let complete = run.acknowledged.len() == 8 || run.output.contains("not opened: ");
                    let loader = call == "openat";
                    assert!(fault.contains("KILL") || loader || (run.success && complete), "{fault}: {}", run.output);
                    *reached.lock().unwrap() += usize::from(run.acknowledged.len() < 8);
                    fs::remove_dir_all(path.parent().unwrap()).ok();
                }
            });
        }
    });
    assert!(*reached.lock().unwrap() > 20, "hardly anything failed");
}
