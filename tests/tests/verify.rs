//! `dshield-verify` as a stranger runs it, against a real agent: exit codes, and the sentences that people read.
//!
//! The quotes are made for development, so every verdict is by somebody who was told that they prove nothing.
use dshield_common::attestation::Evidence;
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::command::Left;
use dshield_tests::port;
use dshield_tests::relay::Relay;
use dshield_tests::requires::require_root;
use dshield_tests::verifier::Verifier;
use serde_json::{Value, json};

const DEVELOPMENT: &str = "--insecure-development";

fn project() -> Project {
    let rule = Egress::to("api.example.com").methods(&["POST"]);
    Project::new().with(&Function::probe("native").egress(&rule))
}

/// An agent with quotes for development, and somebody who looks at it.
struct Scene {
    agent: Agent,
    verifier: Verifier,
    project: Project,
}

impl Scene {
    fn start(tls: bool) -> Option<Self> {
        if !require_root() {
            return None;
        }
        let project = project();
        let launch = Launch { tls: Some(tls), attestation: Some("development"), ..Launch::default() };
        let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
        // The last entry of a start: from now on nothing is written by itself.
        agent.log_with("the evidence of this boot", |log| log.to_string().contains("\"kind\":\"attestation\""));
        Some(Self { agent, verifier: Verifier::new(), project })
    }

    /// A look that asks nobody but the agent.
    fn look(&self, arguments: &[&str]) -> Left {
        self.look_at(&self.agent.url(), arguments)
    }

    fn look_at(&self, url: &str, arguments: &[&str]) -> Left {
        self.verifier.run([&[url, "--offline"], arguments].concat())
    }
}

/// The text with another value for a key of a section, which must be there.
fn edited(text: &str, section: &str, key: &str, value: &str) -> String {
    let mut here = false;
    let mut found = false;
    let mut lines = String::new();
    for line in text.lines() {
        if line.starts_with('[') {
            here = line == section;
        }
        let wanted = here && line.starts_with(&format!("{key} = "));
        found |= wanted;
        lines += &if wanted { format!("{key} = {value}\n") } else { format!("{line}\n") };
    }
    assert!(found, "no {key} in {section}: {text}");
    lines
}

fn step<'v>(verdict: &'v Value, name: &str) -> &'v Value {
    let steps = verdict["steps"].as_array().unwrap_or_else(|| panic!("no steps: {verdict}"));
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {verdict}"))
}

#[test]
fn what_was_made_for_development_is_verified_only_by_who_says_that_it_proves_nothing() {
    let Some(scene) = Scene::start(true) else { return };
    let Scene { agent, verifier, .. } = &scene;
    scene.look(&[]).ended(
        10,
        &[
            "DEVELOPMENT, proves nothing: NOT VERIFIED (quote: DEVELOPMENT: the quote is signed by a test key",
            "--insecure-development goes on all the same",
            "[exit code 10]",
            "This deployment can send data to: native -> api.example.com:443",
            "certificate checked, each request seen; only POST",
        ],
    );

    // Told so, what is missing is what nobody expects. It prints what would be, ready to keep.
    let kept = verifier.file("kept.toml");
    let first = scene.look(&[DEVELOPMENT, "--save-expect", &kept]);
    let missing = "COULD NOT JUDGE: not checked, and needed: measurements, compose, release, policy [exit code 20]";
    first.ended(20, &[missing, "What was seen, to compare and keep as expect.toml"]);
    let printed = first.stdout.split_once("keep as expect.toml:\n\n").expect("it follows").1;
    assert_eq!(printed.trim_end(), verifier.read("kept.toml").trim_end());
    let expect = verifier.write("expect.toml", printed);

    let verified = scene.look(&[DEVELOPMENT, "--expect", &expect]);
    verified.ended(0, &["DEVELOPMENT, proves nothing: VERIFIED, without: witnesses [exit code 0]"]);
    assert!(!verified.stdout.contains("What was seen"), "{}", verified.stdout);
    scene.look(&["--expect", &expect]).ended(10, &["NOT VERIFIED (quote: DEVELOPMENT"]);
    let any = "VERIFIED, without: measurements, compose, release, policy, code, witnesses [exit code 0]";
    scene.look(&[DEVELOPMENT, "--insecure-any-measurement"]).ended(0, &[any]);
    scene.look(&["--insecure-any-measurement"]).ended(10, &["NOT VERIFIED (quote: DEVELOPMENT"]);

    // The same as a command of `dshield`, and for programs.
    let arguments = [&agent.url(), "--offline", DEVELOPMENT, "--expect", &expect];
    assert_eq!(verifier.run_as_dshield(arguments), verified);
    let (code, verdict) = verifier.json(arguments);
    assert_eq!(
        (code, &verdict["outcome"], &verdict["development"], &verdict["format"]),
        (Some(0), &json!("verified"), &json!(true), &json!("dshield.verdict/v1"))
    );
    for step in verdict["steps"].as_array().expect("a list") {
        let skipped = step["step"] == "witnesses";
        assert_eq!(step["result"], if skipped { "skipped" } else { "pass" }, "{step}");
    }
    let (code, verdict) = verifier.json([&agent.url(), "--offline"]);
    assert_eq!((code, &verdict["outcome"]), (Some(10), &json!("attestation")));
    assert_eq!(step(&verdict, "quote")["result"], "fail");
}

