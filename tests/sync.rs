//! The dashboard's clients, over WebSocket and over HTTP: every message and its
//! answer, what others hear of it, and what is safe.

use rustix::process::Signal;
use serde_json::{Value, json};
use telltale::access::Issuer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::post;
use crate::harness::{Answer, Door, Hub, Setup, Socket, head_of, within};

const PATH: &str = "/api/realtime";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One connection, past its CONNECT.
struct Client {
    socket: Socket,
    user: String,
    id: String,
    said: u64,
}

impl Client {
    async fn connect(door: &Door, query: &str) -> Self {
        Self::over(Socket::connect(door.0, &format!("{PATH}?{query}")).await).await
    }

    async fn of(door: &Door, token: &str, query: &str) -> Self {
        Self::over(Socket::connect_with(door.0, &format!("{PATH}?{query}"), token).await).await
    }

    async fn over(socket: Socket) -> Self {
        let mut client = Self { socket, user: String::new(), id: String::new(), said: 0 };
        let connect = client.next().await;
        assert_eq!(connect["type"], "CONNECT", "{connect}");
        assert_eq!(connect.get("correlationId"), None);
        client.user = connect["userId"].as_str().unwrap().to_owned();
        client.id = connect["payload"]["clientId"].as_str().unwrap().to_owned();
        assert!(is_time(&connect["payload"]["timestamp"]), "{connect}");
        client
    }

    /// The next message, whose envelope is as it should be.
    async fn next(&mut self) -> Value {
        let text = self.socket.text("a message of the sync dialect").await;
        let message: Value = serde_json::from_str(&text).unwrap();
        let id = message["id"].as_str().unwrap();
        let [_, ms, letters] = id.split('-').collect::<Vec<_>>()[..] else { panic!("{id}") };
        assert!(id.starts_with("msg-") && ms.parse::<u64>().is_ok() && letters.len() == 7, "{id}");
        assert!(is_time(&message["timestamp"]) && message["userId"].is_string(), "{message}");
        assert!(message["payload"].is_object(), "{message}");
        message
    }

    /// The next message, which is of a kind: who has said it, and its payload.
    async fn hears(&mut self, kind: &str) -> (String, Value) {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        assert_eq!(message.get("correlationId"), None, "{message}");
        (message["userId"].as_str().unwrap().to_owned(), message["payload"].clone())
    }

    /// Says something; its id.
    async fn say(&mut self, kind: &str, payload: Value) -> String {
        self.said += 1;
        let id = format!("msg-{}-{:07}", 1_700_000_000_000_u64 + self.said, self.said);
        let id = format!("{id}-{}", &self.id[8..]);
        self.say_as(&id, kind, payload).await;
        id
    }

    async fn say_as(&mut self, id: &str, kind: &str, payload: Value) {
        let message = json!({
            "type": kind, "id": id, "timestamp": "2024-11-24T12:00:00.000Z",
            "userId": self.user, "payload": payload,
        });
        self.socket.send(message.to_string()).await;
    }

    /// The answer to a message, which comes next: its type, and its payload.
    async fn answer_to(&mut self, id: &str) -> (String, Value) {
        let message = self.next().await;
        assert_eq!(message["correlationId"], id, "{message}");
        let kind = message["type"].as_str().unwrap().to_owned();
        let user = if kind == "NACK" { "" } else { &self.user };
        assert_eq!(message["userId"], user, "{message}");
        (kind, message["payload"].clone())
    }

    /// Says something, and answers what the answer is.
    async fn ask(&mut self, kind: &str, payload: Value) -> (String, Value) {
        let id = self.say(kind, payload).await;
        self.answer_to(&id).await
    }

    /// Changes something, and is told that it is done.
    async fn does(&mut self, kind: &str, payload: Value) -> Value {
        let (word, told) = self.ask(kind, payload.clone()).await;
        assert_eq!(word, "ACK", "{payload}: {told}");
        told
    }

    /// Says something that is refused: why.
    async fn is_refused(&mut self, kind: &str, payload: Value) -> String {
        let (word, told) = self.ask(kind, payload.clone()).await;
        assert_eq!(word, "NACK", "{payload}: {told}");
        told["error"].as_str().unwrap().to_owned()
    }

    /// What stands on the board.
    async fn state(&mut self) -> Value {
        let (kind, state) = self.ask("SYNC_REQUEST", json!({})).await;
        assert_eq!((&*kind, &state["full"]), ("SYNC_RESPONSE", &json!(true)));
        assert_eq!(state["syncState"], "ready");
        state
    }
}

