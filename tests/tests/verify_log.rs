//! What a verifier remembers of a log, against a host that puts back, exchanges, forks or cuts what the agent keeps.
//!
//! A state folder that is copied while the agent is stopped, and put back later, is what a host does that owns the disk.
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::command::{Left, dshield};
use dshield_tests::port;
use dshield_tests::requires::require_root;
use dshield_tests::verifier::Verifier;
use dshield_tests::wait;
use serde_json::{Value, json};

const ORIGIN: &str = "log.example.com/test";

/// A deployment at one URL, whatever is started there.
struct Deployment {
    project: Project,
    address: SocketAddr,
    verifier: Verifier,
    tls: bool,
}

impl Deployment {
    fn new(tls: bool, log: &str) -> Option<Self> {
        if !require_root() {
            return None;
        }
        let project = Project::new().with(&Function::probe("native").egress(&Egress::to("a.example.com")));
        let policy = format!("{log}{}", project.policy());
        fs::write(project.folder().join("named.toml"), policy).expect("the folder is ours");
        Some(Self { project, address: port::free(), verifier: Verifier::new(), tls })
    }

    fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// An agent whose start is written down whole.
    fn start(&self) -> Agent {
        self.start_from(&self.project.state())
    }

    fn start_from(&self, state: &Path) -> Agent {
        let launch = Launch {
            config: Some(self.project.folder().join("named.toml")),
            state: Some(state.to_owned()),
            listen: self.address.to_string(),
            tls: Some(self.tls),
            attestation: Some("development"),
            ..Launch::default()
        };
        let agent = Agent::launch(&self.project, launch).unwrap_or_else(|error| panic!("{error}"));
        // The last entry of a start: from then on nothing is written by itself.
        wait::until("the evidence of this boot", || {
            let checkpoint = agent.get("/v1/log/checkpoint").text();
            let size: u64 = checkpoint.lines().nth(1)?.parse().ok()?;
            let last = agent.get(&format!("/v1/log/entries?from={}&limit=1", size - 1)).text();
            last.contains("\"kind\":\"attestation\"").then_some(())
        });
        agent
    }

    /// Two entries for each.
    fn grow(&self, agent: &Agent, invocations: usize) {
        for _ in 0..invocations {
            let _ = agent.call("native", &json!({"do": "echo"}));
        }
    }

    /// A copy of the state folder, taken while no agent runs.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.project.folder().join(name);
        copy(&self.project.state(), &to);
        to
    }

    fn put_back(&self, copied: &Path) {
        fs::remove_dir_all(self.project.state()).expect("no agent runs");
        copy(copied, &self.project.state());
    }

    /// All that the log is kept in, and nothing else.
    fn remove_log(&self) {
        for file in ["log.redb", "log.journal"] {
            fs::remove_file(self.project.state().join(file)).expect("it is there");
        }
    }

    /// How many entries the verifier remembers.
    fn remembered(&self) -> u64 {
        let folder = self.verifier.folder().join("memory/dshield-verify");
        let file = fs::read_dir(folder).expect("it looked").flatten().next().expect("one deployment").path();
        let kept: Value = serde_json::from_str(&fs::read_to_string(file).expect("text")).expect("JSON");
        kept["seen"]["size"].as_u64().expect("a number")
    }

    /// A look at the head of the log alone: quick, and enough to compare it with what was seen.
    fn glance(&self, arguments: &[&str]) -> Left {
        self.look(&[&["--entries", "none"], arguments].concat())
    }

    /// A look at some entries, unless it is told otherwise.
    fn look(&self, arguments: &[&str]) -> Left {
        let url = self.url();
        let all = [&url, "--offline", "--insecure-development", "--insecure-any-measurement"];
        self.verifier.run([all.as_slice(), arguments].concat())
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        assert!(entry.path().is_file(), "{}: a state folder holds files only", entry.path().display());
        fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
    }
}

