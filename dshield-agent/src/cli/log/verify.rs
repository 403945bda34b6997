//! `dshield log verify`: for somebody who has a log, or can reach it, and at most a key that they trust.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dshield_common::log::entry::Boot;
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::note::VerifyError as NoteError;
use dshield_common::tlog::range::frontier;
use dshield_common::tlog::tile::Tile;
use dshield_common::tlog::{Checkpoint, Hash, Note, TileReader, Tree, VerifierKey, leaf_hash};
use dshield_verify::log::{Expectations, KeyError, LogFault, LogKey, Start};
use serde::Serialize;

use crate::cli::logs;
use crate::cli::whom::TlsArgs;
use crate::log::check::{Checker, Signatures};
use crate::log::fsck::boot_key;
use dshield_verify::client::{Client, ClientError, is_url, printable};

/// What `dshield log verify` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dshield log verify https://127.0.0.1:8080\n  dshield log verify copy --checkpoint \
                        what-i-was-told-before\n\nExit codes: 0 the log verifies, 1 it does not or cannot be read, 2 wrong usage."
)]
pub(in crate::cli) struct VerifyArgs {
    /// Lines as `dshield logs --json` prints them, a folder that `dshield log export` made, or the URL of an agent.
    #[arg(value_name = "FILE|DIR|URL")]
    log: String,
    /// The key (PEM) that must have signed the last entry, as you have it from whom you trust.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint that you were given before: the log must still contain what it says. May be repeated.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// A key for checkpoints (vkey), as you have it from whom you trust; without one, those that the log's boot entries
    /// list. May be repeated.
    #[arg(long, value_name = "VKEY")]
    vkey: Vec<String>,
    /// Leave the entries' signatures out: a checkpoint over all of them, signed by a --vkey, vouches for them.
    #[arg(long, requires = "vkey")]
    hashes_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("the log does not verify: {0}")]
    Fault(#[from] LogFault),
    #[error("the log does not verify: the signatures of {} entries are wrong, the first of them entry {}", .0.len(), .0.first().copied().unwrap_or_default())]
    Signatures(Vec<u64>),
    #[error("{what} does not hold: {why}")]
    Checkpoint { what: String, why: String },
    #[error(
        "with --hashes-only a checkpoint over all {count} entries has to vouch for them, and there is none; give it with --checkpoint"
    )]
    NoCheckpoint { count: u64 },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("--vkey {vkey}: {why}")]
    Vkey { vkey: String, why: String },
    #[error(
        "the log begins with entry {0}, and nobody says which key signed that; verify the folder that `dshield log export` made"
    )]
    NoStart(u64),
    #[error("{0}; stop the agent, and verify the folder that `dshield log export` makes")]
    Shortened(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Log(#[from] logs::LogsError),
}

/// What was checked.
#[derive(Debug, Serialize)]
struct Verified {
    first: u64,
    entries: u64,
    boots: u64,
    signatures: bool,
    root: Option<String>,
    checkpoints: Vec<String>,
    /// Who says that the last key is the right one.
    key_by: Option<String>,
    /// Connections without an end, of boots that were closed in order.
    left_open: Vec<u64>,
}

pub(super) async fn run(args: VerifyArgs) -> ExitCode {
    let json = args.json;
    match verify(args).await {
        Ok(verified) => {
            // Numbers and texts always have a JSON form.
            let text = if json { serde_json::to_string(&verified).unwrap_or_default() + "\n" } else { told(&verified) };
            super::print(&text);
            ExitCode::SUCCESS
        }
        Err(error @ VerifyError::Vkey { .. }) => {
            eprintln!("dshield: {}", printable(&error.to_string()));
            ExitCode::from(2)
        }
        Err(error) => super::failed(&error),
    }
}

fn told(verified: &Verified) -> String {
    let Verified { first, entries, boots, signatures, root, checkpoints, key_by, left_open } = verified;
    let last = (first + entries).saturating_sub(1);
    let mut text =
        format!("{entries} entries, {first} to {last}, of {boots} boots: none is missing, changed or moved\n");
    text.push_str(match signatures {
        true => "every signature verifies with the key of its boot\n",
        false => "signatures were not checked: the checkpoint vouches for the entries\n",
    });
    if let Some(root) = root {
        text.push_str(&format!("root {root}\n"));
    }
    for checkpoint in checkpoints {
        text.push_str(&format!("{checkpoint}\n"));
    }
    for seq in left_open {
        text.push_str(&format!("NOTE  the connection of entry {seq} has no close entry\n"));
    }
    match key_by {
        Some(who) => text.push_str(&format!("the last boot's key is the one that {who} names\n")),
        None => {
            text.push_str("NOT checked: whose keys these are, and whether the log was longer (--key, --checkpoint)\n")
        }
    }
    printable_lines(&text)
}

/// What is in a log is somebody's text; line ends are ours.
fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// Why a checkpoint of a shortened log cannot be held against it.
const NOT_HERE: &str =
    "the entries before the first one are not here, nor the tree over them, so it says nothing of them";

/// A checkpoint that the log is held to.
struct Held {
    what: String,
    note: Note,
    checkpoint: Checkpoint,
}

async fn verify(args: VerifyArgs) -> Result<Verified, VerifyError> {
    let vkeys = args.vkey.iter().map(|vkey| {
        vkey.parse::<VerifierKey>().map_err(|why| VerifyError::Vkey { vkey: vkey.clone(), why: why.to_string() })
    });
    let vkeys: Vec<_> = vkeys.collect::<Result<_, _>>()?;
    let mut held = Vec::new();
    for path in &args.checkpoint {
        held.push(read_checkpoint(path)?);
    }
    let key = args.key.as_deref().map(read_key).transpose()?;
    let mut key_by = args.key.as_ref().map(|path| path.display().to_string());
    let signatures = if args.hashes_only { Signatures::None } else { Signatures::All };
    if is_url(&args.log) {
        let client = Client::new(&args.log, args.tls.tls_spki)?;
        // Asked for first, so that all it covers is there.
        let note = logs::text(&client, "/v1/log/checkpoint").await?;
        held.push(parse_checkpoint("the agent's checkpoint", &note)?);
        let key = match key {
            Some(key) => key,
            None => {
                key_by = Some(format!("the agent at {}", args.log));
                let pem = logs::text(&client, "/v1/log/key").await?;
                let path = || PathBuf::from(format!("{}/v1/log/key", args.log));
                LogKey::from_pem(&pem).map_err(|source| VerifyError::Key { path: path(), source })?
            }
        };
        let expectations = Expectations { last_key: Some(key), ..Expectations::default() };
        let mut judge = Judge::new(expectations, signatures, held, vkeys, None);
        let mut next = 0;
        loop {
            let page = logs::page(&client, next).await.map_err(|error| match error {
                logs::LogsError::Refused { status: 410, message } => VerifyError::Shortened(message),
                error => error.into(),
            })?;
            let before = next;
            for line in page.lines() {
                judge.push(line)?;
                next += 1;
            }
            if next == before {
                return judge.finish(key_by);
            }
        }
    }
    let path = PathBuf::from(&args.log);
    let (lines, folder) = if path.is_dir() {
        let closing = path.join("checkpoint");
        if closing.exists() {
            held.push(read_checkpoint(&closing)?);
        }
        (path.join("entries.ndjson"), Some(path))
    } else {
        (path, None)
    };
    let unreadable = |source| VerifyError::File { path: lines.clone(), source };
    let mut reader = BufReader::new(File::open(&lines).map_err(unreadable)?);
    let mut first_line = String::new();
    reader.read_line(&mut first_line).map_err(unreadable)?;
    let first = SignedEntry::parse(first_line.trim_end_matches('\n')).map_or(0, |signed| signed.seq);
    let (start, before) = if first == 0 {
        (Start::Beginning, None)
    } else {
        let before = Before::read(first, folder.as_deref(), held.iter().map(|held| held.checkpoint.size()).max())?;
        // An entry that is a boot entry itself brings its key.
        let own = boot_key(first_line.trim_end_matches('\n'));
        let key = own.or_else(|| before.boot.as_deref().and_then(boot_key)).ok_or(VerifyError::NoStart(first))?;
        (Start::Page { seq: first, key }, Some(before))
    };
    let mut judge = Judge::new(Expectations { start, last_key: key }, signatures, held, vkeys, before);
    for line in first_line.as_bytes().chain(reader).lines() {
        judge.push(&line.map_err(unreadable)?)?;
    }
    judge.finish(key_by)
}

/// What an exported folder says of the entries before the first that is in it.
struct Before {
    first: u64,
    /// The line of the last boot entry among them.
    boot: Option<String>,
    /// The tree over them, as the folder's tiles have it; nobody vouches for it but a checkpoint that holds.
    tree: Option<Tree>,
}

impl Before {
    /// `size` is that of the tree whose tiles are there.
    fn read(first: u64, folder: Option<&Path>, size: Option<u64>) -> Result<Self, VerifyError> {
        let Some(folder) = folder else { return Ok(Self { first, boot: None, tree: None }) };
        let path = folder.join("boots.ndjson");
        let boots = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|source| VerifyError::File { path, source })?,
        };
        let mut tiles = TileReader::new(size.unwrap_or(first), |tile: Tile| {
            // A folder of a larger tree has it in full.
            let full = Tile::new(tile.level(), tile.index(), 256).map_err(io::Error::other)?;
            fs::read(folder.join(tile.to_string())).or_else(|_| fs::read(folder.join(full.to_string())))
        });
        let hashes: Option<Vec<_>> = frontier(first).map(|node| tiles.read(node).ok()).collect();
        let tree = hashes.and_then(|hashes| Tree::from_parts(first, hashes).ok());
        Ok(Self { first, boot: boots.lines().last().map(str::to_owned), tree })
    }

    /// The keys for checkpoints that the boot lists.
    fn checkpoint_keys(&self) -> Vec<VerifierKey> {
        let signed = self.boot.as_deref().and_then(|line| SignedEntry::parse(line).ok());
        let boot = signed.and_then(|signed| serde_json::from_str::<Boot>(&signed.entry).ok());
        boot.iter().flat_map(|boot| &boot.checkpoint_keys).filter_map(|key| key.parse().ok()).collect()
    }
}

