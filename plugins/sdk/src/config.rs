//! The `[config]` table of a plugin's settings.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Fault;

/// For a plugin that has nothing to set: each key is a mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoConfig;

impl<'de> Deserialize<'de> for NoConfig {
    fn deserialize<D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        let keys = std::collections::BTreeMap::<String, serde::de::IgnoredAny>::deserialize(table)?;
        match keys.keys().next() {
            Some(key) => Err(serde::de::Error::custom(format_args!(
                "unknown field `{key}`: this plugin has nothing to set"
            ))),
            None => Ok(Self),
        }
    }
}

/// Reads the table, which comes as JSON.
///
/// # Errors
///
/// Which key is wrong. Where it stands in the JSON is left out: nobody has seen
/// that.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C, Fault> {
    serde_json::from_str(json).map_err(|error| {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        Fault::config(format!("[config] {words}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_there_is_named() {
        assert_eq!(parse::<NoConfig>("{}"), Ok(NoConfig));
        let fault = parse::<NoConfig>(r#"{"sides": 6}"#).unwrap_err();
        let words = "[config] unknown field `sides`: this plugin has nothing to set";
        assert_eq!(fault, Fault::config(words));
    }
}
