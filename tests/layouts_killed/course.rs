//! One run: dashboards that edit a board of their own by chance, and what must
//! be true when they are done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::board::{Op, Reference, key_of, named, standing};
use super::dashboard::{Dashboard, Outcome};
use crate::harness::{Door, within};

const OBJECTS: [&str; 5] = ["widget/w1", "widget/w2", "widget/w3", "layout/default", "layout/side"];
/// Operations of one dashboard that are not settled yet.
const PENDING_MAX: usize = 8;

/// What was done, in all runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) runs: u64,
    pub(super) made: u64,
    pub(super) conflicts: u64,
    pub(super) refused: u64,
    pub(super) connections: u64,
    pub(super) repeated: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.made += other.made;
        self.conflicts += other.conflicts;
        self.refused += other.refused;
        self.connections += other.connections;
        self.repeated += other.repeated;
    }
}

/// One run. Its schedule is told if it fails.
pub(super) struct Course {
    seed: u64,
    door: Door,
    board: String,
    rng: StdRng,
    dashboards: Vec<Dashboard>,
    /// Operations so far.
    count: usize,
    schedule: String,
    tally: Tally,
}

impl Drop for Course {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- LAYOUTS_SEED={}, {}:\n{}---", self.seed, self.board, self.schedule);
        }
    }
}

