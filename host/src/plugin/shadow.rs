//! A second detector in the shadow of the first: it is shown the same, and what
//! it finds is recorded and told to nobody who did not ask. It can take the
//! first one's place, with what it has learned, and the first can come back.
//!
//! A shadow has a seat like any plugin, under the name of the detector with
//! `.shadow` behind it, which no file of the folder can have: its failures, its
//! cost and its state are its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::actor::{Finished, Order, run_detector};
use super::archive::Keep;
use super::folder::Fingerprint;
use super::instance::Saved;
use super::kit::{Fresh, Good, hand_over};
use super::load::{Job, read_any_component, read_settings_unquoted};
use super::manager::{Manager, RETIRE_MAX, RunningPlugin, retire};
use super::notice::PluginEvent;
use super::seat::{First, Seat, Successor};
use super::settings::Settings;
use super::shadow_folder::{Edition, Exchange, ExchangedStates, FilesThere, SettingsFile};
use super::state_file::{Kept, Standing};
use super::status::{
    Counted, Handover, PluginRole, PluginState, PluginStatus, PluginVersion, ShadowOf,
};
use super::wanted::Version;
use crate::clock::rfc3339;
use crate::model::{Judgement, PluginName, Tick};
use crate::tick::Change;

/// What follows the name of a detector in that of its shadow.
const ENDING: &str = ".shadow";

/// The name of a detector's shadow.
#[must_use]
pub fn shadow_name(detector: &str) -> PluginName {
    format!("{detector}{ENDING}").into()
}

/// The detector whose shadow has this name; `None` if it is no shadow's.
pub(crate) fn shadowed(name: &str) -> Option<&str> {
    name.strip_suffix(ENDING)
}

/// What runs in the shadow of a detector.
pub(crate) struct Shadow {
    /// See [`shadow_name`].
    pub(crate) name: PluginName,
    pub(crate) running: RunningPlugin,
    edition: Edition,
    settings: Arc<Settings>,
}

/// What a shadow begins with.
enum Begins {
    /// What the detector beside it knows now.
    WithACopy,
    /// What it knew when it ended last.
    WhereItEnded,
}

/// Starting and ending.
impl Manager {
    /// Lets the component of a file run in a detector's shadow.
    pub(super) async fn shadow(
        &mut self,
        name: &PluginName,
        component: PathBuf,
        settings: Option<PathBuf>,
    ) -> Result<PluginStatus, String> {
        self.check_exchangeable(name)?;
        if self.shadows.contains_key(name) {
            return Err(format!(
                "a shadow of {name} runs already: `telltale detector promote {name}` lets it take \
                 its place, `telltale detector shadow {name} --stop` ends it"
            ));
        }
        let own = match settings {
            Some(file) => Some(off_task(move || read_settings_unquoted(&file)).await?),
            None => None,
        };
        let own = own.map(|settings| {
            let text = settings.source.expose().to_owned();
            match settings.component {
                Some(_) => Err("the settings name a `component`: that of a shadow is the file \
                                that is named beside them"
                    .to_owned()),
                None => Ok(text),
            }
        });
        let bytes = off_task(move || read_any_component(&component)).await?;
        let now = self.office.notices.clock.now_ns();
        let component = blake3::hash(&bytes).to_hex().to_string();
        let edition = Edition { component, settings: own.transpose()?, since: rfc3339(now) };
        self.forget_state(name).await;
        self.start_shadow(name, edition, bytes, Begins::WithACopy, None).await?;
        self.statuses.get(&shadow_name(name)).ok_or_else(|| "it has ended already".to_owned())
    }

