//! The `dshield` command.
use std::process::ExitCode;

fn main() -> ExitCode {
    dshield_agent::cli::main()
}
