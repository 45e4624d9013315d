//! Rooms over the native protocol: what comes to whom, once, in order, and again
//! after a restart.

use serde_json::{Value, json};

use crate::harness::{Hub, Native};

/// Publishes an event whose data is `data`; its offset.
async fn publish(client: &mut Native, kind: &str, rooms: &[&str], data: Value) -> u64 {
    let command =
        json!({"op": "publish", "type": kind, "source": "test", "data": data, "rooms": rooms});
    client.ok(command).await["offset"].as_u64().unwrap()
}

async fn enter(client: &mut Native, room: &str) -> u64 {
    client.ok(json!({"op": "subscribe", "room": room})).await["sub"].as_u64().unwrap()
}

/// The next push of an event: its subscription, offset, `prev` and data.
async fn next(client: &mut Native) -> (u64, u64, u64, Value) {
    let push = client.push_until("an event", |push| push.get("entry").is_some()).await;
    let number = |member: &str| push[member].as_u64().unwrap();
    (number("sub"), number("offset"), number("prev"), push["entry"]["data"].clone())
}

#[tokio::test]
async fn an_event_comes_once_by_one_of_its_rooms_and_no_number_is_missing_in_any() {
    let hub = Hub::new().start().await;
    let (mut client, mut publisher) = (hub.native().await, hub.native().await);
    let one = enter(&mut client, "project:1").await;
    let two = enter(&mut client, "project:2").await;
    let a = publish(&mut publisher, "pr.merged", &["project:2", "project:1"], json!("a")).await;
    let b = publish(&mut publisher, "pr.merged", &["project:2"], json!("b")).await;
    publish(&mut publisher, "pr.merged", &["project:3"], json!("nobody's")).await;
    let c = publish(&mut publisher, "pr.merged", &["project:1"], json!("c")).await;
    let (sub, offset, _, data) = next(&mut client).await;
    assert_eq!((sub, offset, data), (one, a, json!("a")));
    // What came by the other room counts for this one too.
    assert_eq!(next(&mut client).await, (two, b, a, json!("b")));
    assert_eq!(next(&mut client).await, (one, c, a, json!("c")));
}

#[tokio::test]
async fn only_the_types_that_are_wanted_come() {
    let hub = Hub::new().start().await;
    let (mut client, mut publisher) = (hub.native().await, hub.native().await);
    let command = json!({"op": "subscribe", "room": "project:1", "types": ["pr.*", "deploy.done"]});
    client.ok(command).await;
    for (kind, data) in [("issue.moved", 1), ("pr.merged", 2), ("deploy.done", 3)] {
        publish(&mut publisher, kind, &["project:1"], json!(data)).await;
    }
    assert_eq!(next(&mut client).await.3, 2);
    assert_eq!(next(&mut client).await.3, 3);
}

#[tokio::test]
async fn the_sender_that_wants_it_so_only_learns_how_far_it_has_come() {
    let hub = Hub::new().start().await;
    let (mut sender, mut other) = (hub.native().await, hub.native().await);
    for client in [&mut sender, &mut other] {
        enter(client, "project:1").await;
    }
    let command = json!({"op": "publish", "type": "a.b", "source": "test", "data": 1,
                         "rooms": ["project:1"], "exclude_self": true});
    let offset = sender.ok(command).await["offset"].clone();
    let push = sender.next_push().await;
    assert_eq!((&push["offset"], &push["excluded"]), (&offset, &json!(true)));
    assert!(push.get("entry").is_none(), "{push}");
    assert_eq!(next(&mut other).await.3, 1);
}

