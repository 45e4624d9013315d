//! Bins of the day and of the week, in UTC.

const MINUTE_NS: u64 = 60_000_000_000;
const HOUR_NS: u64 = 60 * MINUTE_NS;

/// Quarters of an hour in a day.
pub const DAY_BINS: usize = 96;

/// Hours in a week.
pub const WEEK_BINS: usize = 168;

/// The first hour of 1970 was on a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// A place in a season: a bin, and how far in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The bin.
    pub bin: usize,
    /// From 0 at its beginning to 1 at its end.
    pub within: f64,
}

/// Where the time, in nanoseconds since 1970, is in the day.
pub fn of_day(time_ns: u64) -> Place {
    place(time_ns, 15 * MINUTE_NS, DAY_BINS)
}

/// Where it is in the week.
pub fn of_week(time_ns: u64) -> Place {
    place(time_ns, HOUR_NS, WEEK_BINS)
}

/// The time for a person, like `Mon 14:30`.
pub fn words(time_ns: u64) -> String {
    let minutes = time_ns / MINUTE_NS;
    let day = WEEKDAYS[(minutes / 1440 % 7) as usize];
    format!("{day} {:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

fn place(time_ns: u64, bin_ns: u64, bins: usize) -> Place {
    let bin = (time_ns / bin_ns % bins as u64) as usize;
    Place { bin, within: (time_ns % bin_ns) as f64 / bin_ns as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_bins() {
        // 2026-11-21, a Saturday, at 18:14:30.
        let time_ns = 1_795_284_870 * 1_000_000_000;
        assert_eq!(words(time_ns), "Sat 18:14");
        assert_eq!(of_day(time_ns), Place { bin: 72, within: 870.0 / 900.0 });
        assert_eq!(of_week(time_ns), Place { bin: 2 * 24 + 18, within: 870.0 / 3600.0 });
        assert_eq!((of_week(0).bin, words(0)), (0, "Thu 00:00".to_owned()));
    }
}
