//! From what lies in the folder to what runs: one task that loads, replaces and
//! removes, so that no two of these race.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::actor::{Fresh, Kit, Office, Order, Seat, run_collector, run_detector};
use super::engine::{COMPONENT_BYTES_MAX, Engine, LoadError, Loadable};
use super::folder::{Fingerprint, Folder, View};
use super::imports::Surroundings;
use super::kv::KeyValues;
use super::limits::{Limits, Refused};
use super::notice::PluginEvent;
use super::output::PluginLog;
use super::settings::{SETTINGS_BYTES_MAX, Settings};
use super::state_file::StateFolder;
use super::status::{PluginRole, PluginState};
use crate::clock::rfc3339;
use crate::model::PluginName;
use crate::tick::Change;

/// Orders that may wait for a plugin's task: replacements follow each other no
/// faster than files settle.
const ORDERS_MAX: usize = 4;
/// How long a plugin may take to save its state when it is retired.
const RETIRE_MAX: Duration = Duration::from_secs(2);

/// Loads, replaces and removes plugins as the folder changes.
pub(crate) struct Manager {
    pub(crate) folder_path: PathBuf,
    pub(crate) tick: Duration,
    pub(crate) engine: Arc<Engine>,
    pub(crate) states: StateFolder,
    pub(crate) office: Office,
    pub(crate) changes: mpsc::Sender<Change>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Compiling uses all cores by itself; two at once would only slow the tick.
    pub(crate) compiling: Arc<Semaphore>,
    /// Compiled components, by the hash of their bytes, while a plugin uses them.
    pub(crate) loaded: Arc<RwLock<HashMap<blake3::Hash, std::sync::Weak<Loadable>>>>,
    pub(crate) plugins: BTreeMap<PluginName, Plugin>,
    /// Plugins that were there at the start and are still being loaded.
    pub(crate) first_loading: BTreeSet<PluginName>,
    pub(crate) finished: mpsc::Sender<Finished>,
}

/// How far the first loading has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Plugins that run or were refused.
    pub done: usize,
    /// Plugins that were in the folder at the start, once it has been looked at.
    pub total: Option<usize>,
    /// One that is being compiled.
    pub compiling: Option<PluginName>,
}

impl Progress {
    /// Whether all of them run or were refused.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.total.is_some_and(|total| self.done >= total)
    }
}

/// A plugin that is wanted: its files, and what was made of them.
pub(crate) struct Plugin {
    /// The files that were last acted upon.
    version: Version,
    cache: Arc<KeyValues>,
    refused: Refused,
    running: Option<RunningPlugin>,
}

struct RunningPlugin {
    role: PluginRole,
    task: AbortHandle,
    orders: mpsc::Sender<Order>,
    change: Change,
}

/// What a plugin is made of, as the folder shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    component: Option<(String, Option<Fingerprint>)>,
    settings: Option<Fingerprint>,
}

/// A loading job has come to its end.
pub(crate) struct Finished {
    plugin: PluginName,
    version: Version,
    result: Result<Fresh, String>,
}

/// What is to run, by the folder's view.
#[derive(Debug)]
struct Wanted {
    version: Version,
    settings: Result<Arc<Settings>, String>,
}