    /// Starts a shadow, and keeps it for the next start of the hub. `settings`
    /// are those that its detector is about to have.
    async fn start_shadow(
        &mut self,
        name: &PluginName,
        edition: Edition,
        bytes: Bytes,
        begins: Begins,
        settings: Option<Arc<Settings>>,
    ) -> Result<(), String> {
        let settings = match &edition.settings {
            Some(text) => Settings::parse(Path::new("the shadow's settings"), text)
                .map(Arc::new)
                .map_err(|error| error.to_string())?,
            None => settings
                .or_else(|| self.settings_of(name))
                .ok_or_else(|| format!("{name} does not run"))?,
        };
        let shadow = shadow_name(name);
        let cache = self.loader.cache.of(&shadow);
        let job = self.job(&shadow, &cache, false);
        let started = self.prepare_shadow(name, settings, &bytes, &begins, job).await;
        let (first, handover, reason) = match started {
            Ok(started) => started,
            Err(reason) => {
                self.statuses.remove(&shadow);
                return Err(reason);
            }
        };
        let (folder, kept) = (self.shadow_folder.clone(), edition.clone());
        let owner = name.clone();
        let keep = move || folder.keep_shadow(&owner, &kept, &bytes).map_err(|e| e.to_string());
        if let Err(reason) = off_task(keep).await {
            self.statuses.remove(&shadow);
            return Err(format!("it can't be kept in the data folder: {reason}"));
        }
        self.begin_shadow(name, edition, first, handover, reason).await;
        Ok(())
    }

    /// An instance for a shadow that knows what it is to begin with; and why it
    /// knows nothing, where that was not meant.
    async fn prepare_shadow(
        &self,
        name: &PluginName,
        settings: Arc<Settings>,
        bytes: &Bytes,
        begins: &Begins,
        job: Job,
    ) -> Result<(First, Handover, Option<String>), String> {
        let fresh = job.fresh(bytes.clone(), settings).await?;
        let Fresh { mut kit, mut instance, whole } = fresh;
        if kit.loadable.role() != PluginRole::Detector {
            return Err("it is a collector: only a detector runs in a detector's shadow".to_owned());
        }
        // It is kept as what somebody asked for, whether or not it proves itself.
        kit.unproven = None;
        let mut state = match begins {
            Begins::WithACopy => self.state_of(name).await,
            Begins::WhereItEnded => job.state_for(kit.loadable.hash).await,
        };
        let (mut handover, mut reason) = (Handover::Cold, None);
        if let Some(saved) = &state {
            match hand_over(&mut instance, saved).await {
                Ok(how) => handover = how,
                Err(failure) => {
                    reason = Some(format!("it starts without a state: {failure}"));
                    state = None;
                    instance = kit.start().await.map_err(|failure| failure.to_string())?;
                }
            }
        }
        let fresh = Fresh { kit, instance, whole };
        Ok((First { fresh, state, good: None }, handover, reason))
    }

    async fn begin_shadow(
        &mut self,
        name: &PluginName,
        edition: Edition,
        first: First,
        handover: Handover,
        reason: Option<String>,
    ) {
        let shadow = shadow_name(name);
        let Some(record) = self.statuses.record(&shadow) else { return };
        let live = self.statuses.figures_of(name);
        let of = ShadowOf {
            detector: name.clone(),
            since: edition.since.clone(),
            counted_since: rfc3339(self.office.notices.clock.now_ns()),
            counted: live.as_ref().map(Counted::of).unwrap_or_default(),
        };
        record.update(|status| status.shadow = Some(of));
        let settings = first.fresh.kit.settings.clone();
        let late = record.cost.late.clone();
        let mut seat = Seat::new(shadow.clone(), self.office.clone(), record, first);
        seat.shadow_of = Some(name.clone());
        seat.announce(handover, reason).await;
        let (orders, order_queue) = mpsc::channel(super::manager::ORDERS_MAX);
        let (observe, snapshots) = mpsc::channel(1);
        let task = tokio::spawn(run_detector(seat, snapshots, order_queue)).abort_handle();
        let running = RunningPlugin { role: PluginRole::Detector, task, orders };
        let known = Shadow { name: shadow.clone(), running, edition, settings };
        self.shadows.insert(name.clone(), known);
        drop(self.office.changes.send(Change::Detector { name: shadow, observe, late }).await);
    }

    /// Starts the shadow that an earlier run had, once its detector runs; gives
    /// one that has no settings of its own those that its detector has now.
    pub(super) async fn keep_shadow_up(
        &mut self,
        name: &PluginName,
        settings: Option<Arc<Settings>>,
    ) {
        let runs = self.plugins.get(name).and_then(|plugin| plugin.running.as_ref());
        let Some(role) = runs.map(|running| running.role) else { return };
        if role != PluginRole::Detector {
            return self.forget_shadow(name).await;
        }
        match self.shadows.get(name) {
            Some(shadow) => {
                let follows = shadow.edition.settings.is_none();
                let settings = settings.filter(|settings| *settings != shadow.settings);
                if let Some(settings) = settings.filter(|_| follows) {
                    self.restart_shadow(name, settings).await;
                }
            }
            None => self.recall_shadow(name, settings).await,
        }
    }

