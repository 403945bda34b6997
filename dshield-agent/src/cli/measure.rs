//! `dshield measure`: the hashes that a verifier compares.
use std::process::ExitCode;

use crate::attest::Measurements;
use crate::sandbox::Filter;

/// Prints them.
pub(super) fn run(json: bool) -> ExitCode {
    let measured = Filter::compile_all()
        .map_err(|error| error.to_string())
        .and_then(|filters| Measurements::take(&filters).map_err(|error| error.to_string()));
    match measured {
        Ok(Measurements { sha256 }) if json => println!("{}", serde_json::json!(sha256)),
        Ok(Measurements { sha256 }) => {
            for (name, hash) in sha256 {
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
