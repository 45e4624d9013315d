//! A client of Socket.IO, as its packets are.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::world::{Event, Follower};

const FORBIDDEN: usize = 100;
const PING: usize = 101;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What one connection has told. What was missed of a room follows the answer,
/// one packet an event, and nothing says where it ends but what comes after it:
/// the answer to a ping. Until then nothing of it counts.
struct Heard {
    is_in: bool,
    /// The offset that each subscription was answered with.
    answers: Vec<Option<u64>>,
    is_refused: bool,
    is_whole: bool,
    has_counted: bool,
    events: Vec<Event>,
}

/// One connection, until it breaks.
pub(super) async fn talk(follower: &mut Follower) {
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", follower.address);
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {}", follower.wishes.token());
    request.headers_mut().insert("Authorization", token.parse().unwrap());
    let Ok((mut socket, _)) = connect_async(request).await else { return };
    follower.known.connections += 1;
    let mut heard = Heard {
        is_in: false,
        answers: vec![None; follower.wishes.wishes.len()],
        is_refused: false,
        is_whole: false,
        has_counted: false,
        events: Vec::new(),
    };
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        if hear(follower, &mut heard, &text, &mut socket).await.is_none() {
            return;
        }
    }
}

async fn say(socket: &mut Socket, text: String) -> Option<()> {
    socket.send(Message::Text(text.into())).await.ok()
}

/// Takes a packet in; nothing once the connection has broken.
async fn hear(
    follower: &mut Follower,
    heard: &mut Heard,
    text: &str,
    socket: &mut Socket,
) -> Option<()> {
    let (kind, rest) = text.split_at(text.find(['{', '[']).unwrap_or(text.len()));
    match kind {
        "0" => say(socket, "40".to_owned()).await?,
        "2" => say(socket, "3".to_owned()).await?,
        "40" => {
            heard.is_in = true;
            subscribe(follower, socket).await?;
        }
        "42" => heard.event(follower, rest),
        // The session, or the connection, is over.
        "41" | "1" => return None,
        answer => {
            let id = answer.strip_prefix("43").and_then(|id| id.parse().ok());
            let id = id.unwrap_or_else(|| panic!("{text:?}"));
            let answer: Value = serde_json::from_str(rest).unwrap();
            if heard.answer(follower, id, &answer[0]) {
                say(socket, format!("42{PING}[\"ping\"]")).await?;
            }
        }
    }
    if heard.is_whole {
        heard.count(follower);
    }
    Some(())
}

async fn subscribe(follower: &Follower, socket: &mut Socket) -> Option<()> {
    let known = &follower.known;
    for (at, wish) in follower.wishes.wishes.iter().enumerate() {
        let mut wanted = json!({"room": wish.room});
        if let Some(types) = wish.globs() {
            wanted["types"] = json!(types);
        }
        if let Some(position) = known.positions.get(at) {
            wanted["after"] = json!({"epoch": known.epoch, "offset": position});
        }
        say(socket, format!("42{at}{}", json!(["subscribe", wanted]))).await?;
    }
    let wanted = json!(["subscribe", {"room": follower.wishes.forbidden}]);
    say(socket, format!("42{FORBIDDEN}{wanted}")).await
}

impl Heard {
    /// Whether all subscriptions have been answered now.
    fn answer(&mut self, follower: &mut Follower, id: usize, answer: &Value) -> bool {
        match id {
            PING => {
                self.is_whole = true;
                return false;
            }
            FORBIDDEN => {
                assert_eq!(answer["code"], "DENIED", "{answer}");
                self.is_refused = true;
            }
            at => {
                assert_eq!(answer["status"], "success", "{answer}");
                let known = &mut follower.known;
                assert_eq!(answer["recovered"], known.has_begun(), "{answer}");
                if known.has_begun() {
                    assert_eq!(answer["epoch"], known.epoch.as_str());
                    known.recovered += 1;
                } else {
                    known.epoch = answer["epoch"].as_str().unwrap().to_owned();
                }
                self.answers[at] = answer["offset"].as_u64();
            }
        }
        self.is_refused && self.answers.iter().all(Option::is_some)
    }

    fn event(&mut self, follower: &Follower, text: &str) {
        assert!(self.is_in, "{} is told before it is in: {text}", follower.wishes.user);
        let event: Value = serde_json::from_str(text).unwrap();
        let name = event[0].as_str().unwrap();
        if name == "connection.error" {
            let code = &event[1]["data"]["code"];
            assert_eq!(code, "SERVER_STOPPING", "{text}");
        } else if !name.starts_with("connection") && name != "subscribed" {
            assert_eq!(event[1]["type"], name, "{text}");
            let id = event[1]["id"].as_str().unwrap().to_owned();
            self.events.push((event[1]["offset"].as_u64().unwrap(), id));
        }
    }

    /// All of it counts now.
    fn count(&mut self, follower: &mut Follower) {
        self.events.sort_unstable();
        let answered = self.answers.iter().flatten().min().copied();
        let newest = self.events.last().map(|(offset, _)| *offset);
        let known = &mut follower.known;
        let before = known.positions.first().copied();
        let reached = answered.max(newest).max(before).unwrap();
        if !std::mem::replace(&mut self.has_counted, true) {
            known.missed += self.events.len() as u64;
        }
        known.positions = vec![reached; follower.wishes.wishes.len()];
        follower.take(self.events.drain(..));
    }
}
