//! What makes the quotes of the stand-ins hold: a TDX machine that is not one, under a root that nobody else trusts.
//!
//! Report data and registers flow in from a [`GuestAgent`] or a [`Tsm`]; quotes flow out to the agent under test. What that
//! gives as evidence flows in again, and a verdict flows out, by whoever takes that root for Intel's.
use std::time::{SystemTime, UNIX_EPOCH};

use dshield_common::attestation::{Evidence, Nonce, ReportData};
use dshield_development::{Machine, Pki, Platform, TdReport, boot};
use dshield_verify::expect::Expect;
use dshield_verify::quote::Root;
use dshield_verify::verdict::Verdict;
use dshield_verify::{Channel, Options, Presented, judge};
use serde_json::json;

use crate::guest_agent::GuestAgent;
use crate::tsm::Tsm;

/// A maker of quotes.
#[derive(Clone, Debug)]
pub struct Tdx {
    machine: Machine,
}

impl Default for Tdx {
    fn default() -> Self {
        Self::new()
    }
}

impl Tdx {
    /// With keys of its own.
    ///
    /// # Panics
    /// The system has no random numbers.
    #[must_use]
    pub fn new() -> Self {
        let pki = Pki::generate().expect("the random source works");
        Self { machine: Machine::new(pki, Platform::default()) }
    }

    /// Makes the quotes of a dstack machine that runs this `app-compose.json`.
    pub fn behind(&self, guest: &GuestAgent, app_compose: &str) {
        guest.set_app_compose(app_compose);
        let [rtmr0, rtmr1, rtmr2] = guest.boot_registers();
        let mr_config_id = boot::mr_config_id(app_compose);
        guest.make_with(self.maker(move |report, rtmr3| {
            report.rtmr = [rtmr0, rtmr1, rtmr2, rtmr3];
            report.mr_config_id = mr_config_id;
        }));
    }

    /// Makes the quotes of a machine without dstack.
    pub fn inside(&self, tsm: &Tsm) {
        tsm.make_with(self.maker(|report, rtmr3| report.rtmr[3] = rtmr3));
    }

    /// Makes quotes over reports that `change` has completed, given RTMR3.
    pub fn maker(
        &self,
        change: impl Fn(&mut TdReport, [u8; 48]) + Send + 'static,
    ) -> impl FnMut(&[u8; 64], &[u8; 48]) -> Vec<u8> + Send + 'static {
        let machine = self.machine.clone();
        move |report_data, rtmr3| {
            let mut report = TdReport::new(&ReportData::of(""));
            report.report_data = *report_data;
            change(&mut report, *rtmr3);
            machine.quote(&report)
        }
    }

    /// Evidence that an agent gave, with what a PCCS would say about the platform.
    ///
    /// # Panics
    /// It is no evidence.
    #[must_use]
    #[track_caller]
    pub fn completed(&self, answer: &str) -> Evidence {
        let evidence = Evidence::parse(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        Evidence { collateral: Some(self.machine.collateral(now())), ..evidence }
    }

    /// The verdict on evidence that came over `channel`, by whoever trusts this machine's root as others do Intel's.
    #[must_use]
    pub fn judge(&self, evidence: &Evidence, nonce: Option<Nonce>, channel: Channel, expect: &Expect) -> Verdict {
        let text = evidence.to_json();
        let root = Root::Other(self.machine.pki().root_der().to_vec());
        let options = Options { now: now(), root, ..Options::default() };
        judge(&Presented { evidence: &text, nonce, channel }, expect, &options).verdict
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An `app-compose.json` of dstack's with D-Shield alone.
#[must_use]
pub fn app_compose() -> String {
    let compose = format!(
        "services:\n  dshield:\n    image: ghcr.io/dshield/dshield@sha256:{}\n    privileged: true\n    network_mode: host\n    \
         volumes:\n      - /var/run/dstack.sock:/var/run/dstack.sock\n",
        "5".repeat(64)
    );
    json!({
        "manifest_version": 2, "name": "x", "runner": "docker-compose", "docker_compose_file": compose,
        "kms_enabled": false, "allowed_envs": [],
    })
    .to_string()
}

/// The expectations that a verdict printed of what it saw.
///
/// # Panics
/// There are none, or they are not understood.
#[must_use]
#[track_caller]
pub fn saw(verdict: &Verdict) -> Expect {
    let text = verdict.saw.as_deref().unwrap_or_else(|| panic!("nothing was seen: {verdict:#?}"));
    Expect::parse(text, &mut |name| Err(format!("{name} is no file"))).unwrap_or_else(|error| panic!("{error}: {text}"))
}
