//! The life of a plugin: it comes, changes, is replaced, and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Hub, Native, SkillsDatabase, guest, mode, version_of};
use crate::native::follows;

/// The settings that the bundled `system` comes with.
const SYSTEM: &str = include_str!("../plugins/system/system.toml");

/// A client that watches the series of these names and the hub channel.
async fn watch(hub: &Hub, name: &str) -> Native {
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": name})).await;
    client.subscribe("hub", Value::Null).await;
    client
}

/// Waits for a push that declares a series; its number and the push.
async fn declared(client: &mut Native, name: &str) -> (Value, Value) {
    let find = |push: &Value| {
        let declare = push["declare"].as_array()?;
        declare.iter().find(|series| series["name"] == name).map(|series| series["id"].clone())
    };
    let what = format!("a push that declares {name}");
    let push = client.push_until(&what, |push| find(push).is_some()).await;
    (find(&push).unwrap(), push)
}

#[tokio::test]
async fn a_component_that_is_renamed_into_the_folder_is_live() {
    let hub = Hub::new().start().await;
    let mut client = watch(&hub, "guest.*").await;
    hub.drop_in("steady", &guest("guest_collector"));
    let (id, push) = declared(&mut client, "guest.value").await;
    assert_eq!(Native::value(&push, &id), push["tick"].as_f64());
    let plugin = hub.plugin("steady").await.unwrap();
    assert_eq!((&plugin["state"], &plugin["cached"]), (&json!("running"), &json!(false)));
}

#[tokio::test]
async fn a_component_that_is_being_written_waits_until_it_is_closed() {
    let hub = Hub::new().plugin("old", "guest_collector", "").start().await;
    let mut client = watch(&hub, "guest.*").await;
    let component = guest("guest_collector");
    let fresh = hub.begin_to_write("fresh", &component);
    let old = hub.begin_to_write("old", &version_of(&component, 1));
    let mut ticks = hub.ticks().await;
    for _ in 0..5 {
        ticks.next_push().await;
    }
    assert_eq!(hub.plugin("fresh").await, None);
    assert_eq!(hub.state("old", "running").await["reason"], Value::Null);
    fresh.finish();
    old.finish();
    // Nothing was refused on the way: these are the first that is heard of them.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let push = client.push_until("an event", |push| push["push"] == "hub").await;
        heard.push((push["entry"]["event"].clone(), push["entry"]["plugin"].clone()));
    }
    heard.sort_by_key(|(event, _)| event.to_string());
    let wanted = [(json!("loaded"), json!("fresh")), (json!("reloaded"), json!("old"))];
    assert_eq!(heard, wanted);
}

