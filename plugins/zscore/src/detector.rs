//! The windows of all series, and the judgement of their values.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log,
};

use crate::saved;
use crate::settings::Settings;
use crate::window::{Usual, Window};

/// A deviation is told up to this: a step on a series that never moved has one
/// without meaning, about a billion.
const DEVIATION_MAX: f64 = 1e6;

/// The score from which on a value is a finding.
const SCORE_MIN: f64 = 0.5;

/// The detector: a window for each series.
#[derive(Debug, Default)]
pub struct Zscore {
    settings: Settings,
    windows: Watchlist<Window>,
}

impl Detector for Zscore {
    type Config = Settings;

    /// On an error the old settings stay. Windows that become shorter keep
    /// their newest values.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        if settings.window != self.settings.window {
            self.windows.iter_mut().for_each(|(_, window)| window.resize(settings.window));
        }
        self.settings = settings;
        Ok(())
    }

    /// Each value is judged by those before it, and only then becomes one of
    /// them.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        let Settings { window: length, min_values, threshold } = self.settings;
        self.windows.follow(observation, || Window::new(length));
        verdict.scores.reserve(observation.values.len());
        for shown in self.windows.shown(observation) {
            let mut score = 0.0;
            if shown.known.len() >= min_values {
                let compared = compare(shown.value, shown.known.usual(), threshold);
                score = compared.score;
                if score >= SCORE_MIN {
                    verdict.findings.push(compared.finding(shown.id));
                }
            }
            shown.known.push(shown.value, length);
            verdict.scores.push(score);
        }
        Ok(())
    }
}

impl State for Zscore {
    const VERSION: u32 = saved::VERSION;

