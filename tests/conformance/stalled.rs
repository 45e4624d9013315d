//! Peers that stop half-way: within a frame, with one half of the connection,
//! or with reading. Nobody waits for them, and what is kept for them is bounded.

use std::time::Duration;

use serde_json::{Value, json};

use super::raw::{CLOSE, FIN, PING, PONG, Raw, TEXT, close, frame, ping_command, text, unmasked};
use super::{NATIVE, PATHS, no_session_is_left, ticks};
use crate::harness::{Hub, Setup};
use crate::native::follows;
use rustix::process::Signal;

/// Within this a connection is found to be half-closed: the hub would find out
/// by its own ping only after 50 s.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(20);
/// What one client of a flood sends unless it is stopped.
const FLOOD_BYTES: usize = 16 << 20;
/// What the hub may keep for all clients of a flood together: the system's
/// buffers are not in it.
const FLOOD_KEPT_MAX: u64 = 8 << 20;
/// Who can't write for so long has been stopped.
const FLOOD_PATIENCE: Duration = Duration::from_secs(3);

/// A hub whose pushes are far longer than what a client with little room holds.
fn wide() -> Setup {
    Hub::new().plugin("wide", "guest_collector", "[config]\nseries = 4000\n")
}

fn subscribe_wide() -> Value {
    let filter = json!({"name": "guest.*"});
    json!({"id": 1, "op": "subscribe", "channel": "metrics", "filter": filter})
}

#[tokio::test]
async fn who_stops_within_a_frame_is_served_on_and_may_finish_it() {
    let hub = Hub::new().start().await;
    // A head of eight bytes, and a body.
    let command = text(&ping_command(2, 300));
    let mut clients = Vec::new();
    for cut in [1, 2, 3, 4, 7, 8, 9, 150, command.len() - 1] {
        let mut client = Raw::open(hub.0, NATIVE).await;
        client.ok(&ticks()).await;
        client.send(&command[..cut]).await;
        clients.push((client, cut));
    }
    for _ in 0..3 {
        for (client, _) in &mut clients {
            client.push().await;
        }
    }
    for (client, cut) in &mut clients {
        client.send(&command[*cut..]).await;
        assert_eq!(client.reply().await, json!({"id": 2, "ok": {}}), "cut at {cut}");
    }
}

