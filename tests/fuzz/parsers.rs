//! What strangers reach, a function for each, fed with anything: it may not
//! panic, and what comes out must make sense. The fuzz targets of this folder
//! call them, and so do the tests, with the corpora.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "whatever is odd here is to be seen")]

use std::cell::RefCell;
use std::io::{Cursor, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper_tungstenite::tungstenite::error::ProtocolError;
use hyper_tungstenite::tungstenite::protocol::{Role, WebSocketContext};
use hyper_tungstenite::tungstenite::{Error as SocketError, Message};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use telltale::access::{Access, Globs, Identity, Issuer, Layouts};
use telltale::channel::{Feed, Lane, SubId};
use telltale::clock::Clock;
use telltale::config::{AuthConfig, Config, GithubConfig};
use telltale::dialect::MESSAGE_BYTES_MAX;
use telltale::dialect::native::{self, Native};
use telltale::dialect::skills::Skills;
use telltale::dialect::socketio::{self, Namespace, SocketIo, packet};
use telltale::dialect::sync::{self, LayoutSync};
use telltale::events::form::{BATCH_MAX, Form, Outcome, Outcomes, Publisher};
use telltale::events::{PublishError, types};
use telltale::gate::{Budget, GateIo, Gates};
use telltale::hooks::{Delivery, Github, Sent};
use telltale::layouts::ChangeError;
use telltale::model::{
    Board, Changed, ConnectionId, Draft, Entry, LogChannel, Logged, Receipt, Room, Route, Stale,
};
use telltale::plugin::Statuses;
use telltale::session::{Act, Client, Dialect, HubFacts, Received, Session};
use telltale::store::StoreError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take: far longer than it does.
const LIMIT: Duration = Duration::from_secs(20);
/// Messages of one input.
const MESSAGES_MAX: usize = 32;
/// The secret of the tokens in the corpus.
const SECRET: &str = "a secret for corpora, and for nothing else";

// Messages.

/// Messages of the native dialect, one a line, of clients who may do all, some
/// and nothing.
pub fn native(data: &[u8]) {
    let some =
        Identity { rooms: Globs::new(&["project:*"]).unwrap(), ..(*Identity::anonymous()).clone() };
    for identity in [Some(Identity::open()), Some(Arc::new(some)), None] {
        let access = if identity.is_some() { Access::open() } else { locked() };
        let mut native = native_client(access, identity);
        for message in messages(data) {
            let acts = match std::str::from_utf8(message) {
                Ok(text) => native.receive(Received::Text(text)),
                Err(_) => native.receive(Received::Binary(message)),
            };
            assert!(!acts.is_empty(), "each command has an answer");
            acts.into_iter().for_each(|act| perform(act, &is_answer));
        }
    }
}

/// Messages of the skills dialect, one a line, of clients who need no token and
/// who do.
pub fn skills(data: &[u8]) {
    for (access, identity) in [(Access::open(), Some(Identity::open())), (locked(), None)] {
        let mut skills = Skills::new(Clock::system(), access, client("skills", identity));
        skills.open().into_iter().for_each(|act| perform(act, &is_json));
        for message in messages(data) {
            let received = match std::str::from_utf8(message) {
                Ok(text) => Received::Text(text),
                Err(_) => Received::Binary(message),
            };
            skills.receive(received).into_iter().for_each(|act| perform(act, &is_json));
        }
        skills.waited().into_iter().for_each(|act| perform(act, &is_json));
    }
}

/// Packets of Socket.IO, one a line: the first may ask to be let in, those that
/// follow are of a client that is.
pub fn socketio(data: &[u8]) {
    let access = Access::open();
    let mut dialect = SocketIo::new(
        Namespace::Main,
        Clock::system(),
        facts(),
        client(socketio::NAME, Some(Identity::open())),
        Identity::open(),
        Arc::new(AtomicBool::new(false)),
    );
    dialect.open().into_iter().for_each(|act| perform(act, &are_packets));
    for message in messages(data) {
        let Ok(text) = std::str::from_utf8(message) else {
            let _ = packet::unbundle(message);
            let acts = dialect.receive(Received::Binary(message));
            acts.into_iter().for_each(|act| perform(act, &are_packets));
            continue;
        };
        if let Ok(read) = packet::parse(text) {
            let again = packet::head_with(read.kind, read.attachments, read.namespace, read.id);
            let again = again + read.data;
            if let Ok(again) = packet::parse(&again) {
                assert_eq!(again.kind, read.kind, "{text:?}");
            }
            let _ = socketio::identify(&access, &read, None);
            let _ = Namespace::of(read.namespace);
            let mut assembly = packet::Assembly::of(text, read.attachments);
            for _ in 0..read.attachments {
                assembly.take(message.to_vec().into()).unwrap();
            }
            let whole = assembly.bundle();
            let (bundled, attachments) = packet::unbundle(&whole).unwrap();
            assert_eq!((bundled, attachments.len()), (text, read.attachments));
            let acts = match read.attachments {
                0 => dialect.receive(Received::Text(text)),
                _ => dialect.receive(Received::Binary(&whole)),
            };
            acts.into_iter().for_each(|act| perform(act, &are_packets));
        }
    }
}

/// Messages of the sync dialect, one a line, of clients who may change their
/// board, and who may only look at one.
pub fn sync(data: &[u8]) {
    let board = Board::new("shared").unwrap();
    let looks = Layouts { read: Globs::all(), write: Globs::none() };
    let looks = Identity { layouts: Some(looks), ..(*Identity::open()).clone() };
    for identity in [Identity::open(), Arc::new(looks)] {
        let client = client(sync::NAME, Some(identity));
        let (board, beat) = (Ok(board.clone()), Duration::from_secs(30));
        let mut dialect = LayoutSync::new(Clock::system(), facts(), client, board, beat);
        dialect.open().into_iter().for_each(|act| perform(act, &is_json));
        for message in messages(data) {
            let received = match std::str::from_utf8(message) {
                Ok(text) => Received::Text(text),
                Err(_) => Received::Binary(message),
            };
            dialect.receive(received).into_iter().for_each(|act| perform(act, &is_json));
            let throttled = dialect.throttled(received, Duration::from_millis(1));
            throttled.into_iter().for_each(|act| perform(act, &is_json));
        }
    }
}

/// Subscriptions that go on where a client stopped: the channel, the epoch and
/// the offset, one a line, each as it stands in a JSON command.
pub fn resume(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut next = || lines.next().unwrap_or_default().into_owned();
    let (channel, epoch, offset) = (next(), next(), next());
    let command = format!(
        "{{\"id\":1,\"op\":\"subscribe\",\"channel\":{},\"resume\":{{\"epoch\":{epoch},\"offset\":{offset}}}}}",
        json!(channel)
    );
    let mut native = native_client(Access::open(), Some(Identity::open()));
    for act in native.receive(Received::Text(&command)) {
        if let Act::Subscribe { resume, .. } = &act {
            let said: Value = serde_json::from_str(&command).unwrap();
            let position = resume.as_ref().unwrap();
            assert_eq!(json!(position.epoch), said["resume"]["epoch"]);
            assert_eq!(json!(position.offset), said["resume"]["offset"]);
        }
        perform(act, &is_answer);
    }
    let packet = format!(
        "21[\"subscribe\",{{\"room\":{},\"after\":{{\"epoch\":{epoch},\"offset\":{offset}}}}}]",
        json!(channel.strip_prefix("room:").unwrap_or(&channel))
    );
    socketio(packet.as_bytes());
    socketio(packet.replacen("{\"epoch\":", "", 1).as_bytes());
}

/// What a publisher writes, an event or a batch.
pub fn events(data: &[u8]) {
    let Ok(form) = serde_json::from_slice::<Form>(data) else { return };
    let _ = form.is_command();
    let publisher = Publisher { source: "ana", connection: None, key: Some("k") };
    let Ok(drafts) = form.drafts(publisher) else { return };
    let (drafts, answers) = drafts.split();
    let outcomes = drafts.iter().map(|(draft, _)| publish(draft)).collect();
    if let Outcomes::Batch(all) = answers.fill(outcomes) {
        assert!((1..=BATCH_MAX).contains(&all.len()));
        is_json(&native::batch(&all).to_string());
    }
}

/// What a hub that keeps nothing makes of an event.
fn publish(draft: &Draft) -> Outcome {
    types::check(&draft.kind, &draft.data).map_err(PublishError::Invalid)?;
    let rooms = match &draft.rooms {
        Some(rooms) => rooms.clone(),
        None => types::rooms_of(&draft.kind, &draft.data),
    };
    assert!(!rooms.is_empty());
    let rooms = rooms.iter().map(|room| Room::new(room.as_str()).unwrap().to_string());
    Ok(Receipt { id: "0f".to_owned(), offset: 3, rooms: rooms.collect() })
}

/// What GitHub delivers: the event, and on the next line the body; or a
/// signature, which nobody can have guessed.
pub fn hook(data: &[u8]) {
    static GITHUB: LazyLock<Arc<Github>> = LazyLock::new(|| {
        let config = json!({"secret": SECRET, "projects": {"a/b": "42"}, "users": {"ana": "7"}});
        let config: GithubConfig = serde_json::from_value(config).unwrap();
        Github::new(&config).unwrap().unwrap()
    });
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (event, body) = (String::from_utf8_lossy(&data[..at]), data.get(at + 1..).unwrap_or(&[]));
    assert!(!GITHUB.is_genuine(&event, body));
    for is_form in [false, true] {
        if let Ok(Delivery::Event(draft)) = GITHUB.read(Sent { event: &event, is_form, body }) {
            assert!(publish(&draft).is_ok(), "{draft:?}");
        }
    }
}

/// A token; or, where it begins with a brace, the claims of one that is signed.
pub fn token(data: &[u8]) {
    static ISSUER: LazyLock<Issuer> =
        LazyLock::new(|| Issuer::of_secret(SECRET.as_bytes()).unwrap());
    let (access, text) = (locked(), String::from_utf8_lossy(data));
    let Ok(claims) = serde_json::from_str::<Value>(&text) else {
        if access.verify(&text).is_ok() {
            // A byte of what is signed is another: then so is the signature.
            let at = text.find('.').unwrap() + 1;
            let other = if text[at..].starts_with('e') { "f" } else { "e" };
            let tampered = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(access.verify(&tampered).is_err(), "{text}");
        }
        return;
    };
    let Ok(token) = ISSUER.sign(&claims) else { return };
    if let Ok(identity) = access.verify(&token) {
        let own = Room::of_user(&identity.user).unwrap();
        assert!(identity.is_authenticated && identity.may_enter(&own), "{claims}");
        assert!(identity.expires_ms.is_some(), "{claims}");
        let others = Room::of_user(&format!("not-{}", identity.user)).unwrap();
        assert!(!identity.may_enter(&others), "{claims}");
    }
}

/// A hub that wants tokens.
fn locked() -> Arc<Access> {
    static ACCESS: LazyLock<Arc<Access>> = LazyLock::new(|| {
        let config = json!({"mode": "jwt", "secret": SECRET, "default_rooms": "project:*"});
        let config: AuthConfig = serde_json::from_value(config).unwrap();
        Access::new(&config, Clock::system()).unwrap().with_admin("of the corpus")
    });
    ACCESS.clone()
}

fn messages(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n').take(MESSAGES_MAX)
}

fn facts() -> Arc<HubFacts> {
    Arc::new(HubFacts {
        name: "fuzzed".to_owned(),
        version: "0",
        tick: Duration::from_secs(1),
        heartbeat: Duration::from_secs(25),
        epoch: "k3q7m2xa".to_owned(),
        admin_token: "of the corpus".to_owned(),
    })
}

fn client(dialect: &'static str, identity: Option<Arc<Identity>>) -> Arc<Client> {
    Client::new(ConnectionId(7), dialect, IpAddr::V4(Ipv4Addr::LOCALHOST), 0, identity)
}

fn native_client(access: Arc<Access>, identity: Option<Arc<Identity>>) -> Native {
    Native::new(Clock::system(), facts(), access, client("native", identity))
}

/// What the channels have to tell.
fn feed() -> Feed {
    Feed::new(Statuses::default(), Clock::system(), "k3q7m2xa".to_owned(), 3)
}

/// One entry of each log channel, and a change of a board.
static ENTRIES: LazyLock<[Logged; 4]> = LazyLock::new(|| {
    let rooms = vec![Room::global(), Room::new("project:42").unwrap()];
    let event = json!({
        "id": "0f", "type": "pr.created", "source": "ci", "data": {"project_id": 42},
    });
    let finding = json!({
        "id": "zscore-31-spike-1", "state": "open", "detector": "zscore", "series": 31,
        "plugin": "system", "name": "system.cpu.utilization", "labels": {"core": "0"},
        "type": "spike", "score": 0.62,
    });
    let hub = json!({"event": "loaded", "plugin": "system", "handover": "cold"});
    let board = vec![Board::new("shared").unwrap().room().clone()];
    let payload = json!({"widgetId": "w", "data": {}});
    let change = json!({
        "id": "0f", "type": "layouts.changed", "source": "ana",
        "data": {
            "board": "shared", "revision": 3,
            "objects": [{"kind": "widget", "id": "w", "version": 2, "revision": 3, "data": {}}],
            "operation": {"type": "WIDGET_UPDATE", "payload": payload},
        },
    });
    [
        Entry::event(1, Route { rooms, exclude: None }, &event).unwrap(),
        Entry::new(LogChannel::Findings, 1, &finding).unwrap(),
        Entry::new(LogChannel::Hub, 1, &hub).unwrap(),
        Entry::event(1, Route { rooms: board, exclude: None }, &change).unwrap(),
    ]
    .map(|entry| Logged::new(3, entry))
});

/// Does what the hub would do for a dialect; `is_good` looks at each message
/// that a client would be sent.
fn perform(act: Act, is_good: &dyn Fn(&str)) {
    match act {
        Act::Send(text) => is_good(&text),
        Act::Subscribe { key, lane, reply, refusal, .. } => {
            assert!(!key.is_empty());
            is_good(&refusal);
            let (head, tail) = reply.unwrap_or_default();
            subscribe(lane, &head, &tail, is_good);
        }
        Act::Unsubscribe { reply, refusal, .. } => [reply, refusal].iter().for_each(|t| is_good(t)),
        Act::Snapshot { refusal, .. } => is_good(&refusal),
        Act::Answer(answer) => is_good(&answer(&feed())),
        Act::Narrow { answer, .. } => is_good(&answer(vec![SubId(9)])),
        Act::History { answer, .. } => is_good(&answer(Err(StoreError::Stopping))),
        Act::Versions { answer, .. } => is_good(&answer(Err(StoreError::Stopping))),
        Act::Publish { drafts, answer, .. } => {
            let outcomes = drafts.iter().enumerate().map(|(at, (draft, _))| match at % 2 {
                0 => publish(draft),
                _ => Err(PublishError::Denied),
            });
            is_good(&answer(outcomes.collect()));
        }
        Act::Change { draft, answer, .. } => {
            // As it was written: what can't be read is refused where it is taken in.
            assert!(serde_json::from_str::<&RawValue>(draft.told.get()).is_ok());
            let keys = draft.operations.iter().map(|operation| operation.key.clone());
            let stale = Stale {
                at: draft.operations.len() - 1,
                key: draft.operations[0].key.clone(),
                base: 1,
                current: None,
                basis: None,
            };
            is_good(&answer(match draft.id {
                None => Err(ChangeError::Conflict(Box::new(stale))),
                Some(_) => {
                    Ok(Changed { revision: 3, versions: keys.map(|key| (key, 2)).collect() })
                }
            }));
        }
        Act::Close(reason) => assert!(reason.words.len() <= 123),
        _ => {}
    }
}

fn subscribe(lane: Lane, head: &str, tail: &str, is_good: &dyn Fn(&str)) {
    let (mut feed, sub) = (feed(), SubId(9));
    match lane {
        Lane::State(mut encoder) => {
            assert!(encoder.every() >= 1);
            let (mut state, mut push) = (head.to_owned(), String::new());
            if !head.is_empty() {
                encoder.state(&mut feed, sub, &mut state);
                is_good(&(state + tail));
            }
            encoder.observe(&feed);
            if encoder.push(&mut feed, sub, &mut push) {
                is_good(&push);
            }
            let (mut before, mut after) = (String::new(), String::new());
            if encoder.full(&mut feed, sub, &mut before, &mut after) {
                is_good(&format!("{before}7{after}"));
            }
        }
        Lane::Log(encoder) => {
            let entitled =
                |logged: &&Logged| logged.entry.is_of(encoder.topic()) && encoder.wants(logged);
            let missed: Vec<_> = ENTRIES.iter().filter(entitled).map(|entry| (1, entry)).collect();
            if !head.is_empty() {
                let (mut fresh, mut resumed) = (head.to_owned(), head.to_owned());
                encoder.fresh(&feed, sub, &mut fresh);
                is_good(&(fresh + tail));
                encoder.resumed(&feed, sub, &missed, &mut resumed);
                is_good(&(resumed + tail));
            }
            for (prev, entry) in missed {
                let mut push = String::new();
                encoder.push(&feed, sub, prev, entry, &mut push);
                is_good(&push);
            }
            for lost in [false, true] {
                let mut gap = String::new();
                encoder.gap(&feed, sub, 1, 3, lost, &mut gap);
                if lost || !gap.is_empty() {
                    is_good(&gap);
                }
            }
        }
    }
}

#[track_caller]
fn is_json(text: &str) {
    let read = serde_json::from_str::<Value>(text);
    assert!(read.is_ok_and(|value| value.is_object()), "{text}");
}

/// An answer of the native dialect, or a push.
#[track_caller]
fn is_answer(text: &str) {
    let read: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let answers = [read.get("ok"), read.get("error"), read.get("push")];
    assert_eq!(answers.iter().flatten().count(), 1, "{text}");
}

/// Socket.IO packets, one or several.
#[track_caller]
fn are_packets(text: &str) {
    for text in text.split(packet::SEPARATOR).filter(|text| !text.is_empty()) {
        let read = packet::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        // A ping comes back with whatever JSON it had.
        assert!(serde_json::from_str::<IgnoredAny>(read.data).is_ok(), "{text}");
    }
}

// Connections.

thread_local! {
    static ECHO: RefCell<Loopback> = RefCell::new(Loopback::new());
}

/// Both ends of a connection, on one thread.
struct Loopback {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
}

impl Loopback {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        Self { runtime, listener }
    }
}

