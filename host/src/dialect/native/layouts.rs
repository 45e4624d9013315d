//! Boards: the `layouts` channel, `put` and `versions`.

use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::encode::{to_json, write_all, write_list};
use super::publish::{BUSY_MS, STOPPING_MS};
use super::subscribe::denied;
use super::{Native, Refusal, millis};
use crate::access::Identity;
use crate::channel::{Feed, Standing, StateEncoder, SubId};
use crate::clock::rfc3339;
use crate::layouts::{ChangeDraft, ChangeError};
use crate::model::{
    Board, Changed, Edit, Object, ObjectKey, ObjectKind, Operation, PluginName, Room,
};
use crate::session::Act;
use crate::store::{ObjectVersion, StoreError};

/// The `layouts` channel: what stands on a board.
pub(super) struct Layouts {
    board: Board,
    /// The revision that was pushed last; pushes say what has changed since.
    told: u64,
}

/// An object as clients are told of it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    key: &'a ObjectKey,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

fn told(object: &Object) -> Told<'_> {
    Told { key: &object.key, version: object.version, data: object.data.as_deref() }
}

impl Layouts {
    pub(super) fn new(board: Board) -> Self {
        Self { board, told: 0 }
    }

    /// `"tick":…,"time":…,"board":…,"version":…`
    fn moment(&self, feed: &Feed, version: u64) -> String {
        let tick = feed.snapshot.tick;
        let (time, board) = (rfc3339(tick.time_ns), to_json(self.board.as_str()));
        let number = tick.number;
        format!("\"tick\":{number},\"time\":\"{time}\",\"board\":{board},\"version\":{version}")
    }

    /// `"objects":[…]`: all that stands there.
    fn write_all(standing: Option<&Standing>, text: &mut String) {
        let objects = standing.into_iter().flat_map(|standing| standing.objects.values());
        let objects = objects.filter(|object| object.data.is_some());
        text.push_str("\"objects\":");
        write_all(text, objects, |text, object| text.push_str(&to_json(&told(object))));
    }
}

impl StateEncoder for Layouts {
    fn push(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) -> bool {
        let standing = feed.boards.get(&self.board);
        let version = standing.map_or(0, |standing| standing.revision);
        let before = std::mem::replace(&mut self.told, version);
        let Some(standing) = standing.filter(|_| version > before) else { return false };
        let moment = self.moment(feed, version);
        // Writing to a string can't fail.
        let _ = write!(text, "{{\"push\":\"layouts\",\"sub\":{},{moment}", sub.0);
        if standing.floor > before {
            // Of what was deleted since then not all is remembered.
            text.push_str(",\"full\":true,\"skipped\":0,");
            Self::write_all(Some(standing), text);
        } else {
            let new = standing.objects.values().filter(|object| object.revision > before);
            let (changed, gone): (Vec<_>, Vec<_>) =
                new.map(|object| told(object)).partition(|told| told.data.is_some());
            write_list(text, "objects", &changed);
            write_list(text, "gone", &gone);
        }
        text.push('}');
        true
    }

    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) {
        let standing = feed.boards.get(&self.board);
        let moment = self.moment(feed, standing.map_or(0, |standing| standing.revision));
        let epoch = to_json(&feed.epoch);
        let _ = write!(text, "{{\"channel\":\"layouts\",\"sub\":{},\"snapshot\":{{", sub.0);
        let _ = write!(text, "{moment},\"epoch\":{epoch},");
        Self::write_all(standing, text);
        text.push_str("}}");
    }

    fn full(
        &mut self,
        feed: &mut Feed,
        sub: SubId,
        before: &mut String,
        after: &mut String,
    ) -> bool {
        let standing = feed.boards.get(&self.board);
        let moment = self.moment(feed, standing.map_or(0, |standing| standing.revision));
        let sub = sub.0;
        let _ = write!(
            before,
            "{{\"push\":\"layouts\",\"sub\":{sub},{moment},\"full\":true,\"skipped\":"
        );
        after.push(',');
        Self::write_all(standing, after);
        after.push('}');
        true
    }

    fn room(&self) -> Option<&Room> {
        Some(self.board.room())
    }

    fn watches(&self, _: &Feed, _: &mut dyn FnMut(&PluginName)) {}
}

/// The board of that name; without one, the client's home. What may be done to it
/// is another question.
///
/// # Errors
///
/// It is no name, or the client has no home.
pub(super) fn board(name: Option<&str>, who: &Identity) -> Result<Board, Refusal> {
    match name {
        Some(name) => Board::new(name).map_err(|_| {
            let words = "a board's name has up to 250 bytes, no spaces, and no colon at its end";
            Refusal::new("bad_request", words)
        }),
        None => who.home_board().ok_or_else(|| {
            Refusal::new("bad_request", "`board` is missing: this token has several, or none")
        }),
    }
}

