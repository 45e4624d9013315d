//! What messages do to a board: the same over WebSocket and over HTTP.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::message::Kind;
use crate::layouts::ChangeDraft;
use crate::model::{Board, ConnectionId, Edit, OPERATIONS_MAX, ObjectKey, ObjectKind, Operation};

/// The layout that is meant where none is named.
const LAYOUT: &str = "default";

/// A message that changes a board, as it is to be done and told.
#[derive(Debug)]
pub struct Write {
    /// What it is.
    pub(super) kind: Kind,
    operations: Vec<Operation>,
    told: Box<RawValue>,
}

type Members = Map<String, Value>;

impl Write {
    /// Reads the payload of a message that changes something.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn read(kind: Kind, payload: &Members) -> Result<Self, String> {
        /// With the members in the order of their names, wherever they stood: the
        /// same is told in the same words.
        #[derive(Serialize)]
        struct Said<'a> {
            r#type: Kind,
            payload: &'a Members,
        }
        let operations = operations(kind, payload)?;
        let told = to_raw_value(&Said { r#type: kind, payload }).map_err(|e| e.to_string())?;
        Ok(Self { kind, operations, told })
    }

    /// The change that it is, and what tells of its outcome.
    #[must_use]
    pub fn draft(
        self,
        board: Board,
        id: Option<String>,
        exclude: Option<ConnectionId>,
    ) -> (ChangeDraft, Said) {
        let Self { kind, operations, told } = self;
        let said = Said { kind, told: told.clone() };
        (ChangeDraft { board, operations, id, told, exclude }, said)
    }
}

/// What a client wanted: its outcome is told in its words.
#[derive(Debug)]
pub struct Said {
    pub(super) kind: Kind,
    told: Box<RawValue>,
}

impl Said {
    /// What the client wanted an object to be, or which members of it: that of
    /// the operation at this place. Read again, since few ask for it.
    pub(super) fn data(&self, at: usize, kind: ObjectKind) -> Value {
        let mut told: Value = serde_json::from_str(self.told.get()).unwrap_or_default();
        let member = match kind {
            ObjectKind::Layout if self.kind != Kind::ConflictResolved => "layout",
            _ => "data",
        };
        let path = match self.kind {
            Kind::WidgetBatch => format!("/payload/operations/{at}/payload/{member}"),
            Kind::SyncUpdate => format!("/payload/objects/{at}/{member}"),
            _ => format!("/payload/{member}"),
        };
        told.pointer_mut(&path).map(Value::take).unwrap_or_default()
    }
}

fn operations(kind: Kind, payload: &Members) -> Result<Vec<Operation>, String> {
    match kind {
        Kind::WidgetBatch => each(payload, "operations", |member| {
            let word = member.get("type").and_then(Value::as_str).unwrap_or_default();
            match Kind::from_word(word) {
                Some(kind @ (Kind::WidgetUpdate | Kind::WidgetDelete | Kind::LayoutUpdate)) => {
                    one(kind, object(member, "payload")?)
                }
                _ => Err("`type` is WIDGET_UPDATE, WIDGET_DELETE or LAYOUT_UPDATE".to_owned()),
            }
        }),
        Kind::SyncUpdate => each(payload, "objects", |member| {
            let key = key(member)?;
            let edit = put(member, data_of(key.kind))?;
            Ok(Operation { key, edit, base: base(member)? })
        }),
        _ => Ok(vec![one(kind, payload)?]),
    }
}

/// Reads the members of a list.
fn each(
    payload: &Members,
    name: &str,
    read: impl Fn(&Members) -> Result<Operation, String>,
) -> Result<Vec<Operation>, String> {
    let list = payload.get(name).and_then(Value::as_array);
    let list = list.ok_or_else(|| format!("`{name}` is a list"))?;
    if !(1..=OPERATIONS_MAX).contains(&list.len()) {
        return Err(format!("`{name}` has 1 to {OPERATIONS_MAX} members, not {}", list.len()));
    }
    let read = |(at, member): (usize, &Value)| {
        let member = member.as_object().ok_or_else(|| "it is no JSON object".to_owned());
        member.and_then(&read).map_err(|words| format!("{name}[{at}]: {words}"))
    };
    list.iter().enumerate().map(read).collect()
}

/// Reads what changes one object.
fn one(kind: Kind, payload: &Members) -> Result<Operation, String> {
    let (key, edit) = match kind {
        Kind::WidgetUpdate => {
            let data = object(payload, "data")?.clone();
            (named(payload, ObjectKind::Widget)?, Edit::Merge(data))
        }
        Kind::WidgetDelete => (named(payload, ObjectKind::Widget)?, Edit::Delete),
        Kind::LayoutUpdate => {
            let layout = raw(object(payload, "layout")?)?;
            (named(payload, ObjectKind::Layout)?, Edit::Replace(layout))
        }
        Kind::LayoutRestore => {
            let version = whole(payload, "version")?.ok_or("`version` is missing")?;
            (key(payload)?, Edit::Restore(version))
        }
        Kind::ConflictResolved => (key(payload)?, put(payload, "data")?),
        _ => return Err("this changes nothing".to_owned()),
    };
    Ok(Operation { key, edit, base: base(payload)? })
}

/// The widget or the layout that is meant.
fn key(members: &Members) -> Result<ObjectKey, String> {
    let has = |name: &str| members.get(name).is_some_and(|id| !id.is_null());
    match (has("widgetId"), has("layoutId")) {
        (true, true) => Err("either `widgetId` or `layoutId`".to_owned()),
        (true, false) => named(members, ObjectKind::Widget),
        (false, _) => named(members, ObjectKind::Layout),
    }
}

/// The object of a kind that is meant.
fn named(members: &Members, kind: ObjectKind) -> Result<ObjectKey, String> {
    let name = id_of(kind);
    let id = match members.get(name).filter(|id| !id.is_null()) {
        Some(id) => id.as_str().ok_or_else(|| format!("`{name}` is a text"))?,
        None if kind == ObjectKind::Layout => LAYOUT,
        None => return Err(format!("`{name}` is missing")),
    };
    ObjectKey::new(kind, id).map_err(|broken| broken.to_string())
}

/// What an object is to be: what a member says, or there no more where it says
/// null.
fn put(members: &Members, name: &str) -> Result<Edit, String> {
    match members.get(name) {
        Some(Value::Null) => Ok(Edit::Delete),
        Some(Value::Object(data)) => raw(data).map(Edit::Replace),
        Some(_) => Err(format!("`{name}` is a JSON object")),
        None => Err(format!("`{name}` is missing")),
    }
}

fn base(members: &Members) -> Result<Option<u64>, String> {
    whole(members, "baseVersion")
}

fn object<'a>(members: &'a Members, name: &str) -> Result<&'a Members, String> {
    let object = members.get(name).and_then(Value::as_object);
    object.ok_or_else(|| format!("`{name}` is a JSON object"))
}

/// A whole number, where there is one.
pub(super) fn whole(members: &Members, name: &str) -> Result<Option<u64>, String> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(number) => {
            number.as_u64().map(Some).ok_or_else(|| format!("`{name}` is a whole number"))
        }
    }
}

fn raw(data: &Members) -> Result<Box<RawValue>, String> {
    to_raw_value(data).map_err(|error| error.to_string())
}

/// What names an object of a kind on the wire.
pub(super) fn id_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Layout => "layoutId",
        ObjectKind::Widget => "widgetId",
    }
}

/// What holds it.
pub(super) fn data_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Layout => "layout",
        ObjectKind::Widget => "data",
    }
}
