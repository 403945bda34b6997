//! `dshield policy suggest`: a log, verified, to the rules that it lacks.
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dshield_common::log::line::SignedEntry;
use dshield_common::policy::{Policy, Suggestions};
use dshield_verify::log::{Expectations, KeyError, LogFault, LogKey, LogSummary, LogVerifier};

use super::whom::TlsArgs;
use super::{check, logs};
use crate::config;
use dshield_verify::client::{Client, ClientError, is_url, printable};

/// What `dshield policy suggest` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dshield policy suggest --from-log https://127.0.0.1:8080 --policy dshield.toml\n  \
                        dshield logs --json > log.ndjson; dshield policy suggest --from-log log.ndjson"
)]
pub(super) struct SuggestArgs {
    /// A whole log as `dshield logs --json` prints it, or the URL of a running agent.
    #[arg(long, value_name = "FILE|URL")]
    from_log: String,
    /// The policy with the rules that there are: only what they lack is suggested.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The key (PEM) that must have signed the last entry, as you have it from whom you trust.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Why nothing is suggested.
#[derive(Debug, thiserror::Error)]
enum SuggestError {
    #[error("the log is not to be trusted: {0}; nothing is suggested from it")]
    Fault(#[from] LogFault),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("the agent's key is none: {0}")]
    AgentsKey(KeyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Log(#[from] logs::LogsError),
}

/// Suggests. Exit code 1 when the log does not verify or cannot be read, 2 when the policy has mistakes.
pub(super) async fn run(args: SuggestArgs) -> ExitCode {
    let SuggestArgs { from_log, policy, key, tls } = args;
    let policy = match policy.map(|file| config::load(&file)).transpose() {
        Ok(loaded) => loaded.map(|config| config.deployment.policy),
        Err(error) => {
            eprint!("{}", check::explain(&error));
            return ExitCode::from(2);
        }
    };
    let learned = match is_url(&from_log) {
        true => from_agent(&from_log, &tls, key.as_deref()).await,
        false => from_file(Path::new(&from_log), key.as_deref()),
    };
    match learned {
        Ok(learned) => {
            let text = learned.finish(policy.as_deref());
            // A reader that went away is no reason for another exit code.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dshield: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// What a log that verifies taught.
struct Learned {
    suggestions: Suggestions,
    summary: LogSummary,
    /// Entries of a newer version.
    unknown: u64,
    /// Who says that the last key is the right one.
    vouched: Option<String>,
}

impl Learned {
    /// Says what was checked, and gives back the suggestions.
    fn finish(self, policy: Option<&Policy>) -> String {
        let Self { suggestions, summary, unknown, vouched } = self;
        let LogSummary { entries, boots, last_seq, .. } = summary;
        eprintln!(
            "dshield: checked {entries} entries, 0 to {last_seq}: none is missing, and each is signed by the key that the boot \
             entry before it lists ({boots} of them)"
        );
        match vouched {
            Some(who) => eprintln!("dshield: the last boot's key is the one that {who} names"),
            None => eprintln!(
                "dshield: NOT checked: whose keys these are, and whether the log was longer. Whoever gave you the file could have \
                 written all of it; --key FILE compares the last key with one that you trust"
            ),
        }
        if unknown > 0 {
            eprintln!("dshield: {unknown} entries are of a newer version, and were not read");
        }
        suggestions.to_toml(policy)
    }
}

/// Reads and checks a log line by line: nothing is learned from a line that does not verify.
struct Reader {
    verifier: LogVerifier,
    suggestions: Suggestions,
    unknown: u64,
}

impl Reader {
    fn new(last_key: Option<LogKey>) -> Self {
        let verifier = LogVerifier::new(Expectations { last_key, ..Expectations::default() });
        Self { verifier, suggestions: Suggestions::new(), unknown: 0 }
    }

    fn take(&mut self, line: &str) -> Result<(), LogFault> {
        self.verifier.push(line)?;
        match SignedEntry::parse(line).map(|signed| signed.decode()) {
            Ok(Ok(entry)) => self.suggestions.take(&entry),
            _ => self.unknown += 1,
        }
        Ok(())
    }

    fn finish(self, vouched: Option<String>) -> Result<Learned, LogFault> {
        let Self { verifier, suggestions, unknown } = self;
        Ok(Learned { suggestions, summary: verifier.finish()?, unknown, vouched })
    }
}

fn from_file(path: &Path, key: Option<&Path>) -> Result<Learned, SuggestError> {
    let unreadable = |source| SuggestError::File { path: path.to_owned(), source };
    let mut reader = Reader::new(key.map(read_key).transpose()?);
    for line in BufReader::new(File::open(path).map_err(unreadable)?).lines() {
        reader.take(&line.map_err(unreadable)?)?;
    }
    Ok(reader.finish(key.map(|key| key.display().to_string()))?)
}

async fn from_agent(url: &str, tls: &TlsArgs, key: Option<&Path>) -> Result<Learned, SuggestError> {
    let client = Client::new(url, tls.tls_spki)?;
    let (expected, vouched) = match key {
        Some(file) => (read_key(file)?, file.display().to_string()),
        None => {
            let pem = logs::text(&client, "/v1/log/key").await?;
            (LogKey::from_pem(&pem).map_err(SuggestError::AgentsKey)?, format!("the agent at {url}"))
        }
    };
    let mut reader = Reader::new(Some(expected));
    let mut next = 0;
    loop {
        let before = next;
        for line in logs::page(&client, next).await?.lines() {
            reader.take(line)?;
            next += 1;
        }
        if next == before {
            return Ok(reader.finish(Some(vouched))?);
        }
    }
}

fn read_key(path: &Path) -> Result<LogKey, SuggestError> {
    let pem = std::fs::read_to_string(path).map_err(|source| SuggestError::File { path: path.to_owned(), source })?;
    LogKey::from_pem(&pem).map_err(|source| SuggestError::Key { path: path.to_owned(), source })
}
