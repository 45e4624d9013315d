//! From what lies in the folder to what runs: one task that loads, replaces and
//! removes, so that no two of these race.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::actor::{Order, run_collector, run_detector};
use super::archive::{Archive, Keep};
use super::folder::{Folder, View};
use super::load::{Job, Loaded, Loader, check_plugin_name, read_settings};
use super::notice::PluginEvent;
use super::seat::{First, Next, Office, Seat};
use super::shadow::{Shadow, shadowed};
use super::shadow_folder::ShadowFolder;
use super::status::{Handover, PluginRole, PluginState, PluginStatus, Statuses};
use super::wanted::{Version, Wanted, wanted};
use crate::cache::PluginCache;
use crate::clock::rfc3339;
use crate::model::{Judgement, PluginName, Tick};
use crate::tick::Change;

/// Orders that may wait for a plugin's task: replacements follow each other no
/// faster than files settle.
pub(super) const ORDERS_MAX: usize = 4;
/// How long a plugin may take to save its state when it is retired, and how
/// long one that is busy is waited for before its replacement is given up.
pub(super) const RETIRE_MAX: Duration = Duration::from_secs(2);

/// Loads, replaces and removes plugins as the folder changes.
pub(crate) struct Manager {
    pub(crate) folder_path: PathBuf,
    pub(crate) loader: Arc<Loader>,
    pub(crate) office: Office,
    pub(crate) statuses: Statuses,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) plugins: BTreeMap<PluginName, Plugin>,
    /// What runs in the shadow of each detector.
    pub(crate) shadows: BTreeMap<PluginName, Shadow>,
    pub(crate) shadow_folder: ShadowFolder,
    /// Plugins that were there at the start and are still being loaded.
    pub(crate) first_loading: BTreeSet<PluginName>,
    /// What the folder showed last.
    pub(crate) view: View,
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

/// What somebody asks of the plugins while the hub runs.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start a plugin again that has failed or was refused.
    Resume {
        plugin: PluginName,
        /// Its state now; `None` if there is no such plugin.
        reply: oneshot::Sender<Option<PluginState>>,
    },
    /// Let another component run in a detector's shadow.
    Shadow {
        plugin: PluginName,
        /// Its file, and that of its settings, where these are its own.
        component: PathBuf,
        settings: Option<PathBuf>,
        reply: oneshot::Sender<Result<PluginStatus, String>>,
    },
    /// End a detector's shadow.
    StopShadow { plugin: PluginName, reply: oneshot::Sender<Result<(), String>> },
    /// Let a detector's shadow take its place.
    Promote { plugin: PluginName, reply: oneshot::Sender<Result<PluginStatus, String>> },
    /// Bring back what ran before a shadow was promoted.
    GoBack { plugin: PluginName, reply: oneshot::Sender<Result<PluginStatus, String>> },
    /// Take a plugin out of the folder.
    Remove {
        plugin: PluginName,
        /// Its settings and all that is kept of it, too.
        purge: bool,
        /// `None` if there is no such plugin.
        reply: oneshot::Sender<Option<Result<Removed, String>>>,
    },
}

/// What was removed of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Files that are gone.
    pub removed: Vec<PathBuf>,
    /// Files of it that are still there.
    pub kept: Vec<PathBuf>,
}

/// A plugin that is wanted: its files, and what was made of them.
pub(crate) struct Plugin {
    /// The files that were last acted upon.
    pub(super) version: Version,
    pub(super) cache: PluginCache,
    pub(super) running: Option<RunningPlugin>,
    /// The loading that is under way, if one is.
    pub(super) loading: Option<AbortHandle>,
}

pub(super) struct RunningPlugin {
    pub(super) role: PluginRole,
    pub(super) task: AbortHandle,
    pub(super) orders: mpsc::Sender<Order>,
}

/// A loading job has come to its end.
pub(crate) struct Finished {
    plugin: PluginName,
    version: Version,
    result: Result<Loaded, String>,
}

