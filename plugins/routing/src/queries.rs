//! What is asked of the database, and the object that is made of it.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use telltale_plugin::Fault;
use telltale_plugin::sql::{self, Value};

use crate::time::naive;

/// Strategies, providers and levels that are told, each: those with the most
/// decisions. The application has a handful.
pub const NAMES_MAX: usize = 100;
/// Names come from strangers and are cut at this many bytes, as labels are.
const NAME_BYTES_MAX: usize = 256;
/// What stands for a name that is missing.
const UNKNOWN: &str = "unknown";

/// The levels of confidence, and what each counts in a mean.
const LEVELS: [(&str, f64); 3] = [("high", 1.0), ("medium", 0.7), ("low", 0.4)];

const DAY_NS: u64 = 86_400_000_000_000;

/// One statement, so that all figures are of the same moment.
const GROUPS: &str = "
    SELECT CAST(m.strategy_used AS TEXT) AS strategy, CAST(m.provider AS TEXT) AS provider,
        CAST(m.confidence AS TEXT) AS level, COUNT(*) AS decisions,
        COUNT(m.estimated_cost) AS costs, CAST(SUM(m.estimated_cost) AS DOUBLE PRECISION) AS cost
    FROM routing_metrics m";

/// Times are text, some with a `T` and an offset and some without; as days they
/// compare as the times they are. The first condition is one that an index
/// answers: `$1` is a date that no offset can reach.
const SINCE_SQLITE: &str = "
    WHERE m.timestamp >= $1 AND julianday(m.timestamp) >= julianday($2)
    GROUP BY 1, 2, 3";

const SINCE_POSTGRES: &str = "
    WHERE m.timestamp >= CAST($1 AS timestamptz)
    GROUP BY 1, 2, 3";

/// Only SQLite has this function.
const PROBE: &str = "SELECT sqlite_version()";

/// What kind of database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// The application's database.
#[derive(Debug, Default)]
pub struct Database {
    /// Found out by asking it.
    engine: Option<Engine>,
}

/// Why there are no figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Unread {
    /// In words.
    pub why: String,
    /// It is not granted: only other settings help.
    pub is_denied: bool,
}

impl From<sql::Error> for Unread {
    fn from(error: sql::Error) -> Self {
        let is_denied = matches!(error, sql::Error::Denied(_));
        let (Fault::Retry(why) | Fault::Config(why) | Fault::Fatal(why)) = Fault::from(error);
        Self { why, is_denied }
    }
}

/// The figures of the last days, in the application's own words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// How many decisions there were.
    pub total_decisions: u64,
    /// How sure they were on average, 0 to 1; 0 where nothing is known.
    pub avg_confidence: f64,
    /// By strategy.
    pub strategy_performance: Ranked<Performance>,
    /// Decisions by level of confidence; the three known ones are always there.
    pub confidence_distribution: Ranked<u64>,
    /// Decisions by provider.
    pub provider_usage: Ranked<u64>,
    /// When it was, in UTC.
    pub timestamp: String,
}

/// What is told of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Performance {
    /// How many decisions were its own.
    pub count: u64,
    /// What one was expected to cost, where that is known.
    pub avg_cost: Option<f64>,
    /// How sure they were, where that is known.
    pub avg_confidence: Option<f64>,
}

/// Names and what is told of each, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked<T>(pub Vec<(String, T)>);

impl<T: Serialize> Serialize for Ranked<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, told)| (name, told)))
    }
}

