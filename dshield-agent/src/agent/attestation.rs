//! Which device makes this agent's quotes, and what is done with evidence beside giving it to who asks.
//!
//! In: what the command line says, and what this machine has. Out: a [`Quoter`]; and from a task of its own the certificate
//! of the API with evidence inside, and `attestation` entries in the log of each boot, beside the boot's keys.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dshield_common::attestation::Evidence;
use dshield_common::log::MAX_ENTRY;
use dshield_common::log::entry::{Attestation, Event, Record};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::StartError;
use crate::api::Deployed;
use crate::attest::choose::{Choice, Found, detect};
use crate::attest::configfs_tsm::{self, ConfigfsTsm};
use crate::attest::development::Development;
use crate::attest::dstack::Dstack;
use crate::attest::rtmr::{self, Rtmr3};
use crate::attest::{Asker, Attester, Measurements, Quoter, RatlsCertificate};
use crate::log::Log;

/// How old the evidence in the certificate gets.
const RENEWED: Duration = Duration::from_secs(3600);
/// Between two tries, the first and the last time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// What an entry's other members and its escapes take at most.
const AROUND: usize = 1024;

/// Who makes quotes.
#[derive(Clone, Debug)]
pub struct AttestationOptions {
    /// What was asked for.
    pub choice: Choice,
    /// The kernel's folder for quotes.
    pub tsm: PathBuf,
    /// The kernel's folder of measurement registers.
    pub registers: PathBuf,
    /// What says which events made RTMR3 what it is: one file for the machine, since it has one such register, and gone
    /// when the machine boots.
    pub rtmr3_log: PathBuf,
    /// How to reach a TPM (TCTI).
    pub tcti: String,
}

impl AttestationOptions {
    /// With the kernel's usual folders.
    #[must_use]
    pub fn new(choice: Choice) -> Self {
        Self {
            choice,
            tsm: configfs_tsm::ROOT.into(),
            registers: rtmr::MEASUREMENTS.into(),
            rtmr3_log: rtmr::LOG.into(),
            tcti: "device:/dev/tpmrm0".to_owned(),
        }
    }
}

/// What makes quotes here, or why nothing does.
pub(super) struct Chosen {
    pub(super) quoter: Result<Box<dyn Quoter>, String>,
    /// The monotonic counter of a TPM.
    pub(super) tpm_boots: Option<u64>,
}

/// Finds it. Blocks.
pub(super) fn choose(
    options: &AttestationOptions,
    state: &Path,
    measured: &Measurements,
    policy_sha256: &str,
) -> Result<Chosen, StartError> {
    let unavailable = |why: String| StartError::Attestation { choice: options.choice, why };
    let chosen = |quoter: Box<dyn Quoter>| Chosen { quoter: Ok(quoter), tpm_boots: None };
    match options.choice {
        Choice::None => {
            Ok(Chosen { quoter: Err("it was started with --attestation none".to_owned()), tpm_boots: None })
        }
        Choice::Auto => {
            let found = detect(&options.tsm);
            let quoter = match found.quoter {
                Some(Found::Dstack(quoter)) => Ok(Box::new(quoter) as Box<dyn Quoter>),
                Some(Found::ConfigfsTsm(quoter)) => Ok(extending(quoter, options, measured, policy_sha256)),
                None => Err(found.reasons.join("; ")),
            };
            Ok(Chosen { quoter, tpm_boots: None })
        }
        Choice::Dstack => {
            let dstack = Dstack::find();
            let dstack = dstack.ok_or_else(|| unavailable("there is no socket of dstack's guest agent".to_owned()))?;
            Ok(chosen(Box::new(dstack)))
        }
        Choice::ConfigfsTsm => {
            let quoter = ConfigfsTsm::new(&options.tsm).map_err(|error| unavailable(error.to_string()))?;
            Ok(chosen(extending(quoter, options, measured, policy_sha256)))
        }
        Choice::Development => {
            let agent = measured.sha256.get("agent").map_or("", String::as_str);
            let quoter = Development::open(state, agent).map_err(|error| unavailable(error.to_string()))?;
            tracing::warn!("quotes are made for DEVELOPMENT: they prove nothing, and verifiers say so");
            Ok(chosen(Box::new(quoter)))
        }
        Choice::Tpm => tpm(options, measured, policy_sha256),
    }
}

/// Extends RTMR3 where that is this agent's to do; quotes can be had all the same where it is not.
fn extending(
    quoter: ConfigfsTsm,
    options: &AttestationOptions,
    measured: &Measurements,
    policy_sha256: &str,
) -> Box<dyn Quoter> {
    let extended = || {
        let Some(mut rtmr3) = Rtmr3::open(&options.registers, &options.rtmr3_log)? else { return Ok(None) };
        for event in rtmr::start_events(measured, policy_sha256)? {
            rtmr3.extend_if_new(&event)?;
        }
        Ok::<_, rtmr::RtmrError>(Some(rtmr3))
    };
    match extended() {
        Ok(Some(rtmr3)) => Box::new(quoter.with_rtmr3(rtmr3)),
        Ok(None) => Box::new(quoter),
        Err(error) => {
            tracing::warn!("RTMR3 is not extended: {error}; quotes are bound by their report data all the same");
            Box::new(quoter)
        }
    }
}

