//! What is known of each plugin, for people and programs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cost::{CallFigures, Cost, read};
use super::events::{EventBook, EventFigures};
use super::journal::{Journal, JournalLine};
use super::kit::Kit;
use super::last_good::LastGood;
use super::limits::{Refused, RefusedCounts};
use crate::clock::Clock;
use crate::model::PluginName;

/// Enough digits of a hash to tell a plugin's versions apart.
const SHORT_HASH_DIGITS: usize = 12;
/// How many faults are remembered of each plugin.
const FAULTS_KEPT: usize = 10;

/// One plugin, as `telltale plugin list` and `/v1/plugins` show it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PluginStatus {
    /// Its name: that of its file, without the ending.
    pub name: PluginName,
    /// Collector or detector, once its component has been read.
    pub role: Option<PluginRole>,
    /// How it is.
    pub state: PluginState,
    /// Since when it is so, RFC 3339.
    pub since: String,
    /// Why it is so, where it isn't simply running; or why not a newer version.
    pub reason: Option<String>,
    /// A collector's live series, or how many a detector is shown.
    pub series: usize,
    /// Values in its last answer, or in what it was last shown.
    pub values: usize,
    /// How often it is asked, in milliseconds, where not at every tick.
    pub interval_ms: Option<u64>,
    /// How often while nobody watches it, in milliseconds, where less often.
    pub interval_idle_ms: Option<u64>,
    /// The first 12 digits of its component's BLAKE3 hash.
    pub component: Option<String>,
    /// How long it took to compile, or to load from the cache, in milliseconds.
    pub load_ms: Option<f64>,
    /// Its compiled code came from the cache.
    pub cached: Option<bool>,
    /// From its files being whole to its first answer, in milliseconds.
    pub reload_ms: Option<f64>,
    /// What became of its state when this version took over.
    pub handover: Option<Handover>,
    /// How long it took to save it in the old and restore it in the new
    /// instance, in milliseconds.
    pub handover_ms: Option<f64>,
    /// Answers that this version has still to give to be the last good one.
    pub probation_left: Option<u32>,
    /// Traps, overruns, refused answers and fatal faults since it was added.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<String>,
    /// Instances that were started after a failure.
    pub restarts: u64,
    /// Returns to the last good version.
    pub rollbacks: u64,
    /// Answers that were due and had not come; a detector's skipped ticks.
    pub late: u64,
    /// What its last calls took.
    pub calls: CallFigures,
    /// What its instance's memories have together, in bytes.
    pub memory_bytes: usize,
    /// The size of the state that it saved last, in bytes.
    pub state_bytes: usize,
    /// What was over its limits since it was added, and was not let through.
    pub refused: RefusedCounts,
    /// What became of its events since it was added.
    pub events: EventFigures,
    /// What it is the shadow of, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowOf>,
    /// What ran before a shadow of it was promoted: `telltale detector rollback`
    /// brings it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PluginVersion>,
}

/// Beside which detector a shadow runs.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShadowOf {
    /// The detector.
    pub detector: PluginName,
    /// Since when, RFC 3339: over restarts of the hub.
    pub since: String,
    /// Since when both are counted, RFC 3339: since this run of the hub has both.
    pub counted_since: String,
    /// What had been counted of the detector then.
    #[serde(skip)]
    pub counted: Counted,
}

/// What is counted of a plugin and only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Calls.
    pub calls: u64,
    /// Ticks that it has not seen.
    pub skipped: u64,
    /// Failures.
    pub faults: u64,
}

impl Counted {
    /// What has been counted of a plugin so far.
    #[must_use]
    pub fn of(figures: &PluginFigures) -> Self {
        let PluginFigures { calls, late: skipped, faults, .. } = *figures;
        Self { calls: calls.count, skipped, faults }
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            skipped: self.skipped.saturating_sub(before.skipped),
            faults: self.faults.saturating_sub(before.faults),
        }
    }
}

/// A plugin in full, as `telltale plugin inspect` and `/v1/plugins/NAME` show
/// it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PluginDetails {
    /// What the list shows.
    #[serde(flatten)]
    pub status: PluginStatus,
    /// The version of `telltale:plugin` that it is built for.
    pub interface: Option<String>,
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
    /// Its last faults, the newest last.
    pub faults_recent: Vec<PluginFault>,
    /// The version that it returns to if a newer one fails.
    pub last_good: Option<PluginVersion>,
}

/// A version of a plugin that has proved itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PluginVersion {
    /// The first 12 digits of its component's BLAKE3 hash.
    pub component: String,
    /// When it passed its probation, RFC 3339.
    pub since: String,
}

/// One failure of a plugin.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PluginFault {
    /// When, RFC 3339.
    pub at: String,
    /// What was wrong.
    pub fault: String,
}

/// What sort of plugin it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginRole {
    /// It is asked for measurements.
    Collector,
    /// It is shown values and says what is odd.
    Detector,
}

