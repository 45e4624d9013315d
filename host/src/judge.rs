//! Findings: the host alone opens and closes them, by what detectors say and by
//! the operator's policy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::model::{
    Candidate, Entry, Finding, FindingState, Flags, Judgement, PluginName, Series, SeriesId, Tick,
};

mod course;
mod hearing;
mod policy;
mod rules;
#[cfg(test)]
mod tests;

use course::{Bench, Brought, Course, Outcome, closing};

pub use hearing::Hearing;
pub use policy::{Calm, Heard, Policy};
pub use rules::Rules;

/// Open findings at once, those of shadows apart. A detector that finds
/// everything odd meets it; what is over is counted, and opens once there is
/// room.
const OPEN_MAX: usize = 10_000;

/// How the judge is doing. Written by the judge alone; of live detectors only.
#[derive(Debug, Default)]
pub struct JudgeCounters {
    /// Findings that are open.
    pub open: AtomicU64,
    /// Findings that were opened since the start.
    pub opened: AtomicU64,
    /// Findings that found no room.
    pub refused: AtomicU64,
    /// Odd values that opened nothing, their series having told enough lately.
    pub suppressed: AtomicU64,
    /// Odd values that opened nothing, their series being muted.
    pub muted: AtomicU64,
    /// Flags that found the store's queue full.
    pub flags_dropped: AtomicU64,
}

/// The findings that are open, and what was told lately.
#[derive(Debug)]
pub struct Judge {
    rules: Rules,
    /// Those that any series has. There are as many as ways in which rules and
    /// intervals meet.
    policies: Vec<Policy>,
    lines: HashMap<(PluginName, IsShadow), Line>,
    entries: mpsc::Sender<Entry>,
    flags: mpsc::Sender<Flags>,
    counters: Arc<JudgeCounters>,
}

type IsShadow = bool;

/// What a detector, or the one in its shadow, is shown: as many series as its
/// limits allow.
#[derive(Debug, Default)]
struct Line {
    /// In the order of their numbers, as judgements are.
    courses: Vec<Course>,
    /// How many findings are open.
    open: usize,
}

/// What a judgement leads to.
#[derive(Debug, Default)]
pub struct Told {
    /// Findings that open or close, as they are to be logged.
    pub findings: Vec<Finding>,
    /// The series whose values were odd, in rising order.
    pub flags: Vec<SeriesId>,
}

impl Judge {
    /// A judge without open findings, that keeps what happens in `entries`, and
    /// which values were odd in `flags`.
    #[must_use]
    pub fn new(
        rules: Rules,
        entries: mpsc::Sender<Entry>,
        flags: mpsc::Sender<Flags>,
        counters: Arc<JudgeCounters>,
    ) -> Self {
        Self { rules, policies: Vec::new(), lines: HashMap::new(), entries, flags, counters }
    }

    /// Closes what an earlier run of the hub has left open, then judges until
    /// nobody sends judgements any more.
    pub async fn run(
        mut self,
        left_open: Vec<Finding>,
        last: Tick,
        mut judgements: mpsc::Receiver<Judgement>,
    ) {
        for finding in left_open {
            self.tell(last, &closing(finding, last, Some("the hub was stopped"))).await;
        }
        while let Some(judgement) = judgements.recv().await {
            let tick = judgement.tick;
            let Told { findings, flags } = self.judge(judgement);
            if !flags.is_empty() {
                let flags = Flags { time_ms: tick.time_ms(), series: flags };
                if let Err(full) = self.flags.try_send(flags) {
                    let lost = full.into_inner().series.len() as u64;
                    self.counters.flags_dropped.fetch_add(lost, Ordering::Relaxed);
                }
            }
            for finding in findings {
                self.tell(tick, &finding).await;
            }
        }
    }

    /// What opens and closes by a judgement, and which of its values were odd.
    pub fn judge(&mut self, mut judgement: Judgement) -> Told {
        let key = (judgement.detector.clone(), judgement.shadow);
        let mut line = self.lines.remove(&key).unwrap_or_default();
        let mut told = Told::default();
        self.declare(&key.0, &mut line, std::mem::take(&mut judgement.declared));
        judgement.candidates.sort_by(|one, other| {
            one.series.id.cmp(&other.series.id).then(other.score.total_cmp(&one.score))
        });
        self.hear(&mut line, &judgement, &mut told);
        let tick = judgement.tick;
        if judgement.ended {
            for course in std::mem::take(&mut line).courses {
                course.end(tick, "the detector is gone", &mut told.findings);
            }
        } else {
            let gone = &judgement.gone;
            let is_gone = |course: &mut Course| gone.binary_search(&course.id).is_ok();
            for course in line.courses.extract_if(.., is_gone) {
                course.end(tick, "the series is gone", &mut told.findings);
            }
        }
        self.count(&mut line, &told.findings, key.1);
        if !judgement.ended {
            self.lines.insert(key, line);
        }
        told
    }

