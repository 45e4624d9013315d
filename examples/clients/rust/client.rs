//! A client of the native protocol (docs/protocol.md): one file to be copied, on
//! tokio, tokio-tungstenite and serde_json.
//!
//! A connection that is lost comes back by itself: its subscriptions are made
//! again, state channels start with all that is known, and log channels go on
//! after the last entry that was seen, so that each entry comes once. It reads
//! only when it is asked for the next event, so that nothing piles up here: a
//! hub tells who is slow the newest values, and catches it up in the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
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
/// The id of the command that begins each connection; others follow.
const CONNECT_ID: u64 = 0;

/// A hub, as seen through one connection at a time.
pub(crate) struct Client {
    url: String,
    /// What is wanted, and what is known of it; events name their places.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Chance, from 0 up to 1, for the waits.
    pub(crate) chance: fn() -> f64,
    /// What was heard and not yet taken: what one message says.
    events: VecDeque<Event>,
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
    /// `metrics`, `findings` or `hub`.
    pub(crate) channel: String,
    /// `metrics`: the tick of what is kept, and its time.
    pub(crate) tick: (u64, String),
    /// `metrics`: the series by id.
    pub(crate) series: BTreeMap<u64, Series>,
    /// `findings`: those that are open, by id.
    pub(crate) open: BTreeMap<String, Value>,
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
    /// An entry of a log channel; each comes once, in order.
    Entry { at: usize, offset: u64, entry: Value },
    /// These entries did not come when they were due. They follow, unless a
    /// [`Event::Fresh`] says where it goes on.
    Gap { at: usize, from: u64, to: u64 },
    /// A log channel starts here. Unless it is the first time, entries were lost
    /// before.
    Fresh { at: usize, first: bool },
}

/// The hub does not want this client back: why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) String);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ended {}

struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Subscriptions that were asked for, by the command's id.
    asked: HashMap<u64, usize>,
    next_id: u64,
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
            events: VecDeque::new(),
            connection: None,
            attempt: 0,
            connect_at: Instant::now(),
            come_back_at: None,
        }
    }

    /// With a subscription, such as `{"channel": "metrics", "filter": {…}}`. No two
    /// may be equal.
    pub(crate) fn subscribe(mut self, mut wanted: Value) -> Self {
        wanted["op"] = json!("subscribe");
        let channel = wanted["channel"].as_str().unwrap_or_default().to_owned();
        let subscription = Subscription { channel, command: wanted, ..Subscription::default() };
        self.subscriptions.push(subscription);
        self
    }

    /// The next event. Connects where that is due, however long it takes.
    ///
    /// # Errors
    ///
    /// The hub does not want this client back, or refuses a subscription.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let step = match &mut self.connection {
                None => self.connect().await,
                Some(connection) => match connection.read().await {
                    Ok(Some(message)) => self.hear(&message).await,
                    Ok(None) => Ok(()),
                    Err(lost) => Err(lost),
                },
            };
            if let Err(lost) = step {
                self.lose(lost)?;
            }
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
        let mut connection = Connection {
            socket,
            asked: HashMap::new(),
            next_id: CONNECT_ID,
            opened: now,
            heard: now,
            pinged: false,
            ping: PING,
        };
        connection.send(json!({"op": "connect"})).await?;
        for (at, subscription) in self.subscriptions.iter().enumerate() {
            connection.ask(at, subscription).await?;
        }
        self.connection = Some(connection);
        Ok(())
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

    async fn hear(&mut self, message: &Value) -> Result<(), Lost> {
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
                Some(at) if message["offset"].is_u64() => self.entry(at, message).await,
                Some(at) => {
                    self.subscriptions[at].change(message);
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
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let id = message["id"].as_u64();
        let asked = id.and_then(|id| connection.asked.remove(&id));
        if id != Some(CONNECT_ID) && asked.is_none() {
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
            for told in list(ok, "entries") {
                self.events.extend(subscription.enter(at, told));
            }
            subscription.position = position(ok);
        } else if ok["recovered"] == false {
            self.fresh(at, ok);
        } else {
            subscription.change(&ok["snapshot"]);
        }
    }

    /// A log channel starts here, with what stands.
    fn fresh(&mut self, at: usize, told: &Value) {
        let subscription = &mut self.subscriptions[at];
        let first = subscription.position.is_none();
        subscription.position = position(told);
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

    async fn entry(&mut self, at: usize, push: &Value) -> Result<(), Lost> {
        let subscription = &mut self.subscriptions[at];
        let [offset, prev] = ["offset", "prev"].map(|key| push[key].as_u64().unwrap_or_default());
        if prev > subscription.offset() {
            let from = subscription.offset() + 1;
            self.events.push_back(Event::Gap { at, from, to: prev });
            // Given up at the hub, and asked for from where it was.
            let Some(connection) = &mut self.connection else { return Ok(()) };
            let sub = subscription.sub.take();
            connection.send(json!({"op": "unsubscribe", "sub": sub})).await?;
            return connection.ask(at, subscription).await;
        }
        self.events.extend(subscription.enter(at, push));
        // One sequence numbers all log channels, and it comes in order: who has
        // seen this entry has seen, on each of them, all that is before it. The
        // entry itself may still be to come on another.
        let confirmed = self.subscriptions.iter_mut().filter(|s| s.sub.is_some());
        confirmed.for_each(|subscription| subscription.has_seen(offset.saturating_sub(1)));
        Ok(())
    }
}

impl Connection {
    /// The next message; none if there was nothing to be understood.
    async fn read(&mut self) -> Result<Option<Value>, Lost> {
        let Ok(heard) = timeout_at(self.heard + self.ping, self.socket.next()).await else {
            if self.pinged {
                return Err(Lost::silent());
            }
            (self.pinged, self.heard) = (true, Instant::now());
            self.send(json!({"op": "ping"})).await?;
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
                    is_final: is_final(code),
                    ..Lost::because(&format!("{code} {}", frame.reason))
                })
            }
            Some(Ok(Message::Close(None))) | None => Err(Lost::because("the hub has closed")),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Asks for a subscription, from where it was if it has been.
    async fn ask(&mut self, at: usize, subscription: &Subscription) -> Result<(), Lost> {
        let mut command = subscription.command.clone();
        if let Some(Position { epoch, offset }) = &subscription.position {
            command["resume"] = json!({"epoch": epoch, "offset": offset});
        }
        self.asked.insert(self.next_id, at);
        self.send(command).await
    }

    async fn send(&mut self, mut command: Value) -> Result<(), Lost> {
        command["id"] = json!(self.next_id);
        self.next_id += 1;
        let sending = self.socket.send(Message::text(command.to_string()));
        Ok(timeout(OPEN_MAX, sending).await.map_err(|_| Lost::silent())??)
    }
}

impl Subscription {
    fn offset(&self) -> u64 {
        self.position.as_ref().map_or(0, |position| position.offset)
    }

    fn has_seen(&mut self, offset: u64) {
        if let Some(position) = &mut self.position {
            position.offset = position.offset.max(offset);
        }
    }

    /// Takes an entry, unless it was seen before.
    fn enter(&mut self, at: usize, told: &Value) -> Option<Event> {
        let offset = told["offset"].as_u64()?;
        if offset <= self.offset() {
            return None;
        }
        self.has_seen(offset);
        self.note(&told["entry"]);
        Some(Event::Entry { at, offset, entry: told["entry"].clone() })
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