fn is_time(time: &Value) -> bool {
    let text = time.as_str().unwrap_or_default();
    text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

/// Does operations over HTTP.
async fn sync(door: &Door, query: &str, headers: &str, operations: Value) -> Value {
    let body = json!({"type": "SYNC", "operations": operations}).to_string();
    let answer = sent(door, query, headers, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert!(is_time(&told["timestamp"]), "{told}");
    told
}

async fn sent(door: &Door, query: &str, headers: &str, body: &str) -> Answer {
    let headers = format!("Content-Type: application/json\r\n{headers}");
    post(door, &format!("{PATH}{query}"), &headers, body).await
}

fn operation(id: &str, kind: &str, payload: Value) -> Value {
    json!({"operationId": id, "type": kind, "payload": payload})
}

/// A hub that wants tokens.
fn guarded(more: &str) -> Setup {
    Hub::new().configured(&format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\n{more}\n"))
}

fn token(user: &str, more: Value) -> String {
    let mut claims = json!({"sub": user, "exp": jiff::Timestamp::now().as_second() + 3600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

// The three of the original's document.

#[tokio::test]
async fn test_1_connection_check() {
    let hub = Hub::new().start().await;
    let told = hub.get_json(PATH).await;
    assert!(is_time(&told["timestamp"]), "{told}");
    let url = format!("ws://{}{PATH}", hub.0);
    let mut wanted = json!({"status": "ready", "wsUrl": url, "userId": null});
    wanted["timestamp"] = told["timestamp"].clone();
    assert_eq!(told, wanted);
    assert_eq!(hub.get_json(&format!("{PATH}?userId=test")).await["userId"], "test");
}

#[tokio::test]
async fn test_2_sync_operations() {
    let hub = Hub::new().start().await;
    let told = sync(&hub, "", "", json!([])).await;
    assert_eq!((&told["success"], &told["results"]), (&json!(true), &json!([])));
}

#[tokio::test]
async fn test_3_websocket_connection() {
    let hub = Hub::new().start().await;
    let client = Client::connect(&hub, "userId=test").await;
    assert_eq!((&*client.user, client.id.len()), ("test", 16));
}

// Every message.

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a script, played from its first line to its last")]
async fn every_message_is_answered_and_all_but_the_sender_hear_of_it() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let mut tab = Client::connect(&hub, "userId=ana").await;
    let mut bob = Client::connect(&hub, "userId=bob").await;
    let (kind, pong) = ana.ask("PING", json!({})).await;
    assert_eq!(kind, "PONG");
    assert!(is_time(&pong["timestamp"]));
    let empty = ana.state().await;
    assert_eq!((&empty["version"], &empty["clientCount"]), (&json!(0), &json!(3)));
    assert_eq!((&empty["widgets"], &empty["layouts"]), (&json!([]), &json!([])));
    let ack = |version: u64, revision: u64| json!({"received": true, "version": version, "syncVersion": revision});
    let several = |versions: Value, revision: u64| json!({"received": true, "versions": versions, "syncVersion": revision});
    let resolved = json!({"resolved": true, "version": 4, "syncVersion": 7});
    let script = [
        ("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 1, "b": 1}}), ack(1, 1), json!({})),
        ("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"b": 2}}), ack(2, 2), json!({})),
        ("LAYOUT_UPDATE", json!({"layout": {"columns": 2}}), ack(1, 3), json!({})),
        (
            "SYNC_UPDATE",
            json!({"objects": [
                {"widgetId": "w", "data": {"c": 3}},
                {"layoutId": "side", "layout": {}},
            ]}),
            several(
                json!([{"widgetId": "w", "version": 3}, {"layoutId": "side", "version": 1}]),
                4,
            ),
            json!({}),
        ),
        (
            "WIDGET_BATCH",
            json!({"operations": [
                {"type": "WIDGET_UPDATE", "payload": {"widgetId": "v", "data": {"x": 1}}},
                {"type": "WIDGET_UPDATE", "payload": {"widgetId": "v", "data": {"y": 1}}},
                {"type": "LAYOUT_UPDATE", "payload": {"layout": {"columns": 3}}},
            ]}),
            several(
                json!([
                    {"widgetId": "v", "version": 1},
                    {"widgetId": "v", "version": 2},
                    {"layoutId": "default", "version": 2},
                ]),
                5,
            ),
            json!({"versions": [
                {"layoutId": "default", "version": 2}, {"widgetId": "v", "version": 2},
            ]}),
        ),
        ("WIDGET_DELETE", json!({"widgetId": "v"}), ack(3, 6), json!({})),
        (
            "CONFLICT_RESOLVED",
            json!({"widgetId": "w", "data": {"d": 4}, "baseVersion": 3}),
            resolved,
            json!({}),
        ),
        (
            "LAYOUT_RESTORE",
            json!({"layoutId": "default", "version": 1}),
            ack(3, 8),
            json!({"restoredVersion": 1, "layout": {"columns": 2}}),
        ),
        (
            "LAYOUT_RESTORE",
            json!({"widgetId": "w", "version": 2, "baseVersion": 4}),
            ack(5, 9),
            json!({"restoredVersion": 2, "data": {"a": 1, "b": 2}}),
        ),
    ];
    for (kind, payload, acknowledged, others) in script {
        let told = ana.does(kind, payload.clone()).await;
        assert_eq!(told, acknowledged, "{kind}");
        let mut wanted = payload.as_object().unwrap().clone();
        let mut numbers = told.as_object().unwrap().clone();
        numbers.retain(|name, _| name != "received" && name != "resolved");
        wanted.extend(numbers);
        wanted.extend(others.as_object().unwrap().clone());
        for other in [&mut tab, &mut bob] {
            let (user, mut heard) = other.hears(kind).await;
            // Each object once, in whichever order.
            if let Some(versions) = heard.get_mut("versions").and_then(Value::as_array_mut) {
                let of_layout = |one: &Value| one.get("layoutId").is_some();
                let order = wanted["versions"].as_array().unwrap();
                versions.sort_by_key(|one| order.iter().position(|other| other == one));
                assert!(versions.iter().any(of_layout));
            }
            assert_eq!((&*user, &heard), ("ana", &json!(wanted)), "{kind}");
        }
    }
    let state = bob.state().await;
    assert_eq!(state["version"], 9);
    assert_eq!(
        state["widgets"],
        json!([{"widgetId": "w", "data": {"a": 1, "b": 2}, "version": 5}])
    );
    assert_eq!(
        state["layouts"],
        json!([
            {"layoutId": "default", "layout": {"columns": 2}, "version": 3},
            {"layoutId": "side", "layout": {}, "version": 1},
        ])
    );
    // The sender has heard nothing of its own: this answer comes next.
    assert_eq!(ana.ask("PING", json!({})).await.0, "PONG");
    for silent in ["ACK", "NACK", "PONG", "CONNECT"] {
        ana.say(silent, json!({})).await;
    }
    for hubs_own in ["SYNC_RESPONSE", "SYNC_ERROR", "CONFLICT_DETECTED"] {
        assert_eq!(ana.is_refused(hubs_own, json!({})).await, "only the hub says this");
    }
    tab.say("DISCONNECT", json!({})).await;
    assert_eq!(tab.socket.closed().await, (1000, "Disconnected".to_owned()));
    hub.until("one client to have gone", async || {
        let mut looker = Client::connect(&hub, "userId=eve").await;
        (looker.state().await["clientCount"] == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_input_is_refused_and_the_connection_kept() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    for (text, id) in [
        ("not json", Value::Null),
        ("[]", Value::Null),
        (r#"{"type":"WIDGET_UPDATE"}"#, Value::Null),
        (r#"{"id":"m1"}"#, json!("m1")),
        (r#"{"type":"DANCE","id":"m2"}"#, json!("m2")),
        (r#"{"type":"WIDGET_UPDATE","id":"m3","payload":{"widgetId":"w","data":7}}"#, json!("m3")),
        (
            r#"{"type":"WIDGET_UPDATE","id":"a b","payload":{"widgetId":"w","data":{}}}"#,
            json!("a b"),
        ),
    ] {
        client.socket.send(text).await;
        let nack = client.next().await;
        assert_eq!((&nack["type"], &nack["userId"]), (&json!("NACK"), &json!("")), "{text}");
        assert_eq!(nack.get("correlationId").cloned().unwrap_or_default(), id, "{text}");
        assert!(!nack["payload"]["error"].as_str().unwrap().is_empty());
    }
    client.socket.send_binary(&[0xff, 0xfe]).await;
    assert_eq!(client.next().await["type"], "NACK");
    client.socket.send_binary(br#"{"type":"PING","id":"m4"}"#).await;
    assert_eq!(client.next().await["correlationId"], "m4");
    // What its clients leave out.
    client.socket.send(r#"{"type":"WIDGET_UPDATE","payload":{"widgetId":"w","data":{}}}"#).await;
    let ack = client.next().await;
    assert_eq!((&ack["type"], ack.get("correlationId")), (&json!("ACK"), None));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let mut setup = Hub::new();
    let mut ids = Vec::new();
    for turn in 1..=3_u64 {
        let hub = setup.start_listening().await;
        let mut client = Client::connect(&hub, "userId=ana").await;
        let id =
            client.say("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"turn": turn}})).await;
        let (kind, ack) = client.answer_to(&id).await;
        assert_eq!((&*kind, &ack["version"]), ("ACK", &json!(turn)));
        ids.push(id);
        setup = hub.kill();
    }
    let hub = setup.start_listening().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    let state = client.state().await;
    assert_eq!(state["widgets"], json!([{"widgetId": "w", "data": {"turn": 3}, "version": 3}]));
    assert_eq!(state["version"], 3);
    // Who did not hear the answer asks again, and it counts once.
    let payload = json!({"widgetId": "w", "data": {"turn": 1}});
    client.say_as(&ids[0], "WIDGET_UPDATE", payload).await;
    let (kind, ack) = client.answer_to(&ids[0]).await;
    assert_eq!((&*kind, &ack["version"], &ack["syncVersion"]), ("ACK", &json!(1), &json!(1)));
    assert_eq!(client.state().await["widgets"][0]["data"], json!({"turn": 3}));
}

#[tokio::test]
async fn the_same_id_counts_once_whoever_sends_it_and_however() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let mut bob = Client::connect(&hub, "userId=bob").await;
    let payload = json!({"widgetId": "w", "data": {"a": 1, "b": 2}});
    ana.say_as("op-1", "WIDGET_UPDATE", payload.clone()).await;
    let (kind, first) = ana.answer_to("op-1").await;
    assert_eq!((&*kind, &first["version"], &first["syncVersion"]), ("ACK", &json!(1), &json!(1)));
    bob.say_as("op-1", "WIDGET_UPDATE", payload.clone()).await;
    let heard = [bob.next().await, bob.next().await];
    let ack = heard.iter().find(|message| message["correlationId"] == "op-1").unwrap();
    assert_eq!((&ack["type"], &ack["payload"]), (&json!("ACK"), &first));
    let text =
        r#"{"payload":{"data":{"b":2,"a":1},"widgetId":"w"},"id":"op-1","type":"WIDGET_UPDATE"}"#;
    ana.socket.send(text).await;
    let again = ana.next().await;
    assert_eq!(again["payload"], first, "whatever the order of the members");
    let told = sync(
        &hub,
        "",
        "",
        json!([
            operation("op-1", "WIDGET_UPDATE", payload),
            operation("op-1", "WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 2}})),
            operation("op-2", "WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 2}})),
            operation("op-2", "WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 2}})),
        ]),
    )
    .await;
    let results = told["results"].as_array().unwrap();
    let stati: Vec<_> = results.iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!(stati, ["applied", "error", "applied", "applied"]);
    assert_eq!((&results[0]["version"], &results[0]["syncVersion"]), (&json!(1), &json!(1)));
    assert_eq!(results[2], results[3]);
    assert_eq!(told["success"], false);
    assert_eq!(ana.hears("WIDGET_UPDATE").await.1["version"], 2);
    assert_eq!(ana.state().await["version"], 2);
}

#[tokio::test]
async fn a_stale_change_shows_the_conflict_and_changes_nothing() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let mut bob = Client::connect(&hub, "userId=bob").await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 1}, "baseVersion": 0})).await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 2}, "baseVersion": 1})).await;
    for _ in 0..2 {
        bob.hears("WIDGET_UPDATE").await;
    }
    let before = bob.state().await;
    let stale = json!({"widgetId": "w", "data": {"b": 9}, "baseVersion": 1});
    let (kind, conflict) = bob.ask("WIDGET_UPDATE", stale).await;
    assert_eq!(kind, "CONFLICT_DETECTED");
    assert_eq!(
        conflict,
        json!({
            "widgetId": "w",
            "server": {"version": 2, "data": {"a": 2}},
            "client": {"version": 1, "data": {"b": 9}},
            "base": {"version": 1, "data": {"a": 1}},
        })
    );
    let (kind, conflict) =
        bob.ask("WIDGET_DELETE", json!({"widgetId": "w", "baseVersion": 0})).await;
    assert_eq!(kind, "CONFLICT_DETECTED");
    assert_eq!(conflict["client"], json!({"version": 0, "data": null}));
    let (kind, conflict) =
        bob.ask("LAYOUT_UPDATE", json!({"layout": {"n": 1}, "baseVersion": 4})).await;
    assert_eq!(kind, "CONFLICT_DETECTED");
    assert_eq!(
        conflict,
        json!({
            "layoutId": "default",
            "server": {"version": 0, "data": null},
            "client": {"version": 4, "data": {"n": 1}},
            "base": null,
        })
    );
    let (now, then) = (bob.state().await, before);
    assert_eq!((&now["version"], &now["widgets"]), (&then["version"], &then["widgets"]));
    let solved = json!({"widgetId": "w", "data": {"a": 2, "b": 9}, "baseVersion": 2});
    let ack = bob.does("CONFLICT_RESOLVED", solved.clone()).await;
    assert_eq!(ack, json!({"resolved": true, "version": 3, "syncVersion": 3}));
    // Nothing else was told of it all.
    let (user, heard) = ana.hears("CONFLICT_RESOLVED").await;
    assert_eq!((&*user, &heard["data"]), ("bob", &solved["data"]));
    let (kind, _) = ana.ask("CONFLICT_RESOLVED", solved).await;
    assert_eq!(kind, "CONFLICT_DETECTED", "a resolution can come too late too");
}

#[tokio::test]
async fn an_earlier_version_comes_back_if_it_is_kept() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    for turn in 1..=60 {
        client.does("LAYOUT_UPDATE", json!({"layout": {"turn": turn}})).await;
    }
    let why = client.is_refused("LAYOUT_RESTORE", json!({"version": 2})).await;
    assert!(why.contains("version 2 of layout \"default\" is not kept"), "{why}");
    let why = client.is_refused("LAYOUT_RESTORE", json!({"version": 61})).await;
    assert!(why.contains("is not kept"), "{why}");
    let why = client.is_refused("LAYOUT_RESTORE", json!({"layoutId": "none", "version": 1})).await;
    assert!(why.contains("there is no layout \"none\""), "{why}");
    let ack = client.does("LAYOUT_RESTORE", json!({"version": 20})).await;
    assert_eq!(ack["version"], 61);
    assert_eq!(client.state().await["layouts"][0]["layout"], json!({"turn": 20}));
}

#[tokio::test]
async fn a_batch_is_done_whole_or_not_at_all() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let mut bob = Client::connect(&hub, "userId=bob").await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {}})).await;
    bob.hears("WIDGET_UPDATE").await;
    let update = |id: &str, base: u64| {
        let payload = json!({"widgetId": id, "data": {"x": 1}, "baseVersion": base});
        json!({"type": "WIDGET_UPDATE", "payload": payload})
    };
    let (kind, conflict) =
        ana.ask("WIDGET_BATCH", json!({"operations": [update("new", 0), update("w", 7)]})).await;
    assert_eq!((&*kind, &conflict["index"]), ("CONFLICT_DETECTED", &json!(1)));
    let bad = json!({"operations": [update("new", 0), {"type": "WIDGET_UPDATE", "payload": {}}]});
    let why = ana.is_refused("WIDGET_BATCH", bad).await;
    assert!(why.starts_with("operations[1]: "), "{why}");
    let objects: Vec<_> =
        (0..257).map(|n| json!({"widgetId": n.to_string(), "data": {}})).collect();
    ana.is_refused("SYNC_UPDATE", json!({"objects": objects})).await;
    ana.does("SYNC_UPDATE", json!({"objects": objects[..256]})).await;
    let (_, heard) = bob.hears("SYNC_UPDATE").await;
    assert_eq!(
        (&heard["syncVersion"], heard["versions"].as_array().unwrap().len()),
        (&json!(2), 256)
    );
    assert_eq!(bob.state().await["widgets"].as_array().unwrap().len(), 257);
}

#[tokio::test]
async fn large_objects_fit_and_larger_ones_are_refused() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    let data = |bytes: usize| json!({"text": "x".repeat(bytes)});
    client.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": data(250_000)})).await;
    let why =
        client.is_refused("WIDGET_UPDATE", json!({"widgetId": "v", "data": data(300_000)})).await;
    assert!(why.contains("262144 is the limit"), "{why}");
    client.say("WIDGET_UPDATE", json!({"widgetId": "v", "data": data(1 << 20)})).await;
    assert_eq!(client.socket.closed().await.0, 1009);
}

#[tokio::test]
async fn who_comes_back_gets_what_it_has_missed() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "old", "data": {}})).await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "gone", "data": {}})).await;
    let known = ana.state().await;
    let (version, epoch) = (&known["version"], &known["epoch"]);
    ana.socket.close().await;
    let mut bob = Client::connect(&hub, "userId=bob").await;
    bob.does("WIDGET_UPDATE", json!({"widgetId": "new", "data": {"n": 1}})).await;
    bob.does("WIDGET_DELETE", json!({"widgetId": "gone"})).await;
    bob.does("LAYOUT_UPDATE", json!({"layout": {"n": 2}})).await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let (kind, missed) = ana.ask("SYNC_REQUEST", json!({"since": version, "epoch": epoch})).await;
    assert_eq!(
        (&*kind, &missed["full"], &missed["version"]),
        ("SYNC_RESPONSE", &json!(false), &json!(5))
    );
    assert_eq!(missed["widgets"], json!([{"widgetId": "new", "data": {"n": 1}, "version": 1}]));
    assert_eq!(
        missed["layouts"],
        json!([{"layoutId": "default", "layout": {"n": 2}, "version": 1}])
    );
    assert_eq!(missed["deleted"], json!([{"widgetId": "gone", "version": 2}]));
    for since in [json!({"since": version, "epoch": "lost"}), json!({"since": 99})] {
        let (_, whole) = ana.ask("SYNC_REQUEST", since).await;
        assert_eq!((&whole["full"], &whole["deleted"]), (&json!(true), &json!([])));
    }
    let (_, nothing) = ana.ask("SYNC_REQUEST", json!({"since": 5, "epoch": epoch})).await;
    assert_eq!((&nothing["full"], &nothing["widgets"]), (&json!(false), &json!([])));
}

