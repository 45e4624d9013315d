//! The example client of dashboards, as its terminal program shows it: against a
//! real hub that goes and comes back, that can be had over HTTP only, and that
//! others have used meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::{Client, LOOK_EVERY, address_to_keep, clients, workshop};
use crate::harness::{Door, Hub, Program, within};

/// Lines that each user types, between two ends of the hub.
const LINES: usize = 10;

/// A board in a terminal. None if the tools are missing, which is told.
struct Terminal {
    program: Program,
    _client: Client,
}

impl Terminal {
    fn open(address: SocketAddr, user: &str) -> Option<Self> {
        let client = clients().into_iter().find(|client| client.watch[0] == "node")?;
        let mut command = client.command(&["node", "board.mjs"]);
        command.arg(address.to_string()).args([user, "b"]);
        Some(Self { program: Program::run_to_talk_to(&mut command), _client: client })
    }

    fn type_in(&mut self, line: &str) {
        self.program.say(line);
    }

    /// What it shows now: the first line, and the objects with their data.
    fn shown(&self) -> (String, Vec<(String, Value)>) {
        let said = self.program.stdout();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let last = whole.rfind("board, ").map_or("", |at| &whole[at..]);
        let mut lines = last.lines().map(str::trim);
        let first = lines.next().unwrap_or_default().to_owned();
        let object = |line: &str| {
            let (head, data) = line.split_at(line.find(" {").unwrap());
            (head.to_owned(), serde_json::from_str(data).unwrap())
        };
        let mut objects: Vec<(String, Value)> = lines.map(object).collect();
        objects.sort_by(|(one, _), (other, _)| one.cmp(other));
        (first, objects)
    }

