use std::net::IpAddr;

use serde_json::Value;

use super::*;
use crate::channel::{Lane, LogEncoder, Position, StateEncoder};
use crate::model::ConnectionId;

mod rights;
mod world;

pub(super) use world::World;

fn native() -> Native {
    let config = crate::config::AuthConfig::default();
    let access = Access::new(&config, Clock::system()).unwrap().with_admin("secret");
    native_of(access, Clock::system())
}

/// A client of a hub that lets these in.
fn native_of(access: Arc<Access>, clock: Clock) -> Native {
    let identity = access.without_token("native");
    let hub = HubFacts {
        name: "hub".into(),
        version: "1",
        tick: Duration::from_secs(1),
        epoch: "e".into(),
        admin_token: "secret".into(),
        heartbeat: Duration::from_secs(25),
    };
    let client = Client::new(ConnectionId(1), "native", IpAddr::from([127, 0, 0, 1]), 0, identity);
    Native::new(clock, Arc::new(hub), access, client)
}

/// What a text message makes the dialect do.
pub(super) fn act(message: &str) -> Act {
    native().receive(Received::Text(message)).remove(0)
}

/// A subscription, as its members in JSON ask for it: how it is written, and
/// its key.
fn subscribe(wanted: &str) -> (Lane, String) {
    match act(&format!(r#"{{"id":1,"op":"subscribe",{wanted}}}"#)) {
        Act::Subscribe { lane, key, .. } => (lane, key),
        Act::Send(refusal) => panic!("{wanted}: {refusal}"),
        _ => panic!("{wanted}"),
    }
}

/// A subscription to a state channel.
pub(super) fn state_encoder(wanted: &str) -> Box<dyn StateEncoder> {
    match subscribe(wanted) {
        (Lane::State(encoder), _) => encoder,
        (Lane::Log(_), _) => panic!("{wanted} is a log channel"),
    }
}

/// A subscription to a log channel.
pub(super) fn log_encoder(wanted: &str) -> Box<dyn LogEncoder> {
    match subscribe(wanted) {
        (Lane::Log(encoder), _) => encoder,
        (Lane::State(_), _) => panic!("{wanted} is a state channel"),
    }
}

/// What is answered at once to a message.
pub(super) fn answer(message: &str) -> Value {
    match act(message) {
        Act::Send(text) => serde_json::from_str(&text).unwrap(),
        _ => panic!("no immediate answer to {message}"),
    }
}

#[test]
fn what_makes_no_sense_is_answered_with_a_code() {
    let on = |channel: &str, said: &str| {
        format!(r#"{{"id":1,"op":"subscribe","channel":"{channel}",{said}}}"#)
    };
    let labels: Vec<_> = (0..17).map(|n| format!(r#""k{n}":"*""#)).collect();
    let labels = format!(r#""filter":{{"labels":{{{}}}}}"#, labels.join(","));
    let long = format!(r#""filter":{{"name":"{}"}}"#, "x".repeat(257));
    for (message, id, code, words) in [
        ("{", "null", "bad_json", ""),
        ("[]", "null", "bad_json", ""),
        (r#"{"op":"ping"}"#, "null", "bad_request", "`id` is missing"),
        (r#"{"id":{},"op":"ping"}"#, "null", "bad_request", "64 bytes"),
        (r#"{"id":1e999,"op":"ping"}"#, "null", "bad_request", "64 bytes"),
        (r#"{"id":"\ud800","op":"ping"}"#, "null", "bad_request", "64 bytes"),
        (r#"{"id":1}"#, "1", "bad_request", "`op` is missing"),
        (r#"{"id":1,"op":"sing"}"#, "1", "unknown_op", "snapshot"),
        (r#"{"id":"a","op":"ping","loud":true}"#, r#""a""#, "bad_request", "loud"),
        (&on("gossip", r#""form":"full""#), "1", "unknown_channel", "findings"),
        (&on("metrics", r#""filter":{"name":"a["}"#), "1", "bad_glob", "]"),
        (&on("metrics", &labels), "1", "bad_glob", "16"),
        (&on("metrics", &long), "1", "bad_glob", "256"),
        (&on("metrics", r#""form":"short""#), "1", "bad_request", "`delta` or `full`"),
        (&on("metrics", r#""fields":["name","color"]"#), "1", "bad_request", "interval_ms"),
        (&on("metrics", r#""max_rate_ms":3600001"#), "1", "bad_request", "3600000"),
        (
            &on("metrics", r#""resume":{"epoch":"e","offset":1}"#),
            "1",
            "bad_request",
            "metrics takes no resume: it takes filter, fields, form, max_rate_ms",
        ),
        (&on("documents", r#""max_rate_ms":0"#), "1", "bad_request", "it takes filter"),
        (
            &on("documents", r#""filter":{"labels":{}}"#),
            "1",
            "bad_request",
            "a filter on documents takes no labels: it takes plugin, name",
        ),
        (&on("findings", r#""form":"full""#), "1", "bad_request", "resume"),
        (&on("findings", r#""fields":["event"]"#), "1", "bad_request", "detector"),
        (&on("hub", r#""filter":{"name":"a"}"#), "1", "bad_request", "it takes plugin"),
        (&on("hub", r#""fields":["score"]"#), "1", "bad_request", "restart_after_ms"),
        (r#"{"id":1,"op":"history","series":1,"from":"noon"}"#, "1", "bad_request", "RFC 3339"),
        (r#"{"id":1,"op":"connect","token":"guess"}"#, "1", "unauthorized", "token"),
    ] {
        let answer = answer(message);
        assert_eq!(answer["id"].to_string(), id, "{answer}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        let reason = answer["error"]["reason"].as_str().unwrap();
        assert!(!reason.is_empty() && reason.contains(words), "{answer}");
    }
}

#[test]
fn a_binary_message_closes_the_connection() {
    let acts = native().receive(Received::Binary(br#"{"id":1,"op":"ping"}"#));
    assert!(matches!(acts[..], [Act::Close(CloseReason { code: 1003, .. })]));
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
    let key = |wanted: &str| subscribe(wanted).1;
    for (one, same) in [
        (
            r#""channel":"metrics","filter":{"labels":{"b":"2","a":"1"}}"#,
            r#""filter":{"labels":{"a":"1","b":"2"}},"channel":"metrics""#,
        ),
        (
            r#""channel":"metrics""#,
            r#""channel":"metrics","filter":{"labels":{}},"max_rate_ms":0,"form":"delta""#,
        ),
        (r#""channel":"metrics","max_rate_ms":1001"#, r#""channel":"metrics","max_rate_ms":2000"#),
        (
            r#""channel":"metrics","fields":["unit","name","id"]"#,
            r#""channel":"metrics","fields":["name","unit","name"]"#,
        ),
        (
            r#""channel":"metrics""#,
            r#""channel":"metrics","fields":["interval_ms","labels","description","unit","kind","name","plugin"]"#,
        ),
        (
            r#""channel":"hub","resume":{"epoch":"e","offset":1}"#,
            r#""channel":"hub","filter":{},"resume":null"#,
        ),
        (
            r#""channel":"findings","fields":["id","score"]"#,
            r#""channel":"findings","fields":["score"]"#,
        ),
    ] {
        assert_eq!(key(one), key(same), "{one} and {same}");
    }
    let different = [
        r#""channel":"metrics""#,
        r#""channel":"metrics","filter":{"plugin":"a"}"#,
        r#""channel":"metrics","filter":{"name":"a"}"#,
        r#""channel":"metrics","filter":{"labels":{"a":"1"}}"#,
        r#""channel":"metrics","max_rate_ms":2000"#,
        r#""channel":"metrics","form":"full""#,
        r#""channel":"metrics","fields":[]"#,
        r#""channel":"metrics","fields":["name"]"#,
        r#""channel":"documents""#,
        r#""channel":"documents","filter":{"name":"a"}"#,
        r#""channel":"findings""#,
        r#""channel":"findings","fields":["name"]"#,
        r#""channel":"findings","filter":{"name":"a"}"#,
        r#""channel":"hub""#,
        r#""channel":"hub","filter":{"plugin":"a"}"#,
        r#""channel":"hub","fields":["reason"]"#,
    ];
    let keys: std::collections::BTreeSet<_> = different.iter().map(|wanted| key(wanted)).collect();
    assert_eq!(keys.len(), different.len());
}

#[test]
fn a_rate_is_whole_ticks_rounded_up() {
    for (rate_ms, every) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3), (3_600_000, 3600)] {
        let wanted = format!(r#""channel":"metrics","max_rate_ms":{rate_ms}"#);
        assert_eq!(state_encoder(&wanted).every(), every, "{rate_ms} ms");
    }
}

#[test]
fn where_a_client_stopped_is_passed_on() {
    let resume = |channel: &str| {
        let said = format!(
            r#"{{"id":1,"op":"subscribe","channel":"{channel}","resume":{{"epoch":"k","offset":42}}}}"#
        );
        match act(&said) {
            Act::Subscribe { resume, .. } => resume,
            _ => panic!("refused"),
        }
    };
    let position = Position { epoch: "k".into(), offset: 42 };
    assert_eq!(resume("hub"), Some(position.clone()));
    assert_eq!(resume("findings"), Some(position));
}

#[test]
fn a_snapshot_is_asked_for_by_its_subscription() {
    match act(r#"{"id":"a","op":"snapshot","sub":5}"#) {
        Act::Snapshot { sub, reply, refusal } => {
            assert_eq!((sub, reply), (SubId(5), (r#"{"id":"a","ok":"#.into(), "}".into())));
            let refusal: Value = serde_json::from_str(&refusal).unwrap();
            assert_eq!(refusal["error"]["code"], "not_subscribed");
        }
        _ => panic!("no snapshot"),
    }
}

#[test]
fn the_last_word_says_when_to_come_back() {
    let (bye, reason) = native().goodbye(Goodbye::Stopping(Duration::from_millis(1234)));
    assert_eq!(bye.as_deref(), Some(r#"{"push":"bye","reconnect_after_ms":1234}"#));
    assert_eq!(reason.code, 3001);
}
