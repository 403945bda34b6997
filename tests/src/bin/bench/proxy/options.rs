//! The words behind `bench proxy`.
use std::time::Duration;

use super::Effort;

/// What `--help` says.
pub const USAGE: &str =
    "usage: bench proxy [--quick] [--rounds N] [--seconds S] [--mebibytes M] [--only WORD] [--among WORD]
                   [--write]

Measures the proxy beside HAProxy and nginx (passthrough), and beside nginx, Squid and mitmproxy (inspect): new
connections, keep-alive requests, a large body down and up, memory of idle connections. What is not installed is
skipped by name; `cargo xtask bench proxy --install` installs it: Debian's haproxy, libnginx-mod-stream, nftables,
nginx-light and squid-openssl, and mitmproxy from PyPI below the target folder. Needs root.

  --quick        one round of half a second each, bodies of 64 MiB
  --rounds N     how often each subject does each task (5)
  --seconds S    how long load that is counted by the second runs (2)
  --mebibytes M  the size of a large body (1024)
  --only WORD    only tasks with this word in their name; may be repeated
  --among WORD   only subjects with this word in their name or mode; may be repeated
  --write        write docs/reference/benchmarks.md";

const QUICK: Effort = Effort { rounds: 1, load: Duration::from_millis(500), bytes: 64 << 20, idle: 100 };
const FULL: Effort = Effort { rounds: 5, load: Duration::from_secs(2), bytes: 1 << 30, idle: 480 };

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much.
    pub effort: Effort,
    /// Whether to write the page.
    pub write: bool,
    /// The words, for the page.
    pub line: String,
    only: Vec<String>,
    among: Vec<String>,
}

impl Options {
    /// Reads the words; nothing when they ask for help.
    pub fn parse(arguments: &[&str]) -> Result<Option<Self>, String> {
        let mut options =
            Self { effort: FULL, write: false, line: arguments.join(" "), only: Vec::new(), among: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} takes a value"));
            match *argument {
                "--help" | "-h" => return Ok(None),
                "--quick" => options.effort = QUICK,
                "--write" => options.write = true,
                "--rounds" => options.effort.rounds = number(value()?)?.try_into().map_err(|_| "too many")?,
                "--seconds" => options.effort.load = Duration::from_secs(number(value()?)?),
                "--mebibytes" => options.effort.bytes = number(value()?)? << 20,
                "--only" => options.only.push((*value()?).to_owned()),
                "--among" => options.among.push((*value()?).to_owned()),
                other => return Err(format!("unknown option {other:?}")),
            }
        }
        Ok(Some(options))
    }

    /// Whether the task with this name is to be done.
    pub fn wants(&self, task: &str) -> bool {
        named(&self.only, &[task])
    }

    /// Whether the subject with this name and mode takes part.
    pub fn includes(&self, name: &str, mode: &str) -> bool {
        named(&self.among, &[name, mode])
    }
}

fn named(words: &[String], names: &[&str]) -> bool {
    words.is_empty() || words.iter().any(|word| names.iter().any(|name| name.contains(word.as_str())))
}

fn number(text: &str) -> Result<u64, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    if (1..=1 << 20).contains(&number) { Ok(number) } else { Err(format!("{text} is out of range")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_words_refine_what_earlier_ones_set() {
        let words = ["--quick", "--rounds", "3", "--only", "requests", "--among", "inspect"];
        let options = Options::parse(&words).unwrap().unwrap();
        assert_eq!((options.effort.rounds, options.effort.load), (3, QUICK.load));
        assert!(options.wants("keep-alive requests, 1 connection") && !options.wants("download"));
        assert!(options.includes("nginx", "inspect") && !options.includes("nginx", "passthrough"));
        for wrong in [&["--rounds"][..], &["--rounds", "0"], &["--rounds", "x"], &["--slow"]] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
