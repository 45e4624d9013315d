//! The hub as those see it who watch over it: scrapes, statistics, log lines,
//! the audit log.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use telltale::config::{AuditConfig, Config};

use crate::cli;
use crate::harness::{Answer, Door, Hub, Setup, guest, mode, within};
use crate::languages::workshop;

/// What a scrape comes to for Prometheus' own client in Python, whose parser of
/// OpenMetrics refuses what is not by the book.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
parse = {'open': open_metrics, 'plain': plain}[sys.argv[1]]
print(json.dumps([
    [family.name, family.type, family.unit, family.documentation,
     [[sample.name, sample.labels, sample.value] for sample in family.samples]]
    for family in parse(sys.stdin.read())
]))
";

/// The families of a scrape: name, type, unit, help and samples each. None,
/// which is told, if the parser is missing.
///
/// # Panics
///
/// The parser refuses it; or it has to be there, and is not.
fn parsed(format: &str, text: &str) -> Option<Vec<Value>> {
    let mut command = Command::new("python3");
    command.env("PATH", workshop::path()).arg("-c");
    let is_there = command.arg("import prometheus_client").status().is_ok_and(|s| s.success());
    if !is_there {
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "prometheus_client is missing");
        // Not by a macro, whose words are kept back for tests that pass.
        let told = "skipped: prometheus_client is missing (tests/tools.sh has it)";
        let _ = writeln!(std::io::stderr(), "{told}");
        return None;
    }
    let mut command = Command::new("python3");
    command.env("PATH", workshop::path()).args(["-c", PARSE, format]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = command.spawn().unwrap();
    let mut input = parser.stdin.take().unwrap();
    let text = text.to_owned();
    let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = parser.wait_with_output().unwrap();
    // It may have refused it half-way.
    let _ = writing.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn family<'a>(families: &'a [Value], name: &str) -> &'a Value {
    let found = families.iter().find(|family| family[0] == name);
    found.unwrap_or_else(|| panic!("there is no family {name}"))
}

async fn scrape(hub: &Door, accept: &str) -> Answer {
    let head = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}");
    let answer = hub.request(&head).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

const OPEN: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

/// A hub with the default plugins, and some whose series are odd.
async fn odd_hub() -> Hub {
    let hub = Hub::unfurnished().start().await;
    let shared = |kind: &str| format!("[config]\nname = \"shared.value\"\nkind = \"{kind}\"\n");
    hub.settings("first", &shared("gauge"));
    hub.drop_in("first", &guest("guest_collector"));
    hub.state("first", "running").await;
    hub.until("its series", async || hub.series("shared.value").await.first().cloned()).await;
    hub.settings("second", &format!("{}series = 3\n", shared("counter")));
    hub.drop_in("second", &guest("guest_collector"));
    hub.settings("odd", &mode("odd"));
    hub.drop_in("odd", &guest("guest_collector"));
    let all_there = async || {
        let odd = hub.series("odd.seen").await.len() == 3;
        (odd && hub.series("shared.value").await.len() == 4).then_some(())
    };
    hub.until("all series", all_there).await;
    hub
}

#[tokio::test]
async fn prometheus_own_parser_takes_all_that_a_hub_with_odd_plugins_tells() {
    let hub = odd_hub().await;
    let answer = scrape(&hub, OPEN).await;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(content_type), "{}", answer.head);
    assert!(answer.body.ends_with("\n# EOF\n"));
    let Some(families) = parsed("open", &answer.body) else { return };

    let time = family(&families, "system_cpu_time_seconds");
    assert_eq!((&time[1], &time[2]), (&json!("counter"), &json!("seconds")));
    assert_eq!(time[4][0][0], "system_cpu_time_seconds_total");
    assert_eq!(time[4][0][1]["otel_scope_name"], "system");
    let late = family(&families, "telltale_tick_lateness_seconds");
    assert_eq!(
        (&late[1], &late[4][0][1]),
        (&json!("gauge"), &json!({"otel_scope_name": "telltale"}))
    );

    let flow = family(&families, "odd_flow_bytes_per_second");
    assert_eq!((&flow[1], &flow[2]), (&json!("gauge"), &json!("bytes_per_second")));
    assert_eq!(flow[3], "A \"quoted\" \\ word,\n# TYPE of two lines");
    let sample = |family: &str, total: &str, labels: Value, value: f64| {
        let mut labels = labels;
        labels["otel_scope_name"] = json!("odd");
        json!([format!("{family}{total}"), labels, value])
    };
    let of_flow = |labels, value| sample("odd_flow_bytes_per_second", "", labels, value);
    assert_eq!(
        flow[4],
        json!([
            of_flow(json!({"says": "a \"b\" \\n {c=1} #"}), 1.5),
            of_flow(json!({"says": "größe €\u{2028}"}), -2e300),
            of_flow(json!({}), 3.0),
        ])
    );
    let seen = family(&families, "odd_seen");
    let of_seen = |labels, value| sample("odd_seen", "_total", labels, value);
    assert_eq!(
        seen[4],
        json!([
            of_seen(json!({"le": "0.5", "a_b": "1;2"}), 5.0),
            of_seen(json!({"le": "+Inf", "exported_otel_scope_name": "me"}), 1e18),
        ])
    );
    assert_eq!(family(&families, "odd_level_total")[4].as_array().unwrap().len(), 2);

    let shared: Vec<_> =
        families.iter().filter(|family| family[0].as_str().unwrap().contains("shared")).collect();
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert_eq!(shared[0][0], "shared_value_ratio");
    assert_eq!(shared[0][4][0][1]["otel_scope_name"], "first");
}

