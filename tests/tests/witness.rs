//! The log's head goes to a witness: a real one, as C2SP tlog-witness describes it, but for its disk.
#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dshield_common::log::entry::{Event, Phase};
use dshield_common::tlog::{
    Checkpoint, Hash, KeyName, Note, NoteSignature, Receipt, VerifierKey, cosignature, leaf_hash, verify_consistency,
};
use dshield_tests::agent::{Agent, Function, Launch, Project};
use dshield_tests::requires::require_root;
use dshield_tests::wait;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

const ORIGIN: &str = "log.example.com/test";
const SEED: [u8; 32] = [7; 32];

/// Knows one log, and cosigns what follows from what it saw before.
struct Witness {
    address: SocketAddr,
    key: VerifierKey,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    seen: HashMap<String, (u64, Hash)>,
    /// What was answered.
    answers: Vec<u16>,
}

impl Witness {
    fn start() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let name: KeyName = "w.example".parse().unwrap();
        let key = VerifierKey::cosignature_v1(name, pair.public_key().as_ref().try_into().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let (shared, own) = (state.clone(), key.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared, &own, &pair);
            }
        });
        Self { address, key, state }
    }

    fn seen(&self) -> Option<u64> {
        self.state.lock().unwrap().seen.get(ORIGIN).map(|seen| seen.0)
    }

    fn answers(&self) -> Vec<u16> {
        self.state.lock().unwrap().answers.clone()
    }
}

