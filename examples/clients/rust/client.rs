//! A client of the native protocol (docs/protocol.md): one file to be copied, on
//! tokio, tokio-tungstenite, serde_json, jiff and getrandom.
//!
//! A connection that is lost comes back by itself: its subscriptions are made
//! again, state channels start with all that is known, and log channels and rooms
//! go on after the last entry that was seen, so that each entry comes once. What
//! is published is sent again until it is safe, and counts once. It reads only
//! when it is asked for something, so that nothing piles up here: a hub tells who
//! is slow the newest values, and catches it up in the log.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// The first wait before a connection is tried again is at most this long; each
/// further one may be twice as long as the one before.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait. A connection that held for so long was a good one, after
/// which the waits start from the beginning.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take to stand, and a command to be accepted.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// Silence after which the hub is asked whether it is there, until it has said
/// what it wants.
const PING: Duration = Duration::from_secs(25);
/// The largest message: the snapshot of more series than a hub can have.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// When a command that was refused for now is tried again, unless the hub says.
const RETRY: Duration = Duration::from_secs(10);
/// A token is renewed after this part of what is left of it, so that there is
/// time to try again …
const REFRESH_AFTER: f64 = 0.75;
/// … but not more often, nor more seldom, than this.
const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_secs(86_400);
/// Events that are known to have come while another room had not come as far. As
/// many as the hub lets a client catch up with.
const SEEN_MAX: usize = 10_000;
/// What a command's id takes at most in its message.
const ID_BYTES: usize = 32;
/// The close code of a token that has expired.
const EXPIRED: u16 = 3505;

/// A hub, as seen through one connection at a time.
pub(crate) struct Client {
    url: String,
    /// What is wanted, and what is known of it; events name their places.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Chance, from 0 up to 1, for the waits.
    pub(crate) chance: fn() -> f64,
    /// Gives a token.
    token: Option<Box<dyn FnMut() -> String + Send>>,
    /// What was heard and not yet taken: what one message says, and what came
    /// while a call was answered.
    events: VecDeque<Event>,
    /// The last reply to a call.
    answered: Value,
    /// The id of the next command, whatever the connection.
    next_id: u64,
    /// The offsets of events beyond the position of one of the rooms: what came in
    /// the reply to one room, before the connection was lost, must not come again
    /// by another that had not been answered.
    seen: BTreeSet<u64>,
    connection: Option<Connection>,
    /// Waits since the last good connection.
    attempt: u32,
    /// When to connect.
    connect_at: Instant,
    /// When the hub, stopping, wants us back.
    come_back_at: Option<Instant>,
}

/// One subscription, and what it keeps current.
#[derive(Default)]
pub(crate) struct Subscription {
    /// `metrics`, `findings`, `hub`, `room:…` or `presence:…`.
    pub(crate) channel: String,
    /// `metrics`: the tick of what is kept, and its time.
    pub(crate) tick: (u64, String),
    /// `metrics`: the series by id.
    pub(crate) series: BTreeMap<u64, Series>,
    /// `findings`: those that are open, by id.
    pub(crate) open: BTreeMap<String, Value>,
    /// `presence`: the users in the room.
    pub(crate) users: BTreeSet<String>,
    /// Log channels: where it is.
    pub(crate) position: Option<Position>,
    /// The command, without id and position.
    command: Value,
    /// The hub's number of it, once it is confirmed on this connection.
    sub: Option<u64>,
}

/// Where a client is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

/// A series as the hub has told it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: Option<f64>,
    /// With a `max_rate_ms`: the least and the most since the last push.
    pub(crate) extremes: Option<(f64, f64)>,
    /// Why the value is old: a code.
    pub(crate) stale: Option<String>,
}

/// What there is to know. `at` is a subscription's place in
/// [`Client::subscriptions`].
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// The connection stands.
    Connected,
    /// The connection is gone, and comes back by itself.
    Lost { reason: String, again_in: Duration },
    /// A push has changed what is kept of a state channel.
    Changed { at: usize },
    /// An entry of a log channel or a room; each comes once, in order. An event
    /// that goes to several of the client's rooms comes to one of them.
    Entry { at: usize, offset: u64, entry: Value },
    /// These entries did not come when they were due. They follow, unless a
    /// [`Event::Fresh`] says where it goes on.
    Gap { at: usize, from: u64, to: u64 },
    /// A log channel starts here. Unless it is the first time, entries were lost
    /// before.
    Fresh { at: usize, first: bool },
}

