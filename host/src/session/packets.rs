//! A client whose transport takes and brings whole messages, and is driven by
//! somebody else: the Socket.IO dialect over Engine.IO. What it is sent goes
//! through a gate as everybody's does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::{Act, Dialect, Goodbye, Home, Received, Throttled};
use crate::gate::{CloseReason, Ending, PacketGate, Piece};

/// How long a client is waited for that has been told to go.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// How soon a message is tried again that the transport had no room for: it
/// doesn't tell when it has. Less and less often where nothing moves.
const RETRY: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(50);
/// Messages that wait while enough commands are under way: this transport can't
/// be told to wait …
const INBOX_MAX: usize = 64;
/// … and their bytes.
const INBOX_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One client, from its first message to its last.
pub struct PacketSession {
    gate: PacketGate,
    home: Home,
    state: Mutex<State>,
    /// How often there was something to do since it was last done.
    wakes: AtomicU32,
    waker: Waker,
}

struct State {
    dialect: Box<dyn Dialect>,
    inbox: VecDeque<Message>,
    inbox_bytes: usize,
    is_closing: bool,
}

enum Message {
    Text(String),
    Binary(Vec<u8>),
}

impl Message {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Wakes a session that may have gone.
struct WeakWaker(Weak<PacketSession>);

impl Wake for WeakWaker {
    fn wake(self: Arc<Self>) {
        if let Some(session) = self.0.upgrade() {
            session.has_work();
        }
    }
}

impl PacketSession {
    /// A client has connected. Needs a tokio runtime.
    #[must_use]
    pub fn start(gate: PacketGate, dialect: Box<dyn Dialect>, home: Home) -> Arc<Self> {
        let patience = dialect.patience();
        let inbox = VecDeque::new();
        let state = State { dialect, inbox, inbox_bytes: 0, is_closing: false };
        let session = Arc::new_cyclic(|session: &Weak<Self>| Self {
            gate,
            home,
            state: Mutex::new(state),
            wakes: AtomicU32::new(0),
            waker: Waker::from(Arc::new(WeakWaker(session.clone()))),
        });
        let mut state = session.lock();
        let acts = state.dialect.open();
        session.perform(acts, &mut state);
        drop(state);
        if let Some(patience) = patience {
            let session = Arc::downgrade(&session);
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                if let Some(session) = session.upgrade() {
                    session.has_waited();
                }
            });
        }
        // From here on it is woken.
        session.has_work();
        session
    }

    /// A message of the client.
    pub fn receive(self: &Arc<Self>, message: Received<'_>) {
        let mut state = self.lock();
        if state.is_closing {
            return;
        }
        self.gate.count_received();
        if let Err(Throttled { retry_after, is_abuse }) = self.home.client.message() {
            // Refusals that nobody reads are not piled up: this transport can't be
            // told to wait.
            let acts = match is_abuse || self.gate.is_full() {
                true => vec![Act::Close(CloseReason::ABUSE)],
                false => state.dialect.throttled(message, retry_after),
            };
            return self.perform(acts, &mut state);
        }
        if state.inbox.is_empty() && !self.gate.is_full() {
            let acts = state.dialect.receive(message);
            return self.perform(acts, &mut state);
        }
        let message = match message {
            Received::Text(text) => Message::Text(text.to_owned()),
            Received::Binary(bytes) => Message::Binary(bytes.to_vec()),
        };
        state.inbox_bytes += message.len();
        state.inbox.push_back(message);
        if state.inbox.len() > INBOX_MAX || state.inbox_bytes > INBOX_BYTES_MAX {
            self.close(CloseReason::TOO_MUCH, &mut state);
        }
    }

    /// The transport has ended.
    pub fn ended(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        state.inbox = VecDeque::new();
        drop(state);
        self.gate.cut();
        self.home.services.channels.gone(&self.gate);
    }

    fn has_waited(&self) {
        let mut state = self.lock();
        if !state.is_closing {
            let acts = state.dialect.waited();
            self.perform(acts, &mut state);
        }
    }

    fn has_work(self: &Arc<Self>) {
        if self.wakes.fetch_add(1, Ordering::AcqRel) == 0 {
            tokio::spawn(self.clone().work());
        }
    }

    /// Does what is to be done, and ends.
    async fn work(self: Arc<Self>) {
        let mut pause = RETRY;
        loop {
            let wakes = self.wakes.load(Ordering::Acquire);
            // Looked at each time: who is stuck is sent away too.
            if let Some(ending) = self.gate.attend(&self.waker) {
                self.end(ending);
            }
            let waiting = self.gate.waiting();
            if !self.gate.has_ended() && !self.gate.flush() {
                let has_moved = self.gate.waiting() < waiting;
                pause = if has_moved { RETRY } else { (pause * 2).min(RETRY_MAX) };
                tokio::time::sleep(pause).await;
                continue;
            }
            if self.gate.has_gone() {
                self.home.services.channels.has_room(&self.gate);
            }
            self.read_inbox();
            if self.wakes.compare_exchange(wakes, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    fn read_inbox(&self) {
        let mut state = self.lock();
        while !state.is_closing
            && !self.gate.is_full()
            && let Some(message) = state.inbox.pop_front()
        {
            state.inbox_bytes -= message.len();
            let acts = match &message {
                Message::Text(text) => state.dialect.receive(Received::Text(text)),
                Message::Binary(bytes) => state.dialect.receive(Received::Binary(bytes)),
            };
            self.perform(acts, &mut state);
        }
        if state.inbox.is_empty() {
            state.inbox = VecDeque::new();
        }
    }

    fn perform(&self, acts: Vec<Act>, state: &mut State) {
        for act in acts {
            match act {
                Act::Send(text) => self.gate.send_text(&text),
                Act::SendBinary(bytes) => {
                    self.gate.send([Piece::binary(&bytes, self.gate.budget())]);
                }
                Act::Close(reason) => self.close(reason, state),
                Act::Ignore => {
                    self.gate.counters().not_understood.fetch_add(1, Ordering::Relaxed);
                }
                asked => self.home.ask(&self.gate, asked),
            }
        }
    }

    fn end(&self, ending: Ending) {
        let mut state = self.lock();
        if state.is_closing {
            return;
        }
        let why = match ending {
            Ending::Close(reason) => return self.close(reason, &mut state),
            Ending::Bye(reconnect_after) => Goodbye::Stopping(reconnect_after),
            Ending::Expired => Goodbye::Expired,
            Ending::Revoked => Goodbye::Revoked,
        };
        let (last_word, reason) = state.dialect.goodbye(why);
        if let Some(text) = last_word {
            self.gate.send_text(&text);
        }
        self.close(reason, &mut state);
    }

    fn close(&self, reason: CloseReason, state: &mut State) {
        if std::mem::replace(&mut state.is_closing, true) {
            return;
        }
        self.home.client.ends(reason.code, reason.words);
        state.inbox = VecDeque::new();
        self.home.client.ends(reason.code, reason.words);
        self.gate.close();
        // It may be stuck in the middle of a message.
        let gate = self.gate.clone();
        tokio::spawn(async move {
            tokio::time::sleep(CLOSE_MAX).await;
            gate.cut();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for PacketSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketSession")
            .field("client", &self.home.client.id)
            .finish_non_exhaustive()
    }
}
