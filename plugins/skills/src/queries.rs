//! What is asked of the database.

use serde::Serialize;

/// Rows of either list that are told.
pub const ROWS_MAX: usize = 10;

/// Texts come from strangers and are cut at this many bytes.
const TEXT_BYTES_MAX: usize = 1024;

const VIEW: &str = "v_realtime_skill_dashboard";

const DASHBOARD: &str = "
    SELECT skill_name, total_invocations, completion_rate, avg_duration_seconds
    FROM v_realtime_skill_dashboard
    ORDER BY invocation_count_24h DESC, skill_name
    LIMIT 10";

/// Only a trigger fills the table behind the view: rows from before it was
/// made are in this one alone.
const METRICS: &str = "
    SELECT skill_name, total_invocations, completion_rate, avg_duration_seconds
    FROM skill_metrics
    WHERE total_invocations > 0
    ORDER BY total_invocations DESC, skill_name
    LIMIT 10";

/// Times are text, some with a `T` and an offset and some without; as days
/// they compare as the times they are. `?1` is now, in seconds.
const ANOMALIES: &str = "
    SELECT skill_name, detected_at, anomaly_type, deviation_score
    FROM skill_anomalies
    WHERE julianday(detected_at) > julianday(?1 - 3600, 'unixepoch')
    ORDER BY julianday(detected_at) DESC, id DESC
    LIMIT 10";

/// A value of a row or of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL, or bytes: nothing that is asked for here is any.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// A text.
    Text(String),
}

/// Why there is no answer, in words for whoever reads the dashboard.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The settings don't allow it.
    Denied(String),
    /// The next time it may work.
    Failed(String),
}

/// The database: the hub's in a plugin, an SQLite file in tests.
pub trait Database {
    /// The values of the rows that a SELECT finds, row after row.
    fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Vec<Value>, Failure>;
}

/// A skill, as the document `top_skills` has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skill {
    /// Its name.
    pub skill_name: String,
    /// How often it was called, ever.
    pub total_invocations: i64,
    /// How many percent of the calls came to their end.
    pub completion_rate: Option<f64>,
    /// How long a call took.
    pub avg_duration_seconds: Option<f64>,
}

/// An anomaly, as the document `anomalies` has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Anomaly {
    /// The skill's name.
    pub skill_name: String,
    /// When, as the database writes it.
    pub detected_at: String,
    /// `drop`, `spike` or `pattern_shift`.
    pub anomaly_type: String,
    /// How far off it was.
    pub deviation_score: Option<f64>,
}

/// The ten skills most called of late or, where nothing is known of that, ever.
pub fn top_skills(database: &mut impl Database) -> Result<Vec<Skill>, Failure> {
    let mut values =
        database.query(DASHBOARD, &[]).map_err(|failure| failure.while_reading(VIEW))?;
    if values.is_empty() {
        values = database
            .query(METRICS, &[])
            .map_err(|failure| failure.while_reading("skill_metrics"))?;
    }
    Ok(rows(values, |[name, invocations, completion, duration]| {
        Some(Skill {
            skill_name: text(name)?,
            total_invocations: integer(&invocations),
            completion_rate: real(&completion),
            avg_duration_seconds: real(&duration),
        })
    }))
}

/// The anomalies of the hour before `now_s`, newest first.
pub fn anomalies(database: &mut impl Database, now_s: f64) -> Result<Vec<Anomaly>, Failure> {
    let values = database
        .query(ANOMALIES, &[Value::Real(now_s)])
        .map_err(|failure| failure.while_reading("skill_anomalies"))?;
    Ok(rows(values, |[name, detected_at, anomaly_type, score]| {
        Some(Anomaly {
            skill_name: text(name)?,
            detected_at: text(detected_at)?,
            anomaly_type: text(anomaly_type)?,
            deviation_score: real(&score),
        })
    }))
}

impl Failure {
    fn while_reading(self, what: &str) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("reading {what}: {text}")),
            denied => denied,
        }
    }
}

