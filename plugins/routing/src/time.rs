//! Times as the application writes them: in UTC, without saying so.

use jiff::Timestamp;

/// A time to the microsecond: `2025-11-16T12:34:56.789123`.
#[must_use]
pub fn naive(time_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::MAX);
    let mut text = format!("{time:.6}");
    // The `Z` that says so.
    text.pop();
    text
}

/// How many milliseconds lie between a time that somebody has written and
/// `now_ns`; none where that is to come. `None` if it is no time.
#[must_use]
pub fn age_ms(text: &str, now_ns: u64) -> Option<u64> {
    let time = text.parse::<Timestamp>().or_else(|_| format!("{text}Z").parse()).ok()?;
    let age_ns = i128::from(now_ns) - time.as_nanosecond();
    u64::try_from(age_ns.max(0) / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_with_and_without_an_offset() {
        let now_ns = 1_763_296_496_789_123_999;
        assert_eq!(naive(now_ns), "2025-11-16T12:34:56.789123");
        assert_eq!(naive(1_763_296_496_000_000_000), "2025-11-16T12:34:56.000000");
        for (text, age) in [
            ("2025-11-16T12:34:56.789123", Some(0)),
            ("2025-11-16 12:34:55.789", Some(1000)),
            ("2025-11-16T12:34:46", Some(10_789)),
            ("2025-11-16T12:34:56Z", Some(789)),
            ("2025-11-16T13:34:56+01:00", Some(789)),
            ("2025-11-17T00:00:00", Some(0)),
            ("yesterday", None),
        ] {
            assert_eq!(age_ms(text, now_ns), age, "{text}");
        }
    }
}
