//! One connected client: what it says goes to its dialect, what its dialect
//! wants is done. What it is sent goes through its gate, mostly without this.

mod client;
mod inbound;
mod limits;
mod packets;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_tungstenite::tungstenite::{Error as SocketError, Message};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use crate::access::{Access, Identity};
use crate::audit::Audit;
use crate::channel::{Channels, Feed, Lane, Position, SubId, SubsAnswer, Subscribe, Which};
use crate::clock::Clock;
use crate::contrast::{self, ContrastError, Wanted};
use crate::events::{Events, PublishError};
use crate::gate::{Beat, CloseReason, Ending, Gate, GateIo, Gates, Piece};
use crate::layouts::{ChangeDraft, ChangeError, LayoutChanges};
use crate::model::{Board, Changed, Draft, ObjectKey, Receipt, Room};
use crate::plugin::{PluginControl, Statuses};
use crate::store::{History, HistoryQuery, ObjectVersion, Reader, StoreError};

use inbound::Inbound;

pub use client::{Client, Clients, Entered};
pub use limits::{LimitCounters, Limits, Messages, Throttled, TooMany};
pub use packets::PacketSession;

/// Histories that all clients together may have under way; more wait. Those
/// that are read at a time are bounded by the store.
pub const HISTORIES_MAX: usize = 64;
/// How long a history may take, its place in the line included.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long the closing handshake may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// A close frame without a code counts as this (RFC 6455, 7.1.5).
const NO_CODE: u16 = 1005;
/// What is read from a socket at a time. Each thread has one such buffer.
const READ_BYTES: usize = 16 * 1024;
/// Reads from one socket before others have their turn.
const READS_AT_ONCE: usize = 16;

/// What sessions need of the hub.
#[derive(Debug)]
pub struct Services {
    /// All connections.
    pub gates: Arc<Gates>,
    /// What clients subscribe to.
    pub channels: Channels,
    /// What the store has kept.
    pub reader: Reader,
    /// Room for histories that are being looked up.
    pub histories: Arc<Semaphore>,
    /// What is known of each plugin.
    pub statuses: Statuses,
    /// What can be done to plugins.
    pub plugins: PluginControl,
    /// Wall time.
    pub clock: Clock,
    /// What the hub says of itself.
    pub hub: Arc<HubFacts>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// Who is connected.
    pub clients: Arc<Clients>,
    /// Where events are published.
    pub events: Events,
    /// Where boards are changed.
    pub layouts: LayoutChanges,
    /// How often a client of the routing dialect gets the current metrics.
    pub routing_interval: Duration,
    /// After how much silence a client of the sync dialect is pinged.
    pub sync_heartbeat: Duration,
    /// Where it is noted who did what.
    pub audit: Audit,
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
    /// After how much silence a client is pinged.
    pub heartbeat: Duration,
    /// Names the log.
    pub epoch: String,
    /// Allows what changes the hub.
    pub admin_token: String,
}

/// What a client has sent.
#[derive(Clone, Copy, Debug)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// A wire protocol: bytes to acts and back, nothing else. One for each session.
pub trait Dialect: Send {
    /// What to do when the connection stands.
    fn open(&mut self) -> Vec<Act>;
    /// What a message of the client means.
    fn receive(&mut self, message: Received<'_>) -> Vec<Act>;
    /// When, after the opening, [`Dialect::waited`] is due.
    fn patience(&self) -> Option<Duration>;
    /// What to do once the patience is over.
    fn waited(&mut self) -> Vec<Act>;
    /// What to answer to a message that is not looked at, since messages come
    /// too fast. The same may be said again after so long.
    fn throttled(&mut self, message: Received<'_>, retry_after: Duration) -> Vec<Act>;
    /// What to say last, and with which code to close.
    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason);
    /// How its client's heart is listened to, where it is not as everybody's.
    fn heartbeat(&self) -> Option<Beat> {
        None
    }
}

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The hub stops; the client had better come back after so long.
    Stopping(Duration),
    /// Its token has expired.
    Expired,
    /// Somebody who may has ended all connections of its user.
    Revoked,
}

