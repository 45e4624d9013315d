//! One run: what is logged, published, deleted and restarted, and who follows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection as Database, TransactionBehavior};
use serde_json::json;
use telltale::channel::RecentBounds;
use telltale::model::{
    Answer, Batch, Finding, Kind, Labels, LogChannel, Series, SeriesId, SeriesKey, SeriesSpec,
    Setback, SetbackKind, Tick,
};
use telltale::snapshot::{Freezer, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::client::{Client, Known, Of, Stage, Tally, Wish};
use super::connection::Connection;
use super::inside::{Ground, Inside};
use super::world::{Filter, Sentence, World};
use crate::harness::within;

/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Ticks that all rates of the clients fit into.
const ROUND: u64 = 6;
const PLUGINS: [&str; 3] = ["p0", "p1", "p2"];
const SERIES: u32 = 12;

/// What happens in a run.
#[derive(Clone, Debug)]
enum Step {
    /// So many entries, with so many bytes of padding each.
    Log(usize, usize),
    Publish,
    /// Deletes the oldest entries: that part of them.
    Prune(f64),
    Restart,
    Pause(u64),
}

/// All of a run that is not left to chance.
#[derive(Debug)]
pub(super) struct Schedule {
    seed: u64,
    bounds: RecentBounds,
    clients: Vec<Vec<Wish>>,
    steps: Vec<Step>,
}

/// Says what has failed, if it does.
struct Failing<'a>(&'a Schedule);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RESUME_SEED={} repeats it: {:#?}", self.0.seed, self.0);
        }
    }
}

impl Schedule {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let entries = *pick(&mut rng, &[2, 8, 64, 4096]);
        let bytes = *pick(&mut rng, &[2_000, 20_000, 4 << 20]);
        let clients = (0..rng.random_range(1..5)).map(|_| wishes(&mut rng)).collect();
        let steps = (0..rng.random_range(8..30)).map(|_| step(&mut rng)).collect();
        Self { seed, bounds: RecentBounds { entries, bytes }, clients, steps }
    }

    pub(super) async fn run(self, ground: &Ground) -> Tally {
        let _failing = Failing(&self);
        let course = tokio::time::timeout(RUN_MAX, Run::go(&self, ground));
        course.await.unwrap_or_else(|_| panic!("the clients are still missing something"))
    }
}

fn pick<'a, T>(rng: &mut StdRng, list: &'a [T]) -> &'a T {
    &list[rng.random_range(0..list.len())]
}

fn step(rng: &mut StdRng) -> Step {
    match rng.random_range(0..100) {
        0..35 => {
            let padding = *pick(rng, &[0, 0, 100, 1000, 10_000]);
            let count = if rng.random_bool(0.1) { 400 } else { 20 };
            let count = if padding > 1000 { 10 } else { count };
            Step::Log(rng.random_range(1..count), padding)
        }
        35..75 => Step::Publish,
        75..83 => Step::Prune(rng.random_range(0.3..1.0)),
        83..87 => Step::Restart,
        _ => Step::Pause(rng.random_range(1..30)),
    }
}

fn wishes(rng: &mut StdRng) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    for _ in 0..rng.random_range(1..5) {
        let mut filter = Filter::default();
        if rng.random_bool(0.4) {
            filter.plugin = Some((*pick(rng, &PLUGINS)).to_owned());
        }
        let of = match rng.random_range(0..3) {
            0 => Of::Metrics { full: rng.random_bool(0.2), every: rng.random_range(1..4) },
            1 => Of::Log { channel: LogChannel::Hub, fields: rng.random_bool(0.2) },
            _ => Of::Log { channel: LogChannel::Findings, fields: rng.random_bool(0.2) },
        };
        if !matches!(of, Of::Log { channel: LogChannel::Hub, .. }) {
            filter.name = rng.random_bool(0.3).then(|| "m.1".to_owned());
            filter.label = rng.random_bool(0.2).then(|| "0".to_owned());
        }
        // Two that want the same would be one.
        let wish = Wish { filter, of };
        if wishes.iter().all(|other| other.command() != wish.command()) {
            wishes.push(wish);
        }
    }
    wishes
}

