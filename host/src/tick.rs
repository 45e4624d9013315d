//! The loop: at each slot it asks the collectors that are due, waits for them
//! no longer than a quarter of a tick, and publishes what came.
//!
//! It knows plugins only as channels, and waits for nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock::Clock;
use crate::model::{Answer, Ask, Batch, PluginName, Setback, SetbackKind, Tick};
use crate::shutdown::Shutdown;
use crate::snapshot::{Freezer, Snapshot};

#[cfg(test)]
mod tests;

/// The longest that a tick waits for its collectors.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// While more answers than this are awaited, the loop naps between looks: to be
/// woken for each of a thousand costs more than a millisecond of each tick.
const GATHER_ONE_BY_ONE_MAX: usize = 16;
/// How long it naps.
const GATHER_NAP: Duration = Duration::from_millis(1);

/// A plugin comes, changes, or goes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A collector is to be asked, from the next tick on. Told again, its
    /// intervals have changed.
    Collector {
        /// Its name.
        name: PluginName,
        /// How often; every tick where it is absent.
        interval: Option<Duration>,
        /// How often while nobody watches it; as often as ever where it is
        /// absent or less than `interval`.
        interval_idle: Option<Duration>,
        /// Where to ask it. One question at a time is under way.
        ask: mpsc::Sender<Ask>,
        /// Counts its answers that were due and had not come.
        late: Arc<AtomicU64>,
    },
    /// A detector is to be shown every snapshot.
    Detector {
        /// Its name.
        name: PluginName,
        /// Where to show it. What it has no time for it doesn't see.
        observe: mpsc::Sender<Arc<Snapshot>>,
        /// Counts what it does not see.
        late: Arc<AtomicU64>,
    },
    /// A collector is due at the next tick, whatever its interval.
    Due {
        /// Its name.
        name: PluginName,
    },
    /// A plugin is gone, with all its series.
    Gone {
        /// Its name.
        name: PluginName,
    },
}

/// How the loop is doing. Written by the loop alone.
#[derive(Debug, Default)]
pub struct TickCounters {
    /// Ticks taken since the start.
    pub taken: AtomicU64,
    /// Slots that were skipped, since the tick before them took too long.
    pub skipped: AtomicU64,
    /// How late the last tick began after its slot, in nanoseconds.
    pub lateness_ns: AtomicU64,
    /// How long the last tick took from its beginning to its snapshot, in
    /// nanoseconds.
    pub gather_ns: AtomicU64,
    /// Answers that were due and had not come, since the start.
    pub late_answers: AtomicU64,
    /// Snapshots that a busy detector did not see, since the start.
    pub skipped_observations: AtomicU64,
    /// Values that were not finite, since the start.
    pub not_finite: AtomicU64,
}

/// What the loop needs.
pub struct Ticker<P> {
    /// How long a tick is.
    pub interval: Duration,
    /// Wall time.
    pub clock: Clock,
    /// The last tick of the run before this one.
    pub last: Option<Tick>,
    /// Plugins that come and go.
    pub changes: mpsc::Receiver<Change>,
    /// The plugins that somebody watches. Looked at when a tick begins.
    pub watched: watch::Receiver<Arc<BTreeSet<PluginName>>>,
    /// Collectors' answers.
    pub answers: mpsc::Receiver<Answer>,
    /// Where the collectors' tasks run: they are asked from a task among them.
    pub asking: Handle,
    /// Takes each snapshot on. Must not wait.
    pub publish: P,
    /// How the loop is doing.
    pub counters: Arc<TickCounters>,
}

/// A duration in whole ticks, at least one; one tick where there is none.
#[must_use]
pub fn in_ticks(interval: Option<Duration>, tick: Duration) -> u64 {
    let Some(interval) = interval else { return 1 };
    let ticks = (interval.as_nanos() + tick.as_nanos() / 2) / tick.as_nanos().max(1);
    u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
}

/// A collector, as the loop sees it.
#[derive(Debug)]
struct Collector {
    ask: mpsc::Sender<Ask>,
    late: Arc<AtomicU64>,
    pace: Pace,
    /// The tick at which it was due last.
    due_last: u64,
    /// It is due, whatever its pace, until it has been asked.
    due_now: bool,
    /// Its series are there, with values to make a rate from: the instance that
    /// runs has answered twice. One that isn't so far yet does not idle.
    settled: bool,
    /// When it was asked what it has not answered yet.
    asked: Option<Instant>,
    /// It took longer than a tick waits: it is not waited for.
    slow: bool,
    /// The last tick in which an answer of it came.
    answered: u64,
}

