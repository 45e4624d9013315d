//! What becomes of scores: thresholds, quiet times, mutes, and flags.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};
use telltale::clock::{Clock, parse_rfc3339, rfc3339};

use crate::harness::{Hub, Native, Setup, within};

/// A detector to which each value is its own score.
const ECHO: &str = "series = [\"app.*\"]\n[config]\nmode = \"echo\"\nlimit = 0.5\n";

/// With a collector of the series `app.NAME`, which is worth these values over
/// and over, and the echo.
fn scripted(setup: Setup, scripts: &[(&str, &[f64])]) -> Setup {
    let with = |setup: Setup, (name, values): &(&str, &[f64])| {
        let config = format!("mode = \"script\"\nname = \"app.{name}\"\nvalues = {values:?}\n");
        setup.plugin(name, "guest_collector", &format!("[config]\n{config}"))
    };
    scripts.iter().fold(setup.plugin("echo", "guest_detector", ECHO), with)
}

/// Hears findings until `enough` of those that have come, each as it is told.
async fn told_until(
    client: &mut Native,
    what: &str,
    enough: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let mut told = Vec::new();
    let all = async {
        while !enough(&told) {
            told.push(
                client.push_until(what, |push| push["push"] == "findings").await["entry"].take(),
            );
        }
    };
    within(what, all).await;
    told
}

/// The findings of a series with an opening and a close, as pairs.
fn pairs(told: &[Value], name: &str) -> Vec<(Value, Value)> {
    let mut open = BTreeMap::new();
    let mut pairs = Vec::new();
    for entry in told.iter().filter(|entry| entry["name"] == name) {
        let id = entry["id"].as_str().unwrap().to_owned();
        if entry["state"] == "open" {
            open.insert(id, entry.clone());
        } else if let Some(opened) = open.remove(&id) {
            pairs.push((opened, entry.clone()));
        }
    }
    pairs
}

async fn history(client: &mut Native, series: &Value) -> Value {
    client.ok(json!({"op": "history", "series": series, "anomalies": true, "points": 10_000})).await
}

/// Waits for flags of the series: they are on values from `open` on.
async fn has_flags_from(client: &mut Native, name: &str, id: &Value, open: f64) {
    let many = within("flags", async {
        loop {
            let found = history(client, id).await;
            let points = found["points"].as_array().unwrap();
            if points.iter().filter(|point| point[4] == 1.0).count() >= 5 {
                return found;
            }
        }
    });
    let found = many.await;
    assert_eq!(found["columns"], json!(["time_ms", "mean", "min", "max", "anomalies"]));
    let points = found["points"].as_array().unwrap();
    let odd: f64 = points.iter().map(|point| point[4].as_f64().unwrap()).sum();
    let rate = found["anomaly_rate"].as_f64().unwrap();
    assert!((rate - odd / points.len() as f64).abs() < 1e-9, "{rate}");
    for point in points {
        assert!(point[4] == 0.0 || point[1].as_f64().unwrap() >= open, "{name}: {point}");
    }
}

