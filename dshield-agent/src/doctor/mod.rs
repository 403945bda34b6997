//! Whether this machine is fit to hold hostile code.
//!
//! Nothing flows in but a name for what is made on the way; out come the [`Check`]s of what the kernel offers, and the
//! verdicts of the self-test that every agent runs before it serves. What is made is taken away again.
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::agent::{SelfTest, SelfTestError};
use crate::attest::choose::{Detected, detect};
use crate::kernel::{Kernel, KernelError, Limits, PROGRAMS, SealedNetns};
use crate::sandbox::{Filter, Spawner};

mod machine;

/// What is known about one thing that the machine has or lacks.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Does not change between versions.
    pub name: &'static str,
    /// Whether it is there.
    pub status: Status,
    /// What was found, or what lacking it means.
    pub detail: String,
    /// What to do about it, where something can be done.
    pub fix: Option<&'static str>,
}

/// Whether something is there, and whether that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It is there.
    Ok,
    /// It is not there, and nothing works without it.
    Missing,
    /// It is not there, and the agent serves without it.
    Optional,
}

/// The whole examination.
#[derive(Debug)]
pub struct Report {
    /// What was looked at, in the order of the questions that one would ask.
    pub checks: Vec<Check>,
    /// The self-test; or why there is none, in a sentence.
    pub self_test: Result<SelfTest, String>,
}

impl Report {
    /// Whether nothing that is needed is missing, and every wall held.
    #[must_use]
    pub fn fit(&self) -> bool {
        let complete = self.checks.iter().all(|check| check.status != Status::Missing);
        complete && self.self_test.as_ref().is_ok_and(|test| test.verdict().is_ok())
    }
}

/// Examines the machine. `name` is the agent's name under which the kernel side is set up meanwhile: the folders of
/// the cgroup, the pins and the run-time state; `tsm` is where the kernel would make quotes.
///
/// # Errors
/// The name cannot be used, or an agent of that name is running: this says nothing about the machine.
pub async fn examine(name: String, tsm: PathBuf) -> Result<Report, KernelError> {
    let mut checks = machine::checks();
    let runtime = tokio::runtime::Handle::current();
    let kernel_side = spawn_blocking(move || {
        // For the stream of refusals, which registers with the reactor.
        let _guard = runtime.enter();
        let (more, self_test) = kernel_side(&name)?;
        Ok::<_, KernelError>((attestation(&tsm), more, self_test))
    });
    let (attestation, more, self_test) = match kernel_side.await {
        Ok(examined) => examined?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    checks.push(attestation);
    checks.extend(more);
    Ok(Report { checks, self_test })
}

/// Who would make quotes. Nothing depends on it but what a stranger can be shown.
fn attestation(tsm: &Path) -> Check {
    let Detected { quoter, reasons } = detect(tsm);
    let name = "attestation";
    match (quoter, reasons.last()) {
        (Some(_), Some(found)) => Check { name, status: Status::Ok, detail: found.clone(), fix: None },
        _ => Check {
            name,
            status: Status::Optional,
            detail: format!("nobody makes quotes over what runs here: {}", reasons.join("; ")),
            fix: Some("run it in a TDX guest; on dstack, mount /var/run/dstack.sock into its container"),
        },
    }
}

type Examined = (Vec<Check>, Result<SelfTest, String>);

/// Sets the kernel side up as an agent does, tries it, and takes it down.
fn kernel_side(name: &str) -> Result<Examined, KernelError> {
    let (kernel, mut events) = match Kernel::start(name) {
        Ok(started) => started,
        Err(
            error @ (KernelError::BadName { .. } | KernelError::AlreadyRunning { .. } | KernelError::NameTaken { .. }),
        ) => return Err(error),
        Err(error) => {
            let check = Check { name: "programs", status: Status::Missing, detail: error.to_string(), fix: None };
            return Ok((vec![check], Err("not tried, because the kernel programs do not run".to_owned())));
        }
    };
    let detail = format!("{} programs load and attach: {}", PROGRAMS.len(), PROGRAMS.join(", "));
    let programs = Check { name: "programs", status: Status::Ok, detail, fix: None };
    let lsm = machine::bpf_lsm(kernel.bpf_lsm());
    let [netns, sk_lookup, ipv6] = namespace(&kernel);
    let self_test = self_test(&kernel, &mut events).map_err(|error| error.to_string());
    let stopped = kernel.stop();
    // What it leaves would be this command's doing, and says that the next agent may not be able to end either.
    let left = stopped.err().map(|error| Check {
        name: "clean_up",
        status: Status::Missing,
        detail: error.to_string(),
        fix: Some("remove it by hand, then run `dshield doctor` again"),
    });
    Ok(([programs, lsm, netns, sk_lookup, ipv6].into_iter().chain(left).collect(), self_test))
}

/// One sealed namespace, and the program that steers in it.
fn namespace(kernel: &Kernel) -> [Check; 3] {
    let check = |name, status, detail: &str| Check { name, status, detail: detail.to_owned(), fix: None };
    let netns = match SealedNetns::create() {
        Ok(netns) => netns,
        Err(error) => {
            return [
                check("network_namespace", Status::Missing, &error.to_string()),
                check("sk_lookup", Status::Missing, "not tried, for want of a network namespace"),
                check("ipv6", Status::Optional, "not tried, for want of a network namespace"),
            ];
        }
    };
    let steered = match steer(kernel, &netns) {
        Ok(()) => check("sk_lookup", Status::Ok, "ds_sklookup loads, and steers in a namespace"),
        Err(error) => check("sk_lookup", Status::Missing, &error.to_string()),
    };
    let ipv6 = if netns.sockets.dns_udp6.is_some() {
        check("ipv6", Status::Ok, "IPv6 inside instances is steered like IPv4")
    } else {
        check("ipv6", Status::Optional, "instances have IPv4 only")
    };
    [check("network_namespace", Status::Ok, "one without any way out can be made"), steered, ipv6]
}

fn steer(kernel: &Kernel, netns: &SealedNetns) -> Result<(), KernelError> {
    let leaf = kernel.cgroup().leaf("doctor", Limits { memory_bytes: 1 << 20, pids: 1 })?;
    let steering = kernel.seal(netns, &leaf, "doctor")?;
    kernel.take_apart(&leaf, steering)
}

fn self_test(kernel: &Kernel, events: &mut crate::kernel::Events) -> Result<SelfTest, SelfTestError> {
    SelfTest::run(kernel, events, &Spawner::new()?, &Filter::compile_all()?)
}
