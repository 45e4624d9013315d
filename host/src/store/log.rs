//! The writer of `log.db`: entries, numbered in the transaction that writes
//! them, told only after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::{mpsc, watch};

use super::database::Database;
use super::retention::Retention;
use super::{Complaints, Counters};
use crate::model::{Entry, Finding, FindingState, LogChannel, Logged};

/// How many entries go into one transaction.
pub(super) const BATCH_MAX: usize = 256;
/// The least time between two commits: what comes meanwhile goes into the next.
/// An entry that comes alone is not held up.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait before a failed commit is tried again: from, to.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The name of this log: made when it is first asked for, kept with it.
pub(super) fn epoch(connection: &Connection) -> rusqlite::Result<String> {
    let read = "SELECT value FROM meta WHERE key = 'epoch'";
    if let Some(epoch) = connection.query_row(read, [], |row| row.get(0)).optional()? {
        return Ok(epoch);
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let letter = |byte: u8| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]);
    let epoch: String = random.into_iter().map(letter).collect();
    connection.execute("INSERT INTO meta VALUES ('epoch', ?1)", [&epoch])?;
    Ok(epoch)
}

/// The last offset ever given, also when its entry has aged away.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<u64> {
    let head = "SELECT seq FROM sqlite_sequence WHERE name = 'entries'";
    Ok(connection.query_row(head, [], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// The largest offset whose entry was deleted; 0 if none ever was. What comes
/// after it is all there.
pub(super) fn pruned(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'pruned'")?
        .query_row([], |row| row.get(0))
}

/// Deletes up to `limit` entries: those of the oldest that happened before a
/// time. Times may go back, offsets never do, so that what is deleted may leave
/// holes between what is kept; `pruned` tells the last of them.
pub(super) fn prune(
    transaction: &Transaction<'_>,
    before_ms: u64,
    limit: u32,
) -> rusqlite::Result<usize> {
    let mut delete = transaction.prepare_cached(
        "DELETE FROM entries WHERE time_ms < ?1 AND offset IN
             (SELECT offset FROM entries ORDER BY offset LIMIT ?2) RETURNING offset",
    )?;
    let deleted = delete.query_map([before_ms, limit.into()], |row| row.get(0))?;
    let deleted = deleted.collect::<rusqlite::Result<Vec<u64>>>()?;
    if let Some(last) = deleted.iter().max() {
        transaction
            .prepare_cached(
                "UPDATE meta SET value = max(CAST(value AS INTEGER), ?1) WHERE key = 'pruned'",
            )?
            .execute([last])?;
    }
    Ok(deleted.len())
}

/// Findings that were opened and never closed.
pub(super) fn open_findings(connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut select = connection.prepare("SELECT body FROM open_findings ORDER BY id")?;
    let mut rows = select.query([])?;
    let mut findings = Vec::new();
    while let Some(row) = rows.next()? {
        match serde_json::from_str(row.get_ref(0)?.as_str()?) {
            Ok(finding) => findings.push(finding),
            Err(error) => tracing::warn!(%error, "an open finding in the log can't be read"),
        }
    }
    Ok(findings)
}

/// What the thread owns. Ends when `stop` does, after what is queued.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) queue: mpsc::Receiver<Entry>,
    pub(super) logged: mpsc::Sender<Vec<Arc<Logged>>>,
    pub(super) stop: watch::Receiver<()>,
    pub(super) retention: Retention,
    pub(super) counters: Arc<Counters>,
    pub(super) complaints: Complaints,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut committed: Option<Instant> = None;
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                _ = self.stop.changed(), if !stopping => {
                    stopping = true;
                    self.queue.close();
                }
                taken = self.queue.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    if let Some(committed) = committed
                        && taken < BATCH_MAX
                    {
                        self.gather(committed + GATHER, &mut batch).await;
                    }
                    let logged = self.commit(&mut batch).await;
                    committed = Some(Instant::now());
                    self.tell(logged).await;
                }
                () = self.retention.due() => {}
            }
            self.retain();
        }
        self.database.close();
    }

    /// Waits, unless the hub is stopping, and takes what has come.
    async fn gather(&mut self, until: Instant, batch: &mut Vec<Entry>) {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = stopped(&mut self.stop) => {}
        }
        while batch.len() < BATCH_MAX
            && let Ok(entry) = self.queue.try_recv()
        {
            batch.push(entry);
        }
    }

    /// Tries until it succeeds: entries are never dropped. Only a hub that
    /// stops on a full disk gives up, and says what is lost.
    async fn commit(&mut self, batch: &mut Vec<Entry>) -> Vec<Arc<Logged>> {
        let mut pause = RETRY.0;
        loop {
            let begun = Instant::now();
            let stopping = self.stop.has_changed().is_err();
            match write(&mut self.database.connection, batch) {
                Ok(offsets) => {
                    let commit_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.counters.entries_commit_us.store(commit_us, Ordering::Relaxed);
                    self.counters.entries_written.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    let pairs = offsets.into_iter().zip(batch.drain(..));
                    return pairs
                        .map(|(offset, entry)| Arc::new(Logged::new(offset, entry)))
                        .collect();
                }
                Err(error) if stopping => {
                    self.complaints.last = None;
                    self.complaints.add(&self.counters, &error, "entries are lost");
                    batch.clear();
                    return Vec::new();
                }
                Err(error) => {
                    self.complaints.add(&self.counters, &error, "entries could not be written yet");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                () = stopped(&mut self.stop) => {}
            }
        }
    }

    /// Waits for room, unless the hub is stopping. Without anybody who listens
    /// the entries are kept all the same.
    async fn tell(&mut self, logged: Vec<Arc<Logged>>) {
        if logged.is_empty() {
            return;
        }
        let room = tokio::select! {
            biased;
            room = self.logged.reserve() => room.ok(),
            () = stopped(&mut self.stop) => None,
        };
        if let Some(room) = room {
            room.send(logged);
        }
    }

    fn retain(&mut self) {
        match self.retention.step(&mut self.database.connection) {
            Ok(Some(bytes)) => self.counters.log_bytes_used.store(bytes, Ordering::Relaxed),
            Ok(None) => {}
            Err(error) => {
                self.complaints.add(&self.counters, &error, "old entries could not be deleted");
            }
        }
    }
}

