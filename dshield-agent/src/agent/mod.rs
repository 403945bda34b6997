//! The agent as a whole: brings kernel side, log, proxy, pools and API up in order, and down again.
//!
//! In: [`Options`]. Out: a running [`Agent`]. This is the only place that knows all the others.
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dshield_common::attestation::statement::Function;
use dshield_common::log::entry::{self, Event, Isolation, PolicyInForce, Record};
use dshield_common::policy::{AttestationPolicy, LogPolicy, Mode, Policy};
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;

pub use self::attestation::AttestationOptions;
use self::attestation::{Chosen, Kept, choose};
use self::collateral::Refresh;
use self::events::Registry;
pub use self::ground::{Ground, READY, Stock};
use self::launch::Launch;
pub use self::selftest::{SelfTest, SelfTestError, Verdict};
use self::watchdog::Watchdog;
use self::witness::Witnesses;
use crate::api::{self, ApiState, Deployed};
use crate::attest::choose::Choice;
use crate::attest::{Attester, Facts, InForce, Measurements, NowInForce, RatlsCertificate, RatlsError};
use crate::config::{self, ConfigError, LoadedConfig};
use crate::kernel::{Kernel, KernelError, process};
use crate::log::{BootFacts, Log, LogError, Observing, Storage};
use crate::proxy::{self, CaError, InspectionCa, Proxy};
use crate::runtime::Pool;
use crate::sandbox::{Filter, SandboxError, Spawner, landlock, trust};
use crate::secrets::{self, SecretError, Secrets};
use crate::snapshot::{FrozenFunction, Snapshot, SnapshotError, Store};
use crate::walls::{Wall, Walls};

mod attestation;
mod collateral;
mod events;
mod ground;
mod launch;
mod output;
mod selftest;
mod uids;
mod watchdog;
mod witness;

/// The log, in the folder of the state.
pub const LOG_FILE: &str = "log.redb";

/// How long connections that were told to end may take for that.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policy file.
    pub config: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where the log is kept.
    pub state: PathBuf,
    /// Names the cgroup, the pins and the run-time folder; unique on the machine.
    pub name: String,
    /// Whether the policy may only observe: never where anybody relies on it.
    pub may_observe: bool,
    /// Whether the API speaks TLS.
    pub tls: bool,
    /// Who makes quotes.
    pub attestation: AttestationOptions,
}

/// Why the agent did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The operator's or the machine's: there are no quotes of the kind that was asked for.
    #[error("--attestation {choice} cannot be had here: {why}; `--attestation auto` takes what the machine has")]
    Attestation {
        /// What was asked for.
        choice: Choice,
        /// Why not.
        why: String,
    },
    /// The operator's: the inspection CA could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The machine's: the API's TLS key could not be made.
    #[error(transparent)]
    Certificate(#[from] RatlsError),
    /// Somebody with root's rights changed what the kernel side had just set up.
    #[error("{0}")]
    Gate(String),
    /// The operator's: the policy file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operator's or the machine's.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The address of the API cannot be used.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The operator's or the disk's.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The operator's: the log's place is chosen when the agent starts.
    #[error("`memory_only` cannot change while the agent runs: restart dshield")]
    MemoryOnly,
    /// The operator's: the log has one name, key and set of witnesses for a boot.
    #[error("[log] cannot change while the agent runs: restart dshield")]
    LogPolicy,
    /// The operator's: who is asked about the platform is chosen when the agent starts.
    #[error("[attestation] cannot change while the agent runs: restart dshield")]
    AttestationPolicy,
    /// `/proc` is missing.
    #[error("cannot measure the running program: {0}; is /proc mounted?")]
    Measure(std::io::Error),
    /// The operator's: a policy that lets everything through is no policy to run.
    #[error(
        "mode = \"observe\" refuses nothing: only `dshield dev` takes it; write mode = \"enforce\", or leave it out"
    )]
    Observe,
    /// The policy's name server cannot be spoken to from here, whatever its address.
    #[error("cannot use the policy's resolver: {0}")]
    Resolver(std::io::Error),
    /// A run-time file cannot be written.
    #[error("{}: {source}", path.display())]
    RunDir {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The machine's.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The operator's: what the policy injects is not in the environment.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The operator's or the machine's: the functions' code cannot be copied.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine's: what the walls are worth cannot be told here, or is nothing.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
}