    /// Starts a shadow again where it ended, by other settings.
    async fn restart_shadow(&mut self, name: &PluginName, settings: Arc<Settings>) {
        let Some(shadow) = self.shadows.remove(name) else { return };
        let gone = Change::Gone { name: shadow.name.clone() };
        drop(self.office.changes.send(gone).await);
        retire(shadow.name, shadow.running, self.office.archive.clone()).await;
        self.recall_shadow(name, Some(settings)).await;
    }

    /// Starts the shadow that is kept, if one is.
    async fn recall_shadow(&mut self, name: &PluginName, settings: Option<Arc<Settings>>) {
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let read = move || {
            let shadow = folder.shadow(&owner);
            let bytes = shadow.as_ref().and_then(|shadow| folder.component(&shadow.component));
            let before = folder.before(&owner).map(|(edition, _)| edition);
            Ok((shadow, bytes, before))
        };
        let Ok((shadow, bytes, before)) = off_task(read).await else { return };
        self.show_before(name, before.as_ref());
        let Some(edition) = shadow else { return };
        let started = match bytes {
            Some(bytes) => {
                let begins = Begins::WhereItEnded;
                self.start_shadow(name, edition, bytes.into(), begins, settings).await
            }
            None => Err("its component is not there, or is damaged".to_owned()),
        };
        if let Err(reason) = started {
            let plugin = shadow_name(name);
            self.office.notices.tell(PluginEvent::Refused { plugin, reason }).await;
        }
    }

    /// Shows what can be gone back to.
    fn show_before(&self, name: &PluginName, before: Option<&Edition>) {
        let before = before.map(|edition| PluginVersion {
            component: edition.component.chars().take(12).collect(),
            since: edition.since.clone(),
        });
        if let Some(record) = self.statuses.record(name) {
            record.update(|status| status.before = before);
        }
    }

    /// Ends a detector's shadow, and forgets it.
    pub(super) async fn stop_shadow(
        &mut self,
        name: &PluginName,
        reason: &str,
    ) -> Result<(), String> {
        let Some(shadow) = self.shadows.remove(name) else {
            let folder = self.shadow_folder.clone();
            // One that can't be started is forgotten all the same.
            if folder.shadow(name).is_none() {
                return Err(no_shadow(name));
            }
            folder.forget_shadow(name).map_err(|error| error.to_string())?;
            return Ok(());
        };
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let forgotten =
            off_task(move || folder.forget_shadow(&owner).map_err(|error| error.to_string())).await;
        drop(self.office.changes.send(Change::Gone { name: shadow.name.clone() }).await);
        retire(shadow.name.clone(), shadow.running, self.office.archive.clone()).await;
        self.shadow_has_ended(name).await;
        let (plugin, reason) = (name.clone(), reason.to_owned());
        self.office.notices.tell(PluginEvent::ShadowStopped { plugin, reason }).await;
        forgotten
    }

    /// A detector is gone, and what ran in its shadow and before it is, too.
    pub(super) async fn forget_shadow(&mut self, name: &PluginName) {
        if self.shadows.contains_key(name) {
            let stopped = self.stop_shadow(name, "the detector is gone").await;
            drop(stopped.inspect_err(|reason| tracing::error!(plugin = %name, reason, "shadow")));
        }
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let forget = move || folder.forget_all(&owner).map_err(|error| error.to_string());
        if let Err(reason) = off_task(forget).await {
            tracing::error!(plugin = %name, reason, "its shadow can't be forgotten");
        }
    }

    /// A shadow's task has ended for good: what it had found ends, and what it
    /// knew goes.
    async fn shadow_has_ended(&mut self, name: &PluginName) {
        let tick = Tick { number: 0, time_ns: self.office.notices.clock.now_ns() };
        let farewell = Judgement::farewell(name.clone(), tick, true);
        drop(self.office.judgements.send(farewell).await);
        self.forget_state(name).await;
        self.statuses.remove(&shadow_name(name));
    }

