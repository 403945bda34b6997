//! Tasks that belong to one connection and end with it.
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

/// The tasks; dropping the last handle ends them. None of them may hold one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Starts one more.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Waits until all have ended.
    pub(super) async fn finished(&self) {
        let mut tasks = mem::take(&mut *self.lock());
        while tasks.join_next().await.is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_end_with_the_last_handle() {
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        let tasks = Tasks::default();
        tasks.clone().spawn(async move {
            let _alive = alive;
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        assert!(ended.try_recv() == Err(tokio::sync::mpsc::error::TryRecvError::Empty));
        drop(tasks);
        assert_eq!(ended.recv().await, None);
    }
}