impl Manager {
    /// Runs until `stop` fires, then retires every plugin and keeps its state.
    pub(crate) async fn run(
        mut self,
        mut folder: Folder,
        mut finished: mpsc::Receiver<Finished>,
        mut commands: mpsc::Receiver<Command>,
        stop: oneshot::Receiver<()>,
    ) {
        self.follow(self.view.clone()).await;
        self.first_loading = self.plugins.keys().cloned().collect();
        let total = self.first_loading.len();
        self.progress.send_modify(|progress| progress.total = Some(total));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                _ = &mut stop => break,
                view = folder.changed() => self.follow(view).await,
                Some(done) = finished.recv() => self.seat(done).await,
                Some(command) = commands.recv() => match command {
                    // Its component is compiled here, for seconds, and nothing else is
                    // done meanwhile; but a stop need not wait for it.
                    command @ Command::Shadow { .. } => tokio::select! {
                        _ = &mut stop => break,
                        () = self.obey(command) => {}
                    },
                    command => self.obey(command).await,
                },
            }
        }
        let all: Vec<PluginName> = self.plugins.keys().cloned().collect();
        let shadows = std::mem::take(&mut self.shadows);
        let archive = self.office.archive.clone();
        let shadows = shadows.into_values().map(|s| retire(s.name, s.running, archive.clone()));
        let shadows: JoinSet<()> = shadows.collect();
        self.retire(&all, After::Stop).await;
        shadows.join_all().await;
    }

    /// Acts on the differences between what runs and what is wanted.
    async fn follow(&mut self, view: View) {
        let wanted = wanted(&view, |file| read_settings(&self.folder_path.join(file)));
        self.view = view;
        let gone: Vec<PluginName> =
            self.plugins.keys().filter(|name| !wanted.contains_key(&***name)).cloned().collect();
        self.retire(&gone, After::Gone).await;
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

    /// What loading a version of a plugin takes.
    pub(super) fn job(&self, name: &PluginName, cache: &PluginCache, runs: bool) -> Job {
        let clock = &self.office.notices.clock;
        Job {
            plugin: name.clone(),
            whole: Instant::now(),
            runs,
            record: self.statuses.add(name, rfc3339(clock.now_ns()), clock),
            cache: cache.clone(),
            loader: self.loader.clone(),
        }
    }

    /// Begins to load a plugin, off this task. A loading of an earlier version
    /// of it that is under way is given up.
    fn load(&mut self, name: PluginName, wanted: Wanted) {
        let plugin = self.plugins.entry(name.clone()).or_insert_with(|| Plugin {
            version: wanted.version.clone(),
            cache: self.loader.cache.of(&name),
            running: None,
            loading: None,
        });
        plugin.version = wanted.version.clone();
        let (cache, runs) = (plugin.cache.clone(), plugin.running.is_some());
        let job = self.job(&name, &cache, runs);
        let finished = self.finished.clone();
        let shown = name.clone();
        let task = tokio::spawn(async move {
            let version = wanted.version.clone();
            let result = job.run(wanted).await;
            // Nobody listens any more once the hub stops.
            drop(finished.send(Finished { plugin: name, version, result }).await);
        });
        let plugin = self.plugins.get_mut(&shown);
        if let Some(before) = plugin.and_then(|plugin| plugin.loading.replace(task.abort_handle()))
        {
            before.abort();
        }
    }

    /// Gives a loaded plugin its place.
    async fn seat(&mut self, done: Finished) {
        let Finished { plugin: name, version, result } = done;
        let Some(plugin) = self.plugins.get_mut(&name) else { return };
        if plugin.version != version {
            return; // Its files have changed again, and another job is under way.
        }
        plugin.loading = None;
        let settings = result.as_ref().ok().and_then(Loaded::settings);
        let running = plugin.running.as_ref().map(|running| running.role);
        match result {
            // The folder shows the file as it is now before long.
            Ok(Loaded::Torn) => return,
            Ok(Loaded::Settings(next)) => self.order(&name, next).await,
            Ok(Loaded::First { first, handover, instead_of }) => {
                self.begin(&name, *first, handover, instead_of).await;
            }
            Ok(Loaded::Instance(fresh)) if running == Some(fresh.kit.loadable.role()) => {
                self.order(&name, Next::Instance(fresh)).await;
            }
            Ok(Loaded::Instance(fresh)) => {
                // A collector's state means nothing to a detector.
                self.retire(std::slice::from_ref(&name), After::Gone).await;
                self.office.archive.write(&name, Keep::ForgetAll).await;
                let first = First { fresh: *fresh, state: None, good: None };
                self.begin(&name, first, Handover::Cold, None).await;
            }
            Err(reason) => self.refuse(&name, reason).await,
        }
        self.keep_shadow_up(&name, settings).await;
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
        if let Some(record) = self.statuses.record(name) {
            record.decline();
            record.update(|status| {
                if runs {
                    status.reason = Some(format!("the new version was refused: {reason}"));
                } else {
                    status.turn(PluginState::Refused, now, Some(reason.clone()));
                }
            });
        }
        let event = PluginEvent::Refused { plugin: name.clone(), reason };
        self.office.notices.tell(event).await;
    }

    /// Starts the task of a plugin that does not run yet.
    async fn begin(
        &mut self,
        name: &PluginName,
        first: First,
        handover: Handover,
        instead_of: Option<String>,
    ) {
        let Some(record) = self.statuses.record(name) else { return };
        let Some(plugin) = self.plugins.get_mut(name) else { return };
        let role = first.fresh.kit.loadable.role();
        let settings = &first.fresh.kit.settings;
        let (interval, interval_idle) = (settings.interval, settings.interval_idle);
        let late = record.cost.late.clone();
        let mut seat = Seat::new(name.clone(), self.office.clone(), record, first);
        seat.announce(handover, instead_of).await;
        let (orders, order_queue) = mpsc::channel(ORDERS_MAX);
        let name = name.clone();
        let (change, task) = match role {
            PluginRole::Collector => {
                let (ask, asks) = mpsc::channel(1);
                let change = Change::Collector { name, interval, interval_idle, ask, late };
                let task = tokio::spawn(run_collector(seat, change.clone(), asks, order_queue));
                (change, task.abort_handle())
            }
            PluginRole::Detector => {
                let (observe, snapshots) = mpsc::channel(1);
                let task = tokio::spawn(run_detector(seat, snapshots, order_queue));
                (Change::Detector { name, observe, late }, task.abort_handle())
            }
        };
        plugin.running = Some(RunningPlugin { role, task, orders });
        drop(self.office.changes.send(change).await);
    }

    /// Tells a plugin's task what is to take over at the next tick.
    async fn order(&mut self, name: &PluginName, next: Next) {
        let Some(running) = self.plugins.get(name).and_then(|plugin| plugin.running.as_ref())
        else {
            return;
        };
        let order = running.orders.send(Order::Follow(next));
        match tokio::time::timeout(RETIRE_MAX, order).await {
            Ok(Ok(())) => self.ask_soon(name).await,
            Ok(Err(_)) => {
                tracing::error!(plugin = %name, "its task has ended; it is loaded again");
                self.retire(std::slice::from_ref(name), After::Gone).await;
                self.load_again(name);
            }
            Err(_) => {
                let reason = "the one that runs has been busy for too long".to_owned();
                self.refuse(name, reason).await;
            }
        }
    }

    /// Loads what the folder holds of a plugin, though it has not changed.
    pub(super) fn load_again(&mut self, name: &PluginName) {
        let read = |file: &str| read_settings(&self.folder_path.join(file));
        if let Some(wanted) = wanted(&self.view, read).remove(&**name) {
            self.load(name.clone(), wanted);
        }
    }

    /// Makes a plugin due at the next tick, whatever its interval.
    async fn ask_soon(&self, name: &PluginName) {
        drop(self.office.changes.send(Change::Due { name: name.clone() }).await);
    }

    /// Forgets a plugin that has been retired.
    async fn remove(&mut self, name: &PluginName) {
        self.loaded_first(name);
        self.forget_shadow(name).await;
        if let Some(Plugin { loading: Some(loading), .. }) = self.plugins.remove(name) {
            loading.abort();
        }
        if check_plugin_name(name).is_ok() {
            self.office.archive.write(name, Keep::ForgetGood).await;
        }
        self.office.notices.tell(PluginEvent::Removed { plugin: name.clone() }).await;
        self.statuses.remove(name);
    }

    /// Ends plugins' tasks side by side, each in the same short time, and keeps
    /// their states.
    async fn retire(&mut self, names: &[PluginName], after: After) {
        let mut retiring = JoinSet::new();
        let mut detectors = Vec::new();
        for name in names {
            let running = self.plugins.get_mut(name).and_then(|plugin| plugin.running.take());
            let Some(running) = running else { continue };
            if after == After::Gone {
                let gone = Change::Gone { name: name.clone() };
                drop(self.office.changes.send(gone).await);
                detectors.extend((running.role == PluginRole::Detector).then(|| name.clone()));
            }
            retiring.spawn(retire(name.clone(), running, self.office.archive.clone()));
        }
        retiring.join_all().await;
        for detector in detectors {
            let tick = Tick { number: 0, time_ns: self.office.notices.clock.now_ns() };
            let farewell = Judgement::farewell(detector, tick, false);
            drop(self.office.judgements.send(farewell).await);
        }
    }
}