#[test]
fn a_log_that_was_put_back_is_noticed_and_one_that_grew_through_its_boots_is_not() {
    let Some(deployment) = Deployment::new(true, "") else { return };
    let mut agent = deployment.start();
    deployment.glance(&[]).ended(0, &["this is the first time that this verifier sees the log"]);
    deployment.glance(&[]).ended(0, &["the log contains the 3 entries that this verifier saw before"]);
    assert_eq!(agent.stop(), Some(0));
    let early = deployment.copy("early");

    // Further boots, each with keys of its own.
    for boot in 2..=3 {
        let seen = deployment.remembered();
        let mut agent = deployment.start();
        deployment.grow(&agent, 2);
        deployment.look(&[]).ended(0, &[&format!("the log contains the {seen} entries that this verifier saw before")]);
        let all = deployment.look(&["--entries", "all"]);
        all.ended(0, &["entries are numbered without a gap, signed, and in the tree that the checkpoint names"]);
        let (_, verdict) = deployment
            .verifier
            .json([&deployment.url(), "--offline", "--insecure-development", "--entries", "all"].map(str::to_owned));
        let steps = verdict["steps"].as_array().expect("a list");
        let entries = steps.iter().find(|step| step["step"] == "entries").expect("it was taken");
        assert_eq!(entries["observed"], json!([{"name": "boots", "value": boot.to_string()}]));
        assert_eq!(agent.stop(), Some(0));
    }

    // What the host had copied takes the place of what was written since.
    deployment.put_back(&early);
    let mut agent = deployment.start();
    for arguments in [[].as_slice(), &["--entries", "all"], &["--entries", "none"]] {
        deployment.look(arguments).ended(13, &["NOT VERIFIED (history: the log has", "it was rolled back"]);
    }
    // It grows beyond what was seen: another history of the same length.
    deployment.grow(&agent, 10);
    let rewritten = "the log does not contain the";
    deployment.glance(&[]).ended(13, &["NOT VERIFIED (history:", rewritten, "it was rewritten"]);
    // Neither of these looks changed what is remembered.
    deployment.glance(&[]).ended(13, &[rewritten]);
    // Somebody who never looked has nothing to compare with.
    let stranger = Verifier::new();
    let url = deployment.url();
    let all = [&url, "--offline", "--insecure-development", "--insecure-any-measurement"];
    stranger.run(all).ended(0, &["this is the first time", "only this verifier's memory tells of a rollback"]);
    // Told to begin anew, this one goes on with what is there.
    deployment.glance(&["--forget"]).ended(0, &["this is the first time"]);
    deployment.glance(&[]).ended(0, &["that this verifier saw before"]);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn another_log_in_the_place_of_the_one_that_was_seen_is_noticed_also_under_its_name() {
    for (log, says) in [("", "it was exchanged"), (&*format!("[log]\norigin = \"{ORIGIN}\"\n"), "it was rolled back")] {
        let Some(deployment) = Deployment::new(false, log) else { return };
        let mut agent = deployment.start();
        deployment.grow(&agent, 3);
        deployment.glance(&[]).ended(0, &["this is the first time"]);
        assert_eq!(agent.stop(), Some(0));
        deployment.remove_log();
        let mut agent = deployment.start();
        deployment.glance(&[]).ended(13, &["NOT VERIFIED (history: the log", says]);
        deployment.grow(&agent, 4);
        let longer = if log.is_empty() { "it was exchanged" } else { "it was rewritten" };
        deployment.glance(&[]).ended(13, &[longer]);
        deployment.glance(&["--forget"]).ended(0, &["this is the first time"]);
        deployment.glance(&[]).ended(0, &["that this verifier saw before"]);
        assert_eq!(agent.stop(), Some(0));
    }
}

#[test]
fn a_fork_is_noticed_by_who_saw_the_other_branch() {
    let Some(deployment) = Deployment::new(true, "") else { return };
    let mut agent = deployment.start();
    deployment.grow(&agent, 1);
    deployment.glance(&[]).ended(0, &["this is the first time"]);
    assert_eq!(agent.stop(), Some(0));
    let branch = deployment.copy("branch");

    let mut one = deployment.start();
    deployment.grow(&one, 2);
    deployment.glance(&[]).ended(0, &["that this verifier saw before"]);
    assert_eq!(one.stop(), Some(0));
    let mut two = deployment.start_from(&branch);
    deployment.grow(&two, 5);
    for arguments in [[].as_slice(), &["--entries", "all"]] {
        deployment.look(arguments).ended(13, &["NOT VERIFIED (history: the log does not contain", "it was rewritten"]);
    }
    // Each branch is well in itself: only who saw both can tell.
    let other = Verifier::new();
    let url = deployment.url();
    let all = [&url, "--offline", "--insecure-development", "--insecure-any-measurement", "--entries", "all"];
    other.run(all).ended(0, &["this is the first time", "are numbered without a gap"]);
    assert_eq!(two.stop(), Some(0));
    // Back on the first branch, the first verifier finds what it saw, and the second does not.
    let mut one = deployment.start();
    deployment.glance(&[]).ended(0, &["that this verifier saw before"]);
    other.run(all).ended(13, &["NOT VERIFIED (history:"]);
    assert_eq!(one.stop(), Some(0));
}

#[test]
fn an_exported_log_is_judged_with_saved_evidence_and_each_damage_to_it_is_found() {
    let Some(deployment) = Deployment::new(true, "") else { return };
    let mut agent = deployment.start();
    deployment.grow(&agent, 2);
    assert_eq!(agent.stop(), Some(0));
    let mut agent = deployment.start();
    deployment.grow(&agent, 2);
    let evidence = deployment.verifier.file("evidence.json");
    deployment.glance(&["--save", &evidence]).ended(0, &["VERIFIED"]);
    deployment.grow(&agent, 1);
    assert_eq!(agent.stop(), Some(0));
    let folder = deployment.verifier.file("exported");
    let state = deployment.project.state().to_string_lossy().into_owned();
    let _ = dshield(["log", "export", &folder, "--state", &state]).printed();
    let judge = |log: &str| {
        let all = ["--offline", "--insecure-development", "--insecure-any-measurement", "--log", log];
        deployment.verifier.run([[evidence.as_str()].as_slice(), &all].concat())
    };
    let good = judge(&folder);
    good.ended(0, &["entries are numbered without a gap, signed, and begin with those that the statement names"]);
    good.ended(0, &["VERIFIED, without:", "checkpoint, history, witnesses"]);

    let file = Path::new(&folder).join("entries.ndjson");
    let text = fs::read_to_string(&file).expect("it was exported");
    let lines: Vec<&str> = text.lines().collect();
    judge(&file.to_string_lossy()).ended(0, &[&format!("all {} entries", lines.len())]);
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    let mut changed = lines.clone();
    let echo = lines[4].replacen("native", "nativ3", 1);
    assert_ne!(echo, lines[4], "an invocation");
    changed[4] = &echo;
    for (what, log, says) in [
        ("cut before what the statement names", joined(&lines[..6]), "entries are missing at the end"),
        ("nothing", String::new(), "entries are missing at the end"),
        ("within a line", text[..text.len() - 20].to_owned(), "NOT VERIFIED (entries:"),
        ("changed", joined(&changed), "entry 4"),
        ("without one", joined(&[&lines[..3], &lines[4..]].concat()), "NOT VERIFIED (entries:"),
        ("in another order", joined(&swapped), "NOT VERIFIED (entries:"),
    ] {
        fs::write(&file, log).expect("the folder is ours");
        let told = judge(&folder);
        assert_eq!(told.code, Some(12), "{what}: {}{}", told.stdout, told.stderr);
        told.ended(12, &[says, "[exit code 12]"]);
    }
    fs::remove_file(&file).expect("it is there");
    judge(&folder).ended(20, &["entries.ndjson: No such file"]);
    // The log of another deployment.
    let other = Deployment::new(true, "").expect("root was there before");
    let mut agent = other.start();
    other.grow(&agent, 8);
    let lines = dshield(["logs", "--json", "--url", &other.url()]).printed();
    assert_eq!(agent.stop(), Some(0));
    fs::write(&file, lines).expect("the folder is ours");
    judge(&folder).ended(12, &["there are two logs"]);
}

#[test]
fn what_is_remembered_is_a_file_that_can_be_elsewhere_and_damage_to_it_is_no_first_look() {
    let Some(deployment) = Deployment::new(false, "") else { return };
    let mut agent = deployment.start();
    let state = deployment.verifier.file("elsewhere");
    let remember = ["--state", state.as_str()];
    deployment.look(&remember).ended(0, &["this is the first time"]);
    deployment.look(&remember).ended(0, &["that this verifier saw before"]);
    let file = fs::read_dir(&state).expect("it was made").flatten().next().expect("one file").path();
    let kept: Value = serde_json::from_str(&fs::read_to_string(&file).expect("text")).expect("JSON");
    assert_eq!((&kept["url"], &kept["seen"]["size"]), (&json!(deployment.url()), &json!(3)));
    fs::write(&file, "{").expect("it is ours");
    deployment.look(&remember).ended(1, &["is not what dshield-verify wrote", "remove it"]);
    deployment.look(&["--state", &state, "--forget"]).ended(0, &["this is the first time"]);
    fs::remove_dir_all(&state).expect("it is there");
    fs::write(&state, "a file").expect("it is ours");
    deployment.look(&remember).ended(1, &["elsewhere", "name another folder with --state"]);
    assert_eq!(agent.stop(), Some(0));
}

/// Receipts are of newer heads than the one that was accepted first, or of older ones.
#[test]
fn a_log_that_grows_while_it_is_looked_at_is_verified() {
    let Some(deployment) = Deployment::new(true, "") else { return };
    let mut agent = deployment.start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = agent.call("native", &json!({"do": "sleep", "ms": 20}));
            }
        });
        let mut before = 0;
        for arguments in [["--entries", "sample"], ["--entries", "all"]].iter().cycle().take(3) {
            let told = deployment.look(arguments);
            if told.code != Some(0) {
                // Or the scope would wait for them without end.
                stop.store(true, Ordering::Relaxed);
            }
            told.ended(0, &["VERIFIED"]);
            let now = deployment.remembered();
            assert!(now > before, "{now} entries after {before}");
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(agent.stop(), Some(0));
}

/// It could not be judged at all, however little of it was removed.
#[test]
fn a_log_that_was_shortened_is_verified_by_what_is_kept_and_the_verdict_says_so() {
    let Some(deployment) = Deployment::new(true, "") else { return };
    let mut agent = deployment.start();
    deployment.grow(&agent, 150);
    deployment.glance(&[]).ended(0, &["this is the first time"]);
    assert_eq!(agent.stop(), Some(0));
    let state = deployment.project.state().to_string_lossy().into_owned();
    let removed = dshield(["log", "prune", "--before", "256", "--state", &state]).printed();
    assert!(removed.contains("removed entries 0 to 255"), "{removed}");
    let mut agent = deployment.start();
    deployment
        .look(&[])
        .ended(0, &["that this verifier saw before", "does not keep the entries before number 256 any more"]);
    let told = deployment.look(&["--entries", "all"]);
    told.ended(20, &["needed: entries", "the entries before number 256 are not kept any more", "`--entries sample`"]);
    assert_eq!(agent.stop(), Some(0));
}
