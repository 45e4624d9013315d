//! The types of events that are known: what their data holds, and where they go
//! unless their publisher says otherwise. No I/O.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::{EVENT_WORD_BYTES_MAX, Room};

/// How deep data may be nested. Most JSON parsers give up, or crash, somewhere
/// beyond 100, and an event that can't be read is in the way of all after it.
pub const DATA_DEPTH_MAX: usize = 64;

/// A type that is known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The type.
    pub kind: &'static str,
    /// What its data may hold. None of it has to be there, `null` stands for
    /// what is not, and there may be more.
    pub fields: &'static [(&'static str, Shape)],
}

/// What the value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A text or a whole number.
    Id,
    /// A text.
    Text,
    /// A number.
    Number,
    /// A text or a number.
    Step,
    /// `true` or `false`.
    Flag,
    /// A list.
    List,
    /// An object.
    Object,
}

use Shape::{Flag, Id, List, Number, Object, Step, Text};

/// Of all types that are about a pull request.
const PR: &[(&str, Shape)] = &[
    ("pr_id", Id),
    ("pr_number", Number),
    ("project_id", Id),
    ("title", Text),
    ("description", Text),
    ("author", Text),
    ("branch", Text),
    ("base_branch", Text),
    ("github_url", Text),
    ("repository", Text),
    ("status", Text),
    ("action", Text),
    ("draft", Flag),
    ("merged", Flag),
    ("labels", List),
    ("user_id", Id),
    ("updated_by", Id),
    ("created_at", Text),
    ("updated_at", Text),
    ("closed_at", Text),
];
/// Of all types that are about an issue.
const ISSUE: &[(&str, Shape)] = &[
    ("issue_id", Id),
    ("issue_number", Number),
    ("project_id", Id),
    ("title", Text),
    ("description", Text),
    ("author", Text),
    ("github_url", Text),
    ("repository", Text),
    ("status", Text),
    ("action", Text),
    ("priority", Text),
    ("assigned_to", Id),
    ("labels", List),
    ("user_id", Id),
    ("updated_by", Id),
    ("created_at", Text),
    ("updated_at", Text),
    ("closed_at", Text),
];
/// Of all types that are about an agent.
const AGENT: &[(&str, Shape)] = &[
    ("agent_id", Id),
    ("agent_name", Text),
    ("status", Text),
    ("availability", Number),
    ("reason", Text),
    ("metadata", Object),
];
/// Of all types that are about a workflow.
const WORKFLOW: &[(&str, Shape)] = &[
    ("workflow_id", Id),
    ("project_id", Id),
    ("status", Text),
    ("progress", Number),
    ("current_step", Step),
    ("total_steps", Number),
    ("estimated_time_remaining", Number),
    ("logs", List),
    ("errors", List),
    ("user_id", Id),
    ("updated_by", Id),
];

/// The types of the system whose clients the event rooms are for.
pub const KNOWN: [Known; 19] = [
    Known {
        kind: "project.updated",
        fields: &[
            ("project_id", Id),
            ("project_name", Text),
            ("repository_url", Text),
            ("status", Text),
            ("changes", Object),
            ("user_id", Id),
            ("updated_by", Id),
        ],
    },
    Known {
        kind: "project.deleted",
        fields: &[("project_id", Id), ("user_id", Id), ("deleted_by", Id)],
    },
    Known { kind: "agent.status_changed", fields: AGENT },
    Known { kind: "agent.connected", fields: AGENT },
    Known { kind: "agent.disconnected", fields: AGENT },
    Known { kind: "workflow.started", fields: WORKFLOW },
    Known { kind: "workflow.progress", fields: WORKFLOW },
    Known { kind: "workflow.completed", fields: WORKFLOW },
    Known { kind: "workflow.failed", fields: WORKFLOW },
    Known { kind: "pr.created", fields: PR },
    Known { kind: "pr.updated", fields: PR },
    Known { kind: "pr.closed", fields: PR },
    Known { kind: "issue.created", fields: ISSUE },
    Known { kind: "issue.updated", fields: ISSUE },
    Known { kind: "issue.closed", fields: ISSUE },
    Known {
        kind: "ai.suggestion",
        fields: &[
            ("suggestion_id", Id),
            ("target_type", Text),
            ("target_id", Id),
            ("category", Text),
            ("title", Text),
            ("description", Text),
            ("severity", Text),
            ("confidence", Number),
            ("suggested_action", Text),
            ("metadata", Object),
            ("project_id", Id),
            ("user_id", Id),
        ],
    },
    Known {
        kind: "ai.analysis_complete",
        fields: &[
            ("analysis_id", Id),
            ("target_type", Text),
            ("target_id", Id),
            ("status", Text),
            ("summary", Text),
            ("suggestions", List),
            ("metadata", Object),
            ("project_id", Id),
            ("user_id", Id),
        ],
    },
    Known {
        kind: "connection.established",
        fields: &[("connection_id", Id), ("user_id", Id), ("rooms", List)],
    },
    Known { kind: "connection.error", fields: &[("code", Text), ("message", Text)] },
];

