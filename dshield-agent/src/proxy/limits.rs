//! How often, and how many at a time: a rule's `rate` and `max_concurrent`, for all instances of a function together.
//!
//! What is counted are requests, and connections where requests are not seen.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dshield_common::policy::{FunctionPolicy, Rate, Rule};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of one function's rules, by the rules' ids; a rule without any is not among them.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<String, Limit>);

#[derive(Debug)]
struct Limit {
    bucket: Option<Mutex<Bucket>>,
    places: Option<Arc<Semaphore>>,
}

/// A place among those that a rule allows at a time; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

/// Why it is too much. The function is at fault, or its rule is too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("more than the rule's rate")]
    Rate {
        /// When the next one may come.
        after: Duration,
    },
    #[error("more at a time than the rule's max_concurrent")]
    Concurrent,
}

impl Exceeded {
    /// The stable word for the log.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Rate { .. } => "rate_exceeded",
            Self::Concurrent => "too_many_at_a_time",
        }
    }

    /// What to change in the rule.
    pub(super) fn hint(&self, rule: &str) -> String {
        match self {
            Self::Rate { .. } => format!("wait, or raise `rate` in {rule}"),
            Self::Concurrent => format!("wait for the others to end, or raise `max_concurrent` in {rule}"),
        }
    }
}

impl Limits {
    /// For the rules of this function.
    pub(super) fn new(policy: &FunctionPolicy) -> Self {
        let limited = policy.egress.iter().filter(|rule| rule.rate.is_some() || rule.max_concurrent.is_some());
        Self(limited.map(|rule| (rule.id.clone(), Limit::new(rule))).collect())
    }

    /// Counts one more under this rule.
    pub(super) fn enter(&self, rule: &Rule) -> Result<Place, Exceeded> {
        let Some(limit) = self.0.get(&rule.id) else { return Ok(Place(None)) };
        // A place that is not there costs nothing of the rate.
        let place = match &limit.places {
            Some(places) => Some(places.clone().try_acquire_owned().map_err(|_| Exceeded::Concurrent)?),
            None => None,
        };
        if let Some(bucket) = &limit.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())?;
        }
        Ok(Place(place))
    }
}

impl Limit {
    fn new(rule: &Rule) -> Self {
        Self {
            bucket: rule.rate.map(|rate| Mutex::new(Bucket::full(rate, Instant::now()))),
            places: rule.max_concurrent.map(|most| Arc::new(Semaphore::new(most as usize))),
        }
    }
}

/// A token bucket: it holds as many as the rate has in one period, and fills up evenly.
#[derive(Debug)]
struct Bucket {
    most: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        let most = f64::from(rate.count());
        Self { most, per_second: most / rate.period().as_secs_f64(), tokens: most, at: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), Exceeded> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.at = now;
        if self.tokens < 1.0 {
            return Err(Exceeded::Rate { after: Duration::from_secs_f64((1.0 - self.tokens) / self.per_second) });
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dshield_common::policy::Deployment;

    use super::*;

    fn policy(rule: &str) -> Arc<FunctionPolicy> {
        let text = format!(
            "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
             [[function.egress]]\nhost = \"a.example\"\n{rule}\n"
        );
        Deployment::parse(&text, &mut |_| unreachable!()).unwrap().policy.functions[0].clone()
    }

    #[test]
    fn a_rate_lets_its_count_through_at_once_and_then_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::full("10/s".parse().unwrap(), start);
        assert!((0..10).all(|_| bucket.take(start).is_ok()));
        let Err(Exceeded::Rate { after }) = bucket.take(start) else { panic!("the eleventh") };
        assert!((99..=101).contains(&after.as_millis()), "{after:?}");
        assert!(bucket.take(start + Duration::from_millis(101)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(102)).is_err());
        assert!((0..10).all(|_| bucket.take(start + Duration::from_secs(60)).is_ok()), "no more than the bucket holds");
        assert!(bucket.take(start + Duration::from_secs(60)).is_err());
    }

    #[test]
    fn places_come_back_and_a_rule_without_limits_has_none() {
        let policy = policy("max_concurrent = 2\nrate = \"3/h\"");
        let limits = Limits::new(&policy);
        let rule = &policy.egress[0];
        let (first, _second) = (limits.enter(rule).unwrap(), limits.enter(rule).unwrap());
        assert_eq!(limits.enter(rule).unwrap_err(), Exceeded::Concurrent);
        drop(first);
        let _third = limits.enter(rule).unwrap();
        drop(_third);
        assert_eq!(limits.enter(rule).unwrap_err().reason(), "rate_exceeded");

        let free = self::policy("");
        let limits = Limits::new(&free);
        assert!((0..10_000).all(|_| limits.enter(&free.egress[0]).is_ok()));
    }
}
