//! What clients are told: what has become of a change, what stands on a board,
//! and what others do to it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::message::{Kind, Told, id};
use super::operation::{Said, data_of, id_of};
use crate::channel::{Feed, LogEncoder, SubId};
use crate::clock::rfc3339;
use crate::layouts::ChangeError;
use crate::model::{Board, Changed, Logged, Object, ObjectKey, ObjectKind, Stale, Topic};
use crate::store::CHANGED;

/// What has become of a change: which message tells it, and its payload.
pub(super) fn outcome(said: &Said, outcome: Result<Changed, ChangeError>) -> (Kind, Value) {
    match outcome {
        Ok(changed) => {
            let word = if said.kind == Kind::ConflictResolved { "resolved" } else { "received" };
            let mut payload = Map::new();
            payload.insert(word.to_owned(), true.into());
            payload.extend(versions(said.kind, &changed));
            (Kind::Ack, payload.into())
        }
        Err(ChangeError::Conflict(stale)) => (Kind::ConflictDetected, conflict(said, &stale)),
        Err(error) => (Kind::Nack, refusal(&error).into()),
    }
}

/// The same as an operation's result over HTTP.
#[must_use]
pub fn result(said: &Said, outcome: Result<Changed, ChangeError>) -> Map<String, Value> {
    let (status, mut members) = match outcome {
        Ok(changed) => ("applied", versions(said.kind, &changed)),
        Err(ChangeError::Conflict(stale)) => {
            let told = ("conflict".to_owned(), conflict(said, &stale));
            ("conflict", Map::from_iter([told]))
        }
        Err(error) => ("error", refusal(&error)),
    };
    members.insert("status".to_owned(), status.into());
    members
}

/// `version` or `versions`, and `syncVersion`.
fn versions(kind: Kind, changed: &Changed) -> Map<String, Value> {
    let mut members = Map::new();
    match changed.versions.first() {
        Some((_, version)) if !kind.has_members() => {
            members.insert("version".to_owned(), (*version).into());
        }
        _ => {
            let all = changed.versions.iter();
            let all: Value = all.map(|(key, version)| versioned(key, *version)).collect();
            members.insert("versions".to_owned(), all);
        }
    }
    members.insert("syncVersion".to_owned(), changed.revision.into());
    members
}

/// `{widgetId or layoutId, version}`
fn versioned(key: &ObjectKey, version: u64) -> Value {
    json!({id_of(key.kind): key.id, "version": version})
}

/// What stands there, what the client wanted, and what it was made on.
fn conflict(said: &Said, stale: &Stale) -> Value {
    let Stale { at, key, base, current, basis } = stale;
    let stands = |object: &Object| json!({"version": object.version, "data": object.data});
    let nothing = || json!({"version": 0, "data": null});
    let basis = match basis {
        Some(basis) => stands(basis),
        None if *base == 0 => nothing(),
        None => Value::Null,
    };
    let mut told = json!({
        id_of(key.kind): key.id,
        "server": current.as_ref().map_or_else(nothing, stands),
        "client": {"version": base, "data": said.data(*at, key.kind)},
        "base": basis,
    });
    if said.kind.has_members() {
        told["index"] = (*at).into();
    }
    told
}

/// `error`, and whether and when the same would be taken.
#[must_use]
pub fn refusal(error: &ChangeError) -> Map<String, Value> {
    let retry_after_ms = match error {
        ChangeError::Throttled(after) => Some(after.as_millis()),
        ChangeError::Busy => Some(100),
        ChangeError::Stopping => Some(1000),
        _ => None,
    };
    let mut members = Map::from_iter([("error".to_owned(), error.to_string().into())]);
    if let Some(ms) = retry_after_ms {
        members.insert("temporary".to_owned(), true.into());
        members.insert("retryAfterMs".to_owned(), u64::try_from(ms).unwrap_or(u64::MAX).into());
    }
    members
}

/// What stands on a board, or what of it has changed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    sync_state: &'static str,
    /// Connections that are told what is done to the board.
    client_count: usize,
    timestamp: String,
    /// The board's revision.
    version: u64,
    epoch: &'a str,
    full: bool,
    widgets: Vec<Widget<'a>>,
    layouts: Vec<Layout<'a>>,
    deleted: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Widget<'a> {
    widget_id: &'a str,
    data: &'a RawValue,
    version: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layout<'a> {
    layout_id: &'a str,
    layout: &'a RawValue,
    version: u64,
}

