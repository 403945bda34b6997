//! Fuzz targets: any bytes flow in; nothing flows out, and what must hold of them is asserted.
//!
//! Each target is a plain function. `cargo fuzz` drives it with coverage on nightly (README.md); `tests/corpus.rs`
//! drives it on stable, with the corpus that is kept and with [`mutate`]d copies of it for a few seconds.
#![forbid(unsafe_code)]

pub mod app_compose;
pub mod authority;
pub mod client_hello;
pub mod deployment;
pub mod dns;
pub mod event_log;
pub mod evidence;
pub mod expect;
pub mod framing;
pub mod host_name;
pub mod log;
pub mod log_line;
pub mod mutate;
pub mod note;
pub mod path;
pub mod policy;
pub mod quote;
pub mod receipt;
pub mod statement;
pub mod tile_path;
pub mod trust_policy;

/// A parser of hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics when something does not hold for these bytes.
    pub check: fn(&[u8]),
    /// What to write into inputs, so that mutations get past the first comparison.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "policy", check: policy::check, words: policy::WORDS },
    Target { name: "host_name", check: host_name::check, words: host_name::WORDS },
    Target { name: "path", check: path::check, words: path::WORDS },
    Target { name: "authority", check: authority::check, words: authority::WORDS },
    Target { name: "client_hello", check: client_hello::check, words: client_hello::WORDS },
    Target { name: "dns", check: dns::check, words: dns::WORDS },
    Target { name: "framing", check: framing::check, words: framing::WORDS },
    Target { name: "log_line", check: log_line::check, words: log_line::WORDS },
    Target { name: "log", check: log::check, words: log::WORDS },
    Target { name: "note", check: note::check, words: note::WORDS },
    Target { name: "receipt", check: receipt::check, words: receipt::WORDS },
    Target { name: "tile_path", check: tile_path::check, words: tile_path::WORDS },
    Target { name: "trust_policy", check: trust_policy::check, words: trust_policy::WORDS },
    Target { name: "event_log", check: event_log::check, words: event_log::WORDS },
    Target { name: "app_compose", check: app_compose::check, words: app_compose::WORDS },
    Target { name: "quote", check: quote::check, words: quote::WORDS },
    Target { name: "statement", check: statement::check, words: statement::WORDS },
    Target { name: "evidence", check: evidence::check, words: evidence::WORDS },
    Target { name: "expect", check: expect::check, words: expect::WORDS },
];

/// Runs `work` where timers are; none of them is waited for.
fn with_timers<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("timers need nothing of the machine");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
