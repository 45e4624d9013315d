//! The commands, and the one line that each says when it can't do its work.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitStatus;

use serde_json::Value;

use crate::harness::{Hub, Program, guest_path};

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) async fn run<A: AsRef<OsStr>>(
    folder: &Path,
    arguments: impl IntoIterator<Item = A>,
    environment: &[(&str, &str)],
) -> Outcome {
    let mut program = Program::start(folder, arguments, environment);
    let status = program.exit().await;
    Outcome { status, stdout: program.stdout(), stderr: program.stderr() }
}

/// A command must end with this code, and one line that says all of `words`.
#[track_caller]
fn fails(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.status.code(), Some(code), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("telltale: "), "{outcome:?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    for words in words {
        assert!(outcome.stderr.contains(words), "it does not say {words:?}: {outcome:?}");
    }
}

#[track_caller]
fn succeeds(outcome: &Outcome) {
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(outcome.stderr, "", "{outcome:?}");
}

/// The arguments of `serve` in a folder, and more.
fn serve(setup: &crate::harness::Setup, more: &[&str]) -> Vec<std::ffi::OsString> {
    let more = more.iter().map(std::ffi::OsString::from);
    setup.arguments().into_iter().chain(more).collect()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Hub::new();
    let outcome = run(setup.path(), serve(&setup, &["--listen", &address]), &[]).await;
    fails(&outcome, 1, &["cannot listen on", &address, "in use", "--listen"]);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_named() {
    let setup = Hub::new();
    fs::write(setup.path().join("file"), "").unwrap();
    let data = setup.path().join("file").join("data");
    let data = data.to_str().unwrap();
    let command = ["serve", "--listen", "127.0.0.1:0", "--data", data];
    fails(&run(setup.path(), command, &[]).await, 1, &[data]);
}

#[tokio::test]
async fn a_plugins_folder_that_cannot_be_made_is_named() {
    let setup = Hub::new();
    fs::write(setup.path().join("file"), "").unwrap();
    let plugins = setup.path().join("file").join("plugins");
    let plugins = plugins.to_str().unwrap();
    let command = ["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", plugins];
    fails(&run(setup.path(), command, &[]).await, 1, &[plugins]);
}

#[tokio::test]
async fn a_database_that_is_none_is_named() {
    let setup = Hub::new();
    fs::create_dir(setup.data()).unwrap();
    fs::write(setup.data().join("history.db"), "this is no database at all".repeat(100)).unwrap();
    let outcome = run(setup.path(), setup.arguments(), &[]).await;
    fails(&outcome, 1, &["history.db"]);
}

#[tokio::test]
async fn a_bad_configuration_is_told_with_its_line_and_key() {
    let setup = Hub::new();
    for (text, words) in [
        ("\ntikc = \"1s\"\n", vec!["telltale.toml", "line 2", "tikc"]),
        ("tick = \"soon\"\n", vec!["telltale.toml", "line 1", "soon", "tick"]),
        ("[retention]\n\nage = 5\n", vec!["telltale.toml", "line 3", "age"]),
        ("tick = \"10ms\"\n", vec!["tick = 10ms", "50 ms"]),
        ("listen = [\"0.0.0.0:0\"]\n", vec!["0.0.0.0:0", "auth.allow_open"]),
        ("[limits]\nconnections = 0\n", vec!["limits.connections"]),
        ("[tls]\nkey_file = \"k.pem\"\n", vec!["tls.key_file", "tls.certificate_file"]),
        ("tick = \n", vec!["telltale.toml", "line 1"]),
    ] {
        fs::write(setup.path().join("telltale.toml"), text).unwrap();
        for command in [&["config", "check"][..], &["serve", "--data", "data"], &[]] {
            fails(&run(setup.path(), command, &[]).await, 64, &words);
        }
    }
    fs::remove_file(setup.path().join("telltale.toml")).unwrap();
    fails(&run(setup.path(), ["serve", "--workers", "0"], &[]).await, 64, &["workers = 0"]);
    let missing = ["config", "check", "--config", "nowhere.toml"];
    fails(&run(setup.path(), missing, &[]).await, 64, &["nowhere.toml"]);
    assert!(!setup.data().exists(), "a bad configuration leaves nothing behind");
}

#[tokio::test]
async fn a_bad_variable_is_named() {
    let setup = Hub::new();
    for (name, value, words) in [
        ("TELLTALE_TICKK", "1s", "tickk"),
        ("TELLTALE_TICK", "soon", "soon"),
        ("TELLTALE_RETENTION_SIZE_MIB", "many", "many"),
    ] {
        let outcome = run(setup.path(), ["config", "check"], &[(name, value)]).await;
        fails(&outcome, 64, &[name, words]);
    }
}

#[tokio::test]
async fn a_good_configuration_is_in_order() {
    let setup = Hub::new();
    succeeds(&run(setup.path(), ["config", "check"], &[]).await);
    let file = setup.path().join("hub.toml");
    fs::write(&file, "tick = \"2s\"\n[retention]\nage = \"1d\"\n").unwrap();
    let command = [OsStr::new("config"), "check".as_ref(), "--config".as_ref(), file.as_ref()];
    let outcome = run(setup.path(), command, &[("TELLTALE_TICK", "500ms")]).await;
    succeeds(&outcome);
    assert!(outcome.stdout.contains("hub.toml"), "{outcome:?}");
}

#[tokio::test]
async fn a_second_hub_on_the_same_data_is_told_of_the_first() {
    let hub = Hub::new().start().await;
    let outcome = run(hub.path(), hub.setup().arguments(), &[]).await;
    let (folder, id) = (hub.setup().data(), hub.program.id().to_string());
    fails(&outcome, 1, &[folder.to_str().unwrap(), &id, &hub.0.to_string(), "--data"]);
    assert_eq!(hub.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_bundled_plugin_is_added_with_settings_that_explain_themselves() {
    let setup = Hub::unfurnished();
    let command = ["plugin", "add", "skills", "--plugins", "plugins"];
    let outcome = run(setup.path(), command, &[]).await;
    succeeds(&outcome);
    let settings = setup.plugins().join("skills.toml");
    let text = fs::read_to_string(&settings).unwrap();
    assert!(text.contains("[grant]") && text.starts_with("# "), "{text}");
    assert_eq!(
        fs::read(setup.plugins().join("skills.wasm")).unwrap(),
        fs::read(guest_path("telltale_skills")).unwrap()
    );
    assert_eq!(outcome.stdout.lines().count(), 2, "{outcome:?}");
    // Settings that are there are somebody's work.
    fs::write(&settings, "# mine\n").unwrap();
    succeeds(&run(setup.path(), command, &[]).await);
    assert_eq!(fs::read_to_string(&settings).unwrap(), "# mine\n");
}

#[tokio::test]
async fn a_component_is_added_to_a_hub_that_runs() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    let (plugins, file) = (hub.setup().plugins(), guest_path("guest_collector"));
    let command = [
        "plugin".as_ref(),
        "add".as_ref(),
        file.as_os_str(),
        "--plugins".as_ref(),
        plugins.as_ref(),
    ];
    succeeds(&run(hub.path(), command, &[]).await);
    client.event("loaded", "guest_collector").await;
}

#[tokio::test]
async fn what_cannot_be_added_is_told_why() {
    let setup = Hub::new();
    fs::write(setup.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    fs::write(setup.path().join("notes.txt"), "notes").unwrap();
    for (what, code, words) in [
        ("nonsense", 64, "neither a bundled plugin (system, novelty, zscore, ewma, "),
        ("notes.txt", 64, "notes.txt"),
        ("nowhere.wasm", 1, "nowhere.wasm"),
        ("core.wasm", 1, "no component"),
    ] {
        let command = ["plugin", "add", what, "--plugins", "plugins"];
        fails(&run(setup.path(), command, &[]).await, code, &[words]);
    }
    assert_eq!(fs::read_dir(setup.plugins()).unwrap().count(), 0);
}

#[tokio::test]
async fn plugins_are_listed() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "[config]\nseries = 3\n")
        .file("bad.wasm", "no component")
        .start()
        .await;
    hub.plugin_until("steady", "have its series", |plugin| plugin["series"] == 3).await;
    let data = hub.setup().data();
    let command = ["plugin".as_ref(), "list".as_ref(), "--data".as_ref(), data.as_os_str()];
    let outcome = run(hub.path(), command, &[]).await;
    succeeds(&outcome);
    let line = |name: &str| {
        let line = outcome.stdout.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} is not listed: {outcome:?}"))
    };
    for words in ["collector", "running", " 3 "] {
        assert!(line("steady").contains(words), "{outcome:?}");
    }
    assert!(line("bad").contains("refused"));
    assert!(outcome.stdout.contains("it is no component"), "{outcome:?}");
    assert!(outcome.stdout.contains("skills"), "what could be added is not told: {outcome:?}");
    let as_json = command.into_iter().chain(["--json".as_ref()]);
    let outcome = run(hub.path(), as_json, &[]).await;
    let list: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(list["plugins"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_a_hub_there_is_nothing_to_list() {
    let setup = Hub::new();
    let command = ["plugin", "list", "--data", "data"];
    fails(&run(setup.path(), command, &[]).await, 1, &["no hub runs", "data", "telltale serve"]);
    // Nor where one was killed and its hub.json is left.
    let hub = Hub::new().start().await;
    let setup = hub.kill();
    fails(&run(setup.path(), command, &[]).await, 1, &["hub"]);
}

#[tokio::test]
async fn a_start_says_where_the_hub_is_and_what_it_has() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "[config]\nseries = 3\n")
        .plugin("watcher", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 1e9\n")
        .file("bad.wasm", "no component")
        .start()
        .await;
    let all = hub
        .until("what a start says", async || {
            let said = hub.program.stdout();
            (said.contains("history") && said.contains("files")).then_some(said)
        })
        .await;
    let steady = all.lines().find(|line| line.trim_start().starts_with("steady"));
    assert!(steady.is_some_and(|line| line.ends_with("3 series")), "{all}");
    assert!(all.contains("watcher") && all.contains("it is no component"), "{all}");
    assert!(all.contains(&format!("http://{}/", hub.0)), "{all}");
}

#[tokio::test]
async fn log_lines_can_be_json() {
    let setup = Hub::new().file("bad.wasm", "no component");
    let mut program = Program::start(setup.path(), serve(&setup, &["--log-format", "json"]), &[]);
    crate::harness::within("a log line", async {
        while !program.stderr().contains("plugin refused") {
            assert!(program.runs());
            tokio::task::yield_now().await;
        }
    })
    .await;
    let log = program.stderr();
    let line = log.lines().find(|line| line.contains("plugin refused")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["fields"]["plugin"]), (&"WARN".into(), &"bad".into()));
}

#[tokio::test]
async fn help_names_every_command() {
    let setup = Hub::new();
    let outcome = run(setup.path(), ["--help"], &[]).await;
    succeeds(&outcome);
    for command in ["serve", "plugin", "config"] {
        assert!(outcome.stdout.contains(command), "{outcome:?}");
    }
}
