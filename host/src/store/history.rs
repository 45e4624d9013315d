//! The writer of `history.db`: numbers for series, samples, retention.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, watch};

use super::database::Database;
use super::retention::Retention;
use super::{Complaints, Counters, MINTS_MAX, dictionary};
use crate::model::{Flags, Mint, SeriesId, Tick};
use crate::snapshot::Snapshot;

/// How many ticks go into one transaction when the queue holds several. Few
/// enough that a request for numbers, which comes next, waits 0.1 s behind
/// ticks of 10,000 samples.
const BATCH_TICKS_MAX: usize = 16;
/// How many judgements' flags go into one transaction, likewise.
const BATCH_FLAGS_MAX: usize = 64;

/// The last tick that was recorded.
pub(super) fn last_tick(connection: &Connection) -> rusqlite::Result<Option<Tick>> {
    connection
        .query_row("SELECT number, time_ns FROM last_tick", [], |row| {
            Ok(Tick { number: row.get(0)?, time_ns: row.get(1)? })
        })
        .optional()
}

/// What the thread owns. Ends when `stop` does, after what is queued.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) mints: mpsc::Receiver<Mint>,
    pub(super) queue: mpsc::Receiver<Arc<Snapshot>>,
    pub(super) flags: mpsc::Receiver<Flags>,
    pub(super) stop: watch::Receiver<()>,
    pub(super) retention: Retention,
    pub(super) counters: Arc<Counters>,
    pub(super) complaints: Complaints,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut stopping = false;
        let mut mints = Vec::new();
        let mut batch = Vec::new();
        let mut flags = Vec::new();
        loop {
            tokio::select! {
                biased;
                // First, since a plugin waits for them.
                1.. = self.mints.recv_many(&mut mints, MINTS_MAX) => self.mint(&mut mints),
                _ = self.stop.changed(), if !stopping => {
                    stopping = true;
                    self.mints.close();
                    self.queue.close();
                    self.flags.close();
                }
                // Before the snapshots, whose end is the writer's.
                1.. = self.flags.recv_many(&mut flags, BATCH_FLAGS_MAX) => self.flag(&mut flags),
                taken = self.queue.recv_many(&mut batch, BATCH_TICKS_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    self.record(&mut batch);
                }
                () = self.retention.due() => {}
            }
            self.retain();
        }
        self.database.close();
    }

    /// Numbers the series of all requests in one transaction.
    fn mint(&mut self, mints: &mut Vec<Mint>) {
        let minted = self.minted(mints);
        let words = minted.as_ref().err().map(ToString::to_string);
        if let Err(error) = &minted {
            self.complaints.add(&self.counters, error, "new series could not be written");
        }
        let mut minted = minted.unwrap_or_default().into_iter();
        for mint in mints.drain(..) {
            // Whoever asked may have gone; the numbers stay for the next time.
            let _ = mint.reply.send(match &words {
                Some(words) => Err(words.clone()),
                None => Ok(minted.next().unwrap_or_default()),
            });
        }
    }

    /// Synced, unlike samples: other files hold these numbers too.
    fn minted(&mut self, mints: &[Mint]) -> rusqlite::Result<Vec<Vec<SeriesId>>> {
        let connection = &mut self.database.connection;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = connection.transaction()?;
        let number = |mint: &Mint| {
            mint.specs.iter().map(|spec| dictionary::record(&transaction, spec)).collect()
        };
        let minted = mints.iter().map(number).collect::<rusqlite::Result<Vec<_>>>();
        let committed = minted.and_then(|minted| transaction.commit().map(|()| minted));
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        committed
    }

    fn record(&mut self, batch: &mut Vec<Arc<Snapshot>>) {
        let begun = Instant::now();
        match write(&mut self.database.connection, batch) {
            Ok(written) => {
                self.counters.samples_written.fetch_add(written, Ordering::Relaxed);
            }
            Err(error) => {
                let lost = batch.iter().map(|snapshot| samples(snapshot).count() as u64).sum();
                self.counters.samples_dropped.fetch_add(lost, Ordering::Relaxed);
                self.complaints.add(&self.counters, &error, "samples could not be written");
            }
        }
        let commit_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.samples_commit_us.store(commit_us, Ordering::Relaxed);
        self.counters.snapshots_queued.fetch_sub(batch.len() as u64, Ordering::Relaxed);
        batch.clear();
    }

    fn flag(&mut self, flags: &mut Vec<Flags>) {
        match write_flags(&mut self.database.connection, flags) {
            Ok(written) => {
                self.counters.flags_written.fetch_add(written, Ordering::Relaxed);
            }
            Err(error) => {
                let lost = flags.iter().map(|flags| flags.series.len() as u64).sum();
                self.counters.flags_dropped.fetch_add(lost, Ordering::Relaxed);
                self.complaints.add(&self.counters, &error, "flags could not be written");
            }
        }
        flags.clear();
    }

    fn retain(&mut self) {
        match self.retention.step(&mut self.database.connection) {
            Ok(Some(bytes)) => self.counters.history_bytes_used.store(bytes, Ordering::Relaxed),
            Ok(None) => {}
            Err(error) => {
                self.complaints.add(&self.counters, &error, "old samples could not be deleted");
            }
        }
    }
}

