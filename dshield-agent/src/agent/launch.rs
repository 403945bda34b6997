//! Makes an instance out of its parts, and takes it apart again.
use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dshield_common::log::entry::{Event, Lifecycle, Phase, Record};
use dshield_common::policy::{FunctionPolicy, Policy};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::events::Registry;
use super::ground::{Ground, Stock};
use super::output;
use super::uids::{Uid, Uids};
use crate::instance::{BoxFuture, Exit, Instance, Running};
use crate::kernel::{Kernel, Leaf, Limits, SealedNetns, Steering};
use crate::log::Log;
use crate::proxy::{FunctionEgress, Proxy, ServedSockets, Serving};
use crate::refusals::Refusals;
use crate::runtime::{self, LaunchError, Launcher};
use crate::sandbox::{Child, Filter, Spawner, Spec, trust};
use crate::secrets::Secrets;
use crate::snapshot::FrozenFunction;
use crate::walls::Walls;

const PIDS: u32 = 512;

/// Why an instance could not be made.
type Cause = Box<dyn Error + Send + Sync>;

/// Makes instances.
pub(super) struct Launch {
    kernel: Arc<Kernel>,
    stock: Arc<Stock>,
    log: Log,
    proxy: Proxy,
    spawner: Arc<Spawner>,
    filters: Vec<Filter>,
    registry: Arc<Registry>,
    uids: Arc<Uids>,
    count: AtomicU32,
}

impl Launch {
    pub(super) fn new(
        kernel: Arc<Kernel>,
        log: Log,
        proxy: Proxy,
        spawner: Spawner,
        filters: Vec<Filter>,
        registry: Arc<Registry>,
    ) -> Self {
        let uids = uids(&kernel);
        let spawner = Arc::new(spawner);
        let stock = Arc::new(Stock::new(kernel.clone()));
        Self { kernel, stock, log, proxy, spawner, filters, registry, uids, count: AtomicU32::new(0) }
    }

    /// Resolves when all connections of instances that have ended have their last entries in the log.
    pub(super) async fn finished(&self) {
        self.proxy.finished().await;
    }

    /// What is made ahead of instances.
    pub(super) fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// The launcher of one function of `policy`, each of whose instances may have so many connections at a time.
    ///
    /// # Errors
    /// As [`Proxy::function`].
    pub(super) fn launcher(
        self: &Arc<Self>,
        function: Arc<FunctionPolicy>,
        policy: &Policy,
        secrets: Arc<Secrets>,
        connections: usize,
    ) -> std::io::Result<Launcher> {
        let this = self.clone();
        let egress = this.proxy.function(function, policy, secrets, connections)?;
        Ok(Arc::new(move |function| {
            let (this, egress) = (this.clone(), egress.clone());
            Box::pin(async move { this.launch(&function, egress).await })
        }))
    }

    async fn launch(&self, function: &FrozenFunction, egress: Arc<FunctionEgress>) -> Result<Running, LaunchError> {
        let failed = |source: Cause| LaunchError::Sandbox { function: function.spec.name.to_string(), source };
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let uid = self.uids.take().map_err(|error| failed(error.into()))?;
        let id = format!("{}-{number}", function.spec.name);
        let limits = Limits { memory_bytes: function.spec.memory, pids: PIDS };
        let ground = {
            let (stock, id) = (self.stock.clone(), id.clone());
            let made = spawn_blocking(move || stock.ground(&id, limits)).await;
            made.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?
        };
        let Ground { netns, steering, leaf, cgroup } = ground;
        let SealedNetns { fd, cookie, sockets, .. } = netns;
        let instance = Arc::new(Instance::new(id, function.policy.clone(), cookie));
        let refusals = Refusals::new(instance.clone(), self.log.clone());
        let mut parts = Parts {
            kernel: self.kernel.clone(),
            log: self.log.clone(),
            registry: self.registry.clone(),
            instance: instance.clone(),
            refusals: refusals.clone(),
            leaf: Arc::new(leaf),
            cgroup,
            steering,
            netns: fd,
            uid,
            serving: None,
            pid: None,
        };
        self.registry.add(cookie, cgroup, &refusals);
        let started = async {
            let (served, runtime_api) = ServedSockets::from_namespace(sockets)?;
            parts.steering.watch();
            parts.serving = Some(self.proxy.serve(instance.clone(), egress, refusals, served));
            let spec = self.spec(function, instance.id(), &parts.uid);
            let (spawner, leaf, netns) = (self.spawner.clone(), parts.leaf.clone(), parts.netns.clone());
            let child = spawn_blocking(move || {
                let cgroup = leaf.open()?;
                Ok::<_, Cause>(spawner.spawn(&spec, &cgroup, &netns)?)
            })
            .await??;
            Ok::<_, Cause>((runtime_api, child))
        };
        let started = started.await;
        drop(self.stock.refill());
        let (runtime_api, child) = match started {
            Ok(started) => started,
            Err(cause) => {
                parts.take_apart(None).await;
                return Err(failed(cause));
            }
        };
        let pid = child.pid;
        parts.pid = Some(pid);
        // From here on somebody waits for the process, and reaps it.
        let exit = watch_child(&instance, child);
        let begin = Lifecycle { phase: Phase::Begin, pid, reason: None };
        match self.log.enqueue(record(&instance, Event::Function(begin))).await {
            // Not waiting for the disk: what it sends out will.
            Ok(pending) => drop(pending),
            Err(error) => {
                parts.take_apart(Some(exit)).await;
                return Err(error.into());
            }
        }
        let at_stop = exit.clone();
        let stop = Box::new(move || -> BoxFuture<()> { Box::pin(parts.take_apart(Some(at_stop))) });
        Ok(Running { instance, runtime_api, exit, stop })
    }

