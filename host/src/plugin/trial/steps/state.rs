//! Does an instance that was given what another knew go on as that one does?

use std::sync::Arc;

use super::{Check, Turn};
use crate::model::{Candidate, SeriesId};
use crate::plugin::instance::Saved;
use crate::plugin::status::PluginRole;
use crate::plugin::trial::players::Player;
use crate::plugin::trial::report::{Found, Problem, Step, step};
use crate::plugin::trial::scene::{Scene, noise, tick};
use crate::snapshot::Snapshot;

/// How long a plugin learns before its state is saved: longer than most
/// windows.
const LEARNING_TICKS: u64 = 200;
/// A collector asks the world at each tick, and learns less from it.
const LEARNING_TICKS_COLLECTOR: u64 = 5;
/// How many answers are compared after a state was handed over.
const COMPARED_TICKS: u64 = 20;
/// Numbers may be rounded in a state that is text.
const TOLERANCE: f64 = 1e-9;

/// An answer, as far as two instances are to agree on it.
#[derive(Debug)]
struct Answered {
    /// A collector's values, or a detector's scores.
    values: Vec<(SeriesId, f64)>,
    /// A detector's findings, by series and type.
    candidates: Vec<Candidate>,
}

impl Check<'_> {
    pub(super) async fn state(&self) -> Step {
        match self.trial.role() {
            _ if self.trial.kit.loadable.exports.state.is_none() => {
                Step::skipped("state", "it keeps none")
            }
            PluginRole::Detector => step("state", self.detector_state().await),
            PluginRole::Collector => step("state", self.collector_state().await),
        }
    }

    async fn detector_state(&self) -> Found {
        let mut old = self.player().await?;
        let mut scene = Scene::new(super::SERIES);
        for number in 1..=LEARNING_TICKS {
            old.observe(&scene.snapshot(tick(number), |index| noise(tick(number), index))).await?;
        }
        let saved = saved(&mut old).await?;
        let mut new = self.player().await?;
        restore(&mut new, &saved).await?;
        for number in LEARNING_TICKS + 1..=LEARNING_TICKS + COMPARED_TICKS {
            // In the middle the first series does something that is worth a word.
            let odd = number == LEARNING_TICKS + COMPARED_TICKS / 2;
            let value = |index: usize| {
                let usual = noise(tick(number), index);
                if odd && index == 0 { usual * 1e3 } else { usual }
            };
            let snapshot = scene.snapshot(tick(number), value);
            self.compare(&mut old, &mut new, &snapshot).await?;
        }
        Ok(format!(
            "{} bytes after {LEARNING_TICKS} ticks of {} series; the same verdicts afterwards",
            saved.bytes.len(),
            super::SERIES
        ))
    }

    /// Two instances of a collector can agree only if what it measures is the
    /// same for both: that is tried first.
    async fn collector_state(&self) -> Found {
        let mut old = self.player().await?;
        let mut control = self.player().await?;
        let mut repeatable = true;
        let nothing = |number| Scene::new(0).snapshot(tick(number), |_| 0.0);
        for number in 1..=LEARNING_TICKS_COLLECTOR {
            repeatable &= self.compare(&mut old, &mut control, &nothing(number)).await.is_ok();
        }
        let saved = saved(&mut old).await?;
        let mut new = self.player().await?;
        restore(&mut new, &saved).await?;
        for number in LEARNING_TICKS_COLLECTOR + 1..=LEARNING_TICKS_COLLECTOR + COMPARED_TICKS {
            let compared = self.compare(&mut old, &mut new, &nothing(number)).await;
            if repeatable {
                compared?;
            }
        }
        let bytes = saved.bytes.len();
        Ok(if repeatable {
            format!("{bytes} bytes; the same values afterwards")
        } else {
            format!("{bytes} bytes, taken over; what it measures differs between any two instances")
        })
    }

    /// Lets both have a turn; they have to answer the same.
    async fn compare(
        &self,
        old: &mut Player<'_>,
        new: &mut Player<'_>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(), Problem> {
        let stayed = answered(self.turn(old, snapshot).await?);
        let restored = self.turn(new, snapshot).await;
        let restored = answered(restored.map_err(|problem| problem.at("after restore"))?);
        let Some(difference) = difference(&stayed, &restored) else { return Ok(()) };
        Err(Problem::failed(
            format!("tick {} after restore: {difference}", snapshot.tick.number),
            "let `save` write, and `restore` read, all that its answers depend on",
        ))
    }

    /// A state that it never wrote: it may start afresh or refuse, but not end.
    pub(super) async fn foreign_state(&self) -> Step {
        if self.trial.kit.loadable.exports.state.is_none() {
            return Step::skipped("foreign state", "it keeps none");
        }
        step("foreign state", self.try_foreign_state().await)
    }

    async fn try_foreign_state(&self) -> Found {
        let foreign: [&'static [u8]; 3] = [b"", b"{}", &[0xff; 1000]];
        let mut refused = 0;
        for bytes in foreign {
            let mut player = self.player().await?;
            let saved = Saved { version: u32::MAX, bytes: bytes.into() };
            match player.restore(&saved).await {
                Ok(_) => {}
                Err(problem) if problem.answered => refused += 1,
                Err(problem) => {
                    let advice = "answer an error, or ok and ignore the bytes: the state may be \
                                  of another version of this plugin";
                    return Err(Problem { advice: advice.to_owned(), ..problem });
                }
            }
        }
        Ok(match refused {
            0 => "ignored: it starts afresh".to_owned(),
            _ => "refused in good order".to_owned(),
        })
    }
}

