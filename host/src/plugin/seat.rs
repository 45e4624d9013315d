//! A plugin's place: the instance that sits in it, its restarts, its
//! replacement, and what it may return to.
//!
//! All of it happens in the plugin's task, between two calls.

mod saving;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::archive::{Archive, Keep};
use super::instance::{Failure, Fault, Instance, Saved};
use super::kit::{Fresh, Good, Kit, StartFailure, hand_over};
use super::last_good::LastGood;
use super::limits::LimitHit;
use super::notice::{Notices, PluginEvent};
use super::settings::Settings;
use super::state_file::Standing;
use super::status::{Handover, PluginState, Record, short_hash};
use crate::clock::rfc3339;
use crate::model::{Answer, Dictionary, Judgement, PluginName, Setback, SetbackKind};
use crate::tick::Change;

/// The first pause before a failed plugin is started again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// This many failures …
const FAILURES_MAX: usize = 5;
/// … in this time, and a plugin is not started again.
const FAILURES_WINDOW: Duration = Duration::from_secs(600);

/// Where a plugin's task reports to.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) notices: Notices,
    pub(crate) dictionary: Arc<Dictionary>,
    pub(crate) archive: Archive,
    pub(crate) changes: mpsc::Sender<Change>,
    pub(crate) answers: mpsc::Sender<Answer>,
    pub(crate) judgements: mpsc::Sender<Judgement>,
}

/// A plugin's place: who sits in it, and what is known of those before.
pub(crate) struct Seat {
    pub(super) plugin: PluginName,
    pub(super) office: Office,
    pub(super) record: Arc<Record>,
    pub(super) kit: Kit,
    pub(super) seated: Seated,
    /// Rises with each instance that sits here.
    pub(super) incarnation: u64,
    /// Other settings have changed what the instance is to be shown.
    pub(super) shown_changed: bool,
    /// The detector in whose shadow it runs, if it does.
    pub(super) shadow_of: Option<PluginName>,
    next: Option<Next>,
    /// What to hand to an instance that follows a failed one, which can't be
    /// asked any more.
    pub(super) last_state: Option<Saved>,
    /// A version that has not proved itself sits here.
    probation: Option<Probation>,
    failures: VecDeque<Instant>,
    /// When the version that sits here was seen whole, until it has answered.
    whole: Option<Instant>,
    save_due: Instant,
    /// The state that was handed to the archive last.
    archived: Option<(Standing, Saved)>,
    /// What the archive had no room for: at most one of each sort.
    unwritten: VecDeque<Keep>,
}

/// A version that takes over from another with a state of its own.
pub(crate) struct Successor {
    pub(crate) fresh: Box<Fresh>,
    pub(crate) state: Option<Saved>,
    /// The last tick that it knows of already.
    pub(crate) after: u64,
    /// It was a shadow; else it is what ran before one.
    pub(crate) promoted: bool,
}

/// What takes over at the next boundary.
pub(crate) enum Next {
    /// Another instance.
    Instance(Box<Fresh>),
    /// Other settings, for an instance of the version that has this hash.
    Settings { settings: Arc<Settings>, component: blake3::Hash, whole: Instant },
}

pub(super) enum Seated {
    Running(Instance),
    /// It runs, but its settings can't work: it is not asked until they change.
    Misconfigured(Instance, Arc<str>),
    /// It failed, and is started again at the first tick after `until`.
    Resting {
        until: Instant,
        reason: Arc<str>,
    },
    Quarantined {
        reason: Arc<str>,
    },
}

/// How long a version has to prove itself, and what to return to if it fails.
struct Probation {
    answers_left: u32,
    good: Option<Good>,
}

impl Seat {
    /// A seat taken by its first instance. `good` is what to return to should
    /// it fail soon.
    pub(crate) fn new(
        plugin: PluginName,
        office: Office,
        record: Arc<Record>,
        first: First,
    ) -> Self {
        let First { fresh: Fresh { kit, instance, whole }, state, good } = first;
        let spread = saving::spread(&plugin, kit.settings.save_every());
        let mut seat = Self {
            plugin,
            office,
            record,
            kit,
            seated: Seated::Running(instance),
            incarnation: 0,
            shown_changed: false,
            shadow_of: None,
            next: None,
            last_state: state,
            probation: None,
            failures: VecDeque::new(),
            whole: Some(whole),
            save_due: Instant::now() + spread,
            archived: None,
            unwritten: VecDeque::new(),
        };
        seat.begin_probation(good);
        seat
    }

