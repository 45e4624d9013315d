//! What a component imports, held against its settings.

use serde::Serialize;

use crate::plugin::settings::Grant;

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

/// What the hub would answer to calls of the interface `name`.
pub(super) fn import(name: &str, grant: &Grant) -> Import {
    let interface = name.split('@').next().unwrap_or_default();
    let granted = match interface {
        "telltale:plugin/sql" => {
            let databases = grant.sql.iter();
            let listed =
                databases.map(|(name, path)| format!("{name} = {:?}", path.display().to_string()));
            Some(("sql", in_braces(listed.collect()), r#"{ NAME = "/path/of/a.db" }"#))
        }
        "telltale:plugin/cache" => {
            Some(("cache", grant.cache.own.then(|| "true".to_owned()), "true"))
        }
        "telltale:plugin/disk" => Some(("disk", paths(&grant.disk), r#"["/"]"#)),
        "telltale:plugin/http" => Some(("http", list(&grant.http), r#"["localhost:9090"]"#)),
        _ if interface.starts_with("wasi:http/") => {
            Some(("http", list(&grant.http), r#"["localhost:9090"]"#))
        }
        "wasi:filesystem/types" | "wasi:filesystem/preopens" => {
            Some(("read", paths(&grant.read), r#"["/path/of/a/folder"]"#))
        }
        _ => None,
    };
    let name = name.to_owned();
    match granted {
        None => Import { name, answer: ImportAnswer::Open, line: None },
        Some((key, Some(what), _)) => {
            Import { name, answer: ImportAnswer::Granted, line: Some(format!("{key} = {what}")) }
        }
        Some((key, None, example)) => {
            Import { name, answer: ImportAnswer::Denied, line: Some(format!("{key} = {example}")) }
        }
    }
}

fn paths(paths: &[std::path::PathBuf]) -> Option<String> {
    list(&paths.iter().map(|path| path.display()).collect::<Vec<_>>())
}

fn list(items: &[impl ToString]) -> Option<String> {
    let listed: Vec<String> = items.iter().map(|item| format!("{:?}", item.to_string())).collect();
    (!listed.is_empty()).then(|| format!("[{}]", listed.join(", ")))
}

fn in_braces(listed: Vec<String>) -> Option<String> {
    (!listed.is_empty()).then(|| format!("{{ {} }}", listed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_open_granted_or_denied_with_the_line_to_add() {
        let grant = Grant {
            read: vec!["/proc".into()],
            sql: [("skills".to_owned(), "/s.db".into())].into(),
            ..Grant::default()
        };
        let check = |name: &str, answer: ImportAnswer, line: Option<&str>| {
            let found = import(name, &grant);
            assert_eq!((found.answer, found.line.as_deref()), (answer, line), "{name}");
        };
        check("wasi:cli/stdout@0.2.6", ImportAnswer::Open, None);
        check("telltale:plugin/log@0.1.0", ImportAnswer::Open, None);
        let line = r#"sql = { skills = "/s.db" }"#;
        check("telltale:plugin/sql@0.1.0", ImportAnswer::Granted, Some(line));
        check("telltale:plugin/cache@0.1.0", ImportAnswer::Denied, Some("cache = true"));
        check("telltale:plugin/disk@0.1.0", ImportAnswer::Denied, Some("disk = [\"/\"]"));
        let line = r#"read = ["/proc"]"#;
        check("wasi:filesystem/types@0.2.6", ImportAnswer::Granted, Some(line));
    }
}
