//! The `[config]` table of the plugin's settings.

use serde::Deserialize;

const PROCESSES_MAX: usize = 100;
const PROCESSES_EVERY_S_MAX: u64 = 3600;

/// What can be set; `system.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many processes the document shows.
    pub processes: usize,
    /// Seconds between two documents; 0 for none.
    pub processes_every_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { processes: 10, processes_every_s: 5 }
    }
}

impl Settings {
    /// Reads the table, which comes as JSON. The error names the key.
    pub fn parse(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| format!("[config] {e}"))?;
        if !(1..=PROCESSES_MAX).contains(&settings.processes) {
            return Err(format!("[config] processes must be from 1 to {PROCESSES_MAX}"));
        }
        if settings.processes_every_s > PROCESSES_EVERY_S_MAX {
            return Err(format!(
                "[config] processes_every_s must be from 0 to {PROCESSES_EVERY_S_MAX}"
            ));
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
        let off = Settings::parse(r#"{"processes_every_s":0}"#).unwrap();
        assert_eq!((off.processes, off.processes_every_s), (10, 0));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (json, key) in [
            (r#"{"proceses":3}"#, "proceses"),
            (r#"{"processes":0}"#, "processes"),
            (r#"{"processes":101}"#, "processes"),
            (r#"{"processes_every_s":3601}"#, "processes_every_s"),
        ] {
            let error = Settings::parse(json).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
}
