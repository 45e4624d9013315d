use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::model::{Answer, Batch, Setback, SetbackKind, Tick};
use crate::plugin::Statuses;
use crate::snapshot::Freezer;

/// 2026-02-10T12:00:00Z
const NOON_NS: u64 = 1_770_724_800_000_000_000;
const FAILURE: &str =
    r#"{"error":"Failed to fetch metrics","timestamp":"2026-02-10T12:00:00.000000"}"#;

/// A feed, and one tick after the other.
struct Ticks {
    feed: Feed,
    freezer: Freezer,
    now_ns: Arc<AtomicU64>,
}

impl Ticks {
    fn new() -> Self {
        let now_ns = Arc::new(AtomicU64::new(NOON_NS));
        let clock = Clock::set_by(now_ns.clone());
        let feed = Feed::new(Statuses::default(), clock, "e".into(), 0);
        Self { feed, freezer: Freezer::default(), now_ns }
    }

    /// A tick at which a plugin publishes a document of the usual name, or
    /// nothing, or fails.
    fn tick(&mut self, plugin: &str, outcome: Result<Option<Value>, &str>) {
        let number = self.feed.snapshot.tick.number + 1;
        self.freezer.begin(Tick { number, time_ns: NOON_NS + number });
        let document = |value: Value| {
            let json = RawValue::from_string(value.to_string()).unwrap();
            Arc::new(Document { plugin: plugin.into(), name: DOCUMENT.into(), json })
        };
        let outcome = match outcome {
            Ok(value) => {
                let documents = value.map(document).into_iter().collect();
                Ok(Batch { documents, ..Batch::default() })
            }
            Err(reason) => Err(Setback { kind: SetbackKind::Retry, reason: reason.into() }),
        };
        self.freezer.apply(Answer { plugin: plugin.into(), outcome });
        self.feed.take_snapshot(self.freezer.freeze());
    }

    fn publish(&mut self, value: Value) {
        self.tick("routing", Ok(Some(value)));
    }

    fn observed(&mut self, latest: &mut Latest) {
        latest.observe(&self.feed);
    }

    fn state(&mut self, latest: &mut Latest) -> String {
        self.observed(latest);
        let mut text = String::new();
        latest.state(&mut self.feed, SubId(1), &mut text);
        text
    }

    fn push(&mut self, latest: &mut Latest) -> Option<String> {
        self.observed(latest);
        let mut text = String::new();
        latest.push(&mut self.feed, SubId(1), &mut text).then_some(text)
    }
}

fn wanting(query: &str, every: u64) -> Latest {
    Latest::new(Wants::read(query).unwrap(), every)
}

#[test]
fn what_is_wanted_is_read_of_the_query() {
    let read = |query: &str| Wants::read(query).map(|wants| wants.key());
    let all = read("").unwrap();
    assert_eq!(read("token=x&userId=1"), Ok(all.clone()));
    assert_eq!(read("fields=b,a,b"), read("fields=a%2C%20b"));
    let others = ["fields=a", "on=change", "fields=a&on=change"].map(|query| read(query).unwrap());
    assert!(!others.contains(&all) && others[0] != others[2]);
    for query in
        ["fields=", "fields=a,,b", "on=", "on=tick", &format!("fields={}", "x".repeat(129))]
    {
        assert!(read(query).is_err(), "{query}");
    }
    let many: Vec<String> = (0..33).map(|n| format!("f{n}")).collect();
    assert!(read(&format!("fields={}", many.join(","))).is_err());
}

#[test]
fn a_client_is_told_at_once_and_then_at_its_interval() {
    let interval = Duration::from_secs(5);
    let clock = Clock::set_by(Arc::new(AtomicU64::new(NOON_NS)));
    let client = |query: &str| {
        let wants = Wants::read(query).unwrap();
        Routing::new(clock.clone(), Duration::from_secs(2), interval, wants)
    };
    let mut plain = client("");
    let [Act::Subscribe { key, reply, refusal, .. }, Act::Wait(first)] = &plain.open()[..] else {
        panic!()
    };
    assert_eq!(*reply, Some((String::new(), String::new())));
    assert_eq!((&**refusal, *first), (FAILURE, interval));
    for _ in 0..2 {
        let [Act::Refresh { key: again, .. }, Act::Wait(next)] = &plain.waited()[..] else {
            panic!()
        };
        assert_eq!((again, *next), (key, interval));
    }
    assert!(plain.receive(Received::Text("{}")).is_empty());
    let [Act::Subscribe { lane: Lane::State(_), .. }] = &client("on=change").open()[..] else {
        panic!()
    };
}