impl Manager {
    /// Runs until `stop` fires, then retires every plugin and keeps its state.
    pub(crate) async fn run(
        mut self,
        mut folder: Folder,
        first: View,
        mut finished: mpsc::Receiver<Finished>,
        stop: oneshot::Receiver<()>,
    ) {
        self.follow(&first).await;
        self.first_loading = self.plugins.keys().cloned().collect();
        let total = self.first_loading.len();
        self.progress.send_modify(|progress| progress.total = Some(total));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                _ = &mut stop => break,
                view = folder.changed() => self.follow(&view).await,
                Some(done) = finished.recv() => self.seat(done).await,
            }
        }
        self.retire_all().await;
    }

    /// Acts on the differences between what runs and what is wanted.
    async fn follow(&mut self, view: &View) {
        let wanted = wanted(view, |file| read_settings(&self.folder_path.join(file)));
        let gone: Vec<PluginName> =
            self.plugins.keys().filter(|name| !wanted.contains_key(&***name)).cloned().collect();
        for name in gone {
            self.remove(&name).await;
        }
        for (name, wanted) in wanted {
            let name = PluginName::from(name);
            if self.plugins.get(&name).is_none_or(|plugin| plugin.version != wanted.version) {
                self.load(name, wanted);
            }
        }
    }

    /// Begins to load a plugin, off this task.
    fn load(&mut self, name: PluginName, wanted: Wanted) {
        self.office.statuses.add(&name, rfc3339(self.office.notices.clock.now_ns()));
        let plugin = self.plugins.entry(name.clone()).or_insert_with(|| Plugin {
            version: wanted.version.clone(),
            cache: Arc::default(),
            refused: Refused::default(),
            running: None,
        });
        plugin.version = wanted.version.clone();
        let job = Job {
            plugin: name.clone(),
            folder: self.folder_path.clone(),
            tick: self.tick,
            engine: self.engine.clone(),
            compiling: self.compiling.clone(),
            loaded: self.loaded.clone(),
            progress: self.progress.clone(),
            cache: plugin.cache.clone(),
            refused: plugin.refused.clone(),
        };
        let finished = self.finished.clone();
        tokio::spawn(async move {
            let version = wanted.version.clone();
            let result = job.run(wanted).await;
            // Nobody listens any more once the hub stops.
            drop(finished.send(Finished { plugin: name, version, result }).await);
        });
    }

    /// Gives a loaded plugin its place.
    async fn seat(&mut self, done: Finished) {
        let Finished { plugin: name, version, result } = done;
        let Some(plugin) = self.plugins.get_mut(&name) else { return };
        if plugin.version != version {
            return; // Its files have changed again, and another job is under way.
        }
        let failed = match result {
            Ok(fresh) => match &plugin.running {
                Some(running) if running.role == fresh.kit.loadable.role() => {
                    self.replace(&name, fresh).await;
                    None
                }
                Some(_) => {
                    self.retire(&name, true).await;
                    self.begin(&name, fresh).await.err()
                }
                None => self.begin(&name, fresh).await.err(),
            },
            Err(reason) => Some(reason),
        };
        if let Some(reason) = failed {
            self.refuse(&name, reason).await;
        }
        self.loaded_first(&name);
    }

    /// Notes that a plugin of the first loading runs, was refused, or is gone.
    fn loaded_first(&mut self, name: &PluginName) {
        if self.first_loading.remove(name) {
            self.progress.send_modify(|progress| {
                progress.done += 1;
                progress.compiling = None;
            });
        }
    }

    async fn refuse(&mut self, name: &PluginName, reason: String) {
        let runs = self.plugins.get(name).is_some_and(|plugin| plugin.running.is_some());
        let now = rfc3339(self.office.notices.clock.now_ns());
        self.office.statuses.update(name, |status| {
            if runs {
                status.reason = Some(format!("the new version was refused: {reason}"));
            } else {
                status.turn(PluginState::Refused, now, Some(reason.clone()));
            }
        });
        let event = PluginEvent::Refused { plugin: name.clone(), reason };
        self.office.notices.tell(event).await;
    }

    /// Starts the task of a plugin that does not run yet.
    async fn begin(&mut self, name: &PluginName, fresh: Fresh) -> Result<(), String> {
        let role = fresh.kit.loadable.role();
        let interval = fresh.kit.settings.interval;
        let states = self.states.clone();
        let reading = name.clone();
        let kept = tokio::task::spawn_blocking(move || states.read(&reading)).await.ok().flatten();
        let seat = Seat::new(name.clone(), self.office.clone(), fresh, kept)
            .await
            .map_err(|failure| failure.to_string())?;
        let (orders, order_queue) = mpsc::channel(ORDERS_MAX);
        let (change, task) = match role {
            PluginRole::Collector => {
                let (ask, asks) = mpsc::channel(1);
                let task = tokio::spawn(run_collector(seat, asks, order_queue));
                (Change::Collector { name: name.clone(), interval, ask }, task.abort_handle())
            }
            PluginRole::Detector => {
                let (observe, snapshots) = mpsc::channel(1);
                let task = tokio::spawn(run_detector(seat, snapshots, order_queue));
                (Change::Detector { name: name.clone(), observe }, task.abort_handle())
            }
        };
        if let Some(plugin) = self.plugins.get_mut(name) {
            plugin.running = Some(RunningPlugin { role, task, orders, change: change.clone() });
        }
        drop(self.changes.send(change).await);
        Ok(())
    }

    /// Hands a new version to the plugin's task, to take over at the next tick.
    async fn replace(&mut self, name: &PluginName, fresh: Fresh) {
        let Some(running) = self.plugins.get_mut(name).and_then(|p| p.running.as_mut()) else {
            return;
        };
        if let Change::Collector { interval, .. } = &mut running.change {
            *interval = fresh.kit.settings.interval;
        }
        let order = running.orders.send(Order::Replace(Box::new(fresh)));
        if tokio::time::timeout(RETIRE_MAX, order).await.is_err() {
            let reason = "the one that runs has been busy for too long".to_owned();
            return self.refuse(name, reason).await;
        }
        // Told again, it is due at the next tick, whatever its interval.
        drop(self.changes.send(running.change.clone()).await);
    }

    async fn remove(&mut self, name: &PluginName) {
        self.retire(name, true).await;
        self.loaded_first(name);
        self.plugins.remove(name);
        self.office.statuses.remove(name);
        self.office.notices.tell(PluginEvent::Removed { plugin: name.clone() }).await;
    }

    /// Ends a plugin's task, keeps its state and lets its series go.
    async fn retire(&mut self, name: &PluginName, for_good: bool) {
        let running = self.plugins.get_mut(name).and_then(|plugin| plugin.running.take());
        if let Some(running) = running {
            drop(self.changes.send(Change::Gone { name: name.clone() }).await);
            retire(name.clone(), running, self.states.clone(), for_good).await;
        }
    }

    /// Ends all plugins side by side: each has the same short time.
    async fn retire_all(&mut self) {
        let mut retiring = tokio::task::JoinSet::new();
        for (name, plugin) in &mut self.plugins {
            if let Some(running) = plugin.running.take() {
                retiring.spawn(retire(name.clone(), running, self.states.clone(), false));
            }
        }
        retiring.join_all().await;
    }
}

