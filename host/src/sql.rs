//! Read-only queries on the SQLite databases that a plugin is granted.
//!
//! Nothing here writes, and nothing outlives a query but an idle connection:
//! each statement is compiled, read and finalised before its answer is given.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, ErrorCode, OpenFlags, Statement, ToSql};

#[cfg(test)]
mod tests;

/// How long a query may take: opening, waiting for locks and reading.
pub const QUERY_MAX: Duration = Duration::from_millis(50);
/// The most rows that a query answers.
pub const ROWS_MAX: usize = 10_000;
/// The most bytes that a query answers: those of texts and blobs, and 16 for
/// each value.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

const VALUE_BYTES: usize = 16;

/// How many instructions SQLite runs between two looks at the time. Few, since
/// one instruction may copy a value of 1 MiB; a look costs about as much as
/// one instruction.
const INSTRUCTIONS_PER_LOOK: i32 = 100;

/// What a statement may use up. SQLite's own defaults are made for those who
/// trust their statements.
const LIMITS: [(Limit, i32); 8] = [
    (Limit::SQLITE_LIMIT_LENGTH, 1 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// A value of a column or of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text. What wasn't UTF-8 in the database has been replaced by U+FFFD.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The values, row after row.
    pub values: Vec<Value>,
    /// There were more rows than the limits let through; these are the first.
    pub truncated: bool,
}

/// Why a query was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The settings don't grant this database: the line to add to them.
    #[error("{0}")]
    Denied(String),
    /// The database can't be read now.
    #[error("{0}")]
    Unavailable(String),
    /// The statement is wrong, or isn't a single SELECT.
    #[error("{0}")]
    Statement(String),
    /// It took longer than [`QUERY_MAX`].
    #[error("the query took longer than {} ms", QUERY_MAX.as_millis())]
    Timeout,
}

/// The databases that one plugin is granted. Each keeps a connection open from
/// its first query on, until its file changes or fails.
#[derive(Debug)]
pub struct Databases {
    grants: BTreeMap<String, PathBuf>,
    open: HashMap<String, Database>,
}

impl Databases {
    /// The databases of a plugin, by the names that it knows them by.
    #[must_use]
    pub fn new(grants: BTreeMap<String, PathBuf>) -> Self {
        Self { grants, open: HashMap::new() }
    }

    /// Runs one SELECT, with `?1`, `?2`, … bound to `parameters`. Blocks for up
    /// to [`QUERY_MAX`], and longer only while SQLite is inside one function
    /// call on values near [`ANSWER_BYTES_MAX`], which can't be interrupted.
    ///
    /// # Errors
    ///
    /// [`SqlError`], with words that say what mends it.
    pub fn query(
        &mut self,
        database: &str,
        statement: &str,
        parameters: Vec<Value>,
    ) -> Result<Rows, SqlError> {
        let deadline = Instant::now() + QUERY_MAX;
        let Some(path) = self.grants.get(database) else {
            return Err(SqlError::Denied(line_to_add(database)));
        };
        let identity = Identity::of(path)?;
        // Out of the map while it runs: what fails is not put back, and the
        // next query opens anew.
        let mut kept = match self.open.remove(database) {
            Some(kept) if kept.identity == identity => kept,
            _ => Database::open(path, identity).map_err(|error| explain(path, error))?,
        };
        let answer = kept.query(deadline, statement, parameters).map_err(|e| explain(path, e));
        if !matches!(answer, Err(SqlError::Unavailable(_))) {
            self.open.insert(database.to_owned(), kept);
        }
        answer
    }
}

fn line_to_add(database: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !database.is_empty() && database.chars().all(bare) {
        format!("[grant] sql = {{ {database} = \"/path/to/file.db\" }}")
    } else {
        format!("[grant] sql = {{ {database:?} = \"/path/to/file.db\" }}")
    }
}

/// What tells whether a file is still the one that was opened. Size and time
/// belong to it since SQLite can't tell a file that was overwritten in place
/// when both have seen the same number of changes.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(path: &Path) -> Result<Self, SqlError> {
        let unavailable = |why: String| SqlError::Unavailable(format!("{}: {why}", path.display()));
        let file: Metadata = std::fs::metadata(path).map_err(|e| unavailable(e.to_string()))?;
        if !file.is_file() {
            return Err(unavailable("it is not a file".to_owned()));
        }
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// An open connection, and the file that it was opened on.
#[derive(Debug)]
struct Database {
    identity: Identity,
    connection: Connection,
    /// The statement is compiled and runs: see [`authorize`].
    running: Arc<AtomicBool>,
}

