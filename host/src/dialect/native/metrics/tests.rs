use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::dialect::native::tests::{World, state_encoder};

const SUB: SubId = SubId(5);

/// A client that believes what it is told: of each series its declaration, its
/// value, and why it is stale.
#[derive(Clone, Debug, Default, PartialEq)]
struct Client(BTreeMap<u64, (Value, Value, Value)>);

impl Client {
    /// One that is told everything.
    fn of(told: &Value) -> Self {
        let mut client = Self::default();
        for series in told["series"].as_array().unwrap() {
            let id = client.declare(series);
            let known = client.0.get_mut(&id).unwrap();
            (known.1, known.2) = (series["value"].clone(), series["stale"]["code"].clone());
        }
        client
    }

    fn declare(&mut self, series: &Value) -> u64 {
        let (id, mut series) = (series["id"].as_u64().unwrap(), series.clone());
        for other in ["value", "stale", "min", "max"] {
            series.as_object_mut().unwrap().remove(other);
        }
        self.0.insert(id, (series, Value::Null, Value::Null));
        id
    }

    fn take(&mut self, push: &Value) {
        if push["full"] == true {
            *self = Self::of(push);
            return;
        }
        let list = |key: &str| push[key].as_array().cloned().unwrap_or_default();
        for id in list("gone") {
            self.0.remove(&id.as_u64().unwrap());
        }
        for series in list("declare") {
            self.declare(&series);
        }
        for row in list("values") {
            let known = self.0.get_mut(&row[0].as_u64().unwrap()).expect("declared before");
            (known.1, known.2) = (row[1].clone(), Value::Null);
        }
        for stale in list("stale") {
            let known = self.0.get_mut(&stale["id"].as_u64().unwrap()).expect("declared before");
            known.2 = stale["code"].clone();
        }
    }
}

fn pushed(encoder: &mut dyn StateEncoder, feed: &mut Feed) -> Value {
    let mut text = String::new();
    assert!(encoder.push(feed, SUB, &mut text), "there is always something to say");
    serde_json::from_str(&text).unwrap()
}

fn state(encoder: &mut dyn StateEncoder, feed: &mut Feed) -> Value {
    let mut text = String::new();
    encoder.state(feed, SUB, &mut text);
    serde_json::from_str(&text).unwrap()
}

fn full(encoder: &mut dyn StateEncoder, feed: &mut Feed) -> Value {
    let (mut before, mut after) = (String::new(), String::new());
    assert!(encoder.full(feed, SUB, &mut before, &mut after));
    let full: Value = serde_json::from_str(&format!("{before}3{after}")).unwrap();
    assert_eq!((&full["full"], &full["skipped"]), (&json!(true), &json!(3)));
    full
}

/// Follows a subscription through a random life of its series: whoever has come
/// at any tick knows at each push what a newcomer is told.
fn follow(wanted: &str, seed: u64) {
    let (mut world, mut feed) = (World::new(seed), World::feed());
    let mut encoder = state_encoder(wanted);
    let mut undisturbed = state_encoder(wanted);
    let mut clients = vec![Client::default()];
    let mut due = 0;
    for _ in 0..60 {
        world.tick(&mut feed);
        if world.once_in(6) {
            continue; // This snapshot was lost on its way.
        }
        encoder.observe(&feed);
        undisturbed.observe(&feed);
        due += 1;
        if due == encoder.every() {
            due = 0;
            let push = pushed(encoder.as_mut(), &mut feed);
            assert_eq!(push, pushed(undisturbed.as_mut(), &mut feed), "{wanted}, seed {seed}");
            for client in &mut clients {
                client.take(&push);
            }
            let newcomer = Client::of(&state(encoder.as_mut(), &mut feed)["snapshot"]);
            for client in &clients {
                assert_eq!(*client, newcomer, "{wanted}, seed {seed}, after {push}");
            }
        }
        match clients.len() {
            _ if !world.once_in(3) => {}
            8 => clients[0] = Client::of(&full(encoder.as_mut(), &mut feed)),
            _ => clients.push(Client::of(&state(encoder.as_mut(), &mut feed)["snapshot"])),
        }
    }
}

