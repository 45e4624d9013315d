//! Events on their way in: over HTTP, the native dialect, the command, webhooks
//! and the example client; each tells the same hub.

mod docs;
mod hooks;
mod rights;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Door, Hub, Native, Program, within};
use crate::languages::workshop;

/// The longest data of an event.
const DATA_BYTES_MAX: usize = 1_000_000;

/// Sends a request with a body, and reads all that comes.
pub(crate) async fn post(door: &Door, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        door.0,
        body.len()
    );
    let asked = async {
        let stream = TcpStream::connect(door.0).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let written = async {
            // Who is refused early need not be let finish.
            let _ = writer.write_all(head.as_bytes()).await;
            let _ = writer.write_all(body).await;
            writer
        };
        let mut text = Vec::new();
        let (_, read) = tokio::join!(written, reader.read_to_end(&mut text));
        read.unwrap();
        String::from_utf8(text).unwrap()
    };
    let text = within("an answer over HTTP", asked).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Publishes over HTTP, and wants a plain yes.
async fn publish(door: &Door, event: &Value) -> Value {
    let answer = post(door, "/v1/events", "", event.to_string()).await;
    assert_eq!(answer.status, 200, "{event}: {answer:?}");
    answer.json()
}

/// Publishes over HTTP with a key.
async fn publish_as(door: &Door, key: &str, event: &Value) -> Answer {
    post(door, "/v1/events", &format!("Idempotency-Key: {key}\r\n"), event.to_string()).await
}

/// A client that is in these rooms.
async fn in_rooms(door: &Door, rooms: &[&str]) -> Native {
    let mut client = door.native().await;
    for room in rooms {
        client.subscribe(&format!("room:{room}"), Value::Null).await;
    }
    client
}

/// What has been in a room, of what is kept.
async fn history(door: &Door, room: &str) -> Vec<Value> {
    let page = door.get_json(&format!("/v1/rooms/{room}/events?after=0&limit=1000")).await;
    assert_eq!((&page["lost"], &page["more"]), (&json!(false), &json!(false)), "{page}");
    page["entries"].as_array().unwrap().clone()
}

