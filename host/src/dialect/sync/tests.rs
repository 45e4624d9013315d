use std::sync::atomic::AtomicU64;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::value::to_raw_value;

use super::*;
use crate::access::{Globs, Layouts};
use crate::channel::{Feed, LogEncoder, Standing, SubId};
use crate::layouts::ChangeDraft;
use crate::model::{
    Changed, ConnectionId, Edit, Entry, Logged, Object, ObjectKey, ObjectKind, Route, Stale,
};
use crate::plugin::Statuses;

const NOW_NS: u64 = 1_700_000_000_000_000_000;

fn clock() -> Clock {
    Clock::set_by(Arc::new(AtomicU64::new(NOW_NS)))
}

fn board_named(name: &str) -> Board {
    Board::new(name).unwrap()
}

fn client_of(identity: Option<Identity>, named: Option<&str>) -> LayoutSync {
    let board = match &identity {
        Some(identity) => board_of(identity, named),
        None => Err(NoBoard::Forbidden),
    };
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let client = Client::new(ConnectionId(10), NAME, address, 0, identity.map(Arc::new));
    let hub = HubFacts {
        name: "h".into(),
        version: "0",
        tick: Duration::from_secs(1),
        heartbeat: Duration::from_secs(25),
        epoch: "k3".into(),
        admin_token: "a".into(),
    };
    LayoutSync::new(clock(), Arc::new(hub), client, board, Duration::from_secs(30))
}

fn identity(user: &str, layouts: Option<Layouts>) -> Identity {
    Identity {
        user: user.into(),
        is_authenticated: true,
        layouts,
        ..(*Identity::anonymous()).clone()
    }
}

fn rights(read: &[&str], write: &[&str]) -> Option<Layouts> {
    Some(Layouts { read: Globs::new(read).unwrap(), write: Globs::new(write).unwrap() })
}

fn ana() -> LayoutSync {
    client_of(Some(identity("ana", None)), None)
}

fn key(kind: ObjectKind, id: &str) -> ObjectKey {
    ObjectKey::new(kind, id).unwrap()
}

fn object(kind: ObjectKind, id: &str, version: u64, revision: u64, data: Value) -> Object {
    let data = (!data.is_null()).then(|| to_raw_value(&data).unwrap());
    Object { key: key(kind, id), version, revision, data }
}

/// A feed with a widget of revision 3, a layout of 5, and a widget that was
/// deleted with 6; what was deleted up to 2 is forgotten.
fn feed() -> Feed {
    let objects = [
        object(ObjectKind::Widget, "w", 2, 3, json!({"a": 1})),
        object(ObjectKind::Layout, "default", 1, 5, json!({"columns": 2})),
        object(ObjectKind::Widget, "gone", 4, 6, Value::Null),
    ];
    let objects = objects.into_iter().map(|object| (object.key.clone(), Arc::new(object)));
    let standing =
        Standing { revision: 6, floor: 2, objects: objects.collect(), ..Standing::default() };
    let mut feed = Feed::new(Statuses::default(), clock(), "k3".into(), 9);
    feed.boards.insert(board_named("ana"), standing);
    feed.arrive(board_named("ana").room(), &"ana".into());
    feed.arrive(board_named("ana").room(), &"bob".into());
    feed
}

/// What a client is told to what it says.
fn told(client: &mut LayoutSync, text: &str) -> Value {
    let mut acts = client.receive(Received::Text(text));
    match (acts.pop(), acts.pop()) {
        (Some(Act::Answer(answer)), None) => serde_json::from_str(&answer(&feed())).unwrap(),
        _ => panic!("no answer to {text}"),
    }
}

/// The change that a client wants, and what it would be told of it.
fn change(
    client: &mut LayoutSync,
    message: &Value,
) -> (ChangeDraft, impl FnOnce(Result<Changed, ChangeError>) -> Value) {
    match client.receive(Received::Text(&message.to_string())).pop() {
        Some(Act::Change { draft, answer, .. }) => {
            (draft, |done| serde_json::from_str(&answer(done)).unwrap())
        }
        _ => panic!("{message} changes nothing"),
    }
}