/// The command that changes an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "op")]
    _op: IgnoredAny,
    board: Option<String>,
    widget: Option<String>,
    layout: Option<String>,
    /// Kept as it was written; null deletes.
    data: Box<RawValue>,
    base: Option<u64>,
    key: Option<String>,
}

/// The command that asks for what an object was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionsCommand {
    board: Option<String>,
    widget: Option<String>,
    layout: Option<String>,
    version: Option<u64>,
}

/// The object that a command names.
fn object(widget: Option<&str>, layout: Option<&str>) -> Result<ObjectKey, Refusal> {
    let named = match (widget, layout) {
        (Some(id), None) => ObjectKey::new(ObjectKind::Widget, id),
        (None, Some(id)) => ObjectKey::new(ObjectKind::Layout, id),
        _ => return Err(Refusal::new("bad_request", "say `widget` or `layout`, one of them")),
    };
    named.map_err(|broken| Refusal::new("bad_request", broken.to_string()))
}

/// What the board's other clients are told, in the words of the sync dialect. The
/// data as it stands: some that is well-formed can't be read (`1e999`, half a
/// surrogate pair, what is nested too deep), and is refused with the change.
fn as_told(key: &ObjectKey, data: &RawValue) -> Result<Box<RawValue>, Refusal> {
    let (id, of) = match key.kind {
        ObjectKind::Widget => ("widgetId", "data"),
        ObjectKind::Layout => ("layoutId", "layout"),
    };
    let name = json!(key.id);
    let told = format!(
        r#"{{"type":"SYNC_UPDATE","payload":{{"objects":[{{"{id}":{name},"{of}":{data}}}]}}}}"#
    );
    let bad = |error: serde_json::Error| Refusal::new("bad_request", error.to_string());
    RawValue::from_string(told).map_err(bad)
}

impl Native {
    pub(super) fn put(&self, id: &RawValue, put: Put) -> Result<Act, Refusal> {
        let by = self.who()?;
        let board = board(put.board.as_deref(), &by)?;
        let key = object(put.widget.as_deref(), put.layout.as_deref())?;
        let told = as_told(&key, &put.data)?;
        let edit = match put.data.get() {
            "null" => Edit::Delete,
            _ => Edit::Replace(put.data),
        };
        let draft = ChangeDraft {
            board: board.clone(),
            operations: vec![Operation { key, edit, base: put.base }],
            id: put.key,
            told,
            exclude: None,
        };
        let id = id.to_owned();
        let answer = move |outcome: Result<Changed, ChangeError>| match outcome {
            Ok(Changed { revision, versions }) => {
                let version = versions.first().map_or(0, |(_, version)| *version);
                let ok = json!({"board": board.as_str(), "version": version, "revision": revision});
                json!({"id": id, "ok": ok}).to_string()
            }
            Err(error) => refused(&id, &error),
        };
        Ok(Act::Change { by, draft, answer: Box::new(answer) })
    }

    pub(super) fn versions(&self, id: &RawValue, wanted: &VersionsCommand) -> Result<Act, Refusal> {
        let who = self.who()?;
        let board = board(wanted.board.as_deref(), &who)?;
        let key = object(wanted.widget.as_deref(), wanted.layout.as_deref())?;
        if !who.may_read_board(&board) {
            let refusal = denied();
            self.note(&refusal, board.room().as_str());
            return Err(refusal);
        }
        let (id, version, of) = (id.to_owned(), wanted.version, (board.clone(), key.clone()));
        let answer = move |found: Result<Vec<ObjectVersion>, StoreError>| {
            let body = found.map_err(Refusal::from).and_then(|found| list(&of, version, &found));
            match body {
                Ok(body) => json!({"id": id, "ok": body}).to_string(),
                Err(refusal) => refusal.answer(&id),
            }
        };
        Ok(Act::Versions { board, key, version, answer: Box::new(answer) })
    }
}

/// The versions that were found of an object.
fn list(
    (board, key): &(Board, ObjectKey),
    version: Option<u64>,
    found: &[ObjectVersion],
) -> Result<serde_json::Value, Refusal> {
    let head = |it: &ObjectVersion| {
        json!({
            "version": it.object.version,
            "time": rfc3339(it.time_ms.saturating_mul(1_000_000)),
            "user": it.user,
            "deleted": it.object.data.is_none(),
        })
    };
    let mut body = match (version, found.first()) {
        (None, _) => json!({"versions": found.iter().map(head).collect::<Vec<_>>()}),
        (Some(_), Some(one)) => {
            let mut body = head(one);
            body["data"] = json!(one.object.data);
            body
        }
        (Some(version), None) => {
            let words = format!("version {version} of this object is not kept");
            return Err(Refusal::new("not_found", words));
        }
    };
    body["board"] = json!(board.as_str());
    body[key.kind.as_str()] = json!(key.id);
    Ok(body)
}

