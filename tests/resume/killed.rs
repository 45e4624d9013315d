//! The real program, killed and stopped again and again on one address and one
//! data folder, and clients that follow its log over all of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection as Database;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::number_from;
use crate::harness::{Hub, guest, mode, within};

/// Ends of the hub unless `RESUME_KILLS` says how many.
const KILLS: u64 = 24;
const CHANNELS: [&str; 2] = ["hub", "findings"];

/// A client that has seen some of the log.
struct Follower {
    address: SocketAddr,
    epoch: String,
    channels: Vec<Followed>,
    /// How much it has heard in all: first replies, and entries.
    seen: watch::Sender<u64>,
}

/// What it has seen of a channel.
struct Followed {
    channel: &'static str,
    filter: Value,
    sub: Value,
    /// Where it began.
    since: u64,
    /// It has got everything up to here.
    position: Option<u64>,
    entries: Vec<(u64, Value)>,
}

impl Followed {
    fn take(&mut self, told: &Value) {
        let offset = told["offset"].as_u64().unwrap();
        let last = self.entries.last().map_or(self.since, |(last, _)| *last);
        assert!(offset > last, "{offset} after {last}: {told}");
        assert!(told["prev"].as_u64() <= self.position, "after {:?}: {told}", self.position);
        self.position = self.position.max(Some(offset));
        self.entries.push((offset, told["entry"].clone()));
    }
}

impl Follower {
    fn new(address: SocketAddr, filters: [Value; 2]) -> Self {
        let channels = CHANNELS.into_iter().zip(filters).map(|(channel, filter)| Followed {
            channel,
            filter,
            sub: Value::Null,
            since: 0,
            position: None,
            entries: Vec::new(),
        });
        let (channels, seen) = (channels.collect(), watch::Sender::default());
        Self { address, epoch: String::new(), channels, seen }
    }

    /// Follows until `enough`, whatever becomes of the hub.
    async fn follow(mut self, mut enough: watch::Receiver<bool>) -> Self {
        loop {
            let talk = async {
                self.talk().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            tokio::select! {
                _ = enough.wait_for(|enough| *enough) => return self,
                () = talk => {}
            }
        }
    }

    /// One connection, until it breaks.
    async fn talk(&mut self) {
        let url = format!("ws://{}/v1/stream", self.address);
        let Ok((mut socket, _)) = connect_async(&url).await else { return };
        for (at, followed) in self.channels.iter_mut().enumerate() {
            followed.sub = Value::Null;
            let mut command = json!({
                "id": at, "op": "subscribe", "channel": followed.channel, "filter": followed.filter,
            });
            if let Some(position) = followed.position {
                command["resume"] = json!({"epoch": self.epoch, "offset": position});
            }
            if socket.send(Message::Text(command.to_string().into())).await.is_err() {
                return;
            }
        }
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                self.hear(&serde_json::from_str(&text).unwrap());
            }
        }
    }

    fn hear(&mut self, message: &Value) {
        if let Some(at) = message["id"].as_u64() {
            self.hear_reply(usize::try_from(at).unwrap(), &message["ok"]);
        } else if message["push"] != "bye" {
            let sub = &message["sub"];
            let at = self.channels.iter().position(|followed| followed.sub == *sub).unwrap();
            assert_eq!(message["epoch"], self.epoch);
            self.channels[at].take(message);
            let offset = message["offset"].as_u64().unwrap();
            let others = self.channels.iter_mut().filter(|followed| !followed.sub.is_null());
            others.for_each(|other| other.position = other.position.max(Some(offset - 1)));
        }
        let heard = |f: &Followed| f.entries.len() as u64 + u64::from(f.position.is_some());
        let seen = self.channels.iter().map(heard).sum();
        self.seen.send_replace(seen);
    }

    fn hear_reply(&mut self, at: usize, ok: &Value) {
        let offset = ok["offset"].as_u64().unwrap();
        let followed = &mut self.channels[at];
        if followed.position.is_none() {
            assert_eq!(ok["recovered"], false);
            followed.since = offset;
            self.epoch = ok["epoch"].as_str().unwrap().to_owned();
        } else {
            assert_eq!(ok["recovered"], true, "after {:?}: {ok}", followed.position);
            assert_eq!(ok["epoch"], self.epoch);
            ok["entries"].as_array().unwrap().iter().for_each(|entry| followed.take(entry));
        }
        followed.sub = ok["sub"].clone();
        followed.position = followed.position.max(Some(offset));
    }
}

