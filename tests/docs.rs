//! What the documents say is done here: their commands, their code, their keys.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use telltale::config::Config;

use crate::harness::{Hub, Program};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where what the documents' plugin depends on is kept from run to run.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/docs");

fn read(document: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(document)).unwrap()
}

/// The fenced blocks of a document in this language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = read(document);
    let fenced = text.split("```").skip(1).step_by(2);
    let of = |block: &str| {
        let (first, rest) = block.split_once('\n')?;
        (first == language).then(|| rest.to_owned())
    };
    fenced.filter_map(of).collect()
}

#[tokio::test]
async fn the_readmes_telltale_commands_work_on_a_running_hub() {
    let hub = Hub::new().start().await;
    let lines = blocks("README.md", "console").concat();
    let commands = lines.lines().filter_map(|line| line.strip_prefix("$ telltale "));
    let mut done = 0;
    for command in commands {
        let place = ["--data", "data", "--plugins", "plugins"];
        let arguments = command.split(' ').chain(place);
        let mut program = Program::start(hub.path(), arguments, &[]);
        assert!(program.exit().await.success(), "{command}: {}", program.stderr());
        done += 1;
    }
    assert!(done >= 2, "the README shows `telltale plugin list` and `add`");
    assert!(hub.path().join("plugins/skills.wasm").exists());
}

#[test]
fn the_readmes_table_of_keys_has_their_defaults() {
    let defaults = Config::default();
    let text = read("README.md");
    let row = |key: &str| {
        let start = format!("| `{key}` | `");
        let line = text.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("the README has no row of {key}"));
        line[start.len()..].split('`').next().unwrap().to_owned()
    };
    let toml = [
        ("listen", row("listen")),
        ("tick", row("tick")),
        ("data", row("data")),
        ("auth.allow_open", row("auth.allow_open")),
        ("cors.origins", row("cors.origins")),
        ("retention.age", row("retention.age")),
        ("retention.size_mib", row("retention.size_mib")),
        ("limits.connections", row("limits.connections")),
    ]
    .map(|(key, value)| format!("{key} = {value}\n"))
    .concat();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telltale.toml");
    fs::write(&file, toml).unwrap();
    assert_eq!(Config::load(Some(&file), []).unwrap(), defaults);
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").lines().count() < 200);
}

#[tokio::test]
async fn the_rust_plugin_of_the_docs_builds_and_measures() {
    let project = tempfile::tempdir().unwrap();
    let [manifest, example] = &blocks("docs/plugins.md", "toml")[..2] else {
        panic!("a manifest and settings are shown");
    };
    fs::create_dir(project.path().join("src")).unwrap();
    fs::write(project.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(project.path().join("src/lib.rs"), &blocks("docs/plugins.md", "rust")[0]).unwrap();
    // The same versions as the project's own, which are there without asking.
    fs::copy(Path::new(ROOT).join("Cargo.lock"), project.path().join("Cargo.lock")).unwrap();
    let wit = project.path().join("wit");
    fs::create_dir(&wit).unwrap();
    for file in fs::read_dir(Path::new(ROOT).join("wit")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), wit.join(file.file_name())).unwrap();
    }
    let build = blocks("docs/plugins.md", "console").concat();
    let build = build.lines().find_map(|line| line.strip_prefix("$ cargo ")).unwrap();
    let built = tokio::task::spawn_blocking({
        let (folder, arguments) = (project.path().to_owned(), build.to_owned());
        move || {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(arguments.split(' ')).current_dir(folder);
            cargo.env("CARGO_TARGET_DIR", KEPT).env("RUSTUP_TOOLCHAIN", toolchain());
            cargo.output().unwrap()
        }
    });
    let built = built.await.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let component = Path::new(KEPT).join("wasm32-wasip2/release/dice.wasm");
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.ok(json!({"op": "subscribe", "channel": "metrics", "filter": {"name": "dice.*"}})).await;
    let add = ["plugin", "add", component.to_str().unwrap(), "--plugins", "plugins"];
    let mut program = Program::start(hub.path(), add, &[]);
    assert!(program.exit().await.success(), "{}", program.stderr());
    let declared = loop {
        let push = client.next_push().await;
        if push.get("declare").is_some() {
            break push;
        }
    };
    let value = declared["values"][0][1].as_f64().unwrap();
    assert!((1.0..=6.0).contains(&value), "{declared}");
    assert!(example.contains("[grant]"), "the settings are shown too");
}

/// The toolchain that built this test: a folder elsewhere has no
/// rust-toolchain.toml to say so.
fn toolchain() -> String {
    let text = read("rust-toolchain.toml");
    let channel = text.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    channel.trim_matches('"').to_owned()
}

#[test]
fn every_close_code_and_error_code_is_in_the_protocols_document() {
    let text = read("docs/protocol.md");
    let sources = ["native.rs", "native/command.rs"]
        .map(|file| read(&format!("host/src/dialect/{file}")))
        .concat();
    let coded = sources.split("Refusal::new(").chain(sources.split("Self::new(")).skip(1);
    let codes = coded.filter_map(|after| after.trim_start().strip_prefix('"')?.split('"').next());
    let mut found = 0;
    for code in codes.filter(|code| code.contains('_')) {
        assert!(text.contains(&format!("`{code}`")), "{code} is not documented");
        found += 1;
    }
    assert!(found > 8, "the codes were not found in the source");
    for code in ["3001", "3008", "1011", "1003"] {
        assert!(text.contains(code), "close code {code} is not documented");
    }
}