/// Whoever makes evidence that proves nothing could otherwise have it remembered, and the real log would look rewritten.
#[test]
fn the_log_of_a_deployment_that_failed_is_not_remembered() {
    let Some(scene) = Scene::start(true) else { return };
    let first = "history this is the first time";
    for _ in 0..2 {
        scene.look(&[]).ended(10, &["DEVELOPMENT"]);
        let told = scene.look(&[]).stdout;
        assert!(told.contains("this is the first time that this verifier sees the log"), "{first}: {told}");
    }
    assert!(!scene.verifier.folder().join("memory").exists());
    scene.look(&[DEVELOPMENT]).ended(20, &["this is the first time"]);
    scene.look(&[DEVELOPMENT]).ended(20, &["the log contains the 3 entries that this verifier saw before"]);
}

#[test]
fn without_tls_of_the_agents_own_a_verdict_says_that_the_channel_is_not_bound() {
    let Some(scene) = Scene::start(false) else { return };
    let expect = scene.verifier.keep(&scene.agent.url());
    let accepted = [DEVELOPMENT, "--expect", &expect];
    let told = scene.look(&accepted);
    told.ended(
        0,
        &["VERIFIED, without: channel, history, witnesses", "channel not bound", "anybody on the way can read"],
    );
    // A gateway ends TLS: whose key that is nobody can say.
    let gateway = Relay::before(&scene.agent, true);
    scene.look_at(&gateway.url(), &accepted).ended(
        0,
        &[
            "VERIFIED, without: channel, history, witnesses",
            "channel not bound: the agent speaks no TLS itself, so whoever ends",
        ],
    );
}