/// What comes in over a WebSocket after the handshake. The first byte says how
/// much of it comes with the handshake.
pub fn websocket(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let (first, rest) = bytes.split_at(bytes.len().min(usize::from(*first)));
    let heard = ECHO.with_borrow(|loopback| {
        let talk = async {
            let address = loopback.listener.local_addr().unwrap();
            let (client, accepted) =
                tokio::join!(TcpStream::connect(address), loopback.listener.accept());
            let gates = Gates::new(2, LIMIT, Budget::new(1 << 20));
            let gate = GateIo::plain(gates.enter().unwrap(), accepted.unwrap().0);
            let native = Box::new(native_client(Access::open(), Some(Identity::open())));
            let session = Session::new(gate, first, native, MESSAGE_BYTES_MAX, None);
            let (heard, ()) = tokio::join!(say(client.unwrap(), rest), session);
            heard
        };
        let talk = async { tokio::time::timeout(LIMIT, talk).await };
        loopback.runtime.block_on(talk).expect("the session does not end")
    });
    // It may have been cut off by the system, with what was on its way.
    let Some(heard) = heard else { return };
    let mut wire = Wire(Cursor::new(heard));
    let mut context = WebSocketContext::new(Role::Client, None);
    loop {
        match context.read(&mut wire) {
            Ok(Message::Text(text)) => is_answer(&text),
            Ok(_) => {}
            Err(
                SocketError::ConnectionClosed
                | SocketError::AlreadyClosed
                | SocketError::Io(_)
                | SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            ) => return,
            Err(error) => panic!("the hub has sent what it may not: {error}"),
        }
    }
}

