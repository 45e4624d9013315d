//! Boards: what stands on them, what stood there before, and the one place
//! where changes of them are decided.
//!
//! A change is looked at on a [`Desk`] first, and written only when all of it
//! can be made: one that can't leaves no trace in the transaction, which it
//! shares with others.

mod desk;

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::log;
use crate::model::{
    Board, Changed, Clash, ConnectionId, Entry, Object, ObjectKey, ObjectKind, Operation, Route,
};
use desk::Desk;

pub(super) use desk::BEFORE_FACTOR;

/// How long it is kept what became of a change with an id: a client that was
/// away for a holiday sends what it had not sent yet.
pub(super) const OPERATION_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How many of them are at most: some 200 MB. Of more the oldest go sooner.
pub(super) const OPERATIONS_KEPT_MAX: u64 = 1_000_000;
/// Operations that are deleted by one commit; it writes at most half as many.
const OPERATIONS_AT_ONCE: usize = 2 * log::BATCH_MAX;

/// What the entry of a change is an event of.
pub const CHANGED: &str = "layouts.changed";

/// A change of a board that somebody waits for.
#[derive(Debug)]
pub struct Change {
    /// Of which board.
    pub board: Board,
    /// What is done, all of it or nothing.
    pub operations: Vec<Operation>,
    /// Its client's name for it, under which it is made once.
    pub key: Option<OperationKey>,
    /// The name of the event that tells it.
    pub event: String,
    /// What others are told was done.
    pub told: Box<RawValue>,
    /// Who does it.
    pub user: Arc<str>,
    /// The connection that is not told.
    pub exclude: Option<ConnectionId>,
    /// When: wall time in milliseconds.
    pub time_ms: u64,
    /// Told what became of it, once that is safe and on its way to the channels;
    /// true: it had been made before, and was not made again.
    pub done: oneshot::Sender<Result<(Changed, bool), Clash>>,
    /// Its share of the memory for what waits.
    pub room: OwnedSemaphorePermit,
}

/// What makes a change the same as an earlier one of its board.
#[derive(Debug)]
pub struct OperationKey {
    /// The client's id for it.
    pub id: String,
    /// What is done under it.
    pub fingerprint: [u8; 32],
}

/// What becomes of a change in a transaction.
#[derive(Debug)]
pub(super) enum Decided {
    /// It is made, and others are to be told this.
    Made(Changed, Entry),
    /// It had been made before.
    Repeated(Changed),
    /// It can't be made; nothing was written.
    Clashed(Clash),
}

/// Sums over all boards, and what is known of forgotten ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// How many boards there are.
    pub(super) boards: u64,
    /// Bytes that what stands on them costs.
    pub(super) cost: u64,
    /// Bytes that what stood there before costs.
    pub(super) cost_before: u64,
    /// Operations that are remembered.
    pub(super) operations: u64,
    /// The latest revision of any board that is forgotten …
    floor: u64,
    /// … and the highest version of what was on it: a board of its name goes on
    /// from there.
    forgotten: u64,
}

impl Totals {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let select = "SELECT boards, cost, cost_before, operations, floor, forgotten
                      FROM board_totals";
        connection.query_row(select, [], |row| {
            Ok(Self {
                boards: row.get(0)?,
                cost: row.get(1)?,
                cost_before: row.get(2)?,
                operations: row.get(3)?,
                floor: row.get(4)?,
                forgotten: row.get(5)?,
            })
        })
    }

    /// What stood somewhere before is deleted.
    fn free_before(&mut self, cost: u64) {
        self.cost_before = self.cost_before.saturating_sub(cost);
    }

    pub(super) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let Self { boards, cost, cost_before, operations, floor, forgotten } = self;
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO board_totals VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![boards, cost, cost_before, operations, floor, forgotten])?;
        Ok(())
    }
}

