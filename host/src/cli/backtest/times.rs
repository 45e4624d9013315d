//! Times as people and files write them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// A number from here on counts milliseconds and not seconds: as seconds it
/// would stand for the year 5138.
const MILLIS_MIN: f64 = 1e11;

/// A time in nanoseconds since the Unix epoch, written as RFC 3339, as
/// `2014-04-01 00:00:00` (UTC), or in seconds or milliseconds since the epoch.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return unix(text, number);
    }
    let zoned = text.parse::<Timestamp>().ok();
    let time = match zoned {
        Some(time) => time,
        None => text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
    };
    u64::try_from(time.as_nanosecond()).ok()
}

fn unix(text: &str, number: f64) -> Option<u64> {
    let factor: u64 = if number < MILLIS_MIN { 1_000_000_000 } else { 1_000_000 };
    if let Ok(whole) = text.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    // To the microsecond: that is how far the digits of such a number reach.
    let micros = (number * (factor / 1000) as f64).round();
    (0.0..u64::MAX as f64 / 1000.0).contains(&micros).then_some(micros as u64 * 1000)
}

/// The same, or how long ago: `2d`, `90m`.
pub(super) fn parse_or_ago(text: &str) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        return Ok(Clock::system().now_ns().saturating_sub(ago));
    }
    parse(text).ok_or_else(|| {
        format!(
            "{text:?} is no time: write 2026-02-10T12:00:00Z, or how long ago it was, as in 2d or \
             90m"
        )
    })
}

/// A time that is written as the files of NAB have it.
pub(super) fn shown(time_ns: u64) -> String {
    crate::clock::rfc3339(time_ns)
}

/// A stretch of time for people, to the second.
pub(super) fn stretch(seconds: f64) -> String {
    let whole = SignedDuration::try_from_secs_f64(seconds.round()).unwrap_or_default();
    let whole = std::time::Duration::try_from(whole).unwrap_or_default();
    humantime::format_duration(whole).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_write_a_time_means_the_same_moment() {
        let ns = 1_396_310_400_000_000_000;
        for text in [
            "2014-04-01T00:00:00Z",
            "2014-04-01T02:00:00+02:00",
            "2014-04-01 00:00:00",
            "2014-04-01T00:00:00",
            " 2014-04-01 00:00:00.000000 ",
            "1396310400",
            "1396310400000",
            "1396310400.0",
        ] {
            assert_eq!(parse(text), Some(ns), "{text}");
        }
        assert_eq!(parse("1396310400.25"), Some(ns + 250_000_000));
        for text in ["", "soon", "1.4.2014", "NaN", "-1", "1960-01-01 00:00:00", "2014-13-01"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_may_be_told_by_how_long_ago_it_was() {
        let (later, earlier) = (parse_or_ago("1h").unwrap(), parse_or_ago("2h").unwrap());
        assert!(later > earlier && later - earlier >= 3_599_000_000_000, "{later} {earlier}");
        assert!(parse_or_ago("yesterday").unwrap_err().contains("2026-02-10T12:00:00Z"));
    }
}
