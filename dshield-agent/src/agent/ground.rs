//! What an instance stands on before its process starts, and a small stock of what can be made ahead of it.
//!
//! In: an instance's name and limits. Out: a [`Ground`]: its cgroup, and a sealed network namespace steered to the
//! agent's sockets. Namespace and steering are the costly part and know nothing of their instance, so the stock holds
//! a few, made by the very function that makes one when the stock is empty. Until it is taken, no process is in such
//! a namespace and it is not on the list of sealed ones, so nothing could connect in it.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::kernel::{Kernel, KernelError, Leaf, Limits, SealedNetns, Steering};

/// How many are kept ready: enough for one request that needs several functions. Each holds a dozen descriptors.
pub const READY: usize = 4;

/// An instance's cgroup, namespace and steering.
pub struct Ground {
    /// The namespace, on the list of sealed ones.
    pub netns: SealedNetns,
    /// Leads what happens in it to the agent.
    pub steering: Steering,
    /// The cgroup.
    pub leaf: Leaf,
    /// The cgroup's id, as eBPF programs see it.
    pub cgroup: u64,
}

impl Ground {
    /// Makes one without a stock. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The kernel refused. Nothing is left then.
    pub fn prepare(kernel: &Kernel, id: &str, limits: Limits) -> Result<Self, KernelError> {
        Self::make(kernel, None, id, limits)
    }

    fn make(kernel: &Kernel, ready: Option<Footing>, id: &str, limits: Limits) -> Result<Self, KernelError> {
        let leaf = kernel.cgroup().leaf(id, limits)?;
        // Sealed last: nothing after it can fail and leave the namespace on the list.
        let made = leaf.id().and_then(|cgroup| {
            let Footing { netns, mut steering } = ready.map_or_else(|| Footing::make(kernel), Ok)?;
            kernel.assign(&netns, &mut steering, &leaf, id)?;
            Ok((cgroup, netns, steering))
        });
        match made {
            Ok((cgroup, netns, steering)) => Ok(Self { netns, steering, leaf, cgroup }),
            Err(error) => {
                let _ = leaf.destroy();
                Err(error)
            }
        }
    }

    /// Takes it away again, and whatever process is on it. Blocks.
    ///
    /// # Errors
    /// Processes did not end in time.
    pub fn remove(self, kernel: &Kernel) -> Result<(), KernelError> {
        kernel.take_apart(&self.leaf, self.steering)
    }
}

/// A namespace and its steering, still without an instance.
struct Footing {
    // The order matters: what steers goes first.
    steering: Steering,
    netns: SealedNetns,
}

impl Footing {
    /// The one function that makes them, ahead or not.
    fn make(kernel: &Kernel) -> Result<Self, KernelError> {
        let netns = SealedNetns::create()?;
        let steering = kernel.steer(&netns)?;
        Ok(Self { steering, netns })
    }
}

/// Makes grounds, some of their parts ahead.
pub struct Stock {
    kernel: Arc<Kernel>,
    state: Mutex<State>,
    /// Held while one is made ahead: one at a time, and [`Stock::close`] waits for it.
    making: Mutex<()>,
}

#[derive(Default)]
struct State {
    ready: Vec<Footing>,
    /// How many there should be: none before the agent serves and after it has stopped.
    wanted: usize,
    complained: bool,
}

impl Stock {
    /// An empty one, which stays empty until it is opened.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>) -> Self {
        Self { kernel, state: Mutex::default(), making: Mutex::default() }
    }

    /// From now on, up to [`READY`] are made ahead. Must be called inside a tokio runtime.
    pub fn open(self: &Arc<Self>) {
        self.state().wanted = READY;
        drop(self.refill());
    }

    /// Fills up in the background; for the moment after an instance was started, when its processor is free again.
    /// Must be called inside a tokio runtime.
    pub fn refill(self: &Arc<Self>) -> JoinHandle<()> {
        let this = self.clone();
        spawn_blocking(move || this.fill())
    }

    /// Drops what is ready, and makes nothing ahead any more. Blocks.
    pub fn close(&self) {
        let unused = {
            let mut state = self.state();
            state.wanted = 0;
            std::mem::take(&mut state.ready)
        };
        drop(unused);
        drop(self.making.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The ground of the instance `id`. Blocks: for some tenths of a millisecond with a stock, longer without.
    ///
    /// # Errors
    /// The kernel refused. Nothing is left then.
    pub fn ground(&self, id: &str, limits: Limits) -> Result<Ground, KernelError> {
        let ready = self.state().ready.pop();
        Ground::make(&self.kernel, ready, id, limits)
    }

    fn fill(&self) {
        while self.lacks() {
            // Whoever has it looks again at what is lacking when it is done.
            let Ok(_one) = self.making.try_lock() else { return };
            // It may have been closed before the lock was ours.
            if !self.lacks() {
                return;
            }
            match Footing::make(&self.kernel) {
                Ok(footing) => self.put(footing),
                Err(error) => return self.complain(&error),
            }
        }
    }

    fn lacks(&self) -> bool {
        let state = self.state();
        state.ready.len() < state.wanted
    }

    fn put(&self, footing: Footing) {
        let mut state = self.state();
        // It may have been closed meanwhile.
        if state.ready.len() < state.wanted {
            state.ready.push(footing);
        }
    }

    fn complain(&self, error: &KernelError) {
        if !std::mem::replace(&mut self.state().complained, true) {
            tracing::warn!("nothing is prepared ahead, so instances start some milliseconds later: {error}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
