//! What clients say: commands, and what is wrong with those that are none.

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{HistoryQuery, LabelGlobs, MESSAGE_BYTES_MAX, StoreError};
use crate::model::{Series, SeriesId};

/// The longest `id`.
const ID_BYTES_MAX: usize = 64;
/// Label globs in one filter.
const LABEL_GLOBS_MAX: usize = 16;
/// The longest glob.
const GLOB_BYTES_MAX: usize = 256;
/// Points of a history where none are asked for.
pub const POINTS_DEFAULT: usize = 500;

/// A command, by its `op`.
#[derive(Debug)]
pub(super) enum Command {
    Connect(Connect),
    Ping(Ping),
    Subscribe(SubscribeCommand),
    Unsubscribe(UnsubscribeCommand),
    History(HistoryCommand),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    pub(super) token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ping {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscribeCommand {
    pub(super) channel: String,
    filter: Option<FilterText>,
    pub(super) resume: Option<Resume>,
    /// Every tick is the only rate so far.
    max_rate_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct FilterText {
    /// The name of the plugin, whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
    name: Option<String>,
    labels: LabelGlobs,
}

/// Where a client stopped. What it missed is not looked up yet, and its answer
/// says so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    #[expect(dead_code, reason = "checked for its shape; see the type")]
    epoch: String,
    #[expect(dead_code, reason = "checked for its shape; see the type")]
    offset: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnsubscribeCommand {
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
}

/// A time as clients write it: RFC 3339, or milliseconds since the epoch.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Instant {
    Millis(u64),
    Text(String),
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

/// Reads a command. A refusal comes with the id to answer to.
pub(super) fn parse(message: &str) -> Result<(Box<RawValue>, Command), (Box<RawValue>, Refusal)> {
    #[derive(Deserialize)]
    struct Envelope {
        id: Option<Box<RawValue>>,
        op: Option<String>,
    }
    if message.len() > MESSAGE_BYTES_MAX {
        let words = format!("{} bytes, and {MESSAGE_BYTES_MAX} is the limit", message.len());
        return Err((no_id(), Refusal::new("too_large", words)));
    }
    let envelope: Envelope = serde_json::from_str(message)
        .map_err(|error| (no_id(), Refusal::new("bad_json", error.to_string())))?;
    let id = read_id(envelope.id).map_err(|refusal| (no_id(), refusal))?;
    let refuse = |refusal| (id.clone(), refusal);
    let Some(op) = envelope.op else {
        return Err(refuse(Refusal::new("bad_request", "`op` is missing")));
    };
    let body = body(message);
    let command = match &*op {
        "connect" => serde_json::from_value(body).map(Command::Connect),
        "ping" => serde_json::from_value(body).map(Command::Ping),
        "subscribe" => serde_json::from_value(body).map(Command::Subscribe),
        "unsubscribe" => serde_json::from_value(body).map(Command::Unsubscribe),
        "history" => serde_json::from_value(body).map(Command::History),
        other => {
            let words = format!(
                "there is no op {:?}: the ops are connect, subscribe, unsubscribe, history and \
                 ping",
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
    let first = id.get().as_bytes().first().copied().unwrap_or(b'n');
    let plain = first == b'"' || first == b'-' || first.is_ascii_digit();
    if !plain || id.get().len() > ID_BYTES_MAX {
        let words = format!("`id` is not a number or a text of up to {ID_BYTES_MAX} bytes");
        return Err(Refusal::new("bad_request", words));
    }
    Ok(id)
}

impl SubscribeCommand {
    /// Which series are wanted.
    pub(super) fn filter(&self) -> Result<Filter, Refusal> {
        if self.max_rate_ms.is_some_and(|rate| rate > 0) {
            return Err(Refusal::new("bad_request", "max_rate_ms can only be 0: every tick"));
        }
        Filter::new(self.filter.clone().unwrap_or_default())
    }

    /// Refuses a filter on a channel that has none.
    pub(super) fn refuse_filter(&self) -> Result<(), Refusal> {
        if self.filter.is_some() || self.max_rate_ms.is_some() {
            let words = format!("{} takes no filter and no rate", self.channel);
            return Err(Refusal::new("bad_request", words));
        }
        Ok(())
    }
}

/// Globs on the name and on labels; a series must match all of them. The default
/// matches every series.
#[derive(Debug, Default)]
pub(super) struct Filter {
    text: FilterText,
    name: Option<GlobMatcher>,
    labels: Vec<(String, GlobMatcher)>,
}

impl Filter {
    fn new(text: FilterText) -> Result<Self, Refusal> {
        if text.labels.len() > LABEL_GLOBS_MAX {
            let words = format!("{} labels, and {LABEL_GLOBS_MAX} is the limit", text.labels.len());
            return Err(Refusal::new("bad_glob", words));
        }
        let name = text.name.as_deref().map(glob).transpose()?;
        let label = |(key, text): (&String, &String)| Ok::<_, Refusal>((key.clone(), glob(text)?));
        let labels = text.labels.iter().map(label).collect::<Result<_, _>>()?;
        Ok(Self { text, name, labels })
    }

    /// Everything of one plugin.
    pub(super) fn of_plugin(plugin: String) -> Self {
        let text = FilterText { plugin: Some(plugin), ..FilterText::default() };
        Self { text, ..Self::default() }
    }

    /// The same for the same filter.
    pub(super) fn key(&self) -> String {
        serde_json::to_string(&self.text).unwrap_or_default()
    }

    pub(super) fn matches(&self, series: &Series) -> bool {
        self.text.plugin.as_ref().is_none_or(|plugin| **plugin == **series.plugin())
            && self.name.as_ref().is_none_or(|glob| glob.is_match(series.name()))
            && self.labels.iter().all(|(key, glob)| {
                series.labels().get(key).is_some_and(|value| glob.is_match(value))
            })
    }
}

fn glob(text: &str) -> Result<GlobMatcher, Refusal> {
    if text.len() > GLOB_BYTES_MAX {
        let words = format!("a glob of {} bytes, and {GLOB_BYTES_MAX} is the limit", text.len());
        return Err(Refusal::new("bad_glob", words));
    }
    let glob = Glob::new(text)
        .map_err(|error| Refusal::new("bad_glob", format!("{text:?}: {}", error.kind())))?;
    Ok(glob.compile_matcher())
}

impl HistoryCommand {
    pub(super) fn query(&self, now_ms: u64) -> Result<HistoryQuery, Refusal> {
        let read = |time: &Option<Instant>, otherwise| match time {
            None => Ok(otherwise),
            Some(Instant::Millis(ms)) => Ok(*ms),
            Some(Instant::Text(text)) => instant(text),
        };
        let to_ms = read(&self.to, now_ms)?;
        let from_ms = read(&self.from, to_ms.saturating_sub(3_600_000))?;
        Ok(HistoryQuery {
            series: SeriesId(self.series),
            from_ms,
            to_ms,
            points_max: self.points.unwrap_or(POINTS_DEFAULT),
            raw: self.raw,
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
