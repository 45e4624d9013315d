//! Which of a channel's things a client wants, and what of each.

use std::collections::BTreeMap;

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::command::{Refusal, cut};
use crate::access::{Globs, Identity};
use crate::model::{PluginName, Series, Subject};

/// Label globs in one filter: what a series may have labels.
const LABEL_GLOBS_MAX: usize = 16;
/// The longest glob: a name may have as many bytes.
const GLOB_BYTES_MAX: usize = 256;

/// A filter as clients write it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilterText {
    /// The name of the plugin, whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<PluginName>,
    /// A glob.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// A glob for each key.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
}

impl FilterText {
    /// The keys that it has.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static str> {
        let Self { plugin, name, labels } = self;
        let keys =
            [("plugin", plugin.is_some()), ("name", name.is_some()), ("labels", labels.is_some())];
        keys.into_iter().filter(|(_, there)| *there).map(|(key, _)| key)
    }
}

/// A plugin, and globs on the name and on labels, that must all match, of what
/// a client may read. The default matches everything.
#[derive(Debug, Default)]
pub(super) struct Filter {
    text: FilterText,
    name: Option<GlobMatcher>,
    labels: Vec<(String, GlobMatcher)>,
    /// Names that may be read; `None`: all.
    read: Option<Globs>,
}

impl Filter {
    /// The same for a client that may not read everything.
    pub(super) fn read_by(self, who: &Identity) -> Self {
        Self { read: who.read.clone(), ..self }
    }

    pub(super) fn new(mut text: FilterText) -> Result<Self, Refusal> {
        // No labels are the same wish as an empty list of them.
        text.labels = text.labels.filter(|labels| !labels.is_empty());
        let name = text.name.as_deref().map(glob).transpose()?;
        let mut labels = Vec::new();
        for (key, text) in text.labels.iter().flatten() {
            if labels.len() == LABEL_GLOBS_MAX {
                let words = format!("a filter may have up to {LABEL_GLOBS_MAX} labels");
                return Err(Refusal::new("bad_glob", words));
            }
            labels.push((key.clone(), glob(text)?));
        }
        Ok(Self { text, name, labels, read: None })
    }

    /// Everything of one plugin.
    pub(super) fn of_plugin(plugin: String) -> Self {
        let text = FilterText { plugin: Some(plugin.into()), ..FilterText::default() };
        Self { text, ..Self::default() }
    }

    /// The same for the same filter and the same rights.
    pub(super) fn key(&self) -> String {
        let mut key = serde_json::to_string(&self.text).unwrap_or_default();
        if let Some(read) = &self.read {
            key.push_str(" read ");
            key.push_str(&read.key());
        }
        key
    }

    /// Whether it lets everything through.
    pub(super) fn is_any(&self) -> bool {
        self.text.keys().next().is_none() && self.read.is_none()
    }

    /// The plugin that alone is wanted.
    pub(super) fn plugin(&self) -> Option<&PluginName> {
        self.text.plugin.as_ref()
    }

    pub(super) fn matches(&self, series: &Series) -> bool {
        self.matches_name(series.plugin(), series.name())
            && self.matches_labels(|key| series.labels().get(key))
    }

    pub(super) fn matches_subject(&self, subject: &Subject) -> bool {
        self.matches_name(&subject.plugin, &subject.name)
            && self.matches_labels(|key| subject.labels.get(key).map(String::as_str))
    }

    pub(super) fn matches_name(&self, plugin: &str, name: &str) -> bool {
        self.plugin().is_none_or(|wanted| **wanted == *plugin)
            && self.name.as_ref().is_none_or(|glob| glob.is_match(name))
            && self.read.as_ref().is_none_or(|read| read.matches(name))
    }

    fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.labels.iter().all(|(key, glob)| label(key).is_some_and(|value| glob.is_match(value)))
    }
}

fn glob(text: &str) -> Result<GlobMatcher, Refusal> {
    if text.len() > GLOB_BYTES_MAX {
        let words = format!("a glob of {} bytes, and {GLOB_BYTES_MAX} is the limit", text.len());
        return Err(Refusal::new("bad_glob", words));
    }
    let glob = Glob::new(text)
        .map_err(|error| Refusal::new("bad_glob", format!("{text:?}: {}", error.kind())))?;
    Ok(glob.compile_matcher())
}

/// Which members of something are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    known: &'static [&'static str],
    /// The lowest bit stands for the first that is known.
    wanted: u32,
}

impl Fields {
    /// All that there are; 32 at most.
    pub(super) fn all(known: &'static [&'static str]) -> Self {
        Self { known, wanted: u32::MAX >> (32 - known.len()) }
    }

    /// Those that a client names, and `always`, which it may name too.
    pub(super) fn new(
        known: &'static [&'static str],
        always: &[&str],
        named: &[String],
    ) -> Result<Self, Refusal> {
        let bit = |name: &str| known.iter().position(|known| *known == name).map(|at| 1 << at);
        let mut wanted = always.iter().filter_map(|name| bit(name)).sum();
        for name in named {
            match bit(name) {
                Some(bit) => wanted |= bit,
                None if always.contains(&name.as_str()) => {}
                None => {
                    let words = format!(
                        "there is no field {:?}: the fields are {}; always there: {}",
                        cut(name),
                        known.join(", "),
                        always.join(", ")
                    );
                    return Err(Refusal::new("bad_request", words));
                }
            }
        }
        Ok(Self { known, wanted })
    }

    pub(super) fn bits(self) -> u32 {
        self.wanted
    }

    pub(super) fn is_all(self) -> bool {
        self == Self::all(self.known)
    }

    /// The names of those that are told, in their own order.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let wanted = move |(at, _): &(usize, _)| self.wanted & (1 << at) != 0;
        self.known.iter().enumerate().filter(wanted).map(|(_, name)| *name)
    }

    /// The same for the same fields.
    pub(super) fn key(self) -> String {
        self.names().collect::<Vec<_>>().join(",")
    }
}