async fn retire(name: PluginName, running: RunningPlugin, states: StateFolder, for_good: bool) {
    let (reply, answer) = oneshot::channel();
    let RunningPlugin { orders, task, .. } = running;
    let saved = async {
        orders.send(Order::Retire { for_good, reply }).await.ok()?;
        answer.await.ok().flatten()
    };
    let saved = match tokio::time::timeout(RETIRE_MAX, saved).await {
        Ok(Some(saved)) => saved,
        Ok(None) => return,
        Err(_) => {
            // What it may still answer must not be taken for a successor's.
            task.abort();
            tracing::warn!(plugin = %name, "it did not end in time, and what it knows is not kept");
            return;
        }
    };
    let plugin = name.clone();
    let written = tokio::task::spawn_blocking(move || states.write(&plugin, &saved)).await;
    if let Ok(Err(error)) = written {
        tracing::error!(plugin = %name, %error, "its state could not be kept");
    }
}

/// What one loading needs, away from the manager's task.
struct Job {
    plugin: PluginName,
    folder: PathBuf,
    tick: Duration,
    engine: Arc<Engine>,
    compiling: Arc<Semaphore>,
    loaded: Arc<RwLock<HashMap<blake3::Hash, std::sync::Weak<Loadable>>>>,
    progress: watch::Sender<Progress>,
    cache: Arc<KeyValues>,
    refused: Refused,
}

impl Job {
    async fn run(self, wanted: Wanted) -> Result<Fresh, String> {
        check_plugin_name(&self.plugin)?;
        let settings = wanted.settings?;
        let Some((file, Some(_))) = wanted.version.component else {
            let file = settings.component.as_deref().unwrap_or_default();
            return Err(format!("there is no whole file {file} in the folder"));
        };
        let loadable = self.loadable(self.folder.join(file)).await.map_err(|e| e.to_string())?;
        let kit = self.kit(loadable, settings);
        let instance = kit.start().await.map_err(|failure| failure.to_string())?;
        Ok(Fresh { kit, instance })
    }

