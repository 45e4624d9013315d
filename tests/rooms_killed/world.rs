//! Who there is, what they want and may have, and what they are to get.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection as Database;
use serde_json::{Value, json};
use telltale::access::Issuer;
use tokio::sync::watch;

/// The hub's.
pub(super) const CONFIGURATION: &str = r#"
[auth]
mode = "jwt"
secret = "rooms, and a program that is killed"
[limits]
messages_per_second = 100000
messages_burst = 100000
publishes_per_second = 100000
publishes_burst = 100000
[drain]
window = "0s"
"#;
const SECRET: &[u8] = b"rooms, and a program that is killed";
/// How long a client waits before it comes back.
const PAUSE: Duration = Duration::from_millis(5);

/// What one client is, wants, and must not get.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    pub(super) user: &'static str,
    /// What its token allows beside its own room and `global`.
    rooms: &'static [&'static str],
    pub(super) speaks: Dialect,
    pub(super) wishes: Vec<Wish>,
    /// A room that it tries to enter, each time.
    pub(super) forbidden: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Native,
    SocketIo,
}

/// A room, and which types of its events.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) room: &'static str,
    /// Prefixes; all types without any.
    pub(super) types: &'static [&'static str],
}

/// An event: its offset and its id.
pub(super) type Event = (u64, String);
/// Events that were acknowledged.
pub(super) type Published = Vec<Acknowledged>;

#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) event: Event,
    pub(super) kind: &'static str,
    pub(super) rooms: Vec<String>,
}

/// The clients. Their rooms overlap.
pub(super) fn wishes() -> Vec<Wishes> {
    use Dialect::{Native, SocketIo};
    let all = |room| Wish { room, types: &[] };
    let some = |room, types| Wish { room, types };
    let ana: &[&str] = &["project:*"];
    let own_and_global = |user| vec![all(user), all("global")];
    vec![
        Wishes {
            user: "ana",
            rooms: ana,
            speaks: Native,
            wishes: vec![all("project:1"), all("project:2"), all("global"), all("user:ana")],
            forbidden: "user:bob",
        },
        Wishes {
            user: "ana",
            rooms: ana,
            speaks: Native,
            wishes: vec![some("project:1", &["pr."]), some("project:2", &["issue.", "pr.created"])],
            forbidden: "agent:7",
        },
        Wishes {
            user: "bob",
            rooms: &["project:1"],
            speaks: Native,
            wishes: vec![all("project:1"), all("user:bob")],
            forbidden: "project:2",
        },
        Wishes {
            user: "cleo",
            rooms: &["project:2", "agent:*"],
            speaks: Native,
            wishes: vec![all("agent:7"), all("project:2"), some("global", &["agent."])],
            forbidden: "project:1",
        },
        Wishes {
            user: "dan",
            rooms: &[],
            speaks: Native,
            wishes: own_and_global("user:dan"),
            forbidden: "user:ana",
        },
        Wishes {
            user: "eve",
            rooms: &["project:*"],
            speaks: SocketIo,
            wishes: vec![all("project:2"), some("project:1", &["pr."]), all("global")],
            forbidden: "agent:7",
        },
        Wishes {
            user: "dan",
            rooms: &[],
            speaks: SocketIo,
            wishes: own_and_global("user:dan"),
            forbidden: "project:1",
        },
    ]
}

impl Wishes {
    pub(super) fn token(&self) -> String {
        token(self.user, self.rooms, false)
    }

    fn wants(&self, kind: &str, rooms: &[String]) -> bool {
        self.wishes.iter().any(|Wish { room, types }| {
            let is_of_type = types.is_empty() || types.iter().any(|type_| kind.starts_with(type_));
            is_of_type && rooms.iter().any(|other| other == room)
        })
    }
}

impl Wish {
    /// The types as globs.
    pub(super) fn globs(&self) -> Option<Vec<String>> {
        let globs = self.types.iter().map(|type_| match type_.ends_with('.') {
            true => format!("{type_}*"),
            false => (*type_).to_owned(),
        });
        (!self.types.is_empty()).then(|| globs.collect())
    }
}

