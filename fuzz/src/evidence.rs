//! Evidence as a hostile host may make it of genuine parts.
//!
//! An input is a document in which `$QUOTE` and the like stand for long parts, so that there is room to change the others;
//! some of those parts are of other machines than the expected one.
use dshield_common::attestation::{Evidence, Provider};
use dshield_common::hex;
use dshield_verify::Verdict;
use dshield_verify::expect::Expect;
use dshield_verify::verdict::{Outcome, StepId, StepResult};

use crate::deployment::{Deployment, SIGNED, deployment};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "$STATEMENT",
    "$OTHER_STATEMENT",
    "$POLICY",
    "$QUOTE",
    "$DEBUG_QUOTE",
    "$OTHER_QUOTE",
    "$EVENT_LOG",
    "$OTHER_EVENT_LOG",
    "$COMPOSE",
    "$OTHER_COMPOSE",
    "$TCB_INFO",
    "$QE_IDENTITY",
    "\"dstack\"",
    "\"configfs-tsm\"",
    "\"tpm\"",
    "\"development\"",
    "\"event_log\":",
    "\"app_compose\":",
    "\"quote\":null,",
    "\"collateral\":null,",
    "\"pck_certificate_chain\":\"\",",
    "\\u0022",
    "UpToDate",
    "OutOfDate",
    "2099-01-01T00:00:00Z",
    ",",
];

/// Evidence that is understood has one document's worth; what is verified is the expected deployment, whoever says what.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let text = with_parts(text);
    let known = deployment();
    let verdict = known.judge(&text, &known.expect);
    assert!(!verdict.steps.is_empty());
    assert!(verdict.steps.iter().all(|step| !step.says.is_empty()));
    let Ok(evidence) = Evidence::parse(&text) else {
        assert_eq!((verdict.outcome, verdict.steps.len()), (Outcome::NotChecked, 1));
        assert_eq!(verdict.steps[0].step, StepId::Evidence);
        return;
    };
    assert_eq!(Evidence::parse(&evidence.to_json()).as_ref().ok(), Some(&evidence), "it does not survive its JSON");
    if verdict.outcome == Outcome::Verified {
        is_the_expected_one(&evidence, known);
    }
    // Whoever expects nothing has nothing verified. Without a genuine quote that is plain.
    if verdict.step(StepId::Quote).is_some_and(|step| step.result == StepResult::Pass) {
        assert_ne!(known.judge(&text, &Expect::default()).outcome, Outcome::Verified);
    }
}

/// The verdict on an input that is kept.
#[must_use]
pub fn judged(text: &str) -> Verdict {
    deployment().judge(&with_parts(text), &deployment().expect)
}

fn is_the_expected_one(evidence: &Evidence, known: &Deployment) {
    let good = &known.evidence;
    assert_eq!(evidence.provider, Provider::Dstack, "a compose file is expected, and another provider has none");
    assert_eq!(evidence.statement, good.statement, "another statement is verified");
    assert_eq!(evidence.policy, good.policy, "another policy is verified");
    assert_eq!(evidence.app_compose, good.app_compose, "another compose file is verified");
    let signed = |evidence: &Evidence| {
        let quote = evidence.quote.as_ref().and_then(|quote| hex::decode(quote));
        quote.and_then(|quote| quote.get(..SIGNED).map(<[u8]>::to_vec))
    };
    assert_eq!(signed(evidence), signed(good), "the quote of another machine is verified");
}

fn with_parts(text: &str) -> String {
    let known = deployment();
    let good = &known.evidence;
    let collateral = good.collateral.as_ref().expect("there is some");
    let some = |part: &Option<String>| part.clone().unwrap_or_default();
    // A name comes before those that it begins with.
    let parts = [
        ("$STATEMENT", good.statement.clone()),
        ("$OTHER_STATEMENT", known.other_statement.clone()),
        ("$POLICY", good.policy.clone()),
        ("$QUOTE", some(&good.quote)),
        ("$DEBUG_QUOTE", known.debug_quote.clone()),
        ("$OTHER_QUOTE", known.other_quote.clone()),
        ("$EVENT_LOG", some(&good.event_log)),
        ("$OTHER_EVENT_LOG", known.other_event_log.clone()),
        ("$COMPOSE", some(&good.app_compose)),
        ("$OTHER_COMPOSE", known.other_compose.clone()),
        ("$PCK_CRL_ISSUER_CHAIN", collateral.pck_crl_issuer_chain.clone()),
        ("$ROOT_CA_CRL", collateral.root_ca_crl.clone()),
        ("$PCK_CRL", collateral.pck_crl.clone()),
        ("$TCB_INFO_ISSUER_CHAIN", collateral.tcb_info_issuer_chain.clone()),
        ("$TCB_INFO_SIGNATURE", collateral.tcb_info_signature.clone()),
        ("$TCB_INFO", collateral.tcb_info.clone()),
        ("$QE_IDENTITY_ISSUER_CHAIN", collateral.qe_identity_issuer_chain.clone()),
        ("$QE_IDENTITY_SIGNATURE", collateral.qe_identity_signature.clone()),
        ("$QE_IDENTITY", collateral.qe_identity.clone()),
    ];
    parts.into_iter().fold(text.to_owned(), |text, (name, part)| {
        let part = serde_json::Value::String(part).to_string();
        text.replace(name, &part[1..part.len() - 1])
    })
}
