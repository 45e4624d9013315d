//! The samples of one series over a range, as points of a chart.

use std::ops::RangeInclusive;

use rusqlite::{Connection, params};

use super::dictionary;
use crate::model::{Kind, SeriesId, SeriesSpec};

/// The most points that one answer holds: more than a screen has pixels.
pub const POINTS_MAX: usize = 10_000;
/// How far before the range the total is looked for that the first rate is
/// made from: the longest tick.
const LEAD_IN_MS: i64 = 3_600_000;

/// Which samples.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Of which series.
    pub series: SeriesId,
    /// The first millisecond since the Unix epoch.
    pub from_ms: u64,
    /// The last one.
    pub to_ms: u64,
    /// How many points at most; [`POINTS_MAX`] is the limit.
    pub points_max: usize,
    /// Counters as the totals that they are, not as rates per second.
    pub raw: bool,
    /// How many of them were odd, too.
    pub anomalies: bool,
}

/// The samples of a series.
#[derive(Clone, Debug)]
pub struct History {
    /// What the series is.
    pub series: SeriesSpec,
    /// The values are rates per second of its totals.
    pub rate: bool,
    /// How long a time each point stands for, from its own time on. None if
    /// each point is one sample.
    pub bucket_ms: Option<u64>,
    /// In the order of their times.
    pub points: Vec<Point>,
    /// Which share of all samples of the range was odd, if that was asked. None
    /// where there are none.
    pub anomaly_rate: Option<f64>,
}

/// One sample, or those of one stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The mean of the samples.
    pub mean: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// Which share of them a detector found odd; 0 if that was not asked.
    pub odd: f64,
}

/// Reads the samples of a range. None if there never was such a series.
pub(super) fn read(
    connection: &Connection,
    query: &HistoryQuery,
) -> rusqlite::Result<Option<History>> {
    let Some(series) = dictionary::find(connection, query.series)? else { return Ok(None) };
    let rate = series.kind == Kind::Counter && !query.raw;
    let range = kept(connection, query)?;
    let mut chart = Chart::new(&range, query.points_max.clamp(1, POINTS_MAX));
    if !range.is_empty() {
        let mut meter = None;
        if rate {
            let before = range.start().saturating_sub(LEAD_IN_MS)..=range.start() - 1;
            scan(connection, NEWEST_FIRST, query.series, &before, |sample, _| {
                meter = Some(sample);
                false
            })?;
        }
        let select = if query.anomalies { OLDEST_FIRST_WITH_FLAGS } else { OLDEST_FIRST };
        scan(connection, select, query.series, &range, |sample, odd| {
            let value =
                if rate { rate_since(meter.replace(sample), sample) } else { Some(sample.1) };
            if let Some(value) = value {
                chart.add((sample.0, value), odd);
            }
            true
        })?;
    }
    let anomaly_rate = chart.odd_share().filter(|_| query.anomalies);
    let (bucket_ms, points) = chart.finish();
    Ok(Some(History { series, rate, bucket_ms, points, anomaly_rate }))
}

/// A time in milliseconds and the value then.
type Sample = (i64, f64);

/// The part of the range that anything is kept of: buckets are not spent on
/// times before the first tick or after the last.
fn kept(connection: &Connection, query: &HistoryQuery) -> rusqlite::Result<RangeInclusive<i64>> {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    // Apart, since SQLite finds either end at once, but not both together.
    let ends = "SELECT coalesce((SELECT min(ts) FROM ticks), 0),
                       coalesce((SELECT max(ts) FROM ticks), -1)";
    let (first, last) = connection
        .prepare_cached(ends)?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    Ok(signed(query.from_ms).max(first)..=signed(query.to_ms).min(last))
}

// One seek for each tick, whatever the number of other series: the join order
// is fixed, or SQLite might read all samples of the range.
pub(super) const OLDEST_FIRST: &str = "
    SELECT ticks.ts, samples.value, 0 FROM ticks CROSS JOIN samples
    ON samples.ts = ticks.ts AND samples.series = ?1
    WHERE ticks.ts BETWEEN ?2 AND ?3 ORDER BY ticks.ts";