/// How a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// It is being compiled and started for the first time.
    Loading,
    /// It runs.
    Running,
    /// It runs, but says that it can't do its work just now, or with these
    /// settings.
    Waiting,
    /// It failed, and will be started again.
    Restarting,
    /// It failed too often, and waits for another file, other settings, or to
    /// be told to resume.
    Quarantined,
    /// Its file or its settings can't be used, and there is no earlier version
    /// to go on with.
    Refused,
}

/// What became of a plugin's state when another instance took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Handover {
    /// The state was taken over in the same version.
    Restored,
    /// The state was of another version, and was taken over.
    Migrated,
    /// There was no state to take over.
    Cold,
}

impl Handover {
    /// As it is told to clients.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Migrated => "migrated",
            Self::Cold => "cold",
        }
    }
}

/// What a plugin is and costs, in figures for the hub's own series.
#[derive(Clone, Copy, Debug)]
pub struct PluginFigures {
    /// What its last calls took.
    pub calls: CallFigures,
    /// See [`PluginStatus::memory_bytes`].
    pub memory_bytes: usize,
    /// See [`PluginStatus::values`].
    pub values: usize,
    /// See [`PluginStatus::late`].
    pub late: u64,
    /// See [`PluginStatus::faults`].
    pub faults: u64,
    /// See [`PluginStatus::restarts`].
    pub restarts: u64,
    /// See [`PluginStatus::rollbacks`].
    pub rollbacks: u64,
    /// See [`PluginStatus::state_bytes`].
    pub state_bytes: usize,
    /// See [`PluginStatus::refused`].
    pub refused: RefusedCounts,
    /// See [`PluginStatus::events`].
    pub events: EventFigures,
    /// From its files being whole to its first answer, the last time; zero
    /// before.
    pub reload: Duration,
}

/// All plugins. Cheap to clone; the plugin room alone writes.
#[derive(Clone, Debug, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<PluginName, Arc<Record>>>>);