/// One request of a connection that ends with it.
fn answer(stream: TcpStream, state: &Mutex<State>, key: &VerifierKey, pair: &Ed25519KeyPair) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.clone();
    let mut length = 0;
    while {
        line.clear();
        reader.read_line(&mut line)? > 2
    } {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    assert!(target.starts_with("POST /at/add-checkpoint HTTP/1.1"), "{target}");
    let mut state = state.lock().unwrap();
    let (status, kind, text) = judge(&mut state, std::str::from_utf8(&body).unwrap(), key, pair);
    state.answers.push(status);
    let length = text.len();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

fn judge(state: &mut State, body: &str, key: &VerifierKey, pair: &Ed25519KeyPair) -> (u16, &'static str, String) {
    let plain = |status: u16, text: &str| (status, "text/plain", text.to_owned());
    let Some((head, note)) = body.split_once("\n\n") else { return plain(400, "no empty line") };
    let mut lines = head.lines();
    let Some(old) = lines.next().and_then(|line| line.strip_prefix("old ")?.parse::<u64>().ok()) else {
        return plain(400, "no old size");
    };
    let Ok(proof) = lines.map(str::parse).collect::<Result<Vec<Hash>, _>>() else { return plain(400, "no proof") };
    let Ok(note) = note.parse::<Note>() else { return plain(400, "no note") };
    let Ok(checkpoint) = Checkpoint::from_note(&note) else { return plain(400, "no checkpoint") };
    if checkpoint.origin() != ORIGIN {
        return plain(404, "unknown origin");
    }
    let public = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let log = VerifierKey::ed25519(ORIGIN.parse().unwrap(), public.public_key().as_ref().try_into().unwrap()).unwrap();
    if note.verified_by([&log]).is_err() {
        return plain(403, "not signed by the log");
    }
    let (size, root) = state.seen.get(ORIGIN).copied().unwrap_or((0, dshield_common::tlog::empty_root()));
    if old > checkpoint.size() {
        return plain(400, "old is larger");
    }
    if old != size {
        return (409, "text/x.tlog.size", format!("{size}\n"));
    }
    if verify_consistency(old, &root, checkpoint.size(), &checkpoint.root(), &proof).is_err() {
        return plain(422, "not consistent");
    }
    state.seen.insert(ORIGIN.to_owned(), (checkpoint.size(), checkpoint.root()));
    let now = 1_800_000_000;
    let signature = pair.sign(&cosignature::message(now, note.text()));
    let blob = [now.to_be_bytes().as_slice(), signature.as_ref()].concat();
    plain(200, &format!("{}\n", NoteSignature { name: key.name().clone(), id: key.id(), signature: blob }))
}

/// An agent that shows its log to the witness every second.
fn agent(project: &Project, witness: &Witness, state: Option<&Path>) -> Agent {
    let path = project.write();
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(&format!(
        "\n[log]\norigin = \"{ORIGIN}\"\nseed_secret = \"LOG_SEED\"\ninterval = \"1s\"\n\
         [[log.witness]]\nurl = \"http://{}/at/\"\nkey = \"{}\"\n",
        witness.address, witness.key
    ));
    std::fs::write(&path, text).unwrap();
    let wrapper = vec!["env".to_owned(), format!("LOG_SEED={}", STANDARD.encode(SEED))];
    let launch = Launch { config: Some(path), wrapper, state: state.map(Path::to_owned), ..Launch::default() };
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_witness_cosigns_the_log_through_its_boots_and_tells_when_an_older_one_is_put_back() {
    if !require_root() {
        return;
    }
    let witness = Witness::start();
    let project = Project::new().with(&Function::probe("native"));
    let mut first = agent(&project, &witness, None);
    let _ = first.call("native", &json!({"do": "echo"}));
    let whole = first.log().lines.len() as u64;
    wait::until("the witness to see that", || witness.seen().filter(|seen| *seen >= whole));

    // What is published then, and receipts, have its signature beside both of the log's.
    let note: Note = wait::until("the cosignature", || {
        let note: Note = first.get("/v1/log/tlog/checkpoint").text().parse().unwrap();
        note.verified_by([&witness.key]).is_ok().then_some(note)
    });
    assert_eq!(note.signatures().len(), 3);
    let receipt: Receipt = first.get("/v1/log/proof/1").text().parse().unwrap();
    let Event::Boot(boot) = first.log().events().next().unwrap().1.clone() else { panic!("no boot entry") };
    let mut keys: Vec<VerifierKey> = boot.checkpoint_keys.iter().map(|key| key.parse().unwrap()).collect();
    keys.push(witness.key.clone());
    let log = first.log();
    let entry = dshield_common::log::line::SignedEntry::parse(&log.lines[1].text).unwrap().entry;
    receipt.verify(&leaf_hash(entry.as_bytes()), &keys).unwrap();
    assert_eq!(receipt.note().verified_by([&witness.key]).unwrap().len(), 1);

    // Showing it is egress of the agent's own: decided by a rule of the policy, and in the log before it left.
    let asked = log.events().any(|(function, event)| {
        function.is_none()
            && matches!(event, Event::Request(request) if request.phase == Phase::Begin
                && request.rule.as_deref() == Some("log.witness[0]")
                && request.path.as_deref() == Some("/at/add-checkpoint"))
    });
    assert!(asked, "{log}");
    // And no reason to show it again.
    let settled = witness.answers().len();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(witness.answers().len() <= settled + 1, "{:?}", witness.answers());
    assert_eq!(first.stop(), Some(0));

    // The next boot does not know what the witness has seen, and is told.
    let older = project.folder().join("older");
    copy(&project.state(), &older);
    let before = witness.seen().unwrap();
    let mut second = agent(&project, &witness, None);
    wait::until("the second boot's head to be seen", || witness.seen().filter(|seen| *seen > before));
    assert!(witness.answers().contains(&409), "{:?}", witness.answers());
    for _ in 0..20 {
        let _ = second.call("native", &json!({"do": "echo"}));
    }
    let whole = second.log().lines.len() as u64;
    wait::until("the witness to see that", || witness.seen().filter(|seen| *seen >= whole));
    assert_eq!(second.stop(), Some(0));

    // Whoever owns the disk puts back the older files: they verify, and the witness has seen more.
    let mut third = agent(&project, &witness, Some(&older));
    let told = |event: &Event, what: &str| matches!(event, Event::Tamper { what: said } if said.contains(what) && said.contains("w.example"));
    let log = third.log_with("the rollback", |log| log.events().any(|(_, event)| told(event, "rolled back")));
    assert_eq!(log.verify(), Ok(()));
    assert_eq!(third.stop(), Some(0));

    // Grown beyond what was seen, it is another log.
    let mut third = agent(&project, &witness, Some(&older));
    while (third.log().lines.len() as u64) < witness.seen().unwrap() {
        let _ = third.call("native", &json!({"do": "echo"}));
    }
    let _ = third.log_with("the fork", |log| log.events().any(|(_, event)| told(event, "two logs")));
    assert_eq!(third.stop(), Some(0));
}

#[test]
fn a_seed_that_is_missing_or_none_is_refused_and_not_printed() {
    if !require_root() {
        return;
    }
    let witness = Witness::start();
    let project = Project::new().with(&Function::probe("native"));
    let path = project.write();
    let text = std::fs::read_to_string(&path).unwrap() + "\n[log]\nseed_secret = \"LOG_SEED\"\n";
    std::fs::write(&path, text).unwrap();
    for (value, part) in
        [("", "set the agent's environment variable LOG_SEED"), ("c2hvcnQ=", "must hold 32 bytes in base64")]
    {
        let wrapper = vec!["env".to_owned(), format!("LOG_SEED={value}")];
        let launch = Launch { config: Some(path.clone()), wrapper, ..Launch::default() };
        let Err(error) = Agent::launch(&project, launch) else { panic!("it started with {value:?}") };
        let said = error.to_string();
        assert!(said.contains(part), "{said}");
        assert!(value.is_empty() || !said.contains(value), "{said}");
    }
    drop(witness);
}
