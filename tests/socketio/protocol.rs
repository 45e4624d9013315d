//! The protocol by hand: what each side may say, and what ends a connection.
//! The cases are those of the official suites of Engine.IO and Socket.IO, as
//! far as they are the hub's affair, and those of a client that means harm.

use serde_json::{Value, json};
use telltale::dialect::socketio::packet::{self, Kind};
use tokio_tungstenite::tungstenite::Message;

use super::{guarded, ready, token};
use crate::harness::{Answer, Heard, Hub, Socket, within};

const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// One connection over WebSocket.
pub(super) struct Client {
    pub(super) socket: Socket,
    namespace: &'static str,
    next_id: u64,
}

impl Client {
    /// A connection that has no namespace yet.
    pub(super) async fn open(hub: &Hub) -> Self {
        Self::over(Socket::connect(hub.0, WEBSOCKET).await).await
    }

    pub(super) async fn over(mut socket: Socket) -> Self {
        let open = socket.text("the open packet").await;
        let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
        assert_eq!(open["sid"].as_str().unwrap().len(), 16);
        assert_eq!(open["upgrades"], json!([]));
        let terms = ["pingInterval", "pingTimeout", "maxPayload"].map(|term| open[term].clone());
        assert_eq!(terms, [json!(25_000), json!(60_000), json!(1_000_000)]);
        Self { socket, namespace: "/", next_id: 0 }
    }

    /// A client in a namespace.
    pub(super) async fn enter(hub: &Hub, namespace: &'static str, token: &str) -> Self {
        let mut client = Self::open(hub).await;
        client.join(namespace, token).await;
        client
    }

    /// Enters a namespace, and reads the greetings.
    pub(super) async fn join(&mut self, namespace: &'static str, token: &str) -> Value {
        self.namespace = namespace;
        let auth = json!({"token": token});
        self.say(&format!("{}{auth}", packet::head(Kind::Connect, namespace, None))).await;
        let (kind, body) = self.packet("an answer to CONNECT").await;
        assert_eq!(kind, Kind::Connect, "{body}");
        for name in ["connection_established", "connection.established", "subscribed"] {
            assert_eq!(self.event().await[0], name);
        }
        body
    }

    /// Sends a message of Engine.IO.
    pub(super) async fn say(&mut self, packet: &str) {
        self.socket.send(format!("4{packet}")).await;
    }

    /// The next packet of Socket.IO; pings are answered.
    pub(super) async fn packet(&mut self, what: &str) -> (Kind, Value) {
        let text = self.text(what).await;
        let packet = packet::parse(&text).unwrap();
        assert_eq!(packet.namespace, self.namespace, "{text}");
        let body = match packet.data {
            "" => Value::Null,
            data => serde_json::from_str(data).unwrap(),
        };
        (packet.kind, body)
    }

    /// The next message of Engine.IO, as text.
    pub(super) async fn text(&mut self, what: &str) -> String {
        loop {
            let text = self.socket.text(what).await;
            match text.strip_prefix('4') {
                Some(text) => return text.to_owned(),
                None if text == "2" => self.socket.send("3").await,
                None => panic!("waited for {what}, and got {text}"),
            }
        }
    }

    /// The next event.
    pub(super) async fn event(&mut self) -> Value {
        let (kind, body) = self.packet("an event").await;
        assert_eq!(kind, Kind::Event, "{body}");
        body
    }

    /// Sends an event, and waits for its answer; what comes before it is dropped.
    pub(super) async fn ask(&mut self, command: &str, argument: &Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let head = packet::head(Kind::Event, self.namespace, Some(id));
        self.say(&format!("{head}{}", json!([command, argument]))).await;
        loop {
            let text = self.text("an acknowledgement").await;
            let packet = packet::parse(&text).unwrap();
            if packet.kind == Kind::Ack {
                assert_eq!(packet.id, Some(id));
                let mut body: Value = serde_json::from_str(packet.data).unwrap();
                return body[0].take();
            }
        }
    }

    /// Waits until the connection has ended.
    pub(super) async fn ends(&mut self) {
        within("the connection to end", async {
            loop {
                match self.socket.hear("the end").await {
                    Heard::Text(text) if text == "2" => self.socket.send("3").await,
                    Heard::Text(_) => {}
                    Heard::Close(..) | Heard::Gone => return,
                }
            }
        })
        .await;
    }
}

/// A connection over polling: what each request is answered.
struct Polling<'a> {
    hub: &'a Hub,
    sid: String,
}

