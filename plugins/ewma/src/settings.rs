//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const SPAN_MAX: u32 = 1_000_000;
const THRESHOLD_MAX: f64 = 1000.0;

/// What can be set; `ewma.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Over how many values the means reach.
    pub span: u32,
    /// How many values there must be before one is judged.
    pub min_values: u32,
    /// How many standard deviations are a score of 0.5.
    pub threshold: f64,
    /// A value is odd only beyond this share of the farthest of before.
    pub tail: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { span: 1000, min_values: 100, threshold: 5.0, tail: 0.7 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { span, min_values, threshold, tail } = *self;
        let words = if !(2..=SPAN_MAX).contains(&span) {
            format!("span must be from 2 to {SPAN_MAX}")
        } else if !(16..=SPAN_MAX).contains(&min_values) {
            format!("min_values must be from 16 to {SPAN_MAX}")
        } else if !(threshold > 0.0 && threshold <= THRESHOLD_MAX) {
            format!("threshold must be above 0 and at most {THRESHOLD_MAX}")
        } else if !(0.0..=10.0).contains(&tail) {
            "tail must be from 0 to 10".to_owned()
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }

    /// What a value weighs in the means.
    pub fn weight(&self) -> f64 {
        2.0 / (f64::from(self.span) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Ewma;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Ewma>::default().configure(json);
        for json in ["{}", r#"{"threshold":3,"span":50,"tail":0}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"treshold":3}"#, "treshold"),
            (r#"{"span":1}"#, "span"),
            (r#"{"span":1000001}"#, "span"),
            (r#"{"min_values":15}"#, "min_values"),
            (r#"{"threshold":0}"#, "threshold"),
            (r#"{"threshold":1001}"#, "threshold"),
            (r#"{"tail":-1}"#, "tail"),
            (r#"{"tail":11}"#, "tail"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
