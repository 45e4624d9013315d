//! Socket.IO 5, as the clients of SWE-Agent's event rooms speak it, in the
//! namespaces `/` and `/ws`. `docs/socketio.md` has an example of every message.
//!
//! Engine.IO carries the packets ([`crate::server`]); a session stands for one
//! namespace of one connection, since each has its own token and rooms.

mod command;
mod events;
pub mod packet;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::access::{Access, Identity};
use crate::channel::{Lane, Position, SESSION_SUBSCRIPTIONS_MAX, Which};
use crate::clock::{Clock, rfc3339};
use crate::events::PublishError;
use crate::gate::CloseReason;
use crate::model::{Draft, Receipt, Room};
use crate::session::{Act, Client, Dialect, Goodbye, HubFacts, Received};

use super::native::present;
use command::{After, Called, Command, Publish, Refusal, Types, Wish};
use events::RoomEvents;
use packet::{Kind, Packet, SEPARATOR, head, head_with};

/// Its name in lists and in the configuration.
pub const NAME: &str = "socketio";
/// Who says what the hub itself says.
const SOURCE: &str = "telltale";

/// After how long a log that had no room may have some.
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// Why a session ends that has broken the protocol, or left: nothing of it is
/// told over Socket.IO.
const OVER: CloseReason = CloseReason { code: 1002, words: "protocol error" };

/// The namespaces that are served. Both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `/`
    Main,
    /// `/ws`
    Ws,
}

impl Namespace {
    /// The namespace of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "/" => Some(Self::Main),
            "/ws" => Some(Self::Ws),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "/",
            Self::Ws => "/ws",
        }
    }
}

/// Who a client is that wants to enter a namespace: by the token of its CONNECT
/// packet, else by that of the request that has opened the connection. `None`:
/// it may not.
#[must_use]
pub fn identify(
    access: &Access,
    connect: &Packet<'_>,
    of_request: Option<&str>,
) -> Option<Arc<Identity>> {
    /// What else the client says there is its own affair.
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow)]
        token: Option<Cow<'a, str>>,
    }
    let auth = serde_json::from_str::<Auth<'_>>(connect.data).ok();
    let shown = auth.and_then(|auth| auth.token);
    let token = shown.as_deref().filter(|token| !token.is_empty()).or(of_request);
    access.admit(token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token)), NAME)
}

/// The packet that refuses a namespace. Clients look for the code where the
/// system had it that they were written for.
#[must_use]
pub fn refuse(namespace: &str, code: &str) -> String {
    let body = json!({"message": code, "data": {"content": {"code": code}}});
    format!("{}{body}", head(Kind::ConnectError, namespace, None))
}

/// The packet that refuses a namespace that there is none of.
#[must_use]
pub fn refuse_unknown(namespace: &str) -> String {
    let body = json!({"message": "Invalid namespace"});
    format!("{}{body}", head(Kind::ConnectError, namespace, None))
}

/// One client in one namespace.
pub struct SocketIo {
    namespace: Namespace,
    clock: Clock,
    hub: Arc<HubFacts>,
    client: Arc<Client>,
    identity: Arc<Identity>,
    /// The rooms that it is in, each with the key of its subscription.
    rooms: BTreeMap<Room, String>,
    /// The client is not to come back by itself.
    is_final: Arc<AtomicBool>,
}

impl SocketIo {
    /// A client that may enter a namespace. `is_final` is set before it is
    /// closed for good.
    #[must_use]
    pub fn new(
        namespace: Namespace,
        clock: Clock,
        hub: Arc<HubFacts>,
        client: Arc<Client>,
        identity: Arc<Identity>,
        is_final: Arc<AtomicBool>,
    ) -> Self {
        Self { namespace, clock, hub, client, identity, rooms: BTreeMap::new(), is_final }
    }

    /// An event that the hub itself sends this client.
    fn event(&self, kind: &str, data: &Value) -> String {
        event(self.namespace, kind, self.clock.now_ns(), data)
    }

    /// The answer to a command that asked for one.
    fn answer(&self, id: u64, body: &Value) -> String {
        answer(self.namespace, id, body)
    }

    fn refuse(&self, id: Option<u64>, refusal: &Refusal) -> String {
        refusal.tell(self.namespace, id, self.clock.now_ns())
    }