/// What a dialect wants done.
pub enum Act {
    /// Send a text message.
    Send(String),
    /// Send a binary message.
    SendBinary(Vec<u8>),
    /// Subscribe; see [`Subscribe`].
    Subscribe {
        /// Ends all other subscriptions of this client first.
        only: bool,
        /// See [`Subscribe::key`].
        key: String,
        /// See [`Subscribe::lane`].
        lane: Lane,
        /// See [`Subscribe::resume`].
        resume: Option<Position>,
        /// See [`Subscribe::reply`].
        reply: Option<(String, String)>,
        /// See [`Subscribe::refusal`].
        refusal: String,
    },
    /// End a subscription.
    Unsubscribe {
        /// Which one.
        which: Which,
        /// Sent when it has ended.
        reply: String,
        /// Sent if there is none.
        refusal: String,
    },
    /// Tell what a subscription's reply would tell now.
    Snapshot {
        /// Of which one.
        sub: SubId,
        /// What stands before and after it.
        reply: (String, String),
        /// Sent if there is none.
        refusal: String,
    },
    /// The same for a client that has not asked: nothing where something older
    /// still waits for it.
    Refresh {
        /// Of which subscription, by its key.
        key: String,
        /// Sent if there is none.
        refusal: String,
    },
    /// Send what this makes of what there is to tell.
    Answer(Box<dyn FnOnce(&Feed) -> String + Send>),
    /// Who the client is has changed: end its subscriptions to rooms that it may
    /// not enter any more, and send what `answer` makes of their numbers.
    Narrow {
        /// Who it is now.
        identity: Arc<Identity>,
        /// Turns the subscriptions that have ended into a message.
        answer: SubsAnswer,
    },
    /// Look up history, and send what `answer` makes of it.
    History {
        /// What to look up.
        query: HistoryQuery,
        /// Turns what was found into a message.
        answer: HistoryAnswer,
    },
    /// Look up what a detector and its shadow have found, and send what `answer`
    /// makes of it.
    Contrast {
        /// What to look up.
        wanted: Wanted,
        /// Whose rights count.
        who: Arc<Identity>,
        /// Turns what was found into a message.
        answer: ContrastAnswer,
    },
    /// Look up the versions of an object that are kept, and send what `answer`
    /// makes of them.
    Versions {
        /// Of which board.
        board: Board,
        /// Of which object.
        key: ObjectKey,
        /// Only this one, with its data.
        version: Option<u64>,
        /// Turns what was found into a message.
        answer: VersionsAnswer,
    },
    /// Publish events, and send what `answer` makes of the outcome.
    Publish {
        /// Who publishes.
        by: Arc<Identity>,
        /// What to publish, each with its idempotency key if it has one.
        drafts: Vec<(Draft, Option<String>)>,
        /// Turns the receipts into a message.
        answer: PublishAnswer,
    },
    /// Change a board, and send what `answer` makes of the outcome.
    Change {
        /// Who does it.
        by: Arc<Identity>,
        /// What is to be done.
        draft: ChangeDraft,
        /// Turns the outcome into a message.
        answer: ChangeAnswer,
    },
    /// Wait anew: [`Dialect::waited`] is due after so long. For dialects over
    /// WebSocket: no other has a second patience.
    Wait(Duration),
    /// Take messages of up to so many bytes from now on.
    MessageMax(usize),
    /// Close the connection.
    Close(CloseReason),
    /// The message made no sense, and gets no answer.
    Ignore,
}

/// Turns receipts, in the order of the drafts, into a message.
pub type PublishAnswer = Box<dyn FnOnce(Vec<Result<Receipt, PublishError>>) -> String + Send>;
/// Turns what became of a change into a message.
pub type ChangeAnswer = Box<dyn FnOnce(Result<Changed, ChangeError>) -> String + Send>;
/// Turns what a detector and its shadow have found, or why that can't be told,
/// into a message.
pub type ContrastAnswer = Box<dyn FnOnce(Result<Value, ContrastError>) -> String + Send>;
/// Turns versions of an object, or why there are none, into a message.
pub type VersionsAnswer = Box<dyn FnOnce(Result<Vec<ObjectVersion>, StoreError>) -> String + Send>;
/// Turns history, or why there is none, into a message.
pub type HistoryAnswer = Box<dyn FnOnce(Result<History, StoreError>) -> String + Send>;

/// One client, from the handshake to the end of the connection: a future that
/// is small, since there may be ten thousands of them.
pub struct Session {
    gate: GateIo,
    inbound: Inbound,
    dialect: Box<dyn Dialect>,
    /// An endpoint that only echoes has none.
    home: Option<Home>,
    /// Read, and not yet looked at. Also where it is empty: what follows may be
    /// in what was looked at, a few bytes ahead.
    input: Option<Vec<u8>>,
    has_opened: bool,
    patience: Option<Pin<Box<Sleep>>>,
    closing: Option<Box<Closing>>,
}

