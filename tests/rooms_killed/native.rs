//! A client of the native dialect.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::world::{Event, Follower};

/// The id of the command that must be refused.
const FORBIDDEN: u64 = 1000;

/// What one connection has told. It counts for nothing until all subscriptions
/// have been answered: an event of several rooms may have come with the answer
/// of the one, and the answer of the other not at all.
struct Heard {
    subs: Vec<Option<u64>>,
    positions: Vec<u64>,
    events: Vec<Event>,
    missed: u64,
    is_refused: bool,
}

/// A connection of a user.
pub(super) async fn connect(
    address: std::net::SocketAddr,
    token: &str,
) -> Option<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let mut request = format!("ws://{address}/v1/stream").into_client_request().unwrap();
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    Some(connect_async(request).await.ok()?.0)
}

/// One connection, until it breaks.
pub(super) async fn talk(follower: &mut Follower) {
    let Some(mut socket) = connect(follower.address, &follower.wishes.token()).await else {
        return;
    };
    follower.known.connections += 1;
    let wishes = &follower.wishes.wishes;
    for (at, wish) in wishes.iter().enumerate() {
        let channel = format!("room:{}", wish.room);
        let mut command = json!({"id": at, "op": "subscribe", "channel": channel});
        if let Some(types) = wish.globs() {
            command["types"] = json!(types);
        }
        if let Some(position) = follower.known.positions.get(at) {
            command["resume"] = json!({"epoch": follower.known.epoch, "offset": position});
        }
        if socket.send(Message::Text(command.to_string().into())).await.is_err() {
            return;
        }
    }
    let room = follower.wishes.forbidden;
    let forbidden = json!({"id": FORBIDDEN, "op": "subscribe", "room": room});
    if socket.send(Message::Text(forbidden.to_string().into())).await.is_err() {
        return;
    }
    let mut heard = Heard {
        subs: vec![None; wishes.len()],
        positions: vec![0; wishes.len()],
        events: Vec::new(),
        missed: 0,
        is_refused: false,
    };
    let mut counts = false;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        match message["id"].as_u64() {
            Some(FORBIDDEN) => {
                assert_eq!(message["error"]["code"], "denied", "{message}");
                heard.is_refused = true;
            }
            Some(at) => heard.reply(follower, usize::try_from(at).unwrap(), &message),
            None if message["push"] == "bye" => {}
            None => heard.push(&message),
        }
        let is_whole = heard.is_refused && heard.subs.iter().all(Option::is_some);
        if is_whole {
            if !std::mem::replace(&mut counts, true) {
                // Each answer is in order; together they are not.
                heard.events.sort_unstable();
                follower.known.missed += heard.missed;
            }
            follower.known.positions.clone_from(&heard.positions);
            follower.take(heard.events.drain(..));
        }
    }
}

impl Heard {
    fn reply(&mut self, follower: &mut Follower, at: usize, message: &Value) {
        let ok = &message["ok"];
        let offset = ok["offset"].as_u64().unwrap_or_else(|| panic!("{message}"));
        let known = &mut follower.known;
        if known.has_begun() {
            assert_eq!(ok["recovered"], true, "{message}");
            assert_eq!(ok["epoch"], known.epoch.as_str());
            known.recovered += 1;
            let entries = ok["entries"].as_array().unwrap();
            self.missed += entries.len() as u64;
            self.events.extend(entries.iter().map(event));
        } else {
            assert_eq!(ok["recovered"], false, "{message}");
            known.epoch = ok["epoch"].as_str().unwrap().to_owned();
        }
        self.subs[at] = Some(ok["sub"].as_u64().unwrap());
        self.positions[at] = self.positions[at].max(offset);
    }

    fn push(&mut self, message: &Value) {
        if message["push"] == "gap" {
            // What it skipped follows; it may not be lost.
            assert!(message.get("recovered").is_none(), "{message}");
            return;
        }
        let sub = message["sub"].as_u64();
        let at = self.subs.iter().position(|known| *known == sub && sub.is_some());
        let at = at.unwrap_or_else(|| panic!("for no subscription: {message}"));
        let position = self.positions[at];
        assert!(message["prev"].as_u64().unwrap() <= position, "after {position}: {message}");
        let event = event(message);
        // An event of several rooms comes by one of them.
        for (sub, position) in self.subs.iter().zip(&mut self.positions) {
            if sub.is_some() {
                *position = (*position).max(event.0);
            }
        }
        self.events.push(event);
    }
}

fn event(told: &Value) -> Event {
    let id = told["entry"]["id"].as_str().unwrap_or_else(|| panic!("{told}"));
    (told["offset"].as_u64().unwrap(), id.to_owned())
}
