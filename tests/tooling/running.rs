//! The commands that speak with a running hub.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::{exits, has_clang};
use crate::cli::{Outcome, run};
use crate::harness::{Hub, Program, mode, within};

/// The arguments of `telltale plugin …` on a hub.
fn arguments(hub: &Hub, command: &[&str]) -> Vec<OsString> {
    let data = [OsString::from("--data"), hub.setup().data().into()];
    let command = command.iter().map(OsString::from);
    [OsString::from("plugin")].into_iter().chain(command).chain(data).collect()
}

async fn plugin(hub: &Hub, command: &[&str]) -> Outcome {
    run(hub.path(), arguments(hub, command), &[]).await
}

/// The same as JSON.
async fn asked(hub: &Hub, command: &[&str]) -> Value {
    let outcome = plugin(hub, &[command, &["--json"]].concat()).await;
    exits(&outcome, 0, &[]);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// Waits until a program that goes on has said all of `words`.
async fn says(program: &mut Program, words: &[&str]) {
    within(&format!("{words:?}"), async {
        loop {
            let said = format!("{}{}", program.stdout(), program.stderr());
            if words.iter().all(|words| said.contains(words)) {
                return;
            }
            assert!(program.runs(), "it ended before it said {words:?}: {said}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Ends a program as Ctrl-C does; it must call that a success.
async fn interrupted(mut program: Program) {
    program.signal(Signal::INT);
    let status = program.exit().await;
    assert!(status.success(), "{status:?}: {}", program.stderr());
}

#[tokio::test]
async fn a_plugin_is_listed_with_its_costs_and_inspected() {
    let hub = Hub::new()
        .plugin("keeper", "guest_keeper", "")
        .plugin("steady", "guest_collector", "[config]\nseries = 3\n")
        .start()
        .await;
    hub.plugin_until("steady", "have its series", |plugin| plugin["series"] == 3).await;
    let list = plugin(&hub, &["list"]).await;
    exits(&list, 0, &[]);
    let head = list.stdout.lines().next().unwrap();
    for column in ["COMPONENT", "HANDOVER", "FAULTS", "MEMORY", "MEAN CALL"] {
        assert!(head.contains(column), "{list:?}");
    }
    let steady = list.stdout.lines().find(|line| line.starts_with("steady")).unwrap();
    for words in ["cold", "MiB", "µs"] {
        assert!(steady.contains(words), "{words}: {list:?}");
    }
    let shown = plugin(&hub, &["inspect", "steady"]).await;
    exits(&shown, 0, &[]);
    for words in [
        "collector, telltale:plugin@0.1.0, at every tick",
        "running since",
        "telltale:plugin/sql@0.1.0",
        "telltale:plugin/collect@0.1.0",
        "compiled",
        "mean ",
        "guest.value{n=0}  gauge in 1",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {shown:?}");
    }
    let details = asked(&hub, &["inspect", "keeper"]).await;
    assert_eq!((&details["name"], &details["role"]), (&"keeper".into(), &"collector".into()));
    assert_eq!(details["series_list"][0]["name"], "keeper.count");
}

#[tokio::test]
async fn a_name_that_no_plugin_has_is_told_with_the_one_that_was_meant() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    for command in ["inspect", "logs", "resume", "remove"] {
        let outcome = plugin(&hub, &[command, "staedy"]).await;
        exits(&outcome, 1, &["no plugin `staedy`", "did you mean `steady`?"]);
        let outcome = plugin(&hub, &[command, "a/../b"]).await;
        exits(&outcome, 1, &["no plugin `a/../b`", "the hub has steady"]);
    }
}

#[tokio::test]
async fn what_a_plugin_says_is_read_and_followed() {
    let hub = Hub::new().plugin("loud", "guest_collector", &mode("panic")).start().await;
    hub.plugin_until("loud", "fail twice", |plugin| plugin["faults"].as_u64() >= Some(2)).await;
    let all = plugin(&hub, &["logs", "loud"]).await;
    exits(&all, 0, &[]);
    assert!(all.stdout.contains("WARN  asked to panic"), "{all:?}");
    let last = plugin(&hub, &["logs", "loud", "-n", "1", "--json"]).await;
    exits(&last, 0, &[]);
    assert_eq!(last.stdout.lines().count(), 1, "{last:?}");
    let line: Value = serde_json::from_str(last.stdout.trim()).unwrap();
    let seen = line["seq"].as_u64().unwrap();
    // What comes afterwards is shown as it comes, each line once.
    let command = arguments(&hub, &["logs", "loud", "-f", "-n", "1", "--json"]);
    let mut following = Program::start(hub.path(), command, &[]);
    within("lines that follow", async {
        while following.stdout().lines().count() < 4 {
            assert!(following.runs());
            tokio::task::yield_now().await;
        }
    })
    .await;
    let said = following.stdout();
    let number = |line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    let numbers: Vec<u64> = said.lines().take(4).map(number).collect();
    assert!(numbers[0] >= seen, "{numbers:?} after {seen}");
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    interrupted(following).await;
}

#[tokio::test]
async fn a_plugin_that_was_stopped_is_resumed() {
    let hub = Hub::new().plugin("broken", "guest_collector", &mode("panic")).start().await;
    hub.state("broken", "quarantined").await;
    let faults = hub.plugin("broken").await.unwrap()["faults"].as_u64();
    let answer = asked(&hub, &["resume", "broken"]).await;
    assert_eq!(answer["plugin"], "broken");
    hub.plugin_until("broken", "be tried again", |plugin| plugin["faults"].as_u64() > faults).await;
}

#[tokio::test]
async fn a_plugin_is_removed_and_its_settings_only_when_asked() {
    let settings = "[config]\nseries = 2\n";
    let hub = Hub::new()
        .plugin("one", "guest_collector", settings)
        .plugin("two", "guest_collector", settings)
        .start()
        .await;
    let plugins = hub.setup().plugins();
    let there = |file: &str| plugins.join(file).exists();
    let outcome = plugin(&hub, &["remove", "one"]).await;
    exits(&outcome, 0, &[]);
    assert!(
        outcome.stdout.contains("one.wasm") && outcome.stdout.contains("--purge"),
        "{outcome:?}"
    );
    assert!(!there("one.wasm") && there("one.toml"));
    let answer = asked(&hub, &["remove", "two", "--purge"]).await;
    assert!(!there("two.wasm") && !there("two.toml"), "{answer}");
    for name in ["one", "two"] {
        let what = format!("{name} to be gone");
        hub.until(&what, async || hub.plugin(name).await.is_none().then_some(())).await;
    }
}

/// A project in C in the hub's folder.
async fn project(hub: &Hub, name: &str) {
    let command = ["plugin", "new", name, "--lang", "c", "--kind", "collector"];
    let outcome = run(hub.path(), command, &[]).await;
    exits(&outcome, 0, &[]);
}

/// Puts `to` in the place of `from` in the project's source.
fn edit(folder: &Path, name: &str, from: &str, to: &str) {
    let file = folder.join(name).join("plugin.c");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn a_project_is_built_and_run_once() {
    if !has_clang() {
        return;
    }
    let hub = Hub::new().start().await;
    project(&hub, "dice").await;
    let first = plugin(&hub, &["dev", "dice", "--once"]).await;
    exits(&first, 0, &[]);
    for words in ["built dice/dice.wasm", "loaded, state cold", "dice.roll"] {
        assert!(first.stdout.contains(words), "{words}: {first:?}");
    }
    let again = plugin(&hub, &["dev", "dice", "--once"]).await;
    exits(&again, 0, &[]);
    assert!(again.stdout.contains("the hub runs it already"), "{again:?}");
    // Settings beside the sources go with it.
    fs::write(hub.path().join("dice/dice.toml"), "interval = \"300ms\"\n").unwrap();
    edit(hub.path(), "dice", "dice.roll", "dice.throw");
    let changed = plugin(&hub, &["dev", "dice", "--once", "--json"]).await;
    exits(&changed, 0, &[]);
    assert!(changed.stdout.contains(r#""series":"dice.throw"#), "{changed:?}");
    hub.plugin_until("dice", "have its interval", |plugin| plugin["interval_ms"] == 300).await;
}

#[tokio::test]
async fn a_version_that_the_hub_refuses_is_told_with_the_reason() {
    if !has_clang() {
        return;
    }
    let hub = Hub::new().start().await;
    project(&hub, "dice").await;
    // `false` is a fault, and one of all zeros is `retry("")`.
    edit(hub.path(), "dice", "(config_json);\n  return true;", "(config_json);\n  return false;");
    edit(hub.path(), "dice", "  (void)err;", "  *err = (__typeof__(*err)){0};");
    let outcome = plugin(&hub, &["dev", "dice", "--once"]).await;
    exits(&outcome, 1, &["the hub does not run it"]);
    assert!(outcome.stdout.contains("refused: "), "{outcome:?}");
}

#[tokio::test]
async fn a_project_is_built_and_reloaded_at_each_change() {
    if !has_clang() {
        return;
    }
    let hub = Hub::new().start().await;
    project(&hub, "dice").await;
    let mut dev = Program::start(hub.path(), arguments(&hub, &["dev", "dice"]), &[]);
    says(&mut dev, &["loaded", "dice.roll"]).await;
    edit(hub.path(), "dice", "#include \"dice.h\"", "#include \"dice.h\"\nnonsense");
    says(&mut dev, &["plugin.c", "error:", "clang failed"]).await;
    assert_eq!(hub.state("dice", "running").await["faults"], 0);
    edit(hub.path(), "dice", "nonsense", "");
    edit(hub.path(), "dice", "dice.roll", "dice.throw");
    says(&mut dev, &["reloaded at tick", "dice.throw"]).await;
    interrupted(dev).await;
    assert_eq!(hub.series("dice.throw").await.len(), 1, "it stays");
}
