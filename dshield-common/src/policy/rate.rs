//! How often: `"10/s"`, `"600/min"`, `"1000/h"`.
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const MOST: u32 = 1_000_000;

/// So many in each second, minute or hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Period {
    Second,
    Minute,
    Hour,
}

const PERIODS: [(&str, Period); 3] = [("s", Period::Second), ("min", Period::Minute), ("h", Period::Hour)];

impl Rate {
    /// How many in each period: 1 to 1,000,000.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How long the period is.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_secs(match self.per {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
        })
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, per) = text.split_once('/').ok_or(RateError)?;
        let plain = count.bytes().all(|byte| byte.is_ascii_digit()) && !count.starts_with('0');
        let count = count.parse().ok().filter(|count| plain && *count <= MOST).ok_or(RateError)?;
        let (_, per) = PERIODS.into_iter().find(|(word, _)| *word == per).ok_or(RateError)?;
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = PERIODS.into_iter().find(|(_, per)| *per == self.per).map_or("", |(word, _)| word);
        write!(f, "{}/{word}", self.count)
    }
}

/// A text is not a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number from 1 to 1000000 and a period, such as \"10/s\", \"600/min\" or \"1000/h\"")]
pub struct RateError;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_period() {
        for (text, count, seconds) in [("10/s", 10, 1), ("1/min", 1, 60), ("1000000/h", 1_000_000, 3600)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count(), rate.period().as_secs(), rate.to_string()), (count, seconds, text.to_owned()));
        }
        for text in
            ["", "10", "/s", "0/s", "01/s", "+1/s", "-1/s", "1.5/s", "1000001/s", "10/m", "10/ s", "10 /s", "10/s/s"]
        {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }
}