// Over HTTP.

#[tokio::test]
async fn over_http_operations_do_what_they_would_over_a_socket() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    let kinds = [
        ("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"a": 1}})),
        ("LAYOUT_UPDATE", json!({"layout": {"n": 1}})),
        ("SYNC_UPDATE", json!({"objects": [{"widgetId": "w", "data": {"b": 1}}]})),
        (
            "WIDGET_BATCH",
            json!({"operations": [{"type": "WIDGET_DELETE", "payload": {"widgetId": "w"}}]}),
        ),
        ("LAYOUT_RESTORE", json!({"version": 1})),
        ("CONFLICT_RESOLVED", json!({"widgetId": "w", "data": {"c": 1}})),
        ("WIDGET_DELETE", json!({"widgetId": "w", "baseVersion": 4})),
    ];
    let operations = kinds
        .iter()
        .enumerate()
        .map(|(at, (kind, payload))| operation(&format!("op-{at}"), kind, payload.clone()));
    let told = sync(&hub, "?userId=bob", "", operations.collect()).await;
    assert_eq!(told["success"], true, "{told}");
    for (at, (kind, _)) in kinds.iter().enumerate() {
        let result = &told["results"][at];
        assert_eq!(result["operationId"], format!("op-{at}"));
        assert_eq!(
            (&result["status"], &result["syncVersion"]),
            (&json!("applied"), &json!(at + 1))
        );
        let (user, heard) = client.hears(kind).await;
        assert_eq!((&*user, &heard["syncVersion"]), ("bob", &json!(at + 1)));
        assert_eq!(heard.get("version"), result.get("version"));
        assert_eq!(heard.get("versions"), result.get("versions"));
    }
    let told = sync(&hub, "", "", json!([
        operation("a", "WIDGET_UPDATE", json!({"widgetId": "w", "data": {"x": 1}, "baseVersion": 1})),
        operation("b", "PING", json!({})),
        operation("c", "DANCE", json!({})),
        7,
        {"operationId": "d", "type": "WIDGET_UPDATE"},
        operation("e", "WIDGET_UPDATE", json!({"widgetId": "w", "data": {"y": 1}})),
    ]))
    .await;
    let results = told["results"].as_array().unwrap();
    let stati: Vec<_> = results.iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!(stati, ["conflict", "error", "error", "error", "error", "applied"]);
    let ids: Vec<_> = results.iter().map(|one| one["operationId"].as_str()).collect();
    assert_eq!(ids, [Some("a"), Some("b"), Some("c"), None, Some("d"), Some("e")]);
    assert_eq!(
        results[0]["conflict"],
        json!({
            "widgetId": "w",
            "server": {"version": 5, "data": null},
            "client": {"version": 1, "data": {"x": 1}},
            "base": {"version": 1, "data": {"a": 1}},
        })
    );
    assert!(results[1..5].iter().all(|one| !one["error"].as_str().unwrap().is_empty()));
    assert_eq!(told["success"], false);
    assert_eq!(
        client.hears("WIDGET_UPDATE").await,
        (
            "anonymous".to_owned(),
            json!({
                "widgetId": "w", "data": {"y": 1}, "version": 6, "syncVersion": 8,
            })
        )
    );
    let conflict =
        json!([operation("f", "WIDGET_DELETE", json!({"widgetId": "w", "baseVersion": 1}))]);
    assert_eq!(sync(&hub, "", "", conflict).await["success"], true, "a conflict is no error");
}