/// The hub does not want this client back: why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) String);

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The hub refuses it: a word that programs can compare, and others.
    Refused { code: String, reason: String },
    /// The hub does not want this client back.
    Ended(Ended),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code, reason } => write!(f, "{code}: {reason}"),
            Self::Ended(ended) => ended.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What is to be sent.
    outgoing: VecDeque<Value>,
    /// The id of `connect`, with which it began.
    first_id: u64,
    /// Subscriptions that were asked for, by the command's id.
    asked: HashMap<u64, usize>,
    /// The hub's terms, once it has let us in.
    terms: Option<Value>,
    /// When the token is to be renewed.
    refresh_at: Option<Instant>,
    /// The id of the command that renews it, and when it expires.
    refresh: Option<(u64, String)>,
    /// There may be another token than the last.
    renews: bool,
    opened: Instant,
    heard: Instant,
    pinged: bool,
    ping: Duration,
}

/// Why a connection is gone.
struct Lost {
    reason: String,
    /// It is not to come back.
    is_final: bool,
    /// To be waited beside what chance says.
    wait: Duration,
}

impl Client {
    /// A client of the hub at `address`, or of the stream at a whole `ws://` URL.
    pub(crate) fn new(address: &str) -> Self {
        let url = if address.contains("://") {
            address.to_owned()
        } else {
            format!("ws://{address}/v1/stream")
        };
        Self {
            url,
            subscriptions: Vec::new(),
            chance: || getrandom::u32().map_or(0.5, |number| f64::from(number) / 2_f64.powi(32)),
            token: None,
            events: VecDeque::new(),
            answered: Value::Null,
            next_id: 0,
            seen: BTreeSet::new(),
            connection: None,
            attempt: 0,
            connect_at: Instant::now(),
            come_back_at: None,
        }
    }

    /// With tokens: one is asked for on each connection, and before the last one
    /// expires.
    pub(crate) fn token(mut self, token: impl FnMut() -> String + Send + 'static) -> Self {
        self.token = Some(Box::new(token));
        self
    }

    /// With a subscription, such as `{"channel": "metrics", "filter": {…}}` or
    /// `{"channel": "room:…", "types": […]}`. No two may be equal, nor of the same
    /// room.
    pub(crate) fn subscribe(mut self, mut wanted: Value) -> Self {
        wanted["op"] = json!("subscribe");
        let channel = wanted["channel"].as_str().unwrap_or_default().to_owned();
        let subscription = Subscription { channel, command: wanted, ..Subscription::default() };
        self.subscriptions.push(subscription);
        self
    }

