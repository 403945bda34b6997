//! TDX quotes from Linux itself: configfs-tsm (from 6.7; Documentation/ABI/testing/configfs-tsm-report).
//!
//! Report data flow in; a quote that is over them flows out, and with it the events of RTMR3 where the agent extends it
//! ([`Rtmr3`]). One quote is one folder, which the kernel fills with files and which is removed again:
//!
//! ```text
//! mkdir NAME; provider is tdx_guest; generation is N; 64 bytes into inblob; outblob; generation is N + 1; rmdir NAME
//! ```
//!
//! Another generation means that somebody else wrote into the folder, so the quote may be over anything. What may be
//! better a moment later is tried again, some times and not for long.
//!
//! An agent that is killed leaves its folder behind. The next one removes it; that it is not the folder of an agent at
//! work shows the lock (`flock`) which each holds on its own, and which the kernel drops with its holder.
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dshield_common::attestation::{Provider, ReportData};
use ring::rand::{SecureRandom, SystemRandom};

use super::quoter::{QuoteError, Quoted, Quoter};
use super::rtmr::Rtmr3;
use super::tdx;
use dshield_common::hex;

/// Where Linux has it.
pub const ROOT: &str = "/sys/kernel/config/tsm/report";

/// What `provider` says of TDX.
const TDX_GUEST: &str = "tdx_guest";
/// Of each folder's name; who else uses the interface has another.
const PREFIX: &str = "dshield-";
/// Quotes have some 5 KiB; the kernel would hold 32 KiB, later kernels 16 MiB.
const LONGEST_QUOTE: u64 = 1 << 20;
/// `generation` and `provider` are one word.
const LONGEST_WORD: u64 = 256;

/// Linux's own maker of quotes.
#[derive(Debug)]
pub struct ConfigfsTsm {
    root: PathBuf,
    rtmr3: Option<Rtmr3>,
    patience: Patience,
}

/// How often and for how long a quote is tried for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    attempts: u32,
    /// Doubled after each attempt.
    pause: Duration,
    /// No attempt begins later. One that the host lets wait takes the kernel's 30 seconds.
    total: Duration,
}

const PATIENCE: Patience = Patience { attempts: 8, pause: Duration::from_millis(100), total: Duration::from_secs(45) };

impl ConfigfsTsm {
    /// The interface below `root` ([`ROOT`], unless a test has another), once it has said that it is TDX. Removes what
    /// agents that were killed have left there.
    ///
    /// # Errors
    /// This machine has no such interface, or it makes other quotes than TDX's.
    pub fn new(root: &Path) -> Result<Self, QuoteError> {
        sweep(root);
        Report::create(root)?.is_tdx()?;
        Ok(Self { root: root.to_owned(), rtmr3: None, patience: PATIENCE })
    }

    /// Quotes come with the events of this register.
    #[must_use]
    pub fn with_rtmr3(self, rtmr3: Rtmr3) -> Self {
        Self { rtmr3: Some(rtmr3), ..self }
    }

    fn attempt(&self, report_data: &ReportData) -> Result<Vec<u8>, QuoteError> {
        let report = Report::create(&self.root)?;
        report.is_tdx()?;
        let before = report.generation()?;
        report.write("inblob", report_data.as_bytes())?;
        let quote = report.read("outblob", LONGEST_QUOTE);
        // Also after an error: it may be about what somebody else wrote.
        match report.generation() {
            Ok(after) if after != before.wrapping_add(1) && after != before => Err(report.disturbed()),
            Err(error) if quote.is_ok() => Err(error),
            _ => quote,
        }
    }
}