/// What begins the types that only the hub says, to one client at a time.
const OF_THE_HUB: &str = "connection.";

/// A type that is known.
#[must_use]
pub fn known(kind: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.kind == kind)
}

/// Checks an event's type, and its data: that every client can read it, and that
/// what is known of it is what it should be.
///
/// # Errors
///
/// What is wrong, in words for the publisher.
pub fn check(kind: &str, data: &RawValue) -> Result<(), String> {
    check_kind(kind)?;
    let known = known(kind);
    let fields = known.map_or(&[][..], |known| known.fields);
    let mut json = serde_json::Deserializer::from_str(data.get());
    let whole = Whole { fields }.deserialize(&mut json);
    let is_object = whole.map_err(|error| format!("data: {error}"))?;
    if known.is_some() && !is_object {
        return Err(format!("data of `{kind}` is an object"));
    }
    if is_object {
        route(kind, data)?;
    }
    Ok(())
}

/// The rooms of an event whose publisher names neither rooms nor a user. What
/// has been [`check`]ed always has at least one.
#[must_use]
pub fn rooms_of(kind: &str, data: &RawValue) -> Vec<Room> {
    route(kind, data).unwrap_or_else(|_| vec![Room::global()])
}

/// Words of small letters, digits and `_`, with dots between them; from the
/// second on also with `-`.
fn check_kind(kind: &str) -> Result<(), String> {
    let is_word = |word: &str, more: &[u8]| {
        let legal =
            |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_') || more.contains(byte);
        !word.is_empty() && word.as_bytes().iter().all(legal)
    };
    let is_dotted = kind.split_once('.').is_some_and(|(first, rest)| {
        is_word(first, b"") && rest.split('.').all(|word| is_word(word, b"-"))
    });
    if !is_dotted || kind.len() > EVENT_WORD_BYTES_MAX {
        let shown: String = kind.chars().take(64).collect();
        return Err(format!(
            "type {shown:?} is none: two or more words of a-z, 0-9 and _ with dots between them, \
             such as `pr.created`, {EVENT_WORD_BYTES_MAX} bytes in all"
        ));
    }
    if kind.starts_with(OF_THE_HUB) {
        return Err(format!("type {kind:?} is the hub's own: nobody else publishes it"));
    }
    Ok(())
}

/// What the data may say of where an event goes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    project_id: Option<IdValue>,
    agent_id: Option<IdValue>,
    user_id: Option<IdValue>,
    updated_by: Option<IdValue>,
    deleted_by: Option<IdValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum IdValue {
    Text(String),
    Whole(i64),
    Large(u64),
    Other(de::IgnoredAny),
}

/// Where an event goes by its type and its data.
fn route(kind: &str, data: &RawValue) -> Result<Vec<Room>, String> {
    let ids: Ids = match data.get().starts_with('{') {
        true => serde_json::from_str(data.get()).map_err(|error| format!("data: {error}"))?,
        false => Ids::default(),
    };
    let project = || room("project", "project_id", ids.project_id.as_ref());
    let user = || {
        let named = [
            ("user_id", &ids.user_id),
            ("updated_by", &ids.updated_by),
            ("deleted_by", &ids.deleted_by),
        ];
        let acting = named.into_iter().find(|(_, id)| id.is_some());
        acting.map_or(Ok(None), |(field, id)| room("user", field, id.as_ref()))
    };
    let global = Some(Room::global());
    let rooms = match kind.split('.').next() {
        Some("project" | "pr" | "issue" | "workflow") => [project()?.or(global), user()?],
        Some("agent") => [room("agent", "agent_id", ids.agent_id.as_ref())?, global],
        Some("ai") => [user()?.map_or_else(project, |user| Ok(Some(user)))?.or(global), None],
        _ => [global, None],
    };
    Ok(rooms.into_iter().flatten().collect())
}

