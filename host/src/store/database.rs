//! One file: how it is opened, and which versions it has been through.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::StoreError;

/// How long a writer waits for a lock. Only another program can hold one.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What a file is for.
#[derive(Debug)]
pub(super) struct Design {
    pub(super) name: &'static str,
    /// NORMAL outlives a crash of the hub, FULL one of the machine too: in WAL
    /// mode only FULL syncs each commit.
    pub(super) synchronous: &'static str,
    /// The steps from an empty file to today's schema. Only ever added to: a
    /// file's version is how many of them it has been through.
    pub(super) migrations: &'static [&'static str],
}

/// Samples in the order of their ticks, since they are written in that order:
/// by series first, a tick of 1,000 samples costs twenty times as much. `ticks`
/// lets a read skip from tick to tick without seeing the other series.
///
/// The second step: `anomalies` says which samples were odd. They are few, and a
/// column of `samples` would have to be written again when a detector has judged.
pub(super) const HISTORY: Design = Design {
    name: "history.db",
    synchronous: "NORMAL",
    migrations: &[
        "
        CREATE TABLE series (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            plugin TEXT NOT NULL,
            name TEXT NOT NULL,
            labels TEXT NOT NULL,
            kind TEXT NOT NULL,
            unit TEXT NOT NULL,
            description TEXT NOT NULL,
            UNIQUE (plugin, name, labels)
        );
        CREATE TABLE samples (
            ts INTEGER NOT NULL,
            series INTEGER NOT NULL,
            value REAL NOT NULL,
            PRIMARY KEY (ts, series)
        ) WITHOUT ROWID;
        CREATE TABLE ticks (ts INTEGER PRIMARY KEY);
        CREATE TABLE last_tick (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            number INTEGER NOT NULL,
            time_ns INTEGER NOT NULL
        );
    ",
        "
        CREATE TABLE anomalies (
            ts INTEGER NOT NULL,
            series INTEGER NOT NULL,
            PRIMARY KEY (ts, series)
        ) WITHOUT ROWID;
    ",
    ],
};

/// Entries, and those findings that are open, kept in the same transaction: an
/// entry may age away while its finding is still open.
///
/// The second step: `pruned` in `meta` is the largest offset ever deleted. In a
/// file from before it that is the largest one that is missing, since a number
/// is given only together with its entry. The index holds the offsets of each
/// channel in order; without it a read of one channel sorts all of it.
///
/// The third: `route` says where an event goes, as JSON, and `entry_rooms` holds
/// the offsets of each room in order. `receipts` is what the publishers of
/// events with an idempotency key were told.
///
/// The fourth: boards. `objects` is what stands on them, with what is left of
/// what was deleted; `object_versions` is what stood there before, oldest first;
/// `operations` is what became of each change that had an id. In `boards`,
/// `floor` and `forgotten` are the latest revision and the highest version of
/// what was deleted there and is forgotten, in `board_totals` of boards that are
/// forgotten; sums are kept, so that no change has to count.
///
/// The fifth: who is told of findings. `receivers` and `receiver_groups` are how
/// far each has been told, `deliveries` what is on its way to it or was given up.
pub(super) const LOG: Design = Design {
    name: "log.db",
    synchronous: "FULL",
    migrations: &[
        "
        CREATE TABLE entries (
            offset INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ms INTEGER NOT NULL,
            channel TEXT NOT NULL,
            body TEXT NOT NULL
        );
        CREATE INDEX entries_by_time ON entries (channel, time_ms);
        CREATE TABLE open_findings (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    ",
        "
        CREATE INDEX entries_by_channel ON entries (channel);
        INSERT INTO meta SELECT 'pruned', CASE
            WHEN newest < head THEN head
            ELSE coalesce((
                SELECT offset - 1 FROM entries AS entry
                WHERE NOT EXISTS (SELECT 1 FROM entries WHERE offset = entry.offset - 1)
                ORDER BY offset DESC LIMIT 1
            ), 0)
        END
        FROM (SELECT
            coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'entries'), 0) AS head,
            coalesce((SELECT max(offset) FROM entries), 0) AS newest
        );
    ",
        "
        ALTER TABLE entries ADD COLUMN route TEXT;
        CREATE TABLE entry_rooms (
            room TEXT NOT NULL,
            offset INTEGER NOT NULL,
            PRIMARY KEY (room, offset)
        ) WITHOUT ROWID;
        CREATE TABLE receipts (
            publisher TEXT NOT NULL,
            key TEXT NOT NULL,
            time_ms INTEGER NOT NULL,
            fingerprint BLOB NOT NULL,
            receipt TEXT NOT NULL,
            PRIMARY KEY (publisher, key)
        ) WITHOUT ROWID;
        CREATE INDEX receipts_by_time ON receipts (time_ms);
    ",
        "
        CREATE TABLE boards (
            board INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            revision INTEGER NOT NULL,
            floor INTEGER NOT NULL,
            forgotten INTEGER NOT NULL,
            objects INTEGER NOT NULL,
            gone INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            offset INTEGER NOT NULL
        );
        CREATE INDEX boards_empty ON boards (offset) WHERE objects = 0;
        CREATE TABLE objects (
            board INTEGER NOT NULL,
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            version INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            time_ms INTEGER NOT NULL,
            user TEXT NOT NULL,
            data TEXT,
            UNIQUE (board, kind, id)
        );
        CREATE INDEX objects_gone ON objects (board, revision, kind, id) WHERE data IS NULL;
        CREATE TABLE object_versions (
            number INTEGER PRIMARY KEY,
            board INTEGER NOT NULL,
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            version INTEGER NOT NULL,
            revision INTEGER NOT NULL,
            time_ms INTEGER NOT NULL,
            user TEXT NOT NULL,
            cost INTEGER NOT NULL,
            data TEXT,
            UNIQUE (board, kind, id, version)
        );
        CREATE TABLE operations (
            board TEXT NOT NULL,
            id TEXT NOT NULL,
            time_ms INTEGER NOT NULL,
            fingerprint BLOB NOT NULL,
            changed TEXT NOT NULL,
            PRIMARY KEY (board, id)
        ) WITHOUT ROWID;
        CREATE INDEX operations_by_time ON operations (time_ms);
        CREATE TABLE board_totals (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            boards INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            cost_before INTEGER NOT NULL,
            operations INTEGER NOT NULL,
            floor INTEGER NOT NULL,
            forgotten INTEGER NOT NULL
        );
        INSERT INTO board_totals VALUES (1, 0, 0, 0, 0, 0, 0);
    ",
        "
        CREATE TABLE receivers (
            receiver TEXT PRIMARY KEY,
            offset INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE receiver_groups (
            receiver TEXT NOT NULL,
            name TEXT NOT NULL,
            offset INTEGER NOT NULL,
            PRIMARY KEY (receiver, name)
        ) WITHOUT ROWID;
        CREATE TABLE deliveries (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            receiver TEXT NOT NULL,
            id TEXT NOT NULL,
            time_ms INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            dead TEXT,
            findings INTEGER NOT NULL,
            body TEXT NOT NULL
        );
        CREATE INDEX deliveries_by_receiver ON deliveries (receiver, number);
    ",
    ],
};

