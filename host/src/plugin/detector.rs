//! A detector's desk: from a snapshot to an observation, and from a verdict to
//! a checked judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use globset::GlobSet;

use super::bindings::exports::telltale::plugin::detect;
use super::bindings::telltale::plugin::types;
use super::limits::{Excess, LimitHit, Limits, Refused};
use super::shadow::shadowed;
use crate::model::{
    Candidate, FindingType, Judgement, Kind, PluginName, RuleBroken, Series, SeriesId,
};
use crate::snapshot::{Mark, Snapshot};

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
    /// What the instance has been told of, with its position in the roster.
    shown: BTreeMap<SeriesId, (usize, Arc<Series>)>,
    /// Series that are not shown any more, of which no judgement has told yet.
    untold: BTreeSet<SeriesId>,
    /// The first digits of the hash of its component.
    version: Arc<str>,
    shadow: bool,
    /// Series that were declared to it, of which no judgement has told yet.
    declared: Vec<Arc<Series>>,
    findings_max: usize,
    excess: Excess,
}

/// An observation, and what is needed to understand the verdict on it.
pub(crate) struct Shown {
    pub(crate) wire: detect::Observation,
}

impl DetectorDesk {
    /// A desk for a detector that is shown what `filter` matches; without one,
    /// all but the hub's own series, of which it sees those about other
    /// plugins. What is over its limits is counted in `refused`.
    pub(crate) fn new(
        detector: PluginName,
        filter: Option<GlobSet>,
        limits: &Limits,
        refused: Refused,
    ) -> Self {
        Self {
            detector,
            filter,
            generation: None,
            shown: BTreeMap::new(),
            untold: BTreeSet::new(),
            version: "".into(),
            shadow: false,
            declared: Vec::new(),
            findings_max: limits.findings,
            excess: Excess::new(refused, limits),
        }
    }

    /// The same, of the component whose hash begins with these digits, and which
    /// may run in the shadow of the detector of that name.
    pub(crate) fn of_version(self, version: &str, shadow: bool) -> Self {
        Self { version: version.into(), shadow, ..self }
    }

    /// The limits that the instance has met for the first time since this was
    /// last asked.
    pub(crate) fn limits_hit(&mut self) -> Vec<LimitHit> {
        self.excess.hits()
    }

    /// Shows other series to the same instance from now on.
    pub(crate) fn show(&mut self, filter: Option<GlobSet>) {
        self.filter = filter;
        self.generation = None;
    }

    /// How many series the detector is shown.
    pub(crate) fn watching(&self) -> usize {
        self.shown.len()
    }

    /// What the detector is shown of `snapshot`.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot) -> Shown {
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
                self.declared.push(series.clone());
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
                let plugin = series.labels().get("plugin");
                // What a detector costs is for neither of two that are compared.
                plugin.is_none_or(|plugin| shadowed(plugin).unwrap_or(plugin) != &*self.detector)
            }
            None => !name.starts_with("telltale."),
        }
    }

    /// Checks a verdict. Of more findings than the limit, those with the highest
    /// scores are kept, and the others counted.
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
        let mut candidates = verdict
            .findings
            .into_iter()
            .map(|finding| self.candidate(snapshot, finding))
            .collect::<Result<Vec<_>, _>>()?;
        self.keep_highest(&mut candidates);
        Ok(Judgement {
            detector: self.detector.clone(),
            tick: snapshot.tick,
            declared: std::mem::take(&mut self.declared),
            seen: ids.iter().map(|id| SeriesId(*id)).collect(),
            values: shown.wire.values,
            scores: verdict.scores,
            version: self.version.clone(),
            shadow: self.shadow,
            candidates,
            gone: std::mem::take(&mut self.untold).into_iter().collect(),
            ended: false,
        })
    }

    fn keep_highest(&mut self, candidates: &mut Vec<Candidate>) {
        let (most, found) = (self.findings_max, candidates.len());
        if found <= most {
            return;
        }
        candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
        candidates.truncate(most);
        let over = (found - most) as u64;
        self.excess.refuse(
            "findings",
            |counts| counts.findings += over,
            || {
                format!(
                    "{found} findings in one tick, and the {most} with the highest scores are kept \
                 (limit `findings`)"
                )
            },
        );
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::settings::Settings;
    use super::super::status::PluginRole;
    use super::*;
    use crate::model::{Labels, SeriesKey, SeriesSpec};
    use crate::snapshot::Roster;

    /// One series, number 7, that is worth 1.
    fn snapshot() -> Snapshot {
        let key = SeriesKey { plugin: "p".into(), name: "s".into(), labels: Labels::default() };
        let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
        let series = vec![Arc::new(Series { id: SeriesId(7), spec, interval_ns: 1 })];
        Snapshot {
            roster: Arc::new(Roster { generation: 1, series }),
            values: Box::new([1.0]),
            raw: Box::new([1.0]),
            marks: Box::new([Mark::Updated]),
            ..Snapshot::empty()
        }
    }

    fn desk(refused: &Refused) -> DetectorDesk {
        let text = "[limits]\nfindings = 3\n";
        let settings = Settings::parse(Path::new("d.toml"), text).unwrap();
        let limits = Limits::of(&settings, PluginRole::Detector, Duration::from_secs(1));
        DetectorDesk::new("d".into(), None, &limits, refused.clone())
    }

    fn finding(score: f64) -> detect::Finding {
        detect::Finding {
            series: 7,
            type_: detect::FindingType::Spike,
            score,
            deviation: None,
            expected: None,
            lower: None,
            upper: None,
            note: None,
        }
    }

    fn judge(desk: &mut DetectorDesk, scores: &[f64]) -> Result<Vec<f64>, RuleBroken> {
        let snapshot = snapshot();
        let shown = desk.observe(&snapshot);
        let findings = scores.iter().copied().map(finding).collect();
        let verdict = detect::Verdict { scores: Vec::new(), findings };
        let judgement = desk.check(&snapshot, shown, verdict)?;
        Ok(judgement.candidates.into_iter().map(|candidate| candidate.score).collect())
    }

    #[test]
    fn findings_at_the_limit_are_kept_and_beyond_it_those_with_the_highest_scores() {
        let refused = Refused::default();
        let mut desk = desk(&refused);
        assert_eq!(judge(&mut desk, &[0.1, 0.3, 0.2]).unwrap(), [0.1, 0.3, 0.2]);
        assert_eq!((refused.counts().findings, desk.limits_hit()), (0, vec![]));
        assert_eq!(judge(&mut desk, &[0.1, 0.9, 0.5, 0.0, 1.0]).unwrap(), [1.0, 0.9, 0.5]);
        assert_eq!(refused.counts().findings, 2);
        let hits = desk.limits_hit();
        assert_eq!((hits.len(), hits[0].limit), (1, "findings"));
        assert!(hits[0].words.starts_with("5 findings in one tick, and the 3 with"), "{hits:?}");
        judge(&mut desk, &[0.5; 4]).unwrap();
        assert_eq!((refused.counts().findings, desk.limits_hit()), (3, vec![]));
    }

    #[test]
    fn a_lie_among_findings_beyond_the_limit_is_still_a_lie() {
        for lie in [1.5, f64::NAN] {
            let broken = judge(&mut desk(&Refused::default()), &[0.9, 0.9, 0.9, lie]).unwrap_err();
            assert!(broken.to_string().contains("of `s` is not from 0 to 1"), "{broken}");
        }
    }
}
