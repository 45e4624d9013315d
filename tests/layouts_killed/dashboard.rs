//! A dashboard, by the rules that the example client in JavaScript follows: what
//! the hub has said, in order, and operations that are sent again with their ids
//! until it has said what became of them. Unlike that client it sends several at
//! once, and over both ways at any time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::board::{Edit, Object, Objects, Op, Step, key_of, merge, named};
use crate::harness::within;

/// What became of an operation.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It is safe, with this revision and these versions.
    Made(u64, Vec<u64>),
    /// It was made on what stands no more.
    Conflict(Value),
    /// It can't be done.
    Refused(String),
}

/// An operation that waits to be settled.
struct Waiting {
    op: Op,
    /// Where on this connection it was sent, if it was.
    sent: Option<u64>,
    /// It may have been done before it was sent on this connection.
    is_repeated: bool,
}

pub(super) struct Dashboard {
    pub(super) name: String,
    address: SocketAddr,
    path: String,
    socket: Option<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    /// The hub has told on this connection what was missed.
    is_ready: bool,
    objects: Objects,
    pub(super) revision: u64,
    epoch: Value,
    /// Changes by their revision that others must come before.
    ahead: BTreeMap<u64, Op>,
    queue: VecDeque<Waiting>,
    sent: u64,
    /// The place of the last operation that was made, and its revision: of those
    /// that were sent once, on this connection.
    made: (u64, u64),
    pub(super) settled: Vec<(Op, Outcome)>,
    /// Those of them that were on their way more than once. A refusal is not
    /// remembered: what is refused at first may be made when it comes again.
    pub(super) doubled: BTreeSet<String>,
    /// The board at each revision that it stood at.
    pub(super) seen: Vec<(u64, Objects)>,
    /// How often it was told what it had missed, and connected.
    pub(super) connections: u64,
    resolutions: u64,
}