/// Returns when the store is closing.
async fn stopped(stop: &mut watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}

/// What of a finding's body tells whether it is open.
#[derive(serde::Deserialize)]
struct Standing {
    id: String,
    state: FindingState,
}

/// Writes entries in one transaction, and answers their offsets.
fn write(connection: &mut Connection, batch: &[Entry]) -> rusqlite::Result<Vec<u64>> {
    let transaction = connection.transaction()?;
    let mut offsets = Vec::with_capacity(batch.len());
    for entry in batch {
        let body = entry.body.get();
        transaction
            .prepare_cached("INSERT INTO entries (time_ms, channel, body) VALUES (?1, ?2, ?3)")?
            .execute(params![entry.time_ms.min(i64::MAX as u64), entry.channel.as_str(), body])?;
        offsets.push(u64::try_from(transaction.last_insert_rowid()).unwrap_or(0));
        let standing = (entry.channel == LogChannel::Findings).then(|| serde_json::from_str(body));
        let Some(Ok(Standing { id, state })) = standing else { continue };
        match state {
            FindingState::Open => transaction
                .prepare_cached("INSERT OR REPLACE INTO open_findings VALUES (?1, ?2)")?
                .execute([&*id, body])?,
            FindingState::Close => transaction
                .prepare_cached("DELETE FROM open_findings WHERE id = ?1")?
                .execute([id])?,
        };
    }
    transaction.commit()?;
    Ok(offsets)
}
