//! `telltale load`: what it counts is what was sent, and what it refuses.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::{Outcome, run};
use crate::harness::Hub;

/// Measures a hub, found by its data folder; what was reported.
async fn load(hub: &Hub, arguments: &[&str]) -> Value {
    let outcome = attempt(hub, arguments).await;
    assert!(outcome.status.success(), "{outcome:?}");
    report(&outcome)
}

async fn attempt(hub: &Hub, arguments: &[&str]) -> Outcome {
    let command = ["load", "--data", "data", "--json"];
    run(hub.path(), command.iter().chain(arguments), &[]).await
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// A figure of a report, by its path.
#[track_caller]
fn figure(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

#[track_caller]
fn whole(report: &Value, path: &str) -> u64 {
    let value = report.pointer(path).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no whole number at {path} in {report}"))
}

/// Every steady client has had each tick, but for what is reported missing; a
/// tick that was under way as counting began may be counted beside them.
#[track_caller]
fn each_tick_came_to_each_client(report: &Value) {
    let steady = whole(report, "/clients/steady");
    let (messages, missing) = (whole(report, "/messages"), whole(report, "/missing"));
    let expected = whole(report, "/ticks") * steady;
    assert!(whole(report, "/ticks") > 0, "{report}");
    assert!(messages + missing >= expected, "{report}");
    assert!(messages + missing <= expected + steady, "{report}");
}

#[tokio::test]
async fn each_tick_is_counted_once_for_each_client() {
    let hub = Hub::new().start().await;
    let report = load(&hub, &["--clients", "24", "--for", "2s"]).await;
    each_tick_came_to_each_client(&report);
    assert_eq!(report["dialect"], "native");
    assert_eq!(report["connecting"]["errors"], serde_json::json!({}));
    for (path, clients) in [("asked", 24), ("connected", 24), ("steady", 24), ("slow", 0)] {
        assert_eq!(report["clients"][path], clients, "{path}");
    }
    assert!(figure(&report, "/window_s") >= 2.0);
    assert!(whole(&report, "/bytes") > whole(&report, "/messages"));
    let quantiles = ["p50_us", "p99_us", "p999_us", "max_us"];
    let latency = quantiles.map(|key| whole(&report, &format!("/latency/{key}")));
    assert!(latency.is_sorted(), "{report}");
    // The last client's is one of them; the histogram keeps three digits.
    let last = whole(&report, "/last_client/max_us");
    assert!(last <= latency[3] && whole(&report, "/last_client/median_us") <= last, "{report}");
}

/// The keys of a report, of whose groups all members are fixed.
fn keys(report: &Value) -> BTreeSet<String> {
    const OPEN: [&str; 4] = ["connecting.errors", "closes", "slow_closes", "publish.refused"];
    fn gather(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) if !OPEN.contains(&path) => {
                for (key, value) in members {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    gather(value, &path, keys);
                }
            }
            _ => drop(keys.insert(path.to_owned())),
        }
    }
    let mut keys = BTreeSet::new();
    gather(report, "", &mut keys);
    keys
}

/// The keys in the first column of the document's table.
fn documented_keys() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/load.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let first = rows.map(|row| row.split(" |").next().unwrap());
    first.flat_map(|keys| keys.split(", ")).map(|key| key.trim_matches('`').to_owned()).collect()
}

#[tokio::test]
async fn what_the_hub_costs_is_told_of_its_process_under_documented_keys() {
    let hub = Hub::new().start().await;
    let measured = load(&hub, &["--clients", "10", "--for", "1s"]).await;
    assert_eq!(measured["server"]["pid"], hub.program.id());
    let cpu_us = figure(&measured, "/server/cpu_us_per_message");
    let by_hand = figure(&measured, "/server/cpu_ms") * 1e3 / figure(&measured, "/messages");
    assert!((cpu_us - by_hand).abs() < 1e-6 * by_hand, "{measured}");
    assert!(figure(&measured, "/server/cpu_us_per_connection") > 0.0);
    assert!(whole(&measured, "/server/rss_anon_idle_bytes") > 0);
    assert!(figure(&measured, "/generator/cpu_cores") > 0.0);
    figure(&measured, "/kernel/tcp_active_bytes_per_client");
    let in_rooms = load(&hub, &["--clients", "3", "--for", "1s", "--dialect", "rooms"]).await;
    let of_skills = load(&hub, &["--clients", "3", "--for", "1s", "--dialect", "skills"]).await;
    assert_eq!((&measured["publish"], &measured["first_message"]), (&Value::Null, &Value::Null));
    let mut told: BTreeSet<String> =
        [&measured, &in_rooms, &of_skills].into_iter().flat_map(keys).collect();
    // Where there is something it has members.
    told.retain(|key| !["publish", "first_message"].contains(&&**key));
    assert_eq!(told, documented_keys());

    // Whose address is given is measured without, unless its process is named.
    let address = hub.0.to_string();
    let told = ["load", &address, "--clients", "2", "--for", "300ms", "--json"];
    let nameless = report(&run(hub.path(), told, &[]).await);
    assert_eq!(nameless["server"], Value::Null);
    let pid = hub.program.id().to_string();
    let named = report(&run(hub.path(), told.iter().chain(&["--pid", &pid]), &[]).await);
    assert_eq!(named["server"]["pid"], hub.program.id());
}

