//! A TPM for tests: swtpm, with a state folder and ports of its own; it ends with its owner, also when that panics.
#![allow(clippy::unwrap_used)]
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long swtpm may take to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// One at a time looks for free ports.
static PORTS: Mutex<()> = Mutex::new(());

/// A running swtpm.
pub(super) struct Swtpm {
    process: Child,
    port: u16,
    state: TempDir,
}

impl Swtpm {
    /// A new TPM; nothing where swtpm is not installed, which is then said.
    pub(super) fn start() -> Option<Self> {
        if let Err(error) = Command::new("swtpm").arg("--version").stdout(Stdio::null()).status() {
            skip(&format!("swtpm does not run ({error}); apt-get install swtpm"));
            return None;
        }
        let state = tempfile::tempdir().unwrap();
        let (process, port) = run(&state);
        Some(Self { process, port, state })
    }

    /// How it is reached.
    pub(super) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Takes its power away.
    pub(super) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Turns it on again: what is not volatile is as it was. It may have another port.
    pub(super) fn power_on(&mut self) {
        (self.process, self.port) = run(&self.state);
    }

    /// Turns it off and on, as when its machine restarts.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.power_on();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(state: &TempDir) -> (Child, u16) {
    let _alone = PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let log = state.path().join("log");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let port = free_ports();
        let mut process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.path().display()))
            .arg("--log")
            .arg(format!("file={}", log.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Ends without having listened where somebody else took a port meanwhile: then with other ports.
        while process.try_wait().unwrap().is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
                return (process, port);
            }
            if Instant::now() > deadline {
                let _ = process.kill();
                let _ = process.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(
            Instant::now() < deadline,
            "swtpm did not listen: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
    }
}

/// Of two ports that are free, the first: tpm2-tss takes the second for the controls.
fn free_ports() -> u16 {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return port;
        }
    }
}

/// Says that a test checks nothing here, also in the file that `DSHIELD_SKIP_FILE` names.
fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("DSHIELD_SKIP_FILE") {
        let thread = std::thread::current();
        let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}
