//! The result of a tick: immutable, sorted by series number, shared.
//!
//! [`Freezer`] owns what carries over from one tick to the next and turns the
//! collectors' answers into a [`Snapshot`]. It never waits, and reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::model::{
    Answer, Document, Kind, PluginName, Series, SeriesId, Setback, SetbackKind, Tick,
};

#[cfg(test)]
mod tests;

/// All that is known at a tick. Nothing in it changes once it is published.
#[derive(Debug)]
pub struct Snapshot {
    /// Which tick.
    pub tick: Tick,
    /// The series that are alive, in the order of their numbers. The lists
    /// below are parallel to it.
    pub roster: Arc<Roster>,
    /// What clients and detectors see: the last value of a gauge or updown, the
    /// rate per second of a counter. Not a number where there is none yet.
    pub values: Box<[f64]>,
    /// What plugins gave. Not a number where there is none yet.
    pub raw: Box<[f64]>,
    /// Whether the value is of this tick.
    pub marks: Box<[Mark]>,
    /// The series that have no value though one was due, with the reason, in
    /// the order of their positions.
    pub stale: Arc<BTreeMap<usize, Arc<Stale>>>,
    /// The documents, in the order of plugin and name.
    pub documents: Arc<BTreeMap<DocumentKey, Published>>,
}

/// A document's place: its plugin and its name.
pub type DocumentKey = (PluginName, Box<str>);

/// A document, and since when it stands.
#[derive(Clone, Debug)]
pub struct Published {
    /// The document.
    pub document: Arc<Document>,
    /// The tick at which it came.
    pub tick: Tick,
    /// Why it may be out of date, if its plugin could not answer.
    pub stale: Option<Arc<Stale>>,
}

/// The series that are alive. Shared by all snapshots until one appears or
/// ends, so that "has anything been declared?" is a comparison of numbers.
#[derive(Debug, Default)]
pub struct Roster {
    /// Rises whenever the list changes.
    pub generation: u64,
    /// In the order of their numbers.
    pub series: Vec<Arc<Series>>,
}

impl Roster {
    /// Where a series stands. `hint` is a position to try first: batches come
    /// in the same order at each tick, so the next one is mostly right.
    #[must_use]
    pub fn position(&self, id: SeriesId, hint: usize) -> Option<usize> {
        if self.series.get(hint).is_some_and(|series| series.id == id) {
            return Some(hint);
        }
        self.series.binary_search_by_key(&id, |series| series.id).ok()
    }
}

/// Whether a series has a value of this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// It came in this tick.
    Updated,
    /// None was due; the last one stands.
    Held,
    /// One was due at this tick and did not come: see [`Snapshot::stale`].
    Missed,
    /// One that was due earlier has not come yet, and none was due now.
    Stale,
}

/// Why a series or a document is out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The tick at which it went stale.
    pub since: Tick,
    /// Why.
    pub reason: StaleReason,
}

/// What stands between a series and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// Its plugin has not answered yet.
    Late,
    /// Its plugin answered without it.
    NotReported,
    /// Its plugin gave a value that is not finite.
    NotFinite,
    /// Its plugin could not answer.
    Setback(Setback),
}

impl StaleReason {
    /// The reason in words.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Late => "late",
            Self::NotReported => "not reported",
            Self::NotFinite => "not finite",
            Self::Setback(setback) => &setback.reason,
        }
    }

    /// A word that programs can compare.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::NotReported => "not_reported",
            Self::NotFinite => "not_finite",
            Self::Setback(setback) => match setback.kind {
                SetbackKind::Retry => "retry",
                SetbackKind::Config => "config",
                SetbackKind::Restarting => "restarting",
                SetbackKind::Quarantined => "quarantined",
            },
        }
    }
}

impl Serialize for Stale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("since", &crate::clock::rfc3339(self.since.time_ns))?;
        map.serialize_entry("code", self.reason.code())?;
        map.serialize_entry("reason", self.reason.words())?;
        map.end()
    }
}