#[tokio::test]
async fn who_takes_nothing_else_gets_the_plain_format() {
    let hub = odd_hub().await;
    let answer = scrape(&hub, "text/plain").await;
    assert!(answer.head.contains("text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    let Some(families) = parsed("plain", &answer.body) else { return };
    let time = family(&families, "system_cpu_time_seconds");
    assert_eq!(
        (&time[1], &time[4][0][0]),
        (&json!("counter"), &json!("system_cpu_time_seconds_total"))
    );
    assert_eq!(family(&families, "odd_flow_bytes_per_second")[4].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_a_scrape_leaves_out_is_counted_and_named() {
    let hub = odd_hub().await;
    let told = hub.get_json("/v1/plugins/second").await["left_out"].clone();
    let reason =
        "it is a counter in `1`, and `shared.value` of the plugin `first` is a gauge in `1`";
    assert_eq!(told, json!([{"name": "shared.value", "series": 3, "reason": reason}]));
    assert_eq!(hub.get_json("/v1/plugins/first").await["left_out"], json!([]));
    let data = [("TELLTALE_DATA", "data")];
    let outcome = cli::run(hub.path(), ["plugin", "inspect", "second"], &data).await;
    let line = format!("not in /metrics:\n  shared.value (3 series): {reason}\n");
    assert!(outcome.stdout.contains(&line), "{outcome:?}");
    scrape(&hub, OPEN).await;
    let counted = async || {
        let answer = scrape(&hub, OPEN).await;
        let line =
            answer.body.lines().find(|line| line.starts_with("telltale_exposition_left_out_total"));
        let value: f64 = line?.rsplit(' ').next()?.parse().ok()?;
        // The three of `second`; of `odd` one that is there twice, and one below zero.
        (value >= 5.0).then_some(())
    };
    hub.until("it to be counted", counted).await;
}

#[tokio::test]
async fn counters_are_told_as_they_stand_and_what_is_stale_is_not_told() {
    let hub = Hub::new().plugin("grows", "guest_collector", "[config]\nkind = \"counter\"\n");
    let hub = hub.start().await;
    let value = async || {
        let answer = scrape(&hub, OPEN).await;
        let line = answer.body.lines().find(|line| line.starts_with("guest_value_total"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    // The tick's number, and not one for each tick.
    hub.until("a total", async || value().await.filter(|value| *value > 3.0)).await;
    hub.settings("grows", &mode("retry"));
    hub.until("it to be gone", async || value().await.is_none().then_some(())).await;
}

fn configured(setup: Setup, text: &str) -> Setup {
    fs::write(setup.path().join("telltale.toml"), text).unwrap();
    setup
}

const BRANCH: &str = "room:project:42";

#[tokio::test]
async fn the_statistics_tell_who_is_connected_and_where() {
    let hub = Hub::new().start().await;
    let mut native = hub.native().await;
    native.subscribe(BRANCH, Value::Null).await;
    let _skills = hub.welcomed().await;
    native.ok(json!({"op": "publish", "type": "pr.created", "source": "t", "data": {"project_id": 42}}))
        .await;
    let stats = hub.get_json("/v1/stats").await;
    let connections = &stats["connections"];
    assert_eq!(connections["dialects"], json!({"native": 1, "skills": 1}));
    assert_eq!(connections["users"]["top"], json!([{"user": "anonymous", "connections": 2}]));
    assert_eq!(
        stats["rooms"],
        json!({"count": 1, "top": [{"room": "project:42", "connections": 1, "users": 1}]})
    );
    assert_eq!(stats["totals"]["published"], 1);
    assert!(stats["totals"]["received"].as_u64().unwrap() >= 2, "{stats}");
    assert!(stats["rates"]["published"].as_f64().unwrap() > 0.0, "{stats}");
    assert_eq!(stats["limits"]["connections_max"], 10_000);
    assert_eq!(stats["clients"].as_array().unwrap().len(), 2);
    assert_eq!(stats["clients"][0].get("address"), None, "{stats}");
    let same = hub.get_json("/api/v1/websocket/stats").await;
    assert_eq!(same["connections"], *connections);

    let token = &hub.file.admin_token;
    let head =
        format!("GET /v1/stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}");
    let stats = hub.request(&head).await.json();
    assert_eq!(stats["clients"][0]["address"], "127.0.0.1");
}

/// The lines of the program's log that have all of these words.
fn logged(hub: &Hub, words: &[&str]) -> Vec<String> {
    let text = hub.program.stderr();
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    text.lines().filter(has_all).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_connections_life_can_be_followed_by_its_public_number() {
    let hub = Hub::new().start().await;
    // Those who came before, and waited for the hub to be ready.
    hub.until("nobody to be there", async || {
        (logged(&hub, &["disconnected"]).len() == 1).then_some(())
    })
    .await;
    let mut client = hub.native().await;
    let id = client.ok(json!({"op": "connect"})).await["connection"].as_str().unwrap().to_owned();
    let line = logged(&hub, &["connected", &id]).remove(0);
    for words in ["dialect=\"native\"", "address=127.0.0.1", "user=\"anonymous\""] {
        assert!(line.contains(words), "{line}");
    }
    client.socket.close().await;
    let ended = hub.until("its end", async || logged(&hub, &["disconnected", &id]).pop()).await;
    for words in ["code=1005", "why=\"closed by the client\"", "received=1", "sent=", "seconds="] {
        assert!(ended.contains(words), "{ended}");
    }
}

/// The lines of the audit log that are there by now.
fn noted(hub: &Hub) -> Vec<Value> {
    let text = fs::read_to_string(hub.setup().data().join("audit.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn note(hub: &Hub, wanted: impl Fn(&Value) -> bool) -> Value {
    within("a note in the audit log", async {
        loop {
            if let Some(note) = noted(hub).into_iter().find(&wanted) {
                return note;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what() {
    let setup = configured(Hub::new(), "[audit]\nenabled = true\n");
    let hub = setup.plugin("steady", "guest_collector", "").start().await;
    let mut client = hub.native().await;
    let id = client.ok(json!({"op": "connect"})).await["connection"].clone();
    let connected = note(&hub, |note| note["act"] == "connected" && note["connection"] == id).await;
    assert_eq!(
        (&connected["dialect"], &connected["address"], &connected["user"]),
        (&json!("native"), &json!("127.0.0.1"), &json!("anonymous"))
    );
    let sub = client.subscribe(BRANCH, Value::Null).await["sub"].clone();
    let publish = json!({"op": "publish", "type": "pr.created", "source": "t", "data": {"project_id": 42, "secret": "s3"}});
    let receipt = client.ok(publish).await;
    client.ok(json!({"op": "unsubscribe", "sub": sub})).await;
    let refused = json!({"op": "subscribe", "channel": "room:user:somebody-else"});
    assert_eq!(client.refused(refused).await["code"], "denied");
    client.socket.close().await;

    let of_client = |act: &'static str| {
        let id = id.clone();
        move |note: &Value| note["act"] == act && note["connection"] == id
    };
    assert_eq!(note(&hub, of_client("entered")).await["room"], "project:42");
    assert_eq!(note(&hub, of_client("left")).await["room"], "project:42");
    let refused = note(&hub, of_client("refused")).await;
    assert_eq!(
        (&refused["what"], &refused["why"]),
        (&json!("room:user:somebody-else"), &json!("denied"))
    );
    let published = note(&hub, |note| note["act"] == "published").await;
    assert_eq!(
        (&published["type"], &published["id"], &published["offset"], &published["rooms"]),
        (&json!("pr.created"), &receipt["id"], &receipt["offset"], &json!(["project:42"]))
    );
    assert_eq!(note(&hub, of_client("disconnected")).await["code"], 1005);

    let data = [("TELLTALE_DATA", "data")];
    cli::run(hub.path(), ["plugin", "remove", "steady"], &data).await;
    let removed = note(&hub, |note| note["act"] == "administered").await;
    assert_eq!(
        (&removed["what"], &removed["whom"], &removed["address"]),
        (&json!("plugin remove"), &json!("steady"), &json!("127.0.0.1"))
    );
    let text = fs::read_to_string(hub.setup().data().join("audit.jsonl")).unwrap();
    assert!(!text.contains("s3"), "the data of an event is nobody's business");
    let (status, setup) = hub.stop_with(rustix::process::Signal::TERM).await;
    assert!(status.success());
    let text = fs::read_to_string(setup.data().join("audit.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(text.contains("\"act\":\"stopped\""), "{last}");
}

#[test]
fn the_audit_section_of_the_document_is_understood() {
    let document = fs::read_to_string(workshop::root().join("docs/operations.md")).unwrap();
    let section = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telltale.toml");
    fs::write(&file, section).unwrap();
    let audit = Config::load(Some(&file), []).unwrap().audit;
    let shown = AuditConfig {
        enabled: Some(true),
        file: Some("/var/log/telltale/audit.jsonl".into()),
        ..AuditConfig::default()
    };
    assert_eq!(audit, shown, "what is said to be the default is the default");
}
