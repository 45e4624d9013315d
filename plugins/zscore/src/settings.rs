//! The `[config]` table of the plugin's settings.

use serde::Deserialize;

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
    /// Reads the table, which comes as JSON. The error names the key.
    pub fn parse(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| format!("[config] {e}"))?;
        let Self { window, min_values, threshold } = settings;
        if !(2..=WINDOW_MAX).contains(&window) {
            return Err(format!("[config] window must be from 2 to {WINDOW_MAX}"));
        }
        if !(2..=window).contains(&min_values) {
            return Err(format!("[config] min_values must be from 2 to window, which is {window}"));
        }
        if !(threshold > 0.0 && threshold <= THRESHOLD_MAX) {
            return Err(format!("[config] threshold must be above 0 and at most {THRESHOLD_MAX}"));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_keys_have_their_defaults() {
        assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
        assert_eq!(Settings::parse(r#"{"threshold":3}"#).unwrap().threshold, 3.0);
    }

    #[test]
    fn a_wrong_setting_is_named() {
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
            let error = Settings::parse(json).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
}