/// A run under way.
struct Run<'a> {
    schedule: &'a Schedule,
    ground: &'a Ground,
    folder: &'a Path,
    rng: StdRng,
    world: Arc<World>,
    freezer: Freezer,
    tick: u64,
    stage: watch::Sender<Stage>,
    /// Findings that were opened and not closed.
    open: Vec<Sentence>,
}

impl Run<'_> {
    async fn go(schedule: &Schedule, ground: &Ground) -> Tally {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run {
            schedule,
            ground,
            folder: folder.path(),
            rng: StdRng::seed_from_u64(!schedule.seed),
            world: Arc::default(),
            freezer: Freezer::default(),
            tick: 0,
            stage: watch::Sender::default(),
            open: Vec::new(),
        };
        let mut clients = JoinSet::new();
        for (at, wishes) in schedule.clients.iter().enumerate() {
            let seed = schedule.seed.wrapping_mul(16).wrapping_add(at as u64);
            let client = Client::new(seed, wishes.clone(), run.world.clone());
            clients.spawn(client.follow(run.stage.subscribe()));
        }
        let mut hub = run.start().await;
        for step in &schedule.steps {
            match step {
                Step::Log(count, padding) => run.log(&hub, *count, *padding).await,
                Step::Publish => {
                    let snapshot = run.snapshot();
                    hub.publish(&snapshot);
                    tokio::task::yield_now().await;
                }
                Step::Prune(part) => run.prune(*part),
                Step::Restart => {
                    run.stage.send_modify(|stage| stage.address = None);
                    hub.stop().await;
                    hub = run.start().await;
                }
                Step::Pause(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            }
        }
        let tally = run.finish(&hub, clients).await;
        hub.stop().await;
        tally
    }

    async fn start(&mut self) -> Inside {
        self.world.starts();
        let world = self.world.clone();
        let close = |open: Vec<Finding>| {
            let sentences = open.iter().map(closing);
            sentences.map(|sentence| world.say(sentence)).collect()
        };
        let hub = Inside::start(self.folder, self.ground, self.schedule.bounds, close).await;
        self.open.clear();
        self.freezer = Freezer::default();
        self.declare();
        let snapshot = self.freezer.freeze();
        hub.publish(&snapshot);
        self.stage.send_modify(|stage| stage.address = Some(hub.address));
        hub
    }

    async fn log(&mut self, hub: &Inside, count: usize, padding: usize) {
        for _ in 0..count {
            let rng = &mut self.rng;
            let channel = *pick(rng, &[LogChannel::Hub, LogChannel::Findings]);
            let closing =
                channel == LogChannel::Findings && !self.open.is_empty() && rng.random_bool(0.5);
            let sentence = if closing {
                self.open.swap_remove(rng.random_range(0..self.open.len()))
            } else {
                Sentence {
                    channel,
                    plugin: (*pick(rng, &PLUGINS)).to_owned(),
                    name: format!("m.{}", rng.random_range(0..SERIES)),
                    label: rng.random_range(0..2).to_string(),
                    closes: None,
                    padding,
                }
            };
            if channel == LogChannel::Findings && !closing {
                let id = format!("f{}", self.world.head() + 1);
                self.open.push(Sentence { closes: Some(id), ..sentence.clone() });
            }
            hub.log.send(self.world.say(sentence)).await.unwrap();
        }
    }

    fn prune(&mut self, part: f64) {
        let mut log = Database::open(self.folder.join("log.db")).unwrap();
        log.busy_timeout(Duration::from_secs(20)).unwrap();
        let transaction = log.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let head = "SELECT coalesce(max(offset), 0) FROM entries";
        let head: u64 = transaction.query_row(head, [], |row| row.get(0)).unwrap();
        let through = (head as f64 * part) as u64;
        if through > 0 {
            self.world.prune(through);
            let delete = "DELETE FROM entries WHERE offset <= ?1";
            transaction.execute(delete, [through]).unwrap();
            let note = "UPDATE meta SET value = max(CAST(value AS INTEGER), ?1)
                        WHERE key = 'pruned'";
            transaction.execute(note, [through]).unwrap();
        }
        transaction.commit().unwrap();
    }

    fn begin_tick(&mut self) {
        self.tick += 1;
        let time_ns = 1_770_724_800_000_000_000 + self.tick * 10_000_000;
        self.freezer.begin(Tick { number: self.tick, time_ns });
    }

    fn declare(&mut self) {
        self.begin_tick();
        for plugin in PLUGINS {
            self.redeclare(plugin);
        }
    }

    /// A plugin begins anew, mostly with what it had.
    fn redeclare(&mut self, plugin: &str) {
        let rng = &mut self.rng;
        let ids: Vec<u32> = ids(plugin).filter(|_| rng.random_bool(0.8)).collect();
        let batch = Batch {
            restarted: true,
            declare: ids.iter().map(|id| series(plugin, *id)).collect(),
            values: ids.iter().map(|id| (SeriesId(*id), rng.random_range(0..100).into())).collect(),
            ..Batch::default()
        };
        self.freezer.apply(Answer { plugin: plugin.into(), outcome: Ok(batch) });
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        self.begin_tick();
        for plugin in PLUGINS {
            let rng = &mut self.rng;
            let outcome = match rng.random_range(0..20) {
                0..2 => {
                    self.redeclare(plugin);
                    continue;
                }
                2 => {
                    let reason = "not now".into();
                    Err(Setback { kind: SetbackKind::Retry, reason })
                }
                3..5 => continue,
                _ => {
                    let mut batch = Batch::default();
                    for id in ids(plugin) {
                        let value = rng.random_range(0..100).into();
                        if rng.random_bool(0.9) {
                            batch.values.push((SeriesId(id), value));
                        }
                    }
                    Ok(batch)
                }
            };
            self.freezer.apply(Answer { plugin: plugin.into(), outcome });
        }
        self.freezer.freeze()
    }

    /// Lets all clients come to the end, and compares.
    async fn finish(&mut self, hub: &Inside, mut clients: JoinSet<Client>) -> Tally {
        let end = (self.world.head(), self.tick + 1);
        self.stage.send_modify(|stage| stage.end = Some(end));
        let mut tally = Tally::default();
        let mut followed = Vec::new();
        while !clients.is_empty() {
            // The same values again and again: a client that wants few pushes,
            // and has skipped one, waits for the next.
            for _ in 0..ROUND {
                self.begin_tick();
                let snapshot = self.freezer.freeze();
                while !hub.publish(&snapshot) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let wait = tokio::time::timeout(Duration::from_millis(30), clients.join_next());
            if let Ok(Some(client)) = wait.await {
                followed.push(client.unwrap());
            }
        }
        for client in followed {
            tally.add(client.tally);
            for known in client.known {
                let newcomer = newcomer(hub, &known.wish).await;
                let (knows, is) = (&known.series, &newcomer.series);
                assert_eq!(knows, is, "{:?}", known.wish);
                assert_eq!(known.open, newcomer.open, "{:?}", known.wish);
            }
        }
        tally
    }
}

/// What somebody knows who comes now.
async fn newcomer(hub: &Inside, wish: &Wish) -> Known {
    let mut connection = Connection::open(hub.address, usize::MAX).await.unwrap();
    let mut command = wish.command();
    command["id"] = json!(1);
    connection.send(&command).await;
    let reply = within("the reply to a newcomer", connection.next()).await.unwrap();
    let ok = &reply["ok"];
    let mut known = Known::new(wish.clone());
    known.begin(if ok.get("snapshot").is_some() { &ok["snapshot"] } else { ok });
    known
}

fn ids(plugin: &str) -> impl Iterator<Item = u32> {
    let at = PLUGINS.iter().position(|name| *name == plugin).unwrap();
    (0..SERIES).map(move |n| u32::try_from(at).unwrap() * SERIES + n + 1)
}

fn series(plugin: &str, id: u32) -> Arc<Series> {
    let label = ("k".into(), (id % 2).to_string().into());
    let key = SeriesKey {
        plugin: plugin.into(),
        name: format!("m.{}", id % SERIES).into(),
        labels: Labels::new(vec![label]).unwrap(),
    };
    let spec = SeriesSpec::new(key, Kind::Gauge, "1".into(), "".into()).unwrap();
    Arc::new(Series { id: SeriesId(id), spec, interval_ns: 10_000_000 })
}

fn closing(finding: &Finding) -> Sentence {
    Sentence {
        channel: LogChannel::Findings,
        plugin: finding.plugin.clone(),
        name: finding.name.clone(),
        label: finding.labels["k"].clone(),
        closes: Some(finding.id.clone()),
        padding: 0,
    }
}