/// What stands on a board: what has changed after the revision `since`, if that
/// can be told; else all of it.
pub(super) fn state(
    feed: &Feed,
    board: &Board,
    since: Option<u64>,
    user: &str,
    answers: Option<&str>,
) -> String {
    let standing = feed.boards.get(board);
    let (version, floor) = standing.map_or((0, 0), |standing| (standing.revision, standing.floor));
    let since = since.filter(|since| (floor..=version).contains(since));
    let (mut widgets, mut layouts, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    let objects = standing.into_iter().flat_map(|standing| standing.objects.values());
    for object in objects.filter(|object| since.is_none_or(|since| object.revision > since)) {
        let (id, version) = (&*object.key.id, object.version);
        match (object.key.kind, object.data.as_deref()) {
            (ObjectKind::Widget, Some(data)) => {
                widgets.push(Widget { widget_id: id, data, version });
            }
            (ObjectKind::Layout, Some(layout)) => {
                layouts.push(Layout { layout_id: id, layout, version });
            }
            // Who is told all knows by itself what is not there.
            (_, None) if since.is_none() => {}
            (_, None) => deleted.push(versioned(&object.key, version)),
        }
    }
    let state = State {
        sync_state: "ready",
        client_count: feed.present.get(board.room()).map_or(0, |present| present.values().sum()),
        timestamp: rfc3339(feed.clock.now_ns()),
        version,
        epoch: &feed.epoch,
        full: since.is_none(),
        widgets,
        layouts,
        deleted,
    };
    Told::now(&feed.clock, Kind::SyncResponse, user, state, answers).text()
}

/// What others do to a board.
pub(super) struct Changes {
    board: Board,
    topic: Topic,
}

/// A change as it was logged.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    revision: u64,
    objects: Vec<Object>,
    #[serde(borrow)]
    operation: Done<'a>,
}

#[derive(Deserialize)]
struct Done<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(borrow)]
    payload: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

impl Changes {
    pub(super) fn new(board: Board) -> Self {
        Self { topic: Topic::Room(board.room().clone()), board }
    }

    /// The same for all who are told the same.
    pub(super) fn key(&self) -> String {
        format!("sync {}", self.board.room())
    }

    /// The message that tells of a change; `None` if it can't be read.
    fn write(logged: &Logged) -> Option<String> {
        let body: Body<'_> = serde_json::from_str(logged.entry.body.get()).ok()?;
        let Data { revision, objects, operation: Done { kind, payload } } = body.data;
        // Of what was not there and is deleted nothing is left: it has no version.
        let first = objects.first();
        let version = first.map_or(0, |object| object.version);
        let added: Vec<(&str, Value)> = match kind {
            kind if kind.has_members() => {
                let all = objects.iter().map(|object| versioned(&object.key, object.version));
                vec![("versions", all.collect())]
            }
            Kind::LayoutRestore => vec![
                ("version", version.into()),
                (data_of(first?.key.kind), json!(first?.data)),
                ("restoredVersion", json!(payload.get("version"))),
            ],
            _ => vec![("version", version.into())],
        };
        let added = added.into_iter().chain([("syncVersion", revision.into())]);
        let added: BTreeMap<&str, Value> = added.collect();
        let payload = Payload { said: payload, added };
        // The same of the same change, whenever it is told.
        let number = body.id.get(..16).and_then(|id| u64::from_str_radix(id, 16).ok());
        let number = number.unwrap_or(logged.offset);
        let told = Told {
            kind,
            id: id(logged.entry.time_ms, number),
            timestamp: rfc3339(logged.entry.time_ms.saturating_mul(1_000_000)),
            user: &body.source,
            payload,
            answers: None,
        };
        Some(told.text())
    }
}

/// What a client has said of a change, and what the hub knows of it: that goes
/// over the other.
struct Payload<'a> {
    said: BTreeMap<Cow<'a, str>, &'a RawValue>,
    added: BTreeMap<&'a str, Value>,
}

impl Serialize for Payload<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let said = self.said.iter().filter(|(name, _)| !self.added.contains_key(&***name));
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in said {
            map.serialize_entry(name, value)?;
        }
        for (name, value) in &self.added {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl LogEncoder for Changes {
    fn topic(&self) -> &Topic {
        &self.topic
    }

    fn wants(&self, logged: &Logged) -> bool {
        logged.subject().kind == CHANGED
    }

    /// What stands is told to who asks for it: the reply is CONNECT, and whole.
    fn fresh(&self, _: &Feed, _: SubId, _: &mut String) {}

    /// Nobody goes on by an offset here.
    fn resumed(&self, _: &Feed, _: SubId, _: &[(u64, &Logged)], _: &mut String) {}

    fn push(&self, feed: &Feed, _: SubId, _: u64, logged: &Logged, text: &mut String) {
        // What can't be told by itself is in what stands.
        let told = Self::write(logged);
        text.push_str(&told.unwrap_or_else(|| state(feed, &self.board, None, "", None)));
    }

    /// What follows says all by itself; where nothing can follow, all that stands
    /// is told.
    fn gap(&self, feed: &Feed, _: SubId, _: u64, _: u64, lost: bool, text: &mut String) {
        if lost {
            text.push_str(&state(feed, &self.board, None, "", None));
        }
    }
}
