//! What protects the sockets that strangers reach.

mod asked;
mod nginx;
mod slow;
mod tls;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use telltale::access::Issuer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use self::asked::{Reply, ask, open, upgrade};
use crate::harness::{Door, Heard, Hub, Native, Socket, within};

/// A page that may come in where a test says so.
const PAGE: &str = "https://dash.example";

async fn started(text: &str) -> Hub {
    Hub::new().configured(text).start_listening().await
}

/// Waits until one of the hub's own counters has got so far.
pub(crate) async fn counted(door: &Door, name: &str, at_least: f64) {
    door.until(name, async || {
        let id = door.series(name).await.first()?["id"].clone();
        let found = door.get_json(&format!("/v1/history?series={id}&raw=true")).await;
        (last(&found)? >= at_least).then_some(())
    })
    .await;
}

/// The same where there is no room for another connection.
async fn counted_by(client: &mut Native, name: &str, at_least: f64) {
    let sub = client.subscribe("metrics", json!({"name": name})).await["sub"].clone();
    within(name, async {
        loop {
            client.next_push().await;
            let ok = client.ok(json!({"op": "snapshot", "sub": sub})).await;
            let id = &ok["snapshot"]["series"][0]["id"];
            if id.is_null() {
                continue;
            }
            let found = client.ok(json!({"op": "history", "series": id, "raw": true})).await;
            if last(&found).is_some_and(|value| value >= at_least) {
                return;
            }
        }
    })
    .await;
}

/// The newest value of a history.
pub(crate) fn last(found: &Value) -> Option<f64> {
    found["points"].as_array()?.last()?[1].as_f64()
}

/// Whether the hub has ended a connection, once it has.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = within("the hub to end a connection", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_browser_is_told_what_an_allowed_page_may_ask() {
    let hub = started(&format!("[cors]\norigins = [{PAGE:?}]\n")).await;
    let preflight = |path: &str, origin: &str| {
        format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization,content-type,idempotency-key",
            hub.0
        )
    };
    for path in ["/v1/events", "/v1/plugins/x", "/socket.io/?EIO=4&transport=polling", "/none"] {
        let answer = hub.request(&preflight(path, PAGE)).await;
        assert_eq!((answer.status, &*answer.body), (204, ""), "{path}: {answer:?}");
        for line in [
            "access-control-allow-origin: https://dash.example",
            "access-control-allow-credentials: true",
            "access-control-allow-methods: GET, HEAD, POST, PUT, DELETE",
            "access-control-allow-headers: Authorization, Content-Type, Idempotency-Key",
            "access-control-max-age: 600",
            "vary: origin",
        ] {
            assert!(answer.head.contains(line), "{line:?} is not in {}", answer.head);
        }
        let refused = hub.request(&preflight(path, "https://evil.example")).await;
        assert_eq!(refused.status, 403, "{path}: {refused:?}");
        assert!(!refused.head.contains("access-control-allow"), "{}", refused.head);
    }
}

#[tokio::test]
async fn every_answer_passes_the_one_way_out() {
    let hub = started(&format!("[cors]\norigins = [{PAGE:?}]\ncredentials = false\n")).await;
    for (path, status) in [
        ("/", 200),
        ("/healthz", 200),
        ("/v1/plugins", 200),
        ("/v1/plugins/none", 404),
        ("/v1/history", 400),
        ("/none", 404),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nOrigin: {PAGE}", hub.0);
        let answer = hub.request(&head).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        for line in [
            "access-control-allow-origin: https://dash.example",
            "vary: origin",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            let count = answer.head.matches(line).count();
            assert_eq!(count, 1, "{path}: {line:?} is in {}", answer.head);
        }
        for word in ["strict-transport-security", "allow-credentials"] {
            assert!(!answer.head.contains(word), "{path}: {word} is in {}", answer.head);
        }
    }
    // No page can embed the dashboard.
    let page = hub.get("/").await;
    assert!(page.head.contains("frame-ancestors 'none'"), "{}", page.head);
}