#[test]
fn the_object_is_told_as_it_was_published() {
    let mut ticks = Ticks::new();
    let mut all = wanting("", 1);
    assert_eq!(ticks.state(&mut all), FAILURE);
    let object = json!({"b": 1.50, "a": {"x": []}, "timestamp": "t"});
    ticks.publish(object.clone());
    assert_eq!(ticks.state(&mut all), object.to_string());
    assert_eq!(ticks.push(&mut all), None, "the timers of the clients do it");
    ticks.tick("routing", Ok(None));
    assert_eq!(ticks.state(&mut all), object.to_string());
    ticks.tick("routing", Err("both are away"));
    assert_eq!(ticks.state(&mut all), FAILURE);
    ticks.tick("routing", Ok(None));
    assert_eq!(ticks.state(&mut all), object.to_string(), "it is back");
    ticks.publish(json!([1]));
    assert_eq!(ticks.state(&mut all), FAILURE);
}

#[test]
fn the_plugin_of_the_same_name_is_meant() {
    let mut ticks = Ticks::new();
    let mut all = wanting("", 1);
    let watched = |latest: &Latest, feed: &Feed| {
        let mut watched = Vec::new();
        latest.watches(feed, &mut |plugin| watched.push(plugin.to_string()));
        watched
    };
    assert_eq!(watched(&all, &ticks.feed), ["routing"], "though it has nothing yet");
    ticks.tick("another", Ok(Some(json!({"of": "another"}))));
    assert_eq!(ticks.state(&mut all), r#"{"of":"another"}"#);
    assert_eq!(watched(&all, &ticks.feed), ["routing", "another"]);
    ticks.publish(json!({"of": "routing"}));
    assert_eq!(ticks.state(&mut all), r#"{"of":"routing"}"#);
}

#[test]
fn fields_narrow_the_object_and_the_time_stays() {
    let mut ticks = Ticks::new();
    let mut some = wanting("fields=b,x,c", 1);
    ticks.publish(json!({"a": 1, "b": [2], "c": 3, "timestamp": "t"}));
    assert_eq!(ticks.state(&mut some), r#"{"b":[2],"c":3,"timestamp":"t"}"#);
    ticks.publish(json!({"a": 1}));
    assert_eq!(ticks.state(&mut some), "{}");
}

#[test]
fn on_change_tells_what_has_changed_of_what_is_wanted() {
    let mut ticks = Ticks::new();
    let mut changes = wanting("fields=a&on=change", 1);
    let object = |a: u32, b: u32, time: &str| json!({"a": a, "b": b, "timestamp": time});
    ticks.publish(object(1, 1, "1"));
    assert_eq!(ticks.push(&mut changes).unwrap(), r#"{"a":1,"timestamp":"1"}"#);
    ticks.publish(object(1, 2, "2"));
    assert_eq!(ticks.push(&mut changes), None, "another's member and the time");
    ticks.publish(object(2, 2, "3"));
    assert_eq!(ticks.push(&mut changes).unwrap(), r#"{"a":2,"timestamp":"3"}"#);
    ticks.tick("routing", Err("away"));
    assert_eq!(ticks.push(&mut changes).unwrap(), FAILURE);
    ticks.now_ns.fetch_add(1_000_000_000, Ordering::Relaxed);
    ticks.tick("routing", Err("still away"));
    assert_eq!(ticks.push(&mut changes), None);
    ticks.tick("routing", Ok(None));
    assert!(ticks.push(&mut changes).is_some());
}

#[test]
fn changes_come_at_most_every_interval_and_the_last_of_them_comes() {
    let mut ticks = Ticks::new();
    let mut changes = wanting("on=change", 3);
    let told: Vec<_> = [1, 2, 3, 4, 4, 4, 4, 5]
        .iter()
        .map(|n| {
            ticks.publish(json!({ "n": n }));
            let push: Option<Value> =
                ticks.push(&mut changes).map(|text| serde_json::from_str(&text).unwrap());
            push.map(|object| object["n"].clone())
        })
        .collect();
    // The fourth tick is the first that is three after the first.
    let (one, four, five) = (Some(json!(1)), Some(json!(4)), Some(json!(5)));
    assert_eq!(told, [one, None, None, four, None, None, None, five]);
}

#[test]
fn a_slow_client_is_told_what_stands_without_a_number() {
    let mut ticks = Ticks::new();
    let mut changes = wanting("on=change", 1);
    ticks.publish(json!({"a": 1}));
    ticks.observed(&mut changes);
    let (mut before, mut after) = (String::new(), String::new());
    assert!(changes.full(&mut ticks.feed, SubId(1), &mut before, &mut after));
    assert_eq!((&*before, &*after), ("", r#"{"a":1}"#));
}
