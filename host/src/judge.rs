//! Findings: the host alone opens and closes them, by what detectors say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::clock::rfc3339;
use crate::model::{
    Candidate, Entry, Finding, FindingState, FindingType, Judgement, LogChannel, PluginName,
    SeriesId, Tick,
};

#[cfg(test)]
mod tests;

/// From this score on a candidate is a finding.
const SCORE_OPEN: f64 = 0.5;
/// So many values of the series without such a score close it.
const QUIET_VALUES: u32 = 5;
/// Open findings at once. A detector that finds everything odd meets it; what
/// is over is counted, and opens once there is room.
const OPEN_MAX: usize = 10_000;

/// How the judge is doing. Written by the judge alone.
#[derive(Debug, Default)]
pub struct JudgeCounters {
    /// Findings that are open.
    pub open: AtomicU64,
    /// Findings that were opened since the start.
    pub opened: AtomicU64,
    /// Findings that found no room.
    pub refused: AtomicU64,
}

/// The findings that are open.
#[derive(Debug)]
pub struct Judge {
    open: HashMap<FindingKey, Open>,
    entries: mpsc::Sender<Entry>,
    counters: Arc<JudgeCounters>,
}

/// There is one open finding at most for each of these.
type FindingKey = (PluginName, SeriesId, FindingType);

#[derive(Debug)]
struct Open {
    finding: Finding,
    /// The last tick that brought a score.
    odd_at: u64,
    /// Values since then.
    quiet: u32,
}

impl Judge {
    /// A judge without open findings, that keeps what happens in `entries`.
    #[must_use]
    pub fn new(entries: mpsc::Sender<Entry>, counters: Arc<JudgeCounters>) -> Self {
        Self { open: HashMap::new(), entries, counters }
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
            self.close(finding, last, Some("the hub was stopped")).await;
        }
        while let Some(judgement) = judgements.recv().await {
            self.judge(judgement).await;
        }
    }

    async fn judge(&mut self, judgement: Judgement) {
        let Judgement { detector, tick, seen, candidates, gone, ended } = judgement;
        let odd = candidates.into_iter().filter(|candidate| candidate.score >= SCORE_OPEN);
        for candidate in odd {
            self.open_or_go_on(&detector, tick, candidate).await;
        }
        let mut closing = Vec::new();
        for (key, open) in &mut self.open {
            let (owner, series, _) = key;
            if *owner != detector {
                continue;
            }
            if ended {
                closing.push((key.clone(), Some("the detector is gone")));
            } else if gone.contains(series) {
                closing.push((key.clone(), Some("the series is gone")));
            } else if open.odd_at != tick.number && seen.binary_search(series).is_ok() {
                open.quiet += 1;
                if open.quiet == QUIET_VALUES {
                    closing.push((key.clone(), None));
                }
            }
        }
        for (key, reason) in closing {
            if let Some(open) = self.open.remove(&key) {
                self.close(open.finding, tick, reason).await;
            }
        }
        self.counters.open.store(self.open.len() as u64, Ordering::Relaxed);
    }

    async fn open_or_go_on(&mut self, detector: &PluginName, tick: Tick, candidate: Candidate) {
        let key = (detector.clone(), candidate.series.id, candidate.finding_type.clone());
        if let Some(open) = self.open.get_mut(&key) {
            open.finding.peak = open.finding.peak.max(candidate.score);
            (open.odd_at, open.quiet) = (tick.number, 0);
            return;
        }
        if self.open.len() == OPEN_MAX {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let finding = opened(detector, tick, candidate);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.tell(tick, &finding).await;
        self.open.insert(key, Open { finding, odd_at: tick.number, quiet: 0 });
    }

    async fn close(&self, mut finding: Finding, tick: Tick, reason: Option<&str>) {
        finding.state = FindingState::Close;
        finding.ended = Some(rfc3339(tick.time_ns));
        finding.reason = reason.map(str::to_owned);
        self.tell(tick, &finding).await;
    }

    async fn tell(&self, tick: Tick, finding: &Finding) {
        match Entry::new(LogChannel::Findings, tick.time_ms(), finding) {
            // A log that has ended has nobody to tell.
            Ok(entry) => drop(self.entries.send(entry).await),
            Err(error) => tracing::error!(%error, "a finding can't be written as JSON"),
        }
    }
}

fn opened(detector: &PluginName, tick: Tick, candidate: Candidate) -> Finding {
    let series = &candidate.series;
    let labels = series.labels().iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    Finding {
        id: format!(
            "{detector}-{}-{}-{}",
            series.id,
            candidate.finding_type.as_str(),
            tick.time_ms()
        ),
        state: FindingState::Open,
        detector: detector.to_string(),
        series: series.id,
        plugin: series.plugin().to_string(),
        name: series.name().to_owned(),
        labels: labels.collect(),
        finding_type: candidate.finding_type.as_str().to_owned(),
        score: candidate.score,
        peak: candidate.score,
        deviation: candidate.deviation,
        value: candidate.value,
        expected: candidate.expected,
        lower: candidate.lower,
        upper: candidate.upper,
        note: candidate.note.map(Into::into),
        started: rfc3339(tick.time_ns),
        ended: None,
        reason: None,
    }
}