/// The room of a kind whose id is in this field, if it is there.
fn room(kind: &str, field: &str, id: Option<&IdValue>) -> Result<Option<Room>, String> {
    let name = match id {
        None => return Ok(None),
        Some(IdValue::Text(id)) => format!("{kind}:{id}"),
        Some(IdValue::Whole(id)) => format!("{kind}:{id}"),
        Some(IdValue::Large(id)) => format!("{kind}:{id}"),
        Some(IdValue::Other(_)) => return Err(wrong(field, Id)),
    };
    Room::new(&name).map(Some).map_err(|error| format!("data.{field}: {error}"))
}

fn wrong(field: &str, shape: Shape) -> String {
    format!("data.{field} must be {}", shape.words())
}

impl Shape {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Id => "a text or a whole number",
            Text => "a text",
            Number => "a number",
            Step => "a text or a number",
            Flag => "true or false",
            List => "a list",
            Object => "an object",
        }
    }

    fn fits(self, seen: Seen) -> bool {
        match self {
            _ if seen == Seen::Null => true,
            Id => matches!(seen, Seen::Text | Seen::Whole),
            Text => seen == Seen::Text,
            Number => matches!(seen, Seen::Whole | Seen::Fraction),
            Step => matches!(seen, Seen::Text | Seen::Whole | Seen::Fraction),
            Flag => seen == Seen::Flag,
            List => seen == Seen::List,
            Object => seen == Seen::Object,
        }
    }
}

/// Reads data whole, without building anything of it; whether it is an object.
/// Fields that are known must have their shapes, and be there once: of two, some
/// clients would take the first and some the last.
struct Whole {
    fields: &'static [(&'static str, Shape)],
}

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = vec![false; self.fields.len()];
        while let Some(at) = map.next_key_seed(Name(self.fields))? {
            let seen = map.next_value_seed(Value { depth: 1 })?;
            let Some(at) = at else { continue };
            let (field, shape) = self.fields[at];
            if std::mem::replace(&mut found[at], true) {
                return Err(de::Error::custom(format!("{field} is there twice")));
            }
            if !shape.fits(seen) {
                return Err(de::Error::custom(wrong(field, shape)));
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<bool, A::Error> {
        Value { depth: 0 }.visit_seq(seq).map(|_| false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

/// Which of the fields a key is.
struct Name(&'static [(&'static str, Shape)]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|(name, _)| *name == key))
    }
}

/// What a value was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Null,
    Flag,
    Whole,
    Fraction,
    Text,
    List,
    Object,
}

/// A value within data. Numbers and texts are read, not skipped: some that are
/// well-formed can't be (`1e999`, half a surrogate pair).
struct Value {
    depth: usize,
}

