use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::channel::{Feed, StateEncoder};
use crate::model::{
    Answer, Batch, Kind, Labels, Series, SeriesId, SeriesKey, SeriesSpec, Setback, SetbackKind,
    Tick,
};
use crate::plugin::Statuses;
use crate::snapshot::Freezer;

fn native() -> Native {
    let hub = HubFacts {
        name: "hub".into(),
        version: "1",
        tick: Duration::from_secs(1),
        epoch: "e".into(),
        admin_token: "secret".into(),
    };
    Native::new(Clock::system(), Arc::new(hub))
}

/// What is answered at once to a message.
fn answer(message: &str) -> Value {
    match native().receive(message).remove(0) {
        Act::Send(text) => serde_json::from_str(&text).unwrap(),
        _ => panic!("no immediate answer to {message}"),
    }
}

#[test]
fn what_makes_no_sense_is_answered_with_a_code() {
    let long = format!(r#"{{"id":1,"op":"{}"}}"#, "x".repeat(MESSAGE_BYTES_MAX));
    for (message, id, code) in [
        ("{", "null", "bad_json"),
        ("[]", "null", "bad_json"),
        (&long, "null", "too_large"),
        (r#"{"op":"ping"}"#, "null", "bad_request"),
        (r#"{"id":{},"op":"ping"}"#, "null", "bad_request"),
        (r#"{"id":1}"#, "1", "bad_request"),
        (r#"{"id":1,"op":"sing"}"#, "1", "unknown_op"),
        (r#"{"id":"a","op":"ping","loud":true}"#, r#""a""#, "bad_request"),
        (r#"{"id":1,"op":"subscribe","channel":"gossip"}"#, "1", "unknown_channel"),
        (
            r#"{"id":1,"op":"subscribe","channel":"metrics","filter":{"name":"a["}}"#,
            "1",
            "bad_glob",
        ),
        (r#"{"id":1,"op":"subscribe","channel":"hub","filter":{}}"#, "1", "bad_request"),
        (
            r#"{"id":1,"op":"subscribe","channel":"metrics","resume":{"epoch":"e","offset":1}}"#,
            "1",
            "bad_request",
        ),
        (r#"{"id":1,"op":"history","series":1,"from":"noon"}"#, "1", "bad_request"),
        (r#"{"id":1,"op":"connect","token":"guess"}"#, "1", "unauthorized"),
    ] {
        let answer = answer(message);
        assert_eq!(answer["id"].to_string(), id, "{answer}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(!answer["error"]["reason"].as_str().unwrap().is_empty(), "{answer}");
    }
}

#[test]
fn connect_tells_the_hubs_terms_and_ping_is_answered() {
    assert_eq!(answer(r#"{"id":7,"op":"ping"}"#), json!({"id": 7, "ok": {}}));
    let terms = answer(r#"{"id":"x","op":"connect","token":"secret"}"#);
    assert_eq!(terms["ok"]["tick_ms"], 1000);
    assert_eq!(terms["ok"]["admin"], true);
    assert_eq!(answer(r#"{"id":1,"op":"connect"}"#)["ok"]["admin"], false);
}

#[test]
fn the_same_wish_has_the_same_key_and_another_wish_another() {
    let key = |message: &str| match native().receive(message).remove(0) {
        Act::Subscribe { key, .. } => key,
        _ => panic!("no subscription: {message}"),
    };
    let one = key(
        r#"{"id":1,"op":"subscribe","channel":"metrics","filter":{"labels":{"b":"2","a":"1"}}}"#,
    );
    let same = key(
        r#"{"id":2,"op":"subscribe","filter":{"labels":{"a":"1","b":"2"}},"channel":"metrics"}"#,
    );
    let other =
        key(r#"{"id":1,"op":"subscribe","channel":"metrics","filter":{"labels":{"a":"1"}}}"#);
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_eq!(
        key(r#"{"id":1,"op":"subscribe","channel":"metrics"}"#),
        key(r#"{"id":1,"op":"subscribe","channel":"metrics","filter":{},"max_rate_ms":0}"#)
    );
}

/// A client that believes what it is told: each series with its value and the
/// reason why it is stale.
#[derive(Debug, Default, PartialEq)]
struct Client(BTreeMap<u64, (String, Value, Option<String>)>);

impl Client {
    fn everything(&mut self, told: &Value) {
        self.0.clear();
        for series in told["series"].as_array().unwrap() {
            self.declare(series);
            let known = self.0.get_mut(&series["id"].as_u64().unwrap()).unwrap();
            known.1 = series["value"].clone();
            known.2 = series["stale"]["reason"].as_str().map(str::to_owned);
        }
    }

    fn declare(&mut self, series: &Value) {
        let name = format!("{}{}", series["name"].as_str().unwrap(), series["kind"]);
        self.0.insert(series["id"].as_u64().unwrap(), (name, Value::Null, None));
    }

    fn push(&mut self, told: &Value) {
        let list = |key: &str| told[key].as_array().cloned().unwrap_or_default();
        for id in list("gone") {
            assert!(self.0.remove(&id.as_u64().unwrap()).is_some(), "gone, but never declared");
        }
        for series in list("declare") {
            self.declare(&series);
        }
        for pair in list("values") {
            let known = self.0.get_mut(&pair[0].as_u64().unwrap()).expect("declared before");
            (known.1, known.2) = (pair[1].clone(), None);
        }
        for stale in list("stale") {
            let known = self.0.get_mut(&stale["id"].as_u64().unwrap()).expect("declared before");
            known.2 = stale["reason"].as_str().map(str::to_owned);
        }
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a plugin with some of the series 0 to 9 may answer.
fn any_answer(dice: &mut Dice, plugin: u64, alive: &mut Vec<u32>) -> Option<Answer> {
    let name: crate::model::PluginName = format!("p{plugin}").into();
    let series = |id: u32, dice: &mut Dice| {
        let key = SeriesKey {
            plugin: name.clone(),
            name: format!("s{}", id % 3).into(),
            labels: Labels::new(vec![("id".into(), id.to_string().into())]).unwrap(),
        };
        let kind = if dice.roll(4) == 0 { Kind::Counter } else { Kind::Gauge };
        let spec = SeriesSpec::new(key, kind, "1".into(), "".into()).unwrap();
        Arc::new(Series { id: SeriesId(id), spec, interval_ns: 1 })
    };
    let outcome = match dice.roll(8) {
        0 => return None,
        1 => Err(Setback { kind: SetbackKind::Retry, reason: "no luck".into() }),
        _ => {
            let restarted = dice.roll(6) == 0;
            let ids = (0..5).map(|n| u32::try_from(plugin * 5 + n).unwrap());
            let mut batch = Batch { restarted, ..Batch::default() };
            if restarted {
                alive.clear();
            }
            for id in ids {
                let known = alive.contains(&id);
                if known && dice.roll(10) == 0 {
                    alive.retain(|other| *other != id);
                    batch.gone.push(SeriesId(id));
                } else if known || dice.roll(2) == 0 {
                    if !known {
                        alive.push(id);
                        batch.declare.push(series(id, dice));
                    }
                    match dice.roll(4) {
                        0 => {}
                        1 => batch.not_finite.push(SeriesId(id)),
                        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                        _ => batch.values.push((SeriesId(id), dice.roll(3) as f64)),
                    }
                }
            }
            Ok(batch)
        }
    };
    Some(Answer { plugin: name, outcome })
}

#[test]
fn whoever_follows_the_pushes_knows_what_a_newcomer_is_told() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut feed = Feed::new(Statuses::default(), Clock::system(), "e".into(), 0);
        let mut freezer = Freezer::default();
        let mut alive = [Vec::new(), Vec::new()];
        let mut encoders: Vec<_> = [r"{}", r#"{"name":"s1"}"#]
            .iter()
            .map(|filter| {
                let text =
                    format!(r#"{{"id":1,"op":"subscribe","channel":"metrics","filter":{filter}}}"#);
                match native().receive(&text).remove(0) {
                    Act::Subscribe { lane: Lane::State(encoder), .. } => {
                        (encoder, Client::default())
                    }
                    _ => panic!("no subscription"),
                }
            })
            .collect();
        for number in 1..60 {
            freezer.begin(Tick { number, time_ns: number * 1_000_000_000 });
            for plugin in 0..2 {
                match any_answer(&mut dice, plugin, &mut alive[usize::try_from(plugin).unwrap()]) {
                    Some(answer) => freezer.apply(answer),
                    None => freezer.mark_late(format!("p{plugin}").into()),
                }
            }
            feed.take_snapshot(freezer.freeze());
            if dice.roll(5) == 0 {
                continue; // This snapshot was skipped on its way.
            }
            for (encoder, client) in &mut encoders {
                follow(encoder.as_mut(), client, &feed, dice.roll(6) == 0);
            }
        }
    }
}

/// Tells a client of this tick, by the change or by everything, and checks that
/// it knows what a newcomer would.
fn follow(encoder: &mut dyn StateEncoder, client: &mut Client, feed: &Feed, everything: bool) {
    let sub = SubId(1);
    let push: Value = serde_json::from_str(&encoder.push(feed, sub).unwrap()).unwrap();
    if everything {
        let (head, tail) = encoder.full(feed, sub).unwrap();
        let full: Value = serde_json::from_str(&format!("{head}3{tail}")).unwrap();
        assert_eq!((&full["full"], &full["skipped"]), (&json!(true), &json!(3)));
        client.everything(&full);
    } else {
        client.push(&push);
    }
    let state: Value = serde_json::from_str(&encoder.state(feed, sub)).unwrap();
    let mut newcomer = Client::default();
    newcomer.everything(&state["snapshot"]);
    assert_eq!(*client, newcomer, "after {push}");
}
