mod model;

use std::collections::BTreeMap;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::audit::AuditFiles;
use crate::channel::{Feed, Standing};
use crate::model::{BOARD_GONE_MAX, BOARDS_MAX, Logged, Object, ObjectKind};
use crate::plugin::Statuses;
use crate::store::{Kept, ObjectVersion, Store, StoreConfig};

/// A store in a folder of its own, the way in, and what the channels know.
struct World {
    folder: TempDir,
    store: Store,
    layouts: LayoutChanges,
    logged: mpsc::Receiver<Vec<Arc<Logged>>>,
    feed: Feed,
    now_ns: Arc<AtomicU64>,
}

struct Options {
    bytes: u64,
    audit: Audit,
}

impl World {
    fn fresh() -> Self {
        Self::with(Options { bytes: 1 << 26, audit: Audit::off() })
    }

    fn with(options: Options) -> Self {
        let now_ns = Arc::new(AtomicU64::new(1_770_724_800_000_000_000));
        Self::open(TempDir::new().unwrap(), now_ns, options)
    }

    fn open(folder: TempDir, now_ns: Arc<AtomicU64>, options: Options) -> Self {
        let clock = Clock::set_by(now_ns.clone());
        let (told, logged) = mpsc::channel(1024);
        let config = StoreConfig {
            folder: folder.path().to_owned(),
            retention_age: Duration::from_secs(14 * 86_400),
            retention_bytes: 1 << 30,
            boards_bytes: options.bytes,
            clock: clock.clone(),
        };
        let (store, kept) = Store::open(config, told).unwrap();
        let feed = feed_of(kept, &clock);
        let layouts = LayoutChanges::new(store.changes(), clock, options.audit);
        Self { folder, store, layouts, logged, feed, now_ns }
    }

    async fn reopen(self) -> Self {
        self.store.close().await;
        Self::open(self.folder, self.now_ns, Options { bytes: 1 << 26, audit: Audit::off() })
    }

    /// As after the program was killed: what the files hold while it still runs
    /// is all that is left.
    async fn kill(self) -> Self {
        let folder = TempDir::new().unwrap();
        for file in ["log.db", "log.db-wal"] {
            std::fs::copy(self.folder.path().join(file), folder.path().join(file)).unwrap();
        }
        self.store.close().await;
        Self::open(folder, self.now_ns, Options { bytes: 1 << 26, audit: Audit::off() })
    }