    /// Tells everybody who sits here.
    pub(crate) async fn announce(&mut self, handover: Handover, instead_of: Option<String>) {
        self.show_kit(Some(handover), instead_of);
        let event = match self.shadow_of.clone() {
            Some(plugin) => {
                let component = short_hash(self.kit.loadable.hash);
                PluginEvent::ShadowStarted { plugin, component, handover }
            }
            None => PluginEvent::Loaded { plugin: self.plugin.clone(), handover },
        };
        self.office.notices.tell(event).await;
    }

    /// What is to take over at the next boundary; what was to before is dropped.
    pub(super) fn follow_with(&mut self, next: Next) {
        self.next = Some(next);
    }

    /// Starts a plugin again that waits for a pause to end or for somebody to
    /// say so.
    pub(super) async fn resume(&mut self) {
        self.failures.clear();
        let reason: Arc<str> = "it was told to resume".into();
        match &self.seated {
            Seated::Running(_) => return,
            // What can't be saved now was perhaps saved before.
            Seated::Misconfigured(..) => drop(self.save().await),
            Seated::Resting { .. } | Seated::Quarantined { .. } => {}
        }
        self.turn(PluginState::Restarting, Some(&reason));
        self.seated = Seated::Resting { until: Instant::now(), reason };
    }

    /// What is due between two ticks: a replacement, other settings, or a
    /// restart.
    pub(super) async fn at_boundary(&mut self, tick: u64) {
        match self.next.take() {
            Some(Next::Instance(fresh)) => return self.replace(*fresh, tick).await,
            Some(Next::Settings { component, .. }) if component != self.kit.loadable.hash => {
                let reason = "another version runs by now: write the settings once more";
                return self.refuse(reason.to_owned()).await;
            }
            Some(Next::Settings { settings, whole, .. }) => {
                return self.reconfigure(settings, whole, tick).await;
            }
            None => {}
        }
        if matches!(&self.seated, Seated::Resting { until, .. } if *until <= Instant::now()) {
            self.restart().await;
        }
    }

    /// Lets another instance take over, with what this one knows.
    async fn replace(&mut self, fresh: Fresh, tick: u64) {
        let Fresh { kit, mut instance, whole } = fresh;
        let begun = Instant::now();
        let was_saved = self.save().await;
        let handover = match &self.last_state {
            Some(saved) => match hand_over(&mut instance, saved).await {
                Ok(handover) => handover,
                Err(failure) => {
                    self.refuse(failure.to_string()).await;
                    if let Err(failure) = was_saved {
                        self.fail(&failure.to_string()).await;
                    }
                    return;
                }
            },
            None => Handover::Cold,
        };
        let handover_ms = begun.elapsed().as_secs_f64() * 1e3;
        let good = self.good().and_then(|good| good.before(&kit));
        self.take_over(Fresh { kit, instance, whole }, good, handover, handover_ms);
        let plugin = self.plugin.clone();
        let event = PluginEvent::Reloaded { plugin, tick, handover, handover_ms };
        self.office.notices.tell(event).await;
    }

    /// Lets another version sit here, which has been given what it is to know.
    fn take_over(&mut self, fresh: Fresh, good: Option<Good>, handover: Handover, took_ms: f64) {
        self.kit = fresh.kit;
        self.sit(fresh.instance);
        self.whole = Some(fresh.whole);
        self.failures.clear();
        self.begin_probation(good);
        self.show_kit(Some(handover), None);
        self.record.update(|status| status.handover_ms = Some(took_ms));
    }

