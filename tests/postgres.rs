//! Queries on a real PostgreSQL database: by the hub's own room for them, and
//! by a plugin.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;
use telltale::sql::{Databases, Rows, Source, SqlError, Value};
use tokio::net::TcpListener;

use crate::harness::{Hub, LIMIT, Postgres, Program, guest, guest_path, mode, within};

/// What is said of a server that can't be connected to in time.
const LATE: &str = "it could not be connected to within 1000 ms";

/// A plugin's databases: this one, as `app`.
fn granted(address: &str, query_max: Duration) -> Databases {
    let source = Source::parse(address).unwrap();
    Databases::new(&BTreeMap::from([("app".to_owned(), source)]), query_max)
}

async fn query(
    databases: &mut Databases,
    statement: &str,
    parameters: &[Value],
) -> Result<Rows, SqlError> {
    within("an answer", async {
        loop {
            let asked = databases.query("app", statement.to_owned(), parameters.to_vec(), LIMIT);
            match asked.await {
                // A machine so busy that a second passes is none of our business.
                Err(SqlError::Unavailable(words)) if words.contains(LATE) => {}
                other => return other,
            }
        }
    })
    .await
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Asks until there is an answer to `SELECT 7`.
async fn until_it_answers(databases: &mut Databases) {
    within("an answer to a later query", async {
        while query(databases, "SELECT 7", &[]).await.map(|rows| rows.values)
            != Ok(vec![Value::Integer(7)])
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_type_has_a_value() {
    let Some(server) = Postgres::start().await else { return };
    server
        .sql(
            "CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE DOMAIN score AS numeric CHECK (VALUE >= 0);
             CREATE TABLE t (n int)",
        )
        .await;
    let mut app = granted(&server.address(), LIMIT);
    for (select, value) in [
        ("true", Value::Integer(1)),
        ("false", Value::Integer(0)),
        ("1::int2", Value::Integer(1)),
        ("-7", Value::Integer(-7)),
        ("9223372036854775807", Value::Integer(i64::MAX)),
        ("4294967295::oid", Value::Integer(4_294_967_295)),
        ("0.5::float4", Value::Real(0.5)),
        ("'NaN'::float8 > 1", Value::Integer(1)),
        ("1.25", Value::Real(1.25)),
        ("1.5::score", Value::Real(1.5)),
        ("'x'", text("x")),
        ("'x'::varchar(3)", text("x")),
        ("'x'::char(3)", text("x")),
        ("'t'::name", text("t")),
        ("'\\x01ff'::bytea", Value::Blob(vec![1, 255])),
        ("NULL", Value::Null),
        ("NULL::int", Value::Null),
        ("'2026-11-21 10:00:00.5+02'::timestamptz", text("2026-11-21 08:00:00.5+00")),
        ("'2026-11-21'::date", text("2026-11-21")),
        ("'1 day 02:00'::interval", text("1 day 02:00:00")),
        ("'{\"a\": 1}'::jsonb", text("{\"a\": 1}")),
        ("ARRAY[1, 2]", text("{1,2}")),
        ("'happy'::mood", text("happy")),
        ("(1, 'x')", text("(1,x)")),
        ("'10.0.0.1'::inet", text("10.0.0.1/32")),
        ("pg_sleep(0)", text("")),
        ("'t'::regclass", text("t")),
        (
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
            text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
    ] {
        let rows = query(&mut app, &format!("SELECT {select} AS \"the Name\""), &[]).await.unwrap();
        assert_eq!(
            (rows.columns, rows.values),
            (vec!["the Name".to_owned()], vec![value]),
            "{select}"
        );
    }
    // Names may come twice, and be none.
    let rows = query(&mut app, "SELECT 1 AS a, 2.5 AS a, n FROM t", &[]).await.unwrap();
    assert_eq!(
        rows,
        Rows { columns: ["a", "a", "n"].map(str::to_owned).into(), ..Rows::default() }
    );
}

#[tokio::test]
async fn parameters_are_what_the_plugin_says_they_are() {
    let Some(server) = Postgres::start().await else { return };
    server.sql("CREATE TABLE t AS SELECT n, n * 1.5 AS x, 'r' || n AS name FROM generate_series(1, 5) n").await;
    let mut app = granted(&server.address(), LIMIT);
    for (statement, parameters, values) in [
        ("SELECT $1", vec![Value::Integer(7)], vec![Value::Integer(7)]),
        ("SELECT $1", vec![Value::Real(0.5)], vec![Value::Real(0.5)]),
        ("SELECT $1", vec![text("x'; --")], vec![text("x'; --")]),
        ("SELECT $1", vec![Value::Blob(vec![0, 1])], vec![Value::Blob(vec![0, 1])]),
        ("SELECT $1", vec![Value::Null], vec![Value::Null]),
        ("SELECT $1", vec![Value::Integer(8)], vec![Value::Integer(8)]),
        (
            "SELECT $2, $1",
            vec![Value::Integer(1), text("two")],
            vec![text("two"), Value::Integer(1)],
        ),
        ("SELECT count(*) FROM t WHERE n > $1", vec![Value::Integer(3)], vec![Value::Integer(2)]),
        ("SELECT count(*) FROM t WHERE x > $1", vec![Value::Real(3.1)], vec![Value::Integer(3)]),
        ("SELECT n FROM t WHERE name = $1", vec![text("r4")], vec![Value::Integer(4)]),
        ("SELECT count(*) FROM t WHERE n = $1", vec![Value::Null], vec![Value::Integer(0)]),
        (
            "SELECT n FROM t ORDER BY n DESC LIMIT $1",
            vec![Value::Integer(1)],
            vec![Value::Integer(5)],
        ),
        (
            "SELECT CAST($1 AS timestamptz) < now()",
            vec![text("2020-01-01T00:00:00Z")],
            vec![Value::Integer(1)],
        ),
    ] {
        let rows = query(&mut app, statement, &parameters).await;
        assert_eq!(rows.map(|rows| rows.values), Ok(values), "{statement} {parameters:?}");
    }
    let error = query(&mut app, "SELECT $1, $2", &[Value::Integer(1)]).await.unwrap_err();
    let SqlError::Statement(words) = error else { panic!("{error:?}") };
    assert_eq!(words, "the statement has 2 parameters, not 1");
    let error = query(&mut app, "SELECT $1", &[text("a\0b")]).await.unwrap_err();
    assert!(matches!(error, SqlError::Statement(_)), "{error:?}");
    until_it_answers(&mut app).await;
}

/// What is no single SELECT, in each way that one could think of.
const NO_SELECT: &[&str] = &[
    "",
    " ; ",
    "-- nothing",
    "SELECT",
    "INSERT INTO t VALUES (2)",
    "INSERT INTO t VALUES (2) RETURNING n",
    "UPDATE t SET n = 2 RETURNING n",
    "DELETE FROM t",
    "TRUNCATE t",
    "WITH d AS (DELETE FROM t RETURNING n) SELECT * FROM d",
    "WITH i AS (INSERT INTO t VALUES (2) RETURNING n) TABLE i",
    "SELECT n INTO copied FROM t",
    "CREATE TABLE copied AS SELECT 1",
    "CREATE TEMP TABLE copied (n int)",
    "DROP TABLE t",
    "COPY t TO STDOUT",
    "COPY t FROM STDIN",
    "COPY t TO PROGRAM 'cat > /dev/null'",
    "COPY (SELECT 1) TO '/tmp/telltale-copied'",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL forget()",
    "EXPLAIN ANALYZE DELETE FROM t",
    "EXPLAIN SELECT 1",
    "SHOW search_path",
    "SET statement_timeout = 0",
    "RESET ALL",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "LISTEN x",
    "PREPARE p AS DELETE FROM t",
    "EXECUTE p",
    "LOCK TABLE t",
    "VACUUM",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; SELECT 2",
    "SELECT 1) AS q; DELETE FROM t; --",
    "SELECT 1) AS q; DELETE FROM t; SELECT * FROM (SELECT 1",
    "SELECT 1) AS q (c0) UNION SELECT * FROM (SELECT 2",
    "SELECT 1) AS q (c0) --",
    "SELECT 1 /*",
    "SELECT 'x",
    "SELECT $$x",
];

#[tokio::test]
async fn anything_but_one_select_is_refused() {
    let Some(server) = Postgres::start().await else { return };
    // A role that may do all of it, were it asked to.
    server
        .sql(
            "CREATE TABLE t AS SELECT 1 AS n; GRANT ALL ON t TO reader;
             GRANT ALL ON SCHEMA public TO reader; GRANT pg_execute_server_program TO reader;
             GRANT pg_write_server_files TO reader; CREATE SEQUENCE s; GRANT ALL ON s TO reader;
             CREATE PROCEDURE forget() LANGUAGE sql AS 'DELETE FROM t';
             CREATE FUNCTION forgotten() RETURNS int LANGUAGE sql
             AS 'WITH d AS (DELETE FROM t RETURNING n) SELECT n FROM d'",
        )
        .await;
    let mut app = granted(&server.address(), LIMIT);
    let long = format!("SELECT '{}'", "x".repeat(65 << 10));
    let nested = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let in_a_transaction_that_reads = [
        "SELECT forgotten()",
        "SELECT nextval('s')",
        "SELECT n FROM t FOR UPDATE",
        "SELECT set_config('transaction_read_only', 'off', false)",
    ];
    let all = [&*long, &*nested].into_iter().chain(NO_SELECT.iter().copied());
    for statement in all.chain(in_a_transaction_that_reads) {
        let answer = query(&mut app, statement, &[]).await;
        assert!(matches!(answer, Err(SqlError::Statement(_))), "{statement:.60}: {answer:?}");
    }
    assert_eq!(server.ask("SELECT n FROM t").await, ["1"]);
    let made = "SELECT count(*) FROM pg_class WHERE relname = 'copied'";
    assert_eq!(server.ask(made).await, ["0"]);
    assert!(!Path::new("/tmp/telltale-copied").exists());
    for statement in [
        "SELECT n FROM t;",
        "SELECT n FROM t -- and no more",
        "/* first */ TABLE t ; \n",
        "VALUES (1)",
        "(SELECT 1)",
        "WITH one AS (SELECT 1) SELECT * FROM one",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i FROM n) SELECT i FROM n",
        "SELECT 1 WHERE ')' <> $$('--$$ AND '/*' <> '*/'",
    ] {
        let rows = query(&mut app, statement, &[]).await;
        assert_eq!(rows.map(|rows| rows.values), Ok(vec![Value::Integer(1)]), "{statement}");
    }
}

#[tokio::test]
async fn nothing_that_a_query_sets_is_there_for_the_next() {
    let Some(server) = Postgres::start().await else { return };
    server.sql("ALTER ROLE reader SET search_path = odd, public; CREATE SCHEMA odd").await;
    server.sql("ALTER ROLE reader SET TimeZone = 'Asia/Tokyo'").await;
    let mut app = granted(&server.address(), LIMIT);
    let settings = "SELECT current_setting('TimeZone'), current_setting('search_path'), \
                    current_setting('transaction_read_only'), \
                    current_setting('default_transaction_read_only'), \
                    current_setting('application_name')";
    let expected = ["UTC", "odd, public", "on", "on", "telltale"].map(text);
    for setting in ["TimeZone", "search_path", "default_transaction_read_only", "role"] {
        let value = if setting == "default_transaction_read_only" { "off" } else { "none" };
        let set = format!("SELECT set_config('{setting}', '{value}', false)");
        let _ = query(&mut app, &set, &[]).await;
        assert_eq!(query(&mut app, settings, &[]).await.unwrap().values, expected, "{setting}");
    }
}

#[tokio::test]
async fn an_answer_stops_at_its_limits() {
    let Some(server) = Postgres::start().await else { return };
    let mut app = granted(&server.address(), LIMIT);
    let series = "SELECT i FROM generate_series(1, $1) i";
    for (want, have, truncated) in [(10_000, 10_000, false), (10_001, 10_000, true)] {
        let rows = query(&mut app, series, &[Value::Integer(want)]).await.unwrap();
        assert_eq!((rows.values.len(), rows.truncated), (have, truncated));
    }
    let two = "SELECT repeat('x', CAST(n AS int)) FROM (VALUES ($1), ($2)) AS v (n)";
    let half = (1 << 19) - 16;
    for (first, second, have) in [(half, half, 2), (half, half + 1, 1), (1 << 20, 1, 0)] {
        let parameters = [Value::Integer(first), Value::Integer(second)];
        let rows = query(&mut app, two, &parameters).await.unwrap();
        assert_eq!((rows.values.len(), rows.truncated), (have, have < 2));
    }
    // More than may come at all: nothing, or what there was until then if it
    // was enough.
    let parameters = [Value::Integer(1000), Value::Integer(100_000_000)];
    let error = query(&mut app, two, &parameters).await.unwrap_err();
    let SqlError::Statement(words) = error else { panic!("{error:?}") };
    assert!(words.contains("more than 4 MiB"), "{words}");
    let many = "SELECT repeat('x', 100000) FROM generate_series(1, 9000)";
    let rows = query(&mut app, many, &[]).await.unwrap();
    assert_eq!((rows.values.len(), rows.truncated), (10, true));
    until_it_answers(&mut app).await;
}

#[tokio::test]
async fn a_value_that_is_too_large_is_not_loaded() {
    let Some(server) = Postgres::start().await else { return };
    let hub = Hub::new().start().await;
    let before = hub.program.resident_bytes();
    let statement = "SELECT repeat('x', 200000000)";
    hub.settings("greedy", &settings("query", statement, &server.address()));
    hub.drop_in("greedy", &guest("guest_collector"));
    // The server may take too long to make it at first.
    let refused = |plugin: &Json| plugin["reason"].to_string().contains("more than 4 MiB");
    hub.plugin_until("greedy", "be refused", refused).await;
    let status = fs::read_to_string(format!("/proc/{}/status", hub.program.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let more = (peak << 10).saturating_sub(before);
    assert!(more < 150 << 20, "{more} bytes more");
}

#[tokio::test]
async fn a_statement_that_never_ends_is_stopped_on_the_server_too() {
    let Some(server) = Postgres::start().await else { return };
    let limit = Duration::from_millis(100);
    let mut app = granted(&server.address(), limit);
    for statement in [
        "SELECT pg_sleep(3600)",
        "SELECT count(*) FROM generate_series(1, 1000000000000) i",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n",
    ] {
        assert_eq!(
            query(&mut app, statement, &[]).await,
            Err(SqlError::Timeout(limit)),
            "{statement}"
        );
    }
    let busy =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader' AND state = 'active'";
    within("the server to have stopped them", async {
        while server.ask(busy).await != ["0"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    until_it_answers(&mut app).await;
}

#[tokio::test]
async fn a_locked_table_is_not_waited_for_longer_than_a_query_may_take() {
    let Some(server) = Postgres::start().await else { return };
    server.sql("CREATE TABLE t AS SELECT 7 AS n").await;
    let limit = Duration::from_millis(200);
    let mut app = granted(&server.address(), limit);
    let mut other = granted(&server.address(), LIMIT);
    let locked = server.client("app").await.unwrap();
    locked.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    assert_eq!(query(&mut app, "SELECT n FROM t", &[]).await, Err(SqlError::Timeout(limit)));
    locked.batch_execute("COMMIT").await.unwrap();
    assert_eq!(query(&mut other, "TABLE t", &[]).await.unwrap().values, [Value::Integer(7)]);
}

#[tokio::test]
async fn a_server_that_was_away_is_asked_again() {
    let Some(mut server) = Postgres::start().await else { return };
    let mut app = granted(&server.address(), LIMIT);
    until_it_answers(&mut app).await;
    // Its connection was ended meanwhile: the next query has a new one.
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'";
    assert_eq!(server.ask(ended).await, ["t"]);
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader'";
    within("the connection to end", async {
        while server.ask(gone).await != ["0"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(query(&mut app, "SELECT 7", &[]).await.unwrap().values, [Value::Integer(7)]);
    for by_force in [true, false] {
        if by_force {
            server.kill();
        } else {
            server.stop().await;
        }
        // What is left of it may answer a moment longer.
        let place = format!("postgres://reader@127.0.0.1:{}/app: ", server.port());
        within("the server to be missed", async {
            loop {
                match query(&mut app, "SELECT 7", &[]).await {
                    Err(SqlError::Unavailable(words)) if words.contains("refused") => {
                        assert!(words.starts_with(&place), "{words}");
                        return;
                    }
                    other => assert!(!matches!(other, Err(SqlError::Statement(_))), "{other:?}"),
                }
            }
        })
        .await;
        server.restart().await;
        until_it_answers(&mut app).await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut app = granted(&format!("postgres://ana:pw@127.0.0.1:{port}/app"), LIMIT);
    let asked = app.query("app", "SELECT 7".to_owned(), vec![], LIMIT);
    let said = format!("postgres://ana@127.0.0.1:{port}/app: {LATE}");
    assert_eq!(within("an answer", asked).await, Err(SqlError::Unavailable(said)));
    let patience = Duration::from_millis(20);
    let asked = app.query("app", "SELECT 7".to_owned(), vec![], patience).await;
    assert!(matches!(asked, Err(SqlError::Unavailable(words)) if words.contains("within ")));
}

#[tokio::test]
async fn who_may_not_come_in_is_told_why() {
    let Some(server) = Postgres::start().await else { return };
    let port = server.port();
    for (address, words) in [
        (
            format!("postgres://reader:s3cret@127.0.0.1:{port}/app"),
            "password authentication failed",
        ),
        (format!("postgres://reader@127.0.0.1:{port}/app"), "password missing"),
        (server.address().replace("/app", "/none"), "database \"none\" does not exist"),
        (format!("{}?sslmode=require", server.address()), "server does not support TLS"),
    ] {
        let error = query(&mut granted(&address, LIMIT), "SELECT 7", &[]).await.unwrap_err();
        let SqlError::Unavailable(said) = error else { panic!("{error:?}") };
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("s3cret") && !said.contains(Postgres::PASSWORD), "{said}");
    }
}

#[tokio::test]
async fn a_server_can_be_reached_by_its_unix_socket() {
    let Some(server) = Postgres::start().await else { return };
    let (folder, port) = (server.folder().display(), server.port());
    let who = format!("reader:{}", Postgres::PASSWORD);
    let address = format!("postgres://{who}@/app?host={folder}&port={port}&sslmode=require");
    let mut app = granted(&address, LIMIT);
    let rows = query(&mut app, "SELECT inet_client_addr() IS NULL", &[]).await.unwrap();
    assert_eq!(rows.values, [Value::Integer(1)]);
}

#[tokio::test]
async fn a_table_that_changes_is_read_as_it_is() {
    let Some(server) = Postgres::start().await else { return };
    server.sql("CREATE TABLE t AS SELECT 1 AS n").await;
    let mut app = granted(&server.address(), LIMIT);
    assert_eq!(query(&mut app, "SELECT n FROM t", &[]).await.unwrap().values, [Value::Integer(1)]);
    // More statements than are kept prepared.
    for i in 0..40 {
        let rows = query(&mut app, &format!("SELECT n + {i} FROM t"), &[]).await.unwrap();
        assert_eq!(rows.values, [Value::Integer(1 + i)]);
    }
    assert!(query(&mut app, "SELECT n FROM t", &[]).await.is_ok());
    server.sql("ALTER TABLE t ALTER n TYPE text USING 'text ' || n").await;
    // The first may fail by what it was prepared for.
    let _ = query(&mut app, "SELECT n FROM t", &[]).await;
    assert_eq!(query(&mut app, "SELECT n FROM t", &[]).await.unwrap().values, [text("text 1")]);
    server.sql("DROP TABLE t").await;
    let error = query(&mut app, "SELECT n FROM t", &[]).await.unwrap_err();
    assert_eq!(error, SqlError::Statement("relation \"t\" does not exist".to_owned()));
}

/// Settings of a collector that asks, and shows what it is answered.
fn settings(way: &str, statement: &str, address: &str) -> String {
    format!(
        "{}statement = {statement:?}\n[grant]\nsql = {{ db = {address:?} }}\n\
         [limits]\nquery_ms = 5000\nio_ms = 60000\n",
        mode(way)
    )
}

#[tokio::test]
async fn a_plugin_reads_what_it_is_granted_and_nobody_sees_the_password() {
    let Some(mut server) = Postgres::start().await else { return };
    server.sql("CREATE TABLE t AS SELECT 'from the database' AS words").await;
    let address = server.address();
    let asking = settings("imports", "SELECT words, 1.5 AS half FROM t", &address);
    let hub = Hub::new().plugin("asking", "guest_collector", &asking).start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("documents", Json::Null).await;
    let mut document = ok["snapshot"].to_string();
    let read = |text: &str| text.contains("from the database") && text.contains("1.5");
    if !read(&document) {
        document = client.push_until("the rows", |push| read(&push.to_string())).await.to_string();
    }

    let role = "SELECT application_name FROM pg_stat_activity WHERE usename = 'reader'";
    assert_eq!(server.ask(role).await, ["telltale"], "one connection");
    server.kill();
    let push =
        client.push_until("the failure", |push| push.to_string().contains("Unavailable")).await;
    let mut seen = vec![push.to_string(), document];
    server.restart().await;
    client
        .push_until("the data again", |push| push.to_string().contains("from the database"))
        .await;
    // An address that can't be used, and what ran before goes on.
    hub.settings("asking", &asking.replace("/app", "/app?sslmode=verify-full"));
    hub.until("the refusal", async || {
        hub.program.stderr().contains("invalid value for option `sslmode`").then_some(())
    })
    .await;
    for path in ["/v1/plugins", "/v1/plugins/asking", "/v1/hub", "/metrics"] {
        seen.push(hub.get(path).await.body);
    }
    let folder = hub.path().to_owned();
    let inspected = telltale(&folder, &["plugin", "inspect", "asking"], &[]).await;
    seen.extend([inspected, hub.program.stdout(), hub.program.stderr()]);
    for seen in seen {
        assert!(!seen.contains(Postgres::PASSWORD), "{seen}");
    }
    // The connection ends with the instance.
    hub.settings("asking", &asking);
    hub.remove("asking");
    within("the connection to end", async {
        while !server.ask(role).await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What a command says, on either way out.
async fn telltale(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut environment = environment.to_vec();
    environment.push(("TELLTALE_DATA", "data"));
    let mut program = Program::start(folder, arguments, &environment);
    program.exit().await;
    program.stdout() + &program.stderr()
}

/// A certificate for 127.0.0.1 with its key, and the authority that signed it.
const CERTIFICATE: &str = include_str!("../host/src/plugin/http/tests/server.pem");
const AUTHORITY: &str = include_str!("../host/src/plugin/http/tests/authority.pem");

#[tokio::test]
async fn tls_is_trusted_or_not_used() {
    let files = [("server.pem", CERTIFICATE)];
    let lines = "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.pem'";
    let Some(server) = Postgres::start_with(lines, &files).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("authority.pem"), AUTHORITY).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()]).unwrap();
    fs::write(path("other.pem"), other.cert.pem()).unwrap();
    let component = guest_path("guest_collector");
    for (mode, roots, secured) in [
        ("require", "authority.pem", Ok(true)),
        ("require", "other.pem", Err("UnknownIssuer")),
        ("prefer", "authority.pem", Ok(true)),
        ("prefer", "other.pem", Ok(false)),
        ("disable", "authority.pem", Ok(false)),
    ] {
        // The statement itself says how it came.
        let asks = "SELECT 1 / (ssl::int) FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let address = format!("{}?sslmode={mode}", server.address());
        fs::write(path("p.toml"), settings("query", asks, &address)).unwrap();
        let command = ["plugin", "check", component.to_str().unwrap(), "--settings", "p.toml"];
        let roots_file = path(roots);
        let trusted = [("SSL_CERT_FILE", &*roots_file)];
        let said = loop {
            let said = telltale(folder.path(), &command, &trusted).await;
            if !said.contains(LATE) {
                break said;
            }
        };
        let failed = match secured {
            Ok(true) => None,
            Ok(false) => Some("division by zero"),
            Err(words) => Some(words),
        };
        let all = "Unavailable|division by zero|Timeout";
        match failed {
            Some(words) => assert!(said.contains(words), "{mode} {roots}: {said}"),
            None => assert!(!all.split('|').any(|w| said.contains(w)), "{mode} {roots}: {said}"),
        }
        assert!(said.contains("postgres://reader@127.0.0.1"), "{said}");
        assert!(!said.contains(Postgres::PASSWORD), "{said}");
    }
}
