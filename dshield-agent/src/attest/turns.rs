//! Turns at a device that serves one at a time: whoever asks much waits behind who asks little.
//!
//! Jobs flow in with who asks; they flow out one from each asker in turn, each asker's own in order.
use std::collections::{BTreeMap, VecDeque};

/// Jobs that wait, by who asks.
#[derive(Debug)]
pub(super) struct Turns<K, J> {
    /// Whose turn is next; each asker with waiting jobs once.
    order: VecDeque<K>,
    waiting: BTreeMap<K, VecDeque<J>>,
    count: usize,
    most: usize,
    most_each: usize,
}

/// There is no room for another job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<K: Ord + Clone, J> Turns<K, J> {
    /// Room for `most` jobs, of which one asker has at most `most_each`.
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self { order: VecDeque::new(), waiting: BTreeMap::new(), count: 0, most, most_each }
    }

    /// Puts a job behind the asker's others.
    pub(super) fn push(&mut self, asker: K, job: J) -> Result<(), Full> {
        let own = self.waiting.get(&asker).map_or(0, VecDeque::len);
        if self.count >= self.most || own >= self.most_each {
            return Err(Full);
        }
        if own == 0 {
            self.order.push_back(asker.clone());
        }
        self.waiting.entry(asker).or_default().push_back(job);
        self.count += 1;
        Ok(())
    }

    /// The next job.
    pub(super) fn pop(&mut self) -> Option<J> {
        let asker = self.order.pop_front()?;
        let jobs = self.waiting.get_mut(&asker)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.waiting.remove(&asker);
        } else {
            self.order.push_back(asker);
        }
        self.count -= usize::from(job.is_some());
        job
    }

    /// Whether nobody waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets jobs that nobody waits for any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&J) -> bool) {
        for jobs in self.waiting.values_mut() {
            jobs.retain(&wanted);
        }
        self.waiting.retain(|_, jobs| !jobs.is_empty());
        let waiting = &self.waiting;
        self.order.retain(|asker| waiting.contains_key(asker));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_asks_much_waits_behind_who_asks_little() {
        let mut turns = Turns::new(100, 10);
        for job in 0..5 {
            turns.push("greedy", job).unwrap();
        }
        turns.push("modest", 100).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [0, 100, 1, 2, 3, 4]);
    }

    #[test]
    fn one_asker_cannot_take_all_the_room() {
        let mut turns = Turns::new(4, 3);
        assert_eq!([1, 2, 3, 4].map(|job| turns.push("greedy", job)), [Ok(()), Ok(()), Ok(()), Err(Full)]);
        assert_eq!(turns.push("modest", 5), Ok(()));
        assert_eq!(turns.push("third", 6), Err(Full));
        turns.retain(|job| *job > 2);
        assert_eq!(turns.push("third", 6), Ok(()));
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [3, 5, 6]);
        assert_eq!(turns.pop(), None);
    }
}