/// A file, open for writing.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

impl Database {
    /// Opens the file, creates it if it is missing, and brings it to today's
    /// version.
    pub(super) fn open(folder: &Path, design: &Design) -> Result<Self, StoreError> {
        let path = folder.join(design.name);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let opened = open(&path, flags).and_then(|mut connection| {
            let version = prepare(&mut connection, design)?;
            Ok((connection, version))
        });
        let ours = design.migrations.len();
        match opened {
            Ok((connection, version)) if version <= ours => Ok(Self { path, connection }),
            Ok((_, version)) => Err(StoreError::Newer {
                path,
                version: u32::try_from(version).unwrap_or(u32::MAX),
                ours: u32::try_from(ours).unwrap_or(u32::MAX),
            }),
            Err(error) => Err(explain(&path, error)),
        }
    }

    /// Reads what a writer must know before it starts.
    pub(super) fn read<T>(
        &self,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        act(&self.connection).map_err(|error| explain(&self.path, error))
    }

    /// Moves the whole WAL into the file, so that the next start has nothing to
    /// recover. What a reader holds back, the next start does.
    pub(super) fn close(self) {
        let truncate = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = truncate {
            tracing::debug!(file = %self.path.display(), %error, "the WAL stays");
        }
    }
}

/// Opens a connection, for writing or reading.
pub(super) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // Absolute, since this build of SQLite reads a name that begins with
    // `file:` as an address, with options.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// What SQLite says, with the file and what mends it.
pub(super) fn explain(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path, source }
        }
        Some(ErrorCode::OperationInterrupted) => StoreError::TooSlow,
        _ => StoreError::Sqlite { path, source },
    }
}

/// Sets the connection up and brings the file to today's version. Answers the
/// version it has then, which is above today's if a newer hub has written it;
/// such a file is left as it is.
fn prepare(connection: &mut Connection, design: &Design) -> rusqlite::Result<usize> {
    connection.busy_timeout(LOCK_WAIT)?;
    let version = |c: &Connection| c.query_row("PRAGMA user_version", [], |row| row.get(0));
    let found: usize = version(connection)?;
    if found > design.migrations.len() {
        return Ok(found);
    }
    // Before the first table and before the WAL, or it has no effect.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", design.synchronous)?;
    // What a long read or a burst made the WAL grow to is given back.
    connection.query_row("PRAGMA journal_size_limit = 16777216", [], |_| Ok(()))?;

    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in &design.migrations[version(&transaction)?..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", design.migrations.len())?;
    transaction.commit()?;
    Ok(design.migrations.len())
}
