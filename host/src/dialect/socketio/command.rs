//! What clients ask for: events of their own, by name, with one argument.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::access::Globs;
use crate::model::Room;

/// Globs of event types that one subscription may name …
const TYPES_MAX: usize = 32;
/// … and the bytes of each.
const TYPE_BYTES_MAX: usize = 128;

/// Names that the clients' libraries keep for themselves. Nobody sends them by
/// accident.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// What an event of a client says: its name, and its first argument. More of
/// them are left out.
#[derive(Debug)]
pub(super) struct Called<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) argument: Option<&'a RawValue>,
}

impl<'a> Called<'a> {
    /// Reads the data of an event; `None` if it is none.
    pub(super) fn read(data: &'a str) -> Option<Self> {
        let called: Self = serde_json::from_str(data).ok()?;
        (!RESERVED.contains(&&*called.name)).then_some(called)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Called<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Arguments;

        /// Clients may name events by numbers too.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Name<'a> {
            #[serde(borrow)]
            Text(Cow<'a, str>),
            Number(serde_json::Number),
        }

        impl<'de> Visitor<'de> for Arguments {
            type Value = Called<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list that begins with an event's name")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let name = match list.next_element()? {
                    Some(Name::Text(name)) => name,
                    Some(Name::Number(name)) => Cow::Owned(name.to_string()),
                    None => return Err(A::Error::custom("an event has no name")),
                };
                let argument = list.next_element()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Called { name, argument })
            }
        }

        deserializer.deserialize_seq(Arguments)
    }
}

/// What is asked for.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Subscribe(Wish),
    Unsubscribe(Room),
    Presence(Room),
    /// With what is to come back.
    Ping(Option<&'a RawValue>),
    Rooms,
    Publish(Box<Publish>),
}

/// A room that is to be entered.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) room: Room,
    pub(super) types: Types,
    pub(super) after: Option<After>,
}

/// Where a client stopped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum After {
    /// In the log that there is.
    Offset(u64),
    /// In the log of that name.
    Position { epoch: String, offset: u64 },
}

/// An event that is to be published.
#[derive(Debug, Deserialize)]
pub(super) struct Publish {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: Option<String>,
    #[serde(default)]
    pub(super) data: Option<Box<RawValue>>,
    pub(super) rooms: Option<Vec<String>>,
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) exclude_self: bool,
    pub(super) key: Option<String>,
}

/// Which events of a room are wanted.
#[derive(Clone, Debug)]
pub(super) struct Types {
    globs: Globs,
    /// The same for those who want the same.
    key: String,
}

impl Types {
    pub(super) fn all() -> Self {
        Self { globs: Globs::all(), key: String::new() }
    }

    fn new(texts: &[String]) -> Result<Self, Refusal> {
        let too_long = texts.iter().any(|text| text.len() > TYPE_BYTES_MAX);
        if texts.is_empty() || texts.len() > TYPES_MAX || too_long {
            return Err(Refusal::bad(format!(
                "types has 1 to {TYPES_MAX} globs of at most {TYPE_BYTES_MAX} bytes"
            )));
        }
        let texts: BTreeSet<&str> = texts.iter().map(|text| &**text).collect();
        let texts: Vec<&str> = texts.into_iter().collect();
        let globs =
            Globs::new(&texts).map_err(|_| Refusal::bad("types has a glob that is none"))?;
        Ok(Self { globs, key: serde_json::json!(texts).to_string() })
    }

    /// Whether events of that type are wanted.
    pub(super) fn want(&self, kind: &str) -> bool {
        self.key.is_empty() || self.globs.matches(kind)
    }

    /// The same for those who want the same.
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// Why a command is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: Cow<'static, str>,
    /// After how long the same may be taken.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("BAD_REQUEST", message)
    }
}

/// A room in an argument: `"global"`, or `{"room": "global", …}`.
#[derive(Deserialize)]
struct Named {
    room: String,
    types: Option<Vec<String>>,
    after: Option<After>,
}