/// Looks at what every message of the hub has, and answers the rest.
#[track_caller]
fn rest(mut message: Value) -> Value {
    let id = message["id"].take();
    let id = id.as_str().unwrap().strip_prefix("msg-1700000000000-").unwrap();
    assert!(
        id.len() == 7 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    );
    assert_eq!(message["timestamp"].take(), "2023-11-14T22:13:20.000Z");
    let members = message.as_object_mut().unwrap();
    members.remove("id");
    members.remove("timestamp");
    message
}

#[test]
fn a_newcomer_is_connected_by_its_subscription() {
    let acts = ana().open();
    let [Act::MessageMax(CHANGE_BYTES_MAX), Act::Subscribe { key, reply, only: true, .. }] =
        &acts[..]
    else {
        panic!("{} acts", acts.len())
    };
    assert_eq!(key, "sync board:ana");
    let (connect, rest_of) = reply.as_ref().unwrap();
    assert!(rest_of.is_empty());
    assert_eq!(
        rest(serde_json::from_str(connect).unwrap()),
        json!({"type": "CONNECT", "userId": "ana", "payload":
            {"clientId": "000000000000000a", "timestamp": "2023-11-14T22:13:20.000Z"}})
    );
}

#[test]
fn who_may_not_come_in_is_told_why() {
    let closed = |mut client: LayoutSync| match client.open().pop() {
        Some(Act::Close(reason)) => Some((reason.code, reason.words)),
        _ => None,
    };
    let who = |layouts| Some(identity("ana", layouts));
    assert_eq!(closed(client_of(None, None)), Some((1008, "Unauthorized")));
    for (layouts, named, words) in [
        (None, None, None),
        (None, Some("ana"), None),
        (None, Some("bob"), Some("Forbidden")),
        (None, Some("a b"), Some("Forbidden")),
        (rights(&["team"], &[]), None, None),
        (rights(&["team-*"], &[]), None, Some("Forbidden: name a board with ?board=")),
        (rights(&["team-*"], &[]), Some("team-1"), None),
        (rights(&[], &[]), None, Some("Forbidden: name a board with ?board=")),
    ] {
        let wanted = words.map(|words| (1008, words));
        assert_eq!(closed(client_of(who(layouts.clone()), named)), wanted, "{layouts:?} {named:?}");
    }
    let reads = client_of(who(rights(&["team"], &[])), None).open();
    assert_eq!(reads.len(), 1, "who only reads sends no large messages");
}