#[cfg(feature = "tpm")]
fn tpm(options: &AttestationOptions, measured: &Measurements, policy_sha256: &str) -> Result<Chosen, StartError> {
    use dshield_common::hex;

    use crate::attest::Tpm;

    let unavailable = |why: String| StartError::Attestation { choice: options.choice, why };
    let names = ["agent", "ebpf_cgroup", "ebpf_lsm", "ebpf_netns"];
    let hashes = names.map(|name| (name, measured.sha256.get(name).map_or("", String::as_str)));
    let hashes = hashes.into_iter().chain([("policy", policy_sha256)]);
    let hashes: Option<Vec<_>> = hashes.map(|(name, sha256)| Some((name, hex::decode_array::<32>(sha256)?))).collect();
    let hashes = hashes.ok_or_else(|| unavailable("a hash of what runs is none".to_owned()))?;
    let tpm = Tpm::open(&options.tcti, &hashes).map_err(|error| unavailable(error.to_string()))?;
    Ok(Chosen { tpm_boots: tpm.boots(), quoter: Ok(Box::new(tpm)) })
}

#[cfg(not(feature = "tpm"))]
fn tpm(options: &AttestationOptions, _: &Measurements, _: &str) -> Result<Chosen, StartError> {
    let why = "this build has no TPM support; build it with the cargo feature `tpm`".to_owned();
    Err(StartError::Attestation { choice: options.choice, why })
}

/// The task that puts evidence into the certificate and the log.
pub(super) struct Kept(JoinHandle<()>);

impl Kept {
    /// Starts it, where there is somebody who makes quotes.
    pub(super) fn start(
        attester: Attester,
        log: Log,
        certificate: Option<Arc<RatlsCertificate>>,
        deployment: watch::Receiver<Arc<Deployed>>,
    ) -> Option<Self> {
        attester.provider()?;
        Some(Self(tokio::spawn(keep(attester, log, certificate, deployment))))
    }

    /// Ends it, so that nothing of it is written while the log closes.
    pub(super) async fn stop(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

async fn keep(
    attester: Attester,
    log: Log,
    certificate: Option<Arc<RatlsCertificate>>,
    mut deployment: watch::Receiver<Arc<Deployed>>,
) {
    let mut pause = PAUSES.0;
    // Whether it is in the log, and with collateral: with that, it can be judged for its own time.
    let mut logged: Option<bool> = None;
    let mut collateral = attester.collateral();
    loop {
        deployment.borrow_and_update();
        collateral.borrow_and_update();
        let evidence = match attester.evidence(Asker::Shared, None).await {
            Ok(evidence) => evidence,
            Err(error) => {
                tracing::error!("no evidence of what runs here: {error}");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
        };
        pause = PAUSES.0;
        let complete = evidence.collateral.is_some();
        if logged.is_none_or(|before| complete && !before) {
            match log.append(Record::agent(Event::Attestation(entry(&evidence)))).await {
                Ok(_) => logged = Some(complete),
                Err(error) => tracing::error!("the evidence of this boot is not in the log: {error}"),
            }
        }
        if let Some(certificate) = &certificate {
            // Whoever reads it there fetches the collateral, or asks for it: a handshake should be short.
            let slim = Evidence { collateral: None, ..Evidence::clone(&evidence) };
            if let Err(error) = certificate.set_evidence(slim.to_json().as_bytes()) {
                tracing::warn!("{error}");
            }
        }
        // Another deployment is another statement, and with collateral it is worth more.
        tokio::select! {
            changed = deployment.changed() => if changed.is_err() { return },
            changed = collateral.changed() => if changed.is_err() { return },
            () = sleep(RENEWED) => {}
        }
    }
}

/// The evidence as an entry; where it is too large for one, without what can be had elsewhere.
fn entry(evidence: &Evidence) -> Attestation {
    let mut slim = evidence.clone();
    let drops: [fn(&mut Evidence); 4] = [
        |slim| slim.vm_config = None,
        |slim| slim.collateral = None,
        |slim| slim.app_compose = None,
        |slim| slim.event_log = None,
    ];
    let mut text = slim.to_json();
    for drop in drops {
        // In an entry the text is a JSON string.
        let escaped = serde_json::to_string(&text).map_or(usize::MAX, |escaped| escaped.len());
        if escaped <= MAX_ENTRY - AROUND {
            break;
        }
        drop(&mut slim);
        text = slim.to_json();
    }
    Attestation { provider: evidence.provider.as_str().to_owned(), evidence: text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_common::attestation::{Provider, evidence};

    use super::*;

    #[test]
    fn evidence_fits_into_an_entry_whatever_its_size_and_its_statement_and_quote_stay() {
        for size in [10, 30_000, 200_000] {
            let evidence = Evidence {
                format: evidence::FORMAT.to_owned(),
                provider: Provider::Dstack,
                statement: "{\"s\":1}".to_owned(),
                policy: "{}".to_owned(),
                quote: Some("00".repeat(5000)),
                collateral: None,
                event_log: Some("\"".repeat(size)),
                vm_config: Some("{}".to_owned()),
                app_compose: Some("\"".repeat(size)),
                tpm: None,
            };
            let Attestation { evidence: text, .. } = entry(&evidence);
            assert!(serde_json::to_string(&text).unwrap().len() <= MAX_ENTRY - AROUND, "{size}");
            let kept = Evidence::parse(&text).unwrap();
            assert_eq!((kept.statement, kept.quote), (evidence.statement, evidence.quote));
            assert_eq!(kept.event_log.is_some(), size == 10, "{size}");
        }
    }
}