impl Database {
    fn open(path: &Path, identity: Identity) -> Result<Self, Fault> {
        // Absolute, since this build of SQLite reads a name that begins with
        // `file:` as an address, with options.
        let path = std::path::absolute(path).map_err(|e| Fault::Statement(e.to_string()))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        for (limit, most) in LIMITS {
            connection.set_limit(limit, most)?;
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let running = Arc::new(AtomicBool::new(false));
        let phase = running.clone();
        let hook =
            move |asked: AuthContext<'_>| authorize(asked.action, phase.load(Ordering::Relaxed));
        connection.authorizer(Some(hook))?;
        Ok(Self { identity, connection, running })
    }

    fn query(
        &mut self,
        deadline: Instant,
        statement: &str,
        parameters: Vec<Value>,
    ) -> Result<Rows, Fault> {
        self.connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let late = move || Instant::now() >= deadline;
        self.connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(late))?;
        self.running.store(false, Ordering::Relaxed);
        let mut select = compile(&self.connection, statement)?;
        bind(&mut select, parameters)?;
        self.running.store(true, Ordering::Relaxed);
        fetch(&mut select)
    }
}

/// What a statement may do. Full-text tables ask for `data_version` while they
/// are being read; a statement of the plugin's own may not be a PRAGMA.
fn authorize(action: AuthAction<'_>, running: bool) -> Authorization {
    match action {
        AuthAction::Function { function_name: "load_extension" | "fts3_tokenizer" } => {
            Authorization::Deny
        }
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Pragma { pragma_name: "data_version", pragma_value: None } if running => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// Compiles the one SELECT that `statement` is. Not with `prepare`, which
/// compiles what follows by calling itself: a thousand statements in a row
/// would use up the stack.
fn compile<'c>(connection: &'c Connection, statement: &str) -> Result<Statement<'c>, Fault> {
    use rusqlite::fallible_iterator::FallibleIterator;
    let mut batch = Batch::new(connection, statement);
    let not_one = || Fault::Statement("the statement is not one SELECT".to_owned());
    let select = batch.next()?.ok_or_else(not_one)?;
    let alone = batch.next().map_err(|_| not_one())?.is_none();
    // What the authorizer isn't asked about, such as a REINDEX with nothing to
    // do, has no columns.
    let reads = select.readonly() && select.column_count() > 0 && select.is_explain() == 0;
    if alone && reads { Ok(select) } else { Err(not_one()) }
}

fn bind(select: &mut Statement<'_>, parameters: Vec<Value>) -> Result<(), Fault> {
    let (want, have) = (select.parameter_count(), parameters.len());
    if want != have {
        return Err(Fault::Statement(format!("the statement has {want} parameters, not {have}")));
    }
    for (at, parameter) in parameters.into_iter().enumerate() {
        select.raw_bind_parameter(at + 1, parameter)?;
    }
    Ok(())
}

fn fetch(select: &mut Statement<'_>) -> Result<Rows, Fault> {
    let columns: Vec<String> = select.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let mut answer = Rows { columns, ..Rows::default() };
    let mut bytes = 0;
    let mut rows = select.raw_query();
    while let Some(row) = rows.next()? {
        let whole = answer.values.len();
        for at in 0..width {
            let value = Value::from(row.get_ref(at)?);
            bytes += value.bytes();
            answer.values.push(value);
        }
        if whole == ROWS_MAX * width || bytes > ANSWER_BYTES_MAX {
            answer.values.truncate(whole);
            answer.truncated = true;
            break;
        }
    }
    Ok(answer)
}

impl Value {
    fn bytes(&self) -> usize {
        VALUE_BYTES
            + match self {
                Self::Text(text) => text.len(),
                Self::Blob(bytes) => bytes.len(),
                Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What went wrong, before it is told in words.
#[derive(Debug)]
enum Fault {
    Statement(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn explain(path: &Path, fault: Fault) -> SqlError {
    let error = match fault {
        Fault::Statement(words) => return SqlError::Statement(words),
        Fault::Sqlite(error) => error,
    };
    let unavailable = |why: &str| SqlError::Unavailable(format!("{}: {why}", path.display()));
    let words = match &error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(_, Some(words)) => words.clone(),
        other => other.to_string(),
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => SqlError::Timeout,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable("another program has locked it")
        }
        Some(ErrorCode::CannotOpen) => unavailable(&why_not_open(path, &words)),
        Some(
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::PermissionDenied
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory
            | ErrorCode::DiskFull,
        ) => unavailable(&words),
        Some(ErrorCode::AuthorizationForStatementDenied) => SqlError::Statement(format!(
            "only a SELECT may run here, without PRAGMA or extensions: {words}"
        )),
        _ => SqlError::Statement(words),
    }
}

/// SQLite says the same of a file that it may not read and of one in WAL mode
/// beside which it can't put its index.
fn why_not_open(path: &Path, words: &str) -> String {
    match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        Err(error) => std::io::Error::from(error).to_string(),
        Ok(()) => format!(
            "{words}; if it is in WAL mode, the hub must be able to write to its folder, or \
             another program must have it open"
        ),
    }
}