/// How often a collector is asked, in ticks.
#[derive(Clone, Copy, Debug)]
struct Pace {
    every: u64,
    /// While nobody watches; at least `every`.
    every_idle: u64,
}

impl Pace {
    fn new(interval: Option<Duration>, idle: Option<Duration>, tick: Duration) -> Self {
        let every = in_ticks(interval, tick);
        let every_idle = idle.map_or(every, |idle| in_ticks(Some(idle), tick).max(every));
        Self { every, every_idle }
    }
}

impl Collector {
    fn is_due(&self, tick: u64, is_watched: impl FnOnce() -> bool) -> bool {
        let Pace { every, every_idle } = self.pace;
        let idle = every_idle > every && self.settled && !is_watched();
        let every = if idle { every_idle } else { every };
        self.due_now || tick >= self.due_last.saturating_add(every)
    }

    /// Notes what its answer says of it. Not being able to measure just now
    /// doesn't make it one to be asked more often; having failed does, so that
    /// it is soon started again.
    fn settle(&mut self, outcome: &Result<Batch, Setback>) {
        match outcome {
            Ok(batch) => self.settled = !batch.restarted,
            Err(Setback { kind: SetbackKind::Retry | SetbackKind::Config, .. }) => {}
            Err(Setback { kind: SetbackKind::Restarting | SetbackKind::Quarantined, .. }) => {
                self.settled = false;
            }
        }
    }
}

/// A detector, as the loop sees it.
#[derive(Debug)]
struct Detector {
    observe: mpsc::Sender<Arc<Snapshot>>,
    late: Arc<AtomicU64>,
}

/// All that can happen to the loop.
enum Event {
    Slot,
    Change(Change),
    Stop,
}

/// The loop's memory.
struct State<P> {
    ticker: Ticker<P>,
    tick: Tick,
    collectors: BTreeMap<PluginName, Collector>,
    detectors: BTreeMap<PluginName, Detector>,
    freezer: Freezer,
    gather_max: Duration,
}

impl<P: FnMut(Arc<Snapshot>)> Ticker<P> {
    /// Runs until `shutdown`.
    pub async fn run(self, mut shutdown: Shutdown) {
        let interval = self.interval;
        let mut state = State {
            tick: self.last.unwrap_or_default(),
            collectors: BTreeMap::new(),
            detectors: BTreeMap::new(),
            freezer: Freezer::default(),
            gather_max: (interval / 4).min(GATHER_MAX),
            ticker: self,
        };
        let mut slot = Instant::now() + interval;
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.requested() => Event::Stop,
                Some(change) = state.ticker.changes.recv() => Event::Change(change),
                () = sleep_until(slot) => Event::Slot,
            };
            match event {
                Event::Stop => return,
                Event::Change(change) => state.change(change),
                Event::Slot => {
                    state.take_tick(slot).await;
                    slot = state.next_slot(slot, Instant::now());
                }
            }
        }
    }
}

impl<P: FnMut(Arc<Snapshot>)> State<P> {
    fn change(&mut self, change: Change) {
        match change {
            Change::Collector { name, interval, interval_idle, ask, late } => {
                let pace = Pace::new(interval, interval_idle, self.ticker.interval);
                match self.collectors.get_mut(&name) {
                    Some(known) if known.ask.same_channel(&ask) => known.pace = pace,
                    _ => {
                        let collector = Collector {
                            ask,
                            late,
                            pace,
                            due_last: 0,
                            due_now: true,
                            settled: false,
                            asked: None,
                            slow: false,
                            answered: 0,
                        };
                        self.collectors.insert(name, collector);
                    }
                }
            }
            Change::Detector { name, observe, late } => {
                self.detectors.insert(name, Detector { observe, late });
            }
            Change::Due { name } => {
                if let Some(collector) = self.collectors.get_mut(&name) {
                    collector.due_now = true;
                }
            }
            Change::Gone { name } => {
                self.detectors.remove(&name);
                if self.collectors.remove(&name).is_some() {
                    self.freezer.remove(name);
                }
            }
        }
    }