    /// Enters a room. Without `reply` nothing is said where it works.
    fn enter(&mut self, wish: Wish, reply: Option<String>, refusal: String) -> Vec<Act> {
        let Wish { room, types, after } = wish;
        let encoder = RoomEvents::new(self.namespace, room.clone(), types);
        let key = encoder.key();
        let resume = after.map(|after| match after {
            After::Offset(offset) => Position { epoch: self.hub.epoch.clone(), offset },
            After::Position { epoch, offset } => Position { epoch, offset },
        });
        let mut acts = vec![Act::Subscribe {
            only: false,
            key: key.clone(),
            lane: Lane::Log(Box::new(encoder)),
            resume,
            // The encoder writes the end, since what was missed comes after it.
            reply: reply.map(|head| (head, String::new())),
            refusal,
        }];
        // After the new one, so that nothing falls between them.
        if let Some(before) = self.rooms.insert(room, key.clone())
            && before != key
        {
            let (reply, refusal) = (String::new(), String::new());
            acts.push(Act::Unsubscribe { which: Which::Key(before), reply, refusal });
        }
        acts
    }

    fn obey(&mut self, id: Option<u64>, command: Command<'_>) -> Result<Vec<Act>, Refusal> {
        match command {
            Command::Subscribe(wish) => self.subscribe(id, wish),
            Command::Unsubscribe(room) => self.unsubscribe(id, &room),
            Command::Presence(room) => self.presence(id, &room).map(|act| vec![act]),
            Command::Publish(publish) => self.publish(id, *publish).map(|act| vec![act]),
            Command::Ping(data) => Ok(vec![Act::Send(self.pong(0, id, data))]),
            Command::Rooms => {
                let rooms: Vec<&Room> = self.rooms.keys().collect();
                Ok(vec![Act::Send(match id {
                    Some(id) => self.answer(id, &json!({"status": "success", "rooms": rooms})),
                    None => self.event("debug:rooms", &json!({"rooms": rooms})),
                })])
            }
        }
    }

    fn subscribe(&mut self, id: Option<u64>, wish: Wish) -> Result<Vec<Act>, Refusal> {
        if !self.identity.may_enter(&wish.room) {
            return Err(Refusal::denied());
        }
        let is_new = !self.rooms.contains_key(&wish.room);
        if is_new && self.rooms.len() >= SESSION_SUBSCRIPTIONS_MAX {
            return Err(Refusal::too_many());
        }
        let reply = match id {
            Some(id) => Some(format!("{}[", head(Kind::Ack, self.namespace.name(), Some(id)))),
            // Who asks for what it has missed has to know whether that was all.
            None => wish.after.is_some().then(|| subscribed(self.namespace)),
        };
        let refusal = self.refuse(id, &Refusal::too_many());
        Ok(self.enter(wish, reply, refusal))
    }

    fn unsubscribe(&mut self, id: Option<u64>, room: &Room) -> Result<Vec<Act>, Refusal> {
        let not_there = Refusal::new("NOT_SUBSCRIBED", "you are not in this room");
        let Some(key) = self.rooms.remove(room) else { return Err(not_there) };
        let body = json!({"status": "success", "room": room});
        let reply = id.map_or_else(String::new, |id| self.answer(id, &body));
        let refusal = self.refuse(id, &not_there);
        Ok(vec![Act::Unsubscribe { which: Which::Key(key), reply, refusal }])
    }

    fn presence(&self, id: Option<u64>, room: &Room) -> Result<Act, Refusal> {
        if !self.identity.may_enter(room) {
            return Err(Refusal::denied());
        }
        let (namespace, room) = (self.namespace, room.clone());
        Ok(Act::Answer(Box::new(move |feed| {
            let users = present(feed, &room);
            match id {
                Some(id) => {
                    let body = json!({"status": "success", "room": room, "users": users});
                    answer(namespace, id, &body)
                }
                None => {
                    let data = json!({"room": room, "users": users});
                    event(namespace, "presence", feed.clock.now_ns(), &data)
                }
            }
        })))
    }

    fn publish(&self, id: Option<u64>, publish: Publish) -> Result<Act, Refusal> {
        let rooms = publish.rooms()?;
        let data = match publish.data {
            Some(data) => data,
            None => RawValue::from_string("{}".to_owned())
                .map_err(|_| Refusal::bad("data is no JSON"))?,
        };
        let draft = Draft {
            kind: publish.kind,
            source: publish.source.unwrap_or_else(|| self.identity.user.to_string()),
            data,
            rooms,
            user: publish.user,
            exclude: publish.exclude_self.then_some(self.client.id),
        };
        let (namespace, clock) = (self.namespace, self.clock.clone());
        let tell = move |receipts: Vec<Result<Receipt, PublishError>>| {
            let receipt = receipts.into_iter().next().unwrap_or(Err(PublishError::Stopping));
            match (receipt, id) {
                (Ok(receipt), Some(id)) => {
                    let Receipt { id: event, offset, rooms } = receipt;
                    let body = json!({
                        "status": "success", "id": event, "offset": offset, "rooms": rooms,
                    });
                    answer(namespace, id, &body)
                }
                (Ok(_), None) => String::new(),
                (Err(error), id) => Refusal::from(error).tell(namespace, id, clock.now_ns()),
            }
        };
        Ok(Act::Publish {
            by: self.identity.clone(),
            drafts: vec![(draft, publish.key)],
            answer: Box::new(tell),
        })
    }

