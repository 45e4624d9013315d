//! What clients are told: snapshots, what has changed, entries.

use std::fmt::Write as _;
use std::sync::Arc;

use hyper_tungstenite::tungstenite::Utf8Bytes;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::command::Filter;
use crate::channel::{Feed, StateEncoder, SubId};
use crate::clock::rfc3339;
use crate::model::{Logged, Series, SeriesId};
use crate::snapshot::{DocumentKey, Published, Snapshot, Stale};
use crate::store::History;

/// The `metrics` channel through one filter.
pub(super) struct Metrics {
    filter: Filter,
    /// What was pushed last; pushes say what has changed since.
    before: Arc<Snapshot>,
    /// The positions in `before`'s roster of the series that match.
    positions: Vec<usize>,
}

/// A series with all that is known of it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    series: &'a Series,
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a Stale>,
}

/// A series that has gone stale, or is so for another reason.
#[derive(Serialize)]
struct ToldStale<'a> {
    id: SeriesId,
    #[serde(flatten)]
    stale: &'a Stale,
}

impl Metrics {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, before: Arc::new(Snapshot::empty()), positions: Vec::new() }
    }

    fn matching(&self, snapshot: &Snapshot) -> Vec<usize> {
        if snapshot.roster.generation == self.before.roster.generation {
            return self.positions.clone();
        }
        let series = snapshot.roster.series.iter().enumerate();
        series.filter(|(_, s)| self.filter.matches(s)).map(|(position, _)| position).collect()
    }

    /// `"tick":…,"time":…,"series":[…]`, without braces.
    fn all(&self, snapshot: &Snapshot) -> String {
        let told: Vec<Told<'_>> = self
            .matching(snapshot)
            .into_iter()
            .map(|position| Told {
                series: &snapshot.roster.series[position],
                value: finite(snapshot.values[position]),
                stale: snapshot.stale.get(&position).map(|stale| &**stale),
            })
            .collect();
        format!("{},\"series\":{}", moment(snapshot), to_json(&told))
    }

    /// Writes what differs between `before` and `snapshot`.
    fn changes(&self, snapshot: &Snapshot, positions: &[usize], text: &mut String) {
        let before = &self.before;
        let same_roster = before.roster.generation == snapshot.roster.generation;
        let mut declare: Vec<&Series> = Vec::new();
        let mut stale = Vec::new();
        text.push_str(",\"values\":[");
        let mut first = true;
        let mut hint = 0;
        for &position in positions {
            let series = &snapshot.roster.series[position];
            let at =
                if same_roster { Some(position) } else { before.roster.position(series.id, hint) };
            hint = at.map_or(hint, |at| at + 1);
            // One that matches now and did not before is new to the client.
            let known = at.filter(|at| {
                same_roster
                    || (before.roster.series[*at] == *series
                        && self.positions.binary_search(at).is_ok())
            });
            if known.is_none() {
                declare.push(series);
            }
            let reason = snapshot.stale.get(&position);
            let reason_before = known.and_then(|at| before.stale.get(&at));
            if let Some(reason) = reason
                && reason_before != Some(reason)
            {
                stale.push(ToldStale { id: series.id, stale: reason });
            }
            let value = snapshot.values[position];
            let same_value = known.is_some_and(|at| before.values[at].to_bits() == value.to_bits());
            // A value that heals a stale series is told even if it is the same.
            let healed = reason_before.is_some() && reason.is_none();
            let moved = known.is_some() && !same_value;
            if moved || healed || (known.is_none() && value.is_finite()) {
                write_value(text, &mut first, series.id, value);
            }
        }
        text.push(']');
        write_list(text, "declare", &declare);
        let gone = self.gone(snapshot, positions);
        write_list(text, "gone", &gone);
        write_list(text, "stale", &stale);
    }

    fn gone(&self, snapshot: &Snapshot, positions: &[usize]) -> Vec<SeriesId> {
        if self.before.roster.generation == snapshot.roster.generation {
            return Vec::new();
        }
        let ids = |snapshot: &Snapshot, positions: &[usize]| -> Vec<SeriesId> {
            positions.iter().map(|at| snapshot.roster.series[*at].id).collect()
        };
        let now = ids(snapshot, positions);
        let mut before = ids(&self.before, &self.positions);
        before.retain(|id| now.binary_search(id).is_err());
        before
    }
}