    /// The next event. Connects where that is due, however long it takes. May be
    /// dropped at any time, and asked again.
    ///
    /// # Errors
    ///
    /// The hub does not want this client back, or refuses a subscription.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.step(None).await?;
        }
    }

    /// Publishes an event; docs/events.md has the rules. It is sent again, with the
    /// same key, until the hub has said that it is safe or is refused: it counts
    /// once, whatever becomes of connections and of the hub meanwhile. The receipt:
    /// `id`, `offset` and `rooms`.
    ///
    /// # Errors
    ///
    /// It is refused, or the hub does not want this client back.
    pub(crate) async fn publish(&mut self, mut event: Value) -> Result<Value, CallError> {
        event["op"] = json!("publish");
        if event["key"].is_null() {
            event["key"] = json!(new_key()?);
        }
        self.call(event).await
    }

    /// Gives a command and waits for its reply: `{"op": "history", …}`, `{"op":
    /// "presence", "room": …}`. It is sent again on another connection. What is
    /// heard meanwhile is kept for [`Client::next`].
    ///
    /// # Errors
    ///
    /// It is refused, or the hub does not want this client back.
    pub(crate) async fn call(&mut self, command: Value) -> Result<Value, CallError> {
        let bytes = command.to_string().len() + ID_BYTES;
        let (mut asked, mut due) = (None, Instant::now());
        loop {
            if let Some(Connection { terms: Some(terms), first_id, .. }) = &self.connection
                && asked.is_none_or(|id| id < *first_id)
                && due <= Instant::now()
            {
                if terms["message_bytes_max"].as_u64().is_some_and(|most| bytes as u64 > most) {
                    // The hub would close the connection.
                    let reason = format!("the command has {bytes} bytes");
                    return Err(CallError::Refused { code: "too_large".to_owned(), reason });
                }
                asked = Some(self.command(command.clone()));
            }
            self.step(Some(due)).await.map_err(CallError::Ended)?;
            if asked.is_none_or(|id| self.answered["id"] != id) {
                continue;
            }
            let answer = self.answered.take();
            let Some(error) = answer.get("error") else { return Ok(answer["ok"].clone()) };
            if error["temporary"] != true {
                let [code, reason] = ["code", "reason"]
                    .map(|key| error[key].as_str().unwrap_or_default().to_owned());
                return Err(CallError::Refused { code, reason });
            }
            let wait = error["retry_after_ms"].as_u64().map_or(RETRY, Duration::from_millis);
            (asked, due) = (None, Instant::now() + wait);
        }
    }

    /// Takes in what comes next, or connects; returns also when `due` has come.
    async fn step(&mut self, due: Option<Instant>) -> Result<(), Ended> {
        let step = match &mut self.connection {
            None => self.connect().await,
            Some(connection) => match connection.read(due).await {
                Ok(Some(message)) => self.hear(&message),
                Ok(None) => Ok(()),
                Err(lost) => Err(lost),
            },
        };
        match step {
            Ok(()) => {
                self.look();
                Ok(())
            }
            Err(lost) => self.lose(lost),
        }
    }

    async fn connect(&mut self) -> Result<(), Lost> {
        sleep_until(self.connect_at).await;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let opening = connect_async_with_config(&self.url, Some(config), false);
        let (socket, _) = timeout(OPEN_MAX, opening).await.map_err(|_| Lost::silent())??;
        let now = Instant::now();
        self.connection = Some(Connection {
            socket,
            outgoing: VecDeque::new(),
            first_id: self.next_id,
            asked: HashMap::new(),
            terms: None,
            refresh_at: None,
            refresh: None,
            renews: self.token.is_some(),
            opened: now,
            heard: now,
            pinged: false,
            ping: PING,
        });
        let mut connect = json!({"op": "connect"});
        if let Some(token) = &mut self.token {
            connect["token"] = json!(token());
        }
        self.command(connect);
        (0..self.subscriptions.len()).for_each(|at| self.ask(at));
        Ok(())
    }

    /// Has a command sent on this connection; its id.
    fn command(&mut self, mut command: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        if let Some(connection) = &mut self.connection {
            connection.outgoing.push_back(command);
        }
        id
    }

    /// Asks for a subscription, from where it was if it has been.
    fn ask(&mut self, at: usize) {
        let subscription = &self.subscriptions[at];
        let mut command = subscription.command.clone();
        if let Some(Position { epoch, offset }) = &subscription.position {
            command["resume"] = json!({"epoch": epoch, "offset": offset});
        }
        let id = self.command(command);
        if let Some(connection) = &mut self.connection {
            connection.asked.insert(id, at);
        }
    }

    /// Does what is due without being asked for.
    fn look(&mut self) {
        let (Some(connection), Some(token)) = (&mut self.connection, &mut self.token) else {
            return;
        };
        if let Some((id, _)) = &mut connection.refresh
            && connection.refresh_at.take_if(|at| *at <= Instant::now()).is_some()
        {
            let token = token();
            *id = self.next_id;
            self.command(json!({"op": "refresh", "token": token}));
        }
    }

    /// Forgets the connection, and says when there will be another.
    fn lose(&mut self, lost: Lost) -> Result<(), Ended> {
        let held = self.connection.take().map(|connection| connection.opened.elapsed());
        self.subscriptions.iter_mut().for_each(|subscription| subscription.sub = None);
        if lost.is_final {
            return Err(Ended(lost.reason));
        }
        if held >= Some(BACKOFF_MAX) || self.come_back_at.is_some() {
            self.attempt = 0;
        }
        let again_in = match self.come_back_at.take() {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None => {
                // Chance spreads the clients of a hub that has gone.
                let most = BACKOFF_MAX.min(BACKOFF * 2_u32.pow(self.attempt));
                self.attempt = (self.attempt + 1).min(16);
                most.mul_f64((self.chance)())
            }
        };
        let again_in = again_in + lost.wait;
        self.connect_at = Instant::now() + again_in;
        self.events.push_back(Event::Lost { reason: lost.reason, again_in });
        Ok(())
    }

    fn hear(&mut self, message: &Value) -> Result<(), Lost> {
        match message["push"].as_str() {
            None => self.reply(message),
            Some("bye") => {
                let wait =
                    Duration::from_millis(message["reconnect_after_ms"].as_u64().unwrap_or(0));
                self.come_back_at = Some(Instant::now() + wait);
                Ok(())
            }
            Some(push) => match self.place(message) {
                // One that has just been given up.
                None => Ok(()),
                Some(at) if push == "gap" => {
                    self.gap(at, message);
                    Ok(())
                }
                Some(at) if message["offset"].is_u64() => {
                    self.entry(at, message);
                    Ok(())
                }
                Some(at) => {
                    let subscription = &mut self.subscriptions[at];
                    match push.starts_with("presence:") {
                        true => subscription.change_users(message),
                        false => subscription.change(message),
                    }
                    self.events.push_back(Event::Changed { at });
                    Ok(())
                }
            },
        }
    }

    fn place(&self, push: &Value) -> Option<usize> {
        let sub = push["sub"].as_u64()?;
        self.subscriptions.iter().position(|subscription| subscription.sub == Some(sub))
    }

    fn reply(&mut self, message: &Value) -> Result<(), Lost> {
        let (Some(connection), Some(id)) = (&mut self.connection, message["id"].as_u64()) else {
            return Ok(());
        };
        let asked = connection.asked.remove(&id);
        if id != connection.first_id && asked.is_none() {
            if connection.refresh.as_ref().is_some_and(|(refresh, _)| *refresh == id) {
                return connection.refreshed(message);
            }
            self.answered = message.clone();
            return Ok(());
        }
        if let Some(error) = message.get("error") {
            // What is refused for now is asked for on another connection.
            return Err(Lost {
                reason: error.to_string(),
                is_final: error["temporary"] != true,
                wait: Duration::from_millis(error["retry_after_ms"].as_u64().unwrap_or(0)),
            });
        }
        let ok = &message["ok"];
        match asked {
            Some(at) => self.begin(at, ok),
            None => {
                connection.ping = ok["ping_ms"].as_u64().map_or(PING, Duration::from_millis);
                connection.terms = Some(ok.clone());
                connection.keep_token(ok["expires"].as_str());
                self.events.push_back(Event::Connected);
            }
        }
        Ok(())
    }

    /// Takes over what the hub replied to a subscription.
    fn begin(&mut self, at: usize, ok: &Value) {
        let subscription = &mut self.subscriptions[at];
        subscription.sub = ok["sub"].as_u64();
        if ok["recovered"] == true {
            list(ok, "entries").for_each(|told| self.enter(at, told));
            self.subscriptions[at].position = position(ok);
        } else if ok["recovered"] == false {
            self.fresh(at, ok);
        } else if subscription.channel.starts_with("presence:") {
            subscription.change_users(ok);
        } else {
            subscription.change(&ok["snapshot"]);
        }
        self.forget_seen();
    }

    /// A log channel starts here, with what stands.
    fn fresh(&mut self, at: usize, told: &Value) {
        let subscription = &mut self.subscriptions[at];
        let before = subscription.position.take();
        let first = before.is_none();
        subscription.position = position(told);
        if before.is_some_and(|before| told["epoch"] != before.epoch.as_str()) {
            // Another log numbers anew.
            self.seen.clear();
        }
        subscription.open.clear();
        list(told, "open").for_each(|finding| subscription.note(finding));
        self.events.push_back(Event::Fresh { at, first });
    }

    /// The hub says that we could not keep up. What is missing follows, or is lost.
    fn gap(&mut self, at: usize, push: &Value) {
        let [from, to] = ["from", "to"].map(|key| push[key].as_u64().unwrap_or_default());
        self.events.push_back(Event::Gap { at, from, to });
        if push["recovered"] == false {
            self.fresh(at, push);
        }
    }

    fn entry(&mut self, at: usize, push: &Value) {
        let subscription = &mut self.subscriptions[at];
        let (is_room, known) = (subscription.is_room(), subscription.offset());
        let [offset, prev] = ["offset", "prev"].map(|key| push[key].as_u64().unwrap_or_default());
        if prev > known {
            self.events.push_back(Event::Gap { at, from: known + 1, to: prev });
            self.ask_again(at);
            return;
        }
        if push["excluded"] != true {
            self.enter(at, push);
        }
        // One sequence numbers all log channels, and it comes in order: who has
        // seen this entry has seen, on each of them, all that is before it. The
        // entry itself may still be to come on another; but an event comes by one
        // of the client's rooms only.
        for subscription in self.subscriptions.iter_mut().filter(|s| s.sub.is_some()) {
            let has_come = is_room && subscription.is_room();
            subscription.has_seen(if has_come { offset } else { offset.saturating_sub(1) });
        }
        self.forget_seen();
    }

    /// Takes an entry, unless it was seen before.
    fn enter(&mut self, at: usize, told: &Value) {
        let subscription = &mut self.subscriptions[at];
        let Some(offset) = told["offset"].as_u64().filter(|n| *n > subscription.offset()) else {
            return;
        };
        subscription.has_seen(offset);
        if subscription.is_room() {
            if !self.seen.insert(offset) {
                return;
            }
            if self.seen.len() > SEEN_MAX {
                self.seen.pop_first();
            }
        } else {
            subscription.note(&told["entry"]);
        }
        self.events.push_back(Event::Entry { at, offset, entry: told["entry"].clone() });
    }

    fn forget_seen(&mut self) {
        let rooms = self.subscriptions.iter().filter(|s| s.is_room() && s.position.is_some());
        let through = rooms.map(Subscription::offset).min().unwrap_or(u64::MAX);
        self.seen.retain(|offset| *offset > through);
    }

    /// Gives a subscription up at the hub, and asks for what was missed. Rooms only
    /// together: the hub leaves out of one what it takes to have come by another.
    fn ask_again(&mut self, at: usize) {
        let is_room = self.subscriptions[at].is_room();
        let meant = |(other, subscription): &(usize, &mut Subscription)| {
            subscription.sub.is_some() && (*other == at || is_room && subscription.is_room())
        };
        let meant = self.subscriptions.iter_mut().enumerate().filter(meant);
        let meant: Vec<_> = meant.map(|(at, given_up)| (at, given_up.sub.take())).collect();
        for (_, sub) in &meant {
            self.command(json!({"op": "unsubscribe", "sub": sub}));
        }
        meant.iter().for_each(|(at, _)| self.ask(*at));
    }
}