    /// What the client has sent comes back, with its attachments if it has any.
    fn pong(&self, attachments: usize, id: Option<u64>, data: Option<&RawValue>) -> String {
        let now = rfc3339(self.clock.now_ns());
        let name = self.namespace.name();
        // As it stands: some that is well-formed can't be read and written again
        // (`1e999`, half a surrogate pair, what is nested too deep).
        let data = data.map_or("null", RawValue::get);
        match id {
            Some(id) => format!(
                "{}[{{\"status\":\"success\",\"type\":\"pong\",\"timestamp\":\"{now}\",\"data\":{data}}}]",
                head_with(Kind::Ack, attachments, name, Some(id)),
            ),
            None => format!(
                "{}[\"pong\",{{\"type\":\"pong\",\"timestamp\":\"{now}\",\"source\":\"{SOURCE}\",\
                 \"data\":{data}}}]",
                head_with(Kind::Event, attachments, name, None),
            ),
        }
    }

    /// An event with attachments. Only `ping` takes them: what is published is
    /// JSON.
    fn receive_with(&self, text: &str, attachments: &[&[u8]]) -> Vec<Act> {
        let Ok(packet) = packet::parse(text) else { return vec![Act::Close(OVER)] };
        if packet.kind == Kind::BinaryAck {
            return vec![Act::Ignore];
        }
        let Some(called) = Called::read(packet.data) else { return vec![Act::Close(OVER)] };
        match Command::read(&called) {
            Ok(Command::Ping(data)) => {
                let pong = self.pong(attachments.len(), packet.id, data);
                if attachments.is_empty() {
                    return vec![Act::Send(pong)];
                }
                vec![Act::SendBinary(packet::bundle(&pong, attachments.iter().copied()))]
            }
            _ => {
                let refusal = Refusal::bad("only ping takes binary attachments");
                vec![Act::Send(self.refuse(packet.id, &refusal))]
            }
        }
    }
}

