//! Who a client is, and what it may have for that.

use std::sync::atomic::Ordering;

use super::*;
use crate::access::tests::{NOW, access, signed};
use crate::model::{Entry, LogChannel, Logged};

/// A client of a hub that wants tokens.
fn client() -> Native {
    let (access, clock, _) = access("default_rooms = [\"project:*\"]");
    native_of(access, clock)
}

fn token(more: Value) -> String {
    let mut claims = json!({"sub": "ana", "exp": NOW + 60});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    signed(&claims)
}

/// What comes of a command: what is sent, and whether the connection is closed.
fn say(client: &mut Native, command: Value) -> (Value, Option<u16>) {
    let (mut sent, mut closed) = (Value::Null, None);
    for act in client.receive(Received::Text(&command.to_string())) {
        match act {
            Act::Send(text) => sent = serde_json::from_str(&text).unwrap(),
            Act::Narrow { answer, .. } => {
                sent = serde_json::from_str(&answer(vec![SubId(7)])).unwrap();
            }
            Act::Close(reason) => closed = Some(reason.code),
            Act::Subscribe { key, .. } => sent = json!({"key": key}),
            _ => sent = json!("something else"),
        }
    }
    (sent, closed)
}

fn connect(client: &mut Native, token: &str) -> Value {
    say(client, json!({"id": 1, "op": "connect", "token": token})).0
}

fn refresh(client: &mut Native, token: &str) -> Value {
    say(client, json!({"id": 2, "op": "refresh", "token": token})).0
}

#[test]
fn a_stranger_is_told_nothing_but_that_a_token_is_needed() {
    let mut client = client();
    assert_eq!(
        say(&mut client, json!({"id": 1, "op": "ping"})),
        (json!({"id": 1, "ok": {}}), None)
    );
    let refusal =
        json!({"code": "unauthorized", "reason": "a token is needed", "temporary": false});
    for command in [
        json!({"id": 2, "op": "connect"}),
        json!({"id": 2, "op": "refresh", "token": token(json!({}))}),
        json!({"id": 2, "op": "subscribe", "channel": "metrics"}),
        json!({"id": 2, "op": "subscribe", "channel": "smoke"}),
        json!({"id": 2, "op": "subscribe", "room": "project:1"}),
        json!({"id": 2, "op": "history", "series": 1}),
        json!({"id": 2, "op": "presence", "room": "global"}),
        json!({"id": 2, "op": "snapshot", "sub": 1}),
        json!({"id": 2, "op": "unsubscribe", "sub": 1}),
        json!({"id": 2, "op": "dance"}),
        json!({"id": 2}),
    ] {
        assert_eq!(say(&mut client, command.clone()).0["error"], refusal, "{command}");
    }
    assert_eq!(client.patience(), Some(TOKEN_WITHIN));
    assert!(matches!(client.waited()[..], [Act::Close(CloseReason { code: 3500, .. })]));
}

#[test]
fn a_good_token_opens_the_connection_and_is_told_when_it_ends() {
    let mut client = client();
    let ok = connect(&mut client, &token(json!({})))["ok"].take();
    assert_eq!((&ok["user"], &ok["admin"]), (&json!("ana"), &json!(false)));
    assert_eq!(ok["expires"], "2026-02-10T12:01:30.000Z", "the clock skew included");
    assert_eq!(ok["connection"], "0000000000000001");
    assert_eq!(client.patience(), None);
    assert!(client.waited().is_empty());
    assert!(
        say(&mut client, json!({"id": 1, "op": "subscribe", "channel": "hub"})).0["key"]
            .is_string()
    );
    // Its terms again, with the same token and with a later one.
    for again in [json!({}), json!({"exp": NOW + 120})] {
        assert_eq!(connect(&mut client, &token(again))["ok"]["user"], "ana");
    }
    for other in [json!({"sub": "bob"}), json!({"read": []}), json!({"rooms": []})] {
        assert_eq!(connect(&mut client, &token(other))["error"]["code"], "bad_request");
    }
}

#[test]
fn three_bad_tokens_are_enough() {
    let mut client = client();
    for at in 1..=3 {
        let (reply, closed) = say(&mut client, json!({"id": at, "op": "connect", "token": "no"}));
        assert_eq!(reply["error"]["code"], "unauthorized");
        assert_eq!(closed, (at == 3).then_some(3500));
    }
}

