//! `dshield dev`: the agent for writing functions. Reloads when code or policy change, prints the log.
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::run::{AttestationArgs, Switch};
use super::{logs, run};
use crate::agent::{Agent, Options};
use crate::attest::choose::Choice;
use crate::config::{self, LoadedConfig};
use crate::log::Log;

/// Editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(5);

/// What `dshield dev` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    /// The policy file.
    #[arg(long, value_name = "FILE", default_value = "dshield.toml")]
    config: PathBuf,
    /// Where the API listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = super::listen_address)]
    listen: SocketAddr,
    /// The folder that keeps the log. [default: .dshield beside the policy file]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Names the cgroup and the pins; two agents on one machine need two names.
    #[arg(long, value_name = "NAME", default_value = "dshield-dev")]
    name: String,
    /// Whether the API speaks TLS, as that of `dshield run` does.
    #[arg(long, value_name = "on|off", default_value = "off", hide_possible_values = true)]
    tls: Switch,
    #[command(flatten)]
    attestation: AttestationArgs,
}

/// Runs the agent.
pub(super) async fn run(args: DevArgs) -> ExitCode {
    let DevArgs { config, listen, state, name, tls, attestation } = args;
    let beside = config.parent().unwrap_or(Path::new("")).join(".dshield");
    let state = state.unwrap_or(beside);
    // Before the agent copies the code: no change after that goes unseen.
    let changes = match Changes::watch(&config, &state).await {
        Ok(changes) => changes,
        Err(error) => {
            say(&format!(
                "dshield dev: cannot watch files: {error}; raise fs.inotify.max_user_instances, or use `dshield run`"
            ));
            return ExitCode::FAILURE;
        }
    };
    let (tls, attestation) = (tls == Switch::On, attestation.options(Choice::Development));
    let options = Options { config: config.clone(), listen, state, name, may_observe: true, tls, attestation };
    let agent = match run::start(options).await {
        Ok(agent) => agent,
        Err(code) => return code,
    };
    warn_of_observing(&agent);
    let printer = tokio::spawn(print(agent.log().clone()));
    let result = reload(&agent, &config, changes).await;
    agent.stop().await;
    // The log has closed, so the printer ends when it has printed the rest.
    let _ = printer.await;
    result
}

/// Prints entries as they become durable, from this boot's first on.
async fn print(log: Log) {
    let mut head = log.head();
    let mut next = log.boot_entry();
    head.mark_unchanged();
    loop {
        while let Ok(lines) = log.read(next, 256).await {
            if lines.is_empty() {
                break;
            }
            for line in &lines {
                // Whoever read the output may have had enough; the agent goes on.
                let _ = writeln!(io::stdout(), "{}", logs::human(line));
            }
            next += lines.len() as u64;
        }
        if head.changed().await.is_err() {
            return;
        }
    }
}

/// What is watched, and what changed there.
struct Changes {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<Vec<PathBuf>>,
    /// What was loaded last without a mistake.
    loaded: Option<LoadedConfig>,
}

impl Changes {
    async fn watch(config: &Path, state: &Path) -> notify::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = watch(sender, written_here(state))?;
        let mut changes = Self { watcher, events, loaded: load(config).await.ok() };
        changes.follow(config);
        Ok(changes)
    }

    /// Watches the policy's folder and every code folder. Watching one twice does no harm.
    fn follow(&mut self, config: &Path) {
        let folder = config.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
        let functions = self.loaded.iter().flat_map(|loaded| &loaded.functions);
        let code = functions.map(|function| (function.code.clone(), RecursiveMode::Recursive));
        let watched = folder.map(|folder| (folder, RecursiveMode::NonRecursive));
        for (path, mode) in watched.into_iter().chain(code) {
            if let Err(error) = self.watcher.watch(&path, mode) {
                say(&format!("dshield dev: cannot watch {}: {error}", path.display()));
            }
        }
    }

    /// The paths of the next changes; `None` when watching is not possible any more.
    async fn next(&mut self) -> Option<Vec<PathBuf>> {
        let mut changed = self.events.recv().await?;
        // At most so long: something that never stops changing must not keep the rest from being seen.
        let _ = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(paths)) = tokio::time::timeout(QUIET, self.events.recv()).await {
                changed.extend(paths);
            }
        })
        .await;
        Some(changed)
    }
}

/// Puts each change in force, until a signal ends it or watching is not possible. A deployment that has begun is not
/// left in the middle.
async fn reload(agent: &Agent, config: &Path, mut changes: Changes) -> ExitCode {
    let mut stop = pin!(run::stop_signal());
    let mut wrong: Option<String> = None;
    loop {
        changes.follow(config);
        let changed = tokio::select! {
            _ = &mut stop => return ExitCode::SUCCESS,
            changed = changes.next() => changed,
        };
        let Some(changed) = changed else { return ExitCode::FAILURE };
        match load(config).await {
            // Another file in the policy's folder, perhaps the one that this output goes to.
            Ok(new) if wrong.is_none() && changes.loaded.as_ref().is_some_and(|old| same(old, &new, &changed)) => {}
            Ok(new) => match agent.deploy(&new).await {
                Ok(()) => {
                    say(&format!("dshield dev: reloaded {}", config.display()));
                    warn_of_observing(agent);
                    (changes.loaded, wrong) = (Some(new), None);
                }
                Err(error) => complain(&mut wrong, error.to_string()),
            },
            Err(error) => complain(&mut wrong, error),
        }
    }
}

const OBSERVING: &str = "\
dshield dev: ************************************************************************
dshield dev: NOTHING IS ENFORCED. The policy says mode = \"observe\": what it does not
dshield dev: allow is let through and written down. Use it with code and data that may
dshield dev: go anywhere. `dshield policy suggest` makes rules of what is written down.
dshield dev: ************************************************************************";

fn warn_of_observing(agent: &Agent) {
    if agent.observes() {
        say(OBSERVING);
    }
}

/// Talk; that nobody listens is no reason to end.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what is wrong, once.
fn complain(before: &mut Option<String>, error: String) {
    if before.as_ref() != Some(&error) {
        say(&format!("dshield dev: not reloaded, the last good version stays:\n{error}"));
        *before = Some(error);
    }
}

/// Whether nothing changed that a deployment is made of.
fn same(old: &LoadedConfig, new: &LoadedConfig, changed: &[PathBuf]) -> bool {
    let code = |path: &PathBuf| new.functions.iter().any(|function| path.starts_with(&function.code));
    old.deployment == new.deployment && old.functions == new.functions && !changed.iter().any(code)
}

async fn load(config: &Path) -> Result<LoadedConfig, String> {
    let config = config.to_owned();
    match spawn_blocking(move || config::load(&config)).await {
        Ok(loaded) => loaded.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn watch(sender: mpsc::UnboundedSender<Vec<PathBuf>>, ours: Vec<PathBuf>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        let foreign = |path: &PathBuf| !ours.iter().any(|own| path.starts_with(own));
        let paths: Vec<PathBuf> = event.paths.into_iter().filter(foreign).collect();
        if !paths.is_empty() {
            let _ = sender.send(paths);
        }
    })
}

/// What this process itself writes to: a change of it is no reason to reload, and would never end.
fn written_here(state: &Path) -> Vec<PathBuf> {
    let output = ["/proc/self/fd/1", "/proc/self/fd/2"].into_iter().map(Path::new);
    output.chain([state]).map(|path| resolved(path).unwrap_or_else(|_| path.to_owned())).collect()
}

/// As the kernel will name it, also when it is not there yet.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|_| {
        let absolute = std::path::absolute(path)?;
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
            _ => Ok(absolute),
        }
    })
}