impl Value {
    fn inner<E: de::Error>(&self) -> Result<Self, E> {
        if self.depth >= DATA_DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DATA_DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Seen, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        while map.next_key_seed(Name(&[]))?.is_some() {
            map.next_value_seed(self.inner()?)?;
        }
        Ok(Seen::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Seen, A::Error> {
        while seq.next_element_seed(self.inner()?)?.is_some() {}
        Ok(Seen::List)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Flag)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::Whole)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::Whole)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::Fraction)
    }

    fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
        Ok(Seen::Text)
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn rooms(kind: &str, data: &str) -> Vec<String> {
        check(kind, &raw(data)).unwrap_or_else(|error| panic!("{kind} {data}: {error}"));
        rooms_of(kind, &raw(data)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_known_type_goes_where_its_data_says() {
        let all = r#"{"project_id":42,"agent_id":"a1","user_id":"ana"}"#;
        for Known { kind, .. } in KNOWN {
            let wanted: &[&str] = match kind.split('.').next().unwrap() {
                "agent" => &["agent:a1", "global"],
                "ai" => &["user:ana"],
                "connection" => continue,
                _ => &["project:42", "user:ana"],
            };
            assert_eq!(rooms(kind, all), wanted, "{kind}");
            let unrouted: &[&str] = match kind.split('.').next().unwrap() {
                "agent" | "ai" => &["global"],
                _ => &["global", "user:ana"],
            };
            let data = if kind.starts_with("ai.") { "{}" } else { r#"{"user_id":"ana"}"# };
            assert_eq!(rooms(kind, data), unrouted, "{kind}");
        }
        assert_eq!(KNOWN.len(), 19);
    }

    #[test]
    fn what_acts_may_have_other_names() {
        let data = r#"{"project_id":"p","updated_by":7}"#;
        assert_eq!(rooms("project.updated", data), ["project:p", "user:7"]);
        let data = r#"{"project_id":"p","deleted_by":"bob","user_id":null}"#;
        assert_eq!(rooms("project.deleted", data), ["project:p", "user:bob"]);
        let data = r#"{"project_id":18446744073709551615}"#;
        assert_eq!(rooms("ai.suggestion", data), ["project:18446744073709551615"]);
        // Other types of the same families go the same ways, the rest to all.
        assert_eq!(rooms("pr.review_requested", r#"{"project_id":1}"#), ["project:1"]);
        assert_eq!(rooms("deploy.eu-west.done", r#"{"project_id":1}"#), ["global"]);
        assert_eq!(rooms("deploy.done", "[1, null, true, \"x\", 1.5, {\"a\":[]}]"), ["global"]);
        assert_eq!(rooms("deploy.done", "null"), ["global"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (kind, data, words) in [
            ("pr", "{}", "two or more words"),
            ("Pr.created", "{}", "two or more words"),
            ("p-r.created", "{}", "two or more words"),
            ("pr..created", "{}", "two or more words"),
            (".pr", "{}", "two or more words"),
            ("pr.", "{}", "two or more words"),
            ("pr.créé", "{}", "two or more words"),
            ("connection.established", "{}", "the hub's own"),
            ("pr.created", "[]", "`pr.created` is an object"),
            ("pr.created", r#"{"title":7}"#, "data.title must be a text"),
            ("pr.created", r#"{"pr_number":"7"}"#, "data.pr_number must be a number"),
            ("pr.closed", r#"{"merged":1}"#, "data.merged must be true or false"),
            ("agent.connected", r#"{"metadata":[]}"#, "data.metadata must be an object"),
            ("workflow.failed", r#"{"errors":"x"}"#, "data.errors must be a list"),
            ("workflow.progress", r#"{"current_step":[]}"#, "data.current_step must be"),
            ("pr.created", r#"{"project_id":1.5}"#, "data.project_id must be a text or a whole"),
            (
                "pr.created",
                r#"{"project_id":"a b"}"#,
                "data.project_id: \"project:a b\" is no room",
            ),
            ("pr.created", r#"{"project_id":""}"#, "data.project_id"),
            ("pr.reviewed", r#"{"project_id":{}}"#, "data.project_id must be"),
            ("pr.created", r#"{"project_id":1,"project_id":2}"#, "project_id is there twice"),
            ("deploy.done", r#"{"n":1e999}"#, "out of range"),
            ("deploy.done", r#""\ud800""#, "data:"),
        ] {
            let told = check(kind, &raw(data)).expect_err(data);
            assert!(told.contains(words), "{kind} {data}: {told:?} does not say {words:?}");
        }
        let long = format!("pr.{}", "x".repeat(EVENT_WORD_BYTES_MAX));
        assert!(check(&long, &raw("{}")).is_err());
    }

    #[test]
    fn data_is_as_deep_as_every_client_can_read() {
        let nested = |depth: usize| raw(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        assert_eq!(check("deploy.done", &nested(DATA_DEPTH_MAX)), Ok(()));
        let told = check("deploy.done", &nested(DATA_DEPTH_MAX + 2)).unwrap_err();
        assert!(told.contains("nested deeper"), "{told}");
        let deep = raw(&format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
        assert!(check("pr.created", &deep).is_err());
    }
}
