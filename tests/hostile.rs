//! Plugins that hang, crash, flood and lie: they are stopped with a reason, and
//! nobody else notices.

use serde_json::{Value, json};

use crate::harness::{Hub, Native, guest, mode, version_of};

/// How many ticks a steady plugin is watched for.
const TICKS: usize = 30;

#[tokio::test]
async fn a_steady_plugin_is_fresh_beside_one_that_spins_one_that_panics_and_one_that_hoards() {
    let hub = Hub::new()
        .tick_ms(200)
        .plugin("steady", "guest_collector", "[config]\nname = \"steady.value\"\n")
        .plugin("spin", "guest_collector", &mode("spin"))
        .plugin("panic", "guest_collector", &mode("panic"))
        .plugin("memory", "guest_collector", &mode("memory"))
        .start_listening()
        .await;
    hub.until("the steady one", async || hub.series("steady.value").await.pop()).await;
    let mut client = hub.native().await;
    let ok =
        client.subscribe("metrics", json!({"name": "{steady.value,telltale.tick.lateness}"})).await;
    let id_of = |name: &str| {
        let series = ok["snapshot"]["series"].as_array().unwrap().iter();
        series.clone().find(|series| series["name"] == name).unwrap()["id"].clone()
    };
    let (steady, lateness) = (id_of("steady.value"), id_of("telltale.tick.lateness"));
    let (mut late, mut latenesses_s) = (0, Vec::new());
    for _ in 0..TICKS {
        let push = client.next_push().await;
        latenesses_s.extend(Native::value(&push, &lateness));
        if Native::value(&push, &steady).is_some() {
            continue;
        }
        // On a machine that has no time for it an answer may come a tick later;
        // nothing else may keep it away.
        late += 1;
        for stale in push["stale"].as_array().into_iter().flatten() {
            assert_eq!(stale["code"], "late", "{push}");
        }
    }
    latenesses_s.sort_by(f64::total_cmp);
    let p99_ms = latenesses_s.last().unwrap() * 1e3;
    println!("{TICKS} ticks: {late} late answers, p99 of lateness {p99_ms:.3} ms");
    assert!(late * 5 <= TICKS, "{late} of {TICKS} answers were late");
    assert!(p99_ms < 1000.0, "ticks were {p99_ms} ms late");
    for name in ["spin", "panic", "memory"] {
        let plugin = hub.plugin(name).await.unwrap();
        assert!(plugin["faults"].as_u64().unwrap() > 0, "{plugin}");
    }
}

#[tokio::test]
async fn each_way_to_misbehave_ends_with_its_reason() {
    let failing = [
        ("unequal", "batch refused: 1 ids and 0 values: the lists must be of the same length"),
        ("undeclared", "batch refused: id 77 is not declared"),
        ("label-bomb", "batch refused: series \"guest.value\": "),
        ("flood", "it handed over more than 4 MiB at once"),
        ("spin", "it computed for more than 250 ms (limit `collect_ms`)"),
        ("panic", "it panicked"),
        ("memory", "MiB of memory, and may have 64 (limit `memory_mib`)"),
        ("recursion", "its stack overflowed"),
        ("fatal", "all is lost"),
    ];
    let mut setup = Hub::new();
    for (name, _) in failing {
        setup = setup.plugin(name, "guest_collector", &mode(name));
    }
    let hub = setup.start_listening().await;
    for (name, words) in failing {
        let failed = |plugin: &Value| plugin["last_fault"].is_string();
        let plugin = hub.plugin_until(name, "fail", failed).await;
        let fault = plugin["last_fault"].as_str().unwrap();
        assert!(fault.contains(words), "{name}: {fault}");
    }
}

#[tokio::test]
async fn a_plugin_that_waits_for_ever_is_stopped_at_its_limit() {
    let settings = format!("{}[limits]\nio_ms = 300\n", mode("wait"));
    let hub = Hub::new().plugin("wait", "guest_collector", &settings).start().await;
    let failed = |plugin: &Value| plugin["last_fault"].is_string();
    let plugin = hub.plugin_until("wait", "fail", failed).await;
    assert_eq!(plugin["last_fault"], "it waited for more than 300 ms (limit `io_ms`)");
}

#[tokio::test]
async fn a_plugin_that_calls_the_host_for_ever_is_stopped_at_its_limit() {
    let settings = format!("{}[limits]\nio_ms = 300\n", mode("call-for-ever"));
    let hub = Hub::new().plugin("calls", "guest_collector", &settings).start().await;
    let failed = |plugin: &Value| plugin["last_fault"].is_string();
    let plugin = hub.plugin_until("calls", "fail", failed).await;
    let fault = plugin["last_fault"].as_str().unwrap();
    // Whichever of its budgets is used up first.
    assert!(fault.contains("(limit `io_ms`)") || fault.contains("(limit `collect_ms`)"), "{fault}");
}

#[tokio::test]
async fn a_plugin_that_says_why_it_has_nothing_is_waited_for() {
    let hub = Hub::new()
        .plugin("retry", "guest_collector", &mode("retry"))
        .plugin("config", "guest_collector", &mode("config"))
        .start()
        .await;
    let retry = hub.state("retry", "waiting").await;
    assert_eq!((&retry["reason"], &retry["faults"]), (&json!("the thing is not there"), &json!(0)));
    let config = hub.state("config", "waiting").await;
    assert_eq!(config["reason"], "`thing` is missing under [config]");
    for name in ["retry", "config"] {
        hub.settings(name, &mode("steady"));
        let plugin = hub.state(name, "running").await;
        assert_eq!(plugin["reason"], Value::Null);
    }
}

