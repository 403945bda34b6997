//! One boot: a kernel and an initramfs flow in; what the guest said, and its verdict, flow out.
use crate::{setup::QEMU, shell::Error};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Longest that one kernel's tests may take.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// What a kernel prints when the run is worth nothing from there on.
const DEATHS: [&str; 4] = ["Kernel panic", "Oops:", "kernel BUG at", "soft lockup"];

/// What the guest said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `test: why`, for each check that was skipped.
    pub skipped: Vec<String>,
    /// The page of documentation that its tests wrote.
    pub page: Vec<String>,
    /// Why it failed; empty when it passed.
    pub failures: Vec<String>,
    /// The verdict's line was seen.
    ended: bool,
}

/// Boots, prints what the guest says and writes it to `log`, until the guest has ended or is late.
pub fn boot(name: &str, image: &Path, initramfs: &Path, log: &Path) -> Result<Report, Error> {
    let mut file = File::create(log).map_err(Error::file(log))?;
    let mut qemu = Command::new(QEMU);
    // One processor: a kernel changes its own code while it runs, and emulated processors disagree about it for a
    // moment, of which it dies (int3).
    // Debian 12's qemu emulates cmpxchg16b with rubbish in the flags, of which Linux 6.12 dies in a double fault.
    qemu.args(accelerator()).args(["-cpu", "max,-cx16", "-m", "2048", "-smp", "1"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    // An oops ends the guest, so that it cannot end in a pass.
    qemu.args(["-append", "console=ttyS0 quiet oops=panic panic=-1 lsm=landlock,lockdown,yama,bpf"]);
    let start = |cause| Error::Start { command: QEMU.into(), cause };
    let mut qemu = Guest(qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(start)?);
    let console = qemu.0.stdout.take().ok_or_else(|| Error::Unfit("qemu has no stdout".into()))?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        // Tests may print what is not UTF-8.
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + DEADLINE;
    let mut report = Report::default();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                eprintln!("{name}| {line}");
                writeln!(file, "{line}").map_err(Error::file(log))?;
                report.hear(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                report.failures.push(format!("it had not ended after {} s", DEADLINE.as_secs()));
                break;
            }
        }
    }
    drop(qemu);
    Ok(report.complete())
}

impl Report {
    fn hear(&mut self, line: &str) {
        if let Some(skipped) = line.strip_prefix("vm: skipped: ") {
            self.skipped.push(skipped.to_owned());
        } else if let Some(line) = line.strip_prefix("vm: page:") {
            self.page.push(line.strip_prefix(' ').unwrap_or(line).to_owned());
        } else if let Some(count) = line.strip_prefix("vm: fail ") {
            self.ended = true;
            if self.failures.is_empty() {
                self.failures.push(format!("{count} of its parts failed"));
            }
        } else if line == "vm: pass" {
            self.ended = true;
        } else if line.starts_with("vm: FAILED ") || DEATHS.iter().any(|death| line.contains(death)) {
            self.failures.push(line.trim_start_matches("vm: ").to_owned());
        } else if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(format!("test {test}"));
        }
    }

    /// A guest that ends without a verdict has failed, whatever it said before.
    fn complete(mut self) -> Self {
        if !self.ended && self.failures.is_empty() {
            self.failures.push("it ended without a verdict".into());
        }
        self
    }
}

/// Ends with its handle.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended already, unless it was late.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hardware where it works; that `/dev/kvm` is there does not say so.
fn accelerator() -> [&'static str; 2] {
    let tried = Command::new("sh")
        .args(["-c", "echo quit | \"$@\"", "sh", QEMU, "-accel", "kvm", "-cpu", "max", "-m", "64", "-S"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = tried.is_ok_and(|status| status.success());
    ["-accel", if works { "kvm" } else { "tcg,thread=multi" }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Report {
        let mut report = Report::default();
        lines.iter().for_each(|line| report.hear(line));
        report.complete()
    }

    #[test]
    fn only_the_guests_own_last_word_is_a_pass() {
        assert_eq!(heard(&["test a ... ok", "vm: pass"]).failures, Vec::<String>::new());
        assert_eq!(heard(&["test a ... ok"]).failures, ["it ended without a verdict"]);
        assert_eq!(heard(&["said vm: pass"]).failures, ["it ended without a verdict"]);
    }

    #[test]
    fn a_failure_is_known_by_its_name() {
        let report = heard(&["test a::b ... FAILED", "vm: FAILED kernel", "vm: skipped: c: no node", "vm: fail 1"]);
        assert_eq!(report.failures, ["test a::b", "FAILED kernel"]);
        assert_eq!(report.skipped, ["c: no node"]);
        let panicked = heard(&["[    3.1] Kernel panic - not syncing: Fatal exception", "vm: pass"]);
        assert_eq!(panicked.failures.len(), 1);
    }
}
