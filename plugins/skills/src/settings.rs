//! The `[config]` table of the plugin's settings.

use serde::Deserialize;
use telltale_plugin::Fault;

/// What can be set; `skills.toml` explains each key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The granted database's name.
    pub database: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { database: "skills".to_owned() }
    }
}

impl Settings {
    /// Whether they can work. The error names the key.
    pub fn check(&self) -> Result<(), Fault> {
        if self.database.is_empty() {
            return Err(Fault::config("[config] database must name an entry of [grant] sql"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::collector::Skills;
    use telltale_plugin::{Collecting, Fault};

    #[test]
    fn the_database_has_a_default_and_must_have_a_name() {
        let configure = |json: &str| Collecting::<Skills>::default().configure(json);
        assert_eq!((configure("{}"), configure(r#"{"database":"x"}"#)), (Ok(()), Ok(())));
        for json in [r#"{"database":""}"#, r#"{"database":1}"#] {
            assert!(configure(json).is_err());
        }
        let unknown = configure(r#"{"databse":"x"}"#).unwrap_err();
        assert!(matches!(unknown, Fault::Config(words) if words.contains("databse")));
    }
}