    fn spec(&self, function: &FrozenFunction, id: &str, uid: &Uid) -> Spec {
        let command = runtime::command(function.spec.runtime);
        let mut env = runtime::environment(function);
        env.extend(trust::environment());
        let files = command.files.into_iter();
        Spec {
            hostname: id.chars().take(63).collect(),
            uid: uid.number(),
            root: self.kernel.run_dir().join("root"),
            code: function.code.clone(),
            ca_bundle: self.kernel.run_dir().join("ca-bundle.pem"),
            runtime_files: files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect::<BTreeMap<_, _>>(),
            tmp_bytes: function.spec.memory / 2,
            argv: command.argv,
            env,
            seccomp: self.filters.clone(),
            walls: Walls::standing(),
        }
    }
}

/// The user ids of this agent's instances.
pub(super) fn uids(kernel: &Kernel) -> Arc<Uids> {
    Uids::of_agent(kernel.number())
}

/// What must be taken apart when an instance ends.
struct Parts {
    kernel: Arc<Kernel>,
    log: Log,
    registry: Arc<Registry>,
    instance: Arc<Instance>,
    refusals: Arc<Refusals>,
    leaf: Arc<Leaf>,
    cgroup: u64,
    steering: Steering,
    netns: Arc<OwnedFd>,
    uid: Uid,
    serving: Option<Serving>,
    pid: Option<u32>,
}

impl Parts {
    async fn take_apart(self, exit: Option<watch::Receiver<Option<Exit>>>) {
        let Self { kernel, log, registry, instance, refusals, leaf, cgroup, steering, netns, uid, serving, pid } = self;
        let cookie = instance.netns_cookie();
        let before = exit.as_ref().and_then(|exit| exit.borrow().clone());
        let removed = spawn_blocking(move || {
            let removed = kernel.take_apart(&leaf, steering);
            drop(netns);
            removed
        });
        let removed = removed.await.map_err(Cause::from).and_then(|removed| Ok(removed?));
        match removed {
            Ok(()) => drop(uid),
            Err(error) => {
                tracing::error!(instance = instance.id(), "taking the instance apart: {error}");
                // A process may be left: its user id is not given again.
                std::mem::forget(uid);
            }
        }
        drop(serving);
        refusals.flush();
        registry.remove_later(cookie, cgroup);
        if let Some(pid) = pid {
            let reason = before.map_or_else(|| "stopped by the agent".to_owned(), |exit| exit.to_string());
            let end = Lifecycle { phase: Phase::End, pid, reason: Some(reason) };
            let _ = log.enqueue_now(record(&instance, Event::Function(end)));
        }
    }
}

fn watch_child(instance: &Arc<Instance>, child: Child) -> watch::Receiver<Option<Exit>> {
    let (pidfd, stdout, stderr) = child.into_parts();
    output::forward(instance.clone(), "stdout", stdout);
    output::forward(instance.clone(), "stderr", stderr);
    let (sender, exit) = watch::channel(None);
    let id = instance.id().to_owned();
    tokio::spawn(async move {
        let ended = Child::wait(pidfd).await.unwrap_or_else(|error| {
            tracing::error!(instance = id, "cannot wait for the process: {error}");
            Exit::Code(-1)
        });
        let _ = sender.send(Some(ended));
    });
    exit
}

fn record(instance: &Instance, event: Event) -> Record {
    Record { subject: instance.subject(), event }
}