impl Dashboard {
    pub(super) fn new(name: String, address: SocketAddr, board: &str) -> Self {
        Self {
            path: format!("/api/realtime?userId={name}&board={board}"),
            name,
            address,
            socket: None,
            is_ready: false,
            objects: Objects::new(),
            revision: 0,
            epoch: Value::Null,
            ahead: BTreeMap::new(),
            queue: VecDeque::new(),
            sent: 0,
            made: (0, 0),
            settled: Vec::new(),
            doubled: BTreeSet::new(),
            seen: Vec::new(),
            connections: 0,
            resolutions: 0,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// The version of an object, as far as it is known.
    pub(super) fn version(&self, key: &str) -> u64 {
        self.objects.get(key).map_or(0, |object| object.version)
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn edit(&mut self, op: Op) {
        self.queue.push_back(Waiting { op, sent: None, is_repeated: false });
    }

    /// Connects, unless the hub is away just now.
    pub(super) async fn connect(&mut self) {
        self.cut();
        let url = format!("ws://{}{}", self.address, self.path);
        let Ok((socket, _)) = within("a connection, or none", connect_async(url)).await else {
            return;
        };
        self.socket = Some(socket);
        self.connections += 1;
        self.ask().await;
    }

    /// Ends the connection as a crash would.
    pub(super) fn cut(&mut self) {
        self.socket = None;
        self.is_ready = false;
        (self.sent, self.made) = (0, (0, 0));
        for waiting in &mut self.queue {
            waiting.is_repeated |= waiting.sent.take().is_some();
        }
    }

    /// Asks for what was missed.
    pub(super) async fn ask(&mut self) {
        let payload = match self.epoch {
            Value::Null => json!({}),
            _ => json!({"since": self.revision, "epoch": self.epoch}),
        };
        self.say("SYNC_REQUEST", "ask", &payload).await;
    }

    async fn say(&mut self, kind: &str, id: &str, payload: &Value) {
        let Some(socket) = &mut self.socket else { return };
        let timestamp = "2026-01-01T00:00:00Z";
        let message = json!({"type": kind, "id": id, "timestamp": timestamp, "userId": self.name,
            "payload": payload});
        if socket.send(Message::Text(message.to_string().into())).await.is_err() {
            self.cut();
        }
    }

    /// Sends what comes first in the queue; `again`: also what was sent already.
    pub(super) async fn send(&mut self, count: usize, again: bool) {
        for at in 0..count.min(self.queue.len()) {
            if !self.is_ready {
                return;
            }
            let waiting = &mut self.queue[at];
            if waiting.sent.is_some() && !again {
                continue;
            }
            self.sent += 1;
            waiting.is_repeated |= waiting.sent.is_some();
            waiting.sent = Some(self.sent);
            let Op { id, kind, payload } = waiting.op.clone();
            self.say(&kind, &id, &payload).await;
        }
    }

    /// Takes in what comes within this time; false: nothing did.
    pub(super) async fn hear(&mut self, wait: Duration) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let Ok(heard) = tokio::time::timeout(wait, socket.next()).await else { return false };
        match heard {
            Some(Ok(Message::Text(text))) => {
                let mut message: Value = serde_json::from_str(&text).unwrap();
                let payload = message["payload"].take();
                self.take(&message, payload);
                self.ask_for_what_was_restored().await;
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => self.cut(),
            Some(Ok(_)) => {}
        }
        true
    }

    fn take(&mut self, message: &Value, payload: Value) {
        let id = message["correlationId"].as_str();
        match message["type"].as_str().unwrap() {
            "CONNECT" | "DISCONNECT" => {}
            "SYNC_RESPONSE" => self.take_state(&payload),
            "ACK" => {
                let revision = payload["syncVersion"].as_u64().unwrap();
                if let Some(waiting) = self.settle(id.unwrap(), made(&payload)) {
                    self.check_order(&waiting, revision);
                    self.learn(revision, with(waiting.op, payload));
                }
            }
            "CONFLICT_DETECTED" => {
                self.settle(id.unwrap(), Outcome::Conflict(payload));
            }
            "NACK" if payload["temporary"] == true => self.unsend(id.unwrap()),
            "NACK" => {
                let words = payload["error"].as_str().unwrap().to_owned();
                self.settle(id.unwrap(), Outcome::Refused(words));
            }
            kind => {
                let revision = payload["syncVersion"].as_u64();
                let revision = revision.unwrap_or_else(|| panic!("{message} {payload}"));
                let op = Op { id: String::new(), kind: kind.to_owned(), payload };
                self.learn(revision, op);
            }
        }
    }

    /// What one connection sent first is made first.
    fn check_order(&mut self, waiting: &Waiting, revision: u64) {
        let Some(place) = waiting.sent.filter(|_| !waiting.is_repeated) else { return };
        let (last, before) = self.made;
        assert_eq!(place > last, revision > before, "{:?} in {revision}", waiting.op);
        self.made = (place, revision);
    }

    fn unsend(&mut self, id: &str) {
        if let Some(waiting) = self.queue.iter_mut().find(|waiting| waiting.op.id == id) {
            waiting.sent = None;
            waiting.is_repeated = true;
        }
    }

    fn settle(&mut self, id: &str, outcome: Outcome) -> Option<Waiting> {
        let at = self.queue.iter().position(|waiting| waiting.op.id == id)?;
        let waiting = self.queue.remove(at)?;
        if waiting.is_repeated {
            self.doubled.insert(waiting.op.id.clone());
        }
        self.settled.push((waiting.op.clone(), outcome.clone()));
        if let Outcome::Conflict(conflict) = outcome {
            self.resolve(&waiting.op, &conflict);
        }
        Some(waiting)
    }

    /// Both changes are to be kept, two times of three.
    fn resolve(&mut self, op: &Op, conflict: &Value) {
        self.resolutions += 1;
        if self.resolutions.is_multiple_of(3) || !op.is_of_one() {
            return;
        }
        let server = &conflict["server"];
        let mut payload = named(&key_of(conflict));
        payload["data"] = match conflict["client"]["data"].as_object() {
            Some(mine) => merge(&server["data"], mine.clone()),
            None => Value::Null,
        };
        payload["baseVersion"] = server["version"].clone();
        let id = format!("{}-resolved-{}", op.id, self.resolutions);
        self.edit(Op { id, kind: "CONFLICT_RESOLVED".to_owned(), payload });
    }

    /// Takes over a change, once all before it have been.
    fn learn(&mut self, revision: u64, op: Op) {
        if revision > self.revision {
            self.ahead.insert(revision, op);
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(op) = self.ahead.get(&(self.revision + 1)) {
            if !apply(&mut self.objects, op) {
                return;
            }
            self.revision += 1;
            self.ahead.remove(&self.revision);
            self.seen.push((self.revision, self.objects.clone()));
        }
    }

    /// An ACK does not say what came out.
    async fn ask_for_what_was_restored(&mut self) {
        if self.is_ready && self.ahead.contains_key(&(self.revision + 1)) {
            self.ask().await;
        }
    }

    fn take_state(&mut self, state: &Value) {
        let version = state["version"].as_u64().unwrap();
        let is_same_log = state["epoch"] == self.epoch;
        assert!(is_same_log || self.epoch.is_null(), "the log was lost: {state}");
        if !is_same_log || version >= self.revision {
            self.epoch = state["epoch"].clone();
            if state["full"] == true {
                self.objects.clear();
            }
            let all = ["widgets", "layouts", "deleted"].iter();
            for object in all.flat_map(|list| state[list].as_array().unwrap()) {
                let key = key_of(object);
                let data = if key.starts_with('w') { "data" } else { "layout" };
                let version = object["version"].as_u64().unwrap();
                self.objects.insert(key, Object { version, data: object[data].clone() });
            }
            self.revision = version;
            self.ahead.retain(|revision, _| *revision > version);
            self.seen.push((version, self.objects.clone()));
        }
        self.is_ready = true;
        self.advance();
    }

    /// Does what comes first in the queue over HTTP; `deaf`: goes away before the
    /// answer.
    pub(super) async fn post(&mut self, count: usize, deaf: bool) {
        let operations: Vec<Value> = (self.queue.iter().take(count))
            .map(|Waiting { op: Op { id, kind, payload }, .. }| {
                json!({"operationId": id, "type": kind, "payload": payload})
            })
            .collect();
        for waiting in self.queue.iter_mut().take(count) {
            waiting.is_repeated = true;
        }
        let body = json!({"type": "SYNC", "operations": operations}).to_string();
        let posted = async {
            let mut stream = TcpStream::connect(self.address).await.ok()?;
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                self.path,
                self.address,
                body.len()
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            if deaf {
                return None;
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            assert!(
                head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 503"),
                "{answer}"
            );
            // One that was killed may have said half of it.
            serde_json::from_str::<Value>(body).ok()
        };
        let answer = within("an answer over HTTP, or none", posted).await;
        for result in answer.iter().filter_map(|answer| answer["results"].as_array()).flatten() {
            self.take_result(result);
        }
        self.ask_for_what_was_restored().await;
    }

    fn take_result(&mut self, result: &Value) {
        let id = result["operationId"].as_str().unwrap();
        match result["status"].as_str().unwrap() {
            "applied" => {
                let revision = result["syncVersion"].as_u64().unwrap();
                if let Some(waiting) = self.settle(id, made(result)) {
                    self.learn(revision, with(waiting.op, result.clone()));
                }
            }
            "conflict" => {
                self.settle(id, Outcome::Conflict(result["conflict"].clone()));
            }
            _ if result["temporary"] == true => {}
            _ => {
                let words = result["error"].as_str().unwrap().to_owned();
                self.settle(id, Outcome::Refused(words));
            }
        }
    }

    /// Goes on until all of its operations are settled.
    pub(super) async fn finish(&mut self) {
        let what = format!("{} to be done with its operations", self.name);
        within(&what, async {
            while !self.queue.is_empty() || !self.is_ready {
                if self.socket.is_none() {
                    self.connect().await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                self.send(usize::MAX, false).await;
                self.hear(Duration::from_millis(100)).await;
            }
        })
        .await;
    }

    /// Goes on, without asking, until it has been told of a revision.
    pub(super) async fn reach(&mut self, revision: u64) {
        let what = format!("{} to be told of revision {revision}", self.name);
        within(&what, async {
            while self.revision < revision || !self.is_ready {
                if self.socket.is_none() {
                    self.connect().await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                self.hear(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert_eq!(self.revision, revision, "{}", self.name);
    }

    /// Sends an operation that is settled once more; what is said of it now.
    pub(super) async fn repeat(&mut self, op: &Op) -> Outcome {
        self.queue.push_back(Waiting { op: op.clone(), sent: None, is_repeated: true });
        self.finish().await;
        let at = self.settled.iter().rposition(|(settled, _)| settled.id == op.id).unwrap();
        self.settled.remove(at).1
    }
}

/// What an ACK or a result says of an operation that was made.
fn made(answer: &Value) -> Outcome {
    let versions = match answer["versions"].as_array() {
        Some(all) => all.iter().map(|one| one["version"].as_u64().unwrap()).collect(),
        None => vec![answer["version"].as_u64().unwrap()],
    };
    Outcome::Made(answer["syncVersion"].as_u64().unwrap(), versions)
}

/// The operation as others are told of it, but for what came out of it.
fn with(mut op: Op, answer: Value) -> Op {
    if op.kind == "LAYOUT_RESTORE" {
        // Which version it was, and not the one that it became.
        op.payload["version"] = Value::Null;
    }
    for name in ["version", "versions", "syncVersion"] {
        if let Some(value) = answer.get(name) {
            op.payload[name] = value.clone();
        }
    }
    op
}

/// Does to what is known what was done. False: that does not say what came out.
fn apply(objects: &mut Objects, op: &Op) -> bool {
    let mut after = Objects::new();
    let mut keys = BTreeSet::new();
    for Step { key, edit, .. } in op.steps() {
        let current = after.get(&key).or_else(|| objects.get(&key)).cloned().unwrap_or_default();
        let data = match edit {
            Edit::Merge(members) => merge(&current.data, members),
            Edit::Replace(data) => data,
            Edit::Restore(_) => {
                let came = op.payload.get(if key.starts_with('w') { "data" } else { "layout" });
                match came {
                    Some(data) => data.clone(),
                    None => return false,
                }
            }
        };
        keys.insert(key.clone());
        let version = version_of(&op.payload, &key).unwrap_or(current.version);
        after.insert(key, Object { version, data });
    }
    objects.extend(after);
    true
}

/// The version of an object after a change that says it of one or of several.
fn version_of(payload: &Value, key: &str) -> Option<u64> {
    match payload["versions"].as_array() {
        Some(all) => all.iter().rfind(|one| key_of(one) == key)?["version"].as_u64(),
        None => payload["version"].as_u64(),
    }
}