impl Course {
    pub(super) fn new(seed: u64, run: u64, door: Door) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let board = format!("run-{run}");
        let many = rng.random_range(2..5);
        let dashboards =
            (0..many).map(|n| Dashboard::new(format!("d{n}"), door.0, &board)).collect();
        let (schedule, tally) = (String::new(), Tally { runs: 1, ..Tally::default() });
        Self { seed, door, board, rng, dashboards, count: 0, schedule, tally }
    }

    pub(super) async fn run(mut self) -> Tally {
        let steps = self.rng.random_range(20..80);
        for _ in 0..steps {
            self.step().await;
        }
        for dashboard in &mut self.dashboards {
            dashboard.finish().await;
        }
        self.compare().await;
        self.leave().await;
        self.tally
    }

    fn note(&mut self, at: usize, words: &str) {
        let _ = writeln!(self.schedule, "d{at} {words}");
    }

    async fn step(&mut self) {
        let at = self.rng.random_range(0..self.dashboards.len());
        let (act, count) = (self.rng.random_range(0..100), self.rng.random_range(1..5));
        let (chance, wait_ms) = (self.rng.random_bool(0.25), self.rng.random_range(0..8));
        let op = self.draft(at);
        let dashboard = &mut self.dashboards[at];
        let words = match act {
            0..35 if dashboard.pending() < PENDING_MAX => {
                let words = format!("wants {} {} {}", op.id, op.kind, op.payload);
                dashboard.edit(op);
                words
            }
            0..50 if !dashboard.is_connected() => {
                dashboard.connect().await;
                "connects".to_owned()
            }
            0..60 => {
                dashboard.send(count, chance).await;
                if chance && wait_ms == 0 {
                    // Before anything of it is answered.
                    dashboard.cut();
                }
                format!("sends {count}, again: {chance}, cut: {}", chance && wait_ms == 0)
            }
            60..80 => {
                for _ in 0..count {
                    dashboard.hear(Duration::from_millis(wait_ms)).await;
                }
                format!("listens to {count}")
            }
            80..90 => {
                if dashboard.pending() > 0 {
                    dashboard.post(count, chance).await;
                }
                format!("posts {count}, deaf: {chance}")
            }
            90..97 => {
                dashboard.cut();
                "is cut".to_owned()
            }
            _ => {
                dashboard.ask().await;
                "asks".to_owned()
            }
        };
        self.note(at, &words);
    }

    /// An operation as a dashboard may want it. It takes as much chance whatever
    /// that knows, so that the same seed goes the same way.
    fn draft(&mut self, at: usize) -> Op {
        self.count += 1;
        let rng = &mut self.rng;
        let keys: Vec<&str> = OBJECTS.sample(rng, 3).copied().collect();
        let members: Vec<&str> = ["a", "b", "c"].sample(rng, 2).copied().collect();
        let (kind, base, back) =
            (rng.random_range(0..12), rng.random_range(0..10), rng.random_range(0..4));
        let (n, dashboard) = (self.count, &self.dashboards[at]);
        let data = json!({members[0]: n, members[1]: {"n": n}});
        let with_base = |key: &str, mut payload: Value| {
            let known = dashboard.version(key);
            if base < 4 {
                let stale = u64::from(base == 3);
                payload["baseVersion"] = known.saturating_sub(stale).into();
            }
            payload
        };
        let put = |key: &str, data: &Value| {
            let member = if key.starts_with('w') { "data" } else { "layout" };
            let mut payload = named(key);
            payload[member] = data.clone();
            with_base(key, payload)
        };
        let widget = *keys.iter().find(|key| key.starts_with('w')).unwrap();
        let (kind, payload) = match kind {
            0..4 => ("WIDGET_UPDATE", put(widget, &data)),
            4 => ("WIDGET_DELETE", with_base(widget, named(widget))),
            5 | 6 => ("LAYOUT_UPDATE", put(["layout/default", "layout/side"][n % 2], &data)),
            7 | 8 => {
                let member = |(i, key): (usize, &&str)| match (key.starts_with('w'), i) {
                    (true, 1) => json!({"type": "WIDGET_DELETE", "payload": named(key)}),
                    (true, _) => json!({"type": "WIDGET_UPDATE", "payload": put(key, &data)}),
                    (false, _) => json!({"type": "LAYOUT_UPDATE", "payload": put(key, &data)}),
                };
                let twice = keys.iter().chain(&keys[..1]).enumerate();
                ("WIDGET_BATCH", json!({"operations": twice.map(member).collect::<Vec<_>>()}))
            }
            9 => {
                let datas = [&data, &Value::Null, &data];
                let objects = keys.iter().zip(datas).map(|(key, data)| put(key, data));
                ("SYNC_UPDATE", json!({"objects": objects.collect::<Vec<_>>()}))
            }
            _ => {
                let mut payload = with_base(keys[0], named(keys[0]));
                payload["version"] = dashboard.version(keys[0]).saturating_sub(back).max(1).into();
                ("LAYOUT_RESTORE", payload)
            }
        };
        Op { id: format!("{}-{}-{n}", self.board, dashboard.name), kind: kind.to_owned(), payload }
    }

    /// All of them, one who comes late, and the log, have the state of the
    /// accepted operations in order.
    async fn compare(&mut self) {
        let settled: Vec<(Op, Outcome)> =
            self.dashboards.iter().flat_map(|dashboard| dashboard.settled.clone()).collect();
        let mut made = BTreeMap::new();
        for (op, outcome) in &settled {
            if let Outcome::Made(revision, versions) = outcome {
                let other = made.insert(*revision, (op, versions));
                assert!(other.is_none(), "two have made revision {revision}: {op:?}, {other:?}");
            }
        }
        let log = self.log().await;
        let last = log.len() as u64;
        let mut reference = Reference::new();
        for (revision, logged) in (1..).zip(&log) {
            assert_eq!(logged["data"]["revision"], revision, "{log:?}");
            match made.remove(&revision) {
                Some((op, versions)) => assert_eq!(reference.apply(op), *versions, "{op:?}"),
                None => {
                    reference.apply(self.made_in_the_end(logged));
                }
            }
        }
        assert!(made.is_empty(), "these were acknowledged, and are not there: {made:?}");
        for (op, outcome) in &settled {
            check_refusal(&reference, op, outcome);
        }
        let expected = standing(&reference.objects);
        let mut late = Dashboard::new("late".to_owned(), self.door.0, &self.board);
        late.reach(last).await;
        assert_eq!(standing(late.objects()), expected, "one that comes late");
        for dashboard in &mut self.dashboards {
            dashboard.reach(last).await;
            assert_eq!(standing(dashboard.objects()), expected, "{}", dashboard.name);
            for (revision, objects) in &dashboard.seen {
                let then = &reference.revisions[usize::try_from(*revision).unwrap()];
                assert_eq!(standing(objects), standing(then), "{} at {revision}", dashboard.name);
            }
        }
        compare_log(&log, &reference);
        self.repeat(&settled).await;
        late.reach(last).await;
        assert_eq!(standing(late.objects()), expected, "after repetitions");
        self.tally.made = last;
        self.tally.connections = self.dashboards.iter().map(|one| one.connections).sum();
        for (_, outcome) in &settled {
            self.tally.conflicts += u64::from(matches!(outcome, Outcome::Conflict(_)));
            self.tally.refused += u64::from(matches!(outcome, Outcome::Refused(_)));
        }
    }

    /// The operation that is logged, of those that were refused first and were on
    /// their way once more.
    fn made_in_the_end(&self, logged: &Value) -> &Op {
        let done = &logged["data"]["operation"];
        let by = self.dashboards.iter().filter(|one| logged["source"] == one.name.as_str());
        let refused = by.flat_map(|one| {
            let doubled = one.settled.iter().filter(|(op, _)| one.doubled.contains(&op.id));
            doubled.filter(|(_, outcome)| !matches!(outcome, Outcome::Made(..)))
        });
        let mut same = refused
            .filter(|(op, _)| done["type"] == op.kind.as_str() && done["payload"] == op.payload);
        let (op, _) = same.next().unwrap_or_else(|| panic!("nobody wanted it: {logged}"));
        op
    }

    /// What was done to the board, as the log has it, in order.
    async fn log(&self) -> Vec<Value> {
        let path = format!("/v1/rooms/board:{}/events?after=0&limit=1000", self.board);
        let page = within("the log", async {
            loop {
                // The hub may be on its way back.
                if let Some(page) = get(self.door, &path).await {
                    return page;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!((&page["more"], &page["lost"]), (&json!(false), &json!(false)), "{page}");
        page["entries"].as_array().unwrap().iter().map(|entry| entry["entry"].clone()).collect()
    }

    /// What was made is not made again, whoever says so.
    async fn repeat(&mut self, settled: &[(Op, Outcome)]) {
        let made = settled.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Made(..)));
        let made: Vec<&(Op, Outcome)> = made.collect();
        for (op, outcome) in made.sample(&mut self.rng, 3) {
            let at = self.rng.random_range(0..self.dashboards.len());
            let Outcome::Made(revision, versions) = outcome else { unreachable!() };
            match self.dashboards[at].repeat(op).await {
                Outcome::Made(r, v) => assert_eq!((r, &v), (*revision, versions), "{op:?}"),
                other => panic!("{op:?} has become {other:?}"),
            }
            self.tally.repeated += 1;
        }
        if let Some((op, _)) = made.first() {
            let (kind, payload) =
                ("WIDGET_UPDATE".to_owned(), json!({"widgetId": "x", "data": {}}));
            let other = Op { id: op.id.clone(), kind, payload };
            let outcome = self.dashboards[0].repeat(&other).await;
            assert!(matches!(outcome, Outcome::Refused(_)), "an id of another: {outcome:?}");
        }
    }

    /// Leaves nothing behind that would cost the hub memory.
    async fn leave(&mut self) {
        let gone = OBJECTS.iter().map(|key| {
            let mut object = named(key);
            object[if key.starts_with('w') { "data" } else { "layout" }] = Value::Null;
            object
        });
        let payload = json!({"objects": gone.collect::<Vec<_>>()});
        let id = format!("{}-leaves", self.board);
        let op = Op { id, kind: "SYNC_UPDATE".to_owned(), payload };
        let outcome = self.dashboards[0].repeat(&op).await;
        assert!(matches!(outcome, Outcome::Made(..)), "{outcome:?}");
    }
}

/// The log has what the objects were after each revision.
fn compare_log(log: &[Value], reference: &Reference) {
    for (logged, then) in log.iter().zip(&reference.revisions[1..]) {
        for object in logged["data"]["objects"].as_array().unwrap() {
            let kind = object["kind"].as_str().unwrap();
            let key = format!("{kind}/{}", object["id"].as_str().unwrap());
            assert_eq!(object["version"], then[&key].version, "{key} in {logged}");
            assert_eq!(object["data"], then[&key].data, "{key} in {logged}");
        }
    }
}

/// What was not made could not have been.
fn check_refusal(reference: &Reference, op: &Op, outcome: &Outcome) {
    match outcome {
        Outcome::Made(..) => {}
        Outcome::Conflict(conflict) => {
            let key = key_of(conflict);
            let steps = op.steps();
            let bases: BTreeSet<u64> =
                steps.iter().filter(|step| step.key == key).filter_map(|step| step.base).collect();
            let base = conflict["client"]["version"].as_u64().unwrap();
            assert!(bases.contains(&base), "{base} of {op:?}: {conflict}");
            let (server, known) = (&conflict["server"], &conflict["base"]);
            assert_ne!(server["version"], base, "{conflict}");
            if op.is_of_one() {
                for said in [server, known].into_iter().filter(|said| !said.is_null()) {
                    let version = said["version"].as_u64().unwrap();
                    let then = reference.history.get(&(key.clone(), version));
                    assert_eq!(said["data"], *then.unwrap_or(&Value::Null), "{op:?}: {conflict}");
                }
            }
        }
        // Versions that are not there can't be brought back; no other operation
        // is wrong.
        Outcome::Refused(words) => {
            let is_gone = words.contains("is not kept") || words.starts_with("there is no");
            assert!(op.kind == "LAYOUT_RESTORE" && is_gone, "{op:?} is refused: {words}");
        }
    }
}

/// The answer to a request, if the hub is there and gives it whole.
async fn get(door: Door, path: &str) -> Option<Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(door.0).await.ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", door.0);
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
}