impl Connection {
    /// Sends what is to be sent, and waits for the next message; none if there was
    /// nothing to be understood, or `due` or something else has come first.
    async fn read(&mut self, due: Option<Instant>) -> Result<Option<Value>, Lost> {
        let sending = async {
            while let Some(command) = self.outgoing.front() {
                self.socket.feed(Message::text(command.to_string())).await?;
                self.outgoing.pop_front();
            }
            self.socket.flush().await
        };
        timeout(OPEN_MAX, sending).await.map_err(|_| Lost::silent())??;
        let silent_at = self.heard + self.ping;
        let now = Instant::now();
        let due = due.filter(|due| *due > now).into_iter().chain(self.refresh_at);
        let until = due.min().map_or(silent_at, |due| due.min(silent_at));
        let Ok(heard) = timeout_at(until, self.socket.next()).await else {
            if until < silent_at {
                return Ok(None);
            }
            if self.pinged {
                return Err(Lost::silent());
            }
            (self.pinged, self.heard) = (true, Instant::now());
            self.outgoing.push_back(json!({"id": "ping", "op": "ping"}));
            return Ok(None);
        };
        (self.pinged, self.heard) = (false, Instant::now());
        match heard {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(message) => Ok(Some(message)),
                Err(_) => Err(Lost::because("the hub sent what is not JSON")),
            },
            Some(Ok(Message::Close(Some(frame)))) => {
                let code = u16::from(frame.code);
                Err(Lost {
                    is_final: is_final(code) && !(code == EXPIRED && self.renews),
                    ..Lost::because(&format!("{code} {}", frame.reason))
                })
            }
            Some(Ok(Message::Close(None))) | None => Err(Lost::because("the hub has closed")),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Has the token renewed before it expires, if that can be done.
    fn keep_token(&mut self, expires: Option<&str>) {
        (self.refresh, self.refresh_at) = (None, None);
        let Some(expires) = expires.filter(|_| self.renews) else { return };
        let Ok(at) = expires.parse::<Timestamp>() else { return };
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        let wait = left.mul_f64(REFRESH_AFTER).clamp(REFRESH_MIN, REFRESH_MAX);
        // No command has this id before it is sent.
        self.refresh = Some((u64::MAX, expires.to_owned()));
        self.refresh_at = Some(Instant::now() + wait);
    }

    /// Takes over what the hub replied to another token.
    fn refreshed(&mut self, message: &Value) -> Result<(), Lost> {
        let Some(error) = message.get("error") else {
            let ok = &message["ok"];
            self.keep_token(ok["expires"].as_str());
            return match list(ok, "ended").next() {
                None => Ok(()),
                Some(_) => Err(Lost {
                    is_final: true,
                    ..Lost::because("the new token does not allow all rooms")
                }),
            };
        };
        if error["temporary"] != true {
            // It is another user's, or allows to read something else: that takes
            // another connection.
            return Err(Lost::because(&error.to_string()));
        }
        let expires = self.refresh.take().map(|(_, expires)| expires);
        self.keep_token(expires.as_deref());
        Ok(())
    }
}

impl Subscription {
    fn is_room(&self) -> bool {
        self.channel.starts_with("room:")
    }