    async fn forget_state(&self, name: &PluginName) {
        self.office.archive.write(&shadow_name(name), Keep::ForgetAll).await;
    }

    /// What a detector knows now, if it keeps any state.
    async fn state_of(&self, name: &PluginName) -> Option<Saved> {
        let running = self.plugins.get(name)?.running.as_ref()?;
        let (reply, answer) = oneshot::channel();
        let told = async {
            running.orders.send(Order::Tell(reply)).await.ok()?;
            answer.await.ok()?
        };
        timeout(RETIRE_MAX, told).await.ok().flatten()
    }

    /// The settings that a detector runs by.
    fn settings_of(&self, name: &PluginName) -> Option<Arc<Settings>> {
        Some(self.statuses.record(name)?.kit()?.settings)
    }
}

/// Changing places.
impl Manager {
    /// Whether another version could take this one's place in the folder.
    fn check_exchangeable(&self, name: &PluginName) -> Result<(), String> {
        if let Some(detector) = shadowed(name) {
            return Err(format!("{name} is a shadow: name the detector, {detector}"));
        }
        let plugin = self.plugins.get(name);
        let runs = plugin.and_then(|plugin| plugin.running.as_ref());
        let (Some(plugin), Some(running)) = (plugin, runs) else {
            return Err(format!("{name} does not run: `telltale plugin inspect {name}` says why"));
        };
        if running.role != PluginRole::Detector {
            return Err(format!("{name} is a collector: only detectors have shadows"));
        }
        if plugin.loading.is_some() {
            return Err(format!("another version of {name} is being loaded: try again"));
        }
        let own = format!("{name}.wasm");
        if plugin.version.component.as_ref().is_none_or(|(file, _)| *file != own) {
            return Err(format!(
                "the settings of {name} name another component than {own}: give it a file of its \
                 own first"
            ));
        }
        match self.other_user(name, &own) {
            Some(user) => Err(format!("{user} runs {own} too: give it a file of its own first")),
            None => Ok(()),
        }
    }

    /// Lets a detector's shadow take its place, with what it has learned.
    pub(super) async fn promote(&mut self, name: &PluginName) -> Result<PluginStatus, String> {
        self.check_exchangeable(name)?;
        let shadow = self.shadows.get(name).ok_or_else(|| no_shadow(name))?;
        let status = self.statuses.get(&shadow.name).ok_or_else(|| no_shadow(name))?;
        if !matches!(status.state, PluginState::Running | PluginState::Waiting) {
            let reason = status.reason.unwrap_or_default();
            return Err(format!("its shadow is no better: it has failed, {reason}"));
        }
        let (edition, settings) = (shadow.edition.clone(), shadow.settings.clone());
        let fresh = self.fresh(name, &edition.component, settings).await?;
        let to = fresh.kit.loadable.hash;
        let (with, done) = self.ask_to_exchange(name).await?;
        let finished = self.finish_shadow(name).await;
        let Some(Finished { last, state, .. }) = finished else {
            // The detector waits no more, and goes on.
            drop(with);
            self.recall_shadow(name, None).await;
            return Err("its shadow was busy for too long, and was started again".to_owned());
        };
        let successor = Successor { fresh, state: state.clone(), after: last, promoted: true };
        let before = match exchange(with, done, successor).await {
            Ok(before) => before,
            Err(reason) => {
                self.recall_shadow(name, None).await;
                return Err(format!(
                    "{name} goes on, since what its shadow knows can't be taken over: {reason}"
                ));
            }
        };
        let settings = match edition.settings {
            Some(text) => SettingsFile::Is(text),
            None => SettingsFile::Stays,
        };
        let before = self.before(name, before).await;
        let to_state = state.map(|saved| Kept { component: to, saved });
        let before_it = Some(before.edition);
        let exchange =
            Exchange { to: edition.component, settings, before: before_it, replaces: None };
        let states = ExchangedStates { to: to_state, before: before.state };
        let trial = states.to.clone();
        if let Err(reason) = self.decide(name, &exchange, states, before.bytes).await {
            self.recall_shadow(name, None).await;
            return Err(reason);
        }
        self.shadow_has_ended(name).await;
        self.carry_out(name, exchange, trial).await
    }

