//! A detector's desk: from a snapshot to an observation, and from a verdict to
//! a checked judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use globset::GlobSet;

use super::bindings::exports::telltale::plugin::detect;
use super::bindings::telltale::plugin::types;
use crate::model::{
    Candidate, FindingType, Judgement, Kind, PluginName, RuleBroken, Series, SeriesId, Tick,
};
use crate::snapshot::{Mark, Snapshot};

/// Findings in one verdict.
const FINDINGS_MAX: usize = 100;
/// The longest note.
const NOTE_BYTES_MAX: usize = 1024;
/// The longest word for a finding type.
const CUSTOM_BYTES_MAX: usize = 64;

/// What one instance of a detector has been shown. Ends with the instance.
#[derive(Debug)]
pub(crate) struct DetectorDesk {
    detector: PluginName,
    filter: Option<GlobSet>,
    /// The roster that `shown` was made from.
    generation: Option<u64>,
    /// The last tick that it was shown.
    tick: Tick,
    /// What the instance has been told of, with its position in the roster.
    shown: BTreeMap<SeriesId, (usize, Arc<Series>)>,
    /// Series that are not shown any more, of which no judgement has told yet.
    untold: BTreeSet<SeriesId>,
}

/// An observation, and what is needed to understand the verdict on it.
pub(crate) struct Shown {
    pub(crate) wire: detect::Observation,
}

impl DetectorDesk {
    /// A desk for a detector that is shown what `filter` matches; without one,
    /// all but the hub's own series, of which it sees those about other
    /// plugins.
    pub(crate) fn new(detector: PluginName, filter: Option<GlobSet>) -> Self {
        Self {
            detector,
            filter,
            generation: None,
            tick: Tick::default(),
            shown: BTreeMap::new(),
            untold: BTreeSet::new(),
        }
    }

    /// How many series the detector is shown.
    pub(crate) fn watching(&self) -> usize {
        self.shown.len()
    }