    /// Lets another version take over from this tick on, with a state of its
    /// own: a shadow that is promoted, or what ran before it. What sat here is
    /// given back, with what it knew. What is open goes on: it has the same key.
    ///
    /// # Errors
    ///
    /// The instance does not take its state. Who sits here stays.
    pub(super) async fn exchange(
        &mut self,
        successor: Successor,
        tick: u64,
    ) -> Result<Good, String> {
        let Successor { fresh, state, promoted, .. } = successor;
        let Fresh { kit, mut instance, whole } = *fresh;
        let begun = Instant::now();
        let was_saved = self.save().await;
        let handover = match &state {
            Some(saved) => hand_over(&mut instance, saved).await,
            None => Ok(Handover::Cold),
        };
        let handover = match handover {
            Ok(handover) => handover,
            Err(failure) => {
                if let Err(failure) = was_saved {
                    self.fail(&failure.to_string()).await;
                }
                return Err(failure.to_string());
            }
        };
        let handover_ms = begun.elapsed().as_secs_f64() * 1e3;
        let before = Good { kit: self.kit.clone(), state: self.last_state.clone() };
        let good = self.good().and_then(|good| good.before(&kit));
        // What was to take over came from the folder as it was.
        self.next = None;
        self.last_state = state;
        // What is on disk is not what it knows: the manager writes that.
        self.archived = None;
        self.shown_changed = false;
        self.take_over(Fresh { kit, instance, whole }, good, handover, handover_ms);
        let (plugin, to) = (self.plugin.clone(), short_hash(self.kit.loadable.hash));
        self.office
            .notices
            .tell(match promoted {
                true => PluginEvent::Promoted { plugin, tick, to, handover, handover_ms },
                false => PluginEvent::Reverted { plugin, tick, to, handover, handover_ms },
            })
            .await;
        Ok(before)
    }

    /// Asks for what the instance knows, and answers it; that of a failed one is
    /// what it knew last.
    pub(super) async fn tell_state(&mut self) -> Option<Saved> {
        if let Err(failure) = self.save().await {
            self.fail(&failure.to_string()).await;
        }
        self.last_state.clone()
    }

    /// Gives other settings to the instance that sits here.
    async fn reconfigure(&mut self, settings: Arc<Settings>, whole: Instant, tick: u64) {
        let saved = self.save().await;
        let good = self.good();
        if let Err(failure) = saved {
            let words = failure.to_string();
            self.record.fault(rfc3339(self.office.notices.clock.now_ns()), &words);
            self.seated = Seated::Resting { until: Instant::now(), reason: words.into() };
        }
        let before = std::mem::replace(&mut self.kit.settings, settings);
        let configured = match &mut self.seated {
            Seated::Running(instance) | Seated::Misconfigured(instance, _) => {
                instance.configure(&self.kit.settings.config_json()).await
            }
            // Nobody to tell: the next instance is started with them.
            Seated::Resting { .. } | Seated::Quarantined { .. } => {
                self.resume().await;
                Ok(())
            }
        };
        if let Err(failure) = configured {
            self.kit.settings = before;
            return self.take_back(failure).await;
        }
        let resting = Seated::Resting { until: Instant::now(), reason: "reconfigured".into() };
        self.seated = match std::mem::replace(&mut self.seated, resting) {
            Seated::Misconfigured(instance, _) => Seated::Running(instance),
            other => other,
        };
        self.shown_changed |= before.series != self.kit.settings.series;
        self.whole = Some(whole);
        self.begin_probation(good);
        self.show_kit(None, None);
        let event = PluginEvent::Reconfigured { plugin: self.plugin.clone(), tick };
        self.office.notices.tell(event).await;
    }

    /// The instance did not take its new settings: it gets the old ones again,
    /// or, where it can't be asked any more, another instance does.
    async fn take_back(&mut self, failure: Failure) {
        self.refuse(failure.to_string()).await;
        let config = self.kit.settings.config_json();
        if let (Failure::Fault(_), Seated::Running(instance)) = (&failure, &mut self.seated)
            && instance.configure(&config).await.is_ok()
        {
            return;
        }
        match self.kit.start_with(self.last_state.as_ref()).await {
            Ok((instance, _)) => self.sit(instance),
            Err(failure) => self.fail(&failure.to_string()).await,
        }
    }

    fn sit(&mut self, instance: Instance) {
        self.seated = Seated::Running(instance);
        self.incarnation += 1;
    }

    /// What to return to, if what comes next fails: the version that sits here
    /// if it has proved itself, or if it runs and there is nothing better.
    fn good(&self) -> Option<Good> {
        let this = || Some(Good { kit: self.kit.clone(), state: self.last_state.clone() });
        match (&self.probation, &self.seated) {
            (Some(Probation { good: Some(good), .. }), _) => Some(good.clone()),
            (_, Seated::Running(_)) => this(),
            (Some(_), _) | (None, Seated::Quarantined { .. }) => None,
            (None, _) => this(),
        }
    }