    /// Brings back what ran before a shadow was promoted.
    pub(super) async fn go_back(&mut self, name: &PluginName) -> Result<PluginStatus, String> {
        self.check_exchangeable(name)?;
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let (edition, kept) = off_task(move || {
            folder.before(&owner).ok_or_else(|| {
                format!("there is nothing to go back to: no shadow of {owner} was promoted")
            })
        })
        .await?;
        let text = edition.settings.as_deref().unwrap_or_default();
        let settings = Settings::parse(Path::new("the settings before"), text);
        let settings = Arc::new(settings.map_err(|error| error.to_string())?);
        let fresh = self.fresh(name, &edition.component, settings.clone()).await?;
        let (with, done) = self.ask_to_exchange(name).await?;
        let state = kept.as_ref().map(|kept| kept.saved.clone());
        exchange(with, done, Successor { fresh, state, after: 0, promoted: false }).await?;
        let file = match edition.settings {
            Some(text) => SettingsFile::Is(text),
            None => SettingsFile::Goes,
        };
        let exchange =
            Exchange { to: edition.component, settings: file, before: None, replaces: None };
        let states = ExchangedStates { to: kept.clone(), before: None };
        self.decide(name, &exchange, states, None).await?;
        let carried_out = self.carry_out(name, exchange, kept).await;
        // A shadow without settings of its own has those of its detector.
        self.keep_shadow_up(name, Some(settings)).await;
        carried_out
    }

    /// An instance for a detector's own seat, of a component that is kept here.
    async fn fresh(
        &self,
        name: &PluginName,
        component: &str,
        settings: Arc<Settings>,
    ) -> Result<Box<Fresh>, String> {
        let (folder, hash) = (self.shadow_folder.clone(), component.to_owned());
        let missing = || "its component is not there, or is damaged".to_owned();
        let bytes = off_task(move || folder.component(&hash).ok_or_else(missing)).await?;
        let plugin = self.plugins.get(name).ok_or_else(|| format!("{name} does not run"))?;
        let job = self.job(name, &plugin.cache, true);
        job.fresh(bytes.into(), settings).await.map(Box::new)
    }

    /// Has a detector wait for a successor, between two ticks.
    async fn ask_to_exchange(&self, name: &PluginName) -> Result<(With, Done), String> {
        let busy = || format!("{name} has been busy for too long: try again");
        let running = self.plugins.get(name).and_then(|plugin| plugin.running.as_ref());
        let running = running.ok_or_else(busy)?;
        let (with, successor) = oneshot::channel();
        let (done, outcome) = oneshot::channel();
        let order = running.orders.send(Order::Exchange { with: successor, done });
        match timeout(RETIRE_MAX, order).await {
            Ok(Ok(())) => Ok((with, outcome)),
            _ => Err(busy()),
        }
    }

    /// Ends a shadow once it has judged all that it was shown. `None` if it takes
    /// too long, and is cut off.
    async fn finish_shadow(&mut self, name: &PluginName) -> Option<Finished> {
        let shadow = self.shadows.remove(name)?;
        drop(self.office.changes.send(Change::Gone { name: shadow.name.clone() }).await);
        let (reply, answer) = oneshot::channel();
        let told = async {
            shadow.running.orders.send(Order::Finish(reply)).await.ok()?;
            answer.await.ok()
        };
        let Some(mut finished) = timeout(RETIRE_MAX, told).await.ok().flatten() else {
            shadow.running.task.abort();
            return None;
        };
        // Should the promotion fail, it goes on from here.
        for keep in finished.keeps.drain(..) {
            self.office.archive.write(&shadow.name, keep).await;
        }
        Some(finished)
    }

    /// What ran until now, as something to go back to.
    async fn before(&self, name: &PluginName, before: Good) -> Before {
        let Good { kit, state } = before;
        let hash = kit.loadable.hash;
        let text = kit.settings.source.expose();
        let edition = Edition {
            component: hash.to_hex().to_string(),
            settings: (!text.is_empty()).then(|| text.to_owned()),
            since: rfc3339(self.office.notices.clock.now_ns()),
        };
        let file = self.folder_path.join(format!("{name}.wasm"));
        let (loader, component) = (self.loader.clone(), edition.component.clone());
        let unproven = kit.unproven.clone();
        let read = move || {
            let is_it = |bytes: &Bytes| blake3::hash(bytes) == hash;
            let of_folder = || read_any_component(&file).ok().filter(is_it);
            Ok(unproven.or_else(of_folder).or_else(|| loader.last_good_component(&component)))
        };
        let bytes = off_task(read).await.ok().flatten();
        let state = state.map(|saved| Kept { component: hash, saved });
        Before { edition, state, bytes }
    }