/// Takes lines, and looks at the tree where a checkpoint says something of it.
struct Judge {
    checker: Checker,
    signatures: Signatures,
    /// The number of the first line.
    first: u64,
    /// The tree over all, where lines before the first are known by their hashes only.
    tree: Option<Tree>,
    /// Keys for checkpoints, until a line lists others.
    keys: Vec<VerifierKey>,
    held: BTreeMap<u64, Vec<Held>>,
    vkeys: Vec<VerifierKey>,
    checkpoints: Vec<String>,
    /// A checkpoint over all entries so far holds, by a key from outside.
    vouched: bool,
}

impl Judge {
    fn new(
        expectations: Expectations,
        signatures: Signatures,
        held: Vec<Held>,
        vkeys: Vec<VerifierKey>,
        before: Option<Before>,
    ) -> Self {
        let mut by_size: BTreeMap<u64, Vec<Held>> = BTreeMap::new();
        for held in held {
            by_size.entry(held.checkpoint.size()).or_default().push(held);
        }
        let checker = Checker::new(expectations, signatures);
        let keys = before.as_ref().map(Before::checkpoint_keys).unwrap_or_default();
        let (first, tree) = before.map_or((0, None), |before| (before.first, before.tree));
        Self { checker, signatures, first, tree, keys, held: by_size, vkeys, checkpoints: Vec::new(), vouched: false }
    }