#[test]
fn whoever_follows_the_pushes_knows_what_a_newcomer_is_told() {
    for wanted in [
        r#""channel":"metrics""#,
        r#""channel":"metrics","filter":{"name":"s1"}"#,
        r#""channel":"metrics","filter":{"plugin":"p0","labels":{"id":"[1-3]"}}"#,
        r#""channel":"metrics","form":"full""#,
        r#""channel":"metrics","max_rate_ms":3000"#,
        r#""channel":"metrics","max_rate_ms":3000,"filter":{"name":"s[01]"}"#,
        r#""channel":"metrics","max_rate_ms":2000,"form":"full""#,
        r#""channel":"metrics","max_rate_ms":2000,"fields":["labels"]"#,
    ] {
        for seed in 0..30 {
            follow(wanted, seed);
        }
    }
}

/// The extremes of a series, from what was seen since the last push: as long as
/// it was there, and declared as it is now.
fn naive(seen: &[Arc<Snapshot>], id: SeriesId) -> (f64, f64) {
    let declared = |snapshot: &Snapshot| snapshot.roster.position(id, 0);
    let last = seen.last().unwrap();
    let series = &last.roster.series[declared(last).unwrap()];
    let (mut min, mut max) = (f64::NAN, f64::NAN);
    for snapshot in seen.iter().rev() {
        let Some(at) = declared(snapshot) else { break };
        if snapshot.roster.series[at] != *series {
            break;
        }
        let value = snapshot.values[at];
        if value.is_finite() {
            (min, max) = (value.min(min), value.max(max));
        }
    }
    (min, max)
}