#[tokio::test]
async fn replacing_a_plugin_twenty_times_costs_fifty_clients_no_tick() {
    let hub = Hub::new().tick_ms(500).plugin("system", "telltale_system", SYSTEM).start().await;
    let last_tick = Arc::new(AtomicU64::new(u64::MAX));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = hub.native().await;
        let last_tick = last_tick.clone();
        clients.spawn(async move {
            let ok = client.subscribe("metrics", json!({"name": "system.memory.*"})).await;
            assert!(!ok["snapshot"]["series"].as_array().unwrap().is_empty(), "{ok}");
            let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
            while tick < last_tick.load(Ordering::Relaxed) {
                let push = client.next_push().await;
                assert_eq!(push.get("skipped"), None, "a tick was skipped: {push}");
                assert_eq!(push.get("gone"), None, "a series went: {push}");
                tick = follows(tick, &push);
            }
        });
    }
    let mut client = watch(&hub, "telltale.tick.lateness").await;
    let system = guest("telltale_system");
    let mut reloaded_at = 0;
    for version in 1..=20 {
        hub.drop_in("system", &version_of(&system, version));
        let event = client.event("reloaded", "system").await;
        assert!(event["tick"].as_u64().unwrap() > reloaded_at, "{event}");
        reloaded_at = event["tick"].as_u64().unwrap();
    }
    last_tick.store(reloaded_at + 3, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_plugin_that_is_removed_takes_its_series_with_it() {
    let hub = Hub::new()
        .plugin("leaving", "guest_collector", "[config]\nseries = 2\n")
        .plugin("staying", "guest_collector", "")
        .start()
        .await;
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let of = |plugin: &str| -> Vec<Value> {
        let series = ok["snapshot"]["series"].as_array().unwrap().iter();
        series.filter(|s| s["plugin"] == plugin).map(|s| s["id"].clone()).collect()
    };
    assert_eq!((of("leaving").len(), of("staying").len()), (2, 1));
    hub.remove("leaving");
    let push = client.push_until("series to go", |push| push["gone"].is_array()).await;
    assert_eq!(push["gone"], json!(of("leaving")));
    let left = hub.series("guest.value").await;
    assert_eq!(left.iter().map(|s| s["id"].clone()).collect::<Vec<_>>(), of("staying"));
    hub.until("the plugin to be gone", async || {
        hub.plugin("leaving").await.is_none().then_some(())
    })
    .await;
    // It comes back, and its series are the same.
    hub.drop_in("leaving", &guest("guest_collector"));
    let (id, _) = declared(&mut client, "guest.value").await;
    assert!(of("leaving").contains(&id), "{id} is none of {:?}", of("leaving"));
}

#[tokio::test]
async fn changed_settings_reconfigure_a_plugin_in_place() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut client = watch(&hub, "guest.*").await;
    let before = hub.series("guest.value").await[0]["id"].clone();
    hub.settings("steady", "[config]\nname = \"guest.other\"\n");
    let (after, push) = declared(&mut client, "guest.other").await;
    assert_ne!(before, after);
    assert_eq!(push["gone"], json!([before]), "{push}");
    let plugin = hub.plugin("steady").await.unwrap();
    assert_eq!((&plugin["restarts"], &plugin["state"]), (&json!(0), &json!("running")));
    // Settings that are taken away are the defaults again.
    std::fs::remove_file(hub.setup().plugins().join("steady.toml")).unwrap();
    let (id, _) = declared(&mut client, "guest.value").await;
    assert_eq!(id, before);
}

#[tokio::test]
async fn an_interval_is_kept_and_the_series_stay_fresh_in_between() {
    let hub = Hub::new().plugin("rare", "guest_collector", "interval = \"500ms\"\n").start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let id = ok["snapshot"]["series"][0]["id"].clone();
    let (mut values, mut stale) = (Vec::new(), 0);
    while values.len() < 3 {
        let push = client.next_push().await;
        stale += push.get("stale").map_or(0, |stale| usize::from(stale[0]["code"] != "late"));
        values.extend(Native::value(&push, &id));
    }
    assert_eq!(stale, 0);
    // A value is the number of its tick: each fifth, more or less where the
    // machine was busy.
    assert!(values.windows(2).all(|pair| pair[1] - pair[0] >= 4.0), "{values:?}");
    assert_eq!(hub.plugin("rare").await.unwrap()["interval_ms"], 500);
}

#[tokio::test]
async fn a_collector_that_nobody_watches_idles_until_its_settings_change() {
    let idle = "interval_idle = \"1h\"\n";
    let hub = Hub::new().plugin("rare", "guest_collector", idle).start().await;
    let series = async || hub.series("guest.value").await.first().cloned();
    let value = async || series().await?["value"].as_f64();
    let first = hub.until("a value", value).await;
    // Its first two answers may be a tick apart.
    let tick = |value: &Value| value["tick"].as_u64().unwrap();
    let begun = tick(&hub.get_json("/healthz").await);
    hub.until("ten more ticks", async || {
        (tick(&hub.get_json("/healthz").await) > begun + 10).then_some(())
    })
    .await;
    let held = series().await.unwrap();
    assert!(held["value"].as_f64().unwrap() <= first + 3.0, "{held}");
    assert_eq!((held.get("stale"), &held["interval_ms"]), (None, &json!(100)), "{held}");
    assert_eq!(hub.plugin("rare").await.unwrap()["interval_idle_ms"], 3_600_000);

    hub.settings("rare", "");
    let from = held["value"].as_f64().unwrap();
    let asked_again = async || value().await.filter(|value| *value > from + 20.0);
    hub.until("values at every tick", asked_again).await;
    let plugin = hub.plugin("rare").await.unwrap();
    assert_eq!((&plugin["restarts"], &plugin["interval_idle_ms"]), (&json!(0), &Value::Null));
    // Back to idle, in place too.
    hub.settings("rare", idle);
    hub.plugin_until("rare", "idle again", |plugin| plugin["interval_idle_ms"] == 3_600_000).await;
}