/// Why a change stops half way.
enum Halt {
    /// It can't be made.
    Clash(Clash),
    /// The file can't be read or written.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Halt {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Decides a change, and makes it. An error says that the file can't be read or
/// written: whatever a client sends, the answer is a clash.
pub(super) fn apply(
    transaction: &Transaction<'_>,
    change: &Change,
    totals: &mut Totals,
    bytes_max: u64,
    now_ms: u64,
) -> rusqlite::Result<Decided> {
    if let Some(decided) = earlier(transaction, change, now_ms)? {
        return Ok(decided);
    }
    match make(transaction, change, totals, bytes_max) {
        Ok((changed, entry)) => {
            if let Some(key) = &change.key {
                let replaced = remember(transaction, &change.board, key, now_ms, &changed)?;
                totals.operations = (totals.operations + 1).saturating_sub(replaced);
            }
            Ok(Decided::Made(changed, entry))
        }
        Err(Halt::Clash(clash)) => Ok(Decided::Clashed(clash)),
        Err(Halt::Sqlite(error)) => Err(error),
    }
}

fn make(
    transaction: &Transaction<'_>,
    change: &Change,
    totals: &mut Totals,
    bytes_max: u64,
) -> Result<(Changed, Entry), Halt> {
    let Change { board, operations, .. } = change;
    let mut desk = Desk::open(transaction, board, totals)?;
    let mut versions = Vec::with_capacity(operations.len());
    for (at, operation) in operations.iter().enumerate() {
        versions.push((operation.key.clone(), desk.take(at, operation)?));
    }
    desk.check(totals, bytes_max)?;
    let entry = entry(change, desk.revision(), &desk.touched())
        .map_err(|error| Halt::Clash(Clash::Full(error.to_string())))?;
    let revision = desk.write(change, totals, bytes_max)?;
    Ok((Changed { revision, versions }, entry))
}

/// What the board's clients are told, and what the feed of the channels is kept
/// up by.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    source: &'a str,
    data: ToldData<'a>,
}

#[derive(Serialize)]
struct ToldData<'a> {
    board: &'a str,
    revision: u64,
    objects: &'a [&'a Object],
    operation: &'a RawValue,
}

fn entry(change: &Change, revision: u64, objects: &[&Object]) -> Result<Entry, serde_json::Error> {
    let Change { board, told: operation, .. } = change;
    let data = ToldData { board: board.as_str(), revision, objects, operation };
    let told = Told { id: &change.event, kind: CHANGED, source: &change.user, data };
    let route = Route { rooms: vec![board.room().clone()], exclude: change.exclude };
    Entry::event(change.time_ms, route, &told)
}

/// What became of an earlier change of this board with the same id, if there was
/// one lately.
fn earlier(
    transaction: &Transaction<'_>,
    change: &Change,
    now_ms: u64,
) -> rusqlite::Result<Option<Decided>> {
    let Some(OperationKey { id, fingerprint }) = &change.key else { return Ok(None) };
    let mut select = transaction.prepare_cached(
        "SELECT fingerprint, changed FROM operations
         WHERE board = ?1 AND id = ?2 AND time_ms > ?3",
    )?;
    let since = now_ms.saturating_sub(OPERATION_AGE_MS);
    let found = select
        .query_row(params![change.board.as_str(), id, since], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    Ok(match found {
        None => None,
        Some((other, _)) if other != fingerprint => Some(Decided::Clashed(Clash::IdReused)),
        // What was written here can be read.
        Some((_, changed)) => serde_json::from_str(&changed).ok().map(|(revision, versions)| {
            let keys = change.operations.iter().map(|operation| operation.key.clone());
            let versions = keys.zip::<Vec<u64>>(versions).collect();
            Decided::Repeated(Changed { revision, versions })
        }),
    })
}

/// Keeps what became of a change with an id: the numbers only, since what they
/// are of is said again by whoever repeats it. Answers how many with its id had
/// outlived their time, and give way.
fn remember(
    transaction: &Transaction<'_>,
    board: &Board,
    key: &OperationKey,
    now_ms: u64,
    changed: &Changed,
) -> rusqlite::Result<u64> {
    let replaced = transaction
        .prepare_cached("DELETE FROM operations WHERE board = ?1 AND id = ?2")?
        .execute(params![board.as_str(), key.id])?;
    let versions: Vec<u64> = changed.versions.iter().map(|(_, version)| *version).collect();
    transaction.prepare_cached("INSERT INTO operations VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
        params![
            board.as_str(),
            key.id,
            now_ms,
            &key.fingerprint[..],
            log::json(&(changed.revision, versions))?
        ],
    )?;
    Ok(replaced as u64)
}

/// Deletes operations that are too old, or too many.
pub(super) fn forget_operations(
    transaction: &Transaction<'_>,
    now_ms: u64,
    totals: &mut Totals,
) -> rusqlite::Result<()> {
    let old = transaction
        .prepare_cached(
            "DELETE FROM operations WHERE (board, id) IN (
                 SELECT board, id FROM operations INDEXED BY operations_by_time
                 WHERE time_ms <= ?1 ORDER BY time_ms LIMIT ?2
             )",
        )?
        .execute(params![now_ms.saturating_sub(OPERATION_AGE_MS), OPERATIONS_AT_ONCE])?;
    totals.operations = totals.operations.saturating_sub(old as u64);
    let too_many = totals.operations.saturating_sub(OPERATIONS_KEPT_MAX);
    if too_many > 0 {
        let oldest = transaction
            .prepare_cached(
                "DELETE FROM operations WHERE (board, id) IN (
                     SELECT board, id FROM operations ORDER BY time_ms LIMIT ?1
                 )",
            )?
            .execute([too_many])?;
        totals.operations = totals.operations.saturating_sub(oldest as u64);
    }
    Ok(())
}