#[test]
fn somebody_between_is_noticed_whatever_they_pass_on() {
    let Some(scene) = Scene::start(true) else { return };
    let expect = scene.verifier.keep(&scene.agent.url());
    let old = scene.agent.get(&format!("/v1/attestation?nonce={}", "07".repeat(32))).text();
    let unasked = scene.agent.get("/v1/attestation").text();
    let accepted = [DEVELOPMENT, "--expect", &expect];
    for tls in [true, false] {
        let relay = Relay::before(&scene.agent, tls);
        let look = || scene.look_at(&relay.url(), &accepted);
        // Everything as the agent says it, under another key.
        match tls {
            true => look().ended(10, &["NOT VERIFIED (channel: the connection's TLS key is", "somebody sits between"]),
            false => look().ended(0, &["without: channel, history, witnesses"]),
        }
        // An answer to another question, and to none.
        relay.give_evidence(&old);
        look().ended(13, &["NOT VERIFIED (nonce: the answer has another nonce than was asked for", "replayed"]);
        relay.give_evidence(&unasked);
        look().ended(13, &["NOT VERIFIED (nonce: the answer has no nonce, although one was asked for"]);
        // The right answer, changed on the way: to name the key of the relay, or another policy.
        relay.answer_by(|path, status, text| match Evidence::parse(&text) {
            Ok(evidence) if path.starts_with("/v1/attestation") => {
                let statement = evidence.statement.replacen("\"agent\":{\"sha256\":\"", "\"agent\":{\"sha256\":\"0", 1);
                (status, Evidence { statement, ..evidence }.to_json())
            }
            _ => (status, text),
        });
        look().ended(10, &["NOT VERIFIED (report-data: the quote is not about this statement"]);
        relay.answer_by(|path, status, text| match Evidence::parse(&text) {
            Ok(evidence) if path.starts_with("/v1/attestation") => {
                let policy = evidence.policy.replace("api.example.com", "evil.example.com");
                (status, Evidence { policy, ..evidence }.to_json())
            }
            _ => (status, text),
        });
        let told = look();
        let words = "the policy that came along is not the attested one";
        told.ended(if tls { 10 } else { 11 }, &[words]);
        assert!(!told.stdout.contains("evil.example.com"), "{}", told.stdout);
        // The log, without its end.
        relay.answer_by(|path, status, text| match path.starts_with("/v1/log/checkpoint") {
            true => (200, text.replacen("\n3\n", "\n2\n", 1)),
            false => (status, text),
        });
        look().ended(if tls { 10 } else { 12 }, &["the checkpoint is not signed by the attested keys"]);
        // Nothing at all.
        relay.answer_by(|_, _, _| (503, "<html>\u{1b}[2J".to_owned()));
        look().ended(20, &["/v1/attestation?nonce=", "was answered with 503", "<html>\\u{1b}[2J"]);
        relay.give_evidence("{}");
        look().ended(20, &["COULD NOT JUDGE (evidence: the evidence is of format"]);
    }
}

#[test]
fn what_runs_there_must_be_what_was_expected_and_a_difference_is_shown() {
    let Some(scene) = Scene::start(true) else { return };
    let Scene { agent, verifier, project } = &scene;
    let kept = { std::fs::read_to_string(verifier.keep(&agent.url())).expect("it was kept") };
    let look = |expect: &str| scene.look(&[DEVELOPMENT, "--expect", &verifier.write("changed.toml", expect)]);
    look(&kept).ended(0, &["VERIFIED"]);

    // The policy as whoever wrote it has it.
    let by_file = format!("{}\nfile = \"dshield.toml\"\n", edited(&kept, "[policy]", "sha256", "[]"));
    let (head, tail) = by_file.split_once("[functions]").expect("there is a function");
    let (functions, file) = tail.rsplit_once("\nfile = ").expect("it was added");
    let by_file = head.replacen("[policy]\n", &format!("[policy]\nfile = {file}"), 1) + "[functions]" + functions;
    verifier.write("dshield.toml", &project.policy());
    look(&by_file).ended(0, &["VERIFIED", "the policy is the expected one"]);
    verifier.write("dshield.toml", &project.policy().replace("api.example.com", "other.example.com"));
    let told = look(&by_file);
    told.ended(
        11,
        &[
            "NOT VERIFIED (policy: the policy is not the expected one; - expected, + there:)",
            "- native -> other.example.com:443",
            "+ native -> api.example.com:443",
            "This deployment can send data to: native -> api.example.com:443",
        ],
    );
    verifier.write("dshield.toml", "[[function]]\nnme = \"x\"\n");
    look(&by_file).ended(2, &["policy.file = \"dshield.toml\"", "nme"]);
    let (none, other) = ("0".repeat(64), "0".repeat(96));
    let listed = format!("[\"{none}\"]");
    look(&edited(&kept, "[policy]", "sha256", &listed))
        .ended(11, &["the policy is not the expected one; give it as policy.file in expect.toml", &none]);

    for (section, key, value, says) in [
        ("[functions]", "native", &listed, "code: the code of native is"),
        ("[[release]]", "agent", &format!("\"{none}\""), "the agent's executable: no expected release has it"),
        ("[[release]]", "ebpf_cgroup", &format!("\"{none}\""), "the kernel programs of the cgroup (ebpf_cgroup)"),
        ("[[release]]", "ebpf_lsm", &format!("\"{none}\""), "the kernel programs at the security hooks"),
        ("[[release]]", "ebpf_netns", &format!("\"{none}\""), "the kernel programs of the network namespace"),
        ("[[release]]", "seccomp", &format!("\"{none}\""), "the seccomp filters: no expected release has it"),
        ("[[machine]]", "mrtd", &format!("\"{other}\""), "measurements: MRTD of the machine is not expected"),
        ("[[machine]]", "rtmr2", &format!("\"{other}\""), "measurements: RTMR2 of the machine is not expected"),
        ("[compose]", "sha256", &listed, "compose: the compose file is"),
    ] {
        look(&edited(&kept, section, key, value)).ended(11, &["NOT VERIFIED", says, "[exit code 11]"]);
    }
    let more = kept.replacen("[functions]\n", &format!("[functions]\nother = {listed}\n"), 1);
    look(&more).ended(11, &["the function other is expected, and is not deployed"]);
    look(&edited(&kept, "[log]", "origin", "\"log.example.com\"")).ended(12, &["log.example.com is expected"]);
    look(&edited(&kept, "[tcb]", "statuses", "[\"OutOfDate\"]")).ended(10, &["TCB status is UpToDate, and OutOfDate"]);
}