    /// How many entries there are up to here, those before the first line included.
    fn size(&self) -> u64 {
        self.first + self.checker.count()
    }

    fn root(&self) -> Option<Hash> {
        self.checker.root().or_else(|| self.tree.as_ref().map(Tree::root))
    }

    fn push(&mut self, line: &str) -> Result<(), VerifyError> {
        if let Err(fault) = self.checker.push(line) {
            return Err(self.explained(fault.into()));
        }
        if let (Some(tree), Ok(signed)) = (&mut self.tree, SignedEntry::parse(line)) {
            tree.append(leaf_hash(signed.entry.as_bytes()));
        }
        self.vouched = false;
        for held in self.held.remove(&self.size()).unwrap_or_default() {
            if let Err(error) = self.hold(&held) {
                return Err(self.explained(error));
            }
        }
        Ok(())
    }

    /// Of what shows late, such as a boot entry that names another hash of all before it, the entry that it comes from.
    fn explained(&mut self, error: VerifyError) -> VerifyError {
        match self.checker.bad() {
            [] => error,
            bad => VerifyError::Signatures(bad.to_vec()),
        }
    }

    fn hold(&mut self, held: &Held) -> Result<(), VerifyError> {
        let size = held.checkpoint.size();
        let fail = |why: String| VerifyError::Checkpoint { what: held.what.clone(), why };
        let listed = match self.checker.checkpoint_keys() {
            [] => self.keys.as_slice(),
            listed => listed,
        };
        // One of another boot is signed by another key than the one that was given, perhaps, and has to hold too.
        let trusted = held.note.verified_by(&self.vkeys);
        let signed = match &trusted {
            Err(NoteError::Unverified) => held.note.verified_by(listed),
            trusted => trusted.clone(),
        };
        let root = self.root().ok_or_else(|| fail(NOT_HERE.to_owned()))?;
        if root != held.checkpoint.root() {
            let why = format!(
                "it says that the first {size} entries have the root {}, and these have {root}: entries were changed, or there are two logs",
                held.checkpoint.root()
            );
            return Err(fail(why));
        }
        signed.map_err(|error| fail(error.to_string()))?;
        let by = if trusted.is_ok() { "by a key that you gave" } else { "by a key that the log itself lists" };
        self.checkpoints.push(format!("{} holds: {size} entries, signed {by}", held.what));
        self.vouched |= trusted.is_ok();
        Ok(())
    }

