//! `expect.toml` as anybody may have written it, and the verdict of whoever expects that.
use dshield_common::hex;
use dshield_verify::expect::{Expect, ExpectError};
use dshield_verify::verdict::Outcome;

use crate::deployment::{POLICY, deployment, release};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "[[machine]]\n",
    "[tcb]\n",
    "statuses = [\"UpToDate\"]\n",
    "statuses = [\"Revoked\"]\n",
    "statuses = []\n",
    "grace_days = 4294967295\n",
    "min_evaluation_number = 20\n",
    "reject_advisories = [\"INTEL-SA-00001\"]\n",
    "[compose]\n",
    "image_digest = \"sha256:5555555555555555555555555555555555555555555555555555555555555555\"\n",
    "[[release]]\n",
    "manifest = \"release.json\"\n",
    "[policy]\n",
    "file = \"dshield.toml\"\n",
    "sha256 = []\n",
    "[functions]\n",
    "f = []\n",
    "[log]\n",
    "entries = \"none\"\n",
    "witnesses = \"witnesses\"\n",
    "[tpm]\n",
    "\"\"\"",
    "'''",
    "#",
];

/// What is understood is well-formed, and a comment changes nothing of it; whoever expects it takes for verified only what
/// he named.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let expect = match read(text) {
        Ok(expect) => expect,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    well_formed(&expect);
    assert_eq!(read(&format!("{text}\n# and no more\n")).ok().as_ref(), Some(&expect), "a comment changes it");
    let known = deployment();
    let verdict = known.judge(&known.evidence.to_json(), &expect);
    if verdict.outcome == Outcome::Verified {
        is_named_in(&expect);
    }
}

/// Whether the deployment that holds is verified for whoever expects this.
#[must_use]
pub fn verified(text: &str) -> bool {
    let known = deployment();
    read(text).is_ok_and(|expect| known.judge(&known.evidence.to_json(), &expect).outcome == Outcome::Verified)
}

fn read(text: &str) -> Result<Expect, ExpectError> {
    let release = release();
    let manifest = serde_json::json!({
        "agent": release.agent, "ebpf_cgroup": release.ebpf_cgroup, "ebpf_lsm": release.ebpf_lsm,
        "ebpf_netns": release.ebpf_netns, "seccomp": release.seccomp,
    });
    Expect::parse(text, &mut |name| match name {
        "release.json" => Ok(manifest.to_string().into_bytes()),
        "dshield.toml" => Ok(POLICY.as_bytes().to_vec()),
        "witnesses" => Ok(b"quorum none\n".to_vec()),
        // Any file may be named.
        "itself" => Ok(text.as_bytes().to_vec()),
        _ => Err("there is none".to_owned()),
    })
}

fn well_formed(expect: &Expect) {
    let is = |value: &String, bytes: usize| hex::decode(value).is_some_and(|value| value.len() == bytes);
    for machine in &expect.machines {
        assert!([&machine.mrtd, &machine.rtmr0, &machine.rtmr1, &machine.rtmr2].iter().all(|value| is(value, 48)));
    }
    for release in &expect.releases {
        let kernel = [&release.ebpf_cgroup, &release.ebpf_lsm, &release.ebpf_netns];
        assert!(kernel.into_iter().chain([&release.agent, &release.seccomp]).all(|value| is(value, 32)));
    }
    let hashes = expect.functions.values().flatten().chain(&expect.policy.sha256).chain(&expect.compose.sha256);
    assert!(hashes.chain(&expect.tpm_keys).all(|value| is(value, 32)));
    assert!(!expect.tcb.statuses.iter().any(|status| status == "Revoked"));
}

fn is_named_in(expect: &Expect) {
    let good = &deployment().expect;
    let machine = &good.machines[0];
    let same = |other: &dshield_verify::expect::Machine| {
        (&other.mrtd, &other.rtmr0, &other.rtmr1, &other.rtmr2)
            == (&machine.mrtd, &machine.rtmr0, &machine.rtmr1, &machine.rtmr2)
    };
    assert!(expect.machines.iter().any(same), "the machine was not named");
    let same = |other: &dshield_verify::expect::Release| {
        dshield_verify::expect::Release { name: None, ..other.clone() } == release()
    };
    assert!(expect.releases.iter().any(same), "the release was not named");
    assert!(expect.policy.sha256.contains(&good.policy.sha256[0]), "the policy was not named");
    let compose = &expect.compose;
    assert!(compose.sha256.is_empty() || compose.sha256.contains(&good.compose.sha256[0]), "another compose file was");
    assert!(!compose.sha256.is_empty() || compose.image_digest == good.compose.image_digest, "no image was named");
    assert!(compose.image_digest.is_none() || compose.image_digest == good.compose.image_digest, "another image was");
    assert!(expect.tcb.statuses.iter().any(|status| status == "UpToDate"), "the status was not named");
    let code = |hashes: &Vec<String>| hashes.contains(&good.functions["f"][0]);
    assert!(
        expect.functions.is_empty() || expect.functions.len() == 1 && expect.functions.get("f").is_some_and(code),
        "other code was named"
    );
}