/// The hub that a client is connected to, and its place there.
pub struct Home {
    /// What is there to be asked.
    pub services: Arc<Services>,
    /// The client among the others.
    pub client: Entered,
}

/// A connection that is being closed.
struct Closing {
    deadline: Pin<Box<Sleep>>,
    /// What comes in means nothing any more: it is read and dropped. A socket
    /// that is closed with unread bytes is reset, and the reset overtakes what
    /// was said.
    is_deaf: bool,
    has_finished: bool,
}

/// The connection is over; nothing more can be said.
struct Over;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

impl Session {
    /// A client whose handshake is done. `first` has come with it. Messages of
    /// more than `message_max` bytes close the connection with 1009.
    #[must_use]
    pub fn new(
        gate: GateIo,
        first: &[u8],
        dialect: Box<dyn Dialect>,
        message_max: usize,
        home: Option<Home>,
    ) -> Self {
        if let Some(beat) = dialect.heartbeat() {
            gate.set_beat(beat);
        }
        gate.begin_session();
        Self {
            gate,
            inbound: Inbound::new(message_max),
            patience: None,
            dialect,
            home,
            input: Some(first.to_vec()),
            has_opened: false,
            closing: None,
        }
    }

    fn open(&mut self) {
        self.has_opened = true;
        self.patience = self.dialect.patience().map(|patience| Box::pin(sleep(patience)));
        let acts = self.dialect.open();
        self.perform(acts);
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let ending = self.gate.attend(cx.waker());
        if !self.has_opened {
            self.open();
        }
        self.wait(cx);
        if let Some(ending) = ending
            && self.closing.is_none()
        {
            self.end(ending);
        }
        loop {
            let was_full = self.read(cx)?;
            self.write(cx)?;
            if !was_full || self.is_full() {
                break;
            }
        }
        // What was heard may have made it wait anew.
        self.wait(cx);
        self.close_further(cx)
    }