#[tokio::test]
async fn what_is_put_natively_is_told_here_and_the_other_way_round() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    let mut native = hub.native().await;
    let put = native.ok(json!({"op": "put", "widget": "w", "data": {"a": 1}})).await;
    assert_eq!((&put["version"], &put["revision"]), (&json!(1), &json!(1)));
    let (user, heard) = client.hears("SYNC_UPDATE").await;
    assert_eq!(
        (&*user, &heard["objects"]),
        ("anonymous", &json!([{"widgetId": "w", "data": {"a": 1}}]))
    );
    assert_eq!(
        (&heard["versions"], &heard["syncVersion"]),
        (&json!([{"widgetId": "w", "version": 1}]), &json!(1))
    );
    client
        .does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {"b": 2}, "baseVersion": 1}))
        .await;
    let told = native.subscribe("layouts", Value::Null).await;
    assert_eq!(told["snapshot"]["objects"][0]["data"], json!({"a": 1, "b": 2}), "{told}");
}

#[tokio::test]
async fn after_one_that_has_to_wait_nothing_more_is_tried() {
    // One a second: the test takes less.
    let limits = "[limits]\npublishes_per_second = 1\npublishes_burst = 100\n";
    let hub = Hub::new().configured(limits).start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    let update = |at: usize| json!({"widgetId": at.to_string(), "data": {}});
    let batch: Vec<_> =
        (0..60).map(|at| json!({"type": "WIDGET_UPDATE", "payload": update(at)})).collect();
    let mut operations: Vec<_> =
        (0..85).map(|at| operation(&format!("o{at}"), "WIDGET_UPDATE", update(at))).collect();
    operations.push(operation("batch", "WIDGET_BATCH", json!({"operations": batch})));
    operations.push(operation("last", "WIDGET_UPDATE", update(0)));
    let told = sync(&hub, "", "", json!(operations)).await;
    let results = told["results"].as_array().unwrap();
    assert!(results[..85].iter().all(|one| one["status"] == "applied"), "{told}");
    // There is room for it, but not before what comes before it.
    for waits in &results[85..] {
        assert_eq!((&waits["status"], &waits["temporary"]), (&json!("error"), &json!(true)));
        assert!(waits["retryAfterMs"].is_u64(), "{waits}");
    }
    assert_eq!((results.len(), &told["success"]), (87, &json!(false)));
    for _ in 0..85 {
        client.hears("WIDGET_UPDATE").await;
    }
    let (kind, nack) = client.ask("WIDGET_BATCH", json!({"operations": batch})).await;
    assert_eq!((&*kind, &nack["temporary"]), ("NACK", &json!(true)));
    assert_eq!(client.state().await["version"], 85);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_whole() {
    let hub = Hub::new().start().await;
    let many: Vec<_> = (0..501)
        .map(|at| operation(&at.to_string(), "WIDGET_DELETE", json!({"widgetId": "w"})))
        .collect();
    let too_many = json!({"type": "SYNC", "operations": many}).to_string();
    for (body, status, code) in [
        ("", 400, "bad_json"),
        ("{", 400, "bad_json"),
        ("[]", 400, "bad_request"),
        (r#"{"type":"SYNC"}"#, 400, "bad_request"),
        (r#"{"type":"OTHER","operations":[]}"#, 400, "bad_request"),
        (r#"{"type":"SYNC","operations":{}}"#, 400, "bad_request"),
        (&*too_many, 400, "bad_request"),
        (&" ".repeat(4 * 1024 * 1024 + 1), 413, "too_large"),
    ] {
        let answer = sent(&hub, "", "", body).await;
        let shown = &body[..body.len().min(40)];
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (status, &json!(code)),
            "{shown}"
        );
        assert_eq!(answer.json()["success"], false, "{shown}");
    }
    let told = sync(&hub, "", "", json!(many[..500])).await;
    assert_eq!(told["results"].as_array().unwrap().len(), 500);
    for (method, path, allowed) in [
        ("PUT", PATH, "GET, HEAD, POST"),
        ("DELETE", PATH, "GET, HEAD, POST"),
        ("POST", "/api/realtime/stats", "GET, HEAD"),
    ] {
        let answer = hub.ask(method, path, None).await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(answer.head.contains(&format!("allow: {allowed}\r\n")), "{}", answer.head);
    }
    let head = hub.ask("HEAD", PATH, None).await;
    assert_eq!((head.status, &*head.body), (200, ""));
    for path in ["/api/realtime/none", "/api/realtimes"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            hub.0
        );
        assert!(head_of(hub.0, &request).await.starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[tokio::test]
async fn the_page_of_another_port_may_post() {
    let hub = Hub::new().start().await;
    let page = "http://localhost:3000";
    let asked = format!(
        "OPTIONS {PATH} HTTP/1.1\r\nHost: {}\r\nOrigin: {page}\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type",
        hub.0
    );
    let answer = hub.request(&asked).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let line = format!("access-control-allow-origin: {page}\r\n");
    assert!(answer.head.contains(&line), "{}", answer.head);
    let body = r#"{"type":"SYNC","operations":[]}"#;
    let answer = sent(&hub, "", &format!("Origin: {page}\r\n"), body).await;
    assert!(answer.status == 200 && answer.head.contains(&line), "{answer:?}");
    let refused = sent(&hub, "", "Origin: https://evil.example\r\n", body).await;
    assert_eq!(refused.status, 403);
}

// Who.

#[tokio::test]
async fn who_is_believed_is_who_it_says_to_be() {
    let hub = Hub::new().start().await;
    let mut nobody = Socket::connect(hub.0, PATH).await;
    assert_eq!(nobody.closed().await, (1008, "Unauthorized".to_owned()));
    let mut kept = Socket::connect(hub.0, &format!("{PATH}?userId=admin")).await;
    assert_eq!(kept.closed().await.0, 1008);
    let query = Client::connect(&hub, "userId=q-q").await;
    assert_eq!(query.user, "q-q");
    assert_eq!(Client::of(&hub, "b", "userId=q").await.user, "q");
    assert_eq!(Client::of(&hub, "b", "").await.user, "b");
    let socket = Socket::connect_with_cookie(hub.0, PATH, "theme=dark; userId=c%40d").await;
    assert_eq!(Client::over(socket).await.user, "c@d");
    for (path, headers, user) in [
        (PATH, "", json!(null)),
        ("/api/realtime?userId=q", "Authorization: Bearer b\r\nCookie: userId=c", json!("q")),
        (PATH, "Authorization: Bearer b\r\nCookie: userId=c", json!("b")),
        ("/api/realtime?userId=", "Cookie: userId=c", json!("c")),
    ] {
        let headers = if headers.is_empty() { String::new() } else { format!("\r\n{headers}") };
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}{headers}", hub.0);
        assert_eq!(hub.request(&head).await.json()["userId"], user, "{path} {headers}");
    }
}

#[tokio::test]
async fn where_tokens_are_wanted_nobody_is_believed() {
    let hub = guarded("").start().await;
    for query in ["", "?userId=ana", "?token=nonsense"] {
        let mut socket = Socket::connect(hub.0, &format!("{PATH}{query}")).await;
        assert_eq!(socket.closed().await, (1008, "Unauthorized".to_owned()), "{query}");
        assert_eq!(hub.get_json(&format!("{PATH}{query}")).await["userId"], Value::Null);
        let answer = sent(&hub, query, "", r#"{"type":"SYNC","operations":[]}"#).await;
        assert_eq!((answer.status, &answer.json()["success"]), (401, &json!(false)), "{query}");
        assert!(answer.head.contains("www-authenticate: Bearer"), "{}", answer.head);
        assert_eq!(hub.get(&format!("/api/realtime/stats{query}")).await.status, 401);
    }
    let good = token("ana", json!({}));
    let mut ana = Client::of(&hub, &good, "userId=bob").await;
    assert_eq!(ana.user, "ana");
    let mut tab = Client::connect(&hub, &format!("token={good}")).await;
    let mut bob = Client::of(&hub, &token("bob", json!({})), "").await;
    ana.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {}})).await;
    assert_eq!(tab.hears("WIDGET_UPDATE").await.0, "ana");
    let told = sync(
        &hub,
        "",
        &bearer(&good),
        json!([operation("o", "WIDGET_DELETE", json!({"widgetId": "w"})),]),
    )
    .await;
    assert_eq!(told["success"], true);
    assert_eq!(tab.hears("WIDGET_DELETE").await.0, "ana");
    assert_eq!(bob.state().await["version"], 0, "each has its own board");
}

#[tokio::test]
async fn where_both_are_allowed_a_token_counts_for_more_than_a_word() {
    let hub = guarded("insecure_identity = true").start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    let mut own = Client::of(&hub, &token("ana", json!({})), "userId=eve").await;
    assert_eq!(own.user, "ana");
    own.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {}})).await;
    ana.hears("WIDGET_UPDATE").await;
    let mut socket = Socket::connect(hub.0, &format!("{PATH}?userId=ana&board=bob")).await;
    assert_eq!(socket.closed().await, (1008, "Forbidden".to_owned()));
}

