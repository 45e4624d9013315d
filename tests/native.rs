//! The native dialect and the HTTP API, as clients see them.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::harness::{Door, Heard, Hub, Native, guest, mode, version_of, within};

/// The longest message of a client that may publish, as everybody here may.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
const THREE: &str = "[config]\nseries = 3\n";

/// The tick of a push, which comes right after `last`: with what it says was
/// skipped, no tick is missing and none comes twice.
#[track_caller]
pub(crate) fn follows(last: u64, push: &Value) -> u64 {
    let tick = push["tick"].as_u64().unwrap();
    let skipped = push["skipped"].as_u64().unwrap_or(0);
    assert_eq!(tick, last + 1 + skipped, "after tick {last} came {push}");
    tick
}

#[tokio::test]
async fn a_subscription_begins_with_the_full_state_and_goes_on_at_every_tick() {
    let hub = Hub::new().plugin("steady", "guest_collector", THREE).start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
    assert_eq!(ok["channel"], "metrics");
    let series = ok["snapshot"]["series"].as_array().unwrap();
    let mut last = ok["snapshot"]["tick"].as_u64().unwrap();
    let names: Vec<_> =
        series.iter().map(|s| (&s["plugin"], &s["name"], &s["labels"]["n"])).collect();
    let (steady, value) = (json!("steady"), json!("guest.value"));
    let n = ["0", "1", "2"].map(|n| json!(n));
    assert_eq!(names, n.iter().map(|n| (&steady, &value, n)).collect::<Vec<_>>());
    for s in series {
        assert_eq!((&s["kind"], &s["unit"]), (&json!("gauge"), &json!("1")));
        assert!(s["value"].is_number(), "{s}");
    }
    for _ in 0..20 {
        let push = client.next_push().await;
        assert_eq!((&push["push"], &push["sub"]), (&json!("metrics"), &ok["sub"]));
        assert!(push["time"].as_str().unwrap().ends_with('Z'));
        last = follows(last, &push);
        if let Some(value) = Native::value(&push, &series[1]["id"]) {
            assert!(value <= last as f64 + 1.0, "{push}");
        }
    }
}

/// What a client knows of each series: its value, and why it is stale.
#[derive(Debug, Default, PartialEq)]
struct Known(BTreeMap<String, (Value, Value)>);

impl Known {
    /// Begins with all that is told at once.
    fn of(series: &Value) -> Self {
        let series = series.as_array().unwrap().iter();
        let known = |s: &Value| (s["value"].clone(), s["stale"]["code"].clone());
        Self(series.map(|s| (s["id"].to_string(), known(s))).collect())
    }

    /// Takes in what has changed.
    fn take(&mut self, push: &Value) {
        if push["full"] == true {
            *self = Self::of(&push["series"]);
            return;
        }
        let list = |key: &str| push[key].as_array().cloned().unwrap_or_default();
        for series in list("declare") {
            self.0.insert(series["id"].to_string(), (Value::Null, Value::Null));
        }
        for pair in list("values") {
            *self.0.get_mut(&pair[0].to_string()).unwrap() = (pair[1].clone(), Value::Null);
        }
        for stale in list("stale") {
            self.0.get_mut(&stale["id"].to_string()).unwrap().1 = stale["code"].clone();
        }
        for id in list("gone") {
            self.0.remove(&id.to_string()).unwrap();
        }
    }
}

