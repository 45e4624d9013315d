//! All samples of some series over a range, in one pass: what `backtest` shows
//! a detector. Works beside a hub that runs, and without one.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::database::{self, HISTORY};
use super::samples::rate_since;
use super::{StoreError, dictionary};
use crate::model::{Kind, Known, SeriesSpec};

/// The samples of one series.
#[derive(Clone, Debug)]
pub struct PastSeries {
    /// What the series is.
    pub series: SeriesSpec,
    /// Times in milliseconds since the Unix epoch, and the values then: rates
    /// per second where it is a counter, as detectors are shown them.
    pub samples: Vec<(u64, f64)>,
}

/// What is kept of a range.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The ticks that were recorded, in milliseconds since the Unix epoch.
    pub ticks_ms: Vec<u64>,
    /// The series that have samples there, in the order of their keys.
    pub series: Vec<PastSeries>,
}

/// Which samples.
#[derive(Clone, Copy, Debug)]
pub struct PastQuery {
    /// The first millisecond since the Unix epoch.
    pub from_ms: u64,
    /// The last one.
    pub to_ms: u64,
    /// The most samples that are read.
    pub samples_max: usize,
}

/// Reads what a hub's data folder keeps of the series that `wanted` names. None
/// if that is more than `samples_max`.
///
/// # Errors
///
/// There is no history in the folder, or it can't be read.
pub fn past(
    folder: &Path,
    query: PastQuery,
    wanted: impl Fn(&SeriesSpec) -> bool,
) -> Result<Option<Past>, StoreError> {
    let path = folder.join(HISTORY.name);
    let read = || {
        let connection = database::open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(super::reader::READ_MAX)?;
        // One transaction: what a running hub writes meanwhile is not seen.
        connection.execute_batch("BEGIN")?;
        let mut series = dictionary::known(&connection)?;
        series.retain(|known| wanted(&known.spec));
        series.sort_by(|one, other| one.spec.key.cmp(&other.spec.key));
        scan(&connection, query, series)
    };
    read().map_err(|error| database::explain(&path, error))
}

fn scan(
    connection: &Connection,
    query: PastQuery,
    series: Vec<Known>,
) -> rusqlite::Result<Option<Past>> {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let range = params![signed(query.from_ms), signed(query.to_ms)];
    let mut places: Vec<Option<usize>> = Vec::new();
    for (at, known) in series.iter().enumerate() {
        let id = known.id.0 as usize;
        places.resize(places.len().max(id + 1), None);
        places[id] = Some(at);
    }
    let mut past = Past::default();
    let mut select =
        connection.prepare("SELECT ts FROM ticks WHERE ts BETWEEN ?1 AND ?2 ORDER BY ts")?;
    let mut rows = select.query(range)?;
    while let Some(row) = rows.next()? {
        past.ticks_ms.push(row.get(0)?);
    }
    let mut raw: Vec<Vec<(i64, f64)>> = vec![Vec::new(); series.len()];
    let mut count = 0;
    let mut select = connection.prepare(
        "SELECT ts, series, value FROM samples WHERE ts BETWEEN ?1 AND ?2 ORDER BY ts, series",
    )?;
    let mut rows = select.query(range)?;
    while let Some(row) = rows.next()? {
        let id: usize = row.get(1)?;
        let Some(at) = places.get(id).copied().flatten() else { continue };
        count += 1;
        if count > query.samples_max {
            return Ok(None);
        }
        raw[at].push((row.get(0)?, row.get(2)?));
    }
    let kept = series.into_iter().zip(raw).filter(|(_, raw)| !raw.is_empty());
    past.series = kept.map(|(known, raw)| values(known.spec, raw)).collect();
    Ok(Some(past))
}

/// What a detector is shown of these samples.
fn values(series: SeriesSpec, raw: Vec<(i64, f64)>) -> PastSeries {
    let mut last = None;
    let value = |sample: (i64, f64)| match series.kind {
        Kind::Counter => {
            rate_since(last.replace(sample), sample).map(|rate| (sample.0.unsigned_abs(), rate))
        }
        Kind::Gauge | Kind::Updown => Some((sample.0.unsigned_abs(), sample.1)),
    };
    let samples = raw.into_iter().filter_map(value).collect();
    PastSeries { series, samples }
}
