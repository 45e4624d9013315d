//! What operations make of a board: by the rules of the wire, without a hub.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// An operation, or a change as others are told of it.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) payload: Value,
}

/// A widget or a layout; null data: it was deleted, or never was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) version: u64,
    pub(super) data: Value,
}

/// What is known of the objects of a board, by their keys.
pub(super) type Objects = BTreeMap<String, Object>;

/// What is done to one object.
pub(super) struct Step {
    pub(super) key: String,
    pub(super) edit: Edit,
    pub(super) base: Option<u64>,
}

pub(super) enum Edit {
    Merge(Map<String, Value>),
    Replace(Value),
    Restore(u64),
}

/// Of which object a payload is.
pub(super) fn key_of(payload: &Value) -> String {
    match (payload["widgetId"].as_str(), payload["layoutId"].as_str()) {
        (Some(id), _) => format!("widget/{id}"),
        (None, id) => format!("layout/{}", id.unwrap_or("default")),
    }
}

/// The members that name an object.
pub(super) fn named(key: &str) -> Value {
    match key.split_once('/').unwrap() {
        ("widget", id) => json!({"widgetId": id}),
        (_, id) => json!({"layoutId": id}),
    }
}

impl Op {
    pub(super) fn steps(&self) -> Vec<Step> {
        steps(&self.kind, &self.payload)
    }

    pub(super) fn is_of_one(&self) -> bool {
        !["WIDGET_BATCH", "SYNC_UPDATE"].contains(&self.kind.as_str())
    }
}

fn steps(kind: &str, payload: &Value) -> Vec<Step> {
    let one = |payload: &Value, edit| {
        vec![Step { key: key_of(payload), edit, base: payload["baseVersion"].as_u64() }]
    };
    let list = |name: &str| payload[name].as_array().unwrap().iter();
    match kind {
        "WIDGET_UPDATE" => one(payload, Edit::Merge(payload["data"].as_object().unwrap().clone())),
        "WIDGET_DELETE" => one(payload, Edit::Replace(Value::Null)),
        "LAYOUT_UPDATE" => one(payload, Edit::Replace(payload["layout"].clone())),
        "CONFLICT_RESOLVED" => one(payload, Edit::Replace(payload["data"].clone())),
        "LAYOUT_RESTORE" => one(payload, Edit::Restore(payload["version"].as_u64().unwrap())),
        "WIDGET_BATCH" => list("operations")
            .flat_map(|member| steps(member["type"].as_str().unwrap(), &member["payload"]))
            .collect(),
        "SYNC_UPDATE" => list("objects")
            .flat_map(|object| {
                let data = if object["widgetId"].is_string() { "data" } else { "layout" };
                one(object, Edit::Replace(object[data].clone()))
            })
            .collect(),
        other => panic!("no change: {other}"),
    }
}

pub(super) fn merge(data: &Value, members: Map<String, Value>) -> Value {
    let mut merged = data.as_object().cloned().unwrap_or_default();
    merged.extend(members);
    Value::Object(merged)
}

/// The board as the accepted operations make it, one after the other.
#[derive(Default)]
pub(super) struct Reference {
    pub(super) objects: Objects,
    /// What each object was in each version.
    pub(super) history: BTreeMap<(String, u64), Value>,
    /// The board after each revision, from 0 on.
    pub(super) revisions: Vec<Objects>,
}

impl Reference {
    pub(super) fn new() -> Self {
        Self { revisions: vec![Objects::new()], ..Self::default() }
    }

    /// Makes an operation that the hub has made, and returns the versions that it
    /// must have said.
    pub(super) fn apply(&mut self, op: &Op) -> Vec<u64> {
        let before = self.objects.clone();
        let versions = op.steps().into_iter().map(|Step { key, edit, base }| {
            let current = self.objects.get(&key).cloned().unwrap_or_default();
            let is_base = |object: &Object| {
                base.is_none_or(|b| object.version == b || (b == 0 && object.data.is_null()))
            };
            let first = before.get(&key).cloned().unwrap_or_default();
            assert!(is_base(&current) || is_base(&first), "made on something else: {op:?}");
            let data = match edit {
                Edit::Merge(members) => merge(&current.data, members),
                Edit::Replace(data) => data,
                Edit::Restore(version) => self.history[&(key.clone(), version)].clone(),
            };
            // To delete what is not there changes nothing.
            if data.is_null() && current.data.is_null() {
                return current.version;
            }
            let version = current.version + 1;
            self.history.insert((key.clone(), version), data.clone());
            self.objects.insert(key, Object { version, data });
            version
        });
        let versions = versions.collect();
        self.revisions.push(self.objects.clone());
        versions
    }
}

/// What stands, without what is left of what was deleted.
pub(super) fn standing(objects: &Objects) -> Objects {
    let standing = objects.iter().filter(|(_, object)| !object.data.is_null());
    standing.map(|(key, object)| (key.clone(), object.clone())).collect()
}
