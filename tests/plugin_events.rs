//! Events that plugins publish.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cli::run;
use crate::harness::{Hub, Native, guest_path};

/// Settings of a guest that publishes `events` with these grants and limits.
fn publishing(events: &str, rest: &str) -> String {
    format!("[config]\nmode = \"publish\"\nevents = [{events}]\n{rest}")
}

/// `pr.created` of a project, numbered.
const CREATED: &str = r#"{ type = "pr.created", data = '{"n":{n},"project_id":"42"}' }"#;
const GRANT: &str = "[grant]\nevents = [\"pr.*\"]\n";

/// What the guest was answered, as soon as it tells.
async fn answers(hub: &Hub) -> Value {
    hub.until("the guest's answers", async || {
        let ok = hub.native().await.subscribe("documents", Value::Null).await;
        let documents = ok["snapshot"]["documents"].as_array()?;
        let document = documents.iter().find(|document| document["name"] == "published")?;
        Some(document["data"].clone())
    })
    .await
}

/// A client in a room.
async fn in_room(hub: &Hub, room: &str) -> Native {
    let mut client = hub.native().await;
    client.ok(json!({"op": "subscribe", "channel": format!("room:{room}")})).await;
    client
}

/// The next event that a client is told.
async fn event(client: &mut Native) -> Value {
    client.push_until("an event", |push| push["entry"]["type"].is_string()).await["entry"].clone()
}

#[tokio::test]
async fn an_event_that_is_not_granted_is_denied_with_the_line_to_add() {
    let hub = Hub::new().plugin("ci", "guest_collector", &publishing(CREATED, "")).start().await;
    let answers = answers(&hub).await;
    let answer = answers.as_object().unwrap().keys().next().unwrap();
    assert!(answer.contains("Denied("), "{answers}");
    assert!(answer.contains("`events = [\\\"pr.created\\\"]` under [grant]"), "{answers}");
    // Whoever adds that line is right.
    hub.settings("ci", &publishing(CREATED, "[grant]\nevents = [\"pr.created\"]\n"));
    let published = |plugin: &Value| plugin["events"]["published"].as_u64() >= Some(1);
    hub.plugin_until("ci", "publish", published).await;
}

#[tokio::test]
async fn what_a_plugin_publishes_reaches_those_in_the_room_in_order() {
    let hub = Hub::new().plugin("ci", "guest_collector", "").start().await;
    let mut here = in_room(&hub, "project:42").await;
    let mut elsewhere = in_room(&hub, "project:43").await;
    let named = r#"{ type = "pr.closed", source = "bot", data = '{"n":{n}}', rooms = ["project:42", "project:43"] }"#;
    hub.settings("ci", &publishing(&format!("{CREATED}, {named}"), GRANT));
    for n in 0..10 {
        let event = event(&mut here).await;
        assert_eq!(event["data"]["n"], n, "{event}");
        let wanted = if n % 2 == 0 { ("pr.created", "ci") } else { ("pr.closed", "bot") };
        assert_eq!((&event["type"], &event["source"]), (&json!(wanted.0), &json!(wanted.1)));
    }
    let event = event(&mut elsewhere).await;
    assert_eq!((&event["type"], &event["data"]["n"]), (&json!("pr.closed"), &json!(1)));
}

#[tokio::test]
async fn a_key_makes_it_one_event_over_a_restart_too() {
    let keyed = r#"{ type = "pr.created", data = '{"project_id":"42"}', key = "pr-7" }"#;
    let marked = r#"{ type = "pr.updated", data = '{"project_id":"42"}', key = "mark-{n}" }"#;
    let settings = publishing(&format!("{keyed}, {marked}"), GRANT);
    let hub = Hub::new().plugin("ci", "guest_collector", &settings).start().await;
    let published = |plugin: &Value| plugin["events"]["published"].as_u64() >= Some(6);
    hub.plugin_until("ci", "publish", published).await;
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
    let hub = setup.start().await;
    hub.plugin_until("ci", "publish again", published).await;
    // All that was told in that room.
    let mut client = hub.native().await;
    let ok = client.subscribe("hub", Value::Null).await;
    let resume = json!({"epoch": ok["epoch"], "offset": 0});
    let ok =
        client.ok(json!({"op": "subscribe", "channel": "room:project:42", "resume": resume})).await;
    assert_eq!(ok["recovered"], true, "{ok}");
    let entries = ok["entries"].as_array().unwrap().iter();
    let kinds: Vec<_> = entries.map(|entry| entry["entry"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "pr.created").count(), 1, "{kinds:?}");
    assert!(kinds.contains(&"pr.updated"), "{kinds:?}");
}

