//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const VALUES_MAX: u32 = 1_000_000;
const THRESHOLD_MAX: f64 = 10_000.0;

/// What can be set; `changepoint.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Over how many values the level is averaged.
    pub span: u32,
    /// How many values there must be before a change is judged.
    pub min_values: u32,
    /// A change that has lasted for fewer values is none yet.
    pub min_run: u32,
    /// A shift of less than so many deviations is none.
    pub slack: f64,
    /// How many deviations, summed up over the values, are a score of 0.5.
    pub threshold: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { span: 500, min_values: 200, min_run: 10, slack: 1.0, threshold: 10.0 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { span, min_values, min_run, slack, threshold } = *self;
        let words = if !(10..=VALUES_MAX).contains(&span) {
            format!("span must be from 10 to {VALUES_MAX}")
        } else if !(16..=VALUES_MAX).contains(&min_values) {
            format!("min_values must be from 16 to {VALUES_MAX}")
        } else if !(1..=VALUES_MAX).contains(&min_run) {
            format!("min_run must be from 1 to {VALUES_MAX}")
        } else if !(0.0..=3.0).contains(&slack) {
            "slack must be from 0 to 3".to_owned()
        } else if !(threshold > 0.0 && threshold <= THRESHOLD_MAX) {
            format!("threshold must be above 0 and at most {THRESHOLD_MAX}")
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }

    /// What a value weighs in the level.
    pub fn weight(&self) -> f64 {
        2.0 / (f64::from(self.span) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Changepoint;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Changepoint>::default().configure(json);
        for json in ["{}", r#"{"threshold":30,"slack":0.5}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"treshold":3}"#, "treshold"),
            (r#"{"span":9}"#, "span"),
            (r#"{"min_values":15}"#, "min_values"),
            (r#"{"min_run":0}"#, "min_run"),
            (r#"{"slack":3.5}"#, "slack"),
            (r#"{"threshold":0}"#, "threshold"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