impl StateEncoder for Metrics {
    fn state(&mut self, feed: &Feed, sub: SubId) -> String {
        let all = self.all(&feed.snapshot);
        format!("{{\"channel\":\"metrics\",\"sub\":{},\"snapshot\":{{{all}}}}}", sub.0)
    }

    fn push(&mut self, feed: &Feed, sub: SubId) -> Option<Utf8Bytes> {
        let snapshot = &feed.snapshot;
        let positions = self.matching(snapshot);
        let mut text = format!("{{\"push\":\"metrics\",\"sub\":{},{}", sub.0, moment(snapshot));
        self.changes(snapshot, &positions, &mut text);
        text.push('}');
        self.positions = positions;
        self.before = snapshot.clone();
        Some(text.into())
    }

    fn full(&self, feed: &Feed, sub: SubId) -> Option<(Utf8Bytes, Utf8Bytes)> {
        let head = format!("{{\"push\":\"metrics\",\"sub\":{},\"full\":true,\"skipped\":", sub.0);
        Some((head.into(), format!(",{}}}", self.all(&feed.snapshot)).into()))
    }
}

/// The `documents` channel.
#[derive(Default)]
pub(super) struct Documents {
    before: Arc<std::collections::BTreeMap<DocumentKey, Published>>,
}

#[derive(Serialize)]
struct ToldDocument<'a> {
    plugin: &'a str,
    name: &'a str,
    tick: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a Stale>,
    data: &'a RawValue,
}

fn told_document(published: &Published) -> ToldDocument<'_> {
    ToldDocument {
        plugin: &published.document.plugin,
        name: &published.document.name,
        tick: published.tick.number,
        time: rfc3339(published.tick.time_ns),
        stale: published.stale.as_deref(),
        data: &published.document.json,
    }
}

fn all_documents(snapshot: &Snapshot) -> String {
    let told: Vec<_> = snapshot.documents.values().map(told_document).collect();
    format!("{},\"documents\":{}", moment(snapshot), to_json(&told))
}

impl StateEncoder for Documents {
    fn state(&mut self, feed: &Feed, sub: SubId) -> String {
        let all = all_documents(&feed.snapshot);
        format!("{{\"channel\":\"documents\",\"sub\":{},\"snapshot\":{{{all}}}}}", sub.0)
    }

    fn push(&mut self, feed: &Feed, sub: SubId) -> Option<Utf8Bytes> {
        let snapshot = &feed.snapshot;
        let before = std::mem::replace(&mut self.before, snapshot.documents.clone());
        if Arc::ptr_eq(&before, &self.before) {
            return None;
        }
        let same = |key: &DocumentKey, now: &Published| {
            before.get(key).is_some_and(|old| {
                Arc::ptr_eq(&old.document, &now.document) && old.stale == now.stale
            })
        };
        let changed: Vec<_> = snapshot
            .documents
            .iter()
            .filter(|(key, published)| !same(key, published))
            .map(|(_, published)| told_document(published))
            .collect();
        let gone: Vec<_> = before
            .keys()
            .filter(|key| !snapshot.documents.contains_key(*key))
            .map(|(plugin, name)| json!({"plugin": &**plugin, "name": &**name}))
            .collect();
        let mut text = format!("{{\"push\":\"documents\",\"sub\":{},{}", sub.0, moment(snapshot));
        write_list(&mut text, "documents", &changed);
        write_list(&mut text, "gone", &gone);
        text.push('}');
        Some(text.into())
    }

