//! RFC 6455 frame by frame: what a client may do, what closes its connection
//! and with which code. `tests/bench/autobahn` runs the full suite of the field.

mod raw;
mod stalled;

use futures_util::future::join_all;
use serde_json::{Value, json};

use self::raw::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Raw, TEXT, announced, close, frame, ping_command,
    text, unmasked,
};
use crate::harness::{Hub, within};

const NATIVE: &str = "/v1/stream";
/// The native dialect, and another.
const PATHS: [&str; 2] = [NATIVE, "/"];
/// The longest message that any dialect reads.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Each of these, sent to a hub, closes the connection with `code`, and ends it.
async fn each_closes(hub: &Hub, code: u16, cases: &[(&str, Vec<u8>)]) {
    let each = PATHS.iter().flat_map(|path| cases.iter().map(move |case| (path, case)));
    let closed = each.map(async |(path, (what, bytes))| {
        let what = format!("{what} at {path}");
        let mut client = Raw::open(hub.0, path).await;
        client.send(bytes).await;
        assert_eq!(client.closed(&what).await.0, code, "{what}");
        client
    });
    // Though their sockets are open still.
    let clients = join_all(closed).await;
    no_session_is_left(hub).await;
    drop(clients);
}

/// Waits until the hub has forgotten all clients.
async fn no_session_is_left(hub: &Hub) {
    within("all sessions to end", async {
        while hub.get_json("/healthz").await["connections"] != 0 {}
    })
    .await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_close_with_1002() {
    let hub = Hub::new().start().await;
    let command = ping_command(1, 0);
    let command = command.as_bytes();
    let part = frame(TEXT, b"{");
    let mut cases = vec![
        ("an unmasked message", unmasked(FIN | TEXT, command)),
        ("an unmasked ping", unmasked(FIN | PING, b"")),
        ("an unmasked part", [part.clone(), unmasked(FIN | CONTINUATION, b"}")].concat()),
        ("a part of a ping", frame(PING, b"a")),
        ("a part of a pong", frame(PONG, b"a")),
        ("a part of a close frame", frame(CLOSE, &1000_u16.to_be_bytes())),
        ("a ping of 126 bytes", frame(FIN | PING, &[0; 126])),
        ("a pong of 126 bytes", frame(FIN | PONG, &[0; 126])),
        ("a close frame of 126 bytes", close(1000, &[b'a'; 124])),
        ("a continuation of nothing", frame(CONTINUATION, b"a")),
        ("the end of nothing", frame(FIN | CONTINUATION, b"a")),
        ("a message after the end", [text("{}"), frame(FIN | CONTINUATION, b"a")].concat()),
        ("text within a message", [part.clone(), text("{}")].concat()),
        ("a part of text within a message", [part.clone(), part.clone()].concat()),
        ("binary within a message", [part, frame(FIN | BINARY, b"a")].concat()),
    ];
    for bit in [0x40, 0x20, 0x10] {
        cases.push(("a reserved bit of a message", frame(FIN | bit | TEXT, command)));
        cases.push(("a reserved bit of a ping", frame(FIN | bit | PING, b"")));
    }
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        cases.push(("a reserved opcode", frame(FIN | opcode, b"")));
        cases.push(("a reserved opcode with a payload", frame(FIN | opcode, b"abc")));
    }
    each_closes(&hub, 1002, &cases).await;
}

#[tokio::test]
async fn close_frames_that_no_endpoint_may_send_close_with_1002() {
    let hub = Hub::new().start().await;
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, u16::MAX];
    let mut cases = vec![("half a close code", frame(FIN | CLOSE, &[3]))];
    cases.extend(codes.map(|code| ("a close code that isn't one", close(code, b"because"))));
    each_closes(&hub, 1002, &cases).await;
}

#[tokio::test]
async fn text_that_is_not_utf_8_closes_with_1007() {
    let hub = Hub::new().start().await;
    let whole = |bytes: &[u8]| frame(FIN | TEXT, bytes);
    let parts =
        |parts: [&[u8]; 2]| [frame(TEXT, parts[0]), frame(FIN | CONTINUATION, parts[1])].concat();
    let cases = [
        ("a byte that never occurs", whole(b"\"\xff\"")),
        ("a continuation byte alone", whole(b"\"\x80\"")),
        ("an overlong form", whole(b"\"\xc0\xaf\"")),
        ("a surrogate", whole(b"\"\xed\xa0\x80\"")),
        ("beyond the last character", whole(b"\"\xf4\x90\x80\x80\"")),
        ("half a character at the end", whole(b"\"\xe2\x82")),
        ("half a character at the end of all parts", parts([b"\"", b"\xe2\x82"])),
        ("a broken character over two parts", parts([b"\"\xe2\x82", b"\x28\""])),
        ("an invalid first part", parts([b"\"\xff", b"\""])),
        ("a close reason", close(1000, b"\xff")),
        ("half a character in a close reason", close(1000, b"because \xe2\x82")),
    ];
    each_closes(&hub, 1007, &cases).await;
}

