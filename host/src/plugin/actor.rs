//! One task owns one plugin: its instance, its restarts, its replacement.
//!
//! All that happens to an instance happens here, in order, between two ticks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::collector::CollectorDesk;
use super::detector::DetectorDesk;
use super::engine::Loadable;
use super::imports::Surroundings;
use super::instance::{Failure, Fault, Instance, Saved};
use super::limits::{LimitHit, Limits, Refused, RefusedCounts};
use super::notice::{Notices, PluginEvent};
use super::settings::Settings;
use super::status::{Handover, PluginState, Statuses};
use crate::clock::rfc3339;
use crate::model::{
    Answer, Ask, Batch, Dictionary, Judgement, PluginName, RuleBroken, Setback, SetbackKind,
};
use crate::snapshot::Snapshot;

/// The first pause before a failed plugin is started again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// This many failures …
const FAILURES_MAX: usize = 5;
/// … in this time, and a plugin is not started again.
const FAILURES_WINDOW: Duration = Duration::from_secs(600);

/// All that is needed to start an instance of a plugin.
#[derive(Clone)]
pub(crate) struct Kit {
    pub(crate) loadable: Arc<Loadable>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) limits: Limits,
    pub(crate) refused: Refused,
}

impl Kit {
    /// Starts an instance and configures it.
    pub(crate) async fn start(&self) -> Result<Instance, Failure> {
        let mut instance = Instance::start(&self.loadable, &self.surroundings, self.limits).await?;
        instance.configure(&self.settings.config_json()).await?;
        Ok(instance)
    }
}

/// An instance that is started and configured, and waits for its turn.
pub(crate) struct Fresh {
    pub(crate) kit: Kit,
    pub(crate) instance: Instance,
}

/// What the manager tells a plugin's task.
pub(crate) enum Order {
    /// Let this one take over at the next tick.
    Replace(Box<Fresh>),
    /// End, and say what is worth keeping.
    Retire {
        /// The plugin does not come back when the hub does: what it has found
        /// ends with it.
        for_good: bool,
        /// Where to say it.
        reply: oneshot::Sender<Option<Saved>>,
    },
}

/// Where a plugin's task reports to.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) statuses: Statuses,
    pub(crate) notices: Notices,
    pub(crate) dictionary: Arc<Dictionary>,
    pub(crate) answers: mpsc::Sender<Answer>,
    pub(crate) judgements: mpsc::Sender<Judgement>,
}

/// A plugin's place: who sits in it, and what is known of those before.
pub(crate) struct Seat {
    plugin: PluginName,
    office: Office,
    kit: Kit,
    seated: Seated,
    next: Option<Box<Fresh>>,
    /// What to hand to an instance that follows a failed one, which can't be
    /// asked any more.
    last_state: Option<Saved>,
    failures: VecDeque<Instant>,
    /// What the status says, so that it is only touched when that changes.
    shown: Option<Health>,
}

/// What changes in the status of a plugin that runs well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Health {
    series: usize,
    memory_bytes: usize,
    refused: RefusedCounts,
}

enum Seated {
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

impl Seat {
    /// A seat taken by its first instance, which gets what was kept of an
    /// earlier one.
    pub(crate) async fn new(
        plugin: PluginName,
        office: Office,
        fresh: Fresh,
        kept: Option<Saved>,
    ) -> Result<Self, Failure> {
        let Fresh { kit, mut instance } = fresh;
        let mut kept = kept;
        let handover = match &kept {
            Some(saved) => match hand_over(&mut instance, saved).await {
                Ok(handover) => handover,
                Err(failure) => {
                    tracing::warn!(%plugin, %failure, "the kept state was not taken over");
                    instance = kit.start().await?;
                    kept = None;
                    Handover::Cold
                }
            },
            None => Handover::Cold,
        };
        let mut seat = Self {
            plugin: plugin.clone(),
            office,
            kit,
            seated: Seated::Running(instance),
            next: None,
            last_state: kept,
            failures: VecDeque::new(),
            shown: None,
        };
        seat.show_kit(handover);
        seat.office.notices.tell(PluginEvent::Loaded { plugin, handover }).await;
        Ok(seat)
    }

    /// What is due between two ticks: a replacement, or a restart. True if
    /// another instance sits here now.
    async fn at_boundary(&mut self, tick: u64) -> bool {
        if let Some(fresh) = self.next.take() {
            return self.replace(*fresh, tick).await;
        }
        match &self.seated {
            Seated::Resting { until, .. } if *until <= Instant::now() => self.restart().await,
            _ => false,
        }
    }