    fn offset(&self) -> u64 {
        self.position.as_ref().map_or(0, |position| position.offset)
    }

    fn has_seen(&mut self, offset: u64) {
        if let Some(position) = &mut self.position {
            position.offset = position.offset.max(offset);
        }
    }

    /// Keeps which findings are open.
    fn note(&mut self, entry: &Value) {
        let Some(id) = entry["id"].as_str() else { return };
        if entry["state"] == "open" {
            self.open.insert(id.to_owned(), entry.clone());
        } else {
            self.open.remove(id);
        }
    }

    /// Takes over what a reply or a push of `presence` says.
    fn change_users(&mut self, told: &Value) {
        let names = |key| list(told, key).filter_map(Value::as_str).map(str::to_owned);
        if told["users"].is_array() {
            let users = list(told, "users").filter_map(|present| present["user"].as_str());
            self.users = users.map(str::to_owned).collect();
        }
        self.users.extend(names("join"));
        names("leave").for_each(|user| self.users.retain(|one| *one != user));
    }

    /// Takes over what a snapshot or a push of `metrics` says.
    fn change(&mut self, told: &Value) {
        let time = told["time"].as_str().unwrap_or_default().to_owned();
        self.tick = (told["tick"].as_u64().unwrap_or_default(), time);
        if told["series"].is_array() {
            self.series.clear();
        }
        list(told, "gone").filter_map(Value::as_u64).for_each(|id| drop(self.series.remove(&id)));
        for series in list(told, "series").chain(list(told, "declare")) {
            self.series.extend(series["id"].as_u64().map(|id| (id, Series::told(series))));
        }
        for row in list(told, "values") {
            if let Some(series) = row[0].as_u64().and_then(|id| self.series.get_mut(&id)) {
                // A value also ends what was stale.
                (series.value, series.stale) = (row[1].as_f64(), None);
                series.extremes = row[2].as_f64().zip(row[3].as_f64());
            }
        }
        for why in list(told, "stale") {
            if let Some(series) = why["id"].as_u64().and_then(|id| self.series.get_mut(&id)) {
                series.stale = why["code"].as_str().map(str::to_owned);
            }
        }
    }
}

impl Series {
    fn told(series: &Value) -> Self {
        Self {
            name: series["name"].as_str().unwrap_or_default().to_owned(),
            labels: labels(series),
            value: series["value"].as_f64(),
            extremes: series["min"].as_f64().zip(series["max"].as_f64()),
            stale: series["stale"]["code"].as_str().map(str::to_owned),
        }
    }
}

impl Lost {
    fn because(reason: &str) -> Self {
        Self { reason: reason.to_owned(), is_final: false, wait: Duration::ZERO }
    }

