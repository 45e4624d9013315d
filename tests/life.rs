//! The life of the hub: it starts, is killed, starts again, and stops.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::{Heard, Hub, Native, Socket, guest, mode, within};

/// The values of a series that the store has committed.
async fn committed(hub: &Hub, id: &Value) -> Vec<f64> {
    let found = hub.get_json(&format!("/v1/history?series={id}&raw=true")).await;
    found["points"].as_array().unwrap().iter().filter_map(|point| point[1].as_f64()).collect()
}

#[tokio::test]
async fn a_hub_that_was_killed_goes_on_where_it_was() {
    let hub =
        Hub::new().plugin("steady", "guest_collector", "[config]\nseries = 3\n").start().await;
    let ids = async |hub: &Hub| -> Vec<(Value, Value)> {
        let series = hub.series("guest.value").await;
        series.iter().map(|series| (series["labels"]["n"].clone(), series["id"].clone())).collect()
    };
    let before = ids(&hub).await;
    assert_eq!(before.len(), 3);
    // The first of them is worth the number of its tick.
    let id = before[0].1.clone();
    let kept = hub
        .until("ticks to be committed", async || {
            let kept = committed(&hub, &id).await;
            (kept.len() >= 5).then_some(kept)
        })
        .await;
    let hub = hub.kill().start().await;
    assert_eq!(ids(&hub).await, before);
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let tick = ok["snapshot"]["tick"].as_f64().unwrap();
    assert!(tick > *kept.last().unwrap(), "tick {tick} comes after {kept:?}");
    let again = committed(&hub, &id).await;
    assert!(again.starts_with(&kept), "kept {kept:?}, and found {again:?}");
    assert!(again.windows(2).all(|pair| pair[0] < pair[1]), "{again:?}");
    crate::native::follows(tick as u64, &client.next_push().await);
}

#[tokio::test]
async fn a_hub_that_is_killed_again_and_again_always_opens() {
    let mut setup = Hub::new().tick_ms(50).plugin("steady", "guest_collector", "");
    let (mut tick, mut epoch) = (0, None);
    for _ in 0..5 {
        let hub = setup.start().await;
        let mut client = hub.native().await;
        let ok = client.ok(json!({"op": "connect"})).await;
        assert_eq!(*epoch.get_or_insert_with(|| ok["epoch"].clone()), ok["epoch"]);
        let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
        let now = ok["snapshot"]["tick"].as_u64().unwrap();
        assert!(now > tick, "from {tick} to {now}");
        let id = ok["snapshot"]["series"][0]["id"].clone();
        tick = hub
            .until("this run's ticks to be committed", async || {
                let last = *committed(&hub, &id).await.last()? as u64;
                (last > now).then_some(last)
            })
            .await;
        setup = hub.kill();
    }
}

#[tokio::test]
async fn a_finding_that_was_open_when_the_hub_was_killed_is_closed() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("watcher", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 0.5\n")
        .start()
        .await;
    let open = async |hub: &Hub, but: &Value| {
        let ok = hub.native().await.subscribe("findings", Value::Null).await;
        ok["open"].as_array().unwrap().iter().find(|open| open["id"] != *but).cloned()
    };
    let first = hub.until("a finding", async || open(&hub, &Value::Null).await).await;
    let hub = hub.kill().start().await;
    hub.until("another finding", async || open(&hub, &first["id"]).await).await;
    let ok = hub.native().await.subscribe("findings", Value::Null).await;
    let ids: Vec<_> = ok["open"].as_array().unwrap().iter().map(|open| &open["id"]).collect();
    assert!(!ids.contains(&&first["id"]), "{ok}");
}

/// What clients hear when the hub gets `signal`.
async fn stops_in_good_order(signal: Signal) {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut native = hub.ticks().await;
    let mut skills = hub.welcomed().await;
    let (door, data) = (hub.0, hub.setup().data());
    hub.program.signal(signal);
    let bye = native.push_until("the bye", |push| push["push"] == "bye").await;
    assert!(bye["reconnect_after_ms"].is_u64(), "{bye}");
    assert_eq!(
        native.socket.hear("the close").await,
        Heard::Close(3001, "the hub is stopping".into())
    );
    assert_eq!(skills.socket.closed().await.0, 1001);
    let (status, setup) = hub.stopped().await;
    assert!(status.success(), "{status}");
    assert!(!data.join("hub.json").exists());
    assert!(TcpStream::connect(door).await.is_err());
    // The store was closed in good order: no log is left to be replayed.
    assert!(!data.join("history.db-wal").exists(), "the history was not closed");
    drop(setup);
}

