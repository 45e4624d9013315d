//! What a component imports, held against its settings.

use serde::Serialize;

use crate::sql::Source;

/// An interface that a component imports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Its full name, such as `telltale:plugin/sql@0.1.0`.
    pub name: String,
    /// What the hub would answer.
    pub answer: ImportAnswer,
    /// What is granted, or the line to add under `[grant]` in its settings.
    pub line: Option<String>,
}

/// What the hub answers to a call of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportAnswer {
    /// It is there for every plugin.
    Open,
    /// The settings grant something of it.
    Granted,
    /// Nothing of it is granted.
    Denied,
}

/// What the hub would answer to calls of the interface `name`, going by the
/// `[grant]` of the settings as it was written.
pub(super) fn import(name: &str, grant: &toml::Table) -> Import {
    let interface = name.split('@').next().unwrap_or_default();
    let needs = match interface {
        "telltale:plugin/sql" => Some(("sql", r#"{ NAME = "/path/of/a.db" }"#)),
        "telltale:plugin/cache" => Some(("cache", "true")),
        "telltale:plugin/disk" => Some(("disk", r#"["/"]"#)),
        "telltale:plugin/events" => Some(("events", r#"["build.*"]"#)),
        "telltale:plugin/http" | "wasi:http/outgoing-handler" => {
            Some(("http", r#"["localhost:9090"]"#))
        }
        "wasi:filesystem/types" | "wasi:filesystem/preopens" => {
            Some(("read", r#"["/path/of/a/folder"]"#))
        }
        _ => None,
    };
    let (answer, line) = match needs {
        None => (ImportAnswer::Open, None),
        Some((key, example)) => match grant.get(key).filter(|granted| grants(granted)) {
            Some(granted) => (ImportAnswer::Granted, Some(format!("{key} = {}", shown(granted)))),
            None => (ImportAnswer::Denied, Some(format!("{key} = {example}"))),
        },
    };
    Import { name: name.to_owned(), answer, line }
}

/// A value under `[grant]` without the passwords of its addresses.
fn shown(value: &toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) if text.contains("://") => match Source::parse(text) {
            Ok(source) => source.to_string().into(),
            Err(_) => "…".into(),
        },
        toml::Value::Table(table) => {
            let shown = table.iter().map(|(name, value)| (name.clone(), shown(value)));
            toml::Value::Table(shown.collect())
        }
        other => other.clone(),
    }
}

/// Whether a value under `[grant]` grants anything.
fn grants(value: &toml::Value) -> bool {
    match value {
        toml::Value::Boolean(granted) => *granted,
        toml::Value::Array(granted) => !granted.is_empty(),
        toml::Value::Table(granted) => !granted.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_open_granted_or_denied_with_the_line_to_add() {
        let grant = r#"
            read = ["/proc"]
            sql = { app = "postgres://ana:s3cret@db/app", skills = "/s.db" }
            http = ["localhost:9090", "*.example.com"]
            cache = false
            events = { types = ["build.*"], rooms = ["project:*"] }
            disk = []
        "#;
        let grant = toml::from_str(grant).unwrap();
        let check = |name: &str, answer: ImportAnswer, line: Option<&str>| {
            let found = import(name, &grant);
            assert_eq!((found.answer, found.line.as_deref()), (answer, line), "{name}");
        };
        check("wasi:cli/stdout@0.2.6", ImportAnswer::Open, None);
        check("wasi:http/types@0.2.6", ImportAnswer::Open, None);
        check("telltale:plugin/log@0.1.0", ImportAnswer::Open, None);
        let line = r#"sql = { app = "postgres://ana@db:5432/app", skills = "/s.db" }"#;
        check("telltale:plugin/sql@0.1.0", ImportAnswer::Granted, Some(line));
        let line = r#"http = ["localhost:9090", "*.example.com"]"#;
        check("telltale:plugin/http@0.1.0", ImportAnswer::Granted, Some(line));
        check("wasi:http/outgoing-handler@0.2.6", ImportAnswer::Granted, Some(line));
        let line = r#"events = { rooms = ["project:*"], types = ["build.*"] }"#;
        check("telltale:plugin/events@0.1.0", ImportAnswer::Granted, Some(line));
        check("telltale:plugin/cache@0.1.0", ImportAnswer::Denied, Some("cache = true"));
        check("telltale:plugin/disk@0.1.0", ImportAnswer::Denied, Some("disk = [\"/\"]"));
        let line = r#"read = ["/proc"]"#;
        check("wasi:filesystem/types@0.2.6", ImportAnswer::Granted, Some(line));
    }
}
