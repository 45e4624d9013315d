//! The AI cost optimizer's clients: the ten cases of its own tests by name, and
//! what becomes of its clients when the cache or the database isn't as it should
//! be.

mod postgres;
mod redis;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use telltale::access::Issuer;
use telltale::config::Config;

use crate::harness::{
    Heard, Hub, RoutingClient, RoutingDatabase, Setup, Socket, head_of, naive_time as time, within,
};

const SECRET: &str = "a secret of those who route by cost";

/// What makes the plugin ask the database at each tick: no cache.
const NO_CACHE: &str = "";

/// A hub whose clients get the metrics ten times a second, which come from the
/// database at each tick.
fn quick() -> Setup {
    Hub::new().with_routing_and(NO_CACHE).configured("[routing]\ninterval = \"100ms\"\n")
}

/// The same with 150 decisions in the database.
async fn quick_with_decisions() -> (Hub, RoutingDatabase) {
    let setup = quick();
    let database = setup.routing_database();
    decide_150(&database);
    (setup.start().await, database)
}

fn decide_150(database: &RoutingDatabase) {
    database.decide(80, "hybrid", "gemini", "high").decide(20, "hybrid", "claude", "medium");
    database.decide(45, "complexity", "claude", "high").decide(
        5,
        "complexity",
        "openrouter",
        "low",
    );
}

/// What the document `routing.source` says, once it says something of this sort.
async fn source(hub: &Hub, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    hub.until(what, async || {
        let filter = json!({"name": "routing.source"});
        let ok = hub.native().await.subscribe("documents", filter).await;
        let document = ok["snapshot"]["documents"].get(0)?;
        (document.get("stale").is_none_or(Value::is_null) && wanted(&document["data"]))
            .then(|| document["data"].clone())
    })
    .await
}

async fn source_is(hub: &Hub, source_is: &str, cache: &str) -> Value {
    let what = format!("the source {source_is}, the cache being {cache}");
    source(hub, &what, |told| told["source"] == source_is && told["cache"] == cache).await
}

/// The last value of a counter.
async fn total(hub: &Hub, name: &str) -> Option<f64> {
    let series = hub.series(name).await;
    let history = format!("/v1/history?series={}&raw=true", series.first()?["id"]);
    hub.get_json(&history).await["points"].as_array()?.last()?[3].as_f64()
}

// The ten.

#[tokio::test]
async fn endpoint_exists() {
    let (hub, _database) = quick_with_decisions().await;
    hub.routing("").await.next().await;
    // Over plain HTTP there is nothing.
    assert_ne!(hub.get("/ws/metrics").await.status, 200);
}

#[tokio::test]
async fn receives_initial_metrics() {
    let setup = Hub::new().with_routing();
    decide_150(&setup.routing_database());
    // The next would come after an hour.
    let hub = setup.configured("[routing]\ninterval = \"1h\"\n").start().await;
    // On a busy machine the plugin may not have answered yet.
    source(&hub, "the first answer", |_| true).await;
    let mut told = hub.routing("").await.next().await;
    told.as_object_mut().unwrap().remove("timestamp").unwrap();
    let of =
        |count: u32, sure: f64| json!({"count": count, "avg_cost": 0.0023, "avg_confidence": sure});
    assert_eq!(
        told,
        json!({
            "total_decisions": 150,
            "avg_confidence": 0.94,
            "strategy_performance": {"hybrid": of(100, 0.94), "complexity": of(50, 0.94)},
            "confidence_distribution": {"high": 125, "medium": 20, "low": 5},
            "provider_usage": {"gemini": 80, "claude": 65, "openrouter": 5},
        })
    );
}

#[tokio::test]
async fn periodic_updates_every_5_seconds() {
    assert_eq!(Config::default().routing.interval, Duration::from_secs(5));
    let setup = Hub::new().with_routing_and(NO_CACHE);
    decide_150(&setup.routing_database());
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    let times = [time(&client.next().await), time(&client.next().await)];
    // By the hub's own stamps, the older of which may be a tick old.
    let apart = (times[1] - times[0]).total(jiff::Unit::Second).unwrap();
    assert!(apart >= 4.5, "the second came {apart} s after the first");
}

