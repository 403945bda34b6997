//! Trust policies, cosignatures and whole receipts, compared with those of `sigsum`, whose logs are also logs of
//! these formats and whose policies differ only in how they write keys.
use ed25519_dalek::SigningKey;

use super::*;
use crate::tlog::policy::parse::PolicyCause;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn private(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> [u8; 32] {
    private(seed).verifying_key().to_bytes()
}

fn keyhash(seed: u8) -> sigsum::Hash {
    sigsum::Hash::new(public(seed))
}

#[derive(Clone, Debug)]
enum Line {
    Log(u8),
    Witness(String, u8),
    Group(String, String, Vec<String>),
    Quorum(String),
    Other(String),
}

/// The file in our dialect and in theirs.
fn written(lines: &[Line], blank: &str) -> (String, String) {
    let write = |key: &dyn Fn(&Line) -> String| {
        let line = |line: &Line| match line {
            Line::Log(_) => format!("{blank}log{blank}{} https://log.example/\n", key(line)),
            Line::Witness(name, _) => format!("witness {name}{blank}{}{blank}\n", key(line)),
            Line::Group(name, needed, members) => format!("group {name} {needed} {}\n", members.join(blank)),
            Line::Quorum(name) => format!("{blank}quorum {name}\n"),
            Line::Other(text) => format!("{text}\n"),
        };
        lines.iter().map(line).collect::<String>()
    };
    let ours = |line: &Line| match line {
        Line::Log(seed) => TestSigner::ed25519(*seed).key("log").to_string(),
        Line::Witness(_, seed) => TestSigner::witness(*seed).key("w").to_string(),
        _ => String::new(),
    };
    let theirs = |line: &Line| match line {
        Line::Log(seed) | Line::Witness(_, seed) => hex(public(*seed)),
        _ => String::new(),
    };
    (write(&ours), write(&theirs))
}

/// A policy with groups of groups, then damaged a little.
fn lines() -> impl Strategy<Value = Vec<Line>> {
    let groups = prop::collection::vec(
        (prop_oneof![Just("any"), Just("all"), Just("1"), Just("2"), Just("3")], 1..4usize),
        0..4,
    );
    let damage = prop::collection::vec((0..7u8, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..2);
    (1..7u8, groups, any::<prop::sample::Index>(), damage).prop_map(|(witnesses, groups, quorum, damage)| {
        let mut lines = vec![Line::Log(100)];
        let mut free: Vec<String> = Vec::new();
        for seed in 1..=witnesses {
            lines.push(Line::Witness(format!("w{seed}"), seed));
            free.push(format!("w{seed}"));
        }
        for (at, (needed, members)) in groups.into_iter().enumerate() {
            let members: Vec<_> = free.drain(..members.min(free.len())).collect();
            if !members.is_empty() {
                lines.push(Line::Group(format!("g{at}"), needed.to_owned(), members));
                free.push(format!("g{at}"));
            }
        }
        lines.push(Line::Quorum(free[quorum.index(free.len())].clone()));
        for (kind, one, other) in damage {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            match kind {
                0 => lines.swap(one, other),
                1 => lines.insert(one, lines[other].clone()),
                2 if lines.len() > 1 => drop(lines.remove(one)),
                3 => lines.insert(one, Line::Quorum("none".to_owned())),
                4 => lines.insert(one, Line::Other("logs x".to_owned())),
                5 => lines.insert(one, Line::Witness("w1".to_owned(), 50)),
                _ => lines.insert(one, Line::Other(" \t# a comment".to_owned())),
            }
        }
        lines
    })
}

proptest! {
    #[test]
    fn a_policy_is_read_and_its_quorum_judged_as_by_sigsum(lines in lines(), blank in "[ \t]{1,3}") {
        let (ours, theirs) = written(&lines, &blank);
        let (ours, theirs) = (TrustPolicy::parse(ours.as_bytes()), sigsum::Policy::parse(&theirs));
        let cause = ours.as_ref().err().map(|error| &error.cause);
        if matches!(cause, Some(PolicyCause::MemberTwice(_) | PolicyCause::Threshold { .. })) {
            // These two rules are those of C2SP alone.
            return Ok(());
        }
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?} and {:?}", lines, ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            let keys: Vec<_> = (1..=6).map(|seed| (public(seed), keyhash(seed))).collect();
            for signed in 0..64u8 {
                let signed =
                    || keys.iter().enumerate().filter(move |(at, _)| signed >> at & 1 == 1).map(|(_, key)| key);
                let quorum = ours.is_quorum(|witness| signed().any(|(key, _)| witness.key.public_key() == key));
                let keyhashes: Vec<_> = signed().map(|(_, keyhash)| keyhash.clone()).collect();
                prop_assert_eq!(quorum, theirs.check_quorum(&keyhashes), "{:?} with {:?}", lines, keyhashes);
            }
        }
    }
}

/// A signature logged by a Sigsum log: the same tree, signatures and proof in their form and in ours.
struct Logged {
    message: sigsum::Hash,
    theirs: String,
    leaf: Hash,
    note: Note,
    proof: Vec<Hash>,
}