#[test]
fn evidence_in_a_file_is_judged_for_its_nonce_and_for_a_moment() {
    let Some(scene) = Scene::start(true) else { return };
    let Scene { agent, verifier, .. } = &scene;
    let expect = verifier.keep(&agent.url());
    let nonce = "0a".repeat(32);
    let file = verifier.write("evidence.json", &agent.get(&format!("/v1/attestation?nonce={nonce}")).text());
    let look = |arguments: &[&str]| {
        verifier.run([&[&file, "--offline", DEVELOPMENT, "--expect", &expect], arguments].concat())
    };
    look(&[]).ended(0, &["VERIFIED, without: nonce, channel,", "this may be of any age", "no connection to look at"]);
    look(&["--nonce", &nonce]).ended(0, &["VERIFIED, without: channel,"]);
    look(&["--nonce", &"0b".repeat(32)]).ended(13, &["another nonce than was asked for: it is an old one, replayed"]);

    // Today it is judged as it is today, and then as it will be when Intel's data have ended.
    let late = look(&["--at", "2060-01-01T00:00:00Z"]);
    late.ended(
        10,
        &["NOT VERIFIED (quote:", "judged for 2060-01-01T00:00:00Z; for now: DEVELOPMENT", "VERIFIED, without"],
    );
    let (code, both) = verifier
        .json([&file, "--offline", DEVELOPMENT, "--expect", &expect, "--at", "2060-01-01T00:00:00Z"].map(String::from));
    assert_eq!(
        (code, &both["now"]["outcome"], &both["at"]["outcome"]),
        (Some(10), &json!("verified"), &json!("attestation"))
    );

    // What was judged can be kept, and judged again.
    let saved = verifier.file("saved.json");
    scene.look(&[DEVELOPMENT, "--expect", &expect, "--save", &saved]).ended(0, &["VERIFIED"]);
    let again = verifier.run([&saved, "--offline", DEVELOPMENT, "--expect", &expect]);
    again.ended(0, &["VERIFIED, without: nonce, channel,"]);
    let evidence = Evidence::parse(&verifier.read("saved.json")).expect("it was judged");
    let without = Evidence { collateral: None, ..evidence.clone() };
    let bare = verifier.write("bare.json", &without.to_json());
    verifier
        .run([&bare, "--offline", DEVELOPMENT, "--expect", &expect])
        .ended(20, &["there is no collateral", "--offline"]);
    let quote = evidence.quote.as_deref().unwrap_or_default().replacen("5a", "5b", 1);
    let broken = verifier.write("broken.json", &Evidence { quote: Some(quote), ..evidence }.to_json());
    verifier.run([&broken, "--offline", DEVELOPMENT, "--expect", &expect]).ended(10, &["NOT VERIFIED (quote:"]);
}

