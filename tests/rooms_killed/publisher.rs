//! Publishers that publish until they are told that it is safe.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::world::{Acknowledged, Published, token};

/// How many kinds of them there are: over HTTP one event at a time and several,
/// and over the native protocol.
pub(super) const KINDS: usize = 3;
/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(3);
/// How long an answer may take of a hub that runs; one that was killed has
/// closed the connection.
const ANSWER_MAX: Duration = Duration::from_secs(20);
const ROOMS: [&str; 5] = ["project:1", "project:2", "agent:7", "global", "user:dan"];
const USERS: [&str; 3] = ["ana", "bob", "dan"];
const TYPES: [&str; 5] =
    ["pr.created", "pr.updated", "issue.created", "agent.connected", "deploy.done"];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One who publishes.
pub(super) struct Publisher {
    address: SocketAddr,
    place: usize,
    token: String,
    rng: StdRng,
    /// The connection of one that speaks the native protocol.
    socket: Option<Socket>,
    /// Events so far, each with a key of its own.
    count: u64,
    published: Published,
    pub(super) acknowledged: watch::Sender<u64>,
}

/// An event that is to be published: its type, and its JSON.
type Wanted = (&'static str, Value);

impl Publisher {
    pub(super) fn new(address: SocketAddr, place: usize) -> Self {
        Self {
            address,
            place,
            token: token(&format!("publisher-{place}"), &[], true),
            rng: StdRng::seed_from_u64(place as u64),
            socket: None,
            count: 0,
            published: Vec::new(),
            acknowledged: watch::Sender::default(),
        }
    }

    /// Publishes until it is to stop; what was acknowledged.
    pub(super) async fn publish(mut self, stop: watch::Receiver<bool>) -> Published {
        while !*stop.borrow() {
            let several = if self.place == 1 { self.rng.random_range(1..6) } else { 1 };
            let wanted: Vec<Wanted> = (0..several).map(|_| self.draft()).collect();
            let receipts = self.acknowledge(&wanted).await;
            // Who asks again is told the same.
            if self.rng.random_bool(0.1) {
                assert_eq!(self.acknowledge(&wanted).await, receipts, "{wanted:?}");
            }
            for ((kind, _), receipt) in wanted.into_iter().zip(receipts) {
                let rooms = receipt["rooms"].as_array().unwrap().iter();
                self.published.push(Acknowledged {
                    event: (
                        receipt["offset"].as_u64().unwrap(),
                        receipt["id"].as_str().unwrap().to_owned(),
                    ),
                    kind,
                    rooms: rooms.map(|room| room.as_str().unwrap().to_owned()).collect(),
                });
            }
            self.acknowledged.send_replace(self.published.len() as u64);
            let pause = Duration::from_millis(self.rng.random_range(0..4));
            tokio::time::sleep(pause).await;
        }
        self.published
    }

    /// An event to some rooms, to a user, or to where its type goes.
    fn draft(&mut self) -> Wanted {
        self.count += 1;
        let kind = *TYPES.choose(&mut self.rng).unwrap();
        let project = self.rng.random_range(1..3);
        let mut event = json!({
            "type": kind,
            "source": "test",
            "data": {"n": self.count, "project_id": project, "agent_id": "7"},
            "key": format!("{}-{}", self.place, self.count),
        });
        match self.rng.random_range(0..4) {
            0 => event["user"] = json!(USERS.choose(&mut self.rng)),
            1 => {}
            _ => {
                let many = self.rng.random_range(1..4);
                let rooms: Vec<&str> = ROOMS.sample(&mut self.rng, many).copied().collect();
                event["rooms"] = json!(rooms);
            }
        }
        (kind, event)
    }

    /// Asks again and again until all of it is safe; the receipts.
    async fn acknowledge(&mut self, wanted: &[Wanted]) -> Vec<Value> {
        let started = std::time::Instant::now();
        loop {
            let tried = async {
                match self.place {
                    0 => self.over_http(wanted[0].1.clone()).await.map(|one| vec![one]),
                    1 => {
                        let events: Vec<&Value> = wanted.iter().map(|(_, event)| event).collect();
                        let answer = self.over_http(json!({"events": events})).await?;
                        answer["events"].as_array().cloned()
                    }
                    _ => self.over_native(&wanted[0].1).await.map(|one| vec![one]),
                }
            };
            let tried = tokio::time::timeout(ANSWER_MAX, tried).await;
            let answers = tried.expect("the hub neither answers nor ends");
            if let Some(answers) = answers
                && answers.iter().all(|answer| answer.get("id").is_some())
            {
                return answers;
            }
            assert!(started.elapsed() < crate::harness::LIMIT, "{wanted:?} can't be published");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The answer, if there is one and it may be tried again no more.
    async fn over_http(&self, body: Value) -> Option<Value> {
        let body = body.to_string();
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        match head.split(' ').nth(1)? {
            "200" => serde_json::from_str(body).ok(),
            "503" => None,
            _ => panic!("{answer}"),
        }
    }

    async fn over_native(&mut self, event: &Value) -> Option<Value> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => super::native::connect(self.address, &self.token).await?,
        };
        let mut command = event.clone();
        (command["id"], command["op"]) = (json!(self.count), json!("publish"));
        socket.send(Message::Text(command.to_string().into())).await.ok()?;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] != self.count {
                continue;
            }
            if let Some(error) = message.get("error") {
                assert_eq!(error["temporary"], true, "{message}");
                return None;
            }
            // The next event goes over the same connection.
            self.socket = Some(socket);
            return Some(message["ok"].clone());
        }
        None
    }
}