/// What a tick adds: the raw values that came in it, in the order of numbers.
fn samples(snapshot: &Snapshot) -> impl Iterator<Item = (SeriesId, f64)> {
    snapshot
        .updated()
        .map(|(at, series)| (series.id, snapshot.raw[at]))
        .filter(|(_, raw)| raw.is_finite())
}

/// How many samples one statement writes: two thirds of the time that one by
/// one would take, and more brings little.
const ROWS_PER_INSERT: usize = 64;

static INSERT_ROWS: LazyLock<String> = LazyLock::new(|| insert(ROWS_PER_INSERT));

/// The statement that writes `rows` samples of one tick, whose time is ?1.
fn insert(rows: usize) -> String {
    let row = |at: usize| format!("(?1, ?{}, ?{})", 2 * at + 2, 2 * at + 3);
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("INSERT OR REPLACE INTO samples VALUES {}", rows.join(", "))
}

/// Writes ticks in one transaction, and how far it got with them.
fn write(connection: &mut Connection, batch: &[Arc<Snapshot>]) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let mut written = 0;
    for snapshot in batch {
        let ts = snapshot.tick.time_ms();
        transaction.prepare_cached("INSERT OR IGNORE INTO ticks VALUES (?1)")?.execute([ts])?;
        let samples: Vec<(SeriesId, f64)> = samples(snapshot).collect();
        for rows in samples.chunks(ROWS_PER_INSERT) {
            if rows.len() == ROWS_PER_INSERT {
                write_rows(&transaction, &INSERT_ROWS, ts, rows)?;
            } else {
                write_rows(&transaction, &insert(rows.len()), ts, rows)?;
            }
        }
        written += samples.len() as u64;
    }
    if let Some(last) = batch.last() {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO last_tick VALUES (1, ?1, ?2)")?
            .execute([last.tick.number, last.tick.time_ns])?;
    }
    transaction.commit()?;
    Ok(written)
}

fn write_rows(
    connection: &Connection,
    insert: &str,
    ts: u64,
    rows: &[(SeriesId, f64)],
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(insert)?;
    insert.raw_bind_parameter(1, ts)?;
    for (at, (series, raw)) in rows.iter().enumerate() {
        insert.raw_bind_parameter(2 * at + 2, series.0)?;
        insert.raw_bind_parameter(2 * at + 3, raw)?;
    }
    insert.raw_execute()?;
    Ok(())
}

/// Writes which values were odd in one transaction; how many of them are new. A
/// tick whose samples are still to come is as good as any other.
fn write_flags(connection: &mut Connection, flags: &[Flags]) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    let mut written = 0;
    {
        let mut insert =
            transaction.prepare_cached("INSERT OR IGNORE INTO anomalies VALUES (?1, ?2)")?;
        for Flags { time_ms, series } in flags {
            for series in series {
                written += insert.execute((time_ms, series.0))? as u64;
            }
        }
    }
    transaction.commit()?;
    Ok(written)
}
