//! Which provider of quotes an agent uses: what it is told, and what this machine has.
//!
//! A word of the command line flows in as a [`Choice`]; for [`Choice::Auto`] what the machine has flows out as
//! [`Detected`], with the reasons in words.
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::configfs_tsm::ConfigfsTsm;
use super::dstack::{Dstack, ENDPOINT_VARIABLE, SOCKETS};
use super::quoter::Quoter;

/// What `--attestation` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// What the machine has ([`detect`]).
    #[default]
    Auto,
    /// No quotes.
    None,
    /// dstack's guest agent.
    Dstack,
    /// Linux's configfs-tsm.
    ConfigfsTsm,
    /// A TPM 2.0.
    Tpm,
    /// Keys that anybody can make: proves nothing.
    Development,
}

impl Choice {
    /// All of them, as the command line lists them.
    pub const ALL: [Self; 6] = [Self::Auto, Self::None, Self::Dstack, Self::ConfigfsTsm, Self::Tpm, Self::Development];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Dstack => "dstack",
            Self::ConfigfsTsm => "configfs-tsm",
            Self::Tpm => "tpm",
            Self::Development => "development",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word is no [`Choice`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no provider of quotes; use {words}", words = Choice::ALL.map(Choice::as_str).join(", "))]
pub struct ChoiceError(String);

impl FromStr for Choice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        Self::ALL.into_iter().find(|choice| choice.as_str() == text).ok_or_else(|| ChoiceError(text.to_owned()))
    }
}

/// What [`detect`] found.
#[derive(Debug)]
pub struct Detected {
    /// What makes quotes here.
    pub quoter: Option<Found>,
    /// Why it is this one, or none: a line for each place that was looked at, for people.
    pub reasons: Vec<String>,
}

/// A provider of TDX quotes.
#[derive(Debug)]
pub enum Found {
    /// dstack's guest agent.
    Dstack(Dstack),
    /// Linux's configfs-tsm.
    ConfigfsTsm(ConfigfsTsm),
}

impl Found {
    /// As any provider.
    #[must_use]
    pub fn boxed(self) -> Box<dyn Quoter> {
        match self {
            Self::Dstack(quoter) => Box::new(quoter),
            Self::ConfigfsTsm(quoter) => Box::new(quoter),
        }
    }
}

/// What this machine has: dstack's guest agent, else configfs-tsm below `tsm` where its provider is TDX, else nothing.
/// Whether they give quotes shows only when they are asked for one.
///
/// dstack comes first although it has configfs-tsm too: a quote without dstack's own event log explains no RTMR3.
#[must_use]
pub fn detect(tsm: &Path) -> Detected {
    detect_with(Dstack::find(), tsm)
}

fn detect_with(dstack: Option<Dstack>, tsm: &Path) -> Detected {
    if let Some(dstack) = dstack {
        let endpoint = dstack.endpoint();
        let said = if SOCKETS.contains(&endpoint) { String::new() } else { format!(", as {ENDPOINT_VARIABLE} says") };
        let reasons = vec![format!("dstack's guest agent is at {endpoint}{said}")];
        return Detected { quoter: Some(Found::Dstack(dstack)), reasons };
    }
    let mut reasons = vec![format!(
        "no guest agent's socket of dstack at {}, and {ENDPOINT_VARIABLE} is not set",
        SOCKETS.join(", ")
    )];
    if !tsm.is_dir() {
        reasons
            .push(format!("no {}: no TDX machine, or a kernel before 6.7, or it is not mounted here", tsm.display()));
        return Detected { quoter: None, reasons };
    }
    match ConfigfsTsm::new(tsm) {
        Ok(quoter) => {
            reasons.push(format!("{} makes TDX quotes", tsm.display()));
            Detected { quoter: Some(Found::ConfigfsTsm(quoter)), reasons }
        }
        Err(error) => {
            reasons.push(error.to_string());
            Detected { quoter: None, reasons }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_tests::tsm::Tsm;

    use super::*;

    #[test]
    fn a_choice_is_one_of_the_words_that_the_error_lists() {
        for choice in Choice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let error = "sgx".parse::<Choice>().unwrap_err().to_string();
        assert_eq!(error, "\"sgx\" is no provider of quotes; use auto, none, dstack, configfs-tsm, tpm, development");
    }

    #[test]
    fn a_machine_without_any_says_where_was_looked() {
        let folder = tempfile::tempdir().unwrap();
        let Detected { quoter, reasons } = detect_with(None, &folder.path().join("report"));
        assert!(quoter.is_none());
        assert!(reasons[0].contains("/var/run/dstack.sock"), "{reasons:?}");
        assert!(reasons[1].contains("/report: no TDX machine"), "{reasons:?}");
    }

    #[test]
    fn an_empty_folder_in_the_interfaces_place_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let Detected { quoter, reasons } = detect_with(None, folder.path());
        assert!(quoter.is_none());
        assert!(reasons[1].contains("/provider: No such file"), "{reasons:?}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "what was tried is removed");
    }

    #[test]
    fn dstack_comes_before_linux_and_linux_only_where_it_is_tdx() {
        let Some(tsm) = Tsm::mount() else { return };
        let dstack = Dstack::at("/run/dstack.sock");
        let first = detect_with(Some(dstack), &tsm.report());
        assert!(matches!(first.quoter, Some(Found::Dstack(_))), "{first:?}");
        assert_eq!(first.reasons, ["dstack's guest agent is at /run/dstack.sock"]);
        let named = detect_with(Some(Dstack::at("/tmp/x")), &tsm.report());
        assert_eq!(named.reasons, ["dstack's guest agent is at /tmp/x, as DSTACK_SIMULATOR_ENDPOINT says"]);
        let second = detect_with(None, &tsm.report());
        assert!(matches!(second.quoter, Some(Found::ConfigfsTsm(_))), "{second:?}");
        assert!(second.reasons[1].ends_with("/report makes TDX quotes"), "{second:?}");
        tsm.set_provider("sev_guest");
        let other = detect_with(None, &tsm.report());
        assert!(other.quoter.is_none());
        assert!(other.reasons[1].contains("provider is \"sev_guest\""), "{other:?}");
        assert!(tsm.reports().is_empty());
    }
}
