//! What is written in more than one place.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::filter::{Fields, Filter};
use super::metrics::{Form, Metrics};
use crate::access::Identity;
use crate::channel::{MEMBERS, TextCache};
use crate::model::SeriesId;
use crate::snapshot::Snapshot;
use crate::store::{History, Point};

/// The series that are alive and may be read, as `/v1/series` shows them.
#[must_use]
pub fn series_list(snapshot: &Arc<Snapshot>, plugin: Option<String>, who: &Identity) -> String {
    let filter = plugin.map_or_else(Filter::default, Filter::of_plugin).read_by(who);
    let metrics = Metrics::new(filter, Fields::all(&MEMBERS), Form::Full, 1);
    let mut cache = TextCache::default();
    let mut texts = cache.of(snapshot);
    let mut text = format!("{{{},", texts.moment());
    metrics.write_series(&mut texts, false, &mut text);
    text.push('}');
    text
}

/// The samples of a series, with `anomalies` how many of them were odd.
#[must_use]
pub fn history(series: SeriesId, found: &History, anomalies: bool) -> serde_json::Value {
    let point = |p: &Point| match anomalies {
        false => json!([p.time_ms, p.mean, p.min, p.max]),
        true => json!([p.time_ms, p.mean, p.min, p.max, p.odd]),
    };
    let mut answer = json!({
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
    });
    if anomalies {
        answer["columns"] = json!(["time_ms", "mean", "min", "max", "anomalies"]);
        answer["anomaly_rate"] = json!(found.anomaly_rate);
    }
    answer
}

/// Writes `[…]` with what `write` writes of each.
pub(super) fn write_all<T>(
    text: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    text.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        write(text, item);
    }
    text.push(']');
}

/// Writes `,"key":[…]` unless the list is empty.
pub(super) fn write_list<T: Serialize>(text: &mut String, key: &str, list: &[T]) {
    if !list.is_empty() {
        // Writing to a string can't fail.
        let _ = write!(text, ",\"{key}\":{}", to_json(&list));
    }
}

/// JSON of what can always be written as JSON.
pub(super) fn to_json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}
