//! Queries on a PostgreSQL database.
//!
//! The server is asked in a read-only transaction that is always rolled back:
//! what a query sets is not there for the next. A statement stands as a subquery
//! of one of ours, which nothing but a SELECT can, and which turns every column
//! into a type that has a value here.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::TryStreamExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::{Config, Host, LoadBalanceHosts, TargetSessionAttrs};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use self::stream::{Budget, Connection};
use super::{ANSWER_BYTES_MAX, ROWS_MAX, Rows, STATEMENT_BYTES_MAX, SqlError, Value};

mod stream;
#[cfg(test)]
mod tests;

/// How long connecting may take, in addition to the query that needs it: the
/// TLS and the proof of the password take some round trips more than a query.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How much longer than the server, which is told to give up by itself, is
/// waited for it to say so. Who is later has its connection closed.
const GRACE: Duration = Duration::from_millis(50);
/// The most bytes that the server may send in answer to one query. An answer of
/// [`ANSWER_BYTES_MAX`] has less than twice as many in PostgreSQL's format.
const RECEIVED_BYTES_MAX: usize = 4 << 20;
/// How many statements are kept prepared: more than a plugin has that is not
/// making them up.
const PREPARED_MAX: usize = 32;
/// How long a statement is kept prepared. Its columns are those of that time:
/// what is added to a table is in `SELECT *` from then on.
const PREPARED_FOR: Duration = Duration::from_secs(60);
/// The most of an error's words that are told, in bytes.
const WORDS_MAX: usize = 1000;

const NOT_ONE_SELECT: &str = "the statement is not one SELECT";

/// What values in text are written by, whatever the role has by default.
const SESSION: &str = "SET default_transaction_read_only = on; SET TimeZone = 'UTC'; \
                       SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'";

/// Where a database is, and who asks it. Neither `Display` nor `Debug` shows
/// the password.
#[derive(Clone, Debug, PartialEq)]
pub struct Address(Config);

impl Address {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| {
            // Of its words only those that name no part of the text.
            let words = error.into_source().map(|why| why.to_string()).unwrap_or_default();
            if words.starts_with("invalid value for option") {
                format!("is no address of a PostgreSQL database: {words}")
            } else {
                "is no address of a PostgreSQL database".to_owned()
            }
        })?;
        let at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        let refused = if config.get_hosts().iter().any(at) {
            "has more than one @: write that of the password as %40"
        } else if config.get_hosts().len() != 1 || !config.get_hostaddrs().is_empty() {
            "names not one host"
        } else if config.get_user().is_none_or(str::is_empty) {
            "names no user"
        } else if config.get_target_session_attrs() != TargetSessionAttrs::Any
            || config.get_load_balance_hosts() != LoadBalanceHosts::Disable
        {
            "is for several hosts (target_session_attrs, load_balance_hosts), and it names one"
        } else {
            if config.get_application_name().is_none() {
                config.application_name("telltale");
            }
            return Ok(Self(config));
        };
        Err(refused.to_owned())
    }

    fn host(&self) -> Option<&Host> {
        self.0.get_hosts().first()
    }

    fn port(&self) -> u16 {
        self.0.get_ports().first().copied().unwrap_or(5432)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.0.get_user().unwrap_or_default();
        let database = self.0.get_dbname().unwrap_or(user);
        match self.host() {
            Some(Host::Tcp(host)) if host.contains(':') => {
                write!(f, "postgres://{user}@[{host}]:{}/{database}", self.port())
            }
            Some(Host::Tcp(host)) => {
                write!(f, "postgres://{user}@{host}:{}/{database}", self.port())
            }
            Some(Host::Unix(folder)) => {
                write!(f, "postgres://{user}@/{database}?host={}", folder.display())
            }
            None => write!(f, "postgres://{user}@/{database}"),
        }
    }
}

/// A database that a plugin is granted, with the connection to it.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    kept: Option<Session>,
}

impl Server {
    pub(super) fn new(address: Address) -> Self {
        Self { address, kept: None }
    }

