//! Session-Buddy's live skill metrics: the messages that its clients read.
//!
//! Source of the wire: Session-Buddy's WebSocket server of February 2026.

use std::cmp::Reverse;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::channel::{Feed, Lane, StateEncoder, SubId};
use crate::clock::{Clock, iso8601_offset};
use crate::gate::CloseReason;
use crate::model::PluginName;
use crate::session::{Act, Dialect, Received};
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
/// The longest name of a skill that can be subscribed to.
const SKILL_BYTES_MAX: usize = 1024;

/// One client's state.
pub struct Skills {
    clock: Clock,
    /// The skill that updates are wanted of; all without one.
    wanted: Option<String>,
    /// The first second is over, and updates are under way.
    streaming: bool,
}

impl Skills {
    /// A client that has just connected.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, wanted: None, streaming: false }
    }

    fn now(&self) -> String {
        iso8601_offset(self.clock.now_ns())
    }

    /// Wants updates of one skill, or of all: from now on, or from the end of
    /// the first second.
    fn want(&mut self, skill: Option<String>) -> Option<Act> {
        self.wanted = skill;
        self.streaming.then(|| self.stream())
    }

    fn stream(&self) -> Act {
        let skill = self.wanted.clone();
        let key = format!("skills {}", serde_json::json!(skill));
        Act::Subscribe {
            only: true,
            key,
            lane: Lane::State(Box::new(Updates { skill })),
            resume: None,
            reply: None,
            // The wire has no errors, so that there is nothing better to say.
            refusal: r#"{"type":"error","message":"too many subscriptions"}"#.into(),
        }
    }
}

impl Dialect for Skills {
    fn open(&mut self) -> Vec<Act> {
        vec![say(&serde_json::json!({
            "type": "connected",
            "message": "Connected to Session-Buddy real-time metrics",
            "authenticated": false,
            "timestamp": self.now(),
        }))]
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        // Their authors' server read both alike.
        let text = match message {
            Received::Text(text) => text.into(),
            Received::Binary(bytes) => String::from_utf8_lossy(bytes),
        };
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
        Some(PATIENCE)
    }

    fn waited(&mut self) -> Vec<Act> {
        self.streaming = true;
        vec![self.stream()]
    }

    fn bye(&mut self, _: Duration) -> (Option<String>, CloseReason) {
        (None, CloseReason { code: 1001, words: "server shutting down" })
    }
}

fn say(value: &Value) -> Act {
    Act::Send(value.to_string())
}

/// `metrics_update`, of one skill or of all. Each says all by itself.
struct Updates {
    skill: Option<String>,
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
        let rows = rows(feed, TOP_SKILLS);
        let (top_skills, anomalies) = match &self.skill {
            None => (rows, anomalies(feed)),
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

/// The database's anomalies and those that the hub's own detectors have found
/// on `skill.*` series in the last hour, newest first.
fn anomalies(feed: &Feed) -> Vec<Anomaly> {
    let stored = rows(feed, ANOMALIES);
    let stored = stored.iter().filter_map(|row| serde_json::from_str::<Anomaly>(row.get()).ok());
    let found =
        feed.recent().filter(|finding| finding.name.starts_with("skill.")).filter_map(|f| {
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
