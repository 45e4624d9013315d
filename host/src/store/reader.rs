//! Reads of what is kept, on connections of their own, off the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::Semaphore;

use super::boards::{self, ObjectVersion};
use super::deliveries::{self, Delivery, Place};
use super::entries::{Missed, Portion, RoomPage, logged};
use super::samples::{History, HistoryQuery};
use super::{StoreError, database, dictionary, entries, log, samples};
use crate::model::{Board, LogChannel, Logged, ObjectKey, Room, SeriesId, SeriesSpec, Topic};

/// How long a read may take.
pub(super) const READ_MAX: Duration = Duration::from_secs(2);
/// How many reads of one file run at a time. More wait: they would only take
/// the processors from the live path.
const READERS_MAX: usize = 4;
/// How many instructions SQLite runs between two looks at the time.
const INSTRUCTIONS_PER_LOOK: i32 = 1000;
/// The most entries that one read answers.
const ENTRIES_MAX: usize = 10_000;

/// Reads what is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) history: Readers,
    pub(super) log: Readers,
}

impl Reader {
    /// The samples of a series in a range.
    ///
    /// # Errors
    ///
    /// There is no such series, it takes too long, or the file can't be read.
    pub async fn history(&self, query: HistoryQuery) -> Result<History, StoreError> {
        let series = query.series;
        let found = self.history.run(move |connection| samples::read(connection, &query)).await?;
        found.ok_or(StoreError::NoSuchSeries(series))
    }

    /// What a series is, also one that is not alive.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub async fn series(&self, id: SeriesId) -> Result<Option<SeriesSpec>, StoreError> {
        self.history.run(move |connection| dictionary::find(connection, id)).await
    }

    /// The newest entries of a channel, at most `limit` or 10,000, that
    /// happened at `since_ms` or later, in the order of their offsets.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn entries_since(
        &self,
        channel: LogChannel,
        since_ms: u64,
        limit: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let select = "SELECT offset, time_ms, body, channel, route FROM entries
                      WHERE channel = ?1 AND time_ms >= ?2
                      ORDER BY time_ms DESC, offset DESC LIMIT ?3";
        let mut newest = self.entries(select, channel, since_ms, limit).await?;
        newest.sort_unstable_by_key(|logged| logged.offset);
        Ok(newest)
    }

    /// The entries of a channel that come after an offset, at most `limit` or
    /// 10,000, in the order of their offsets.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn entries_after(
        &self,
        channel: LogChannel,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let select = "SELECT offset, time_ms, body, channel, route FROM entries
                      WHERE channel = ?1 AND offset > ?2
                      ORDER BY offset LIMIT ?3";
        self.entries(select, channel, offset, limit).await
    }

    /// What a client that has seen everything up to `after` has missed of some
    /// topics, up to `through`: at most `limit` or 10,000 entries with
    /// together `bytes` of bodies, but at least one. None if it can't be told
    /// all of it: entries after `after` were deleted, or none has that number
    /// yet, which is so after the log was lost or brought back from a copy.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn missed(
        &self,
        after: u64,
        through: u64,
        topics: Vec<Topic>,
        limit: usize,
        bytes: usize,
    ) -> Result<Option<Missed>, StoreError> {
        let portion = Portion { entries: limit.min(ENTRIES_MAX), bytes };
        let read = move |connection: &Connection| {
            entries::missed(connection, after, through, &topics, portion)
        };
        self.log.run(read).await
    }

    /// What was in a room after an offset, or without one what was newest: at
    /// most `limit` or 10,000 entries with together `bytes` of bodies, but at
    /// least one.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn room(
        &self,
        room: Room,
        after: Option<u64>,
        limit: usize,
        bytes: usize,
    ) -> Result<RoomPage, StoreError> {
        let portion = Portion { entries: limit.min(ENTRIES_MAX), bytes };
        self.log.run(move |connection| entries::room(connection, &room, after, portion)).await
    }

    /// The newest entries of all channels, at most `limit` or 10,000 with
    /// together `bytes` of bodies, but at least one, in the order of their
    /// offsets.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn entries_recent(
        &self,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let portion = Portion { entries: limit.min(ENTRIES_MAX), bytes };
        self.log.run(move |connection| entries::recent(connection, portion)).await
    }

    /// The versions of a board's object that are kept, the newest first: at most
    /// 50. With `version` only that one, with its data; else each has no more than
    /// an empty object, or none if it was deleted.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn versions(
        &self,
        board: Board,
        key: ObjectKey,
        version: Option<u64>,
    ) -> Result<Vec<ObjectVersion>, StoreError> {
        self.log.run(move |connection| boards::versions(connection, &board, &key, version)).await
    }

    /// The largest offset whose entry was deleted, and the end of the log.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn bounds(&self) -> Result<(u64, u64), StoreError> {
        self.log.run(|connection| Ok((log::pruned(connection)?, log::head(connection)?))).await
    }

    /// How far a receiver of findings has been told; none if it is new.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn place(&self, receiver: String) -> Result<Option<Place>, StoreError> {
        self.log.run(move |connection| deliveries::place(connection, &receiver)).await
    }

    /// A receiver's oldest delivery that is on its way.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn undelivered(&self, receiver: String) -> Result<Option<Delivery>, StoreError> {
        self.log.run(move |connection| deliveries::oldest(connection, &receiver)).await
    }

    /// A receiver's newest dead letters without their bodies, at most `limit`;
    /// with `number` only that one, whole.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn dead(
        &self,
        receiver: String,
        number: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.log
            .run(move |connection| deliveries::letters(connection, &receiver, number, limit))
            .await
    }

    /// How many dead letters each receiver has.
    ///
    /// # Errors
    ///
    /// It takes too long, or the file can't be read.
    pub async fn dead_letters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.log.run(deliveries::dead).await
    }

    /// Closes what is open and answers no more, so that the writers can tidy up
    /// as the last to leave.
    pub(super) fn close(&self) {
        for readers in [&self.history, &self.log] {
            readers.permits.close();
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    async fn entries(
        &self,
        select: &'static str,
        channel: LogChannel,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let (from, limit) = (from.min(i64::MAX as u64), limit.min(ENTRIES_MAX));
        let read = move |connection: &Connection| {
            connection
                .prepare_cached(select)?
                .query_map(params![channel.as_str(), from, limit], |row| logged(channel, row))?
                .collect()
        };
        self.log.run(read).await
    }
}

/// The connections that read one file: opened when they are first needed, kept
/// for the next read.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let permits = Arc::new(Semaphore::new(READERS_MAX));
        Self { path: Arc::new(path), idle: Arc::default(), permits }
    }

    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit =
            self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Stopping)?;
        let readers = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let answer = readers.read(act).map_err(|error| database::explain(&readers.path, error));
            drop(permit);
            answer
        });
        read.await.map_err(|_| StoreError::Stopping)?
    }

    fn read<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => database::open(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let deadline = Instant::now() + READ_MAX;
        connection.busy_timeout(READ_MAX)?;
        connection
            .progress_handler(INSTRUCTIONS_PER_LOOK, Some(move || Instant::now() >= deadline))?;
        let answer = act(&connection)?;
        // One that failed is closed instead.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }
}