#[tokio::test]
async fn boards_are_for_those_who_may() {
    let hub = guarded("").start().await;
    let reads = token("ana", json!({"layouts": {"read": ["team-1"]}}));
    let writes = token("bob", json!({"layouts": {"write": ["team-*"]}}));
    let mut ana = Client::of(&hub, &reads, "").await;
    let mut bob = Client::of(&hub, &writes, "board=team-1").await;
    bob.does("WIDGET_UPDATE", json!({"widgetId": "w", "data": {}})).await;
    assert_eq!(ana.hears("WIDGET_UPDATE").await.0, "bob");
    let why = ana.is_refused("WIDGET_DELETE", json!({"widgetId": "w"})).await;
    assert_eq!(why, "this token does not allow it");
    let told = sync(
        &hub,
        "",
        &bearer(&reads),
        json!([operation("o", "WIDGET_DELETE", json!({"widgetId": "w"})),]),
    )
    .await;
    assert_eq!((&told["success"], &told["results"][0]["status"]), (&json!(false), &json!("error")));
    for (token, board, words) in [
        (&reads, "?board=team-2", "Forbidden"),
        (&reads, "?board=ana", "Forbidden"),
        (&writes, "", "Forbidden: name a board with ?board="),
    ] {
        let mut socket = Socket::connect_with(hub.0, &format!("{PATH}{board}"), token).await;
        assert_eq!(socket.closed().await, (1008, words.to_owned()), "{board}");
        let body = r#"{"type":"SYNC","operations":[]}"#;
        let answer = sent(&hub, board, &bearer(token), body).await;
        assert_eq!(answer.status, 403, "{board}");
        assert_eq!(answer.json()["error"]["reason"], words);
    }
    let state = ana.state().await;
    assert_eq!((&state["version"], &state["clientCount"]), (&json!(1), &json!(2)));
    // The same over the log.
    let path = "/v1/rooms/board:team-1/events";
    let events = hub.ask("GET", path, Some(&reads)).await.json();
    let entry = &events["entries"][0]["entry"];
    assert_eq!((&entry["type"], &entry["source"]), (&json!("layouts.changed"), &json!("bob")));
    assert_eq!(hub.ask("GET", path, Some(&token("eve", json!({})))).await.status, 403);
    // Who only reads has nothing long to say.
    ana.say("PING", json!({"text": "x".repeat(100_000)})).await;
    assert_eq!(ana.socket.closed().await.0, 1009);
}