async fn saved(player: &mut Player<'_>) -> Result<Saved, Problem> {
    let nothing = || Problem::failed("it saved nothing", "export `save`");
    player.save().await?.ok_or_else(nothing)
}

async fn restore(player: &mut Player<'_>, saved: &Saved) -> Result<(), Problem> {
    let own = "it does not take back what it has saved itself";
    player.restore(saved).await.map(drop).map_err(|problem| problem.at(own))
}

fn answered(turn: Turn) -> Answered {
    match turn {
        Turn::Batch(batch) => {
            let mut values = batch.values;
            values.sort_by_key(|(id, _)| *id);
            Answered { values, candidates: Vec::new() }
        }
        Turn::Verdict(verdict) => {
            let values = verdict.judgement.seen.into_iter().zip(verdict.scores).collect();
            let mut candidates = verdict.judgement.candidates;
            candidates.sort_by_key(|c| (c.series.id, format!("{:?}", c.finding_type)));
            Answered { values, candidates }
        }
    }
}

/// In what two answers differ, in words.
fn difference(one: &Answered, other: &Answered) -> Option<String> {
    if one.values.len() != other.values.len() {
        return Some(format!("{} values, not {}", other.values.len(), one.values.len()));
    }
    let pairs = one.values.iter().zip(&other.values);
    for ((id, stayed), (other_id, restored)) in pairs {
        if id != other_id || !near(*stayed, *restored) {
            return Some(format!("{restored} for series {other_id}, not {stayed} for {id}"));
        }
    }
    if one.candidates.len() != other.candidates.len() {
        let (had, has) = (one.candidates.len(), other.candidates.len());
        return Some(format!("{has} findings, not {had}"));
    }
    let differ = |(a, b): &(&Candidate, &Candidate)| {
        a.series.id != b.series.id
            || a.finding_type != b.finding_type
            || !near(a.score, b.score)
            || !near_or_none(a.expected, b.expected)
            || !near_or_none(a.deviation, b.deviation)
    };
    let (stayed, restored) = one.candidates.iter().zip(&other.candidates).find(differ)?;
    Some(format!("the finding {}, not {}", words(restored), words(stayed)))
}

fn words(finding: &Candidate) -> String {
    let Candidate { series, finding_type, score, expected, .. } = finding;
    format!("{finding_type:?} of series {} with score {score}, expected {expected:?}", series.id)
}

fn near(one: f64, other: f64) -> bool {
    let largest = one.abs().max(other.abs());
    (one - other).abs() <= TOLERANCE * largest.max(TOLERANCE)
}

fn near_or_none(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => near(one, other),
        (None, None) => true,
        _ => false,
    }
}
