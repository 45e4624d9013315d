//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

const SENSITIVITY_MAX: f32 = 10.0;
const SENSITIVITY_MIN: f32 = 0.1;
const WARM_UP_MIN: u32 = 100;
const WARM_UP_MAX: u32 = 1_000_000;

/// How much is remembered of each series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// All that this detector knows to look at: 4 KiB a series.
    #[default]
    Full,
    /// Known levels alone: half a KiB a series.
    Light,
}

/// What can be set; `novelty.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How much is remembered of each series.
    pub preset: Preset,
    /// What strengths are multiplied with.
    pub sensitivity: f32,
    /// How many values end the warm-up before the first day is over.
    pub warm_up_values: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { preset: Preset::Full, sensitivity: 1.0, warm_up_values: 1500 }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let words = if !(SENSITIVITY_MIN..=SENSITIVITY_MAX).contains(&self.sensitivity) {
            format!("sensitivity must be from {SENSITIVITY_MIN} to {SENSITIVITY_MAX}")
        } else if !(WARM_UP_MIN..=WARM_UP_MAX).contains(&self.warm_up_values) {
            format!("warm_up_values must be from {WARM_UP_MIN} to {WARM_UP_MAX}")
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::detector::Novelty;
    use telltale_plugin::{Detecting, Fault};

    #[test]
    fn a_wrong_setting_is_named() {
        let configure = |json: &str| Detecting::<Novelty>::default().configure(json);
        for json in ["{}", r#"{"sensitivity":0.5}"#, r#"{"preset":"light"}"#] {
            assert_eq!(configure(json), Ok(()));
        }
        for (json, key) in [
            (r#"{"sensitivty":1}"#, "sensitivty"),
            (r#"{"sensitivity":0}"#, "sensitivity"),
            (r#"{"sensitivity":-1}"#, "sensitivity"),
            (r#"{"sensitivity":11}"#, "sensitivity"),
            (r#"{"warm_up_values":99}"#, "warm_up_values"),
            (r#"{"warm_up_values":1000001}"#, "warm_up_values"),
            (r#"{"preset":"heavy"}"#, "heavy"),
        ] {
            let fault = configure(json).unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
