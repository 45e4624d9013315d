//! A collector's desk: from what an instance answers to a checked batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::bindings::exports::telltale::plugin::collect;
use super::bindings::telltale::plugin::types;
use crate::model::{
    Batch, Dictionary, DictionaryError, Document, Kind, Labels, PluginName, RuleBroken, Series,
    SeriesId, SeriesKey, SeriesSpec, check_name,
};

/// Documents in one batch.
const DOCUMENTS_MAX: usize = 16;
/// The longest document.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// All documents of a batch together.
const DOCUMENTS_BYTES_MAX: usize = 1024 * 1024;
/// Different documents of one instance: the hub keeps the latest of each …
const DOCUMENT_NAMES_MAX: usize = 64;
/// … and so many bytes of them together.
const DOCUMENTS_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What one instance of a collector has declared. Ends with the instance.
#[derive(Debug)]
pub(crate) struct CollectorDesk {
    plugin: PluginName,
    dictionary: Arc<Dictionary>,
    interval_ns: u64,
    series_max: usize,
    /// Nothing has been answered yet.
    first: bool,
    declared: Declared,
    /// The bytes of the latest document of each name.
    published: HashMap<Box<str>, usize>,
}

/// Why a batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("batch refused: {0}")]
    Rule(#[from] RuleBroken),
    #[error("batch refused: {0}")]
    Dictionary(#[from] DictionaryError),
}

fn rule(words: String) -> Refusal {
    Refusal::Rule(RuleBroken::new(words))
}

impl CollectorDesk {
    pub(crate) fn new(
        plugin: PluginName,
        dictionary: Arc<Dictionary>,
        interval_ns: u64,
        series_max: usize,
    ) -> Self {
        let (declared, published) = (Declared::default(), HashMap::new());
        Self { plugin, dictionary, interval_ns, series_max, first: true, declared, published }
    }

    /// How many series are alive.
    pub(crate) fn alive(&self) -> usize {
        self.declared.by_series.len()
    }

    /// Checks a batch, and replaces the plugin's numbers by the dictionary's.
    ///
    /// # Errors
    ///
    /// The rule that was broken, and by which series. What the instance has
    /// declared is then in doubt, so that it has to be started anew.
    pub(crate) async fn check(&mut self, wire: collect::Batch) -> Result<Batch, Refusal> {
        if wire.ids.len() != wire.values.len() {
            return Err(rule(format!(
                "{} ids and {} values: the lists must be of the same length",
                wire.ids.len(),
                wire.values.len()
            )));
        }
        let documents = self.documents(wire.documents)?;
        let declare = self.declare(wire.declare).await?;
        let mut batch = Batch { restarted: self.first, declare, documents, ..Batch::default() };
        self.values(&wire.ids, &wire.values, &mut batch)?;
        batch.gone = self.gone(&wire.gone, &batch.declare)?;
        self.first = false;
        Ok(batch)
    }

    async fn declare(
        &mut self,
        wire: Vec<collect::Declaration>,
    ) -> Result<Vec<Arc<Series>>, Refusal> {
        if wire.is_empty() {
            return Ok(Vec::new());
        }
        if self.alive() + wire.len() > self.series_max {
            return Err(rule(format!(
                "{} series alive, and {} is the limit (limit `series` in its settings)",
                self.alive() + wire.len(),
                self.series_max
            )));
        }
        let mut ids = Vec::with_capacity(wire.len());
        let mut specs = Vec::with_capacity(wire.len());
        for declaration in wire {
            ids.push(declaration.id);
            specs.push(self.spec(declaration.series)?);
        }
        let numbers = self.dictionary.resolve(&specs).await?;
        let mut declared = Vec::with_capacity(specs.len());
        for ((local, id), spec) in ids.into_iter().zip(numbers).zip(specs) {
            if let Some(other) = self.declared.by_series.get(&id) {
                return Err(rule(format!("`{}` is declared as {other} and as {local}", spec.key)));
            }
            if self.declared.insert(local, id).is_err() {
                return Err(rule(format!("id {local} of `{}` is declared already", spec.key)));
            }
            declared.push(Arc::new(Series { id, spec, interval_ns: self.interval_ns }));
        }
        Ok(declared)
    }

    fn spec(&self, series: types::Series) -> Result<SeriesSpec, RuleBroken> {
        let pairs = series.labels.into_iter().map(|label| (label.key.into(), label.value.into()));
        let labels = Labels::new(pairs.collect()).map_err(|broken| {
            RuleBroken::new(format!("series {:?}: {broken}", cut(&series.name)))
        })?;
        let kind = match series.kind {
            types::Kind::Gauge => Kind::Gauge,
            types::Kind::Counter => Kind::Counter,
            types::Kind::Updown => Kind::Updown,
        };
        let key = SeriesKey { plugin: self.plugin.clone(), name: series.name.into(), labels };
        SeriesSpec::new(key, kind, series.unit.into(), series.description.into())
    }

    fn values(&mut self, ids: &[u32], values: &[f64], batch: &mut Batch) -> Result<(), Refusal> {
        self.declared.round += 1;
        batch.values.reserve(ids.len());
        for (&local, &value) in ids.iter().zip(values) {
            let id = match self.declared.visit(local) {
                Ok(id) => id,
                Err(Visit::Unknown) => return Err(rule(format!("id {local} is not declared"))),
                Err(Visit::Twice) => return Err(rule(format!("id {local} is in the batch twice"))),
            };
            if value.is_finite() {
                batch.values.push((id, value));
            } else {
                batch.not_finite.push(id);
            }
        }
        Ok(())
    }

    fn gone(&mut self, wire: &[u32], declare: &[Arc<Series>]) -> Result<Vec<SeriesId>, Refusal> {
        if wire.is_empty() {
            return Ok(Vec::new());
        }
        let fresh: HashSet<SeriesId> = declare.iter().map(|series| series.id).collect();
        let mut gone = Vec::with_capacity(wire.len());
        for &local in wire {
            let Some(id) = self.declared.remove(local) else {
                return Err(rule(format!("id {local} is gone, but was not declared")));
            };
            if fresh.contains(&id) {
                return Err(rule(format!("id {local} is declared and gone in one batch")));
            }
            gone.push(id);
        }
        Ok(gone)
    }

    fn documents(&mut self, wire: Vec<types::Document>) -> Result<Vec<Arc<Document>>, Refusal> {
        if wire.len() > DOCUMENTS_MAX {
            return Err(rule(format!(
                "{} documents, and {DOCUMENTS_MAX} is the limit",
                wire.len()
            )));
        }
        let bytes: usize = wire.iter().map(|document| document.json.len()).sum();
        if bytes > DOCUMENTS_BYTES_MAX {
            return Err(rule(format!(
                "documents of {bytes} bytes together, and {DOCUMENTS_BYTES_MAX} is the limit"
            )));
        }
        wire.into_iter().map(|document| self.document(document)).collect()
    }

    /// Counts a document, in place of the one of its name before it.
    fn publish(&mut self, name: &str, bytes: usize) -> Result<(), Refusal> {
        self.published.insert(name.into(), bytes);
        let kept: usize = self.published.values().sum();
        if self.published.len() > DOCUMENT_NAMES_MAX || kept > DOCUMENTS_KEPT_BYTES_MAX {
            return Err(rule(format!(
                "document `{name}` makes {} different ones of {kept} bytes together, and \
                 {DOCUMENT_NAMES_MAX} of {DOCUMENTS_KEPT_BYTES_MAX} is the limit",
                self.published.len()
            )));
        }
        Ok(())
    }

    fn document(&mut self, wire: types::Document) -> Result<Arc<Document>, Refusal> {
        check_name(&wire.name)?;
        if wire.json.len() > DOCUMENT_BYTES_MAX {
            return Err(rule(format!(
                "document `{}` has {} bytes, and {DOCUMENT_BYTES_MAX} is the limit",
                wire.name,
                wire.json.len()
            )));
        }
        self.publish(&wire.name, wire.json.len())?;
        let json = RawValue::from_string(wire.json)
            .map_err(|error| rule(format!("document `{}` is no JSON: {error}", wire.name)))?;
        Ok(Arc::new(Document { plugin: self.plugin.clone(), name: wire.name.into(), json }))
    }
}

fn cut(text: &str) -> &str {
    super::output::cut(text, 64)
}

/// The plugin's own numbers and what they stand for.
#[derive(Debug, Default)]
struct Declared {
    /// By the plugin's number, for numbers below [`NEAR`]: an array is what
    /// makes ten thousand values a tick cheap.
    near: Vec<Slot>,
    /// The same for larger numbers.
    far: HashMap<u32, Slot>,
    /// Back from the dictionary's number.
    by_series: HashMap<SeriesId, u32>,
    /// Rises with each batch, so that a slot tells whether it was visited.
    round: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    series: Option<SeriesId>,
    round: u64,
}

/// Ten times the default limit of series; 1.6 MB at worst.
const NEAR: u32 = 100_000;

enum Visit {
    Unknown,
    Twice,
}

impl Declared {
    fn slot(&mut self, local: u32) -> Option<&mut Slot> {
        if local < NEAR { self.near.get_mut(local as usize) } else { self.far.get_mut(&local) }
    }

    fn insert(&mut self, local: u32, series: SeriesId) -> Result<(), ()> {
        if local < NEAR && self.near.len() <= local as usize {
            self.near.resize(local as usize + 1, Slot::default());
        }
        if local >= NEAR {
            self.far.entry(local).or_default();
        }
        match self.slot(local) {
            Some(slot) if slot.series.is_none() => slot.series = Some(series),
            _ => return Err(()),
        }
        self.by_series.insert(series, local);
        Ok(())
    }

    /// The series of `local`, once in each round.
    fn visit(&mut self, local: u32) -> Result<SeriesId, Visit> {
        let round = self.round;
        let slot = self.slot(local).ok_or(Visit::Unknown)?;
        let series = slot.series.ok_or(Visit::Unknown)?;
        if std::mem::replace(&mut slot.round, round) == round {
            return Err(Visit::Twice);
        }
        Ok(series)
    }

    fn remove(&mut self, local: u32) -> Option<SeriesId> {
        let series = self.slot(local)?.series.take()?;
        self.far.remove(&local);
        self.by_series.remove(&series);
        Some(series)
    }
}

#[cfg(test)]
#[path = "collector_tests.rs"]
mod tests;
