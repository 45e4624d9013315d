//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

/// The longest time that something may stay in the cache: a day.
const TTL_S_MAX: u64 = 86_400;
/// The longest time that figures may be of: ten years.
const DAYS_MAX: u64 = 3650;

/// What can be set; `routing.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The granted database's name.
    pub database: String,
    /// The key of the cache.
    pub key: String,
    /// How many seconds what comes out of the database stays there.
    pub ttl_s: u64,
    /// Of how many days the figures are.
    pub days: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: "routing".to_owned(),
            key: "metrics:latest".to_owned(),
            ttl_s: 30,
            days: 7,
        }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        let within = |key: &str, value: u64, most: u64| match value {
            0 => Err(Fault::config(format!("[config] {key} must be 1 or more"))),
            _ if value > most => {
                Err(Fault::config(format!("[config] {key} must be at most {most}")))
            }
            _ => Ok(()),
        };
        within("ttl_s", self.ttl_s, TTL_S_MAX)?;
        within("days", self.days, DAYS_MAX)?;
        if self.database.is_empty() {
            return Err(Fault::config("[config] database must name an entry of [grant] sql"));
        }
        if self.key.is_empty() {
            return Err(Fault::config("[config] key must be a key of the cache"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::collector::Routing;
    use telltale_plugin::{Collecting, Fault};

    #[test]
    fn each_setting_has_a_default_and_its_bounds() {
        let configure = |json: &str| Collecting::<Routing>::default().configure(json);
        assert_eq!(configure("{}"), Ok(()));
        assert_eq!(configure(r#"{"database":"x","key":"k","ttl_s":1,"days":3650}"#), Ok(()));
        for (json, named) in [
            (r#"{"database":""}"#, "database"),
            (r#"{"key":""}"#, "key"),
            (r#"{"ttl_s":0}"#, "ttl_s"),
            (r#"{"ttl_s":86401}"#, "ttl_s"),
            (r#"{"days":3651}"#, "days"),
            (r#"{"databse":"x"}"#, "databse"),
        ] {
            let refused = configure(json).unwrap_err();
            assert!(matches!(refused, Fault::Config(words) if words.contains(named)), "{json}");
        }
    }
}
