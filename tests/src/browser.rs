//! Chromium without a window: URLs flow in; pages as they are once their scripts have run, and pictures of them, flow out.
use std::process::{Command, Output, Stdio};

use crate::requires::requires_that;

const PROGRAMS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/google-chrome"];

/// A browser with a profile of its own, which knows nothing of earlier pages.
#[derive(Debug)]
pub struct Browser {
    program: &'static str,
    folder: tempfile::TempDir,
}

/// A page that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The document as it is in the end, as HTML.
    pub dom: String,
    /// What its scripts and the browser's rules for them wrote to the console: nothing, where all is well.
    pub console: Vec<String>,
}

impl Browser {
    /// The system's Chromium, or Chrome; nothing where there is none, which is said.
    #[must_use]
    pub fn new() -> Option<Self> {
        let found = PROGRAMS.into_iter().find(|program| std::path::Path::new(program).exists());
        let _ = requires_that(found.is_some(), "neither chromium nor google-chrome is in /usr/bin");
        let folder = tempfile::Builder::new().prefix("dshield-browser-").tempdir().expect("a temporary folder");
        Some(Self { program: found?, folder })
    }

    /// Opens a page for two seconds of its own time, which do not take as long.
    #[must_use]
    pub fn open(&self, url: &str) -> Opened {
        let output = self.run(&["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", url]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // [pid:thread:time:INFO:CONSOLE:line] "message", source: URL (line)
        let console =
            text(&output.stderr).lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
        Opened { dom: text(&output.stdout), console }
    }

    /// A picture (PNG) of what a window of this size shows of a page.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn picture(&self, url: &str, width: u32, height: u32) -> Vec<u8> {
        let file = self.folder.path().join("picture.png");
        let (size, to) = (format!("--window-size={width},{height}"), format!("--screenshot={}", file.display()));
        let output = self.run(&[&size, &to, url]);
        std::fs::read(&file).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        // Tests run as root, which Chromium's own sandbox does not.
        let always =
            ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"];
        let profile = format!("--user-data-dir={}", self.folder.path().join("profile").display());
        let mut command = Command::new(self.program);
        command.args(always).arg(profile).args(arguments).stdin(Stdio::null());
        command.output().expect("it is installed")
    }
}
