//! The channels' task with real gates and a real log; only the sessions are
//! made by hand.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::access::{Access, Identity};
use crate::clock::Clock;
use crate::dialect::native::Native;
use crate::gate::tests::{Kind, LIMIT, Pair, Wire, fill, frames, pair, read_all};
use crate::gate::{GateIo, Gates};
use crate::model::{
    Answer, Batch, ConnectionId, Entry, Kind as SeriesKind, Labels, LogChannel, Tick,
};
use crate::model::{Series, SeriesId, SeriesKey, SeriesSpec};
use crate::plugin::Statuses;
use crate::session::{Act, Client, Dialect, HubFacts, Received};
use crate::shutdown::{self, Stop};
use crate::snapshot::Freezer;
use crate::store::{Store, StoreConfig};

/// A hub's channels, and what they need of it.
struct Bench {
    channels: Channels,
    store: Store,
    gates: Arc<Gates>,
    freezer: Freezer,
    tick: u64,
    _stop: Stop,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let (channels, task) = channels();
        let config = StoreConfig {
            folder: folder.path().to_owned(),
            retention_age: Duration::from_secs(3600),
            retention_bytes: 1 << 30,
            boards_bytes: 1 << 26,
            clock: Clock::system(),
        };
        let (store, kept) = Store::open(config, channels.logged()).unwrap();
        let budget = Budget::new(256 << 20);
        let gates = Gates::new(100, Duration::from_secs(600), budget.clone());
        let (stop, shutdown) = shutdown::channel();
        let surroundings = Surroundings {
            feed: Feed::new(Statuses::default(), Clock::system(), kept.epoch, kept.head),
            recent: Vec::new(),
            recent_floor: kept.head,
            recent_bounds: RecentBounds::default(),
            reader: store.reader(),
            budget,
            audit: Audit::off(),
            watching: watch::channel(Arc::default()).0,
        };
        tokio::spawn(task.run(surroundings, shutdown));
        let freezer = Freezer::default();
        Self { channels, store, gates, freezer, tick: 0, _stop: stop, _folder: folder }
    }

    async fn pair(&self) -> Pair {
        pair(&self.gates, Kind::Plain).await
    }

    /// Sends a command as a client would.
    fn say(&self, io: &GateIo, command: &Value) {
        let facts = HubFacts {
            name: "hub".into(),
            version: "0",
            tick: Duration::from_secs(1),
            heartbeat: Duration::from_secs(25),
            epoch: "k3".into(),
            admin_token: "token".into(),
        };
        let identity = Some(Identity::open());
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let client = Client::new(ConnectionId(1), "native", address, 0, identity);
        let mut native = Native::new(Clock::system(), Arc::new(facts), Access::open(), client);
        let gate = (**io).clone();
        for act in native.receive(Received::Text(&command.to_string())) {
            match act {
                Act::Subscribe { only, key, lane, resume, reply, refusal } => {
                    let gate = gate.clone();
                    let who = Who { connection: None, user: "ana".into() };
                    let wish = Subscribe {
                        who,
                        gate,
                        only,
                        key,
                        lane,
                        resume,
                        may_enter: Box::new(|_| true),
                        reply,
                        refusal,
                    };
                    self.channels.subscribe(wish);
                }
                Act::Unsubscribe { which, reply, refusal } => {
                    self.channels.unsubscribe(&gate, which, reply, refusal);
                }
                _ => panic!("{command}"),
            }
        }
    }

    fn subscribe(&self, io: &GateIo, channel: &str) {
        self.say(io, &json!({"id": 1, "op": "subscribe", "channel": channel}));
    }

    /// Logs so many events, and waits until they are safe and have been told.
    async fn log(&self, events: std::ops::Range<u64>) {
        let log = self.store.log();
        for nth in events {
            let body = json!({"event": "loaded", "plugin": "steady", "nth": nth});
            let now_ms = Clock::system().now_ms();
            log.send(Entry::new(LogChannel::Hub, now_ms, &body).unwrap()).await.unwrap();
        }
    }

    /// A tick with three series.
    fn tick(&mut self) {
        self.tick += 1;
        let series = |id: u32| {
            let key = SeriesKey {
                plugin: "steady".into(),
                name: format!("value.{id}").into(),
                labels: Labels::default(),
            };
            let spec = SeriesSpec::new(key, SeriesKind::Gauge, "1".into(), "".into()).unwrap();
            Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1_000_000_000 })
        };
        let restarted = self.tick == 1;
        let declare = if restarted { (0..3).map(series).collect() } else { vec![] };
        let values = (0..3).map(|id| (SeriesId(id), self.tick as f64)).collect();
        self.freezer.begin(Tick { number: self.tick, time_ns: self.tick * 1_000_000_000 });
        let batch = Batch { restarted, declare, values, ..Batch::default() };
        self.freezer.apply(Answer { plugin: "steady".into(), outcome: Ok(batch) });
        self.channels.publish(self.freezer.freeze());
    }

    async fn until(&self, what: &str, wanted: impl Fn(&ChannelCounters) -> bool) {
        let counters = self.channels.counters();
        let seen = async {
            while !wanted(&counters) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, seen).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What has come in, but for what only filled the socket.
fn pushes(bytes: &[u8]) -> Vec<Value> {
    let texts = frames(bytes).into_iter().map(|(_, text)| text);
    texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect()
}

/// Does what a session does for what waits, while the client reads, until
/// `done`; all that the client got.
async fn serve(
    bench: &Bench,
    io: GateIo,
    mut client: Box<dyn Wire>,
    done: impl Fn(&ChannelCounters) -> bool,
) -> Vec<Value> {
    let counters = bench.channels.counters();
    let served = async {
        while !(done(&counters) && Gate::flush(&io)) {
            if Gate::flush(&io) && io.has_gone() {
                bench.channels.has_room(&io);
            }
            tokio::task::yield_now().await;
        }
        bench.channels.gone(&io);
        io.finish();
        drop(io);
    };
    let both = async { tokio::join!(served, read_all(&mut client)) };
    let ((), bytes) = tokio::time::timeout(LIMIT, both).await.expect("all to be served");
    pushes(&bytes)
}

/// The `nth` of each entry, when each was told after the one before it.
#[track_caller]
fn entries(told: &[Value]) -> Vec<u64> {
    let mut position = told[0]["ok"]["offset"].as_u64().unwrap();
    let mut nths = Vec::new();
    for push in told.iter().filter(|push| push["push"] == "hub") {
        let (prev, at) = (push["prev"].as_u64().unwrap(), push["offset"].as_u64().unwrap());
        assert!(prev <= position && at > position, "after {position}: {push}");
        position = at;
        nths.push(push["entry"]["nth"].as_u64().unwrap());
    }
    nths
}

#[tokio::test]
async fn who_is_a_little_behind_gets_every_entry_once_and_in_order() {
    let bench = Bench::new();
    let Pair { io, client } = bench.pair().await;
    bench.subscribe(&io, "hub");
    bench.log(0..3).await;
    bench.until("three entries", |counters| of(&counters.delivered) == 3).await;
    fill(&io, &"x".repeat(1 << 20));
    bench.log(3..1000).await;
    bench.until("it to be behind", |counters| of(&counters.behind) == 1).await;
    let told = serve(&bench, io, client, |counters| of(&counters.delivered) >= 1000).await;
    assert_eq!(entries(&told), (0..1000).collect::<Vec<_>>());
    let counters = bench.channels.counters();
    assert_eq!(of(&counters.gaps), 0);
}

#[tokio::test]
async fn who_is_far_behind_is_told_so_and_gets_the_rest_from_the_disk() {
    let bench = Bench::new();
    let Pair { io, client } = bench.pair().await;
    bench.subscribe(&io, "hub");
    bench.log(0..3).await;
    bench.until("three entries", |counters| of(&counters.delivered) == 3).await;
    fill(&io, &"x".repeat(1 << 20));
    let count = RECENT_ENTRIES_MAX as u64 + 1000;
    bench.log(3..count).await;
    // Another client shows that all of them have been told.
    bench.until("them to be told", |counters| of(&counters.frames) == count).await;
    let told = serve(&bench, io, client, |counters| of(&counters.delivered) >= count).await;
    assert_eq!(entries(&told), (0..count).collect::<Vec<_>>());
    let gaps: Vec<_> = told.iter().filter(|push| push["push"] == "gap").collect();
    assert_eq!(gaps.len(), 1);
    let first = told.iter().find(|push| push["entry"]["nth"] == 3).unwrap();
    assert_eq!((&gaps[0]["from"], gaps[0].get("recovered")), (&first["offset"], None));
    let last = told.last().unwrap();
    assert_eq!((&last["offset"], &last["entry"]["nth"]), (&gaps[0]["to"], &json!(count - 1)));
    assert_eq!(of(&bench.channels.counters().gaps), 1);
}

#[tokio::test]
async fn who_has_no_room_skips_state_and_is_told_all_of_it_as_soon_as_there_is() {
    let mut bench = Bench::new();
    bench.tick();
    let Pair { io, client } = bench.pair().await;
    let other = bench.pair().await;
    bench.subscribe(&other.io, "metrics");
    bench.subscribe(&io, "metrics");
    bench.until("both to have subscribed", |_| io.seat().is_some()).await;
    for _ in 0..2 {
        bench.tick();
    }
    bench.until("two ticks", |counters| of(&counters.delivered) == 4).await;
    fill(&io, &"x".repeat(1 << 20));
    for skipped in 1..=5 {
        bench.tick();
        bench.until("it to skip", |counters| of(&counters.skipped) == skipped).await;
    }
    assert_eq!(of(&bench.channels.counters().delivered), 4 + 5, "the other has every tick");
    let told = serve(&bench, io, client, |counters| of(&counters.delivered) == 10).await;
    let ticks: Vec<_> = told[1..].iter().map(|push| (&push["tick"], &push["skipped"])).collect();
    let none = Value::Null;
    assert_eq!(ticks, [(&json!(2), &none), (&json!(3), &none), (&json!(8), &json!(4))]);
    assert_eq!((&told[3]["full"], told[3]["series"].as_array().unwrap().len()), (&json!(true), 3));
    assert_eq!(told[3]["series"][0]["value"], 8.0);
    drop(other);
}

#[tokio::test]
async fn who_has_gone_leaves_nothing_behind() {
    let mut bench = Bench::new();
    bench.tick();
    let Pair { io, client } = bench.pair().await;
    for channel in ["metrics", "documents", "hub", "findings"] {
        bench.subscribe(&io, channel);
    }
    bench.until("four subscriptions", |counters| of(&counters.subscriptions) == 4).await;
    fill(&io, &"x".repeat(1 << 20));
    bench.tick();
    bench.log(0..3).await;
    bench.until("it to be behind", |counters| of(&counters.behind) == 1).await;
    bench.channels.gone(&io);
    bench.until("no subscription", |counters| of(&counters.subscriptions) == 0).await;
    // What comes of it now is for nobody.
    bench.channels.has_room(&io);
    bench.subscribe(&io, "metrics");
    bench.until("one again", |counters| of(&counters.subscriptions) == 1).await;
    drop((io, client));
    assert_eq!(bench.gates.budget().used(), 0);
}

#[tokio::test]
async fn entries_of_two_channels_go_out_in_the_order_of_the_log() {
    let bench = Bench::new();
    let Pair { io, client } = bench.pair().await;
    for channel in ["findings", "hub"] {
        bench.subscribe(&io, channel);
    }
    bench.until("both", |counters| of(&counters.subscriptions) == 2).await;
    fill(&io, &"x".repeat(1 << 20));
    let log = bench.store.log();
    for nth in 0..600u64 {
        let (channel, body) = match nth % 3 {
            0 => (LogChannel::Findings, json!({"id": nth.to_string(), "state": "close"})),
            _ => (LogChannel::Hub, json!({"event": "loaded", "plugin": "steady"})),
        };
        let now_ms = Clock::system().now_ms();
        log.send(Entry::new(channel, now_ms, &body).unwrap()).await.unwrap();
    }
    let told = serve(&bench, io, client, |counters| of(&counters.delivered) >= 600).await;
    let mut position = 0;
    let mut last = [0; 2];
    for push in told.iter().filter(|push| push.get("push").is_some()) {
        let (prev, at) = (push["prev"].as_u64().unwrap(), push["offset"].as_u64().unwrap());
        assert_eq!(at, position + 1, "{push}");
        let before = &mut last[usize::from(push["push"] == "hub")];
        assert!(prev >= *before && prev <= position, "{push}");
        (*before, position) = (at, at);
    }
    assert_eq!(position, 600);
}