    fn pass(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap();
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    async fn change(&mut self, draft: ChangeDraft) -> Result<Changed, ChangeError> {
        let submitted = self.layouts.submit(&user("ada"), draft);
        let outcome = self.layouts.settle(submitted).await;
        self.hear();
        outcome
    }

    async fn make(&mut self, operations: Vec<Operation>) -> Result<Changed, ChangeError> {
        self.change(draft("home", operations, None)).await
    }

    /// The version of one operation's object.
    async fn one(&mut self, operation: Operation) -> Result<u64, ChangeError> {
        Ok(self.make(vec![operation]).await?.versions[0].1)
    }

    /// Makes changes side by side, and waits for all.
    async fn all(&mut self, drafts: impl IntoIterator<Item = ChangeDraft>) {
        let ada = user("ada");
        let submitted: Vec<_> =
            drafts.into_iter().map(|draft| self.layouts.submit(&ada, draft)).collect();
        for submitted in submitted {
            self.layouts.settle(submitted).await.unwrap();
        }
        self.hear();
    }

    fn hear(&mut self) {
        while let Ok(group) = self.logged.try_recv() {
            group.iter().for_each(|logged| self.feed.take_entry(logged));
        }
    }

    fn object(&self, board: &str, key: &ObjectKey) -> Option<&Object> {
        let standing = self.feed.boards.get(&Board::new(board).unwrap())?;
        standing.objects.get(key).map(|object| &**object)
    }

    async fn versions(&self, key: &ObjectKey, version: Option<u64>) -> Vec<ObjectVersion> {
        let board = Board::new("home").unwrap();
        self.store.reader().versions(board, key.clone(), version).await.unwrap()
    }

    /// What was kept up by entries is what the store would begin with.
    async fn check_feed(self) -> Self {
        let told = comparable(&self.feed.boards);
        let world = self.reopen().await;
        assert_eq!(told, comparable(&world.feed.boards));
        world
    }
}

fn feed_of(kept: Kept, clock: &Clock) -> Feed {
    Feed::new(Statuses::default(), clock.clone(), kept.epoch, kept.head).with_boards(kept.boards)
}

fn comparable(boards: &BTreeMap<Board, Standing>) -> Vec<String> {
    let text = |(board, standing): (&Board, &Standing)| {
        let Standing { revision, floor, offset, objects } = standing;
        let objects: Vec<&Object> = objects.values().map(|object| &**object).collect();
        let objects = serde_json::to_string(&objects).unwrap();
        format!("{board} at {revision} from {floor}, entry {offset}: {objects}")
    };
    boards.iter().map(text).collect()
}

fn user(name: &str) -> Arc<Identity> {
    Arc::new(Identity { user: name.into(), ..(*Identity::open()).clone() })
}

fn widget(id: &str) -> ObjectKey {
    ObjectKey::new(ObjectKind::Widget, id).unwrap()
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn members(value: Value) -> serde_json::Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

fn merge(id: &str, value: Value) -> Operation {
    Operation { key: widget(id), edit: Edit::Merge(members(value)), base: None }
}

fn replace(id: &str, value: &Value) -> Operation {
    Operation { key: widget(id), edit: Edit::Replace(raw(value)), base: None }
}

fn delete(id: &str) -> Operation {
    Operation { key: widget(id), edit: Edit::Delete, base: None }
}

fn restore(id: &str, version: u64) -> Operation {
    Operation { key: widget(id), edit: Edit::Restore(version), base: None }
}

fn on(base: u64, operation: Operation) -> Operation {
    Operation { base: Some(base), ..operation }
}

fn draft(board: &str, operations: Vec<Operation>, id: Option<&str>) -> ChangeDraft {
    ChangeDraft {
        board: Board::new(board).unwrap(),
        operations,
        id: id.map(str::to_owned),
        told: raw(&json!({"type": "SYNC_UPDATE", "payload": {}})),
        exclude: None,
    }
}

fn data(object: Option<&Object>) -> Value {
    let data = object.and_then(|object| object.data.as_ref());
    data.map_or(Value::Null, |data| serde_json::from_str(data.get()).unwrap())
}

#[tokio::test]
async fn versions_rise_with_each_change_also_over_a_deletion() {
    let mut world = World::fresh();
    assert_eq!(world.one(merge("cpu", json!({"x": 1, "y": 1}))).await.unwrap(), 1);
    assert_eq!(world.one(merge("cpu", json!({"y": 2}))).await.unwrap(), 2);
    assert_eq!(data(world.object("home", &widget("cpu"))), json!({"x": 1, "y": 2}));
    assert_eq!(world.one(delete("cpu")).await.unwrap(), 3);
    let gone = world.object("home", &widget("cpu")).unwrap();
    assert!(gone.data.is_none() && gone.version == 3 && gone.revision == 3);
    assert_eq!(world.one(delete("cpu")).await.unwrap(), 3, "it was gone already");
    assert_eq!(world.one(delete("gpu")).await.unwrap(), 0, "it was never there");
    assert_eq!(world.one(merge("cpu", json!({"z": 1}))).await.unwrap(), 4);
    assert_eq!(data(world.object("home", &widget("cpu"))), json!({"z": 1}), "it began anew");
    assert_eq!(world.one(restore("cpu", 2)).await.unwrap(), 5);
    assert_eq!(data(world.object("home", &widget("cpu"))), json!({"x": 1, "y": 2}));
    assert_eq!(world.one(restore("cpu", 3)).await.unwrap(), 6, "it was deleted in that version");
    let world = world.check_feed().await;
    let versions = world.versions(&widget("cpu"), None).await;
    let told: Vec<_> =
        versions.iter().map(|it| (it.object.version, it.object.data.is_some())).collect();
    assert_eq!(told, [(6, false), (5, true), (4, true), (3, false), (2, true), (1, true)]);
    assert_eq!((versions[0].user.as_str(), versions[0].time_ms), ("ada", 1_770_724_800_000));
    let second = world.versions(&widget("cpu"), Some(2)).await;
    assert_eq!((second.len(), data(Some(&second[0].object))), (1, json!({"x": 1, "y": 2})));
    assert!(world.versions(&widget("cpu"), Some(u64::MAX)).await.is_empty());
}

#[tokio::test]
async fn a_stale_base_changes_nothing_and_tells_what_stands_there() {
    let mut world = World::fresh();
    world.one(on(0, merge("cpu", json!({"x": 1})))).await.unwrap();
    world.one(on(1, merge("cpu", json!({"x": 2})))).await.unwrap();
    let operations = vec![merge("gpu", json!({})), on(1, merge("cpu", json!({"x": 3})))];
    let Err(ChangeError::Conflict(stale)) = world.make(operations).await else { panic!() };
    assert_eq!((stale.at, stale.base, &*stale.key.id), (1, 1, "cpu"));
    assert_eq!(data(stale.current.as_ref()), json!({"x": 2}));
    assert_eq!(stale.current.unwrap().version, 2);
    assert_eq!(data(stale.basis.as_ref()), json!({"x": 1}));
    assert!(world.object("home", &widget("gpu")).is_none(), "all or nothing");

    // What was deleted is known as such, and was never there is nothing.
    world.one(delete("cpu")).await.unwrap();
    let stale = world.one(on(2, merge("cpu", json!({})))).await;
    let Err(ChangeError::Conflict(stale)) = stale else { panic!() };
    let current = stale.current.unwrap();
    assert!(current.version == 3 && current.data.is_none());
    let Err(ChangeError::Conflict(stale)) = world.one(on(u64::MAX, delete("gpu"))).await else {
        panic!()
    };
    assert!(stale.current.is_none() && stale.basis.is_none());
    // Nothing is expected where nothing is, or where something was deleted.
    world.one(on(3, merge("cpu", json!({})))).await.unwrap();
    let Err(ChangeError::Conflict(_)) = world.one(on(0, merge("cpu", json!({})))).await else {
        panic!()
    };
    world.one(delete("cpu")).await.unwrap();
    assert_eq!(world.one(on(0, merge("cpu", json!({})))).await.unwrap(), 6);
    let counters = world.layouts.counters();
    assert_eq!(counters.conflicts.load(Ordering::Relaxed), 4);
    world.check_feed().await;
}

#[tokio::test]
async fn the_operations_of_a_change_see_each_other() {
    let mut world = World::fresh();
    let operations = vec![
        on(0, merge("cpu", json!({"x": 1}))),
        // Made on what was there before the change, as its client knows it.
        on(0, merge("cpu", json!({"y": 1}))),
        on(2, delete("cpu")),
        restore("cpu", 1),
    ];
    let changed = world.make(operations).await.unwrap();
    assert_eq!(changed.revision, 1);
    let versions: Vec<u64> = changed.versions.iter().map(|(_, version)| *version).collect();
    assert_eq!(versions, [1, 2, 3, 4]);
    assert_eq!(data(world.object("home", &widget("cpu"))), json!({"x": 1}));
    assert_eq!(world.versions(&widget("cpu"), None).await.len(), 4);
    world.check_feed().await;
}

#[tokio::test]
async fn an_id_counts_once_however_its_json_is_written() {
    let mut world = World::fresh();
    let written = |text: &str| Operation {
        key: widget("cpu"),
        edit: Edit::Replace(RawValue::from_string(text.to_owned()).unwrap()),
        base: Some(0),
    };
    let first = draft("home", vec![written(r#"{"a":1,"b":{"c":2,"d":3}}"#)], Some("op-1"));
    let first = world.change(first).await.unwrap();
    world.one(merge("cpu", json!({"e": 4}))).await.unwrap();
    let mut world = world.reopen().await;
    let again = written(r#"{ "b": {"d": 3, "c": 2}, "a": 1 }"#);
    let again = draft("home", vec![again], Some("op-1"));
    // By another user over another way, and its base is stale by now.
    let submitted = world.layouts.submit(&user("bob"), again);
    assert_eq!(world.layouts.settle(submitted).await.unwrap(), first);
    assert_eq!(world.layouts.counters().repeated.load(Ordering::Relaxed), 1);
    let other = draft("home", vec![written(r#"{"a":2}"#)], Some("op-1"));
    assert!(matches!(world.change(other).await, Err(ChangeError::IdReused)));
    // On another board it is another operation.
    let other = draft("other", vec![written("{}")], Some("op-1"));
    assert_eq!(world.change(other).await.unwrap().revision, 1);
    assert_eq!(data(world.object("home", &widget("cpu")))["e"], 4);
    // What clashed had not been made, and may be tried again.
    let stale = || draft("home", vec![on(9, delete("cpu"))], Some("op-2"));
    assert!(matches!(world.change(stale()).await, Err(ChangeError::Conflict(_))));
    assert!(matches!(world.change(stale()).await, Err(ChangeError::Conflict(_))));
    // After a month it is forgotten.
    world.pass(Duration::from_secs(30 * 86_400));
    let late = draft("home", vec![delete("cpu")], Some("op-1"));
    assert_eq!(world.change(late).await.unwrap().revision, 3);
}

#[tokio::test]
async fn fifty_versions_of_an_object_are_kept() {
    let mut world = World::fresh();
    world.all((1..=60).map(|n| draft("home", vec![merge("cpu", json!({"n": n}))], None))).await;
    let versions = world.versions(&widget("cpu"), None).await;
    assert_eq!((versions.len(), versions[49].object.version), (50, 11));
    let error = world.one(restore("cpu", 10)).await.unwrap_err();
    assert_eq!(error.to_string(), "version 10 of widget \"cpu\" is not kept: the oldest is 11");
    let error = world.one(restore("cpu", u64::MAX)).await.unwrap_err();
    assert!(matches!(error, ChangeError::NotKept(_)));
    let error = world.one(restore("gpu", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no widget \"gpu\"");
    assert_eq!(world.one(restore("cpu", 11)).await.unwrap(), 61);
    assert_eq!(data(world.object("home", &widget("cpu"))), json!({"n": 11}));
}

#[tokio::test]
async fn the_oldest_of_what_was_deleted_is_forgotten_and_its_versions_are_not_used_again() {
    let mut world = World::fresh();
    world.all((1..=9).map(|n| draft("home", vec![merge("first", json!({"n": n}))], None))).await;
    world.one(delete("first")).await.unwrap();
    let ids: Vec<String> = (0..BOARD_GONE_MAX).map(|n| format!("w{n}")).collect();
    world.make(ids.iter().map(|id| merge(id, json!({}))).collect()).await.unwrap();
    let home = Board::new("home").unwrap();
    world.make(ids[1..].iter().map(|id| delete(id)).collect()).await.unwrap();
    assert_eq!(world.feed.boards[&home].floor, 0, "there is room for so many");
    world.one(delete(&ids[0])).await.unwrap();
    assert_eq!(world.feed.boards[&home].floor, 10);
    assert!(world.object("home", &widget("first")).is_none());
    let mut world = world.check_feed().await;
    assert!(world.versions(&widget("first"), None).await.is_empty());
    assert_eq!(world.one(on(0, merge("first", json!({})))).await.unwrap(), 11);
    assert_eq!(world.one(merge("new", json!({}))).await.unwrap(), 11);
    assert_eq!(world.one(merge(&ids[0], json!({}))).await.unwrap(), 3, "it is remembered");
    world.check_feed().await;
}

#[tokio::test]
async fn a_board_holds_a_thousand_objects() {
    let mut world = World::fresh();
    let ids: Vec<String> = (0..1000).map(|n| format!("w{n}")).collect();
    for ids in ids.chunks(250) {
        world.make(ids.iter().map(|id| merge(id, json!({}))).collect()).await.unwrap();
    }
    let error = world.one(merge("more", json!({}))).await.unwrap_err();
    let words = "a board has at most 1000 widgets and layouts: delete some of them";
    assert_eq!(error.to_string(), words);
    world.one(merge("w1", json!({"x": 1}))).await.unwrap();
    world.make(vec![merge("more", json!({})), delete("w1")]).await.unwrap();
    assert!(matches!(world.one(restore("w1", 2)).await, Err(ChangeError::Full(_))));
    world.change(draft("other", vec![merge("more", json!({}))], None)).await.unwrap();
    world.check_feed().await;
}

#[tokio::test]
async fn an_empty_board_makes_room_for_a_new_one() {
    let mut world = World::fresh();
    let make = |name: &str| draft(name, vec![merge("cpu", json!({}))], None);
    let names: Vec<String> = (0..BOARDS_MAX).map(|n| format!("b{n}")).collect();
    for names in names.chunks(500) {
        world.all(names.iter().map(|name| make(name))).await;
    }
    let error = world.change(make("more")).await.unwrap_err();
    assert!(error.to_string().contains("10000 boards with something on them"), "{error}");
    for name in ["b7", "b3", "b5"] {
        world.change(draft(name, vec![delete("cpu")], None)).await.unwrap();
    }
    let mut world = world.check_feed().await;
    world.change(make("more")).await.unwrap();
    assert!(!world.feed.boards.contains_key(&Board::new("b7").unwrap()), "empty the longest");
    assert_eq!(world.store.counters().boards.load(Ordering::Relaxed), BOARDS_MAX as u64);
    // It goes on where the forgotten one was.
    let changed = world.change(make("b7")).await.unwrap();
    assert_eq!((changed.revision, changed.versions[0].1), (3, 3));
    assert_eq!(world.feed.boards[&Board::new("b7").unwrap()].floor, 2);
    world.check_feed().await;
}

#[tokio::test]
async fn all_boards_together_and_what_stood_there_have_a_bound() {
    let mut world = World::with(Options { bytes: 1 << 20, audit: Audit::off() });
    let large = |n: usize| json!({"n": n, "text": "x".repeat(200_000)});
    for n in 0..5 {
        world.change(draft(&format!("b{n}"), vec![replace("w", &large(n))], None)).await.unwrap();
    }
    let error = world.one(replace("w", &large(9))).await.unwrap_err();
    assert!(error.to_string().contains("more than 1 MiB (layouts.size_mib)"), "{error}");
    // What does not make it worse may be done, and what stood before goes in turn.
    for n in 0..30 {
        world.change(draft("b0", vec![replace("w", &large(n))], None)).await.unwrap();
    }
    let board = Board::new("b0").unwrap();
    let kept = world.store.reader().versions(board, widget("w"), None).await.unwrap();
    assert_eq!((kept.len(), kept[0].object.version), (11, 31), "2 MiB, and the one that stands");
    world.change(draft("b1", vec![delete("w")], None)).await.unwrap();
    world.one(replace("w", &large(9))).await.unwrap();
    assert!(world.store.counters().boards_bytes.load(Ordering::Relaxed) < 1 << 20);
    world.check_feed().await;
}

#[tokio::test]
async fn what_others_are_told_has_a_bound_and_counts_by_its_length() {
    let mut world = World::fresh();
    let with = |junk: usize| ChangeDraft {
        told: raw(&json!({"type": "WIDGET_DELETE", "payload": {"junk": "x".repeat(junk)}})),
        ..draft("home", vec![delete("cpu")], None)
    };
    assert_eq!([0, 160 * 1024, 4 << 20].map(|junk| with(junk).cost()), [1, 11, EVENTS_MAX]);
    match world.change(with(TOLD_BYTES_MAX)).await {
        Err(ChangeError::TooLarge(words)) => assert!(words.ends_with("make it in several")),
        other => panic!("{other:?}"),
    }
    world.change(with(1 << 20)).await.unwrap();
}

#[tokio::test]
async fn an_object_and_a_change_have_a_bound() {
    let mut world = World::fresh();
    let text = |bytes: usize| json!("x".repeat(bytes));
    let long = replace("cpu", &json!({"x": text(OBJECT_BYTES_MAX)}));
    assert!(matches!(world.one(long).await, Err(ChangeError::TooLarge(_))));
    world.one(merge("cpu", json!({"a": text(200_000)}))).await.unwrap();
    let error = world.one(merge("cpu", json!({"b": text(100_000)}))).await.unwrap_err();
    assert!(error.to_string().starts_with("widget \"cpu\" would have 300"), "{error}");
    let many = (0..6).map(|n| merge(&format!("w{n}"), json!({"a": text(200_000)}))).collect();
    let error = world.make(many).await.unwrap_err();
    assert!(error.to_string().contains("make it in several"), "{error}");
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    for bad in ["[]", "null", &deep, r#"{"a":"\ud800"}"#] {
        let edit = Edit::Replace(RawValue::from_string(bad.to_owned()).unwrap());
        let bad = Operation { key: widget("w"), edit, base: None };
        assert!(matches!(world.one(bad).await, Err(ChangeError::Invalid(_))));
    }
    assert!(matches!(world.make(Vec::new()).await, Err(ChangeError::Invalid(_))));
    let spaced = draft("home", vec![delete("w")], Some("an id"));
    assert!(matches!(world.change(spaced).await, Err(ChangeError::Invalid(_))));
    assert_eq!(world.layouts.counters().changed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_board_fits_into_one_message() {
    let mut world = World::fresh();
    let large = json!({"text": "x".repeat(250_000)});
    for n in 0..16 {
        world.one(replace(&format!("w{n}"), &large)).await.unwrap();
    }
    let error = world.one(replace("more", &large)).await.unwrap_err();
    assert!(error.to_string().contains("at most 4 MiB together"), "{error}");
    world.make((0..16).map(|n| delete(&format!("w{n}"))).collect()).await.unwrap();
    world.one(replace("more", &large)).await.unwrap();
    world.check_feed().await;
}

#[tokio::test]
async fn numbers_that_are_not_touched_stay_as_they_were_written() {
    let mut world = World::fresh();
    let text = r#"{"big":123456789012345678901234567890,"exact":1.10,"x":1}"#;
    let edit = Edit::Replace(RawValue::from_string(text.to_owned()).unwrap());
    world.one(Operation { key: widget("w"), edit, base: None }).await.unwrap();
    world.one(merge("w", json!({"x": 2}))).await.unwrap();
    let object = world.object("home", &widget("w")).unwrap();
    assert_eq!(object.data.as_ref().unwrap().get(), text.replace(":1}", ":2}"));
}

#[tokio::test]
async fn what_is_told_of_a_change_is_an_event_of_the_boards_room() {
    let world = World::fresh();
    let draft = ChangeDraft {
        exclude: Some(ConnectionId(7)),
        ..draft("home", vec![merge("cpu", json!({"x": 1}))], None)
    };
    let World { layouts, mut logged, .. } = world;
    layouts.settle(layouts.submit(&user("ada"), draft)).await.unwrap();
    // It is on its way before its client is told.
    let logged = logged.try_recv().unwrap().remove(0);
    assert_eq!(logged.entry.rooms()[0].as_str(), "board:home");
    assert!(logged.entry.excludes(Some(ConnectionId(7))));
    let mut body: Value = serde_json::from_str(logged.entry.body.get()).unwrap();
    assert_eq!(body["id"].take().as_str().unwrap().len(), 32);
    let object =
        json!({"kind": "widget", "id": "cpu", "version": 1, "revision": 1, "data": {"x": 1}});
    let expected = json!({
        "id": null, "type": "layouts.changed", "source": "ada",
        "data": {
            "board": "home", "revision": 1, "objects": [object],
            "operation": {"type": "SYNC_UPDATE", "payload": {}},
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn who_changed_which_board_is_noted_and_who_may_not() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("audit.jsonl");
    let files = AuditFiles { file: file.clone(), bytes: 1 << 20, files: 2 };
    let (audit, writer) = Audit::start(files, Clock::system()).unwrap();
    let mut world = World::with(Options { bytes: 1 << 20, audit });
    let twice = || draft("home", vec![merge("cpu", json!({})), delete("gpu")], Some("op-1"));
    world.change(twice()).await.unwrap();
    world.change(twice()).await.unwrap();
    let eve = Identity { layouts: None, ..(*user("eve")).clone() };
    let submitted = world.layouts.submit(&eve, draft("home", vec![delete("cpu")], None));
    let error = world.layouts.settle(submitted).await.unwrap_err();
    assert!(matches!(error, ChangeError::Denied));
    writer.stop().await;
    let text = std::fs::read_to_string(file).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    };
    let lines: Vec<Value> = text.lines().map(line).collect();
    assert_eq!(
        lines,
        [
            json!({"act": "changed", "user": "ada", "board": "home", "revision": 1,
                "operations": 2}),
            json!({"act": "refused", "user": "eve", "what": "change board:home",
                "why": "denied"}),
        ]
    );
}

#[tokio::test]
async fn a_hub_that_stops_says_so() {
    let World { store, layouts, .. } = World::fresh();
    store.close().await;
    let submitted = layouts.submit(&user("ada"), draft("home", vec![delete("cpu")], None));
    assert!(matches!(layouts.settle(submitted).await, Err(ChangeError::Stopping)));
}

#[tokio::test]
async fn entries_of_boards_from_before_change_nothing_that_stands() {
    let mut world = World::fresh();
    world.one(merge("cpu", json!({"x": 1}))).await.unwrap();
    world.one(merge("cpu", json!({"x": 2}))).await.unwrap();
    let mut world = world.reopen().await;
    let before = comparable(&world.feed.boards);
    for logged in world.store.reader().entries_recent(10, 1 << 20).await.unwrap() {
        world.feed.recall(&Arc::new(logged));
    }
    assert_eq!(comparable(&world.feed.boards), before);
}
