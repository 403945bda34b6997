//! What the last verdict is worth now: a verdict and its age flow in, one word flows out, which badge and page are made of.
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::verdict::{Outcome, Verdict};

/// A moment on both clocks: that of the wall may be set, and the other one stops while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Seconds since 1970.
    pub(super) wall: u64,
    pub(super) steady: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { wall: crate::cli::now(), steady: Instant::now() }
    }

    /// How long before `now` it was: the longer of what the two clocks say.
    pub(super) fn age(&self, now: &Self) -> Duration {
        let steady = now.steady.saturating_duration_since(self.steady);
        steady.max(Duration::from_secs(now.wall.saturating_sub(self.wall)))
    }
}

/// What a deployment's last verdict is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    /// Everything holds, and was looked at not long ago.
    Verified,
    /// Everything held, too long ago.
    Outdated,
    /// Something does not hold.
    NotVerified,
    /// Something could not be looked at.
    NotChecked,
    /// It was made for development and proves nothing, whatever else holds.
    Development,
    /// There is no verdict yet.
    Nothing,
}

impl Standing {
    /// Of a verdict that is `age` old, where one counts for `max_age`.
    pub(super) fn of(verdict: Option<&Verdict>, age: Duration, max_age: Duration) -> Self {
        let Some(verdict) = verdict else { return Self::Nothing };
        match verdict.outcome {
            _ if verdict.development => Self::Development,
            Outcome::Verified if age < max_age => Self::Verified,
            Outcome::Verified => Self::Outdated,
            Outcome::NotChecked => Self::NotChecked,
            _ => Self::NotVerified,
        }
    }

    /// Its name, as in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Outdated => "outdated",
            Self::NotVerified => "not-verified",
            Self::NotChecked => "not-checked",
            Self::Development => "development",
            Self::Nothing => "nothing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Step, StepId};

    const MAX: Duration = Duration::from_secs(600);

    fn verdict(development: bool, step: Step) -> Verdict {
        Verdict::new(0, development, vec![step])
    }

    #[test]
    fn only_a_young_verdict_on_a_genuine_machine_verifies() {
        let good = verdict(false, Step::pass(StepId::Quote, ""));
        let at = |age| Standing::of(Some(&good), Duration::from_secs(age), MAX);
        assert_eq!(
            [at(0), at(599), at(600), at(u64::MAX)],
            [Standing::Verified, Standing::Verified, Standing::Outdated, Standing::Outdated]
        );
        let of = |verdict: &Verdict| Standing::of(Some(verdict), Duration::ZERO, MAX);
        assert_eq!(of(&verdict(true, Step::pass(StepId::Quote, ""))), Standing::Development);
        assert_eq!(of(&verdict(true, Step::fail(StepId::Policy, ""))), Standing::Development);
        for step in [StepId::Quote, StepId::Policy, StepId::Entries, StepId::History] {
            assert_eq!(of(&verdict(false, Step::fail(step, ""))), Standing::NotVerified, "{step}");
        }
        assert_eq!(of(&verdict(false, Step::not_checked(StepId::Policy, ""))), Standing::NotChecked);
        assert_eq!(Standing::of(None, Duration::ZERO, MAX), Standing::Nothing);
    }

    #[test]
    fn setting_the_clock_back_makes_no_verdict_younger() {
        let steady = Instant::now();
        let then = Moment { wall: 1000, steady };
        let age = |wall, seconds| then.age(&Moment { wall, steady: steady + Duration::from_secs(seconds) });
        assert_eq!(age(1010, 10), Duration::from_secs(10));
        // Set back by an hour; asleep for an hour.
        assert_eq!(age(0, 10), Duration::from_secs(10));
        assert_eq!(age(4600, 10), Duration::from_secs(3600));
    }
}
