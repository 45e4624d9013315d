//! One connected client: what it says goes to its dialect, what its outbox
//! holds goes to its socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper_tungstenite::WebSocketStream;
use hyper_tungstenite::tungstenite::protocol::CloseFrame;
use hyper_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use hyper_tungstenite::tungstenite::{Error as SocketError, Message, Utf8Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use crate::channel::{
    Channels, CloseReason, Drained, Lane, Outbox, SessionId, SubId, Subscribe, Unsubscribe,
};
use crate::clock::Clock;
use crate::plugin::{PluginControl, Statuses};
use crate::shutdown::Shutdown;
use crate::store::{HistoryQuery, Reader, StoreError};

/// How long a client may take to accept what is sent to it.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Histories that one client may have read at a time; more are refused.
const READS_MAX: usize = 4;
/// How long a history may take, its place in the line included.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long the closing handshake may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What sessions need of the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Services {
    /// What clients subscribe to.
    pub channels: Channels,
    /// What the store has kept.
    pub reader: Reader,
    /// What is known of each plugin.
    pub statuses: Statuses,
    /// What can be done to plugins.
    pub plugins: PluginControl,
    /// Wall time.
    pub clock: Clock,
    /// What the hub says of itself.
    pub hub: Arc<HubFacts>,
    /// How the sessions are doing.
    pub counters: Arc<SessionCounters>,
}

/// What the hub says of itself.
#[derive(Debug)]
pub struct HubFacts {
    /// Names this run of the hub.
    pub name: String,
    /// The program's version.
    pub version: &'static str,
    /// How long a tick is.
    pub tick: Duration,
    /// Names the log.
    pub epoch: String,
    /// Allows what changes the hub.
    pub admin_token: String,
}

impl HubFacts {
    /// Whether `token` is the admin token. Takes the same time whatever it is.
    #[must_use]
    pub fn is_admin(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == blake3::hash(self.admin_token.as_bytes())
    }
}

/// How the sessions are doing.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Clients that are connected.
    pub connected: AtomicU64,
    /// Messages that came in since the start.
    pub received: AtomicU64,
    /// Messages that went out since the start.
    pub sent: AtomicU64,
    /// Messages that no dialect could make sense of, since the start.
    pub not_understood: AtomicU64,
    /// Clients that accepted nothing for too long, or didn't answer pings.
    pub lost: AtomicU64,
    next: AtomicU64,
}

/// A wire protocol: bytes to acts and back, nothing else. One for each session.
pub trait Dialect: Send {
    /// What to do when the connection stands.
    fn open(&mut self) -> Vec<Act>;
    /// What a message of the client means.
    fn receive(&mut self, text: &str) -> Vec<Act>;
    /// When, after the opening, [`Dialect::waited`] is due.
    fn patience(&self) -> Option<Duration>;
    /// What to do once the patience is over.
    fn waited(&mut self) -> Vec<Act>;
    /// What to say when the hub stops.
    fn bye(&mut self) -> (Option<Utf8Bytes>, CloseReason);
    /// How the connection is kept alive.
    fn heartbeat(&self) -> Heartbeat;
    /// Whether a binary message is read as text.
    fn reads_binary(&self) -> bool;
}

/// How a connection is kept alive.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// How often the hub pings.
    pub every: Duration,
    /// How long the client may take to be heard of after a ping.
    pub timeout: Duration,
}

/// What a dialect wants done.
pub enum Act {
    /// Send a message.
    Send(Utf8Bytes),
    /// Subscribe; see [`Subscribe`].
    Subscribe {
        /// Ends all other subscriptions of this client first.
        only: bool,
        /// See [`Subscribe::key`].
        key: String,
        /// See [`Subscribe::lane`].
        lane: Lane,
        /// See [`Subscribe::reply`].
        reply: Option<(String, String)>,
        /// See [`Subscribe::refusal`].
        refusal: Utf8Bytes,
    },
    /// End a subscription.
    Unsubscribe {
        /// Which one.
        sub: SubId,
        /// Sent when it has ended.
        reply: Utf8Bytes,
        /// Sent if there is none.
        refusal: Utf8Bytes,
    },
    /// Look up history, and send what `answer` makes of it.
    History {
        /// What to look up.
        query: HistoryQuery,
        /// Turns what was found into a message.
        answer: HistoryAnswer,
    },
    /// The message made no sense, and gets no answer.
    Ignore,
}

