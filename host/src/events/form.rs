//! What publishers write: one event or a batch, as JSON. The same over HTTP and
//! in the native dialect.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::PublishError;
use crate::model::{ConnectionId, Draft, EVENT_ROOMS_MAX, Receipt, Room, RuleBroken};

/// The most events of a batch.
pub const BATCH_MAX: usize = 100;

/// What is to be published: an event, or `events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// What makes it a command of the native dialect.
    id: Option<IgnoredAny>,
    op: Option<IgnoredAny>,
    events: Option<Vec<EventForm>>,
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<String>,
    data: Option<Box<RawValue>>,
    rooms: Option<Vec<String>>,
    user: Option<String>,
    exclude: Option<String>,
    #[serde(default)]
    exclude_self: bool,
    key: Option<String>,
}

/// One event of a batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventForm {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    data: Option<Box<RawValue>>,
    rooms: Option<Vec<String>>,
    user: Option<String>,
    exclude: Option<String>,
    #[serde(default)]
    exclude_self: bool,
    key: Option<String>,
}

/// What is known of a publisher, beside what it writes.
#[derive(Clone, Copy, Debug)]
pub struct Publisher<'a> {
    /// The source of events that name none.
    pub source: &'a str,
    /// Its connection, which `exclude_self` means.
    pub connection: Option<ConnectionId>,
    /// The key of events that have none of their own; in a batch with `/` and
    /// the event's place after it.
    pub key: Option<&'a str>,
}

/// What is to be published, and what was refused before it was asked for.
#[derive(Debug)]
pub struct Drafts {
    /// For [`super::Events::publish`].
    pub events: Vec<(Draft, Option<String>)>,
    answers: Answers,
}

/// Puts receipts where they belong.
#[derive(Debug)]
pub struct Answers {
    /// Why not, of each event in its place; `None`: it has a receipt.
    refused: Vec<Option<PublishError>>,
    is_batch: bool,
}

/// What became of one event.
pub type Outcome = Result<Receipt, PublishError>;

/// What became of what was to be published.
#[derive(Debug)]
pub enum Outcomes {
    /// Of the one event.
    One(Outcome),
    /// Of each of a batch, in their places.
    Batch(Vec<Outcome>),
}

impl Form {
    /// Whether it is a command of the native dialect.
    #[must_use]
    pub fn is_command(&self) -> bool {
        self.id.is_some() || self.op.is_some()
    }

    /// What it asks to be published.
    ///
    /// # Errors
    ///
    /// It is neither an event nor a batch: what is wrong with it.
    pub fn drafts(self, publisher: Publisher<'_>) -> Result<Drafts, String> {
        let is_batch = self.events.is_some();
        let forms = self.events()?;
        let (mut events, mut refused) = (Vec::with_capacity(forms.len()), Vec::new());
        for (at, form) in forms.into_iter().enumerate() {
            let key = publisher.key.map(|key| match is_batch {
                true => format!("{key}/{at}"),
                false => key.to_owned(),
            });
            match form.draft(publisher, key) {
                Ok(event) => {
                    events.push(event);
                    refused.push(None);
                }
                Err(words) => refused.push(Some(PublishError::Invalid(words))),
            }
        }
        Ok(Drafts { events, answers: Answers { refused, is_batch } })
    }

    fn events(self) -> Result<Vec<EventForm>, String> {
        let Some(mut events) = self.events else {
            let kind = self.kind.ok_or("`type` is missing, or `events` for a batch")?;
            let Self { source, data, rooms, user, exclude, exclude_self, key, .. } = self;
            return Ok(vec![EventForm {
                kind,
                source,
                data,
                rooms,
                user,
                exclude,
                exclude_self,
                key,
            }]);
        };
        let beside = self.kind.is_some()
            || self.source.is_some()
            || self.data.is_some()
            || self.rooms.is_some()
            || self.user.is_some()
            || self.exclude.is_some()
            || self.key.is_some();
        if beside {
            return Err("what is beside `events` belongs into each of them".to_owned());
        }
        if events.is_empty() || events.len() > BATCH_MAX {
            return Err(format!("`events` has 1 to {BATCH_MAX} events, not {}", events.len()));
        }
        for event in &mut events {
            event.exclude_self |= self.exclude_self;
        }
        Ok(events)
    }
}

impl EventForm {
    fn draft(
        self,
        publisher: Publisher<'_>,
        key: Option<String>,
    ) -> Result<(Draft, Option<String>), String> {
        if let Some(names) = &self.rooms
            && !(1..=EVENT_ROOMS_MAX).contains(&names.len())
        {
            return Err(format!("`rooms` has 1 to {EVENT_ROOMS_MAX} rooms, or is left out"));
        }
        let rooms = self.rooms.map(|names| names.iter().map(|name| Room::new(name)).collect());
        let rooms = rooms.transpose().map_err(|broken: RuleBroken| broken.to_string())?;
        let exclude = match (self.exclude, self.exclude_self) {
            (None, false) => None,
            (Some(text), false) => Some(connection(&text)?),
            (None, true) => Some(publisher.connection.ok_or(
                "`exclude_self` is for WebSocket clients: name the connection in `exclude`",
            )?),
            (Some(_), true) => {
                return Err("`exclude` and `exclude_self`: one is enough".to_owned());
            }
        };
        let data = self.data.unwrap_or_else(|| RawValue::NULL.to_owned());
        let data = match data.get() {
            "null" => RawValue::from_string("{}".to_owned()).map_err(|error| error.to_string())?,
            _ => data,
        };
        let source = self.source.unwrap_or_else(|| publisher.source.to_owned());
        let Self { kind, user, .. } = self;
        Ok((Draft { kind, source, data, rooms, user, exclude }, self.key.or(key)))
    }
}

