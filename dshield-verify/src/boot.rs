//! What was started on the machine: steps over the event log and the compose file.
use dshield_common::attestation::Evidence;

use crate::expect::Expect;
use crate::quote::Registers;
use crate::suggestion::Facts;
use crate::verdict::{Step, StepId};

pub(crate) fn steps(
    _evidence: &Evidence,
    _registers: &Registers,
    _expect: &Expect,
    _any: bool,
    _facts: &mut Facts,
) -> Vec<Step> {
    vec![Step::not_checked(StepId::EventLog, ""), Step::not_checked(StepId::Compose, "")]
}