#[tokio::test]
async fn who_comes_back_gets_what_it_missed_of_all_its_rooms_once() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    enter(&mut client, "project:1").await;
    let mut publisher = hub.native().await;
    let seen = publish(&mut publisher, "a.b", &["project:1"], json!("seen")).await;
    assert_eq!(next(&mut client).await.1, seen);
    drop(client);
    for (rooms, data) in [
        (&["project:1", "project:2"][..], "both"),
        (&["project:2"], "two"),
        (&["project:3"], "three"),
        (&["project:1"], "one"),
    ] {
        publish(&mut publisher, "a.b", rooms, json!(data)).await;
    }
    let epoch = publisher.ok(json!({"op": "connect"})).await["epoch"].clone();
    // From what is at hand, and from the disk.
    let hub = hub.kill().start().await;
    let mut client = hub.native().await;
    let mut missed = async |room: &str| {
        let resume = json!({"epoch": epoch, "offset": seen});
        let ok = client.ok(json!({"op": "subscribe", "room": room, "resume": resume})).await;
        assert_eq!(ok["recovered"], true, "{ok}");
        let entries = ok["entries"].as_array().unwrap().iter();
        let told = |entry: &Value| entry["entry"]["data"].as_str().unwrap().to_owned();
        entries.map(told).collect::<Vec<_>>()
    };
    assert_eq!(missed("project:1").await, ["both", "one"]);
    assert_eq!(missed("project:2").await, ["two"]);
}

#[tokio::test]
async fn who_is_in_a_room_is_told_with_those_who_come_and_go() {
    let hub = Hub::new().start().await;
    let (mut first, mut watcher) = (hub.native().await, hub.native().await);
    enter(&mut first, "project:1").await;
    let present = watcher.ok(json!({"op": "presence", "room": "project:1"})).await;
    let users = json!([{"user": "anonymous", "connections": 1}]);
    assert_eq!(present, json!({"room": "project:1", "users": users}));
    let ok = watcher.subscribe("presence:project:1", Value::Null).await;
    assert_eq!(ok["users"], users);
    // The watcher itself is not in the room.
    drop(first);
    let push = watcher.next_push().await;
    assert_eq!(
        (&push["push"], &push["leave"]),
        (&json!("presence:project:1"), &json!(["anonymous"]))
    );
    let mut second = hub.native().await;
    enter(&mut second, "project:1").await;
    assert_eq!(watcher.next_push().await["join"], json!(["anonymous"]));
}

#[tokio::test]
async fn who_is_in_a_room_by_two_subscriptions_is_there_once() {
    let hub = Hub::new().start().await;
    let (mut client, mut watcher) = (hub.native().await, hub.native().await);
    let mut subs = Vec::new();
    for types in ["pr.*", "issue.*"] {
        let command = json!({"op": "subscribe", "room": "project:1", "types": [types]});
        subs.push(client.ok(command).await["sub"].clone());
    }
    let mut connections = async || -> Vec<Value> {
        let present = watcher.ok(json!({"op": "presence", "room": "project:1"})).await;
        let users = present["users"].as_array().unwrap().iter();
        users.map(|user| user["connections"].clone()).collect()
    };
    for (leaves, there) in [(&subs[0], vec![json!(1)]), (&subs[1], vec![])] {
        assert_eq!(connections().await, [json!(1)]);
        client.ok(json!({"op": "unsubscribe", "sub": leaves})).await;
        assert_eq!(connections().await, there);
    }
}

#[tokio::test]
async fn an_event_that_excludes_a_connection_is_not_told_to_it_when_it_goes_on_either() {
    let hub = Hub::new().start().await;
    let mut sender = hub.native().await;
    let before = publish(&mut sender, "a.b", &["project:1"], json!("before")).await;
    let command = json!({"op": "publish", "type": "a.b", "source": "test", "data": "own",
                         "rooms": ["project:1"], "exclude_self": true});
    sender.ok(command).await;
    publish(&mut sender, "a.b", &["project:1"], json!("after")).await;
    let epoch = sender.ok(json!({"op": "connect"})).await["epoch"].clone();
    let resume = json!({"epoch": epoch, "offset": before});
    let command = json!({"op": "subscribe", "room": "project:1", "resume": resume});
    let ok = sender.ok(command).await;
    let told: Vec<_> = ok["entries"].as_array().unwrap().iter().collect();
    assert_eq!((told.len(), &told[0]["entry"]["data"]), (1, &json!("after")), "{ok}");
    assert_eq!(told[0]["prev"], before, "nothing is missing before it");
}
