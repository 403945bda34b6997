//! `dshield init DIR`: a policy and one function that works as it stands.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dshield_common::policy::Runtime;

const POLICY: &str = "dshield.toml";
const CODE: &str = "functions/hello";

/// Makes a project in `dir`. Exit code 0 when it is there, 2 when it would overwrite something, 1 when it cannot be
/// written; then nothing of it is left.
#[must_use]
pub fn run(dir: &Path, runtime: Runtime) -> ExitCode {
    match create(dir, runtime) {
        Ok(created) => {
            let _ = io::stdout().write_all(next_steps(dir, &created).as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "dshield: {error}");
            match error {
                InitError::Exists(_) => ExitCode::from(2),
                InitError::Write { .. } => ExitCode::FAILURE,
            }
        }
    }
}

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{} is there already and would be overwritten; name another folder, or remove it first", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {source}; name a folder that this user can write to", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The file that a function of this runtime starts with: its name, its text and its mode.
fn entry(runtime: Runtime) -> (&'static str, &'static str, u32) {
    match runtime {
        Runtime::Python3 => ("app.py", include_str!("templates/app.py"), 0o644),
        Runtime::Node => ("app.js", include_str!("templates/app.js"), 0o644),
        Runtime::Native => ("bootstrap", include_str!("templates/bootstrap"), 0o755),
    }
}

fn policy(runtime: Runtime) -> String {
    format!(
        r#"# What runs, and where its data may go. `dshield check {POLICY}` says it in plain words.

[[function]]
name = "hello"
runtime = "{runtime}"
code = "{CODE}"

# Without a rule this function can send data nowhere. To let it reach one host, and only so:
#
# [[function.egress]]
# host = "api.anthropic.com"
# methods = ["POST"]
# paths = ["/v1/messages"]
"#
    )
}

/// Writes the files; on failure removes what it wrote.
fn create(dir: &Path, runtime: Runtime) -> Result<Vec<PathBuf>, InitError> {
    let (name, text, mode) = entry(runtime);
    let policy = policy(runtime);
    let files = [(dir.join(POLICY), policy.as_str(), 0o644), (dir.join(CODE).join(name), text, mode)];
    for (path, ..) in &files {
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path.clone()));
        }
    }
    let mut made = Made::default();
    for (path, text, mode) in &files {
        made.file(path, text, *mode)?;
    }
    Ok(made.keep())
}