/// What comes after a plugin's task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Its series go, and what it has found ends.
    Gone,
    /// The hub stops: it comes back with it.
    Stop,
}

/// What somebody asks for.
impl Manager {
    /// Another plugin that runs the component of this file.
    pub(super) fn other_user(&self, name: &PluginName, file: &str) -> Option<&PluginName> {
        let uses = |plugin: &Plugin| plugin.version.component.as_ref().is_some_and(|c| c.0 == file);
        self.plugins.iter().find(|(other, plugin)| *other != name && uses(plugin)).map(|(n, _)| n)
    }

    async fn obey(&mut self, command: Command) {
        // Who asked may have gone: what was asked for is done all the same.
        match command {
            Command::Resume { plugin, reply } => {
                let _ = reply.send(self.resume(&plugin).await);
            }
            Command::Shadow { plugin, component, settings, reply } => {
                let _ = reply.send(self.shadow(&plugin, component, settings).await);
            }
            Command::StopShadow { plugin, reply } => {
                let _ = reply.send(self.stop_shadow(&plugin, "it was told to stop").await);
            }
            Command::Promote { plugin, reply } => {
                let _ = reply.send(self.promote(&plugin).await);
            }
            Command::GoBack { plugin, reply } => {
                let _ = reply.send(self.go_back(&plugin).await);
            }
            Command::Remove { plugin, purge, reply } => {
                let _ = reply.send(self.take_out(&plugin, purge).await);
            }
        }
    }

