//! Dates for entries.
//!
//! The system's time flows in, RFC 3339 text flows out. The host owns the guest's clock, so the date is for the
//! reader and the number is for the order; all that is promised is that dates do not run backwards within a boot.
use std::time::{SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999999Z, the last date that RFC 3339 can write.
const LAST_MICROS: u64 = 253_402_300_799_999_999;

/// Remembers the latest date it gave.
#[derive(Debug, Default)]
pub(super) struct Clock {
    micros: u64,
}

impl Clock {
    /// The date of `now`, or the latest one given when that is later: UTC with microseconds.
    pub(super) fn stamp(&mut self, now: SystemTime) -> String {
        // Before 1970 counts as 1970: a clock that far off is not set at all.
        let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let micros = u64::try_from(micros).unwrap_or(LAST_MICROS).min(LAST_MICROS);
        self.micros = self.micros.max(micros);
        rfc3339(self.micros)
    }
}

fn rfc3339(micros: u64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`: years are
/// counted from March, so that the leap day is the last of its year, in eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn dates_are_rfc_3339_in_utc_with_microseconds() {
        // Seconds as `date -u -d @…` shows them.
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (1_767_225_599, "2025-12-31T23:59:59"),
            (1_767_225_600, "2026-01-01T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000 + 7), format!("{date}.000007Z"));
        }
        assert_eq!(rfc3339(LAST_MICROS), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_date_an_entry_before_the_one_before() {
        let mut clock = Clock::default();
        let first = clock.stamp(at(1_767_225_600_000_005));
        assert_eq!(clock.stamp(at(5)), first);
        assert_eq!(clock.stamp(UNIX_EPOCH - Duration::from_secs(1)), first);
        assert_eq!(clock.stamp(at(1_767_225_600_000_006)), "2026-01-01T00:00:00.000006Z");
    }

    #[test]
    fn a_clock_beyond_the_year_9999_still_gives_a_date() {
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Clock::default().stamp(far), "9999-12-31T23:59:59.999999Z");
    }
}
