use std::sync::atomic::AtomicU64;

use super::*;
use crate::channel::{Feed, LogEncoder, SubId};
use crate::model::{ConnectionId, Entry, Logged, Route};
use crate::plugin::Statuses;

const NOW_NS: u64 = 1_700_000_000_000_000_000;

fn client(namespace: Namespace, identity: Identity) -> SocketIo {
    let clock = Clock::set_by(Arc::new(AtomicU64::new(NOW_NS)));
    let identity = Arc::new(identity);
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let client = Client::new(ConnectionId(10), NAME, address, 0, Some(identity.clone()));
    let hub = HubFacts {
        name: "h".into(),
        version: "0",
        tick: Duration::from_secs(1),
        heartbeat: Duration::from_secs(25),
        epoch: "k3".into(),
        admin_token: "a".into(),
    };
    SocketIo::new(namespace, clock, Arc::new(hub), client, identity, Arc::default())
}

fn anyone(namespace: Namespace) -> SocketIo {
    client(namespace, Identity::clone(&Identity::open()))
}

/// What is sent; subscriptions are told by their keys.
fn told(acts: Vec<Act>) -> Vec<String> {
    let tell = |act| match act {
        Act::Send(text) => text,
        Act::SendBinary(bytes) => format!("binary {bytes:?}"),
        Act::Subscribe { key, resume, .. } => format!("enter {key} after {resume:?}"),
        Act::Unsubscribe { which: Which::Key(key), reply, .. } => format!("leave {key}: {reply}"),
        Act::Publish { drafts, .. } => format!("publish {drafts:?}"),
        Act::Close(reason) => format!("close {}", reason.code),
        Act::Ignore => "ignore".into(),
        _ => "other".into(),
    };
    acts.into_iter().map(tell).collect()
}

fn say(client: &mut SocketIo, text: &str) -> Vec<String> {
    told(client.receive(Received::Text(text)))
}

#[test]
fn a_newcomer_is_greeted_once_it_is_in_its_rooms() {
    let mut client = anyone(Namespace::Ws);
    let acts = client.open();
    let Some(Act::Subscribe { reply: Some((greetings, _)), .. }) = acts.last() else {
        panic!("nothing is said in the end")
    };
    let said: Vec<&str> = greetings.split(SEPARATOR).collect();
    let [legacy, dotted, subscribed] = said[..] else { panic!("{said:?}") };
    for (packet, kind) in [(legacy, "connection_established"), (dotted, "connection.established")] {
        let body: Value = serde_json::from_str(packet.strip_prefix("2/ws,").unwrap()).unwrap();
        let data = json!({
            "connection_id": "000000000000000a", "user_id": "anonymous",
            "rooms": ["user:anonymous", "global"],
        });
        let timestamp = rfc3339(NOW_NS);
        let event = json!({
            "type": kind, "timestamp": timestamp, "source": "telltale", "data": data,
        });
        assert_eq!(body, json!([kind, event]));
    }
    assert_eq!(subscribed, "2/ws,[\"subscribed\",");
    assert_eq!(
        told(acts),
        [
            "0/ws,{\"sid\":\"000000000000000a\"}",
            "enter socketio /ws room:user:anonymous  after None",
            "enter socketio /ws room:global  after None",
        ]
    );
    assert_eq!(
        say(&mut client, "2/ws,1[\"debug:rooms\"]"),
        ["3/ws,1[{\"rooms\":[\"global\",\"user:anonymous\"],\"status\":\"success\"}]"]
    );
}

