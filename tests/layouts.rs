//! Boards over the native protocol: what stands there, who may change it, and
//! what is left of it.

use serde_json::{Value, json};
use telltale::access::Issuer;

use crate::harness::{Hub, Native, Setup, Socket};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn guarded() -> Setup {
    Hub::new().configured(&format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\n"))
}

fn token(claims: &Value) -> String {
    let exp = jiff::Timestamp::now().as_second() + 3600;
    let mut all = json!({"sub": "ana", "exp": exp});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&all).unwrap()
}

/// Puts data of a widget: its version after that.
async fn put(client: &mut Native, id: &str, data: Value) -> u64 {
    let told = client.ok(json!({"op": "put", "widget": id, "data": data})).await;
    told["version"].as_u64().unwrap()
}

/// A board as it is told to whoever subscribes.
async fn board(client: &mut Native) -> Value {
    client.subscribe("layouts", Value::Null).await["snapshot"].clone()
}

/// The push of `layouts` that tells of this version of a widget.
async fn told_of(client: &mut Native, id: &str, version: u64) -> Value {
    let is_it = |object: &Value| object["id"] == id && object["version"] == version;
    let wanted = |push: &Value| {
        let lists = ["objects", "gone"].map(|list| push[list].as_array().cloned());
        push["push"] == "layouts" && lists.iter().flatten().flatten().any(is_it)
    };
    client.push_until(&format!("version {version} of {id}"), wanted).await
}

