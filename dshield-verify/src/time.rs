//! Moments: seconds since 1970, and RFC 3339 in UTC.
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `2026-11-28T06:38:58Z`.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds}"))
}

/// Seconds since 1970 of an RFC 3339 text, or of a number of seconds.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    u64::try_from(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read_in_utc() {
        assert_eq!(rfc3339(1_795_848_000), "2026-11-28T06:40:00Z");
        assert_eq!(parse("2026-11-28T06:40:00Z"), Some(1_795_848_000));
        assert_eq!(parse("2026-11-28T07:40:00+01:00"), Some(1_795_848_000));
        assert_eq!(parse("17"), Some(17));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(rfc3339(u64::MAX), format!("second {}", u64::MAX));
    }
}