#[tokio::test]
async fn statistics_name_the_connections_that_one_may_see() {
    let hub = Hub::new().start().await;
    let mut ana = Client::connect(&hub, "userId=ana").await;
    ana.ask("PING", json!({})).await;
    let bob = Client::connect(&hub, "userId=bob").await;
    let stats = hub.get_json("/api/realtime/stats").await;
    assert!(stats["uptime"].is_f64() && is_time(&stats["timestamp"]), "{stats}");
    assert_eq!(stats["clientCount"], 2);
    let clients = stats["clients"].as_array().unwrap();
    for (client, (id, user, count)) in
        clients.iter().zip([(&ana.id, "ana", 1), (&bob.id, "bob", 0)])
    {
        assert_eq!((&client["id"], &client["userId"]), (&json!(id), &json!(user)));
        assert_eq!((&client["messageCount"], &client["isAlive"]), (&json!(count), &json!(true)));
        assert!(is_time(&client["connectedAt"]) && is_time(&client["lastHeartbeat"]), "{client}");
    }
    let hub = guarded("").start().await;
    let token = |user, admin| token(user, json!({"admin": admin}));
    let _ana = Client::of(&hub, &token("ana", false), "").await;
    let _bob = Client::of(&hub, &token("bob", false), "").await;
    for (who, seen) in [(token("ana", false), 1), (token("eve", false), 0), (token("eve", true), 2)]
    {
        let stats = hub.ask("GET", "/api/realtime/stats", Some(&who)).await.json();
        assert_eq!(stats["clientCount"], 2);
        assert_eq!(stats["clients"].as_array().unwrap().len(), seen);
    }
}

