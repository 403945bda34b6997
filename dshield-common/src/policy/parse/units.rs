//! Sizes (`"256MiB"`) and durations (`"30s"`).
use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const DURATIONS: [(&str, u64); 3] = [("ms", 1), ("s", 1000), ("m", 60_000)];

/// Bytes. `None` when it is not a whole number with one of the units above, or too large.
pub(super) fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

/// A length of time. `None` when it is not a whole number with one of the units above, or too large.
pub(super) fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_millis)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_know_decimal_and_binary_units() {
        assert_eq!(size("1MiB"), Some(1_048_576));
        assert_eq!(size("1MB"), Some(1_000_000));
        assert_eq!(size("256 KiB"), Some(262_144));
        assert_eq!(size("5GiB"), Some(5_368_709_120));
        assert_eq!(size("0B"), Some(0));
    }

    #[test]
    fn durations_are_milliseconds_seconds_or_minutes() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
    }

    #[test]
    fn what_is_not_a_whole_number_with_a_unit_is_nothing() {
        for text in [
            "",
            "1",
            "MiB",
            "1.5GiB",
            "-1MiB",
            "1mib",
            "1M",
            "1  MiB",
            "99999999999GiB",
            "18446744073709551616B",
            "１MiB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["", "30", "s", "1h", "1.5s", "-1s", "18446744073709551615m"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