/// Each four values are a row; one that makes no sense is left out.
fn rows<T>(values: Vec<Value>, row: impl Fn([Value; 4]) -> Option<T>) -> Vec<T> {
    let mut values = values.into_iter();
    let next = || Some([values.next()?, values.next()?, values.next()?, values.next()?]);
    std::iter::from_fn(next).filter_map(row).take(ROWS_MAX).collect()
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(mut text) => {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            Some(text)
        }
        Value::Integer(number) => Some(number.to_string()),
        Value::Real(number) => Some(number.to_string()),
        Value::Null => None,
    }
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        Value::Real(number) => *number as i64,
        Value::Text(_) | Value::Null => 0,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number).filter(|number| number.is_finite()),
        Value::Text(_) | Value::Null => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rusqlite::types::{ToSqlOutput, ValueRef};
    use rusqlite::{Connection, ToSql};

    /// 2026-02-10T12:00:00Z
    pub(crate) const NOON_S: f64 = 1_770_724_800.0;

    const SCHEMA: &str = "
        CREATE TABLE skill_metrics (skill_name TEXT PRIMARY KEY, total_invocations INTEGER,
            completion_rate REAL, avg_duration_seconds REAL);
        CREATE TABLE skill_metrics_cache (skill_name TEXT PRIMARY KEY,
            invocation_count_24h INTEGER);
        CREATE VIEW v_realtime_skill_dashboard AS
            SELECT c.skill_name, c.invocation_count_24h, m.total_invocations,
                m.completion_rate, m.avg_duration_seconds
            FROM skill_metrics_cache c LEFT JOIN skill_metrics m USING (skill_name);
        CREATE TABLE skill_anomalies (id INTEGER PRIMARY KEY, skill_name TEXT,
            detected_at TEXT, anomaly_type TEXT, deviation_score REAL);";

    impl Database for Connection {
        fn query(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Value>, Failure> {
            let failed = |error: rusqlite::Error| Failure::Failed(error.to_string());
            let mut statement = self.prepare(sql).map_err(failed)?;
            let columns = statement.column_count();
            let mut rows =
                statement.query(rusqlite::params_from_iter(parameters)).map_err(failed)?;
            let mut values = Vec::new();
            while let Some(row) = rows.next().map_err(failed)? {
                values.extend((0..columns).map(|column| match row.get_ref(column).unwrap() {
                    ValueRef::Null | ValueRef::Blob(_) => Value::Null,
                    ValueRef::Integer(number) => Value::Integer(number),
                    ValueRef::Real(number) => Value::Real(number),
                    ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
                }));
            }
            Ok(values)
        }
    }

    impl ToSql for Value {
        fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
            Ok(ToSqlOutput::Borrowed(match self {
                Self::Null => ValueRef::Null,
                Self::Integer(number) => ValueRef::Integer(*number),
                Self::Real(number) => ValueRef::Real(*number),
                Self::Text(text) => ValueRef::Text(text.as_bytes()),
            }))
        }
    }

    /// A database with the schema, after these statements.
    pub(crate) fn database(statements: &str) -> Connection {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(SCHEMA).unwrap();
        database.execute_batch(statements).unwrap();
        database
    }

    fn names(skills: &[Skill]) -> Vec<&str> {
        skills.iter().map(|skill| skill.skill_name.as_str()).collect()
    }

    #[test]
    fn skills_come_from_the_view_by_their_last_day() {
        let mut database = database(
            "INSERT INTO skill_metrics VALUES ('a', 100, 90, 1.5), ('b', 7, 50.5, NULL), ('c', 1, 1, 1);
             INSERT INTO skill_metrics_cache VALUES ('a', 1), ('b', 2), ('new', 1);",
        );
        let skills = top_skills(&mut database).unwrap();
        assert_eq!(names(&skills), ["b", "a", "new"]);
        assert_eq!(
            serde_json::to_string(&skills).unwrap(),
            r#"[{"skill_name":"b","total_invocations":7,"completion_rate":50.5,"avg_duration_seconds":null},{"skill_name":"a","total_invocations":100,"completion_rate":90.0,"avg_duration_seconds":1.5},{"skill_name":"new","total_invocations":0,"completion_rate":null,"avg_duration_seconds":null}]"#
        );
    }

    #[test]
    fn an_empty_view_gives_way_to_the_totals() {
        let mut database = database(
            "INSERT INTO skill_metrics VALUES ('a', 1, 90, 1), ('b', 7, 50, 1), ('never', 0, 0, 0);",
        );
        assert_eq!(names(&top_skills(&mut database).unwrap()), ["b", "a"]);
    }

    #[test]
    fn there_are_ten_at_most() {
        let insert = "INSERT INTO skill_metrics
            WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
            SELECT 's' || i, 5, 1, 1 FROM n;";
        let skills = top_skills(&mut database(insert)).unwrap();
        assert_eq!((skills.len(), skills[0].skill_name.as_str()), (10, "s10"));
    }

    #[test]
    fn a_missing_view_or_table_is_named() {
        for (drop, name) in
            [("DROP VIEW v_realtime_skill_dashboard", VIEW), ("DROP TABLE skill_metrics", VIEW)]
        {
            let failure = top_skills(&mut database(drop)).unwrap_err();
            assert!(matches!(failure, Failure::Failed(text) if text.contains(name)));
        }
        let failure = anomalies(&mut database("DROP TABLE skill_anomalies"), NOON_S).unwrap_err();
        assert!(matches!(failure, Failure::Failed(text) if text.contains("skill_anomalies")));
    }

    #[test]
    fn anomalies_of_the_last_hour_compare_as_times() {
        let mut database = database(
            "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
             VALUES ('old', '2026-02-10 10:59:59', 'drop', 1),
                ('plain', '2026-02-10 11:10:00', 'drop', -2),
                ('zulu', '2026-02-10T11:30:00.123456Z', 'spike', 3.5),
                ('offset', '2026-02-10T13:20:00+02:00', 'pattern_shift', NULL),
                ('old offset', '2026-02-10T12:30:00+02:00', 'drop', 1),
                ('same time, later', '2026-02-10 11:10:00', 'spike', 1),
                ('no time', 'yesterday', 'drop', 1), (NULL, '2026-02-10 11:59:00', 'drop', 1);",
        );
        let found = anomalies(&mut database, NOON_S).unwrap();
        let names: Vec<_> = found.iter().map(|a| a.skill_name.as_str()).collect();
        assert_eq!(names, ["zulu", "offset", "same time, later", "plain"]);
        assert_eq!(
            serde_json::to_string(&found[1]).unwrap(),
            r#"{"skill_name":"offset","detected_at":"2026-02-10T13:20:00+02:00","anomaly_type":"pattern_shift","deviation_score":null}"#
        );
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(text(Value::Text("€".repeat(400))).unwrap().len(), 1023);
    }
}