impl Snapshot {
    /// The snapshot before the first tick: nothing is known.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            tick: Tick::default(),
            roster: Arc::default(),
            values: Box::default(),
            raw: Box::default(),
            marks: Box::default(),
            stale: Arc::default(),
            documents: Arc::default(),
        }
    }

    /// The series that have a value of this tick, with their positions.
    pub fn updated(&self) -> impl Iterator<Item = (usize, &Arc<Series>)> {
        let updated = |&(position, _): &(usize, _)| self.marks[position] == Mark::Updated;
        self.roster.series.iter().enumerate().filter(updated)
    }
}

/// What carries over from tick to tick, and the tick that is being gathered.
///
/// Answers are only collected until [`Freezer::freeze`], which changes the
/// roster once for all of them: a thousand plugins that start together cost one
/// new roster, not a thousand.
#[derive(Debug, Default)]
pub struct Freezer {
    tick: Tick,
    answers: Vec<Answer>,
    late: Vec<PluginName>,
    removed: Vec<PluginName>,
    roster: Arc<Roster>,
    /// The positions of each plugin's series in the roster.
    members: HashMap<PluginName, Vec<usize>>,
    values: Vec<f64>,
    marks: Vec<Mark>,
    meters: Vec<Meter>,
    stale: Arc<BTreeMap<usize, Arc<Stale>>>,
    documents: Arc<BTreeMap<DocumentKey, Published>>,
    not_finite: u64,
}

/// The last raw value of a series, and when it came: what a rate is made from.
#[derive(Clone, Copy, Debug)]
struct Meter {
    raw: f64,
    time_ns: u64,
    /// The value that came in the tick that is being frozen.
    incoming: f64,
}

const METER_NEW: Meter = Meter { raw: f64::NAN, time_ns: 0, incoming: f64::NAN };

/// What a tick does to the roster: a series that appears, or one that ends.
type RosterChange = BTreeMap<SeriesId, Option<Arc<Series>>>;

impl Freezer {
    /// Begins a tick.
    pub fn begin(&mut self, tick: Tick) {
        self.tick = tick;
    }

