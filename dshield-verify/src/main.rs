//! The command `dshield-verify`.
use std::process::ExitCode;

use clap::Parser;
use dshield_verify::cli::{self, VerifyArgs};

/// Checks a running D-Shield: that it is a genuine machine, where its data can go, and that its log is whole.
#[derive(Debug, Parser)]
#[command(name = "dshield-verify", version)]
struct Cli {
    #[command(flatten)]
    args: VerifyArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli.args));
            // A name that is still being looked up, which nothing can interrupt, is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("dshield-verify: cannot start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
