//! Instances at their desks, called as their task in the hub would call them,
//! and a book of what the calls took.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Trial;
use super::report::{Problem, ShownEvent};
use crate::model::{Batch, Dictionary, Judgement, Tick};
use crate::plugin::collector::CollectorDesk;
use crate::plugin::detector::DetectorDesk;
use crate::plugin::instance::{Failure, Fault, Instance, Saved};
use crate::plugin::limits::{LimitHit, Refused};
use crate::plugin::meter::{Call, Overrun};
use crate::snapshot::Snapshot;

/// What is remembered of all instances of a trial.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The computing of the last call.
    pub(super) last: Cell<Duration>,
    /// The longest computing of each call, in processor time.
    pub(super) longest: RefCell<BTreeMap<&'static str, Duration>>,
    /// The most memory that an instance has had, in bytes.
    pub(super) memory_bytes: Cell<usize>,
    /// What went over the memory limit.
    pub(super) over_memory: RefCell<Option<String>>,
    /// What went over the limit of computing or waiting.
    pub(super) over_time: RefCell<Option<String>>,
    /// What was over another limit, and was left out.
    pub(super) left_out: RefCell<BTreeMap<&'static str, String>>,
    /// What was published.
    pub(super) events: RefCell<Events>,
}

/// How many events are shown: enough to see what they are like.
const EVENTS_SHOWN_MAX: usize = 10;

/// What all instances of a trial have published.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// How many.
    pub(super) count: usize,
    /// The first of them.
    pub(super) first: Vec<ShownEvent>,
}

/// One instance, started and configured.
pub(super) struct Player<'a> {
    trial: &'a Trial,
    book: &'a Book,
    instance: Instance,
    collector: CollectorDesk,
    detector: DetectorDesk,
}

/// What a detector answered, checked.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) judgement: Judgement,
    /// One for each of `judgement.seen`, or none.
    pub(super) scores: Vec<f64>,
}

impl<'a> Player<'a> {
    /// Starts and configures an instance.
    pub(super) async fn start(
        trial: &'a Trial,
        book: &'a Book,
        dictionary: &Arc<Dictionary>,
    ) -> Result<Self, Problem> {
        let (kit, plugin) = (&trial.kit, &trial.plugin);
        let started = timed(kit.start()).await;
        let instance = book.note(trial, "start", started, None)?;
        let refused = Refused::default();
        let collector =
            CollectorDesk::new(plugin.clone(), dictionary.clone(), kit.limits, refused.clone());
        // Whatever its settings let it see, it is shown what is there.
        let detector = DetectorDesk::new(plugin.clone(), None, &kit.limits, refused);
        Ok(Self { trial, book, instance, collector, detector })
    }

    /// Hands over the settings once more.
    pub(super) async fn configure(&mut self) -> Result<(), Problem> {
        let config = self.trial.kit.settings.config_json();
        let done = timed(self.instance.configure(&config)).await;
        self.note("configure", done)
    }

    /// Asks a collector.
    pub(super) async fn collect(&mut self, tick: Tick) -> Result<Batch, Problem> {
        let answered = timed(self.instance.collect(tick)).await;
        let wire = self.note("collect", answered)?;
        let checked = self.collector.check(wire).await;
        self.book.over(self.collector.limits_hit());
        checked.map_err(|refusal| {
            Problem::failed(refusal.to_string(), "keep the rules of `batch` in wit/collect.wit")
        })
    }

    /// Shows a detector a tick.
    pub(super) async fn observe(&mut self, snapshot: &Snapshot) -> Result<Verdict, Problem> {
        if let Some(now_ns) = &self.trial.kit.surroundings.virtual_now_ns {
            now_ns.store(snapshot.tick.time_ns, Ordering::Relaxed);
        }
        let shown = self.detector.observe(snapshot);
        let answered = timed(self.instance.observe(&shown.wire)).await;
        let wire = self.note("observe", answered)?;
        let scores = wire.scores.clone();
        let checked = self.detector.check(snapshot, shown, wire);
        self.book.over(self.detector.limits_hit());
        let judgement = checked.map_err(|broken| {
            let words = format!("verdict refused: {broken}");
            Problem::failed(words, "keep the rules of `verdict` and `finding` in wit/detect.wit")
        })?;
        Ok(Verdict { judgement, scores })
    }

    /// What it knows.
    pub(super) async fn save(&mut self) -> Result<Option<Saved>, Problem> {
        let saved = timed(self.instance.save()).await;
        self.note("save", saved)
    }

    /// Gives it what another has saved.
    pub(super) async fn restore(&mut self, saved: &Saved) -> Result<bool, Problem> {
        let restored = timed(self.instance.restore(saved)).await;
        self.note("restore", restored)
    }