impl Statuses {
    /// All plugins, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginStatus> {
        self.records().iter().map(|(_, record)| record.status()).collect()
    }

    /// One plugin.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<PluginStatus> {
        self.record(name).map(|record| record.status())
    }

    /// One plugin in full.
    #[must_use]
    pub fn details(&self, name: &str) -> Option<PluginDetails> {
        self.record(name).map(|record| record.details())
    }

    /// What a plugin said and what became of it, after line `after`; waits for
    /// something to be said for up to `wait`. `None` if there is no such
    /// plugin.
    pub async fn lines(&self, name: &str, after: u64, wait: Duration) -> Option<Vec<JournalLine>> {
        let record = self.record(name)?;
        Some(record.journal.wait(after, wait).await)
    }

    /// What one plugin costs.
    #[must_use]
    pub fn figures_of(&self, name: &str) -> Option<PluginFigures> {
        self.record(name).map(|record| record.figures())
    }

    /// What each plugin costs.
    #[must_use]
    pub fn figures(&self) -> Vec<(PluginName, PluginFigures)> {
        let records = self.records();
        records.into_iter().map(|(name, record)| (name, record.figures())).collect()
    }

    /// The record of a plugin, made where there is none.
    pub(crate) fn add(&self, name: &PluginName, now: String, clock: &Clock) -> Arc<Record> {
        let mut records = self.lock();
        let made = || Arc::new(Record::new(name.clone(), now, clock.clone()));
        records.entry(name.clone()).or_insert_with(made).clone()
    }

    pub(crate) fn record(&self, name: &str) -> Option<Arc<Record>> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn records(&self) -> Vec<(PluginName, Arc<Record>)> {
        self.lock().iter().map(|(name, record)| (name.clone(), record.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PluginName, Arc<Record>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is known of one plugin, from when it was added until it is removed.
#[derive(Debug)]
pub(crate) struct Record {
    known: Mutex<Known>,
    /// What it costs and yields.
    pub(crate) cost: Cost,
    /// What was over its limits.
    pub(crate) refused: Refused,
    /// What became of its events.
    pub(crate) events: Arc<EventBook>,
    /// What it says, and what becomes of it.
    pub(crate) journal: Arc<Journal>,
}

struct Known {
    status: PluginStatus,
    faults: VecDeque<PluginFault>,
    /// The version that runs.
    kit: Option<Kit>,
    last_good: Option<LastGood>,
    /// The folder holds a version that was refused or taken back.
    declined: bool,
}

impl std::fmt::Debug for Known {
    /// Compiled code has nothing to show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.status.fmt(f)
    }
}

impl Record {
    fn new(name: PluginName, now: String, clock: Clock) -> Self {
        let status = PluginStatus {
            name: name.clone(),
            role: None,
            state: PluginState::Loading,
            since: now,
            reason: None,
            series: 0,
            values: 0,
            interval_ms: None,
            interval_idle_ms: None,
            component: None,
            load_ms: None,
            cached: None,
            reload_ms: None,
            handover: None,
            handover_ms: None,
            probation_left: None,
            faults: 0,
            last_fault: None,
            restarts: 0,
            rollbacks: 0,
            late: 0,
            calls: CallFigures::default(),
            memory_bytes: 0,
            state_bytes: 0,
            refused: RefusedCounts::default(),
            events: EventFigures::default(),
            shadow: None,
            before: None,
        };
        let known = Mutex::new(Known {
            status,
            faults: VecDeque::new(),
            kit: None,
            last_good: None,
            declined: false,
        });
        let journal = Arc::new(Journal::new(name, clock));
        let (cost, refused, events) = (Cost::default(), Refused::default(), Arc::default());
        Self { known, cost, refused, events, journal }
    }

    /// The version that runs, if one does.
    pub(crate) fn kit(&self) -> Option<Kit> {
        self.lock().kit.clone()
    }

    /// Notes which version runs.
    pub(crate) fn seat(&self, kit: &Kit) {
        let Kit { loadable, settings, .. } = kit;
        let mut known = self.lock();
        let kit = known.kit.insert(kit.clone());
        kit.unproven = None;
        known.declined = false;
        let status = &mut known.status;
        status.role = Some(loadable.role());
        status.component = Some(short_hash(loadable.hash));
        status.load_ms = Some(loadable.compile.took.as_secs_f64() * 1e3);
        status.cached = Some(loadable.compile.cached);
        let millis = |interval: Duration| u64::try_from(interval.as_millis()).ok();
        status.interval_ms = settings.interval.and_then(millis);
        status.interval_idle_ms = settings.interval_idle.and_then(millis);
    }

    /// Changes what is known.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PluginStatus)) {
        change(&mut self.lock().status);
    }

    /// Notes a failure.
    pub(crate) fn fault(&self, at: String, words: &str) {
        self.cost.faults.fetch_add(1, Ordering::Relaxed);
        self.cost.memory_bytes.store(0, Ordering::Relaxed);
        let mut known = self.lock();
        if known.faults.len() == FAULTS_KEPT {
            known.faults.pop_front();
        }
        known.faults.push_back(PluginFault { at, fault: words.to_owned() });
        known.status.last_fault = Some(words.to_owned());
    }

    /// Notes that the folder holds a version that does not run.
    pub(crate) fn decline(&self) {
        self.lock().declined = true;
    }

    /// Whether the folder holds a version that does not run.
    pub(crate) fn is_declined(&self) -> bool {
        self.lock().declined
    }

    /// Notes what the plugin can return to.
    pub(crate) fn keep_last_good(&self, last_good: Option<LastGood>) {
        self.lock().last_good = last_good;
    }

    /// Whether the plugin has said that it can't do its work just now.
    pub(crate) fn is_waiting(&self) -> bool {
        self.lock().status.state == PluginState::Waiting
    }

    fn status(&self) -> PluginStatus {
        let figures = self.figures();
        let reload_ms = figures.reload.as_secs_f64() * 1e3;
        PluginStatus {
            series: self.cost.series.load(Ordering::Relaxed),
            values: figures.values,
            reload_ms: (reload_ms > 0.0).then_some(reload_ms),
            faults: figures.faults,
            restarts: figures.restarts,
            rollbacks: figures.rollbacks,
            late: figures.late,
            calls: figures.calls,
            memory_bytes: figures.memory_bytes,
            state_bytes: figures.state_bytes,
            refused: figures.refused,
            events: figures.events,
            ..self.lock().status.clone()
        }
    }

    fn details(&self) -> PluginDetails {
        let status = self.status();
        let known = self.lock();
        let interface = known.kit.as_ref().map(|kit| kit.loadable.interface.clone());
        PluginDetails {
            status,
            interface: interface.as_ref().map(|interface| interface.version.clone()),
            imports: interface.as_ref().map(|i| i.imports.clone()).unwrap_or_default(),
            exports: interface.map(|interface| interface.exports).unwrap_or_default(),
            faults_recent: known.faults.iter().cloned().collect(),
            last_good: known.last_good.as_ref().map(|good| PluginVersion {
                component: good.component.chars().take(SHORT_HASH_DIGITS).collect(),
                since: good.since.clone(),
            }),
        }
    }

    pub(crate) fn figures(&self) -> PluginFigures {
        let cost = &self.cost;
        PluginFigures {
            calls: cost.figures(),
            memory_bytes: cost.memory_bytes.load(Ordering::Relaxed),
            values: cost.values.load(Ordering::Relaxed),
            late: read(&cost.late),
            faults: read(&cost.faults),
            restarts: read(&cost.restarts),
            rollbacks: read(&cost.rollbacks),
            state_bytes: cost.state_bytes.load(Ordering::Relaxed),
            refused: self.refused.counts(),
            events: self.events.figures(),
            reload: Duration::from_nanos(read(&cost.reload_ns)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PluginStatus {
    pub(crate) fn turn(&mut self, state: PluginState, now: String, reason: Option<String>) {
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.reason = reason;
    }
}

/// The digits of a component's hash that tell versions apart for people.
pub(crate) fn short_hash(hash: blake3::Hash) -> String {
    hash.to_hex()[..SHORT_HASH_DIGITS].to_owned()
}