/// A running agent.
pub struct Agent {
    address: SocketAddr,
    tls: Option<Arc<RatlsCertificate>>,
    kernel: Arc<Kernel>,
    log: Log,
    launch: Arc<Launch>,
    deployed: watch::Sender<Arc<Deployed>>,
    store: Arc<Store>,
    /// The code of what is deployed. Locked while a deployment is put in force: one at a time.
    snapshot: tokio::sync::Mutex<Option<Arc<Snapshot>>>,
    stop_api: oneshot::Sender<()>,
    api: JoinHandle<()>,
    events: JoinHandle<()>,
    watchdog: Watchdog,
    memory_only: bool,
    log_policy: LogPolicy,
    attestation_policy: AttestationPolicy,
    witnesses: Option<Witnesses>,
    collateral: Option<Refresh>,
    attester: Attester,
    /// Evidence in the certificate and the log, where there is any.
    kept: Option<Kept>,
    may_observe: bool,
    /// There while the policy in force only observes.
    observing: Mutex<Option<Observing>>,
}

impl Agent {
    /// Starts everything, or nothing.
    ///
    /// # Errors
    /// One sentence with the cause and the fix.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { config, listen, state, name, may_observe, tls, attestation } = options;
        let config = blocking(move || config::load(&config)).await?;
        let policy = &config.deployment.policy;
        check_mode(policy, may_observe)?;
        // Before anything is set up: `deploy` reads them for use.
        Secrets::from_environment(policy)?;
        let listener =
            TcpListener::bind(listen).await.map_err(|source| StartError::Listen { address: listen, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: listen, source })?;
        let tls = tls.then(|| RatlsCertificate::generate(names(address)).map(Arc::new)).transpose()?;
        let (kernel, events) = blocking(move || Kernel::start(&name)).await?;
        let kernel = Arc::new(kernel);
        let asked = (attestation, state, may_observe);
        match Self::start_with(config, (listener, address), tls, asked, kernel.clone(), events).await {
            Ok(agent) => Ok(agent),
            Err(error) => {
                stop_kernel(kernel).await;
                Err(error)
            }
        }
    }

    async fn start_with(
        config: LoadedConfig,
        (listener, address): (TcpListener, SocketAddr),
        tls: Option<Arc<RatlsCertificate>>,
        (attestation, state, may_observe): (AttestationOptions, PathBuf, bool),
        kernel: Arc<Kernel>,
        mut events: crate::kernel::Events,
    ) -> Result<Self, StartError> {
        let policy = config.deployment.policy.clone();
        let memory_only = policy.memory_only;
        let mode = (policy.mode == Mode::Observe).then_some(entry::Mode::Observe);
        let (origin, ed25519) = (policy.log.origin.clone(), secrets::log_key(&policy)?);
        let filters = Filter::compile_all()?;
        let spawner = Spawner::new()?;
        let ca = Arc::new(InspectionCa::generate()?);
        let run_dir = kernel.run_dir().to_owned();
        let ca_pem = ca.pem().to_owned();
        let isolation = isolation(&kernel);
        let (facts_isolation, programs) = (isolation.clone(), kernel.programs());
        let policy_sha256 = policy.hash().to_string();
        let set_up = kernel.clone();
        let (log, spawner, filters, events, store, measurements, quoter) = blocking(move || {
            if Walls::standing().stands(Wall::SelfTest) {
                let tested = SelfTest::run(&set_up, &mut events, &spawner, &filters)?;
                tested.verdict()?;
                tracing::debug!("self-test: {} attempts held, {:?}", tested.verdicts.len(), tested.took);
            }
            let path = run_dir.join("ca-bundle.pem");
            fs::write(&path, trust::bundle(&ca_pem)).map_err(|source| StartError::RunDir { path, source })?;
            let root = run_dir.join("root");
            fs::create_dir_all(&root).map_err(|source| StartError::RunDir { path: root, source })?;
            let store = Store::mount(&run_dir)?;
            let measurements = Measurements::take(&filters).map_err(StartError::Measure)?;
            let Chosen { quoter, tpm_boots } = choose(&attestation, &state, &measurements, &policy_sha256)?;
            let storage = if memory_only { Storage::Memory } else { Storage::File(state.join(LOG_FILE)) };
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let sha256 = measurements.sha256.clone();
            let log = Log::open(storage, BootFacts { version, sha256, isolation, mode, origin, ed25519, tpm_boots })?;
            Ok::<_, StartError>((log, spawner, filters, events, store, measurements, quoter))
        })
        .await?;

        let asked = kernel.clone();
        let who_asked = Arc::new(move |netns, source| asked.asker(netns, source).map(|asker| process(&asker)));
        let proxy = Proxy::new(log.clone(), ca, who_asked);
        let to_witnesses = proxy.own(policy.log.egress(), &policy).map_err(StartError::Resolver)?;
        let to_pccs = proxy.own(policy.attestation.egress(), &policy).map_err(StartError::Resolver)?;
        let registry = Arc::new(Registry::default());
        let events = tokio::spawn(events::run(events, registry.clone(), log.clone()));
        let launch = Arc::new(Launch::new(kernel.clone(), log.clone(), proxy, spawner, filters, registry));
        let (deployed, deployment) = watch::channel(Arc::default());
        let watchdog = Watchdog::start(kernel.clone(), log.clone(), deployment.clone());
        let asked = watchdog.state();
        let attester = match quoter {
            Ok(quoter) => {
                let tls_spki_sha256 = tls.as_ref().map(|certificate| certificate.spki_sha256().to_owned());
                let facts = Facts { measurements, programs, isolation: facts_isolation, tls_spki_sha256 };
                Attester::start(quoter, facts, now_in_force(deployment.clone()), log.clone())
            }
            Err(why) => Attester::none(why),
        };
        let health = Arc::new(move || watchdog::health(&asked));
        let state = ApiState { log: log.clone(), attester: attester.clone(), deployment: deployment.clone(), health };
        let (stop_api, stopped) = oneshot::channel::<()>();
        let api = tokio::spawn(async {});
        let observing = Mutex::default();
        let mut agent = Self {
            address,
            tls,
            kernel,
            log,
            launch,
            deployed,
            store: Arc::new(store),
            snapshot: tokio::sync::Mutex::default(),
            stop_api,
            api,
            events,
            watchdog,
            memory_only,
            log_policy: policy.log.clone(),
            attestation_policy: policy.attestation.clone(),
            witnesses: None,
            collateral: None,
            attester: attester.clone(),
            kept: None,
            may_observe,
            observing,
        };
        if let Err(error) = agent.deploy(&config).await {
            agent.attester.stop();
            agent.watchdog.stop().await;
            return Err(error);
        }
        agent.api = tokio::spawn(api::serve(listener, agent.tls.clone(), state, async move {
            let _ = stopped.await;
        }));
        agent.launch.stock().open();
        let LogPolicy { witnesses, interval, .. } = policy.log.clone();
        if !witnesses.is_empty() {
            agent.witnesses = Some(Witnesses::start(agent.log.clone(), to_witnesses, witnesses, interval));
        }
        agent.kept = Kept::start(attester.clone(), agent.log.clone(), agent.tls.clone(), deployment);
        let pccs = policy.attestation.pccs.clone();
        agent.collateral = pccs.and_then(|pccs| Refresh::start(attester, to_pccs, pccs));
        Ok(agent)
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's TLS key and certificate; none where it speaks plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<RatlsCertificate>> {
        self.tls.as_ref()
    }

    /// The API's URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// What gives evidence.
    #[must_use]
    pub fn attester(&self) -> &Attester {
        &self.attester
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The limits that this machine cannot enforce on instances.
    #[must_use]
    pub fn missing_controllers(&self) -> Vec<&'static str> {
        self.kernel.cgroup().missing()
    }

    /// The walls that depend on the machine, as the boot entry has them.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        isolation(&self.kernel)
    }

    /// Whether the policy in force refuses nothing that a rule could allow.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.observing.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Puts a deployment in force: its code is copied and hashed, its policy and these hashes go into the log, and then
    /// its functions take the place of the ones before, whose instances end.
    ///
    /// # Errors
    /// The code cannot be copied, the log does not take the policy, the policy asks for what needs a restart, or the
    /// kernel side is not what it was; the deployment before stays.
    pub async fn deploy(&self, config: &LoadedConfig) -> Result<(), StartError> {
        let policy = &config.deployment.policy;
        if policy.memory_only != self.memory_only {
            return Err(StartError::MemoryOnly);
        }
        if policy.log != self.log_policy {
            return Err(StartError::LogPolicy);
        }
        if policy.attestation != self.attestation_policy {
            return Err(StartError::AttestationPolicy);
        }
        check_mode(policy, self.may_observe)?;
        let secrets = Secrets::from_environment(policy)?;
        let mut kept = self.snapshot.lock().await;
        let (store, functions, before) = (self.store.clone(), config.functions.clone(), kept.clone());
        let new = Arc::new(blocking(move || store.take(&functions, before.as_deref())).await?);
        let (done, unused) = match self.put_in_force(config, secrets, new.functions()).await {
            Ok(()) => (Ok(()), kept.replace(new)),
            Err(error) => (Err(error), Some(new)),
        };
        discard(unused).await;
        done
    }

    /// Until it returns, the code of the deployment before is needed.
    async fn put_in_force(
        &self,
        config: &LoadedConfig,
        secrets: Arc<Secrets>,
        functions: &[Arc<FrozenFunction>],
    ) -> Result<(), StartError> {
        let policy = &config.deployment.policy;
        self.watchdog.look_now().await.map_err(StartError::Gate)?;
        let connections = connections_each(config);
        let mut launchers = Vec::with_capacity(functions.len());
        for function in functions {
            let launcher = self.launch.launcher(function.policy.clone(), policy, secrets.clone(), connections);
            launchers.push((function, launcher.map_err(StartError::Resolver)?));
        }
        let observing = (policy.mode == Mode::Observe).then(|| self.log.observing());
        self.log.append(Record::agent(Event::Policy(in_force(policy, functions)))).await?;
        let functions: BTreeMap<_, _> = launchers
            .into_iter()
            .map(|(function, launcher)| {
                let pool = Pool::new(function.clone(), launcher, self.log.clone());
                (function.spec.name.to_string(), Arc::new(pool))
            })
            .collect();
        let policy_sha256 = policy.hash().to_string();
        let new = Deployed { functions, policy: policy.canonical(), policy_sha256 };
        let old = self.deployed.send_replace(Arc::new(new));
        shutdown(&old).await;
        // Not before: until now there were instances under the policy before.
        *self.observing.lock().unwrap_or_else(PoisonError::into_inner) = observing;
        Ok(())
    }

    /// Ends requests, instances, kernel side and log, in this order.
    pub async fn stop(self) {
        let Self {
            kernel,
            log,
            deployed,
            snapshot,
            stop_api,
            api,
            events,
            watchdog,
            launch,
            witnesses,
            collateral,
            attester,
            kept,
            ..
        } = self;
        if let Some(kept) = kept {
            kept.stop().await;
        }
        attester.stop();
        if let Some(collateral) = collateral {
            collateral.stop().await;
        }
        if let Some(witnesses) = witnesses {
            witnesses.stop().await;
        }
        let _ = stop_api.send(());
        let _ = api.await;
        let last = deployed.borrow().clone();
        shutdown(&last).await;
        drop(last);
        discard(snapshot.into_inner()).await;
        // Their tasks were told to end, and each has an entry to write.
        if timeout(LAST_ENTRIES, launch.finished()).await.is_err() {
            tracing::warn!("connections have not ended; their close entries will be missing in the log");
        }
        let stock = launch.stock().clone();
        let _ = spawn_blocking(move || stock.close()).await;
        drop((deployed, launch));
        watchdog.stop().await;
        events.abort();
        let _ = events.await;
        stop_kernel(kernel).await;
        log.close().await;
    }
}