#[tokio::test]
async fn data_that_cannot_be_read_is_refused_and_ends_no_connection() {
    let hub = Hub::new().start().await;
    let mut socket = Socket::connect(hub.0, "/v1/stream").await;
    let deep = format!("{}{}", r#"{"x":"#.repeat(200), "1".to_owned() + &"}".repeat(200));
    for data in [r#"{"x":"\ud800"}"#, r#"{"x":1e999}"#, &deep] {
        let put = format!(r#"{{"id":1,"op":"put","widget":"a","data":{data}}}"#);
        socket.send(put).await;
        let told: Value = serde_json::from_str(&socket.text("a refusal").await).unwrap();
        assert_eq!(told["error"]["code"], "bad_request", "{data}: {told}");
    }
}

#[tokio::test]
async fn what_is_put_is_told_to_all_who_see_the_board() {
    let hub = Hub::new().start().await;
    let (mut one, mut other) = (hub.native().await, hub.native().await);
    let empty = one.subscribe("layouts", Value::Null).await;
    assert_eq!(empty["snapshot"]["objects"], json!([]));
    assert_eq!(
        (&empty["snapshot"]["board"], &empty["snapshot"]["version"]),
        (&json!("shared"), &json!(0))
    );
    assert_eq!(empty["sub"], other.subscribe("layouts", Value::Null).await["sub"]);
    let command = json!({"op": "put", "widget": "cpu", "data": {"x": 1}, "base": 0});
    let told = one.ok(command).await;
    assert_eq!(told, json!({"board": "shared", "version": 1, "revision": 1}));
    for client in [&mut one, &mut other] {
        let push = told_of(client, "cpu", 1).await;
        let object = json!({"kind": "widget", "id": "cpu", "version": 1, "data": {"x": 1}});
        assert_eq!((&push["objects"], &push["version"]), (&json!([object]), &json!(1)));
    }
    one.ok(json!({"op": "put", "layout": "main", "data": {"columns": 3}})).await;
    one.ok(json!({"op": "put", "widget": "cpu", "data": null, "base": 1})).await;
    let push = told_of(&mut other, "cpu", 2).await;
    let gone = json!({"kind": "widget", "id": "cpu", "version": 2});
    assert_eq!(push["gone"], json!([gone]), "{push}");
    // Whoever has put something sees it in what it asks for next.
    assert_eq!(put(&mut one, "gpu", json!({})).await, 1);
    let layout = json!({"kind": "layout", "id": "main", "version": 1, "data": {"columns": 3}});
    let widget = json!({"kind": "widget", "id": "gpu", "version": 1, "data": {}});
    let now = board(&mut one).await;
    assert_eq!((&now["objects"], &now["version"]), (&json!([layout, widget]), &json!(4)));
    assert_eq!(now["epoch"], one.ok(json!({"op": "connect"})).await["epoch"]);
    // As an event of the board's room, in the words of the sync clients.
    let page = hub.get("/v1/rooms/board:shared/events").await.json();
    let entry = &page["entries"][0]["entry"];
    assert_eq!(
        (&entry["type"], &entry["source"]),
        (&json!("layouts.changed"), &json!("anonymous"))
    );
    let object = json!({"widgetId": "cpu", "data": {"x": 1}});
    let operation = json!({"type": "SYNC_UPDATE", "payload": {"objects": [object]}});
    assert_eq!(entry["data"]["operation"], operation, "{page}");
}

#[tokio::test]
async fn a_stale_put_is_a_conflict_and_tells_what_stands_there() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    put(&mut client, "cpu", json!({"x": 1})).await;
    put(&mut client, "cpu", json!({"x": 2})).await;
    let stale = json!({"op": "put", "widget": "cpu", "data": {"x": 3}, "base": 1});
    let refusal = client.refused(stale).await;
    let current = json!({"version": 2, "data": {"x": 2}});
    assert_eq!((&refusal["code"], &refusal["current"]), (&json!("conflict"), &current));
    let resolved = json!({"op": "put", "widget": "cpu", "data": {"x": 3}, "base": 2});
    assert_eq!(client.ok(resolved).await["version"], 3);
    let absent = json!({"op": "put", "widget": "gpu", "data": {}, "base": 7});
    let refusal = client.refused(absent).await;
    assert_eq!((&refusal["code"], &refusal["current"]), (&json!("conflict"), &Value::Null));
    // The same key counts once, and a key is one put's.
    let once = json!({"op": "put", "widget": "gpu", "data": {"b": 1, "a": 2}, "key": "k1"});
    let first = client.ok(once.clone()).await;
    assert_eq!(client.ok(once).await, first);
    let other = json!({"op": "put", "widget": "gpu", "data": {}, "key": "k1"});
    assert_eq!(client.refused(other).await["code"], "key_reused");
    assert_eq!(
        client.refused(json!({"op": "put", "widget": "a", "data": 7})).await["code"],
        "bad_request"
    );
}

#[tokio::test]
async fn versions_are_listed_and_read_back() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    for x in 1..=3 {
        put(&mut client, "cpu", json!({"x": x})).await;
    }
    client.ok(json!({"op": "put", "widget": "cpu", "data": null})).await;
    let all = client.ok(json!({"op": "versions", "widget": "cpu"})).await;
    assert_eq!((&all["board"], &all["widget"]), (&json!("shared"), &json!("cpu")));
    let versions = all["versions"].as_array().unwrap();
    let told: Vec<_> = versions.iter().map(|it| (&it["version"], &it["deleted"])).collect();
    let expected =
        [(4, true), (3, false), (2, false), (1, false)].map(|(v, d)| (json!(v), json!(d)));
    assert_eq!(told, expected.iter().map(|(v, d)| (v, d)).collect::<Vec<_>>());
    assert!(versions[0]["user"] == "anonymous" && versions[0]["time"].is_string());
    let second = client.ok(json!({"op": "versions", "widget": "cpu", "version": 2})).await;
    assert_eq!((&second["data"], &second["version"]), (&json!({"x": 2}), &json!(2)));
    let missing = json!({"op": "versions", "widget": "cpu", "version": 9});
    assert_eq!(client.refused(missing).await["code"], "not_found");
    let unknown = client.ok(json!({"op": "versions", "layout": "cpu"})).await;
    assert_eq!(unknown["versions"], json!([]));
}

