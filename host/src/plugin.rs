//! All that is Wasm: loading, running, replacing and stopping plugins.
//!
//! The only room that names `wasmtime`. It knows nothing of clients, and of the
//! store only that series get numbers.

mod actor;
mod archive;
#[doc(hidden)]
pub mod bench;
mod bindings;
mod bundled;
mod collector;
mod compile_cache;
mod control;
mod cost;
mod detector;
mod engine;
mod epoch;
mod events;
mod folder;
mod http;
mod imports;
mod instance;
mod interface;
mod journal;
mod kit;
mod last_good;
mod limiter;
mod limits;
mod load;
mod manager;
mod meter;
mod notice;
mod output;
pub mod replay;
mod seat;
mod settings;
mod shadow;
mod shadow_folder;
mod state_file;
mod status;
pub mod trial;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::audit::Audit;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::model::{Answer, Dictionary, Entry, Judgement};
use crate::tick::Change;

pub use bundled::{BUNDLED, Bundled, furnish, place};
pub(crate) use compile_cache::write_private;
pub use control::{ControlError, PluginControl};
pub use cost::CallFigures;
pub use events::{EVENTS_WAITING_MAX, EventCheck, EventFigures, EventOutlet, Publication, Ticket};
pub use journal::JournalLine;
pub use limits::RefusedCounts;
pub use manager::{Progress, Removed};
pub use shadow::shadow_name;
pub use status::{
    Counted, Handover, PluginDetails, PluginFault, PluginFigures, PluginRole, PluginState,
    PluginStatus, PluginVersion, ShadowOf, Statuses,
};

/// Loading jobs that may have ended at once before the manager takes note.
const FINISHED_MAX: usize = 16;

/// Commands that may wait for the manager: people type them.
const COMMANDS_MAX: usize = 16;

/// How long all plugins together may take to end.
const STOP_MAX: Duration = Duration::from_millis(2500);

/// Where plugins lie, and what they are given.
#[derive(Clone, Debug)]
pub struct PluginsConfig {
    /// The folder that is watched.
    pub folder: PathBuf,
    /// The hub's data folder: compiled code and states.
    pub data: PathBuf,
    /// How long a tick is.
    pub tick: Duration,
    /// Wall time.
    pub clock: Clock,
    /// Where they keep what they may lose.
    pub cache: Cache,
}

/// Where what plugins answer goes.
#[derive(Debug)]
pub struct Outlets {
    /// The numbers of series.
    pub dictionary: Arc<Dictionary>,
    /// Collectors' answers, to the tick.
    pub answers: mpsc::Sender<Answer>,
    /// Plugins that come and go, to the tick.
    pub changes: mpsc::Sender<Change>,
    /// Detectors' answers, to the judge.
    pub judgements: mpsc::Sender<Judgement>,
    /// What happens to plugins, to the log.
    pub entries: mpsc::Sender<Entry>,
    /// … and to the audit log.
    pub audit: Audit,
    /// What plugins publish, to whoever publishes it.
    pub events: EventOutlet,
}

/// Why plugins can't be run at all.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// A folder can't be read or written.
    #[error("{path}: {source}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine can't run compiled WebAssembly.
    #[error("WebAssembly can't be run here: {0}")]
    Engine(String),
}

/// All plugins, running. Dropping it stops them without saving their states.
#[derive(Debug)]
pub struct Plugins {
    statuses: Statuses,
    control: PluginControl,
    progress: watch::Receiver<Progress>,
    stop: Option<oneshot::Sender<()>>,
    manager: Option<tokio::task::JoinHandle<()>>,
    /// Guests run on threads of their own: whatever they do, the tick and the
    /// sessions have theirs. `None` once stopped.
    runtime: Option<Runtime>,
    /// Lets plugins publish for as long as they run.
    _events: mpsc::Sender<Publication>,
}

