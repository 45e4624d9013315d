//! The detector `ewma-rust`: how many deviations a value is away from a mean in
//! which the past fades (an exponentially weighted moving average).

use serde::Deserialize;
use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist,
    export_stateful_detector,
};

export_stateful_detector!(Ewma);

/// A deviation is never taken for less than this share of the mean, …
const DEVIATION_SHARE_MIN: f64 = 1e-4;
/// … or than this.
const DEVIATION_MIN: f64 = 1e-9;
/// A deviation is told up to this.
const Z_MAX: f64 = 1e6;

/// The `[config]` table of the settings, which explain each key.
#[derive(Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    alpha: f64,
    threshold: f64,
    warm_up: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.1, threshold: 4.0, warm_up: 20 }
    }
}

/// What is known of a series.
#[derive(Clone, Copy, Default)]
struct Known {
    count: u32,
    mean: f64,
    variance: f64,
}

#[derive(Default)]
struct Ewma {
    config: Config,
    known: Watchlist<Known>,
}

impl Detector for Ewma {
    type Config = Config;

    fn configure(&mut self, config: Config) -> Result<(), Fault> {
        let words = if !(config.alpha > 0.0 && config.alpha <= 1.0) {
            "alpha must be above 0 and at most 1"
        } else if config.threshold <= 0.0 {
            "threshold must be above 0"
        } else if config.warm_up < 2 {
            "warm_up must be 2 or more"
        } else {
            self.config = config;
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }

    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        let Config { alpha, threshold, warm_up } = self.config;
        self.known.follow(observation, Known::default);
        for shown in self.known.shown(observation) {
            let mut score = 0.0;
            if shown.known.count >= warm_up {
                let finding = shown.known.judge(shown.id, shown.value, threshold);
                score = finding.score;
                if score >= 0.5 {
                    verdict.findings.push(finding);
                }
            }
            shown.known.learn(shown.value, alpha);
            verdict.scores.push(score);
        }
        Ok(())
    }
}

impl Known {
    fn judge(&self, series: u32, value: f64, threshold: f64) -> Finding {
        let deviation = self.variance.sqrt();
        let deviation = deviation.max(DEVIATION_MIN).max(DEVIATION_SHARE_MIN * self.mean.abs());
        let z = ((value - self.mean) / deviation).clamp(-Z_MAX, Z_MAX);
        let type_ = if z > 0.0 { FindingType::Spike } else { FindingType::Drop };
        let band = threshold * deviation;
        Finding {
            deviation: Some(z),
            expected: Some(self.mean),
            lower: Some(self.mean - band),
            upper: Some(self.mean + band),
            ..Finding::new(series, type_, z.abs() / (z.abs() + threshold))
        }
    }

    fn learn(&mut self, value: f64, alpha: f64) {
        let difference = value - self.mean;
        let step = alpha * difference;
        let mean = self.mean + step;
        let variance = (1.0 - alpha) * (self.variance + difference * step);
        *self = if self.count == 0 || !mean.is_finite() || !variance.is_finite() {
            Self { count: 1, mean: value, variance: 0.0 }
        } else {
            Self { count: self.count.saturating_add(1), mean, variance }
        };
    }
}

/// `[[id, count, mean, variance], …]` in JSON, as the other languages save it.
impl State for Ewma {
    const VERSION: u32 = 1;

    fn save(&self) -> Vec<u8> {
        let row = |(id, known): (u32, &Known)| (id, known.count, known.mean, known.variance);
        serde_json::to_vec(&self.known.iter().map(row).collect::<Vec<_>>()).unwrap_or_default()
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == Self::VERSION {
            let rows: Vec<(u32, u32, f64, f64)> =
                serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            let known = |(id, count, mean, variance)| (id, Known { count, mean, variance });
            self.known.restore(rows.into_iter().map(known));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::Detecting;

    fn show(ewma: &mut Detecting<Ewma>, value: f64) -> Verdict {
        ewma.observe(&Observation::of(1, &[7], &[(7, value)])).unwrap()
    }

    #[test]
    fn a_value_far_off_is_found_and_the_next_instance_knows_what_is_usual() {
        let mut ewma = Detecting::<Ewma>::default();
        ewma.configure("{}").unwrap();
        for tick in 0..40 {
            let verdict = show(&mut ewma, [9.0, 11.0][tick % 2]);
            assert!(verdict.findings.is_empty(), "tick {tick}");
        }
        let mut next = Detecting::<Ewma>::default();
        ewma.hand_over(&mut next).unwrap();
        for detector in [&mut ewma, &mut next] {
            let found = &show(detector, 20.0).findings[0];
            assert_eq!(found.type_, FindingType::Spike);
            assert!(found.deviation > Some(8.0) && found.upper < Some(20.0));
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (json, key) in [(r#"{"alpha":0}"#, "alpha"), (r#"{"treshold":1}"#, "treshold")] {
            let fault = Detecting::<Ewma>::default().configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