    fn finish(mut self, key_by: Option<String>) -> Result<Verified, VerifyError> {
        let (first, count) = (self.first, self.size());
        if let Some(held) = std::mem::take(&mut self.held).into_values().flatten().next() {
            let size = held.checkpoint.size();
            let why = if size <= first {
                NOT_HERE.to_owned()
            } else {
                format!("it says that there were {size} entries, and there are {count}: the log was cut or rolled back")
            };
            return Err(VerifyError::Checkpoint { what: held.what, why });
        }
        if self.signatures == Signatures::None && !self.vouched {
            return Err(VerifyError::NoCheckpoint { count });
        }
        let root = self.root().map(|root| root.to_string());
        let (summary, bad) = self.checker.finish()?;
        if !bad.is_empty() {
            return Err(VerifyError::Signatures(bad));
        }
        Ok(Verified {
            first,
            entries: summary.entries,
            boots: summary.boots,
            signatures: self.signatures == Signatures::All,
            root,
            checkpoints: self.checkpoints,
            key_by,
            left_open: summary.left_open.in_order,
        })
    }
}

fn read_checkpoint(path: &Path) -> Result<Held, VerifyError> {
    let text = fs::read_to_string(path).map_err(|source| VerifyError::File { path: path.to_owned(), source })?;
    parse_checkpoint(&path.display().to_string(), &text)
}

fn parse_checkpoint(what: &str, text: &str) -> Result<Held, VerifyError> {
    let fail = |why: String| VerifyError::Checkpoint { what: what.to_owned(), why };
    let note: Note = text.parse().map_err(|error| fail(format!("it is no signed note: {error}")))?;
    let checkpoint = Checkpoint::from_note(&note).map_err(|error| fail(format!("it is no checkpoint: {error}")))?;
    Ok(Held { what: what.to_owned(), note, checkpoint })
}

fn read_key(path: &Path) -> Result<LogKey, VerifyError> {
    let pem = fs::read_to_string(path).map_err(|source| VerifyError::File { path: path.to_owned(), source })?;
    LogKey::from_pem(&pem).map_err(|source| VerifyError::Key { path: path.to_owned(), source })
}
