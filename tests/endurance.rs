//! What a hub must bear for as long as one likes: here for a while. The
//! environment's `ENDURANCE_RELOADS` says how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Hub, Native, guest, version_of};
use crate::native::follows;

/// As many as a test has time for.
const RELOADS: usize = 100;
/// How many clients look on.
const CLIENTS: usize = 100;
/// For how many ticks it is looked at what the hub uses.
const CALM_TICKS: usize = 10;
/// What memory may have grown by in a run that is asked for, after what is done
/// once (buffers, threads, pages of the database) is done.
const GROWTH_MAX_PERCENT: u64 = 5;
/// The same beside other tests, whose company makes clients slow.
const GROWTH_BESIDE_OTHERS_MAX_PERCENT: u64 = 10;

/// One client: no tick is missing or comes twice, and in each of them the
/// neighbour has the value of that tick.
async fn look_on(mut client: Native, last_tick: Arc<AtomicU64>) -> u64 {
    let filter = json!({"name": "{neighbour.value,swapped.value}"});
    let ok = client.subscribe("metrics", filter).await;
    let series = ok["snapshot"]["series"].as_array().unwrap().clone();
    assert_eq!(series.len(), 2, "{ok}");
    let neighbour = series.iter().find(|series| series["name"] == "neighbour.value").unwrap();
    let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
    let (mut late, mut last_value) = (0, 0.0);
    while tick < last_tick.load(Ordering::Relaxed) {
        let push = client.next_push().await;
        assert_eq!(push.get("gone"), None, "a series went: {push}");
        tick = follows(tick, &push);
        let value = Native::value(&push, &neighbour["id"]);
        #[expect(clippy::cast_precision_loss, reason = "ticks of tests are few")]
        let in_time = value == Some(tick as f64);
        if let Some(value) = value {
            assert!(value > last_value, "a value came twice, or an old one: {push}");
            last_value = value;
        }
        if !in_time {
            // On a busy machine it comes with the next tick; nothing else may
            // keep it away.
            late += 1 + push["skipped"].as_u64().unwrap_or(0);
        }
        for stale in push["stale"].as_array().into_iter().flatten() {
            assert_eq!(stale["code"], "late", "{push}");
        }
    }
    late
}

/// The hub's memory in bytes and its descriptors, between what comes and goes:
/// the least of some ticks.
async fn in_use(hub: &Hub) -> (u64, usize) {
    let mut ticks = hub.ticks().await;
    let mut least = (u64::MAX, usize::MAX);
    for _ in 0..CALM_TICKS {
        ticks.next_push().await;
        least.0 = least.0.min(hub.program.resident_bytes());
        least.1 = least.1.min(hub.program.descriptors());
    }
    least
}

/// Replaces the plugin by the other of two versions, and waits until it runs.
async fn swap(hub: &Hub, client: &mut Native, versions: &[Vec<u8>; 2], number: usize) -> u64 {
    hub.drop_in("swapped", &versions[number % 2]);
    let event = client.event("reloaded", "swapped").await;
    event["tick"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_in_a_row_under_a_hundred_clients_lose_no_tick_no_memory_and_no_descriptor() {
    let reloads = std::env::var("ENDURANCE_RELOADS").ok();
    let (reloads, growth_max_percent) = match reloads {
        Some(number) => (number.parse().unwrap(), GROWTH_MAX_PERCENT),
        None => (RELOADS, GROWTH_BESIDE_OTHERS_MAX_PERCENT),
    };
    let hub = Hub::new()
        .tick_ms(50)
        .plugin("swapped", "guest_collector", "[config]\nname = \"swapped.value\"\n")
        .plugin("neighbour", "guest_collector", "[config]\nname = \"neighbour.value\"\n")
        .start()
        .await;
    let last_tick = Arc::new(AtomicU64::new(u64::MAX));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(look_on(hub.native().await, last_tick.clone()));
    }
    let mut client = hub.native().await;
    client.subscribe("hub", Value::Null).await;
    let component = guest("guest_collector");
    let versions = [version_of(&component, 1), version_of(&component, 2)];

    // What is done once is done in the first tenth.
    let warm = reloads / 10;
    for number in 0..warm {
        swap(&hub, &mut client, &versions, number).await;
    }
    let (memory, descriptors) = in_use(&hub).await;
    let begun = std::time::Instant::now();
    let mut reloaded_at = 0;
    for number in warm..reloads {
        let tick = swap(&hub, &mut client, &versions, number).await;
        assert!(tick > reloaded_at, "two reloads at tick {tick}");
        reloaded_at = tick;
    }
    let took = begun.elapsed();
    let (memory_after, descriptors_after) = in_use(&hub).await;
    last_tick.store(reloaded_at + 3 * CALM_TICKS as u64, Ordering::Relaxed);
    let mut late = 0;
    while let Some(client) = clients.join_next().await {
        late += client.unwrap();
    }
    let plugin = hub.plugin("swapped").await.unwrap();
    println!(
        "{reloads} reloads, {CLIENTS} clients: {:.1} a second; memory {} KiB, then {} KiB; \
         descriptors {descriptors}, then {descriptors_after}; {late} values of the neighbour late",
        (reloads - warm) as f64 / took.as_secs_f64(),
        memory >> 10,
        memory_after >> 10,
    );
    assert_eq!((&plugin["faults"], &plugin["state"]), (&json!(0), &json!("running")), "{plugin}");
    assert!(descriptors_after <= descriptors, "{descriptors} descriptors, {descriptors_after} now");
    let most = memory + memory * growth_max_percent / 100;
    assert!(memory_after <= most, "{memory} bytes of memory, {memory_after} now");
}
