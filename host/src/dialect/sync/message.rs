//! Messages: what they are of, how they are read and written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::{Clock, rfc3339};
use crate::events::KEY_BYTES_MAX;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// The client has come in.
    Connect,
    /// It goes.
    Disconnect,
    /// Is anybody there?
    Ping,
    /// Somebody is.
    Pong,
    /// What stands on the board?
    SyncRequest,
    /// That stands on it.
    SyncResponse,
    /// Several objects are set, or deleted.
    SyncUpdate,
    /// The connection is of no use.
    SyncError,
    /// Members of a widget are set.
    WidgetUpdate,
    /// A widget is deleted.
    WidgetDelete,
    /// Several of these at once.
    WidgetBatch,
    /// A layout is set.
    LayoutUpdate,
    /// An object is again what it was.
    LayoutRestore,
    /// A change was not made: it was made on what stands no more.
    ConflictDetected,
    /// What an object is to be after that.
    ConflictResolved,
    /// It is done, and safe.
    Ack,
    /// It is not done.
    Nack,
}

impl Kind {
    /// The kind of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let word = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word);
        Self::deserialize(word).ok()
    }

    /// Whether it changes something.
    #[must_use]
    pub fn is_change(self) -> bool {
        matches!(
            self,
            Self::SyncUpdate
                | Self::WidgetUpdate
                | Self::WidgetDelete
                | Self::WidgetBatch
                | Self::LayoutUpdate
                | Self::LayoutRestore
                | Self::ConflictResolved
        )
    }

    /// Whether it may change several objects at once.
    #[must_use]
    pub(super) fn has_members(self) -> bool {
        matches!(self, Self::SyncUpdate | Self::WidgetBatch)
    }
}

/// What a client has said. Its time and its user are not looked at: the hub has
/// its own clock, and knows who it is.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) id: Option<String>,
    pub(super) payload: Map<String, Value>,
}

/// What a client has said can't be meant.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The message's id, where it could be read.
    pub(super) id: Option<String>,
    /// Why, for people.
    pub(super) words: String,
}

impl Message {
    /// Reads a message.
    pub(super) fn read(text: &str) -> Result<Self, Wrong> {
        let bare = |words: String| Wrong { id: None, words };
        let value: Value = serde_json::from_str(text)
            .map_err(|error| bare(format!("this is no JSON: {error}")))?;
        let Value::Object(mut members) = value else {
            return Err(bare("a message is a JSON object".to_owned()));
        };
        let id = match members.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if id.len() <= KEY_BYTES_MAX => Some(id),
            Some(_) => {
                return Err(bare(format!("`id` is a text of at most {KEY_BYTES_MAX} bytes")));
            }
        };
        let wrong = |words: &str| Wrong { id: id.clone(), words: words.to_owned() };
        let kind = match members.get("type").and_then(Value::as_str) {
            Some(word) => Kind::from_word(word).ok_or_else(|| wrong("this `type` is unknown"))?,
            None => return Err(wrong("`type` is missing")),
        };
        let payload = match members.remove("payload") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(payload)) => payload,
            Some(_) => return Err(wrong("`payload` is a JSON object")),
        };
        Ok(Self { kind, id, payload })
    }

    /// The id of a message that is not looked at further.
    pub(super) fn id_of(text: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Named {
            id: Option<String>,
        }
        let named = serde_json::from_str::<Named>(text).ok()?;
        named.id.filter(|id| id.len() <= KEY_BYTES_MAX)
    }
}

/// A message of the hub.
#[derive(Serialize)]
pub(super) struct Told<'a, P> {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) timestamp: String,
    /// Who has done it, or whom it is for; empty where that is nobody.
    #[serde(rename = "userId")]
    pub(super) user: &'a str,
    pub(super) payload: P,
    /// The id of the message that it answers.
    #[serde(rename = "correlationId", skip_serializing_if = "Option::is_none")]
    pub(super) answers: Option<&'a str>,
}

impl<'a, P: Serialize> Told<'a, P> {
    /// A message of this moment.
    pub(super) fn now(
        clock: &Clock,
        kind: Kind,
        user: &'a str,
        payload: P,
        answers: Option<&'a str>,
    ) -> Self {
        let (now_ns, now_ms) = (clock.now_ns(), clock.now_ms());
        // Without random numbers the hub has failed already.
        let id = id(now_ms, getrandom::u64().unwrap_or_default());
        Self { kind, id, timestamp: rfc3339(now_ns), user, payload, answers }
    }

    /// As it goes out.
    pub(super) fn text(&self) -> String {
        // Nothing in it can't be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An id in the form that the clients' own have: `msg-<ms>-<7 of base 36>`.
pub(super) fn id(time_ms: u64, mut number: u64) -> String {
    let mut letters = [b'0'; 7];
    for letter in letters.iter_mut().rev() {
        let digit = usize::try_from(number % 36).unwrap_or_default();
        *letter = b"0123456789abcdefghijklmnopqrstuvwxyz"[digit];
        number /= 36;
    }
    format!("msg-{time_ms}-{}", String::from_utf8_lossy(&letters))
}
