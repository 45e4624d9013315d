//! What is known of each plugin, for people and programs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::RefusedCounts;
use crate::model::PluginName;

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
    /// Why it is so, where it isn't simply running.
    pub reason: Option<String>,
    /// A collector's live series, or how many a detector is shown.
    pub series: usize,
    /// How often it is asked, in milliseconds, where not at every tick.
    pub interval_ms: Option<u64>,
    /// The first 12 digits of its component's BLAKE3 hash.
    pub component: Option<String>,
    /// How long it took to compile, or to load from the cache, in milliseconds.
    pub load_ms: Option<f64>,
    /// Its compiled code came from the cache.
    pub cached: Option<bool>,
    /// What became of its state when this version took over.
    pub handover: Option<Handover>,
    /// Traps, overruns, refused answers and fatal faults since it was added.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<String>,
    /// What its instance's memories have together, in bytes.
    pub memory_bytes: usize,
    /// What was over its limits since it was added, and was not let through.
    pub refused: RefusedCounts,
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
    /// It failed too often, and waits for another file or other settings.
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

/// The status of all plugins. Cheap to clone; the plugin room alone writes.
#[derive(Clone, Debug, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<PluginName, PluginStatus>>>);

impl Statuses {
    /// All plugins, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginStatus> {
        self.lock().values().cloned().collect()
    }

    /// One plugin.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<PluginStatus> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn add(&self, name: &PluginName, now: String) {
        self.lock().entry(name.clone()).or_insert_with(|| PluginStatus {
            name: name.clone(),
            role: None,
            state: PluginState::Loading,
            since: now,
            reason: None,
            series: 0,
            interval_ms: None,
            component: None,
            load_ms: None,
            cached: None,
            handover: None,
            faults: 0,
            last_fault: None,
            memory_bytes: 0,
            refused: RefusedCounts::default(),
        });
    }

    pub(crate) fn update(&self, name: &str, change: impl FnOnce(&mut PluginStatus)) {
        if let Some(status) = self.lock().get_mut(name) {
            change(status);
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PluginName, PluginStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
