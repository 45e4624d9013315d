//! What the documents say is done here: their commands, their code, their keys.

use std::fs;
use std::path::Path;

use telltale::config::Config;

use crate::harness::{Hub, Program};
use crate::languages::workshop::{Workshop, fingerprint};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

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
        let place = [("TELLTALE_DATA", "data")];
        let mut program = Program::start(hub.path(), command.split(' '), &place);
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
        ("auth.mode", row("auth.mode")),
        ("auth.allow_open", row("auth.allow_open")),
        ("cors.origins", row("cors.origins")),
        ("cors.credentials", row("cors.credentials")),
        ("proxy.trusted", row("proxy.trusted")),
        ("cache.url", row("cache.url")),
        ("routing.interval", row("routing.interval")),
        ("layouts.heartbeat", row("layouts.heartbeat")),
        ("layouts.size_mib", row("layouts.size_mib")),
        ("findings.open", row("findings.open")),
        ("retention.age", row("retention.age")),
        ("retention.size_mib", row("retention.size_mib")),
        ("limits.connections", row("limits.connections")),
        ("limits.connections_per_address", row("limits.connections_per_address")),
        ("limits.connections_per_user", row("limits.connections_per_user")),
        ("limits.handshakes", row("limits.handshakes")),
        ("limits.messages_per_second", row("limits.messages_per_second")),
        ("limits.publishes_per_second", row("limits.publishes_per_second")),
        ("limits.outbox_mib", row("limits.outbox_mib")),
        ("heartbeat.interval", row("heartbeat.interval")),
        ("drain.window", row("drain.window")),
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

/// The commands of a console block, without their prompts.
fn commands(block: &str) -> Vec<&str> {
    block.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
}

/// A hub for the commands of the documents, and what tells them where it is.
async fn hub_of_the_docs() -> (Hub, String) {
    let hub = Hub::new().start().await;
    let here = format!("export TELLTALE_DATA={}\n", hub.setup().data().display());
    (hub, here)
}

/// The way from nothing to a live plugin, if it has changed since it was gone
/// last.
async fn follow_the_way(block: &str) {
    let lines = commands(block);
    let [begin, enter, rest @ ..] = &lines[..] else { panic!("{block}") };
    assert_eq!(*enter, "cd dice");
    let workshop = Workshop::open().await;
    let folder = tempfile::tempdir().unwrap();
    workshop.run(begin, folder.path()).await.unwrap();
    let project = folder.path().join("dice");
    let key = format!("{block}{}", fingerprint(&project));
    if workshop.is_done(&key) {
        return;
    }
    workshop.lock_versions(&project);
    let (hub, here) = hub_of_the_docs().await;
    if workshop.run(&format!("{here}{}", rest.join("\n")), &project).await.is_none() {
        return;
    }
    let rolled = async || hub.series("dice.roll").await.first()?["value"].as_f64();
    let roll = hub.until("a roll of the dice", rolled).await;
    assert!((1.0..=6.0).contains(&roll), "{roll}");
    workshop.mark_done(&key);
}

#[tokio::test]
async fn the_way_from_nothing_to_a_live_plugin_is_as_it_is_told() {
    let blocks = blocks("docs/plugins.md", "console");
    let ways: Vec<_> = blocks.iter().filter(|block| block.contains("plugin new")).collect();
    assert_eq!(ways.len(), 4, "one for each language");
    for way in ways {
        follow_the_way(way).await;
    }
}

#[tokio::test]
async fn a_plugin_is_looked_after_as_it_is_told() {
    let blocks = blocks("docs/plugins.md", "console");
    let block = blocks.iter().find(|block| block.contains("plugin remove")).unwrap();
    let workshop = Workshop::open().await;
    let (hub, here) = hub_of_the_docs().await;
    let begin = "telltale plugin new dice --lang c --kind collector && telltale plugin build dice";
    if workshop.run(begin, hub.path()).await.is_none() {
        return;
    }
    let script = commands(block).join("\n");
    workshop.run(&format!("{here}{script}"), hub.path()).await.unwrap();
    assert_eq!(hub.plugin("dice").await, None, "it was removed");
    for command in ["new", "build", "check", "bench", "dev", "add", "list", "inspect", "logs"] {
        assert!(
            read("docs/plugins.md").contains(&format!("`telltale plugin {command}")),
            "{command}"
        );
    }
}

#[test]
fn the_sources_that_the_docs_show_are_those_of_new_projects() {
    for (language, file) in [
        ("rust", "rust/collector/src/lib.rs"),
        ("js", "js/collector/app.js"),
        ("python", "python/collector/app.py"),
        ("c", "c/collector/plugin.c"),
    ] {
        let source = read(&format!("host/templates/{file}")).replace("{{name}}", "dice");
        let blocks = blocks("docs/plugins.md", language);
        let shown = blocks.first().unwrap_or_else(|| panic!("none in {language}"));
        assert!(source.contains(shown.as_str()), "{file} has not:\n{shown}");
    }
}

#[test]
fn the_docs_know_each_key_of_the_settings() {
    let source = read("host/src/plugin/settings.rs");
    let keys = source.lines().filter_map(|line| line.trim().strip_prefix("pub(crate) "));
    let keys = keys.filter_map(|field| field.split_once(": ").map(|(key, _)| key));
    let keys = keys.filter(|key| !key.contains(' '));
    // Those of the cache's own table, and of what is not read from the file.
    let keys: Vec<_> =
        keys.filter(|key| !["own", "shared", "shared_write", "source"].contains(key)).collect();
    assert!(keys.len() > 20, "the keys were not found in the source");
    let text = read("docs/plugins.md");
    for key in keys {
        let known = text.contains(&format!("`{key}`"))
            || text.lines().any(|line| line.starts_with(key) || line == format!("[{key}]"))
            || text.contains(&format!("[{key}] "));
        assert!(known, "`{key}` is not documented");
    }
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
    for code in ["3001", "3008", "3013", "3500", "3503", "3504", "3505", "1011", "1003"] {
        assert!(text.contains(code), "close code {code} is not documented");
    }
}

#[test]
fn the_policys_table_has_its_defaults_and_its_example_is_understood() {
    let text = read("docs/detectors.md");
    let policy = text.split("\n## ").find(|part| part.starts_with("The policy")).unwrap();
    let rows = policy.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys: String = rows
        .map(|row| {
            let (key, rest) = row.split_once("` | ").unwrap();
            format!("{key} = {}\n", rest.split(" |").next().unwrap())
        })
        .collect();
    assert!(keys.lines().count() >= 8, "{keys}");
    let example = policy.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telltale.toml");
    fs::write(&file, format!("[findings]\n{keys}")).unwrap();
    assert_eq!(Config::load(Some(&file), []).unwrap(), Config::default());
    fs::write(&file, example).unwrap();
    let config = Config::load(Some(&file), []).unwrap();
    config.check().unwrap();
    assert_eq!((config.findings.rules.len(), config.findings.mute.len()), (1, 2));
}
