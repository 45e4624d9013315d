//! The AI cost optimizer's routing metrics: bare objects, the newest at once and
//! then at an interval of each client's own.
//!
//! Source of the wire: its WebSocket endpoint `/ws/metrics` of November 2025.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::access::Identity;
use crate::channel::{Feed, Lane, StateEncoder, SubId};
use crate::clock::{Clock, iso8601_naive};
use crate::gate::CloseReason;
use crate::model::{Document, PluginName};
use crate::session::{Act, Dialect, Goodbye, Received};
use crate::snapshot::{Published, StaleReason};

#[cfg(test)]
mod tests;

/// Its name in lists and in the configuration.
pub const NAME: &str = "routing";

/// The document that is told, and the plugin that it is usually from.
const DOCUMENT: &str = "routing";
/// The member that tells when, in every object.
const TIMESTAMP: &str = "timestamp";
/// The members that one client may name.
const FIELDS_MAX: usize = 32;
/// … and their bytes.
const FIELD_BYTES_MAX: usize = 128;

/// Whether a client may have what is told here.
#[must_use]
pub fn may_read(identity: &Identity) -> bool {
    identity.read.as_ref().is_none_or(|read| read.matches(DOCUMENT))
}

/// What a client wants of the metrics, by the query of its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The members that it wants, each once and in their order; all without.
    pub fields: Option<Box<[String]>>,
    /// Only what has changed.
    pub on_change: bool,
}

impl Wants {
    /// Reads `fields=a,b&on=change`. Other parameters are none of its business.
    ///
    /// # Errors
    ///
    /// What can't be meant, in words.
    pub fn read(query: &str) -> Result<Self, String> {
        let mut wants = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, &*value) {
                ("fields", list) => wants.fields = Some(fields(list)?),
                ("on", "change") => wants.on_change = true,
                ("on", other) => return Err(format!("on={other} is not known: on=change is")),
                _ => {}
            }
        }
        Ok(wants)
    }

    /// Clients with the same key are told the same.
    fn key(&self) -> String {
        let on = if self.on_change { "change" } else { "interval" };
        format!("routing {on} {}", serde_json::json!(self.fields))
    }
}

fn fields(list: &str) -> Result<Box<[String]>, String> {
    let mut fields: Vec<String> = list.split(',').map(|field| field.trim().to_owned()).collect();
    fields.sort_unstable();
    fields.dedup();
    if fields.iter().any(String::is_empty) {
        return Err("fields names members with commas between them: fields=a,b".to_owned());
    }
    if fields.len() > FIELDS_MAX || fields.iter().any(|field| field.len() > FIELD_BYTES_MAX) {
        return Err(format!("fields names at most {FIELDS_MAX} of {FIELD_BYTES_MAX} bytes each"));
    }
    Ok(fields.into())
}

/// One client's state.
pub struct Routing {
    clock: Clock,
    /// How long a tick is.
    tick: Duration,
    interval: Duration,
    wants: Wants,
}

impl Routing {
    /// A client that has just connected. `tick`: how long one is.
    #[must_use]
    pub fn new(clock: Clock, tick: Duration, interval: Duration, wants: Wants) -> Self {
        Self { clock, tick, interval, wants }
    }

    /// What is said to a client that can't be told what it wants.
    fn refusal(&self) -> String {
        let mut text = String::new();
        write_failure(&mut text, &self.clock);
        text
    }
}

impl Dialect for Routing {
    fn open(&mut self) -> Vec<Act> {
        let every = self.interval.as_nanos().div_ceil(self.tick.as_nanos().max(1));
        let every = u64::try_from(every).unwrap_or(u64::MAX);
        let subscribe = Act::Subscribe {
            only: true,
            key: self.wants.key(),
            lane: Lane::State(Box::new(Latest::new(self.wants.clone(), every))),
            resume: None,
            reply: Some((String::new(), String::new())),
            refusal: self.refusal(),
        };
        match self.wants.on_change {
            true => vec![subscribe],
            false => vec![subscribe, Act::Wait(self.interval)],
        }
    }

