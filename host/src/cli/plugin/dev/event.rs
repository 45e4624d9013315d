//! What `dev` has to tell.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::logs;

/// Something happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The component is there.
    Built { words: String, component: &'a Path },
    /// It is what runs already.
    Unchanged,
    /// The plugin has said something, or the hub of it.
    Log { line: &'a Value },
    /// Values have changed.
    Values { tick: &'a Value, values: Vec<Changed> },
}

/// A value that is another one than before.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Changed {
    /// The series with its labels.
    pub(super) series: String,
    /// Its value; nothing if it is not there.
    pub(super) value: Value,
}

/// Values that are shown of one tick.
const SHOWN_MAX: usize = 6;

impl Event<'_> {
    pub(super) fn as_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built { words, .. } => f.write_str(words),
            Self::Unchanged => f.write_str("the hub runs it already"),
            Self::Log { line } => f.write_str(&logs::words(line)),
            Self::Values { tick, values } => {
                write!(f, "tick {tick}")?;
                for Changed { series, value } in values.iter().take(SHOWN_MAX) {
                    write!(f, "  {series} {value}")?;
                }
                match values.len().saturating_sub(SHOWN_MAX) {
                    0 => Ok(()),
                    more => write!(f, "  … and {more} more"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tick_is_one_line_however_many_values_it_has() {
        let changed = |i: usize| Changed { series: format!("s{i}"), value: json!(i) };
        let event = Event::Values { tick: &json!(7), values: (0..8).map(changed).collect() };
        let line = event.to_string();
        assert!(line.starts_with("tick 7  s0 0  s1 1"), "{line}");
        assert!(line.ends_with("s5 5  … and 2 more"), "{line}");
        let event: Value = serde_json::from_str(&event.as_json()).unwrap();
        assert_eq!(event["event"], "values");
        assert_eq!(event["values"][7], json!({"series": "s7", "value": 7}));
    }
}