/// Turns history, or why there is none, into a message.
pub type HistoryAnswer =
    Box<dyn FnOnce(Result<crate::store::History, StoreError>) -> Utf8Bytes + Send>;

/// Serves one client until it leaves, is lost, or the hub stops.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    dialect: Box<dyn Dialect>,
    services: Services,
    shutdown: Shutdown,
) {
    let id = SessionId(services.counters.next.fetch_add(1, Ordering::Relaxed));
    services.counters.connected.fetch_add(1, Ordering::Relaxed);
    let mut session = Session {
        id,
        socket,
        dialect,
        outbox: Arc::default(),
        services: services.clone(),
        reads: Arc::new(Semaphore::new(READS_MAX)),
    };
    if let Some(reason) = session.run(shutdown).await {
        session.close(reason).await;
    }
    services.channels.gone(id).await;
    services.counters.connected.fetch_sub(1, Ordering::Relaxed);
}

struct Session<S> {
    id: SessionId,
    socket: WebSocketStream<S>,
    dialect: Box<dyn Dialect>,
    outbox: Arc<Outbox>,
    services: Services,
    /// Histories that are being read.
    reads: Arc<Semaphore>,
}

/// The connection has ended; nothing more can be said.
struct Ended;

/// All that can happen to a session.
enum Event {
    Message(Option<Result<Message, SocketError>>),
    Outbox(Drained),
    Heartbeat,
    Waited,
    Stop,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Serves the client; why to close the connection, if it still stands.
    async fn run(&mut self, mut shutdown: Shutdown) -> Option<CloseReason> {
        let heartbeat = self.dialect.heartbeat();
        let mut ping_at = Instant::now() + heartbeat.every;
        let mut heard = Instant::now();
        let mut patience = self.dialect.patience().map(|patience| Instant::now() + patience);
        let acts = self.dialect.open();
        self.perform(acts).await.ok()?;
        loop {
            let waited = async {
                match patience {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                () = shutdown.requested() => Event::Stop,
                drained = self.outbox.drain() => Event::Outbox(drained),
                message = self.socket.next() => Event::Message(message),
                () = waited => Event::Waited,
                () = sleep_until(ping_at) => Event::Heartbeat,
            };
            match event {
                Event::Stop => return self.bye().await,
                Event::Outbox(drained) => {
                    self.send_all(drained.messages).await.ok()?;
                    if drained.close.is_some() {
                        return drained.close;
                    }
                }
                Event::Message(message) => {
                    heard = Instant::now();
                    if let Err(reason) = self.hear(message).await {
                        return reason;
                    }
                }
                Event::Waited => {
                    patience = None;
                    let acts = self.dialect.waited();
                    self.perform(acts).await.ok()?;
                }
                Event::Heartbeat => {
                    let now = Instant::now();
                    if now - heard >= heartbeat.every + heartbeat.timeout {
                        self.services.counters.lost.fetch_add(1, Ordering::Relaxed);
                        return Some(CloseReason { code: 1011, words: "keepalive ping timeout" });
                    }
                    self.write(Message::Ping(bytes::Bytes::new())).await.ok()?;
                    ping_at = now + heartbeat.every;
                }
            }
        }
    }

    /// Deals with what came in. An error ends the session, with a reason to
    /// close it if it still stands.
    async fn hear(
        &mut self,
        message: Option<Result<Message, SocketError>>,
    ) -> Result<(), Option<CloseReason>> {
        let acts = match message {
            Some(Ok(Message::Text(text))) => self.dialect.receive(&text),
            Some(Ok(Message::Binary(bytes))) if self.dialect.reads_binary() => {
                self.dialect.receive(&String::from_utf8_lossy(&bytes))
            }
            Some(Ok(Message::Binary(_))) => {
                return Err(Some(CloseReason { code: 1003, words: "send text, not binary" }));
            }
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(close_reason(&error)),
            None => return Err(None),
        };
        self.services.counters.received.fetch_add(1, Ordering::Relaxed);
        self.perform(acts).await.map_err(|Ended| None)
    }

    async fn perform(&mut self, acts: Vec<Act>) -> Result<(), Ended> {
        for act in acts {
            match act {
                Act::Send(text) => self.write(Message::Text(text)).await?,
                Act::Subscribe { only, key, lane, reply, refusal } => {
                    if only {
                        self.services.channels.gone(self.id).await;
                    }
                    let (session, outbox) = (self.id, self.outbox.clone());
                    let subscribe = Subscribe { session, outbox, key, lane, reply, refusal };
                    self.services.channels.subscribe(subscribe).await;
                }
                Act::Unsubscribe { sub, reply, refusal } => {
                    let (session, outbox) = (self.id, self.outbox.clone());
                    let unsubscribe = Unsubscribe { session, outbox, sub, reply, refusal };
                    self.services.channels.unsubscribe(unsubscribe).await;
                }
                Act::History { query, answer } => self.look_up(query, answer),
                Act::Ignore => {
                    self.services.counters.not_understood.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Reads history beside the session, which has frames to send meanwhile.
    fn look_up(&self, query: HistoryQuery, answer: HistoryAnswer) {
        let (reader, outbox) = (self.services.reader.clone(), self.outbox.clone());
        let Ok(permit) = self.reads.clone().try_acquire_owned() else {
            outbox.reply(answer(Err(StoreError::Stopping)));
            return;
        };
        tokio::spawn(async move {
            let found = timeout(READ_MAX, reader.history(query)).await;
            outbox.reply(answer(found.unwrap_or(Err(StoreError::Stopping))));
            drop(permit);
        });
    }

    async fn send_all(&mut self, messages: Vec<Utf8Bytes>) -> Result<(), Ended> {
        let Some((last, others)) = messages.split_last() else { return Ok(()) };
        for text in others {
            self.within(WRITE_MAX, Message::Text(text.clone()), false).await?;
        }
        self.write(Message::Text(last.clone())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Ended> {
        self.within(WRITE_MAX, message, true).await
    }

    /// Writes a message, and all before it if `flush`, unless it takes too
    /// long.
    async fn within(
        &mut self,
        limit: Duration,
        message: Message,
        flush: bool,
    ) -> Result<(), Ended> {
        let text = message.is_text();
        let socket = &mut self.socket;
        let written = timeout(limit, async {
            if flush { socket.send(message).await } else { socket.feed(message).await }
        });
        match written.await {
            Ok(Ok(())) => {
                self.services.counters.sent.fetch_add(text.into(), Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(_)) => Err(Ended),
            Err(_) => {
                self.services.counters.lost.fetch_add(1, Ordering::Relaxed);
                Err(Ended)
            }
        }
    }

    async fn bye(&mut self) -> Option<CloseReason> {
        let (last_word, reason) = self.dialect.bye();
        if let Some(text) = last_word {
            self.within(CLOSE_MAX, Message::Text(text), true).await.ok()?;
        }
        Some(reason)
    }

    /// Says why, and waits a moment for the other side's goodbye. What it still
    /// sends is read and dropped: a socket that is closed with unread bytes is
    /// reset, and the reset overtakes what was said.
    async fn close(&mut self, reason: CloseReason) {
        let frame = CloseFrame { code: CloseCode::from(reason.code), reason: reason.words.into() };
        let socket = &mut self.socket;
        let handshake = async {
            // An error means that the connection has gone already.
            if socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            while let Some(Ok(_)) = socket.next().await {}
            // After a broken protocol nothing is read as messages any more.
            let stream = socket.get_mut();
            let mut dropped = [0; 1024];
            if stream.shutdown().await.is_ok() {
                while stream.read(&mut dropped).await.is_ok_and(|bytes| bytes > 0) {}
            }
        };
        // A client that doesn't answer in time is cut off.
        let _ = timeout(CLOSE_MAX, handshake).await;
    }
}

/// What to tell a client that broke the protocol, where it can still be told.
fn close_reason(error: &SocketError) -> Option<CloseReason> {
    match error {
        SocketError::Capacity(_) => Some(CloseReason { code: 1009, words: "message too big" }),
        SocketError::Utf8(_) => Some(CloseReason { code: 1007, words: "text is not UTF-8" }),
        SocketError::Protocol(_) => Some(CloseReason { code: 1002, words: "protocol error" }),
        _ => None,
    }
}