    fn begin_probation(&mut self, good: Option<Good>) {
        let answers_left = self.kit.settings.probation_ticks();
        let proven = self.kit.unproven.is_none() && good.is_none();
        self.probation = (!proven).then_some(Probation { answers_left, good });
        self.show_probation();
    }

    /// Counts a good answer of a version on probation; the last one makes it
    /// the last good version.
    fn prove(&mut self) {
        let Some(probation) = &mut self.probation else { return };
        probation.answers_left = probation.answers_left.saturating_sub(1);
        if probation.answers_left == 0 {
            self.probation = None;
            let last_good = LastGood {
                component: self.kit.loadable.hash.to_hex().to_string(),
                settings: self.kit.settings.source.expose().to_owned(),
                since: rfc3339(self.office.notices.clock.now_ns()),
            };
            self.record.keep_last_good(Some(last_good.clone()));
            let bytes = self.kit.unproven.take();
            self.hand_in(Keep::Good { last_good, bytes });
            // What it knows is the good version's from now on.
            self.save_due = Instant::now();
        }
        self.show_probation();
    }

    fn show_probation(&self) {
        let left = self.probation.as_ref().map(|probation| probation.answers_left);
        self.record.update(|status| status.probation_left = left);
    }

    /// Returns to the last good version, if this one is on probation. False if
    /// there is nothing to return to, or if that can't be started either.
    async fn roll_back(&mut self, words: &str) -> bool {
        let Some(good) = self.probation.as_mut().and_then(|probation| probation.good.take()) else {
            return false;
        };
        let failed = short_hash(self.kit.loadable.hash);
        let Good { kit, state } = good;
        let same = kit.loadable.hash == self.kit.loadable.hash;
        let (what, failed) =
            if same { ("the settings", String::new()) } else { ("version", failed) };
        let (instance, handover) = match kit.start_with(state.as_ref()).await {
            Ok(started) => started,
            Err(failure) => {
                let plugin = &self.plugin;
                tracing::error!(%plugin, %failure, "the last good version can't be started");
                return false;
            }
        };
        self.kit = kit;
        self.last_state = state;
        self.sit(instance);
        self.failures.clear();
        self.begin_probation(None);
        self.hand_in(Keep::ForgetTrial);
        self.record.cost.rollbacks.fetch_add(1, Ordering::Relaxed);
        let reason = format!("{what} {failed} was taken back: {words}").replace("  ", " ");
        self.show_kit(Some(handover), Some(reason));
        self.record.decline();
        let event = PluginEvent::RolledBack {
            plugin: self.plugin.clone(),
            reason: words.to_owned(),
            to: short_hash(self.kit.loadable.hash),
        };
        self.office.notices.tell(event).await;
        true
    }

    async fn restart(&mut self) {
        let started = match self.kit.start_with(self.last_state.as_ref()).await {
            Ok((instance, _)) => instance,
            Err(failure) => {
                // A state that can't be taken over is not tried for ever; one
                // that nobody has seen yet is kept.
                if matches!(failure, StartFailure::Handover(_)) {
                    self.last_state = None;
                }
                return self.fail(&failure.to_string()).await;
            }
        };
        self.sit(started);
        self.record.cost.restarts.fetch_add(1, Ordering::Relaxed);
        self.turn(PluginState::Running, None);
        self.office.notices.tell(PluginEvent::Restarted { plugin: self.plugin.clone() }).await;
    }

    async fn refuse(&mut self, reason: String) {
        self.record.update(|status| {
            status.reason = Some(format!("the new version was refused: {reason}"));
        });
        self.record.decline();
        let event = PluginEvent::Refused { plugin: self.plugin.clone(), reason };
        self.office.notices.tell(event).await;
    }