#[tokio::test]
async fn who_follows_the_pushes_knows_what_a_newcomer_is_told() {
    let counter = "[config]\nkind = \"counter\"\nseries = 2\n";
    let hub = Hub::new()
        .plugin("steady", "guest_collector", THREE)
        .plugin("count", "guest_collector", counter)
        .plugin("rare", "guest_collector", "interval = \"300ms\"\n")
        .start()
        .await;
    let filter = json!({"name": "guest.*"});
    let mut follower = hub.native().await;
    let ok = follower.subscribe("metrics", filter.clone()).await;
    let mut known = Known::of(&ok["snapshot"]["series"]);
    let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
    let component = guest("guest_collector");
    for step in 0..12 {
        match step {
            0 => hub.settings("steady", "[config]\nmode = \"nan\"\nseries = 2\n"),
            2 => hub.settings("count", &mode("panic-at-3")),
            4 => hub.settings("rare", &mode("retry")),
            5 => hub.drop_in("fresh", &component),
            6 => hub.remove("steady"),
            8 => hub.drop_in("fresh", &version_of(&component, 1)),
            10 => hub.settings("rare", counter),
            _ => {}
        }
        // A few ticks after each change, so that some meet it half-way.
        for _ in 0..3 {
            let push = follower.next_push().await;
            known.take(&push);
            tick = follows(tick, &push);
        }
        loop {
            let ok = hub.native().await.subscribe("metrics", filter.clone()).await;
            let told = &ok["snapshot"];
            while tick < told["tick"].as_u64().unwrap() {
                let push = follower.next_push().await;
                known.take(&push);
                tick = follows(tick, &push);
            }
            if tick == told["tick"] {
                assert_eq!(known, Known::of(&told["series"]), "at tick {tick}, step {step}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn globs_choose_by_name_and_by_label() {
    let other = "[config]\nname = \"other.value\"\n";
    let hub = Hub::new()
        .plugin("steady", "guest_collector", THREE)
        .plugin("other", "guest_collector", other)
        .start()
        .await;
    let mut client = hub.native().await;
    for (filter, wanted) in [
        (
            json!({"name": "guest.*"}),
            vec![("guest.value", "0"), ("guest.value", "1"), ("guest.value", "2")],
        ),
        (
            json!({"name": "*.value", "labels": {"n": "0"}}),
            vec![("guest.value", "0"), ("other.value", "0")],
        ),
        (
            json!({"name": "{guest,no}.value", "labels": {"n": "[12]"}}),
            vec![("guest.value", "1"), ("guest.value", "2")],
        ),
        (json!({"labels": {"n": "*", "m": "*"}}), vec![]),
        (json!({"name": "guest"}), vec![]),
    ] {
        let ok = client.subscribe("metrics", filter.clone()).await;
        let series = ok["snapshot"]["series"].as_array().unwrap();
        let mut found: Vec<_> = series
            .iter()
            .map(|s| (s["name"].as_str().unwrap(), s["labels"]["n"].as_str().unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, wanted, "{filter}");
        let sub = &ok["sub"];
        let push = client.push_until("its first push", |push| push["sub"] == *sub).await;
        let values = push["values"].as_array().unwrap();
        let ids: Vec<_> = series.iter().map(|s| &s["id"]).collect();
        assert!(values.iter().all(|pair| ids.contains(&&pair[0])), "{filter}: {push}");
    }
}

#[tokio::test]
async fn clients_that_want_the_same_share_one_subscription() {
    let hub = Hub::new().start().await;
    let (mut first, mut second) = (hub.native().await, hub.native().await);
    let filter = json!({"name": "telltale.*", "labels": {}});
    let (a, b) = (
        first.subscribe("metrics", filter.clone()).await,
        second.subscribe("metrics", filter).await,
    );
    assert_eq!(a["sub"], b["sub"]);
    let c = second.subscribe("metrics", json!({"name": "telltale.tick.*"})).await;
    assert_ne!(a["sub"], c["sub"]);
}

#[tokio::test]
async fn documents_come_when_they_change_and_go_with_their_plugin() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("documents", Value::Null).await;
    assert_eq!(ok["snapshot"]["documents"], json!([]));
    hub.settings("reporter", &mode("imports"));
    hub.drop_in("reporter", &guest("guest_collector"));
    let push = client.push_until("a document", |push| push["documents"].is_array()).await;
    let document = &push["documents"][0];
    assert_eq!((&document["plugin"], &document["name"]), (&json!("reporter"), &json!("imports")));
    assert!(document["data"]["env"].is_number(), "{document}");
    let again = hub.native().await.subscribe("documents", Value::Null).await;
    assert_eq!(again["snapshot"]["documents"][0]["data"], document["data"]);
    hub.remove("reporter");
    let push = client.push_until("the document's end", |push| push["gone"].is_array()).await;
    assert_eq!(push["gone"], json!([{"plugin": "reporter", "name": "imports"}]));
}

#[tokio::test]
async fn a_finding_opens_at_the_limit_and_closes_after_five_quiet_values() {
    let hub = Hub::new()
        .without_quiet_times()
        .plugin("pulse", "guest_collector", &mode("pulse"))
        .plugin("watcher", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 50.0\n")
        .start()
        .await;
    let mut client = hub.native().await;
    client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let ok = client.subscribe("findings", Value::Null).await;
    assert_eq!((&ok["recovered"], &ok["entries"]), (&json!(false), &json!([])));
    let mut offset = ok["offset"].as_u64().unwrap();
    let mut ticks = HashMap::new();
    let mut open: Option<(Value, Value)> = None;
    let mut last: Option<u64> = None;
    let (opened, closed) = loop {
        let push = client.next_push().await;
        if push["push"] == "metrics" {
            ticks.insert(push["time"].clone(), push["tick"].as_u64().unwrap());
            continue;
        }
        assert_eq!((&push["push"], &push["epoch"]), (&json!("findings"), &ok["epoch"]));
        let (prev, at) = (push["prev"].as_u64().unwrap(), push["offset"].as_u64().unwrap());
        match last {
            Some(last) => assert_eq!(prev, last, "a gap: {push}"),
            None => assert!(prev <= offset, "a gap: {push}"),
        }
        assert!(at > offset, "{push}");
        (offset, last) = (at, Some(at));
        let entry = push["entry"].clone();
        match entry["state"].as_str().unwrap() {
            "open" => open = Some((entry, push["time"].clone())),
            _ => {
                if let Some((opened, _)) = open.take() {
                    break (opened, entry);
                }
            }
        }
    };
    assert_eq!(opened["id"], closed["id"]);
    assert_eq!((&opened["detector"], &opened["plugin"]), (&json!("watcher"), &json!("pulse")));
    assert_eq!((&opened["name"], &opened["type"]), (&json!("guest.value"), &json!("spike")));
    assert_eq!((&opened["score"], &opened["value"]), (&json!(0.9), &json!(100.0)));
    assert_eq!((&opened["ended"], &closed["peak"]), (&Value::Null, &json!(0.9)));
    // A finding may have begun before this client subscribed.
    if let (Some(began), Some(ended)) = (ticks.get(&closed["started"]), ticks.get(&closed["ended"]))
    {
        // Five, and one more for each tick that a busy machine made late.
        assert!(ended - began >= 5, "from tick {began} to {ended}");
    }
}

#[tokio::test]
async fn an_open_finding_is_told_to_who_comes_later() {
    let hub = Hub::new()
        .plugin("steady", "guest_collector", "")
        .plugin("watcher", "guest_detector", "series = [\"guest.*\"]\n[config]\nlimit = 0.5\n")
        .start()
        .await;
    let open = hub
        .until("a finding to be open", async || {
            let ok = hub.native().await.subscribe("findings", Value::Null).await;
            ok["open"].as_array().unwrap().first().cloned()
        })
        .await;
    assert_eq!((&open["state"], &open["detector"]), (&json!("open"), &json!("watcher")));
    // What it was found on goes, and so does the finding.
    let mut client = hub.native().await;
    client.subscribe("findings", Value::Null).await;
    hub.remove("steady");
    let push = client.push_until("its end", |push| push["entry"]["state"] == "close").await;
    assert_eq!(
        (&push["entry"]["id"], &push["entry"]["reason"]),
        (&open["id"], &json!("the series is gone"))
    );
}

#[tokio::test]
async fn the_hub_channel_tells_the_lives_of_plugins() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let ok = client.subscribe("hub", Value::Null).await;
    assert_eq!(ok["plugins"], json!([]));
    hub.drop_in("keeper", &guest("guest_keeper"));
    assert_eq!(client.event("loaded", "keeper").await["handover"], "cold");
    hub.settings("keeper", "[config]\n");
    assert!(client.event("reconfigured", "keeper").await["tick"].as_u64().unwrap() > 0);
    hub.settings("keeper", "[grant]\ncache = true\n");
    let reloaded = client.event("reloaded", "keeper").await;
    assert_eq!(reloaded["handover"], "restored");
    assert!(reloaded["tick"].as_u64().unwrap() > 0);
    hub.drop_in("keeper", b"no component");
    let refused = client.event("refused", "keeper").await;
    assert!(refused["reason"].as_str().unwrap().contains("no component"), "{refused}");
    hub.remove("keeper");
    client.event("removed", "keeper").await;
}

#[tokio::test]
async fn nothing_comes_after_the_end_of_a_subscription() {
    let hub = Hub::new().start().await;
    let mut other = hub.native().await;
    other.subscribe("metrics", Value::Null).await;
    let mut client = hub.native().await;
    let sub = client.subscribe("metrics", Value::Null).await["sub"].clone();
    client.next_push().await;
    assert_eq!(client.ok(json!({"op": "unsubscribe", "sub": sub})).await["sub"], sub);
    while let Ok(push) = tokio::time::timeout(std::time::Duration::ZERO, client.next_push()).await {
        assert_eq!(push["sub"], sub); // Was under way before the reply.
    }
    for _ in 0..5 {
        other.next_push().await;
    }
    client.send(r#"{"id":"after","op":"ping"}"#).await;
    let next = client.socket.text("the reply and nothing before it").await;
    assert_eq!(serde_json::from_str::<Value>(&next).unwrap(), json!({"id": "after", "ok": {}}));
    let refusal = client.refused(json!({"op": "unsubscribe", "sub": sub})).await;
    assert_eq!(refusal["code"], "not_subscribed");
}

#[tokio::test]
async fn what_cannot_be_obeyed_is_answered_with_a_code_and_the_connection_kept() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let long = "x".repeat(300);
    for (said, id, code) in [
        ("{\"id\":1,", Value::Null, "bad_json"),
        ("hello", Value::Null, "bad_json"),
        ("[]", Value::Null, "bad_json"),
        (r#"{"op":"ping"}"#, Value::Null, "bad_request"),
        (r#"{"id":{},"op":"ping"}"#, Value::Null, "bad_request"),
        (r#"{"id":null,"op":"ping"}"#, Value::Null, "bad_request"),
        (r#"{"id":1}"#, json!(1), "bad_request"),
        (r#"{"id":"a","op":"fly"}"#, json!("a"), "unknown_op"),
        (r#"{"id":2,"op":"ping","speed":1}"#, json!(2), "bad_request"),
        (r#"{"id":3,"op":"subscribe"}"#, json!(3), "bad_request"),
        (r#"{"id":4,"op":"subscribe","channel":"nothing"}"#, json!(4), "unknown_channel"),
        (
            r#"{"id":5,"op":"subscribe","channel":"metrics","filter":{"name":"a["}}"#,
            json!(5),
            "bad_glob",
        ),
        (
            r#"{"id":6,"op":"subscribe","channel":"metrics","filter":{"labels":{"a":"{"}}}"#,
            json!(6),
            "bad_glob",
        ),
        (
            &format!(
                r#"{{"id":7,"op":"subscribe","channel":"metrics","filter":{{"name":"{long}"}}}}"#
            ),
            json!(7),
            "bad_glob",
        ),
        (
            r#"{"id":8,"op":"subscribe","channel":"hub","filter":{"name":"a"}}"#,
            json!(8),
            "bad_request",
        ),
        (r#"{"id":9,"op":"unsubscribe","sub":99}"#, json!(9), "not_subscribed"),
        (r#"{"id":10,"op":"history","series":4000000000}"#, json!(10), "not_found"),
        (r#"{"id":11,"op":"history","series":1,"from":"noon"}"#, json!(11), "bad_request"),
        (
            r#"{"id":12,"op":"subscribe","channel":"metrics","resume":{"epoch":"a","offset":1}}"#,
            json!(12),
            "bad_request",
        ),
    ] {
        client.send(said).await;
        let reply = client.reply().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&id, &json!(code)), "{said}: {reply}");
        assert!(!reply["error"]["reason"].as_str().unwrap().is_empty(), "{reply}");
        assert_eq!(reply["error"]["temporary"], false, "{reply}");
    }
    assert_eq!(client.ok(json!({"op": "ping"})).await, json!({}));
}

#[tokio::test]
async fn a_message_at_the_limit_is_understood_and_one_beyond_closes_the_connection() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let padded = |bytes: usize| {
        let command = r#"{"id":1,"op":"ping"}"#;
        command.to_owned() + &" ".repeat(bytes - command.len())
    };
    client.send(padded(MESSAGE_BYTES_MAX)).await;
    assert_eq!(client.reply().await, json!({"id": 1, "ok": {}}));
    client.send(padded(MESSAGE_BYTES_MAX + 1)).await;
    match client.socket.hear("the end of the connection").await {
        Heard::Close(code, _) => assert_eq!(code, 1009),
        heard => panic!("{heard:?}"),
    }
}

#[tokio::test]
async fn a_client_may_have_sixty_four_subscriptions_and_no_more() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let nth = |n: usize| json!({"name": format!("series.{n}")});
    for n in 0..64 {
        client.subscribe("metrics", nth(n)).await;
    }
    let command = json!({"op": "subscribe", "channel": "metrics", "filter": nth(64)});
    let refusal = client.refused(command.clone()).await;
    assert_eq!((&refusal["code"], &refusal["temporary"]), (&json!("too_many"), &json!(true)));
    assert!(refusal["retry_after_ms"].is_u64(), "{refusal}");
    let sub = client.next_push().await["sub"].clone();
    client.ok(json!({"op": "unsubscribe", "sub": sub})).await;
    client.ok(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_serves_every_dialect_up_to_the_limit_of_connections() {
    let setup = Hub::new();
    let mut config = setup.config();
    config.listen.push(config.listen[0]);
    config.limits.connections = 4;
    let hub = telltale::Hub::start(config).await.unwrap();
    let doors: Vec<_> = hub.addresses().iter().map(|address| Door(*address)).collect();
    assert_eq!(doors.len(), 2);
    let mut clients = Vec::new();
    for door in &doors {
        door.welcomed().await;
        let mut client = door.native().await;
        client.ok(json!({"op": "ping"})).await;
        clients.push(client);
    }
    within("the skills clients to be gone", async {
        while doors[0].get_json("/healthz").await["connections"] != 2 {}
    })
    .await;
    // The third and the fourth; there is no fifth.
    let others = [doors[0].welcomed().await, doors[1].welcomed().await];
    let url = format!("ws://{}/", doors[0].0);
    assert!(within("a refusal", tokio_tungstenite::connect_async(&url)).await.is_err());
    drop(others);
    within("room for another", async {
        while tokio_tungstenite::connect_async(&url).await.is_err() {}
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_binary_message_closes_with_1003() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    client.socket.send_binary(br#"{"id":1,"op":"ping"}"#).await;
    assert_eq!(client.socket.closed().await.0, 1003);
}

#[tokio::test]
async fn history_has_what_was_measured() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let id = hub.series("guest.value").await[0]["id"].clone();
    let mut client = hub.native().await;
    let found = within("history", async {
        loop {
            let found = client.ok(json!({"op": "history", "series": id})).await;
            if found["points"].as_array().unwrap().len() >= 5 {
                return found;
            }
        }
    })
    .await;
    assert_eq!((&found["plugin"], &found["name"]), (&json!("steady"), &json!("guest.value")));
    assert_eq!(found["columns"], json!(["time_ms", "mean", "min", "max"]));
    let points = found["points"].as_array().unwrap();
    assert!(points.windows(2).all(|pair| pair[0][0].as_u64() < pair[1][0].as_u64()), "{found}");
    assert!(points.windows(2).all(|pair| pair[0][1].as_f64() < pair[1][1].as_f64()), "{found}");
    // The same over HTTP, from its second point on.
    let path = format!("/v1/history?series={id}&from={}&to={}", points[1][0], points[3][0]);
    let over_http = hub.get_json(&path).await;
    assert_eq!(over_http["name"], "guest.value");
    assert_eq!(over_http["points"][0], points[1], "{over_http}");
    let few = client.ok(json!({"op": "history", "series": id, "points": 2})).await;
    assert!(few["points"].as_array().unwrap().len() <= 2, "{few}");
}

#[tokio::test]
async fn a_counter_is_told_as_a_rate_and_kept_raw() {
    let hub = Hub::new()
        .plugin("count", "guest_collector", "[config]\nkind = \"counter\"\n")
        .start()
        .await;
    let mut client = hub.native().await;
    let ok = client.subscribe("metrics", json!({"name": "guest.*"})).await;
    let series = ok["snapshot"]["series"][0].clone();
    assert_eq!(series["kind"], "counter");
    // It rises by one with each tick, of which there are ten a second.
    let push =
        client.push_until("a rate", |push| Native::value(push, &series["id"]).is_some()).await;
    let rate = Native::value(&push, &series["id"]).unwrap();
    assert!(rate > 0.0 && rate < 100.0, "{push}");
    let raw = within("raw history", async {
        loop {
            let command = json!({"op": "history", "series": series["id"], "raw": true});
            let found = client.ok(command).await;
            if let Some(point) = found["points"].as_array().unwrap().last() {
                return (found["rate"].clone(), point[1].as_f64().unwrap());
            }
        }
    })
    .await;
    assert_eq!((raw.0, raw.1.fract()), (json!(false), 0.0));
}

#[tokio::test]
async fn a_resumed_log_channel_starts_afresh_and_says_so() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let mut client = hub.native().await;
    for channel in ["hub", "findings"] {
        let resume = json!({"epoch": "other", "offset": 0});
        let ok = client.ok(json!({"op": "subscribe", "channel": channel, "resume": resume})).await;
        assert_eq!(ok["recovered"], false);
        assert!(ok["epoch"].is_string() && ok["offset"].is_u64(), "{ok}");
    }
}

#[tokio::test]
async fn a_connect_tells_the_hubs_terms_and_knows_the_admin_token() {
    let hub = Hub::new().tick_ms(150).start().await;
    let mut client = hub.native().await;
    let ok = client.ok(json!({"op": "connect"})).await;
    assert_eq!((&ok["tick_ms"], &ok["admin"]), (&json!(150), &json!(false)));
    assert_eq!(ok["version"], env!("CARGO_PKG_VERSION"));
    let token = &hub.file.admin_token;
    assert_eq!(client.ok(json!({"op": "connect", "token": token})).await["admin"], true);
    let refusal = client.refused(json!({"op": "connect", "token": "wrong"})).await;
    assert_eq!(refusal["code"], "unauthorized");
    let file = hub.setup().data().join("hub.json");
    assert_eq!(std::fs::metadata(file).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_subprotocol_that_is_offered_is_taken() {
    let hub = Hub::new().start().await;
    let upgrade = |protocol: &str| {
        format!(
            "GET /v1/stream HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\nConnection: Upgrade",
            hub.0
        )
    };
    let head = crate::harness::head_of(hub.0, &upgrade("other, telltale.v1.json")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("sec-websocket-protocol: telltale.v1.json"), "{head}");
}

#[tokio::test]
async fn a_host_or_an_origin_that_is_not_this_machine_is_refused() {
    let hub = Hub::new().start().await;
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade";
    for (path, rest) in [("/healthz", "Accept: */*"), ("/v1/stream", upgrade), ("/", upgrade)] {
        for (host, origin, code) in [
            ("evil.example", None, "bad_host"),
            ("192.168.1.7:8765", None, "bad_host"),
            ("localhost.evil.example", None, "bad_host"),
            ("localhost", Some("http://evil.example"), "bad_origin"),
            ("localhost", Some("null"), "bad_origin"),
            ("localhost", Some("https://localhost.evil.example"), "bad_origin"),
        ] {
            let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{origin}{rest}");
            let answer = hub.request(&request).await;
            assert_eq!(answer.status, 403, "{request}\n{answer:?}");
            assert_eq!(answer.json()["error"]["code"], code);
        }
    }
    for host in ["localhost:1", "127.0.0.1", "[::1]:9"] {
        let page =
            format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nOrigin: http://localhost:3000");
        let answer = hub.request(&page).await;
        assert_eq!(answer.status, 200);
        let allowed = "access-control-allow-origin: http://localhost:3000";
        assert!(answer.head.to_lowercase().contains(allowed), "{answer:?}");
    }
    let nobody = hub.request("GET /healthz HTTP/1.1\r\nAccept: */*").await;
    assert!((400..=403).contains(&nobody.status), "{nobody:?}");
}

#[tokio::test]
async fn the_api_answers_over_http() {
    let hub = Hub::new().plugin("steady", "guest_collector", THREE).start().await;
    let health = hub.get_json("/healthz").await;
    assert_eq!(
        (&health["status"], &health["version"]),
        (&json!("ok"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(health["plugins"], json!({"running": 1, "total": 1}));
    assert_eq!(hub.get_json("/health").await["status"], "ok");
    assert_eq!(hub.get_json("/readyz").await["status"], "ready");
    assert_eq!(hub.series("guest.value").await.len(), 3);
    let page = hub.get("/").await;
    assert!(page.status == 200 && page.head.contains("text/html") && page.body.contains("<html"));
    let plugin =
        hub.plugin_until("steady", "have its series", |plugin| plugin["series"] == 3).await;
    assert_eq!((&plugin["role"], &plugin["state"]), (&json!("collector"), &json!("running")));
    for (path, status) in [
        ("/nothing", 404),
        ("/v1/history", 400),
        ("/v1/history?series=x", 400),
        ("/v1/history?series=1&until=2", 400),
        ("/v1/history?series=4000000000", 404),
    ] {
        let answer = hub.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.json()["error"]["reason"].is_string());
    }
    let post =
        hub.request("POST /v1/plugins HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0").await;
    assert_eq!((post.status, post.head.to_lowercase().contains("allow: get, head")), (405, true));
    let head = hub.request("HEAD /healthz HTTP/1.1\r\nHost: localhost").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
