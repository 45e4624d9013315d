//! The client in Rust, and hubs that say what a test has them say.

#[path = "../../examples/clients/rust/client.rs"]
pub(super) mod client;

use client::{CallError, Client, Ended, Event, Position, Subscription};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::harness::within;

/// A hub that does nothing by itself.
struct FakeHub(TcpListener);

/// A client, as its hub sees it.
struct Connection(WebSocketStream<TcpStream>);

impl FakeHub {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// A client without patience, so that it comes back at once.
    fn client(&self) -> Client {
        let mut client = Client::new(&self.0.local_addr().unwrap().to_string());
        client.chance = || 0.0;
        client
    }

    /// The next client, which has been told the terms.
    async fn accept(&self, ping_ms: u64) -> Connection {
        let accepted = async { accept_async(self.0.accept().await.unwrap().0).await };
        let mut connection = Connection(within("a connection", accepted).await.unwrap());
        connection.answer("connect", json!({"ping_ms": ping_ms})).await;
        connection
    }
}

impl Connection {
    async fn command(&mut self, op: &str) -> Value {
        let message = within(op, self.0.next()).await.unwrap().unwrap();
        let command: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(command["op"], op, "{command}");
        command
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Waits for a command, answers it, and returns it.
    async fn answer(&mut self, op: &str, ok: Value) -> Value {
        let command = self.command(op).await;
        self.send(json!({"id": command["id"], "ok": ok})).await;
        command
    }

    async fn entry(&mut self, sub: u64, offset: u64, prev: u64) {
        let entry = json!({"n": offset});
        self.send(json!({"push": "hub", "sub": sub, "epoch": "e", "offset": offset,
            "prev": prev, "time": "t", "entry": entry}))
            .await;
    }

    async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "no".into() };
        self.0.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.0.next().await {}
    }
}

fn fresh(sub: u64, offset: u64) -> Value {
    json!({"channel": "hub", "sub": sub, "recovered": false, "epoch": "e", "offset": offset,
        "entries": [], "plugins": []})
}

fn recovered(sub: u64, offset: u64, offsets: &[u64]) -> Value {
    let entry = |n: &u64| json!({"offset": n, "prev": n - 1, "time": "t", "entry": {"n": n}});
    let entries: Vec<Value> = offsets.iter().map(entry).collect();
    json!({"channel": "hub", "sub": sub, "recovered": true, "epoch": "e", "offset": offset,
        "entries": entries})
}

/// What a client is told, in few words, while it runs.
struct Told {
    words: mpsc::Receiver<String>,
    _running: JoinSet<()>,
}

fn run(mut client: Client) -> Told {
    let (teller, words) = mpsc::channel(1000);
    let mut running = JoinSet::new();
    running.spawn(async move {
        loop {
            let event = client.next().await;
            let word = match &event {
                Ok(Event::Connected) => continue,
                Ok(Event::Lost { again_in, .. }) => format!("lost {}", again_in.as_millis()),
                Ok(Event::Changed { at }) => {
                    let subscription = &client.subscriptions[*at];
                    let series = subscription.series.iter().map(|(id, series)| {
                        let stale = series.stale.as_deref().unwrap_or_default();
                        format!(" {id}={:?}{:?}{stale}", series.value, series.extremes)
                    });
                    format!("{}{}", subscription.tick.0, series.collect::<String>())
                }
                Ok(Event::Entry { at, offset, entry }) => {
                    assert_eq!(entry["n"], *offset);
                    format!("{at}:{offset}")
                }
                Ok(Event::Gap { at, from, to }) => format!("{at}:gap {from} {to}"),
                Ok(Event::Fresh { at, first }) => {
                    let Subscription { channel, position, .. } = &client.subscriptions[*at];
                    let Position { epoch, offset } = position.as_ref().unwrap();
                    let is_hub = channel == "hub";
                    assert!(is_hub && epoch == "e" || channel.starts_with("room:"), "{channel}");
                    format!("{at}:{} {offset}", if *first { "first" } else { "fresh" })
                }
                Err(Ended(reason)) => format!("ended {reason}"),
            };
            if teller.send(word).await.is_err() || event.is_err() {
                return;
            }
        }
    });
    Told { words, _running: running }
}

