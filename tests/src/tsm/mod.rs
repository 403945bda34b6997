//! A kernel that makes TDX quotes, played by a FUSE file system: `/sys/kernel/config/tsm/report` and the register that a
//! guest may extend, with the rules of Documentation/ABI/testing/{configfs-tsm-report,
//! sysfs-devices-virtual-misc-tdx_guest} and with errors on demand.
//!
//! What an agent does to files flows in; quotes by a [`Maker`] flow out. Needs root and `/dev/fuse`.
mod fuse;
mod quote;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tempfile::TempDir;

pub use self::quote::{QuoteShape, quote};
use crate::requires::requires_that;

/// Makes a quote over report data by a machine whose RTMR3 has this value.
pub type Maker = Box<dyn FnMut(&[u8; 64], &[u8; 48]) -> Vec<u8> + Send>;

/// Where an error can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `mkdir` of a report.
    Create,
    /// Reading `generation`.
    Generation,
    /// Reading `provider`.
    Provider,
    /// Writing `inblob`.
    Write,
    /// What `inblob` held is not taken when it is closed: configfs tells nobody.
    Commit,
    /// Reading `outblob`.
    Read,
    /// `rmdir` of a report.
    Remove,
    /// Reading RTMR3.
    Register,
    /// Writing RTMR3, which stays as it was.
    Extend,
    /// Writing RTMR3, which is extended all the same.
    ExtendAndFail,
}

/// The played kernel; unmounted when dropped.
pub struct Tsm {
    state: Arc<Mutex<State>>,
    // Before the folder that it is mounted on.
    _session: fuser::BackgroundSession,
    folder: TempDir,
    /// What stands for `/run`.
    run: TempDir,
}

/// What the file system is about.
struct State {
    maker: Maker,
    provider: String,
    faults: BTreeMap<Step, (i32, u32)>,
    /// How many reports somebody else will write to before they are read.
    disturbances: u32,
    rtmr3: [u8; 48],
    created: u32,
    reports: BTreeMap<u64, Report>,
}

/// One folder.
#[derive(Default)]
struct Report {
    name: String,
    generation: u64,
    inblob: Vec<u8>,
}

impl Tsm {
    /// Mounts it on a temporary folder; `None`, and a line that says so, where this machine has no FUSE for this test.
    /// Its quotes are [`quote`]s of version 4 until it is told otherwise.
    #[must_use]
    pub fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("dshield-tsm-").tempdir().expect("a temporary folder");
        let state = Arc::new(Mutex::new(State {
            maker: Box::new(|report_data, rtmr3| quote(QuoteShape::V4, report_data, rtmr3)),
            provider: "tdx_guest".to_owned(),
            faults: BTreeMap::new(),
            disturbances: 0,
            rtmr3: [0; 48],
            created: 0,
            reports: BTreeMap::new(),
        }));
        let run = tempfile::Builder::new().prefix("dshield-run-").tempdir().expect("a temporary folder");
        let config = fuse::config();
        match fuser::spawn_mount(fuse::Files::new(Arc::clone(&state)), folder.path(), &config) {
            Ok(session) => Some(Self { state, _session: session, folder, run }),
            Err(error) => {
                let _ = requires_that(false, &format!("no FUSE file system can be mounted here: {error}"));
                None
            }
        }
    }

    /// What stands for `/sys/kernel/config/tsm/report`.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.folder.path().join(fuse::REPORT)
    }

    /// What stands for `/sys/devices/virtual/misc/tdx_guest/measurements`.
    #[must_use]
    pub fn measurements(&self) -> PathBuf {
        self.folder.path().join(fuse::MEASUREMENTS)
    }

    /// Where agents of this machine keep what they extended RTMR3 with.
    #[must_use]
    pub fn rtmr3_log(&self) -> PathBuf {
        self.run.path().join("rtmr3.log")
    }

    /// What makes an agent take it for its kernel.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let places = [
            ("--tsm-report", self.report()),
            ("--tsm-measurements", self.measurements()),
            ("--rtmr3-log", self.rtmr3_log()),
        ];
        places.into_iter().flat_map(|(name, path)| [name.into(), path.to_string_lossy().into_owned()]).collect()
    }

    /// Quotes are made by `maker` from now on.
    pub fn make_with(&self, maker: impl FnMut(&[u8; 64], &[u8; 48]) -> Vec<u8> + Send + 'static) {
        self.state().maker = Box::new(maker);
    }

    /// Another kind of machine.
    pub fn set_provider(&self, name: &str) {
        name.clone_into(&mut self.state().provider);
    }

    /// The next `times` times, this step fails with the error of this number.
    pub fn fail(&self, step: Step, errno: i32, times: u32) {
        self.state().faults.insert(step, (errno, times));
    }

    /// How many of the failures of this step are still to come.
    #[must_use]
    pub fn failures_left(&self, step: Step) -> u32 {
        self.state().faults.get(&step).map_or(0, |(_, times)| *times)
    }

    /// The next `times` reports are written to by somebody else before they are read.
    pub fn disturb(&self, times: u32) {
        self.state().disturbances = times;
    }

    /// How many reports were ever made.
    #[must_use]
    pub fn created(&self) -> u32 {
        self.state().created
    }

    /// The names of the reports that there are.
    #[must_use]
    pub fn reports(&self) -> Vec<String> {
        self.state().reports.values().map(|report| report.name.clone()).collect()
    }

    /// The value of RTMR3.
    #[must_use]
    pub fn rtmr3(&self) -> [u8; 48] {
        self.state().rtmr3
    }

    /// Gives RTMR3 another value: 48 zero bytes are what a boot of the machine leaves there.
    pub fn set_rtmr3(&self, value: [u8; 48]) {
        self.state().rtmr3 = value;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a maker of quotes panicked")
    }
}

impl fmt::Debug for Tsm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tsm").field("folder", &self.folder.path()).finish_non_exhaustive()
    }
}

impl Drop for Tsm {
    fn drop(&mut self) {
        // Lazily: a file that a failed test left open must not keep the folder. What is no longer mounted is fine too.
        let _ = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

impl State {
    /// The error that this step is to give now.
    fn fault(&mut self, step: Step) -> Option<i32> {
        let (errno, times) = self.faults.get_mut(&step)?;
        *times = times.checked_sub(1)?;
        Some(*errno)
    }
}
