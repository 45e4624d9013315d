//! A database of the AI cost optimizer's, and clients of its wire.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;

use super::{Door, Setup, Socket};

/// The table that the application writes.
const SCHEMA: &str = "
    CREATE TABLE routing_metrics (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        timestamp TEXT NOT NULL,
        prompt_hash TEXT,
        strategy_used TEXT,
        provider TEXT,
        model TEXT,
        complexity_score REAL,
        confidence TEXT,
        estimated_cost REAL);
    CREATE INDEX routing_metrics_by_time ON routing_metrics (timestamp);";

/// What one decision costs that a test writes.
pub(crate) const COST: f64 = 0.0023;

/// The database, as the application that writes it has it open.
pub(crate) struct RoutingDatabase(Connection);

impl RoutingDatabase {
    pub(crate) fn create(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        // The hub may be reading, and is soon done.
        connection.busy_timeout(super::LIMIT).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        Self(connection)
    }

    pub(crate) fn run(&self, statements: &str) {
        self.0.execute_batch(statements).unwrap();
    }

    /// So many decisions of now.
    pub(crate) fn decide(
        &self,
        count: u32,
        strategy: &str,
        provider: &str,
        confidence: &str,
    ) -> &Self {
        let insert = "INSERT INTO routing_metrics
            (timestamp, prompt_hash, strategy_used, provider, confidence, estimated_cost)
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            SELECT strftime('%Y-%m-%d %H:%M:%f', 'now'), hex(i), ?2, ?3, ?4, ?5 FROM n";
        self.0.execute(insert, (count, strategy, provider, confidence, COST)).unwrap();
        self
    }
}

impl Setup {
    /// With the plugin `routing`, which is granted keys of its own in the cache
    /// and a database that may or may not be there.
    pub(crate) fn with_routing(self) -> Self {
        self.with_routing_and("cache = true")
    }

    /// The same with other lines in `[grant]` than the cache's, and what
    /// follows them.
    pub(crate) fn with_routing_and(self, more: &str) -> Self {
        let path = self.routing_path();
        let settings = format!("[grant]\nsql = {{ routing = {path:?} }}\n{more}\n");
        self.plugin("routing", "telltale_routing", &settings)
    }

    /// Where the database of `routing` is.
    pub(crate) fn routing_path(&self) -> PathBuf {
        self.path().join("routing.db")
    }

    /// Makes the database of `routing`.
    pub(crate) fn routing_database(&self) -> RoutingDatabase {
        RoutingDatabase::create(&self.routing_path())
    }
}

impl Door {
    /// A client of the routing dialect, with this query (`?on=change`).
    pub(crate) async fn routing(&self, query: &str) -> RoutingClient {
        RoutingClient(Socket::connect(self.0, &format!("/ws/metrics{query}")).await)
    }
}

/// One client.
pub(crate) struct RoutingClient(pub(crate) Socket);

impl RoutingClient {
    /// The next message.
    pub(crate) async fn next(&mut self) -> Value {
        let text = self.0.text("a message of the routing dialect").await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The first message that is as it is wanted, and what came before it.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        let found = async {
            loop {
                let told = self.next().await;
                if wanted(&told) {
                    return told;
                }
                before.push(told);
            }
        };
        (super::within(what, found).await, before)
    }

    /// The first message that is as it is wanted.
    pub(crate) async fn fetched(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until(what, wanted).await.0
    }

    /// Waits for the object that says that there is nothing.
    pub(crate) async fn failed(&mut self) {
        let told = self.fetched("an error object", |told| told.get("error").is_some()).await;
        assert_eq!(told["error"], "Failed to fetch metrics");
        assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
        naive_time(&told);
    }

    /// Waits for an object with so many decisions.
    pub(crate) async fn decisions_are(&mut self, count: u64) -> Value {
        let what = format!("{count} decisions");
        self.fetched(&what, |told| told["total_decisions"] == count).await
    }
}

/// The time that a message tells, which has to be naive.
#[track_caller]
pub(crate) fn naive_time(told: &Value) -> jiff::civil::DateTime {
    let text = told["timestamp"].as_str().unwrap_or_else(|| panic!("no time in {told}"));
    let (_, fraction) = text.split_once('.').unwrap_or_else(|| panic!("{text}"));
    assert!(fraction.len() == 6 && fraction.bytes().all(|b| b.is_ascii_digit()), "{text}");
    text.parse().unwrap()
}