    /// Takes in a collector's answer.
    pub fn apply(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// Notes that a collector owed an answer at this tick.
    pub fn mark_late(&mut self, plugin: PluginName) {
        self.late.push(plugin);
    }

    /// Drops all that a plugin had: it is gone. What it has answered in this
    /// tick goes with it.
    pub fn remove(&mut self, plugin: PluginName) {
        self.answers.retain(|answer| answer.plugin != plugin);
        self.removed.push(plugin);
    }

    /// How many values were not finite, since the start.
    #[must_use]
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Ends the tick.
    #[must_use]
    pub fn freeze(&mut self) -> Arc<Snapshot> {
        for mark in &mut self.marks {
            *mark = match *mark {
                Mark::Updated | Mark::Held => Mark::Held,
                Mark::Missed | Mark::Stale => Mark::Stale,
            };
        }
        let answers = std::mem::take(&mut self.answers);
        self.change_roster(&answers);
        let mut touched = Vec::new();
        for answer in &answers {
            match &answer.outcome {
                Ok(batch) => self.take_values(&batch.values, &mut touched),
                Err(setback) => {
                    self.mark_plugin(&answer.plugin, &StaleReason::Setback(setback.clone()));
                }
            }
        }
        self.turn_into_values(&touched);
        for answer in answers {
            if let Ok(batch) = answer.outcome {
                self.mark_missing(&answer.plugin, &batch.not_finite);
                self.take_documents(&answer.plugin, batch.restarted, batch.documents);
            }
        }
        for plugin in std::mem::take(&mut self.late) {
            self.mark_plugin(&plugin, &StaleReason::Late);
        }
        Arc::new(Snapshot {
            tick: self.tick,
            roster: self.roster.clone(),
            values: self.values.as_slice().into(),
            raw: self.meters.iter().map(|meter| meter.raw).collect(),
            marks: self.marks.as_slice().into(),
            stale: self.stale.clone(),
            documents: self.documents.clone(),
        })
    }

    fn change_roster(&mut self, answers: &[Answer]) {
        let mut change = RosterChange::new();
        for plugin in std::mem::take(&mut self.removed) {
            self.end_all(&plugin, &mut change);
            if documents_of(&self.documents, &plugin).next().is_some() {
                Arc::make_mut(&mut self.documents).retain(|(owner, _), _| *owner != plugin);
            }
        }
        for (plugin, batch) in
            answers.iter().filter_map(|a| Some((&a.plugin, a.outcome.as_ref().ok()?)))
        {
            if batch.restarted {
                self.end_all(plugin, &mut change);
            }
            change.extend(batch.gone.iter().map(|id| (*id, None)));
            change.extend(batch.declare.iter().map(|series| (series.id, Some(series.clone()))));
        }
        if !change.is_empty() {
            self.rebuild(&change);
        }
    }

    fn end_all(&self, plugin: &PluginName, change: &mut RosterChange) {
        change.retain(|_, series| series.as_ref().is_none_or(|series| series.plugin() != plugin));
        for &position in self.members.get(plugin).into_iter().flatten() {
            change.insert(self.roster.series[position].id, None);
        }
    }

    /// Merges `change` into the roster. What stays keeps its last value, but a
    /// series that was declared anew has nothing to make a rate from.
    fn rebuild(&mut self, change: &RosterChange) {
        let before: BTreeMap<SeriesId, usize> =
            self.roster.series.iter().enumerate().map(|(at, series)| (series.id, at)).collect();
        let ids: BTreeSet<SeriesId> = before.keys().chain(change.keys()).copied().collect();
        let mut next = Self::default();
        let mut series_next = Vec::with_capacity(ids.len());
        let mut stale_next = BTreeMap::new();
        for id in ids {
            let at = before.get(&id).copied();
            let (series, meter) = match (change.get(&id), at) {
                (Some(None), _) | (None, None) => continue,
                (Some(Some(declared)), _) => (declared, METER_NEW),
                (None, Some(at)) => (&self.roster.series[at], self.meters[at]),
            };
            if let Some(stale) = at.and_then(|at| self.stale.get(&at)) {
                stale_next.insert(series_next.len(), stale.clone());
            }
            next.members.entry(series.plugin().clone()).or_default().push(series_next.len());
            next.values.push(at.map_or(f64::NAN, |at| self.values[at]));
            next.marks.push(at.map_or(Mark::Held, |at| self.marks[at]));
            next.meters.push(meter);
            series_next.push(series.clone());
        }
        self.members = next.members;
        self.values = next.values;
        self.marks = next.marks;
        self.meters = next.meters;
        self.stale = Arc::new(stale_next);
        // A plugin that was reloaded and declares what it had is no news.
        if series_next != self.roster.series {
            let generation = self.roster.generation + 1;
            self.roster = Arc::new(Roster { generation, series: series_next });
        }
    }

    fn take_values(&mut self, values: &[(SeriesId, f64)], touched: &mut Vec<usize>) {
        let mut hint = 0;
        for &(id, raw) in values {
            let Some(position) = self.roster.position(id, hint) else { continue };
            hint = position + 1;
            // A late answer and a prompt one may meet in one tick.
            if self.meters[position].incoming.is_nan() {
                touched.push(position);
            }
            self.meters[position].incoming = raw;
        }
    }

    fn turn_into_values(&mut self, touched: &[usize]) {
        for &position in touched {
            let meter = &mut self.meters[position];
            self.values[position] = match self.roster.series[position].spec.kind {
                Kind::Gauge | Kind::Updown => meter.incoming,
                Kind::Counter => meter.rate(self.tick.time_ns),
            };
            *meter = Meter { raw: meter.incoming, time_ns: self.tick.time_ns, incoming: f64::NAN };
            if self.marks[position] == Mark::Stale {
                Arc::make_mut(&mut self.stale).remove(&position);
            }
            self.marks[position] = Mark::Updated;
        }
    }

    /// Marks the series of `plugin` that its batch brought no value for.
    fn mark_missing(&mut self, plugin: &PluginName, not_finite: &[SeriesId]) {
        self.not_finite += not_finite.len() as u64;
        let mut hint = 0;
        for &id in not_finite {
            if let Some(position) = self.roster.position(id, hint) {
                hint = position + 1;
                self.mark_stale(position, &StaleReason::NotFinite);
            }
        }
        self.for_members(plugin, |freezer, position| {
            if matches!(freezer.marks[position], Mark::Held | Mark::Stale) {
                freezer.mark_stale(position, &StaleReason::NotReported);
            }
        });
    }

    fn take_documents(&mut self, plugin: &PluginName, restarted: bool, fresh: Vec<Arc<Document>>) {
        let healed = documents_of(&self.documents, plugin).any(|(_, p)| p.stale.is_some());
        if fresh.is_empty() && !restarted && !healed {
            return;
        }
        let documents = Arc::make_mut(&mut self.documents);
        documents.retain(|(owner, _), _| owner != plugin || !restarted);
        for (_, published) in documents.iter_mut().filter(|((owner, _), _)| owner == plugin) {
            published.stale = None;
        }
        for document in fresh {
            let key = (plugin.clone(), document.name.clone());
            documents.insert(key, Published { document, tick: self.tick, stale: None });
        }
    }

    /// Marks all that `plugin` has, unless it came in this very tick.
    fn mark_plugin(&mut self, plugin: &PluginName, reason: &StaleReason) {
        self.for_members(plugin, |freezer, position| {
            if freezer.marks[position] != Mark::Updated {
                freezer.mark_stale(position, reason);
            }
        });
        let differs = |p: &Published| p.stale.as_ref().is_none_or(|stale| stale.reason != *reason);
        if !documents_of(&self.documents, plugin).any(|(_, published)| differs(published)) {
            return;
        }
        let documents = Arc::make_mut(&mut self.documents);
        for (_, published) in documents.iter_mut().filter(|((owner, _), _)| owner == plugin) {
            let since = published.stale.as_ref().map_or(self.tick, |stale| stale.since);
            published.stale = Some(Arc::new(Stale { since, reason: reason.clone() }));
        }
    }

    fn for_members(&mut self, plugin: &PluginName, mut act: impl FnMut(&mut Self, usize)) {
        let Some(positions) = self.members.remove(plugin) else { return };
        for &position in &positions {
            act(self, position);
        }
        self.members.insert(plugin.clone(), positions);
    }

    /// Goes on counting from when the series went stale if only the reason is
    /// another.
    fn mark_stale(&mut self, position: usize, reason: &StaleReason) {
        self.marks[position] = Mark::Missed;
        let before = self.stale.get(&position);
        if before.is_some_and(|stale| stale.reason == *reason) {
            return;
        }
        let since = before.map_or(self.tick, |stale| stale.since);
        let stale = Arc::new(Stale { since, reason: reason.clone() });
        Arc::make_mut(&mut self.stale).insert(position, stale);
    }
}

fn documents_of<'a>(
    documents: &'a BTreeMap<DocumentKey, Published>,
    plugin: &'a PluginName,
) -> impl Iterator<Item = (&'a DocumentKey, &'a Published)> {
    let first: DocumentKey = (plugin.clone(), "".into());
    documents.range(first..).take_while(move |((owner, _), _)| owner == plugin)
}

impl Meter {
    /// The rate per second from the last total to the incoming one. There is
    /// none for the first total, and none where a total fell: its source
    /// started again, and nobody knows how far it had come before.
    fn rate(&self, now_ns: u64) -> f64 {
        if self.raw.is_nan() || self.incoming < self.raw || now_ns <= self.time_ns {
            return f64::NAN;
        }
        #[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days between two values")]
        let seconds = (now_ns - self.time_ns) as f64 / 1e9;
        (self.incoming - self.raw) / seconds
    }
}
