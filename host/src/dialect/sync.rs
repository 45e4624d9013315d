//! The sync of a dashboard's widgets and layouts, as the Next.js dashboard's
//! clients speak it. `docs/sync.md` has an example of every message.
//!
//! Source of the wire: its realtime server of November 2024.

mod message;
mod operation;
mod telling;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::access::Identity;
use crate::channel::Lane;
use crate::clock::{Clock, rfc3339};
use crate::gate::{Beat, CloseReason};
use crate::layouts::ChangeError;
use crate::model::Board;
use crate::session::{Act, Client, Dialect, Goodbye, HubFacts, Received};

use message::{Message, Told, Wrong};
use operation::whole;
use telling::{Changes, outcome, state};

pub use message::Kind;
pub use operation::{Said, Write};
pub use telling::{refusal, result};

/// Its name in lists and in the configuration.
pub const NAME: &str = "sync";

/// The longest message of who may change its board: a batch of several of the
/// largest objects.
const CHANGE_BYTES_MAX: usize = 1024 * 1024;

/// What the original closes with.
const UNAUTHORIZED: CloseReason = CloseReason { code: 1008, words: "Unauthorized" };
const STOPPING: CloseReason = CloseReason { code: 1000, words: "Server shutting down" };
const TIMEOUT: CloseReason = CloseReason { code: 1000, words: "Timeout" };
const DISCONNECTED: CloseReason = CloseReason { code: 1000, words: "Disconnected" };

/// Why somebody has no board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBoard {
    /// It may not see the one that it names, or there can be none of that name.
    Forbidden,
    /// It may see several, and has to name one.
    Unnamed,
}

impl NoBoard {
    /// Why, for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Forbidden => "Forbidden",
            Self::Unnamed => "Forbidden: name a board with ?board=",
        }
    }
}

/// The board that somebody means: the one that it names, or its home.
///
/// # Errors
///
/// It has none.
pub fn board_of(identity: &Identity, named: Option<&str>) -> Result<Board, NoBoard> {
    let Some(name) = named else { return identity.home_board().ok_or(NoBoard::Unnamed) };
    let board = Board::new(name).ok().filter(|board| identity.may_read_board(board));
    board.ok_or(NoBoard::Forbidden)
}

/// One client's state.
pub struct LayoutSync {
    clock: Clock,
    hub: Arc<HubFacts>,
    client: Arc<Client>,
    board: Result<Board, NoBoard>,
    heartbeat: Duration,
}

/// What messages to one client are written with.
#[derive(Clone)]
struct Speaker {
    clock: Clock,
    user: Arc<str>,
}

impl Speaker {
    fn tell(&self, kind: Kind, payload: &Value, answers: Option<&str>) -> String {
        // What is wrong is nobody's.
        let user = if kind == Kind::Nack { "" } else { &*self.user };
        Told::now(&self.clock, kind, user, payload, answers).text()
    }

    fn refuse(&self, words: &str, answers: Option<&str>) -> String {
        self.tell(Kind::Nack, &json!({"error": words}), answers)
    }
}

impl LayoutSync {
    /// A client that has just connected, and the board that it means. After
    /// `heartbeat` of silence it is pinged.
    #[must_use]
    pub fn new(
        clock: Clock,
        hub: Arc<HubFacts>,
        client: Arc<Client>,
        board: Result<Board, NoBoard>,
        heartbeat: Duration,
    ) -> Self {
        Self { clock, hub, client, board, heartbeat }
    }

    /// Obeys a client that is in.
    fn obey(&self, by: Arc<Identity>, board: &Board, message: Message) -> Vec<Act> {
        let Message { kind, id, payload } = message;
        let speaker = Speaker { clock: self.clock.clone(), user: by.user.clone() };
        let answers = id.as_deref();
        match kind {
            Kind::Ping => {
                let payload = json!({"timestamp": rfc3339(self.clock.now_ns())});
                vec![say(speaker.tell(Kind::Pong, &payload, answers))]
            }
            Kind::SyncRequest => vec![self.look(&speaker, board, id, &payload)],
            Kind::Disconnect => vec![Act::Close(DISCONNECTED)],
            // The original's clients acknowledge what they get, and introduce
            // themselves.
            Kind::Ack | Kind::Nack | Kind::Pong | Kind::Connect => Vec::new(),
            Kind::SyncResponse | Kind::SyncError | Kind::ConflictDetected => {
                vec![say(speaker.refuse("only the hub says this", answers))]
            }
            kind => match Write::read(kind, &payload) {
                Ok(write) => vec![self.change(by, speaker, board, id, write)],
                Err(words) => vec![say(speaker.refuse(&words, answers))],
            },
        }
    }

