//! One connected client: what it says goes to its dialect, what its dialect
//! wants is done. What it is sent goes through its gate, mostly without this.

mod inbound;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use crate::channel::{Channels, Lane, Position, SubId, Subscribe};
use crate::clock::Clock;
use crate::gate::{CloseReason, Ending, Gate, GateIo, Gates, Piece};
use crate::plugin::{PluginControl, Statuses};
use crate::store::{History, HistoryQuery, Reader, StoreError};

use inbound::Inbound;

/// Histories that all clients together may have under way; more wait. Those
/// that are read at a time are bounded by the store.
pub const HISTORIES_MAX: usize = 64;
/// How long a history may take, its place in the line included.
const READ_MAX: Duration = Duration::from_secs(5);
/// How long the closing handshake may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);
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

impl HubFacts {
    /// Whether `token` is the admin token. Takes the same time whatever it is.
    #[must_use]
    pub fn is_admin(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == blake3::hash(self.admin_token.as_bytes())
    }
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
    /// What to say when the hub stops; the client had better come back after so
    /// long.
    fn bye(&mut self, reconnect_after: Duration) -> (Option<String>, CloseReason);
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
        sub: SubId,
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
    /// Look up history, and send what `answer` makes of it.
    History {
        /// What to look up.
        query: HistoryQuery,
        /// Turns what was found into a message.
        answer: HistoryAnswer,
    },
    /// Close the connection.
    Close(CloseReason),
    /// The message made no sense, and gets no answer.
    Ignore,
}

/// Turns history, or why there is none, into a message.
pub type HistoryAnswer = Box<dyn FnOnce(Result<History, StoreError>) -> String + Send>;

/// One client, from the handshake to the end of the connection: a future that
/// is small, since there may be ten thousands of them.
pub struct Session {
    gate: GateIo,
    inbound: Inbound,
    dialect: Box<dyn Dialect>,
    /// What is there to be asked; an endpoint that only echoes has no hub.
    services: Option<Arc<Services>>,
    /// Read, and not yet looked at. Also where it is empty: what follows may be
    /// in what was looked at, a few bytes ahead.
    input: Option<Vec<u8>>,
    has_opened: bool,
    patience: Option<Pin<Box<Sleep>>>,
    closing: Option<Box<Closing>>,
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
        services: Option<Arc<Services>>,
    ) -> Self {
        gate.begin_session();
        Self {
            gate,
            inbound: Inbound::new(message_max),
            patience: None,
            dialect,
            services,
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
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            self.patience = None;
            let acts = self.dialect.waited();
            self.perform(acts);
        }
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
        self.close_further(cx)
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
            Message::Close(_) => {
                // tungstenite answers it, with the next look at what came in.
                self.begin_closing();
                return;
            }
            _ if self.closing.is_some() => return,
            Message::Text(text) => Received::Text(text),
            Message::Binary(bytes) => Received::Binary(bytes),
            _ => return,
        };
        self.gate.counters().received.fetch_add(1, Ordering::Relaxed);
        let acts = self.dialect.receive(received);
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
            && let Some(services) = &self.services
        {
            services.channels.has_room(&self.gate);
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
                Act::Close(reason) => self.close(reason, false),
                Act::Ignore => {
                    self.gate.counters().not_understood.fetch_add(1, Ordering::Relaxed);
                }
                asked => {
                    if let Some(services) = &self.services {
                        ask(services, &self.gate, asked);
                    }
                }
            }
        }
    }

    /// Does what others than the client want.
    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Close(reason) => self.close(reason, true),
            Ending::Bye(reconnect_after) => {
                let (last_word, reason) = self.dialect.bye(reconnect_after);
                if let Some(text) = last_word {
                    self.gate.send_text(&text);
                }
                self.close(reason, false);
            }
        }
    }

    fn close(&mut self, reason: CloseReason, drop_unsent: bool) {
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
        if let Some(services) = &self.services {
            services.channels.gone(&self.gate);
        }
    }
}

/// Asks the hub for what a dialect wants of it. The answer comes through the
/// gate.
fn ask(services: &Arc<Services>, gate: &Arc<Gate>, act: Act) {
    match act {
        Act::Subscribe { only, key, lane, resume, reply, refusal } => {
            let gate = gate.clone();
            let subscribe = Subscribe { gate, only, key, lane, resume, reply, refusal };
            services.channels.subscribe(subscribe);
        }
        Act::Unsubscribe { sub, reply, refusal } => {
            services.channels.unsubscribe(gate, sub, reply, refusal);
        }
        Act::Snapshot { sub, reply, refusal } => {
            services.channels.snapshot(gate, sub, reply, refusal);
        }
        Act::History { query, answer } => look_up(services, gate, query, answer),
        Act::Send(_) | Act::SendBinary(_) | Act::Close(_) | Act::Ignore => {}
    }
}

/// Reads history beside the session, which has other things to do meanwhile.
fn look_up(services: &Arc<Services>, gate: &Arc<Gate>, query: HistoryQuery, answer: HistoryAnswer) {
    gate.ask();
    let (services, gate) = (services.clone(), gate.clone());
    tokio::spawn(async move {
        let found = timeout(READ_MAX, async {
            let _room = services.histories.acquire().await.map_err(|_| StoreError::Stopping)?;
            services.reader.history(query).await
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
