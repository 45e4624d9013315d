//! With the application's own Redis, which is killed and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{decide_150, source, source_is, total};
use crate::harness::{Hub, Native, Redis, Setup};

/// The key that the application fills.
const KEY: &str = "metrics:latest";
/// What it puts there, as its documents show it.
const OBJECT: &str = r#"{"total_decisions": 150, "avg_confidence": 0.85,
 "strategy_performance": {"hybrid": {"count": 100, "avg_cost": 0.0023, "avg_confidence": 0.87},
  "complexity": {"count": 50, "avg_cost": 0.0018, "avg_confidence": 0.82}},
 "confidence_distribution": {"high": 120, "medium": 25, "low": 5},
 "provider_usage": {"gemini": 80, "claude": 50, "cerebras": 15, "openrouter": 5},
 "its_own": [1.50, null], "timestamp": "2025-11-16T12:34:56.789123"}"#;

/// A hub that reads the application's key in this Redis; its database may be
/// made or not.
fn with(redis: &Redis) -> Setup {
    with_cache(redis, "cache = { shared = [\"metrics:latest\"] }")
}

fn with_cache(redis: &Redis, grant: &str) -> Setup {
    let configuration =
        format!("[cache]\nurl = {:?}\n[routing]\ninterval = \"100ms\"\n", redis.url());
    Hub::new().with_routing_and(grant).configured(&configuration)
}

/// Three decisions, which are not what the cache says.
fn decide_3(setup: &Setup) {
    setup.routing_database().decide(3, "hybrid", "gemini", "high");
}