    async fn resume(&mut self, name: &PluginName) -> Option<PluginState> {
        if let Some(shadow) = shadowed(name).and_then(|name| self.shadows.get(name)) {
            let order = shadow.running.orders.send(Order::Resume);
            drop(tokio::time::timeout(RETIRE_MAX, order).await);
            return Some(self.statuses.get(name)?.state);
        }
        let plugin = self.plugins.get(name)?;
        let record = self.statuses.record(name)?;
        if let Some(running) = &plugin.running {
            let order = running.orders.send(Order::Resume);
            // One that is busy for so long is no plugin that rests.
            drop(tokio::time::timeout(RETIRE_MAX, order).await);
            self.ask_soon(name).await;
        }
        // What was refused or taken back is tried again.
        if plugin.loading.is_none() && (plugin.running.is_none() || record.is_declined()) {
            self.load_again(name);
        }
        Some(self.statuses.get(name)?.state)
    }

    /// Removes a plugin's files from the folder, and what is kept of it if
    /// `purge` is set.
    async fn take_out(
        &mut self,
        name: &PluginName,
        purge: bool,
    ) -> Option<Result<Removed, String>> {
        if let Some(detector) = shadowed(name) {
            let words = format!("it is a shadow: `telltale detector shadow {detector} --stop`");
            return Some(Err(words));
        }
        let plugin = self.plugins.get(name)?;
        let component = plugin.version.component.as_ref().map(|(file, _)| file.clone())?;
        let (own, settings) = (format!("{name}.wasm"), format!("{name}.toml"));
        if let Some(user) = self.other_user(name, &own) {
            return Some(Err(format!("{user} runs {own} too: remove {user} first")));
        }
        let (mut removed, mut kept) = (Vec::new(), Vec::new());
        let named = component != own;
        // Settings that name a component make the plugin; without them a file
        // of its own name would run in its place.
        for (file, goes) in [(own, true), (settings, named || purge)] {
            let path = self.folder_path.join(file);
            match (goes, path.exists()) {
                (_, false) => {}
                (true, true) => match std::fs::remove_file(&path) {
                    Ok(()) => removed.push(path),
                    Err(error) => return Some(Err(format!("{}: {error}", path.display()))),
                },
                (false, true) => kept.push(path),
            }
        }
        self.retire(std::slice::from_ref(name), After::Gone).await;
        self.remove(name).await;
        if purge && check_plugin_name(name).is_ok() {
            self.office.archive.write(name, Keep::ForgetAll).await;
        }
        Some(Ok(Removed { removed, kept }))
    }
}

pub(super) async fn retire(name: PluginName, running: RunningPlugin, archive: Archive) {
    let (reply, answer) = oneshot::channel();
    let RunningPlugin { orders, task, .. } = running;
    let last_words = async {
        orders.send(Order::Retire(reply)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(RETIRE_MAX, last_words).await {
        Ok(Some(last_words)) => {
            for keep in last_words {
                archive.write(&name, keep).await;
            }
        }
        Ok(None) => {}
        Err(_) => {
            // What it may still answer must not be taken for a successor's.
            task.abort();
            tracing::warn!(plugin = %name, "it did not end in time, and what it knows is not kept");
        }
    }
}