    async fn replace(&mut self, fresh: Fresh, tick: u64) -> bool {
        let Fresh { kit, mut instance } = fresh;
        let still_runs = self.save().await;
        let handover = match &self.last_state {
            Some(saved) => match hand_over(&mut instance, saved).await {
                Ok(handover) => handover,
                Err(failure) => {
                    self.refuse(failure.to_string()).await;
                    if !still_runs {
                        self.fail("its state could not be saved").await;
                    }
                    return false;
                }
            },
            None => Handover::Cold,
        };
        self.kit = kit;
        self.seated = Seated::Running(instance);
        self.failures.clear();
        self.show_kit(handover);
        let event = PluginEvent::Reloaded { plugin: self.plugin.clone(), tick, handover };
        self.office.notices.tell(event).await;
        true
    }

    async fn restart(&mut self) -> bool {
        let started = match self.kit.start().await {
            Ok(mut instance) => match &self.last_state {
                Some(saved) => hand_over(&mut instance, saved).await.map(|_| instance),
                None => Ok(instance),
            },
            Err(failure) => Err(failure),
        };
        match started {
            Ok(instance) => {
                self.seated = Seated::Running(instance);
                self.turn(PluginState::Running, None);
                let event = PluginEvent::Restarted { plugin: self.plugin.clone() };
                self.office.notices.tell(event).await;
                true
            }
            Err(failure) => {
                self.fail(&failure.to_string()).await;
                false
            }
        }
    }

    async fn refuse(&mut self, reason: String) {
        self.office.statuses.update(&self.plugin, |status| {
            status.reason = Some(format!("the new version was refused: {reason}"));
        });
        let event = PluginEvent::Refused { plugin: self.plugin.clone(), reason };
        self.office.notices.tell(event).await;
    }

    /// Asks the instance for its state, where it can be asked. False if that
    /// has ended it.
    async fn save(&mut self) -> bool {
        let (Seated::Running(instance) | Seated::Misconfigured(instance, _)) = &mut self.seated
        else {
            return true;
        };
        match instance.save().await {
            Ok(Some(saved)) => self.last_state = Some(saved),
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!(plugin = %self.plugin, %failure, "its state could not be saved");
                return false;
            }
        }
        true
    }

    /// Deals with a failure of the instance; why there are no values now.
    async fn setback(&mut self, failure: Failure) -> Setback {
        match failure {
            Failure::Fault(Fault::Retry(words)) => {
                self.turn(PluginState::Waiting, Some(&words));
                Setback { kind: SetbackKind::Retry, reason: words.into() }
            }
            Failure::Fault(Fault::Config(words)) => {
                let reason: Arc<str> = words.into();
                let resting = Seated::Resting { until: Instant::now(), reason: reason.clone() };
                if let Seated::Running(instance) = std::mem::replace(&mut self.seated, resting) {
                    self.seated = Seated::Misconfigured(instance, reason.clone());
                }
                self.turn(PluginState::Waiting, Some(&reason));
                Setback { kind: SetbackKind::Config, reason }
            }
            failure => {
                self.fail(&failure.to_string()).await;
                self.absence()
            }
        }
    }

    /// Discards the instance, and decides when there will be another.
    async fn fail(&mut self, words: &str) {
        let now = Instant::now();
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|at| now - *at > FAILURES_WINDOW) {
            self.failures.pop_front();
        }
        self.office.statuses.update(&self.plugin, |status| {
            status.faults += 1;
            status.last_fault = Some(words.to_owned());
            status.memory_bytes = 0;
        });
        let plugin = self.plugin.clone();
        if self.failures.len() >= FAILURES_MAX {
            let reason: Arc<str> = format!(
                "{words}; failed {FAILURES_MAX} times in {} minutes, and waits for another file \
                 or other settings",
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
    fn absence(&self) -> Setback {
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

    fn turn(&mut self, state: PluginState, reason: Option<&str>) {
        self.shown = None;
        let now = rfc3339(self.office.notices.clock.now_ns());
        let reason = reason.map(str::to_owned);
        self.office.statuses.update(&self.plugin, |status| status.turn(state, now, reason));
    }

    fn tell_limits(&self, hits: Vec<LimitHit>) {
        for LimitHit { limit, words } in hits {
            tracing::warn!(plugin = %self.plugin, limit, "{words}");
        }
    }

    /// Shows what an answer that was in order says about the plugin.
    fn show_health(&mut self, series: usize) {
        let Seated::Running(instance) = &self.seated else { return };
        let memory_bytes = instance.memory_bytes();
        let refused = self.kit.refused.counts();
        let health = Health { series, memory_bytes, refused };
        if self.shown == Some(health) {
            return;
        }
        self.shown = Some(health);
        self.office.statuses.update(&self.plugin, |status| {
            status.series = series;
            status.memory_bytes = memory_bytes;
            status.refused = refused;
            if status.state == PluginState::Waiting {
                status.turn(
                    PluginState::Running,
                    rfc3339(self.office.notices.clock.now_ns()),
                    None,
                );
            }
        });
    }

    fn show_kit(&mut self, handover: Handover) {
        self.shown = None;
        let Kit { loadable, settings, .. } = &self.kit;
        let now = rfc3339(self.office.notices.clock.now_ns());
        self.office.statuses.update(&self.plugin, |status| {
            status.turn(PluginState::Running, now, None);
            status.role = Some(loadable.role());
            status.component = Some(loadable.hash.to_hex()[..12].to_owned());
            status.load_ms = Some(loadable.compile.took.as_secs_f64() * 1e3);
            status.cached = Some(loadable.compile.cached);
            status.interval_ms =
                settings.interval.and_then(|interval| u64::try_from(interval.as_millis()).ok());
            status.handover = Some(handover);
        });
    }
}

/// Gives `saved` to an instance that has not seen a tick.
async fn hand_over(instance: &mut Instance, saved: &Saved) -> Result<Handover, Failure> {
    let version = instance.state_version().await?;
    if !instance.restore(saved).await? {
        return Ok(Handover::Cold);
    }
    Ok(if version == Some(saved.version) { Handover::Restored } else { Handover::Migrated })
}

/// Runs a collector until it is retired. Each question gets one answer.
pub(crate) async fn run_collector(
    mut seat: Seat,
    mut asks: mpsc::Receiver<Ask>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut desk = seat.collector_desk();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Replace(fresh)) => seat.next = Some(fresh),
                Some(Order::Retire { reply, .. }) => return seat.retire(reply).await,
                None => return,
            },
            // Without questions, as when the hub stops, orders are waited for.
            Some(ask) = asks.recv() => {
                if seat.at_boundary(ask.tick.number).await {
                    desk = seat.collector_desk();
                }
                let outcome = seat.collect(ask, &mut desk).await;
                let answer = Answer { plugin: seat.plugin.clone(), outcome };
                // An error means that the loop has ended; the order to end follows.
                drop(seat.office.answers.send(answer).await);
            }
        }
    }
}

