//! How often, and how many at a time: a rule's `rate` and `max_concurrent`, for all instances of a function together.
//!
//! What is counted are requests, and connections where requests are not seen.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dshield_common::policy::{Denied, FunctionPolicy, Rate, Rule};
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
pub(super) struct Place(#[expect(dead_code, reason = "its end is what counts")] Option<OwnedSemaphorePermit>);

impl Limits {
    /// For the rules of this function.
    pub(super) fn new(policy: &FunctionPolicy) -> Self {
        let limited = policy.egress.iter().filter(|rule| rule.rate.is_some() || rule.max_concurrent.is_some());
        Self(limited.map(|rule| (rule.id.clone(), Limit::new(rule))).collect())
    }

    /// Counts one more under this rule.
    pub(super) fn enter(&self, rule: &Rule) -> Result<Place, Denied> {
        let Some(limit) = self.0.get(&rule.id) else { return Ok(Place(None)) };
        let free = limit.places.as_ref().map(|places| places.clone().try_acquire_owned());
        let place = match (free.transpose(), rule.denies_concurrency()) {
            (Err(_), Some(denied)) => return Err(denied),
            (place, _) => place.ok().flatten(),
        };
        // A place that is not there costs nothing of the rate.
        let is_left =
            |bucket: &Mutex<Bucket>| bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        match rule.denies_rate() {
            Some(denied) if !limit.bucket.as_ref().is_some_and(is_left) => Err(denied),
            _ => Ok(Place(place)),
        }
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

    /// False when there is none.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.at = now;
        let left = self.tokens >= 1.0;
        self.tokens -= if left { 1.0 } else { 0.0 };
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        assert!((0..10).all(|_| bucket.take(start)));
        assert!(!bucket.take(start + Duration::from_millis(99)));
        assert!(bucket.take(start + Duration::from_millis(101)));
        assert!(!bucket.take(start + Duration::from_millis(102)));
        assert!((0..10).all(|_| bucket.take(start + Duration::from_secs(60))), "no more than the bucket holds");
        assert!(!bucket.take(start + Duration::from_secs(60)));
    }

    #[test]
    fn places_come_back_and_a_rule_without_limits_has_none() {
        let policy = policy("max_concurrent = 2\nrate = \"3/h\"");
        let limits = Limits::new(&policy);
        let rule = &policy.egress[0];
        let (first, _second) = (limits.enter(rule).unwrap(), limits.enter(rule).unwrap());
        assert_eq!(limits.enter(rule).unwrap_err().reason(), "too_many_at_once");
        drop(first);
        drop(limits.enter(rule).unwrap());
        assert_eq!(limits.enter(rule).unwrap_err().reason(), "rate_exceeded");

        let free = self::policy("");
        let limits = Limits::new(&free);
        assert!((0..10_000).all(|_| limits.enter(&free.egress[0]).is_ok()));
    }
}