    /// Runs one SELECT, for up to `query_max` and `patience`.
    pub(super) async fn query(
        &mut self,
        query_max: Duration,
        patience: Duration,
        statement: &str,
        parameters: &[Value],
    ) -> Result<Rows, SqlError> {
        if statement.len() > STATEMENT_BYTES_MAX {
            let words = format!("the statement is longer than {STATEMENT_BYTES_MAX} bytes");
            return Err(SqlError::Statement(words));
        }
        let asked = Asked { statement: bare(statement), parameters, query_max };
        let until = Instant::now() + patience;
        // Taken out while it runs: what fails or is given up is not put back,
        // and the next query connects anew.
        if let Some(session) = self.kept.take() {
            match self.ask(session, &asked, until).await {
                // It went away since it was last asked, and may be back.
                Err(Fault::Gone(_)) => {}
                other => return other.map_err(|fault| self.explain(fault, query_max)),
            }
        }
        let session = Self::connect(&self.address, until).await?;
        let answer = self.ask(session, &asked, until).await;
        answer.map_err(|fault| self.explain(fault, query_max))
    }

    async fn connect(address: &Address, until: Instant) -> Result<Session, SqlError> {
        let budget = Budget::new(RECEIVED_BYTES_MAX);
        let within = CONNECT_MAX.min(until.saturating_duration_since(Instant::now()));
        let connect = async {
            let (client, connection) = stream::connect(address, &budget).await?;
            let mut session = Session { client, connection, budget, prepared: HashMap::new() };
            session.run(SESSION).await.map_err(|fault| fault.words())?;
            Ok(session)
        };
        let why = match timeout(within, connect).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(words)) => words,
            Err(_) => format!("it could not be connected to within {} ms", within.as_millis()),
        };
        Err(SqlError::Unavailable(format!("{address}: {why}")))
    }

    /// Asks, and keeps the session if it can be asked again.
    async fn ask(
        &mut self,
        mut session: Session,
        asked: &Asked<'_>,
        until: Instant,
    ) -> Result<Rows, Fault> {
        session.budget.renew();
        let deadline = Instant::now() + asked.query_max;
        let answer = timeout_at(until.min(deadline + GRACE), session.query(asked, deadline)).await;
        match answer {
            Err(_) => Err(Fault::Timeout),
            // The connection ended because it was made to.
            Ok(Err(Fault::Gone(_))) if session.budget.is_spent() => Err(Fault::TooMuch),
            Ok(Ok((rows, Left::Open))) => {
                self.kept = Some(session);
                Ok(rows)
            }
            Ok(Ok((rows, Left::Ended))) => Ok(rows),
            Ok(Err(fault)) => {
                // The server goes on after an error of a statement's.
                if matches!(fault, Fault::Statement(_) | Fault::Late | Fault::Unavailable(_))
                    && let Ok(Ok(())) = timeout(GRACE, session.run("ROLLBACK")).await
                {
                    self.kept = Some(session);
                }
                Err(fault)
            }
        }
    }

    fn explain(&self, fault: Fault, query_max: Duration) -> SqlError {
        match fault {
            Fault::Timeout | Fault::Late => SqlError::Timeout(query_max),
            Fault::Statement(words) => SqlError::Statement(words),
            Fault::TooMuch => SqlError::Statement(format!(
                "the server's answer has more than {} MiB: ask for less",
                RECEIVED_BYTES_MAX >> 20
            )),
            Fault::Gone(words) | Fault::Unavailable(words) => {
                SqlError::Unavailable(format!("{}: {words}", self.address))
            }
        }
    }
}

/// A statement without what SQLite lets it end with.
fn bare(statement: &str) -> &str {
    statement.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace())
}

/// What is asked.
struct Asked<'a> {
    statement: &'a str,
    parameters: &'a [Value],
    query_max: Duration,
}

/// Whether a session can be asked again.
enum Left {
    Open,
    Ended,
}

/// A connection to the server.
struct Session {
    client: Client,
    /// Reads and writes while it is awaited: see [`drive`].
    connection: Connection,
    budget: Arc<Budget>,
    prepared: HashMap<Key, Prepared>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// What a statement is prepared for: its text, and the types of its parameters.
type Key = (String, Vec<Type>);

#[derive(Clone)]
struct Prepared {
    made: Instant,
    /// The names of the columns.
    columns: Vec<String>,
    select: Statement,
}

impl Session {
    /// Runs statements of our own.
    async fn run(&mut self, statements: &str) -> Result<(), Fault> {
        drive(&mut self.connection, async { Ok(self.client.batch_execute(statements).await?) })
            .await
    }