impl Plugins {
    /// Begins to load what is in the folder, and to watch it.
    ///
    /// # Errors
    ///
    /// [`PluginsError`]. What is wrong with a single plugin is in its status.
    pub fn start(config: &PluginsConfig, outlets: Outlets) -> Result<Self, PluginsError> {
        let at = |path: PathBuf| move |source| PluginsError::Folder { path, source };
        let cache_path = config.data.join("cache");
        let cache =
            compile_cache::CompileCache::open(cache_path.clone()).map_err(at(cache_path))?;
        let states_path = config.data.join("states");
        let states = state_file::StateFolder::open(states_path.clone()).map_err(at(states_path))?;
        let goods_path = config.data.join("last-good");
        let goods = last_good::LastGoodFolder::open(goods_path.clone()).map_err(at(goods_path))?;
        let shadows_path = config.data.join("shadows");
        let shadows = shadow_folder::ShadowFolder::open(shadows_path.clone())
            .and_then(|shadows| shadows.finish(&config.folder, &states).map(|()| shadows))
            .map_err(at(shadows_path))?;
        let (folder, view) =
            folder::Folder::open(config.folder.clone()).map_err(at(config.folder.clone()))?;
        let engine = engine::Engine::new(cache).map_err(PluginsError::Engine)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("telltale-plugin")
            .enable_all()
            .build()
            .map_err(|error| PluginsError::Engine(error.to_string()))?;
        let archive = archive::Archive::start(states.clone(), goods.clone())
            .map_err(|error| PluginsError::Engine(error.to_string()))?;

        let statuses = Statuses::default();
        let (progress, watched) = watch::channel(Progress::default());
        let (finished, finishes) = mpsc::channel(FINISHED_MAX);
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (stop, stopped) = oneshot::channel();
        let Outlets { dictionary, answers, changes, judgements, entries, events, audit } = outlets;
        let clock = config.clock.clone();
        let notices = notice::Notices { entries, statuses: statuses.clone(), clock, audit };
        let office = seat::Office { notices, dictionary, archive, changes, answers, judgements };
        let loader = load::Loader::new(
            config.folder.clone(),
            config.tick,
            engine,
            states,
            goods,
            progress.clone(),
            config.cache.clone(),
            events::Outlet::new(&events),
        );
        let manager = manager::Manager {
            folder_path: config.folder.clone(),
            loader: Arc::new(loader),
            office,
            statuses: statuses.clone(),
            progress,
            plugins: BTreeMap::new(),
            shadows: BTreeMap::new(),
            shadow_folder: shadows,
            first_loading: BTreeSet::new(),
            view,
            finished,
        };
        let manager = runtime.spawn(manager.run(folder, finishes, command_queue, stopped));
        let control = PluginControl::new(commands, statuses.clone());
        Ok(Self {
            statuses,
            control,
            progress: watched,
            stop: Some(stop),
            manager: Some(manager),
            runtime: Some(runtime),
            _events: events.queue,
        })
    }

    /// What is known of each plugin.
    #[must_use]
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// What can be done to plugins while they run.
    #[must_use]
    pub fn control(&self) -> PluginControl {
        self.control.clone()
    }

    /// How far the first loading has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The runtime that plugins run on, to ask them from.
    #[must_use]
    pub fn runtime(&self) -> tokio::runtime::Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle().clone(),
            None => tokio::runtime::Handle::current(),
        }
    }

    /// Saves the plugins' states and ends them. Call it before the tick ends,
    /// so that nobody waits for an answer that nobody reads.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the manager has ended already.
            let _ = stop.send(());
        }
        let Some(manager) = self.manager.take() else { return };
        match tokio::time::timeout(STOP_MAX, manager).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the plugins' manager failed"),
            Err(_) => tracing::error!("the plugins did not end in time, and are cut off"),
        }
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Guests in the midst of a call are dropped with it.
            runtime.shutdown_background();
        }
    }
}
