//! The score of the Numenta Anomaly Benchmark (Lavin and Ahmad, 2015): a found
//! window is worth the more the sooner it is found, an alarm outside costs the
//! more the further it is from the last window, and 100 is a perfect detector
//! where 0 is one that never says anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::labels::RowWindow;

/// What hits, false alarms and misses weigh. Missed windows are the larger part
/// of any score, so that `low FN` is the mildest to those who alarm often.
const PROFILES: [Profile; 3] = [
    Profile { name: "standard", hit: 1.0, false_alarm: 0.11, miss: 1.0 },
    Profile { name: "reward_low_FP_rate", hit: 1.0, false_alarm: 0.22, miss: 1.0 },
    Profile { name: "reward_low_FN_rate", hit: 1.0, false_alarm: 0.11, miss: 2.0 },
];

#[derive(Clone, Copy)]
struct Profile {
    name: &'static str,
    hit: f64,
    false_alarm: f64,
    miss: f64,
}

/// The first rows of a file, in which a detector learns, count for nothing: this
/// share of them …
const PROBATION: f64 = 0.15;
/// … of at most so many rows.
const PROBATION_ROWS_MAX: f64 = 5000.0;

/// How many rows of a file of so many count for nothing.
pub(super) fn probation(rows: usize) -> usize {
    let exact = (PROBATION * rows as f64).floor().min(PROBATION * PROBATION_ROWS_MAX);
    exact.ceil() as usize
}

/// A file's rows after the probation, weighed.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    category: String,
    /// Windows that its labels name, also those without a row that counts.
    labelled: usize,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    score: f64,
    /// Which window of the file it is in.
    window: Option<u32>,
    /// How much an alarm is worth here, unweighted: from -1 to nearly 1.
    worth: f64,
}

impl Rows {
    /// Weighs the rows of a file: its scores, and its windows in the order of
    /// time, of which the labels name `labelled`.
    pub(super) fn new(
        category: &str,
        scores: &[f64],
        windows: &[RowWindow],
        labelled: usize,
    ) -> Self {
        let mut rows = Vec::with_capacity(scores.len());
        let (mut next, mut within, mut before) = (0, None, None);
        for (at, score) in scores.iter().enumerate() {
            if windows.get(next).is_some_and(|(first, _)| *first == at) {
                within = Some(next);
                next += 1;
            }
            let worth = match (within, before) {
                (Some(window), _) => {
                    let (first, last) = windows[window];
                    scaled(-((last - at + 1) as f64) / (last - first + 1) as f64)
                }
                (None, Some((first, last))) => scaled((at - last) as f64 / (last - first) as f64),
                (None, None) => -1.0,
            };
            rows.push(Row { score: *score, window: within.map(|window| window as u32), worth });
            if let Some(window) = within
                && windows[window].1 == at
            {
                (within, before) = (None, Some(windows[window]));
            }
        }
        let rows = rows.split_off(probation(scores.len()));
        Self { category: category.to_owned(), labelled, rows }
    }

    /// What a detector gets that never says anything.
    fn baseline(&self, profile: Profile) -> f64 {
        let windows: BTreeSet<u32> = self.rows.iter().filter_map(|row| row.window).collect();
        -profile.miss * windows.len() as f64
    }
}

/// NAB's sigmoid.
fn scaled(distance: f64) -> f64 {
    if distance > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * distance).exp()) - 1.0 }
}

/// The score by one profile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Score {
    /// At the detector's own threshold.
    pub(super) score: f64,
    /// The best that a threshold chosen with the labels in sight would bring,
    /// which nobody has before it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) optimised: Option<f64>,
    /// That threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) optimised_threshold: Option<f64>,
    /// With the threshold for each category chosen on the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logo: Option<f64>,
}

/// What is asked for beside the score at the detector's threshold.
#[derive(Clone, Copy, Debug)]
pub(super) struct More {
    pub(super) optimised: bool,
    pub(super) logo: bool,
}

/// Scores by all profiles.
pub(super) fn scores(files: &[&Rows], threshold: f64, more: More) -> BTreeMap<&'static str, Score> {
    PROFILES.iter().map(|profile| (profile.name, score(files, *profile, threshold, more))).collect()
}

fn score(files: &[&Rows], profile: Profile, threshold: f64, more: More) -> Score {
    let baseline: f64 = files.iter().map(|file| file.baseline(profile)).sum();
    let labelled: usize = files.iter().map(|file| file.labelled).sum();
    let perfect = labelled as f64 * profile.hit;
    let normal = |raw: f64| {
        if perfect > baseline { 100.0 * (raw - baseline) / (perfect - baseline) } else { 0.0 }
    };
    let steps = sweep(files, profile);
    let best = best(&steps);
    Score {
        score: normal(at(&steps, threshold)),
        optimised: more.optimised.then(|| normal(best.total)),
        optimised_threshold: more.optimised.then_some(best.threshold),
        logo: more.logo.then(|| normal(logo(files, profile))),
    }
}

