//! The example clients in rooms of a real hub: what they publish and are told
//! while it is killed, their tokens renewed, and their user sent away.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use telltale::access::Issuer;
use tokio::task::JoinSet;

use super::rust::client::{Client as RustClient, Ended, Event};
use super::{Client, LOOK_EVERY, address_to_keep, clients, workshop};
use crate::harness::{Hub, Program, within};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ROOMS: [&str; 2] = ["project:1", "project:2"];
/// Events that each client publishes.
const COUNT: usize = 60;
/// Ends of the hub while they do.
const KILLS: usize = 3;
/// How long the tokens live that are to be renewed, in seconds.
const BRIEF_S: i64 = 4;

/// An event as a client tells of it: its offset, who published it, and its number.
type Told = (u64, String, u64);

/// A client that follows the rooms, and publishes to them.
struct Member {
    name: &'static str,
    runs: Runs,
}

enum Runs {
    /// As a program.
    There(Program),
    /// In a task of the test.
    Here(Arc<Mutex<String>>),
}

/// All of them, as one user.
struct Cast {
    members: Vec<Member>,
    _here: JoinSet<()>,
    _clients: Vec<Client>,
}

impl Cast {
    fn start(address: SocketAddr, token_file: &Path, count: usize) -> Self {
        let (mut members, mut here) = (Vec::new(), JoinSet::new());
        let clients = clients();
        for client in &clients {
            let (name, script) = match client.watch {
                ["node", ..] => ("javascript", "rooms.mjs"),
                _ => ("python", "rooms.py"),
            };
            let source = workshop::root().join("tests/clients").join(script);
            fs::copy(source, client.folder.path().join(script)).unwrap();
            let mut command: Command = client.command(&[client.watch[0], script]);
            command.arg(address.to_string()).arg(token_file).args([name, &count.to_string()]);
            members.push(Member { name, runs: Runs::There(Program::run(&mut command)) });
        }
        let said = Arc::new(Mutex::new(String::new()));
        members.push(Member { name: "rust", runs: Runs::Here(said.clone()) });
        let token_file = token_file.to_owned();
        here.spawn(async move {
            let ended = follow(address, token_file, count, &said).await;
            say(&said, format!("status closed {ended}"));
        });
        Self { members, _here: here, _clients: clients }
    }

    /// Waits until each has said what is wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Member) -> bool) {
        for member in &self.members {
            within(&format!("{what} of the client in {}", member.name), async {
                while !wanted(member) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            })
            .await;
        }
    }
}

impl Member {
    fn said(&self) -> String {
        match &self.runs {
            Runs::There(program) => program.stdout(),
            Runs::Here(said) => said.lock().unwrap().clone(),
        }
    }

    /// The words after `first` of all lines that begin with it.
    fn lines(&self, first: &str) -> Vec<Vec<String>> {
        let said = self.said();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let lines = whole.lines().map(|line| line.split(' ').map(str::to_owned));
        let lines = lines.map(Iterator::collect::<Vec<String>>);
        lines.filter(|words| words[0] == first).map(|words| words[1..].to_vec()).collect()
    }

    fn entries(&self) -> Vec<Told> {
        let told = |words: Vec<String>| {
            (words[1].parse().unwrap(), words[2].clone(), words[3].parse().unwrap())
        };
        self.lines("entry").into_iter().map(told).collect()
    }

    fn receipts(&self) -> Vec<Told> {
        let told = |words: Vec<String>| {
            (words[1].parse().unwrap(), self.name.to_owned(), words[0].parse().unwrap())
        };
        self.lines("receipt").into_iter().map(told).collect()
    }
}

fn say(said: &Mutex<String>, line: String) {
    let mut said = said.lock().unwrap();
    said.push_str(&line);
    said.push('\n');
}

/// What the scripts in the other languages do.
async fn follow(
    address: SocketAddr,
    token_file: PathBuf,
    count: usize,
    said: &Mutex<String>,
) -> Ended {
    let mut client = RustClient::new(&address.to_string())
        .token(move || fs::read_to_string(&token_file).unwrap());
    for room in ROOMS {
        client = client.subscribe(json!({"channel": format!("room:{room}")}));
    }
    let (mut to_begin, mut published) = (ROOMS.len(), 0);
    loop {
        let publishes = to_begin == 0 && published < count;
        let patience =
            if publishes { Duration::from_millis(10) } else { Duration::from_secs(3600) };
        match tokio::time::timeout(patience, client.next()).await {
            Ok(Ok(Event::Entry { at, offset, entry })) => {
                let (by, n) = (entry["data"]["by"].as_str().unwrap(), &entry["data"]["n"]);
                say(said, format!("entry {} {offset} {by} {n}", ROOMS[at]));
            }
            Ok(Ok(Event::Fresh { at, first })) => {
                let offset = client.subscriptions[at].position.as_ref().unwrap().offset;
                say(
                    said,
                    format!("{} {} {offset}", if first { "fresh" } else { "lost" }, ROOMS[at]),
                );
                to_begin = to_begin.saturating_sub(1);
            }
            Ok(Ok(Event::Lost { reason, .. })) => say(said, format!("status waiting {reason}")),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(ended)) => return ended,
        }
        if publishes {
            let rooms =
                if published % 3 == 0 { &ROOMS[..] } else { &ROOMS[published % 3 - 1..][..1] };
            let data = json!({"by": "rust", "n": published});
            let event = json!({"type": "test.done", "data": data, "rooms": rooms});
            let receipt = client.publish(event).await.unwrap();
            say(said, format!("receipt {published} {}", receipt["offset"]));
            published += 1;
        }
    }
}

