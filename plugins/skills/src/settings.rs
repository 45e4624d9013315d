//! The `[config]` table of the plugin's settings.

use serde::Deserialize;

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
    /// Reads the table, which comes as JSON. The error names the key.
    pub fn parse(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| format!("[config] {e}"))?;
        if settings.database.is_empty() {
            return Err("[config] database must name an entry of [grant] sql".to_owned());
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_has_a_default_and_must_have_a_name() {
        assert_eq!(Settings::parse("{}"), Ok(Settings::default()));
        assert_eq!(Settings::parse(r#"{"database":"x"}"#).unwrap().database, "x");
        for json in [r#"{"database":""}"#, r#"{"database":1}"#, r#"{"databse":"x"}"#] {
            assert!(Settings::parse(json).is_err());
        }
        let unknown = Settings::parse(r#"{"databse":"x"}"#).unwrap_err();
        assert!(unknown.contains("databse"));
    }
}
