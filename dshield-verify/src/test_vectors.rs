//! Real data to test with, which is not part of the repository.
use std::io::Write as _;
use std::path::PathBuf;

/// The bytes of the file `name` in `DSHIELD_VECTORS`, else beside the workspace. Where it is absent the test should
/// return: that is said on stderr, and in the file that `DSHIELD_SKIP_FILE` names.
pub(crate) fn read(name: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    let path = std::env::var_os("DSHIELD_VECTORS").map_or_else(beside, PathBuf::from).join(name);
    if let Ok(bytes) = std::fs::read(&path) {
        return Some(bytes);
    }
    skipped(&format!("no {name} in DSHIELD_VECTORS nor ../shared/vectors"));
    None
}

/// Says that the test that runs is skipped, and why: on stderr, and in the file that `DSHIELD_SKIP_FILE` names.
pub(crate) fn skipped(why_not: &str) {
    eprintln!("skipped: {why_not}");
    if let Some(path) = std::env::var_os("DSHIELD_SKIP_FILE") {
        let thread = std::thread::current();
        let line = format!("{}: {why_not}\n", thread.name().unwrap_or("a test"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that lines of tests that run side by side stay whole.
        let kept = file.and_then(|mut file| file.write_all(line.as_bytes()));
        kept.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
