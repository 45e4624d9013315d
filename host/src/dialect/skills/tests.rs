use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::model::ConnectionId;
use crate::model::{
    Answer, Batch, Document, Entry, LogChannel, Logged, Setback, SetbackKind, Tick,
};
use crate::plugin::Statuses;
use crate::snapshot::Freezer;

/// 2026-02-10T12:00:00Z
const NOON_NS: u64 = 1_770_724_800_000_000_000;

fn clock() -> Clock {
    Clock::set_by(Arc::new(AtomicU64::new(NOON_NS)))
}

fn skills(access: Arc<Access>) -> Skills {
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let identity = access.without_token("skills");
    let client = Client::new(ConnectionId(1), "skills", address, 0, identity);
    Skills::new(clock(), access, client)
}

fn texts(acts: Vec<Act>) -> Vec<String> {
    let text = |act| match act {
        Act::Send(text) => text,
        Act::Subscribe { key, only: true, reply: None, .. } => format!("stream {key}"),
        Act::Ignore => "ignore".to_owned(),
        _ => "something else".to_owned(),
    };
    acts.into_iter().map(text).collect()
}

#[test]
fn each_message_of_a_client_is_answered_as_its_authors_did() {
    let confirmed = |skill: Value| {
        json!({"type": "subscription_confirmed", "skill": skill, "timestamp": "2026-02-10T12:00:00.000+00:00"})
            .to_string()
    };
    for (message, answers) in [
        (r#"{"type":"ping"}"#, vec![r#"{"type":"pong"}"#.to_owned()]),
        (
            r#"{"type":"subscribe","skill":"a"}"#,
            vec![confirmed(json!("a")), r#"stream skills "a""#.into()],
        ),
        (r#"{"type":"subscribe"}"#, vec![confirmed(json!(null)), "stream skills null".into()]),
        (
            r#"{"type":"subscribe","skill":null}"#,
            vec![confirmed(json!(null)), "stream skills null".into()],
        ),
        (
            r#"{"type":"subscribe","skill_name":"b"}"#,
            vec![confirmed(json!("b")), r#"stream skills "b""#.into()],
        ),
        (r#"{"type":"unsubscribe"}"#, vec!["stream skills null".into()]),
        (r#"{"type":"dance"}"#, vec!["ignore".into()]),
        ("not json", vec!["ignore".into()]),
        ("[1]", vec!["ignore".into()]),
    ] {
        let mut client = skills(Access::open());
        client.waited();
        assert_eq!(texts(client.receive(Received::Text(message))), answers, "{message}");
    }
}

#[test]
fn a_client_that_never_subscribes_gets_all_skills_after_its_patience() {
    let mut client = skills(Access::open());
    assert_eq!(texts(client.waited()), ["stream skills null"]);
}

#[test]
fn for_a_second_after_the_welcome_there_are_only_answers() {
    let mut client = skills(Access::open());
    assert_eq!(
        texts(client.receive(Received::Binary(br#"{"type":"subscribe","skill":"a"}"#))).len(),
        1
    );
    assert_eq!(texts(client.waited()), [r#"stream skills "a""#]);
    assert_eq!(
        texts(client.receive(Received::Text(r#"{"type":"unsubscribe"}"#))),
        ["stream skills null"]
    );
}

/// A feed with these documents of the plugin `skills`, or its setback.
fn feed(outcome: Result<&[(&str, Value)], &str>) -> Feed {
    let mut freezer = Freezer::default();
    let mut take = |number: u64, outcome| {
        freezer.begin(Tick { number, time_ns: NOON_NS });
        freezer.apply(Answer { plugin: "skills".into(), outcome });
        freezer.freeze()
    };
    let documents = |list: &[(&str, Value)]| {
        list.iter()
            .map(|(name, rows)| {
                let json = RawValue::from_string(rows.to_string()).unwrap();
                Arc::new(Document { plugin: "skills".into(), name: (*name).into(), json })
            })
            .collect()
    };
    let batch =
        |list| Ok(Batch { restarted: true, documents: documents(list), ..Batch::default() });
    let snapshot = match outcome {
        Ok(list) => take(1, batch(list)),
        Err(reason) => {
            take(1, batch(&[("top_skills", json!([{"skill_name": "old"}]))]));
            take(2, Err(Setback { kind: SetbackKind::Retry, reason: reason.into() }))
        }
    };
    let mut feed = Feed::new(Statuses::default(), clock(), "e".into(), 0);
    feed.take_snapshot(snapshot);
    feed
}

fn update(feed: &mut Feed, skill: Option<&str>) -> Option<Value> {
    let mut updates = Updates { skill: skill.map(str::to_owned), read: None };
    let mut text = String::new();
    updates.push(feed, SubId(1), &mut text).then(|| serde_json::from_str(&text).unwrap())
}

#[test]
fn an_update_carries_at_most_ten_rows_as_the_database_has_them() {
    let row = |n: u64| json!({"skill_name": format!("s{n}"), "total_invocations": n, "completion_rate": 95.5, "avg_duration_seconds": null});
    let mut feed = feed(Ok(&[("top_skills", (0..12).map(row).collect())]));
    let all = update(&mut feed, None).unwrap();
    assert_eq!(all["type"], "metrics_update");
    assert_eq!(all["data"]["top_skills"], (0..10).map(row).collect::<Value>());
    let one = update(&mut feed, Some("s3")).unwrap();
    assert_eq!(one["data"], json!({"top_skills": [row(3)], "anomalies": []}));
    assert_eq!(update(&mut feed, Some("s11")), None, "not among the ten");
}

#[test]
fn while_the_database_is_away_there_are_no_skills() {
    let mut feed = feed(Err("the database is locked"));
    assert_eq!(
        update(&mut feed, None).unwrap()["data"],
        json!({"top_skills": [], "anomalies": []})
    );
}

#[test]
fn the_hubs_findings_join_the_databases_anomalies_newest_first() {
    let stored = json!([
        {"skill_name": "a", "detected_at": "2026-02-10 11:58:00", "anomaly_type": "drop", "deviation_score": 2.5},
        {"skill_name": "b", "detected_at": "2026-02-10T12:30:00+01:00", "anomaly_type": "spike", "deviation_score": 3.0},
    ]);
    let mut feed = feed(Ok(&[("anomalies", stored)]));
    let finding = |id: &str, name: &str, minute: u64| {
        let body = json!({
            "id": id, "state": "open", "detector": "d", "series": 1, "plugin": "skills", "name": name,
            "labels": {"skill": "c"}, "type": "level-shift", "score": 0.6, "peak": 0.6, "deviation": 4.5,
            "value": null, "expected": null, "lower": null, "upper": null, "note": null,
            "started": format!("2026-02-10T11:{minute}:00.000Z"), "ended": null,
        });
        let time_ms = NOON_NS / 1_000_000 - (60 - minute) * 60_000;
        let entry = Entry::new(LogChannel::Findings, time_ms, &body).unwrap();
        Arc::new(Logged::new(minute, entry))
    };
    feed.take_entry(&finding("1", "skill.duration", 45));
    feed.take_entry(&finding("2", "system.load", 50));
    feed.take_entry(&finding("3", "skill.duration", 59));
    let anomalies = update(&mut feed, None).unwrap()["data"]["anomalies"].take();
    let told: Vec<_> = anomalies
        .as_array()
        .unwrap()
        .iter()
        .map(|a| format!("{} {} {}", a["skill_name"], a["anomaly_type"], a["deviation_score"]))
        .collect();
    assert_eq!(
        told,
        [
            r#""c" "level_shift" 4.5"#,
            r#""a" "drop" 2.5"#,
            r#""c" "level_shift" 4.5"#,
            r#""b" "spike" 3.0"#
        ]
    );
    assert_eq!(anomalies[0]["detected_at"], "2026-02-10T11:59:00.000+00:00");
}

#[test]
fn the_plugins_whose_documents_are_shown_are_watched() {
    let watched = |feed: &Feed, skill: Option<&str>| {
        let mut watched = Vec::new();
        let updates = Updates { skill: skill.map(str::to_owned), read: None };
        updates.watches(feed, &mut |plugin| watched.push(plugin.to_string()));
        watched
    };
    let mut feed = feed(Ok(&[]));
    assert_eq!(watched(&feed, None), ["skills"], "though it has nothing yet");
    let mut freezer = Freezer::default();
    freezer.begin(Tick { number: 1, time_ns: NOON_NS });
    let json = RawValue::from_string("[]".into()).unwrap();
    let document = Document { plugin: "other".into(), name: "anomalies".into(), json };
    let batch = Batch { documents: vec![Arc::new(document)], ..Batch::default() };
    freezer.apply(Answer { plugin: "other".into(), outcome: Ok(batch) });
    feed.take_snapshot(freezer.freeze());
    assert_eq!(watched(&feed, None), ["other", "skills"]);
    assert_eq!(watched(&feed, Some("a")), ["skills"], "updates of one skill have no anomalies");
}