    /// Does what the dialect wants once its patience is over.
    fn wait(&mut self, cx: &mut Context<'_>) {
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            self.patience = None;
            let acts = self.dialect.waited();
            self.perform(acts);
        }
    }

    /// Reads until there is nothing more, or enough is under way: then true.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        READ.with_borrow_mut(|buffer| {
            for _ in 0..READS_AT_ONCE {
                if self.is_full() {
                    return Ok(true);
                }
                // What came earlier goes first.
                if let Some(input) = self.input.take() {
                    self.take_in(&input);
                    continue;
                }
                match self.gate.try_read(buffer) {
                    Ok(0) => return Err(Over),
                    Ok(read) => self.take_in(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        match self.gate.socket().poll_read_ready(cx) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(_)) => return Err(Over),
                            Poll::Pending => return Ok(false),
                        }
                    }
                    Err(_) => return Err(Over),
                }
            }
            // Others have their turn.
            cx.waker().wake_by_ref();
            Ok(false)
        })
    }

    /// Whether to leave what comes in where it is for now.
    fn is_full(&self) -> bool {
        self.closing.is_none() && self.gate.is_full()
    }

    fn take_in(&mut self, mut input: &[u8]) {
        while !self.closing.as_ref().is_some_and(|closing| closing.is_deaf) {
            if self.is_full() {
                self.input = Some(input.to_vec());
                return;
            }
            match self.inbound.next(&mut input, &self.gate) {
                Ok(Some(message)) => self.hear(&message),
                Ok(None) => return,
                Err(error) => {
                    if self.closing.is_none()
                        && let Some(reason) = close_reason(&error)
                    {
                        self.close(reason, true);
                    }
                    self.begin_closing().is_deaf = true;
                }
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        let received = match message {
            Message::Close(frame) => {
                if let Some(home) = &self.home {
                    let code = frame.as_ref().map_or(NO_CODE, |frame| frame.code.into());
                    home.client.ends(code, "closed by the client");
                }
                // tungstenite answers it, with the next look at what came in.
                self.begin_closing();
                return;
            }
            _ if self.closing.is_some() => return,
            Message::Text(text) => Some(Received::Text(text)),
            Message::Binary(bytes) => Some(Received::Binary(bytes)),
            // tungstenite has answered it, which was work too.
            _ => None,
        };
        let taken = self.home.as_ref().map_or(Ok(()), |home| home.client.message());
        if received.is_some() {
            self.gate.count_received();
        }
        let acts = match (taken, received) {
            (Err(Throttled { is_abuse: true, .. }), _) => vec![Act::Close(CloseReason::ABUSE)],
            (_, None) => return,
            (Ok(()), Some(received)) => self.dialect.receive(received),
            (Err(Throttled { retry_after, .. }), Some(received)) => {
                self.dialect.throttled(received, retry_after)
            }
        };
        self.perform(acts);
    }

    /// Writes until nothing waits or the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        while !self.gate.flush() {
            match self.gate.socket().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Over),
                Poll::Pending => return Ok(()),
            }
        }
        if self.gate.has_gone()
            && let Some(home) = &self.home
        {
            home.services.channels.has_room(&self.gate);
        }
        Ok(())
    }

    fn perform(&mut self, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(text) => self.gate.send_text(&text),
                Act::SendBinary(bytes) => {
                    self.gate.send([Piece::binary(&bytes, self.gate.budget())]);
                }
                Act::Wait(patience) => self.patience = Some(Box::pin(sleep(patience))),
                Act::MessageMax(bytes) => self.inbound.set_message_max(bytes),
                Act::Close(reason) => self.close(reason, false),
                Act::Ignore => {
                    self.gate.counters().not_understood.fetch_add(1, Ordering::Relaxed);
                }
                asked => {
                    if let Some(home) = &self.home {
                        home.ask(&self.gate, asked);
                    }
                }
            }
        }
    }

    /// Does what others than the client want.
    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Close(reason) => self.close(reason, true),
            Ending::Bye(reconnect_after) => self.say_goodbye(Goodbye::Stopping(reconnect_after)),
            Ending::Expired => self.say_goodbye(Goodbye::Expired),
            Ending::Revoked => self.say_goodbye(Goodbye::Revoked),
        }
    }

    fn say_goodbye(&mut self, why: Goodbye) {
        let (last_word, reason) = self.dialect.goodbye(why);
        if let Some(text) = last_word {
            self.gate.send_text(&text);
        }
        self.close(reason, false);
    }

    fn close(&mut self, reason: CloseReason, drop_unsent: bool) {
        if let Some(home) = &self.home {
            home.client.ends(reason.code, reason.words);
        }
        self.inbound.close(reason, &self.gate, drop_unsent);
        self.begin_closing();
    }

    fn begin_closing(&mut self) -> &mut Closing {
        self.closing.get_or_insert_with(|| {
            Box::new(Closing {
                deadline: Box::pin(sleep(CLOSE_MAX)),
                is_deaf: false,
                has_finished: false,
            })
        })
    }

    /// Goes on with the closing handshake.
    fn close_further(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let Some(closing) = &mut self.closing else { return Ok(()) };
        if closing.deadline.as_mut().poll(cx).is_ready() {
            return Err(Over);
        }
        // Once both sides have said goodbye nothing follows from here; the
        // client's end of the connection is waited for.
        if closing.is_deaf && !closing.has_finished && self.gate.flush() {
            closing.has_finished = self.gate.finish();
            if !closing.has_finished {
                // Tried again when there is room, or the deadline comes.
                let _ = self.gate.socket().poll_write_ready(cx);
            }
        }
        Ok(())
    }
}

