//! Session-Buddy's live skill metrics: the messages that its clients read.
//!
//! Source of the wire: Session-Buddy's WebSocket server of February 2026.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::access::{Access, Globs};
use crate::channel::{Feed, Lane, StateEncoder, SubId};
use crate::clock::{Clock, iso8601_offset};
use crate::gate::CloseReason;
use crate::model::PluginName;
use crate::session::{Act, Client, Dialect, Goodbye, Received};
use crate::snapshot::{Published, StaleReason};

#[cfg(test)]
mod tests;

/// The plugin that the documents are usually from.
const PLUGIN: &str = "skills";
/// The document that lists skills.
const TOP_SKILLS: &str = "top_skills";
/// The document that lists anomalies.
const ANOMALIES: &str = "anomalies";
/// The rows of each list.
const ROWS_MAX: usize = 10;
/// Clients take the confirmation of their subscription to be the next message
/// after the welcome: for so long nothing else is sent.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a client may take to show its token where one is wanted.
const TOKEN_WITHIN: Duration = Duration::from_secs(5);
/// The longest name of a skill that can be subscribed to.
const SKILL_BYTES_MAX: usize = 1024;

/// What its authors' server closes with that wants a token.
const AUTHENTICATION_FAILED: CloseReason =
    CloseReason { code: 4001, words: "Authentication failed" };

/// One client's state.
pub struct Skills {
    clock: Clock,
    access: Arc<Access>,
    client: Arc<Client>,
    /// The skill that updates are wanted of; all without one.
    wanted: Option<String>,
    /// The first second is over, and updates are under way.
    streaming: bool,
}

impl Skills {
    /// A client that has just connected.
    #[must_use]
    pub fn new(clock: Clock, access: Arc<Access>, client: Arc<Client>) -> Self {
        Self { clock, access, client, wanted: None, streaming: false }
    }

    fn now(&self) -> String {
        iso8601_offset(self.clock.now_ns())
    }

    fn welcome(&self) -> Act {
        let identity = self.client.identity();
        say(&serde_json::json!({
            "type": "connected",
            "message": "Connected to Session-Buddy real-time metrics",
            "authenticated": identity.is_some_and(|identity| identity.is_authenticated),
            "timestamp": self.now(),
        }))
    }

    /// The first message of a client that has to show a token must be one:
    /// `{"token":"…"}`.
    fn authenticate(&self, text: &str) -> Vec<Act> {
        let shown = serde_json::from_str::<Value>(text).ok();
        let token = shown.as_ref().and_then(|shown| shown.get("token")).and_then(Value::as_str);
        match self.access.verify(token.unwrap_or_default()) {
            Ok(identity) => match self.client.identify(identity) {
                Ok(()) => vec![self.welcome(), Act::Wait(PATIENCE)],
                Err(_) => vec![Act::Close(CloseReason::TOO_MANY)],
            },
            Err(refused) => {
                self.client.refused("token", refused.why);
                vec![Act::Close(AUTHENTICATION_FAILED)]
            }
        }
    }

    /// Wants updates of one skill, or of all: from now on, or from the end of
    /// the first second.
    fn want(&mut self, skill: Option<String>) -> Option<Act> {
        self.wanted = skill;
        self.streaming.then(|| self.stream())
    }

    fn stream(&self) -> Act {
        let skill = self.wanted.clone();
        let read = self.client.identity().and_then(|identity| identity.read.clone());
        let rights = read.as_ref().map_or_else(String::new, |read| format!(" read {}", read.key()));
        let key = format!("skills {}{rights}", serde_json::json!(skill));
        Act::Subscribe {
            only: true,
            key,
            lane: Lane::State(Box::new(Updates { skill, read })),
            resume: None,
            reply: None,
            // The wire has no errors, so that there is nothing better to say.
            refusal: r#"{"type":"error","message":"too many subscriptions"}"#.into(),
        }
    }
}