/// A verdict that leaves out one of the three questions has to say so.
#[test]
fn a_verdict_without_the_log_says_that_the_log_was_not_looked_at() {
    let Some(scene) = Scene::start(true) else { return };
    let Scene { agent, verifier, .. } = &scene;
    let expect = verifier.keep(&agent.url());
    let file = verifier.write("evidence.json", &agent.get("/v1/attestation").text());
    let told = verifier.run([&file, "--offline", DEVELOPMENT, "--expect", &expect]);
    told.ended(0, &["VERIFIED, without: nonce, channel, checkpoint, history, entries, witnesses", "--log"]);
}

#[test]
fn wrong_usage_is_told_from_what_could_not_be_checked() {
    let verifier = Verifier::new();
    let (_held, closed) = port::closed();
    let nobody = format!("http://{closed}");
    let toml = |text: &str| verifier.write("wrong.toml", text);
    verifier.write("text.json", "hello");
    for (arguments, says) in [
        (vec![], "Usage:"),
        (vec!["--insecure"], "--insecure"),
        (vec!["text.json", "--nonce", "00"], "64 hexadecimal digits"),
        (vec![nobody.as_str(), "--nonce", &"00".repeat(32)], "--nonce and --log are for evidence in a file"),
        (vec![&nobody, "--log", "x"], "--nonce and --log are for evidence in a file"),
        (vec![&nobody, "--expect", "gone.toml"], "gone.toml: No such file"),
        (vec![&nobody, "--expect", &toml("[policy]\nsha = []")], "unknown field `sha`"),
        (vec![&nobody, "--at", "yesterday"], "--at \"yesterday\" is no moment"),
        (vec![&nobody, "--entries", "some"], "write all, sample or none"),
    ] {
        let told = verifier.run(&arguments);
        told.ended(2, &[says]);
        assert_eq!(told.stdout, "", "{arguments:?}");
        verifier.run_as_dshield(&arguments).ended(2, &[says]);
    }
    for (subject, says) in [
        (nobody.as_str(), "no agent answers at"),
        ("gone.json", "gone.json: No such file"),
        ("text.json", "this is not evidence"),
        ("http://127.0.0.1/?x", "is not a URL"),
    ] {
        let told = verifier.run([subject, "--offline"]);
        told.ended(20, &[says]);
        assert_eq!(verifier.run_as_dshield([subject, "--offline"]).code, Some(20), "{subject}");
    }
    verifier.run(["--help"]).ended(0, &["Exit codes: 0 verified", "20 could not check"]);
}

#[test]
fn a_machine_that_makes_no_quotes_cannot_be_judged_and_says_why() {
    if !require_root() {
        return;
    }
    let verifier = Verifier::new();
    let project = project();
    for (provider, reason) in [(Some("none"), "--attestation none"), (None, "dstack")] {
        let launch = Launch { tls: Some(true), attestation: provider, ..Launch::default() };
        let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
        let answer = agent.get("/v1/attestation");
        if provider.is_none() && answer.status != 404 {
            eprintln!("this machine makes quotes");
            continue;
        }
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("no_attestation")));
        assert!(answer.text().contains(reason), "{}", answer.text());
        let told = verifier.run([&agent.url(), "--offline"]);
        told.ended(20, &["was answered with 404", "this machine makes no quotes", reason]);
        agent.says("no quotes: ");
    }
}
