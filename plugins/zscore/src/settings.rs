//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const WINDOW_MAX: usize = 100_000;
const THRESHOLD_MAX: f64 = 1000.0;

/// What can be set; `zscore.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many values of each series are remembered.
    pub window: usize,
    /// How many there must be before a value is judged.
    pub min_values: usize,
    /// How many standard deviations are a score of 0.5.
    pub threshold: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: 300, min_values: 30, threshold: 2.0 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { window, min_values, threshold } = *self;
        let words = if !(2..=WINDOW_MAX).contains(&window) {
            format!("window must be from 2 to {WINDOW_MAX}")
        } else if !(2..=window).contains(&min_values) {
            format!("min_values must be from 2 to window, which is {window}")
        } else if !(threshold > 0.0 && threshold <= THRESHOLD_MAX) {
            format!("threshold must be above 0 and at most {THRESHOLD_MAX}")
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Zscore;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Zscore>::default().configure(json);
        for json in ["{}", r#"{"threshold":3}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"treshold":3}"#, "treshold"),
            (r#"{"window":1}"#, "window"),
            (r#"{"window":100001}"#, "window"),
            (r#"{"window":29}"#, "min_values"),
            (r#"{"min_values":1}"#, "min_values"),
            (r#"{"threshold":0}"#, "threshold"),
            (r#"{"threshold":-1}"#, "threshold"),
            (r#"{"threshold":1001}"#, "threshold"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
