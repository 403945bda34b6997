//! The user ids of instances: no two instances that live at the same time have the same one.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Above the ids that distributions and systemd give away, below 2^31.
const FIRST: u32 = 1_900_000_000;
/// Each agent has a range of its own, so that two agents' instances share none.
const PER_AGENT: u32 = 1 << 16;

/// One agent's range of user ids.
#[derive(Debug)]
pub(super) struct Uids {
    first: u32,
    count: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those in use, as offsets.
    used: BTreeSet<u32>,
    /// Where to look first: an id rests as long as possible before it is used again.
    next: u32,
}

/// A user id that no other instance has until this is dropped.
#[derive(Debug)]
pub(super) struct Uid {
    uids: Arc<Uids>,
    offset: u32,
}

/// As many instances as there are user ids.
#[derive(Debug, thiserror::Error)]
#[error("all {0} user ids are in use: stop instances, or lower the functions' `concurrency`")]
pub(super) struct NoUidLeft(u32);

impl Uids {
    /// The range of the agent with this number.
    pub(super) fn of_agent(number: u32) -> Arc<Self> {
        Arc::new(Self { first: FIRST + number * PER_AGENT, count: PER_AGENT, state: Mutex::default() })
    }

    /// One that is not in use.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(self: &Arc<Self>) -> Result<Uid, NoUidLeft> {
        let mut state = self.state();
        let mut from_next = (state.next..self.count).chain(0..state.next);
        let offset = from_next.find(|offset| !state.used.contains(offset)).ok_or(NoUidLeft(self.count))?;
        state.used.insert(offset);
        state.next = (offset + 1) % self.count;
        Ok(Uid { uids: self.clone(), offset })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uid {
    /// The user id.
    pub(super) fn number(&self) -> u32 {
        self.uids.first + self.offset
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.uids.state().used.remove(&self.offset);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernel::RunDir;

    #[test]
    fn an_id_in_use_is_never_given_and_one_that_was_freed_comes_back_last() {
        let uids = Arc::new(Uids { first: 100, count: 3, state: Mutex::default() });
        let old = uids.take().unwrap();
        for _ in 0..10 {
            assert_ne!(uids.take().unwrap().number(), old.number());
        }
        let (second, third) = (uids.take().unwrap(), uids.take().unwrap());
        let mut numbers = [old.number(), second.number(), third.number()];
        numbers.sort_unstable();
        assert_eq!(numbers, [100, 101, 102]);
        assert!(uids.take().unwrap_err().to_string().contains("all 3 user ids"));
        let free = second.number();
        drop(second);
        assert_eq!(uids.take().unwrap().number(), free);
    }

    #[test]
    fn every_agents_range_is_below_2_to_the_31() {
        assert!(u64::from(FIRST) + u64::from(RunDir::NUMBERS) * u64::from(PER_AGENT) < 1 << 31);
        assert_eq!(Uids::of_agent(1).first, Uids::of_agent(0).first + PER_AGENT);
    }
}
