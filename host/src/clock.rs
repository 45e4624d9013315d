//! Wall time, from one place, so that tests can set it; and how it is written.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

/// Where wall time comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows what `now_ns` holds.
    #[must_use]
    pub fn set_by(now_ns: Arc<AtomicU64>) -> Self {
        Self(Some(now_ns))
    }

    /// Nanoseconds since the Unix epoch; 0 on a machine whose clock stands
    /// before it.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        match &self.0 {
            Some(set) => set.load(Ordering::Relaxed),
            None => u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }
}

/// The time to stamp a file with: the machine's, whatever the hub's clock shows.
#[must_use]
pub fn file_now() -> std::time::SystemTime {
    Timestamp::now().into()
}

/// A time in RFC 3339, UTC, to the millisecond: `2026-02-10T12:00:00.250Z`.
#[must_use]
pub fn rfc3339(time_ns: u64) -> String {
    format(time_ns, "%Y-%m-%dT%H:%M:%S%.3fZ")
}

/// Writes a time in RFC 3339, UTC, to the microsecond:
/// `2026-02-10T12:00:00.250123Z`.
pub fn write_rfc3339_micros(text: &mut String, time_ns: u64) {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::MAX);
    // Writing to a string can't fail.
    let _ = write!(text, "{}", time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"));
}

/// A time in ISO 8601 with a numeric offset, as Python's `isoformat` writes it:
/// `2026-02-10T12:00:00.250+00:00`.
#[must_use]
pub fn iso8601_offset(time_ns: u64) -> String {
    format(time_ns, "%Y-%m-%dT%H:%M:%S%.3f+00:00")
}

/// A time in ISO 8601, UTC without saying so, to the microsecond, as Python's
/// `utcnow().isoformat()` writes it: `2026-02-10T12:00:00.250123`.
#[must_use]
pub fn iso8601_naive(time_ns: u64) -> String {
    format(time_ns, "%Y-%m-%dT%H:%M:%S%.6f")
}

fn format(time_ns: u64, pattern: &str) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::MAX);
    time.strftime(pattern).to_string()
}

/// Nanoseconds since the Unix epoch of a time in RFC 3339.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// Milliseconds since the Unix epoch of a time as HTTP has it:
/// `Wed, 21 Oct 2026 07:28:00 GMT`.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_to_the_microsecond() {
        let mut text = "at ".to_owned();
        write_rfc3339_micros(&mut text, 1_770_724_800_250_123_999);
        assert_eq!(text, "at 2026-02-10T12:00:00.250123Z");
    }

    #[test]
    fn times_are_written_to_the_millisecond() {
        assert_eq!(rfc3339(1_770_724_800_250_999_999), "2026-02-10T12:00:00.250Z");
        assert_eq!(iso8601_offset(1_770_724_800_000_000_000), "2026-02-10T12:00:00.000+00:00");
        assert_eq!(iso8601_naive(1_770_724_800_250_123_999), "2026-02-10T12:00:00.250123");
        assert_eq!(parse_rfc3339("2026-02-10T12:00:00.250Z"), Some(1_770_724_800_250_000_000));
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert_eq!(parse_http_date("Tue, 10 Feb 2026 12:00:00 GMT"), Some(1_770_724_800_000));
        assert_eq!(parse_http_date("soon"), None);
    }

    #[test]
    fn a_set_clock_shows_what_it_was_set_to() {
        let now = Arc::new(AtomicU64::new(5_000_000));
        let clock = Clock::set_by(now.clone());
        assert_eq!(clock.now_ms(), 5);
        now.store(7_000_000, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), 7);
    }
}
