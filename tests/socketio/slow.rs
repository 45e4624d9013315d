//! Clients that take nothing, or too little.

use serde_json::json;

use super::protocol::Client;
use super::{guarded, ready, token};
use crate::harness::{Socket, within};

const EVENTS: u64 = 200;

#[tokio::test]
async fn a_client_that_was_slow_gets_everything_once_and_in_order() {
    let hub = ready(guarded()).await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let mut slow = Client::over(Socket::connect_with_little_room(hub.0, path).await).await;
    slow.join("/", &token("ana")).await;
    slow.ask("subscribe", &json!({"room": "project:1"})).await;
    let mut publisher = Client::enter(&hub, "/ws", &token("ci")).await;
    // More than fit into a transport.
    let long = "x".repeat(20_000);
    for n in 0..EVENTS {
        let data = json!({"n": n, "long": long});
        let event = json!({"type": "pr.created", "data": data, "rooms": ["project:1"]});
        assert_eq!(publisher.ask("publish", &event).await["status"], "success");
    }
    for n in 0..EVENTS {
        let event = slow.event().await;
        assert_eq!(event[1]["data"]["n"], n, "in order and each once");
    }
    assert_eq!(slow.ask("ping", &json!(1)).await["data"], 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_and_forgotten() {
    let hub = ready(guarded()).await;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let mut stuck = Client::over(Socket::connect_with_little_room(hub.0, path).await).await;
    stuck.join("/", &token("ana")).await;
    stuck.ask("subscribe", &json!({"room": "project:1"})).await;
    let mut publisher = Client::enter(&hub, "/ws", &token("ci")).await;
    let long = "x".repeat(200_000);
    within("the stuck client to be gone", async {
        for n in 0.. {
            let data = json!({"n": n, "long": long});
            let event = json!({"type": "pr.created", "data": data, "rooms": ["project:1"]});
            assert_eq!(publisher.ask("publish", &event).await["status"], "success");
            let room = json!({"room": "project:1"});
            if publisher.ask("presence", &room).await["users"] == json!([]) {
                return;
            }
            tokio::time::sleep(super::LOOK_EVERY * 10).await;
        }
    })
    .await;
}