/// What all files together get with a threshold.
#[derive(Clone, Copy, Debug)]
struct Step {
    threshold: f64,
    total: f64,
}

/// The totals at all thresholds that make a difference, from the highest down.
fn sweep(files: &[&Rows], profile: Profile) -> Vec<Step> {
    let most = scaled(-1.0);
    /// A window, by its file and its place there.
    type Place = (usize, u32);
    let mut rows: Vec<(f64, Option<Place>, f64)> = Vec::new();
    let mut found: BTreeMap<Place, f64> = BTreeMap::new();
    for (file, of) in files.iter().enumerate() {
        for row in &of.rows {
            let window = row.window.map(|window| (file, window));
            if let Some(window) = window {
                found.insert(window, -profile.miss);
            }
            let weight = if window.is_some() { profile.hit / most } else { profile.false_alarm };
            rows.push((row.score, window, row.worth * weight));
        }
    }
    rows.sort_by(|one, other| other.0.total_cmp(&one.0));
    // Above all scores: nothing is said.
    let mut step = Step { threshold: 1.1, total: found.values().sum() };
    let mut steps = Vec::new();
    for (score, window, worth) in rows {
        if score < step.threshold {
            steps.push(step);
            step.threshold = score;
        }
        match window.and_then(|window| found.get_mut(&window)) {
            Some(best) if worth > *best => {
                step.total += worth - *best;
                *best = worth;
            }
            Some(_) => {}
            None => step.total += worth,
        }
    }
    steps.push(step);
    steps
}

fn best(steps: &[Step]) -> Step {
    let mut best = Step { threshold: 1.1, total: f64::NEG_INFINITY };
    for step in steps {
        if step.total > best.total {
            best = *step;
        }
    }
    best
}

/// The total if all rows from `threshold` on are alarms.
fn at(steps: &[Step], threshold: f64) -> f64 {
    let reached = steps.iter().take_while(|step| step.threshold >= threshold);
    reached.last().or(steps.first()).map_or(0.0, |step| step.total)
}

/// The total if the threshold of each category is the best one of the others.
fn logo(files: &[&Rows], profile: Profile) -> f64 {
    let categories: BTreeSet<&str> = files.iter().map(|file| &*file.category).collect();
    let total = |category: &str| {
        let (own, others): (Vec<&Rows>, Vec<&Rows>) =
            files.iter().partition(|file| file.category == category);
        at(&sweep(&own, profile), best(&sweep(&others, profile)).threshold)
    };
    categories.into_iter().map(total).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000 rows, of which the first 150 don't count, and a window.
    fn file(alarms: &[usize]) -> Rows {
        let mut scores = vec![0.0; 1000];
        for row in alarms {
            scores[*row] = 1.0;
        }
        Rows::new("c", &scores, &[(500, 599)], 1)
    }

    fn standard(alarms: &[usize]) -> f64 {
        let file = file(alarms);
        scores(&[&file], 0.5, More { optimised: false, logo: false })["standard"].score
    }

    #[test]
    fn silence_is_worth_nothing_and_a_hit_at_once_everything() {
        assert_eq!(standard(&[]), 0.0);
        assert_eq!(standard(&[10, 149]), 0.0, "the probation");
        assert!((standard(&[500]) - 100.0).abs() < 1e-9);
        assert!((standard(&[500, 501, 599]) - 100.0).abs() < 1e-9, "once found it is found");
    }

    #[test]
    fn a_late_hit_is_worth_less_and_a_false_alarm_costs() {
        let worth = |row: f64| 2.0 / (1.0 + (-5.0 * row / 100.0).exp()) - 1.0;
        let late = 100.0 * (1.0 + worth(50.0) / worth(100.0)) / 2.0;
        assert!((standard(&[550]) - late).abs() < 1e-9);
        let dear = 100.0 * (2.0 - 0.11) / 2.0;
        assert!((standard(&[200, 500]) - dear).abs() < 1e-9);
        let near = 100.0 * (2.0 + 0.11 * (2.0 / (1.0 + (5.0f64 * 9.0 / 99.0).exp()) - 1.0)) / 2.0;
        assert!((standard(&[500, 608]) - near).abs() < 1e-9, "soon after the window it costs less");
    }

    #[test]
    fn the_best_threshold_is_found_and_one_from_elsewhere_may_be_worse() {
        let mut scores = vec![0.2; 1000];
        scores[500] = 0.4;
        let quiet = Rows::new("a", &scores, &[(500, 599)], 1);
        let all = [&quiet, &file(&[500])];
        let both = More { optimised: true, logo: true };
        let score = self::scores(&all, 0.5, both).remove("standard").unwrap();
        assert!((score.score - 50.0).abs() < 1e-9, "{score:?}");
        assert!((score.optimised.unwrap() - 100.0).abs() < 1e-9, "{score:?}");
        assert_eq!(score.optimised_threshold, Some(0.4));
        let logo = score.logo.unwrap();
        assert!(logo < 100.0, "each is judged by the other's threshold: {score:?}");
    }
}
