//! What the generator says in each dialect, and what it reads of an answer: the
//! beginning of a message, and in that no more than a number and a time.

use clap::ValueEnum;
use serde_json::{Value, json};

/// The dialects that clients can speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Dialect {
    /// telltale's own, subscribed to `metrics`
    #[default]
    Native,
    /// Session-Buddy's, subscribed to all skills
    Skills,
    /// telltale's own, each client subscribed to one room, and events published to them
    Rooms,
    /// Socket.IO over WebSocket, each client subscribed to one room, and events published to them
    Socketio,
    /// The AI cost optimizer's: each client gets the current metrics at the hub's `routing.interval`
    Routing,
}

/// What a message is to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tick's news.
    Push(Push),
    /// What stands, told at a time of this client's own.
    State,
    /// An event that the generator has published.
    Event(Event),
    /// The client is let in, where that takes more than a handshake.
    Welcome,
    /// It is not, for this reason.
    TurnedAway(String),
    /// The server wants to know, above WebSocket, whether the client lives.
    Ping,
    /// The subscription is accepted.
    Subscribed,
    /// The subscription is not accepted, for this reason.
    Refused(String),
    /// Nothing that is counted.
    Other,
}

/// What is counted of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Push {
    /// The number of its tick; where the dialect has none, its time.
    pub(super) tick: u64,
    /// The time that it tells, in nanoseconds since the epoch.
    pub(super) time_ns: u64,
    /// How many pushes the hub says that it has left out before this one.
    pub(super) skipped: u64,
}

/// What is counted of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its number among those that the generator publishes.
    pub(super) number: u64,
    /// When it was due to be published, in nanoseconds since the epoch.
    pub(super) due_ns: u64,
}

/// What a client of some place is to subscribe to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// Series, by a glob.
    Series(Option<&'a str>),
    /// A room.
    Room(u64),
}

impl Dialect {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Skills => "skills",
            Self::Rooms => "rooms",
            Self::Socketio => "socketio",
            Self::Routing => "routing",
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Native | Self::Rooms => "/v1/stream",
            Self::Skills => "/",
            Self::Socketio => "/socket.io/?EIO=4&transport=websocket",
            Self::Routing => "/ws/metrics",
        }
    }

    /// Whether its clients are in rooms, and events are published to them.
    pub(super) fn has_rooms(self) -> bool {
        matches!(self, Self::Rooms | Self::Socketio)
    }

    /// What asks to be let in; [`Meaning::Welcome`] answers it.
    pub(super) fn hello(self) -> Option<&'static str> {
        (self == Self::Socketio).then_some("40")
    }

    /// What answers [`Meaning::Ping`].
    pub(super) fn pong(self) -> &'static str {
        "3"
    }

    /// What subscribes, where it takes more than connecting.
    pub(super) fn subscribe(self, wanted: Wanted<'_>) -> Option<String> {
        Some(match (self, wanted) {
            (Self::Routing, _) => return None,
            (Self::Skills, _) => json!({"type": "subscribe"}).to_string(),
            (Self::Socketio, Wanted::Room(number)) => {
                format!("420{}", json!(["subscribe", {"room": room(number)}]))
            }
            (_, Wanted::Room(number)) => {
                let channel = format!("room:{}", room(number));
                json!({"id": 1, "op": "subscribe", "channel": channel}).to_string()
            }
            (_, Wanted::Series(None)) => {
                json!({"id": 1, "op": "subscribe", "channel": "metrics"}).to_string()
            }
            (_, Wanted::Series(Some(glob))) => {
                let filter = json!({"name": glob});
                json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": filter})
                    .to_string()
            }
        })
    }

    /// Whether what comes is a tick's.
    pub(super) fn has_ticks(self) -> bool {
        matches!(self, Self::Native | Self::Skills)
    }

    /// Whether ticks have numbers, so that one that came to nobody shows.
    pub(super) fn numbers_ticks(self) -> bool {
        self == Self::Native
    }

    /// Reads the beginning of a message.
    pub(super) fn read(self, head: &[u8]) -> Meaning {
        // Up to the first list there are only the message's own members.
        let list = head.iter().position(|byte| *byte == b'[');
        let plain = &head[..list.unwrap_or(head.len())];
        match self {
            Self::Native => native(head, plain),
            Self::Skills => skills(plain),
            Self::Rooms => rooms(head, plain),
            Self::Socketio => socketio(head),
            Self::Routing => routing(head),
        }
    }
}