/// Runs a detector until it is retired.
pub(crate) async fn run_detector(
    mut seat: Seat,
    mut snapshots: mpsc::Receiver<Arc<Snapshot>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut desk = seat.detector_desk();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Replace(fresh)) => seat.next = Some(fresh),
                Some(Order::Retire { for_good, reply }) => {
                    if for_good {
                        // Nobody judges any more once the hub stops.
                        drop(seat.office.judgements.send(desk.farewell()).await);
                    }
                    return seat.retire(reply).await;
                }
                None => return,
            },
            Some(snapshot) = snapshots.recv() => {
                if seat.at_boundary(snapshot.tick.number).await {
                    desk = seat.detector_desk().after(desk);
                }
                let Some(judgement) = seat.judge(&snapshot, &mut desk).await else { continue };
                drop(seat.office.judgements.send(judgement).await);
            }
        }
    }
}

impl Seat {
    fn collector_desk(&self) -> CollectorDesk {
        let Kit { limits, refused, .. } = &self.kit;
        let dictionary = self.office.dictionary.clone();
        CollectorDesk::new(self.plugin.clone(), dictionary, *limits, refused.clone())
    }

    fn detector_desk(&self) -> DetectorDesk {
        // The settings were checked when they were read.
        let filter = self.kit.settings.shown().unwrap_or(None);
        let Kit { limits, refused, .. } = &self.kit;
        DetectorDesk::new(self.plugin.clone(), filter, limits, refused.clone())
    }

    async fn retire(mut self, reply: oneshot::Sender<Option<Saved>>) {
        self.save().await;
        // Who asked may have given up waiting.
        let _ = reply.send(self.last_state.take());
    }

    async fn collect(&mut self, ask: Ask, desk: &mut CollectorDesk) -> Result<Batch, Setback> {
        let Seated::Running(instance) = &mut self.seated else { return Err(self.absence()) };
        let batch = match instance.collect(ask.tick).await {
            Ok(wire) => {
                desk.check(wire).await.map_err(|refusal| Failure::Trap(refusal.to_string()))
            }
            Err(failure) => Err(failure),
        };
        match batch {
            Ok(batch) => {
                self.tell_limits(desk.limits_hit());
                self.show_health(desk.alive());
                Ok(batch)
            }
            Err(failure) => Err(self.setback(failure).await),
        }
    }

    async fn judge(&mut self, snapshot: &Snapshot, desk: &mut DetectorDesk) -> Option<Judgement> {
        let Seated::Running(instance) = &mut self.seated else { return None };
        if let Some(now_ns) = &self.kit.surroundings.virtual_now_ns {
            now_ns.store(snapshot.tick.time_ns, Ordering::Relaxed);
        }
        let shown = desk.observe(snapshot);
        let verdict = instance.observe(&shown.wire).await;
        let refused = |broken: RuleBroken| Failure::Trap(format!("verdict refused: {broken}"));
        let judged =
            verdict.and_then(|verdict| desk.check(snapshot, shown, verdict).map_err(refused));
        match judged {
            Ok(judgement) => {
                self.tell_limits(desk.limits_hit());
                self.show_health(desk.watching());
                Some(judgement)
            }
            Err(failure) => {
                self.setback(failure).await;
                None
            }
        }
    }
}
