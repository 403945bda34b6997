//! Inputs of the corpus that are made of the keys in `src/deployment.rs`: with `DSHIELD_FUZZ_WRITE=1` they are written anew,
//! for when quotes for development change.
use std::fs;
use std::path::Path;

use dshield_common::hex;
use dshield_fuzz::deployment::{SIGNED, deployment};

fn kept(target: &str, name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).join(name);
    if std::env::var_os("DSHIELD_FUZZ_WRITE").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be made");
        fs::write(&path, bytes).expect("the file can be written");
    }
    let kept = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(kept == bytes, "{} is of other keys; DSHIELD_FUZZ_WRITE=1 writes it anew", path.display());
}

#[test]
fn the_corpus_is_of_the_keys_that_are_used() {
    let known = deployment();
    let evidence = &known.evidence;
    let quote = evidence.quote.as_ref().and_then(|quote| hex::decode(quote)).expect("a quote");
    kept("quote", "good", &quote);
    kept("quote", "debug", &hex::decode(&known.debug_quote).expect("a quote"));
    kept("quote", "hexadecimal", hex::encode(&quote[..SIGNED + 4]).as_bytes());
    kept("quote", "cut", &quote[..SIGNED + 700]);
    let mut version5 = quote.clone();
    version5[0] = 5;
    // A body of TDX 1.5, with its length.
    version5.splice(48..48, [3, 0, 0x88, 2, 0, 0]);
    version5.splice(54 + 584..54 + 584, [0; 64]);
    kept("quote", "version5", &version5);
    let mut enclave = quote;
    enclave[4] = 0;
    kept("quote", "enclave", &enclave);

    kept("statement", "good", evidence.statement.as_bytes());
    kept("statement", "other", known.other_statement.as_bytes());
    kept("statement", "blank", evidence.statement.replacen('{', "{ ", 1).as_bytes());
    kept("statement", "no-nonce", null(&evidence.statement, "nonce").as_bytes());

    let inline = |text: &str| serde_json::Value::from(text).to_string();
    let document = good();
    kept("evidence", "good", document.as_bytes());
    for (name, part, text) in [
        ("statement", "$STATEMENT", &evidence.statement),
        ("policy", "$POLICY", &evidence.policy),
        ("compose", "$COMPOSE", evidence.app_compose.as_ref().expect("a compose file")),
        ("events", "$EVENT_LOG", evidence.event_log.as_ref().expect("an event log")),
        ("tcb", "$TCB_INFO", &evidence.collateral.as_ref().expect("collateral").tcb_info),
    ] {
        kept("evidence", name, document.replace(&format!("\"{part}\""), &inline(text)).as_bytes());
    }
    let other = document.replace("$QUOTE", "$OTHER_QUOTE");
    let whole = other.replace("$EVENT_LOG", "$OTHER_EVENT_LOG").replace("$COMPOSE", "$OTHER_COMPOSE");
    kept("evidence", "other-machine", whole.as_bytes());
    kept("evidence", "not-of-dstack", hidden(&other).as_bytes());
    kept("evidence", "development", other.replace("\"dstack\"", "\"development\"").as_bytes());

    let machine = &known.expect.machines[0];
    let expected = format!(
        "[[machine]]\nmrtd = \"{}\"\nrtmr0 = \"{}\"\nrtmr1 = \"{}\"\nrtmr2 = \"{}\"\n\
         [compose]\nsha256 = [\"{}\"]\n[[release]]\nmanifest = \"release.json\"\n[policy]\nfile = \"dshield.toml\"\n",
        machine.mrtd, machine.rtmr0, machine.rtmr1, machine.rtmr2, known.expect.compose.sha256[0],
    );
    kept("expect", "good", expected.as_bytes());
    let (code, policy) = (&known.expect.functions["f"][0], &known.expect.policy.sha256[0]);
    let all = expected
        .replace("[policy]\nfile = \"dshield.toml\"\n", &format!("[policy]\nsha256 = [\"{policy}\"]\n"))
        .replace("[compose]\n", "[compose]\nimage_digest = \"sha256:$\"\n".replace('$', &"5".repeat(64)).as_str())
        + &format!(
            "[tcb]\nstatuses = [\"UpToDate\", \"OutOfDate\"]\ngrace_days = 30\n[functions]\nf = [\"{code}\"]\n\
             [log]\norigin = \"log.example\"\nentries = \"all\"\nwitnesses = \"witnesses\"\n[tpm]\nak_sha256 = [\"{code}\"]\n"
        );
    kept("expect", "all", all.as_bytes());
    kept("expect", "nothing", b"[tcb]\ngrace_days = 7\n[compose]\n[policy]\n");
    kept("expect", "revoked", b"[tcb]\nstatuses = [\"Revoked\"]\n");
}

/// The document that holds, its long parts named.
fn good() -> String {
    let parts = [
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
    ];
    let collateral: Vec<String> = parts.iter().map(|part| format!("\"{part}\":\"${}\"", part.to_uppercase())).collect();
    format!(
        "{{\"format\":\"dshield.evidence/v1\",\"provider\":\"dstack\",\"statement\":\"$STATEMENT\",\"policy\":\"$POLICY\",\
         \"quote\":\"$QUOTE\",\"collateral\":{{{}}},\"event_log\":\"$EVENT_LOG\",\"app_compose\":\"$COMPOSE\"}}",
        collateral.join(",")
    )
}

/// The same, as if dstack had not started the machine.
fn hidden(document: &str) -> String {
    document
        .replace("\"dstack\"", "\"configfs-tsm\"")
        .replace(",\"event_log\":\"$EVENT_LOG\",\"app_compose\":\"$COMPOSE\"", "")
}

fn null(text: &str, member: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    value[member] = serde_json::Value::Null;
    dshield_common::canonical::canonical_text(&value).expect("it has no large numbers")
}