#[tokio::test]
async fn a_detector_is_never_idle() {
    let hub = Hub::new()
        .plugin("zscore", "telltale_zscore", "interval_idle = \"1m\"\n")
        .plugin("watcher", "guest_detector", "")
        .start()
        .await;
    let words = "interval_idle = 60s is for collectors";
    let plugin = hub.state("zscore", "refused").await;
    let reason = plugin["reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("zscore.toml: {words}")), "{reason}");
    hub.settings("watcher", "interval_idle = \"1m\"\n");
    let says =
        |plugin: &Value| plugin["reason"].as_str().is_some_and(|reason| reason.contains(words));
    let plugin = hub.plugin_until("watcher", "say why", says).await;
    assert_eq!(plugin["state"], "running", "{plugin}");
}

// State.

/// Waits until the keeper has counted to at least `least`.
async fn counted(hub: &Hub, least: f64) -> f64 {
    hub.until(&format!("a count of {least}"), async || {
        hub.series("keeper.count").await.first()?["value"].as_f64().filter(|count| *count >= least)
    })
    .await
}

/// Changes the keeper with `change`; its count must go on from where it was.
async fn goes_on_counting(hub: &Hub, change: impl FnOnce(), handover: &str) {
    let before = counted(hub, 5.0).await;
    let mut client = watch(hub, "keeper.*").await;
    change();
    let (mut last, mut reloaded, mut after) = (before, false, 0);
    while after < 3 {
        let push = client.next_push().await;
        if push["push"] == "hub" {
            assert_eq!(push["entry"]["event"], "reloaded", "{push}");
            assert_eq!(push["entry"]["handover"], handover, "{push}");
            reloaded = true;
        }
        for pair in push["values"].as_array().into_iter().flatten() {
            let count = pair[1].as_f64().unwrap();
            assert!(count >= last, "from {last} to {push}");
            last = count;
            after += usize::from(reloaded);
        }
    }
    assert!(last > before);
    assert_eq!(hub.plugin("keeper").await.unwrap()["handover"], handover);
}

#[tokio::test]
async fn state_survives_a_reload() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    let other = version_of(&guest("guest_keeper"), 1);
    goes_on_counting(&hub, || hub.drop_in("keeper", &other), "restored").await;
}

#[tokio::test]
async fn state_of_another_version_is_migrated() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    // Other grants come with another instance.
    let settings = "[config]\nversion = 2\n[grant]\ncache = true\n";
    goes_on_counting(&hub, || hub.settings("keeper", settings), "migrated").await;
}

#[tokio::test]
async fn state_survives_a_restart_of_the_hub() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    let before = counted(&hub, 5.0).await;
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
    let hub = setup.start().await;
    let after = hub.series("keeper.count").await[0]["value"].as_f64().unwrap();
    assert!(after > before, "from {before} to {after}");
    assert_eq!(hub.plugin("keeper").await.unwrap()["handover"], "restored");
}

#[tokio::test]
async fn state_survives_a_removal() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    let before = counted(&hub, 5.0).await;
    let mut client = watch(&hub, "keeper.*").await;
    hub.remove("keeper");
    client.event("removed", "keeper").await;
    hub.drop_in("keeper", &guest("guest_keeper"));
    assert_eq!(client.event("loaded", "keeper").await["handover"], "restored");
    counted(&hub, before + 1.0).await;
}

#[tokio::test]
async fn a_detector_that_is_replaced_keeps_its_state_and_its_open_findings() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("watcher", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 0.5\n")
        .plugin("zscore", "telltale_zscore", "")
        .start()
        .await;
    let open = async || {
        let ok = hub.native().await.subscribe("findings", Value::Null).await;
        ok["open"].as_array().unwrap().iter().find(|f| f["detector"] == "watcher").cloned()
    };
    let before = hub.until("a finding", open).await;
    let mut client = watch(&hub, "guest.*").await;
    hub.drop_in("watcher", &version_of(&guest("guest_detector"), 1));
    assert_eq!(client.event("reloaded", "watcher").await["handover"], "cold");
    hub.drop_in("zscore", &version_of(&guest("telltale_zscore"), 1));
    assert_eq!(client.event("reloaded", "zscore").await["handover"], "restored");
    let mut ticks = hub.ticks().await;
    for _ in 0..8 {
        ticks.next_push().await;
    }
    assert_eq!(open().await.unwrap()["id"], before["id"]);
}