#[test]
fn thinning_keeps_the_extremes_of_each_interval() {
    for seed in 0..40 {
        let (mut world, mut feed) = (World::new(seed), World::feed());
        let mut delta = state_encoder(r#""channel":"metrics","max_rate_ms":4000"#);
        let mut whole = state_encoder(r#""channel":"metrics","max_rate_ms":4000,"form":"full""#);
        let mut before: Option<Arc<Snapshot>> = None;
        for _ in 0..20 {
            let mut seen = Vec::new();
            for _ in 0..4 {
                world.tick(&mut feed);
                delta.observe(&feed);
                whole.observe(&feed);
                seen.push(feed.snapshot.clone());
            }
            let push = pushed(delta.as_mut(), &mut feed);
            let told: BTreeMap<u64, &Value> = push["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| (row[0].as_u64().unwrap(), row))
                .collect();
            let all = pushed(whole.as_mut(), &mut feed);
            let newest = feed.snapshot.clone();
            for (at, series) in newest.roster.series.iter().enumerate() {
                let (min, max) = naive(&seen, series.id);
                let row = told.get(&u64::from(series.id.0));
                if let Some(row) = row {
                    assert_eq!(**row, json!([series.id, newest.values[at], min, max]));
                }
                let told_whole = &all["series"][at];
                let wanted = json!([newest.values[at], min, max]);
                assert_eq!(
                    json!([told_whole["value"], told_whole["min"], told_whole["max"]]),
                    wanted
                );
                // Who has another value in mind must hear of the extremes.
                let last = before.as_ref().and_then(|before| {
                    before.roster.position(series.id, 0).map(|at| before.values[at])
                });
                let moved = [min, max]
                    .iter()
                    .any(|extreme| extreme.is_finite() && last.is_none_or(|last| last != *extreme));
                assert!(!moved || row.is_some(), "{series:?} was between {min} and {max}");
            }
            before = Some(newest);
        }
    }
}

#[test]
fn pushes_at_every_tick_have_no_extremes() {
    let (mut world, mut feed) = (World::new(1), World::feed());
    let mut encoder = state_encoder(r#""channel":"metrics""#);
    for _ in 0..20 {
        world.tick(&mut feed);
        let push = pushed(encoder.as_mut(), &mut feed);
        assert!(push["values"].as_array().unwrap().iter().all(|row| row[2].is_null()), "{push}");
        let told = full(encoder.as_mut(), &mut feed);
        assert!(told["series"].as_array().unwrap().iter().all(|s| s.get("min").is_none()));
    }
}

#[test]
fn fields_leave_the_rest_out() {
    for (fields, keys) in [
        (r"[]", vec!["id"]),
        (r#"["name"]"#, vec!["id", "name"]),
        (r#"["labels","plugin","value"]"#, vec!["id", "labels", "plugin"]),
    ] {
        let wanted = format!(r#""channel":"metrics","fields":{fields}"#);
        let (mut world, mut feed) = (World::new(2), World::feed());
        let mut encoder = state_encoder(&wanted);
        let mut declared = 0;
        for _ in 0..20 {
            world.tick(&mut feed);
            let push = pushed(encoder.as_mut(), &mut feed);
            let told = state(encoder.as_mut(), &mut feed);
            let series = told["snapshot"]["series"].as_array().unwrap();
            let declare = push["declare"].as_array().cloned().unwrap_or_default();
            for series in declare.iter().chain(series) {
                let found: BTreeSet<_> = series.as_object().unwrap().keys().collect();
                let found: Vec<_> = found
                    .into_iter()
                    .filter(|key| !["value", "stale"].contains(&&***key))
                    .collect();
                assert_eq!(found, keys, "{series}");
                declared += 1;
            }
        }
        assert!(declared > 0);
    }
}

#[test]
fn every_message_has_its_form() {
    let (mut world, mut feed) = (World::new(3), World::feed());
    while feed.snapshot.roster.series.is_empty() {
        world.tick(&mut feed);
    }
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut encoder = state_encoder(r#""channel":"metrics","max_rate_ms":1500,"form":"full""#);
    let told = state(encoder.as_mut(), &mut feed);
    assert_eq!(keys(&told), ["channel", "every", "snapshot", "sub"]);
    assert_eq!((&told["channel"], &told["sub"]), (&json!("metrics"), &json!(5)));
    assert_eq!(told["every"], 2);
    assert_eq!(keys(&told["snapshot"]), ["series", "tick", "time"]);
    assert_eq!(told["snapshot"]["tick"], feed.snapshot.tick.number);
    let time = told["snapshot"]["time"].as_str().unwrap();
    assert_eq!(time, "1970-01-01T00:00:01.000000Z");
    let push = pushed(encoder.as_mut(), &mut feed);
    assert_eq!(keys(&push), ["full", "push", "series", "sub", "tick", "time"]);
    let late = full(encoder.as_mut(), &mut feed);
    assert_eq!(keys(&late), ["full", "push", "series", "skipped", "sub", "tick", "time"]);
    assert_eq!(push["series"], late["series"], "the extremes of the interval that was pushed");
    let declared = &push["series"][0];
    let of = &feed.snapshot.roster.series[0];
    for (key, value) in [
        ("id", json!(of.id)),
        ("plugin", json!(**of.plugin())),
        ("name", json!(of.name())),
        ("kind", json!(of.spec.kind)),
        ("unit", json!("1")),
        ("description", json!("\"one\"\n")),
        ("labels", json!({"id": of.id.to_string()})),
        ("interval_ms", json!(1000)),
    ] {
        assert_eq!(declared[key], value, "{key}");
    }
}

#[test]
fn the_plugins_that_are_shown_are_watched() {
    let (mut world, mut feed) = (World::new(4), World::feed());
    for _ in 0..30 {
        world.tick(&mut feed);
        for (filter, matches) in
            [(r"{}", None), (r#"{"name":"s1"}"#, Some("s1")), (r#"{"name":"none"}"#, Some("none"))]
        {
            let encoder = state_encoder(&format!(r#""channel":"metrics","filter":{filter}"#));
            let series = feed.snapshot.roster.series.iter();
            let wanted: BTreeSet<String> = series
                .filter(|series| matches.is_none_or(|name| series.name() == name))
                .map(|series| series.plugin().to_string())
                .collect();
            let mut watched = Vec::new();
            encoder.watches(&feed, &mut |plugin| watched.push(plugin.to_string()));
            assert_eq!(watched, wanted.into_iter().collect::<Vec<_>>(), "{filter}");
        }
    }
    let encoder = state_encoder(r#""channel":"metrics","filter":{"plugin":"p9","name":"s"}"#);
    let mut watched = Vec::new();
    encoder.watches(&feed, &mut |plugin| watched.push(plugin.to_string()));
    assert_eq!(watched, ["p9"], "though nothing of it is there yet");
}
