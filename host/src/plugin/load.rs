//! Loading a plugin, away from the manager's task: from its files to an
//! instance that waits for its turn.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::engine::{COMPONENT_BYTES_MAX, Engine, LoadError, Loadable};
use super::events::Outlet;
use super::folder::Fingerprint;
use super::instance::Saved;
use super::kit::{Belongings, Fresh, Good, Kit, StartFailure};
use super::last_good::{LastGood, LastGoodFolder};
use super::manager::Progress;
use super::seat::{First, Next};
use super::settings::{SETTINGS_BYTES_MAX, Settings};
use super::shadow::shadowed;
use super::state_file::{Standing, StateFolder};
use super::status::{Handover, PluginRole, Record};
use super::wanted::Wanted;
use crate::cache::{Cache, PluginCache};
use crate::model::PluginName;

/// What all loading shares.
pub(crate) struct Loader {
    folder: PathBuf,
    tick: Duration,
    engine: Arc<Engine>,
    states: StateFolder,
    goods: LastGoodFolder,
    progress: watch::Sender<Progress>,
    /// Of which each plugin gets its part.
    pub(super) cache: Cache,
    /// Where their events go.
    outlet: Outlet,
    /// Compiling uses all cores by itself; two at once would only slow the tick.
    compiling: Arc<Semaphore>,
    /// Compiled components, by the hash of their bytes, while a plugin uses them.
    loaded: RwLock<HashMap<blake3::Hash, Weak<Loadable>>>,
}

/// What one loading needs.
pub(crate) struct Job {
    pub(crate) plugin: PluginName,
    /// When its files were seen whole.
    pub(crate) whole: Instant,
    /// An earlier version of it runs.
    pub(crate) runs: bool,
    pub(crate) record: Arc<Record>,
    pub(crate) cache: PluginCache,
    pub(crate) loader: Arc<Loader>,
}

/// What came of a loading.
pub(crate) enum Loaded {
    /// Nothing runs yet: the first instance, which has been given what was kept
    /// of an earlier one; and why it is not what the folder holds.
    First { first: Box<First>, handover: Handover, instead_of: Option<String> },
    /// An instance of another version, which is to be given what the one that
    /// runs knows.
    Instance(Box<Fresh>),
    /// Other settings, which the instance that runs can be given.
    Settings(Next),
    /// The component was changed while it was being read.
    Torn,
}

impl Loaded {
    /// The settings of what was loaded.
    pub(crate) fn settings(&self) -> Option<Arc<Settings>> {
        match self {
            Self::First { first, .. } => Some(first.fresh.kit.settings.clone()),
            Self::Instance(fresh) => Some(fresh.kit.settings.clone()),
            Self::Settings(Next::Settings { settings, .. }) => Some(settings.clone()),
            Self::Settings(Next::Instance(_)) | Self::Torn => None,
        }
    }
}

/// The bytes of a component as the folder showed it.
struct File {
    bytes: Bytes,
    hash: blake3::Hash,
}