/// What was made so far; removed again when dropped.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Made {
    fn file(&mut self, path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
            _ => InitError::Write { path: path.to_owned(), source },
        };
        let missing = path.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        for folder in missing.collect::<Vec<_>>().into_iter().rev() {
            fs::create_dir(folder).map_err(failed)?;
            self.folders.push(folder.to_owned());
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
        self.files.push(path.to_owned());
        file.write_all(text.as_bytes()).map_err(failed)
    }

    fn keep(mut self) -> Vec<PathBuf> {
        self.folders.clear();
        std::mem::take(&mut self.files)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in self.files.iter().rev() {
            let _ = fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn next_steps(dir: &Path, created: &[PathBuf]) -> String {
    let mut out = String::new();
    for path in created {
        out.push_str(&format!("created {}\n", path.display()));
    }
    out.push_str("\nNow run, as root:\n");
    if dir.canonicalize().ok() != Path::new(".").canonicalize().ok() {
        out.push_str(&format!("  cd {}\n", quoted(dir)));
    }
    out.push_str("  dshield dev\nand in another terminal:\n  dshield invoke hello --data '{\"name\":\"you\"}'\n");
    out
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::config;

    #[test]
    fn a_new_project_can_be_loaded_and_allows_nothing() {
        for runtime in [Runtime::Python3, Runtime::Node, Runtime::Native] {
            let dir = TempDir::new().unwrap();
            let project = dir.path().join("new/project");
            assert_eq!(create(&project, runtime).unwrap().len(), 2);
            let config = config::load(&project.join(POLICY)).unwrap();
            assert_eq!(config.functions[0].spec.runtime, runtime);
            assert!(config.functions[0].policy.egress.is_empty());
        }
    }

    #[test]
    fn the_rule_in_the_comment_is_a_good_rule() {
        let commented = policy(Runtime::Python3).replace("\n# ", "\n").replace("\n#\n", "\n");
        let commented = commented.replace("Without a rule", "# Without a rule");
        let deployment = dshield_common::policy::Deployment::parse(&commented, &mut |_| Err(String::new())).unwrap();
        assert_eq!(deployment.policy.functions[0].egress[0].host.to_string(), "api.anthropic.com");
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_made_is_left() {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join(CODE)).unwrap();
        fs::write(dir.path().join(CODE).join("app.py"), "mine").unwrap();
        let error = create(dir.path(), Runtime::Python3).unwrap_err();
        assert!(matches!(&error, InitError::Exists(path) if path.ends_with("app.py")), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join(CODE).join("app.py")).unwrap(), "mine");
        assert!(!dir.path().join(POLICY).exists());

        let blocked = TempDir::new().unwrap();
        fs::write(blocked.path().join("functions"), "a file where a folder should be").unwrap();
        let error = create(blocked.path(), Runtime::Python3).unwrap_err();
        assert!(matches!(error, InitError::Write { .. }), "{error}");
        assert!(!blocked.path().join(POLICY).exists());
    }

    #[test]
    fn the_next_steps_can_be_pasted() {
        let text = next_steps(Path::new("/tmp/it's here"), &[PathBuf::from("a")]);
        assert_eq!(
            text,
            "created a\n\nNow run, as root:\n  cd '/tmp/it'\\''s here'\n  dshield dev\nand in another terminal:\n  \
             dshield invoke hello --data '{\"name\":\"you\"}'\n"
        );
        assert!(!next_steps(Path::new("."), &[]).contains("cd "));
    }

    #[test]
    fn the_python_example_greets() {
        let dir = TempDir::new().unwrap();
        create(dir.path(), Runtime::Python3).unwrap();
        let script = "import app, json; print(json.dumps(app.handler({'name': 'you'}, None)))";
        let output = Command::new("python3").args(["-c", script]).current_dir(dir.path().join(CODE)).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.ends_with("{\"message\": \"Hello, you!\"}\n"), "{stdout}");
    }

    /// The next connection, within ten seconds.
    fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
        listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    return BufReader::new(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "the example does not call");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads one request: its first line and its body.
    fn request(stream: &mut BufReader<TcpStream>) -> (String, String) {
        let mut first = String::new();
        stream.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        (first.trim_end().to_owned(), String::from_utf8(body).unwrap())
    }

    #[test]
    fn the_native_example_speaks_the_runtime_api() {
        let dir = TempDir::new().unwrap();
        create(dir.path(), Runtime::Native).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Through bash: a file just written cannot be executed while another test's fork still holds it open.
        let mut child = Command::new("bash")
            .arg(dir.path().join(CODE).join("bootstrap"))
            .env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().unwrap().to_string())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for (id, event, want) in [
            ("id-1", "{\"name\": \"Zoë\"}", "{\"message\":\"Hello, Zoë!\"}"),
            ("id-2", "{}", "{\"message\":\"Hello, world!\"}"),
        ] {
            let mut stream = accept(&listener);
            assert_eq!(request(&mut stream).0, "GET /2018-06-01/runtime/invocation/next HTTP/1.0");
            let length = event.len();
            let head =
                format!("HTTP/1.0 200 OK\r\nlambda-runtime-aws-request-id: {id}\r\ncontent-length: {length}\r\n\r\n");
            stream.get_mut().write_all(format!("{head}{event}").as_bytes()).unwrap();
            drop(stream);
            let mut stream = accept(&listener);
            let (first, body) = request(&mut stream);
            assert_eq!(first, format!("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.0"));
            assert_eq!(body, want);
            stream.get_mut().write_all(b"HTTP/1.0 202 Accepted\r\n\r\n").unwrap();
        }
        drop(listener);
        assert!(!child.wait().unwrap().success(), "without a runtime API it ends");
    }
}