/// A board as it stands.
#[derive(Clone, Debug, Default)]
pub struct BoardState {
    /// How many changes it has seen.
    pub revision: u64,
    /// What was deleted up to this revision is forgotten: who stopped before it
    /// has to begin anew.
    pub floor: u64,
    /// The entry of its last change.
    pub offset: u64,
    /// Its objects, and what is left of those that were deleted after `floor`.
    pub objects: Vec<Object>,
}

/// All boards, as they stand.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<(Board, BoardState)>> {
    let mut select = connection.prepare(
        "SELECT kind, id, version, objects.revision, data, boards.board, name, boards.revision,
                floor, offset
         FROM boards LEFT JOIN objects ON objects.board = boards.board
         ORDER BY boards.board",
    )?;
    let mut rows = select.query([])?;
    let mut boards: Vec<(Board, BoardState)> = Vec::new();
    let mut last: Option<u64> = None;
    while let Some(row) = rows.next()? {
        let number: u64 = row.get(5)?;
        if last != Some(number) {
            let name = row.get_ref(6)?.as_str()?;
            let Ok(board) = Board::new(name) else {
                tracing::warn!(name, "a board in the log has no board's name");
                continue;
            };
            let (revision, floor, offset) = (row.get(7)?, row.get(8)?, row.get(9)?);
            let state = BoardState { revision, floor, offset, objects: Vec::new() };
            boards.push((board, state));
            last = Some(number);
        }
        let Some((_, state)) = boards.last_mut() else { continue };
        state.objects.extend(stored(row)?);
    }
    Ok(boards)
}

/// A version of an object that is kept.
#[derive(Clone, Debug)]
pub struct ObjectVersion {
    /// The version, its revision, and what it was.
    pub object: Object,
    /// When it was made: wall time in milliseconds.
    pub time_ms: u64,
    /// Who made it.
    pub user: String,
}

/// The versions of an object that are kept, the newest first; with `version`
/// only that one. Without `version` they have no data but an empty object, which
/// tells that it was not deleted.
pub(super) fn versions(
    connection: &Connection,
    board: &Board,
    key: &ObjectKey,
    version: Option<u64>,
) -> rusqlite::Result<Vec<ObjectVersion>> {
    let data = match version {
        Some(_) => "data",
        None => "CASE WHEN data IS NULL THEN NULL ELSE '{}' END",
    };
    let mut select = connection.prepare_cached(&format!(
        "WITH named AS (SELECT board FROM boards WHERE name = ?1)
         SELECT kind, id, version, revision, {data}, time_ms, user FROM objects
         WHERE board = (SELECT board FROM named) AND kind = ?2 AND id = ?3
             AND version = coalesce(?4, version)
         UNION ALL
         SELECT kind, id, version, revision, {data}, time_ms, user FROM object_versions
         WHERE board = (SELECT board FROM named) AND kind = ?2 AND id = ?3
             AND version = coalesce(?4, version)
         ORDER BY version DESC"
    ))?;
    // No version is higher than what the file can hold.
    let version = version.map(|version| i64::try_from(version).unwrap_or(-1));
    let mut rows = select.query(params![board.as_str(), key.kind.as_str(), &*key.id, version])?;
    let mut versions = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(object) = stored(row)? {
            versions.push(ObjectVersion { object, time_ms: row.get(5)?, user: row.get(6)? });
        }
    }
    Ok(versions)
}

/// The object of a row that begins with kind, id, version, revision and data. None
/// if these are NULL. What can't be read, which nothing writes, is told and left
/// out: the log goes on.
fn stored(row: &Row<'_>) -> rusqlite::Result<Option<Object>> {
    let Some(kind) = row.get_ref(0)?.as_str_or_null()? else { return Ok(None) };
    let id: Arc<str> = row.get(1)?;
    let Some(kind) = ObjectKind::from_word(kind) else {
        tracing::warn!(kind, %id, "an object in the log is of an unknown kind");
        return Ok(None);
    };
    let data = row.get::<_, Option<String>>(4)?.map(RawValue::from_string).transpose();
    let data = data.inspect_err(|error| {
        tracing::warn!(%id, %error, "an object in the log can't be read: it counts as deleted");
    });
    Ok(Some(Object {
        key: ObjectKey { kind, id },
        version: row.get(2)?,
        revision: row.get(3)?,
        data: data.unwrap_or_default(),
    }))
}
