//! `dshield` with the walls that `DSHIELD_WALLS_OFF` names taken away, for the tests that show what each wall
//! holds by itself. Never to be deployed: a release build of it does not exist.
use std::process::ExitCode;

use dshield_agent::walls::Walls;

fn main() -> ExitCode {
    let names = std::env::var("DSHIELD_WALLS_OFF").unwrap_or_default();
    if let Err(error) = Walls::take_away(&names) {
        eprintln!("dshield-unwalled: DSHIELD_WALLS_OFF: {error}");
        return ExitCode::from(2);
    }
    if !names.is_empty() {
        eprintln!("dshield-unwalled: for tests only: these walls are off: {names}");
    }
    dshield_agent::cli::main()
}