/// What a client is to get of what was published.
pub(super) fn entitled(wishes: &Wishes, published: &[Acknowledged]) -> Vec<Event> {
    let wanted = published.iter().filter(|one| wishes.wants(one.kind, &one.rooms));
    let mut wanted: Vec<Event> = wanted.map(|one| one.event.clone()).collect();
    wanted.sort_unstable();
    wanted
}

/// A token for a user, who may publish everything or nothing.
pub(super) fn token(user: &str, rooms: &[&str], publishes: bool) -> String {
    let mut claims = json!({"sub": user, "exp": 4_102_444_800_u64, "rooms": rooms});
    if publishes {
        claims["publish"] = json!([{"types": ["*"], "rooms": ["*"]}]);
    }
    Issuer::of_secret(SECRET).unwrap().sign(&claims).unwrap()
}

/// One client, over all of its connections.
pub(super) struct Follower {
    pub(super) address: SocketAddr,
    pub(super) wishes: Wishes,
    pub(super) known: Known,
    /// How much it has heard in all: that it is subscribed, and events.
    pub(super) seen: watch::Sender<u64>,
}

/// What a client knows for certain.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) epoch: String,
    /// It has got everything up to here, of each wish.
    pub(super) positions: Vec<u64>,
    pub(super) events: Vec<Event>,
    /// How often it has come, how often it was told what it had missed, and how
    /// much of it.
    pub(super) connections: u64,
    pub(super) recovered: u64,
    pub(super) missed: u64,
}

impl Known {
    pub(super) fn has_begun(&self) -> bool {
        !self.positions.is_empty()
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, recovered, missed, events, .. } = self;
        write!(
            f,
            "{} events over {connections} connections, {missed} of them in {recovered} replies",
            events.len()
        )
    }
}

impl Follower {
    pub(super) fn new(address: SocketAddr, wishes: Wishes) -> Self {
        Self { address, wishes, known: Known::default(), seen: watch::Sender::default() }
    }

    /// Follows until the end, whatever becomes of the hub.
    pub(super) async fn follow(mut self, mut end: watch::Receiver<bool>) -> Known {
        loop {
            let talk = async {
                match self.wishes.speaks {
                    Dialect::Native => super::native::talk(&mut self).await,
                    Dialect::SocketIo => super::socketio::talk(&mut self).await,
                }
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                _ = end.wait_for(|end| *end) => return self.known,
                () = talk => {}
            }
        }
    }

    /// Takes events in, which must be new and in order.
    #[track_caller]
    pub(super) fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let last = self.known.events.last();
            let in_order = last.is_none_or(|(last, _)| *last < event.0);
            assert!(in_order, "{} got {event:?} after {last:?}", self.wishes.user);
            self.known.events.push(event);
        }
        self.seen.send_replace(1 + self.known.events.len() as u64);
    }
}

/// The events in the log.
pub(super) fn log(data: &Path) -> Vec<Event> {
    let log = Database::open(data.join("log.db")).unwrap();
    let select = "SELECT offset, body FROM entries WHERE channel = 'events' ORDER BY 1";
    let mut select = log.prepare(select).unwrap();
    let rows = select.query_map([], |row| {
        let body: Value = serde_json::from_str(&row.get::<_, String>(1)?).unwrap();
        Ok((row.get(0)?, body["id"].as_str().unwrap().to_owned()))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// What was acknowledged is what is kept: all of it, each once.
pub(super) fn compare(log: &[Event], published: &[Acknowledged]) {
    let mut published: Vec<Event> = published.iter().map(|one| one.event.clone()).collect();
    published.sort_unstable();
    assert_eq!(log, published);
}

/// An address that a hub can have again and again: its port is none of those
/// that the system gives to whoever asks for any, and none that the other test
/// of this kind takes.
pub(super) fn address_to_keep() -> SocketAddr {
    let first = u16::try_from(std::process::id() % 600).unwrap();
    let free = (0..600).map(|n| SocketAddr::from(([127, 0, 0, 1], 32_100 + (first + n) % 600)));
    free.into_iter().find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}
