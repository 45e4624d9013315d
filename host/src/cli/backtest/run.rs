//! The work itself: each series is shown to an instance of its own, on as many
//! threads as there are processors.
//!
//! One instance for each series, since then what a series' scores are depends on
//! nothing but the series: not on what else was read, not on how many threads
//! there are, and not on which of them was quicker.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::Failure;
use super::corpus::CorpusFile;
use super::labels::{self, Labels, Tally};
use super::nab;
use super::output::Output;
use super::table::{self, Table};
use super::times;
use super::track::{Point, Track};
use crate::judge::{Hearing, Policy, Rules};
use crate::model::{Candidate, Series, SeriesId, SeriesSpec, Tick};
use crate::plugin::replay::{Replay, Said, processor_time, runtime};

/// How many alerts of a series are told one by one; all are counted.
const ALERTS_KEPT_MAX: usize = 1000;
/// How often progress is shown.
const PROGRESS_POINTS: usize = 1024;

/// What is to be shown.
pub(super) enum Work {
    /// A file of a corpus, which is read when its turn comes.
    File(CorpusFile),
    /// A series that was read already.
    Track(Box<Track>),
}

impl Work {
    /// How much it is, in bytes or so: the largest comes first.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.bytes,
            Self::Track(track) => track.points.len() as u64 * 32,
        }
    }
}

/// All that the work needs.
pub(super) struct Run {
    pub(super) replay: Replay,
    /// What becomes of scores, by `[findings]` of the configuration.
    pub(super) rules: Rules,
    /// The threshold, whatever these say.
    pub(super) threshold: Option<f64>,
    pub(super) work: Vec<Work>,
    /// The labels of a corpus, or those that were named.
    pub(super) labels: Option<Labels>,
    /// Where the scores of each value go.
    pub(super) output: Option<Output>,
    pub(super) threads: usize,
    pub(super) progress: ProgressBar,
    /// Somebody wants it to end.
    pub(super) stop: AtomicBool,
}

/// What became of a series.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) points: usize,
    /// Values that were due and had not come.
    pub(super) missing: usize,
    /// Rows whose time is before that of the row above, and was shown as that.
    pub(super) disorder: usize,
    pub(super) seconds: f64,
    pub(super) alerts: Vec<Alert>,
    pub(super) alert_count: usize,
    /// By the labels, where it has any.
    pub(super) tally: Option<Tally>,
    /// Values by which the tally goes.
    pub(super) counted: usize,
    /// Processor time.
    pub(super) computing: Duration,
    /// What NAB makes of it, where it is of a corpus.
    pub(super) nab: Option<nab::Rows>,
}

/// A score that is told.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Alert {
    /// When, RFC 3339.
    pub(super) time: String,
    /// The value; none if it is that it has not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<f64>,
    /// The detector's own score.
    pub(super) score: f64,
    /// In which way the value is odd, by the detector.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) finding_type: Option<String>,
    /// What would have been usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<f64>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// The scores of a series.
#[derive(Debug, Default)]
pub(super) struct Scores {
    /// The detector's own, one for each point.
    pub(super) raw: Vec<f64>,
    /// After the policy: at least the threshold where somebody is told.
    pub(super) told: Vec<f64>,
    /// The points at which somebody is told.
    alerts: Vec<usize>,
    kept: Vec<Alert>,
}