#[tokio::test]
async fn who_has_stopped_within_a_frame_does_not_hold_up_the_hubs_end() {
    let hub = Hub::new().start().await;
    let command = text(&ping_command(2, 300));
    let mut clients = Vec::new();
    for path in PATHS {
        for cut in [1, 5, 100] {
            let client = Raw::open(hub.0, path).await;
            client.send(&command[..cut]).await;
            clients.push((client, path));
        }
    }
    let stopped = hub.stop_with(Signal::TERM);
    let farewells = async {
        for (client, path) in &mut clients {
            let wanted = if *path == NATIVE { 3001 } else { 1001 };
            assert_eq!(client.close_frame("a farewell").await.0, wanted);
            client.end("the farewell").await;
        }
    };
    let ((status, _), ()) = tokio::join!(stopped, farewells);
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn who_sends_no_more_is_let_go_at_once() {
    let hub = Hub::new().start().await;
    let part = text(&ping_command(2, 300));
    let cases: [(&str, &[u8]); 3] =
        [("nothing", &[]), ("a part of a head", &part[..1]), ("a part of a body", &part[..100])];
    for path in PATHS {
        for (what, bytes) in cases {
            let mut client = Raw::open(hub.0, path).await;
            client.send(&text(&ticks().to_string())).await;
            client.send(bytes).await;
            client.send_no_more();
            let ended = async { while client.next("the end").await.is_some() {} };
            let ended = tokio::time::timeout(HALF_CLOSED_MAX, ended).await;
            assert!(ended.is_ok(), "after {what} at {path}");
            // Its own half is the hub's to close, not the client's.
            no_session_is_left(&hub).await;
            drop(client);
        }
    }
}

#[tokio::test]
async fn who_breaks_off_is_forgotten_at_once() {
    let hub = wide().start().await;
    let mut pace = hub.ticks().await;
    for path in PATHS {
        for ticks in [0, 5] {
            let client = Raw::open_with_little_room(hub.0, path).await;
            client.send(&text(&subscribe_wide().to_string())).await;
            client.send(&text(&ping_command(2, 300))[..100]).await;
            for _ in 0..ticks {
                pace.next_push().await;
            }
            client.break_off();
        }
    }
    drop(pace);
    no_session_is_left(&hub).await;
}

#[tokio::test]
async fn a_flood_whose_answers_nobody_reads_costs_nobody_anything() {
    let hub = Hub::new().start().await;
    let mut watcher = hub.ticks().await;
    let mut tick = watcher.next_push().await["tick"].as_u64().unwrap();
    let before = hub.program.resident_bytes();

    let ping = frame(FIN | PING, &[b'p'; 125]);
    let mut floods = Vec::new();
    for (path, question) in [
        (NATIVE, ping.clone()),
        (NATIVE, text(&ping_command(1, 0))),
        ("/", ping),
        ("/", text(r#"{"type":"ping"}"#)),
    ] {
        let client = Raw::open_with_little_room(hub.0, path).await;
        let questions = question.repeat(64);
        floods.push(tokio::spawn(async move {
            let mut sent = 0;
            while sent < FLOOD_BYTES && client.offer(&questions, FLOOD_PATIENCE).await {
                sent += questions.len();
            }
            client
        }));
    }
    let mut peak = before;
    while !floods.iter().all(tokio::task::JoinHandle::is_finished) {
        tick = follows(tick, &watcher.next_push().await);
        peak = peak.max(hub.program.resident_bytes());
    }
    for _ in 0..5 {
        tick = follows(tick, &watcher.next_push().await);
        peak = peak.max(hub.program.resident_bytes());
    }
    let kept = peak - before;
    assert!(kept <= FLOOD_KEPT_MAX, "{} KiB are kept for four clients", kept >> 10);
    // They are still connected, unless the hub has thrown them out.
    for flood in floods {
        drop(flood.await.unwrap());
    }
}

#[tokio::test]
async fn who_reads_slowly_gets_whole_frames_in_order_with_pongs_between() {
    let hub = wide().start().await;
    let mut pace = hub.ticks().await;
    let mut client = Raw::open_with_little_room(hub.0, NATIVE).await;
    client.send(&text(&subscribe_wide().to_string())).await;
    let mut frames = Vec::new();
    let mut pings = 0_u32;
    // Less than a push has at each tick, so that the hub can't send all it has.
    for _ in 0..30 {
        pace.next_push().await;
        client.send(&frame(FIN | PING, &pings.to_be_bytes())).await;
        pings += 1;
        frames.extend(client.sip(16 * 1024).await);
    }
    let last = pings.to_be_bytes();
    client.send(&frame(FIN | PING, &last)).await;
    let mut answered = false;
    while !answered || frames.last().is_none_or(|frame| frame.opcode != TEXT) {
        let frame = client.next("the last pong, and a push after it").await.unwrap();
        answered |= frame.opcode == PONG && frame.payload == last;
        frames.push(frame);
    }

    let mut replies = 0;
    let mut tick = None;
    let mut pongs = Vec::new();
    for frame in &frames {
        match frame.opcode {
            PONG => pongs.push(u32::from_be_bytes(*frame.payload.first_chunk().unwrap())),
            TEXT => {
                let message = frame.json();
                match (tick, message.get("ok")) {
                    (None, Some(ok)) => {
                        replies += 1;
                        tick = ok["snapshot"]["tick"].as_u64();
                    }
                    (Some(last), None) => tick = Some(follows(last, &message)),
                    _ => panic!("{message}"),
                }
            }
            _ => panic!("{frame:?}"),
        }
    }
    assert_eq!(replies, 1);
    // Only the newest of several pings has to be answered.
    assert!(pongs.is_sorted_by(|a, b| a < b), "{pongs:?}");
}

#[tokio::test]
async fn who_never_reads_cannot_stay_after_it_was_closed() {
    let hub = wide().start().await;
    let mut pace = hub.ticks().await;
    let mut clients = Vec::new();
    for said in [unmasked(FIN | TEXT, b"{}"), close(1000, b""), frame(FIN | CLOSE, &[3])] {
        let client = Raw::open_with_little_room(hub.0, NATIVE).await;
        client.send(&text(&subscribe_wide().to_string())).await;
        clients.push((client, said));
    }
    // What they are sent fills what holds it.
    let mut tick = pace.next_push().await["tick"].as_u64().unwrap();
    for _ in 0..100 {
        tick = follows(tick, &pace.next_push().await);
    }
    for (client, said) in &mut clients {
        // An error means that the hub has done with it already.
        client.offer(said, FLOOD_PATIENCE).await;
    }
    drop(pace);
    no_session_is_left(&hub).await;
    drop(clients);
}
