//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const VALUES_MAX: u32 = 10_000_000;
const MISSES_MAX: f64 = 1e6;

/// What can be set; `missing.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many values must have been due before a miss is judged.
    pub min_values: u32,
    /// How many misses more than usual are a score of 0.5.
    pub misses: f64,
    /// Over how many due values it is learned how many are usual.
    pub span: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { min_values: 30, misses: 5.0, span: 5000 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { min_values, misses, span } = *self;
        let words = if !(1..=VALUES_MAX).contains(&min_values) {
            format!("min_values must be from 1 to {VALUES_MAX}")
        } else if !(0.5..=MISSES_MAX).contains(&misses) {
            format!("misses must be from 0.5 to {MISSES_MAX}")
        } else if !(10..=VALUES_MAX).contains(&span) {
            format!("span must be from 10 to {VALUES_MAX}")
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Missing;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Missing>::default().configure(json);
        for json in ["{}", r#"{"misses":1,"span":100}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"mises":3}"#, "mises"),
            (r#"{"min_values":0}"#, "min_values"),
            (r#"{"misses":0}"#, "misses"),
            (r#"{"span":9}"#, "span"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