#[tokio::test]
async fn no_websocket_is_opened_for_a_page_that_may_not() {
    let hub = started(&format!("[cors]\norigins = [{PAGE:?}]\n")).await;
    for path in ["/v1/stream", "/", "/socket.io/?EIO=4&transport=websocket", "/ws/socket.io/"] {
        let refused = open(&hub, path, "Origin: https://evil.example\r\n").await.unwrap_err();
        assert_eq!((refused.status, refused.code()), (403, "bad_origin"), "{path}");
    }
    for path in ["/v1/stream", "/"] {
        open(&hub, path, &format!("Origin: {PAGE}\r\n")).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_behind_a_proxy_is_known_by_its_own_address() {
    let text = "[proxy]\ntrusted = [\"127.0.0.1\"]\n[limits]\nconnections_per_address = 1\n";
    let hub = started(text).await;
    let from =
        async |said: &str| open(&hub, "/v1/stream", &format!("X-Forwarded-For: {said}\r\n")).await;
    let _first = from("203.0.113.9").await.unwrap();
    // What it says itself stands to the left of what the proxy says.
    let refused = from("198.51.100.1, 203.0.113.9").await.unwrap_err();
    assert_eq!((refused.status, refused.code()), (429, "too_many_connections"));
    assert!(refused.head.contains("retry-after: 5"), "{}", refused.head);
    assert_eq!(refused.body["error"]["retry_after_ms"], 5000);
    let second = from("203.0.113.10").await.unwrap();
    // The machine itself, proxies included, has no such limit.
    let _local = [from("").await.unwrap(), from("").await.unwrap()];
    counted(&hub, "telltale.session.address_refused", 1.0).await;
    drop(second);
    hub.until("the place to be free", async || from("203.0.113.10").await.ok()).await;
}

#[tokio::test]
async fn who_is_no_proxy_is_not_believed() {
    let hub = started("[limits]\nconnections_per_address = 1\n").await;
    let forged = "X-Forwarded-For: 203.0.113.9\r\n";
    let _both = [
        open(&hub, "/v1/stream", forged).await.unwrap(),
        open(&hub, "/v1/stream", forged).await.unwrap(),
    ];
}

/// A name that was made to mean this machine comes with any header that a page
/// can set: what says that it is from a proxy opens no door.
#[tokio::test]
async fn a_proxy_on_loopback_opens_no_door_to_pages_under_other_names() {
    let text = format!("[proxy]\ntrusted = [\"127.0.0.1\"]\n[cors]\norigins = [{PAGE:?}]\n");
    let hub = started(&text).await;
    let ask = async |host: &str| {
        let head = format!("GET /v1/plugins HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 9.9.9.9");
        hub.request(&head).await.status
    };
    assert_eq!(ask("evil.example").await, 403);
    assert_eq!(ask("dash.example").await, 200);
    assert_eq!(ask("localhost:1").await, 200);
}

/// An address of this machine that is not loopback, where it has one. Nothing
/// is sent.
fn own_address() -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| SocketAddr::new(ip, 0))
}