impl Told {
    /// That these, and nothing else, are told next.
    async fn are(&mut self, expected: &[&str]) {
        for expected in expected {
            let word = within(expected, self.words.recv()).await.unwrap();
            assert_eq!(word, *expected);
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_resumed_and_doubles_are_dropped() {
    let hub = FakeHub::start().await;
    let wanted = json!({"channel": "hub", "filter": {"plugin": "a"}});
    let mut told = run(hub.client().subscribe(wanted));
    let mut connection = hub.accept(25_000).await;
    let asked = connection.answer("subscribe", fresh(5, 40)).await;
    assert_eq!((&asked["filter"], asked.get("resume")), (&json!({"plugin": "a"}), None));
    for (offset, prev) in [(42, 40), (42, 40), (45, 42)] {
        connection.entry(5, offset, prev).await;
    }
    told.are(&["0:first 40", "0:42", "0:45"]).await;
    drop(connection);
    let mut connection = hub.accept(25_000).await;
    let asked = connection.answer("subscribe", recovered(9, 50, &[45, 47, 49])).await;
    assert_eq!(asked["resume"], json!({"epoch": "e", "offset": 45}));
    connection.entry(9, 49, 47).await;
    connection.entry(9, 51, 49).await;
    told.are(&["lost 0", "0:47", "0:49", "0:51"]).await;
    drop(connection);
    let mut connection = hub.accept(25_000).await;
    let asked = connection.answer("subscribe", fresh(9, 7)).await;
    assert_eq!(asked["resume"]["offset"], 51);
    told.are(&["lost 0", "0:fresh 7"]).await;
}

#[tokio::test]
async fn gaps_are_told_and_what_is_missing_is_asked_for() {
    let hub = FakeHub::start().await;
    let mut told = run(hub.client().subscribe(json!({"channel": "hub"})));
    let mut connection = hub.accept(25_000).await;
    connection.answer("subscribe", fresh(5, 40)).await;
    for (offset, prev) in [(41, 40), (44, 43), (45, 44)] {
        connection.entry(5, offset, prev).await;
    }
    assert_eq!(connection.answer("unsubscribe", json!({"sub": 5})).await["sub"], 5);
    let asked = connection.answer("subscribe", recovered(5, 45, &[43, 44, 45])).await;
    assert_eq!(asked["resume"]["offset"], 41);
    connection.entry(5, 46, 45).await;
    told.are(&["0:first 40", "0:41", "0:gap 42 43", "0:43", "0:44", "0:45", "0:46"]).await;
    connection.send(json!({"push": "gap", "sub": 5, "from": 47, "to": 47})).await;
    connection.entry(5, 47, 46).await;
    let lost = json!({"push": "gap", "sub": 5, "from": 48, "to": 90, "recovered": false,
        "epoch": "e", "offset": 90, "plugins": []});
    connection.send(lost).await;
    connection.entry(5, 91, 90).await;
    told.are(&["0:gap 47 47", "0:47", "0:gap 48 90", "0:fresh 90", "0:91"]).await;
}

#[tokio::test]
async fn an_entry_of_one_log_channel_moves_the_position_of_the_others() {
    let hub = FakeHub::start().await;
    let two = hub.client().subscribe(json!({"channel": "hub"}));
    let mut told = run(two.subscribe(json!({"channel": "hub", "filter": {"plugin": "b"}})));
    let mut connection = hub.accept(25_000).await;
    connection.answer("subscribe", fresh(5, 40)).await;
    // The other one is not confirmed yet: what it has missed is in its reply.
    connection.entry(5, 41, 40).await;
    connection.answer("subscribe", fresh(6, 43)).await;
    for (sub, offset, prev) in [(5, 44, 41), (6, 45, 43), (5, 47, 44), (6, 49, 45)] {
        connection.entry(sub, offset, prev).await;
    }
    told.are(&["0:first 40", "0:41", "1:first 43", "0:44", "1:45", "0:47", "1:49"]).await;
    drop(connection);
    let mut connection = hub.accept(25_000).await;
    let asked = [connection.command("subscribe").await, connection.command("subscribe").await];
    // The first may have been about to get that very entry, too.
    assert_eq!(asked.each_ref().map(|asked| asked["resume"]["offset"].clone()), [48, 49]);
    // The first goes on before the second is answered, which must not lose by it;
    // and what a reply brings moves nobody else.
    connection.send(json!({"id": asked[0]["id"], "ok": recovered(5, 50, &[])})).await;
    connection.entry(5, 52, 50).await;
    connection.send(json!({"id": asked[1]["id"], "ok": recovered(6, 54, &[51, 54])})).await;
    connection.entry(5, 53, 52).await;
    told.are(&["lost 0", "0:52", "1:51", "1:54", "0:53"]).await;
}

#[tokio::test]
async fn it_comes_back_when_it_was_told_to_and_otherwise_by_chance() {
    let hub = FakeHub::start().await;
    let mut client = hub.client().subscribe(json!({"channel": "hub"}));
    client.chance = || 0.01;
    let mut told = run(client);
    for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
        drop(hub.accept(25_000).await);
        told.are(&[&format!("lost {wait}")]).await;
    }
    let mut connection = hub.accept(25_000).await;
    connection.send(json!({"push": "bye", "reconnect_after_ms": 600_000})).await;
    connection.close(3001).await;
    let word = within("the end", told.words.recv()).await.unwrap();
    let wait: u64 = word.strip_prefix("lost ").unwrap().parse().unwrap();
    // From the bye on, and some time has passed since then.
    assert!((540_000..=600_000).contains(&wait), "{word}");
}

#[tokio::test]
async fn a_stopping_hub_says_when_to_come_back() {
    let hub = FakeHub::start().await;
    let mut told = run(hub.client());
    let (mut stream, _) = within("a connection", hub.0.accept()).await.unwrap();
    let refusal = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    stream.read(&mut [0; 4096]).await.map(drop).unwrap();
    stream.write_all(refusal.as_bytes()).await.unwrap();
    told.are(&["lost 7000"]).await;
}

#[tokio::test]
async fn a_hub_that_has_gone_silent_is_pinged_and_given_up() {
    let hub = FakeHub::start().await;
    let mut told = run(hub.client());
    let mut connection = hub.accept(100).await;
    connection.answer("ping", json!({})).await;
    connection.command("ping").await;
    told.are(&["lost 0"]).await;
    hub.accept(25_000).await;
}

#[tokio::test]
async fn some_close_codes_and_refusals_are_the_end() {
    let hub = FakeHub::start().await;
    for code in [3500, 3999, 1002, 1003, 1007, 1009] {
        let mut told = run(hub.client());
        hub.accept(25_000).await.close(code).await;
        told.are(&[&format!("ended {code} no")]).await;
    }
    for code in [3000, 3001, 3008, 1001, 1011, 1012] {
        let mut told = run(hub.client());
        hub.accept(25_000).await.close(code).await;
        told.are(&["lost 0"]).await;
        hub.accept(25_000).await;
    }
    let mut told = run(hub.client().subscribe(json!({"channel": "hub"})));
    for (error, word) in [
        (json!({"temporary": true, "retry_after_ms": 3}), "lost 3"),
        (json!({"temporary": false}), "ended {\"temporary\":false}"),
    ] {
        let mut connection = hub.accept(25_000).await;
        let asked = connection.command("subscribe").await;
        connection.send(json!({"id": asked["id"], "error": error})).await;
        told.are(&[word]).await;
    }
}

#[tokio::test]
async fn series_are_kept_as_the_hub_tells_them() {
    let hub = FakeHub::start().await;
    let mut told = run(hub.client().subscribe(json!({"channel": "metrics"})));
    let mut connection = hub.accept(25_000).await;
    let series = |id: u64, value: Option<f64>| json!({"id": id, "name": "s", "value": value});
    let snapshot =
        json!({"tick": 1, "time": "t", "series": [series(1, Some(0.5)), series(2, None)]});
    let reply = json!({"channel": "metrics", "sub": 5, "every": 5, "snapshot": snapshot});
    connection.answer("subscribe", reply).await;
    for push in [
        json!({"values": [[2, 7.0]], "declare": [{"id": 3, "name": "s"}], "gone": [1]}),
        json!({"values": [], "stale": [{"id": 2, "since": "s", "code": "late", "reason": "r"}]}),
        json!({"values": [[2, 7.0, 6.0, 9.0], [99, 1.0, 1.0, 1.0], [3, null, null, null]]}),
        json!({"full": true, "skipped": 4, "series": [series(2, Some(8.0)), series(4, Some(1.0))]}),
    ] {
        let mut push = push;
        push["push"] = json!("metrics");
        push["sub"] = json!(5);
        push["tick"] = json!(2);
        connection.send(push).await;
    }
    told.are(&[
        "2 2=Some(7.0)None 3=NoneNone",
        "2 2=Some(7.0)Nonelate 3=NoneNone",
        "2 2=Some(7.0)Some((6.0, 9.0)) 3=NoneNone",
        "2 2=Some(8.0)None 4=Some(1.0)None",
    ])
    .await;
}

fn room(sub: u64, offset: u64) -> Value {
    json!({"channel": "room:r", "sub": sub, "recovered": false, "epoch": "e", "offset": offset,
        "entries": []})
}

fn event(sub: u64, offset: u64, prev: u64) -> Value {
    json!({"push": "room:r", "sub": sub, "epoch": "e", "offset": offset, "prev": prev,
        "time": "t", "entry": {"n": offset}})
}

/// Rooms `a` and `b` as the hub sees them, from 40 on.
async fn in_two_rooms(hub: &FakeHub) -> (Told, Connection) {
    let two = hub.client().subscribe(json!({"channel": "room:a", "types": ["pr.*"]}));
    let told = run(two.subscribe(json!({"channel": "room:b"})));
    let mut connection = hub.accept(25_000).await;
    let asked = connection.answer("subscribe", room(5, 40)).await;
    assert_eq!((&asked["channel"], &asked["types"]), (&json!("room:a"), &json!(["pr.*"])));
    connection.answer("subscribe", room(6, 40)).await;
    (told, connection)
}

#[tokio::test]
async fn an_event_comes_by_one_of_the_rooms_and_moves_the_position_of_all() {
    let hub = FakeHub::start().await;
    let (mut told, mut connection) = in_two_rooms(&hub).await;
    // Of both rooms, of the second, excluding this connection, of the first.
    for (sub, offset, prev) in [(5, 41, 40), (6, 42, 41), (6, 44, 42), (5, 46, 44)] {
        let mut event = event(sub, offset, prev);
        if offset == 44 {
            event["excluded"] = json!(true);
            event["entry"].take();
        }
        connection.send(event).await;
    }
    told.are(&["0:first 40", "1:first 40", "0:41", "1:42", "0:46"]).await;
    drop(connection);
    let mut connection = hub.accept(25_000).await;
    let asked = [connection.command("subscribe").await, connection.command("subscribe").await];
    assert_eq!(asked.each_ref().map(|asked| asked["resume"]["offset"].clone()), [46, 46]);
    // 48 is in both rooms; the second is not answered on this connection.
    connection.send(json!({"id": asked[0]["id"], "ok": recovered(5, 48, &[47, 48])})).await;
    told.are(&["lost 0", "0:47", "0:48"]).await;
    drop(connection);
    let mut connection = hub.accept(25_000).await;
    let asked = [connection.command("subscribe").await, connection.command("subscribe").await];
    assert_eq!(asked.each_ref().map(|asked| asked["resume"]["offset"].clone()), [48, 46]);
    connection.send(json!({"id": asked[0]["id"], "ok": recovered(5, 50, &[50])})).await;
    connection.send(json!({"id": asked[1]["id"], "ok": recovered(6, 50, &[48, 49])})).await;
    connection.send(event(6, 51, 50)).await;
    told.are(&["lost 0", "0:50", "1:49", "1:51"]).await;
    drop(connection);
    // The log was lost, and numbers anew.
    let mut connection = hub.accept(25_000).await;
    let mut anew = room(5, 47);
    anew["epoch"] = json!("another");
    connection.answer("subscribe", anew).await;
    connection.send(event(5, 48, 47)).await;
    told.are(&["lost 0", "0:fresh 47", "0:48"]).await;
}

#[tokio::test]
async fn what_is_missing_in_one_room_is_asked_for_in_all_of_them() {
    let hub = FakeHub::start().await;
    let (mut told, mut connection) = in_two_rooms(&hub).await;
    connection.send(event(5, 43, 42)).await;
    for sub in [5, 6] {
        assert_eq!(connection.answer("unsubscribe", json!({"sub": sub})).await["sub"], sub);
    }
    for reply in [recovered(7, 43, &[42, 43]), recovered(8, 43, &[])] {
        assert_eq!(connection.answer("subscribe", reply).await["resume"]["offset"], 40);
    }
    connection.send(event(8, 44, 43)).await;
    told.are(&["0:first 40", "1:first 40", "0:gap 41 42", "0:42", "0:43", "1:44"]).await;
}

#[tokio::test]
async fn who_is_in_a_room_is_kept_as_the_hub_tells_it() {
    let hub = FakeHub::start().await;
    let mut client = hub.client().subscribe(json!({"channel": "presence:a"}));
    let channel = "presence:a";
    let told = async {
        let mut users = Vec::new();
        while users.len() < 2 {
            if client.next().await.unwrap() == (Event::Changed { at: 0 }) {
                users.push(client.subscriptions[0].users.iter().cloned().collect::<String>());
            }
        }
        users
    };
    let telling = async {
        let mut connection = hub.accept(25_000).await;
        let users = json!([{"user": "a", "connections": 2}, {"user": "b", "connections": 1}]);
        let reply = json!({"channel": channel, "sub": 5, "users": users});
        connection.answer("subscribe", reply).await;
        connection.send(json!({"push": channel, "sub": 5, "join": ["c"], "leave": ["b"]})).await;
        let users = json!([{"user": "d", "connections": 1}]);
        connection.send(json!({"push": channel, "sub": 5, "full": true, "users": users})).await;
        connection
    };
    let (users, _connection) = tokio::join!(told, telling);
    assert_eq!(users, ["ac", "d"]);
}

#[tokio::test]
async fn an_event_is_published_until_it_is_safe_with_the_same_key() {
    let hub = FakeHub::start().await;
    let mut client = hub.client();
    let receipt = json!({"id": "x", "offset": 9, "rooms": ["a"]});
    let answering = async {
        let mut connection = hub.accept(25_000).await;
        let key = connection.command("publish").await["key"].clone();
        assert_eq!(key.as_str().unwrap().len(), 32);
        drop(connection);
        let mut connection = hub.accept(25_000).await;
        let again = connection.command("publish").await;
        assert_eq!((&again["key"], &again["data"]), (&key, &json!({"n": 1})));
        let error = json!({"code": "busy", "reason": "r", "temporary": true, "retry_after_ms": 1});
        connection.send(json!({"id": again["id"], "error": error})).await;
        assert_eq!(connection.answer("publish", receipt.clone()).await["key"], key);
        let denied = connection.command("publish").await;
        assert_eq!(denied["key"], "mine");
        let error = json!({"code": "denied", "reason": "r", "temporary": false});
        connection.send(json!({"id": denied["id"], "error": error})).await;
        connection.close(3503).await;
    };
    let publishing = async {
        let event = json!({"type": "a.b", "data": {"n": 1}, "rooms": ["a"]});
        assert_eq!(client.publish(event).await.unwrap(), receipt);
        let refused = client.publish(json!({"type": "a.b", "key": "mine"})).await.unwrap_err();
        let (code, reason) = ("denied".to_owned(), "r".to_owned());
        assert_eq!(refused, CallError::Refused { code, reason });
        let ended = client.publish(json!({"type": "a.b"})).await.unwrap_err();
        assert_eq!(ended, CallError::Ended(Ended("3503 no".to_owned())));
    };
    tokio::join!(answering, publishing);
}

#[tokio::test]
async fn an_event_that_is_longer_than_the_hub_takes_is_not_sent() {
    let hub = FakeHub::start().await;
    let mut client = hub.client();
    let answering = async {
        let accepted = async { accept_async(hub.0.accept().await.unwrap().0).await };
        let mut connection = Connection(within("a connection", accepted).await.unwrap());
        connection.answer("connect", json!({"message_bytes_max": 200})).await;
        connection
    };
    let event = json!({"type": "a.b", "data": "x".repeat(200)});
    let (_connection, refused) = tokio::join!(answering, client.publish(event));
    assert!(matches!(refused, Err(CallError::Refused { code, .. }) if code == "too_large"));
}

#[tokio::test]
async fn a_token_is_asked_for_on_each_connection_and_renewed_before_it_expires() {
    let hub = FakeHub::start().await;
    let mut tokens = ["one", "two", "three", "four", "five", "six"].into_iter();
    let client = hub.client().subscribe(json!({"channel": "hub"}));
    let mut told = run(client.token(move || tokens.next().unwrap().to_owned()));
    let soon = || (jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1400)).to_string();
    let connected = async |expires: Value| {
        let accepted = async { accept_async(hub.0.accept().await.unwrap().0).await };
        let mut connection = Connection(within("a connection", accepted).await.unwrap());
        let terms = json!({"ping_ms": 25_000, "expires": expires});
        let token = connection.answer("connect", terms).await["token"].clone();
        connection.answer("subscribe", recovered(5, 1, &[])).await;
        (connection, token)
    };
    let (mut connection, token) = connected(json!(soon())).await;
    assert_eq!(token, "one");
    let renewed = json!({"expires": soon(), "ended": []});
    assert_eq!(connection.answer("refresh", renewed).await["token"], "two");
    // One that is refused is shown on another connection.
    let refresh = connection.command("refresh").await;
    assert_eq!(refresh["token"], "three");
    let error = json!({"code": "bad_request", "reason": "r", "temporary": false});
    connection.send(json!({"id": refresh["id"], "error": error})).await;
    let (connection, token) = connected(json!(null)).await;
    assert_eq!(token, "four");
    // After one that has expired all the same there is another …
    connection.close(3505).await;
    let (mut connection, token) = connected(json!(soon())).await;
    assert_eq!(token, "five");
    // … but who is not allowed any more what it wants does not go on.
    connection.answer("refresh", json!({"expires": null, "ended": [5]})).await;
    let ended = "ended the new token does not allow all rooms";
    told.are(&["lost 0", "lost 0", ended]).await;
}
