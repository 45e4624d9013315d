use serde_json::{Value, json};

use super::*;
use crate::dialect::native::tests::{World, log_encoder};
use crate::model::Entry;

const SUB: SubId = SubId(6);

/// A finding on a series of `plugin`.
fn finding(offset: u64, id: &str, state: &str, plugin: &str, name: &str) -> Logged {
    let body = json!({
        "id": id, "state": state, "detector": "zscore", "series": 31, "plugin": plugin,
        "name": name, "labels": {"core": "0"}, "type": "spike", "score": 0.6, "peak": 0.6,
        "deviation": 3.5, "value": 0.9, "expected": null, "lower": null, "upper": null,
        "note": null, "started": "2026-02-10T12:00:00.000Z", "ended": null,
    });
    Logged::new(offset, Entry::new(LogChannel::Findings, 1_770_724_800_250, &body).unwrap())
}

fn event(offset: u64, plugin: &str) -> Logged {
    let body =
        json!({"event": "failed", "plugin": plugin, "reason": "it fell", "restart_after_ms": 200});
    Logged::new(offset, Entry::new(LogChannel::Hub, 1_770_724_800_250, &body).unwrap())
}

fn feed() -> Feed {
    let mut feed = World::feed();
    for logged in [
        finding(41, "a", "open", "system", "cpu"),
        finding(42, "b", "open", "skills", "calls"),
        finding(43, "c", "open", "system", "load"),
        finding(44, "c", "close", "system", "load"),
    ] {
        feed.take_entry(&logged.into());
    }
    feed
}

fn written(write: impl FnOnce(&mut String)) -> Value {
    let mut text = String::new();
    write(&mut text);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn who_starts_afresh_is_told_what_stands() {
    let feed = feed();
    let findings = log_encoder(r#""channel":"findings","fields":["plugin"]"#);
    let (a, b) = (
        json!({"id": "a", "state": "open", "plugin": "system"}),
        json!({"id": "b", "state": "open", "plugin": "skills"}),
    );
    assert_eq!(
        written(|text| findings.fresh(&feed, SUB, text)),
        json!({"channel": "findings", "sub": 6, "recovered": false, "epoch": "k3", "offset": 44,
               "entries": [], "open": [a, b]})
    );
    let of_one = log_encoder(r#""channel":"findings","fields":[],"filter":{"plugin":"skills"}"#);
    let told = written(|text| of_one.fresh(&feed, SUB, text));
    assert_eq!(told["open"], json!([{"id": "b", "state": "open"}]));
    let hub = log_encoder(r#""channel":"hub""#);
    assert_eq!(
        written(|text| hub.fresh(&feed, SUB, text)),
        json!({"channel": "hub", "sub": 6, "recovered": false, "epoch": "k3", "offset": 44,
               "entries": [], "plugins": []})
    );
}

#[test]
fn who_goes_on_is_told_all_that_was_missed() {
    let feed = feed();
    let findings = log_encoder(r#""channel":"findings","fields":["type"]"#);
    let missed =
        [finding(42, "b", "open", "skills", "calls"), finding(44, "c", "close", "system", "load")];
    let missed: Vec<(u64, &Logged)> = [41, 42].into_iter().zip(&missed).collect();
    let time = "2026-02-10T12:00:00.250Z";
    assert_eq!(
        written(|text| findings.resumed(&feed, SUB, &missed, text)),
        json!({"channel": "findings", "sub": 6, "recovered": true, "epoch": "k3", "offset": 44,
        "entries": [
            {"offset": 42, "prev": 41, "time": time,
             "entry": {"id": "b", "state": "open", "type": "spike"}},
            {"offset": 44, "prev": 42, "time": time,
             "entry": {"id": "c", "state": "close", "type": "spike"}},
        ]})
    );
    let nothing = written(|text| findings.resumed(&feed, SUB, &[], text));
    assert_eq!((&nothing["recovered"], &nothing["entries"]), (&json!(true), &json!([])));
}

#[test]
fn an_entry_is_pushed_whole_or_with_the_fields_that_are_wanted() {
    let feed = feed();
    let entry = event(45, "system");
    let push = |wanted: &str| {
        let encoder = log_encoder(wanted);
        written(|text| encoder.push(&feed, SUB, 41, &entry, text))
    };
    assert_eq!(
        push(r#""channel":"hub""#),
        json!({"push": "hub", "sub": 6, "epoch": "k3", "offset": 45, "prev": 41,
               "time": "2026-02-10T12:00:00.250Z",
               "entry": {"event": "failed", "plugin": "system", "reason": "it fell",
                         "restart_after_ms": 200}})
    );
    let some = push(r#""channel":"hub","fields":["reason","handover"]"#);
    assert_eq!(some["entry"], json!({"event": "failed", "reason": "it fell"}));
    let every = format!(r#""channel":"hub","fields":{}"#, json!(Entries::EVENT));
    assert_eq!(push(&every), push(r#""channel":"hub""#));
}

#[test]
fn a_gap_says_which_entries_follow_or_that_they_are_lost() {
    let feed = feed();
    let findings = log_encoder(r#""channel":"findings","fields":[]"#);
    assert_eq!(
        written(|text| findings.gap(&feed, SUB, 46, 90, false, text)),
        json!({"push": "gap", "channel": "findings", "sub": 6, "from": 46, "to": 90})
    );
    assert_eq!(
        written(|text| findings.gap(&feed, SUB, 46, 90, true, text)),
        json!({"push": "gap", "channel": "findings", "sub": 6, "from": 46, "to": 90,
               "recovered": false, "epoch": "k3", "offset": 44,
               "open": [{"id": "a", "state": "open"}, {"id": "b", "state": "open"}]})
    );
}

#[test]
fn filters_choose_entries_by_what_they_are_about() {
    let entries = [
        finding(1, "a", "open", "system", "system.cpu.load"),
        finding(2, "b", "open", "skills", "skill.calls"),
    ];
    for (filter, wanted) in [
        (r"{}", [true, true]),
        (r#"{"plugin":"system"}"#, [true, false]),
        (r#"{"name":"skill.*"}"#, [false, true]),
        (r#"{"name":"*.*","labels":{"core":"[0-3]"}}"#, [true, true]),
        (r#"{"labels":{"core":"1"}}"#, [false, false]),
        (r#"{"labels":{"disk":"*"}}"#, [false, false]),
    ] {
        let encoder = log_encoder(&format!(r#""channel":"findings","filter":{filter}"#));
        assert_eq!(*encoder.topic(), Topic::Channel(LogChannel::Findings));
        assert_eq!(entries.each_ref().map(|entry| encoder.wants(entry)), wanted, "{filter}");
    }
    let events = [event(3, "system"), event(4, "skills")];
    let hub = log_encoder(r#""channel":"hub","filter":{"plugin":"skills"}"#);
    assert_eq!(events.each_ref().map(|entry| hub.wants(entry)), [false, true]);
    let nobodys = Logged::new(5, Entry::new(LogChannel::Hub, 0, &json!({"event": "x"})).unwrap());
    assert!(!hub.wants(&nobodys) && log_encoder(r#""channel":"hub""#).wants(&nobodys));
}
