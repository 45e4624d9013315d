//! A door for `host/benches`: one instance, called as its task would call it.
//!
//! Nothing in the hub uses this. Errors are words, since a benchmark that meets
//! one has nothing to measure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::bindings::exports::telltale::plugin::detect;
use super::collector::CollectorDesk;
use super::compile_cache::CompileCache;
use super::detector::DetectorDesk;
use super::engine::Engine;
use super::imports::Surroundings;
use super::instance::Instance;
use super::output::PluginLog;
use super::settings::Grant;
use crate::clock::Clock;
use crate::model::{Batch, Dictionary, Judgement, PluginName, Tick};
use crate::snapshot::Snapshot;

/// Computing and waiting in one call: a benchmark is not to meet a limit.
const BUDGET: Duration = Duration::from_secs(5);
/// Linear memory of an instance.
const MEMORY_BYTES_MAX: usize = 192 * 1024 * 1024;
/// Series that a collector may declare.
const SERIES_MAX: usize = 100_000;

/// A component to load, and where its compiled code is kept.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The component's bytes.
    pub component: &'a [u8],
    /// What `configure` gets.
    pub config_json: &'a str,
    /// The compile cache.
    pub cache: &'a Path,
}

impl Guest<'_> {
    async fn start(&self, plugin: &PluginName) -> Result<Instance, String> {
        let cache = CompileCache::open(self.cache.to_owned()).map_err(|e| e.to_string())?;
        let loadable = Engine::new(cache)?
            .compile(self.component, blake3::hash(self.component))
            .map_err(|error| error.to_string())?;
        let surroundings = Surroundings {
            grant: Grant::default(),
            memory_bytes_max: MEMORY_BYTES_MAX,
            log: PluginLog::new(plugin.clone(), Clock::system()),
            cache: Arc::default(),
            virtual_now_ns: Some(Arc::new(AtomicU64::new(0))),
        };
        let started = Instance::start(&loadable, &surroundings, BUDGET).await;
        let mut instance = started.map_err(|failure| failure.to_string())?;
        instance.configure(self.config_json).await.map_err(|failure| failure.to_string())?;
        Ok(instance)
    }
}

/// A collector that is asked directly.
pub struct Collector {
    instance: Instance,
    desk: CollectorDesk,
}

impl Collector {
    /// Loads and configures it.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn start(guest: Guest<'_>, dictionary: Arc<Dictionary>) -> Result<Self, String> {
        let plugin = PluginName::from("bench");
        let instance = guest.start(&plugin).await?;
        let desk = CollectorDesk::new(plugin, dictionary, 1_000_000_000, SERIES_MAX);
        Ok(Self { instance, desk })
    }

    /// `collect` alone; how many values came. For one that has been asked
    /// before: the desk hears nothing of what is declared here.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn call(&mut self, tick: Tick) -> Result<usize, String> {
        let batch = self.instance.collect(tick, BUDGET).await;
        batch.map(|batch| batch.values.len()).map_err(|failure| failure.to_string())
    }

    /// `collect`, and the check of its batch: what the tick waits for.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn ask(&mut self, tick: Tick) -> Result<Batch, String> {
        let batch = self.instance.collect(tick, BUDGET).await;
        let batch = batch.map_err(|failure| failure.to_string())?;
        self.desk.check(batch).await.map_err(|refusal| refusal.to_string())
    }
}

/// A detector that is shown snapshots directly.
pub struct Detector {
    instance: Instance,
    desk: DetectorDesk,
}

/// What [`Detector::call`] hands over: an observation, ready for the call.
pub struct Observation(detect::Observation);

impl Detector {
    /// Loads and configures it.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn start(guest: Guest<'_>) -> Result<Self, String> {
        let plugin = PluginName::from("bench");
        let instance = guest.start(&plugin).await?;
        Ok(Self { instance, desk: DetectorDesk::new(plugin, None) })
    }

    /// What it would be shown of `snapshot`. The first one declares the series.
    pub fn prepare(&mut self, snapshot: &Snapshot) -> Observation {
        Observation(self.desk.observe(snapshot).wire)
    }

    /// `observe` alone; how many findings came.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn call(&mut self, observation: &Observation) -> Result<usize, String> {
        let verdict = self.instance.observe(&observation.0, BUDGET).await;
        verdict.map(|verdict| verdict.findings.len()).map_err(|failure| failure.to_string())
    }

    /// From the snapshot to the checked judgement: what a detector costs a tick.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn judge(&mut self, snapshot: &Snapshot) -> Result<Judgement, String> {
        let shown = self.desk.observe(snapshot);
        let verdict = self.instance.observe(&shown.wire, BUDGET).await;
        let verdict = verdict.map_err(|failure| failure.to_string())?;
        self.desk.check(snapshot, shown, verdict).map_err(|broken| broken.to_string())
    }
}