impl Future for Session {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut().step(cx) {
            Ok(()) => Poll::Pending,
            Err(Over) => Poll::Ready(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // First, so that the channels don't take it in again with what they
        // have been reading for it.
        self.gate.cut();
        if let Some(home) = &self.home {
            home.services.channels.gone(&self.gate);
        }
    }
}

impl Home {
    /// Asks the hub for what a dialect wants of it. The answer comes through the
    /// gate.
    fn ask(&self, gate: &Arc<Gate>, act: Act) {
        let services = &self.services;
        match act {
            Act::Subscribe { only, key, lane, resume, reply, refusal } => {
                let gate = gate.clone();
                let who = self.client.who();
                let client = Arc::clone(&self.client);
                let may_enter = Box::new(move |room: &Room| {
                    client.identity().is_some_and(|identity| identity.may_enter(room))
                });
                let subscribe =
                    Subscribe { who, gate, only, key, lane, resume, may_enter, reply, refusal };
                services.channels.subscribe(subscribe);
            }
            Act::Unsubscribe { which, reply, refusal } => {
                services.channels.unsubscribe(gate, which, reply, refusal);
            }
            Act::Snapshot { sub, reply, refusal } => {
                services.channels.snapshot(gate, Which::Id(sub), reply, refusal);
            }
            Act::Refresh { key, refusal } => {
                // Who reads nothing is not sent more and more.
                if gate.is_busy() || gate.is_full() {
                    services.channels.counters().skipped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                let bare = (String::new(), String::new());
                services.channels.snapshot(gate, Which::Key(key), bare, refusal);
            }
            Act::Answer(answer) => services.channels.answer(gate, answer),
            Act::Narrow { identity, answer } => {
                let may_enter = Box::new(move |room: &Room| identity.may_enter(room));
                services.channels.narrow(gate, may_enter, answer);
            }
            Act::History { query, answer } => {
                let read = |reader: Reader| async move { reader.history(query).await };
                look_up(services, gate, read, answer);
            }
            Act::Contrast { wanted, who, answer } => {
                let statuses = services.statuses.clone();
                let read = |reader: Reader| async move {
                    Ok(contrast::tell(&reader, &statuses, &wanted, &who).await)
                };
                look_up(services, gate, read, |told| {
                    answer(told.unwrap_or_else(|e| Err(e.into())))
                });
            }
            Act::Versions { board, key, version, answer } => {
                let read =
                    move |reader: Reader| async move { reader.versions(board, key, version).await };
                look_up(services, gate, read, answer);
            }
            Act::Publish { by, drafts, answer } => self.publish(gate, by, drafts, answer),
            Act::Change { by, draft, answer } => self.change(gate, &by, draft, answer),
            Act::Send(_)
            | Act::SendBinary(_)
            | Act::Wait(_)
            | Act::MessageMax(_)
            | Act::Close(_)
            | Act::Ignore => {}
        }
    }

    /// Publishes events; the receipts come through the gate.
    fn publish(
        &self,
        gate: &Arc<Gate>,
        by: Arc<Identity>,
        drafts: Vec<(Draft, Option<String>)>,
        answer: PublishAnswer,
    ) {
        let limits = self.services.clients.limits();
        let taken = limits.publish(&by, self.client.address, drafts.len());
        if let Err(Throttled { retry_after, .. }) = taken {
            let throttled = Err(PublishError::Throttled(retry_after));
            return gate.send_text(&answer(vec![throttled; drafts.len()]));
        }
        gate.ask();
        let (events, gate) = (self.services.events.clone(), gate.clone());
        tokio::spawn(async move {
            let receipts = events.publish(&by, drafts).await;
            gate.send_text(&answer(receipts));
            gate.answered();
        });
    }

    /// Changes a board: at once, so that a client's changes are made in their
    /// order; what became of it is waited for beside the session.
    fn change(
        &self,
        gate: &Arc<Gate>,
        by: &Arc<Identity>,
        draft: ChangeDraft,
        answer: ChangeAnswer,
    ) {
        let limits = self.services.clients.limits();
        let taken = limits.publish(by, self.client.address, draft.cost());
        // By the channels, as what the client is told of the board: nothing of it
        // overtakes what was told before.
        let channels = self.services.channels.clone();
        if let Err(Throttled { retry_after, .. }) = taken {
            let answer = answer(Err(ChangeError::Throttled(retry_after)));
            return channels.answer(gate, move |_| answer);
        }
        gate.ask();
        let submitted = self.services.layouts.submit(by, draft);
        let (layouts, gate) = (self.services.layouts.clone(), gate.clone());
        tokio::spawn(async move {
            let answer = answer(layouts.settle(submitted).await);
            channels.answer(&gate, move |_| answer);
            gate.answered();
        });
    }
}

/// Reads what is kept beside the session, which has other things to do meanwhile.
fn look_up<T: Send, F: Future<Output = Result<T, StoreError>> + Send>(
    services: &Arc<Services>,
    gate: &Arc<Gate>,
    read: impl FnOnce(Reader) -> F + Send + 'static,
    answer: impl FnOnce(Result<T, StoreError>) -> String + Send + 'static,
) {
    gate.ask();
    let (services, gate) = (services.clone(), gate.clone());
    tokio::spawn(async move {
        let found = timeout(READ_MAX, async {
            let _room = services.histories.acquire().await.map_err(|_| StoreError::Stopping)?;
            read(services.reader.clone()).await
        });
        let found = found.await.unwrap_or(Err(StoreError::Stopping));
        gate.send_text(&answer(found));
        gate.answered();
    });
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
