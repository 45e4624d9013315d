//! Clients that are slow, silent, greedy or gone, and those beside them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::{Door, Heard, Hub, Native, Setup, Socket, within};
use crate::native::follows;

/// All of them in full are more than half a megabyte.
const MANY: &str = "[config]\nseries = 3000\n";
/// So few that a busy machine has time for all of it well before a client that
/// doesn't read is given up.
const SOME: &str = "[config]\nseries = 500\n";

/// With a configuration file.
fn configured(setup: Setup, text: &str) -> Setup {
    fs::write(setup.path().join("telltale.toml"), text).unwrap();
    setup
}

/// The number of a series, once it is there.
async fn measured(hub: &Door, name: &str) -> Value {
    let look = async || hub.series(name).await.first().map(|series| series["id"].clone());
    hub.until(name, look).await
}

/// A client whose socket holds little of what it does not read.
async fn narrow(hub: &Door) -> Native {
    Native::over(Socket::connect_with_little_room(hub.0, "/v1/stream").await)
}

/// A client that gets every tick, and with it a number of the hub's own.
struct Witness {
    client: Native,
    id: Value,
    tick: u64,
}

impl Witness {
    async fn of(hub: &Door, name: &str) -> Self {
        let mut client = hub.native().await;
        let ok = client.subscribe("metrics", json!({"name": name})).await;
        let id = ok["snapshot"]["series"][0]["id"].clone();
        assert!(id.is_u64(), "there is no {name}: {ok}");
        Self { client, id, tick: ok["snapshot"]["tick"].as_u64().unwrap() }
    }

    /// The number at the next tick, if it has changed.
    async fn next(&mut self) -> Option<f64> {
        let push = self.client.next_push().await;
        assert_eq!(push.get("skipped"), None, "it was slow itself: {push}");
        self.tick = follows(self.tick, &push);
        Native::value(&push, &self.id)
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(f64) -> bool) {
        let found = async { while !self.next().await.is_some_and(&wanted) {} };
        within(what, found).await;
    }
}

/// Memory that is the hub's own, in bytes.
fn own_bytes(hub: &Hub) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", hub.program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn who_reads_late_gets_whole_messages_in_order_and_all_that_stands() {
    let hub = Hub::new().plugin("some", "guest_collector", SOME).start().await;
    for form in ["delta", "full"] {
        let mut witness = Witness::of(&hub, "telltale.channel.skipped").await;
        let mut slow = narrow(&hub).await;
        let wish = json!({"op": "subscribe", "channel": "metrics", "form": form,
                          "filter": {"plugin": "some"}});
        let ok = slow.ok(wish).await;
        let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
        witness.until("pushes to be skipped", |rate| rate > 0.0).await;
        for _ in 0..5 {
            witness.next().await;
        }
        let mut skipped = 0;
        let mut good = 0;
        let mut series = 500;
        within("the slow client to be up to date", async {
            while good < 5 {
                let push = slow.next_push().await;
                tick = follows(tick, &push);
                match push["skipped"].as_u64() {
                    Some(count) => {
                        assert_eq!(push["full"], true, "{form}");
                        series = push["series"].as_array().unwrap().len();
                        // On a busy machine it may fall behind again and again.
                        skipped += count;
                    }
                    None if skipped > 0 => good += 1,
                    None => {}
                }
            }
        })
        .await;
        assert!(skipped > 0 && series == 500, "{form}: {skipped} skipped, {series} series");
    }
}

#[tokio::test]
async fn memory_does_not_grow_with_how_long_a_client_does_not_read() {
    let hub = Hub::new().tick_ms(50).plugin("many", "guest_collector", MANY).start().await;
    let mut witness = Witness::of(&hub, "telltale.channel.skipped").await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = narrow(&hub).await;
        let wish = json!({"op": "subscribe", "channel": "metrics", "form": "full",
                          "filter": {"plugin": "many"}});
        client.ok(wish).await;
        slow.push(client);
    }
    witness.until("pushes to be skipped", |rate| rate >= 20.0).await;
    let before = own_bytes(&hub);
    let ticks = 60;
    for _ in 0..ticks {
        witness.next().await;
    }
    // Each tick would have been more than half a megabyte for each of them.
    let grown = own_bytes(&hub).saturating_sub(before);
    assert!(grown < ticks * 256 * 1024, "{grown} bytes in {ticks} ticks");
}