impl<'a> Command<'a> {
    /// The command of that name.
    pub(super) fn read(called: &Called<'a>) -> Result<Self, Refusal> {
        let argument = called.argument;
        match &*called.name {
            "subscribe" => {
                let Named { room, types, after } = named(argument)?;
                let types = types.map_or_else(|| Ok(Types::all()), |types| Types::new(&types))?;
                Ok(Self::Subscribe(Wish { room: room_of(&room)?, types, after }))
            }
            "unsubscribe" => Ok(Self::Unsubscribe(room_of(&named(argument)?.room)?)),
            "presence" => Ok(Self::Presence(room_of(&named(argument)?.room)?)),
            "ping" => Ok(Self::Ping(argument)),
            "debug:rooms" => Ok(Self::Rooms),
            "publish" => {
                let wanted = "publish takes {type, data, source?, rooms?, user?, key?}";
                let text = argument.ok_or(Refusal::bad(wanted))?.get();
                let publish = serde_json::from_str(text).map_err(|_| Refusal::bad(wanted))?;
                Ok(Self::Publish(Box::new(publish)))
            }
            _ => Err(Refusal::new(
                "UNKNOWN_COMMAND",
                "the commands are subscribe, unsubscribe, publish, presence, ping and debug:rooms",
            )),
        }
    }
}

impl Publish {
    /// Its rooms, if it names any.
    pub(super) fn rooms(&self) -> Result<Option<Vec<Room>>, Refusal> {
        let named = self.rooms.as_ref();
        named.map(|rooms| rooms.iter().map(|room| room_of(room)).collect()).transpose()
    }
}

fn named(argument: Option<&RawValue>) -> Result<Named, Refusal> {
    let wanted = || Refusal::bad("a room is missing: {\"room\": \"project:42\"}");
    let text = argument.ok_or_else(wanted)?.get();
    if let Ok(room) = serde_json::from_str(text) {
        return Ok(Named { room, types: None, after: None });
    }
    serde_json::from_str(text).map_err(|_| wanted())
}

fn room_of(name: &str) -> Result<Room, Refusal> {
    Room::new(name).map_err(|error| Refusal::bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<String, Refusal> {
        let called = Called::read(data).expect("an event");
        Command::read(&called).map(|command| format!("{command:?}"))
    }

    #[test]
    fn an_event_has_a_name_that_is_not_the_librarys() {
        let called = Called::read(r#"["a\u0062",{"x":1},2,[3]]"#).unwrap();
        assert_eq!((&*called.name, called.argument.unwrap().get()), ("ab", r#"{"x":1}"#));
        assert_eq!(Called::read("[7]").unwrap().name, "7");
        for data in ["", "{}", "[]", "[null]", "[[]]", r#"["connect"]"#, r#"["a""#, "\"a\""] {
            assert!(Called::read(data).is_none(), "{data}");
        }
        let deep = format!("[\"a\",{}", "[".repeat(100_000));
        assert!(Called::read(&deep).is_none());
    }

    #[test]
    fn rooms_are_named_in_both_ways_that_clients_do() {
        for data in [r#"["subscribe","project:1"]"#, r#"["subscribe",{"room":"project:1"}]"#] {
            assert!(read(data).unwrap().contains("project:1"), "{data}");
        }
        for data in [
            r#"["subscribe"]"#,
            r#"["subscribe",null]"#,
            r#"["subscribe",{}]"#,
            r#"["unsubscribe",{"room":""}]"#,
            r#"["unsubscribe",{"room":"a b"}]"#,
            r#"["presence",{"room":7}]"#,
            r#"["subscribe",{"room":"global","types":[]}]"#,
            r#"["subscribe",{"room":"global","types":["{"]}]"#,
            r#"["subscribe",{"room":"global","after":-1}]"#,
            r#"["publish"]"#,
            r#"["publish",{"data":1}]"#,
        ] {
            assert_eq!(read(data).unwrap_err().code, "BAD_REQUEST", "{data}");
        }
        assert_eq!(read(r#"["anything"]"#).unwrap_err().code, "UNKNOWN_COMMAND");
    }

    #[test]
    fn where_a_client_stopped_is_an_offset_or_a_position() {
        let after = |text: &str| serde_json::from_str::<After>(text).unwrap();
        assert_eq!(after("7"), After::Offset(7));
        let position = After::Position { epoch: "e".into(), offset: 7 };
        assert_eq!(after(r#"{"epoch":"e","offset":7}"#), position);
    }

    #[test]
    fn types_are_the_same_in_any_order() {
        let types = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Types::new(&texts).unwrap()
        };
        let some = types(&["pr.*", "issue.closed", "pr.*"]);
        assert_eq!(some.key(), types(&["issue.closed", "pr.*"]).key());
        assert!(some.want("pr.created") && !some.want("issue.created"));
        assert!(Types::all().want("anything.else"));
    }
}