impl<'a> Polling<'a> {
    async fn open(hub: &'a Hub) -> Self {
        let opened = hub.get("/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(opened.status, 200, "{opened:?}");
        let open: Value = serde_json::from_str(opened.body.strip_prefix('0').unwrap()).unwrap();
        assert_eq!(open["upgrades"], json!(["websocket"]));
        Self { hub, sid: open["sid"].as_str().unwrap().to_owned() }
    }

    fn path(&self) -> String {
        format!("/socket.io/?EIO=4&transport=polling&sid={}", self.sid)
    }

    async fn poll(&self) -> Answer {
        self.hub.get(&self.path()).await
    }

    async fn post(&self, body: &str) -> Answer {
        post(self.hub, &self.path(), body).await
    }
}

async fn post(hub: &Hub, path: &str, body: &str) -> Answer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(hub.0).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            hub.0,
            body.len()
        );
        // A body that is too long is answered before all of it has been sent.
        let _ = stream.write_all((head + body).as_bytes()).await;
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    };
    let text = within("an answer", asked).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn a_namespace_is_entered_and_left_and_entered_again() {
    let hub = ready(guarded()).await;
    for namespace in ["/", "/ws"] {
        let mut client = Client::open(&hub).await;
        let welcome = client.join(namespace, &token("ana")).await;
        assert_eq!(welcome["sid"].as_str().unwrap().len(), 16);
        assert_eq!(client.ask("ping", &json!(1)).await["data"], 1);
        client.say(&packet::head(Kind::Disconnect, namespace, None)).await;
        let again = client.join(namespace, &token("ana")).await;
        assert_ne!(again["sid"], welcome["sid"], "no number is used again");
        // Not all the time.
        let auth = json!({"token": token("ana")});
        let out = format!("4{}", packet::head(Kind::Disconnect, namespace, None));
        let back = format!("4{}{auth}", packet::head(Kind::Connect, namespace, None));
        let all = std::iter::repeat_n([out, back], 100).flatten();
        client.socket.send_all(all.map(|text| Message::Text(text.into()))).await;
        client.ends().await;
    }
}

#[tokio::test]
async fn who_may_not_enter_is_told_in_its_namespace() {
    let hub = ready(guarded()).await;
    let mut client = Client::open(&hub).await;
    for (said, told) in [
        ("0/random", "4/random,{\"message\":\"Invalid namespace\"}"),
        ("0/wss,{}", "4/wss,{\"message\":\"Invalid namespace\"}"),
    ] {
        client.say(said).await;
        assert_eq!(client.text("a refusal").await, told);
    }
    for said in ["0", "0/ws,", "0{\"token\":\"x\"}", "0/ws,7", "0/ws,{\"token\":\"a.b.c\"}"] {
        client.say(said).await;
        let told = client.text("a refusal").await;
        let packet = packet::parse(&told).unwrap();
        assert_eq!(packet.kind, Kind::ConnectError, "{told}");
        let body: Value = serde_json::from_str(packet.data).unwrap();
        assert_eq!(body["message"], "AUTH_FAILED", "{told}");
        assert_eq!(body["data"]["content"]["code"], "AUTH_FAILED", "{told}");
    }
    // Somebody who tries and tries is not waited for.
    client.say("0").await;
    client.ends().await;
}

#[tokio::test]
async fn what_is_no_socket_io_ends_the_connection_and_nobody_elses() {
    let hub = ready(guarded()).await;
    let mut bystander = Client::enter(&hub, "/ws", &token("bob")).await;
    for said in [
        "abc",
        "9",
        "",
        "2{}",
        "2[]",
        "2[\"connect\"]",
        "2abc[\"ping\"]",
        "2[\"ping\"",
        "2/ws,[\"ping\"]",
        "2/nowhere,[\"ping\"]",
        "0{\"token\":\"again\"}",
        "4{\"message\":\"no\"}",
        "5[\"ping\"]",
        "517-[\"ping\"]",
        "599999999999999999999-[\"ping\"]",
        "218446744073709551616[\"ping\"]",
        "1/nowhere,",
    ] {
        let mut client = Client::enter(&hub, "/", &token("ana")).await;
        client.say(said).await;
        client.ends().await;
    }
    // Attachments that come too early, too late or not at all.
    let mut client = Client::enter(&hub, "/", &token("ana")).await;
    client.socket.send_binary(b"nobody waits for this").await;
    client.ends().await;
    let mut client = Client::enter(&hub, "/", &token("ana")).await;
    client.say("51-[\"ping\",{\"_placeholder\":true,\"num\":0}]").await;
    client.say("2[\"ping\"]").await;
    client.ends().await;
    // Before any namespace.
    for said in ["2[\"ping\"]", "51-[\"ping\"]", "3[]"] {
        let mut client = Client::open(&hub).await;
        client.say(said).await;
        client.ends().await;
    }
    // Engine.IO has rules of its own.
    for said in ["abc", "6", "4\u{1e}4"] {
        let mut client = Client::open(&hub).await;
        client.socket.send(said).await;
        client.ends().await;
    }
    assert_eq!(bystander.ask("ping", &json!(1)).await["status"], "success");
}

#[tokio::test]
async fn attachments_are_bounded_and_come_with_their_packet() {
    let hub = ready(guarded()).await;
    let mut client = Client::enter(&hub, "/ws", &token("ana")).await;
    client.say("50-/ws,1[\"ping\",{}]").await;
    assert!(client.text("an answer").await.starts_with("3/ws,1[{"));
    client.say("52-/ws,2[\"ping\",[0,1]]").await;
    client.socket.send_binary(b"one").await;
    client.socket.send_binary(b"").await;
    let answer = client.text("an answer").await;
    assert!(answer.starts_with("62-/ws,2[{"), "{answer}");

    let mut client = Client::enter(&hub, "/ws", &token("ana")).await;
    client.say("52-/ws,[\"ping\",[0,1]]").await;
    client.socket.send_binary(&[0; 600_000]).await;
    client.socket.send_binary(&[0; 600_000]).await;
    client.ends().await;
}

