//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

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
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let words = if !(1..=PROCESSES_MAX).contains(&self.processes) {
            format!("processes must be from 1 to {PROCESSES_MAX}")
        } else if self.processes_every_s > PROCESSES_EVERY_S_MAX {
            format!("processes_every_s must be from 0 to {PROCESSES_EVERY_S_MAX}")
        } else {
            return Ok(());
        };
        Err(Fault::config(format!("[config] {words}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_keys_have_their_defaults() {
        let off: Settings = serde_json::from_str(r#"{"processes_every_s":0}"#).unwrap();
        assert_eq!((off.processes, off.processes_every_s), (10, 0));
        assert_eq!((off.check(), Settings::default().check()), (Ok(()), Ok(())));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        assert!(serde_json::from_str::<Settings>(r#"{"proceses":3}"#).is_err());
        let processes = |processes| Settings { processes, ..Settings::default() };
        let every = Settings { processes_every_s: 3601, ..Settings::default() };
        for (settings, key) in [
            (processes(0), "processes "),
            (processes(101), "processes "),
            (every, "processes_every_s "),
        ] {
            let fault = settings.check().unwrap_err();
            assert!(matches!(&fault, Fault::Config(words) if words.contains(key)), "{fault:?}");
        }
    }
}