#[tokio::test]
async fn periodic_updates_come_at_the_interval_that_is_configured() {
    let (hub, database) = quick_with_decisions().await;
    let mut client = hub.routing("").await;
    let first = client.decisions_are(150).await;
    database.decide(1, "hybrid", "gemini", "low");
    let then = client.decisions_are(151).await;
    assert!(time(&then) > time(&first));
}

#[tokio::test]
async fn multiple_concurrent_connections() {
    let (hub, database) = quick_with_decisions().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(hub.routing("").await);
    }
    for client in &mut clients {
        client.decisions_are(150).await;
    }
    database.decide(1, "hybrid", "gemini", "low");
    for client in &mut clients {
        client.decisions_are(151).await;
    }
}

#[tokio::test]
async fn graceful_disconnect() {
    let (hub, _database) = quick_with_decisions().await;
    let (mut leaves, mut stays) = (hub.routing("").await, hub.routing("").await);
    leaves.next().await;
    leaves.0.close().await;
    for _ in 0..3 {
        stays.next().await;
    }
    hub.program.signal(rustix::process::Signal::TERM);
    assert_eq!(stays.0.closed().await.0, 1001);
}

#[tokio::test]
async fn connection_manager_tracking() {
    let (hub, _database) = quick_with_decisions().await;
    let connections = async |wanted: u64| {
        within(&format!("{wanted} connections"), async {
            while hub.get_json("/health").await["connections"] != wanted {}
        })
        .await;
    };
    connections(0).await;
    let mut first = hub.routing("").await;
    connections(1).await;
    let second = hub.routing("").await;
    connections(2).await;
    let stats = hub.get_json("/v1/stats").await;
    assert_eq!(stats["connections"]["dialects"]["routing"], 2, "{stats}");
    first.0.close().await;
    connections(1).await;
    drop(second);
    connections(0).await;
}

#[tokio::test]
async fn sends_valid_json() {
    let (hub, database) = quick_with_decisions().await;
    // Names that would break what is put together by hand.
    database.decide(1, "\"quoted\"\n\u{1}", "ünïcödé \\", "high");
    let mut client = hub.routing("").await;
    let told = client.decisions_are(151).await;
    assert_eq!(told["strategy_performance"]["\"quoted\"\n\u{1}"]["count"], 1);
    assert_eq!(told["provider_usage"]["ünïcödé \\"], 1);
}

#[tokio::test]
async fn timestamp_format() {
    let (hub, _database) = quick_with_decisions().await;
    let mut client = hub.routing("").await;
    let now = jiff::Timestamp::now();
    let told = client.next().await;
    let told = time(&told).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    assert!((told.as_second() - now.as_second()).abs() < 3600, "{told} is not in UTC");
}

// The cache and the database.

#[tokio::test]
async fn the_source_and_its_age_are_told_natively() {
    let setup = Hub::new().with_routing();
    decide_150(&setup.routing_database());
    let hub = setup.start().await;
    // The first answer came from the database; those that follow, from the cache.
    let told = source_is(&hub, "cache", "hit").await;
    assert!(told["age_ms"].as_u64().is_some(), "{told}");
    let value = async |name: &str| hub.series(name).await.first()?["value"].as_f64();
    let age = hub.until("an age", async || value("routing.age").await.filter(|age| *age > 0.0));
    assert!(age.await < 60.0);
    assert_eq!(value("routing.decisions").await, Some(150.0));
    assert_eq!(total(&hub, "routing.source.database").await, Some(1.0));
    assert!(total(&hub, "routing.source.cache").await > Some(0.0));
    let of_claude = hub.series("routing.provider.decisions").await;
    let of_claude = of_claude.iter().find(|series| series["labels"]["provider"] == "claude");
    assert_eq!(of_claude.unwrap()["value"], 65.0);
}

