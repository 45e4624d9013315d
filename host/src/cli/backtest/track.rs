//! A series and what became of it, wherever it was read from.

use std::time::Duration;

use crate::model::{Kind, Labels, SeriesKey, SeriesSpec};

/// The most values that are read into memory at once: 16 bytes each.
pub(super) const POINTS_MAX: usize = 20_000_000;

/// One value, or that there was none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// In nanoseconds since the Unix epoch.
    pub(super) time_ns: u64,
    /// Not a number where one was due and has not come.
    pub(super) value: f64,
}

/// From when until when something was wrong, as somebody has labelled it: both
/// ends belong to it. In nanoseconds since the Unix epoch.
pub(super) type Window = (u64, u64);

/// A series, with all of its past.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// What it is called in labels and reports.
    pub(super) name: String,
    /// What the detector is told of it.
    pub(super) spec: SeriesSpec,
    /// How often a value is due.
    pub(super) interval: Duration,
    /// In the order in which they are shown.
    pub(super) points: Vec<Point>,
    /// Where something was wrong, in the order of time; None where nobody has
    /// looked.
    pub(super) windows: Option<Vec<Window>>,
}

impl Track {
    /// A series that no hub has declared.
    pub(super) fn foreign(name: &str, points: Vec<Point>) -> Result<Self, String> {
        // What can't be in a name becomes an underscore.
        let legal = |c: char| match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/') => c,
            _ => '_',
        };
        let word: String = name.chars().map(legal).take(200).collect();
        let key = SeriesKey {
            plugin: "backtest".into(),
            name: format!("backtest.{word}").into(),
            labels: Labels::default(),
        };
        let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into())
            .map_err(|broken| broken.to_string())?;
        let interval = interval(&points);
        Ok(Self { name: name.to_owned(), spec, interval, points, windows: None })
    }

    /// From the first value to the last one, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        let times = self.points.iter().map(|point| point.time_ns);
        let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
        (last - first) as f64 / 1e9
    }
}

/// How often a value is due, going by the first two times that differ. A hub is
/// told by its operator; of a file no more is looked at than that, since what
/// comes later is not to be known.
pub(super) fn interval(points: &[Point]) -> Duration {
    const UNKNOWN: Duration = Duration::from_secs(1);
    let Some(first) = points.first() else { return UNKNOWN };
    let next = points.iter().find(|point| point.time_ns > first.time_ns);
    next.map_or(UNKNOWN, |next| Duration::from_nanos(next.time_ns - first.time_ns))
}