impl Loader {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a room of its own, and it is called once"
    )]
    pub(crate) fn new(
        folder: PathBuf,
        tick: Duration,
        engine: Engine,
        states: StateFolder,
        goods: LastGoodFolder,
        progress: watch::Sender<Progress>,
        cache: Cache,
        outlet: Outlet,
    ) -> Self {
        let (compiling, loaded) = (Arc::new(Semaphore::new(1)), RwLock::default());
        let engine = Arc::new(engine);
        Self { folder, tick, engine, states, goods, progress, cache, outlet, compiling, loaded }
    }

    /// Takes a component that another plugin runs already or that the cache
    /// has, or compiles it: only compiling takes its turn.
    async fn loadable(&self, plugin: &PluginName, file: &File) -> Result<Arc<Loadable>, LoadError> {
        if let Some(loadable) = self.known(file).await? {
            return Ok(loadable);
        }
        let turn = self.compiling.clone().acquire_owned().await.map_err(|_| stopping())?;
        // Another plugin of the same component may have had its turn meanwhile.
        if let Some(loadable) = self.known(file).await? {
            return Ok(loadable);
        }
        self.progress.send_modify(|progress| progress.compiling = Some(plugin.clone()));
        let (engine, bytes, hash) = (self.engine.clone(), file.bytes.clone(), file.hash);
        let compile = move || {
            // Compiling ends here, whether or not somebody still waits for it.
            let _turn = turn;
            engine.compile(&bytes, hash)
        };
        Ok(self.keep(blocking(compile).await?))
    }

    /// The component, if a plugin runs it or the cache has it.
    async fn known(&self, file: &File) -> Result<Option<Arc<Loadable>>, LoadError> {
        if let Some(loadable) = self.in_use(file.hash) {
            return Ok(Some(loadable));
        }
        let (engine, bytes, hash) = (self.engine.clone(), file.bytes.clone(), file.hash);
        let cached = blocking(move || engine.cached(&bytes, hash)).await?;
        Ok(cached.map(|loadable| self.keep(loadable)))
    }

    /// The component of that hash, if it is a last good version's.
    pub(crate) fn last_good_component(&self, hash: &str) -> Option<Bytes> {
        self.goods.of_hash(hash).map(Bytes::from)
    }

    fn in_use(&self, hash: blake3::Hash) -> Option<Arc<Loadable>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(&hash).and_then(Weak::upgrade)
    }

    /// Lets others use a component for as long as somebody does.
    fn keep(&self, loadable: Loadable) -> Arc<Loadable> {
        let loadable = Arc::new(loadable);
        let mut table = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, weak| weak.strong_count() > 0);
        table.insert(loadable.hash, Arc::downgrade(&loadable));
        loadable
    }
}

impl Job {
    /// An instance of a component that is not the folder's.
    ///
    /// # Errors
    ///
    /// It can't be used, by these settings or at all.
    pub(crate) async fn fresh(
        &self,
        bytes: Bytes,
        settings: Arc<Settings>,
    ) -> Result<Fresh, String> {
        let file = File { hash: blake3::hash(&bytes), bytes };
        let loadable = self.loader.loadable(&self.plugin, &file).await.map_err(words)?;
        self.check_role(&settings, loadable.role())?;
        let kit = self.kit(loadable, settings, Some(file.bytes));
        let instance = kit.start().await.map_err(words)?;
        Ok(Fresh { kit, instance, whole: self.whole })
    }

    /// Loads what is wanted; where that can't be and nothing runs yet, the last
    /// good version.
    pub(crate) async fn run(self, wanted: Wanted) -> Result<Loaded, String> {
        // As of one that runs: it goes on under the last settings that could be
        // read.
        let settings = wanted.settings.clone().ok();
        let reason = match self.load(wanted).await {
            Err(reason) if !self.runs => reason,
            loaded => return loaded,
        };
        let Some(good) = self.good(None).await else { return Err(reason) };
        let good = match settings {
            Some(settings) => good.under(&settings),
            None => good,
        };
        self.first(good.kit, None, Some(reason.clone())).await.map_err(|_| reason)
    }

    async fn load(&self, wanted: Wanted) -> Result<Loaded, String> {
        check_plugin_name(&self.plugin)?;
        let settings = wanted.settings?;
        let Some((name, Some(print))) = wanted.version.component else {
            let file = settings.component.as_deref().unwrap_or_default();
            return Err(format!("there is no whole file {file} in the folder"));
        };
        let path = self.loader.folder.join(name);
        let file = blocking(move || read_component(&path, print)).await.map_err(words)?;
        let Some(file) = file else { return Ok(Loaded::Torn) };
        if let Some(next) = self.in_place(&file, &settings)? {
            return Ok(Loaded::Settings(next));
        }
        let loadable = self.loader.loadable(&self.plugin, &file).await.map_err(words)?;
        self.check_role(&settings, loadable.role())?;
        let kit = self.kit(loadable, settings, Some(file.bytes));
        if !self.runs {
            let good = self.good(Some(&kit)).await.and_then(|good| good.before(&kit));
            return self.first(kit, good, None).await;
        }
        let instance = kit.start().await.map_err(words)?;
        Ok(Loaded::Instance(Box::new(Fresh { kit, instance, whole: self.whole })))
    }

