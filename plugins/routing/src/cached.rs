//! What is under the key of the cache: the application's own object, or what
//! was put there the last time that the database was asked.

use serde_json::{Map, Value};
use telltale_plugin::cache::{self, Error};

/// What came of a look into the cache.
#[derive(Debug, Clone, PartialEq)]
pub enum Cached {
    /// An object.
    Hit(Found),
    /// Nothing is there.
    Miss,
    /// It does not answer: why.
    Unavailable(String),
    /// What is there is no JSON object: why.
    Invalid(String),
    /// It is not granted: the line to add to the settings.
    Denied(String),
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// As it was written: it is told whole, whatever it has.
    pub json: String,
    /// Its members.
    pub members: Map<String, Value>,
}

impl Cached {
    /// Looks.
    #[must_use]
    pub fn look(key: &str) -> Self {
        match cache::get(key) {
            Ok(None) => Self::Miss,
            Ok(Some(bytes)) => match Found::read(bytes) {
                Ok(found) => Self::Hit(found),
                Err(why) => Self::Invalid(why),
            },
            Err(Error::Denied(line)) => Self::Denied(line),
            Err(Error::Unavailable(why) | Error::TooLarge(why)) => Self::Unavailable(why),
        }
    }

    /// It in a word, as the document `routing.source` has it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Miss => "miss",
            Self::Unavailable(_) => "unavailable",
            Self::Invalid(_) => "invalid",
            Self::Denied(_) => "denied",
        }
    }

    /// What was wrong with it, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Hit(_) => "it was there",
            Self::Miss => "nothing is there",
            Self::Unavailable(why) | Self::Invalid(why) | Self::Denied(why) => why,
        }
    }
}

impl Found {
    /// Reads what should be an object; else why it is none.
    pub fn read(bytes: Vec<u8>) -> Result<Self, String> {
        let json = String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        match serde_json::from_str(&json) {
            Ok(Value::Object(members)) => Ok(Self { json: json.trim().to_owned(), members }),
            Ok(_) => Err("it is no JSON object".to_owned()),
            Err(error) => Err(format!("it is no JSON: {error}")),
        }
    }

    /// The same with a `timestamp`: its own, or else this one.
    #[must_use]
    pub fn stamped(self, timestamp: &str) -> Self {
        let Self { mut json, mut members } = self;
        if !members.contains_key("timestamp") {
            let comma = if members.is_empty() { "" } else { "," };
            json.truncate(json.len() - 1);
            json.push_str(&format!("{comma}\"timestamp\":\"{timestamp}\"}}"));
            members.insert("timestamp".to_owned(), timestamp.into());
        }
        Self { json, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stays_as_it_was_written_and_gets_a_time_if_it_has_none() {
        let stamped =
            |text: &str| Found::read(text.into()).map(|found| found.stamped("2025-11-16T12:00:00"));
        for (text, told) in [
            ("{ }\n", r#"{ "timestamp":"2025-11-16T12:00:00"}"#),
            (
                " {\"b\":1.50, \"a\": []}",
                r#"{"b":1.50, "a": [],"timestamp":"2025-11-16T12:00:00"}"#,
            ),
            (r#"{"timestamp":17}"#, r#"{"timestamp":17}"#),
        ] {
            let found = stamped(text).unwrap();
            assert_eq!(found.json, told);
            let again: Map<String, Value> = serde_json::from_str(told).unwrap();
            assert_eq!(found.members, again);
        }
        for text in ["", "[]", "{\"a\":NaN}", "{\"a\":1", "null"] {
            assert!(stamped(text).unwrap_err().contains("JSON"), "{text}");
        }
        assert!(Found::read(b"{\"a\":\"\xff\"}".to_vec()).is_err());
    }
}