impl Dialect for Skills {
    fn open(&mut self) -> Vec<Act> {
        // Where a token is needed the welcome comes after it.
        let has_come_in = self.client.identity().is_some();
        has_come_in.then(|| self.welcome()).into_iter().collect()
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        // Their authors' server read both alike.
        let text = match message {
            Received::Text(text) => text.into(),
            Received::Binary(bytes) => String::from_utf8_lossy(bytes),
        };
        if self.client.identity().is_none() {
            return self.authenticate(&text);
        }
        let Ok(Value::Object(command)) = serde_json::from_str::<Value>(&text) else {
            return vec![Act::Ignore];
        };
        match command.get("type").and_then(Value::as_str) {
            Some("subscribe") => {
                let named = command.get("skill").filter(|skill| !skill.is_null());
                let named = named.or_else(|| command.get("skill_name"));
                let skill = named.and_then(Value::as_str).map(str::to_owned);
                if skill.as_ref().is_some_and(|skill| skill.len() > SKILL_BYTES_MAX) {
                    return vec![Act::Ignore];
                }
                let confirmation = say(&serde_json::json!({
                    "type": "subscription_confirmed",
                    "skill": skill,
                    "timestamp": self.now(),
                }));
                [confirmation].into_iter().chain(self.want(skill)).collect()
            }
            Some("unsubscribe") => self.want(None).into_iter().collect(),
            Some("ping") => vec![Act::Send(r#"{"type":"pong"}"#.into())],
            _ => vec![Act::Ignore],
        }
    }

    fn patience(&self) -> Option<Duration> {
        Some(match self.client.identity() {
            Some(_) => PATIENCE,
            None => TOKEN_WITHIN,
        })
    }

    fn waited(&mut self) -> Vec<Act> {
        if self.client.identity().is_none() {
            return vec![Act::Close(AUTHENTICATION_FAILED)];
        }
        self.streaming = true;
        vec![self.stream()]
    }

    fn throttled(&mut self, _: Received<'_>, _: Duration) -> Vec<Act> {
        // The wire has no word for it.
        Vec::new()
    }

    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason) {
        let reason = match why {
            Goodbye::Stopping(_) => CloseReason { code: 1001, words: "server shutting down" },
            Goodbye::Expired | Goodbye::Revoked => AUTHENTICATION_FAILED,
        };
        (None, reason)
    }
}

fn say(value: &Value) -> Act {
    Act::Send(value.to_string())
}

/// `metrics_update`, of one skill or of all. Each says all by itself.
struct Updates {
    skill: Option<String>,
    /// Names of documents and series that may be read; `None`: all.
    read: Option<Globs>,
}

impl Updates {
    fn may_read(&self, name: &str) -> bool {
        self.read.as_ref().is_none_or(|read| read.matches(name))
    }

    /// The rows of a document that may be read.
    fn rows<'a>(&self, feed: &'a Feed, name: &str) -> Vec<&'a RawValue> {
        if self.may_read(name) { rows(feed, name) } else { Vec::new() }
    }

    /// The database's anomalies and those that the hub's own detectors have
    /// found on `skill.*` series in the last hour, newest first.
    fn anomalies(&self, feed: &Feed) -> Vec<Anomaly> {
        let stored = self.rows(feed, ANOMALIES);
        let stored =
            stored.iter().filter_map(|row| serde_json::from_str::<Anomaly>(row.get()).ok());
        let of_skills = feed
            .recent()
            .filter(|finding| finding.name.starts_with("skill.") && self.may_read(&finding.name));
        let found = of_skills.filter_map(|f| {
            Some(Anomaly {
                skill_name: f.labels.get("skill")?.clone(),
                detected_at: f.started.replace('Z', "+00:00"),
                anomaly_type: f.finding_type.replace('-', "_"),
                deviation_score: f.deviation.or(Some(f.score)),
            })
        });
        let mut all: Vec<Anomaly> = stored.chain(found).collect();
        all.sort_by_cached_key(|anomaly| Reverse(time_of(&anomaly.detected_at)));
        all.truncate(ROWS_MAX);
        all
    }
}

