//! `dshield dev`: the agent for writing functions. Reloads when code or policy change, prints the log.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{logs, run};
use crate::agent::{Agent, Options};
use crate::config::{self, LoadedConfig};
use crate::log::Log;

/// Editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// A folder in which something is always written must not keep a change waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What `dshield dev` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    /// The policy file.
    #[arg(long, value_name = "FILE", default_value = "dshield.toml")]
    config: PathBuf,
    /// Where the API listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The folder that keeps the log. [default: .dshield beside the policy file]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Names the cgroup and the pins; two agents on one machine need two names.
    #[arg(long, value_name = "NAME", default_value = "dshield-dev")]
    name: String,
}

/// Runs the agent.
pub(super) async fn run(args: DevArgs) -> ExitCode {
    let DevArgs { config, listen, state, name } = args;
    let beside = config.parent().unwrap_or(Path::new("")).join(".dshield");
    let state = state.unwrap_or(beside);
    let options = Options { config: config.clone(), listen, state: state.clone(), name };
    let agent = match run::start(options).await {
        Ok(agent) => agent,
        Err(code) => return code,
    };
    let printer = tokio::spawn(print(agent.log().clone()));
    let result = tokio::select! {
        _ = run::stop_signal() => ExitCode::SUCCESS,
        failed = reload(&agent, &config, &state) => failed,
    };
    agent.stop().await;
    // The log has closed, so the printer ends when it has printed the rest.
    let _ = printer.await;
    result
}

/// Prints entries as they become durable, from this boot's first on.
async fn print(log: Log) {
    let mut head = log.head();
    let mut next = head.borrow_and_update().saturating_sub(1);
    loop {
        while let Ok(lines) = log.read(next, 256).await {
            if lines.is_empty() {
                break;
            }
            for line in &lines {
                println!("{}", logs::human(line));
            }
            next += lines.len() as u64;
        }
        if head.changed().await.is_err() {
            return;
        }
    }
}

/// Puts each change in force; returns only when watching is not possible.
async fn reload(agent: &Agent, config: &Path, state: &Path) -> ExitCode {
    let (sender, mut changes) = mpsc::unbounded_channel();
    let mut watcher = match watch(sender, state) {
        Ok(watcher) => watcher,
        Err(error) => {
            eprintln!("dshield dev: cannot watch files: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut loaded = load(config).await.ok();
    loop {
        follow(&mut watcher, config, loaded.as_ref());
        loop {
            match changes.recv().await {
                Some(paths) if concern(&paths, config, loaded.as_ref()) => break,
                Some(_) => {}
                None => return ExitCode::FAILURE,
            }
        }
        let first = Instant::now();
        while let Ok(Some(_)) = tokio::time::timeout(QUIET, changes.recv()).await
            && first.elapsed() < LONGEST_WAIT
        {}
        match load(config).await {
            Ok(new) => {
                match agent.deploy(&new).await {
                    Ok(()) => eprintln!("dshield dev: reloaded {}", config.display()),
                    Err(error) => eprintln!("dshield dev: not reloaded: {error}"),
                }
                loaded = Some(new);
            }
            Err(error) => eprintln!("dshield dev: not reloaded, the last good version stays:\n{error}"),
        }
    }
}

async fn load(config: &Path) -> Result<LoadedConfig, String> {
    let config = config.to_owned();
    match spawn_blocking(move || config::load(&config)).await {
        Ok(loaded) => loaded.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether what runs depends on one of `paths`: beside the policy there may be other files that change all the
/// time, this program's own output among them.
fn concern(paths: &[PathBuf], config: &Path, loaded: Option<&LoadedConfig>) -> bool {
    let Some(LoadedConfig { path: policy, certificates, functions, .. }) = loaded else { return true };
    paths.iter().any(|path| {
        path == policy
            || path == config
            || certificates.contains(path)
            || functions.iter().any(|function| path.starts_with(&function.code))
    })
}

fn watch(sender: mpsc::UnboundedSender<Vec<PathBuf>>, state: &Path) -> notify::Result<RecommendedWatcher> {
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // The log itself grows in the folder that is watched.
        let paths: Vec<_> = event.paths.into_iter().filter(|path| !path.starts_with(&state)).collect();
        if !matches!(event.kind, EventKind::Access(_)) && !paths.is_empty() {
            let _ = sender.send(paths);
        }
    })
}

/// Watches the policy's folder and every code folder. Watching one twice does no harm.
fn follow(watcher: &mut RecommendedWatcher, config: &Path, loaded: Option<&LoadedConfig>) {
    let folder = config.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let code = loaded.iter().flat_map(|loaded| &loaded.functions).map(|function| function.code.clone());
    let watched = folder.map(|folder| (folder, RecursiveMode::NonRecursive));
    for (path, mode) in watched.into_iter().chain(code.map(|code| (code, RecursiveMode::Recursive))) {
        if let Err(error) = watcher.watch(&path, mode) {
            eprintln!("dshield dev: cannot watch {}: {error}", path.display());
        }
    }
}
