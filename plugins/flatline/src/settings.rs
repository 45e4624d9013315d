//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const VALUES_MAX: u32 = 10_000_000;
const FACTOR_MAX: f64 = 1000.0;

/// What can be set; `flatline.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many values there must be before a run is judged.
    pub min_values: u32,
    /// A shorter run is never a finding.
    pub min_run: u32,
    /// So many times the longest run so far is a score of 0.5.
    pub factor: f64,
    /// A series that moves less often than in this share of its values is not
    /// judged.
    pub moves: f64,
    /// A change of less than this share of the value is none.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { min_values: 300, min_run: 60, factor: 3.0, moves: 0.5, tolerance: 0.0 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let Self { min_values, min_run, factor, moves, tolerance } = *self;
        let words = if !(2..=VALUES_MAX).contains(&min_values) {
            format!("min_values must be from 2 to {VALUES_MAX}")
        } else if !(2..=VALUES_MAX).contains(&min_run) {
            format!("min_run must be from 2 to {VALUES_MAX}")
        } else if !(1.0..=FACTOR_MAX).contains(&factor) {
            format!("factor must be from 1 to {FACTOR_MAX}")
        } else if !(0.01..=1.0).contains(&moves) {
            "moves must be from 0.01 to 1".to_owned()
        } else if !(0.0..1.0).contains(&tolerance) {
            "tolerance must be from 0 to less than 1".to_owned()
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Flatline;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Flatline>::default().configure(json);
        for json in ["{}", r#"{"factor":1.5,"tolerance":0.01}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"faktor":3}"#, "faktor"),
            (r#"{"min_values":1}"#, "min_values"),
            (r#"{"min_run":1}"#, "min_run"),
            (r#"{"factor":0.9}"#, "factor"),
            (r#"{"moves":0}"#, "moves"),
            (r#"{"tolerance":1}"#, "tolerance"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