#[tokio::test]
async fn sigterm_stops_in_good_order() {
    stops_in_good_order(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_stops_in_good_order() {
    stops_in_good_order(Signal::INT).await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let hub = Hub::new().start().await;
    // A client that has read the bye and does not answer the close.
    let mut client = hub.ticks().await;
    let mut hub = hub;
    hub.program.signal(Signal::TERM);
    client.push_until("the bye", |push| push["push"] == "bye").await;
    hub.program.signal(Signal::TERM);
    let status = hub.program.exit().await;
    assert_eq!(status.code(), Some(1));
    assert!(hub.program.stderr().contains("telltale: stopped at once"));
}

#[tokio::test]
async fn a_client_that_does_not_answer_does_not_hold_up_the_stop() {
    let hub = Hub::new().start().await;
    let mut client = hub.ticks().await;
    client.next_push().await;
    let (status, _) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn plugins_that_do_not_answer_do_not_hold_up_the_stop() {
    let mut setup = Hub::new();
    for i in 0..12 {
        setup = setup.plugin(&format!("wait-{i}"), "guest_collector", &mode("wait"));
    }
    let hub = setup.start().await;
    let begun = Instant::now();
    let (status, _) = hub.stop_with(Signal::TERM).await;
    let took = begun.elapsed();
    assert!(status.success(), "{status}");
    // Five seconds are promised; a busy machine may take some more.
    assert!(took < Duration::from_secs(15), "it took {took:?}");
}

#[tokio::test]
async fn a_stop_while_plugins_are_loading_is_a_good_one() {
    let hub = Hub::new()
        .plugin("slow", "guest_collector", &mode("configure-spin"))
        .start_listening()
        .await;
    let (status, _) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_plugin_that_is_slow_to_start_delays_neither_the_socket_nor_the_others() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("slow", "guest_collector", &mode("configure-spin"))
        .start_listening()
        .await;
    let ready = hub.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["status"].clone()), (503, json!("waiting")));
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let values = |push: &Value| push["values"].as_array().is_some_and(|values| !values.is_empty());
    client.push_until("a value of the steady one", values).await;
    assert_eq!(hub.plugin("slow").await.unwrap()["state"], "loading");
    assert_eq!(hub.get("/readyz").await.status, 503);
    let slow = hub.state("slow", "refused").await;
    assert!(
        slow["reason"].as_str().unwrap().contains("it computed for more than 5000 ms"),
        "{slow}"
    );
    assert_eq!(hub.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn compiled_components_are_kept_over_a_restart() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    assert_eq!(hub.plugin("steady").await.unwrap()["cached"], false);
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let hub = setup.start().await;
    assert_eq!(hub.plugin("steady").await.unwrap()["cached"], true);
}

#[tokio::test]
async fn offsets_of_the_log_go_on_after_a_restart() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let first = client.subscribe("hub", Value::Null).await;
    hub.drop_in("steady", &guest("guest_collector"));
    let push = client.push_until("an entry", |push| push["push"] == "hub").await;
    assert!(push["offset"].as_u64() > first["offset"].as_u64(), "{first} {push}");
    let hub = hub.kill().start().await;
    let again = hub.native().await.subscribe("hub", Value::Null).await;
    assert_eq!(again["epoch"], first["epoch"]);
    assert!(again["offset"].as_u64() >= push["offset"].as_u64(), "{push} {again}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_what_it_skipped() {
    let hub =
        Hub::new().plugin("many", "guest_collector", "[config]\nseries = 5000\n").start().await;
    let mut client = Native::over(Socket::connect_with_little_room(hub.0, "/v1/stream").await);
    let ok = client.subscribe("metrics", Value::Null).await;
    let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
    // It reads nothing until the socket's buffers are full.
    hub.until("frames to be skipped", async || {
        let skipped = hub.series("telltale.channel.skipped").await;
        skipped.first()?["value"].as_f64().filter(|rate| *rate > 0.0)
    })
    .await;
    let skipped = within("a push that says what was skipped", async {
        loop {
            let push = client.next_push().await;
            tick = crate::native::follows(tick, &push);
            if push["skipped"].is_u64() {
                return push;
            }
        }
    })
    .await;
    assert_eq!(skipped["full"], true);
    assert!(skipped["series"].as_array().unwrap().len() > 5000);
    let id = skipped["series"][0]["id"].clone();
    assert!(Native::value(&skipped, &id).is_none(), "a full push has its values in the series");
}

#[tokio::test]
async fn many_who_come_at_once_are_all_served() {
    let hub = Hub::new().start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let address = hub.0;
        clients.spawn(async move {
            let mut socket = Socket::connect(address, "/").await;
            socket.text("a welcome").await
        });
    }
    while let Some(welcome) = clients.join_next().await {
        assert!(welcome.unwrap().contains("connected"));
    }
}
