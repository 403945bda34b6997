//! `dshield-verify serve`: configured deployments flow in; verdicts, badges and pages about them flow out over HTTP.
//!
//! Strangers choose among the deployments that the operator named. No request makes this service connect to anything else,
//! or ask a deployment more often than the operator agreed to.
//!
//! * `config`: which deployments, and what is expected of them
//! * `watch`: looks at one of them, again and again; `standing`: what its last verdict is worth now
//! * `server`: connections; `routes`: what a request asks for; `answer`: what goes back; `posted`: evidence that somebody sends
//! * `badge`, `page`: for people; `html`: text that cannot become markup
mod answer;
mod badge;
mod config;
mod html;
mod page;
mod posted;
mod routes;
mod server;
mod standing;
mod watch;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::JoinSet;

use self::config::{ConfigError, Configured, Name};
use self::watch::{How, Watch};
use super::memory::{Memory, MemoryError};
use crate::client::printable;

/// Judgements of posted evidence at the same time: they cost a processor each.
const JUDGING: usize = 2;
/// Posted bodies at the same time: they cost memory.
const BODIES: usize = 64;
/// Requests that may wait for a look at the same time.
const WAITING: usize = 32;

/// What to serve, and where.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Where to listen. There is no TLS: put what has it in front, for any other address than this machine's own.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8700")]
    listen: SocketAddr,
    /// The deployments that may be asked about (docs/how-to/run-a-verification-service.md).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["deployment", "expect", "max_age"])]
    deployments: Option<PathBuf>,
    /// A deployment that may be asked about, in place of a file. May be repeated, each with its --expect.
    #[arg(long, value_name = "NAME=URL")]
    deployment: Vec<String>,
    /// What is expected of the --deployment at the same place in the order.
    #[arg(long, value_name = "FILE")]
    expect: Vec<PathBuf>,
    /// How long a verdict on a --deployment counts.
    #[arg(long, value_name = "TIME", default_value = config::DEFAULT_MAX_AGE)]
    max_age: String,
    /// The folder that remembers what was seen of logs, so that a rollback is noticed.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Ask nobody but the deployments: collateral must be in the evidence.
    #[arg(long)]
    offline: bool,
    /// Where collateral (Intel's data about platforms) is fetched that a deployment's evidence lacks.
    #[arg(long, value_name = "URL", default_value = super::DEFAULT_PCCS)]
    pccs: String,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("cannot listen at {at}: {source}; name another address with --listen")]
    Listen { at: SocketAddr, source: std::io::Error },
    #[error("signals cannot be waited for: {0}")]
    Signals(std::io::Error),
}

/// What requests are answered from.
#[derive(Debug)]
struct Service {
    watches: BTreeMap<Name, Arc<Watch>>,
    bodies: Semaphore,
    judging: Semaphore,
    waiting: Semaphore,
}

impl Service {
    fn new(configured: Vec<Configured>, how: &How) -> Self {
        let watches = configured.into_iter().map(|configured| {
            let watch = Watch::new(configured, how.clone());
            (watch.configured().name.clone(), Arc::new(watch))
        });
        Self {
            watches: watches.collect(),
            bodies: Semaphore::new(BODIES),
            judging: Semaphore::new(JUDGING),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The deployment of this name; the text is a stranger's.
    fn watch(&self, name: &str) -> Option<&Arc<Watch>> {
        self.watches.get(name)
    }
}

/// Serves until SIGTERM or SIGINT.
pub(super) async fn run(args: ServeArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("dshield-verify: {error}").lines() {
                eprintln!("{}", printable(line));
            }
            ExitCode::from(if matches!(error, ServeError::Config(_)) { 2 } else { 1 })
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let configured = match &args.deployments {
        Some(file) => config::from_file(file)?,
        None => config::from_pairs(&args.deployment, &args.expect, &args.max_age)?,
    };
    if configured.is_empty() {
        eprintln!("dshield-verify: no deployment is configured, so only POST /v1/verify gives verdicts");
    }
    let memory = Memory::new(args.state)?;
    let how = How { memory, pccs: (!args.offline).then_some(args.pccs), spacing: watch::SPACING };
    let service = Arc::new(Service::new(configured, &how));
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let unheard = |source| ServeError::Listen { at: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(unheard)?;
    let address = listener.local_addr().map_err(unheard)?;

    let (stop, stopped) = channel::channel(());
    let mut looking = JoinSet::new();
    for watch in service.watches.values() {
        looking.spawn(watch.clone().keep_looking(stopped.clone()));
    }
    println!("dshield-verify serving http://{address}");
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::serve(listener, service, shutdown).await;
    drop(stop);
    while looking.join_next().await.is_some() {}
    Ok(())
}
