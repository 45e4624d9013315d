//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const HOURS_MAX: f64 = 10_000.0;
const VALUES_MAX: u32 = 1_000_000;
const THRESHOLD_MAX: f64 = 1000.0;

/// What can be set; `seasonal.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A drift that takes longer than so many hours is followed.
    pub level_hours: f64,
    /// For so many hours of a series nothing is judged.
    pub min_hours: f64,
    /// How many values there must be before one is judged.
    pub min_values: u32,
    /// What a day or a week is in the profile, once there were some.
    pub learn: f64,
    /// How many standard deviations are a score of 0.5.
    pub threshold: f64,
    /// A value is odd only beyond this share of the farthest of before.
    pub tail: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level_hours: 6.0,
            min_hours: 24.0,
            min_values: 100,
            learn: 0.15,
            threshold: 5.0,
            tail: 0.7,
        }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { level_hours, min_hours, min_values, learn, threshold, tail } = *self;
        let words = if !(level_hours > 0.0 && level_hours <= HOURS_MAX) {
            format!("level_hours must be above 0 and at most {HOURS_MAX}")
        } else if !(0.0..=HOURS_MAX).contains(&min_hours) {
            format!("min_hours must be from 0 to {HOURS_MAX}")
        } else if !(16..=VALUES_MAX).contains(&min_values) {
            format!("min_values must be from 16 to {VALUES_MAX}")
        } else if !(0.01..=1.0).contains(&learn) {
            "learn must be from 0.01 to 1".to_owned()
        } else if !(threshold > 0.0 && threshold <= THRESHOLD_MAX) {
            format!("threshold must be above 0 and at most {THRESHOLD_MAX}")
        } else if !(0.0..=10.0).contains(&tail) {
            "tail must be from 0 to 10".to_owned()
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Seasonal;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Seasonal>::default().configure(json);
        for json in ["{}", r#"{"threshold":4,"min_hours":0}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"treshold":3}"#, "treshold"),
            (r#"{"level_hours":0}"#, "level_hours"),
            (r#"{"min_hours":-1}"#, "min_hours"),
            (r#"{"min_values":15}"#, "min_values"),
            (r#"{"learn":0}"#, "learn"),
            (r#"{"threshold":0}"#, "threshold"),
            (r#"{"tail":11}"#, "tail"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