impl Dialect for SocketIo {
    /// The greeting is said once the client is in its rooms: whoever has heard it
    /// misses nothing.
    fn open(&mut self) -> Vec<Act> {
        let name = self.namespace.name();
        let welcome =
            format!("{}{}", head(Kind::Connect, name, None), json!({"sid": self.client.id}));
        // A user whose name is no room's has none.
        let own = Room::of_user(&self.identity.user).ok();
        let rooms: Vec<Room> = own.into_iter().chain([Room::global()]).collect();
        let data = json!({
            "connection_id": self.client.id,
            "user_id": self.identity.user,
            "rooms": rooms,
        });
        let greetings = ["connection_established", "connection.established"]
            .map(|kind| self.event(kind, &data) + &SEPARATOR.to_string());
        let greetings = greetings.concat() + &subscribed(self.namespace);
        let refusal = self.refuse(None, &Refusal::too_many());

        let mut acts = vec![Act::Send(welcome)];
        let last = rooms.len() - 1;
        for (nth, room) in rooms.into_iter().enumerate() {
            let reply = (nth == last).then(|| greetings.clone());
            let wish = Wish { room, types: Types::all(), after: None };
            acts.extend(self.enter(wish, reply, refusal.clone()));
        }
        acts
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        let text = match message {
            Received::Text(text) => text,
            Received::Binary(whole) => match packet::unbundle(whole) {
                Some((text, attachments)) => return self.receive_with(text, &attachments),
                None => return vec![Act::Close(OVER)],
            },
        };
        let Ok(packet) = packet::parse(text) else { return vec![Act::Close(OVER)] };
        match packet.kind {
            Kind::Event => {
                let Some(called) = Called::read(packet.data) else { return vec![Act::Close(OVER)] };
                let acts = Command::read(&called).and_then(|command| self.obey(packet.id, command));
                acts.unwrap_or_else(|refusal| {
                    self.client.refused(&called.name, refusal.code);
                    vec![Act::Send(self.refuse(packet.id, &refusal))]
                })
            }
            // Nothing is ever asked of clients.
            Kind::Ack => vec![Act::Ignore],
            _ => vec![Act::Close(OVER)],
        }
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn waited(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn throttled(&mut self, message: Received<'_>, retry_after: Duration) -> Vec<Act> {
        let text = match message {
            Received::Text(text) => Some(text),
            Received::Binary(whole) => packet::unbundle(whole).map(|(text, _)| text),
        };
        let id = text.and_then(|text| packet::parse(text).ok()).and_then(|packet| packet.id);
        let refusal = Refusal {
            retry_after: Some(retry_after),
            ..Refusal::new("TOO_MANY_REQUESTS", "messages come too fast: try again in a moment")
        };
        vec![Act::Send(self.refuse(id, &refusal))]
    }

    /// Socket.IO says of no disconnection why it is: an event before it does.
    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason) {
        let (data, reason) = match why {
            Goodbye::Stopping(reconnect_after) => {
                let after = u64::try_from(reconnect_after.as_millis()).unwrap_or(u64::MAX);
                let data = json!({
                    "code": "SERVER_STOPPING",
                    "message": "the hub is stopping: come back in a moment",
                    "reconnect_after_ms": after,
                });
                (data, CloseReason { code: 3001, words: "the hub is stopping" })
            }
            Goodbye::Expired => {
                let data = json!({"code": "TOKEN_EXPIRED", "message": "the token has expired"});
                (data, CloseReason::EXPIRED)
            }
            Goodbye::Revoked => {
                let message = "this user's connections were ended";
                (json!({"code": "REVOKED", "message": message}), CloseReason::REVOKED)
            }
        };
        let is_final = !matches!(why, Goodbye::Stopping(_));
        self.is_final.store(is_final, Ordering::Release);
        (Some(error_event(self.namespace, self.clock.now_ns(), &data)), reason)
    }
}

impl Refusal {
    fn denied() -> Self {
        Self::new("DENIED", "you may not enter this room")
    }

    fn too_many() -> Self {
        Self::new(
            "TOO_MANY",
            format!("too many rooms: a client may be in {SESSION_SUBSCRIPTIONS_MAX}"),
        )
    }

    /// The answer to whoever asked for one, and else an event.
    fn tell(&self, namespace: Namespace, id: Option<u64>, now_ns: u64) -> String {
        let mut body = json!({"code": self.code, "message": self.message});
        if let Some(retry_after) = self.retry_after {
            // Rounded up: what is tried again too soon is refused again.
            let millis = retry_after.as_micros().div_ceil(1000);
            body["retry_after_ms"] = json!(u64::try_from(millis).unwrap_or(u64::MAX));
        }
        match id {
            Some(id) => {
                body["status"] = json!("error");
                answer(namespace, id, &body)
            }
            None => error_event(namespace, now_ns, &body),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let code = match &error {
            PublishError::Invalid(_) => "BAD_REQUEST",
            PublishError::TooLarge(_) => "TOO_LARGE",
            PublishError::Denied => "DENIED",
            PublishError::KeyReused => "KEY_REUSED",
            PublishError::Busy => "BUSY",
            PublishError::Throttled(_) => "TOO_MANY_REQUESTS",
            PublishError::Stopping => "SERVER_STOPPING",
        };
        let retry_after = match &error {
            PublishError::Busy => Some(BUSY_RETRY),
            PublishError::Throttled(retry_after) => Some(*retry_after),
            _ => None,
        };
        Self { retry_after, ..Self::new(code, error.to_string()) }
    }
}

/// An event of the hub's own.
fn event(namespace: Namespace, kind: &str, now_ns: u64, data: &Value) -> String {
    let body = json!({"type": kind, "timestamp": rfc3339(now_ns), "source": SOURCE, "data": data});
    format!("{}{}", head(Kind::Event, namespace.name(), None), json!([kind, body]))
}

/// Tells that something has gone wrong.
fn error_event(namespace: Namespace, now_ns: u64, data: &Value) -> String {
    event(namespace, "connection.error", now_ns, data)
}

fn answer(namespace: Namespace, id: u64, body: &Value) -> String {
    format!("{}{}", head(Kind::Ack, namespace.name(), Some(id)), json!([body]))
}

/// What stands before what a client is told of a room that it has entered
/// without asking to be told.
fn subscribed(namespace: Namespace) -> String {
    format!("{}[\"subscribed\",", head(Kind::Event, namespace.name(), None))
}
