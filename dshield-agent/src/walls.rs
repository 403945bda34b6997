//! Which walls stand around an instance: all of them.
//!
//! Only the program `dshield-unwalled`, which exists to show what each wall holds by itself, can take some
//! away: it needs the feature `layers-off`, which a release build refuses. Without the feature [`Walls`] holds
//! nothing and every question is answered "yes" while compiling.
use serde::{Deserialize, Serialize};

#[cfg(all(feature = "layers-off", not(debug_assertions)))]
compile_error!("the feature `layers-off` takes walls away and is for tests only: a release build must not have it");

/// One wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wall {
    /// The process enters the sealed network namespace.
    Netns,
    /// `ds_sock_create` is attached.
    SockCreate,
    /// `ds_connect4` and `ds_connect6` are attached.
    Connect,
    /// `ds_sendmsg4` and `ds_sendmsg6` are attached.
    Sendmsg,
    /// `ds_egress` is attached.
    Egress,
    /// The system call filters.
    Seccomp,
    /// A user id of its own, no capability, no new privileges.
    Privileges,
    /// The machine's file system is out of reach.
    Files,
    /// A pid namespace of its own.
    Processes,
    /// Resource limits and the size of `/tmp`.
    Limits,
    /// Limits of the cgroup controllers.
    Controllers,
    /// Landlock.
    Landlock,
    /// Programs attached to the kernel's security hooks.
    Lsm,
    /// The agent's memory cannot be read by others and is not written out.
    Agent,
    /// What was set up in the kernel is compared with what is there.
    Watch,
    /// An instance that is not ready in time is ended.
    InitLimit,
    /// The agent tries the walls before it serves.
    SelfTest,
}

impl Wall {
    /// Every wall.
    pub const ALL: [Self; 17] = [
        Self::Netns,
        Self::SockCreate,
        Self::Connect,
        Self::Sendmsg,
        Self::Egress,
        Self::Seccomp,
        Self::Privileges,
        Self::Files,
        Self::Processes,
        Self::Limits,
        Self::Controllers,
        Self::Landlock,
        Self::Lsm,
        Self::Agent,
        Self::Watch,
        Self::InitLimit,
        Self::SelfTest,
    ];

    /// Its name in `DSHIELD_WALLS_OFF`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::SockCreate => "sock_create",
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::Egress => "egress",
            Self::Seccomp => "seccomp",
            Self::Privileges => "privileges",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Limits => "limits",
            Self::Controllers => "controllers",
            Self::Landlock => "landlock",
            Self::Lsm => "lsm",
            Self::Agent => "agent",
            Self::Watch => "watch",
            Self::InitLimit => "init_limit",
            Self::SelfTest => "self_test",
        }
    }
}

/// The walls that stand.
#[cfg(not(feature = "layers-off"))]
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Walls {}

#[cfg(not(feature = "layers-off"))]
impl Walls {
    /// All of them.
    #[must_use]
    pub fn standing() -> Self {
        Self {}
    }

    /// Yes.
    #[must_use]
    pub fn stands(self, _wall: Wall) -> bool {
        true
    }
}

/// The walls that stand.
#[cfg(feature = "layers-off")]
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Walls {
    /// One bit for each wall that was taken away.
    off: u32,
}

#[cfg(feature = "layers-off")]
static TAKEN: std::sync::OnceLock<Walls> = std::sync::OnceLock::new();

#[cfg(feature = "layers-off")]
impl Walls {
    /// All of them, but those that [`Walls::take_away`] named.
    #[must_use]
    pub fn standing() -> Self {
        TAKEN.get().copied().unwrap_or_default()
    }

    /// Whether this one stands.
    #[must_use]
    pub fn stands(self, wall: Wall) -> bool {
        self.off & (1 << wall as u32) == 0
    }

    /// Takes walls away for the rest of this process, by name, separated by commas.
    ///
    /// # Errors
    /// A name that no wall has.
    pub fn take_away(names: &str) -> Result<(), String> {
        let mut off = 0;
        for name in names.split(',').filter(|name| !name.is_empty()) {
            let wall = Wall::ALL.into_iter().find(|wall| wall.name() == name);
            off |= 1 << wall.ok_or_else(|| format!("there is no wall called {name:?}"))? as u32;
        }
        TAKEN.set(Self { off }).map_err(|_| "walls were taken away already".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_stands() {
        assert!(Wall::ALL.into_iter().all(|wall| Walls::standing().stands(wall)));
    }

    #[test]
    fn a_wall_has_one_number_and_one_name() {
        for (number, wall) in Wall::ALL.into_iter().enumerate() {
            assert_eq!(wall as usize, number);
            assert_eq!(Wall::ALL.iter().filter(|other| other.name() == wall.name()).count(), 1);
        }
    }
}