    /// Finds the policy of each series that is declared. What was told of one
    /// that is declared again is remembered.
    fn declare(&mut self, detector: &PluginName, line: &mut Line, declared: Vec<Arc<Series>>) {
        let known = line.courses.len();
        for series in declared {
            let policy = self.policy(detector, &series);
            let mutes = self.rules.mutes(detector, &series);
            let courses = &mut line.courses;
            let place = courses[..known].binary_search_by_key(&series.id, |course| course.id);
            let place = place.unwrap_or_else(|_| {
                courses.push(Course::new(series.clone()));
                courses.len() - 1
            });
            let course = &mut courses[place];
            (course.series, course.policy, course.mutes) = (series, policy, mutes);
        }
        if line.courses.len() > known {
            line.courses.sort_by_key(|course| course.id);
            line.courses.dedup_by_key(|course| course.id);
        }
    }

    /// Where the policy of a series stands.
    fn policy(&mut self, detector: &str, series: &Series) -> usize {
        let policy = self.rules.policy(detector, series);
        let known = self.policies.iter().position(|known| *known == policy);
        known.unwrap_or_else(|| {
            self.policies.push(policy);
            self.policies.len() - 1
        })
    }

    /// Hears all series of which anything is said.
    fn hear(&self, line: &mut Line, judgement: &Judgement, told: &mut Told) {
        let Judgement { tick, seen, values, scores, candidates, shadow, .. } = judgement;
        let (tick, shadow) = (*tick, *shadow);
        let bench =
            Bench { detector: &judgement.detector, version: &judgement.version, shadow, tick };
        let muting = self.rules.muting(tick.time_ns);
        let mut room = OPEN_MAX.saturating_sub(self.open(shadow) + line.open);
        let (mut next_seen, mut rest) = (0, &candidates[..]);
        for course in &mut line.courses {
            while seen.get(next_seen).is_some_and(|id| *id < course.id) {
                next_seen += 1;
            }
            let is_seen = seen.get(next_seen) == Some(&course.id);
            let candidates = take_of(course.id, &mut rest);
            if !is_seen && candidates.is_empty() {
                continue;
            }
            let of_value = |list: &[f64]| list.get(next_seen).copied().filter(|_| is_seen);
            let own = of_value(scores).unwrap_or(0.0);
            let brought = Brought { value: of_value(values), own, candidates };
            let policy = &self.policies[course.policy];
            let is_odd = brought.score() >= policy.open;
            // Nearly all of them, at nearly all ticks.
            if !is_odd && course.open.is_empty() && course.calm.is_over() {
                continue;
            }
            if is_odd && is_seen && !shadow {
                told.flags.push(course.id);
            }
            let (muted, before) = (course.mutes & muting != 0, course.open.len());
            let (outcome, _) = course.hear(policy, muted, brought, bench, room, &mut told.findings);
            room = (room + before).saturating_sub(course.open.len());
            if !shadow {
                self.counters.note(outcome);
            }
        }
    }

    /// Findings that are open, over all lines that are not being judged.
    fn open(&self, shadow: IsShadow) -> usize {
        let lines = self.lines.iter().filter(|((_, of_shadow), _)| *of_shadow == shadow);
        lines.map(|(_, line)| line.open).sum()
    }

    fn count(&self, line: &mut Line, findings: &[Finding], shadow: IsShadow) {
        let is_opened = |finding: &&Finding| finding.state == FindingState::Open;
        let opened = findings.iter().filter(is_opened).count();
        line.open = (line.open + opened).saturating_sub(findings.len() - opened);
        if !shadow {
            self.counters.opened.fetch_add(opened as u64, Ordering::Relaxed);
            let open = self.open(shadow) + line.open;
            self.counters.open.store(open as u64, Ordering::Relaxed);
        }
    }

    async fn tell(&self, tick: Tick, finding: &Finding) {
        match Entry::new(finding.channel(), tick.time_ms(), finding) {
            // A log that has ended has nobody to tell.
            Ok(entry) => drop(self.entries.send(entry).await),
            Err(error) => tracing::error!(%error, "a finding can't be written as JSON"),
        }
    }
}

impl JudgeCounters {
    fn note(&self, outcome: Outcome) {
        let (counter, count) = match outcome {
            Outcome::Settled => return,
            Outcome::Suppressed => (&self.suppressed, 1),
            Outcome::Muted => (&self.muted, 1),
            Outcome::Refused(findings) => (&self.refused, findings),
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Takes the candidates of a series from the front of those that are left, which
/// are in the order of series. Those before it are of no series that is shown.
fn take_of<'a>(id: SeriesId, rest: &mut &'a [Candidate]) -> &'a [Candidate] {
    if rest.is_empty() {
        return &[];
    }
    let before = rest.partition_point(|candidate| candidate.series.id < id);
    let through = rest.partition_point(|candidate| candidate.series.id <= id);
    let (of, after) = (&rest[before..through], &rest[through..]);
    *rest = after;
    of
}
