//! A collector's desk: from what an instance answers to a checked batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::bindings::exports::telltale::plugin::collect;
use super::bindings::telltale::plugin::types;
use super::limits::{Excess, LimitHit, Limits, Refused};
use crate::model::{
    Batch, Dictionary, DictionaryError, Document, Kind, Labels, PluginName, RuleBroken, Series,
    SeriesId, SeriesKey, SeriesSpec, check_name,
};

/// What begins the names of the hub's own series.
const HUB_PREFIX: &str = "telltale.";
/// The series that stands for those that are not shown.
const OVERFLOW_NAME: &str = "telltale.overflow";
/// How many times the limit of series may be declared beyond it: the numbers
/// of those that are not shown are remembered too.
const HIDDEN_TIMES_MAX: usize = 10;

/// What one instance of a collector has declared. Ends with the instance.
#[derive(Debug)]
pub(crate) struct CollectorDesk {
    plugin: PluginName,
    dictionary: Arc<Dictionary>,
    limits: Limits,
    /// Nothing has been answered yet.
    first: bool,
    declared: Declared,
    /// The series of [`OVERFLOW_NAME`], once it was needed.
    overflow: Option<SeriesId>,
    /// The bytes of the latest document of each name, and of all of them.
    published: HashMap<Box<str>, usize>,
    published_bytes: usize,
    excess: Excess,
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
    /// A desk for an instance that begins. What is over its limits is counted
    /// in `refused`.
    pub(crate) fn new(
        plugin: PluginName,
        dictionary: Arc<Dictionary>,
        limits: Limits,
        refused: Refused,
    ) -> Self {
        Self {
            plugin,
            dictionary,
            limits,
            first: true,
            declared: Declared::default(),
            overflow: None,
            published: HashMap::new(),
            published_bytes: 0,
            excess: Excess::new(refused, &limits),
        }
    }

    /// How many of the plugin's series are alive and shown.
    pub(crate) fn alive(&self) -> usize {
        self.declared.by_series.len()
    }

    /// The limits that the instance has met for the first time since this was
    /// last asked.
    pub(crate) fn limits_hit(&mut self) -> Vec<LimitHit> {
        self.excess.hits()
    }