#[tokio::test]
async fn each_user_has_a_board_that_no_other_sees() {
    let hub = guarded().start().await;
    let mut ana = hub.native_with(&token(&json!({}))).await;
    let mut bob = hub.native_with(&token(&json!({"sub": "bob"}))).await;
    assert_eq!(board(&mut ana).await["board"], "ana");
    assert_eq!(board(&mut bob).await["board"], "bob");
    put(&mut ana, "cpu", json!({"owner": "ana"})).await;
    put(&mut bob, "cpu", json!({"owner": "bob"})).await;
    put(&mut bob, "gpu", json!({})).await;
    let told = told_of(&mut ana, "cpu", 1).await;
    assert_eq!(told["objects"][0]["data"]["owner"], "ana");
    assert_eq!(board(&mut ana).await["objects"].as_array().unwrap().len(), 1);
    for command in [
        json!({"op": "subscribe", "channel": "layouts", "board": "bob"}),
        json!({"op": "subscribe", "room": "board:bob"}),
        json!({"op": "put", "board": "bob", "widget": "cpu", "data": {}}),
        json!({"op": "versions", "board": "bob", "widget": "cpu"}),
    ] {
        assert_eq!(ana.refused(command).await["code"], "denied");
    }
    let path = "/v1/rooms/board:bob/events";
    assert_eq!(hub.ask("GET", path, Some(&token(&json!({})))).await.status, 403);
    assert_eq!(board(&mut bob).await["objects"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_says_which_boards_may_be_read_and_written() {
    let hub = guarded().start().await;
    let rights = json!({"layouts": {"read": ["team-*"], "write": ["team-a"]}, "publish": ["*"]});
    let mut client = hub.native_with(&token(&rights)).await;
    let on = |board: &str| json!({"op": "put", "board": board, "widget": "cpu", "data": {}});
    let home = json!({"op": "subscribe", "channel": "layouts"});
    assert_eq!(client.refused(home).await["code"], "bad_request", "it has to name one");
    for (board, may_read, may_write) in
        [("team-a", true, true), ("team-b", true, false), ("ana", false, false)]
    {
        let told = client.command(json!({"op": "subscribe", "channel": "layouts", "board": board}));
        assert_eq!(told.await.get("ok").is_some(), may_read, "{board}");
        let told = client.command(on(board)).await;
        assert_eq!(told.get("ok").is_some(), may_write, "{board}");
        // Whatever it may publish: what is done to a board the hub tells.
        let room = format!("board:{board}");
        let event = json!({"op": "publish", "type": "layouts.changed", "rooms": [room]});
        assert_eq!(client.refused(event).await["code"], "denied");
    }
    // A token with fewer rights ends what it may not see.
    let fewer = token(&json!({"layouts": {"write": ["team-a"]}, "publish": ["*"]}));
    let told = client.ok(json!({"op": "refresh", "token": fewer})).await;
    assert_eq!(told["ended"].as_array().unwrap().len(), 1);
    assert_eq!(board(&mut client).await["board"], "team-a", "the only one that it may see");
}

#[tokio::test]
async fn all_that_was_answered_is_there_after_a_crash() {
    let mut setup = Hub::new();
    let mut expected = json!([]);
    for run in 1..=3 {
        let hub = setup.start().await;
        let mut client = hub.native().await;
        assert_eq!(board(&mut client).await["objects"], expected);
        for n in 0..5 {
            assert_eq!(put(&mut client, &format!("w{n}"), json!({"run": run})).await, run);
        }
        put(&mut client, "z", json!({})).await;
        client.ok(json!({"op": "put", "widget": "z", "data": null})).await;
        expected = board(&mut client).await["objects"].clone();
        assert_eq!(expected.as_array().unwrap().len(), 5);
        setup = hub.kill();
    }
    let hub = setup.start().await;
    let mut client = hub.native().await;
    let now = board(&mut client).await;
    assert_eq!((&now["objects"], &now["version"]), (&expected, &json!(21)));
    let versions = client.ok(json!({"op": "versions", "widget": "z"})).await;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 6);
}
