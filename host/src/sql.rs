//! Read-only queries on the databases that a plugin is granted: SQLite's files,
//! and PostgreSQL's servers.
//!
//! Both answer alike: the same values, the same bounds, the same errors.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod postgres;
mod sqlite;

pub use postgres::Address;

/// The most rows that a query answers.
pub const ROWS_MAX: usize = 10_000;
/// The most bytes that a query answers: those of texts and blobs, and 16 for
/// each value.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The longest statement, in bytes.
pub const STATEMENT_BYTES_MAX: usize = 64 << 10;

const VALUE_BYTES: usize = 16;

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
    /// It took longer than a query may.
    #[error("the query took longer than {} ms (limit `query_ms`)", .0.as_millis())]
    Timeout(Duration),
}

/// A database that can be granted. Neither `Display` nor `Debug` shows the
/// password of an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A SQLite database: the absolute path of its file.
    File(PathBuf),
    /// A PostgreSQL database: where its server is, and who asks it.
    Postgres(Box<Address>),
}

impl Source {
    /// Reads what settings say.
    ///
    /// # Errors
    ///
    /// It is neither an absolute path nor an address that can be used. What it
    /// is instead is not told: there may be a password in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Address::parse(text).map(|address| Self::Postgres(Box::new(address)));
        }
        if Path::new(text).is_absolute() {
            return Ok(Self::File(text.into()));
        }
        Err("is neither the absolute path of a file nor postgres://USER:PASSWORD@HOST/DATABASE"
            .to_owned())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Postgres(address) => write!(f, "{address}"),
        }
    }
}

/// The databases that one instance of a plugin is granted. Each keeps a
/// connection from its first query on, until that fails or this is dropped.
#[derive(Debug)]
pub struct Databases {
    granted: BTreeMap<String, Backing>,
    query_max: Duration,
}

#[derive(Debug)]
enum Backing {
    /// Shared with the thread that a query blocks.
    File(Arc<Mutex<sqlite::File>>),
    Server(Box<postgres::Server>),
}

impl Databases {
    /// The databases of a plugin, by the names that it knows them by. A query
    /// of theirs takes `query_max` at most.
    #[must_use]
    pub fn new(granted: &BTreeMap<String, Source>, query_max: Duration) -> Self {
        let backing = |source: &Source| match source {
            Source::File(path) => {
                Backing::File(Arc::new(Mutex::new(sqlite::File::new(path.clone()))))
            }
            Source::Postgres(address) => {
                Backing::Server(Box::new(postgres::Server::new((**address).clone())))
            }
        };
        let granted = granted.iter().map(|(name, source)| (name.clone(), backing(source)));
        Self { granted: granted.collect(), query_max }
    }

    /// Runs one SELECT, with `$1`, `$2`, … bound to `parameters`; SQLite takes
    /// `?1` as well. Answers within the time of a query, and where a server
    /// has to be connected to, within a second more. `patience` is how long
    /// the plugin can wait at all.
    ///
    /// # Errors
    ///
    /// [`SqlError`], with words that say what mends it.
    pub async fn query(
        &mut self,
        database: &str,
        statement: String,
        parameters: Vec<Value>,
        patience: Duration,
    ) -> Result<Rows, SqlError> {
        let query_max = self.query_max;
        match self.granted.get_mut(database) {
            None => Err(SqlError::Denied(line_to_add(database))),
            Some(Backing::File(file)) => {
                let file = file.clone();
                let query = move || {
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    file.query(query_max, &statement, parameters)
                };
                let given_up = |_| SqlError::Unavailable("the query was given up".to_owned());
                tokio::task::spawn_blocking(query).await.map_err(given_up)?
            }
            Some(Backing::Server(server)) => {
                server.query(query_max, patience, &statement, &parameters).await
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_that_is_not_granted_is_denied_with_the_line_to_add() {
        let mut databases = Databases::new(&BTreeMap::new(), Duration::from_millis(50));
        for (name, line) in [
            ("other", r#"[grant] sql = { other = "/path/to/file.db" }"#),
            ("my db", r#"[grant] sql = { "my db" = "/path/to/file.db" }"#),
        ] {
            let asked = databases.query(name, "SELECT 1".to_owned(), vec![], Duration::MAX);
            assert_eq!(asked.await, Err(SqlError::Denied(line.to_owned())));
        }
    }

    #[test]
    fn a_source_is_a_file_or_an_address() {
        assert_eq!(Source::parse("/a/b.db"), Ok(Source::File("/a/b.db".into())));
        for text in ["postgres://ana:pw@db.example/app", "postgresql://ana:pw@db.example/app"] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), "postgres://ana@db.example:5432/app", "{text}");
        }
        for text in ["b.db", "", "mysql://ana:pw@db", "postgres:/ana:pw@db", "POSTGRES://ana:pw@db"]
        {
            let words = Source::parse(text).unwrap_err();
            assert!(words.starts_with("is neither") && !words.contains("pw"), "{words}");
        }
    }
}