#[tokio::test]
async fn engine_io_answers_what_is_no_request_of_it() {
    let hub = ready(guarded()).await;
    for (path, status) in [
        ("/socket.io/", 400),
        ("/socket.io/?EIO=4", 400),
        ("/socket.io/?transport=polling", 400),
        ("/socket.io/?EIO=abc&transport=polling", 400),
        ("/socket.io/?EIO=3&transport=polling", 400),
        ("/socket.io/?EIO=4&transport=abc", 400),
        ("/socket.io/?EIO=4&transport=polling&sid=abc", 400),
        ("/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA", 400),
        ("/socket.io/?EIO=4&transport=websocket", 400),
        ("/socket.io/?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAA", 400),
        ("/ws/socket.io/?EIO=4&transport=polling", 200),
        ("/ws/socket.io?EIO=4&transport=polling", 200),
        ("/socket.io?EIO=4&transport=polling", 200),
    ] {
        assert_eq!(hub.get(path).await.status, status, "{path}");
    }
    let posted = post(&hub, "/socket.io/?EIO=4&transport=polling", "4x").await;
    assert_eq!(posted.status, 400, "{posted:?}");
}

#[tokio::test]
async fn polling_carries_packets_both_ways() {
    let hub = ready(guarded()).await;
    let polling = Polling::open(&hub).await;
    // The first ping comes at once.
    assert_eq!(polling.poll().await.body, "2");
    assert_eq!(polling.post("3").await.body, "ok");
    let auth = json!({"token": token("ana")});
    assert_eq!(polling.post(&format!("40/ws,{auth}\u{1e}3")).await.body, "ok");
    let mut came = String::new();
    while !came.contains("\"subscribed\"") {
        came += &polling.poll().await.body;
        came.push('\u{1e}');
    }
    let packets: Vec<&str> = came.split('\u{1e}').collect();
    assert!(packets[0].starts_with("40/ws,{\"sid\":\""), "{came}");
    let asked = "452-/ws,7[\"ping\",[0,1]]\u{1e}bAAEC\u{1e}bAwQF";
    assert_eq!(polling.post(asked).await.body, "ok");
    let answer = polling.poll().await.body;
    let parts: Vec<&str> = answer.split('\u{1e}').collect();
    assert!(parts[0].starts_with("462-/ws,7[{"), "{answer}");
    assert_eq!(parts[1..], ["bAAEC", "bAwQF"]);

    // Too long.
    let polling = Polling::open(&hub).await;
    let answer = polling.post(&format!("4{}", "x".repeat(1_000_000))).await;
    assert_eq!(answer.status, 413);
    assert_eq!(polling.poll().await.status, 400, "the connection has ended");
    // Two polls at once are not of one client.
    let polling = Polling::open(&hub).await;
    assert_eq!(polling.poll().await.body, "2");
    let answers = tokio::join!(polling.poll(), polling.poll());
    assert!(answers.0.status == 400 || answers.1.status == 400, "{answers:?}");
}

#[tokio::test]
async fn the_number_of_a_connection_is_shown_to_nobody() {
    let hub = ready(guarded()).await;
    let polling = Polling::open(&hub).await;
    let auth = json!({"token": token("ana")});
    polling.post(&format!("40{auth}")).await;
    let mut other = Client::enter(&hub, "/", &token("bob")).await;
    for command in ["debug:rooms", "presence"] {
        let told = other.ask(command, &json!({"room": "global"})).await;
        assert!(!told.to_string().contains(&polling.sid), "{told}");
    }
    let stats = format!("/v1/stats?token={}", token("bob"));
    for path in ["/healthz", &stats] {
        let told = hub.get(path).await;
        assert!(!told.body.contains(&polling.sid), "{told:?}");
    }
}

#[tokio::test]
async fn a_connection_without_a_namespace_ends() {
    let hub = ready(guarded()).await;
    let mut client = Client::open(&hub).await;
    let polling = Polling::open(&hub).await;
    client.ends().await;
    within("the polling connection to end", async {
        while polling.post("3").await.status == 200 {
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
    })
    .await;
}

#[tokio::test]
async fn with_no_authentication_everybody_is_anonymous() {
    let hub = ready(Hub::new()).await;
    let mut client = Client::open(&hub).await;
    // What stands there is not read.
    client.join("/ws", "no token at all").await;
    let rooms = client.ask("debug:rooms", &Value::Null).await["rooms"].clone();
    assert_eq!(rooms, json!(["global", "user:anonymous"]));
    let published = json!({"type": "project.updated", "data": {"project_id": "1"}});
    assert_eq!(client.ask("publish", &published).await["rooms"], json!(["project:1"]));
}
