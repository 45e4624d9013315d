//! What a series is, and the rules that its parts keep.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::PluginName;

/// The store dictionary's number for a series: the same over reloads, restarts
/// and crashes, and never used for another series.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SeriesId(pub u32);

impl fmt::Display for SeriesId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a series' numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Goes up and down, and is meant as it stands.
    Gauge,
    /// A total that grows until its source starts again; shown as a rate per
    /// second, stored as it stands.
    Counter,
    /// A total from which things are also taken away; shown as it stands.
    Updown,
}

impl Kind {
    /// The word for it on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Updown => "updown",
        }
    }

    /// The kind that a word of [`Kind::as_str`] means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "gauge" => Some(Self::Gauge),
            "counter" => Some(Self::Counter),
            "updown" => Some(Self::Updown),
            _ => None,
        }
    }
}

/// Labels in the order of their keys, each key once. A JSON object on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The most labels that one series may have: what Prometheus and
    /// OpenTelemetry users get by with, and few enough to search in a line.
    pub const COUNT_MAX: usize = 16;
    /// The longest label key in bytes.
    pub const KEY_BYTES_MAX: usize = 64;
    /// The longest label value in bytes.
    pub const VALUE_BYTES_MAX: usize = 256;

    /// Sorts `pairs` and checks them against the rules of the interface.
    ///
    /// # Errors
    ///
    /// The rule that was broken: too many labels, a key twice, a key or a
    /// value out of bounds.
    pub fn new(mut pairs: Vec<(Box<str>, Box<str>)>) -> Result<Self, RuleBroken> {
        if pairs.len() > Self::COUNT_MAX {
            return Err(RuleBroken::new(format!(
                "{} labels, and {} is the limit",
                pairs.len(),
                Self::COUNT_MAX
            )));
        }
        pairs.sort_unstable();
        if let Some(pair) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(RuleBroken::new(format!("label `{}` twice", pair[0].0)));
        }
        for (key, value) in &pairs {
            check_word("label key", key, Self::KEY_BYTES_MAX)?;
            if value.len() > Self::VALUE_BYTES_MAX {
                return Err(RuleBroken::new(format!(
                    "label `{key}` has a value of {} bytes, and {} is the limit",
                    value.len(),
                    Self::VALUE_BYTES_MAX
                )));
            }
            if value.chars().any(char::is_control) {
                return Err(RuleBroken::new(format!(
                    "label `{key}` has a control character in its value"
                )));
            }
        }
        Ok(Self(pairs.into()))
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All labels, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value:?}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What makes a series itself: two series are the same if this is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The plugin that it comes from.
    pub plugin: PluginName,
    /// Its dotted name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: Labels,
}

// By hand, since the same bytes must be hashed whether the name is shared or not.
impl Hash for SeriesKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self.plugin).hash(state);
        self.name.hash(state);
        self.labels.hash(state);
    }
}

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if !self.labels.0.is_empty() {
            write!(f, "{{{}}}", self.labels)?;
        }
        Ok(())
    }
}

/// A series as its plugin declared it, checked, before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesSpec {
    /// What makes it itself.
    pub key: SeriesKey,
    /// What its numbers mean.
    pub kind: Kind,
    /// UCUM, of the total where it is a counter.
    pub unit: Box<str>,
    /// A sentence for people.
    pub description: Box<str>,
}

impl SeriesSpec {
    /// The longest unit in bytes, as in OpenTelemetry.
    pub const UNIT_BYTES_MAX: usize = 63;
    /// The longest description in bytes.
    pub const DESCRIPTION_BYTES_MAX: usize = 1024;

    /// Checks a declaration against the rules of the interface.
    ///
    /// # Errors
    ///
    /// The rule that was broken, and the series that broke it.
    pub fn new(
        key: SeriesKey,
        kind: Kind,
        unit: Box<str>,
        description: Box<str>,
    ) -> Result<Self, RuleBroken> {
        check_name(&key.name)?;
        if unit.len() > Self::UNIT_BYTES_MAX || !unit.chars().all(|c| c.is_ascii_graphic()) {
            return Err(RuleBroken::new(format!(
                "the unit of `{key}` is not up to {} printable ASCII characters",
                Self::UNIT_BYTES_MAX
            )));
        }
        if description.len() > Self::DESCRIPTION_BYTES_MAX {
            return Err(RuleBroken::new(format!(
                "the description of `{key}` has {} bytes, and {} is the limit",
                description.len(),
                Self::DESCRIPTION_BYTES_MAX
            )));
        }
        Ok(Self { key, kind, unit, description })
    }
}

/// A series that is alive: declared by a running plugin, numbered, shared by
/// every snapshot that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its number, for good.
    pub id: SeriesId,
    /// What was declared.
    pub spec: SeriesSpec,
    /// How often a value is due.
    pub interval_ns: u64,
}

impl Series {
    /// The plugin that it comes from.
    #[must_use]
    pub fn plugin(&self) -> &PluginName {
        &self.spec.key.plugin
    }

    /// Its dotted name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.key.name
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.spec.key.labels
    }
}

/// A rule of the interface that a plugin broke, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleBroken(Arc<str>);

impl RuleBroken {
    /// A broken rule: what was found, and what the rule is.
    #[must_use]
    pub fn new(words: impl Into<Arc<str>>) -> Self {
        Self(words.into())
    }
}

/// The longest name of a series or a document in bytes, as in OpenTelemetry.
const NAME_BYTES_MAX: usize = 255;

/// Checks the name of a series or of a document.
///
/// # Errors
///
/// The name is empty, too long, or has a character that no name may have.
pub fn check_name(name: &str) -> Result<(), RuleBroken> {
    check_word("name", name, NAME_BYTES_MAX)
}

/// OpenTelemetry's syntax of instrument names.
fn check_word(what: &str, word: &str, bytes_max: usize) -> Result<(), RuleBroken> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(legal)
        && word.len() <= bytes_max
    {
        return Ok(());
    }
    let shown: String = word.chars().take(64).collect();
    Err(RuleBroken::new(format!(
        "{what} {shown:?} is not a letter followed by letters, digits, `_`, `.`, `-` or `/`, \
         {bytes_max} in all"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, RuleBroken> {
        Labels::new(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
    }

    #[test]
    fn labels_are_the_same_in_any_order() {
        assert_eq!(labels(&[("b", "2"), ("a", "1")]), labels(&[("a", "1"), ("b", "2")]));
        assert_eq!(labels(&[("b", "2"), ("a", "1")]).unwrap().get("b"), Some("2"));
    }

    #[test]
    fn labels_at_the_limit_pass_and_one_beyond_does_not() {
        let many =
            |n: usize| Labels::new((0..n).map(|i| (format!("k{i}").into(), "v".into())).collect());
        assert!(many(Labels::COUNT_MAX).is_ok());
        assert!(many(Labels::COUNT_MAX + 1).is_err());
        let long = |n: usize| labels(&[("k", &"v".repeat(n))]);
        assert!(long(Labels::VALUE_BYTES_MAX).is_ok());
        assert!(long(Labels::VALUE_BYTES_MAX + 1).is_err());
        assert!(labels(&[("a", "1"), ("a", "2")]).unwrap_err().to_string().contains("`a` twice"));
        assert!(labels(&[("a", "x\ny")]).is_err());
    }

    #[test]
    fn names_keep_opentelemetrys_syntax() {
        for good in ["a", "system.cpu.time", "A/b-c_d.9", &"a".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "9a", ".a", "a b", "ä", "a\n", &"a".repeat(256)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