/// A connection's number, as `connect` tells it.
fn connection(text: &str) -> Result<ConnectionId, String> {
    let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
    id.map(ConnectionId).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        format!("`exclude` {shown:?} is no connection: 16 hexadecimal digits")
    })
}

impl Drafts {
    /// What is to be published, and where the receipts belong.
    #[must_use]
    pub fn split(self) -> (Vec<(Draft, Option<String>)>, Answers) {
        (self.events, self.answers)
    }
}

impl Answers {
    /// What became of each event; `outcomes` are those of what was published.
    #[must_use]
    pub fn fill(self, outcomes: Vec<Outcome>) -> Outcomes {
        let mut outcomes = outcomes.into_iter();
        let mut next = |refused: Option<PublishError>| match refused {
            Some(error) => Err(error),
            // There is one for each.
            None => outcomes.next().unwrap_or(Err(PublishError::Stopping)),
        };
        if self.is_batch {
            return Outcomes::Batch(self.refused.into_iter().map(next).collect());
        }
        Outcomes::One(next(self.refused.into_iter().next().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: Publisher<'static> =
        Publisher { source: "ana", connection: Some(ConnectionId(7)), key: Some("k") };

    fn drafts(text: &str) -> Result<Drafts, String> {
        let form: Form = serde_json::from_str(text).map_err(|error| error.to_string())?;
        form.drafts(PUBLISHER)
    }

    #[test]
    fn an_event_has_defaults() {
        let (events, answers) = drafts(r#"{"type":"pr.created"}"#).unwrap().split();
        let [(draft, key)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&*draft.kind, &*draft.source, draft.data.get()), ("pr.created", "ana", "{}"));
        assert_eq!((&draft.rooms, &draft.user, draft.exclude), (&None, &None, None));
        assert_eq!(key.as_deref(), Some("k"));
        assert!(matches!(
            answers.fill(vec![Err(PublishError::Busy)]),
            Outcomes::One(Err(PublishError::Busy))
        ));
    }

    #[test]
    fn an_event_says_all_of_it() {
        let (events, _) = drafts(
            r#"{"type":"pr.created","source":"ci","data":{"a" : 1},"rooms":["project:42"],
                "user":"bob","exclude_self":true,"key":"mine"}"#,
        )
        .unwrap()
        .split();
        let [(draft, key)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&*draft.source, draft.data.get()), ("ci", r#"{"a" : 1}"#));
        assert_eq!(draft.rooms, Some(vec![Room::new("project:42").unwrap()]));
        assert_eq!((draft.user.as_deref(), draft.exclude), (Some("bob"), Some(ConnectionId(7))));
        assert_eq!(key.as_deref(), Some("mine"));
        let text = r#"{"type":"a.b","exclude":"00000000000000ff"}"#;
        assert_eq!(drafts(text).unwrap().split().0[0].0.exclude, Some(ConnectionId(255)));
    }

    #[test]
    fn each_event_of_a_batch_has_its_own_answer() {
        let text = r#"{"events":[{"type":"a.b"},{"type":"a.c","rooms":["a b"]},
            {"type":"a.d","key":"own"}],"exclude_self":true}"#;
        let (events, answers) = drafts(text).unwrap().split();
        let keys: Vec<_> = events.iter().map(|(_, key)| key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["k/0", "own"]);
        assert!(events.iter().all(|(draft, _)| draft.exclude == Some(ConnectionId(7))));
        let receipt = Receipt { id: "x".into(), offset: 1, rooms: vec![] };
        let filled = answers.fill(vec![Ok(receipt.clone()), Err(PublishError::Denied)]);
        let Outcomes::Batch(filled) = filled else { panic!("{filled:?}") };
        let [Ok(first), Err(PublishError::Invalid(words)), Err(PublishError::Denied)] = &filled[..]
        else {
            panic!("{filled:?}")
        };
        assert_eq!(first, &receipt);
        assert!(words.contains("\"a b\" is no room"), "{words}");
    }

    #[test]
    fn what_is_neither_is_told_why() {
        let many = format!(r#"{{"events":[{}]}}"#, [r#"{"type":"a.b"}"#; 101].join(","));
        for (text, words) in [
            ("{}", "`type` is missing"),
            ("[]", "expected"),
            (r#"{"events":[]}"#, "1 to 100"),
            (&many, "1 to 100 events, not 101"),
            (r#"{"events":[{"type":"a.b"}],"data":{}}"#, "beside `events`"),
            (r#"{"type":"a.b","room":"global"}"#, "unknown field `room`"),
            (r#"{"events":[{"type":"a.b","op":1}]}"#, "unknown field `op`"),
        ] {
            let told = drafts(text).unwrap_err();
            assert!(told.contains(words), "{text}: {told:?} does not say {words:?}");
        }
        for (text, words) in [
            (r#"{"type":"a.b","rooms":[]}"#, "1 to 64 rooms"),
            (r#"{"type":"a.b","exclude":"ff"}"#, "no connection"),
            (r#"{"type":"a.b","exclude":"+0000000000000ff"}"#, "no connection"),
            (r#"{"type":"a.b","exclude":"00000000000000ff","exclude_self":true}"#, "one is enough"),
        ] {
            let (_, answers) = drafts(text).unwrap().split();
            let told = format!("{:?}", answers.fill(vec![]));
            assert!(told.contains(words), "{text}: {told:?} does not say {words:?}");
        }
    }
}