impl Run {
    /// Does all of it. The outcomes come in the order of the work.
    ///
    /// # Errors
    ///
    /// The first that went wrong, by the order of the work; or it was stopped.
    pub(super) fn all(&self) -> Result<Vec<Outcome>, Failure> {
        let mut order: Vec<usize> = (0..self.work.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.work[*at].size()));
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Outcome, Failure>)>> = Mutex::default();
        let work = || {
            // A thread without a runtime does nothing, and the others all of it.
            let runtime = runtime();
            while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                let outcome = match &runtime {
                    _ if self.stop.load(Ordering::Relaxed) => Err(Failure::new(STOPPED)),
                    Ok(runtime) => self.one(runtime, &self.work[at]),
                    Err(error) => Err(Failure::new(error)),
                };
                if outcome.is_err() {
                    self.stop.store(true, Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(self.work.len()) {
                scope.spawn(work);
            }
            work();
        });
        self.progress.finish_and_clear();
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(at, _)| *at);
        // What others were stopped for comes before that they were stopped.
        let failed = |(_, outcome): &(usize, Result<Outcome, Failure>)| {
            outcome.as_ref().is_err_and(|failure| failure.words != STOPPED)
        };
        if let Some(at) = done.iter().position(failed) {
            done.swap(0, at);
        }
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// What becomes of the scores of a series.
    fn policy(&self, spec: &SeriesSpec, interval: Duration) -> Policy {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let series = Series { id: SeriesId(1), spec: spec.clone(), interval_ns };
        let mut policy = self.rules.policy(self.replay.name(), &series);
        if let Some(threshold) = self.threshold {
            policy.open = threshold;
            policy.close = policy.close.min(threshold);
        }
        policy
    }

    /// The same for a series that no rule names.
    pub(super) fn usual_policy(&self) -> Result<Policy, Failure> {
        let track = Track::foreign("value", Vec::new()).map_err(Failure::new)?;
        Ok(self.policy(&track.spec, track.interval))
    }

    fn one(&self, runtime: &Runtime, work: &Work) -> Result<Outcome, Failure> {
        match work {
            Work::Track(track) => {
                let scores = self.show(runtime, track, work.size())?;
                self.write(|output| output.track(track, &scores.0))?;
                self.outcome(track, scores, track.windows.as_deref(), None)
            }
            Work::File(file) => {
                let table = Table::plain(file.path.clone());
                let bytes = table::read(&file.path)?;
                let mut track = table.only(&bytes)?;
                let column = std::mem::replace(&mut track.name, file.name.clone());
                let scores = self.show(runtime, &track, work.size())?;
                self.write(|output| {
                    output.file(&file.name, &table.with_scores(&bytes, &column, &scores.0)?)
                })?;
                let windows = match &self.labels {
                    // What the labels don't name has nothing odd in it.
                    Some(labels) => Some(labels.get(&file.name).map_or(&[][..], Vec::as_slice)),
                    None => track.windows.as_deref(),
                };
                let category = file.name.split('/').next();
                self.outcome(&track, scores, windows, category)
            }
        }
    }

    fn write(&self, write: impl FnOnce(&Output) -> Result<(), Failure>) -> Result<(), Failure> {
        self.output.as_ref().map_or(Ok(()), write)
    }

    fn show(
        &self,
        runtime: &Runtime,
        track: &Track,
        size: u64,
    ) -> Result<(Scores, Duration), Failure> {
        let begun = processor_time();
        let scores = runtime.block_on(self.course(track, size)).map_err(|words| {
            if words == STOPPED {
                Failure::new(words)
            } else {
                Failure::new(format!("{}: {words}", track.name))
            }
        })?;
        Ok((scores, processor_time().saturating_sub(begun)))
    }

    /// Shows a series to a fresh instance, value after value.
    async fn course(&self, track: &Track, size: u64) -> Result<Scores, String> {
        let mut showing = self.replay.start(track.interval).await?;
        showing.let_in([(track.spec.clone(), track.interval)]);
        let policy = self.policy(&track.spec, track.interval);
        let mut hearing = Hearing::new(showing.series()[0].clone());
        let mut scores = Scores::default();
        for (at, point) in track.points.iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(STOPPED.to_owned());
            }
            let value = [point.value];
            let said = showing.show(point.time_ns, &value).await.map_err(|words| {
                format!("value {} of {}: {words}", at + 1, times::shown(point.time_ns))
            })?;
            scores.add(at, point, &said, &policy, &mut hearing);
            if at % PROGRESS_POINTS == PROGRESS_POINTS - 1 {
                let part = PROGRESS_POINTS as u64 * size / track.points.len() as u64;
                self.progress.inc(part);
            }
        }
        Ok(scores)
    }

    fn outcome(
        &self,
        track: &Track,
        (scores, computing): (Scores, Duration),
        windows: Option<&[super::track::Window]>,
        category: Option<&str>,
    ) -> Result<Outcome, Failure> {
        let points = &track.points;
        let windows =
            windows.map(|windows| (labels::rows(points, windows), labels::apart(windows)));
        // What a detector says while it learns counts in no score of NAB's.
        let skip = category.map_or(0, |_| nab::probation(points.len()));
        let tally = windows.as_ref().map(|(rows, _)| Tally::of(points, rows, &scores.alerts, skip));
        let nab = windows.zip(category).map(|((rows, labelled), category)| {
            nab::Rows::new(category, &scores.told, &rows, labelled)
        });
        let disorder = points.windows(2).filter(|pair| pair[1].time_ns < pair[0].time_ns).count();
        Ok(Outcome {
            name: track.name.clone(),
            points: points.len(),
            missing: points.iter().filter(|point| point.value.is_nan()).count(),
            disorder,
            seconds: track.seconds(),
            alerts: scores.kept,
            alert_count: scores.alerts.len(),
            tally,
            counted: points.len() - skip,
            computing,
            nab,
        })
    }
}

impl Scores {
    /// Takes in what was said of a point.
    fn add(
        &mut self,
        at: usize,
        point: &Point,
        said: &Said<'_>,
        policy: &Policy,
        hearing: &mut Hearing,
    ) {
        let raw = said.scores[0];
        if raw.is_nan() {
            // A value that has not come, and nothing was said of that.
            self.raw.push(0.0);
            self.told.push(0.0);
            return;
        }
        let tick = Tick { number: at as u64 + 1, time_ns: point.time_ns };
        let value = point.value.is_finite().then_some(point.value);
        let heard = hearing.hear(policy, tick, value, raw, &said.candidates);
        self.raw.push(raw);
        self.told.push(heard.score);
        if heard.told {
            self.alerts.push(at);
            if self.kept.len() < ALERTS_KEPT_MAX {
                self.kept.push(Alert::new(point, raw, said.candidate(0)));
            }
        }
    }
}

/// What is said of work that somebody else's failure or Ctrl-C has ended.
pub(super) const STOPPED: &str = "stopped";

impl Alert {
    fn new(point: &Point, score: f64, candidate: Option<&Candidate>) -> Self {
        Self {
            time: times::shown(point.time_ns),
            value: point.value.is_finite().then_some(point.value),
            score,
            finding_type: candidate.map(|candidate| candidate.finding_type.as_str().to_owned()),
            expected: candidate.and_then(|candidate| candidate.expected),
            note: candidate.and_then(|candidate| candidate.note.as_deref()).map(str::to_owned),
        }
    }
}