fn token(lives_s: i64) -> String {
    let exp = jiff::Timestamp::now().as_second() + lives_s;
    let claims = json!({"sub": "ana", "exp": exp, "rooms": ["project:*"], "publish": ["test.*"]});
    Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

fn write_token(file: &Path, lives_s: i64) {
    let unfinished = file.with_extension("new");
    fs::write(&unfinished, token(lives_s)).unwrap();
    fs::rename(unfinished, file).unwrap();
}

fn guarded() -> crate::harness::Setup {
    let auth = format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\nleeway = \"0s\"\n");
    Hub::new().configured(&auth)
}

/// What a room has been told, as the log has it.
async fn kept(hub: &Hub, room: &str) -> Vec<Told> {
    let path = format!("/v1/rooms/{room}/events?after=0&limit=1000");
    let answer = hub.ask("GET", &path, Some(&hub.file.admin_token)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    assert_eq!((&page["more"], &page["lost"]), (&json!(false), &json!(false)));
    let told = |entry: &Value| {
        let data = &entry["entry"]["data"];
        let by = data["by"].as_str().unwrap().to_owned();
        (entry["offset"].as_u64().unwrap(), by, data["n"].as_u64().unwrap())
    };
    page["entries"].as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn each_client_publishes_and_is_told_each_event_once_over_kills_of_its_hub() {
    let address = address_to_keep();
    let mut hub = guarded().listen(address).start().await;
    let token_file = hub.path().join("token");
    write_token(&token_file, 3600);
    let cast = Cast::start(address, &token_file, COUNT);
    for kill in 1..=KILLS {
        let some = kill * COUNT / (KILLS + 2);
        cast.until("some receipts", |member| member.receipts().len() >= some).await;
        hub = hub.kill().start_listening().await;
    }
    cast.until("all receipts", |member| member.receipts().len() >= COUNT).await;

    let rooms = [kept(&hub, ROOMS[0]).await, kept(&hub, ROOMS[1]).await];
    let all: BTreeSet<Told> = rooms.iter().flatten().cloned().collect();
    let receipts = cast.members.iter().flat_map(Member::receipts);
    assert_eq!(receipts.collect::<BTreeSet<Told>>(), all, "each is once in the log");
    assert_eq!(all.len(), cast.members.len() * COUNT);
    for member in &cast.members {
        // What came before it was in the room is not for it.
        let begun = |room: &str| {
            let fresh = member.lines("fresh").into_iter().find(|words| words[0] == room);
            fresh.unwrap()[1].parse::<u64>().unwrap()
        };
        let of = |at: usize| rooms[at].iter().filter(move |told| told.0 > begun(ROOMS[at]));
        let entitled: BTreeSet<Told> = of(0).chain(of(1)).cloned().collect();
        let is_told = |member: &Member| member.entries().len() >= entitled.len();
        let told = async {
            while !is_told(member) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        within(&format!("all events in {}", member.name), told).await;
        let mut told = member.entries();
        told.sort();
        assert_eq!(told, entitled.into_iter().collect::<Vec<_>>(), "{}", member.name);
        let said = member.said();
        assert!(member.lines("lost").is_empty() && member.lines("refused").is_empty(), "{said}");
        assert!(said.contains("status waiting"), "its connection was lost: {said}");
    }
}

#[tokio::test]
async fn each_client_renews_its_token_and_stays_away_when_its_user_is_sent_away() {
    let hub = guarded().start().await;
    let token_file = hub.path().join("token");
    write_token(&token_file, BRIEF_S);
    // There is always a fresh one, and each lives for a moment.
    let (mut issuing, file) = (JoinSet::new(), token_file.clone());
    issuing.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            write_token(&file, BRIEF_S);
        }
    });
    let cast = Cast::start(hub.0, &token_file, 0);
    cast.until("its rooms", |member| member.lines("fresh").len() == ROOMS.len()).await;
    // What they have shown at first has expired after this.
    tokio::time::sleep(Duration::from_secs(BRIEF_S.unsigned_abs() + 1)).await;
    let mut publisher = hub.native_with(&hub.file.admin_token).await;
    let data = json!({"by": "test", "n": 1});
    let event = json!({"op": "publish", "type": "test.done", "data": data, "rooms": ROOMS});
    publisher.ok(event).await;
    cast.until("the last event", |member| member.entries().len() == 1).await;
    for member in &cast.members {
        let said = member.said();
        assert!(!said.contains("status waiting"), "it had another connection: {said}");
    }
    let sent_away = hub.ask("POST", "/v1/users/ana/disconnect", Some(&hub.file.admin_token)).await;
    assert_eq!(sent_away.json(), json!({"disconnected": cast.members.len()}));
    cast.until("its end", |member| member.said().contains("status closed 3503")).await;
}

#[tokio::test]
async fn who_excludes_itself_may_try_again_from_another_connection() {
    let hub = Hub::new().start().await;
    let event = json!({"op": "publish", "type": "a.b", "exclude_self": true, "key": "k"});
    let (mut first, mut second) = (hub.native().await, hub.native().await);
    assert_eq!(first.ok(event.clone()).await, second.ok(event).await);
}
