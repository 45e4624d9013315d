//! Where something was wrong, as somebody has labelled it, and how a detector
//! did by that.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::track::{Point, Window};
use super::{Failure, table, times};

/// Windows by the name of their series, in the order of time.
pub(super) type Labels = BTreeMap<String, Vec<Window>>;

/// Reads labels in NAB's form: `{"name": [["from", "to"], …], …}`.
///
/// # Errors
///
/// With the file, and what is wrong in it.
pub(super) fn read(file: &Path) -> Result<Labels, Failure> {
    let failed = |words: String| Failure::usage(format!("{}: {words}", file.display()));
    let bytes = table::read(file)?;
    let written: BTreeMap<String, Vec<(String, String)>> =
        serde_json::from_slice(&bytes).map_err(|error| {
            failed(format!("{error}; labels are {{\"name\": [[\"from\", \"to\"], …]}}"))
        })?;
    let mut labels = Labels::new();
    for (name, windows) in written {
        let mut parsed = Vec::with_capacity(windows.len());
        for (from, to) in windows {
            let time = |text: &str| {
                times::parse(text).ok_or_else(|| failed(format!("{name}: {text:?} is no time")))
            };
            let window = (time(&from)?, time(&to)?);
            if window.0 > window.1 {
                return Err(failed(format!("{name}: a window ends at {to}, before its start")));
            }
            parsed.push(window);
        }
        parsed.sort_unstable();
        labels.insert(name, parsed);
    }
    Ok(labels)
}

/// A window by the rows of its series: from the first to the last, both within.
pub(super) type RowWindow = (usize, usize);

/// The rows of windows: those that have the times of its ends, as NAB means it,
/// or the first and the last between them. A window without rows is left out.
pub(super) fn rows(points: &[Point], windows: &[Window]) -> Vec<RowWindow> {
    let of = |&(from, to): &Window| {
        let position = |time_ns| points.iter().position(|point| point.time_ns == time_ns);
        let first =
            position(from).or_else(|| points.iter().position(|point| point.time_ns >= from))?;
        let last = position(to).or_else(|| points.iter().rposition(|point| point.time_ns <= to))?;
        (first <= last).then_some((first, last))
    };
    let mut rows: Vec<RowWindow> = windows.iter().filter_map(of).collect();
    rows.sort_unstable();
    // A value is in one window at most: those that overlap are one.
    rows.dedup_by(|next, before| {
        let overlaps = next.0 <= before.1;
        if overlaps {
            before.1 = before.1.max(next.1);
        }
        overlaps
    });
    rows
}

/// How many windows there are, those that overlap in time counted as one.
pub(super) fn apart(windows: &[Window]) -> usize {
    let mut sorted = windows.to_vec();
    sorted.sort_unstable();
    let mut count = 0;
    let mut end = None;
    for (from, to) in sorted {
        if end.is_none_or(|end| from > end) {
            count += 1;
        }
        end = end.max(Some(to));
    }
    count
}

/// How a detector did by the labels of a series, or of several.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Windows that could be found.
    pub(super) windows: usize,
    /// Windows with an alert in them.
    pub(super) hit: usize,
    /// Alerts in a window.
    pub(super) true_alerts: usize,
    /// Alerts outside of all.
    pub(super) false_alerts: usize,
    /// Of the windows that were hit: from their start to the first alert.
    pub(super) delays_s: Vec<f64>,
    /// The same, as a share of the window.
    pub(super) delay_shares: Vec<f64>,
}

impl Tally {
    /// Counts the alerts of a series, given by their rows. What is in the first
    /// `skip` rows counts for nothing.
    pub(super) fn of(
        points: &[Point],
        windows: &[RowWindow],
        alerts: &[usize],
        skip: usize,
    ) -> Self {
        let mut tally = Self::default();
        let alerts = || alerts.iter().copied().filter(|row| *row >= skip);
        let within =
            |row: usize| windows.iter().any(|(first, last)| (*first..=*last).contains(&row));
        for row in alerts() {
            if within(row) {
                tally.true_alerts += 1;
            } else {
                tally.false_alerts += 1;
            }
        }
        for &(first, last) in windows.iter().filter(|(_, last)| *last >= skip) {
            tally.windows += 1;
            let Some(row) = alerts().find(|row| (first..=last).contains(row)) else { continue };
            tally.hit += 1;
            let seconds =
                |row: usize| points[row].time_ns.saturating_sub(points[first].time_ns) as f64 / 1e9;
            tally.delays_s.push(seconds(row));
            tally.delay_shares.push((row - first) as f64 / (last - first).max(1) as f64);
        }
        tally
    }