    fn receive(&mut self, _: Received<'_>) -> Vec<Act> {
        // Their authors' server never listened.
        Vec::new()
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn waited(&mut self) -> Vec<Act> {
        let refresh = Act::Refresh { key: self.wants.key(), refusal: self.refusal() };
        vec![refresh, Act::Wait(self.interval)]
    }

    fn throttled(&mut self, _: Received<'_>, _: Duration) -> Vec<Act> {
        Vec::new()
    }

    fn goodbye(&mut self, why: Goodbye) -> (Option<String>, CloseReason) {
        let reason = match why {
            Goodbye::Stopping(_) => CloseReason { code: 1001, words: "server shutting down" },
            Goodbye::Expired => CloseReason::EXPIRED,
            Goodbye::Revoked => CloseReason::REVOKED,
        };
        (None, reason)
    }
}

/// Writes what is told where there are no metrics.
fn write_failure(text: &mut String, clock: &Clock) {
    let now = iso8601_naive(clock.now_ns());
    // Writing to a string can't fail.
    let _ = write!(text, r#"{{"error":"Failed to fetch metrics","{TIMESTAMP}":"{now}"}}"#);
}

/// The newest metrics, as far as they are wanted.
struct Latest {
    wants: Wants,
    /// How many ticks lie between two pushes, at least.
    every: u64,
    /// None where there are none, or they could not be got.
    document: Option<Arc<Document>>,
    /// What is told of it, where that is not all.
    part: Option<String>,
    /// What is told of it but for its time, where that is looked at.
    timeless: Option<String>,
    /// The same of the last push, and its tick.
    pushed: Option<(Option<String>, u64)>,
}

impl Latest {
    fn new(wants: Wants, every: u64) -> Self {
        let (document, part, timeless, pushed) = (None, None, None, None);
        Self { wants, every, document, part, timeless, pushed }
    }

    /// Takes what is wanted out of the document.
    fn look(&mut self) {
        (self.part, self.timeless) = (None, None);
        let Some(document) = &self.document else { return };
        if self.wants.fields.is_none() && !self.wants.on_change {
            return;
        }
        let Ok(mut members) = members(document) else { return };
        if let Some(fields) = &self.wants.fields {
            members.retain(|name, _| name == TIMESTAMP || fields.binary_search(name).is_ok());
            self.part = serde_json::to_string(&members).ok();
        }
        if self.wants.on_change {
            members.remove(TIMESTAMP);
            self.timeless = serde_json::to_string(&members).ok();
        }
    }

    fn write(&self, text: &mut String, clock: &Clock) {
        match (&self.document, &self.part) {
            (None, _) => write_failure(text, clock),
            (Some(_), Some(part)) => text.push_str(part),
            (Some(document), None) => text.push_str(document.json.get()),
        }
    }
}

fn members(document: &Document) -> serde_json::Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(document.json.get())
}

impl StateEncoder for Latest {
    fn observe(&mut self, feed: &Feed) {
        let document = latest(feed);
        let is_known = match (&self.document, document) {
            (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
            (None, None) => true,
            _ => false,
        };
        if !is_known {
            self.document = document.cloned();
            self.look();
        }
    }

    fn push(&mut self, feed: &mut Feed, _: SubId, text: &mut String) -> bool {
        if !self.wants.on_change {
            return false;
        }
        let tick = feed.snapshot.tick.number;
        if let Some((timeless, at)) = &self.pushed
            && (*timeless == self.timeless || tick < at.saturating_add(self.every))
        {
            return false;
        }
        self.pushed = Some((self.timeless.clone(), tick));
        self.write(text, &feed.clock);
        true
    }

    fn state(&mut self, feed: &mut Feed, _: SubId, text: &mut String) {
        self.write(text, &feed.clock);
    }

    fn full(&mut self, feed: &mut Feed, _: SubId, _: &mut String, after: &mut String) -> bool {
        // The next push may never come.
        self.write(after, &feed.clock);
        true
    }

    fn watches(&self, feed: &Feed, plugin: &mut dyn FnMut(&PluginName)) {
        let usual = PluginName::from(DOCUMENT);
        plugin(&usual);
        if let Some(published) = shown(feed)
            && published.document.plugin != usual
        {
            plugin(&published.document.plugin);
        }
    }
}

/// The document that is meant. Another collector may publish one of that name
/// too: then the one of the plugin that it is usually from is.
fn shown(feed: &Feed) -> Option<&Published> {
    let named = feed.snapshot.documents.iter().filter(|((_, name), _)| **name == *DOCUMENT);
    let published = named.map(|(_, published)| published);
    published.min_by_key(|published| &*published.document.plugin != DOCUMENT)
}

/// The newest metrics; none while their plugin can't do its work.
fn latest(feed: &Feed) -> Option<&Arc<Document>> {
    let published = shown(feed)?;
    let stale = published.stale.as_ref();
    let has_failed = stale.is_some_and(|stale| matches!(stale.reason, StaleReason::Setback(_)));
    let is_object = published.document.json.get().starts_with('{');
    (is_object && !has_failed).then_some(&published.document)
}