/// Says all of it, and hears what comes; nothing where the connection broke.
async fn say(mut client: TcpStream, bytes: &[u8]) -> Option<Vec<u8>> {
    // No port stays behind that waits for a minute.
    client.set_zero_linger().unwrap();
    let (mut read, mut write) = client.split();
    let said = async {
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let mut heard = Vec::new();
    let (result, ()) = tokio::join!(read.read_to_end(&mut heard), said);
    result.is_ok().then_some(heard)
}

/// What a server has sent; what is said to it is lost.
struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Read::read(&mut self.0, buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// A whole hub.

/// A connection that minds no signals: the fuzzer has a clock that sends some.
struct Patient(std::net::TcpStream);

fn again<T>(mut act: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        again(|| Read::read(&mut self.0, buffer))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        again(|| Write::write(&mut self.0, bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        again(|| Write::flush(&mut self.0))
    }
}

/// A hub that runs, without plugins, and what is in its log.
pub struct Stage {
    runtime: tokio::runtime::Runtime,
    hub: Option<telltale::Hub>,
    address: SocketAddr,
    epoch: String,
    admin_token: String,
}

impl Stage {
    /// Starts it on a folder.
    pub fn start(folder: &Path) -> Self {
        let plugins = folder.join("plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        let mut config = Config {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            tick: Duration::from_secs(3600),
            data: folder.join("data"),
            plugins: Some(plugins),
            ..Config::default()
        };
        config.hooks.github = serde_json::from_value(json!({"secret": SECRET})).unwrap();
        let limits = &mut config.limits;
        (limits.messages_per_second, limits.messages_burst) = (1_000_000, 1_000_000);
        (limits.publishes_per_second, limits.publishes_burst) = (1_000_000, 1_000_000);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let data = config.data.clone();
        let hub = runtime.block_on(telltale::Hub::start(config)).unwrap();
        let file: Value =
            serde_json::from_slice(&std::fs::read(data.join("hub.json")).unwrap()).unwrap();
        let admin_token = file["admin_token"].as_str().unwrap().to_owned();
        let address = hub.addresses()[0];
        let mut stage =
            Self { runtime, hub: Some(hub), address, epoch: String::new(), admin_token };
        stage.epoch = stage.fill();
        stage
    }

    /// Publishes something to go on after; the log's epoch.
    fn fill(&self) -> String {
        let publish = |n: u32| {
            let room = format!("project:{}", n % 3);
            json!({"id": n, "op": "publish", "type": "pr.created", "data": {"n": n}, "rooms": [room, "global"]})
        };
        let mut lines: Vec<String> = (0..20).map(|n| publish(n).to_string()).collect();
        lines.push(json!({"id": 99, "op": "connect"}).to_string());
        let answers = self.converse(&lines);
        let connected = answers.iter().find(|answer| answer["id"] == 99).unwrap();
        connected["ok"]["epoch"].as_str().unwrap().to_owned()
    }

    /// Messages of the native dialect to a real hub, one a line; `EPOCH` stands
    /// for its log's.
    pub fn stream(&self, data: &[u8]) {
        let text = String::from_utf8_lossy(data).replace("EPOCH", &self.epoch);
        let lines: Vec<String> = text.lines().take(MESSAGES_MAX).map(str::to_owned).collect();
        for answer in self.converse(&lines) {
            if answer["ok"]["recovered"] == true {
                let entries = answer["ok"]["entries"].as_array().unwrap();
                let offsets: Vec<_> = entries.iter().map(|e| e["offset"].as_u64()).collect();
                assert!(offsets.is_sorted_by(|a, b| a < b), "{answer}");
            }
        }
    }

    /// Says all of it over one connection, and waits for as many answers.
    fn converse(&self, lines: &[String]) -> Vec<Value> {
        let stream = std::net::TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let url = format!("ws://{}/v1/stream", self.address);
        let (mut socket, _) = hyper_tungstenite::tungstenite::client(url, Patient(stream)).unwrap();
        let mut answers = Vec::new();
        let mut hear = |socket: &mut hyper_tungstenite::tungstenite::WebSocket<_>| {
            loop {
                match socket.read().unwrap_or_else(|error| panic!("{error} after {lines:?}")) {
                    Message::Text(text) => {
                        is_answer(&text);
                        let read: Value = serde_json::from_str(&text).unwrap();
                        if read.get("push").is_none() {
                            answers.push(read);
                            return;
                        }
                    }
                    Message::Close(frame) => panic!("closed with {frame:?} after {lines:?}"),
                    _ => {}
                }
            }
        };
        for (at, line) in lines.iter().enumerate() {
            socket.send(Message::Text(line.as_str().into())).unwrap();
            // As many under way as a hub takes at once.
            if at >= 8 {
                hear(&mut socket);
            }
        }
        (0..lines.len().min(8)).for_each(|_| hear(&mut socket));
        answers
    }

    /// A request over HTTP: method and path, fields, an empty line, and a body.
    /// `ADMIN` stands for the hub's own token.
    pub fn http(&self, data: &[u8]) {
        let at = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
        let (head, body) = (&data[..at], data.get(at + 2..).unwrap_or_default());
        let head = String::from_utf8_lossy(head).replace("ADMIN", &self.admin_token);
        // What waits for something to happen says so.
        if head.contains("wait_ms") || head.contains("sid=") {
            return;
        }
        let mut lines = head.lines();
        let mut request = format!("{} HTTP/1.1\r\n", lines.next().unwrap_or_default());
        // How long a request is, and whether it becomes something else, is for
        // the library that reads it.
        let ours = ["content-length", "transfer-encoding", "connection", "upgrade", "expect"];
        for line in lines {
            let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
            if !ours.contains(&&*name) {
                request += &format!("{line}\r\n");
            }
        }
        request += &format!("Connection: close\r\nContent-Length: {}\r\n", body.len());
        if !head.to_ascii_lowercase().contains("\nhost:") {
            request += &format!("Host: {}\r\n", self.address);
        }
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request = [request.as_bytes(), b"\r\n", body].concat();
        let (mut answer, said) = (Vec::new(), stream.write_all(&request));
        // Whoever is refused early may find the connection reset.
        if said.is_err() || stream.read_to_end(&mut answer).is_err() || answer.is_empty() {
            return;
        }
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        assert!(!status.starts_with("50") || status == "503", "{answer}");
        let is_whole = !head.to_ascii_lowercase().contains("transfer-encoding");
        if head.contains("application/json") && is_whole && !body.is_empty() {
            assert!(serde_json::from_str::<Value>(body).is_ok(), "{answer}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.take() {
            self.runtime.block_on(hub.stop());
        }
    }
}
