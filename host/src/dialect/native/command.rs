//! What clients say: commands, and what is wrong with those that are none.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::diff::DiffCommand;
use super::layouts::{Put, VersionsCommand};
use super::subscribe::SubscribeCommand;
use crate::events::form::Form;
use crate::model::SeriesId;
use crate::store::{HistoryQuery, StoreError};

/// The longest `id`.
const ID_BYTES_MAX: usize = 64;
/// Points of a history where none are asked for.
pub const POINTS_DEFAULT: usize = 500;

/// A command, by its `op`.
#[derive(Debug)]
pub(super) enum Command {
    Connect(Connect),
    Refresh(Refresh),
    Ping(Ping),
    Subscribe(SubscribeCommand),
    Unsubscribe(OneOf),
    Snapshot(OneOf),
    Presence(InRoom),
    Publish(Box<Form>),
    Put(Box<Put>),
    Versions(VersionsCommand),
    History(HistoryCommand),
    Diff(DiffCommand),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    pub(super) token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    pub(super) token: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ping {}

/// Something of a room.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InRoom {
    pub(super) room: String,
}

/// One of the client's subscriptions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneOf {
    pub(super) sub: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryCommand {
    series: u32,
    from: Option<Instant>,
    to: Option<Instant>,
    points: Option<usize>,
    #[serde(default)]
    raw: bool,
    #[serde(default)]
    anomalies: bool,
}

/// A time as clients write it: RFC 3339, or milliseconds since the epoch.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Instant {
    Millis(u64),
    Text(String),
}

impl Instant {
    /// In milliseconds since the epoch.
    pub(super) fn ms(&self) -> Result<u64, Refusal> {
        match self {
            Self::Millis(ms) => Ok(*ms),
            Self::Text(text) => instant(text),
        }
    }
}

/// Why a command is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// A word that programs can compare.
    pub code: &'static str,
    /// In words.
    pub reason: String,
    /// The same command may do later.
    pub temporary: bool,
    /// When, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal for good.
    #[must_use]
    pub fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), temporary: false, retry_after_ms: None }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchSeries(_) => Self::new("not_found", error.to_string()),
            StoreError::TooSlow => Self::new("too_slow", error.to_string()),
            StoreError::Stopping => {
                let words = "too many histories are being read: ask again in a moment";
                Self { temporary: true, ..Self::new("unavailable", words) }
            }
            // What the store says of its files is for the operator.
            other => {
                tracing::warn!(error = %other, "history could not be read");
                let temporary = Self::new("unavailable", "the history cannot be read just now");
                Self { temporary: true, ..temporary }
            }
        }
    }
}

/// An id for answers to what has none.
fn no_id() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// The id to answer to, of a command that is not read.
pub(super) fn id_of(message: &str) -> Box<RawValue> {
    #[derive(Deserialize)]
    struct Numbered {
        id: Option<Box<RawValue>>,
    }
    let numbered = serde_json::from_str::<Numbered>(message).ok();
    numbered.and_then(|numbered| read_id(numbered.id).ok()).unwrap_or_else(no_id)
}

/// Reads a command. A refusal comes with the id to answer to.
pub(super) fn parse(message: &str) -> Result<(Box<RawValue>, Command), (Box<RawValue>, Refusal)> {
    #[derive(Deserialize)]
    struct Envelope {
        id: Option<Box<RawValue>>,
        op: Option<String>,
    }
    let envelope: Envelope = serde_json::from_str(message)
        .map_err(|error| (no_id(), Refusal::new("bad_json", error.to_string())))?;
    let id = read_id(envelope.id).map_err(|refusal| (no_id(), refusal))?;
    let refuse = |refusal| (id.clone(), refusal);
    let Some(op) = envelope.op else {
        return Err(refuse(Refusal::new("bad_request", "`op` is missing")));
    };
    // What is published or put is kept as it was written.
    let body = if matches!(&*op, "publish" | "put") { Default::default() } else { body(message) };
    let command = match &*op {
        "publish" => serde_json::from_str(message).map(Command::Publish),
        "put" => serde_json::from_str(message).map(Command::Put),
        "connect" => serde_json::from_value(body).map(Command::Connect),
        "refresh" => serde_json::from_value(body).map(Command::Refresh),
        "ping" => serde_json::from_value(body).map(Command::Ping),
        "subscribe" => serde_json::from_value(body).map(Command::Subscribe),
        "unsubscribe" => serde_json::from_value(body).map(Command::Unsubscribe),
        "presence" => serde_json::from_value(body).map(Command::Presence),
        "snapshot" => serde_json::from_value(body).map(Command::Snapshot),
        "history" => serde_json::from_value(body).map(Command::History),
        "diff" => serde_json::from_value(body).map(Command::Diff),
        "versions" => serde_json::from_value(body).map(Command::Versions),
        other => {
            let words = format!(
                "there is no op {:?}: the ops are connect, refresh, subscribe, unsubscribe, \
                 snapshot, history, diff, publish, presence, put, versions and ping",
                cut(other)
            );
            return Err(refuse(Refusal::new("unknown_op", words)));
        }
    };
    match command {
        Ok(command) => Ok((id, command)),
        Err(error) => Err(refuse(Refusal::new("bad_request", error.to_string()))),
    }
}

/// What a command says beside its id and its op.
fn body(message: &str) -> serde_json::Value {
    let mut body: serde_json::Value = serde_json::from_str(message).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("id");
        fields.remove("op");
    }
    body
}

/// A command's id: a number or a short text, repeated as it stands.
fn read_id(id: Option<Box<RawValue>>) -> Result<Box<RawValue>, Refusal> {
    let Some(id) = id else {
        return Err(Refusal::new("bad_request", "`id` is missing: a number or a text"));
    };
    // Read, and not only looked at: some that are well-formed can't be written
    // again (`1e999`, half a surrogate pair).
    let is_plain = id.get().len() <= ID_BYTES_MAX
        && serde_json::from_str(id.get())
            .is_ok_and(|id: serde_json::Value| id.is_number() || id.is_string());
    if !is_plain {
        let words = format!("`id` is not a number or a text of up to {ID_BYTES_MAX} bytes");
        return Err(Refusal::new("bad_request", words));
    }
    Ok(id)
}

impl HistoryCommand {
    pub(super) fn query(&self, now_ms: u64) -> Result<HistoryQuery, Refusal> {
        let read =
            |time: &Option<Instant>, otherwise| time.as_ref().map_or(Ok(otherwise), Instant::ms);
        let to_ms = read(&self.to, now_ms)?;
        let from_ms = read(&self.from, to_ms.saturating_sub(3_600_000))?;
        Ok(HistoryQuery {
            series: SeriesId(self.series),
            from_ms,
            to_ms,
            points_max: self.points.unwrap_or(POINTS_DEFAULT),
            raw: self.raw,
            anomalies: self.anomalies,
        })
    }
}

/// Milliseconds since the epoch of a time as clients write it.
///
/// # Errors
///
/// It is neither RFC 3339 nor a number.
pub fn instant(text: &str) -> Result<u64, Refusal> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time_ns = crate::clock::parse_rfc3339(text).ok_or_else(|| {
        let words = format!("{:?} is neither RFC 3339 nor milliseconds since the epoch", cut(text));
        Refusal::new("bad_request", words)
    })?;
    Ok(time_ns / 1_000_000)
}

/// The start of a stranger's text, for messages.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}
