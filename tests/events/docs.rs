//! What `docs/events.md` says is done here.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use telltale::events::types::{KNOWN, Shape};

use super::{history, post, python};
use crate::harness::{Answer, Hub, within};
use crate::languages::workshop;

fn document() -> String {
    fs::read_to_string(workshop::root().join("docs/events.md")).unwrap()
}

fn blocks(language: &str) -> Vec<String> {
    let text = document();
    let fenced = text.split("```").skip(1).step_by(2);
    let of = |block: &str| {
        let (first, rest) = block.split_once('\n')?;
        (first == language).then(|| rest.to_owned())
    };
    fenced.filter_map(of).collect()
}

/// What an answer has to be like: the same but for what no two runs share, and
/// what `…` leaves out.
fn is_like(told: &Value, shown: &Value) -> bool {
    match (told, shown) {
        (Value::Object(told), Value::Object(shown)) => {
            told.len() == shown.len()
                && shown.iter().all(|(key, shown)| {
                    let differs = ["id", "offset", "next", "epoch", "time"].contains(&&**key);
                    told.get(key).is_some_and(|told| match differs {
                        true => told.is_string() == shown.is_string(),
                        false => is_like(told, shown),
                    })
                })
        }
        (Value::Array(told), Value::Array(shown)) => {
            told.len() == shown.len() && told.iter().zip(shown).all(|(a, b)| is_like(a, b))
        }
        (Value::String(told), Value::String(shown)) => match shown.split_once('…') {
            Some((start, _)) => told.starts_with(start),
            None => told == shown,
        },
        _ => told == shown,
    }
}

#[tokio::test]
async fn what_is_shown_of_http_is_so() {
    let hub = Hub::new().start().await;
    let shown = blocks("http");
    assert_eq!(shown.len(), 3);
    for block in shown {
        let (request, answer) = block.rsplit_once("\n\n").unwrap();
        let (status, wanted) = answer.trim().split_once('\n').unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
        let (method, path) = line.split_once(' ').unwrap();
        let told: Answer = match method {
            "GET" => hub.get(path).await,
            _ => post(&hub, path, &headers, body).await,
        };
        assert_eq!(told.status.to_string(), status, "{block}{told:?}");
        let wanted: Value = serde_json::from_str(wanted).unwrap();
        assert!(is_like(&told.json(), &wanted), "{block}{told:?}");
    }
}

#[tokio::test]
async fn what_is_shown_of_the_native_dialect_is_so() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let [block] = &blocks("json")[..] else { panic!() };
    let mut done = 0;
    for pair in block.lines().collect::<Vec<_>>().chunks(2) {
        let [command, reply] = pair else { panic!("{pair:?}") };
        client.send(command.strip_prefix("→ ").unwrap()).await;
        let told = client.reply().await;
        let reply: Value = serde_json::from_str(reply.strip_prefix("← ").unwrap()).unwrap();
        assert!(told["id"] == reply["id"] && is_like(&told, &reply), "{command}\n{told}");
        done += 1;
    }
    assert_eq!(done, 3);
}

#[tokio::test]
async fn the_commands_that_are_shown_work() {
    let hub = Hub::new().start().await;
    let [block] = &blocks("console")[..] else { panic!() };
    for line in block.lines().map(|line| line.strip_prefix("$ ").unwrap()) {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(hub.path()).stdin(Stdio::null());
        // What the build has told cargo is no configuration of a hub's.
        let names = std::env::vars().map(|(name, _)| name);
        names.filter(|name| name.starts_with("TELLTALE_")).for_each(|name| {
            command.env_remove(name);
        });
        command.env("PATH", workshop::path()).env("TELLTALE_DATA", hub.setup().data());
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within("the command to end", done).await.unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
    assert_eq!(history(&hub, "project:42").await.len(), 2);
    assert_eq!(history(&hub, "agent:7").await.len(), 3);
}

#[tokio::test]
async fn the_python_that_is_shown_works() {
    let hub = Hub::new().start().await;
    let [block] = &blocks("python")[..] else { panic!() };
    let program = block.replace("127.0.0.1:8765", &hub.0.to_string());
    let Some(offset) = python(hub.path(), &program).await else { return };
    let kept = history(&hub, "project:42").await;
    let kinds: Vec<_> = kept.iter().map(|kept| kept["entry"]["type"].clone()).collect();
    assert_eq!(kinds, ["pr.created", "deploy.finished"]);
    assert_eq!(kept[1]["offset"], offset);
    assert_eq!(history(&hub, "global").await[0]["entry"]["data"], json!({"build": 8}));
}

#[test]
fn the_types_and_their_fields_are_those_of_the_hub() {
    let text = document();
    let table: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .collect();
    for known in KNOWN {
        let name = format!("`{}`", known.kind);
        let row = table.iter().find(|(kinds, _)| kinds.split(' ').any(|kind| kind == name));
        let (_, told) = row.unwrap_or_else(|| panic!("{name} is not in the table"));
        // `texts `a` `b`; list `c``
        let told = told.trim_start_matches("the hub's own: ").split("; ").flat_map(|group| {
            let (shape, fields) = group.split_once(" `").unwrap();
            let fields = fields.trim_end_matches('`').split("` `").map(str::to_owned);
            fields.map(move |field| (field, shape.trim_end_matches('s').to_owned()))
        });
        let mut told: Vec<_> = told.collect();
        let mut fields: Vec<_> = known
            .fields
            .iter()
            .map(|(field, shape)| {
                let shape = match shape {
                    Shape::Id => "id",
                    Shape::Text => "text",
                    Shape::Number => "number",
                    Shape::Step => "text or number",
                    Shape::Flag => "flag",
                    Shape::List => "list",
                    Shape::Object => "object",
                };
                ((*field).to_owned(), shape.to_owned())
            })
            .collect();
        told.sort();
        fields.sort();
        assert_eq!(told, fields, "{name}");
    }
}

#[test]
fn the_configuration_that_is_shown_is_one() {
    let [block] = &blocks("toml")[..] else { panic!() };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telltale.toml");
    fs::write(&file, block).unwrap();
    let config = telltale::config::Config::load(Some(&file), []).unwrap();
    config.check().unwrap();
    let github = config.hooks.github;
    assert_eq!((github.projects.len(), github.users.len()), (1, 1));
    assert!(github.secret_file.is_some());
}