#[tokio::test]
async fn slow_and_passing_clients_are_told_apart_from_steady_ones() {
    let hub = Hub::new().start().await;
    let shares = ["--slow", "10%", "--churn", "20%/s"];
    let arguments = ["--clients", "40", "--for", "2s", "--connect-rate", "400/s"];
    let report = load(&hub, &[&arguments[..], &shares].concat()).await;
    for (path, clients) in [("slow", 4), ("passing", 8), ("steady", 28), ("connected", 40)] {
        assert_eq!(report["clients"][path], clients, "{path} in {report}");
    }
    assert!(whole(&report, "/clients/returned") > 0, "{report}");
    assert!(whole(&report, "/missing") <= whole(&report, "/ticks") * 28, "{report}");
    // Nobody but them has had anything.
    let readers = whole(&report, "/clients/steady") + whole(&report, "/clients/passing");
    assert!(whole(&report, "/messages") > 0, "{report}");
    assert!(whole(&report, "/messages") <= (whole(&report, "/ticks") + 1) * readers, "{report}");
}

#[tokio::test]
async fn clients_of_the_skills_dialect_are_counted_too() {
    let hub = Hub::new().start().await;
    let arguments = ["--clients", "12", "--for", "1s", "--dialect", "skills"];
    let report = load(&hub, &arguments).await;
    each_tick_came_to_each_client(&report);
    assert_eq!(report["dialect"], "skills");
}

#[tokio::test]
async fn clients_of_the_routing_dialect_are_told_how_soon_they_had_the_metrics() {
    let hub = Hub::new().with_routing().configured("[routing]\ninterval = \"100ms\"");
    hub.routing_database().decide(3, "hybrid", "gemini", "high");
    let hub = hub.start().await;
    hub.routing("").await.fetched("the metrics", |told| told["total_decisions"] == 3).await;
    let report = load(&hub, &["--clients", "12", "--for", "1s", "--dialect", "routing"]).await;
    assert!(whole(&report, "/messages") >= 12, "{report}");
    assert_eq!((&report["ticks"], &report["missing"]), (&0.into(), &0.into()));
    assert_eq!((&report["latency"], &report["last_client"]), (&Value::Null, &Value::Null));
    let quantiles = ["p50_us", "p99_us", "p999_us", "max_us"];
    let first = quantiles.map(|key| whole(&report, &format!("/first_message/{key}")));
    assert!(first.is_sorted() && first[0] > 0, "{report}");

    // One that has none to tell says so.
    let nothing = Hub::new().start().await;
    let outcome =
        attempt(&nothing, &["--clients", "2", "--for", "1s", "--dialect", "routing"]).await;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("Failed to fetch metrics"), "{outcome:?}");
}

/// Every acknowledged event has come to each steady client of its room, but for
/// what is reported missing.
#[track_caller]
fn each_event_came_to_its_room(report: &Value, clients_of_a_room: u64) {
    let acknowledged = whole(report, "/publish/acknowledged");
    assert!(acknowledged > 0, "{report}");
    assert_eq!(report["publish"]["refused"], serde_json::json!({}));
    assert_eq!((whole(report, "/missing"), whole(report, "/publish/unanswered")), (0, 0));
    assert_eq!(whole(report, "/ticks"), acknowledged, "{report}");
    assert_eq!(whole(report, "/messages"), acknowledged * clients_of_a_room, "{report}");
    for of in ["/latency", "/publish/latency"] {
        let quantiles = ["p50_us", "p99_us", "p999_us", "max_us"];
        let latency = quantiles.map(|key| whole(report, &format!("{of}/{key}")));
        assert!(latency.is_sorted() && latency[0] > 0, "{report}");
    }
}

