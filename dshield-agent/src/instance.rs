//! One running copy of a function, as the proxy, the runtime and the log see it.
//!
//! `agent` makes it, from what `kernel` and `sandbox` prepared; `proxy` and `runtime` get it as a shared
//! handle. It owns nothing: what must be cleaned up belongs to [`Running::stop`].
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use dshield_common::log::entry::Subject;
use dshield_common::policy::FunctionPolicy;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What identifies an instance, and which invocation it is serving.
#[derive(Debug)]
pub struct Instance {
    id: String,
    /// The agent itself: what it sends belongs to no function.
    own: bool,
    policy: Arc<FunctionPolicy>,
    netns_cookie: u64,
    current: Mutex<Option<Arc<str>>>,
}

impl Instance {
    /// An instance of the function that `policy` names, in the sealed network namespace of this cookie.
    #[must_use]
    pub fn new(id: String, policy: Arc<FunctionPolicy>, netns_cookie: u64) -> Self {
        Self { id, own: false, policy, netns_cookie, current: Mutex::new(None) }
    }

    /// The agent itself, as far as it sends something: it has no namespace, and what it may reach is in `policy`.
    #[must_use]
    pub fn agent(policy: Arc<FunctionPolicy>) -> Self {
        Self { id: String::new(), own: true, policy, netns_cookie: 0, current: Mutex::new(None) }
    }

    /// Unique within the agent's lifetime; appears in the log.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its function.
    #[must_use]
    pub fn function(&self) -> &str {
        self.policy.name.as_str()
    }

    /// What it may reach.
    #[must_use]
    pub fn policy(&self) -> &FunctionPolicy {
        &self.policy
    }

    /// The cookie (`SO_NETNS_COOKIE`) of its network namespace: how the kernel's events name it.
    #[must_use]
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// Sets or clears the invocation that later log entries belong to.
    pub fn set_request(&self, request_id: Option<Arc<str>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = request_id;
    }

    /// Whom a log entry written now concerns.
    #[must_use]
    pub fn subject(&self) -> Subject {
        if self.own {
            return Subject::default();
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Subject {
            function: Some(self.function().to_owned()),
            instance: Some(self.id.clone()),
            request_id: current.as_deref().map(str::to_owned),
        }
    }
}

/// How an instance's first process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal: {signal}"),
        }
    }
}

/// A future that can be kept in a struct.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A started instance, handed from the launcher to the pool, which owns it from then on.
pub struct Running {
    /// The handle to share.
    pub instance: Arc<Instance>,
    /// The listener on 127.0.0.1:9001 inside the instance's network namespace.
    pub runtime_api: TcpListener,
    /// Becomes `Some` when the first process has ended.
    pub exit: watch::Receiver<Option<Exit>>,
    /// Kills every process of the instance and resolves when process, cgroup, namespaces, mounts and
    /// pins are gone. Must be called exactly once, also after the process ended by itself.
    pub stop: Box<dyn FnOnce() -> BoxFuture<()> + Send>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("instance", &self.instance).finish_non_exhaustive()
    }
}