    /// How many series a collector has alive.
    pub(super) fn alive(&self) -> usize {
        self.collector.alive()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.instance.memory_bytes()
    }

    fn note<T>(
        &self,
        call: &'static str,
        done: (Result<T, Failure>, Duration),
    ) -> Result<T, Problem> {
        self.book.note(self.trial, call, done, Some(&self.instance))
    }
}

impl Book {
    fn over(&self, hits: Vec<LimitHit>) {
        let mut left_out = self.left_out.borrow_mut();
        left_out.extend(hits.into_iter().map(|hit| (hit.limit, hit.words)));
    }

    /// Writes down what was published.
    fn published(&self, trial: &Trial) {
        let mut events = self.events.borrow_mut();
        for publication in trial.published() {
            events.count += 1;
            if events.first.len() < EVENTS_SHOWN_MAX {
                events.first.push(ShownEvent::of(publication));
            }
        }
        if trial.kit.surroundings.refused.counts().events > 0 {
            self.left_out.borrow_mut().insert("events", trial.kit.limits.events_over());
        }
    }

    /// Writes down what a call took, and what went wrong in it.
    fn note<T>(
        &self,
        trial: &Trial,
        call: &'static str,
        (done, computing): (Result<T, Failure>, Duration),
        instance: Option<&Instance>,
    ) -> Result<T, Problem> {
        self.last.set(computing);
        self.published(trial);
        let mut longest = self.longest.borrow_mut();
        let before = longest.entry(call).or_default();
        *before = computing.max(*before);
        let memory_bytes = instance.map_or(0, Instance::memory_bytes);
        self.memory_bytes.set(self.memory_bytes.get().max(memory_bytes));
        done.map_err(|failure| {
            let words = format!("{call}: {failure}");
            match &failure {
                Failure::Overrun(_) => *self.over_time.borrow_mut() = Some(words.clone()),
                Failure::Trap(why) if why.contains("`memory_mib`") => {
                    *self.over_memory.borrow_mut() = Some(words.clone());
                }
                _ => {}
            }
            problem(trial, call, &failure, words)
        })
    }
}

/// A failure, and what to do about it.
fn problem(trial: &Trial, call: &str, failure: &Failure, words: String) -> Problem {
    let settings = if trial.with_settings {
        "its settings"
    } else {
        "its settings, and name their file with --settings"
    };
    match failure {
        Failure::Fault(Fault::Retry(_)) if call == "collect" || call == "observe" => {
            Problem::warned(
                words,
                format!("if it needs a grant, add it under [grant] in {settings}"),
            )
        }
        Failure::Fault(Fault::Retry(_)) => {
            Problem::failed(words, "answer `retry` in `collect` only: a start it refuses")
        }
        Failure::Fault(Fault::Config(_)) => {
            Problem::failed(words, format!("set what it asks for under [config] in {settings}"))
        }
        Failure::Fault(Fault::Fatal(_)) => {
            Problem::failed(words, "the hub would start it anew each time: answer `retry` to wait")
        }
        Failure::Overrun(Overrun::Computing { call: Call::Ask, .. }) => Problem::failed(
            words,
            format!("do less in a call, or raise `collect_ms` under [limits] in {settings}"),
        ),
        Failure::Overrun(Overrun::Computing { call: Call::Start | Call::Configure, .. }) => {
            Problem::failed(
                words,
                format!("do less in it, or raise `configure_ms` under [limits] in {settings}"),
            )
        }
        Failure::Overrun(Overrun::Computing { .. }) => Problem::failed(words, "do less in it"),
        Failure::Overrun(Overrun::Waiting(_)) => Problem::failed(
            words,
            format!("give up sooner, or raise `io_ms` under [limits] in {settings}"),
        ),
        Failure::Trap(why) if why.contains("`memory_mib`") => Problem::failed(
            words,
            format!("keep less, or raise `memory_mib` under [limits] in {settings}"),
        ),
        Failure::Trap(why) if why.contains("handed over more") => {
            Problem::failed(words, "answer less at once")
        }
        Failure::Trap(_) => {
            Problem::failed(words, "answer a fault instead: a trap ends the instance")
        }
        Failure::Start(_) if call == "restore" => {
            Problem { answered: true, ..Problem::failed(words, "take what `save` has written") }
        }
        Failure::Start(_) => Problem::failed(words, format!("mend [grant] in {settings}")),
    }
}

/// What came of a call, and the processor time of this thread meanwhile: guests
/// run on the thread that polls them.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let before = thread_time();
    let done = call.await;
    (done, thread_time().saturating_sub(before))
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
