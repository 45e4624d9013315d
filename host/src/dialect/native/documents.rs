//! The `documents` channel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::encode::{to_json, write_all, write_list};
use super::filter::Filter;
use crate::channel::{Feed, StateEncoder, SubId};
use crate::clock::rfc3339;
use crate::model::PluginName;
use crate::snapshot::{DocumentKey, Published, Snapshot, Stale};

/// The `documents` channel through one filter.
#[derive(Default)]
pub(super) struct Documents {
    filter: Filter,
    /// What was pushed last; pushes say what has changed since.
    before: Arc<BTreeMap<DocumentKey, Published>>,
}

#[derive(Serialize)]
struct Told<'a> {
    plugin: &'a str,
    name: &'a str,
    tick: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a Stale>,
    data: &'a RawValue,
}

fn told(published: &Published) -> Told<'_> {
    Told {
        plugin: &published.document.plugin,
        name: &published.document.name,
        tick: published.tick.number,
        time: rfc3339(published.tick.time_ns),
        stale: published.stale.as_deref(),
        data: &published.document.json,
    }
}

impl Documents {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    fn wants(&self, (plugin, name): &DocumentKey) -> bool {
        self.filter.matches_name(plugin, name)
    }

    /// `"documents":[…]`
    fn write_all(&self, snapshot: &Snapshot, text: &mut String) {
        let wanted = snapshot.documents.iter().filter(|(key, _)| self.wants(key));
        text.push_str("\"documents\":");
        write_all(text, wanted, |text, (_, published)| text.push_str(&to_json(&told(published))));
    }
}

/// `"tick":…,"time":…`
fn moment(snapshot: &Snapshot) -> String {
    let time = rfc3339(snapshot.tick.time_ns);
    format!("\"tick\":{},\"time\":\"{time}\"", snapshot.tick.number)
}

impl StateEncoder for Documents {
    fn push(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) -> bool {
        let snapshot = &feed.snapshot;
        let before = std::mem::replace(&mut self.before, snapshot.documents.clone());
        if Arc::ptr_eq(&before, &self.before) {
            return false;
        }
        let same = |key: &DocumentKey, now: &Published| {
            before.get(key).is_some_and(|old| {
                Arc::ptr_eq(&old.document, &now.document) && old.stale == now.stale
            })
        };
        let wanted = snapshot.documents.iter().filter(|(key, _)| self.wants(key));
        let changed: Vec<_> = wanted
            .filter(|(key, published)| !same(key, published))
            .map(|(_, published)| told(published))
            .collect();
        let gone: Vec<_> = before
            .keys()
            .filter(|key| self.wants(key) && !snapshot.documents.contains_key(*key))
            .map(|(plugin, name)| json!({"plugin": &**plugin, "name": &**name}))
            .collect();
        if changed.is_empty() && gone.is_empty() {
            return false;
        }
        // Writing to a string can't fail.
        let _ = write!(text, "{{\"push\":\"documents\",\"sub\":{},{}", sub.0, moment(snapshot));
        write_list(text, "documents", &changed);
        write_list(text, "gone", &gone);
        text.push('}');
        true
    }

    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) {
        let moment = moment(&feed.snapshot);
        let _ =
            write!(text, "{{\"channel\":\"documents\",\"sub\":{},\"snapshot\":{{{moment},", sub.0);
        self.write_all(&feed.snapshot, text);
        text.push_str("}}");
    }

    fn full(
        &mut self,
        feed: &mut Feed,
        sub: SubId,
        before: &mut String,
        after: &mut String,
    ) -> bool {
        let moment = moment(&feed.snapshot);
        let _ = write!(
            before,
            "{{\"push\":\"documents\",\"sub\":{},{moment},\"full\":true,\"skipped\":",
            sub.0
        );
        after.push(',');
        self.write_all(&feed.snapshot, after);
        after.push('}');
        true
    }

    fn watches(&self, feed: &Feed, plugin: &mut dyn FnMut(&PluginName)) {
        if let Some(wanted) = self.filter.plugin() {
            return plugin(wanted);
        }
        let wanted = feed.snapshot.documents.keys().filter(|key| self.wants(key));
        wanted.map(|(owner, _)| owner).collect::<BTreeSet<_>>().into_iter().for_each(plugin);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::dialect::native::tests::{World, state_encoder};

    /// The documents that a client knows.
    type Known = BTreeMap<String, Value>;

    fn take(known: &mut Known, told: &Value) {
        let key = |document: &Value| format!("{}/{}", document["plugin"], document["name"]);
        for document in told["documents"].as_array().into_iter().flatten() {
            known.insert(key(document), document.clone());
        }
        for document in told["gone"].as_array().into_iter().flatten() {
            assert!(known.remove(&key(document)).is_some(), "{document} was never told");
        }
    }

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn whoever_follows_the_pushes_knows_what_a_newcomer_is_told() {
        for filter in [r"{}", r#"{"name":"d[12]"}"#, r#"{"plugin":"p1","name":"*"}"#] {
            let (mut world, mut feed) = (World::new(7), World::feed());
            let wanted = format!(r#""channel":"documents","filter":{filter}"#);
            let mut encoder = state_encoder(&wanted);
            let mut known = Known::new();
            for _ in 0..200 {
                world.tick(&mut feed);
                let mut text = String::new();
                if encoder.push(&mut feed, SubId(1), &mut text) {
                    take(&mut known, &parsed(&text));
                }
                let (mut state, mut full) = (String::new(), String::new());
                encoder.state(&mut feed, SubId(1), &mut state);
                let mut newcomer = Known::new();
                take(&mut newcomer, &parsed(&state)["snapshot"]);
                assert_eq!(known, newcomer, "{filter}: {text}");
                let mut slow = Known::new();
                text.clear();
                assert!(encoder.full(&mut feed, SubId(1), &mut full, &mut text));
                take(&mut slow, &parsed(&format!("{full}2{text}")));
                assert_eq!(known, slow, "{filter}");
                let mut watched = Vec::new();
                encoder.watches(&feed, &mut |plugin| watched.push(plugin.clone()));
                assert!(known.values().all(|d| watched.iter().any(|p| d["plugin"] == **p)));
            }
            assert!(!known.is_empty(), "{filter}");
        }
    }
}