    /// Tells what stands on the board. It is told by who also tells what is done
    /// to it, so that nothing is told twice, and nothing not at all.
    fn look(
        &self,
        speaker: &Speaker,
        board: &Board,
        id: Option<String>,
        payload: &Map<String, Value>,
    ) -> Act {
        let since = match whole(payload, "since") {
            Ok(since) => since,
            Err(words) => return say(speaker.refuse(&words, id.as_deref())),
        };
        let epoch = payload.get("epoch").filter(|epoch| !epoch.is_null());
        // Of a log that was lost nobody knows what came after what.
        let is_known = epoch.is_none_or(|epoch| *epoch == *self.hub.epoch);
        let since = since.filter(|_| is_known);
        let (board, user) = (board.clone(), speaker.user.clone());
        Act::Answer(Box::new(move |feed| state(feed, &board, since, &user, id.as_deref())))
    }

    fn change(
        &self,
        by: Arc<Identity>,
        speaker: Speaker,
        board: &Board,
        id: Option<String>,
        write: Write,
    ) -> Act {
        let (draft, said) = write.draft(board.clone(), id.clone(), Some(self.client.id));
        let answer = move |done| {
            let (kind, payload) = outcome(&said, done);
            speaker.tell(kind, &payload, id.as_deref())
        };
        Act::Change { by, draft, answer: Box::new(answer) }
    }
}

impl Dialect for LayoutSync {
    fn open(&mut self) -> Vec<Act> {
        let Some(identity) = self.client.identity() else {
            self.client.refused("connection", "unauthorized");
            return vec![Act::Close(UNAUTHORIZED)];
        };
        let board = match &self.board {
            Ok(board) => board.clone(),
            Err(none) => {
                self.client.refused("board", none.words());
                return vec![Act::Close(CloseReason { code: 1008, words: none.words() })];
            }
        };
        let may_write = identity.may_write_board(&board);
        let speaker = Speaker { clock: self.clock.clone(), user: identity.user.clone() };
        let timestamp = rfc3339(self.clock.now_ns());
        let payload = json!({"clientId": self.client.id, "timestamp": timestamp});
        let connect = speaker.tell(Kind::Connect, &payload, None);
        let payload = json!({"error": "too many boards are being watched"});
        let changes = Changes::new(board);
        let subscribe = Act::Subscribe {
            only: true,
            key: changes.key(),
            lane: Lane::Log(Box::new(changes)),
            resume: None,
            // It is told that it is in when it is: nothing done from then on
            // escapes it.
            reply: Some((connect, String::new())),
            refusal: speaker.tell(Kind::SyncError, &payload, None),
        };
        let max = may_write.then_some(Act::MessageMax(CHANGE_BYTES_MAX));
        max.into_iter().chain([subscribe]).collect()
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        let (Some(by), Ok(board)) = (self.client.identity(), &self.board) else {
            return Vec::new();
        };
        // The original reads both alike.
        let text = match message {
            Received::Text(text) => Ok(text),
            Received::Binary(bytes) => std::str::from_utf8(bytes),
        };
        let speaker = || Speaker { clock: self.clock.clone(), user: by.user.clone() };
        let read = match text {
            Ok(text) => Message::read(text),
            Err(_) => Err(Wrong { id: None, words: "this is no UTF-8".to_owned() }),
        };
        match read {
            Ok(message) => self.obey(by, board, message),
            Err(Wrong { id, words }) => vec![say(speaker().refuse(&words, id.as_deref()))],
        }
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn waited(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn throttled(&mut self, message: Received<'_>, retry_after: Duration) -> Vec<Act> {
        let Some(by) = self.client.identity() else { return Vec::new() };
        let id = match message {
            Received::Text(text) => Message::id_of(text),
            Received::Binary(bytes) => std::str::from_utf8(bytes).ok().and_then(Message::id_of),
        };
        let speaker = Speaker { clock: self.clock.clone(), user: by.user.clone() };
        let payload = refusal(&ChangeError::Throttled(retry_after)).into();
        vec![say(speaker.tell(Kind::Nack, &payload, id.as_deref()))]
    }

    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason) {
        let reason = match why {
            Goodbye::Stopping(_) => STOPPING,
            Goodbye::Expired | Goodbye::Revoked => UNAUTHORIZED,
        };
        (None, reason)
    }

    fn heartbeat(&self) -> Option<Beat> {
        Some(Beat { interval: self.heartbeat, lost: TIMEOUT })
    }
}

/// Says something after what was said before it, the CONNECT first of all: that
/// goes by the channels.
fn say(text: String) -> Act {
    Act::Answer(Box::new(move |_| text))
}