/// The same for somebody with a token.
async fn history_as(door: &Door, room: &str, token: &str) -> Vec<Value> {
    let path = format!("/v1/rooms/{room}/events?after=0&limit=1000");
    door.ask("GET", &path, Some(token)).await.json()["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_event_over_http_is_told_and_kept() {
    let hub = Hub::new().start().await;
    let mut client = in_rooms(&hub, &["project:42"]).await;
    let event = json!({
        "type": "pr.created", "source": "ci", "data": {"project_id": 42, "title": "Fix it"},
    });
    let receipt = publish(&hub, &event).await;
    assert_eq!(receipt["rooms"], json!(["project:42"]));
    let push = client.next_push().await;
    assert_eq!(push["push"], "room:project:42");
    assert_eq!(push["offset"], receipt["offset"]);
    let mut entry = event.clone();
    entry["id"] = receipt["id"].clone();
    assert_eq!(push["entry"], entry);
    let kept = history(&hub, "project:42").await;
    assert_eq!((kept.len(), &kept[0]["entry"]), (1, &entry));
    assert_eq!((&kept[0]["offset"], &kept[0]["time"]), (&push["offset"], &push["time"]));
}

#[tokio::test]
async fn events_go_by_their_type_and_data_unless_their_publisher_says() {
    let hub = Hub::new().start().await;
    let families = [
        ("project.updated project.deleted", vec!["project:42", "user:ana"]),
        ("pr.created pr.updated pr.closed", vec!["project:42", "user:ana"]),
        ("issue.created issue.updated issue.closed", vec!["project:42", "user:ana"]),
        (
            "workflow.started workflow.progress workflow.completed workflow.failed",
            vec!["project:42", "user:ana"],
        ),
        ("agent.status_changed agent.connected agent.disconnected", vec!["agent:a1", "global"]),
        ("ai.suggestion ai.analysis_complete", vec!["user:ana"]),
        ("deploy.finished", vec!["global"]),
    ];
    let data = json!({"project_id": 42, "agent_id": "a1", "user_id": "ana"});
    for (kinds, rooms) in &families {
        for kind in kinds.split(' ') {
            let event = json!({"type": kind, "data": data});
            assert_eq!(publish(&hub, &event).await["rooms"], json!(rooms), "{kind}");
            let event = json!({"type": kind, "data": {}});
            assert_eq!(publish(&hub, &event).await["rooms"], json!(["global"]), "{kind}");
        }
    }
    for (more, rooms) in [
        (json!({"rooms": ["project:7", "x:y"]}), json!(["project:7", "x:y"])),
        (json!({"rooms": ["project:7"], "user": "bob"}), json!(["project:7", "user:bob"])),
        (json!({"user": "bob"}), json!(["user:bob"])),
    ] {
        let mut event = json!({"type": "pr.created", "data": data});
        event.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        assert_eq!(publish(&hub, &event).await["rooms"], rooms, "{event}");
    }
}

#[tokio::test]
async fn who_is_in_two_of_the_rooms_gets_an_event_once() {
    let hub = Hub::new().start().await;
    let mut client = in_rooms(&hub, &["agent:a1", "global"]).await;
    for n in 0..3 {
        publish(&hub, &json!({"type": "agent.connected", "data": {"agent_id": "a1", "n": n}}))
            .await;
    }
    publish(&hub, &json!({"type": "deploy.finished"})).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(client.next_push().await);
    }
    let kinds: Vec<_> = told.iter().map(|push| push["entry"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["agent.connected", "agent.connected", "agent.connected", "deploy.finished"]);
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_answer() {
    let hub = Hub::new().start().await;
    let events = json!({"events": [
        {"type": "deploy.started", "source": "ci"},
        {"type": "nonsense"},
        {"type": "deploy.finished", "rooms": ["project:1"], "key": "mine"},
        {"type": "deploy.finished", "rooms": ["no room"]},
        {"type": "deploy.done", "data": "x".repeat(DATA_BYTES_MAX)},
    ]});
    let answer = publish_as(&hub, "batch", &events).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    let told = told["events"].as_array().unwrap();
    let codes: Vec<_> = told.iter().map(|told| told["error"]["code"].as_str()).collect();
    let bad = Some("bad_request");
    assert_eq!(codes, [None, bad, None, bad, Some("too_large")]);
    assert_eq!((&told[0]["rooms"], &told[2]["rooms"]), (&json!(["global"]), &json!(["project:1"])));
    // The same again is answered as before, each by its own key.
    assert_eq!(publish_as(&hub, "batch", &events).await.json(), answer.json());
    assert_eq!(publish_as(&hub, "mine", &events["events"][2]).await.json(), told[2]);
    assert_eq!(history(&hub, "global").await.len(), 1);
    assert_eq!(history(&hub, "project:1").await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_published_is_told_why() {
    let hub = Hub::new().start().await;
    let many = json!({"events": vec![json!({"type": "a.b"}); 101]}).to_string();
    let rooms: Vec<String> = (0..65).map(|n| format!("project:{n}")).collect();
    let scattered = json!({"type": "a.b", "rooms": rooms}).to_string();
    let deep = format!("{{\"type\":\"a.b\",\"data\":{}1{}}}", "[".repeat(70), "]".repeat(70));
    for (status, code, words, body) in [
        (400, "bad_json", "line 1", "{"),
        (400, "bad_json", "", ""),
        (400, "bad_json", "", "\u{fffd}"),
        (400, "bad_request", "`type` is missing", "{}"),
        (400, "bad_request", "unknown field `room`", r#"{"type":"a.b","room":"x"}"#),
        (400, "bad_request", "WebSocket clients", r#"{"op":"publish","type":"a.b"}"#),
        (400, "bad_request", "1 to 100", r#"{"events":[]}"#),
        (400, "bad_request", "not 101", &many),
        (422, "bad_request", "two or more words", r#"{"type":"deploy"}"#),
        (422, "bad_request", "the hub's own", r#"{"type":"connection.established"}"#),
        (
            422,
            "bad_request",
            "data.title must be a text",
            r#"{"type":"pr.created","data":{"title":1}}"#,
        ),
        (422, "bad_request", "is an object", r#"{"type":"pr.created","data":[1]}"#),
        (422, "bad_request", "nested deeper", &deep),
        (422, "bad_request", "is no room", r#"{"type":"a.b","rooms":[" "]}"#),
        (422, "bad_request", "1 to 64 rooms", &scattered),
        (422, "bad_request", "1 to 64 rooms", r#"{"type":"a.b","rooms":[]}"#),
        (422, "bad_request", "exclude_self", r#"{"type":"a.b","exclude_self":true}"#),
        (422, "bad_request", "no connection", r#"{"type":"a.b","exclude":"me"}"#),
        (422, "bad_request", "idempotency key", r#"{"type":"a.b","key":""}"#),
    ] {
        let answer = post(&hub, "/v1/events", "", body).await;
        let error = &answer.json()["error"];
        let told = error["reason"].as_str().unwrap();
        assert_eq!((answer.status, &error["code"]), (status, &json!(code)), "{body}: {told}");
        assert!(told.contains(words), "{body}: {told:?} does not say {words:?}");
        assert_eq!(error["temporary"], false);
    }
    let event = r#"{"type":"a.b"}"#;
    for key in [" ", "a b", "\"\"", &"x".repeat(256), "a\r\nIdempotency-Key: b"] {
        let answer = post(&hub, "/v1/events", &format!("Idempotency-Key: {key}\r\n"), event).await;
        assert_eq!(answer.status, 400, "{key:?}");
        assert!(answer.body.contains("Idempotency-Key"), "{answer:?}");
    }
    let answer = hub.get("/v1/events").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.to_lowercase().contains("allow: post"), "{answer:?}");
    let page = post(&hub, "/v1/events", "Origin: http://evil.example\r\n", event).await;
    assert_eq!(page.status, 403);
    assert!(history(&hub, "global").await.is_empty(), "none of them was an event");
}

#[tokio::test]
async fn data_has_a_megabyte_and_a_body_four() {
    let hub = Hub::new().start().await;
    let of = |bytes: usize| json!({"type": "a.b", "data": "x".repeat(bytes - 2)});
    let mut client = in_rooms(&hub, &["global"]).await;
    publish(&hub, &of(DATA_BYTES_MAX)).await;
    let push = client.next_push().await;
    assert_eq!(push["entry"]["data"].as_str().unwrap().len(), DATA_BYTES_MAX - 2);
    for (body, words) in [
        (of(DATA_BYTES_MAX + 1).to_string(), "1000000 is the limit"),
        (" ".repeat(4 * 1024 * 1024 + 1), "longer than 4194304"),
    ] {
        let answer = post(&hub, "/v1/events", "", body).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("too_large")));
        assert!(answer.body.contains(words), "{answer:?}");
    }
    let four = json!({"events": vec![of(DATA_BYTES_MAX); 4]}).to_string();
    assert_eq!(post(&hub, "/v1/events", "", four).await.status, 200);
}

#[tokio::test]
async fn who_publishes_too_fast_is_told_when_to_go_on() {
    let limits = "[limits]\npublishes_per_second = 2\npublishes_burst = 100\n";
    let hub = Hub::new().configured(limits).start().await;
    publish(&hub, &json!({"events": vec![json!({"type": "a.b"}); 100]})).await;
    let event = json!({"type": "a.c"});
    let answer = post(&hub, "/v1/events", "", event.to_string()).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["code"]), (429, &json!("too_many_requests")));
    assert_eq!(error["temporary"], true);
    assert!((1..=500).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    assert!(answer.head.to_lowercase().contains("retry-after: 1"), "{answer:?}");
    // It is on the account of whoever it is, however it comes.
    let mut client = hub.native().await;
    let many = json!({"op": "publish", "events": vec![json!({"type": "a.b"}); 50]});
    let told = client.ok(many).await;
    assert_eq!(told["events"][49]["error"]["code"], "too_many_requests");
    // The command waits as long as it is told to.
    assert!(command(&hub, &["a.c"], "").await.status.success());
}

#[tokio::test]
async fn the_same_key_is_one_event_also_after_a_crash() {
    let hub = Hub::new().start().await;
    let event = json!({"type": "deploy.finished", "data": {"build": 7}});
    let first = publish_as(&hub, "build-7", &event).await;
    assert_eq!(first.status, 200);
    // In quotes, as the draft of the header's RFC has it, it is the same.
    for key in ["build-7", "\"build-7\""] {
        assert_eq!(publish_as(&hub, key, &event).await.json(), first.json());
    }
    let hub = hub.kill().start().await;
    assert_eq!(publish_as(&hub, "build-7", &event).await.json(), first.json());
    let mut client = hub.native().await;
    let mut command = event.clone();
    command["op"] = json!("publish");
    command["key"] = json!("build-7");
    // Its source would be another where none is named, but it is the same here.
    assert_eq!(client.ok(command).await, first.json());
    let other = json!({"type": "deploy.finished", "data": {"build": 8}});
    let answer = publish_as(&hub, "build-7", &other).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (422, &json!("key_reused")));
    assert_eq!(history(&hub, "global").await.len(), 1);
}

#[tokio::test]
async fn the_same_key_at_the_same_time_is_one_event() {
    let hub = Hub::new().start().await;
    let event = json!({"type": "deploy.finished"});
    let all = (0..16).map(|_| publish_as(&hub, "once", &event));
    let all = futures_util::future::join_all(all).await;
    assert!(
        all.iter().all(|answer| answer.status == 200 && answer.json() == all[0].json()),
        "{all:?}"
    );
    assert_eq!(history(&hub, "global").await.len(), 1);
}

#[tokio::test]
async fn what_was_answered_survives_a_crash_right_after() {
    let mut setup = Hub::new();
    let mut told = Vec::new();
    for run in 0..3 {
        let hub = setup.start().await;
        for n in 0..5 {
            let event = json!({"type": "deploy.finished", "data": {"run": run, "n": n}});
            told.push(publish(&hub, &event).await["id"].clone());
        }
        setup = hub.kill();
    }
    let hub = setup.start().await;
    let kept = history(&hub, "global").await;
    let kept: Vec<_> = kept.iter().map(|kept| kept["entry"]["id"].clone()).collect();
    assert_eq!(kept, told);
}

#[tokio::test]
async fn a_rooms_history_comes_in_pages() {
    let hub = Hub::new().start().await;
    let room = "project:octocat/Hello-World";
    let events: Vec<_> =
        (0..25).map(|n| json!({"type": "deploy.finished", "data": n, "rooms": [room]})).collect();
    publish(&hub, &json!({"events": events})).await;
    publish(&hub, &json!({"type": "deploy.finished", "data": "elsewhere"})).await;
    let page = async |path: &str, query: &str| {
        let page = hub.get_json(&format!("/v1/rooms/{path}/events{query}")).await;
        let entries = page["entries"].as_array().unwrap().iter();
        let numbers = entries.map(|entry| entry["entry"]["data"].as_u64().unwrap()).collect();
        (numbers, page)
    };
    let (newest, told): (Vec<_>, _) = page(room, "?limit=3").await;
    assert_eq!((newest, &told["room"]), (vec![22, 23, 24], &json!(room)));
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let query = format!("?after={after}&limit=10");
        let (numbers, told): (Vec<u64>, _) = page("project%3Aoctocat%2FHello-World", &query).await;
        seen.extend(numbers);
        after = told["next"].as_u64().unwrap();
        if told["more"] == false {
            break;
        }
    }
    assert_eq!(seen, (0..25).collect::<Vec<_>>());
    // At its end there is nothing, until there is.
    assert_eq!(page(room, &format!("?after={after}")).await.0, Vec::<u64>::new());
    let (_, told): (Vec<u64>, Value) = page(room, "?after=1000000").await;
    assert_eq!(told["lost"], true, "the log never came as far");
    for (path, status) in [
        ("/v1/rooms/global/events?limit=0", 400),
        ("/v1/rooms/global/events?limit=1001", 400),
        ("/v1/rooms/global/events?after=x", 400),
        ("/v1/rooms/global/events?until=1", 400),
        ("/v1/rooms/%20/events", 400),
        ("/v1/rooms/global", 404),
        ("/v1/rooms/user:ana/events", 403),
    ] {
        assert_eq!(hub.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_client_publishes_on_its_connection() {
    let hub = Hub::new().start().await;
    let mut client = in_rooms(&hub, &["project:42"]).await;
    let mut other = in_rooms(&hub, &["project:42"]).await;
    let receipt = client
        .ok(json!({
            "op": "publish", "type": "pr.created", "source": "editor",
            "data": {"project_id": 42}, "exclude_self": true,
        }))
        .await;
    let push = other.next_push().await;
    assert_eq!((&push["offset"], &push["entry"]["id"]), (&receipt["offset"], &receipt["id"]));
    let batch = client
        .ok(json!({"op": "publish", "events": [
            {"type": "pr.updated", "data": {"project_id": 42}, "key": "k"},
            {"type": "nonsense"},
        ]}))
        .await;
    assert_eq!(batch["events"][0]["rooms"], json!(["project:42"]));
    assert_eq!(batch["events"][1]["error"]["code"], "bad_request");
    // What it had excluded itself from never comes; what it had not does.
    let push =
        client.push_until("its own event", |push| push["entry"]["type"] == "pr.updated").await;
    assert_eq!(push["offset"], batch["events"][0]["offset"]);
    for (command, code) in [
        (json!({"op": "publish"}), "bad_request"),
        (json!({"op": "publish", "type": "a.b", "room": "x"}), "bad_request"),
        (json!({"op": "publish", "type": "nonsense"}), "bad_request"),
        (json!({"op": "publish", "events": []}), "bad_request"),
        (json!({"op": "publish", "type": "a.b", "key": "k"}), "key_reused"),
    ] {
        assert_eq!(client.refused(command.clone()).await["code"], code, "{command}");
    }
}

#[tokio::test]
async fn a_client_that_may_publish_sends_a_megabyte() {
    let hub = Hub::new().start().await;
    let mut client = hub.native().await;
    let terms = client.ok(json!({"op": "connect"})).await;
    assert_eq!(terms["message_bytes_max"], 1024 * 1024);
    let of = |bytes: usize| json!({"op": "publish", "type": "a.b", "data": "x".repeat(bytes - 2)});
    client.ok(of(DATA_BYTES_MAX)).await;
    assert_eq!(client.refused(of(DATA_BYTES_MAX + 1)).await["code"], "too_large");
    client.send(" ".repeat(1024 * 1024 + 1)).await;
    assert_eq!(client.socket.closed().await.0, 1009);
}

/// `telltale publish` in the folder of a hub.
fn publishing(hub: &Hub, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telltale"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TELLTALE_")) {
        command.env_remove(name);
    }
    command.arg("publish").args(arguments);
    command.env("TELLTALE_DATA", hub.setup().data()).current_dir(hub.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `telltale publish` on a hub, with something on standard input.
async fn command(hub: &Hub, arguments: &[&str], input: &str) -> Output {
    let mut child = publishing(hub, arguments).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // Both at once: it answers while it reads.
    let written = tokio::task::spawn_blocking(move || {
        // Who has refused the first line doesn't read the last.
        let _ = stdin.write_all(input.as_bytes());
    });
    let done = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = within("the command to end", done).await.unwrap();
    within("its input", written).await.unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_command_publishes_an_event() {
    let hub = Hub::new().start().await;
    fs::write(hub.path().join("data.json"), "{\"from\": \"a file\"}\n").unwrap();
    let mut client = in_rooms(&hub, &["project:42", "global"]).await;
    for (arguments, input, data) in [
        (&["deploy.finished"][..], "", json!({})),
        (&["deploy.finished", "--data", "{\"n\":1}"], "", json!({"n": 1})),
        (&["deploy.finished", "--data", "@data.json"], "", json!({"from": "a file"})),
        (&["deploy.finished", "--data", "-"], "[1]", json!([1])),
        (&["pr.created", "--data", "{\"project_id\":42}"], "", json!({"project_id": 42})),
    ] {
        let output = command(&hub, arguments, input).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let push = client.next_push().await;
        assert_eq!((&push["entry"]["data"], &push["entry"]["source"]), (&data, &json!("cli")));
        let said = text(&output.stdout);
        assert!(said.starts_with(push["entry"]["id"].as_str().unwrap()), "{said}");
        assert!(said.contains(&format!("at offset {} in ", push["offset"])), "{said}");
    }
    let arguments =
        ["a.b", "--room", "x:1", "--room", "x:2", "--source", "me", "--key", "k", "--json"];
    let first = text(&command(&hub, &arguments, "").await.stdout);
    let receipt: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(receipt["rooms"], json!(["x:1", "x:2"]));
    assert_eq!(text(&command(&hub, &arguments, "").await.stdout), first);
    assert_eq!(history(&hub, "x:2").await[0]["entry"]["source"], "me");
}

#[tokio::test]
async fn the_command_says_in_one_line_what_is_wrong() {
    let hub = Hub::new().start().await;
    for (arguments, code, words) in [
        (&["a.b", "--data", "{"][..], 64, "--data is no JSON"),
        (&["a.b", "--data", "@nowhere"], 64, "nowhere"),
        (&["a.b", "--token", "@nowhere"], 64, "nowhere"),
        (&["nonsense"], 64, "two or more words"),
        (&["a.b", "--room", " "], 64, "is no room"),
        (&["pr.created", "--data", "{\"title\":1}"], 64, "data.title must be a text"),
        (&["a.b", "--dta", "{}"], 64, "unexpected argument"),
        (&[], 64, "TYPE"),
    ] {
        let output = command(&hub, arguments, "").await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said:?} does not say {words:?}");
        assert_eq!(text(&output.stdout), "");
    }
    let path = hub.path().to_owned();
    let data = ["publish", "a.b", "--data", "{}"];
    let mut program = Program::start(&path, data, &[("TELLTALE_DATA", "elsewhere")]);
    assert_eq!(program.exit().await.code(), Some(1));
    assert!(program.stderr().contains("no hub runs"), "{}", program.stderr());
    assert!(program.stderr().contains("--hub"), "{}", program.stderr());
    let folder = hub.setup().data();
    let named = ["publish".as_ref(), "x.y".as_ref(), "--hub".as_ref(), folder.as_os_str()];
    let mut program = Program::start(&path, named, &[("TELLTALE_DATA", "elsewhere")]);
    assert!(program.exit().await.success(), "{}", program.stderr());
    assert_eq!(history(&hub, "global").await.len(), 1);
}

#[tokio::test]
async fn the_command_publishes_lines_once_each() {
    let hub = Hub::new().start().await;
    let lines: String = (0..250).map(|n| format!("{{\"n\":{n}}}\n\n")).collect();
    let arguments = ["log.line", "--lines", "--room", "agent:7", "--key", "run"];
    for _ in 0..2 {
        let output = command(&hub, &arguments, &lines).await;
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).starts_with("250 events in "), "{output:?}");
    }
    let kept = history(&hub, "agent:7").await;
    let numbers = kept.iter().map(|kept| kept["entry"]["data"]["n"].as_u64().unwrap());
    assert!(numbers.eq(0..250), "each once, in order");
    let whole = "{\"type\":\"a.b\",\"rooms\":[\"x:1\"],\"source\":\"s\"}\n{\"type\":\"nonsense\"}\n\
                 {\"type\":\"a.c\",\"data\":[2]}";
    let output = command(&hub, &["--lines", "--room", "x:2", "--json"], whole).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("line 2: ") && said.contains("1 of 3 events"), "{said}");
    assert_eq!(text(&output.stdout).lines().count(), 2);
    assert_eq!(history(&hub, "x:1").await[0]["entry"]["source"], "s");
    assert_eq!(history(&hub, "x:2").await[0]["entry"]["data"], json!([2]));
    let output = command(&hub, &["--lines"], "{}\n").await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("line 1: missing field `type`"), "{output:?}");
}

#[tokio::test]
async fn the_command_waits_for_a_hub_that_comes_back() {
    let mut hub = Hub::new().start().await;
    let mut child =
        publishing(&hub, &["log.line", "--lines", "--room", "agent:7"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..3 {
        writeln!(stdin, "{n}").unwrap();
        hub.until("the line", async || {
            (history(&hub, "agent:7").await.len() == n + 1).then_some(())
        })
        .await;
        let setup = hub.kill();
        // This one finds no hub.
        if n == 2 {
            writeln!(stdin, "3").unwrap();
        }
        hub = setup.start().await;
    }
    drop(stdin);
    let done = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = within("the command to end", done).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let kept = history(&hub, "agent:7").await;
    let lines: Vec<_> = kept.iter().map(|kept| kept["entry"]["data"].clone()).collect();
    assert_eq!(lines, [0, 1, 2, 3]);
}

/// Runs a Python program that has the example client beside it; `None`, which is
/// told, where there is no Python.
async fn python(folder: &Path, program: &str) -> Option<Value> {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PATH", workshop::path()).stdin(Stdio::null());
        command
    };
    if !run(&["-c", "from datetime import UTC"]).output().is_ok_and(|out| out.status.success()) {
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "there is no Python of at least 3.11");
        let _ = writeln!(std::io::stderr(), "skipped: there is no Python of at least 3.11");
        return None;
    }
    let client = workshop::root().join("examples/clients/python/event_broadcaster.py");
    fs::copy(client, folder.join("event_broadcaster.py")).unwrap();
    fs::write(folder.join("program.py"), program).unwrap();
    let mut program = Program::run(&mut run(&["program.py"]));
    let status = program.exit().await;
    assert!(status.success(), "{}", program.stderr());
    Some(serde_json::from_str(&program.stdout()).unwrap())
}

#[tokio::test]
async fn the_python_broadcaster_tells_the_real_hub() {
    let hub = Hub::new().start().await;
    let program = format!(
        r#"
import asyncio, json, uuid
from event_broadcaster import EventBroadcaster, PublishError, SyncEventBroadcaster

async def main():
    hub = EventBroadcaster("http://{address}")
    done = await asyncio.gather(
        hub.broadcast_project_updated(42, "Hub", "https://x.example", "active", "ana"),
        hub.broadcast_project_deleted(42, "ana"),
        hub.broadcast_agent_status_changed(uuid.UUID(int=7), "GPT", "online", 85),
        hub.broadcast_workflow_progress(1, "running", 50, "Step 2", 5, project_id=42),
        hub.broadcast_pr_created(1, 42, "T", None, "ana", "b", "https://x.example", "open"),
        hub.broadcast_pr_updated(1, 42, "T", "open"),
        hub.broadcast_issue_updated(1, 42, "T", None, "open", None, "bob"),
        hub.broadcast_ai_suggestion(1, "pr", 1, "refactor", "T", "D", project_id=42),
        hub.broadcast("deploy.finished", {{"build": 7}}, rooms=["project:42"]),
    )
    try:
        await hub.publish("nonsense")
    except PublishError as error:
        done.append(error.code)
    hub.close()
    return done

done = asyncio.run(main())
sync = SyncEventBroadcaster("http://{address}")
done.append(sync.broadcast_pr_updated(2, 42, "T", "closed"))
done.append(sync.publish("a.b", rooms=["project:42"]).rooms)
print(json.dumps(done))
"#,
        address = hub.0
    );
    let Some(done) = python(hub.path(), &program).await else { return };
    let mut wanted = vec![json!(true); 9];
    wanted.extend([json!("bad_request"), json!(true), json!(["project:42"])]);
    assert_eq!(done, json!(wanted));
    let kept = history(&hub, "project:42").await;
    let mut kinds: Vec<_> =
        kept.iter().map(|kept| kept["entry"]["type"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "a.b",
            "ai.suggestion",
            "deploy.finished",
            "issue.updated",
            "pr.created",
            "pr.updated",
            "pr.updated",
            "project.deleted",
            "project.updated",
            "workflow.progress"
        ]
    );
    let agent = history(&hub, "agent:00000000-0000-0000-0000-000000000007").await;
    assert_eq!(agent[0]["entry"]["data"]["availability"], 85);
}