#[test]
fn a_refresh_is_of_the_same_user_who_reads_the_same() {
    let (access, clock, now_ns) = access("");
    let mut client = native_of(access, clock);
    connect(&mut client, &token(json!({"read": ["a", "b"]})));
    let later = token(json!({"read": ["b", "a"], "exp": NOW + 3600}));
    let ok = refresh(&mut client, &later)["ok"].take();
    assert_eq!(ok, json!({"expires": "2026-02-10T13:00:30.000Z", "ended": [7]}));
    let expires = |client: &Native| client.client.identity().unwrap().expires_ms;
    assert_eq!(expires(&client), Some((NOW + 3630) * 1000));
    now_ns.store((NOW + 100) * 1_000_000_000, Ordering::Relaxed);
    for (more, code) in [
        (json!({"read": ["a"], "exp": NOW + 9999}), "bad_request"),
        (json!({"exp": NOW + 9999}), "bad_request"),
        (json!({"sub": "bob", "read": ["a", "b"], "exp": NOW + 9999}), "unauthorized"),
        // It has expired by now.
        (json!({"read": ["a", "b"], "exp": NOW + 60}), "unauthorized"),
    ] {
        assert_eq!(refresh(&mut client, &token(more))["error"]["code"], code);
    }
    assert_eq!(expires(&client), Some((NOW + 3630) * 1000), "as it was");
}

#[test]
fn who_sees_the_hub_as_an_admin_stays_one() {
    let mut client = client();
    connect(&mut client, &token(json!({"read": ["a"], "admin": true})));
    let less = refresh(&mut client, &token(json!({"read": ["a"]})));
    assert_eq!(less["error"]["code"], "bad_request", "it may have subscribed to the hub channel");
}

#[test]
fn rights_are_part_of_a_subscription() {
    let key = |read: Option<Value>, channel: &str| {
        let mut client = client();
        let claims = read.map_or(json!({}), |read| json!({"read": read}));
        connect(&mut client, &token(claims));
        say(&mut client, json!({"id": 3, "op": "subscribe", "channel": channel})).0
    };
    for channel in ["metrics", "documents", "findings"] {
        let all = key(None, channel);
        let some = key(Some(json!(["a*", "b"])), channel);
        assert!(all["key"].is_string() && some["key"].is_string() && all != some, "{channel}");
        assert_eq!(some, key(Some(json!(["b", "a*", "b"])), channel), "those share its frames");
        assert_ne!(some, key(Some(json!(["a*"])), channel));
        assert_ne!(key(Some(json!([])), channel), all);
    }
    assert!(key(None, "hub")["key"].is_string());
    assert_eq!(key(Some(json!(["*"])), "hub")["error"]["code"], "denied");
    assert!(key(Some(json!([])), "room:project:1")["key"].is_string(), "rooms have their own rule");
    assert_eq!(key(None, "room:agent:1")["error"]["code"], "denied");
    assert_eq!(key(None, "presence:user:bob")["error"]["code"], "denied");
}

/// What of two plugins a client that may read `s1` is told.
#[test]
fn what_may_not_be_read_is_not_told() {
    let mut client = client();
    connect(&mut client, &token(json!({"read": ["s1", "d1"]})));
    let subscribe = |client: &mut Native, channel: &str| {
        let command = json!({"id": 3, "op": "subscribe", "channel": channel}).to_string();
        match client.receive(Received::Text(&command)).remove(0) {
            Act::Subscribe { lane: Lane::State(encoder), .. } => encoder,
            _ => panic!("{channel}"),
        }
    };
    let mut metrics = subscribe(&mut client, "metrics");
    let mut documents = subscribe(&mut client, "documents");
    let (mut world, mut feed) = (World::new(1), World::feed());
    let mut told = 0;
    for _ in 0..200 {
        world.tick(&mut feed);
        for (encoder, list) in [(&mut metrics, "series"), (&mut documents, "documents")] {
            let (mut state, mut push) = (String::new(), String::new());
            encoder.push(&mut feed, SubId(1), &mut push);
            encoder.state(&mut feed, SubId(1), &mut state);
            for other in ["s0", "s2", "d0", "d2"] {
                let named = format!("\"name\":\"{other}\"");
                assert!(!push.contains(&named) && !state.contains(&named), "{push} {state}");
            }
            let state: Value = serde_json::from_str(&state).unwrap();
            told += state["snapshot"][list].as_array().unwrap().len();
        }
    }
    assert!(told > 200, "and what may be read is: {told}");
}

#[test]
fn a_finding_is_told_to_who_may_read_its_series() {
    let mut client = client();
    connect(&mut client, &token(json!({"read": ["system.*"]})));
    let command = json!({"id": 3, "op": "subscribe", "channel": "findings"}).to_string();
    let Act::Subscribe { lane: Lane::Log(encoder), .. } =
        client.receive(Received::Text(&command)).remove(0)
    else {
        panic!("findings is a log channel")
    };
    let of = |name: &str| {
        let body = json!({"id": "a", "state": "open", "plugin": "p", "name": name, "labels": {}});
        Logged::new(1, Entry::new(LogChannel::Findings, 0, &body).unwrap())
    };
    assert!(encoder.wants(&of("system.cpu")) && !encoder.wants(&of("skill.rate")));
}