#[tokio::test]
async fn a_configure_that_fails_is_a_refusal_with_its_reason() {
    let hub = Hub::new().plugin("bad", "guest_collector", &mode("configure-panic")).start().await;
    let plugin = hub.state("bad", "refused").await;
    assert!(plugin["reason"].as_str().unwrap().starts_with("it panicked"), "{plugin}");
    hub.until("its last words in the log", async || {
        hub.program.stderr().contains("asked to panic in configure").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_value_that_is_not_finite_is_absent_and_counted() {
    let hub = Hub::new()
        .plugin("nan", "guest_collector", "[config]\nmode = \"nan\"\nseries = 2\n")
        .start()
        .await;
    let series = hub.series("guest.value").await;
    let by_n = |n: &str| series.iter().find(|series| series["labels"]["n"] == n).unwrap();
    assert_eq!(
        (&by_n("0")["value"], &by_n("0")["stale"]["code"]),
        (&Value::Null, &json!("not_finite"))
    );
    assert!(by_n("1")["value"].is_number() && by_n("1").get("stale").is_none(), "{series:?}");
    hub.until("it to be counted", async || {
        let counted = hub.series("telltale.tick.not_finite").await;
        counted.first()?["value"].as_f64().filter(|rate| *rate > 0.0)
    })
    .await;
    assert_eq!(hub.plugin("nan").await.unwrap()["state"], "running");
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_counted() {
    let hub = Hub::new().plugin("chatty", "guest_collector", &mode("log-flood")).start().await;
    let dropped = |plugin: &Value| plugin["refused"]["log_lines"].as_u64().unwrap() > 1000;
    let plugin = hub.plugin_until("chatty", "have lines dropped", dropped).await;
    assert_eq!(plugin["state"], "running");
    let lines = hub.program.stderr().lines().filter(|line| line.contains("line 9999")).count();
    assert_eq!(lines, 0);
}

#[tokio::test]
async fn a_plugin_that_is_slow_is_late_and_no_fault() {
    let hub = Hub::new().plugin("slow", "guest_collector", &mode("slow")).start().await;
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let mut values = 0;
    while values < 5 {
        values += client.next_push().await["values"].as_array().unwrap().len();
    }
    let plugin = hub.plugin("slow").await.unwrap();
    assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)));
}

#[tokio::test]
async fn a_plugin_that_fails_once_comes_back_and_its_series_say_what_was() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("shaky", &mode("panic-at-3"));
    hub.drop_in("shaky", &guest("guest_collector"));
    let stale = client.push_until("stale series", |push| push["stale"].is_array()).await["stale"]
        [0]
    .clone();
    assert_eq!(stale["code"], "restarting");
    assert!(stale["reason"].as_str().unwrap().starts_with("it panicked"), "{stale}");
    assert!(stale["since"].is_string(), "{stale}");
    let healed = |push: &Value| Native::value(push, &stale["id"]).is_some();
    client.push_until("a value after the restart", healed).await;
}

#[tokio::test]
async fn five_faults_are_a_quarantine_that_other_settings_or_another_file_end() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("bad", &mode("panic"));
    hub.drop_in("bad", &guest("guest_collector"));
    for pause_ms in [200, 400, 800, 1600] {
        let event = client.event("failed", "bad").await;
        assert_eq!(event["restart_after_ms"], pause_ms, "{event}");
    }
    let event = client.event("quarantined", "bad").await;
    assert!(event["reason"].as_str().unwrap().contains("failed 5 times in 10 minutes"), "{event}");
    let plugin = hub.state("bad", "quarantined").await;
    assert_eq!(plugin["faults"], 5);
    assert!(plugin["reason"].as_str().unwrap().contains("another file"), "{plugin}");
    // Another file, that is no better, gets its five.
    hub.drop_in("bad", &version_of(&guest("guest_collector"), 1));
    client.event("reloaded", "bad").await;
    client.event("failed", "bad").await;
    hub.settings("bad", &mode("steady"));
    client.event("reconfigured", "bad").await;
    let plugin = hub.state("bad", "running").await;
    assert_eq!(plugin["reason"], Value::Null);
    hub.until("its series", async || hub.series("guest.value").await.pop()).await;
}

#[tokio::test]
async fn a_detector_that_misbehaves_ends_with_its_reason_and_the_others_judge_on() {
    let failing = [
        ("panic", "it panicked"),
        ("spin", "it computed for more than 50 ms (limit `collect_ms`)"),
        ("lie-series", "verdict refused: a finding of series 4294967295, which it is not shown"),
        ("lie-score", "verdict refused: score 1.5 of `"),
    ];
    let mut setup = Hub::new().plugin("pulse", "guest_collector", &mode("pulse")).plugin(
        "honest",
        "guest_detector",
        "series = [\"guest.*\"]\n[config]\nlimit = 50.0\n",
    );
    for (name, _) in failing {
        setup = setup.plugin(name, "guest_detector", &mode(name));
    }
    let hub = setup.start_listening().await;
    for (name, words) in failing {
        let failed = |plugin: &Value| plugin["last_fault"].is_string();
        let plugin = hub.plugin_until(name, "fail", failed).await;
        let fault = plugin["last_fault"].as_str().unwrap();
        assert!(fault.contains(words), "{name}: {fault}");
    }
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    let push = client.push_until("a finding", |push| push["entry"]["state"] == "open").await;
    assert_eq!(push["entry"]["detector"], "honest");
}