#[test]
fn each_message_that_changes_nothing_is_answered() {
    let mut client = ana();
    let pong = told(&mut client, r#"{"type":"PING","id":"p1"}"#);
    assert_eq!(
        rest(pong),
        json!({"type": "PONG", "userId": "ana", "correlationId": "p1",
            "payload": {"timestamp": "2023-11-14T22:13:20.000Z"}})
    );
    for silent in ["ACK", "NACK", "PONG", "CONNECT"] {
        let text = json!({"type": silent, "id": "x"}).to_string();
        assert!(client.receive(Received::Text(&text)).is_empty(), "{silent}");
    }
    let acts = client.receive(Received::Binary(br#"{"type":"DISCONNECT"}"#));
    assert!(matches!(acts[..], [Act::Close(CloseReason { code: 1000, .. })]));
}

#[test]
fn what_can_not_be_meant_is_refused_with_its_id_where_it_has_one() {
    let mut client = ana();
    for (text, id, words) in [
        ("not json", None, "this is no JSON"),
        ("[1]", None, "a message is a JSON object"),
        (r#"{"id":"m"}"#, Some("m"), "`type` is missing"),
        (r#"{"type":7,"id":"m"}"#, Some("m"), "`type` is missing"),
        (r#"{"type":"DANCE","id":"m"}"#, Some("m"), "this `type` is unknown"),
        (r#"{"type":"PING","id":7}"#, None, "`id` is a text"),
        (r#"{"type":"PING","id":"m","payload":[]}"#, Some("m"), "`payload` is a JSON object"),
        (r#"{"type":"SYNC_RESPONSE","id":"m"}"#, Some("m"), "only the hub says this"),
        (r#"{"type":"SYNC_REQUEST","id":"m","payload":{"since":-1}}"#, Some("m"), "`since` is"),
        (r#"{"type":"WIDGET_UPDATE","id":"m"}"#, Some("m"), "`data` is a JSON object"),
        (
            r#"{"type":"WIDGET_UPDATE","id":"m","payload":{"data":{}}}"#,
            Some("m"),
            "`widgetId` is missing",
        ),
        (
            r#"{"type":"WIDGET_DELETE","id":"m","payload":{"widgetId":7}}"#,
            Some("m"),
            "`widgetId` is a text",
        ),
        (
            r#"{"type":"WIDGET_DELETE","id":"m","payload":{"widgetId":"w","baseVersion":1.5}}"#,
            Some("m"),
            "`baseVersion` is a whole number",
        ),
        (r#"{"type":"LAYOUT_RESTORE","id":"m"}"#, Some("m"), "`version` is missing"),
        (
            r#"{"type":"CONFLICT_RESOLVED","id":"m","payload":{"widgetId":"w"}}"#,
            Some("m"),
            "`data` is missing",
        ),
        (r#"{"type":"SYNC_UPDATE","id":"m"}"#, Some("m"), "`objects` is a list"),
        (
            r#"{"type":"SYNC_UPDATE","id":"m","payload":{"objects":[]}}"#,
            Some("m"),
            "`objects` has 1 to 256 members",
        ),
        (
            r#"{"type":"SYNC_UPDATE","id":"m","payload":{"objects":[{"widgetId":"a","layoutId":"b"}]}}"#,
            Some("m"),
            "objects[0]: either",
        ),
        (
            r#"{"type":"WIDGET_BATCH","id":"m","payload":{"operations":[{"type":"WIDGET_BATCH"}]}}"#,
            Some("m"),
            "operations[0]: `type` is WIDGET_UPDATE",
        ),
    ] {
        let nack = rest(told(&mut client, text));
        assert_eq!((&nack["type"], &nack["userId"]), (&json!("NACK"), &json!("")), "{text}");
        assert_eq!(nack.get("correlationId").and_then(Value::as_str), id, "{text}");
        let said = nack["payload"]["error"].as_str().unwrap();
        assert!(said.contains(words), "{text}: {said}");
    }
    assert_eq!(
        client.receive(Received::Binary(&[0xff])).len(),
        1,
        "what is no text is refused too"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn messages_are_read_as_what_they_do() {
    let mut client = ana();
    let widget = |id| key(ObjectKind::Widget, id);
    let layout = |id| key(ObjectKind::Layout, id);
    for (kind, payload, wanted) in [
        (
            "WIDGET_UPDATE",
            json!({"widgetId": "w", "data": {"b": 1}}),
            vec![(widget("w"), r#"merge {"b":1}"#, None)],
        ),
        (
            "WIDGET_DELETE",
            json!({"widgetId": "w", "baseVersion": 3}),
            vec![(widget("w"), "delete", Some(3))],
        ),
        (
            "LAYOUT_UPDATE",
            json!({"layout": {"x": []}, "baseVersion": 0}),
            vec![(layout("default"), r#"replace {"x":[]}"#, Some(0))],
        ),
        (
            "LAYOUT_RESTORE",
            json!({"layoutId": "l", "version": 7}),
            vec![(layout("l"), "restore 7", None)],
        ),
        ("LAYOUT_RESTORE", json!({"version": 7}), vec![(layout("default"), "restore 7", None)]),
        (
            "LAYOUT_RESTORE",
            json!({"widgetId": "w", "version": 7}),
            vec![(widget("w"), "restore 7", None)],
        ),
        (
            "CONFLICT_RESOLVED",
            json!({"layoutId": "l", "data": {}, "baseVersion": 9}),
            vec![(layout("l"), "replace {}", Some(9))],
        ),
        (
            "CONFLICT_RESOLVED",
            json!({"widgetId": "w", "data": null}),
            vec![(widget("w"), "delete", None)],
        ),
        (
            "SYNC_UPDATE",
            json!({"objects": [
                {"widgetId": "w", "data": {"z": 1, "a": 2}, "baseVersion": 1},
                {"layoutId": "l", "layout": null},
                {"layout": {}},
            ]}),
            vec![
                (widget("w"), r#"replace {"a":2,"z":1}"#, Some(1)),
                (layout("l"), "delete", None),
                (layout("default"), "replace {}", None),
            ],
        ),
        (
            "WIDGET_BATCH",
            json!({"operations": [
                {"type": "WIDGET_UPDATE", "payload": {"widgetId": "w", "data": {}}},
                {"type": "WIDGET_DELETE", "payload": {"widgetId": "v", "baseVersion": 2}},
                {"type": "LAYOUT_UPDATE", "payload": {"layout": {}}},
            ]}),
            vec![
                (widget("w"), "merge {}", None),
                (widget("v"), "delete", Some(2)),
                (layout("default"), "replace {}", None),
            ],
        ),
    ] {
        let message = json!({"type": kind, "id": "m", "payload": payload});
        let (draft, _) = change(&mut client, &message);
        let edit = |edit: &Edit| match edit {
            Edit::Merge(members) => format!("merge {}", json!(members)),
            Edit::Replace(data) => format!("replace {data}"),
            Edit::Delete => "delete".to_owned(),
            Edit::Restore(version) => format!("restore {version}"),
        };
        let read = draft.operations.iter().map(|one| (one.key.clone(), edit(&one.edit), one.base));
        let wanted = wanted.into_iter().map(|(key, edit, base)| (key, edit.to_owned(), base));
        assert_eq!(read.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{message}");
        assert_eq!((draft.id.as_deref(), draft.exclude), (Some("m"), Some(ConnectionId(10))));
        assert_eq!(draft.board, board_named("ana"));
        let told: Value = serde_json::from_str(draft.told.get()).unwrap();
        assert_eq!(told, json!({"type": kind, "payload": payload}));
    }
}

#[test]
fn a_change_is_acknowledged_with_its_versions() {
    let mut client = ana();
    let one = json!({"type": "WIDGET_UPDATE", "id": "m", "payload": {"widgetId": "w", "data": {}}});
    let changed = |keys: &[&str]| {
        let versions = keys.iter().map(|id| (key(ObjectKind::Widget, id), 5));
        Ok(Changed { revision: 9, versions: versions.collect() })
    };
    assert_eq!(
        rest(change(&mut client, &one).1(changed(&["w"]))),
        json!({"type": "ACK", "userId": "ana", "correlationId": "m",
            "payload": {"received": true, "version": 5, "syncVersion": 9}})
    );
    let resolved = json!({"type": "CONFLICT_RESOLVED", "payload": {"widgetId": "w", "data": {}}});
    assert_eq!(
        rest(change(&mut client, &resolved).1(changed(&["w"]))),
        json!({"type": "ACK", "userId": "ana",
            "payload": {"resolved": true, "version": 5, "syncVersion": 9}})
    );
    let several = json!({"type": "SYNC_UPDATE", "id": "m",
        "payload": {"objects": [{"widgetId": "w", "data": {}}]}});
    assert_eq!(
        rest(change(&mut client, &several).1(changed(&["w"])))["payload"],
        json!({"received": true, "versions": [{"widgetId": "w", "version": 5}], "syncVersion": 9})
    );
    let busy = rest(change(&mut client, &one).1(Err(ChangeError::Busy)));
    assert_eq!((&busy["type"], &busy["payload"]["temporary"]), (&json!("NACK"), &json!(true)));
    let denied = rest(change(&mut client, &one).1(Err(ChangeError::Denied)));
    assert_eq!(denied["payload"], json!({"error": "this token does not allow it"}));
}

#[test]
fn a_conflict_shows_all_three_sides() {
    let mut client = ana();
    let stale = |kind, at, base| {
        Err(ChangeError::Conflict(Box::new(Stale {
            at,
            key: key(kind, "o"),
            base,
            current: Some(object(kind, "o", 3, 8, json!({"s": 1}))),
            basis: (base == 2).then(|| object(kind, "o", 2, 7, json!({"b": 1}))),
        })))
    };
    let layout = json!({"type": "LAYOUT_UPDATE", "id": "m",
        "payload": {"layoutId": "o", "layout": {"c": 1}, "baseVersion": 2}});
    assert_eq!(
        rest(change(&mut client, &layout).1(stale(ObjectKind::Layout, 0, 2))),
        json!({"type": "CONFLICT_DETECTED", "userId": "ana", "correlationId": "m", "payload": {
            "layoutId": "o",
            "server": {"version": 3, "data": {"s": 1}},
            "client": {"version": 2, "data": {"c": 1}},
            "base": {"version": 2, "data": {"b": 1}},
        }})
    );
    let batch = json!({"type": "WIDGET_BATCH", "payload": {"operations": [
        {"type": "WIDGET_DELETE", "payload": {"widgetId": "x"}},
        {"type": "WIDGET_UPDATE", "payload": {"widgetId": "o", "data": {"c": 1}, "baseVersion": 1}},
    ]}});
    assert_eq!(
        rest(change(&mut client, &batch).1(stale(ObjectKind::Widget, 1, 1)))["payload"],
        json!({
            "widgetId": "o",
            "server": {"version": 3, "data": {"s": 1}},
            "client": {"version": 1, "data": {"c": 1}},
            "base": null,
            "index": 1,
        })
    );
    let resolved = json!({"type": "CONFLICT_RESOLVED",
        "payload": {"layoutId": "o", "data": {"c": 2}, "baseVersion": 0}});
    let payload = rest(change(&mut client, &resolved).1(stale(ObjectKind::Layout, 0, 0)));
    assert_eq!(payload["payload"]["client"], json!({"version": 0, "data": {"c": 2}}));
    assert_eq!(payload["payload"]["base"], json!({"version": 0, "data": null}));
}

#[test]
fn what_stands_is_told_whole_or_since() {
    let mut client = ana();
    let mut state = |payload: Value| {
        let message = json!({"type": "SYNC_REQUEST", "id": "m", "payload": payload});
        let told = rest(told(&mut client, &message.to_string()));
        assert_eq!((&told["type"], &told["correlationId"]), (&json!("SYNC_RESPONSE"), &json!("m")));
        told["payload"].clone()
    };
    let whole = json!({
        "syncState": "ready",
        "clientCount": 2,
        "timestamp": "2023-11-14T22:13:20.000Z",
        "version": 6,
        "epoch": "k3",
        "full": true,
        "widgets": [{"widgetId": "w", "data": {"a": 1}, "version": 2}],
        "layouts": [{"layoutId": "default", "layout": {"columns": 2}, "version": 1}],
        "deleted": [],
    });
    for payload in [
        json!({}),
        json!({"since": null}),
        json!({"since": 1}),
        json!({"since": 7}),
        json!({"since": 6, "epoch": "other"}),
    ] {
        assert_eq!(state(payload.clone()), whole, "{payload}");
    }
    let since = state(json!({"since": 3, "epoch": "k3"}));
    assert_eq!((&since["full"], &since["version"]), (&json!(false), &json!(6)));
    assert_eq!((&since["widgets"], since["layouts"].as_array().unwrap().len()), (&json!([]), 1));
    assert_eq!(since["deleted"], json!([{"widgetId": "gone", "version": 4}]));
    let nothing = state(json!({"since": 6}));
    assert_eq!((&nothing["full"], &nothing["deleted"]), (&json!(false), &json!([])));
    let mut bob = client_of(Some(identity("bob", None)), None);
    let empty = rest(told(&mut bob, r#"{"type":"SYNC_REQUEST"}"#));
    assert_eq!(
        (&empty["payload"]["version"], &empty["payload"]["full"]),
        (&json!(0), &json!(true))
    );
}

fn logged(operation: Value, objects: &[Object]) -> Logged {
    let body = json!({
        "id": "00000000000000ff00000000000000ff",
        "type": "layouts.changed",
        "source": "bob",
        "data": {"board": "ana", "revision": 7, "objects": objects, "operation": operation},
    });
    let route = Route { rooms: vec![board_named("ana").room().clone()], exclude: None };
    Logged::new(9, Entry::event(NOW_NS / 1_000_000, route, &body).unwrap())
}

fn pushed(logged: &Logged) -> Value {
    let changes = Changes::new(board_named("ana"));
    assert!(changes.wants(logged) && logged.entry.is_of(changes.topic()));
    let mut text = String::new();
    changes.push(&feed(), SubId(1), 8, logged, &mut text);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn others_are_told_in_the_words_of_who_has_done_it() {
    let widget = object(ObjectKind::Widget, "w", 5, 7, json!({"a": 1, "b": 2}));
    let operation = json!({"type": "WIDGET_UPDATE",
        "payload": {"widgetId": "w", "data": {"b": 2}, "version": "mine", "position": [1, 2]}});
    let told = pushed(&logged(operation.clone(), std::slice::from_ref(&widget)));
    assert_eq!(told["id"], "msg-1700000000000-0000073");
    assert_eq!(
        rest(told),
        json!({"type": "WIDGET_UPDATE", "userId": "bob", "payload": {
            "widgetId": "w", "data": {"b": 2}, "position": [1, 2], "version": 5, "syncVersion": 7,
        }})
    );
    let layout = object(ObjectKind::Layout, "default", 6, 7, json!({"columns": 1}));
    let operation = json!({"type": "LAYOUT_RESTORE", "payload": {"version": 2}});
    assert_eq!(
        rest(pushed(&logged(operation, std::slice::from_ref(&layout))))["payload"],
        json!({"version": 6, "restoredVersion": 2, "layout": {"columns": 1}, "syncVersion": 7})
    );
    let operation = json!({"type": "WIDGET_BATCH", "payload": {"operations": []}});
    assert_eq!(
        rest(pushed(&logged(operation, &[widget, layout])))["payload"],
        json!({"operations": [], "syncVersion": 7, "versions": [
            {"widgetId": "w", "version": 5}, {"layoutId": "default", "version": 6},
        ]})
    );
    let gone = json!({"type": "WIDGET_DELETE", "payload": {"widgetId": "never"}});
    assert_eq!(
        rest(pushed(&logged(gone, &[])))["payload"],
        json!({"widgetId": "never", "version": 0, "syncVersion": 7}),
        "a deletion of nothing is told as what it is"
    );
    // What nothing writes.
    let odd = rest(pushed(&logged(json!({"type": "DANCE"}), &[])));
    assert_eq!((&odd["type"], &odd["payload"]["full"]), (&json!("SYNC_RESPONSE"), &json!(true)));
}

#[test]
fn who_has_lost_something_is_told_all_that_stands() {
    let changes = Changes::new(board_named("ana"));
    let mut text = String::new();
    changes.gap(&feed(), SubId(1), 3, 9, false, &mut text);
    assert!(text.is_empty(), "what follows says it all");
    changes.gap(&feed(), SubId(1), 3, 9, true, &mut text);
    let told = rest(serde_json::from_str(&text).unwrap());
    assert_eq!((&told["type"], &told["userId"]), (&json!("SYNC_RESPONSE"), &json!("")));
    assert_eq!((&told["payload"]["full"], &told["payload"]["version"]), (&json!(true), &json!(6)));
}

#[test]
fn each_end_has_its_code() {
    let mut client = ana();
    for (why, code, words) in [
        (Goodbye::Stopping(Duration::ZERO), 1000, "Server shutting down"),
        (Goodbye::Expired, 1008, "Unauthorized"),
        (Goodbye::Revoked, 1008, "Unauthorized"),
    ] {
        assert_eq!(client.goodbye(why), (None, CloseReason { code, words }));
    }
    let beat = client.heartbeat().unwrap();
    assert_eq!(
        (beat.interval, beat.lost.code, beat.lost.words),
        (Duration::from_secs(30), 1000, "Timeout")
    );
    let ping = Received::Text(r#"{"id":"m","type":"PING"}"#);
    let Some(Act::Answer(answer)) = client.throttled(ping, Duration::from_millis(20)).pop() else {
        panic!("nothing is said")
    };
    let nack: Value = serde_json::from_str(&answer(&feed())).unwrap();
    assert_eq!(
        (&nack["correlationId"], &nack["payload"]["retryAfterMs"]),
        (&json!("m"), &json!(20))
    );
}

/// JSON that is like a message in places.
fn noise(random: &mut StdRng, depth: u32) -> Value {
    const WORDS: [&str; 24] = [
        "type",
        "id",
        "payload",
        "widgetId",
        "layoutId",
        "data",
        "layout",
        "version",
        "baseVersion",
        "operations",
        "objects",
        "since",
        "epoch",
        "WIDGET_UPDATE",
        "WIDGET_BATCH",
        "SYNC_UPDATE",
        "LAYOUT_RESTORE",
        "CONFLICT_RESOLVED",
        "SYNC_REQUEST",
        "PING",
        "",
        "w",
        "k3",
        "\u{0}",
    ];
    let word = |random: &mut StdRng| WORDS[random.random_range(0..WORDS.len())];
    match random.random_range(0..if depth == 0 { 4 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random_range(-2..9_i64)),
        3 => json!(word(random)),
        4 => (0..random.random_range(0..4)).map(|_| noise(random, depth - 1)).collect(),
        _ => {
            let members = (0..random.random_range(0..6))
                .map(|_| (word(random).to_owned(), noise(random, depth - 1)));
            Value::Object(members.collect())
        }
    }
}

#[test]
fn whatever_is_said_the_answer_is_a_message() {
    let mut random = StdRng::seed_from_u64(4);
    let mut client = ana();
    for turn in 0..20_000 {
        let bytes = match turn % 3 {
            0 => (0..random.random_range(0..60)).map(|_| random.random()).collect(),
            1 => noise(&mut random, 4).to_string().into_bytes(),
            _ => {
                let mut message = noise(&mut random, 4);
                if message.is_object() {
                    let kinds = ["WIDGET_UPDATE", "WIDGET_BATCH", "SYNC_UPDATE", "LAYOUT_RESTORE"];
                    message["type"] = json!(kinds[random.random_range(0..kinds.len())]);
                }
                message.to_string().into_bytes()
            }
        };
        for act in client.receive(Received::Binary(&bytes)) {
            let text = match act {
                Act::Answer(answer) => answer(&feed()),
                Act::Change { answer, draft, .. } => {
                    assert!(!draft.operations.is_empty());
                    answer(Err(ChangeError::Busy))
                }
                Act::Close(_) => continue,
                _ => panic!("no answer to {:?}", String::from_utf8_lossy(&bytes)),
            };
            let told: Value = serde_json::from_str(&text).unwrap();
            assert!(told["type"].is_string(), "{told}");
        }
    }
}