#[tokio::test]
async fn a_flood_is_bounded_counted_and_told_and_the_others_do_not_notice() {
    let many = CREATED.replace("type", "times = 1000, type");
    let limits = "[limits]\nevents = 5\nevents_per_second = 20\n";
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("flood", "guest_collector", "")
        .start()
        .await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("flood", &publishing(&many, &format!("{GRANT}{limits}")));
    let limited = client.event("limited", "flood").await;
    assert_eq!(limited["limit"], "events", "{limited}");
    assert!(limited["reason"].as_str().unwrap().contains("5 in a call or 20 a second"));
    let refused = |plugin: &Value| plugin["refused"]["events"].as_u64() >= Some(5000);
    let flood = hub.plugin_until("flood", "be refused much", refused).await;
    let calls = flood["calls"]["count"].as_u64().unwrap();
    let published = flood["events"]["published"].as_u64().unwrap();
    assert!(published <= 5 * (calls + 1), "{flood}");
    assert_eq!((&flood["state"], &flood["events"]["failed"]), (&json!("running"), &json!(0)));
    let steady = hub.plugin("steady").await.unwrap();
    assert_eq!((&steady["faults"], &steady["refused"]["events"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_plugin_that_publishes_for_ever_is_stopped() {
    let rest = format!("{GRANT}[limits]\nio_ms = 300\ncollect_ms = 300\n");
    let settings = publishing(CREATED, &rest).replace("\"publish\"", "\"publish-for-ever\"");
    let hub = Hub::new().plugin("flood", "guest_collector", "").start().await;
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    hub.settings("flood", &settings);
    let event = client.event("rolled_back", "flood").await;
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("_ms`"), "{event}");
    hub.state("flood", "running").await;
}

#[tokio::test]
async fn what_may_not_go_where_its_type_goes_is_denied() {
    let grant = "[grant]\nevents = { types = [\"pr.*\"], rooms = [\"project:*\"] }\n";
    let to_global = r#"{ type = "pr.created", data = '{}' }"#;
    let setup = Hub::new().plugin("ci", "guest_collector", &publishing(to_global, grant));
    let hub = setup.start().await;
    let answers = answers(&hub).await.to_string();
    assert!(answers.contains("Denied(") && answers.contains("global"), "{answers}");
    let plugin = hub.plugin("ci").await.unwrap();
    assert_eq!(plugin["events"], json!({"published": 0, "failed": 0}), "{plugin}");
}

#[tokio::test]
async fn what_can_not_be_published_after_all_is_told_in_the_plugins_log() {
    let other = r#"{ type = "pr.created", data = '{"n":{n}}', key = "same" }"#;
    let settings = publishing(other, GRANT);
    let hub = Hub::new().plugin("ci", "guest_collector", &settings).start().await;
    let failed = |plugin: &Value| plugin["events"]["failed"].as_u64() >= Some(1);
    let plugin = hub.plugin_until("ci", "fail", failed).await;
    assert_eq!(plugin["events"]["published"], 1, "{plugin}");
    let data = hub.setup().data();
    let logs =
        ["plugin".as_ref(), "logs".as_ref(), "ci".as_ref(), "--data".as_ref(), data.as_os_str()];
    let outcome = run(hub.path(), logs, &[]).await;
    assert!(outcome.stdout.contains("event pr.created was not published: "), "{outcome:?}");
}

#[tokio::test]
async fn what_does_not_publish_needs_nothing_of_it() {
    let hub = Hub::new().plugin("keeper", "guest_keeper", "").start().await;
    let keeper = hub.get_json("/v1/plugins/keeper").await;
    assert_eq!(keeper["state"], "running", "{keeper}");
    assert!(!keeper["imports"].to_string().contains("telltale:plugin/events"), "{keeper}");
}

#[tokio::test]
async fn a_trial_shows_what_would_be_published_and_goes_by_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let environment = [("XDG_CACHE_HOME", cache.to_str().unwrap())];
    let settings = folder.path().join("settings.toml");
    let many = CREATED.replace("type", "times = 7, type");
    std::fs::write(&settings, publishing(&many, &format!("{GRANT}[limits]\nevents = 5\n")))
        .unwrap();
    let component = guest_path("guest_collector");
    let check = [
        "plugin".as_ref(),
        "check".as_ref(),
        component.as_os_str(),
        "--settings".as_ref(),
        settings.as_os_str(),
    ];
    let outcome = run(folder.path(), check, &environment).await;
    assert!(outcome.status.success(), "{outcome:?}");
    for words in [
        "telltale:plugin/events@0.1.0: granted, events = [\"pr.*\"]",
        "published: told to nobody here",
        "pr.created: {\"n\":0,\"project_id\":\"42\"}",
        "events over 5 in a call",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {}", outcome.stdout);
    }
    let as_json = [&check[..], &["--json".as_ref()]].concat();
    let outcome = run(folder.path(), as_json, &environment).await;
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["events"][4]["data"]["n"], 4, "{report}");
    assert_eq!(report["events"][0]["source"], "guest_collector", "{report}");
}