#[derive(Serialize)]
struct Update<'a> {
    r#type: &'static str,
    timestamp: String,
    data: UpdateData<'a>,
}

#[derive(Serialize)]
struct UpdateData<'a> {
    top_skills: Vec<&'a RawValue>,
    anomalies: Vec<Anomaly>,
}

/// One row of `anomalies`. Clients know these four keys.
#[derive(Clone, Serialize, serde::Deserialize)]
struct Anomaly {
    skill_name: String,
    detected_at: String,
    anomaly_type: String,
    deviation_score: Option<f64>,
}

impl StateEncoder for Updates {
    fn push(&mut self, feed: &mut Feed, _: SubId, text: &mut String) -> bool {
        let rows = self.rows(feed, TOP_SKILLS);
        let (top_skills, anomalies) = match &self.skill {
            None => (rows, self.anomalies(feed)),
            // Nothing on ticks where the skill is not among the ten.
            Some(skill) => match rows.iter().find(|row| is_of(row, skill)) {
                Some(row) => (vec![*row], Vec::new()),
                None => return false,
            },
        };
        let update = Update {
            r#type: "metrics_update",
            timestamp: iso8601_offset(feed.clock.now_ns()),
            data: UpdateData { top_skills, anomalies },
        };
        let Ok(update) = serde_json::to_string(&update) else { return false };
        text.push_str(&update);
        true
    }

    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) {
        self.push(feed, sub, text);
    }

    fn full(&mut self, _: &mut Feed, _: SubId, _: &mut String, _: &mut String) -> bool {
        false
    }

    fn watches(&self, feed: &Feed, plugin: &mut dyn FnMut(&PluginName)) {
        let documents: &[&str] =
            if self.skill.is_some() { &[TOP_SKILLS] } else { &[TOP_SKILLS, ANOMALIES] };
        let shown = documents.iter().filter_map(|name| shown(feed, name));
        let mut plugins: Vec<&PluginName> =
            shown.map(|published| &published.document.plugin).collect();
        let usual = PluginName::from(PLUGIN);
        plugins.push(&usual);
        plugins.sort_unstable();
        plugins.dedup();
        plugins.into_iter().for_each(plugin);
    }
}

fn is_of(row: &RawValue, skill: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Named {
        skill_name: String,
    }
    serde_json::from_str::<Named>(row.get()).is_ok_and(|named| named.skill_name == skill)
}

/// The document of that name. Another collector may publish one too: then the
/// one of the plugin that it is usually from is meant.
fn shown<'a>(feed: &'a Feed, name: &str) -> Option<&'a Published> {
    let named = feed.snapshot.documents.iter().filter(|((_, document), _)| **document == *name);
    let published = named.map(|(_, published)| published);
    published.min_by_key(|published| &*published.document.plugin != PLUGIN)
}

/// The rows of a document that is a list, the first ten; none while its plugin
/// can't do its work.
fn rows<'a>(feed: &'a Feed, name: &str) -> Vec<&'a RawValue> {
    let Some(published) = shown(feed, name) else { return Vec::new() };
    let failed = published
        .stale
        .as_ref()
        .is_some_and(|stale| matches!(stale.reason, StaleReason::Setback(_)));
    if failed {
        return Vec::new();
    }
    let mut rows: Vec<&RawValue> =
        serde_json::from_str(published.document.json.get()).unwrap_or_default();
    rows.truncate(ROWS_MAX);
    rows
}

/// Seconds since the epoch of `YYYY-MM-DD HH:MM:SS` in UTC, or of ISO 8601 with
/// an offset; what is neither is old.
fn time_of(text: &str) -> i128 {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return time.as_nanosecond();
    }
    text.parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
        .map_or(i128::MIN, |zoned| zoned.timestamp().as_nanosecond())
}
