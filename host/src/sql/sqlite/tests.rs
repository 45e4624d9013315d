use rusqlite::params;
use tempfile::TempDir;

use super::*;

/// How long a query may take.
const QUERY_MAX: Duration = Duration::from_millis(50);

/// A folder with one database, `skills.db`, and a plugin that is granted it.
struct Bench {
    folder: TempDir,
    file: File,
}

impl Bench {
    fn new() -> Self {
        let bench = Self::empty();
        let writer = bench.writer();
        writer.execute_batch("CREATE TABLE skill (name TEXT, runs INTEGER)").unwrap();
        writer.execute("INSERT INTO skill VALUES ('review', 3), ('plan', 5)", []).unwrap();
        bench
    }

    fn empty() -> Self {
        let folder = TempDir::new().unwrap();
        let file = File::new(folder.path().join("skills.db"));
        Self { folder, file }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("skills.db")
    }

    fn writer(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn query(&mut self, statement: &str, parameters: Vec<Value>) -> Result<Rows, SqlError> {
        // A machine so busy that 50 ms pass over nothing is none of our business.
        let mut ask = || self.file.query(QUERY_MAX, statement, parameters.clone());
        let late = |answer: &Result<Rows, SqlError>| matches!(answer, Err(SqlError::Timeout(_)));
        (0..20).map(|_| ask()).find(|answer| !late(answer)).unwrap_or_else(ask)
    }

    #[track_caller]
    fn integer(&mut self, statement: &str) -> i64 {
        match self.query(statement, vec![]).unwrap().values[..] {
            [Value::Integer(integer)] => integer,
            ref other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refuses(&mut self, statement: &str, words: &str) {
        match self.query(statement, vec![]) {
            Err(SqlError::Statement(said)) => assert!(said.contains(words), "{statement}: {said}"),
            other => panic!("{statement}: {other:?}"),
        }
    }

    #[track_caller]
    fn unavailable(&mut self, words: &str) {
        match self.query("SELECT count(*) FROM skill", vec![]) {
            Err(SqlError::Unavailable(said)) => {
                assert!(said.contains("skills.db: ") && said.contains(words), "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_select_answers_its_rows() {
    let mut bench = Bench::new();
    let parameters = vec![Value::Integer(4), Value::Text("x".into())];
    let rows = bench
        .query(
            "SELECT name, runs, ?2 AS x, 0.5, NULL, x'01ff' FROM skill WHERE runs > ?1",
            parameters,
        )
        .unwrap();
    assert_eq!(rows.columns, ["name", "runs", "x", "0.5", "NULL", "x'01ff'"]);
    let expected = [
        Value::Text("plan".into()),
        Value::Integer(5),
        Value::Text("x".into()),
        Value::Real(0.5),
        Value::Null,
        Value::Blob(vec![1, 255]),
    ];
    assert_eq!(rows.values, expected);
    assert!(!rows.truncated);
    for statement in [
        "SELECT 1;",
        "SELECT 1 ; -- and no more\n",
        "/* first */ WITH one(n) AS (SELECT 1) SELECT n FROM one",
        "VALUES (1)",
        "SELECT value FROM json_each('[1]')",
    ] {
        assert_eq!(bench.integer(statement), 1, "{statement}");
    }
    let bad = bench.query("SELECT CAST(x'ff41' AS TEXT)", vec![]).unwrap();
    assert_eq!(bad.values, [Value::Text("\u{fffd}A".into())]);
}

#[test]
fn anything_but_one_select_is_refused() {
    let mut bench = Bench::new();
    for statement in [
        "INSERT INTO skill VALUES ('x', 1)",
        "WITH n(i) AS (SELECT 1) INSERT INTO skill SELECT 'x', i FROM n",
        "DELETE FROM skill",
        "UPDATE skill SET runs = 0",
        "CREATE TEMP TABLE t (x)",
        "DROP TABLE skill",
        "ATTACH '/tmp/other.db' AS other",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA data_version",
        "VACUUM INTO '/tmp/other.db'",
        "BEGIN",
        "SELECT * FROM pragma_table_info('skill')",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT fts3_tokenizer('simple')",
        "ANALYZE",
        "REINDEX",
    ] {
        bench.refuses(statement, "");
    }
    for statement in
        ["", " ; -- nothing", "SELECT 1; SELECT 2", "SELECT 1; nonsense", "EXPLAIN SELECT 1"]
    {
        bench.refuses(statement, "the statement is not one SELECT");
    }
    // Compiled one inside the other, these would use up the stack.
    bench.refuses(&"SELECT 1;".repeat(7000), "the statement is not one SELECT");
    bench.refuses("SELECT readfile('/etc/passwd')", "no such function: readfile");
    bench.refuses("SELECT * FROM absent", "no such table: absent");
    bench.refuses("SELEKT", "syntax error");
    assert_eq!(bench.integer("SELECT sum(runs) FROM skill"), 8);
}

#[test]
fn parameters_must_be_as_many_as_the_statement_has() {
    let mut bench = Bench::new();
    for parameters in [vec![], vec![Value::Null, Value::Null]] {
        let error = bench.query("SELECT ?1", parameters.clone()).unwrap_err();
        let words = format!("the statement has 1 parameters, not {}", parameters.len());
        assert_eq!(error, SqlError::Statement(words));
    }
}

#[test]
fn a_parameter_goes_by_its_number_with_either_sign() {
    let mut bench = Bench::new();
    let parameters = || vec![Value::Integer(1), Value::Text("two".into())];
    for statement in ["SELECT $2, $1, $2", "SELECT ?2, ?1, ?2", "SELECT $2, ?2, $2"] {
        let rows = bench.query(statement, parameters()).unwrap();
        let [first, _, third] = &rows.values[..] else { panic!("{rows:?}") };
        assert_eq!([first, third], [&parameters()[1]; 2], "{statement}");
    }
    let error = bench.query("SELECT $2", vec![Value::Null]).unwrap_err();
    assert_eq!(error, SqlError::Statement("the statement has 2 parameters, not 1".to_owned()));
    assert!(bench.query("SELECT $0, $1", vec![Value::Null]).is_err());
}

#[test]
fn statements_that_never_end_are_stopped() {
    let mut bench = Bench::new();
    for statement in [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT max(length(randomblob(900000))) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT printf('%900000d', i) FROM n ORDER BY 1",
    ] {
        let answer = bench.file.query(QUERY_MAX, statement, vec![]);
        assert_eq!(answer, Err(SqlError::Timeout(QUERY_MAX)), "{statement}");
    }
    assert_eq!(bench.integer("SELECT 7"), 7);
}

#[test]
fn statements_that_want_too_much_are_refused() {
    let mut bench = Bench::new();
    bench.refuses("SELECT zeroblob(1 << 30)", "too big");
    bench.refuses("SELECT printf('%2000000d', 1)", "too big");
    bench.refuses(&format!("SELECT {}1", "1+".repeat(1000)), "too large");
    bench.refuses(&format!("SELECT '{}'", "x".repeat(70_000)), "too long");
    bench.refuses(&format!("SELECT 'x' LIKE '{}'", "%a".repeat(1000)), "too complex");
}

#[test]
fn an_answer_stops_at_its_limits() {
    let mut bench = Bench::new();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?1)
                SELECT i FROM n";
    for (want, have, truncated) in [(10_000, 10_000, false), (10_001, 10_000, true)] {
        let rows = bench.query(rows, vec![Value::Integer(want)]).unwrap();
        assert_eq!((rows.values.len(), rows.truncated), (have, truncated));
    }
    let bytes = "SELECT zeroblob(?1) UNION ALL SELECT zeroblob(?2)";
    let half = (1 << 19) - 16;
    for (first, second, have) in [(half, half, 2), (half, half + 1, 1), (1 << 20, 1, 0)] {
        let rows = bench.query(bytes, vec![Value::Integer(first), Value::Integer(second)]).unwrap();
        assert_eq!((rows.values.len(), rows.truncated), (have, have < 2));
    }
}

#[test]
fn nothing_stays_open_for_a_writer_to_wait_for() {
    let mut bench = Bench::new();
    let writer = bench.writer();
    writer.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    writer.execute("INSERT INTO skill VALUES ('more', 1)", []).unwrap();
    for statement in ["SELECT count(*) FROM skill", "SELECT 1 + count(*) FROM skill, skill"] {
        bench.query(statement, vec![]).unwrap();
        writer.execute("INSERT INTO skill VALUES ('more', 1)", []).unwrap();
        let busy: i64 =
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
        assert_eq!(busy, 0);
        assert_eq!(std::fs::metadata(bench.folder.path().join("skills.db-wal")).unwrap().len(), 0);
    }
}

#[test]
fn what_is_no_database_is_unavailable_until_it_is_one() {
    let mut bench = Bench::empty();
    bench.unavailable("No such file");
    std::fs::create_dir(bench.path()).unwrap();
    bench.unavailable("it is not a file");
    std::fs::remove_dir(bench.path()).unwrap();
    std::fs::write(bench.path(), "some text, and long enough to be taken for a header ".repeat(20))
        .unwrap();
    bench.unavailable("file is not a database");
    std::fs::remove_file(bench.path()).unwrap();
    bench.writer().execute_batch("CREATE TABLE other (x)").unwrap();
    bench.refuses("SELECT count(*) FROM skill", "no such table: skill");
    bench.writer().execute_batch("CREATE TABLE skill (x)").unwrap();
    assert_eq!(bench.integer("SELECT count(*) FROM skill"), 0);
}

#[test]
fn a_locked_database_is_unavailable() {
    let mut bench = Bench::new();
    let writer = bench.writer();
    assert_eq!(bench.integer("SELECT count(*) FROM skill"), 2);
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    bench.unavailable("another program has locked it");
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(bench.integer("SELECT count(*) FROM skill"), 2);
}

#[test]
fn a_replaced_file_is_read_from_the_next_query_on() {
    let mut bench = Bench::new();
    assert_eq!(bench.integer("SELECT sum(runs) FROM skill"), 8);
    let other = Bench::new();
    other.writer().execute("UPDATE skill SET runs = ?1", params![50]).unwrap();
    std::fs::rename(other.path(), bench.path()).unwrap();
    assert_eq!(bench.integer("SELECT sum(runs) FROM skill"), 100);

    // Overwritten in place, first by rubbish, then by a database.
    std::fs::write(bench.path(), vec![b'x'; 8192]).unwrap();
    bench.unavailable("file is not a database");
    std::fs::copy(Bench::new().path(), bench.path()).unwrap();
    assert_eq!(bench.integer("SELECT sum(runs) FROM skill"), 8);

    std::fs::remove_file(bench.path()).unwrap();
    bench.unavailable("No such file");
    assert!(!bench.path().exists());
}

#[test]
fn views_and_full_text_tables_can_be_read() {
    let mut bench = Bench::new();
    let schema = "CREATE VIEW busy AS SELECT * FROM skill WHERE runs > 4;
                  CREATE VIRTUAL TABLE words USING fts5(word);
                  INSERT INTO words VALUES ('hello world'), ('goodbye')";
    bench.writer().execute_batch(schema).unwrap();
    assert_eq!(bench.integer("SELECT count(*) FROM busy"), 1);
    assert_eq!(bench.integer("SELECT count(*) FROM words WHERE words MATCH 'hello'"), 1);
}