    /// Reads a component, and compiles it unless another plugin runs it already
    /// or the cache has it: only compiling takes its turn.
    async fn loadable(&self, path: PathBuf) -> Result<Arc<Loadable>, LoadError> {
        let bytes = blocking(move || read_component(&path)).await?;
        let hash = blake3::hash(&bytes);
        if let Some(loadable) = self.known(hash).await? {
            return Ok(loadable);
        }
        let _turn = self.compiling.acquire().await.map_err(|_| stopping())?;
        // Another plugin of the same component may have had its turn meanwhile.
        if let Some(loadable) = self.known(hash).await? {
            return Ok(loadable);
        }
        let plugin = self.plugin.clone();
        self.progress.send_modify(|progress| progress.compiling = Some(plugin));
        let engine = self.engine.clone();
        let compiled = blocking(move || engine.compile(&bytes, hash)).await?;
        Ok(self.keep(compiled))
    }

    /// The component, if a plugin runs it or the cache has it.
    async fn known(&self, hash: blake3::Hash) -> Result<Option<Arc<Loadable>>, LoadError> {
        let known = self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if let Some(loadable) = known.and_then(|weak| weak.upgrade()) {
            return Ok(Some(loadable));
        }
        let engine = self.engine.clone();
        let cached = blocking(move || engine.cached(hash)).await?;
        Ok(cached.map(|loadable| self.keep(loadable)))
    }

    /// Lets others use a component for as long as somebody does.
    fn keep(&self, loadable: Loadable) -> Arc<Loadable> {
        let loadable = Arc::new(loadable);
        let mut table = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, weak| weak.strong_count() > 0);
        table.insert(loadable.hash, Arc::downgrade(&loadable));
        loadable
    }

    fn kit(&self, loadable: Arc<Loadable>, settings: Arc<Settings>) -> Kit {
        let role = loadable.role();
        let limits = Limits::of(&settings, role, self.tick);
        let refused = self.refused.clone();
        let surroundings = Arc::new(Surroundings {
            grant: settings.grant.clone(),
            memory_bytes_max: limits.memory_bytes,
            log: PluginLog::new(self.plugin.clone(), limits.log_lines, refused.clone()),
            cache: self.cache.clone(),
            virtual_now_ns: (role == PluginRole::Detector).then(|| Arc::new(AtomicU64::new(0))),
        });
        Kit { loadable, settings, surroundings, limits, refused }
    }
}

fn stopping() -> LoadError {
    LoadError::File("the hub is stopping".to_owned())
}

/// Work for a thread that may be kept busy.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopping()))
}

/// Letters, digits, `_` and `-`: the name becomes a label, a file name and a
/// word on the command line. `telltale` is the hub itself.
fn check_plugin_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name == "telltale" {
        return Err("`telltale` is the hub's own name: give the file another one".to_owned());
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err("its file name is not 1 to 64 letters, digits, `_` and `-`".to_owned());
    }
    Ok(())
}

fn read_component(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_at_most(path, COMPONENT_BYTES_MAX).map_err(LoadError::File)
}

fn read_settings(path: &Path) -> Result<Settings, String> {
    let bytes = read_at_most(path, SETTINGS_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
    Settings::parse(path, &text).map_err(|error| error.to_string())
}

fn read_at_most(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{} is larger than {} KiB", path.display(), bytes_max / 1024));
    }
    Ok(bytes)
}

/// What is to run: each `name.wasm`, and each `name.toml` that names another
/// component.
fn wanted(
    view: &BTreeMap<String, Fingerprint>,
    read: impl Fn(&str) -> Result<Settings, String>,
) -> BTreeMap<String, Wanted> {
    let mut plugins = BTreeMap::new();
    for file in view.keys() {
        let Some(name) = file.strip_suffix(".wasm").or_else(|| file.strip_suffix(".toml")) else {
            continue;
        };
        let (own, settings_file) = (format!("{name}.wasm"), format!("{name}.toml"));
        if plugins.contains_key(name) {
            continue;
        }
        let print = view.get(&settings_file).copied();
        let settings = match print {
            Some(_) => read(&settings_file).map(Arc::new),
            None => Ok(Arc::default()),
        };
        let named = settings.as_ref().ok().and_then(|settings| settings.component.clone());
        if named.is_none() && !view.contains_key(&own) {
            continue; // Settings without a component: nothing to run.
        }
        let component = named.unwrap_or(own);
        let component_print = view.get(&component).copied();
        let version = Version { component: Some((component, component_print)), settings: print };
        plugins.insert(name.to_owned(), Wanted { version, settings });
    }
    plugins
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