#[test]
fn commands_are_acknowledged_where_that_was_asked_for() {
    let mut client = client(
        Namespace::Main,
        Identity {
            user: "ana".into(),
            rooms: crate::access::Globs::new(&["project:*"]).unwrap(),
            ..Identity::clone(&Identity::open())
        },
    );
    assert_eq!(
        say(&mut client, "27[\"subscribe\",{\"room\":\"project:1\",\"after\":5}]"),
        ["enter socketio / room:project:1  after Some(Position { epoch: \"k3\", offset: 5 })"]
    );
    // With other types: the new one first, so that nothing falls between them.
    assert_eq!(
        say(&mut client, "2[\"subscribe\",{\"room\":\"project:1\",\"types\":[\"pr.*\"]}]"),
        [
            "enter socketio / room:project:1 [\"pr.*\"] after None",
            "leave socketio / room:project:1 : ",
        ]
    );
    assert_eq!(
        say(&mut client, "28[\"unsubscribe\",{\"room\":\"project:1\"}]"),
        ["leave socketio / room:project:1 [\"pr.*\"]: \
             38[{\"room\":\"project:1\",\"status\":\"success\"}]"]
    );
    let refused = |packet: &str, code: &str| {
        let (_, body) = packet.split_at(packet.find('[').unwrap());
        let body: Value = serde_json::from_str(body).unwrap();
        let refusal = if body[0] == "connection.error" { &body[1]["data"] } else { &body[0] };
        assert_eq!(refusal["code"], code, "{packet}");
        assert!(refusal["message"].is_string(), "{packet}");
    };
    for (command, code) in [
        ("[\"unsubscribe\",{\"room\":\"project:1\"}]", "NOT_SUBSCRIBED"),
        ("[\"subscribe\",{\"room\":\"agent:1\"}]", "DENIED"),
        ("[\"subscribe\",{\"room\":\"user:bob\"}]", "DENIED"),
        ("[\"presence\",{\"room\":\"agent:1\"}]", "DENIED"),
        ("[\"subscribe\",{}]", "BAD_REQUEST"),
        ("[\"dance\"]", "UNKNOWN_COMMAND"),
    ] {
        let acked = say(&mut client, &format!("29{command}"));
        assert!(acked[0].starts_with("39[{"), "{acked:?}");
        refused(&acked[0], code);
        let unasked = say(&mut client, &format!("2{command}"));
        assert!(unasked[0].starts_with("2[\"connection.error\",{"), "{unasked:?}");
        refused(&unasked[0], code);
    }
}

#[test]
fn a_client_is_in_a_bounded_number_of_rooms() {
    let mut client = anyone(Namespace::Main);
    for room in 0..SESSION_SUBSCRIPTIONS_MAX {
        let acts = say(&mut client, &format!("2[\"subscribe\",\"project:{room}\"]"));
        assert!(acts[0].starts_with("enter"), "{acts:?}");
    }
    assert!(say(&mut client, "21[\"subscribe\",\"project:x\"]")[0].contains("TOO_MANY"));
    // One that it has it may ask for again.
    assert!(say(&mut client, "21[\"subscribe\",\"project:0\"]")[0].starts_with("enter"));
}

#[test]
fn ping_gives_back_what_it_got() {
    let mut client = anyone(Namespace::Ws);
    let pong = say(&mut client, "2/ws,[\"ping\",{\"n\":1}]");
    assert!(pong[0].starts_with("2/ws,[\"pong\",{"), "{pong:?}");
    assert!(pong[0].contains("\"data\":{\"n\":1}"), "{pong:?}");
    let pong = say(&mut client, "2/ws,3[\"ping\"]");
    assert!(pong[0].starts_with("3/ws,3[{"), "{pong:?}");
    // What nobody else could read comes back as it was.
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for odd in ["1e999", "\"\\ud800\"", &deep] {
        for id in ["", "3"] {
            let pong = say(&mut client, &format!("2/ws,{id}[\"ping\",{odd}]"));
            assert!(pong[0].contains(&format!("\"data\":{odd}}}")), "{pong:?}");
        }
    }

    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    let asked = format!("51-/ws,4[\"ping\",{placeholder}]");
    let whole = packet::bundle(&asked, [&b"\x00\xff"[..]].into_iter());
    let acts = client.receive(Received::Binary(&whole));
    let [Act::SendBinary(sent)] = &acts[..] else { panic!("{:?}", told(acts)) };
    let (text, attachments) = packet::unbundle(sent).unwrap();
    assert!(text.starts_with("61-/ws,4[{") && text.contains("_placeholder"), "{text}");
    assert_eq!(attachments, [b"\x00\xff"]);

    let asked = format!("51-/ws,5[\"publish\",{placeholder}]");
    let whole = packet::bundle(&asked, [&b"x"[..]].into_iter());
    assert!(told(client.receive(Received::Binary(&whole)))[0].contains("BAD_REQUEST"));
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    for text in ["", "9", "0/ws,", "2/ws,{}", "2/ws,[]", "2/ws,[\"connect\"]", "4/ws,{}", "2/ws"] {
        assert_eq!(say(&mut anyone(Namespace::Ws), text), ["close 1002"], "{text:?}");
    }
    assert_eq!(say(&mut anyone(Namespace::Ws), "3/ws,1[]"), ["ignore"]);
    assert_eq!(told(anyone(Namespace::Ws).receive(Received::Binary(b"x"))), ["close 1002"]);
}