    /// The settings alone, if the component that runs is the one that is
    /// wanted, and its instance can be given them.
    fn in_place(&self, file: &File, settings: &Arc<Settings>) -> Result<Option<Next>, String> {
        let Some(kit) = self.record.kit().filter(|_| self.runs) else { return Ok(None) };
        if kit.loadable.hash != file.hash || !kit.takes_in_place(settings) {
            return Ok(None);
        }
        self.check_role(settings, kit.loadable.role())?;
        let (settings, component) = (settings.clone(), file.hash);
        Ok(Some(Next::Settings { settings, component, whole: self.whole }))
    }

    fn check_role(&self, settings: &Settings, role: PluginRole) -> Result<(), String> {
        settings.check_role(role).map_err(|words| format!("{}.toml: {words}", self.plugin))
    }

    /// The first instance, with what was kept of an earlier one.
    async fn first(
        &self,
        mut kit: Kit,
        good: Option<Good>,
        instead_of: Option<String>,
    ) -> Result<Loaded, String> {
        let last_good = self.last_good().await;
        let is_good = last_good.as_ref().is_some_and(|good| {
            good.component == kit.loadable.hash.to_hex().as_str()
                && good.settings == kit.settings.source.expose()
        });
        self.record.keep_last_good(last_good);
        if is_good {
            kit.unproven = None;
        }
        let state = self.state_for(kit.loadable.hash).await;
        let started = match kit.start_with(state.as_ref()).await {
            Ok((instance, handover)) => Ok((instance, handover, state)),
            Err(StartFailure::Handover(failure)) => {
                let plugin = &self.plugin;
                tracing::warn!(%plugin, %failure, "the kept state was not taken over");
                kit.start().await.map(|instance| (instance, Handover::Cold, None))
            }
            Err(StartFailure::Start(failure)) => Err(failure),
        };
        let (instance, handover, state) = started.map_err(words)?;
        let fresh = Fresh { kit, instance, whole: self.whole };
        let first = Box::new(First { fresh, state, good });
        Ok(Loaded::First { first, handover, instead_of })
    }

    /// The last good version, unless it is `kit`.
    async fn good(&self, kit: Option<&Kit>) -> Option<Good> {
        let (plugin, goods) = (self.plugin.clone(), self.loader.goods.clone());
        let (hash, source) = match kit {
            Some(kit) => {
                (kit.loadable.hash.to_hex().to_string(), kit.settings.source.expose().to_owned())
            }
            None => (String::new(), String::new()),
        };
        let read = move || {
            let good = goods.read(&plugin)?;
            if good.component == hash && good.settings == source {
                return None;
            }
            let bytes = Bytes::from(goods.component(&good)?);
            Some((bytes, good.settings))
        };
        let (bytes, settings) = tokio::task::spawn_blocking(read).await.ok().flatten()?;
        let settings = Settings::parse(Path::new("the last good version"), &settings).ok()?;
        let file = File { hash: blake3::hash(&bytes), bytes };
        let loadable = self.loader.loadable(&self.plugin, &file).await.ok()?;
        let kit = self.kit(loadable, Arc::new(settings), None);
        let (plugin, states) = (self.plugin.clone(), self.loader.states.clone());
        let read = move || states.read(&plugin, Standing::Good).map(|kept| kept.saved);
        let state = tokio::task::spawn_blocking(read).await.ok().flatten();
        Some(Good { kit, state })
    }

