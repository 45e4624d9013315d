use super::*;

fn refused(text: &str) -> String {
    Address::parse(text).unwrap_err()
}

#[test]
fn an_address_is_shown_without_its_password() {
    for (text, shown) in [
        ("postgres://ana:s3cret@db.example/app", "postgres://ana@db.example:5432/app"),
        ("postgresql://ana:s3cret@10.0.0.1:6432/app", "postgres://ana@10.0.0.1:6432/app"),
        ("postgres://ana:s3cret@[::1]:1/app?sslmode=require", "postgres://ana@[::1]:1/app"),
        ("postgres://ana:s3cret@/app?host=/run/pg", "postgres://ana@/app?host=/run/pg"),
        ("postgres://h/app?user=ana&password=s3cret", "postgres://ana@h:5432/app"),
        ("postgres://ana@h", "postgres://ana@h:5432/ana"),
        ("postgres://ana:s3cret%40%2F@h/app", "postgres://ana@h:5432/app"),
    ] {
        let address = Address::parse(text).unwrap();
        assert_eq!(address.to_string(), shown, "{text}");
        assert!(!format!("{address:?}").contains("s3cret"), "{address:?}");
        assert_eq!(address.0.get_application_name(), Some("telltale"));
    }
}

#[test]
fn an_address_that_can_not_be_used_is_refused_without_being_told() {
    for (text, words) in [
        ("postgres://ana:s3@cret@h/app", "has more than one @"),
        ("postgres://ana:s3cret@h:port/app", "invalid value for option `port`"),
        ("postgres://ana:s3cret@h/app?sslmode=verify-full", "invalid value for option `sslmode`"),
        ("postgres://ana:s3cret@h/app?s3cret=1", "is no address of a PostgreSQL database"),
        ("postgres://ana:s3cret@h/app?x", "is no address of a PostgreSQL database"),
        ("postgres://ana:s3cret@/app", "names not one host"),
        ("postgres://ana:s3cret@a,b/app", "names not one host"),
        ("postgres://ana:s3cret@h/app?hostaddr=10.0.0.1", "names not one host"),
        ("postgres://h/app?password=s3cret", "names no user"),
        ("postgres://ana:s3cret@h/app?target_session_attrs=read-only", "is for several hosts"),
    ] {
        let said = refused(text);
        assert!(said.contains(words) && !said.contains("s3"), "{text}: {said}");
    }
}

#[test]
fn a_statement_is_wrapped_with_a_cast_for_each_column() {
    let domain = Type::new("score".to_owned(), 70_000, Kind::Domain(Type::NUMERIC), String::new());
    let other = Type::new("mood".to_owned(), 70_001, Kind::Simple, String::new());
    let types = [Type::BOOL, Type::INT4, Type::NUMERIC, Type::BYTEA, Type::UUID, domain, other];
    assert_eq!(
        wrap("SELECT 1 -- one", types.iter()),
        "SELECT CAST(CAST(q.c0 AS integer) AS bigint), CAST(q.c1 AS bigint), \
         CAST(q.c2 AS double precision), CAST(q.c3 AS bytea), CAST(q.c4 AS text), \
         CAST(q.c5 AS double precision), CAST(q.c6 AS text) FROM (\nSELECT 1 -- one\n) AS q \
         (c0, c1, c2, c3, c4, c5, c6) LIMIT 10001"
    );
    for (statement, without) in [("SELECT 1", "SELECT 1"), ("SELECT 1 ;\n; ", "SELECT 1")] {
        assert_eq!(bare(statement), without);
    }
}
