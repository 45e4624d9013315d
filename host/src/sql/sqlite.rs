//! Queries on a SQLite database.
//!
//! Nothing here writes, and nothing outlives a query but an idle connection:
//! each statement is compiled, read and finalised before its answer is given.

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

use super::{ANSWER_BYTES_MAX, ROWS_MAX, Rows, STATEMENT_BYTES_MAX, SqlError, Value};

#[cfg(test)]
mod tests;

/// How many instructions SQLite runs between two looks at the time. Few, since
/// one instruction may copy a value of 1 MiB; a look costs about as much as
/// one instruction.
const INSTRUCTIONS_PER_LOOK: i32 = 100;

/// What a statement may use up. SQLite's own defaults are made for those who
/// trust their statements.
const LIMITS: [(Limit, i32); 8] = [
    (Limit::SQLITE_LIMIT_LENGTH, 1 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES_MAX as i32),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// A file that a plugin is granted. It keeps a connection open from the first
/// query on, until the file changes or fails.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    open: Option<Database>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// Runs one SELECT. Blocks for up to `query_max`: opening, waiting for
    /// locks and reading. Longer only while SQLite is inside one function call
    /// on values near [`ANSWER_BYTES_MAX`], which can't be interrupted.
    pub(super) fn query(
        &mut self,
        query_max: Duration,
        statement: &str,
        parameters: Vec<Value>,
    ) -> Result<Rows, SqlError> {
        let deadline = Instant::now() + query_max;
        let Self { path, open } = self;
        let explain = |fault| explain(path, query_max, fault);
        let identity = Identity::of(path)?;
        // Taken out while it runs: what fails is not put back, and the next
        // query opens anew.
        let mut kept = match open.take() {
            Some(kept) if kept.identity == identity => kept,
            _ => Database::open(path, identity).map_err(explain)?,
        };
        let answer = kept.query(deadline, statement, parameters).map_err(explain);
        if !matches!(answer, Err(SqlError::Unavailable(_))) {
            *open = Some(kept);
        }
        answer
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

/// Binds `?1` and `$1` alike to the first parameter. By itself SQLite takes
/// `$1` for a name, and counts names in the order in which they first stand.
fn bind(select: &mut Statement<'_>, parameters: Vec<Value>) -> Result<(), Fault> {
    let numbers: Vec<usize> = (1..=select.parameter_count())
        .map(|at| {
            let name = select.parameter_name(at).and_then(|name| name.strip_prefix('$'));
            name.and_then(|name| name.parse().ok()).unwrap_or(at)
        })
        .collect();
    let (want, have) = (numbers.iter().max().copied().unwrap_or(0), parameters.len());
    if want != have {
        return Err(Fault::Statement(format!("the statement has {want} parameters, not {have}")));
    }
    for (at, number) in numbers.into_iter().enumerate() {
        // `$0` is no parameter, as in PostgreSQL.
        let Some(parameter) = number.checked_sub(1).and_then(|index| parameters.get(index)) else {
            return Err(Fault::Statement("there is no parameter $0".to_owned()));
        };
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

fn explain(path: &Path, query_max: Duration, fault: Fault) -> SqlError {
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
        Some(ErrorCode::OperationInterrupted) => SqlError::Timeout(query_max),
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