    fn silent() -> Self {
        Self::because("the hub has gone silent")
    }
}

impl From<SocketError> for Lost {
    fn from(error: SocketError) -> Self {
        let after = match &error {
            SocketError::Http(refusal) => refusal.headers().get("retry-after"),
            _ => None,
        };
        let seconds = after.and_then(|after| after.to_str().ok()?.parse().ok()).unwrap_or(0);
        Self { wait: Duration::from_secs(seconds), ..Self::because(&error.to_string()) }
    }
}

/// 128 bits that nobody else has.
fn new_key() -> Result<String, CallError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| CallError::Refused {
        code: "no_key".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Whether a connection that was closed with this code is over for good: the hub
/// says so, or this client broke the WebSocket protocol.
fn is_final(code: u16) -> bool {
    matches!(code, 3500..=3999 | 1002 | 1003 | 1007 | 1009)
}

/// The labels of a series or of a finding.
pub(crate) fn labels(told: &Value) -> BTreeMap<String, String> {
    let labels = told["labels"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    labels.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn position(told: &Value) -> Option<Position> {
    let epoch = told["epoch"].as_str()?.to_owned();
    Some(Position { epoch, offset: told["offset"].as_u64()? })
}

fn list<'a>(message: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    message[key].as_array().into_iter().flatten()
}