#[tokio::test]
async fn a_collector_may_turn_into_a_detector_and_back() {
    let hub = Hub::new().plugin("either", "guest_collector", "").start().await;
    let mut client = watch(&hub, "guest.*").await;
    let id = hub.series("guest.value").await[0]["id"].clone();
    hub.drop_in("either", &guest("guest_detector"));
    let push = client.push_until("the series to go", |push| push["gone"].is_array()).await;
    assert_eq!(push["gone"], json!([id]));
    let detector = |plugin: &Value| plugin["role"] == "detector" && plugin["state"] == "running";
    hub.plugin_until("either", "be a detector", detector).await;
    hub.drop_in("either", &guest("guest_collector"));
    assert_eq!(declared(&mut client, "guest.value").await.0, id);
}

// What is refused.

#[tokio::test]
async fn a_name_that_cannot_be_a_plugins_is_refused() {
    let hub = Hub::new()
        .plugin("telltale", "guest_collector", "")
        .plugin("two words", "guest_collector", "")
        .start()
        .await;
    for (name, words) in [("telltale", "the hub's own name"), ("two words", "letters, digits")] {
        let plugin = hub.state(name, "refused").await;
        assert!(plugin["reason"].as_str().unwrap().contains(words), "{plugin}");
    }
}

/// Files that are no component, and what is said of them.
fn refused() -> [(&'static str, Vec<u8>); 4] {
    let component = guest("guest_collector");
    [
        ("a truncated component", component[..component.len() / 2].to_vec()),
        ("a text", b"#!/bin/sh\n".to_vec()),
        ("a core module", b"\0asm\x01\0\0\0".to_vec()),
        ("nothing", Vec::new()),
    ]
}

#[tokio::test]
async fn what_is_no_component_is_refused_and_the_old_one_goes_on() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let component = hub.plugin("steady").await.unwrap()["component"].clone();
    let mut client = watch(&hub, "guest.*").await;
    for (what, bytes) in refused() {
        hub.drop_in("steady", &bytes);
        let event = client.event("refused", "steady").await;
        assert!(
            event["reason"].as_str().unwrap().starts_with("it is no component"),
            "{what}: {event}"
        );
        let plugin = hub.plugin("steady").await.unwrap();
        let reason = plugin["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("the new version was refused: it is no component"),
            "{what}: {reason}"
        );
        assert_eq!((&plugin["state"], &plugin["component"]), (&json!("running"), &component));
        client.push_until("a value of the old one", |push| push["values"][0].is_array()).await;
    }
    hub.drop_in("steady", &version_of(&guest("guest_collector"), 1));
    client.event("reloaded", "steady").await;
    assert_eq!(hub.plugin("steady").await.unwrap()["reason"], Value::Null);
}

#[tokio::test]
async fn what_is_no_component_does_not_keep_the_hub_from_starting() {
    let mut setup = Hub::new().plugin("steady", "guest_collector", "");
    for (at, (_, bytes)) in refused().into_iter().enumerate() {
        setup = setup.file(&format!("bad-{at}.wasm"), bytes);
    }
    let hub = setup.start().await;
    for at in 0..refused().len() {
        let plugin = hub.state(&format!("bad-{at}"), "refused").await;
        assert!(plugin["reason"].as_str().unwrap().contains("it is no component"), "{plugin}");
    }
    assert_eq!(hub.series("guest.value").await.len(), 1);
}

#[tokio::test]
async fn a_settings_file_that_names_another_component_runs_it_under_its_own_name() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .file("twin.toml", "component = \"steady.wasm\"\n[config]\nseries = 2\n")
        .start()
        .await;
    let series = hub.series("guest.value").await;
    let mut plugins: Vec<_> = series.iter().map(|s| s["plugin"].as_str().unwrap()).collect();
    plugins.sort_unstable();
    assert_eq!(plugins, ["steady", "twin", "twin"]);
    // Both are replaced with the file.
    let mut client = watch(&hub, "guest.*").await;
    hub.drop_in("steady", &version_of(&guest("guest_collector"), 1));
    let mut replaced = [String::new(), String::new()];
    for name in &mut replaced {
        let push = client.push_until("a reload", |push| push["entry"]["event"] == "reloaded").await;
        *name = push["entry"]["plugin"].as_str().unwrap().to_owned();
    }
    replaced.sort();
    assert_eq!(replaced, ["steady", "twin"]);
}

