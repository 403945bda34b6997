//! Servers that run beside a synchronous test: one thread, one runtime, stopped on drop.
use std::future::Future;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// A running server; dropping it cancels its tasks and waits for its thread.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` until it ends or this value is dropped.
    pub(crate) fn spawn<W, F>(name: &str, work: W) -> Self
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the kernel gives an epoll");
            runtime.block_on(async move {
                tokio::select! {
                    () = work() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has already been printed by its own thread.
            let _ = thread.join();
        }
    }
}
