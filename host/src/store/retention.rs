//! What is too old, or more than the file may hold, is deleted: oldest first,
//! in steps so small that no write waits long behind one.

use std::time::Duration;

use rusqlite::{Connection, Transaction};
use tokio::time::{Interval, MissedTickBehavior};

use super::log;
use crate::clock::Clock;

/// How often a file is looked at.
const INTERVAL: Duration = Duration::from_secs(60);
/// How many rows one step deletes, give or take a tick: some 10 ms.
const STEP_ROWS: u32 = 10_000;
/// How many pages one step gives back to the file system: some 10 ms.
const STEP_PAGES: u64 = 256;
/// How many free pages stay for what comes next: giving pages back only to ask
/// for them again would write everything twice.
const SPARE_PAGES: u64 = 1024;
/// With less history than this, its size says nothing.
const REACH_SPAN_MIN: Duration = Duration::from_secs(600);

/// Deletes up to so many rows of the oldest that are older than a time, in
/// milliseconds; how many it has deleted.
type Delete = fn(&Transaction<'_>, u64, u32) -> rusqlite::Result<usize>;

/// The rule for one file, and how far it is with it.
#[derive(Debug)]
pub(super) struct Retention {
    age: Duration,
    bytes_max: u64,
    clock: Clock,
    delete: Delete,
    /// Made by the thread that owns it, which has the runtime.
    interval: Option<Interval>,
    busy: bool,
}

impl Retention {
    pub(super) fn samples(age: Duration, bytes_max: u64, clock: Clock) -> Self {
        Self { age, bytes_max, clock, delete: delete_samples, interval: None, busy: false }
    }

    pub(super) fn entries(age: Duration, bytes_max: u64, clock: Clock) -> Self {
        Self { age, bytes_max, clock, delete: log::prune, interval: None, busy: false }
    }

    /// Returns when there is something to do: at once while there is, else when
    /// it is time to look again.
    pub(super) async fn due(&mut self) {
        if self.busy {
            return;
        }
        let interval = self.interval.get_or_insert_with(|| {
            let mut interval = tokio::time::interval(INTERVAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        interval.tick().await;
        self.busy = true;
    }

    /// Takes one step, if one is due. When there is none left, answers how many
    /// bytes are in use.
    pub(super) fn step(&mut self, connection: &mut Connection) -> rusqlite::Result<Option<u64>> {
        if !self.busy {
            return Ok(None);
        }
        // A step that fails is tried again in a minute, not at once.
        self.busy = false;
        let age_ms = u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX);
        let cutoff = self.clock.now_ms().saturating_sub(age_ms).min(i64::MAX as u64);
        let pages = Pages::of(connection)?;
        let mut deleted = self.delete(connection, cutoff)?;
        if deleted == 0 && pages.bytes_used() > self.bytes_max {
            deleted = self.delete(connection, i64::MAX as u64)?;
        }
        if deleted == 0 && pages.free > SPARE_PAGES {
            let excess = (pages.free - SPARE_PAGES).min(STEP_PAGES);
            connection.execute_batch(&format!("PRAGMA incremental_vacuum({excess})"))?;
            deleted = 1;
        }
        self.busy = deleted > 0;
        Ok((!self.busy).then(|| pages.bytes_used()))
    }

    fn delete(&self, connection: &mut Connection, before_ms: u64) -> rusqlite::Result<usize> {
        let transaction = connection.transaction()?;
        let deleted = (self.delete)(&transaction, before_ms, STEP_ROWS)?;
        transaction.commit()?;
        Ok(deleted)
    }
}

/// Deletes samples, and the ticks and flags that have lost theirs.
fn delete_samples(
    transaction: &Transaction<'_>,
    before_ms: u64,
    limit: u32,
) -> rusqlite::Result<usize> {
    let mut deleted = 0;
    for deletion in [
        "DELETE FROM samples WHERE ts < ?1 AND ts <= coalesce(
             (SELECT ts FROM samples ORDER BY ts LIMIT 1 OFFSET ?2), ?1)",
        "DELETE FROM ticks WHERE ts IN (SELECT ts FROM ticks WHERE ts < min(?1, coalesce(
             (SELECT min(ts) FROM samples), ?1)) ORDER BY ts LIMIT ?2)",
        "DELETE FROM anomalies WHERE ts < min(?1, coalesce((SELECT min(ts) FROM samples), ?1))
             AND ts <= coalesce((SELECT ts FROM anomalies ORDER BY ts LIMIT 1 OFFSET ?2), ?1)",
    ] {
        let mut delete = transaction.prepare_cached(deletion)?;
        deleted += delete.execute([before_ms, limit.into()])?;
    }
    Ok(deleted)
}

/// How long the samples of `bytes_max` bytes span, going by those there are.
pub(super) fn reach(connection: &Connection, bytes_max: u64) -> rusqlite::Result<Option<Duration>> {
    let used = Pages::of(connection)?.bytes_used();
    let span = "SELECT coalesce(max(ts) - min(ts), 0) FROM ticks";
    let span_ms: u64 = connection.query_row(span, [], |row| row.get(0))?;
    let reach_ms = u128::from(span_ms) * u128::from(bytes_max) / u128::from(used.max(1));
    let reach = Duration::from_millis(u64::try_from(reach_ms).unwrap_or(u64::MAX));
    Ok((Duration::from_millis(span_ms) >= REACH_SPAN_MIN).then_some(reach))
}

/// How a file's pages are used.
struct Pages {
    count: u64,
    free: u64,
    bytes: u64,
}

impl Pages {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let ask =
            |what: &str| connection.query_row(&format!("PRAGMA {what}"), [], |row| row.get(0));
        Ok(Self {
            count: ask("page_count")?,
            free: ask("freelist_count")?,
            bytes: ask("page_size")?,
        })
    }

    fn bytes_used(&self) -> u64 {
        self.count.saturating_sub(self.free) * self.bytes
    }
}
