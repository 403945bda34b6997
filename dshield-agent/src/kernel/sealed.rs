//! `DS_SEALED`: the network namespaces in which processes may connect, by cookie.
//!
//! In: cookies of namespaces that were sealed, and of those that are no longer. Out: whether the map in the
//! kernel holds exactly those.
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError};

use super::KernelError;
use super::broken::Broken;

/// The map's name.
pub(super) const MAP: &str = "DS_SEALED";

/// The map, and what the agent put into it. Both change under one lock, so whoever holds it sees them agree.
pub(super) struct Sealed {
    state: Mutex<State>,
}

struct State {
    map: HashMap<MapData, u64, u32>,
    cookies: BTreeSet<u64>,
}

impl Sealed {
    /// A map that is empty.
    pub(super) fn new(map: HashMap<MapData, u64, u32>) -> Self {
        Self { state: Mutex::new(State { map, cookies: BTreeSet::new() }) }
    }

    /// From here on processes in this namespace may connect.
    pub(super) fn add(&self, cookie: u64) -> Result<(), KernelError> {
        let mut state = self.state();
        state.map.insert(cookie, 1, 0).map_err(|source| KernelError::Map { map: MAP, source })?;
        state.cookies.insert(cookie);
        Ok(())
    }

    /// From here on they may not.
    pub(super) fn remove(&self, cookie: u64) {
        let mut state = self.state();
        if state.cookies.remove(&cookie)
            && let Err(error) = state.map.remove(&cookie)
        {
            tracing::warn!("{MAP}: {error}");
        }
    }

    /// Compares the map with what was put into it.
    ///
    /// # Errors
    /// A cookie that the agent did not add, or one that is missing.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let state = self.state();
        let mut missing = state.cookies.clone();
        // One more than the agent added is enough to know; a map that somebody keeps filling has no end.
        for cookie in state.map.keys().take(state.cookies.len() + 1) {
            let cookie = cookie.map_err(unreadable)?;
            if !missing.remove(&cookie) && !state.cookies.contains(&cookie) {
                return Err(Broken::changed(format!(
                    "{MAP}: namespace {cookie} is in it and was not sealed by dshield"
                )));
            }
        }
        match missing.first() {
            Some(cookie) => Err(Broken::changed(format!("{MAP}: the sealed namespace {cookie} is no longer in it"))),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: MapError) -> Broken {
    match error {
        MapError::SyscallError(error) => Broken::io(MAP, &error.io_error),
        other => Broken::changed(format!("{MAP}: {other}")),
    }
}
