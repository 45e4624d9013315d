//! What passes between the tick and a collector.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::{Series, SeriesId, Tick};

/// The name of a plugin: that of its file, without the ending.
pub type PluginName = Arc<str>;

/// The tick's question to a collector.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The tick at which it is asked.
    pub tick: Tick,
}

/// A collector's answer. Each question gets exactly one.
#[derive(Debug)]
pub struct Answer {
    /// Who answers.
    pub plugin: PluginName,
    /// What it measured, or why it could not.
    pub outcome: Result<Batch, Setback>,
}

/// A collector's measurements, checked against the rules of the interface and
/// with its own numbers replaced by the dictionary's.
#[derive(Debug, Default)]
pub struct Batch {
    /// This is the first batch of an instance: what the plugin had declared
    /// before and does not declare here is gone.
    pub restarted: bool,
    /// Series that appear.
    pub declare: Vec<Arc<Series>>,
    /// Values, each series at most once. All finite.
    pub values: Vec<(SeriesId, f64)>,
    /// Series whose value was not finite.
    pub not_finite: Vec<SeriesId>,
    /// Series that have ended.
    pub gone: Vec<SeriesId>,
    /// Documents that have changed.
    pub documents: Vec<Arc<Document>>,
}

/// A JSON value that a collector published; the latest of a name wins.
#[derive(Debug)]
pub struct Document {
    /// Who published it.
    pub plugin: PluginName,
    /// Its name.
    pub name: Box<str>,
    /// The JSON text, valid.
    pub json: Box<RawValue>,
}

/// Why a collector has no values at this tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// What sort of thing stands in the way.
    pub kind: SetbackKind,
    /// In words, for the hub's users.
    pub reason: Arc<str>,
}

/// What stands between a plugin and its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetbackKind {
    /// It said so itself, and is asked again when next due.
    Retry,
    /// Its settings can't work; it waits for them to change.
    Config,
    /// It failed, and is being started again.
    Restarting,
    /// It failed too often, and stays stopped.
    Quarantined,
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}