#[tokio::test]
async fn a_character_may_be_split_over_parts() {
    let hub = Hub::new().start().await;
    let mut client = Raw::open(hub.0, NATIVE).await;
    let command = r#"{"id":"€𝄞","op":"ping"}"#.as_bytes();
    for cut in 0..=command.len() {
        let (first, rest) = command.split_at(cut);
        client.send(&frame(TEXT, first)).await;
        client.send(&frame(FIN | CONTINUATION, rest)).await;
        assert_eq!(client.reply().await, json!({"id": "€𝄞", "ok": {}}), "cut at {cut}");
    }
    client.send(&frame(TEXT, &[])).await;
    for byte in command {
        client.send(&frame(CONTINUATION, &[*byte])).await;
    }
    client.send(&frame(FIN | CONTINUATION, &[])).await;
    assert_eq!(client.reply().await, json!({"id": "€𝄞", "ok": {}}));
}

#[tokio::test]
async fn a_frame_that_announces_more_than_the_limit_closes_with_1009() {
    let hub = Hub::new().start().await;
    let beyond = MESSAGE_BYTES_MAX as u64 + 1;
    let sizes = [beyond, 1 << 24, 1 << 31, 1 << 32, 1 << 62, i64::MAX as u64, 1 << 63, u64::MAX];
    let cases: Vec<_> = sizes
        .into_iter()
        .flat_map(|size| {
            let part = [frame(TEXT, b"{"), announced(CONTINUATION, size)].concat();
            let [whole, first] = [FIN | TEXT, TEXT].map(|kind| announced(kind, size));
            [("a long message", whole), ("a long first part", first), ("a long part", part)]
        })
        .collect();
    each_closes(&hub, 1009, &cases).await;
}

#[tokio::test]
async fn parts_that_add_up_to_more_than_the_limit_close_with_1009() {
    let hub = Hub::new().start().await;
    let full = frame(TEXT, &[b' '; MESSAGE_BYTES_MAX]);
    let short = frame(CONTINUATION, &[b' '; 1024]);
    let cases = [
        ("a last part too many", [full.clone(), frame(FIN | CONTINUATION, b" ")].concat()),
        ("a part too many", [full.clone(), frame(CONTINUATION, b" ")].concat()),
        ("two long parts", [full, frame(CONTINUATION, &[b' '; MESSAGE_BYTES_MAX])].concat()),
        ("many short parts", [frame(TEXT, b" "), short.repeat(MESSAGE_BYTES_MAX / 1024)].concat()),
    ];
    each_closes(&hub, 1009, &cases).await;
}

#[tokio::test]
async fn what_is_at_the_limit_is_understood_whole_and_in_parts() {
    let hub = Hub::new().start().await;
    let mut client = Raw::open(hub.0, NATIVE).await;
    let command = ping_command(1, MESSAGE_BYTES_MAX);
    client.send(&text(&command)).await;
    assert_eq!(client.reply().await, json!({"id": 1, "ok": {}}));
    for part_bytes in [7, 125, 126, 1024, MESSAGE_BYTES_MAX / 2, MESSAGE_BYTES_MAX - 1] {
        let parts: Vec<_> = command.as_bytes().chunks(part_bytes).collect();
        let last = parts.len() - 1;
        for (n, part) in parts.into_iter().enumerate() {
            let opcode = if n == 0 { TEXT } else { CONTINUATION };
            client.send(&frame(opcode | if n == last { FIN } else { 0 }, part)).await;
        }
        assert_eq!(client.reply().await, json!({"id": 1, "ok": {}}), "parts of {part_bytes}");
    }
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let hub = Hub::new().start().await;
    for path in PATHS {
        let mut client = Raw::open(hub.0, path).await;
        for bytes in 0..=125_u8 {
            let payload: Vec<u8> = (0..bytes).map(|n| n ^ 0xa5).collect();
            client.send(&frame(FIN | PING, &payload)).await;
            assert_eq!(client.pong().await, payload, "{path}");
        }
    }
}