const LOG: u8 = 100;
const SUBMITTER: u8 = 101;

fn log_name() -> String {
    format!("sigsum.org/v1/tree/{}", hex(keyhash(LOG)))
}

fn logged(size: u64, index: u64, cosigned: &[(u8, u64)], damage: u8) -> Logged {
    let message = sigsum::Hash::new(b"message");
    let checksum = sigsum::Hash::new(&message);
    let statement = [b"sigsum.org/v1/tree-leaf\0".as_slice(), checksum.as_ref()].concat();
    let leaf_signature = private(SUBMITTER).sign(&statement).to_bytes();
    let leaf = leaf_hash(&[checksum.as_ref(), &leaf_signature, keyhash(SUBMITTER).as_ref()].concat());

    let (mut tree, mut nodes) = (Tree::new(), BTreeMap::new());
    for at in 0..size {
        let leaf = if at == index { leaf } else { leaf_hash(&at.to_be_bytes()) };
        tree.append_with(leaf, |node, hash| assert_eq!(nodes.insert(node, *hash), None));
    }
    let mut proof = prove_inclusion(index, size, |node| nodes.get(&node).copied().ok_or(())).unwrap();
    let text = Checkpoint::new(log_name(), size, tree.root()).unwrap().to_string();
    let log = TestSigner::ed25519(LOG).sign(&log_name(), &text);
    let witness = |(seed, time): &(u8, u64)| TestSigner::witness(*seed).sign_at("w", &text, *time);
    let mut lines: Vec<_> = [log].into_iter().chain(cosigned.iter().map(witness)).collect();
    match damage {
        1 => lines[0].signature[3] ^= 1,
        2 => lines.last_mut().unwrap().signature[20] ^= 1,
        3 => drop(proof.pop()),
        4 => proof.push(leaf),
        5 => proof.reverse(),
        _ => {}
    }

    let cosignature = |((seed, _), line): (&(u8, u64), &NoteSignature)| {
        let cosignature = cosignature::Cosignature::from_bytes(&line.signature).unwrap();
        let time = cosignature.timestamp();
        format!("cosignature={} {time} {}\n", hex(keyhash(*seed)), hex(&line.signature[8..]))
    };
    let cosignatures: String = cosigned.iter().zip(&lines[1..]).map(cosignature).collect();
    let theirs = format!(
        "version=2\nlog={}\nleaf={} {}\n\nsize={size}\nroot_hash={}\nsignature={}\n{cosignatures}\nleaf_index={index}\n{}",
        hex(keyhash(LOG)),
        hex(keyhash(SUBMITTER)),
        hex(leaf_signature),
        hex(tree.root()),
        hex(&lines[0].signature),
        proof.iter().map(|hash| format!("node_hash={}\n", hex(hash))).collect::<String>(),
    );
    Logged { message, theirs, leaf, note: Note::new(text, lines).unwrap(), proof }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_receipt_is_accepted_where_sigsum_accepts_it(
        (size, index) in (1..40u64).prop_flat_map(|size| (Just(size), 0..size)),
        signed in 0..32u8,
        needed in 1..=4usize,
        damage in prop_oneof![3 => Just(0u8), 2 => 1..=5u8],
        time in 0..=cosignature::MAX_TIMESTAMP,
    ) {
        // The policy knows the first four.
        let cosigned = (1..=5u8).filter(|seed| signed >> (seed - 1) & 1 == 1).map(|seed| (seed, time));
        let cosigned: Vec<_> = cosigned.collect();
        let logged = logged(size, index, &cosigned, damage);
        let policy = |log: String, key: &dyn Fn(u8) -> String| {
            let witnesses: String = (1..=4).map(|seed| format!("witness w{seed} {}\n", key(seed))).collect();
            format!("log {log}\n{witnesses}group g {needed} w1 w2 w3 w4\nquorum g\n")
        };
        let log = TestSigner::ed25519(LOG).key(&log_name()).to_string();
        let ours = policy(log, &|seed| TestSigner::witness(seed).key("w").to_string());
        let ours = TrustPolicy::parse(ours.as_bytes()).unwrap();
        let theirs = sigsum::Policy::parse(&policy(hex(public(LOG)), &|seed| hex(public(seed)))).unwrap();

        let receipt = Receipt::new(index, logged.proof, logged.note).unwrap();
        let receipt: Receipt = receipt.to_string().parse().unwrap();
        let ours = receipt.accept(&logged.leaf, &ours, &[]);
        let signature = sigsum::SigsumSignature::from_ascii(&logged.theirs).unwrap();
        let theirs = sigsum::verify(&logged.message, &signature, &[public(SUBMITTER).into()], &theirs);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} and {:?}", ours, theirs);
        if let Ok(accepted) = ours {
            prop_assert_eq!(accepted.checkpoint.size(), size);
            let known: Vec<_> = cosigned.iter().filter(|(seed, _)| *seed < 5).collect();
            prop_assert_eq!(accepted.witnesses.len(), known.len());
            prop_assert!(accepted.witnesses.iter().all(|signed| signed.timestamp == time));
        }
    }
}
