//! Running other programs: a command and a deadline flow in; success, or a sentence that says which
//! command failed and how, flows out.
use std::{
    fmt,
    io::{self, IsTerminal},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Why a task stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The command could not be started.
    Start { command: String, cause: io::Error },
    /// The command ran and failed.
    Failed { command: String, status: ExitStatus },
    /// The command did not end in time and was killed with everything it had started.
    Late { command: String, deadline: Duration },
    /// A file could not be read, written or made.
    File { path: String, cause: io::Error },
    /// The machine or the sources are not as they must be; a sentence that says what to do.
    Unfit(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { command, cause } => write!(f, "`{command}` could not be started: {cause}"),
            Self::Failed { command, status } => write!(f, "`{command}` failed ({status})"),
            Self::Late { command, deadline } => {
                write!(f, "`{command}` had not ended after {} s and was killed", deadline.as_secs())
            }
            Self::File { path, cause } => write!(f, "{path}: {cause}"),
            Self::Unfit(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An [`Error::File`] about `path`.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::File { path, cause }
    }
}

/// Runs a command with our own output, and without input, to its end.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let shown = show(command);
    let status =
        command.stdin(Stdio::null()).status().map_err(|cause| Error::Start { command: shown.clone(), cause })?;
    succeeded(shown, status)
}

/// As [`run`], but kills the command and what it started when `deadline` has passed.
pub fn run_within(command: &mut Command, deadline: Duration) -> Result<(), Error> {
    let shown = show(command);
    // On a terminal the command stays in our process group, so that Ctrl-C reaches it.
    let own_group = !io::stderr().is_terminal();
    if own_group {
        command.process_group(0);
    }
    let child = command.stdin(Stdio::null()).spawn().map_err(|cause| Error::Start { command: shown.clone(), cause })?;
    let id = child.id();
    match wait(child).recv_timeout(deadline) {
        Ok(Ok(status)) => succeeded(shown, status),
        Ok(Err(cause)) => Err(Error::Start { command: shown, cause }),
        Err(_) => {
            let late = Error::Late { command: shown, deadline };
            if own_group {
                kill(&format!("-{id}"));
            } else {
                eprintln!("xtask: {late}");
                // The group is ours, so this ends us too.
                kill("0");
            }
            Err(late)
        }
    }
}

/// What a command prints on stdout, without the last line's end.
pub fn read(command: &mut Command) -> Result<String, Error> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|cause| Error::Start { command: shown.clone(), cause })?;
    succeeded(shown, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What a command prints on stdout, or nothing when it is not there or fails; its complaints are not shown.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The exit code of a program whose code is passed on: 128 + n after signal n, as shells have it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// SHA-256 of a file's bytes, in hex.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let line = read(Command::new("sha256sum").arg("--binary").arg("--").arg(path))?;
    // sha256sum puts a backslash before the sum when it had to escape the file's name.
    let sum = line.trim_start_matches('\\').split(' ').next().unwrap_or_default();
    if sum.len() == 64 {
        Ok(sum.to_owned())
    } else {
        Err(Error::Unfit(format!("sha256sum printed no sum for {}", path.display())))
    }
}

/// A command as one would type it, leaving out its environment.
pub fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

fn succeeded(command: String, status: ExitStatus) -> Result<(), Error> {
    if status.success() { Ok(()) } else { Err(Error::Failed { command, status }) }
}

fn wait(mut child: Child) -> mpsc::Receiver<io::Result<ExitStatus>> {
    let (sender, receiver) = mpsc::channel();
    // The receiver is gone when the deadline has passed; then nobody asks any more.
    thread::spawn(move || drop(sender.send(child.wait())));
    receiver
}

/// The shell's own `kill`: the program of that name is not on every machine.
fn kill(target: &str) {
    let asked = Command::new("sh").args(["-c", "kill -s KILL -- \"$1\"", "sh", target]).status();
    if !asked.is_ok_and(|status| status.success()) {
        eprintln!("xtask: process group {target} could not be killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_command_past_its_deadline_is_killed_with_its_children() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $! > \"$0\"; wait"]);
        let file = std::env::temp_dir().join(format!("xtask-late-{}", std::process::id()));
        command.arg(&file).process_group(0);
        let child = command.spawn().unwrap();
        let id = child.id();
        let ended = wait(child);
        let grandchild = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                _ if started.elapsed() > Duration::from_secs(20) => panic!("the shell never wrote its child's id"),
                _ => thread::yield_now(),
            }
        };
        kill(&format!("-{id}"));
        assert_eq!(ended.recv_timeout(Duration::from_secs(20)).unwrap().unwrap().signal(), Some(9));
        loop {
            // Gone, or a zombie that its new parent has not yet collected.
            let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") || state.contains(") X ") {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "the grandchild lives on: {state}");
            thread::yield_now();
        }
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn the_sum_of_a_file_is_the_one_that_the_standard_names() {
        let file = std::env::temp_dir().join(format!("xtask-\\sum-{}", std::process::id()));
        std::fs::write(&file, "abc").unwrap();
        let sum = sha256(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
    }
}
