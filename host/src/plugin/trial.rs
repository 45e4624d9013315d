//! Trying a component out before any hub runs it: does it keep the rules, and
//! what does it cost?
//!
//! It is loaded, started, called and checked by what the hub itself uses; only
//! the questions are made up. Nothing here touches a running hub.

mod costs;
mod grants;
mod players;
mod report;
mod scene;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::compile_cache::CompileCache;
use super::engine::{COMPONENT_BYTES_MAX, Engine, LoadError, Loadable};
use super::events::{EVENTS_WAITING_MAX, EventCheck, EventOutlet, Outlet, Publication};
use super::kit::{Belongings, Kit};
use super::settings::{SETTINGS_BYTES_MAX, Settings};
use super::status::PluginRole;
use crate::model::PluginName;

pub use costs::{CallCost, Costs, Load};
pub use grants::{Import, ImportAnswer};
pub use report::{Outcome, Report, ShownEvent, Step};

/// How often a plugin is asked in a trial, by the clock that it is shown.
const TICK: Duration = Duration::from_secs(1);

/// By how much computing limits are widened where the host itself is not
/// optimised, as in its own tests: handing values over is counted too.
pub(super) const SLOWNESS: u32 = if cfg!(debug_assertions) { 10 } else { 1 };

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The component's file.
    pub component: PathBuf,
    /// Its settings' file, where it has one.
    pub settings: Option<PathBuf>,
    /// Where compiled code is kept; made where it is missing.
    pub cache: PathBuf,
    /// Compile it also where its compiled code is kept, to see what that costs.
    pub anew: bool,
    /// The rules of events.
    pub check_event: EventCheck,
}

/// Why a component can't be tried.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A file can't be read, or the cache can't be written.
    #[error("{path}: {words}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// The settings ask for what can't be; names their file.
    #[error("{0}")]
    Settings(String),
    /// The machine can't run compiled WebAssembly.
    #[error("WebAssembly can't be run here: {0}")]
    Engine(String),
    /// The hub would refuse the component.
    #[error("{0}")]
    Component(String),
}

/// A component that was loaded, with the settings that it is tried with.
pub struct Trial {
    plugin: PluginName,
    kit: Kit,
    /// What it publishes: shown, and told to nobody.
    events: Mutex<mpsc::Receiver<Publication>>,
    /// Keeps that queue open.
    _queue: mpsc::Sender<Publication>,
    /// Somebody has named a settings file.
    with_settings: bool,
    bytes: u64,
    load: Load,
}

impl Trial {
    /// Loads a component.
    ///
    /// # Errors
    ///
    /// [`TrialError`].
    pub fn open(subject: &Subject) -> Result<Self, TrialError> {
        let component = read(&subject.component, COMPONENT_BYTES_MAX)?;
        let settings = match &subject.settings {
            Some(file) => read_settings(file)?,
            None => Settings::default(),
        };
        let cache = CompileCache::open(subject.cache.clone()).map_err(|error| {
            TrialError::File { path: subject.cache.clone(), words: error.to_string() }
        })?;
        let engine = Engine::new(cache).map_err(TrialError::Engine)?;
        let (loadable, load) = load(&engine, &component, subject.anew)
            .map_err(|error| TrialError::Component(error.to_string()))?;
        settings.check_role(loadable.role()).map_err(|words| {
            let file = subject.settings.as_deref().and_then(Path::file_name).unwrap_or_default();
            TrialError::Settings(format!("{}: {words}", file.display()))
        })?;
        let name = subject.component.file_stem().unwrap_or_default().to_string_lossy();
        let plugin = PluginName::from(&*name);
        let (queue, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let outlet = EventOutlet { queue: queue.clone(), check: subject.check_event };
        Ok(Self {
            kit: kit(&plugin, loadable, settings, &outlet),
            plugin,
            events: Mutex::new(events),
            _queue: queue,
            with_settings: subject.settings.is_some(),
            bytes: component.len() as u64,
            load,
        })
    }

    /// What sort of plugin it is.
    #[must_use]
    pub fn role(&self) -> PluginRole {
        self.kit.loadable.role()
    }

    /// The world that its exports make up.
    #[must_use]
    pub fn world(&self) -> &'static str {
        match (self.role(), self.kit.loadable.exports.state.is_some()) {
            (PluginRole::Collector, false) => "collector",
            (PluginRole::Collector, true) => "stateful-collector",
            (PluginRole::Detector, false) => "detector",
            (PluginRole::Detector, true) => "stateful-detector",
        }
    }

    /// The version of the interface that it speaks.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.kit.loadable.interface.version
    }

    /// What it imports, and what the hub would answer with these settings.
    #[must_use]
    pub fn imports(&self) -> Vec<Import> {
        // They were read from this very text.
        let settings: toml::Table = self.kit.settings.source.expose().parse().unwrap_or_default();
        let grant = settings.get("grant").and_then(toml::Value::as_table);
        let grant = grant.cloned().unwrap_or_default();
        let names = self.kit.loadable.interface.imports.iter();
        names.map(|name| grants::import(name, &grant)).collect()
    }

    /// What it has published since this was last asked.
    fn published(&self) -> Vec<Publication> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| events.try_recv().ok()).collect()
    }

    /// Sees whether it keeps the rules. Needs a tokio runtime of a single
    /// thread, by whose processor time computing is counted.
    pub async fn check(&self) -> Report {
        steps::check(self).await
    }

    /// Measures what it costs over so many ticks; a detector is shown so many
    /// series. Needs what [`Trial::check`] needs.
    ///
    /// # Errors
    ///
    /// A call went wrong, in words.
    pub async fn bench(&self, series: u32, ticks: u32) -> Result<Costs, String> {
        costs::bench(self, series, ticks).await
    }
}

/// Takes a component from the cache, or compiles it: then it is there for the
/// next time.
fn load(engine: &Engine, component: &[u8], anew: bool) -> Result<(Loadable, Load), LoadError> {
    let hash = blake3::hash(component);
    let mut load = Load { compile: None, from_cache: None };
    if anew {
        let compiling = Instant::now();
        engine.compile(component, hash)?;
        load.compile = Some(compiling.elapsed());
    }
    let loading = Instant::now();
    if let Some(loadable) = engine.cached(component, hash)? {
        load.from_cache = Some(loading.elapsed());
        return Ok((loadable, load));
    }
    Ok((engine.compile(component, hash)?, load))
}

/// What the hub would start it with.
fn kit(plugin: &PluginName, loadable: Loadable, settings: Settings, outlet: &EventOutlet) -> Kit {
    let outlet = Outlet::new(outlet).unpaced();
    let belongings = Belongings { outlet, ..Belongings::new(plugin) };
    let mut kit = Kit::new(Arc::new(loadable), Arc::new(settings), TICK, belongings);
    kit.limits.collect *= SLOWNESS;
    kit
}

pub(super) fn read_settings(path: &Path) -> Result<Settings, TrialError> {
    let text = String::from_utf8(read(path, SETTINGS_BYTES_MAX)?)
        .map_err(|_| TrialError::Settings(format!("{} is not UTF-8", path.display())))?;
    Settings::parse(path, &text).map_err(|error| TrialError::Settings(error.to_string()))
}

pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, TrialError> {
    let file = |words: String| TrialError::File { path: path.to_owned(), words };
    let length = fs::metadata(path).map_err(|error| file(error.to_string()))?.len();
    if length > bytes_max {
        return Err(file(format!("it has {length} bytes, and {bytes_max} is the limit")));
    }
    fs::read(path).map_err(|error| file(error.to_string()))
}