    /// What the detector is shown of `snapshot`.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot) -> Shown {
        self.tick = snapshot.tick;
        let (declare, gone) = self.follow(snapshot);
        self.untold.extend(&gone);
        self.untold.retain(|id| !self.shown.contains_key(id));
        let mut wire = detect::Observation {
            tick: types::Tick { number: snapshot.tick.number, time_ns: snapshot.tick.time_ns },
            declare,
            ids: Vec::with_capacity(self.shown.len()),
            values: Vec::with_capacity(self.shown.len()),
            missed: Vec::new(),
            gone: gone.iter().map(|id| id.0).collect(),
        };
        for (id, (position, _)) in &self.shown {
            let value = snapshot.values[*position];
            match snapshot.marks[*position] {
                Mark::Updated if value.is_finite() => {
                    wire.ids.push(id.0);
                    wire.values.push(value);
                }
                Mark::Missed => wire.missed.push(id.0),
                Mark::Updated | Mark::Held | Mark::Stale => {}
            }
        }
        Shown { wire }
    }

    /// The desk of an instance that follows the one that `before` was of: what
    /// is not shown to it any more has still to be told.
    pub(crate) fn after(mut self, before: Self) -> Self {
        self.untold = before.untold;
        self.untold.extend(before.shown.keys());
        self
    }

    /// Brings `shown` up to the snapshot's roster; what appears and what ends.
    fn follow(&mut self, snapshot: &Snapshot) -> (Vec<detect::Watched>, Vec<SeriesId>) {
        let roster = &snapshot.roster;
        if self.generation == Some(roster.generation) {
            return (Vec::new(), Vec::new());
        }
        self.generation = Some(roster.generation);
        let mut next = BTreeMap::new();
        let mut declare = Vec::new();
        for (position, series) in roster.series.iter().enumerate() {
            if !self.wants(series) {
                continue;
            }
            if self.shown.remove(&series.id).is_none_or(|(_, before)| before != *series) {
                declare.push(watched(series));
            }
            next.insert(series.id, (position, series.clone()));
        }
        let gone = std::mem::replace(&mut self.shown, next).into_keys().collect();
        (declare, gone)
    }

    fn wants(&self, series: &Series) -> bool {
        let name = series.name();
        match &self.filter {
            Some(filter) => filter.is_match(name),
            None if name.starts_with("telltale.plugin.") => {
                series.labels().get("plugin") != Some(&self.detector)
            }
            None => !name.starts_with("telltale."),
        }
    }

    /// The last judgement of a detector that does not come back: it sees
    /// nothing any more.
    pub(crate) fn farewell(&self) -> Judgement {
        Judgement {
            detector: self.detector.clone(),
            tick: self.tick,
            seen: Vec::new(),
            candidates: Vec::new(),
            gone: self.shown.keys().chain(&self.untold).copied().collect(),
        }
    }

    /// Checks a verdict.
    ///
    /// # Errors
    ///
    /// The rule that was broken, and by which series.
    pub(crate) fn check(
        &mut self,
        snapshot: &Snapshot,
        shown: Shown,
        verdict: detect::Verdict,
    ) -> Result<Judgement, RuleBroken> {
        let (ids, scores) = (&shown.wire.ids, &verdict.scores);
        if !scores.is_empty() && scores.len() != ids.len() {
            return Err(RuleBroken::new(format!(
                "{} scores for {} values",
                scores.len(),
                ids.len()
            )));
        }
        if let Some((id, score)) = ids.iter().zip(scores).find(|(_, score)| !is_score(**score)) {
            return Err(RuleBroken::new(format!(
                "score {score} of series {id} is not from 0 to 1"
            )));
        }
        if verdict.findings.len() > FINDINGS_MAX {
            return Err(RuleBroken::new(format!(
                "{} findings in one tick, and {FINDINGS_MAX} is the limit",
                verdict.findings.len()
            )));
        }
        let candidates = verdict
            .findings
            .into_iter()
            .map(|finding| self.candidate(snapshot, finding))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Judgement {
            detector: self.detector.clone(),
            tick: snapshot.tick,
            seen: ids.iter().map(|id| SeriesId(*id)).collect(),
            candidates,
            gone: std::mem::take(&mut self.untold).into_iter().collect(),
        })
    }

    fn candidate(
        &self,
        snapshot: &Snapshot,
        wire: detect::Finding,
    ) -> Result<Candidate, RuleBroken> {
        let Some((position, series)) = self.shown.get(&SeriesId(wire.series)) else {
            return Err(RuleBroken::new(format!(
                "a finding of series {}, which it is not shown",
                wire.series
            )));
        };
        if !is_score(wire.score) {
            return Err(RuleBroken::new(format!(
                "score {} of `{}` is not from 0 to 1",
                wire.score, series.spec.key
            )));
        }
        if wire.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
            return Err(RuleBroken::new(format!(
                "the note on `{}` is longer than {NOTE_BYTES_MAX} bytes",
                series.spec.key
            )));
        }
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        Ok(Candidate {
            series: series.clone(),
            finding_type: finding_type(wire.type_)?,
            score: wire.score,
            value: finite(Some(snapshot.values[*position])),
            deviation: finite(wire.deviation),
            expected: finite(wire.expected),
            lower: finite(wire.lower),
            upper: finite(wire.upper),
            note: wire.note.map(Into::into),
        })
    }
}

fn is_score(score: f64) -> bool {
    (0.0..=1.0).contains(&score)
}

fn watched(series: &Series) -> detect::Watched {
    let labels = series.labels().iter();
    let kind = match series.spec.kind {
        Kind::Gauge => types::Kind::Gauge,
        Kind::Counter => types::Kind::Counter,
        Kind::Updown => types::Kind::Updown,
    };
    detect::Watched {
        id: series.id.0,
        plugin: series.plugin().to_string(),
        series: types::Series {
            name: series.name().to_owned(),
            kind,
            unit: series.spec.unit.to_string(),
            description: series.spec.description.to_string(),
            labels: labels
                .map(|(key, value)| types::Label { key: key.to_owned(), value: value.to_owned() })
                .collect(),
        },
        interval_ns: series.interval_ns,
    }
}

fn finding_type(wire: detect::FindingType) -> Result<FindingType, RuleBroken> {
    Ok(match wire {
        detect::FindingType::Spike => FindingType::Spike,
        detect::FindingType::Drop => FindingType::Drop,
        detect::FindingType::LevelShift => FindingType::LevelShift,
        detect::FindingType::PatternShift => FindingType::PatternShift,
        detect::FindingType::Flatline => FindingType::Flatline,
        detect::FindingType::Missing => FindingType::Missing,
        detect::FindingType::Custom(word) => {
            let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
            if word.is_empty() || word.len() > CUSTOM_BYTES_MAX || !word.chars().all(legal) {
                return Err(RuleBroken::new(format!(
                    "finding type {:?} is not 1 to {CUSTOM_BYTES_MAX} of a-z, 0-9, `_` and `-`",
                    super::output::cut(&word, CUSTOM_BYTES_MAX)
                )));
            }
            FindingType::Custom(word.into())
        }
    })
}