#[tokio::test]
async fn a_settings_file_that_names_no_component_says_so() {
    let hub = Hub::new().file("lonely.toml", "component = \"nowhere.wasm\"\n").start().await;
    let plugin = hub.state("lonely", "refused").await;
    assert!(plugin["reason"].as_str().unwrap().contains("nowhere.wasm"), "{plugin}");
    // Once it is there, it runs.
    hub.drop_in("nowhere", &guest("guest_collector"));
    hub.state("lonely", "running").await;
}

#[tokio::test]
async fn bad_settings_are_told_with_file_line_and_key() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    for (settings, words) in [
        ("\nintervall = \"5s\"\n", "steady.toml: line 2: unknown field `intervall`"),
        ("[grant]\nread = [\"proc\"]\n", "steady.toml: [grant] path proc is not absolute"),
        (
            "[limits]\nmemory_mib = 0\n",
            "steady.toml: [limits] memory_mib = 0 is not from 1 to 4096",
        ),
        ("[config]\nmood = \"good\"\n", "[config]: unknown field `mood`"),
        (
            "[grant]\nread = [\"/no/such/folder\"]\n",
            "[grant] read: /no/such/folder cannot be opened",
        ),
    ] {
        hub.settings("steady", settings);
        let says =
            |plugin: &Value| plugin["reason"].as_str().is_some_and(|reason| reason.contains(words));
        let plugin = hub.plugin_until("steady", &format!("say {words:?}"), says).await;
        assert_eq!(plugin["state"], "running", "the old settings do not go on: {plugin}");
    }
    hub.settings("steady", "[config]\nseries = 2\n");
    hub.plugin_until("steady", "have two series", |plugin| plugin["series"] == 2).await;
}

#[tokio::test]
async fn bad_settings_from_the_start_are_told_and_mended() {
    let hub = Hub::new().plugin("steady", "guest_collector", "interval = 5\n").start().await;
    let plugin = hub.state("steady", "refused").await;
    assert!(plugin["reason"].as_str().unwrap().contains("steady.toml: line 1"), "{plugin}");
    hub.settings("steady", "interval = \"1s\"\n");
    hub.state("steady", "running").await;
}

// What a plugin may reach.

