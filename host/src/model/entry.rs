//! Entries of the log channels: ordered, numbered, kept.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use super::{ConnectionId, Room};

/// What an entry of the log is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogChannel {
    /// Findings that open and close.
    Findings,
    /// The same of detectors that run in the shadow of others: recorded, and
    /// told to those alone who ask for them.
    Shadow,
    /// The lives of plugins, and the hub's own.
    Hub,
    /// Events. Clients don't subscribe to all of them, but to rooms.
    Events,
}

/// What a client subscribes to of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// All findings, all of shadows, or all of the hub's own.
    Channel(LogChannel),
    /// The events of a room.
    Room(Room),
}

impl LogChannel {
    /// The channel's name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Findings => "findings",
            Self::Shadow => "shadow",
            Self::Hub => "hub",
            Self::Events => "events",
        }
    }

    /// The channel of that name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "findings" => Some(Self::Findings),
            "shadow" => Some(Self::Shadow),
            "hub" => Some(Self::Hub),
            "events" => Some(Self::Events),
            _ => None,
        }
    }
}

/// Something to be kept, before it has a number.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it goes.
    pub channel: LogChannel,
    /// When it happened: wall time in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What clients are told: a JSON object.
    pub body: Box<RawValue>,
    /// Where an event goes; of other entries nobody asks.
    pub route: Option<Arc<Route>>,
}

/// Where an event goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Route {
    /// Its rooms, each once.
    pub rooms: Vec<Room>,
    /// The connection that is not sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<ConnectionId>,
}

impl Entry {
    /// An entry whose body is `body` as JSON.
    ///
    /// # Errors
    ///
    /// `body` can't be written as JSON.
    pub fn new(
        channel: LogChannel,
        time_ms: u64,
        body: &impl serde::Serialize,
    ) -> Result<Self, serde_json::Error> {
        let body = serde_json::value::to_raw_value(body)?;
        Ok(Self { channel, time_ms, body, route: None })
    }

    /// An event that goes to these rooms.
    ///
    /// # Errors
    ///
    /// `body` can't be written as JSON.
    pub fn event(
        time_ms: u64,
        route: Route,
        body: &impl serde::Serialize,
    ) -> Result<Self, serde_json::Error> {
        let entry = Self::new(LogChannel::Events, time_ms, body)?;
        Ok(Self { route: Some(Arc::new(route)), ..entry })
    }

    /// The topics that it is of.
    pub fn topics(&self) -> impl Iterator<Item = Topic> {
        let rooms = self.rooms().iter().cloned().map(Topic::Room);
        let is_event = self.channel == LogChannel::Events;
        (!is_event).then_some(Topic::Channel(self.channel)).into_iter().chain(rooms)
    }

    /// Whether it is of a topic.
    #[must_use]
    pub fn is_of(&self, topic: &Topic) -> bool {
        match topic {
            Topic::Channel(channel) => *channel == self.channel,
            Topic::Room(room) => self.rooms().contains(room),
        }
    }

    /// Where it goes, if it is an event.
    #[must_use]
    pub fn rooms(&self) -> &[Room] {
        self.route.as_ref().map_or(&[], |route| &route.rooms)
    }

    /// Whether a connection is not sent it.
    #[must_use]
    pub fn excludes(&self, connection: Option<ConnectionId>) -> bool {
        let excluded = self.route.as_ref().and_then(|route| route.exclude);
        excluded.is_some() && excluded == connection
    }
}

/// An entry that is safe: numbered in the transaction that wrote it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its number. One sequence numbers all log channels of a hub.
    pub offset: u64,
    /// What was kept.
    pub entry: Entry,
    subject: OnceLock<Subject>,
}

/// What an entry is about: what filters ask for. Empty where its body doesn't
/// say.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Subject {
    /// The plugin, or the one that the series of a finding comes from.
    pub plugin: String,
    /// The name of a finding's series.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// An event's type.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Logged {
    /// `entry`, with its number.
    #[must_use]
    pub fn new(offset: u64, entry: Entry) -> Self {
        Self { offset, entry, subject: OnceLock::new() }
    }

    /// What it is about. Its body is read once, whoever asks, and only if
    /// somebody does.
    pub fn subject(&self) -> &Subject {
        let read = || serde_json::from_str(self.entry.body.get()).unwrap_or_default();
        self.subject.get_or_init(read)
    }
}
