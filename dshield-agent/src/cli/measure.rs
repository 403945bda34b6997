//! `dshield measure`: the hashes that a verifier compares.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::attest::Measurements;
use crate::config;
use crate::sandbox::Filter;
use crate::snapshot;

/// What `dshield measure` takes.
#[derive(Debug, clap::Args)]
pub(super) struct MeasureArgs {
    /// Also print the hash of this policy, and of the code of each of its functions, as they are now.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a policy file leads to, by hash.
struct Deployment {
    policy: String,
    code: BTreeMap<String, String>,
}

/// Prints them.
pub(super) fn run(args: &MeasureArgs) -> ExitCode {
    let deployment = match args.config.as_deref().map(deployment).transpose() {
        Ok(deployment) => deployment,
        Err(error) => {
            eprintln!("dshield: {error}");
            return ExitCode::from(2);
        }
    };
    let measured = Filter::compile_all()
        .map_err(|error| error.to_string())
        .and_then(|filters| Measurements::take(&filters).map_err(|error| error.to_string()));
    match measured {
        Ok(Measurements { sha256 }) if args.json => {
            let mut all = json!(sha256);
            if let Some(Deployment { policy, code }) = deployment {
                all["policy"] = json!(policy);
                all["code"] = json!(code);
            }
            println!("{all}");
        }
        Ok(Measurements { sha256 }) => {
            let lines = sha256.into_iter().chain(deployment.into_iter().flat_map(|Deployment { policy, code }| {
                let code = code.into_iter().map(|(name, hash)| (format!("code/{name}"), hash));
                [("policy".to_owned(), policy)].into_iter().chain(code)
            }));
            for (name, hash) in lines {
                println!("{hash}  {name}");
            }
        }
        Err(error) => {
            eprintln!("dshield: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn deployment(file: &Path) -> Result<Deployment, String> {
    let config = config::load(file).map_err(|error| error.to_string())?;
    let code = snapshot::measure(&config.functions).map_err(|error| error.to_string())?;
    Ok(Deployment { policy: config.deployment.policy.hash().to_string(), code })
}