    /// Adds those of another series.
    pub(super) fn add(&mut self, other: &Self) {
        self.windows += other.windows;
        self.hit += other.hit;
        self.true_alerts += other.true_alerts;
        self.false_alerts += other.false_alerts;
        self.delays_s.extend(&other.delays_s);
        self.delay_shares.extend(&other.delay_shares);
    }

    /// The figures, over so many values of so many seconds.
    pub(super) fn figures(&self, points: usize, seconds: f64) -> Figures {
        let share = |part: usize, all: usize| (all > 0).then(|| part as f64 / all as f64);
        let mean =
            |all: &[f64]| (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64);
        let alerts = self.true_alerts + self.false_alerts;
        Figures {
            windows: self.windows,
            windows_hit: self.hit,
            true_alerts: self.true_alerts,
            false_alerts: self.false_alerts,
            precision: share(self.true_alerts, alerts),
            recall: share(self.hit, self.windows),
            mean_delay_seconds: mean(&self.delays_s),
            mean_delay_share: mean(&self.delay_shares),
            false_alarms_per_day: (seconds > 0.0)
                .then(|| self.false_alerts as f64 * 86_400.0 / seconds),
            false_alarms_per_million_points: (points > 0)
                .then(|| self.false_alerts as f64 * 1e6 / points as f64),
        }
    }
}

/// How a detector did by labels.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Windows that could be found.
    pub(super) windows: usize,
    /// Windows with an alert in them.
    pub(super) windows_hit: usize,
    /// Alerts in a window.
    pub(super) true_alerts: usize,
    /// Alerts outside of all.
    pub(super) false_alerts: usize,
    /// The share of the alerts that are in a window.
    pub(super) precision: Option<f64>,
    /// The share of the windows that were hit.
    pub(super) recall: Option<f64>,
    /// Of the windows that were hit: from their start to the first alert.
    pub(super) mean_delay_seconds: Option<f64>,
    /// The same, as a share of the window.
    pub(super) mean_delay_share: Option<f64>,
    /// Of one series, in a day.
    pub(super) false_alarms_per_day: Option<f64>,
    /// In a million values.
    pub(super) false_alarms_per_million_points: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: u64) -> Vec<Point> {
        (0..count).map(|at| Point { time_ns: at * 60_000_000_000, value: 0.0 }).collect()
    }

    #[test]
    fn alerts_are_counted_by_the_windows_that_they_are_in() {
        let points = points(1440);
        let minute = |at: u64| at * 60_000_000_000;
        let windows = rows(&points, &[(minute(100), minute(110)), (minute(200) + 1, minute(210))]);
        assert_eq!(windows, [(100, 110), (201, 210)]);
        let tally = Tally::of(&points, &windows, &[5, 99, 105, 107, 111], 10);
        let figures = tally.figures(points.len(), 86_400.0);
        assert_eq!((figures.windows, figures.windows_hit), (2, 1));
        assert_eq!((figures.true_alerts, figures.false_alerts), (2, 2));
        assert_eq!((figures.precision, figures.recall), (Some(0.5), Some(0.5)));
        assert_eq!(
            (figures.mean_delay_seconds, figures.mean_delay_share),
            (Some(300.0), Some(0.5))
        );
        assert_eq!(figures.false_alarms_per_day, Some(2.0));
    }

    #[test]
    fn without_alerts_there_is_no_precision_and_without_windows_no_recall() {
        let figures = Tally::of(&points(10), &[], &[], 0).figures(10, 0.0);
        assert_eq!((figures.precision, figures.recall), (None, None));
        assert_eq!(figures.false_alarms_per_day, None);
    }
}