    /// Writes down that another version has a detector's place.
    async fn decide(
        &mut self,
        name: &PluginName,
        exchange: &Exchange,
        states: ExchangedStates,
        old: Option<Bytes>,
    ) -> Result<(), String> {
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let (mut exchange, plugins) = (exchange.clone(), self.folder_path.clone());
        let decide = move || {
            let decided = FilesThere::of(&owner, &plugins).and_then(|there| {
                exchange.replaces = Some(there);
                folder.decide(&owner, &exchange, &states, old.as_deref())
            });
            decided.map_err(|error| error.to_string())
        };
        let Err(reason) = off_task(decide).await else { return Ok(()) };
        // What runs is not what the folder holds.
        self.load_again(name);
        Err(format!(
            "it can't be written to the data folder ({reason}), and what the plugins folder holds \
             is loaded again"
        ))
    }

    /// Changes the folder as was decided. `trial` is what the version that has
    /// come began with.
    async fn carry_out(
        &mut self,
        name: &PluginName,
        exchange: Exchange,
        trial: Option<Kept>,
    ) -> Result<PluginStatus, String> {
        let keep = match trial {
            Some(kept) => Keep::State { standing: Standing::Trial, kept },
            None => Keep::ForgetTrial,
        };
        // After what the version before has still handed in.
        self.office.archive.write(name, keep).await;
        let (folder, owner) = (self.shadow_folder.clone(), name.clone());
        let (plugins, before) = (self.folder_path.clone(), exchange.before.clone());
        let carry_out = move || {
            folder.carry_out(&owner, &exchange, &plugins).map_err(|error| error.to_string())
        };
        let carried_out = off_task(carry_out).await;
        self.adopt(name);
        self.show_before(name, before.as_ref());
        carried_out.map_err(|reason| {
            format!("it runs, but its files can't be written until the hub starts again: {reason}")
        })?;
        self.statuses.get(name).ok_or_else(|| format!("{name} does not run"))
    }

    /// Takes the files of a detector as they are now for those that run.
    fn adopt(&mut self, name: &PluginName) {
        let print = |file: &str| {
            let metadata = std::fs::metadata(self.folder_path.join(file)).ok()?;
            Some(Fingerprint::of(&metadata))
        };
        let (own, settings) = (format!("{name}.wasm"), format!("{name}.toml"));
        let (component_print, settings_print) = (print(&own), print(&settings));
        let mut view = BTreeMap::clone(&self.view);
        for (file, print) in [(&own, component_print), (&settings, settings_print)] {
            match print {
                Some(print) => drop(view.insert(file.clone(), print)),
                None => drop(view.remove(file)),
            }
        }
        self.view = Arc::new(view);
        if let Some(plugin) = self.plugins.get_mut(name) {
            let component = Some((own, component_print));
            plugin.version = Version { component, settings: settings_print };
        }
    }
}

type With = oneshot::Sender<Successor>;
type Done = oneshot::Receiver<Result<Good, String>>;

/// What ran until now.
struct Before {
    edition: Edition,
    state: Option<Kept>,
    /// Its component, where it is found.
    bytes: Option<Bytes>,
}

/// Gives a detector that waits for it its successor. Each of its steps has a
/// limit of its own.
async fn exchange(with: With, done: Done, successor: Successor) -> Result<Good, String> {
    let ended = || "its task has ended".to_owned();
    with.send(successor).map_err(|_| ended())?;
    done.await.map_err(|_| ended())?
}

fn no_shadow(name: &str) -> String {
    format!("{name} has no shadow: `telltale detector shadow {name} FILE.wasm` starts one")
}

/// Work with files, for a thread that may be kept busy.
async fn off_task<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("the hub is stopping".to_owned()))
}
