//! Who may publish what, where clients have to say who they are.

use serde_json::{Value, json};
use telltale::access::Issuer;

use super::{command, history_as, post, text};
use crate::harness::{Hub, Setup};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn guarded() -> Setup {
    let hook = "[hooks.github]\nsecret = \"it is a secret to everybody\"";
    Hub::new().configured(&format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\n{hook}\n"))
}

fn token(claims: &Value) -> String {
    let exp = jiff::Timestamp::now().as_second() + 3600;
    let mut all = json!({"sub": "ci", "exp": exp});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&all).unwrap()
}

#[tokio::test]
async fn a_token_says_which_types_go_to_which_rooms() {
    let hub = guarded().start().await;
    let publisher = token(&json!({"rooms": ["project:42"], "publish": ["pr.*"]}));
    let anywhere = token(&json!({"publish": [{"types": ["pr.*"], "rooms": ["*"]}]}));
    let reader = token(&json!({"rooms": ["project:42"]}));
    let to = |room: &str, kind: &str| json!({"type": kind, "rooms": [room]});
    let pr = json!({"type": "pr.created", "data": {"project_id": 42}});
    let acting = json!({"type": "pr.created", "data": {"project_id": 42, "user_id": "ana"}});
    for (token, event, status) in [
        (None, &pr, 401),
        (Some("nonsense"), &pr, 401),
        (Some(&*reader), &pr, 403),
        (Some(&*publisher), &pr, 200),
        (Some(&*publisher), &to("project:42", "pr.closed"), 200),
        (Some(&*publisher), &to("project:42", "issue.closed"), 403),
        (Some(&*publisher), &to("project:43", "pr.closed"), 403),
        (Some(&*publisher), &to("user:ana", "pr.closed"), 403),
        // Also where its data leads.
        (Some(&*publisher), &acting, 403),
        (Some(&*anywhere), &acting, 200),
        (Some(&*hub.file.admin_token), &acting, 200),
    ] {
        let headers =
            token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let answer = post(&hub, "/v1/events", &headers, event.to_string()).await;
        assert_eq!(answer.status, status, "{event} {answer:?}");
        let path = format!("/v1/events?token={}", token.unwrap_or_default());
        let answer = post(&hub, &path, "", event.to_string()).await;
        assert_eq!(answer.status, status, "in the query: {event} {answer:?}");
    }
    let path = "/v1/rooms/project:42/events";
    for (token, status) in [(None, 401), (Some(&*anywhere), 403), (Some(&*reader), 200)] {
        assert_eq!(hub.ask("GET", path, token).await.status, status);
    }
    assert_eq!(history_as(&hub, "project:42", &reader).await.len(), 8);
}

#[tokio::test]
async fn of_a_batch_what_is_allowed_is_published() {
    let hub = guarded().start().await;
    let publisher = token(&json!({"rooms": ["project:42"], "publish": ["pr.*"]}));
    let events = json!({"events": [
        {"type": "pr.created", "rooms": ["project:42"]},
        {"type": "pr.created", "rooms": ["project:43"]},
    ]});
    let headers = format!("Authorization: Bearer {publisher}\r\n");
    let told = post(&hub, "/v1/events", &headers, events.to_string()).await.json();
    assert_eq!(told["events"][0]["rooms"], json!(["project:42"]));
    assert_eq!(told["events"][1]["error"]["code"], "denied");
    let mut client = hub.native_with(&publisher).await;
    let told = client.ok(json!({"op": "publish", "events": events["events"]})).await;
    assert_eq!(told["events"][1]["error"]["code"], "denied");
}

#[tokio::test]
async fn keys_of_one_user_are_not_those_of_another() {
    let hub = guarded().start().await;
    let publish = json!({"rooms": ["project:*"], "publish": ["*"]});
    let mut ids = Vec::new();
    for user in ["ana", "bob", "ana"] {
        let mut claims = publish.clone();
        claims["sub"] = json!(user);
        let headers =
            format!("Authorization: Bearer {}\r\nIdempotency-Key: same\r\n", token(&claims));
        let event = json!({"type": "a.b", "source": "x", "rooms": ["project:1"]});
        let answer = post(&hub, "/v1/events", &headers, event.to_string()).await;
        ids.push(answer.json()["id"].clone());
    }
    assert!(ids[0] == ids[2] && ids[0] != ids[1], "{ids:?}");
}

#[tokio::test]
async fn only_who_may_write_much_may_send_much() {
    let hub = guarded().start().await;
    let publisher = token(&json!({"publish": ["pr.*"]}));
    let owner = token(&json!({"rooms": ["*"]}));
    let reader = token(&json!({"layouts": {"read": ["*"]}}));
    let sizes = [(&reader, 64 * 1024), (&owner, 260 * 1024), (&publisher, 1024 * 1024)];
    for (token, bytes) in sizes {
        let mut client = hub.native().await;
        let terms = client.ok(json!({"op": "connect", "token": token})).await;
        assert_eq!(terms["message_bytes_max"], bytes);
        // The longest command, and one byte more.
        let ping = "{\"id\":1,\"op\":\"ping\"}";
        client.send(format!("{ping}{}", " ".repeat(bytes - ping.len()))).await;
        assert!(client.reply().await.get("ok").is_some());
        client.send(" ".repeat(bytes + 1)).await;
        assert_eq!(client.socket.closed().await.0, 1009);
    }
    let mut stranger = hub.native().await;
    stranger.send(" ".repeat(64 * 1024 + 1)).await;
    assert_eq!(stranger.socket.closed().await.0, 1009);
}

#[tokio::test]
async fn the_command_has_the_hubs_token_or_somebodys() {
    let hub = guarded().start().await;
    assert!(command(&hub, &["a.b"], "").await.status.success());
    let publisher = token(&json!({"rooms": ["project:42"], "publish": ["pr.*"]}));
    std::fs::write(hub.path().join("token"), format!("{publisher}\n")).unwrap();
    let as_somebody = ["--room", "project:42", "--token", "@token"];
    let arguments = |kind| [&[kind], &as_somebody[..]].concat();
    let output = command(&hub, &arguments("pr.created"), "").await;
    assert!(output.status.success(), "{output:?}");
    let output = command(&hub, &arguments("a.b"), "").await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "telltale: this token does not allow it\n");
}

#[tokio::test]
async fn a_webhook_needs_no_token_but_its_signature() {
    let hub = guarded().start().await;
    let answer = post(&hub, "/webhooks/github", "", "{}").await;
    assert_eq!(answer.json()["error"]["reason"], "the delivery was refused");
    let answer = super::hooks::deliver(&hub, "ping", "d-1", &json!({})).await;
    assert_eq!(answer.status, 200);
}