/// The command that publishes an event, whose number is the command's id. It
/// has so many bytes of data, or the few more that it needs.
pub(super) fn publish(event: Event, rooms: u64, data_bytes: usize) -> String {
    let Event { number, due_ns } = event;
    let data = format!("{{\"at\":{due_ns},\"n\":{number},\"pad\":\"");
    let pad = data_bytes.saturating_sub(data.len() + 2);
    format!(
        "{{\"id\":{number},\"op\":\"publish\",\"type\":\"load.event\",\"source\":\"load\",\
         \"rooms\":[\"{}\"],\"data\":{data}{}\"}}}}",
        room(number % rooms),
        "x".repeat(pad)
    )
}

/// The answer to [`publish`]: the event's number, and the refusal's code if it
/// was refused.
pub(super) fn published(head: &[u8]) -> Option<(u64, Option<String>)> {
    let number = number(head, r#""id":"#)?;
    if says(head, r#""error":{"#) {
        return Some((number, Some(word(head, r#""code":""#).unwrap_or_default())));
    }
    says(head, r#""ok":{"#).then_some((number, None))
}

/// Rooms of a kind that the hub knows: a token for `project:*` allows them.
fn room(number: u64) -> String {
    format!("project:load-{number}")
}

fn native(head: &[u8], plain: &[u8]) -> Meaning {
    if says(plain, r#""push":"metrics""#) {
        let (Some(tick), Some(time_ns)) = (number(plain, r#""tick":"#), time(plain, r#""time":""#))
        else {
            return Meaning::Other;
        };
        let skipped = number(plain, r#""skipped":"#).unwrap_or(0);
        Meaning::Push(Push { tick, time_ns, skipped })
    } else if says(plain, r#""ok":{"#) {
        Meaning::Subscribed
    } else if says(plain, r#""error":{"#) {
        Meaning::Refused(reason(head))
    } else {
        Meaning::Other
    }
}

fn rooms(head: &[u8], plain: &[u8]) -> Meaning {
    if says(plain, r#""push":"room:"#) {
        event(head)
    } else {
        // What answers a subscription is the same for all channels.
        native(head, plain)
    }
}

/// Packets of Engine.IO 4, and in them those of Socket.IO 5.
fn socketio(head: &[u8]) -> Meaning {
    match head {
        b"2" => Meaning::Ping,
        [b'4', b'0', ..] => Meaning::Welcome,
        [b'4', b'4', said @ ..] => Meaning::TurnedAway(reason(said)),
        [b'4', b'2', ..] => event(head),
        [b'4', b'3', ..] if says(head, r#""status":"success""#) => Meaning::Subscribed,
        [b'4', b'3', ..] => {
            let words = word(head, r#""message":""#);
            Meaning::Refused(words.unwrap_or_else(|| String::from_utf8_lossy(head).into_owned()))
        }
        _ => Meaning::Other,
    }
}

/// Any object but the one that says that there is none.
fn routing(head: &[u8]) -> Meaning {
    match (head.first(), word(head, r#"{"error":""#)) {
        (_, Some(words)) => Meaning::Refused(words),
        (Some(b'{'), None) => Meaning::State,
        _ => Meaning::Other,
    }
}

fn event(head: &[u8]) -> Meaning {
    match (number(head, r#""at":"#), number(head, r#""n":"#)) {
        (Some(due_ns), Some(number)) => Meaning::Event(Event { number, due_ns }),
        // One of the hub's own.
        _ => Meaning::Other,
    }
}

fn skills(plain: &[u8]) -> Meaning {
    if says(plain, r#""type":"metrics_update""#) {
        match time(plain, r#""timestamp":""#) {
            Some(time_ns) => Meaning::Push(Push { tick: time_ns, time_ns, skipped: 0 }),
            None => Meaning::Other,
        }
    } else if says(plain, r#""type":"subscription_confirmed""#) {
        Meaning::Subscribed
    } else if says(plain, r#""type":"error""#) {
        Meaning::Refused(reason(plain))
    } else {
        Meaning::Other
    }
}

/// The hub's own words for a no.
fn reason(head: &[u8]) -> String {
    let said: Value = serde_json::from_slice(head).unwrap_or_default();
    let words = said["error"]["reason"].as_str().or_else(|| said["message"].as_str());
    words.map_or_else(|| String::from_utf8_lossy(head).into_owned(), str::to_owned)
}

/// Whether a member is there; their order is the hub's affair.
fn says(plain: &[u8], member: &str) -> bool {
    after(plain, member).is_some()
}

/// What follows a key.
fn after<'a>(plain: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let at = plain.windows(key.len()).position(|window| window == key.as_bytes())?;
    Some(&plain[at + key.len()..])
}

fn number(plain: &[u8], key: &str) -> Option<u64> {
    let rest = after(plain, key)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

fn time(plain: &[u8], key: &str) -> Option<u64> {
    instant_ns(&word(plain, key)?)
}

/// What follows a key and its quote, up to the next quote.
fn word(plain: &[u8], key: &str) -> Option<String> {
    let rest = after(plain, key)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok().map(str::to_owned)
}

/// Nanoseconds since the epoch of a time in RFC 3339. Digits of its fraction
/// beyond the ninth are left out.
fn instant_ns(text: &str) -> Option<u64> {
    let read = |text: &str| {
        let time: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(time.as_nanosecond()).ok()
    };
    let Some((seconds, rest)) = text.split_once('.') else { return read(text) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, offset) = rest.split_at(digits);
    read(&format!("{seconds}.{}{offset}", &fraction[..digits.min(9)]))
}

/// Reads messages, most of which begin as the one before: all who have the same
/// subscription are sent the same bytes.
#[derive(Debug)]
pub(super) struct Reader {
    dialect: Dialect,
    head: Vec<u8>,
    meaning: Meaning,
}

impl Reader {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, head: Vec::new(), meaning: dialect.read(&[]) }
    }

    pub(super) fn read(&mut self, head: &[u8]) -> &Meaning {
        if self.head != head {
            self.meaning = self.dialect.read(head);
            self.head.clear();
            self.head.extend_from_slice(head);
        }
        &self.meaning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dialect: Dialect, head: &str, meaning: &Meaning) {
        let mut reader = Reader::new(dialect);
        for _ in 0..2 {
            assert_eq!(reader.read(head.as_bytes()), meaning, "{head}");
        }
    }

    fn push(tick: u64, time_ns: u64, skipped: u64) -> Meaning {
        Meaning::Push(Push { tick, time_ns, skipped })
    }

    #[test]
    fn a_fraction_of_any_length_is_read() {
        for (text, ns) in [
            ("1970-01-01T00:00:01Z", 1_000_000_000),
            ("1970-01-01T00:00:01.5Z", 1_500_000_000),
            ("1970-01-01T00:00:01.250Z", 1_250_000_000),
            ("1970-01-01T00:00:01.250123Z", 1_250_123_000),
            ("1970-01-01T00:00:01.250123456Z", 1_250_123_456),
            ("1970-01-01T00:00:01.250123456789Z", 1_250_123_456),
            ("1970-01-01T01:00:01.250123456789+01:00", 1_250_123_456),
            ("1970-01-01T00:00:01.250+00:00", 1_250_000_000),
        ] {
            assert_eq!(instant_ns(text), Some(ns), "{text}");
        }
        for text in ["", ".", "yesterday", "1970-01-01T00:00:01.Z", "1960-01-01T00:00:00Z"] {
            assert_eq!(instant_ns(text), None, "{text}");
        }
    }

    #[test]
    fn a_push_of_metrics_tells_its_tick() {
        let time = r#""tick":813,"time":"1970-01-01T00:00:01.250123Z""#;
        for (rest, skipped) in [
            (r#","values":[[31,0.33]]}"#, 0),
            (r#","full":true,"skipped":7,"series":[{"id":31}]}"#, 7),
            // A label of that name is none of the message's own members.
            (r#","values":[],"declare":[{"labels":{"skipped":9}}]}"#, 0),
            // The head may end anywhere.
            (r#","values":"#, 0),
        ] {
            let head = format!(r#"{{"push":"metrics","sub":5,{time}{rest}"#);
            check(Dialect::Native, &head, &push(813, 1_250_123_000, skipped));
        }
        let head = format!(r#"{{"push":"metrics","sub":5,"full":true,"skipped":2,{time}}}"#);
        check(Dialect::Native, &head, &push(813, 1_250_123_000, 2));
        check(Dialect::Native, r#"{"push":"metrics","sub":5,"tick":8"#, &Meaning::Other);
        check(Dialect::Native, r#"{"push":"bye","reconnect_after_ms":1}"#, &Meaning::Other);
    }

    #[test]
    fn an_answer_tells_whether_the_subscription_stands() {
        let ok = r#"{"id":1,"ok":{"channel":"metrics","sub":5,"snapshot":{"tick":8"#;
        check(Dialect::Native, ok, &Meaning::Subscribed);
        let refused = Meaning::Refused("no such glob".to_owned());
        for no in [
            r#"{"id":1,"error":{"code":"bad_glob","reason":"no such glob"}}"#,
            r#"{"error":{"code":"bad_glob","reason":"no such glob"},"id":1}"#,
        ] {
            check(Dialect::Native, no, &refused);
        }
        let yes = r#"{"skill":null,"timestamp":"x","type":"subscription_confirmed"}"#;
        check(Dialect::Skills, yes, &Meaning::Subscribed);
        let no = r#"{"type":"error","message":"no such glob"}"#;
        check(Dialect::Skills, no, &refused);
    }

    #[test]
    fn an_update_of_skills_tells_its_time() {
        let update = r#"{"type":"metrics_update","timestamp":"1970-01-01T00:00:01.250+00:00","data":{"top_skills":["#;
        check(Dialect::Skills, update, &push(1_250_000_000, 1_250_000_000, 0));
        check(Dialect::Skills, r#"{"type":"pong"}"#, &Meaning::Other);
    }

    #[test]
    fn an_object_of_routing_metrics_is_no_ticks() {
        check(Dialect::Routing, r#"{"total_decisions":1,"provider_usage":{"x"#, &Meaning::State);
        let no = Meaning::Refused("Failed to fetch metrics".to_owned());
        check(Dialect::Routing, r#"{"error":"Failed to fetch metrics","timestamp":"x"}"#, &no);
        assert_eq!(Dialect::Routing.subscribe(Wanted::Series(None)), None);
    }

    #[test]
    fn a_glob_is_sent_as_it_is() {
        let command = Dialect::Native.subscribe(Wanted::Series(Some("a\"*"))).unwrap();
        let command: Value = serde_json::from_str(&command).unwrap();
        assert_eq!(command["filter"], json!({"name": "a\"*"}));
        assert!(!Dialect::Native.subscribe(Wanted::Series(None)).unwrap().contains("filter"));
    }

    #[test]
    fn an_event_is_published_with_what_is_read_of_it() {
        let sent = Event { number: 1207, due_ns: 1_770_724_801_250_000_000 };
        for bytes in [0, 300] {
            let command: Value = serde_json::from_str(&publish(sent, 100, bytes)).unwrap();
            assert_eq!(command["rooms"], json!(["project:load-7"]));
            let data = command["data"].to_string();
            assert!(data.len() == bytes || bytes == 0, "{data}");
            let entry =
                format!(r#"{{"id":"x","type":"load.event","source":"load","data":{data}}}"#);
            let push = format!(r#"{{"push":"room:project:load-7","offset":9,"entry":{entry}}}"#);
            check(Dialect::Rooms, &push, &Meaning::Event(sent));
            let packet = format!(r#"42["load.event",{entry}]"#);
            check(Dialect::Socketio, &packet, &Meaning::Event(sent));
        }
        check(Dialect::Rooms, r#"{"push":"room:global","entry":{}}"#, &Meaning::Other);
    }

    #[test]
    fn an_answer_tells_which_event_was_published() {
        for (answer, told) in [
            (r#"{"id":12,"ok":{"id":"e-7","offset":91,"rooms":["a"]}}"#, (12, None)),
            (r#"{"error":{"code":"busy","reason":"r"},"id":12}"#, (12, Some("busy".to_owned()))),
        ] {
            assert_eq!(published(answer.as_bytes()), Some(told), "{answer}");
        }
        assert_eq!(published(br#"{"push":"bye"}"#), None);
    }

    #[test]
    fn packets_of_socket_io_are_told_apart() {
        check(Dialect::Socketio, "2", &Meaning::Ping);
        check(Dialect::Socketio, r#"0{"sid":"x","pingInterval":25000}"#, &Meaning::Other);
        check(Dialect::Socketio, r#"40{"sid":"x"}"#, &Meaning::Welcome);
        let no = Meaning::TurnedAway("AUTH_FAILED".to_owned());
        check(Dialect::Socketio, r#"44{"message":"AUTH_FAILED"}"#, &no);
        check(Dialect::Socketio, r#"430[{"status":"success","room":"a"}]"#, &Meaning::Subscribed);
        let no = Meaning::Refused("not allowed".to_owned());
        check(Dialect::Socketio, r#"430[{"status":"error","message":"not allowed"}]"#, &no);
        check(Dialect::Socketio, r#"42["connection_established",{"data":{}}]"#, &Meaning::Other);
    }
}
