//! What is gathered when, what is kept of it, and when it is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::group::{Batch, Groups, Pace, Rules};
use super::*;
use crate::model::{Entry, LogChannel, Logged};
use crate::shutdown;
use crate::store::{Place, StoreConfig};

const SECOND: Duration = Duration::from_secs(1);

/// A finding of a plugin's series, as it is kept.
fn finding(plugin: &str, name: &str, score: f64, state: &str) -> Entry {
    let body = json!({
        "id": format!("{plugin}-{name}"), "state": state, "detector": "novelty", "series": 7,
        "plugin": plugin, "name": name, "labels": {"core": "3"}, "type": "spike", "score": score,
        "peak": 1.0, "started": "2026-02-10T12:00:00.000Z",
    });
    Entry::new(LogChannel::Findings, 0, &body).unwrap()
}

fn rules() -> Rules {
    Rules {
        detectors: Globs::all(),
        series: Globs::all(),
        score: 0.0,
        closed: true,
        group_by: vec!["plugin".to_owned()],
        wait: 10 * SECOND,
        interval: 60 * SECOND,
        findings_max: 3,
    }
}

/// Groups into which findings of plugins come, one after the other.
struct Bench {
    groups: Groups,
    offset: u64,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        Self { groups: Groups::new(rules, Place::default()), offset: 0 }
    }

    fn add(&mut self, plugin: &str, score: f64) {
        self.add_entry(finding(plugin, "cpu", score, "open"));
    }

    fn add_entry(&mut self, entry: Entry) {
        self.offset += 1;
        self.groups.add(&Logged::new(self.offset, entry), Instant::now(), Duration::ZERO);
    }

    fn take(&mut self) -> Option<(Batch, Place)> {
        self.groups.take(Instant::now(), false)
    }
}

fn offsets(batch: &Batch) -> Vec<u64> {
    batch.findings.iter().map(|told| told.offset).collect()
}

