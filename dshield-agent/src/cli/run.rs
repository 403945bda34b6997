//! `dshield run`: the agent in the foreground, until SIGTERM or SIGINT.
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{Agent, AttestationOptions, Options, StartError};
use crate::attest::choose::Choice;
use crate::attest::{configfs_tsm, rtmr};
use crate::harden::{self, Memory};

/// What `dshield run` takes.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The policy file.
    #[arg(long, value_name = "FILE", default_value = "dshield.toml")]
    config: PathBuf,
    /// Where the API listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = super::listen_address)]
    listen: SocketAddr,
    /// The folder that keeps the log.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/dshield")]
    state: PathBuf,
    /// Names the cgroup and the pins; two agents on one machine need two names.
    #[arg(long, value_name = "NAME", default_value = "dshield")]
    name: String,
    /// Whether the API speaks TLS, with a key that is made at the start and that the attestation names. Without it nobody
    /// can tell that a connection ends in this agent: for gateways that end TLS themselves.
    #[arg(long, value_name = "on|off", default_value = "on", hide_possible_values = true)]
    tls: Switch,
    #[command(flatten)]
    attestation: AttestationArgs,
}

/// Who makes quotes.
#[derive(Debug, clap::Args)]
pub(super) struct AttestationArgs {
    /// Who makes quotes over what runs here: auto (what the machine has: dstack, else configfs-tsm, else nobody), none,
    /// dstack, configfs-tsm, tpm (where it was built with that), or development, which proves nothing.
    #[arg(long, value_name = "PROVIDER")]
    attestation: Option<Choice>,
    /// How to reach the TPM, as programs on tpm2-tss have it.
    #[arg(long, value_name = "TCTI", default_value = "device:/dev/tpmrm0")]
    tpm: String,
    /// Where the kernel makes quotes.
    #[arg(long, value_name = "DIR", default_value = configfs_tsm::ROOT, hide = true)]
    tsm_report: PathBuf,
    /// Where the kernel has the measurement registers.
    #[arg(long, value_name = "DIR", default_value = rtmr::MEASUREMENTS, hide = true)]
    tsm_measurements: PathBuf,
    /// Where it is kept what RTMR3 was extended with.
    #[arg(long, value_name = "FILE", default_value = rtmr::LOG, hide = true)]
    rtmr3_log: PathBuf,
}

impl AttestationArgs {
    /// What they ask for; `default` where they name no provider.
    pub(super) fn options(self, default: Choice) -> AttestationOptions {
        let Self { attestation, tpm, tsm_report, tsm_measurements, rtmr3_log } = self;
        AttestationOptions {
            choice: attestation.unwrap_or(default),
            tsm: tsm_report,
            registers: tsm_measurements,
            rtmr3_log,
            tcti: tpm,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// Runs the agent.
pub(super) async fn run(args: RunArgs) -> ExitCode {
    let RunArgs { config, listen, state, name, tls, attestation } = args;
    let (tls, attestation) = (tls == Switch::On, attestation.options(Choice::Auto));
    let agent = match start(Options { config, listen, state, name, may_observe: false, tls, attestation }).await {
        Ok(agent) => agent,
        Err(code) => return code,
    };
    let signal = stop_signal().await;
    tracing::info!("{signal}: stopping");
    agent.stop().await;
    ExitCode::SUCCESS
}

/// Starts the agent and says so, or says why not.
pub(super) async fn start(options: Options) -> Result<Agent, ExitCode> {
    // First: from here on there are secrets.
    let memory = harden::harden().map_err(|error| {
        eprintln!("dshield: {error}");
        ExitCode::FAILURE
    })?;
    raise_descriptor_limit();
    let name = options.name.clone();
    let agent = Agent::start(options).await.map_err(|error| {
        eprintln!("dshield: {error}");
        match error {
            StartError::Config(_) | StartError::Observe | StartError::Secret(_) => ExitCode::from(2),
            StartError::Kernel(crate::kernel::KernelError::BadName { .. }) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    })?;
    match memory {
        Memory::Locked => tracing::info!("the agent's memory is not dumpable, and none of it is swapped out"),
        Memory::Swappable(why) => tracing::warn!(
            "the agent's memory, keys included, can be swapped out ({why}): give it CAP_IPC_LOCK, or run without swap"
        ),
    }
    let missing = agent.missing_controllers();
    if missing.is_empty() {
        tracing::info!("instances are bounded by the cgroup controllers memory and pids");
    } else {
        tracing::warn!(
            "instances are not bounded by the cgroup v2 controllers {}: this machine does not offer them there",
            missing.join(" and ")
        );
    }
    if agent.isolation().bpf_lsm {
        tracing::info!("programs at the security hooks (BPF LSM) refuse instances other families, bpf(2) and ptrace");
    } else {
        tracing::info!("no programs at the security hooks (BPF LSM); `dshield doctor` says why");
    }
    match agent.isolation().landlock_abi {
        0 => tracing::info!("this kernel has no Landlock: mounts and user ids alone bound what instances write"),
        abi => tracing::info!("Landlock (ABI {abi}) bounds what instances write"),
    }
    match agent.tls() {
        Some(tls) => tracing::info!("the API speaks TLS with the key {} (SHA-256 of its SPKI)", tls.spki_sha256()),
        None if agent.address().ip().is_loopback() => tracing::info!("the API speaks plain HTTP"),
        None => tracing::warn!("the API speaks plain HTTP: whoever is between it and its callers reads along"),
    }
    match agent.attester().provider() {
        Some(provider) => tracing::info!("quotes over what runs here are made by: {}", provider.as_str()),
        None => tracing::info!("no quotes: {}", agent.attester().reason()),
    }
    // The one line on stdout: for whoever started the agent and waits for it.
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "dshield ready {} name={name}", agent.url());
    let _ = stdout.flush();
    Ok(agent)
}

/// Waits for a signal to stop: its name.
pub(super) async fn stop_signal() -> &'static str {
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let Ok((mut term, mut int)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// Each instance holds about a dozen descriptors.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!("RLIMIT_NOFILE stays at {soft}: {error}");
    }
}
