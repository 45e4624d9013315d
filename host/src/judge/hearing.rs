//! The judge's treatment of one series, for who shows a detector the past.

use std::sync::Arc;

use super::course::{Bench, Brought, Course};
use super::{Heard, Policy};
use crate::model::{Candidate, Finding, FindingState, PluginName, Series, Tick};

/// One series of one detector: what of its scores a user would have been told.
/// A finding that is open goes on, and nobody is told of it again.
#[derive(Debug)]
pub struct Hearing {
    course: Course,
    detector: PluginName,
    told: Vec<Finding>,
}

impl Hearing {
    /// Nothing was heard of the series yet.
    #[must_use]
    pub fn new(series: Arc<Series>) -> Self {
        let detector = PluginName::from("backtest");
        Self { course: Course::new(series), detector, told: Vec::new() }
    }

    /// Hears what is said of the series at a tick: its value, where there is
    /// one, that value's score, and what the detector found odd in it.
    /// [`Heard::told`] is whether a finding opened; only then the score reaches
    /// `open`.
    pub fn hear(
        &mut self,
        policy: &Policy,
        tick: Tick,
        value: Option<f64>,
        score: f64,
        candidates: &[Candidate],
    ) -> Heard {
        let mut candidates = candidates.to_vec();
        candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
        let brought = Brought { value, own: score, candidates: &candidates };
        let bench = Bench { detector: &self.detector, version: "", shadow: false, tick };
        self.told.clear();
        let (_, score) =
            self.course.hear(policy, false, brought, bench, usize::MAX, &mut self.told);
        let told = self.told.iter().any(|finding| finding.state == FindingState::Open);
        Heard { score: if told { score } else { score.min(policy.open.next_down()) }, told }
    }
}