#[tokio::test]
async fn the_log_reaches_a_client_that_did_not_read_once_and_in_order() {
    let hub = Hub::new()
        .tick_ms(50)
        .without_quiet_times()
        .plugin("some", "guest_collector", SOME)
        .plugin(
            "pulse",
            "guest_collector",
            "[config]\nmode = \"pulse\"\nseries = 150\nname = \"pulse.value\"\n",
        )
        .plugin("watcher", "guest_detector", "series = [\"pulse.*\"]\n[config]\nlimit = 50.0\n")
        .start()
        .await;
    let mut witness = hub.native().await;
    witness.subscribe("findings", Value::Null).await;
    witness.subscribe("hub", Value::Null).await;
    let mut slow = narrow(&hub).await;
    // So much that its socket is soon full.
    let metrics = json!({"op": "subscribe", "channel": "metrics", "form": "full",
                         "filter": {"plugin": "some"}});
    slow.ok(metrics).await;
    let mut position = 0;
    for channel in ["findings", "hub"] {
        let ok = slow.subscribe(channel, Value::Null).await;
        position = position.max(ok["offset"].as_u64().unwrap());
    }
    let began = position;
    // Four rounds, for each series a finding that opens and closes.
    let mut entries = Vec::new();
    within("hundreds of entries", async {
        while entries.iter().filter(|(at, _)| *at > began).count() < 600 {
            let push = witness.next_push().await;
            entries.push((push["offset"].as_u64().unwrap(), push["entry"].clone()));
        }
    })
    .await;
    hub.settings("watcher", "series = [\"nothing\"]\n");
    let wanted: Vec<_> = entries.iter().filter(|(at, _)| *at > began).cloned().collect();
    let mut got = Vec::new();
    let mut skipped = 0;
    within("the slow client to have all of it", async {
        while got.len() < wanted.len() {
            let push = slow.next_push().await;
            match push["push"].as_str().unwrap() {
                "metrics" => skipped += push["skipped"].as_u64().unwrap_or(0),
                "findings" | "hub" => {
                    let (prev, at) =
                        (push["prev"].as_u64().unwrap(), push["offset"].as_u64().unwrap());
                    assert!(prev <= position && at > position, "after {position}: {push}");
                    position = at;
                    if at > began {
                        got.push((at, push["entry"].clone()));
                    }
                }
                other => panic!("{other}: {push}"),
            }
        }
    })
    .await;
    assert!(skipped > 0, "it was not slow");
    assert!(got[..] == wanted[..got.len()], "they are not the same");
}

#[tokio::test]
async fn who_takes_nothing_for_ten_seconds_is_closed_and_counted() {
    let hub = Hub::new().tick_ms(100).plugin("many", "guest_collector", MANY).start().await;
    let mut witness = Witness::of(&hub, "telltale.session.stalled").await;
    let mut slow = narrow(&hub).await;
    let wish = json!({"op": "subscribe", "channel": "metrics", "form": "full"});
    slow.ok(wish).await;
    let began = Instant::now();
    witness.until("the client to be closed", |rate| rate > 0.0).await;
    assert!(began.elapsed() > Duration::from_secs(9), "after {:?}", began.elapsed());
    loop {
        match slow.socket.hear("the end").await {
            Heard::Text(_) => {}
            Heard::Close(code, _) => break assert_eq!(code, 3008),
            // It read too late for a goodbye.
            Heard::Gone => break,
        }
    }
    within("the connection to be gone", async {
        while hub.get_json("/healthz").await["connections"] != 1 {}
    })
    .await;
}