    /// Checks a batch, and replaces the plugin's numbers by the dictionary's.
    /// Of series, documents and their bytes, what is over the limits is left
    /// out and counted.
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
        let fresh: HashSet<u32> = wire.declare.iter().map(|declaration| declaration.id).collect();
        let declare = self.declare(wire.declare, &wire.gone).await?;
        let mut batch = Batch { restarted: self.first, declare, documents, ..Batch::default() };
        self.values(&wire.ids, &wire.values, &mut batch)?;
        batch.gone = self.gone(&wire.gone, &fresh)?;
        if let Some(overflow) = self.overflow {
            batch.values.push((overflow, self.declared.hidden as f64));
        }
        self.first = false;
        Ok(batch)
    }

    /// Takes what is declared; what appears. What is over the limit is
    /// remembered, so that its values can be left out, and has no number.
    async fn declare(
        &mut self,
        wire: Vec<collect::Declaration>,
        gone: &[u32],
    ) -> Result<Vec<Arc<Series>>, Refusal> {
        if wire.is_empty() {
            return Ok(Vec::new());
        }
        let leaving = gone.iter().filter(|local| self.declared.is_shown(**local)).count();
        let room = (self.limits.series + leaving).saturating_sub(self.alive());
        let mut ids = Vec::new();
        let mut specs = Vec::new();
        for (position, declaration) in wire.into_iter().enumerate() {
            let spec = self.spec(declaration.series)?;
            if position < room {
                ids.push(declaration.id);
                specs.push(spec);
            } else {
                self.hide(declaration.id, &spec)?;
            }
        }
        if self.declared.hidden > 0 && self.overflow.is_none() {
            specs.push(self.overflow_spec()?);
        }
        let mut numbers = self.dictionary.resolve(&specs).await?;
        if numbers.len() > ids.len() {
            self.overflow = numbers.last().copied();
        }
        let series = |(id, spec): (&SeriesId, SeriesSpec)| {
            Arc::new(Series { id: *id, spec, interval_ns: self.limits.interval_ns })
        };
        let declared: Vec<Arc<Series>> = numbers.iter().zip(specs).map(series).collect();
        numbers.truncate(ids.len());
        for ((local, id), series) in ids.into_iter().zip(numbers).zip(&declared) {
            let key = &series.spec.key;
            if let Some(other) = self.declared.by_series.get(&id) {
                return Err(rule(format!("`{key}` is declared as {other} and as {local}")));
            }
            if self.declared.show(local, id).is_err() {
                return Err(rule(format!("id {local} of `{key}` is declared already")));
            }
        }
        Ok(declared)
    }

    /// Remembers a series that there is no room for.
    fn hide(&mut self, local: u32, spec: &SeriesSpec) -> Result<(), Refusal> {
        let most = self.limits.series;
        if self.declared.hidden >= most.saturating_mul(HIDDEN_TIMES_MAX) {
            return Err(rule(format!(
                "{} series declared beyond the {most} that are shown, and {HIDDEN_TIMES_MAX} \
                 times as many are the most (limit `series`)",
                self.declared.hidden + 1
            )));
        }
        if self.declared.hide(local).is_err() {
            return Err(rule(format!("id {local} of `{}` is declared already", spec.key)));
        }
        let words = || {
            format!(
                "series beyond {most} are not shown, from `{}` on; `{OVERFLOW_NAME}` says how \
                 many (limit `series`)",
                spec.key
            )
        };
        self.excess.refuse("series", |counts| counts.series += 1, words);
        Ok(())
    }

    fn overflow_spec(&self) -> Result<SeriesSpec, RuleBroken> {
        let plugin = self.plugin.clone();
        let key = SeriesKey { plugin, name: OVERFLOW_NAME.into(), labels: Labels::default() };
        let description = format!(
            "Series of this plugin that are not shown, since it may have {}. `series` under \
             [limits] in its settings changes that.",
            self.limits.series
        );
        SeriesSpec::new(key, Kind::Gauge, "{series}".into(), description.into())
    }

    fn spec(&self, series: types::Series) -> Result<SeriesSpec, RuleBroken> {
        if series.name.starts_with(HUB_PREFIX) {
            return Err(RuleBroken::new(format!(
                "series {:?}: names that begin with `{HUB_PREFIX}` are the hub's own",
                cut(&series.name)
            )));
        }
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
                Ok(Some(id)) => id,
                Ok(None) => continue,
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

    fn gone(&mut self, wire: &[u32], fresh: &HashSet<u32>) -> Result<Vec<SeriesId>, Refusal> {
        let mut gone = Vec::with_capacity(wire.len());
        for &local in wire {
            if fresh.contains(&local) {
                return Err(rule(format!("id {local} is declared and gone in one batch")));
            }
            match self.declared.remove(local) {
                Place::Free => {
                    return Err(rule(format!("id {local} is gone, but was not declared")));
                }
                Place::Hidden => {}
                Place::Shown(id) => gone.push(id),
            }
        }
        Ok(gone)
    }

    /// The documents that there is room for.
    fn documents(&mut self, wire: Vec<types::Document>) -> Result<Vec<Arc<Document>>, Refusal> {
        let most = self.limits.documents;
        if let Some(first) = wire.get(most) {
            let over = wire.len() - most;
            let words = || {
                format!(
                    "documents beyond {most} in a batch are dropped, from {:?} on (limit \
                     `documents`)",
                    cut(&first.name)
                )
            };
            self.excess.refuse("documents", |counts| counts.documents += over as u64, words);
        }
        let mut documents = Vec::with_capacity(wire.len().min(most));
        let mut bytes = 0;
        for document in wire.into_iter().take(most) {
            check_name(&document.name)?;
            if let Err((limit, words)) = self.fits(&document, bytes) {
                self.excess.refuse(limit, |counts| counts.documents += 1, || words);
                continue;
            }
            bytes += document.json.len();
            documents.push(self.publish(document)?);
        }
        Ok(documents)
    }

    /// Whether there is room for a document after the `before` bytes of the
    /// others in its batch; otherwise which limit it is over, in words.
    fn fits(&self, wire: &types::Document, before: usize) -> Result<(), (&'static str, String)> {
        let (limits, name, bytes) = (&self.limits, &wire.name, wire.json.len());
        if bytes > limits.document_bytes {
            let most = limits.document_bytes;
            let words = format!(
                "document `{name}` of {bytes} bytes is dropped, since it may have {most} (limit \
                 `document_kib`)"
            );
            return Err(("document_kib", words));
        }
        if before + bytes > limits.documents_bytes {
            let most = limits.documents_bytes;
            let words = format!(
                "document `{name}` is dropped, since those of a batch may have {most} bytes \
                 together (limit `documents_kib`)"
            );
            return Err(("documents_kib", words));
        }
        let replaced = self.published.get(&**name).copied();
        let most = limits.document_names_kept();
        if replaced.is_none() && self.published.len() >= most {
            let words = format!(
                "document `{name}` is dropped, since the hub keeps {most} of different names \
                 (four times the limit `documents`)"
            );
            return Err(("documents", words));
        }
        let most = limits.document_bytes_kept();
        if self.published_bytes - replaced.unwrap_or(0) + bytes > most {
            let words = format!(
                "document `{name}` is dropped, since the hub keeps {most} bytes of all \
                 documents together (four times the limit `documents_kib`)"
            );
            return Err(("documents_kib", words));
        }
        Ok(())
    }

    /// Takes a document in place of the one of its name before it.
    fn publish(&mut self, wire: types::Document) -> Result<Arc<Document>, Refusal> {
        let bytes = wire.json.len();
        let json = RawValue::from_string(wire.json)
            .map_err(|error| rule(format!("document `{}` is no JSON: {error}", wire.name)))?;
        let name: Box<str> = wire.name.into();
        let replaced = self.published.insert(name.clone(), bytes).unwrap_or(0);
        self.published_bytes = self.published_bytes - replaced + bytes;
        Ok(Arc::new(Document { plugin: self.plugin.clone(), name, json }))
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
    /// How many are declared and not shown.
    hidden: usize,
    /// Rises with each batch, so that a slot tells whether it was visited.
    round: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    place: Place,
    round: u64,
}

/// What a number of the plugin's stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nothing.
    #[default]
    Free,
    /// A series that there was no room for.
    Hidden,
    /// A series.
    Shown(SeriesId),
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

    fn is_shown(&self, local: u32) -> bool {
        let slot = if local < NEAR { self.near.get(local as usize) } else { self.far.get(&local) };
        slot.is_some_and(|slot| matches!(slot.place, Place::Shown(_)))
    }

    fn show(&mut self, local: u32, series: SeriesId) -> Result<(), ()> {
        self.insert(local, Place::Shown(series))?;
        self.by_series.insert(series, local);
        Ok(())
    }

    fn hide(&mut self, local: u32) -> Result<(), ()> {
        self.insert(local, Place::Hidden)?;
        self.hidden += 1;
        Ok(())
    }

    fn insert(&mut self, local: u32, place: Place) -> Result<(), ()> {
        if local < NEAR && self.near.len() <= local as usize {
            self.near.resize(local as usize + 1, Slot::default());
        }
        if local >= NEAR {
            self.far.entry(local).or_default();
        }
        match self.slot(local) {
            Some(slot) if slot.place == Place::Free => slot.place = place,
            _ => return Err(()),
        }
        Ok(())
    }

    /// The series of `local`, unless it is not shown; once in each round.
    fn visit(&mut self, local: u32) -> Result<Option<SeriesId>, Visit> {
        let round = self.round;
        let slot = self.slot(local).ok_or(Visit::Unknown)?;
        let series = match slot.place {
            Place::Free => return Err(Visit::Unknown),
            Place::Hidden => None,
            Place::Shown(series) => Some(series),
        };
        if std::mem::replace(&mut slot.round, round) == round {
            return Err(Visit::Twice);
        }
        Ok(series)
    }

    /// Frees `local`; what it stood for.
    fn remove(&mut self, local: u32) -> Place {
        let Some(slot) = self.slot(local) else { return Place::Free };
        let place = std::mem::take(&mut slot.place);
        self.far.remove(&local);
        match place {
            Place::Free => {}
            Place::Hidden => self.hidden -= 1,
            Place::Shown(series) => drop(self.by_series.remove(&series)),
        }
        place
    }
}

#[cfg(test)]
#[path = "collector_tests.rs"]
mod tests;
