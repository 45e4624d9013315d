//! What is asked of the database.

use serde::Serialize;
use telltale_plugin::Fault;
use telltale_plugin::sql::{self, Value};

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
pub fn top_skills(database: &str) -> Result<Vec<Skill>, Fault> {
    let mut values = read(database, VIEW, DASHBOARD, &[])?;
    if values.is_empty() {
        values = read(database, "skill_metrics", METRICS, &[])?;
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
pub fn anomalies(database: &str, now_s: f64) -> Result<Vec<Anomaly>, Fault> {
    let values = read(database, "skill_anomalies", ANOMALIES, &[Value::Real(now_s)])?;
    Ok(rows(values, |[name, detected_at, anomaly_type, score]| {
        Some(Anomaly {
            skill_name: text(name)?,
            detected_at: text(detected_at)?,
            anomaly_type: text(anomaly_type)?,
            deviation_score: real(&score),
        })
    }))
}

/// The values that a statement finds in `what`, row after row.
fn read(
    database: &str,
    what: &str,
    statement: &str,
    parameters: &[Value],
) -> Result<Vec<Value>, Fault> {
    let rows = sql::query(database, statement, parameters);
    rows.map(|rows| rows.values).map_err(|error| match Fault::from(error) {
        Fault::Retry(words) => Fault::retry(format!(
            "database {database:?}: reading {what}: {words}; [grant] sql must name \
             Session-Buddy's database (schema V4)"
        )),
        denied => denied,
    })
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
        Value::Null | Value::Blob(_) => None,
    }
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        Value::Real(number) => *number as i64,
        Value::Text(_) | Value::Null | Value::Blob(_) => 0,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number).filter(|number| number.is_finite()),
        Value::Text(_) | Value::Null | Value::Blob(_) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rusqlite::Connection;
    use rusqlite::types::{Value as Stored, ValueRef};
    use std::rc::Rc;
    use telltale_plugin::fake;

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

    /// A database with the schema, after these statements: what is granted
    /// under any name.
    pub(crate) fn granted(statements: &str) -> Rc<Connection> {
        let database = Rc::new(Connection::open_in_memory().unwrap());
        database.execute_batch(SCHEMA).unwrap();
        database.execute_batch(statements).unwrap();
        let answering = database.clone();
        fake::sql(move |_, statement, parameters| {
            let failed = |error: rusqlite::Error| sql::Error::Statement(error.to_string());
            answer(&answering, statement, parameters).map_err(failed)
        });
        database
    }

    fn answer(
        database: &Connection,
        statement: &str,
        parameters: &[Value],
    ) -> rusqlite::Result<sql::Rows> {
        let mut statement = database.prepare(statement)?;
        let columns: Vec<_> = statement.column_names().map(str::to_owned).collect();
        let parameters = parameters.iter().map(|value| match value {
            Value::Real(number) => Stored::Real(*number),
            other => panic!("{other:?} is no parameter of these queries"),
        });
        let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
        let mut values = Vec::new();
        while let Some(row) = rows.next()? {
            values.extend((0..columns.len()).map(|column| match row.get_ref(column).unwrap() {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            }));
        }
        Ok(sql::Rows { columns, values, truncated: false })
    }

    fn names(skills: &[Skill]) -> Vec<&str> {
        skills.iter().map(|skill| skill.skill_name.as_str()).collect()
    }

    #[test]
    fn skills_come_from_the_view_by_their_last_day() {
        granted(
            "INSERT INTO skill_metrics VALUES ('a', 100, 90, 1.5), ('b', 7, 50.5, NULL), ('c', 1, 1, 1);
             INSERT INTO skill_metrics_cache VALUES ('a', 1), ('b', 2), ('new', 1);",
        );
        let skills = top_skills("skills").unwrap();
        assert_eq!(names(&skills), ["b", "a", "new"]);
        assert_eq!(
            serde_json::to_string(&skills).unwrap(),
            r#"[{"skill_name":"b","total_invocations":7,"completion_rate":50.5,"avg_duration_seconds":null},{"skill_name":"a","total_invocations":100,"completion_rate":90.0,"avg_duration_seconds":1.5},{"skill_name":"new","total_invocations":0,"completion_rate":null,"avg_duration_seconds":null}]"#
        );
    }

    #[test]
    fn an_empty_view_gives_way_to_the_totals() {
        granted(
            "INSERT INTO skill_metrics VALUES ('a', 1, 90, 1), ('b', 7, 50, 1), ('never', 0, 0, 0);",
        );
        assert_eq!(names(&top_skills("skills").unwrap()), ["b", "a"]);
    }

    #[test]
    fn there_are_ten_at_most() {
        let insert = "INSERT INTO skill_metrics
            WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
            SELECT 's' || i, 5, 1, 1 FROM n;";
        granted(insert);
        let skills = top_skills("skills").unwrap();
        assert_eq!((skills.len(), skills[0].skill_name.as_str()), (10, "s10"));
    }

    #[test]
    fn a_missing_view_or_table_is_named() {
        for (drop, name) in
            [("DROP VIEW v_realtime_skill_dashboard", VIEW), ("DROP TABLE skill_metrics", VIEW)]
        {
            granted(drop);
            let fault = top_skills("skills").unwrap_err();
            assert!(matches!(fault, Fault::Retry(words) if words.contains(name)));
        }
        granted("DROP TABLE skill_anomalies");
        let fault = anomalies("skills", NOON_S).unwrap_err();
        assert!(matches!(fault, Fault::Retry(words) if words.contains("skill_anomalies")));
    }

    #[test]
    fn anomalies_of_the_last_hour_compare_as_times() {
        granted(
            "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
             VALUES ('old', '2026-02-10 10:59:59', 'drop', 1),
                ('plain', '2026-02-10 11:10:00', 'drop', -2),
                ('zulu', '2026-02-10T11:30:00.123456Z', 'spike', 3.5),
                ('offset', '2026-02-10T13:20:00+02:00', 'pattern_shift', NULL),
                ('old offset', '2026-02-10T12:30:00+02:00', 'drop', 1),
                ('same time, later', '2026-02-10 11:10:00', 'spike', 1),
                ('no time', 'yesterday', 'drop', 1), (NULL, '2026-02-10 11:59:00', 'drop', 1);",
        );
        let found = anomalies("skills", NOON_S).unwrap();
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