#[tokio::test(start_paused = true)]
async fn what_comes_within_the_wait_goes_together_and_the_next_waits_for_the_interval() {
    let begun = Instant::now();
    let mut bench = Bench::new(rules());
    bench.add("a", 0.6);
    assert_eq!(bench.groups.due(), Some(begun + 10 * SECOND));
    tokio::time::advance(9 * SECOND).await;
    bench.add("a", 0.7);
    assert!(bench.take().is_none());
    tokio::time::advance(SECOND).await;
    let (batch, place) = bench.take().unwrap();
    assert_eq!((offsets(&batch), batch.opened, place.offset), (vec![1, 2], 2, 2));
    assert_eq!(batch.common, BTreeMap::from([("plugin".to_owned(), "a".to_owned())]));
    bench.add("a", 0.6);
    assert_eq!(bench.groups.due(), Some(begun + 70 * SECOND));
    // What happened long ago has waited enough.
    let old = Logged::new(9, finding("b", "cpu", 0.6, "open"));
    bench.groups.add(&old, Instant::now(), 60 * SECOND);
    assert_eq!(bench.groups.due(), Some(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_told_before_another_is_not_told_twice() {
    let mut bench = Bench::new(rules());
    bench.add("slow", 0.6);
    bench.add("quick", 0.6);
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(offsets(&bench.take().unwrap().0), [1]);
    assert_eq!(offsets(&bench.take().unwrap().0), [2]);
    // The next of `slow` waits for its interval; another group need not.
    bench.add("slow", 0.6);
    bench.add("other", 0.6);
    tokio::time::advance(10 * SECOND).await;
    let (batch, place) = bench.take().unwrap();
    assert_eq!(offsets(&batch), [4]);
    let ahead = BTreeMap::from([(json!({"plugin": "other"}).to_string(), 4)]);
    assert_eq!(place, Place { offset: 2, ahead });
    // The hub is started again, and reads from there.
    let mut groups = Groups::new(rules(), place);
    for (offset, plugin) in [(3, "slow"), (4, "other"), (5, "other")] {
        let logged = Logged::new(offset, finding(plugin, "cpu", 0.6, "open"));
        groups.add(&logged, Instant::now(), 10 * SECOND);
    }
    assert_eq!(groups.place().offset, 2);
    assert_eq!(offsets(&groups.take(Instant::now(), false).unwrap().0), [3]);
    let (batch, place) = groups.take(Instant::now(), false).unwrap();
    assert_eq!((offsets(&batch), place.offset), (vec![5], 5));
    assert!(place.ahead.is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_too_many_the_strongest_are_told_and_the_others_counted() {
    let mut bench = Bench::new(rules());
    for score in [0.6, 0.9, 0.7, 0.8, 0.5, 0.9] {
        bench.add("a", score);
    }
    tokio::time::advance(10 * SECOND).await;
    let (batch, place) = bench.take().unwrap();
    assert_eq!((offsets(&batch), batch.left_out, batch.opened), (vec![2, 4, 6], 3, 6));
    assert_eq!((batch.first, batch.last, place.offset), (1, 6, 6));
}

#[tokio::test(start_paused = true)]
async fn groups_that_had_to_wait_go_together() {
    let mut bench = Bench::new(Rules { group_by: vec!["plugin".into(), "type".into()], ..rules() });
    for plugin in ["a", "b", "a", "c"] {
        bench.add(plugin, 0.6);
    }
    tokio::time::advance(10 * SECOND).await;
    let (batch, place) = bench.groups.take(Instant::now(), true).unwrap();
    assert_eq!((batch.groups, batch.opened, batch.left_out), (3, 4, 1));
    assert_eq!(batch.common, BTreeMap::from([("type".to_owned(), "spike".to_owned())]));
    assert_eq!((offsets(&batch), place.offset), (vec![1, 2, 3], 4));
}

#[tokio::test(start_paused = true)]
async fn only_what_the_rules_want_is_told() {
    let globs = |text: &str| Globs::new(&[text]).unwrap();
    let wanted = || Rules {
        detectors: globs("nov*"),
        series: globs("cpu"),
        score: 0.6,
        closed: false,
        group_by: vec!["label.core".into()],
        ..rules()
    };
    let mut bench = Bench::new(wanted());
    for (name, score, state) in
        [("disk", 0.9, "open"), ("cpu", 0.59, "open"), ("cpu", 0.9, "close"), ("cpu", 0.6, "open")]
    {
        bench.add_entry(finding("a", name, score, state));
    }
    tokio::time::advance(10 * SECOND).await;
    let (batch, _) = bench.take().unwrap();
    assert_eq!((offsets(&batch), batch.common["label.core"].as_str()), (vec![4], "3"));
    let mut bench = Bench::new(Rules { detectors: globs("zscore"), ..wanted() });
    bench.add("a", 0.9);
    assert!(bench.groups.due().is_none());
    // It need not be read again.
    assert_eq!(bench.groups.place().offset, 1);
}

#[tokio::test(start_paused = true)]
async fn there_is_no_more_read_than_there_is_room_for() {
    let mut bench = Bench::new(Rules { findings_max: 1000, ..rules() });
    for _ in 0..2 {
        assert!(!bench.groups.is_full());
        (0..1000).for_each(|_| bench.add("a", 0.6));
        bench.add("b", 0.6);
    }
    assert!(!bench.groups.is_full(), "those that are only counted need no room");
    (0..999).for_each(|_| bench.add("b", 0.6));
    assert!(bench.groups.is_full());
    assert_eq!(bench.groups.waiting(), 3001);
    let mut bench = Bench::new(rules());
    (0..1024).for_each(|n| bench.add(&format!("plugin-{n}"), 0.6));
    assert!(bench.groups.is_full());
}

#[tokio::test(start_paused = true)]
async fn a_minute_has_so_many_deliveries_and_no_more() {
    let mut pace = Pace::new(2);
    let begun = Instant::now();
    for at in [0, 20] {
        assert_eq!(pace.ready(Instant::now()), begun + at * SECOND);
        pace.begin(Instant::now());
        tokio::time::advance(20 * SECOND).await;
    }
    assert_eq!(pace.ready(Instant::now()), begun + 60 * SECOND);
    tokio::time::advance(20 * SECOND).await;
    pace.begin(Instant::now());
    assert_eq!(pace.ready(Instant::now()), begun + 80 * SECOND);
}

/// A receiver of a configuration.
fn receiver(toml: &str) -> Receiver {
    let config: NotifyConfig = toml::from_str(toml).unwrap();
    let configs = BTreeMap::from([("pager".to_owned(), config)]);
    let mut receivers = Receivers::open(&configs, &Clock::system()).unwrap();
    let (name, config, detectors, series, wire) = receivers.0.remove(0);
    Receiver {
        name,
        hub: "hub".to_owned(),
        epoch: "epoch".to_owned(),
        config,
        detectors,
        series,
        wire,
        woken: tokio::sync::Notify::new(),
        status: Mutex::default(),
    }
}

#[test]
fn the_pause_doubles_up_to_its_most_and_is_as_long_as_the_receiver_asks() {
    let receiver = receiver("url = \"http://a.test/\"\nretry_first = \"2s\"\nretry_most = \"30s\"");
    let pause = |attempts| receiver.backoff(attempts, None, 0.0).as_secs();
    assert_eq!([1, 2, 3, 4, 5, 100].map(pause), [2, 4, 8, 16, 30, 30]);
    assert_eq!(receiver.backoff(1, None, 1.0), SECOND);
    assert_eq!(receiver.backoff(1, Some(90 * SECOND), 1.0), 90 * SECOND);
    assert_eq!(receiver.backoff(9, Some(SECOND), 0.0), 30 * SECOND);
}

/// A store in a folder of its own, at a time that is set.
struct Kept {
    store: Store,
    clock: Clock,
    folder: tempfile::TempDir,
    _logged: mpsc::Receiver<Vec<Arc<Logged>>>,
}

fn kept(folder: tempfile::TempDir, now_ns: u64) -> Kept {
    let clock = Clock::set_by(Arc::new(AtomicU64::new(now_ns)));
    let (logged, heard) = mpsc::channel(1000);
    let config = StoreConfig {
        folder: folder.path().to_owned(),
        retention_age: Duration::from_secs(60),
        retention_bytes: 1 << 24,
        boards_bytes: 1 << 20,
        clock: clock.clone(),
    };
    let (store, _) = Store::open(config, logged).unwrap();
    Kept { store, clock, folder, _logged: heard }
}

fn fresh() -> Kept {
    kept(tempfile::tempdir().unwrap(), 1_000_000)
}

async fn change(store: &Store, act: DeliveryAct) -> u64 {
    task::change(&store.deliveries(), act).await.unwrap()
}

fn delivery(receiver: &str, body: &str) -> Box<Delivery> {
    Box::new(Delivery {
        number: 0,
        receiver: receiver.to_owned(),
        id: message_id(),
        time_ms: 1,
        attempts: 0,
        dead: None,
        findings: 2,
        body: body.to_owned(),
    })
}

/// Keeps a delivery, as one that is on its way; its number.
async fn on_its_way(store: &Store, receiver: &str, offset: u64) -> u64 {
    let place = Place { offset, ahead: BTreeMap::from([("group".to_owned(), offset + 1)]) };
    let (receiver, delivery) = (receiver.to_owned(), Some(delivery(receiver, "{}")));
    change(store, DeliveryAct::Move { receiver, place, delivery }).await
}

#[tokio::test]
async fn a_receiver_is_moved_on_with_what_tells_it_and_letters_have_a_bound() {
    let kept = fresh();
    let (store, reader) = (&kept.store, kept.store.reader());
    assert_eq!(reader.place("a".into()).await.unwrap(), None);
    let first = on_its_way(store, "a", 5).await;
    let second = on_its_way(store, "a", 6).await;
    let place = reader.place("a".into()).await.unwrap().unwrap();
    assert_eq!((place.offset, place.ahead["group"], place.ahead.len()), (6, 7, 1));
    assert_eq!(reader.undelivered("a".into()).await.unwrap().unwrap().number, first);
    assert_eq!(reader.undelivered("b".into()).await.unwrap(), None);
    change(store, DeliveryAct::Taken(first)).await;
    assert_eq!(change(store, DeliveryAct::Dead(second, 3, "no".into())).await, 0);
    assert_eq!(reader.undelivered("a".into()).await.unwrap(), None);
    let letters = reader.dead("a".into(), None, 10).await.unwrap();
    assert_eq!((letters[0].number, letters[0].attempts, &*letters[0].body), (second, 3, ""));
    let whole = reader.dead("a".into(), Some(second), 10).await.unwrap();
    assert_eq!((&*whole[0].body, whole[0].dead.as_deref()), ("{}", Some("no")));
    assert_eq!(change(store, DeliveryAct::Revive("b".into(), None)).await, 0);
    assert_eq!(change(store, DeliveryAct::Revive("a".into(), Some(second))).await, 1);
    assert_eq!(reader.undelivered("a".into()).await.unwrap().unwrap().number, second);

    change(store, DeliveryAct::Only(vec!["b".into()])).await;
    assert_eq!(reader.place("a".into()).await.unwrap(), None);
    assert!(reader.undelivered("a".into()).await.unwrap().is_some());
}

#[tokio::test]
async fn of_too_many_dead_letters_the_oldest_go_and_nobody_elses() {
    let kept = fresh();
    let store = &kept.store;
    let other = on_its_way(store, "other", 1).await;
    change(store, DeliveryAct::Dead(other, 1, "no".into())).await;
    let large = "x".repeat(3 << 20);
    for _ in 0..4 {
        let (receiver, place) = ("a".to_owned(), Place::default());
        let delivery = Some(delivery("a", &large));
        let number = change(store, DeliveryAct::Move { receiver, place, delivery }).await;
        change(store, DeliveryAct::Dead(number, 1, "no".into())).await;
    }
    // Two of them have room.
    let there = store.reader().dead_letters().await.unwrap();
    assert_eq!(there, BTreeMap::from([("a".to_owned(), 2), ("other".to_owned(), 1)]));
    assert_eq!(change(store, DeliveryAct::Drop("a".into(), None)).await, 2);
}

/// Takes one delivery: its JSON.
async fn take_one(listener: &TcpListener) -> Value {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_receiver_that_the_log_has_forgotten_something_for_is_told_so() {
    let before = fresh();
    // It was told up to offset 1 when the hub was stopped.
    let (receiver, place) = ("pager".to_owned(), Place { offset: 1, ..Place::default() });
    change(&before.store, DeliveryAct::Move { receiver, place, delivery: None }).await;
    for _ in 0..3 {
        before.store.log().send(finding("a", "cpu", 0.9, "open")).await.unwrap();
    }
    before.store.close().await;
    // What is too old goes at the start.
    let kept = kept(before.folder, 3_600_000_000_000);
    let store = &kept.store;
    let forgotten = async {
        while store.reader().bounds().await.unwrap().0 < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.unwrap();
    let fresh = Entry { time_ms: 3_600_000, ..finding("a", "cpu", 0.9, "open") };
    store.log().send(fresh).await.unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = \"http://{}/\"\ngroup_wait = \"0s\"", listener.local_addr().unwrap());
    let configs = BTreeMap::from([("pager".to_owned(), toml::from_str(&url).unwrap())]);
    let clock = kept.clock.clone();
    let receivers = Receivers::open(&configs, &clock).unwrap();
    let notify = Notify::new(receivers, store, "hub", "epoch", clock);
    let (stop, heard) = shutdown::channel();
    let tasks: Vec<_> = notify.tell(&heard).into_iter().map(tokio::spawn).collect();
    let told = tokio::time::timeout(Duration::from_secs(60), take_one(&listener)).await.unwrap();
    assert_eq!(told["data"]["gap"], json!({"after": 1, "through": 3}), "{told}");
    assert_eq!(told["data"]["offsets"], json!({"epoch": "epoch", "first": 4, "last": 4}));
    assert_eq!(notify.counters().gaps.load(Ordering::Relaxed), 1);
    stop.fire();
    for task in tasks {
        task.await.unwrap();
    }
}