#[tokio::test]
async fn an_address_that_has_enough_is_told_so_at_the_door() {
    let Some(address) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let text = "[auth]\nallow_open = true\n[limits]\nconnections_per_address = 2\n";
    let setup = Hub::new().listen(address).configured(text);
    let hub = setup.start_listening().await;
    let mut client = hub.native().await;
    let silent = TcpStream::connect(hub.0).await.unwrap();
    let refused = within("a refusal", async {
        loop {
            // The hub may not have accepted the silent one yet.
            match open(&hub, "/v1/stream", "").await {
                Err(refused) => return refused,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_connections"));
    assert!(refused.head.contains("retry-after: 5"), "{}", refused.head);
    counted_by(&mut client, "telltale.session.address_refused", 1.0).await;
    drop(silent);
    within("a place", async {
        while open(&hub, "/v1/stream", "").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_hub_that_is_full_says_so_and_still_tells_how_it_is() {
    let hub = started("[limits]\nconnections = 2\n").await;
    let first = hub.ticks().await;
    let mut second = hub.native().await;
    let refused = open(&hub, "/v1/stream", "").await.unwrap_err();
    assert_eq!((refused.status, refused.code()), (503, "too_many_connections"));
    assert!(refused.head.contains("retry-after: 5"), "{}", refused.head);
    assert_eq!(refused.body["error"]["temporary"], true);
    let answer = hub.get("/v1/plugins").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(hub.get("/healthz").await.status, 200);
    counted_by(&mut second, "telltale.session.refused", 2.0).await;
    drop(first);
    within("a place", async {
        while open(&hub, "/v1/stream", "").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_oldest_of_those_that_say_nothing_gives_way_to_who_comes() {
    let hub = started("[limits]\nhandshakes = 16\nconnections = 2\n").await;
    let mut client = hub.ticks().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(hub.0).await.unwrap());
    }
    // Who gets on with it finds a place, whatever they do.
    let _newcomer = open(&hub, "/v1/stream", "").await.unwrap();
    for stream in &mut silent[..32] {
        ended(stream).await;
    }
    drop(_newcomer);
    within("a place", async {
        while hub.get("/v1/plugins").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    counted_by(&mut client, "telltale.session.handshakes_dropped", 48.0).await;
}

#[tokio::test]
async fn messages_that_come_too_fast_are_refused_with_a_time() {
    let hub = started("[limits]\nmessages_per_second = 1\nmessages_burst = 3\n").await;
    let mut client = hub.native().await;
    let mut refused = Vec::new();
    for _ in 0..6 {
        let reply = client.command(json!({"op": "ping"})).await;
        refused.extend(reply.get("error").cloned());
    }
    assert!(!refused.is_empty());
    for error in refused {
        assert_eq!(
            (&error["code"], &error["temporary"]),
            (&json!("too_many_requests"), &json!(true))
        );
        assert!((1..=1000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    }
    // Others are not concerned, and the dialect without a word for it is silent.
    let mut skills = hub.welcomed().await;
    for _ in 0..10 {
        skills.socket.send(r#"{"type":"ping"}"#).await;
    }
    assert_eq!(skills.socket.text("a pong").await, r#"{"type":"pong"}"#);
    counted(&hub, "telltale.session.throttled", 2.0).await;
}

/// Says the same over and over until the hub closes.
async fn closed_for(socket: &mut Socket, message: &Message) -> (u16, String) {
    let closed = async {
        loop {
            socket.send_all([message.clone()]).await;
            // To what is no command there is no answer to wait for.
            let heard = tokio::time::timeout(Duration::from_millis(50), socket.hear("an answer"));
            match heard.await {
                Ok(Heard::Close(code, words)) => return (code, words),
                Ok(Heard::Gone) => panic!("the connection broke without a close frame"),
                Ok(Heard::Text(_)) | Err(_) => {}
            }
        }
    };
    within("the hub to close the connection", closed).await
}

#[tokio::test]
async fn who_sends_too_much_for_ten_seconds_is_closed_pings_included() {
    let hub = started("[limits]\nmessages_per_second = 1\nmessages_burst = 1\n").await;
    let [mut commands, mut pings] = [hub.native().await.socket, hub.native().await.socket];
    let command = Message::Text(r#"{"id":1,"op":"ping"}"#.into());
    let ping = Message::Ping(b"x".as_slice().into());
    let closed = tokio::join!(closed_for(&mut commands, &command), closed_for(&mut pings, &ping));
    let told = (3013, "too many messages, for 10 s".to_owned());
    assert_eq!(closed, (told.clone(), told));
    counted(&hub, "telltale.session.abusive", 2.0).await;
}

#[tokio::test]
async fn events_that_come_too_fast_are_refused_with_a_time() {
    let hub = started("[limits]\npublishes_per_second = 1\npublishes_burst = 100\n").await;
    let event = json!({"type": "pr.created", "source": "ci", "data": {}, "rooms": ["project:1"]});
    let mut client = hub.native().await;
    let batch = json!({"op": "publish", "events": vec![event.clone(); 100]});
    let ok = client.ok(batch.clone()).await;
    assert!(ok["events"].as_array().unwrap().iter().all(|one| one["id"].is_string()), "{ok}");
    // A batch is taken as a whole, or not.
    let ok = client.ok(batch).await;
    for one in ok["events"].as_array().unwrap() {
        let error = &one["error"];
        assert_eq!(
            (&error["code"], &error["temporary"]),
            (&json!("too_many_requests"), &json!(true))
        );
        assert!(error["retry_after_ms"].as_u64().unwrap() > 1000, "{error}");
    }
    let body = json!({"events": vec![event; 100]}).to_string();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        hub.0,
        body.len()
    );
    let refused = ask(&hub, &head).await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_requests"));
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    counted(&hub, "telltale.events.throttled", 200.0).await;
}

#[tokio::test]
async fn a_user_that_has_enough_connections_gets_no_more() {
    let secret = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "[auth]\nmode = \"jwt\"\nsecret = {secret:?}\n[limits]\nconnections_per_user = 2\n"
    );
    let hub = started(&text).await;
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let token = |user: &str| {
        let claims = json!({"sub": user, "exp": expires});
        Issuer::of_secret(secret.as_bytes()).unwrap().sign(&claims).unwrap()
    };
    let (ana, bob) = (token("ana"), token("bob"));
    let as_user = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let first = open(&hub, "/v1/stream", &as_user(&ana)).await.unwrap();
    let _second = open(&hub, "/", &as_user(&ana)).await.unwrap();
    let refused = open(&hub, "/v1/stream", &as_user(&ana)).await.unwrap_err();
    assert_eq!((refused.status, refused.code()), (429, "too_many_connections"));
    let other = open(&hub, "/v1/stream", &as_user(&bob)).await.unwrap();
    // Who says only later who it is is closed with a code of its own.
    let mut late = hub.native().await;
    let refusal = late.refused(json!({"op": "connect", "token": ana})).await;
    assert_eq!(refusal["code"], "too_many_connections");
    assert_eq!(late.socket.closed().await.0, 3504);
    let mut other = Native::over(other);
    counted_by(&mut other, "telltale.session.user_refused", 2.0).await;
    drop(first);
    within("a place", async {
        while open(&hub, "/v1/stream", &as_user(&ana)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_keeps_to_the_default_limits_never_hears_of_them() {
    let hub = Hub::new().start_listening().await;
    let Reply { stream, .. } = upgrade(&hub, "/v1/stream", "").await;
    let mut client = Native::over(Socket::adopt(stream, Vec::new()).await);
    for _ in 0..300 {
        client.ok(json!({"op": "ping"})).await;
    }
    let reply = ask(&hub, "GET /healthz HTTP/1.1\r\nHost: localhost").await;
    assert_eq!(reply.status, 200);
}
