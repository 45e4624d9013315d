//! The writer of `log.db`: entries, numbered in the transaction that writes
//! them, told only after it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::boards::{self, Change, Decided, Totals};
use super::database::Database;
use super::deliveries::{self, DeliveryChange};
use super::retention::Retention;
use super::{Complaints, Counters};
use crate::clock::Clock;
use crate::model::{
    Changed, Clash, Entry, Finding, FindingState, LogChannel, Logged, Receipt, Route,
};

/// How many entries go into one transaction.
pub(super) const BATCH_MAX: usize = 256;
/// How long the receipt of an event with an idempotency key is kept …
pub(super) const RECEIPT_AGE_MS: u64 = 24 * 60 * 60 * 1000;
/// … and how many are at most: some 250 MB. Of more the oldest go sooner.
pub(super) const RECEIPTS_MAX: u64 = 1_000_000;
/// Receipts that are deleted by one commit; it writes at most half as many.
const RECEIPTS_AT_ONCE: usize = 2 * BATCH_MAX;
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
    let head = connection.prepare_cached(head)?.query_row([], |row| row.get(0)).optional()?;
    Ok(head.unwrap_or(0))
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
             (SELECT offset FROM entries ORDER BY offset LIMIT ?2) RETURNING offset, route",
    )?;
    let deleted = delete.query_map([before_ms, limit.into()], |row| Ok((row.get(0)?, row.get(1)?)));
    let deleted = deleted?.collect::<rusqlite::Result<Vec<(u64, Option<String>)>>>()?;
    for (offset, route) in &deleted {
        let route = route.as_deref().map(serde_json::from_str::<Route>);
        let Some(Ok(route)) = route else { continue };
        for room in &route.rooms {
            transaction
                .prepare_cached("DELETE FROM entry_rooms WHERE room = ?1 AND offset = ?2")?
                .execute(params![room.as_str(), offset])?;
        }
    }
    if let Some((last, _)) = deleted.iter().max() {
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

/// An event that somebody waits for.
#[derive(Debug)]
pub struct Publication {
    /// The event's own name.
    pub id: String,
    /// What is to be kept; it has a route.
    pub entry: Entry,
    /// Who publishes it under which idempotency key, if it has one.
    pub key: Option<PublicationKey>,
    /// Told what became of it, once that is safe.
    pub done: oneshot::Sender<Result<Receipt, Reused>>,
    /// Its share of the memory for what waits.
    pub room: OwnedSemaphorePermit,
}

/// What makes a publication the same as an earlier one.
#[derive(Debug)]
pub struct PublicationKey {
    /// Whose key it is.
    pub publisher: Arc<str>,
    /// The idempotency key.
    pub key: String,
    /// What is published under it.
    pub fingerprint: [u8; 32],
}

/// The key is that of another publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused;

/// One entry that waits to be written.
#[derive(Debug)]
enum Item {
    Entry(Entry),
    Publication(Box<Publication>),
    Change(Box<Change>),
    Delivery(Box<DeliveryChange>),
}

/// What became of an item in a transaction.
enum Outcome {
    /// It has an offset.
    Written(u64),
    /// An earlier publication was the same; this is what its publisher was told.
    Known(Receipt),
    /// An earlier one with its key was not the same.
    Reused,
    /// A change was made, and is told with this offset.
    Changed(Changed, u64, Entry),
    /// A change was not made: it had been, or it can't be.
    Unchanged(Result<Changed, Clash>),
    /// What was to be kept about deliveries is.
    Kept(u64),
}

/// What the thread owns. Ends when `stop` does, after what is queued.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) entries: mpsc::Receiver<Entry>,
    pub(super) publications: mpsc::Receiver<Publication>,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) deliveries: mpsc::Receiver<DeliveryChange>,
    /// How many bytes all boards may have together.
    pub(super) boards_bytes_max: u64,
    pub(super) logged: mpsc::Sender<Vec<Arc<Logged>>>,
    /// The offset of the newest finding since the start.
    pub(super) found: watch::Sender<u64>,
    pub(super) stop: watch::Receiver<()>,
    pub(super) retention: Retention,
    pub(super) clock: Clock,
    /// How many receipts there are.
    pub(super) receipts: u64,
    /// Sums over all boards.
    pub(super) totals: Totals,
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
                    self.entries.close();
                    self.publications.close();
                    self.changes.close();
                    self.deliveries.close();
                }
                first = next(
                    &mut self.entries,
                    &mut self.publications,
                    &mut self.changes,
                    &mut self.deliveries,
                ) => {
                    let Some(first) = first else { break };
                    batch.push(first);
                    self.fill(&mut batch);
                    if let Some(committed) = committed
                        && batch.len() < BATCH_MAX
                    {
                        self.gather(committed + GATHER, &mut batch).await;
                    }
                    self.commit(&mut batch).await;
                    committed = Some(Instant::now());
                }
                () = self.retention.due() => {}
            }
            self.retain();
        }
        self.database.close();
    }

    /// Waits, unless the hub is stopping, and takes what has come.
    async fn gather(&mut self, until: Instant, batch: &mut Vec<Item>) {
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = stopped(&mut self.stop) => {}
        }
        self.fill(batch);
    }

    /// Takes what has come, from all queues in turn.
    fn fill(&mut self, batch: &mut Vec<Item>) {
        let mut came = true;
        while came && batch.len() < BATCH_MAX {
            let entry = self.entries.try_recv().ok().map(Item::Entry);
            let publication = self.publications.try_recv().ok();
            let publication = publication.map(|it| Item::Publication(Box::new(it)));
            let change = self.changes.try_recv().ok().map(|it| Item::Change(Box::new(it)));
            let delivery = self.deliveries.try_recv().ok().map(|it| Item::Delivery(Box::new(it)));
            let before = batch.len();
            batch.extend(entry.into_iter().chain(publication).chain(change).chain(delivery));
            came = batch.len() > before;
        }
    }

    /// Tries until it succeeds: entries are never dropped. Only a hub that
    /// stops on a full disk gives up, and says what is lost. Then everybody is
    /// told.
    async fn commit(&mut self, batch: &mut Vec<Item>) {
        let mut pause = RETRY.0;
        loop {
            let begun = Instant::now();
            let stopping = self.stop.has_changed().is_err();
            match self.write(batch) {
                Ok(outcomes) => {
                    let commit_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    self.counters.entries_commit_us.store(commit_us, Ordering::Relaxed);
                    return self.tell(batch, outcomes).await;
                }
                Err(error) if stopping => {
                    self.complaints.last = None;
                    self.complaints.add(&self.counters, &error, "entries are lost");
                    // Who has published one hears that nothing comes any more.
                    return batch.clear();
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

    /// Writes entries in one transaction, and answers what became of each.
    fn write(&mut self, batch: &[Item]) -> rusqlite::Result<Vec<Outcome>> {
        let now_ms = self.clock.now_ms();
        let transaction = self.database.connection.transaction()?;
        let mut outcomes = Vec::with_capacity(batch.len());
        let (mut receipts, mut totals) = (self.receipts, self.totals.clone());
        for item in batch {
            outcomes.push(match item {
                Item::Entry(entry) => Outcome::Written(insert(&transaction, entry)?),
                Item::Publication(publication) => match known(&transaction, publication, now_ms)? {
                    Some(known) => known,
                    None => {
                        let offset = insert(&transaction, &publication.entry)?;
                        if let Some(key) = &publication.key {
                            let receipt = publication.receipt(offset);
                            remember(&transaction, key, now_ms, &receipt)?;
                            receipts += 1;
                        }
                        Outcome::Written(offset)
                    }
                },
                Item::Change(change) => {
                    let bytes_max = self.boards_bytes_max;
                    match boards::apply(&transaction, change, &mut totals, bytes_max, now_ms)? {
                        Decided::Made(changed, entry) => {
                            let offset = insert(&transaction, &entry)?;
                            Outcome::Changed(changed, offset, entry)
                        }
                        Decided::Repeated(changed) => Outcome::Unchanged(Ok(changed)),
                        Decided::Clashed(clash) => Outcome::Unchanged(Err(clash)),
                    }
                }
                Item::Delivery(change) => {
                    Outcome::Kept(deliveries::apply(&transaction, &change.act)?)
                }
            });
        }
        if receipts > self.receipts {
            receipts -= forget(&transaction, now_ms, receipts)?;
        }
        if totals.operations > self.totals.operations {
            boards::forget_operations(&transaction, now_ms, &mut totals)?;
        }
        if totals != self.totals {
            totals.write(&transaction)?;
        }
        transaction.commit()?;
        self.receipts = receipts;
        self.totals = totals;
        Ok(outcomes)
    }

    /// Tells the publishers, and who listens. Waits for room there, unless the
    /// hub is stopping; without anybody who listens the entries are kept all
    /// the same. Who has made a change, or could not, is told last: what it asks
    /// the channels then is answered by what it was told.
    async fn tell(&mut self, batch: &mut Vec<Item>, outcomes: Vec<Outcome>) {
        let mut logged = Vec::with_capacity(batch.len());
        // Given back when all that is written is on its way.
        let mut rooms = Vec::new();
        let mut changed = Vec::new();
        for (item, outcome) in batch.drain(..).zip(outcomes) {
            match item {
                Item::Entry(entry) => {
                    if let Outcome::Written(offset) = outcome {
                        logged.push(Arc::new(Logged::new(offset, entry)));
                    }
                }
                Item::Change(change) => {
                    let told = match outcome {
                        Outcome::Changed(changed, offset, entry) => {
                            logged.push(Arc::new(Logged::new(offset, entry)));
                            rooms.push(change.room);
                            Ok((changed, false))
                        }
                        Outcome::Unchanged(outcome) => outcome.map(|changed| (changed, true)),
                        // No other outcome is a change's.
                        _ => continue,
                    };
                    changed.push((change.done, told));
                }
                Item::Delivery(change) => {
                    if let Outcome::Kept(answer) = outcome {
                        // An error means that its receiver's task has gone.
                        let _ = change.done.send(answer);
                    }
                }
                Item::Publication(publication) => {
                    let told = match &outcome {
                        Outcome::Written(offset) => Ok(publication.receipt(*offset)),
                        Outcome::Known(receipt) => Ok(receipt.clone()),
                        _ => Err(Reused),
                    };
                    let Publication { entry, done, room, .. } = *publication;
                    if let Outcome::Written(offset) = outcome {
                        logged.push(Arc::new(Logged::new(offset, entry)));
                        rooms.push(room);
                    }
                    // An error means that the publisher has gone.
                    let _ = done.send(told);
                }
            }
        }
        self.counters.entries_written.fetch_add(logged.len() as u64, Ordering::Relaxed);
        self.counters.count_boards(&self.totals);
        let found = logged.iter().rev().find(|it| it.entry.channel == LogChannel::Findings);
        if let Some(found) = found {
            self.found.send_replace(found.offset);
        }
        if !logged.is_empty() {
            let space = tokio::select! {
                biased;
                space = self.logged.reserve() => space.ok(),
                () = stopped(&mut self.stop) => None,
            };
            if let Some(space) = space {
                space.send(logged);
            }
        }
        for (done, told) in changed {
            // An error means that its client has gone.
            let _ = done.send(told);
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

impl Publication {
    fn receipt(&self, offset: u64) -> Receipt {
        let rooms = self.entry.rooms().iter().map(|room| room.as_str().to_owned()).collect();
        Receipt { id: self.id.clone(), offset, rooms }
    }
}

/// The next of what waits; `None` when all queues have ended.
async fn next(
    entries: &mut mpsc::Receiver<Entry>,
    publications: &mut mpsc::Receiver<Publication>,
    changes: &mut mpsc::Receiver<Change>,
    deliveries: &mut mpsc::Receiver<DeliveryChange>,
) -> Option<Item> {
    tokio::select! {
        Some(entry) = entries.recv() => Some(Item::Entry(entry)),
        Some(publication) = publications.recv() => Some(Item::Publication(Box::new(publication))),
        Some(change) = changes.recv() => Some(Item::Change(Box::new(change))),
        Some(change) = deliveries.recv() => Some(Item::Delivery(Box::new(change))),
        else => None,
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

/// Writes an entry, and answers its offset.
fn insert(transaction: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<u64> {
    let body = entry.body.get();
    let route = entry.route.as_ref().map(|route| json(&**route)).transpose()?;
    transaction
        .prepare_cached(
            "INSERT INTO entries (time_ms, channel, body, route) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            entry.time_ms.min(i64::MAX as u64),
            entry.channel.as_str(),
            body,
            route
        ])?;
    let offset = u64::try_from(transaction.last_insert_rowid()).unwrap_or(0);
    for room in entry.rooms() {
        transaction
            .prepare_cached("INSERT INTO entry_rooms VALUES (?1, ?2)")?
            .execute(params![room.as_str(), offset])?;
    }
    let is_finding = matches!(entry.channel, LogChannel::Findings | LogChannel::Shadow);
    let standing = is_finding.then(|| serde_json::from_str(body));
    let Some(Ok(Standing { id, state })) = standing else { return Ok(offset) };
    match state {
        FindingState::Open => transaction
            .prepare_cached("INSERT OR REPLACE INTO open_findings VALUES (?1, ?2)")?
            .execute([&*id, body])?,
        FindingState::Close => {
            transaction.prepare_cached("DELETE FROM open_findings WHERE id = ?1")?.execute([id])?
        }
    };
    Ok(offset)
}

/// What became of an earlier publication with the same key, if there was one
/// within a day.
fn known(
    transaction: &Transaction<'_>,
    publication: &Publication,
    now_ms: u64,
) -> rusqlite::Result<Option<Outcome>> {
    let Some(PublicationKey { publisher, key, fingerprint }) = &publication.key else {
        return Ok(None);
    };
    let mut select = transaction.prepare_cached(
        "SELECT fingerprint, receipt FROM receipts
         WHERE publisher = ?1 AND key = ?2 AND time_ms > ?3",
    )?;
    let found = select
        .query_row(params![publisher, key, now_ms.saturating_sub(RECEIPT_AGE_MS)], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?))
        });
    Ok(match found.optional()? {
        None => None,
        Some((other, _)) if other != fingerprint => Some(Outcome::Reused),
        // What was written here can be read.
        Some((_, receipt)) => serde_json::from_str(&receipt).ok().map(Outcome::Known),
    })
}

/// Keeps what the publisher of a key is told.
fn remember(
    transaction: &Transaction<'_>,
    key: &PublicationKey,
    now_ms: u64,
    receipt: &Receipt,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO receipts VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![key.publisher, key.key, now_ms, &key.fingerprint[..], json(receipt)?])?;
    Ok(())
}

/// Deletes receipts that are too old, or too many; how many it were.
fn forget(transaction: &Transaction<'_>, now_ms: u64, there_are: u64) -> rusqlite::Result<u64> {
    let old = transaction
        .prepare_cached(
            "DELETE FROM receipts WHERE (publisher, key) IN (
                 SELECT publisher, key FROM receipts INDEXED BY receipts_by_time
                 WHERE time_ms <= ?1 ORDER BY time_ms LIMIT ?2
             )",
        )?
        .execute(params![now_ms.saturating_sub(RECEIPT_AGE_MS), RECEIPTS_AT_ONCE])?;
    let left = there_are.saturating_sub(old as u64);
    let too_many = left.saturating_sub(RECEIPTS_MAX);
    if too_many == 0 {
        return Ok(old as u64);
    }
    let oldest = transaction
        .prepare_cached(
            "DELETE FROM receipts WHERE (publisher, key) IN (
                 SELECT publisher, key FROM receipts ORDER BY time_ms LIMIT ?1
             )",
        )?
        .execute([too_many])?;
    Ok((old + oldest) as u64)
}

/// How many receipts there are.
pub(super) fn receipts(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM receipts", [], |row| row.get(0))
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