    /// Waits until it shows this, and nothing is pending.
    async fn shows(&self, wanted: &[(&str, Value)]) {
        let objects = wanted.iter().map(|(head, data)| ((*head).to_owned(), data.clone()));
        let wanted = ("board, 0 pending".to_owned(), objects.collect::<Vec<_>>());
        within(&format!("{wanted:?} to be shown"), async {
            while self.shown() != wanted {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    }

    async fn until_told(&self, words: &str) {
        within(&format!("{words:?} to be told"), async {
            while !self.program.stderr().contains(words) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    }

    /// Says that this was all: it ends when all of it is safe.
    async fn leave(mut self) {
        self.program.say_no_more();
        let status = self.program.exit().await;
        assert!(status.success(), "{status}: {}", self.program.stderr());
    }
}

/// What was done to the board: who, and the payload, in order.
async fn changes(hub: &Hub) -> Vec<(String, Value)> {
    let page = hub.get_json("/v1/rooms/board:b/events?after=0&limit=1000").await;
    let entries = page["entries"].as_array().unwrap().iter();
    let change = |entry: &Value| {
        let event = &entry["entry"];
        let by = event["source"].as_str().unwrap().to_owned();
        (by, event["data"]["operation"]["payload"].clone())
    };
    entries.map(change).collect()
}

/// Changes the board over HTTP.
async fn post(hub: &Hub, id: &str, widget: &str, data: Value) -> Value {
    let payload = json!({"widgetId": widget, "data": data});
    let operation = json!({"operationId": id, "type": "WIDGET_UPDATE", "payload": payload});
    let body = json!({"type": "SYNC", "operations": [operation]}).to_string();
    let head = format!(
        "POST /api/realtime?userId=eve&board=b HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        hub.0,
        body.len()
    );
    let answered = async {
        let mut stream = TcpStream::connect(hub.0).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let answer = within("an answer over HTTP", answered).await;
    assert_eq!(answer["results"][0]["status"], "applied", "{answer}");
    answer["results"][0].clone()
}

#[tokio::test]
async fn what_the_document_shows_of_the_client_of_dashboards_works() {
    let Some(client) = clients().into_iter().find(|client| client.watch[0] == "node") else {
        return;
    };
    let hub = Hub::new().start().await;
    let document = fs::read_to_string(workshop::root().join("docs/clients.md")).unwrap();
    let mut blocks = document.split("```js\n").map(|rest| rest.split("```").next().unwrap());
    let code = blocks.find(|code| code.contains("sync.mjs")).unwrap();
    let code = code.replace("127.0.0.1:8765", &hub.0.to_string());
    fs::write(client.folder.path().join("shown.mjs"), code).unwrap();
    let first = "globalThis.WebSocket ??= require('ws').WebSocket;";
    fs::write(client.folder.path().join("first.cjs"), first).unwrap();
    let mut command = client.command(&["node", "--require", "./first.cjs", "shown.mjs"]);
    let program = Program::run(&mut command);
    within("a widget to be safe", async {
        while !program.stdout().contains("safe: 1") {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

#[tokio::test]
async fn two_boards_in_terminals_are_the_same_over_kills_of_their_hub() {
    let mut hub = Hub::new().listen(address_to_keep()).start().await;
    let users = ["ana", "bob"];
    let terminals = users.map(|user| Terminal::open(hub.0, user));
    let [Some(ana), Some(bob)] = terminals else { return };
    let mut terminals = [ana, bob];
    let mut typed = 0;
    let mut type_in = |terminals: &mut [Terminal; 2]| {
        for n in typed..typed + LINES {
            for (terminal, user) in terminals.iter_mut().zip(users) {
                terminal.type_in(&format!("{user} {{\"n\": {n}}}"));
                terminal.type_in(&format!("shared {{{user:?}: {n}}}"));
            }
        }
        typed += LINES;
    };
    type_in(&mut terminals);
    for _ in 0..2 {
        let setup = hub.kill();
        // This waits until it is back.
        type_in(&mut terminals);
        hub = setup.start_listening().await;
    }
    let last = 3 * LINES - 1;
    let version = last + 1;
    let (ana, bob) = (format!("widget ana v{version}"), format!("widget bob v{version}"));
    let shared = format!("widget shared v{}", 2 * version);
    let all = [
        (&*ana, json!({"n": last})),
        (&*bob, json!({"n": last})),
        // Each has lost against the other now and then, and has resolved it.
        (&*shared, json!({"ana": last, "bob": last})),
    ];
    for terminal in &terminals {
        terminal.shows(&all).await;
    }
    for terminal in terminals {
        terminal.leave().await;
    }
    let changes = changes(&hub).await;
    assert_eq!(changes.len(), 4 * (last + 1), "each change is made once");
    for user in users {
        let of = changes.iter().filter(|(by, payload)| by == user && payload["widgetId"] == user);
        let numbers = of.map(|(_, payload)| payload["data"]["n"].as_u64().unwrap());
        assert!(numbers.eq(0..=last as u64), "in their order: {changes:?}");
    }
}

/// What a proxy lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Lets {
    Nothing,
    /// Requests, but no answers.
    Deaf,
    /// Requests and their answers, but no WebSockets.
    Http,
    Everything,
}

/// Stands between a client and its hub.
struct Proxy {
    address: SocketAddr,
    lets: Arc<AtomicU8>,
    cut: broadcast::Sender<()>,
    _serving: JoinSet<()>,
}

impl Proxy {
    async fn start(hub: Door, lets: Lets) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lets = Arc::new(AtomicU8::new(lets as u8));
        let (cut, mut serving) = (broadcast::Sender::new(1), JoinSet::new());
        let (now, cuts) = (lets.clone(), cut.clone());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (now, mut cut) = (now.clone(), cuts.subscribe());
                connections.spawn(async move {
                    tokio::select! {
                        _ = carry(stream, hub, &now) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { address, lets, cut, _serving: serving }
    }

    /// Cuts what there is; from now on it lets this through.
    fn let_through(&self, lets: Lets) {
        self.lets.store(lets as u8, Ordering::SeqCst);
        // An error means that there is nothing to cut.
        let _ = self.cut.send(());
    }
}

async fn carry(mut stream: TcpStream, hub: Door, lets: &AtomicU8) -> std::io::Result<()> {
    let mut request = vec![0; 16 * 1024];
    let length = stream.read(&mut request).await?;
    let request = &request[..length];
    let is_upgrade = String::from_utf8_lossy(request).to_ascii_lowercase().contains("upgrade:");
    let lets = lets.load(Ordering::SeqCst);
    if lets == Lets::Nothing as u8 || (is_upgrade && lets != Lets::Everything as u8) {
        return Ok(());
    }
    let mut there = TcpStream::connect(hub.0).await?;
    there.write_all(request).await?;
    if lets == Lets::Deaf as u8 {
        // Until the hub has answered.
        let (mut from_hub, mut to_hub) = there.split();
        let mut rest = [0; 1024];
        tokio::select! {
            _ = tokio::io::copy(&mut stream, &mut to_hub) => {}
            _ = from_hub.read(&mut rest) => {}
        }
        return Ok(());
    }
    copy_bidirectional(&mut stream, &mut there).await.map(|_| ())
}

#[tokio::test]
async fn a_board_whose_websocket_is_refused_is_edited_over_http_and_then_goes_on() {
    let hub = Hub::new().start().await;
    let proxy = Proxy::start(Door(hub.0), Lets::Http).await;
    let Some(mut terminal) = Terminal::open(proxy.address, "ana") else { return };
    terminal.type_in("w {\"a\": 1}");
    terminal.type_in("v {\"a\": 1}");
    terminal.shows(&[("widget v v1", json!({"a": 1})), ("widget w v1", json!({"a": 1}))]).await;
    // Done, but the client is not told.
    proxy.let_through(Lets::Deaf);
    terminal.type_in("w {\"a\": 2}");
    within("it to be done", async {
        while changes(&hub).await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    post(&hub, "eve-1", "u", json!({"b": 1})).await;
    proxy.let_through(Lets::Everything);
    let all = [
        ("widget u v1", json!({"b": 1})),
        ("widget v v1", json!({"a": 1})),
        ("widget w v2", json!({"a": 2})),
    ];
    terminal.shows(&all).await;
    terminal.leave().await;
    let by_ana = changes(&hub).await.into_iter().filter(|(by, _)| by == "ana");
    assert_eq!(by_ana.count(), 3, "each is made once");
}

#[tokio::test]
async fn what_two_have_changed_is_resolved_by_the_one_that_comes_late() {
    let hub = Hub::new().start().await;
    let proxy = Proxy::start(Door(hub.0), Lets::Everything).await;
    let Some(mut terminal) = Terminal::open(proxy.address, "ana") else { return };
    terminal.type_in("w {\"a\": 1}");
    terminal.type_in("layout {\"columns\": 2}");
    let layout = ("layout default v1", json!({"columns": 2}));
    terminal.shows(&[layout.clone(), ("widget w v1", json!({"a": 1}))]).await;
    proxy.let_through(Lets::Nothing);
    terminal.until_told("lost: ").await;
    terminal.type_in("w {\"a\": 2}");
    within("it to be pending", async {
        while !terminal.shown().0.starts_with("board, 1 pending") {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    post(&hub, "eve-1", "w", json!({"b": 5})).await;
    proxy.let_through(Lets::Everything);
    terminal.until_told("w has changed meanwhile").await;
    terminal.shows(&[layout, ("widget w v3", json!({"a": 2, "b": 5}))]).await;
    let (by, payload) = changes(&hub).await.pop().unwrap();
    assert_eq!((by.as_str(), &payload["baseVersion"]), ("ana", &json!(2)), "{payload}");
    terminal.leave().await;
}