/// Answers a change that was not made. A conflict says what stands there.
fn refused(id: &RawValue, error: &ChangeError) -> String {
    let mut refusal = json!(Refusal::from(error));
    if let ChangeError::Conflict(stale) = error {
        refusal["current"] = match &stale.current {
            Some(Object { version, data, .. }) => json!({"version": version, "data": data}),
            None => serde_json::Value::Null,
        };
    }
    json!({"id": id, "error": refusal}).to_string()
}

impl From<&ChangeError> for Refusal {
    fn from(error: &ChangeError) -> Self {
        let (code, retry_after_ms) = match error {
            ChangeError::Invalid(_) => ("bad_request", None),
            ChangeError::TooLarge(_) => ("too_large", None),
            ChangeError::Denied => ("denied", None),
            ChangeError::Conflict(_) => ("conflict", None),
            ChangeError::IdReused => ("key_reused", None),
            ChangeError::NotKept(_) => ("not_found", None),
            ChangeError::Full(_) => ("full", None),
            ChangeError::Busy => ("busy", Some(BUSY_MS)),
            ChangeError::Throttled(wait) => ("too_many_requests", Some(millis(*wait).max(1))),
            ChangeError::Stopping => ("stopping", Some(STOPPING_MS)),
        };
        let temporary = retry_after_ms.is_some();
        Self { temporary, retry_after_ms, ..Self::new(code, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::Value;

    use super::*;
    use crate::dialect::native::tests::{World, act, answer, state_encoder};
    use crate::model::{Entry, Logged, Route};
    use crate::store::CHANGED;

    /// The objects that a client knows: version and data.
    type Known = BTreeMap<String, (Value, Value)>;

    fn take(known: &mut Known, told: &Value) {
        let key = |object: &Value| format!("{}/{}", object["kind"], object["id"]);
        if told["full"] == true {
            known.clear();
        }
        for object in told["objects"].as_array().into_iter().flatten() {
            known.insert(key(object), (object["version"].clone(), object["data"].clone()));
        }
        for object in told["gone"].as_array().into_iter().flatten() {
            assert!(object.get("data").is_none() && object["version"].is_u64());
            known.remove(&key(object));
        }
    }

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// A change of some objects of a board, as the store tells it.
    fn changed(feed: &mut Feed, dice: &mut StdRng) {
        let board = Board::new(["home", "other"][dice.random_range(0..2)]).unwrap();
        let revision = feed.boards.get(&board).map_or(0, |standing| standing.revision) + 1;
        // At times all is deleted, more than is remembered.
        let (count, gone) = match dice.random_range(0..20) {
            0 => (1000, 1.0),
            _ => (dice.random_range(0..10), 0.3),
        };
        let objects = (0..count).map(|_| {
            let kind = ["widget", "layout"][dice.random_range(0..2)];
            let data = match dice.random_bool(gone) {
                true => Value::Null,
                false => json!({"x": dice.random_range(0..100)}),
            };
            let id = format!("w{}", dice.random_range(0..400));
            json!({"kind": kind, "id": id, "version": revision, "revision": revision, "data": data})
        });
        let data = json!({"revision": revision, "objects": objects.collect::<Vec<_>>()});
        let body = json!({"type": CHANGED, "data": data});
        let route = Route { rooms: vec![board.room().clone()], exclude: None };
        let entry = Entry::event(0, route, &body).unwrap();
        feed.take_entry(&Arc::new(Logged::new(feed.head + 1, entry)));
    }

    #[test]
    fn whoever_follows_the_pushes_knows_what_a_newcomer_is_told() {
        let (mut world, mut feed) = (World::new(7), World::feed());
        let mut dice = StdRng::seed_from_u64(7);
        let mut encoder = state_encoder(r#""channel":"layouts","board":"home""#);
        let mut known = Known::new();
        let mut forgotten = 0;
        for _ in 0..400 {
            for _ in 0..dice.random_range(0..3) {
                changed(&mut feed, &mut dice);
            }
            world.tick(&mut feed);
            let mut text = String::new();
            if encoder.push(&mut feed, SubId(1), &mut text) {
                let push = parsed(&text);
                forgotten += usize::from(push["full"] == true);
                take(&mut known, &push);
            }
            let (mut state, mut full) = (String::new(), String::new());
            encoder.state(&mut feed, SubId(1), &mut state);
            let state = parsed(&state);
            let mut newcomer = Known::new();
            take(&mut newcomer, &state["snapshot"]);
            assert_eq!(known, newcomer, "{text}");
            assert_eq!(
                (&state["snapshot"]["board"], &state["snapshot"]["epoch"]),
                (&json!("home"), &json!("k3"))
            );
            let mut slow = Known::new();
            text.clear();
            assert!(encoder.full(&mut feed, SubId(1), &mut full, &mut text));
            take(&mut slow, &parsed(&format!("{full}2{text}")));
            assert_eq!(known, slow);
        }
        assert!(!known.is_empty() && forgotten > 0 && forgotten < 200, "{forgotten}");
    }

    fn change(message: &str) -> ChangeDraft {
        match act(message) {
            Act::Change { draft, .. } => draft,
            Act::Send(refusal) => panic!("{message}: {refusal}"),
            _ => panic!("{message}"),
        }
    }

    #[test]
    fn a_put_is_kept_as_it_was_written_and_told_in_the_words_of_the_sync_clients() {
        let text =
            r#"{"id":1,"op":"put","widget":"cpu","data":{"b":1.50,"a":2},"base":3,"key":"k"}"#;
        let draft = change(text);
        assert_eq!((draft.board.as_str(), draft.id.as_deref()), ("shared", Some("k")));
        let [Operation { key, edit: Edit::Replace(data), base: Some(3) }] = &draft.operations[..]
        else {
            panic!("{:?}", draft.operations)
        };
        assert_eq!(
            (key.kind, &*key.id, data.get()),
            (ObjectKind::Widget, "cpu", r#"{"b":1.50,"a":2}"#)
        );
        let object = json!({"widgetId": "cpu", "data": {"a": 2, "b": 1.5}});
        let told = json!({"type": "SYNC_UPDATE", "payload": {"objects": [object]}});
        assert_eq!(parsed(draft.told.get()), told);
        let draft = change(r#"{"id":1,"op":"put","board":"team","layout":"main","data":null}"#);
        assert!(matches!(
            &draft.operations[..],
            [Operation { edit: Edit::Delete, base: None, .. }]
        ));
        let object = json!({"layoutId": "main", "layout": null});
        assert_eq!(parsed(draft.told.get())["payload"]["objects"], json!([object]));
    }

    #[test]
    fn what_names_no_object_or_no_board_is_refused() {
        for (message, words) in [
            (r#"{"id":1,"op":"put","data":{}}"#, "`widget` or `layout`"),
            (r#"{"id":1,"op":"put","widget":"a","layout":"b","data":{}}"#, "`widget` or `layout`"),
            (r#"{"id":1,"op":"put","widget":"a"}"#, "data"),
            (r#"{"id":1,"op":"put","widget":"a","data":{},"color":1}"#, "color"),
            (r#"{"id":1,"op":"put","widget":"","data":{}}"#, "1 to 256 bytes"),
            (r#"{"id":1,"op":"put","widget":"a","board":"a b","data":{}}"#, "a board's name"),
            (r#"{"id":1,"op":"put","widget":"a","data":{},"base":-1}"#, "u64"),
            (r#"{"id":1,"op":"versions"}"#, "`widget` or `layout`"),
            (r#"{"id":1,"op":"subscribe","channel":"layouts","fields":[]}"#, "it takes board"),
            (r#"{"id":1,"op":"subscribe","channel":"metrics","board":"a"}"#, "takes no board"),
        ] {
            let error = &answer(message)["error"];
            assert_eq!(error["code"], "bad_request", "{message}");
            assert!(error["reason"].as_str().unwrap().contains(words), "{error}");
        }
    }

    #[test]
    fn a_conflict_tells_what_stands_there() {
        let stale = |current| {
            let key = ObjectKey::new(ObjectKind::Widget, "cpu").unwrap();
            let stale = crate::model::Stale { at: 0, key, base: 3, current, basis: None };
            let id = RawValue::from_string("7".to_owned()).unwrap();
            parsed(&refused(&id, &ChangeError::Conflict(Box::new(stale))))
        };
        let object = Object {
            key: ObjectKey::new(ObjectKind::Widget, "cpu").unwrap(),
            version: 5,
            revision: 9,
            data: None,
        };
        let error = json!({
            "code": "conflict", "reason": "widget \"cpu\" has changed since version 3",
            "temporary": false, "current": {"version": 5, "data": null},
        });
        assert_eq!(stale(Some(object)), json!({"id": 7, "error": error}));
        assert_eq!(stale(None)["error"]["current"], Value::Null);
    }
}
