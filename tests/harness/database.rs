//! A database of Session-Buddy's, schema V4.

use std::path::Path;

use rusqlite::Connection;

/// What the hub's queries touch, and what stands beside it.
const SCHEMA: &str = "
    CREATE TABLE skill_metrics (
        skill_name TEXT PRIMARY KEY,
        total_invocations INTEGER NOT NULL DEFAULT 0,
        completed_invocations INTEGER NOT NULL DEFAULT 0,
        completion_rate REAL,
        avg_duration_seconds REAL,
        last_invocation_at TEXT);
    CREATE TABLE skill_metrics_cache (
        skill_name TEXT PRIMARY KEY,
        last_invocation_at TEXT,
        invocation_count_1h INTEGER DEFAULT 0,
        invocation_count_24h INTEGER DEFAULT 0,
        avg_completion_rate_24h REAL,
        is_anomalous INTEGER DEFAULT 0,
        anomaly_score REAL);
    CREATE TABLE skill_anomalies (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        skill_name TEXT NOT NULL,
        detected_at TEXT NOT NULL,
        anomaly_type TEXT NOT NULL CHECK (anomaly_type IN ('drop', 'spike', 'pattern_shift')),
        baseline_value REAL,
        observed_value REAL,
        deviation_score REAL,
        resolved_at TEXT);
    CREATE VIEW v_realtime_skill_dashboard AS
        SELECT c.skill_name, c.last_invocation_at, c.invocation_count_1h,
            c.invocation_count_24h, c.avg_completion_rate_24h, c.is_anomalous,
            c.anomaly_score, m.total_invocations, m.completion_rate, m.avg_duration_seconds
        FROM skill_metrics_cache c LEFT JOIN skill_metrics m ON c.skill_name = m.skill_name
        ORDER BY c.invocation_count_24h DESC;";

/// The database, as the application that writes it has it open.
pub(crate) struct SkillsDatabase(Connection);

impl SkillsDatabase {
    /// A new one in WAL mode, as the application has it.
    pub(crate) fn create(path: &Path) -> Self {
        Self::create_in(path, "WAL")
    }

    /// A new one with a rollback journal, in which a writer can lock readers
    /// out.
    pub(crate) fn create_with_rollback_journal(path: &Path) -> Self {
        Self::create_in(path, "DELETE")
    }

    fn create_in(path: &Path, journal: &str) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", journal).unwrap();
        // The hub may be reading, and is soon done.
        connection.busy_timeout(super::LIMIT).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        Self(connection)
    }

    pub(crate) fn run(&self, statements: &str) {
        self.0.execute_batch(statements).unwrap();
    }

    /// A skill that was called so often on the last day and in all.
    pub(crate) fn skill(
        &self,
        name: &str,
        invocations: u32,
        completion_rate: f64,
        duration: Option<f64>,
    ) -> &Self {
        let metrics = "INSERT OR REPLACE INTO skill_metrics
            (skill_name, total_invocations, completion_rate, avg_duration_seconds)
            VALUES (?1, ?2, ?3, ?4)";
        self.0.execute(metrics, (name, invocations, completion_rate, duration)).unwrap();
        let cache = "INSERT OR REPLACE INTO skill_metrics_cache
            (skill_name, invocation_count_24h) VALUES (?1, ?2)";
        self.0.execute(cache, (name, invocations)).unwrap();
        self
    }

    /// An anomaly, `minutes` ago.
    pub(crate) fn anomaly(&self, skill: &str, kind: &str, score: f64, minutes: u32) -> &Self {
        let insert = "INSERT INTO skill_anomalies
            (skill_name, detected_at, anomaly_type, deviation_score)
            VALUES (?1, datetime('now', '-' || ?4 || ' minutes'), ?2, ?3)";
        self.0.execute(insert, (skill, kind, score, minutes)).unwrap();
        self
    }
}