impl Database {
    /// The figures of `days` before `now_ns`.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub fn figures(&mut self, database: &str, days: u64, now_ns: u64) -> Result<Figures, Unread> {
        let since_ns = now_ns.saturating_sub(days * DAY_NS);
        let since = naive(since_ns);
        let engine = match self.engine {
            Some(engine) => engine,
            None => ask_which(database)?,
        };
        let (rest, parameters) = match engine {
            Engine::Sqlite => {
                let day = naive(since_ns.saturating_sub(DAY_NS))[..10].to_owned();
                (SINCE_SQLITE, vec![Value::Text(day), Value::Text(since)])
            }
            Engine::Postgres => (SINCE_POSTGRES, vec![Value::Text(since + "+00")]),
        };
        let answer = sql::query(database, &format!("{GROUPS}{rest}"), &parameters);
        // Another database may have the name next time.
        self.engine = answer.is_ok().then_some(engine);
        let rows = answer?;
        if rows.truncated {
            let why = "routing_metrics has more strategies, providers and levels than can be read";
            return Err(Unread { why: why.to_owned(), is_denied: false });
        }
        let mut sums = Sums::default();
        rows.rows().for_each(|row| sums.add(row));
        Ok(sums.figures(naive(now_ns)))
    }
}

fn ask_which(database: &str) -> Result<Engine, sql::Error> {
    match sql::query(database, PROBE, &[]) {
        Ok(_) => Ok(Engine::Sqlite),
        Err(sql::Error::Statement(_)) => Ok(Engine::Postgres),
        Err(error) => Err(error),
    }
}

/// Adds up groups of decisions.
#[derive(Debug, Default)]
struct Sums {
    all: Sum,
    strategies: BTreeMap<String, Sum>,
    providers: BTreeMap<String, u64>,
    levels: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Sum {
    count: u64,
    /// Of those whose cost is known.
    costs: u64,
    cost: f64,
    /// Of those whose level is known.
    levels: u64,
    confidence: f64,
}

impl Sums {
    /// A row that makes no sense is left out.
    fn add(&mut self, row: &[Value]) {
        let [strategy, provider, level, count, costs, cost] = row else { return };
        let (count, level) = (number(count), name(level).to_lowercase());
        let weight = LEVELS.iter().find(|(known, _)| *known == level).map(|(_, weight)| *weight);
        let strategy = self.strategies.entry(name(strategy)).or_default();
        for sum in [&mut self.all, strategy] {
            sum.count += count;
            if let Some(cost) = real(cost) {
                sum.costs += number(costs);
                sum.cost += cost;
            }
            if let Some(weight) = weight {
                sum.levels += count;
                sum.confidence += weight * count as f64;
            }
        }
        *self.providers.entry(name(provider)).or_default() += count;
        *self.levels.entry(level).or_default() += count;
    }

    fn figures(mut self, timestamp: String) -> Figures {
        for (level, _) in LEVELS {
            self.levels.entry(level.to_owned()).or_default();
        }
        let told = |sum: Sum| {
            let (avg_cost, avg_confidence) = (sum.avg_cost(), sum.avg_confidence());
            Performance { count: sum.count, avg_cost, avg_confidence }
        };
        let strategies = self.strategies.into_iter().map(|(name, sum)| (name, told(sum)));
        let mut levels = ranked(self.levels.into_iter(), |count| *count);
        // In their own order, and what else there may be after them.
        let place = |level: &str| LEVELS.iter().position(|(known, _)| *known == level);
        levels.0.sort_by_key(|(level, _)| place(level).unwrap_or(LEVELS.len()));
        Figures {
            total_decisions: self.all.count,
            avg_confidence: self.all.avg_confidence().unwrap_or(0.0),
            strategy_performance: ranked(strategies, |told| told.count),
            confidence_distribution: levels,
            provider_usage: ranked(self.providers.into_iter(), |count| *count),
            timestamp,
        }
    }
}

impl Sum {
    /// Money is told to a hundred-millionth.
    fn avg_cost(&self) -> Option<f64> {
        (self.costs > 0).then(|| rounded(self.cost / self.costs as f64, 1e8))
    }