    /// What has passed its probation in an earlier run.
    async fn last_good(&self) -> Option<LastGood> {
        let (plugin, goods) = (self.plugin.clone(), self.loader.goods.clone());
        tokio::task::spawn_blocking(move || goods.read(&plugin)).await.ok().flatten()
    }

    /// What is kept for an instance of this component when the hub starts.
    pub(crate) async fn state_for(&self, hash: blake3::Hash) -> Option<Saved> {
        let (plugin, states) = (self.plugin.clone(), self.loader.states.clone());
        tokio::task::spawn_blocking(move || states.read_for(&plugin, hash)).await.ok().flatten()
    }

    fn kit(&self, loadable: Arc<Loadable>, settings: Arc<Settings>, bytes: Option<Bytes>) -> Kit {
        let belongings = Belongings {
            journal: self.record.journal.clone(),
            refused: self.record.refused.clone(),
            cache: self.cache.clone(),
            events: self.record.events.clone(),
            outlet: match shadowed(&self.plugin) {
                // What happens in a shadow is recorded, and told to nobody.
                Some(_) => Outlet::closed(),
                None => self.loader.outlet.clone(),
            },
        };
        let mut kit = Kit::new(loadable, settings, self.loader.tick, belongings);
        kit.unproven = bytes;
        kit
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
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
pub(crate) fn check_plugin_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name == "telltale" {
        return Err("`telltale` is the hub's own name: give the file another one".to_owned());
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
        return Err("its file name is not 1 to 64 letters, digits, `_` and `-`".to_owned());
    }
    Ok(())
}

/// Reads a component once. `None` if it is not the file any more that `print`
/// was taken of.
fn read_component(path: &Path, print: Fingerprint) -> Result<Option<File>, LoadError> {
    let (bytes, read) = read_at_most(path, COMPONENT_BYTES_MAX).map_err(LoadError::File)?;
    if read != print {
        return Ok(None);
    }
    let bytes = Bytes::from(bytes);
    Ok(Some(File { hash: blake3::hash(&bytes), bytes }))
}

/// The bytes of a component that may lie anywhere.
pub(crate) fn read_any_component(path: &Path) -> Result<Bytes, String> {
    let (bytes, _) = read_at_most(path, COMPONENT_BYTES_MAX)?;
    Ok(bytes.into())
}

/// Reads a settings file.
pub(crate) fn read_settings(path: &Path) -> Result<Settings, String> {
    Settings::parse(path, &read_text(path)?).map_err(words)
}

/// Reads a settings file that somebody names by its path. What is wrong with it
/// is told without quoting it: it may be no settings file at all, and who asks
/// may have no right to read it.
pub(crate) fn read_settings_unquoted(path: &Path) -> Result<Settings, String> {
    let text = read_text(path)?;
    if let Err(error) = toml::from_str::<Settings>(&text) {
        let words = crate::config::toml_error_unquoted(&text, &error);
        return Err(format!("{}: {words}", path.display()));
    }
    Settings::parse(path, &text).map_err(words)
}

fn read_text(path: &Path) -> Result<String, String> {
    let (bytes, _) = read_at_most(path, SETTINGS_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))
}

/// A file's bytes, and what told its content after they were read.
fn read_at_most(path: &Path, bytes_max: u64) -> Result<(Vec<u8>, Fingerprint), String> {
    use std::io::{Error, Read};
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = Vec::new();
    // A pipe that nobody writes to would be waited for without an end.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let print = std::fs::File::options()
        .read(true)
        .custom_flags(at_once)
        .open(path)
        .and_then(|file| {
            if !file.metadata()?.is_file() {
                return Err(Error::other("it is no regular file"));
            }
            (&file).take(bytes_max + 1).read_to_end(&mut bytes)?;
            file.metadata()
        })
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!(
            "{} is larger than {} MiB, the limit for such a file",
            path.display(),
            bytes_max.div_ceil(1024 * 1024)
        ));
    }
    Ok((bytes, Fingerprint::of(&print)))
}
