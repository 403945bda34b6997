//! Quotes for development: real in every format, under keys of this machine that anybody could make. They prove nothing, and
//! every verifier says so.
//!
//! The keys are kept in a file, so that a verifier which was told to go on all the same sees the same machine tomorrow.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dshield_common::attestation::event::Event;
use dshield_common::attestation::{Provider, ReportData};
use dshield_development::{Machine, Pki, PkiError, Platform, TdReport, boot};

use super::quoter::{QuoteError, Quoted, Quoter};

/// The keys, in the agent's state folder.
pub const PKI_FILE: &str = "development-pki.pem";

/// A machine that is none.
#[derive(Debug)]
pub struct Development {
    machine: Machine,
    app_compose: String,
    events: Vec<Event>,
    rtmr: [[u8; 48]; 4],
}

/// Why there are no keys to pretend with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevelopmentError {
    /// The operator's, or the disk's.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is another, or damaged.
    #[error("{}: {source}; remove it, and a new one is made", path.display())]
    Pki {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: PkiError,
    },
}

impl Development {
    /// With the keys in `folder`, which are made when there are none, and what would be deployed: D-Shield alone, in an image
    /// whose digest is that of the running agent.
    ///
    /// # Errors
    /// The keys cannot be read or kept.
    pub fn open(folder: &Path, agent_sha256: &str) -> Result<Self, DevelopmentError> {
        let pki = pki(&folder.join(PKI_FILE))?;
        let app_compose = app_compose(agent_sha256);
        let (events, rtmr) = boot::boot_log(&app_compose);
        Ok(Self { machine: Machine::new(pki, Platform::default()), app_compose, events, rtmr })
    }
}

impl Quoter for Development {
    fn provider(&self) -> Provider {
        Provider::Development
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut report = TdReport::new(report_data);
        report.rtmr = self.rtmr;
        report.mr_config_id = boot::mr_config_id(&self.app_compose);
        Ok(Quoted {
            quote: Some(self.machine.quote(&report)),
            collateral: Some(self.machine.collateral(now)),
            event_log: Some(serde_json::to_string(&self.events).expect("events are texts and numbers")),
            app_compose: Some(self.app_compose.clone()),
            ..Quoted::default()
        })
    }
}

fn pki(path: &Path) -> Result<Pki, DevelopmentError> {
    let file = |source| DevelopmentError::File { path: path.to_owned(), source };
    let wrong = |source| DevelopmentError::Pki { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(pem) => return Pki::from_pem(&pem).map_err(wrong),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file(error)),
    }
    let pki = Pki::generate().map_err(wrong)?;
    // Whole or not at all: half a file would be somebody's to remove by hand.
    let draft = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file)?;
    }
    let mut made: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(file)?;
    made.write_all(pki.to_pem().as_bytes()).and_then(|()| made.sync_all()).map_err(file)?;
    fs::rename(&draft, path).map_err(file)?;
    Ok(pki)
}

/// What dstack would be given for an agent alone. Its image is nobody's: only the digest means something.
fn app_compose(agent_sha256: &str) -> String {
    let compose = format!(
        "services:\n  dshield:\n    image: dshield.invalid/dshield@sha256:{agent_sha256}\n    privileged: true\n    network_mode: host\n    \
         volumes:\n      - /var/run/dstack.sock:/var/run/dstack.sock\n      - /sys/fs/bpf:/sys/fs/bpf\n      - /sys/fs/cgroup:/sys/fs/cgroup\n"
    );
    let value = serde_json::json!({
        "manifest_version": 2,
        "name": "dshield-development",
        "runner": "docker-compose",
        "docker_compose_file": compose,
        "kms_enabled": false,
        "gateway_enabled": false,
        "public_logs": false,
        "public_sysinfo": false,
        "allowed_envs": [],
        "no_instance_id": false,
        "secure_time": false,
    });
    dshield_common::canonical::canonical_text(&value).expect("its only number is 2")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_keys_of_a_machine_stay_and_are_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Development::open(&state, &"a".repeat(64)).unwrap();
        let again = Development::open(&state, &"b".repeat(64)).unwrap();
        assert_eq!(first.machine.pki().root_der(), again.machine.pki().root_der());
        let mode = fs::metadata(state.join(PKI_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(state.join(PKI_FILE), "x").unwrap();
        let error = Development::open(&state, &"a".repeat(64)).unwrap_err().to_string();
        assert!(error.contains("remove it, and a new one is made"), "{error}");
    }

    #[test]
    fn a_quote_is_over_the_report_data_and_names_itself_development() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Development::open(folder.path(), &"a".repeat(64)).unwrap();
        assert_eq!(machine.provider(), Provider::Development);
        let data = ReportData::of("x");
        let quoted = machine.quote(&data).unwrap();
        let quote = quoted.quote.unwrap();
        assert_eq!(&quote[568..632], data.as_bytes());
        assert!(quoted.collateral.is_some() && quoted.event_log.is_some());
    }
}
