//! Entries of the log channels: ordered, numbered, kept.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::value::RawValue;

/// The log channels that the hub itself feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogChannel {
    /// Findings that open and close.
    Findings,
    /// The lives of plugins, and the hub's own.
    Hub,
}

impl LogChannel {
    /// The channel's name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Findings => "findings",
            Self::Hub => "hub",
        }
    }

    /// The channel of that name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "findings" => Some(Self::Findings),
            "hub" => Some(Self::Hub),
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
        Ok(Self { channel, time_ms, body: serde_json::value::to_raw_value(body)? })
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
