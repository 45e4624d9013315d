//! Events: something that happened, and the rooms that it goes to.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::RuleBroken;

/// The longest data of an event: what the Socket.IO clients of the event rooms
/// may send and are sent.
pub const EVENT_DATA_BYTES_MAX: usize = 1_000_000;
/// The longest type, and the longest source, in bytes.
pub const EVENT_WORD_BYTES_MAX: usize = 128;
/// The most rooms that one event goes to.
pub const EVENT_ROOMS_MAX: usize = 64;

/// A room's name: `global`, or a kind and an id, such as `project:42`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Room(Arc<str>);

impl Room {
    /// The longest name in bytes.
    pub const BYTES_MAX: usize = 256;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// It is empty, too long, does not begin with a letter, or has a character
    /// that is not printable.
    pub fn new(name: &str) -> Result<Self, RuleBroken> {
        let legal = |c: char| !c.is_control() && !c.is_whitespace();
        if name.len() <= Self::BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && !name.ends_with(':')
            && name.chars().all(legal)
        {
            return Ok(Self(name.into()));
        }
        let shown: String = name.chars().take(64).collect();
        Err(RuleBroken::new(format!(
            "{shown:?} is no room: a room is `global`, or a kind and an id such as `project:42`, \
             {} bytes in all, without spaces",
            Self::BYTES_MAX
        )))
    }

    /// The room that every client of the event rooms is in.
    #[must_use]
    pub fn global() -> Self {
        Self("global".into())
    }

    /// A user's own room.
    ///
    /// # Errors
    ///
    /// As [`Room::new`].
    pub fn of_user(user: &str) -> Result<Self, RuleBroken> {
        Self::new(&format!("user:{user}"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> serde::Deserialize<'de> for Room {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connection's public number: never used again, and no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ConnectionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An event as its publisher has it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// A dotted type, such as `pr.created`.
    pub kind: String,
    /// Who says so, in the publisher's words.
    pub source: String,
    /// A JSON value, mostly an object.
    pub data: Box<RawValue>,
    /// Where it goes; `None`: where events of its type go by what its data says.
    pub rooms: Option<Vec<Room>>,
    /// It also goes to all connections of this user.
    pub user: Option<String>,
    /// This connection is not sent it.
    pub exclude: Option<ConnectionId>,
}

/// What the publisher of an event is told once it is safe.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// The event's own name.
    pub id: String,
    /// Its number in the log.
    pub offset: u64,
    /// Where it went.
    pub rooms: Vec<String>,
}