#[tokio::test]
async fn past_the_budget_the_greedy_go_and_the_others_go_on() {
    let setup = configured(Hub::new(), "[limits]\noutbox_mib = 16\n");
    let hub = setup.tick_ms(100).plugin("many", "guest_collector", MANY).start().await;
    let mut witness = Witness::of(&hub, "telltale.session.shed").await;
    let mut modest = hub.native().await;
    let ok = modest.subscribe("metrics", json!({"plugin": "many", "labels": {"n": "7"}})).await;
    let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
    let mut greedy = Vec::new();
    // Each holds one answer at least, of half a MiB.
    for _ in 0..80 {
        let mut client = narrow(&hub).await;
        // So rarely that nothing is pushed.
        let wish = json!({"op": "subscribe", "channel": "metrics", "max_rate_ms": 3_600_000,
                          "filter": {"plugin": "many"}});
        let sub = client.ok(wish).await["sub"].clone();
        greedy.push((client, sub));
    }
    // All at once, so that none has taken nothing for long before the last asks.
    for (client, sub) in &mut greedy {
        let ask = |id: u32| json!({"id": id, "op": "snapshot", "sub": sub}).to_string();
        client.socket.send_all((0..16).map(|id| Message::Text(ask(id).into()))).await;
    }
    witness.until("some to be closed", |rate| rate > 0.0).await;
    let waiting = async || {
        let series = hub.series("telltale.session.waiting").await;
        series[0]["value"].as_f64().unwrap()
    };
    let limit = f64::from(16 << 20);
    hub.until("the budget to be kept", async || (waiting().await <= limit).then_some(())).await;
    for _ in 0..10 {
        let push = modest.next_push().await;
        assert_eq!(push.get("skipped"), None, "{push}");
        tick = follows(tick, &push);
        witness.next().await;
    }
    assert!(own_bytes(&hub) < 512 << 20);
}

#[tokio::test]
async fn a_burst_of_commands_is_obeyed_to_the_last() {
    let hub = Hub::new().plugin("steady", "guest_collector", "").start().await;
    let series = measured(&hub, "guest.value").await;
    let mut client = hub.native().await;
    // However the last of them falls into what is read at a time.
    for padding in 0..24 {
        for count in [17, 18, 33] {
            let id = |n: usize| format!("{n:04}{}", "x".repeat(padding));
            let all = (0..count).map(|n| {
                let command = json!({"id": id(n), "op": "history", "series": series});
                Message::Text(command.to_string().into())
            });
            client.socket.send_all(all).await;
            let mut left: BTreeSet<_> = (0..count).map(id).collect();
            while !left.is_empty() {
                let reply = client.reply().await;
                assert!(left.remove(reply["id"].as_str().unwrap()), "{reply}");
            }
        }
    }
}