#[tokio::test]
async fn what_the_cache_keeps_runs_out() {
    let setup = Hub::new().with_routing_and("cache = true\n[config]\nttl_s = 1\n");
    let setup = setup.configured("[routing]\ninterval = \"100ms\"\n");
    let database = setup.routing_database();
    decide_150(&database);
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    client.decisions_are(150).await;
    database.decide(1, "hybrid", "gemini", "low");
    client.decisions_are(151).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_an_error_object_until_it_is_back() {
    let (hub, database) = quick_with_decisions().await;
    let mut client = hub.routing("").await;
    client.decisions_are(150).await;
    drop(database);
    let (path, away) = (hub.setup().routing_path(), hub.path().join("away.db"));
    fs::rename(&path, &away).unwrap();
    client.failed().await;
    let says_both = |plugin: &Value| {
        let reason = plugin["reason"].as_str().unwrap_or_default();
        ["metrics:latest", "cache = true", "routing.db"].iter().all(|part| reason.contains(part))
    };
    hub.plugin_until("routing", "say what is wrong with each", says_both).await;
    // Natively the last figures stand, and are told to be stale.
    let filter = json!({"name": "routing"});
    let ok = hub.native().await.subscribe("documents", filter).await;
    let document = &ok["snapshot"]["documents"][0];
    assert_eq!(document["data"]["total_decisions"], 150);
    assert!(document["stale"]["reason"].as_str().unwrap().contains("routing.db"), "{document}");
    fs::rename(&away, &path).unwrap();
    client.decisions_are(150).await;
}

#[tokio::test]
async fn without_a_plugin_there_is_an_error_object_and_later_there_are_metrics() {
    let hub = Hub::new().configured("[routing]\ninterval = \"100ms\"\n").start().await;
    let mut client = hub.routing("").await;
    client.failed().await;
    client.failed().await;
    decide_150(&hub.setup().routing_database());
    let path = hub.setup().routing_path();
    hub.settings("routing", &format!("[grant]\nsql = {{ routing = {path:?} }}\n"));
    hub.drop_in("routing", &crate::harness::guest("telltale_routing"));
    client.decisions_are(150).await;
}

#[tokio::test]
async fn a_database_without_the_table_or_with_nothing_in_it() {
    let setup = quick();
    let database = setup.routing_database();
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    let told = client.decisions_are(0).await;
    assert_eq!(told["confidence_distribution"], json!({"high": 0, "medium": 0, "low": 0}));
    database.run("ALTER TABLE routing_metrics RENAME TO elsewhere");
    client.failed().await;
    database.run("ALTER TABLE elsewhere RENAME TO routing_metrics");
    database.run(
        "INSERT INTO routing_metrics (timestamp, strategy_used, confidence) VALUES
            (strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'), NULL, 'certain'), ('never', 'x', 'high')",
    );
    let told = client.decisions_are(1).await;
    assert_eq!(told["provider_usage"], json!({"unknown": 1}));
    assert_eq!(told["strategy_performance"]["unknown"]["avg_cost"], Value::Null);
}

// What a client asks for.

#[tokio::test]
async fn fields_narrow_what_is_told() {
    let (hub, _database) = quick_with_decisions().await;
    let mut client = hub.routing("?fields=provider_usage,total_decisions,nothing").await;
    for _ in 0..3 {
        let told = client.decisions_are(150).await;
        let mut keys: Vec<&String> = told.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["provider_usage", "timestamp", "total_decisions"]);
    }
}

#[tokio::test]
async fn on_change_tells_only_what_has_changed() {
    let (hub, database) = quick_with_decisions().await;
    let mut client = hub.routing("?on=change&fields=total_decisions").await;
    let mut ticks = hub.ticks().await;
    let mut other = hub.routing("").await;
    client.decisions_are(150).await;
    // Several ticks, each with a time of its own.
    let before = other.decisions_are(150).await;
    other.fetched("later metrics", |told| time(told) > time(&before)).await;
    for _ in 0..3 {
        ticks.next_push().await;
    }
    database.decide(1, "hybrid", "gemini", "low");
    // A snapshot from before the plugin was first asked may have been told first.
    let (_, between) = client.until("a change", |told| told["total_decisions"] == 151).await;
    assert_eq!(between, Vec::<Value>::new());
    database.run("ALTER TABLE routing_metrics RENAME TO elsewhere");
    client.failed().await;
}

#[tokio::test]
async fn what_can_not_be_meant_is_refused_before_the_upgrade() {
    let hub = Hub::new().start().await;
    for query in ["?fields=", "?fields=a,,b", "?on=tick"] {
        assert_eq!(status(&hub, query, None).await, 400, "{query}");
    }
    assert_eq!(status(&hub, "?other=1", None).await, 101);
}

#[tokio::test]
async fn whatever_a_client_sends_is_ignored() {
    let (hub, _database) = quick_with_decisions().await;
    let mut client = hub.routing("").await;
    for text in ["", "{}", "not json", r#"{"type":"subscribe"}"#] {
        client.0.send(text).await;
    }
    client.0.send_binary(&[0, 159, 146]).await;
    for _ in 0..3 {
        client.decisions_are(150).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_sent_more_and_more() {
    let setup = quick();
    let database = setup.routing_database();
    // As much as is told of names: about 60 KiB.
    database.run(
        "INSERT INTO routing_metrics (timestamp, strategy_used, provider)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         SELECT strftime('%Y-%m-%d %H:%M:%f', 'now'), i || hex(zeroblob(150)),
            i || hex(zeroblob(150)) FROM n",
    );
    let hub = setup.start().await;
    let mut reads = hub.routing("").await;
    reads.decisions_are(100).await;
    let slow = Socket::connect_with_little_room(hub.0, "/ws/metrics").await;
    let skipped = async || total(&hub, "telltale.channel.skipped").await.filter(|n| *n > 2.0);
    hub.until("messages to be left out", skipped).await;
    database.decide(1, "hybrid", "gemini", "low");
    reads.decisions_are(101).await;
    drop(slow);
}

// Who may.

/// The status of the answer to a handshake.
async fn status(hub: &Hub, query: &str, token: Option<&str>) -> u16 {
    let token = token.map_or_else(String::new, |t| format!("\r\nAuthorization: Bearer {t}"));
    let request = format!(
        "GET /ws/metrics{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=={token}",
        hub.0
    );
    let head = head_of(hub.0, &request).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn token(more: Value) -> String {
    let mut claims = json!({"sub": "ana", "exp": jiff::Timestamp::now().as_second() + 3600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

async fn guarded(more: &str) -> Hub {
    let setup = quick();
    decide_150(&setup.routing_database());
    let auth = format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\nleeway = \"0s\"\n{more}\n");
    setup.configured(&format!("{auth}[routing]\ninterval = \"100ms\"\n")).start().await
}

#[tokio::test]
async fn a_token_is_wanted_before_the_upgrade() {
    let hub = guarded("").await;
    assert_eq!(status(&hub, "", None).await, 401);
    assert_eq!(status(&hub, "?token=nonsense", None).await, 401);
    let good = token(json!({}));
    assert_eq!(status(&hub, "", Some(&good)).await, 101);
    hub.routing(&format!("?token={good}")).await.decisions_are(150).await;
    // And when it runs out the connection ends.
    let brief = token(json!({"exp": jiff::Timestamp::now().as_second() + 3}));
    let mut client = RoutingClient(Socket::connect_with(hub.0, "/ws/metrics", &brief).await);
    assert_eq!(client.0.closed().await.0, 3505);
}

#[tokio::test]
async fn a_token_that_does_not_allow_the_document_is_refused() {
    let hub = guarded("").await;
    for (read, told) in [(json!(["system.*"]), 403), (json!(["rout*"]), 101), (json!([]), 403)] {
        assert_eq!(status(&hub, "", Some(&token(json!({"read": read})))).await, told, "{read}");
    }
}

#[tokio::test]
async fn where_the_dialect_needs_no_token_none_is_wanted() {
    let hub = guarded("anonymous = [\"routing\"]").await;
    hub.routing("").await.decisions_are(150).await;
    // Who shows one all the same has to show a good one.
    assert_eq!(status(&hub, "?token=nonsense", None).await, 401);
    match hub.native().await.socket.hear("the native dialect to want one").await {
        Heard::Close(3500, _) => {}
        heard => panic!("{heard:?}"),
    }
}