    async fn query(&mut self, asked: &Asked<'_>, deadline: Instant) -> Result<(Rows, Left), Fault> {
        let Self { client, connection, budget, prepared } = self;
        let work = async {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
            let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {left}");
            client.batch_execute(&begin).await?;
            let types: Vec<Type> = asked.parameters.iter().map(type_of).collect();
            let key = (asked.statement.to_owned(), types);
            prepared.retain(|_, kept| kept.made.elapsed() < PREPARED_FOR);
            let kept = match prepared.remove(&key) {
                Some(kept) => kept,
                None => prepare(client, asked.statement, &key.1).await?,
            };
            let mut rows = Rows { columns: kept.columns.clone(), ..Rows::default() };
            match fetch(client, &kept.select, asked.parameters, &mut rows).await {
                // The first rows are there, and the others were not wanted.
                Err(Fault::Gone(_)) if rows.truncated && budget.is_spent() => {
                    return Ok((rows, Left::Ended));
                }
                fetched => fetched?,
            }
            keep(prepared, key, kept);
            client.batch_execute("ROLLBACK").await?;
            Ok((rows, Left::Open))
        };
        drive(connection, work).await
    }
}

/// Awaits `work` while the connection is read and written. It rests in between,
/// so that no task has to be ended with it.
async fn drive<T>(
    connection: &mut Connection,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let mut work = pin!(work);
    let ended = tokio::select! {
        biased;
        done = &mut work => return done,
        ended = &mut *connection => ended,
    };
    // What came before the end is still there for it, and nothing else comes.
    *connection = Box::pin(std::future::pending());
    let done = work.await;
    match (done, ended) {
        (Err(Fault::Gone(_)), Err(why)) => Err(Fault::from(why)),
        (done, _) => done,
    }
}

/// Keeps a prepared statement, in place of the oldest where there are too many.
fn keep(prepared: &mut HashMap<Key, Prepared>, key: Key, kept: Prepared) {
    if prepared.len() >= PREPARED_MAX
        && let Some((oldest, _)) = prepared.iter().min_by_key(|(_, kept)| kept.made)
    {
        let oldest = oldest.clone();
        prepared.remove(&oldest);
    }
    prepared.insert(key, kept);
}

/// Prepares a statement: by itself, which tells its columns and that it is
/// whole, and then as a subquery. What can be both is one SELECT: no bracket,
/// comment or text of it ends anywhere else than it seems to.
async fn prepare(client: &Client, statement: &str, types: &[Type]) -> Result<Prepared, Fault> {
    let alone = client.prepare_typed(statement, types).await?;
    let (want, have) = (alone.params().len(), types.len());
    if alone.columns().is_empty() {
        return Err(Fault::Statement(NOT_ONE_SELECT.to_owned()));
    }
    if want != have {
        return Err(Fault::Statement(format!("the statement has {want} parameters, not {have}")));
    }
    let select = wrap(statement, alone.columns().iter().map(tokio_postgres::Column::type_));
    let select = client.prepare_typed(&select, types).await;
    let select = select.map_err(|error| match Fault::from(error) {
        Fault::Statement(words) => Fault::Statement(format!("{NOT_ONE_SELECT}: {words}")),
        other => other,
    })?;
    let columns = alone.columns().iter().map(|column| column.name().to_owned()).collect();
    Ok(Prepared { made: Instant::now(), columns, select })
}

/// The statement as a subquery of one that answers no more rows than are
/// wanted, and no other types than those of [`Value`].
fn wrap<'a>(statement: &str, columns: impl Iterator<Item = &'a Type>) -> String {
    let (mut values, mut names) = (String::new(), String::new());
    for (at, of) in columns.enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // Writing into a string can't fail.
        let _ = write!(names, "{comma}c{at}");
        let _ = write!(values, "{comma}{}", cast(&format!("q.c{at}"), of));
    }
    // On lines of its own: it may end with a comment.
    format!("SELECT {values} FROM (\n{statement}\n) AS q ({names}) LIMIT {}", ROWS_MAX + 1)
}