    async fn take_tick(&mut self, slot: Instant) {
        let begun = Instant::now();
        self.tick = Tick {
            number: self.tick.number + 1,
            time_ns: self.ticker.clock.now_ns().max(self.tick.time_ns),
        };
        self.freezer.begin(self.tick);
        while let Ok(answer) = self.ticker.answers.try_recv() {
            self.take_answer(answer);
        }
        let waiting = self.ask();
        self.gather(waiting, begun + self.gather_max).await;
        let owing = self.mark_late();
        let snapshot = self.freezer.freeze();
        self.publish(&snapshot);
        let counters = &self.ticker.counters;
        counters.taken.fetch_add(1, Ordering::Relaxed);
        counters.late_answers.fetch_add(owing, Ordering::Relaxed);
        counters.lateness_ns.store(nanos(begun - slot), Ordering::Relaxed);
        counters.gather_ns.store(nanos(begun.elapsed()), Ordering::Relaxed);
        counters.not_finite.store(self.freezer.not_finite(), Ordering::Relaxed);
    }

    /// Asks every collector that is due; how many of them to wait for.
    fn ask(&mut self) -> usize {
        let (tick, now) = (self.tick, Instant::now());
        let watched = self.ticker.watched.borrow().clone();
        let mut waiting = 0;
        let mut asks = Vec::with_capacity(self.collectors.len());
        for (name, collector) in &mut self.collectors {
            if !collector.is_due(tick.number, || watched.contains(name)) {
                continue;
            }
            collector.due_last = tick.number;
            if collector.asked.is_some() {
                continue;
            }
            collector.due_now = false;
            asks.push(collector.ask.clone());
            collector.asked = Some(now);
            waiting += usize::from(!collector.slow);
        }
        // Woken from another runtime, each of a thousand tasks would wake a
        // thread; woken from among them, they wake each other.
        self.ticker.asking.spawn(async move {
            for ask in asks {
                // There is room for the one question that is under way. It is
                // closed only when its task has ended, and then nothing comes.
                let _ = ask.try_send(Ask { tick });
            }
        });
        waiting
    }

    async fn gather(&mut self, mut waiting: usize, deadline: Instant) {
        while waiting > GATHER_ONE_BY_ONE_MAX && Instant::now() + GATHER_NAP < deadline {
            tokio::time::sleep(GATHER_NAP).await;
            while let Ok(answer) = self.ticker.answers.try_recv() {
                waiting = waiting.saturating_sub(usize::from(self.take_answer(answer)));
            }
        }
        while waiting > 0 {
            let answer = timeout_at(deadline, self.ticker.answers.recv()).await;
            let Ok(Some(answer)) = answer else {
                return;
            };
            waiting = waiting.saturating_sub(usize::from(self.take_answer(answer)));
        }
    }

    /// Takes in an answer; true if it was waited for.
    fn take_answer(&mut self, answer: Answer) -> bool {
        let Some(collector) = self.collectors.get_mut(&answer.plugin) else { return false };
        let was_slow = collector.slow;
        let took = collector.asked.take().map(|asked| asked.elapsed());
        collector.slow = took.is_some_and(|took| took > self.gather_max);
        collector.answered = self.tick.number;
        collector.settle(&answer.outcome);
        self.freezer.apply(answer);
        took.is_some() && !was_slow
    }

    /// Marks what the collectors owe that were due at this tick. How many owe.
    fn mark_late(&mut self) -> u64 {
        let tick = self.tick.number;
        let mut owing = 0;
        for (name, collector) in &mut self.collectors {
            if collector.due_last != tick {
                continue;
            }
            if collector.answered != tick {
                owing += 1;
                collector.late.fetch_add(1, Ordering::Relaxed);
                self.freezer.mark_late(name.clone());
            }
            collector.slow |= collector.asked.is_some();
        }
        owing
    }

    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        (self.ticker.publish)(snapshot.clone());
        for detector in self.detectors.values() {
            if detector.observe.try_send(snapshot.clone()).is_err() {
                detector.late.fetch_add(1, Ordering::Relaxed);
                self.ticker.counters.skipped_observations.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The slot after `slot`; slots that have passed meanwhile are skipped, but
    /// for the last, which is only late.
    fn next_slot(&self, slot: Instant, now: Instant) -> Instant {
        let interval = self.ticker.interval;
        let next = slot + interval;
        let passed = now.saturating_duration_since(next).as_nanos() / interval.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.ticker.counters.skipped.fetch_add(passed.into(), Ordering::Relaxed);
        next + interval * passed
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