/// What is in the log.
fn log(data: &Path) -> Vec<(u64, String, Value)> {
    let log = Database::open(data.join("log.db")).unwrap();
    let mut select = log.prepare("SELECT offset, channel, body FROM entries ORDER BY 1").unwrap();
    let rows = select.query_map([], |row| {
        let body: String = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, serde_json::from_str(&body).unwrap()))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Each client has seen all of the log that it wanted since it came, once.
fn compare(follower: &Follower, log: &[(u64, String, Value)]) {
    let bodies: BTreeMap<_, _> = log.iter().map(|(offset, _, body)| (offset, body)).collect();
    for Followed { channel, filter, since, entries, .. } in &follower.channels {
        for (offset, entry) in entries {
            assert_eq!(bodies.get(offset), Some(&entry), "{offset} was told, and is not kept");
        }
        let last = entries.last().map_or(*since, |(last, _)| *last);
        let wanted = log.iter().filter(|(offset, of, body)| {
            let plugin = filter.get("plugin").is_none_or(|plugin| *plugin == body["plugin"]);
            of == channel && offset > since && *offset <= last && plugin
        });
        let wanted: Vec<_> = wanted.map(|(offset, ..)| *offset).collect();
        let seen: Vec<_> = entries.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(seen, wanted, "{channel} {filter}");
    }
}

fn counts(progress: &[watch::Receiver<u64>]) -> Vec<u64> {
    progress.iter().map(|seen| *seen.borrow()).collect()
}

/// Waits until each client has seen more than it had.
async fn all_hear_more(progress: &mut [watch::Receiver<u64>], before: &[u64]) {
    for (seen, before) in progress.iter_mut().zip(before) {
        within("something to be told", seen.wait_for(|seen| seen > before)).await.unwrap();
    }
}

/// An address that a hub can have again and again: its port is none of those
/// that the system gives to whoever asks for any.
fn address_to_keep() -> SocketAddr {
    let first = u16::try_from(std::process::id() % 2000).unwrap();
    let free = (0..2000).map(|n| SocketAddr::from(([127, 0, 0, 1], 30_000 + (first + n) % 2000)));
    free.into_iter().find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kills_and_stops_of_the_program_each_entry_is_seen_once_and_none_that_was_told_is_lost()
 {
    let address = address_to_keep();
    let watcher = "series = [\"guest.*\"]\n[config]\nlimit = 50.0\n";
    let mut hub = Hub::new()
        .listen(address)
        .tick_ms(50)
        // Findings that open and close, all the time.
        .without_quiet_times()
        .plugin("pulse", "guest_collector", &mode("pulse"))
        .plugin("watcher", "guest_detector", watcher)
        .start()
        .await;
    let (stop, enough) = watch::channel(false);
    let mut progress = Vec::new();
    let mut followers = Vec::new();
    for filters in [
        [json!({}), json!({})],
        [json!({"plugin": "guest"}), json!({})],
        [json!({}), json!({"plugin": "nobody"})],
    ] {
        let follower = Follower::new(address, filters);
        progress.push(follower.seen.subscribe());
        followers.push(tokio::spawn(follower.follow(enough.clone())));
    }
    let component = guest("guest_collector");
    // From here on each entry is for all of them.
    all_hear_more(&mut progress, &[1; 3]).await;
    let mut last = counts(&progress);
    let mut rng = StdRng::seed_from_u64(4);
    for round in 0..number_from("RESUME_KILLS").unwrap_or(KILLS) {
        let before = counts(&progress);
        if round % 2 == 0 {
            hub.drop_in("guest", &component);
        } else {
            hub.remove("guest");
        }
        // All have heard something, and something may be on its way.
        all_hear_more(&mut progress, &before).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..40))).await;
        let setup = match round % 4 {
            3 => hub.stop_with(Signal::TERM).await.1,
            _ => hub.kill(),
        };
        last = counts(&progress);
        hub = setup.start_listening().await;
    }
    // What was missed over the last of them comes too.
    all_hear_more(&mut progress, &last).await;
    stop.send_replace(true);
    let data = hub.setup().data();
    let (_, _setup) = hub.stop_with(Signal::TERM).await;
    let log = log(&data);
    for follower in followers {
        let follower = within("a client to end", follower).await.unwrap();
        compare(&follower, &log);
    }
}