    /// Confidence is told to a ten-thousandth.
    fn avg_confidence(&self) -> Option<f64> {
        (self.levels > 0).then(|| rounded(self.confidence / self.levels as f64, 1e4))
    }
}

/// Those with the most first, then by name; not more than can be told.
fn ranked<T>(all: impl Iterator<Item = (String, T)>, count: impl Fn(&T) -> u64) -> Ranked<T> {
    let mut all: Vec<(String, T)> = all.collect();
    all.sort_by_key(|(_, told)| std::cmp::Reverse(count(told)));
    all.truncate(NAMES_MAX);
    Ranked(all)
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn name(value: &Value) -> String {
    match value {
        Value::Text(text) if !text.is_empty() => {
            text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
        }
        _ => UNKNOWN.to_owned(),
    }
}

fn number(value: &Value) -> u64 {
    match value {
        Value::Integer(number) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
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
    use std::cell::RefCell;
    use std::rc::Rc;
    use telltale_plugin::fake;

    /// 2025-11-16T12:34:56.789123Z
    pub(crate) const NOW_NS: u64 = 1_763_296_496_789_123_000;

    const SCHEMA: &str = "
        CREATE TABLE routing_metrics (id INTEGER PRIMARY KEY, timestamp TEXT, prompt_hash TEXT,
            strategy_used TEXT, provider TEXT, model TEXT, complexity_score REAL, confidence TEXT,
            estimated_cost REAL);
        CREATE INDEX by_time ON routing_metrics (timestamp);";

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
            Value::Text(text) => Stored::Text(text.clone()),
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

    /// A statement that writes so many decisions of an hour ago.
    pub(crate) fn decisions(
        count: u32,
        strategy: &str,
        provider: &str,
        confidence: &str,
        cost: &str,
    ) -> String {
        format!(
            "INSERT INTO routing_metrics
                (timestamp, strategy_used, provider, confidence, estimated_cost)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             SELECT '2025-11-16 11:34:56.789123', {strategy}, {provider}, {confidence}, {cost} FROM n;"
        )
    }

    fn figures() -> Figures {
        Database::default().figures("routing", 7, NOW_NS).unwrap()
    }

    fn json(figures: &impl Serialize) -> String {
        serde_json::to_string(figures).unwrap()
    }

    #[test]
    fn the_figures_have_the_shape_that_clients_know() {
        granted(
            &[
                decisions(80, "'hybrid'", "'gemini'", "'high'", "0.0021"),
                decisions(20, "'hybrid'", "'claude'", "'medium'", "0.0031"),
                decisions(45, "'complexity'", "'claude'", "'high'", "0.1 / 3"),
                decisions(5, "'complexity'", "'openrouter'", "'low'", "NULL"),
            ]
            .concat(),
        );
        assert_eq!(
            json(&figures()),
            r#"{"total_decisions":150,"avg_confidence":0.94,"strategy_performance":{"hybrid":{"count":100,"avg_cost":0.0023,"avg_confidence":0.94},"complexity":{"count":50,"avg_cost":0.03333333,"avg_confidence":0.94}},"confidence_distribution":{"high":125,"medium":20,"low":5},"provider_usage":{"gemini":80,"claude":65,"openrouter":5},"timestamp":"2025-11-16T12:34:56.789123"}"#
        );
    }

    #[test]
    fn an_empty_table_is_an_answer() {
        granted("");
        assert_eq!(
            json(&figures()),
            r#"{"total_decisions":0,"avg_confidence":0.0,"strategy_performance":{},"confidence_distribution":{"high":0,"medium":0,"low":0},"provider_usage":{},"timestamp":"2025-11-16T12:34:56.789123"}"#
        );
    }

    #[test]
    fn what_is_missing_or_unknown_counts_but_in_no_mean() {
        granted(
            &[
                decisions(1, "NULL", "''", "NULL", "NULL"),
                decisions(2, "'a'", "NULL", "'certain'", "1"),
                decisions(1, "'a'", "'p'", "'HIGH'", "NULL"),
            ]
            .concat(),
        );
        let figures = figures();
        assert_eq!((figures.total_decisions, figures.avg_confidence), (4, 1.0));
        assert_eq!(
            json(&figures.strategy_performance),
            r#"{"a":{"count":3,"avg_cost":1.0,"avg_confidence":1.0},"unknown":{"count":1,"avg_cost":null,"avg_confidence":null}}"#
        );
        assert_eq!(json(&figures.provider_usage), r#"{"unknown":3,"p":1}"#);
        assert_eq!(
            json(&figures.confidence_distribution),
            r#"{"high":1,"medium":0,"low":0,"certain":2,"unknown":1}"#
        );
    }

    #[test]
    fn decisions_of_the_last_days_compare_as_times() {
        granted(
            "INSERT INTO routing_metrics (timestamp, strategy_used) VALUES
                ('2025-11-09 12:34:56.787', 'old'), ('2025-11-09T12:34:56.790', 'new'),
                ('2025-11-09T13:34:56.700+01:00', 'old'), ('2025-11-09T02:35:00-10:00', 'new'),
                ('2025-11-08T23:00:00-14:00', 'new'), ('2025-11-16 12:34:56', 'new'),
                ('2025-11-16T12:34:56Z', 'new'), ('yesterday', 'no time'), (NULL, 'no time');",
        );
        let names = figures().strategy_performance;
        assert_eq!(names.0.iter().map(|(n, p)| (&**n, p.count)).collect::<Vec<_>>(), [("new", 5)]);
    }

    #[test]
    fn an_index_finds_them() {
        let database = granted("");
        let explain = format!("EXPLAIN QUERY PLAN {GROUPS}{SINCE_SQLITE}");
        let plan: String =
            database.query_row(&explain, ["2025-11-08", "2025-11-09"], |row| row.get(3)).unwrap();
        assert!(plan.contains("INDEX by_time"), "{plan}");
    }

    #[test]
    fn there_are_not_more_names_than_can_be_told() {
        granted(
            "INSERT INTO routing_metrics (timestamp, strategy_used, provider)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             SELECT '2025-11-16 11:00:00', 's' || i, replace(hex(zeroblob(200)), '00', 'ä') FROM n;",
        );
        let figures = figures();
        assert_eq!(
            (figures.total_decisions, figures.strategy_performance.0.len()),
            (300, NAMES_MAX)
        );
        assert_eq!(figures.provider_usage.0, [("ä".repeat(128), 300)]);
    }

    #[test]
    fn which_kind_of_database_it_is_is_asked_once_and_again_after_a_failure() {
        let asked: Rc<RefCell<Vec<String>>> = Rc::default();
        let seen = asked.clone();
        fake::sql(move |_, statement, parameters| {
            let mut seen = seen.borrow_mut();
            seen.push(statement.to_owned());
            match (statement, seen.len()) {
                (PROBE, _) => Err(sql::Error::Statement("no such function".to_owned())),
                (_, 3) => Err(sql::Error::Timeout),
                _ => {
                    assert_eq!(parameters, [Value::Text("2025-11-09T12:34:56.789123+00".into())]);
                    Ok(sql::Rows { columns: vec![], values: vec![], truncated: false })
                }
            }
        });
        let mut database = Database::default();
        let mut read = || database.figures("routing", 7, NOW_NS).is_ok();
        assert_eq!([read(), read(), read()], [true, false, true]);
        let probes = asked.borrow().iter().map(|statement| statement == PROBE).collect::<Vec<_>>();
        assert_eq!(probes, [true, false, false, true, false]);
        assert!(asked.borrow()[1].contains("CAST($1 AS timestamptz)"));
    }

    #[test]
    fn why_there_are_none_is_told() {
        granted("DROP TABLE routing_metrics");
        let unread = Database::default().figures("routing", 7, NOW_NS).unwrap_err();
        assert!(unread.why.contains("routing_metrics") && !unread.is_denied);
        fake::sql(|_, _, _| Err(sql::Error::Denied("the line".to_owned())));
        let denied = Database::default().figures("routing", 7, NOW_NS).unwrap_err();
        assert_eq!(denied, Unread { why: "the line".to_owned(), is_denied: true });
    }
}