#[tokio::test]
async fn an_event_is_counted_once_for_each_client_of_its_room() {
    let hub = Hub::new().start().await;
    for dialect in ["rooms", "socketio"] {
        let arguments = ["--clients", "24", "--for", "2s", "--dialect", dialect];
        let events = ["--rooms", "4", "--publish", "60/s", "--data-bytes", "600"];
        let report = load(&hub, &[&arguments[..], &events].concat()).await;
        each_event_came_to_its_room(&report, 6);
        assert_eq!((&report["dialect"], &report["publish"]["rooms"]), (&dialect.into(), &4.into()));
        assert!(whole(&report, "/bytes") > 600 * whole(&report, "/messages"), "{report}");
        let rate = figure(&report, "/publish/acknowledged_per_second");
        assert!(rate <= 61.0, "more than was asked for: {report}");
    }
}

#[tokio::test]
async fn clients_of_a_hub_that_wants_a_token_show_one() {
    let setup = Hub::new();
    let secret = "a secret for those who measure alone";
    let configuration = format!("[auth]\nmode = \"jwt\"\nsecret = \"{secret}\"\n");
    std::fs::write(setup.path().join("telltale.toml"), configuration).unwrap();
    let hub = setup.start_listening().await;
    let claims = serde_json::json!({
        "sub": "load", "exp": 4_102_444_800_u64, "rooms": ["project:load-*"], "publish": ["load.*"],
    });
    let token = telltale::access::Issuer::of_secret(secret.as_bytes()).unwrap().sign(&claims);
    let token = token.unwrap();
    for dialect in ["rooms", "socketio"] {
        let arguments = ["--clients", "4", "--for", "1s", "--dialect", dialect];
        let report = load(&hub, &[&arguments[..], &["--token", &token]].concat()).await;
        each_event_came_to_its_room(&report, 4);
        let nobody = attempt(&hub, &arguments).await;
        assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    }
}

#[tokio::test]
async fn a_measurement_is_told_to_people_in_lines() {
    let hub = Hub::new().start().await;
    let all = ["hub", "clients", "connected", "messages", "latency", "last client", "missing"];
    let of_events = ["published", "acknowledged"];
    for (dialect, of_events) in [("native", &[][..]), ("rooms", &of_events)] {
        let command = ["load", "--data", "data", "--clients", "3", "--for", "500ms", "--dialect"];
        let outcome = run(hub.path(), command.iter().chain(&[dialect]), &[]).await;
        assert!(outcome.status.success(), "{outcome:?}");
        assert_eq!(outcome.stderr, "", "no progress where nobody watches");
        let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let names: Vec<String> = outcome.stdout.lines().map(first).collect();
        for name in all.iter().chain(of_events) {
            let name = name.split(' ').next().unwrap();
            assert!(names.iter().any(|line| line == name), "no {name} in {}", outcome.stdout);
        }
    }
}

#[tokio::test]
async fn a_measurement_without_a_message_is_a_failure() {
    let hub = Hub::new().tick_ms(3_600_000).start_listening().await;
    let outcome = attempt(&hub, &["--clients", "3", "--for", "200ms"]).await;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("no message came"), "{outcome:?}");
    let report = report(&outcome);
    assert_eq!((&report["messages"], &report["latency"]), (&Value::from(0), &Value::Null));
}

#[tokio::test]
async fn a_subscription_that_the_hub_refuses_is_told_in_its_words() {
    let hub = Hub::new().start().await;
    let outcome = attempt(&hub, &["--clients", "3", "--for", "1s", "--filter", "a["]).await;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("unclosed character class"), "{outcome:?}");
}

#[tokio::test]
async fn what_can_not_be_measured_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let few = ["--clients", "2", "--for", "1s"];
    let here = "127.0.0.1:9";
    for (arguments, words) in [
        (&["192.0.2.1:8765"][..], "loopback"),
        (&["[2001:db8::1]:8765"], "loopback"),
        (&["nowhere"], "127.0.0.1:8765"),
        (&[here, "--dialect", "skills", "--filter", "a"], "--filter"),
        (&[here, "--rooms", "3"], "--rooms"),
        (&[here, "--dialect", "skills", "--publish", "3/s"], "--publish"),
        (&[here, "--slow", "100%"], "--slow"),
        (&[here, "--slow", "50%", "--churn", "50%/s"], "--churn"),
    ] {
        let command = ["load"].iter().chain(arguments).chain(&few);
        let outcome = run(folder.path(), command, &[]).await;
        assert_eq!(outcome.status.code(), Some(64), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{arguments:?}: {outcome:?}");
    }
    for (clients, duration, words) in
        [("2", "2h", "an hour"), ("2", "0s", "an hour"), ("4000000000", "1s", "at most")]
    {
        let command = ["load", here, "--clients", clients, "--for", duration];
        let outcome = run(folder.path(), command, &[]).await;
        assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
    let nobody = ["load", "--clients", "2", "--for", "1s"];
    let outcome = run(folder.path(), nobody, &[]).await;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("telltale serve"), "{outcome:?}");
}