#[tokio::test]
async fn a_series_has_its_own_threshold_duration_and_end_and_its_flags_outlive_the_hub() {
    let settings = "
        [findings]
        quiet = 0
        habituation = 0.0
        close_after = 2
        [[findings.rules]]
        series = \"app.high\"
        open = 0.8
        [[findings.rules]]
        detector = \"e*\"
        series = [\"app.long\", \"none.*\"]
        for = 3
        [[findings.mute]]
        series = \"app.muted\"
        reason = \"it is known\"
    ";
    let c = 0.1;
    let hub = scripted(
        Hub::new().tick_ms(50).configured(settings),
        &[
            ("high", &[0.9, c, c, c, c, 0.7, c, c, c, c, c, c]),
            ("long", &[0.95, c, c, c, 0.95, 0.9, 0.8, c, c, c, c, c]),
            ("ebb", &[0.9, 0.45, 0.3, 0.45, 0.3, 0.3, c, c, c, c, c, c]),
            ("muted", &[0.9]),
        ],
    )
    .start()
    .await;
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    let names = ["app.high", "app.long", "app.ebb"];
    let told = told_until(&mut client, "three findings of each", |told| {
        names.iter().all(|name| pairs(told, name).len() >= 3)
    })
    .await;
    assert!(told.iter().all(|entry| entry["name"] != "app.muted"), "{told:?}");
    for (name, score, peak) in
        [("app.high", 0.9, 0.9), ("app.long", 0.8, 0.8), ("app.ebb", 0.9, 0.9)]
    {
        for (opened, closed) in pairs(&told, name) {
            let found = json!([opened["score"], closed["peak"]]);
            assert_eq!(found, json!([score, peak]), "{opened}");
            assert_eq!(opened["version"].as_str().unwrap().len(), 12, "{opened}");
            assert_eq!(closed.get("reason"), None, "{closed}");
        }
    }
    for (opened, closed) in pairs(&told, "app.ebb") {
        let time = |at: &Value| parse_rfc3339(at.as_str().unwrap()).unwrap() / 1_000_000;
        let lasted_ms = time(&closed["ended"]) - time(&opened["started"]);
        assert!(lasted_ms + 25 >= 5 * 50, "it did not outlast a single calm value: {closed}");
    }
    let muted = hub.series("telltale.findings.muted").await[0]["value"].clone();
    assert!(muted.as_f64().unwrap() > 0.0, "odd values a second that are muted: {muted}");

    // Flags know nothing of durations and mutes, but of thresholds.
    for (name, open) in [("app.high", 0.8), ("app.long", 0.5), ("app.muted", 0.5)] {
        let id = hub.series(name).await[0]["id"].clone();
        has_flags_from(&mut client, name, &id, open).await;
    }
    let id = hub.series("app.high").await[0]["id"].clone();
    let before = history(&mut client, &id).await["points"].clone();
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
    let hub = setup.start().await;
    let to = &before[before.as_array().unwrap().len() - 1][0];
    let path = format!("/v1/history?series={id}&anomalies=true&points=10000&to={to}");
    let after = hub.get_json(&path).await;
    // The last flag may have been on its way.
    let before = before.as_array().unwrap();
    assert_eq!(after["points"].as_array().unwrap()[..before.len() - 3], before[..before.len() - 3]);
    assert!(hub.get_json(&path.replace("&anomalies=true", "")).await.get("anomaly_rate").is_none());
}

#[tokio::test]
async fn in_a_quiet_time_only_a_much_stronger_score_opens_another() {
    let c = 0.1;
    let script = [0.7, c, c, c, c, 0.7, c, c, c, c, 0.7, c, c, c, c, 0.95, c, c, c, c];
    let settings = "[findings]\nquiet = \"1h\"\nclose_after = 1\nhabituation = 0.0\nagain = 3.0\n";
    let hub = scripted(Hub::new().tick_ms(50).configured(settings), &[("pulse", &script)]);
    let hub = hub.start_listening().await;
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    let mut ticks = hub.native().await;
    let told = told_until(&mut client, "the strong one", |told| {
        told.iter().any(|entry| entry["state"] == "close" && entry["score"] == 0.95)
    })
    .await;
    let opened: Vec<_> = told.iter().filter(|entry| entry["state"] == "open").collect();
    let scores: Vec<f64> = opened.iter().map(|entry| entry["score"].as_f64().unwrap()).collect();
    // It may have been the first.
    assert!(scores == [0.7, 0.95] || scores == [0.95], "{scores:?}");
    // Two more rounds of the same are told to nobody.
    ticks.subscribe("metrics", json!({"name": "app.pulse"})).await;
    for _ in 0..2 * script.len() {
        ticks.push_until("a tick", |push| push["push"] == "metrics").await;
    }
    let open = hub.native().await.subscribe("findings", Value::Null).await;
    let resume = json!({"epoch": open["epoch"], "offset": 0});
    let again = json!({"op": "subscribe", "channel": "findings", "resume": resume});
    let entries = hub.native().await.ok(again).await["entries"].take();
    assert_eq!(entries.as_array().unwrap().len(), 2 * scores.len(), "{entries}");
    let suppressed = hub.series("telltale.findings.suppressed").await[0].clone();
    assert_eq!(suppressed["unit"], "{value}");
}

#[tokio::test]
async fn a_series_that_is_muted_for_a_while_opens_its_finding_afterwards() {
    let until_ns = Clock::system().now_ns() + 4_000_000_000;
    let settings = format!(
        "[[findings.mute]]\nseries = \"app.*\"\nto = \"{}\"\n[[findings.mute]]\nseries = \
         \"other\"\n",
        rfc3339(until_ns)
    );
    let hub = scripted(Hub::new().configured(&settings), &[("level", &[0.9])]).start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("findings", Value::Null).await;
    let entry = match ok["open"].as_array().unwrap().first() {
        Some(open) => open.clone(),
        None => told_until(&mut client, "a finding", |told| !told.is_empty()).await.remove(0),
    };
    let started = parse_rfc3339(entry["started"].as_str().unwrap()).unwrap();
    assert!(started >= until_ns / 1_000_000 * 1_000_000, "{entry} before {until_ns}");
    assert_eq!(entry["score"], 0.9);
}

#[tokio::test]
async fn a_threshold_below_the_detectors_own_makes_findings_of_its_scores() {
    let settings = "[findings]\nopen = 0.3\n";
    let hub = scripted(Hub::new().configured(settings), &[("level", &[0.35])]).start().await;
    let open = hub
        .until("a finding", async || {
            let ok = hub.native().await.subscribe("findings", Value::Null).await;
            ok["open"].as_array().unwrap().first().cloned()
        })
        .await;
    let told = ["type", "score", "value", "expected"].map(|key| open[key].clone());
    assert_eq!(told, [json!("odd"), json!(0.35), json!(0.35), Value::Null]);
}