/// What the API's certificate names: where it listens, and this machine.
fn names(listen: SocketAddr) -> impl IntoIterator<Item = String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let own = listen.ip().to_string();
    if !listen.ip().is_unspecified() && !names.contains(&own) {
        names.push(own);
    }
    names
}

fn check_mode(policy: &Policy, may_observe: bool) -> Result<(), StartError> {
    if policy.mode == Mode::Observe && !may_observe { Err(StartError::Observe) } else { Ok(()) }
}

/// Ends all instances of a deployment at once: none goes on because another takes its time.
async fn shutdown(deployed: &Deployed) {
    let mut pools = JoinSet::new();
    for pool in deployed.functions.values() {
        let pool = Arc::clone(pool);
        pools.spawn(async move { pool.shutdown().await });
    }
    while pools.join_next().await.is_some() {}
}

fn isolation(kernel: &Kernel) -> Isolation {
    let landlock_abi = if Walls::standing().stands(Wall::Landlock) { landlock::abi() } else { 0 };
    let controllers = kernel.cgroup().controllers().iter().map(|name| (*name).to_owned()).collect();
    Isolation { landlock_abi, controllers, bpf_lsm: kernel.bpf_lsm() }
}

/// How many connections each instance may have at a time; says so when that is few.
fn connections_each(config: &LoadedConfig) -> usize {
    let instances: u64 = config.functions.iter().map(|function| u64::from(function.spec.concurrency.max(1))).sum();
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    proxy::fair_share(descriptors, instances).unwrap_or_else(|share| {
        tracing::warn!(
            "{descriptors} descriptors are few for {instances} instances, each with up to {share} connections: raise the limit (LimitNOFILE), or lower `concurrency`"
        );
        share
    })
}