#[tokio::test]
async fn a_hub_that_stops_sends_everybody_away_in_good_order() {
    let setup = configured(Hub::new(), "[drain]\nwindow = \"4s\"\n");
    let hub = setup.start().await;
    // It doesn't answer the hub's goodbye, so that the hub waits for it.
    let mut deaf = hub.ticks().await;
    let mut clients = Vec::new();
    for _ in 0..19 {
        clients.push(hub.ticks().await);
    }
    hub.program.signal(Signal::TERM);
    let bye = clients[0].push_until("goodbye", |push| push["push"] == "bye").await;
    let upgrade = "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Connection: Upgrade";
    let (ready, series, stream) =
        tokio::join!(hub.get("/readyz"), hub.get("/v1/series"), hub.request(upgrade));
    assert_eq!(ready.status, 503, "{ready:?}");
    for refused in [series, stream] {
        assert_eq!(refused.status, 503, "{refused:?}");
        let head = refused.head.to_lowercase();
        let after = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        assert!((1..=60).contains(&after.parse::<u64>().unwrap()), "{refused:?}");
        let error = &refused.json()["error"];
        assert_eq!((&error["code"], &error["temporary"]), (&json!("stopping"), &json!(true)));
        assert!(error["retry_after_ms"].is_u64(), "{error}");
    }
    let mut times = vec![bye["reconnect_after_ms"].as_u64().unwrap()];
    assert_eq!(clients[0].socket.closed().await.0, 3001);
    for client in &mut clients[1..] {
        let bye = client.push_until("goodbye", |push| push["push"] == "bye").await;
        times.push(bye["reconnect_after_ms"].as_u64().unwrap());
        assert_eq!(client.socket.closed().await.0, 3001);
    }
    let bye = deaf.push_until("goodbye", |push| push["push"] == "bye").await;
    times.push(bye["reconnect_after_ms"].as_u64().unwrap());
    times.sort_unstable();
    assert_eq!(times.len(), 20);
    assert!(times.windows(2).all(|two| (150..=250).contains(&(two[1] - two[0]))), "{times:?}");
    assert!(times[0] <= 400 && times[19] <= 4000, "{times:?}");
    let (status, _) = hub.stopped().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_client_that_is_no_longer_there_is_found() {
    let setup = configured(Hub::new(), "[heartbeat]\ninterval = \"1s\"\n");
    let hub = setup.start().await;
    // It has no reason to read, so that pings are not answered.
    let gone = Socket::connect(hub.0, "/v1/stream").await;
    let began = Instant::now();
    within("it to be found", async {
        while hub.get_json("/healthz").await["connections"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Two intervals, the time for a goodbye, and much for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(20), "after {:?}", began.elapsed());
    drop(gone);
    assert_eq!(hub.native().await.ok(json!({"op": "connect"})).await["ping_ms"], 1000);
}

#[tokio::test]
async fn who_pings_by_itself_is_not_pinged_and_who_answers_is_kept() {
    let setup = configured(Hub::new(), "[heartbeat]\ninterval = \"1s\"\n");
    let hub = setup.start().await;
    let url = format!("ws://{}/v1/stream", hub.0);
    let connect =
        async || within("a client", tokio_tungstenite::connect_async(&url)).await.unwrap().0;
    let (mut talks, mut answers) = (connect().await, connect().await);
    let (mut pinged, mut answered) = (0, 0);
    let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < Duration::from_secs(5) {
        tokio::select! {
            _ = beat.tick() => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                talks.send(Message::Ping(b"x".to_vec().into())).await.unwrap();
            }
            message = talks.next() => match message.unwrap().unwrap() {
                Message::Ping(_) => pinged += 1,
                Message::Pong(_) => answered += 1,
                other => panic!("{other:?}"),
            },
            message = answers.next() => match message.unwrap().unwrap() {
                // tungstenite answers.
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            },
        }
    }
    assert!(answered > 0);
    // On a machine so busy that it was silent, a ping is right.
    assert!(pinged == 0 || longest > Duration::from_millis(500), "{pinged} pings");
    assert_eq!(hub.get_json("/healthz").await["connections"], 2);
}

#[tokio::test]
async fn a_client_says_how_often_it_is_told_and_what() {
    let hub = Hub::new()
        .tick_ms(50)
        .plugin("steady", "guest_collector", "[config]\nseries = 2\n")
        .start()
        .await;
    measured(&hub, "guest.value").await;
    let mut client = hub.native().await;
    let ok = client
        .ok(json!({"op": "subscribe", "channel": "metrics", "filter": {"name": "guest.*"},
                   "max_rate_ms": 180, "fields": ["name", "labels"]}))
        .await;
    assert_eq!(ok["every"], 4);
    let series = ok["snapshot"]["series"].as_array().unwrap();
    let members = members_of(&series[0]);
    assert_eq!(members, ["id", "labels", "name", "value"]);
    let (sub, ids) = (&ok["sub"], [&series[0]["id"], &series[1]["id"]]);
    client.next_push().await;
    for _ in 0..3 {
        let push = client.next_push().await;
        assert!(push["tick"].as_u64().unwrap().is_multiple_of(4), "{push}");
        assert_eq!(push["time"].as_str().unwrap().len(), "2026-02-10T12:00:01.250123Z".len());
        for (row, id) in push["values"].as_array().unwrap().iter().zip(ids) {
            assert_eq!(&row[0], id, "{push}");
            let [Some(last), Some(min), Some(max)] = [1, 2, 3].map(|at| row[at].as_f64()) else {
                continue;
            };
            // It rises with the ticks.
            assert!(min <= last && last == max, "{push}");
        }
    }
    let now = client.ok(json!({"op": "snapshot", "sub": sub})).await;
    assert_eq!((&now["sub"], &now["every"]), (sub, &json!(4)));
    assert!(now["snapshot"]["tick"].as_u64() >= ok["snapshot"]["tick"].as_u64(), "{now}");
    assert_eq!(now["snapshot"]["series"].as_array().unwrap().len(), 2);
    client.ok(json!({"op": "unsubscribe", "sub": sub})).await;
    let refusal = client.refused(json!({"op": "snapshot", "sub": sub})).await;
    assert_eq!(refusal["code"], "not_subscribed");
    let mut client = hub.native().await;
    let ok = client
        .ok(json!({"op": "subscribe", "channel": "metrics", "filter": {"name": "guest.*"},
                   "form": "full", "max_rate_ms": 100, "fields": []}))
        .await;
    assert_eq!(ok["every"], 2);
    for _ in 0..3 {
        let push = client.next_push().await;
        assert_eq!((&push["full"], push.get("skipped")), (&json!(true), None));
        let series = push["series"].as_array().unwrap();
        let members = members_of(&series[0]);
        assert_eq!(series.len(), 2);
        assert_eq!(members, ["id", "max", "min", "value"]);
    }
    let ok = client.subscribe("hub", Value::Null).await;
    let again = client.ok(json!({"op": "snapshot", "sub": ok["sub"]})).await;
    assert_eq!((&again["recovered"], &again["plugins"]), (&json!(false), &ok["plugins"]));
}

/// What is told of a series, but for what a busy machine makes late.
fn members_of(series: &Value) -> Vec<&str> {
    let keys = series.as_object().unwrap().keys().map(String::as_str);
    keys.filter(|key| *key != "stale").collect()
}

type Secure = WebSocketStream<TlsStream<TcpStream>>;

/// A hub that speaks TLS, and how to trust it.
async fn secure_hub(setup: Setup) -> (Hub, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| setup.path().join(name));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let text = format!("[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let hub = configured(setup, &text).start_listening().await;
    (hub, TlsConnector::from(Arc::new(client)))
}

async fn secure(address: SocketAddr, connector: &TlsConnector) -> Secure {
    let connected = async {
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.set_recv_buffer_size(32 * 1024).unwrap();
        let tcp = tcp.connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let tls = connector.connect(name, tcp).await.unwrap();
        let url = format!("wss://localhost:{}/v1/stream", address.port());
        client_async(&url, tls).await.unwrap().0
    };
    within("a WebSocket over TLS", connected).await
}

async fn next(client: &mut Secure) -> Value {
    loop {
        match within("a message", client.next()).await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn subscribe(client: &mut Secure, wish: Value) -> Value {
    client.send(Message::Text(wish.to_string().into())).await.unwrap();
    next(client).await["ok"].clone()
}

#[tokio::test]
async fn all_of_it_works_over_tls_too() {
    let setup = Hub::new().plugin("some", "guest_collector", SOME);
    let (hub, connector) = secure_hub(setup).await;
    let id = find(&hub, &connector, "telltale.channel.skipped").await;
    let mut quick = secure(hub.0, &connector).await;
    let filter = json!({"name": "telltale.channel.skipped"});
    let wish = json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": filter});
    let ok = subscribe(&mut quick, wish).await;
    let mut tick = ok["snapshot"]["tick"].as_u64().unwrap();
    let mut slow = secure(hub.0, &connector).await;
    let wish = json!({"id": 1, "op": "subscribe", "channel": "metrics", "form": "full",
                      "filter": {"plugin": "some"}});
    let ok = subscribe(&mut slow, wish).await;
    let mut slow_tick = ok["snapshot"]["tick"].as_u64().unwrap();
    within("pushes to be skipped", async {
        // Several in a row: on a busy machine the quick one is skipped at times too,
        // but who does not read is skipped at each tick.
        let mut in_a_row = 0;
        while in_a_row < 5 {
            let push = next(&mut quick).await;
            tick = follows(tick, &push);
            let was_late = push["skipped"].as_u64().unwrap_or(0) > 0;
            let skips = Native::value(&push, &id).is_some_and(|rate| rate > 0.0);
            in_a_row = if skips && !was_late { in_a_row + 1 } else { 0 };
        }
    })
    .await;
    let (mut skipped, mut good) = (0, 0);
    within("the slow client to go on after what it has skipped", async {
        while good < 5 {
            let push = next(&mut slow).await;
            // On a busy machine it may fall behind again and again.
            slow_tick = follows(slow_tick, &push);
            skipped += push["skipped"].as_u64().unwrap_or(0);
            good += u32::from(skipped > 0);
        }
    })
    .await;
    // The commands of this machine need no TLS.
    assert_eq!(hub.get("/healthz").await.status, 200);
    quick.close(None).await.unwrap();
    within("the hub's goodbye", async { while let Some(Ok(_)) = quick.next().await {} }).await;
    let (status, _) = hub.stop_with(Signal::TERM).await;
    assert!(status.success(), "{status}");
}

/// The number of a series of the hub's own.
async fn find(hub: &Hub, connector: &TlsConnector, name: &str) -> Value {
    let found = async {
        loop {
            let mut client = secure(hub.0, connector).await;
            let wish =
                json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": {"name": name}});
            let ok = subscribe(&mut client, wish).await;
            if let Some(series) = ok["snapshot"]["series"].get(0) {
                return series["id"].clone();
            }
        }
    };
    within(name, found).await
}