#[tokio::test]
async fn a_pong_that_nobody_asked_for_is_no_matter() {
    let hub = Hub::new().start().await;
    let mut client = Raw::open(hub.0, NATIVE).await;
    client.send(&frame(FIN | PONG, b"unasked")).await;
    client.send(&frame(FIN | PONG, b"")).await;
    client.send(&text(&ping_command(1, 0))).await;
    let next = client.next("the reply and nothing before it").await.unwrap();
    assert_eq!(next.json(), json!({"id": 1, "ok": {}}));
}

#[tokio::test]
async fn a_ping_between_the_parts_of_a_message_is_answered_before_it_is_whole() {
    let hub = Hub::new().start().await;
    let mut client = Raw::open(hub.0, NATIVE).await;
    let command = ping_command(1, 0);
    for (n, part) in command.as_bytes().chunks(5).enumerate() {
        let opcode = if n == 0 { TEXT } else { CONTINUATION };
        client.send(&frame(opcode, part)).await;
        let payload = [u8::try_from(n).unwrap(); 3];
        client.send(&frame(FIN | PING, &payload)).await;
        let next = client.next("the pong and nothing before it").await.unwrap();
        assert_eq!((next.opcode, &*next.payload), (PONG, &payload[..]));
        client.send(&frame(FIN | PONG, b"unasked")).await;
    }
    client.send(&frame(FIN | CONTINUATION, b"")).await;
    assert_eq!(client.reply().await, json!({"id": 1, "ok": {}}));
}

#[tokio::test]
async fn a_close_frame_between_the_parts_of_a_message_closes() {
    let hub = Hub::new().start().await;
    let mut client = Raw::open(hub.0, NATIVE).await;
    client.send(&frame(TEXT, b"{\"id\":1,")).await;
    client.send(&close(1000, b"done")).await;
    assert_eq!(client.closed("its close frame").await.0, 1000);
}

#[tokio::test]
async fn frames_are_understood_byte_by_byte_and_many_at_once() {
    let hub = Hub::new().start().await;
    let commands = |ids: std::ops::Range<u64>, bytes: usize| {
        ids.flat_map(move |id| text(&ping_command(id, bytes))).collect::<Vec<_>>()
    };
    // Each of the three forms of a length.
    for (bytes, at_once) in [(0, 50), (126, 50), (0x1_0000, 3)] {
        let mut client = Raw::open(hub.0, NATIVE).await;
        client.send(&commands(0..at_once, bytes)).await;
        for id in 0..at_once {
            assert_eq!(client.reply().await, json!({"id": id, "ok": {}}), "of {bytes} bytes");
        }
    }
    let mut client = Raw::open(hub.0, NATIVE).await;
    let mut frames = commands(0..2, 0);
    frames.extend(frame(FIN | PING, b"between"));
    frames.extend(commands(2..3, 200));
    for byte in frames {
        client.send(&[byte]).await;
        // Has left before the next is written.
        tokio::task::yield_now().await;
    }
    for id in 0..3 {
        if id == 2 {
            assert_eq!(client.pong().await, b"between");
        }
        assert_eq!(client.reply().await, json!({"id": id, "ok": {}}));
    }
}

#[tokio::test]
async fn what_came_with_commands_that_take_long_is_answered_too() {
    let hub = Hub::new().start().await;
    // Of each length, so that buffers of any size end within the last of them.
    for bytes in 60..124 {
        let mut client = Raw::open(hub.0, NATIVE).await;
        let history = json!({"id": 1, "op": "history", "series": 1}).to_string();
        let blanks = " ".repeat(bytes - history.len());
        let mut commands = text(&(history + &blanks)).repeat(32);
        commands.extend(text(&ping_command(2, 0)));
        client.send(&commands).await;
        let (mut histories, mut pings) = (0, 0);
        while histories < 32 || pings < 1 {
            match client.reply().await["id"].as_u64() {
                Some(1) => histories += 1,
                _ => pings += 1,
            }
        }
    }
}