    /// An answer was in order, but for what was over the limits.
    pub(super) async fn answered(&mut self, hits: Vec<LimitHit>) {
        for LimitHit { limit, words: reason } in hits {
            let plugin = self.plugin.clone();
            self.office.notices.tell(PluginEvent::Limited { plugin, limit, reason }).await;
        }
        if let Some(whole) = self.whole.take() {
            let took = u64::try_from(whole.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.record.cost.reload_ns.store(took, Ordering::Relaxed);
        }
        if let Seated::Running(instance) = &self.seated {
            self.record.cost.memory_bytes.store(instance.memory_bytes(), Ordering::Relaxed);
        }
        if self.record.is_waiting() {
            self.turn(PluginState::Running, None);
        }
        self.prove();
        self.keep_up().await;
    }

    /// Deals with a failure of the instance; why there are no values now.
    pub(super) async fn setback(&mut self, failure: Failure) -> Setback {
        match failure {
            Failure::Fault(Fault::Retry(words)) => {
                self.turn(PluginState::Waiting, Some(&words));
                return Setback { kind: SetbackKind::Retry, reason: words.into() };
            }
            Failure::Fault(Fault::Config(words)) if self.probation_has_good() => {
                self.fail(&words).await;
            }
            Failure::Fault(Fault::Config(words)) => self.misconfigured(words.into()),
            failure => self.fail(&failure.to_string()).await,
        }
        self.absence()
    }

    fn probation_has_good(&self) -> bool {
        self.probation.as_ref().is_some_and(|probation| probation.good.is_some())
    }

    fn misconfigured(&mut self, reason: Arc<str>) {
        let resting = Seated::Resting { until: Instant::now(), reason: reason.clone() };
        if let Seated::Running(instance) = std::mem::replace(&mut self.seated, resting) {
            self.seated = Seated::Misconfigured(instance, reason.clone());
        }
        self.turn(PluginState::Waiting, Some(&reason));
    }

    /// Discards the instance, and decides what follows it: the last good
    /// version, a new instance after a pause, or nothing.
    async fn fail(&mut self, words: &str) {
        let now = Instant::now();
        self.record.fault(rfc3339(self.office.notices.clock.now_ns()), words);
        if self.roll_back(words).await {
            return;
        }
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|at| now - *at > FAILURES_WINDOW) {
            self.failures.pop_front();
        }
        let plugin = self.plugin.clone();
        if self.failures.len() >= FAILURES_MAX {
            let reason: Arc<str> = format!(
                "{words}; failed {FAILURES_MAX} times in {} minutes, and waits for another file, \
                 other settings, or `telltale plugin resume {plugin}`",
                FAILURES_WINDOW.as_secs() / 60
            )
            .into();
            self.seated = Seated::Quarantined { reason: reason.clone() };
            self.turn(PluginState::Quarantined, Some(&reason));
            let event = PluginEvent::Quarantined { plugin, reason: reason.to_string() };
            self.office.notices.tell(event).await;
            return;
        }
        let doublings = u32::try_from(self.failures.len() - 1).unwrap_or(u32::MAX).min(16);
        let pause = (PAUSE_FIRST * 2u32.pow(doublings)).min(PAUSE_MAX);
        self.seated = Seated::Resting { until: now + pause, reason: words.into() };
        self.turn(PluginState::Restarting, Some(words));
        let restart_after_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let reason = words.to_owned();
        self.office.notices.tell(PluginEvent::Failed { plugin, reason, restart_after_ms }).await;
    }

    /// Why there is nobody to ask.
    pub(super) fn absence(&self) -> Setback {
        match &self.seated {
            Seated::Running(_) => Setback { kind: SetbackKind::Retry, reason: "starting".into() },
            Seated::Misconfigured(_, reason) => {
                Setback { kind: SetbackKind::Config, reason: reason.clone() }
            }
            Seated::Resting { reason, .. } => {
                Setback { kind: SetbackKind::Restarting, reason: reason.clone() }
            }
            Seated::Quarantined { reason } => {
                Setback { kind: SetbackKind::Quarantined, reason: reason.clone() }
            }
        }
    }

    fn turn(&self, state: PluginState, reason: Option<&str>) {
        let now = rfc3339(self.office.notices.clock.now_ns());
        self.record.update(|status| status.turn(state, now, reason.map(str::to_owned)));
    }

    /// Shows which version sits here, and why not another.
    fn show_kit(&self, handover: Option<Handover>, instead_of: Option<String>) {
        let now = rfc3339(self.office.notices.clock.now_ns());
        let state = match self.seated {
            Seated::Running(_) => PluginState::Running,
            _ => PluginState::Restarting,
        };
        self.record.seat(&self.kit);
        self.record.update(|status| {
            status.turn(state, now, instead_of);
            status.handover = handover.or(status.handover);
        });
    }
}

/// The first instance of a seat.
pub(crate) struct First {
    pub(crate) fresh: Fresh,
    /// What was handed over to it.
    pub(crate) state: Option<Saved>,
    /// What to return to should it fail soon.
    pub(crate) good: Option<Good>,
}
