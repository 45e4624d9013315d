//! The windows of all series, and the judgement of their values.

use crate::settings::Settings;
use crate::window::{Usual, Window};

/// The hub takes no more findings at a tick.
const FINDINGS_MAX: usize = 100;

/// A deviation is told up to this: a step on a series that never moved has one
/// without meaning, about a billion.
const DEVIATION_MAX: f64 = 1e6;

/// The score from which on a value is a finding.
const SCORE_MIN: f64 = 0.5;

/// The state of the plugin's instance.
#[derive(Debug, Default)]
pub struct Detector {
    settings: Settings,
    /// By rising id, as the values come: so none is ever searched for.
    series: Vec<Series>,
    /// What was saved, until the first declarations say what of it goes on.
    restored: Vec<Series>,
}

/// A series and its window.
#[derive(Debug)]
pub struct Series {
    /// The hub's number.
    pub id: u32,
    /// Its last values.
    pub window: Window,
}

/// A value that is odd.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The hub's number for the series.
    pub series: u32,
    /// From 0.5 to 1.
    pub score: f64,
    /// Standard deviations above the mean, or below it if negative.
    pub deviation: f64,
    /// The mean.
    pub expected: f64,
    /// The mean less `threshold` deviations.
    pub lower: f64,
    /// The mean and `threshold` deviations more.
    pub upper: f64,
}

impl Detector {
    /// Takes new settings; on an error the old ones stay. Windows that become
    /// shorter keep their newest values.
    pub fn configure(&mut self, json: &str) -> Result<(), String> {
        let settings = Settings::parse(json)?;
        if settings.window != self.settings.window {
            for series in &mut self.series {
                series.window.resize(settings.window);
            }
        }
        self.settings = settings;
        Ok(())
    }

    /// All series, by rising id: before the first declarations those restored.
    pub fn series(&self) -> &[Series] {
        if self.restored.is_empty() { &self.series } else { &self.restored }
    }

    /// Takes what was saved, by rising id. Series that the next declarations
    /// don't name have ended since, and are forgotten then.
    pub fn restore(&mut self, saved: Vec<Series>) {
        self.restored = saved;
    }

    /// Takes up new series, each with the values that were saved of it.
    pub fn declare(&mut self, ids: impl Iterator<Item = u32>) {
        let mut restored = std::mem::take(&mut self.restored);
        let known = self.series.len();
        for id in ids {
            if find(&self.series[..known], id).is_some() {
                continue;
            }
            let saved = find(&restored, id).map(|index| &mut restored[index].window);
            let mut window = saved.map(std::mem::take).unwrap_or_default();
            window.resize(self.settings.window);
            self.series.push(Series { id, window });
        }
        if self.series.len() > known {
            self.series.sort_by_key(|series| series.id);
            self.series.dedup_by_key(|series| series.id);
        }
    }

    /// Forgets series.
    pub fn forget(&mut self, mut gone: Vec<u32>) {
        if !gone.is_empty() {
            gone.sort_unstable();
            self.series.retain(|series| gone.binary_search(&series.id).is_err());
        }
    }

    /// The score of each value, and what is odd. Each value is judged by those
    /// before it, and only then becomes one of them.
    pub fn observe(&mut self, ids: &[u32], values: &[f64]) -> (Vec<f64>, Vec<Finding>) {
        let Settings { window: length, min_values, threshold } = self.settings;
        let mut findings = Vec::new();
        let mut known = self.series.iter_mut().peekable();
        let judge = |(&id, &value): (&u32, &f64)| {
            while known.next_if(|series| series.id < id).is_some() {}
            let Some(series) = known.next_if(|series| series.id == id) else {
                return 0.0;
            };
            let mut score = 0.0;
            if series.window.len() >= min_values {
                let usual = series.window.usual();
                let finding = compare(id, value, usual, threshold);
                score = finding.score;
                if score >= SCORE_MIN {
                    findings.push(finding);
                }
            }
            series.window.push(value, length);
            score
        };
        let scores = ids.iter().zip(values).map(judge).collect();
        if findings.len() > FINDINGS_MAX {
            findings.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
            findings.truncate(FINDINGS_MAX);
        }
        (scores, findings)
    }
}

fn find(series: &[Series], id: u32) -> Option<usize> {
    series.binary_search_by_key(&id, |series| series.id).ok()
}