#[test]
fn publishing_says_what_and_where() {
    let mut client = anyone(Namespace::Main);
    let acts = say(
        &mut client,
        "21[\"publish\",{\"type\":\"pr.created\",\"data\":{\"project_id\":1},\"exclude_self\":true}]",
    );
    for part in ["kind: \"pr.created\"", "source: \"anonymous\"", "rooms: None", "ConnectionId(10)"]
    {
        assert!(acts[0].contains(part), "{part}: {acts:?}");
    }
    let receipt = Receipt { id: "e".into(), offset: 7, rooms: vec!["global".into()] };
    for (outcome, said) in [
        (
            Ok(receipt),
            "31[{\"id\":\"e\",\"offset\":7,\"rooms\":[\"global\"],\"status\":\"success\"}]",
        ),
        (Err(PublishError::Denied), "\"code\":\"DENIED\""),
    ] {
        let text = "21[\"publish\",{\"type\":\"pr.created\"}]";
        let mut acts = client.receive(Received::Text(text));
        let Some(Act::Publish { answer, .. }) = acts.pop() else { panic!("nothing is published") };
        let answered = answer(vec![outcome]);
        assert!(answered.contains(said), "{answered}");
    }
}

#[test]
fn a_farewell_says_why_and_whether_to_come_back() {
    for (why, code, is_final) in [
        (Goodbye::Stopping(Duration::from_millis(1500)), "SERVER_STOPPING", false),
        (Goodbye::Expired, "TOKEN_EXPIRED", true),
        (Goodbye::Revoked, "REVOKED", true),
    ] {
        let mut client = anyone(Namespace::Ws);
        let (text, _) = client.goodbye(why);
        let text = text.unwrap();
        assert!(text.starts_with("2/ws,[\"connection.error\",{"), "{text}");
        assert!(text.contains(&format!("\"code\":\"{code}\"")), "{text}");
        assert_eq!(text.contains("\"reconnect_after_ms\":1500"), !is_final);
        assert_eq!(client.is_final.load(Ordering::Relaxed), is_final);
    }
}

#[test]
fn events_are_written_as_their_clients_expect_them() {
    let body = json!({"id": "e1", "type": "pr.\"x\"", "source": "ci", "data": {"a": [1]}});
    let room = Room::new("project:1").unwrap();
    let route = Route { rooms: vec![room.clone()], exclude: None };
    let entry = Entry::event(NOW_NS / 1_000_000, route, &body).unwrap();
    let logged = Logged::new(41, entry);
    let feed = Feed::new(Statuses::default(), Clock::system(), "k3".into(), 41);
    let encoder = RoomEvents::new(Namespace::Ws, room, Types::all());
    assert!(encoder.wants(&logged));

    let mut pushed = String::new();
    encoder.push(&feed, SubId(1), 0, &logged, &mut pushed);
    let packet = packet::parse(&pushed).unwrap();
    assert_eq!((packet.kind, packet.namespace), (Kind::Event, "/ws"));
    let told: Value = serde_json::from_str(packet.data).unwrap();
    let event = json!({
        "type": "pr.\"x\"", "timestamp": rfc3339(NOW_NS), "source": "ci", "data": {"a": [1]},
        "id": "e1", "offset": 41,
    });
    assert_eq!(told, json!(["pr.\"x\"", event]));

    let mut answer = "3/ws,1[".to_owned();
    encoder.resumed(&feed, SubId(1), &[(0, &logged), (41, &logged)], &mut answer);
    let packets: Vec<&str> = answer.split(SEPARATOR).collect();
    assert_eq!(packets[1..], [&*pushed, &*pushed]);
    let ack: Value = serde_json::from_str(packet::parse(packets[0]).unwrap().data).unwrap();
    assert_eq!(
        ack,
        json!([{
            "status": "success", "room": "project:1", "recovered": true, "epoch": "k3",
            "offset": 41,
        }])
    );

    let mut gap = String::new();
    encoder.gap(&feed, SubId(1), 1, 2, false, &mut gap);
    assert_eq!(gap, "", "what follows says it all");
    encoder.gap(&feed, SubId(1), 1, 2, true, &mut gap);
    assert!(gap.contains("EVENTS_LOST"), "{gap}");
}

#[test]
fn a_refused_client_is_told_in_the_place_where_it_looks() {
    assert_eq!(
        refuse("/ws", "AUTH_FAILED"),
        "4/ws,{\"data\":{\"content\":{\"code\":\"AUTH_FAILED\"}},\"message\":\"AUTH_FAILED\"}"
    );
    assert_eq!(refuse_unknown("/x"), "4/x,{\"message\":\"Invalid namespace\"}");
}