/// A column of type `of`, as an integer, a real, bytes or text.
fn cast(column: &str, of: &Type) -> String {
    match *of {
        Type::BOOL => format!("CAST(CAST({column} AS integer) AS bigint)"),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => format!("CAST({column} AS bigint)"),
        Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => {
            format!("CAST({column} AS double precision)")
        }
        Type::BYTEA => format!("CAST({column} AS bytea)"),
        _ => match of.kind() {
            Kind::Domain(inner) => cast(column, inner),
            _ => format!("CAST({column} AS text)"),
        },
    }
}

/// The type of a parameter, so that the server guesses none. What NULL is, only
/// it can say.
fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::UNKNOWN,
        Value::Integer(_) => Type::INT8,
        Value::Real(_) => Type::FLOAT8,
        Value::Text(_) => Type::TEXT,
        Value::Blob(_) => Type::BYTEA,
    }
}

/// Reads the rows until there are enough, and over the others.
async fn fetch(
    client: &Client,
    select: &Statement,
    parameters: &[Value],
    answer: &mut Rows,
) -> Result<(), Fault> {
    let width = answer.columns.len();
    let mut bytes = 0;
    let mut rows = pin!(client.query_raw(select, parameters).await?);
    while let Some(row) = rows.try_next().await? {
        if answer.truncated {
            continue;
        }
        let whole = answer.values.len();
        for at in 0..width {
            let value: Value = row.try_get(at)?;
            bytes += value.bytes();
            answer.values.push(value);
        }
        if whole == ROWS_MAX * width || bytes > ANSWER_BYTES_MAX {
            answer.values.truncate(whole);
            answer.truncated = true;
        }
    }
    Ok(())
}

type Refused = Box<dyn std::error::Error + Sync + Send>;

impl<'a> FromSql<'a> for Value {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Refused> {
        Ok(match *of {
            Type::INT8 => Self::Integer(i64::from_sql(of, raw)?),
            Type::FLOAT8 => Self::Real(f64::from_sql(of, raw)?),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ => Self::Text(String::from_utf8_lossy(raw).into_owned()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Refused> {
        Ok(Self::Null)
    }

    fn accepts(of: &Type) -> bool {
        matches!(*of, Type::INT8 | Type::FLOAT8 | Type::BYTEA | Type::TEXT)
    }
}

impl ToSql for Value {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Refused> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(integer) => integer.to_sql(of, out),
            Self::Real(real) => real.to_sql(of, out),
            Self::Text(text) => text.to_sql(of, out),
            Self::Blob(bytes) => bytes.to_sql(of, out),
        }
    }

    /// What a value isn't, it isn't prepared for: see [`type_of`].
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// What went wrong, before it is told in words.
#[derive(Debug)]
enum Fault {
    /// The statement is wrong.
    Statement(String),
    /// The server has given up in time.
    Late,
    /// It has not, or not said so.
    Timeout,
    /// It sent more than it may.
    TooMuch,
    /// It can't answer now.
    Unavailable(String),
    /// The connection has ended.
    Gone(String),
}

impl Fault {
    fn words(self) -> String {
        match self {
            Self::Statement(words) | Self::Unavailable(words) | Self::Gone(words) => words,
            Self::Late | Self::Timeout => "it took too long".to_owned(),
            Self::TooMuch => "it sent too much".to_owned(),
        }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let words = words_of(&error);
        let Some(told) = error.as_db_error() else {
            // What fails on our side of a connection leaves it in the middle of
            // something.
            return Self::Gone(words);
        };
        if matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
            return Self::Gone(words);
        }
        match told.code() {
            &SqlState::QUERY_CANCELED => Self::Late,
            // Too little of something, a system error, an internal one.
            code if ["53", "58", "XX"].iter().any(|class| code.code().starts_with(class)) => {
                Self::Unavailable(words)
            }
            _ => Self::Statement(words),
        }
    }
}

/// The words of an error, and of what is behind it.
fn words_of(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    let mut words = match (error.as_db_error(), error.source()) {
        (Some(told), _) => told.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    words.truncate(words.floor_char_boundary(WORDS_MAX));
    words
}
