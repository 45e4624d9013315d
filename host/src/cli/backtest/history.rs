//! What a hub has kept, as tracks.

use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::track::{POINTS_MAX, Point, Track};
use crate::model::SeriesSpec;
use crate::store::{PastQuery, PastSeries, past};

/// Which part of it.
pub(super) struct Part<'a> {
    /// The hub's data folder.
    pub(super) folder: &'a Path,
    /// From this nanosecond on …
    pub(super) from_ns: u64,
    /// … to this one.
    pub(super) to_ns: u64,
    /// How long a tick of the hub is.
    pub(super) tick: Duration,
}

/// Reads the series that are wanted.
pub(super) fn read(
    part: &Part<'_>,
    wanted: impl Fn(&SeriesSpec) -> bool,
) -> Result<Vec<Track>, Failure> {
    if !part.folder.join("history.db").is_file() {
        return Err(Failure::new(format!(
            "no history is kept in {}: name a hub's data folder with --data",
            part.folder.display()
        )));
    }
    let query = PastQuery {
        from_ms: part.from_ns / 1_000_000,
        to_ms: part.to_ns / 1_000_000,
        samples_max: POINTS_MAX,
    };
    let past = past(part.folder, query, wanted).map_err(Failure::new)?;
    let past = past.ok_or_else(|| {
        Failure::usage(format!(
            "there are more than {POINTS_MAX} samples: narrow what is read with --series, --from \
             and --to"
        ))
    })?;
    let tracks = past.series.into_iter().map(|series| track(series, &past.ticks_ms, part.tick));
    let tracks: Vec<Track> = tracks.filter(|track| !track.points.is_empty()).collect();
    if tracks.is_empty() {
        return Err(Failure::new(format!(
            "nothing that is asked for is kept in {}: look at --series, --from and --to",
            part.folder.display()
        )));
    }
    Ok(tracks)
}

fn track(past: PastSeries, ticks_ms: &[u64], tick: Duration) -> Track {
    let interval = interval(&past.samples, ticks_ms, tick);
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    Track {
        name: past.series.key.to_string(),
        points: points(&past.samples, ticks_ms, interval_ms),
        spec: past.series,
        interval,
        windows: None,
    }
}

/// More values that are missing in a row than these are not told: by then the
/// series was gone, as far as a hub would have known.
const MISSED_MAX: usize = 1000;

/// How often a value is due: as many ticks as there were from the first one to
/// the second. A hub that did not run has none, so that a pause is no interval.
fn interval(samples: &[(u64, f64)], ticks_ms: &[u64], tick: Duration) -> Duration {
    let [first, second, ..] = samples else { return tick };
    let until = |ms: u64| ticks_ms.partition_point(|tick_ms| *tick_ms <= ms);
    let ticks = until(second.0).saturating_sub(until(first.0)).max(1);
    tick.mul_f64(ticks as f64)
}

/// The samples, and between them the ticks at which one was due and did not
/// come. A hub that did not run has no ticks, and nothing was due.
fn points(samples: &[(u64, f64)], ticks_ms: &[u64], interval_ms: u64) -> Vec<Point> {
    let mut points = Vec::with_capacity(samples.len());
    let Some((first_ms, _)) = samples.first() else { return points };
    let mut ticks = ticks_ms.iter().copied().skip_while(|tick_ms| tick_ms < first_ms).peekable();
    // A tick may come late by a part of its own length.
    let due_ms = interval_ms - interval_ms / 4;
    let mut last_ms = *first_ms;
    let point = |ms: u64, value| Point { time_ns: ms * 1_000_000, value };
    for (ms, value) in samples {
        let mut missed = 0;
        while let Some(tick_ms) = ticks.next_if(|tick_ms| tick_ms < ms) {
            if tick_ms >= last_ms + due_ms && missed < MISSED_MAX {
                (last_ms, missed) = (tick_ms, missed + 1);
                points.push(point(tick_ms, f64::NAN));
            }
        }
        ticks.next_if_eq(ms);
        last_ms = *ms;
        points.push(point(*ms, *value));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_without_a_value_that_was_due_is_told_and_a_hub_that_stood_still_is_not() {
        let samples = [(1000, 1.0), (3000, 2.0), (7000, 3.0), (60_000, 4.0), (62_000, 5.0)];
        let ticks: Vec<u64> = (1..=8).chain(60..=62).map(|second| second * 1000).collect();
        let interval = interval(&samples, &ticks, Duration::from_secs(1));
        assert_eq!(interval, Duration::from_secs(2));
        let points = points(&samples, &ticks, 2000);
        let times: Vec<(u64, bool)> =
            points.iter().map(|p| (p.time_ns / 1_000_000_000, p.value.is_nan())).collect();
        let at = |second| (second, false);
        assert_eq!(times, [at(1), at(3), (5, true), at(7), at(60), at(62)]);
    }

    #[test]
    fn a_pause_of_the_hub_is_no_interval_and_a_series_that_was_gone_is_not_missing_for_ever() {
        let second = Duration::from_secs(1);
        let after_a_pause = [1000, 50_000_000, 50_001_000];
        let samples = after_a_pause.map(|ms| (ms, 1.0));
        assert_eq!(interval(&samples, &after_a_pause, second), second);
        let ticks: Vec<u64> = (1..=5000).map(|number| number * 1000).collect();
        let points = points(&[(1000, 1.0), (5_000_000, 2.0)], &ticks, 1000);
        assert_eq!(points.len(), 2 + MISSED_MAX);
    }
}