/// Where the value stands to what is usual.
///
/// The score is `|z| / (|z| + threshold)`: 0 at the mean, 0.5 at the threshold, and
/// ever nearer to 1 beyond. A step on a series that never moved counts: no
/// change is clearer than that of a link that was up for hours.
fn compare(series: u32, value: f64, usual: Usual, threshold: f64) -> Finding {
    let Usual { mean, deviation } = usual;
    // Never infinite, so that the score is a number.
    let z = ((value - mean) / deviation).clamp(-DEVIATION_MAX, DEVIATION_MAX);
    let band = threshold * deviation;
    Finding {
        series,
        score: z.abs() / (z.abs() + threshold),
        deviation: z,
        expected: mean,
        lower: mean - band,
        upper: mean + band,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detector(config: &str, ids: &[u32]) -> Detector {
        let mut detector = Detector::default();
        detector.configure(config).unwrap();
        detector.declare(ids.iter().copied());
        detector
    }

    /// Shows the values to a fresh detector; the last one's score and finding.
    fn last(config: &str, values: &[f64]) -> (f64, Option<Finding>) {
        let mut detector = detector(config, &[7]);
        let mut judged = (0.0, None);
        for value in values {
            let (scores, findings) = detector.observe(&[7], &[*value]);
            judged = (scores[0], findings.first().copied());
        }
        judged
    }

    /// Ups and downs around 10 with a deviation of about 1, then `value`.
    fn around_ten(value: f64) -> Vec<f64> {
        let mut values: Vec<_> = [9.0, 11.0].into_iter().cycle().take(40).collect();
        values.push(value);
        values
    }

    #[test]
    fn a_value_far_above_or_below_is_found() {
        let (score, spike) = last("{}", &around_ten(20.0));
        let spike = spike.unwrap();
        assert!(score > 0.8 && spike.score == score && spike.deviation > 9.0);
        assert_eq!(spike.expected, 10.0);
        assert!((spike.upper - spike.expected - (spike.expected - spike.lower)).abs() < 1e-9);
        let (score, drop) = last("{}", &around_ten(0.0));
        assert!(score > 0.8 && drop.unwrap().deviation < -9.0);
    }

    #[test]
    fn an_ordinary_value_is_not_found() {
        let (score, finding) = last("{}", &around_ten(11.5));
        assert!(score > 0.3 && score < 0.5 && finding.is_none());
        assert_eq!(last("{}", &around_ten(10.0)).0, 0.0);
    }

    #[test]
    fn the_score_is_a_half_at_the_threshold_and_rises() {
        let usual = Usual { mean: 0.0, deviation: 1.0 };
        let score = |value| compare(1, value, usual, 3.0).score;
        assert_eq!((score(0.0), score(3.0), score(-3.0)), (0.0, 0.5, 0.5));
        let rising = [0.0, 1.0, 2.9, 3.0, 3.1, 100.0, 1e300, f64::INFINITY].map(score);
        assert!(rising.is_sorted() && rising[7] <= 1.0);
    }

    #[test]
    fn nothing_is_judged_before_there_are_enough_values() {
        let step = |count: usize| [[1.0, 2.0].repeat(count / 2), vec![1e6]].concat();
        assert_eq!(last(r#"{"min_values":4}"#, &step(2)).0, 0.0);
        assert!(last(r#"{"min_values":4}"#, &step(4)).0 > 0.9);
    }

    #[test]
    fn constants_never_alarm_and_a_step_on_one_does() {
        let mut detector = detector("{}", &[7]);
        // Rounding errors of a constant, and wobbles of a ten-thousandth.
        for level in [0.0, 0.1, -5.0, 1e15] {
            detector.forget(vec![7]);
            detector.declare([7].into_iter());
            for tick in 0..1000 {
                let wobble = 1.0 + [0.0, 1e-16, 1e-4, -1e-4][tick % 4];
                let (scores, findings) = detector.observe(&[7], &[level * wobble]);
                assert!(findings.is_empty() && scores[0] < 0.5, "{level} {tick}");
            }
        }
        let (score, finding) = last("{}", &[vec![1.0; 300], vec![0.0]].concat());
        assert!(score > 0.99 && finding.unwrap().deviation == -1e4);
        let (_, finding) = last("{}", &[vec![0.0; 300], vec![1.0]].concat());
        assert_eq!(finding.unwrap().deviation, DEVIATION_MAX);
    }

    #[test]
    fn scores_stand_where_their_ids_do() {
        let mut detector = detector(r#"{"min_values":2}"#, &[5, 1, 9]);
        for value in [1.0, 2.0, 1.0, 2.0] {
            detector.observe(&[1, 5, 9], &[value; 3]);
        }
        let (scores, findings) = detector.observe(&[1, 3, 9], &[1.5, 1e9, 1e9]);
        assert_eq!((scores[0], scores[1]), (0.0, 0.0));
        assert!(scores[2] > 0.9);
        assert_eq!(findings.iter().map(|f| f.series).collect::<Vec<_>>(), [9]);
        detector.forget(vec![1]);
        assert_eq!(detector.observe(&[1, 9], &[1e9, 1.0]).0[0], 0.0);
    }

    #[test]
    fn the_strongest_hundred_findings_are_told() {
        let ids: Vec<u32> = (0..101).collect();
        let mut detector = detector(r#"{"min_values":2}"#, &ids);
        for value in [1.0, 2.0, 1.0, 2.0] {
            detector.observe(&ids, &[value; 101]);
        }
        let values: Vec<f64> = ids.iter().map(|id| 100.0 + f64::from(*id)).collect();
        let (scores, findings) = detector.observe(&ids, &values);
        assert!(scores.iter().all(|score| *score > 0.5));
        assert_eq!(findings.len(), 100);
        assert!(findings.iter().all(|finding| finding.series != 0));
    }

    #[test]
    fn new_settings_forget_nothing() {
        let mut detector = detector("{}", &[7]);
        for value in around_ten(10.0) {
            detector.observe(&[7], &[value]);
        }
        assert!(detector.configure(r#"{"window":1}"#).is_err());
        detector.configure(r#"{"window":30,"threshold":4}"#).unwrap();
        assert_eq!(detector.series()[0].window.len(), 30);
        assert!(detector.observe(&[7], &[100.0]).0[0] > 0.9);
    }

    #[test]
    fn what_is_restored_goes_on_and_the_rest_is_forgotten() {
        let mut detector = Detector::default();
        let saved = |id| Series { id, window: Window::of(10.0, [-1.0, 1.0].repeat(200)) };
        detector.restore(vec![saved(3), saved(7)]);
        assert_eq!(detector.series().len(), 2);
        detector.declare([7, 8].into_iter());
        assert_eq!(detector.series()[0].window.len(), 300);
        let (scores, _) = detector.observe(&[7, 8], &[50.0, 50.0]);
        assert!(scores[0] > 0.9 && scores[1] == 0.0);
        detector.declare([3].into_iter());
        assert!(detector.series()[0].window.is_empty());
    }
}
