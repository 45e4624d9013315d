//! Session-Buddy's clients: the twelve cases of its own tests by name, and what
//! becomes of its clients when the database isn't as it should be.

use std::fs;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Door, Heard, Hub, Setup, SkillsClient, SkillsDatabase, Socket, within};

/// A hub with two skills.
async fn hub_with_two_skills() -> Hub {
    let setup = Hub::new().with_skills();
    setup.skills_database().skill("pytest-run", 120, 95.5, Some(2.5)).skill("lint", 7, 50.0, None);
    let hub = setup.start().await;
    hub.welcomed().await.skills_are(&["pytest-run", "lint"]).await;
    hub
}

/// A hub within the test, without plugins.
async fn embedded(setup: &Setup) -> (telltale::Hub, Door) {
    let hub = telltale::Hub::start(setup.config()).await.unwrap();
    let door = Door(hub.addresses()[0]);
    (hub, door)
}

/// Waits until nobody listens there any more.
async fn refused(door: Door) {
    let refused = async {
        while TcpStream::connect(door.0).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("connections to be refused", refused).await;
}

// The twelve.

#[tokio::test(flavor = "multi_thread")]
async fn life_cycle_starts_and_stops() {
    let setup = Hub::new();
    let (hub, door) = embedded(&setup).await;
    let mut client = door.welcomed().await;
    hub.stop().await;
    assert_eq!(client.socket.closed().await.0, 1001);
    refused(door).await;
    assert!(!setup.data().join("hub.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn scoped_use_stops_when_dropped() {
    let setup = Hub::new();
    let door = {
        let (_hub, door) = embedded(&setup).await;
        door.welcomed().await;
        door
    };
    refused(door).await;
    // The folder is free for the next.
    let (hub, door) = embedded(&setup).await;
    door.welcomed().await;
    hub.stop().await;
}

#[tokio::test]
async fn connect_is_welcomed_at_once() {
    let hub = Hub::new().start().await;
    for path in ["/", "/ws", "/any/path?x=1"] {
        let mut client = SkillsClient::connect(hub.0, path).await;
        client.play(include_str!("transcripts/connect.txt")).await;
    }
}

#[tokio::test]
async fn receive_metrics() {
    let hub = hub_with_two_skills().await;
    let mut client = hub.welcomed().await;
    client.send(r#"{"type":"subscribe"}"#).await;
    assert_eq!(client.answer().await["type"], "subscription_confirmed");
    for _ in 0..3 {
        let data = client.update().await;
        assert_eq!(
            data["top_skills"][0],
            json!({
                "skill_name": "pytest-run",
                "total_invocations": 120,
                "completion_rate": 95.5,
                "avg_duration_seconds": 2.5,
            })
        );
    }
}

#[tokio::test]
async fn register_and_unregister() {
    let hub = Hub::new().start().await;
    let connections = async |wanted: u64| {
        within(&format!("{wanted} connections"), async {
            while hub.get_json("/healthz").await["connections"] != wanted {}
        })
        .await;
    };
    connections(0).await;
    let mut first = hub.welcomed().await;
    connections(1).await;
    let second = hub.welcomed().await;
    connections(2).await;
    first.socket.close().await;
    connections(1).await;
    drop(second);
    connections(0).await;
}

#[tokio::test]
async fn subscribe_is_confirmed_by_the_next_message() {
    let hub = hub_with_two_skills().await;
    hub.skills().await.play(include_str!("transcripts/subscribe.txt")).await;
}

#[tokio::test]
async fn ping_is_answered_by_exactly_a_pong() {
    let hub = Hub::new().start().await;
    let mut client = hub.welcomed().await;
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.socket.text("a pong").await, r#"{"type":"pong"}"#);
}

#[tokio::test]
async fn broadcast_reaches_several() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    database.skill("pytest-run", 1, 100.0, Some(1.0));
    let hub = setup.start().await;
    let mut clients = [hub.welcomed().await, hub.welcomed().await, hub.welcomed().await];
    for client in &mut clients {
        client.send(r#"{"type":"subscribe"}"#).await;
        assert_eq!(client.answer().await["type"], "subscription_confirmed");
    }
    database.skill("pytest-run", 2, 100.0, Some(1.0));
    for client in &mut clients {
        let what = "an update with what was written";
        let wanted = |data: &Value| data["top_skills"][0]["total_invocations"] == 2;
        client.update_until(what, wanted).await;
    }
}

#[tokio::test]
async fn invalid_json_is_ignored_and_the_connection_kept() {
    let hub = hub_with_two_skills().await;
    hub.skills().await.play(include_str!("transcripts/nonsense.txt")).await;
    hub.until("what made no sense to be counted", async || {
        let series = hub.series("telltale.session.not_understood").await;
        let path = format!("/v1/history?series={}&raw=true", series.first()?["id"]);
        let history = hub.get_json(&path).await;
        (history["points"].as_array()?.last()?[3].as_f64()? == 5.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_unknown_type_is_ignored_and_the_connection_kept() {
    let hub = Hub::new().start().await;
    hub.skills().await.play(include_str!("transcripts/unknown_type.txt")).await;
}

#[tokio::test]
async fn all_skills_come_to_who_names_none() {
    let hub = hub_with_two_skills().await;
    hub.skills().await.play(include_str!("transcripts/all_skills.txt")).await;
}

#[tokio::test]
async fn one_skill_comes_to_who_names_it() {
    let hub = hub_with_two_skills().await;
    let mut client = hub.welcomed().await;
    client.send(r#"{"type":"subscribe","skill":"lint"}"#).await;
    assert_eq!(client.answer().await["skill"], "lint");
    for _ in 0..3 {
        let lint = json!({
            "skill_name": "lint",
            "total_invocations": 7,
            "completion_rate": 50.0,
            "avg_duration_seconds": null,
        });
        assert_eq!(client.update().await, json!({"top_skills": [lint], "anomalies": []}));
    }
    // Silent, and all skills again.
    client.send(r#"{"type":"unsubscribe"}"#).await;
    client.skills_are(&["pytest-run", "lint"]).await;
}

// What else clients rely on.

#[tokio::test]
async fn a_client_that_does_not_subscribe_gets_only_answers_for_a_second_and_then_updates() {
    let hub = hub_with_two_skills().await;
    let mut client = hub.skills().await;
    let welcome = client.next().await;
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await, json!({"type": "pong"}));
    let update = client.next().await;
    let time = |message: &Value| -> jiff::Timestamp {
        message["timestamp"].as_str().unwrap().parse().unwrap()
    };
    // By the hub's own stamps, which a busy machine doesn't change.
    let silent_ms = time(&update).as_millisecond() - time(&welcome).as_millisecond();
    assert!(silent_ms >= 900, "an update came {silent_ms} ms after the welcome");
    assert_eq!(update["data"]["top_skills"].as_array().unwrap().len(), 2);
    client.skills_are(&["pytest-run", "lint"]).await;
}

#[tokio::test]
async fn the_latest_update_comes_without_waiting_for_a_tick() {
    let hub = Hub::new().tick_ms(3_600_000).start_listening().await;
    let mut client = hub.welcomed().await;
    assert_eq!(client.update().await, json!({"top_skills": [], "anomalies": []}));
    let mut client = hub.welcomed().await;
    client.send(r#"{"type":"subscribe"}"#).await;
    assert_eq!(client.next().await["type"], "subscription_confirmed");
    assert_eq!(client.update().await, json!({"top_skills": [], "anomalies": []}));
}

#[tokio::test]
async fn a_binary_message_is_read_as_text() {
    let hub = hub_with_two_skills().await;
    hub.skills().await.play(include_str!("transcripts/binary.txt")).await;
}

#[tokio::test]
async fn a_message_that_comes_with_the_handshake_is_not_lost() {
    let hub = Hub::new().start().await;
    let mut stream = TcpStream::connect(hub.0).await.unwrap();
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.0
    );
    let text = br#"{"type":"ping"}"#;
    // A final text frame with a mask of zeros.
    let frame = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], &text[..]].concat();
    stream.write_all(&[handshake.as_bytes(), &frame].concat()).await.unwrap();

    let mut read = Vec::new();
    let head_ends = within("the handshake's answer", async {
        loop {
            stream.read_buf(&mut read).await.unwrap();
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                return at + 4;
            }
        }
    })
    .await;
    let mut socket = Socket::adopt(stream, read.split_off(head_ends)).await;
    assert!(socket.text("the welcome").await.contains("connected"));
    assert_eq!(socket.text("the pong").await, r#"{"type":"pong"}"#);
}

#[tokio::test]
async fn a_skill_beyond_the_first_ten_is_silent_for_who_wants_only_it() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    for i in 0..10 {
        database.skill(&format!("skill-{i}"), 1000 - i, 99.0, Some(1.0));
    }
    database.skill("rare", 1, 99.0, Some(1.0));
    let hub = setup.start().await;
    let mut everything = hub.welcomed().await;
    let ten: Vec<String> = (0..10).map(|i| format!("skill-{i}")).collect();
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    everything.skills_are(&ten).await;
    let mut client = hub.welcomed().await;
    client.send(r#"{"type":"subscribe","skill":"rare"}"#).await;
    assert_eq!(client.next().await["skill"], "rare");
    for _ in 0..5 {
        everything.update().await;
    }
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await, json!({"type": "pong"}));
    // Once it is among the ten, it is told.
    database.skill("rare", 5000, 99.0, Some(1.0));
    client.skills_are(&["rare"]).await;
}

// The database.

/// Waits until clients are told nothing, and the fault is seen.
async fn is_at_fault(hub: &Hub, client: &mut SkillsClient, words: &str) {
    client.skills_are(&[]).await;
    let says = |plugin: &Value| {
        plugin["state"] == "waiting"
            && plugin["reason"].as_str().is_some_and(|reason| reason.contains(words))
    };
    hub.plugin_until("skills", &format!("say {words:?}"), says).await;
}

#[tokio::test]
async fn a_database_that_is_missing_may_come_later() {
    let hub = Hub::new().with_skills().start().await;
    let mut client = hub.welcomed().await;
    is_at_fault(&hub, &mut client, "skills.db").await;
    hub.setup().skills_database().skill("late", 1, 100.0, None);
    client.skills_are(&["late"]).await;
    hub.state("skills", "running").await;
}

#[tokio::test]
async fn a_database_that_is_replaced_is_read_anew() {
    let setup = Hub::new().with_skills();
    setup.skills_database().skill("old", 1, 100.0, None);
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    client.skills_are(&["old"]).await;
    let other = hub.path().join("other.db");
    let database = SkillsDatabase::create_with_rollback_journal(&other);
    database.skill("new", 1, 100.0, None);
    drop(database);
    fs::rename(other, hub.setup().skills_path()).unwrap();
    client.skills_are(&["new"]).await;
}

#[tokio::test]
async fn a_database_that_is_taken_away_leaves_the_clients_connected() {
    let hub = hub_with_two_skills().await;
    let mut client = hub.welcomed().await;
    client.skills_are(&["pytest-run", "lint"]).await;
    fs::remove_file(hub.setup().skills_path()).unwrap();
    is_at_fault(&hub, &mut client, "skills.db").await;
}

#[tokio::test]
async fn a_database_that_is_locked_is_read_once_it_is_released() {
    let setup = Hub::new().with_skills();
    let database = SkillsDatabase::create_with_rollback_journal(&setup.skills_path());
    database.skill("busy", 1, 100.0, None);
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    client.skills_are(&["busy"]).await;
    database.run("BEGIN EXCLUSIVE");
    is_at_fault(&hub, &mut client, "").await;
    database.run("COMMIT");
    client.skills_are(&["busy"]).await;
}

#[tokio::test]
async fn a_writer_is_never_kept_waiting_in_wal_mode() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    database.run("PRAGMA busy_timeout = 0");
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    client.update().await;
    for calls in 1..=100 {
        database.skill("written", calls, 100.0, None);
    }
    let all = |data: &Value| data["top_skills"][0]["total_invocations"] == 100;
    client.update_until("the last that was written", all).await;
}

#[tokio::test]
async fn a_database_without_the_view_is_a_fault_that_names_it() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    database.skill("seen", 1, 100.0, None);
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    client.skills_are(&["seen"]).await;
    database.run("DROP VIEW v_realtime_skill_dashboard");
    is_at_fault(&hub, &mut client, "v_realtime_skill_dashboard").await;
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.answer().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn an_empty_view_gives_way_to_the_totals() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    database.skill("a", 3, 100.0, None).skill("b", 5, 100.0, None).skill("never", 0, 0.0, None);
    database.run("DELETE FROM skill_metrics_cache");
    let hub = setup.start().await;
    hub.welcomed().await.skills_are(&["b", "a"]).await;
}

// Anomalies.

#[tokio::test]
async fn anomalies_of_the_last_hour_come_newest_first() {
    let setup = Hub::new().with_skills();
    let database = setup.skills_database();
    database.skill("a", 1, 100.0, None);
    database.anomaly("a", "drop", -2.5, 30).anomaly("a", "spike", 3.0, 10);
    database.anomaly("a", "drop", -9.0, 61);
    database.run(
        "INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score)
         VALUES ('b', strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', '-20 minutes'), 'pattern_shift', 4)",
    );
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    let data = client.skills_are(&["a"]).await;
    let rows = data["anomalies"].as_array().unwrap();
    let told: Vec<_> =
        rows.iter().map(|row| (&row["anomaly_type"], &row["deviation_score"])).collect();
    assert_eq!(
        told,
        [
            (&json!("spike"), &json!(3.0)),
            (&json!("pattern_shift"), &json!(4.0)),
            (&json!("drop"), &json!(-2.5))
        ]
    );
    assert_eq!(rows[0].as_object().unwrap().len(), 4, "{}", rows[0]);
}

#[tokio::test]
async fn what_the_hubs_detectors_find_on_skills_joins_the_anomalies() {
    let detector = "series = [\"skill.completion_rate\"]
        [config]
        limit = 98.0
        finding = \"level-shift\"";
    let setup = Hub::new().with_skills().plugin("watcher", "guest_detector", detector);
    let database = setup.skills_database();
    database.skill("high", 2, 99.0, None).skill("low", 1, 10.0, None);
    database.anomaly("low", "drop", -2.5, 30);
    let hub = setup.start().await;
    let mut client = hub.welcomed().await;
    let both = |data: &Value| data["anomalies"].as_array().unwrap().len() == 2;
    let data = client.update_until("an update with two anomalies", both).await;
    let found = &data["anomalies"][0];
    assert_eq!(found["skill_name"], "high");
    assert_eq!(found["anomaly_type"], "level_shift");
    assert_eq!(found["deviation_score"], 0.9);
    let time = found["detected_at"].as_str().unwrap();
    assert!(time.ends_with("+00:00") && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(found.as_object().unwrap().len(), 4);
    assert_eq!(data["anomalies"][1]["anomaly_type"], "drop");
    // A client of one skill has none.
    client.send(r#"{"type":"subscribe","skill":"high"}"#).await;
    assert_eq!(client.answer().await["skill"], "high");
    assert_eq!(client.update().await["anomalies"], json!([]));
}

#[tokio::test]
async fn a_path_of_another_dialect_is_refused_and_not_taken_for_a_skills_client() {
    let hub = Hub::new().start().await;
    for path in ["/socket.io/", "/ws/socket.io/", "/ws/metrics/x", "/api/realtime/x", "/v1/other"] {
        let url = format!("ws://{}{path}", hub.0);
        let refused = within("a refusal", tokio_tungstenite::connect_async(&url)).await;
        assert!(refused.is_err(), "{path} was let in");
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_closes_the_connection_and_nobody_elses() {
    let hub = Hub::new().start().await;
    let (mut client, mut other) = (hub.welcomed().await, hub.welcomed().await);
    client.send(&"x".repeat(1024 * 1024 + 1)).await;
    match client.socket.hear("the end of the connection").await {
        Heard::Close(code, _) => assert_eq!(code, 1009),
        heard => panic!("{heard:?}"),
    }
    other.send(r#"{"type":"ping"}"#).await;
    assert_eq!(other.answer().await, json!({"type": "pong"}));
}