    fn full(&self, feed: &Feed, sub: SubId) -> Option<(Utf8Bytes, Utf8Bytes)> {
        let head = format!("{{\"push\":\"documents\",\"sub\":{},\"full\":true,\"skipped\":", sub.0);
        Some((head.into(), format!(",{}}}", all_documents(&feed.snapshot)).into()))
    }
}

/// What a subscriber to `findings` is told first: those that are open.
pub(super) fn findings_state(feed: &Feed, sub: SubId) -> String {
    let open: Vec<&RawValue> = feed.open.values().map(|logged| &*logged.entry.body).collect();
    log_state("findings", feed, sub, "open", &to_json(&open))
}

/// What a subscriber to `hub` is told first: the plugins.
pub(super) fn hub_state(feed: &Feed, sub: SubId) -> String {
    log_state("hub", feed, sub, "plugins", &to_json(&feed.statuses.list()))
}

/// Where a log channel stands. What a client missed is not looked up yet, so
/// that it starts afresh.
fn log_state(channel: &str, feed: &Feed, sub: SubId, key: &str, state: &str) -> String {
    format!(
        "{{\"channel\":\"{channel}\",\"sub\":{},\"recovered\":false,\"epoch\":{},\"offset\":{},\
         \"entries\":[],\"{key}\":{state}}}",
        sub.0,
        to_json(&feed.epoch),
        feed.head
    )
}

/// One entry of a log channel.
pub(super) fn entry(feed: &Feed, sub: SubId, prev: u64, logged: &Logged) -> Utf8Bytes {
    format!(
        "{{\"push\":\"{}\",\"sub\":{},\"epoch\":{},\"offset\":{},\"prev\":{prev},\"time\":\"{}\",\
         \"entry\":{}}}",
        logged.entry.channel.as_str(),
        sub.0,
        to_json(&feed.epoch),
        logged.offset,
        rfc3339(logged.entry.time_ms * 1_000_000),
        logged.entry.body
    )
    .into()
}

/// The series that are alive, as `/v1/series` shows them.
#[must_use]
pub fn series_list(snapshot: &Snapshot, plugin: Option<String>) -> String {
    let filter = plugin.map_or_else(Filter::default, Filter::of_plugin);
    format!("{{{}}}", Metrics::new(filter).all(snapshot))
}

/// The samples of a series.
#[must_use]
pub fn history(series: SeriesId, found: &History) -> serde_json::Value {
    let point = |p: &crate::store::Point| json!([p.time_ms, p.mean, p.min, p.max]);
    json!({
        "series": series,
        "plugin": &*found.series.key.plugin,
        "name": found.series.key.name,
        "labels": found.series.key.labels,
        "kind": found.series.kind,
        "unit": found.series.unit,
        "rate": found.rate,
        "bucket_ms": found.bucket_ms,
        "columns": ["time_ms", "mean", "min", "max"],
        "points": found.points.iter().map(point).collect::<Vec<_>>(),
    })
}

/// `"tick":…,"time":…`
fn moment(snapshot: &Snapshot) -> String {
    let time = rfc3339(snapshot.tick.time_ns);
    format!("\"tick\":{},\"time\":\"{time}\"", snapshot.tick.number)
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

fn write_value(text: &mut String, first: &mut bool, id: SeriesId, value: f64) {
    let comma = if std::mem::take(first) { "" } else { "," };
    // Writing to a string can't fail; a value that is not finite is null.
    let _ = match serde_json::Number::from_f64(value) {
        Some(number) => write!(text, "{comma}[{id},{number}]"),
        None => write!(text, "{comma}[{id},null]"),
    };
}

/// Writes `,"key":[…]` unless the list is empty.
fn write_list<T: Serialize>(text: &mut String, key: &str, list: &[T]) {
    if !list.is_empty() {
        let _ = write!(text, ",\"{key}\":{}", to_json(&list));
    }
}

/// JSON of what can always be written as JSON.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}