// Ends.

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed() {
    let hub = Hub::new().configured("[layouts]\nheartbeat = \"1s\"").start().await;
    let request = format!(
        "GET {PATH}?userId=ana HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        hub.0
    );
    let heard = async {
        let mut stream = TcpStream::connect(hub.0).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let heard = within("a silent client to be closed", heard).await;
    let close = [&[0x88, 9, 0x03, 0xe8][..], b"Timeout"].concat();
    assert!(
        heard.ends_with(&[&[0x89, 0][..], &close].concat()),
        "{:?}",
        String::from_utf8_lossy(&heard)
    );
}

#[tokio::test]
async fn a_hub_that_stops_says_so() {
    let hub = Hub::new().start().await;
    let mut client = Client::connect(&hub, "userId=ana").await;
    hub.program.signal(Signal::TERM);
    assert_eq!(client.socket.closed().await, (1000, "Server shutting down".to_owned()));
    hub.stopped().await;
}

#[tokio::test]
async fn an_expired_token_ends_the_connection() {
    let hub = guarded("leeway = \"0s\"").start().await;
    let brief = token("ana", json!({"exp": jiff::Timestamp::now().as_second() + 6}));
    let mut client = Client::of(&hub, &brief, "").await;
    assert_eq!(client.socket.closed().await, (1008, "Unauthorized".to_owned()));
}