impl Quoter for ConfigfsTsm {
    fn provider(&self) -> Provider {
        Provider::ConfigfsTsm
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError> {
        let start = Instant::now();
        let mut pause = self.patience.pause;
        let mut attempt = 1;
        let quote = loop {
            let error = match self.attempt(report_data) {
                Ok(quote) => break quote,
                Err(error) => error,
            };
            let late = start.elapsed() + pause > self.patience.total;
            if !worth_another(&error) || attempt == self.patience.attempts || late {
                return Err(error);
            }
            tracing::debug!("attempt {attempt} to get a quote: {error}");
            thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        };
        let body = tdx::check(&quote, report_data)?;
        let event_log = self.rtmr3.as_mut().and_then(|rtmr3| rtmr3.event_log_of(body.rtmr3()));
        Ok(Quoted { quote: Some(quote), event_log, ..Quoted::default() })
    }
}

/// The kernel's transient errors: an answer of the host that comes late (`ETIMEDOUT`) keeps its buffer busy for a while
/// (`EBUSY`), a signal interrupts (`EINTR`), somebody else asks (`EAGAIN`), the host fails (`EIO`), memory is short.
fn worth_another(error: &QuoteError) -> bool {
    let short = matches!(error, QuoteError::File { source, .. } if source.raw_os_error() == Some(libc::ENOMEM));
    short || error.is_transient()
}

/// Removes the folders of agents that are no more.
fn sweep(root: &Path) {
    // Where the root cannot be read, making a folder in it says why.
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Held until the folder is gone, so that an agent that has just made it and not yet locked it finds out.
        let Some(_lock) = File::open(&path).ok().filter(|folder| folder.try_lock().is_ok()) else { continue };
        match fs::remove_dir(&path) {
            Ok(()) => tracing::info!("removed {}, which an agent that was killed had left", path.display()),
            Err(error) => tracing::warn!("{}: {error}", path.display()),
        }
    }
}

/// One report's folder; removed when dropped.
struct Report {
    path: PathBuf,
    /// While it is open, others see that the folder is in use.
    lock: Option<File>,
}

impl Report {
    fn create(root: &Path) -> Result<Self, QuoteError> {
        let file = |path: &Path, source| QuoteError::File { path: path.to_owned(), source };
        let mut name = [0; 8];
        let random = SystemRandom::new().fill(&mut name);
        random.map_err(|_| file(root, io::Error::other("the system gives no randomness for a name")))?;
        let path = root.join(format!("{PREFIX}{}", hex::encode(&name)));
        fs::create_dir(&path).map_err(|error| file(&path, error))?;
        let mut report = Self { path, lock: None };
        let folder = File::open(&report.path).map_err(|error| report.failed(&report.path, error))?;
        match folder.try_lock() {
            Ok(()) => report.lock = Some(folder),
            // Another agent has just taken it for a leftover.
            Err(TryLockError::WouldBlock) => return Err(report.disturbed()),
            // Then no agent here can lock any, and so none removes any.
            Err(TryLockError::Error(error)) => tracing::debug!("{}: no lock: {error}", report.path.display()),
        }
        Ok(report)
    }

    fn is_tdx(&self) -> Result<(), QuoteError> {
        let provider = self.word("provider")?;
        if provider == TDX_GUEST {
            return Ok(());
        }
        Err(QuoteError::NotAQuote(format!("this machine's provider is {provider:?}, not {TDX_GUEST:?}")))
    }

    fn generation(&self) -> Result<u64, QuoteError> {
        let word = self.word("generation")?;
        let no_number = |_| self.failed(&self.path.join("generation"), io::Error::other(format!("it says {word:?}")));
        word.parse().map_err(no_number)
    }

    fn word(&self, name: &str) -> Result<String, QuoteError> {
        let bytes = self.read(name, LONGEST_WORD)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn read(&self, name: &str, longest: u64) -> Result<Vec<u8>, QuoteError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| read_whole(file.take(longest + 1), &mut bytes));
        read.map_err(|error| self.failed(&path, error))?;
        if bytes.len() as u64 > longest {
            return Err(self.failed(&path, io::Error::from_raw_os_error(libc::EFBIG)));
        }
        Ok(bytes)
    }

    /// Everything at once: the kernel takes what was written when the file is closed, and says nothing then.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), QuoteError> {
        let path = self.path.join(name);
        let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write(bytes));
        match written.map_err(|error| self.failed(&path, error))? {
            count if count == bytes.len() => Ok(()),
            count => Err(self.failed(&path, io::Error::other(format!("it took {count} bytes of {}", bytes.len())))),
        }
    }

    fn failed(&self, path: &Path, source: io::Error) -> QuoteError {
        // What the kernel put into our folder is there until somebody removes the folder. Where the folder is there without
        // it, this is no configfs: Docker makes an empty folder of a volume that the machine does not have.
        if source.kind() == io::ErrorKind::NotFound && !self.path.exists() {
            return self.disturbed();
        }
        QuoteError::File { path: path.to_owned(), source }
    }

    fn disturbed(&self) -> QuoteError {
        QuoteError::Disturbed { path: self.path.clone() }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.path);
        // Only now may others try.
        drop(self.lock.take());
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} is left behind: {error}", self.path.display());
        }
    }
}

/// Unlike [`Read::read_to_end`], which would go on after each `EINTR`: here that is the answer of a driver that gave up.
fn read_whole(mut file: impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests;