#[tokio::test]
async fn uses_redis_cache() {
    let Some(redis) = Redis::start().await else { return };
    redis.set(KEY, OBJECT).await;
    let setup = with(&redis);
    decide_3(&setup);
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    // Whole, as it was written.
    client.decisions_are(150).await;
    assert_eq!(client.0.text("the object").await, OBJECT);
    let told = source_is(&hub, "cache", "hit").await;
    assert!(told["age_ms"].as_u64() > Some(86_400_000), "{told}");
    // What it says may be of any shape, and be replaced at any time.
    redis.set(KEY, r#"{"hello":"world","timestamp":"2025-11-16T12:34:56.789123"}"#).await;
    let told = client.fetched("another object", |told| told["hello"] == "world").await;
    assert_eq!(told.as_object().unwrap().len(), 2);
    // The key is left alone.
    let ttl: i64 = redis.command(&["PTTL", KEY]).await;
    assert_eq!(ttl, -1, "it was written without an end");
    let keys: Vec<String> = redis.command(&["KEYS", "*"]).await;
    assert_eq!(keys, [KEY]);
}

#[tokio::test]
async fn error_handling_on_invalid_data() {
    let Some(redis) = Redis::start().await else { return };
    redis.set(KEY, "{\"total_decisions\": 1").await;
    let hub = with(&redis).start().await;
    let mut client = hub.routing("").await;
    client.failed().await;
    client.failed().await;
    for bad in ["[1]", "null", "", "{\"a\": NaN}"] {
        redis.set(KEY, bad).await;
        client.failed().await;
    }
    redis.set(KEY, OBJECT).await;
    client.decisions_are(150).await;
}

#[tokio::test]
async fn bad_json_in_the_cache_gives_way_to_the_database_and_stays_there() {
    let Some(redis) = Redis::start().await else { return };
    redis.set(KEY, "not json").await;
    let setup = with(&redis);
    decide_3(&setup);
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    client.decisions_are(3).await;
    source_is(&hub, "database", "invalid").await;
    assert!(total(&hub, "routing.cache.invalid").await > Some(0.0));
    assert_eq!(redis.get(KEY).await.unwrap(), b"not json");
    redis.set(KEY, OBJECT).await;
    client.decisions_are(150).await;
}

#[tokio::test]
async fn what_is_filled_is_under_the_hubs_own_keys_for_half_a_minute() {
    let Some(redis) = Redis::start().await else { return };
    let setup = with_cache(&redis, "cache = true");
    decide_3(&setup);
    redis.set(KEY, OBJECT).await;
    let hub = setup.start().await;
    hub.routing("").await.decisions_are(3).await;
    source_is(&hub, "cache", "hit").await;
    let mut keys: Vec<String> = redis.command(&["KEYS", "*"]).await;
    keys.retain(|key| key != KEY);
    assert!(!keys.is_empty());
    for key in &keys {
        let ttl: i64 = redis.command(&["PTTL", key]).await;
        assert!((1..=30_000).contains(&ttl), "{key}: {ttl}");
    }
    assert_eq!(redis.get(KEY).await.unwrap(), OBJECT.as_bytes());
}

#[tokio::test]
async fn a_cache_that_is_away_or_slow_leaves_it_to_the_database() {
    let Some(mut redis) = Redis::start().await else { return };
    redis.set(KEY, OBJECT).await;
    let setup = with(&redis);
    decide_3(&setup);
    let hub = setup.start().await;
    let mut client = hub.routing("").await;
    client.decisions_are(150).await;
    redis.kill();
    client.decisions_are(3).await;
    source_is(&hub, "database", "unavailable").await;
    assert!(total(&hub, "routing.cache.unavailable").await > Some(0.0));
    redis.restart().await;
    redis.set(KEY, OBJECT).await;
    client.decisions_are(150).await;
    redis.pause();
    client.decisions_are(3).await;
    redis.unpause();
    client.decisions_are(150).await;
}

#[tokio::test]
async fn both_away_is_an_error_object_and_both_may_come_back() {
    let Some(mut redis) = Redis::start().await else { return };
    redis.set(KEY, OBJECT).await;
    let hub = with(&redis).start().await;
    let mut client = hub.routing("").await;
    client.decisions_are(150).await;
    redis.kill();
    client.failed().await;
    let says_both = |plugin: &Value| {
        let reason = plugin["reason"].as_str().unwrap_or_default();
        plugin["state"] == "waiting" && reason.contains(KEY) && reason.contains("routing.db")
    };
    hub.plugin_until("routing", "say what is wrong with each", says_both).await;
    // First the one, …
    decide_150(&hub.setup().routing_database());
    client.decisions_are(150).await;
    source_is(&hub, "database", "unavailable").await;
    // … then the other.
    redis.restart().await;
    redis.set(KEY, r#"{"total_decisions":7}"#).await;
    client.decisions_are(7).await;
    source_is(&hub, "cache", "hit").await;
}

/// Reads all that a client is sent until it is told to stop: how many messages
/// it got, none of which was an error.
async fn only_metrics(
    hub: crate::harness::Door,
    count: Arc<AtomicU64>,
    mut stop: watch::Receiver<()>,
) {
    let mut client = hub.routing("").await;
    loop {
        tokio::select! {
            told = client.next() => {
                assert!(told.get("error").is_none(), "{told}");
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ = stop.changed() => return,
        }
    }
}

/// The latest that a tick was until it is told to stop, in seconds.
async fn latest_tick(mut client: Native, series: Value, mut stop: watch::Receiver<()>) -> f64 {
    let mut latest: f64 = 0.0;
    loop {
        tokio::select! {
            push = client.next_push() => {
                latest = latest.max(Native::value(&push, &series).unwrap_or(0.0));
            }
            _ = stop.changed() => return latest,
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_killed_twenty_times_shows_nobody_an_error() {
    let Some(mut redis) = Redis::start().await else { return };
    let setup = with(&redis);
    decide_3(&setup);
    let hub = setup.start().await;
    hub.routing("").await.decisions_are(3).await;

    let (stop, stopped) = watch::channel(());
    let counts: Vec<Arc<AtomicU64>> = (0..4).map(|_| Arc::default()).collect();
    let clients: Vec<_> = counts
        .iter()
        .map(|count| tokio::spawn(only_metrics(*hub, count.clone(), stopped.clone())))
        .collect();
    let mut lateness = hub.native().await;
    let filter = json!({"name": "telltale.tick.lateness"});
    let ok = lateness.subscribe("metrics", filter).await;
    let series = ok["snapshot"]["series"][0]["id"].clone();
    let lateness = tokio::spawn(latest_tick(lateness, series, stopped));

    for _ in 0..20 {
        redis.kill();
        source(&hub, "the database", |told| told["cache"] == "unavailable").await;
        redis.restart().await;
        source(&hub, "the cache to be back", |told| told["cache"] != "unavailable").await;
    }
    let before: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(before.iter().all(|count| *count >= 20), "{before:?}");
    stop.send_replace(());
    for client in clients {
        client.await.unwrap();
    }
    let latest = Duration::from_secs_f64(lateness.await.unwrap());
    // For those who look: how late a tick is is the machine's affair too.
    eprintln!("the latest tick was {latest:?} late; the clients had {before:?} messages");
}
