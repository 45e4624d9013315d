//! One tick of one series, as one detector sees it: which of its findings go
//! on, which close, and which open.

use std::sync::Arc;

use super::{Calm, Policy};
use crate::clock::rfc3339;
use crate::model::{
    Candidate, Finding, FindingState, FindingType, PluginName, Series, SeriesId, Tick,
};

/// What a detector has found in a series lately.
#[derive(Debug)]
pub(super) struct Course {
    /// The series' number, beside it, since all are looked through at each tick.
    pub(super) id: SeriesId,
    pub(super) series: Arc<Series>,
    /// Which of the judge's policies.
    pub(super) policy: usize,
    /// The times to mute that may hold for it.
    pub(super) mutes: super::rules::Mutes,
    pub(super) calm: Calm,
    /// Its open findings, each of a type of its own.
    pub(super) open: Vec<Open>,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) finding: Finding,
    finding_type: FindingType,
    /// Successive values that did not reach `close`.
    calm_values: u32,
}

/// What one series brings at one tick.
#[derive(Clone, Copy)]
pub(super) struct Brought<'a> {
    /// Its value, where there is one.
    pub(super) value: Option<f64>,
    /// The score of the value; 0 where the detector tells none.
    pub(super) own: f64,
    /// What the detector found odd in it, the highest score first.
    pub(super) candidates: &'a [Candidate],
}

impl Brought<'_> {
    /// How odd the series is, over all that is said of it.
    pub(super) fn score(&self) -> f64 {
        self.candidates.first().map_or(self.own, |highest| highest.score.max(self.own))
    }
}

/// Who judges when.
#[derive(Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) detector: &'a PluginName,
    pub(super) version: &'a str,
    pub(super) shadow: bool,
    pub(super) tick: Tick,
}

/// What became of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody need be told, or so many were.
    Settled,
    /// It was odd, and its series was calmed: by a quiet time, or by habit.
    Suppressed,
    /// It was odd, and is muted.
    Muted,
    /// So many findings found no room.
    Refused(usize),
}

impl Course {
    pub(super) fn new(series: Arc<Series>) -> Self {
        let (calm, open) = (Calm::default(), Vec::new());
        Self { id: series.id, series, policy: 0, mutes: 0, calm, open }
    }

    /// Hears what the series brings. What opens and closes is added to `told`;
    /// at most `room` findings may open. Answers what became of it, and the score
    /// after the policy.
    pub(super) fn hear(
        &mut self,
        policy: &Policy,
        muted: bool,
        brought: Brought<'_>,
        bench: Bench<'_>,
        room: usize,
        told: &mut Vec<Finding>,
    ) -> (Outcome, f64) {
        let was_open = !self.open.is_empty();
        self.go_on(policy, brought, bench.tick, told);
        let score = brought.score();
        if muted {
            self.calm.pass(policy);
            let outcome = if score < policy.open { Outcome::Settled } else { Outcome::Muted };
            return (outcome, 0.0);
        }
        let before = self.calm.clone();
        let heard = self.calm.hear(policy, score);
        if !heard.told {
            let calmed = score >= policy.open && heard.score < policy.open && !was_open;
            let outcome = if calmed { Outcome::Suppressed } else { Outcome::Settled };
            return (outcome, heard.score);
        }
        let odd = self.odd(policy, brought);
        let news = brought.candidates.iter().chain(&odd);
        let news = news.filter(|candidate| candidate.score >= policy.open);
        let mut refused = 0;
        let mut opened = 0;
        for candidate in news {
            if self.open.iter().any(|open| open.finding_type == candidate.finding_type) {
                continue;
            }
            if opened == room {
                refused += 1;
                continue;
            }
            let finding = opening(bench, candidate);
            told.push(finding.clone());
            let finding_type = candidate.finding_type.clone();
            self.open.push(Open { finding, finding_type, calm_values: 0 });
            opened += 1;
        }
        // What nobody is told of is not got used to. An open finding that is as odd
        // after a quiet time as before it counts like another opening.
        if opened == 0 && !was_open {
            self.calm = before;
            self.calm.pass(policy);
        }
        let outcome = if refused > 0 { Outcome::Refused(refused) } else { Outcome::Settled };
        (outcome, heard.score)
    }

    /// What the host makes of a score that comes without a candidate: only where
    /// it is asked for more than the detector itself would tell.
    fn odd(&self, policy: &Policy, brought: Brought<'_>) -> Option<Candidate> {
        const OWN_THRESHOLD: f64 = 0.5;
        let has_candidate = brought.candidates.iter().any(|one| one.score >= policy.open);
        (policy.open < OWN_THRESHOLD && !has_candidate && self.open.is_empty()).then(|| Candidate {
            series: self.series.clone(),
            finding_type: FindingType::Custom("odd".into()),
            score: brought.own,
            value: brought.value,
            deviation: None,
            expected: None,
            lower: None,
            upper: None,
            note: None,
        })
    }

    /// Lets open findings go on, or close.
    fn go_on(
        &mut self,
        policy: &Policy,
        brought: Brought<'_>,
        tick: Tick,
        told: &mut Vec<Finding>,
    ) {
        self.open.retain_mut(|open| {
            let of_type =
                brought.candidates.iter().find(|one| one.finding_type == open.finding_type);
            let score = match of_type {
                Some(candidate) => candidate.score,
                // It is odd in another way by now.
                None if !brought.candidates.is_empty() => 0.0,
                None => brought.own,
            };
            if score >= policy.close {
                open.finding.peak = open.finding.peak.max(score);
                open.calm_values = 0;
                return true;
            }
            open.calm_values += 1;
            let is_over = open.calm_values >= policy.close_after;
            if is_over {
                told.push(closing(open.finding.clone(), tick, None));
            }
            !is_over
        });
    }

    /// Closes what is open.
    pub(super) fn end(self, tick: Tick, reason: &str, told: &mut Vec<Finding>) {
        told.extend(self.open.into_iter().map(|open| closing(open.finding, tick, Some(reason))));
    }
}

/// A finding as it closes, with the reason unless it was by calm values.
pub(super) fn closing(finding: Finding, tick: Tick, reason: Option<&str>) -> Finding {
    Finding {
        state: FindingState::Close,
        ended: Some(rfc3339(tick.time_ns)),
        reason: reason.map(str::to_owned),
        ..finding
    }
}

/// A finding as it opens.
pub(super) fn opening(bench: Bench<'_>, candidate: &Candidate) -> Finding {
    let Bench { detector, version, shadow, tick } = bench;
    let series = &candidate.series;
    let labels = series.labels().iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (word, time_ms) = (candidate.finding_type.as_str(), tick.time_ms());
    // The live one may find the same at the same tick.
    let whose = if shadow { ".shadow" } else { "" };
    Finding {
        id: format!("{detector}{whose}-{}-{word}-{time_ms}", series.id),
        state: FindingState::Open,
        detector: detector.to_string(),
        series: series.id,
        plugin: series.plugin().to_string(),
        name: series.name().to_owned(),
        labels: labels.collect(),
        finding_type: word.to_owned(),
        score: candidate.score,
        peak: candidate.score,
        deviation: candidate.deviation,
        value: candidate.value,
        expected: candidate.expected,
        lower: candidate.lower,
        upper: candidate.upper,
        note: candidate.note.as_deref().map(str::to_owned),
        started: rfc3339(tick.time_ns),
        ended: None,
        reason: None,
        version: version.to_owned(),
        shadow,
    }
}