#[tokio::test]
async fn who_reads_only_after_it_has_asked_gets_every_answer_in_order() {
    const COMMANDS: u32 = 60_000;
    let limits = format!("[limits]\nmessages_burst = {COMMANDS}\n");
    let hub = Hub::new().configured(&limits).start().await;
    let mut pace = hub.ticks().await;
    let mut client = Raw::open_with_little_room(hub.0, NATIVE).await;
    // The answers are more than the system holds for a client.
    let command = |n| format!(r#"{{"id":"{n:0>60}","op":"ping"}}"#);
    let commands: Vec<u8> = (0..COMMANDS).flat_map(|n| text(&command(n))).collect();
    let asked = client.send_beside(commands);
    for _ in 0..20 {
        pace.next_push().await;
    }
    for n in 0..COMMANDS {
        let reply = client.next("a reply").await.unwrap().json();
        assert_eq!(reply, json!({"id": format!("{n:0>60}"), "ok": {}}));
    }
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn frames_in_the_packet_of_the_handshake_are_not_lost() {
    let hub = Hub::new().start().await;
    let command = text(&ping_command(1, 0));
    for cut in [command.len(), 1, 5, command.len() - 1] {
        let mut client = Raw::open_with(hub.0, NATIVE, &command[..cut]).await;
        client.send(&command[cut..]).await;
        assert_eq!(client.reply().await, json!({"id": 1, "ok": {}}), "cut at {cut}");
    }
    let many = [command.clone(), frame(FIN | PING, b"early"), command].concat();
    let mut client = Raw::open_with(hub.0, NATIVE, &many).await;
    assert_eq!(client.reply().await["id"], 1);
    assert_eq!(client.pong().await, b"early");
    assert_eq!(client.reply().await["id"], 1);
    // More than the head of a request may have.
    let long = text(&ping_command(2, MESSAGE_BYTES_MAX));
    let mut client = Raw::open_with(hub.0, NATIVE, &long).await;
    assert_eq!(client.reply().await["id"], 2);
    for path in PATHS {
        let mut client = Raw::open_with(hub.0, path, &unmasked(FIN | TEXT, b"{}")).await;
        assert_eq!(client.closed("an unmasked first frame").await.0, 1002);
    }
}

#[tokio::test]
async fn a_close_frame_is_answered_with_its_code() {
    let hub = Hub::new().start().await;
    for path in PATHS {
        for code in [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
            let mut client = Raw::open(hub.0, path).await;
            client.send(&text(&ticks().to_string())).await;
            client.send(&close(code, b"done")).await;
            assert_eq!(client.closed("a close frame").await.0, code, "{path}");
        }
        let mut client = Raw::open(hub.0, path).await;
        client.send(&frame(FIN | CLOSE, b"")).await;
        assert_eq!(client.closed("a close frame without a code").await.0, 1005, "{path}");
    }
    no_session_is_left(&hub).await;
}

#[tokio::test]
async fn nothing_is_answered_after_a_close_frame() {
    let hub = Hub::new().start().await;
    for path in PATHS {
        let mut client = Raw::open(hub.0, path).await;
        let commands = [text(&ping_command(1, 0)), frame(FIN | PING, b"")].concat();
        client.send(&[close(1000, b""), commands].concat()).await;
        loop {
            let frame = client.next("an answer to the close frame").await.unwrap();
            match frame.opcode {
                CLOSE => break,
                TEXT => assert_eq!(frame.json().get("id"), None, "{frame:?}"),
                _ => panic!("{frame:?}"),
            }
        }
        client.end("the answer to the close frame").await;
    }
}

#[tokio::test]
async fn who_goes_on_sending_still_reads_why_it_was_closed() {
    let hub = Hub::new().start().await;
    let more: Vec<u8> = (0..2000).flat_map(|id| text(&ping_command(id, 500))).collect();
    for (what, broken, code) in [
        ("an unmasked frame", unmasked(FIN | TEXT, b"{}"), 1002),
        ("not UTF-8", frame(FIN | TEXT, b"\xff"), 1007),
        ("a long message", announced(FIN | TEXT, 1 << 40), 1009),
        ("a binary message", frame(FIN | BINARY, b"{}"), 1003),
    ] {
        let mut client = Raw::open(hub.0, NATIVE).await;
        client.send(&[broken, more.clone()].concat()).await;
        assert_eq!(client.close_frame(what).await.0, code, "{what}");
        client.end(what).await;
    }
    no_session_is_left(&hub).await;
}

#[tokio::test]
async fn who_answers_a_close_frame_is_let_go_like_who_does_not() {
    let hub = Hub::new().start().await;
    for path in PATHS {
        let mut client = Raw::open(hub.0, path).await;
        client.send(&unmasked(FIN | TEXT, b"{}")).await;
        assert_eq!(client.close_frame("an unmasked frame").await.0, 1002);
        client.send(&close(1002, b"")).await;
        client.end("the answer").await;
        // Its own half of the connection is open still.
        no_session_is_left(&hub).await;
        drop(client);
    }
}

/// A subscription with little in its pushes, at every tick.
fn ticks() -> Value {
    let filter = json!({"name": "telltale.tick.lateness"});
    json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": filter})
}