pub(super) const OLDEST_FIRST_WITH_FLAGS: &str = "
    SELECT ticks.ts, samples.value, EXISTS (
        SELECT 1 FROM anomalies WHERE anomalies.ts = ticks.ts AND anomalies.series = ?1
    ) FROM ticks CROSS JOIN samples
    ON samples.ts = ticks.ts AND samples.series = ?1
    WHERE ticks.ts BETWEEN ?2 AND ?3 ORDER BY ticks.ts";
pub(super) const NEWEST_FIRST: &str = "
    SELECT ticks.ts, samples.value, 0 FROM ticks CROSS JOIN samples
    ON samples.ts = ticks.ts AND samples.series = ?1
    WHERE ticks.ts BETWEEN ?2 AND ?3 ORDER BY ticks.ts DESC";

/// Shows `take` the samples of a series and whether they were odd, until it has
/// enough.
fn scan(
    connection: &Connection,
    select: &str,
    series: SeriesId,
    range: &RangeInclusive<i64>,
    mut take: impl FnMut(Sample, bool) -> bool,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(select)?;
    let mut rows = select.query(params![series.0, range.start(), range.end()])?;
    while let Some(row) = rows.next()? {
        if !take((row.get(0)?, row.get(1)?), row.get(2)?) {
            break;
        }
    }
    Ok(())
}

/// The rate per second between two totals, as in a snapshot: none for the first
/// one, and none where a total fell, since its source started again.
#[expect(clippy::cast_precision_loss, reason = "2^53 ms are 285,000 years between two samples")]
pub(super) fn rate_since(last: Option<Sample>, (now_ms, total): Sample) -> Option<f64> {
    let (last_ms, last_total) = last?;
    (total >= last_total).then(|| (total - last_total) / ((now_ms - last_ms) as f64 / 1000.0))
}

/// Puts samples into buckets of equal time as they come, and keeps them as they
/// are for as long as there are few.
struct Chart {
    start_ms: i64,
    bucket_ms: i64,
    points_max: usize,
    /// None once there are too many.
    samples: Option<Vec<Point>>,
    buckets: Vec<Point>,
    /// How many samples the last bucket holds.
    filled: f64,
    /// How many samples there are, and how many of them are odd.
    count: f64,
    odd: f64,
}

impl Chart {
    fn new(range: &RangeInclusive<i64>, points_max: usize) -> Self {
        let span = range.end().saturating_sub(*range.start()).max(0);
        let bucket_ms = span / i64::try_from(points_max).unwrap_or(i64::MAX) + 1;
        let samples = Some(Vec::new());
        Self {
            start_ms: *range.start(),
            bucket_ms,
            points_max,
            samples,
            buckets: Vec::new(),
            filled: 0.0,
            count: 0.0,
            odd: 0.0,
        }
    }

    fn add(&mut self, (time_ms, value): Sample, is_odd: bool) {
        let odd = if is_odd { 1.0 } else { 0.0 };
        self.count += 1.0;
        self.odd += odd;
        let (mean, min, max) = (value, value, value);
        let point = |ms: i64| Point { time_ms: ms.unsigned_abs(), mean, min, max, odd };
        match &mut self.samples {
            Some(samples) if samples.len() < self.points_max => samples.push(point(time_ms)),
            samples => *samples = None,
        }
        let start = point(time_ms - (time_ms - self.start_ms) % self.bucket_ms);
        match self.buckets.last_mut() {
            Some(bucket) if bucket.time_ms == start.time_ms => {
                self.filled += 1.0;
                bucket.mean += (value - bucket.mean) / self.filled;
                bucket.min = bucket.min.min(value);
                bucket.max = bucket.max.max(value);
                bucket.odd += (odd - bucket.odd) / self.filled;
            }
            _ => {
                self.filled = 1.0;
                self.buckets.push(start);
            }
        }
    }

    /// Which share of all samples is odd, if there are any.
    fn odd_share(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.odd / self.count)
    }

    fn finish(self) -> (Option<u64>, Vec<Point>) {
        match self.samples {
            Some(samples) => (None, samples),
            None => (Some(self.bucket_ms.unsigned_abs()), self.buckets),
        }
    }
}