    fn save(&self) -> Vec<u8> {
        saved::save(self.windows.iter())
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == saved::VERSION {
            let mut windows = saved::load(bytes);
            windows.iter_mut().for_each(|(_, window)| window.resize(self.settings.window));
            self.windows.restore(windows);
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
struct Compared {
    usual: Usual,
    /// Standard deviations above the mean, or below it if negative.
    z: f64,
    /// `|z| / (|z| + threshold)`.
    score: f64,
    threshold: f64,
}

/// Where the value stands to what is usual.
///
/// The score is 0 at the mean, 0.5 at the threshold, and ever nearer to 1
/// beyond. A step on a series that never moved counts: no change is clearer
/// than that of a link that was up for hours.
fn compare(value: f64, usual: Usual, threshold: f64) -> Compared {
    let Usual { mean, deviation } = usual;
    // Never infinite, so that the score is a number.
    let z = ((value - mean) / deviation).clamp(-DEVIATION_MAX, DEVIATION_MAX);
    Compared { usual, z, score: z.abs() / (z.abs() + threshold), threshold }
}

impl Compared {
    fn finding(self, series: u32) -> Finding {
        let Usual { mean, deviation } = self.usual;
        let band = self.threshold * deviation;
        let type_ = if self.z > 0.0 { FindingType::Spike } else { FindingType::Drop };
        Finding {
            deviation: Some(self.z),
            expected: Some(mean),
            lower: Some(mean - band),
            upper: Some(mean + band),
            ..Finding::new(series, type_, self.score)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::Detecting;

    fn detector(config: &str) -> Detecting<Zscore> {
        let mut detector = Detecting::default();
        detector.configure(config).unwrap();
        detector
    }

    /// Shows a value of each series, all of which are declared each time.
    fn show(detector: &mut Detecting<Zscore>, ids: &[u32], values: &[f64]) -> Verdict {
        let values: Vec<_> = ids.iter().copied().zip(values.iter().copied()).collect();
        detector.observe(&Observation::of(1, ids, &values)).unwrap()
    }

    /// Shows the values to a fresh detector; the last one's score and finding.
    fn last(config: &str, values: &[f64]) -> (f64, Option<Finding>) {
        let mut detector = detector(config);
        let mut judged = (0.0, None);
        for value in values {
            let verdict = show(&mut detector, &[7], &[*value]);
            judged = (verdict.scores[0], verdict.findings.into_iter().next());
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
        assert!(score > 0.8 && spike.score == score && spike.deviation > Some(9.0));
        assert_eq!((spike.type_, spike.expected), (FindingType::Spike, Some(10.0)));
        let [lower, upper] = [spike.lower, spike.upper].map(Option::unwrap);
        assert!((upper - 10.0 - (10.0 - lower)).abs() < 1e-9);
        let (score, drop) = last("{}", &around_ten(0.0));
        let drop = drop.unwrap();
        assert!(score > 0.8 && drop.deviation < Some(-9.0) && drop.type_ == FindingType::Drop);
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
        let score = |value| compare(value, usual, 3.0).score;
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
        // Rounding errors of a constant, and wobbles of a ten-thousandth.
        for level in [0.0, 0.1, -5.0, 1e15] {
            let mut detector = detector("{}");
            for tick in 0..1000 {
                let wobble = 1.0 + [0.0, 1e-16, 1e-4, -1e-4][tick % 4];
                let verdict = show(&mut detector, &[7], &[level * wobble]);
                assert!(verdict.findings.is_empty() && verdict.scores[0] < 0.5, "{level} {tick}");
            }
        }
        let (score, finding) = last("{}", &[vec![1.0; 300], vec![0.0]].concat());
        assert!(score > 0.99 && finding.unwrap().deviation == Some(-1e4));
        let (_, finding) = last("{}", &[vec![0.0; 300], vec![1.0]].concat());
        assert_eq!(finding.unwrap().deviation, Some(DEVIATION_MAX));
    }

    #[test]
    fn scores_stand_where_their_ids_do_and_what_is_gone_is_forgotten() {
        let mut detector = detector(r#"{"min_values":2}"#);
        for value in [1.0, 2.0, 1.0, 2.0] {
            show(&mut detector, &[1, 5, 9], &[value; 3]);
        }
        let verdict = show(&mut detector, &[1, 3, 9], &[1.5, 1e9, 1e9]);
        assert_eq!((verdict.scores[0], verdict.scores[1]), (0.0, 0.0));
        assert!(verdict.scores[2] > 0.9);
        assert_eq!(verdict.findings.iter().map(|f| f.series).collect::<Vec<_>>(), [9]);
        let gone = Observation { gone: vec![1], ..Observation::of(1, &[], &[]) };
        detector.observe(&gone).unwrap();
        assert_eq!(show(&mut detector, &[1, 9], &[1e9, 1.0]).scores[0], 0.0);
    }

    #[test]
    fn new_settings_forget_nothing() {
        let mut detector = detector("{}");
        for value in around_ten(10.0) {
            show(&mut detector, &[7], &[value]);
        }
        assert!(detector.configure(r#"{"window":1}"#).is_err());
        detector.configure(r#"{"window":30,"threshold":4}"#).unwrap();
        assert_eq!(detector.plugin.windows.iter().next().unwrap().1.len(), 30);
        assert!(show(&mut detector, &[7], &[100.0]).scores[0] > 0.9);
    }

    #[test]
    fn what_was_learned_goes_on_in_the_next_instance() {
        let mut old = detector("{}");
        for value in around_ten(10.0) {
            show(&mut old, &[3, 7], &[value; 2]);
        }
        let mut new = detector(r#"{"window":30}"#);
        old.hand_over(&mut new).unwrap();
        assert_eq!(new.plugin.windows.iter().count(), 2);
        let verdict = show(&mut new, &[7, 8], &[50.0, 50.0]);
        assert!(verdict.scores[0] > 0.9 && verdict.scores[1] == 0.0);
        assert_eq!(new.plugin.windows.iter().next().unwrap().1.len(), 30);
        assert_eq!(new.plugin.restore(saved::VERSION + 1, b"?"), Ok(()));
    }
}
