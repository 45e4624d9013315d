//! A door for `host/benches`: one instance, called as its task would call it.
//!
//! Nothing in the hub uses this. Errors are words, since a benchmark that meets
//! one has nothing to measure.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::bindings::exports::telltale::plugin::detect;
use super::collector::CollectorDesk;
use super::compile_cache::CompileCache;
use super::detector::DetectorDesk;
use super::engine::Engine;
use super::instance::Instance;
use super::kit::{Belongings, Kit};
use super::limits::{Limits, Refused};
use super::settings::Settings;
use crate::model::{Batch, Dictionary, Judgement, PluginName, Tick};
use crate::snapshot::Snapshot;

/// A benchmark is not to meet a limit.
const SETTINGS: &str =
    "[limits]\nmemory_mib = 192\ncollect_ms = 5000\nio_ms = 5000\nseries = 100_000\n";
/// How long a tick is.
const TICK: Duration = Duration::from_secs(1);

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
    async fn start(&self, plugin: &PluginName) -> Result<(Instance, Limits), String> {
        let cache = CompileCache::open(self.cache.to_owned()).map_err(|e| e.to_string())?;
        let loadable = Engine::new(cache)?
            .compile(self.component, blake3::hash(self.component))
            .map_err(|error| error.to_string())?;
        let settings = Settings::parse(Path::new("bench.toml"), SETTINGS)
            .map_err(|error| error.to_string())?;
        let belongings = Belongings::new(plugin);
        let kit = Kit::new(Arc::new(loadable), Arc::new(settings), TICK, belongings);
        let started = Instance::start(&kit.loadable, &kit.surroundings, kit.limits).await;
        let mut instance = started.map_err(|failure| failure.to_string())?;
        instance.configure(self.config_json).await.map_err(|failure| failure.to_string())?;
        Ok((instance, kit.limits))
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
        let (instance, limits) = guest.start(&plugin).await?;
        let desk = CollectorDesk::new(plugin, dictionary, limits, Refused::default());
        Ok(Self { instance, desk })
    }

    /// `collect` alone; how many values came. For one that has been asked
    /// before: the desk hears nothing of what is declared here.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn call(&mut self, tick: Tick) -> Result<usize, String> {
        let batch = self.instance.collect(tick).await;
        batch.map(|batch| batch.values.len()).map_err(|failure| failure.to_string())
    }

    /// `collect`, and the check of its batch: what the tick waits for.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn ask(&mut self, tick: Tick) -> Result<Batch, String> {
        let batch = self.instance.collect(tick).await;
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
        let (instance, limits) = guest.start(&plugin).await?;
        let desk = DetectorDesk::new(plugin, None, &limits, Refused::default());
        Ok(Self { instance, desk })
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
        let verdict = self.instance.observe(&observation.0).await;
        verdict.map(|verdict| verdict.findings.len()).map_err(|failure| failure.to_string())
    }

    /// From the snapshot to the checked judgement: what a detector costs a tick.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn judge(&mut self, snapshot: &Snapshot) -> Result<Judgement, String> {
        let shown = self.desk.observe(snapshot);
        let verdict = self.instance.observe(&shown.wire).await;
        let verdict = verdict.map_err(|failure| failure.to_string())?;
        self.desk.check(snapshot, shown, verdict).map_err(|broken| broken.to_string())
    }
}