/// What a statement says of the deployment at the moment.
fn now_in_force(deployment: watch::Receiver<Arc<Deployed>>) -> NowInForce {
    Arc::new(move || {
        let deployed = deployment.borrow().clone();
        let functions = deployed
            .functions
            .iter()
            .map(|(name, pool)| Function { name: name.clone(), code_sha256: pool.function().code_sha256.clone() });
        InForce {
            policy: deployed.policy.clone(),
            policy_sha256: deployed.policy_sha256.clone(),
            functions: functions.collect(),
        }
    })
}

fn in_force(policy: &Policy, functions: &[Arc<FrozenFunction>]) -> PolicyInForce {
    let code = |function: &Arc<FrozenFunction>| (function.spec.name.to_string(), function.code_sha256.clone());
    PolicyInForce {
        sha256: policy.hash().to_string(),
        functions: policy.functions.iter().map(|function| function.name.to_string()).collect(),
        code_sha256: functions.iter().map(code).collect(),
    }
}

/// Removes the code of what runs no more.
async fn discard(snapshot: Option<Arc<Snapshot>>) {
    // Fails only when it panics, which is told.
    let _ = spawn_blocking(move || drop(snapshot)).await;
}

async fn stop_kernel(kernel: Arc<Kernel>) {
    let stopped = spawn_blocking(move || kernel.stop()).await;
    match stopped {
        Ok(Err(error)) => tracing::error!("{error}"),
        Err(error) => tracing::error!("stopping the kernel side: {error}"),
        Ok(Ok(())) => {}
    }
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