/// What the guest tells of its imports.
async fn imports(hub: &Hub) -> Value {
    let mut client = hub.native().await;
    let ok = client.subscribe("documents", Value::Null).await;
    ok["snapshot"]["documents"][0]["data"].clone()
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_line_to_add() {
    let setup = Hub::new();
    let secret = setup.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let settings = format!("{}statement = \"SELECT 1\"\npath = {secret:?}\n", mode("imports"));
    let hub = setup.plugin("asking", "guest_collector", &settings).start().await;
    let answers = imports(&hub).await;
    for (import, words) in [
        ("sql", "[grant] sql = { db = "),
        ("cache", "`cache = true` under [grant]"),
        ("http", "Denied"),
        ("disk", "under [grant]"),
        ("read", "Err("),
        ("write", "false"),
    ] {
        let answer = answers[import].as_str().unwrap();
        assert!(answer.contains(words), "{import}: {answer}");
        assert!(import == "read" || import == "write" || answer.contains("Denied"), "{answer}");
    }
    assert_eq!(answers["env"], 0);
    assert_eq!(std::fs::read_to_string(secret).unwrap(), "secret");
}

#[tokio::test]
async fn what_is_granted_works_and_nothing_can_be_written() {
    let setup = Hub::new();
    let folder = setup.path().join("readable");
    std::fs::create_dir(&folder).unwrap();
    let (file, database) = (folder.join("file"), folder.join("some.db"));
    std::fs::write(&file, "what it says").unwrap();
    SkillsDatabase::create(&database).skill("from the database", 1, 100.0, None);
    let settings = format!(
        "{}statement = \"SELECT skill_name FROM skill_metrics\"\npath = {file:?}\n\
         [grant]\nsql = {{ db = {database:?} }}\ncache = true\ndisk = [\"/\"]\nread = [{folder:?}]\n",
        mode("imports"),
    );
    let hub = setup.plugin("asking", "guest_collector", &settings).start().await;
    let answers = imports(&hub).await;
    for (import, words) in [
        ("sql", "from the database"),
        ("cache", "Ok(()) Ok(Some("),
        ("disk", "Ok(true)"),
        ("read", "Ok(\"what it says\")"),
        ("write", "false"),
    ] {
        let answer = answers[import].as_str().unwrap();
        assert!(answer.contains(words), "{import}: {answer}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "what it says");
}

#[tokio::test]
async fn only_a_select_is_run_on_a_granted_database() {
    let setup = Hub::new();
    let database = setup.path().join("some.db");
    SkillsDatabase::create(&database).skill("kept", 1, 100.0, None);
    let settings = |statement: &str| {
        format!(
            "{}statement = {statement:?}\n[grant]\nsql = {{ db = {database:?} }}\n",
            mode("imports")
        )
    };
    let first = settings("SELECT 1");
    let hub = setup.plugin("asking", "guest_collector", &first).start().await;
    let mut client = watch(&hub, "guest.*").await;
    for statement in [
        "DELETE FROM skill_metrics",
        "SELECT 1; DELETE FROM skill_metrics",
        "PRAGMA journal_mode = DELETE",
        "ATTACH '/tmp/x.db' AS x",
        "BEGIN EXCLUSIVE",
    ] {
        hub.settings("asking", &settings(statement));
        client.event("reconfigured", "asking").await;
        hub.until("an answer about the statement", async || {
            let answer = imports(&hub).await["sql"].as_str()?.to_owned();
            answer.contains("Err(").then_some(())
        })
        .await;
        hub.settings("asking", &settings("SELECT count(*) FROM skill_metrics"));
        client.event("reconfigured", "asking").await;
        hub.until("the rows to be there", async || {
            imports(&hub).await["sql"].as_str()?.contains("Integer(1)").then_some(())
        })
        .await;
    }
}

// What comes with the hub.

#[tokio::test]
async fn a_start_without_a_plugins_folder_brings_the_default_set() {
    let hub = Hub::unfurnished().start().await;
    let list = hub.get_json("/v1/plugins").await;
    let plugins: Vec<_> =
        list["plugins"].as_array().unwrap().iter().map(|p| (&p["name"], &p["role"])).collect();
    let role = |name, role| (json!(name), json!(role));
    let wanted = [role("novelty", "detector"), role("system", "collector")];
    assert_eq!(plugins, wanted.iter().map(|(name, role)| (name, role)).collect::<Vec<_>>());
    hub.until("this machine's memory", async || {
        let all = hub.get_json("/v1/series").await;
        let of_system =
            |series: &&Value| series["plugin"] == "system" && series["value"].is_number();
        (all["series"].as_array()?.iter().filter(of_system).count() > 10).then_some(())
    })
    .await;
    let mut client = hub.native().await;
    let ok = client.subscribe("documents", Value::Null).await;
    let has = |list: &Value| {
        list.as_array()
            .is_some_and(|list| list.iter().any(|document| document["name"] == "processes"))
    };
    if !has(&ok["snapshot"]["documents"]) {
        client.push_until("the processes", |push| has(&push["documents"])).await;
    }
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
    // A folder that is there is left as it is.
    std::fs::remove_file(setup.plugins().join("novelty.wasm")).unwrap();
    let hub = setup.start().await;
    assert_eq!(hub.plugin("novelty").await, None);
    assert_eq!(hub.plugin("system").await.unwrap()["cached"], true);
}

#[tokio::test]
async fn the_bundled_detector_finds_a_spike_and_gives_its_band() {
    let detector = "series = [\"guest.*\"]\n[config]\nmin_values = 5\nthreshold = 3.0\n";
    let hub = Hub::new()
        .plugin("pulse", "guest_collector", &mode("wave"))
        .plugin("zscore", "telltale_zscore", detector)
        .start()
        .await;
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    let push = client.push_until("a finding", |push| push["entry"]["state"] == "open").await;
    let finding = &push["entry"];
    assert_eq!((&finding["detector"], &finding["type"]), (&json!("zscore"), &json!("spike")));
    let number = |key: &str| finding[key].as_f64().unwrap();
    assert!(
        number("lower") < number("expected") && number("expected") < number("upper"),
        "{finding}"
    );
    assert!(number("value") > number("upper") && number("score") >= 0.5, "{finding}");
}
