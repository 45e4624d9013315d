//! {{name}}: a detector.

use serde::Deserialize;
use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, Verdict, export_detector,
};

export_detector!(Limit);

/// Finds values above a limit.
#[derive(Default)]
struct Limit {
    config: Config,
}

/// The `[config]` table of `{{name}}.toml`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    limit: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { limit: 1e9 }
    }
}

impl Detector for Limit {
    type Config = Config;

    fn configure(&mut self, config: Config) -> Result<(), Fault> {
        if config.limit <= 0.0 {
            return Err(Fault::config("[config] limit must be above 0"));
        }
        self.config = config;
        Ok(())
    }

    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        let limit = self.config.limit;
        for (&series, &value) in observation.ids.iter().zip(&observation.values) {
            // 0.5 at the limit, where a value becomes a finding.
            let score = value.max(0.0) / (value.max(0.0) + limit);
            verdict.scores.push(score);
            if score >= 0.5 {
                let finding = Finding::new(series, FindingType::Spike, score);
                verdict.findings.push(Finding { upper: Some(limit), ..finding });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::Detecting;

    #[test]
    fn a_value_at_the_limit_is_a_finding() {
        let mut limit = Detecting::<Limit>::default();
        limit.configure(r#"{"limit": 5}"#).unwrap();
        let shown = Observation::of(1, &[3, 4], &[(3, -1.0), (4, 5.0)]);
        let verdict = limit.observe(&shown).unwrap();
        assert_eq!(verdict.scores, [0.0, 0.5]);
        assert_eq!(verdict.findings[0].series, 4);
    }
}
