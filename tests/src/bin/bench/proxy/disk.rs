//! What the disk that the agents' logs are on takes for the least that makes anything durable.
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use dshield_tests::client::Error;
use dshield_tests::load::percentile;

/// Where the agents keep their logs: beside the programs, for /tmp may be memory, where nothing is durable.
pub fn of_logs() -> Result<PathBuf, Error> {
    let program = std::env::current_exe()?;
    Ok(program.parent().ok_or("a program lies in a folder")?.to_owned())
}

/// The median of one write of 4 KiB and `fdatasync`, in milliseconds, in this folder.
pub fn sync_ms(folder: &Path) -> Result<f64, Error> {
    const TIMES: usize = 20;
    let mut file = tempfile::tempfile_in(folder)?;
    // What makes the file longer costs more, and the log seldom does.
    let once = |file: &mut File| -> Result<u64, Error> {
        let started = Instant::now();
        file.rewind()?;
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        Ok(u64::try_from(started.elapsed().as_micros())?)
    };
    once(&mut file)?;
    let mut times = (0..TIMES).map(|_| once(&mut file)).collect::<Result<Vec<_>, _>>()?;
    Ok(percentile(&mut times, 50) as f64 / 1e3)
}
