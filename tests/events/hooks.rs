//! GitHub's webhooks, as GitHub sends them.

use std::fs;

use ring::hmac;
use serde_json::{Value, json};

use super::{history, in_rooms, post};
use crate::harness::{Answer, Door, Hub, Setup};

const SECRET: &str = "it is a secret to everybody";

fn signature(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Delivers as GitHub does.
pub(super) async fn deliver(door: &Door, event: &str, id: &str, payload: &Value) -> Answer {
    let body = payload.to_string();
    let headers = headers(event, id, &signature(SECRET, &body));
    post(door, "/webhooks/github", &headers, body).await
}

fn headers(event: &str, id: &str, signature: &str) -> String {
    format!(
        "User-Agent: GitHub-Hookshot/2c8cf32\r\nContent-Type: application/json\r\n\
         X-GitHub-Event: {event}\r\nX-GitHub-Delivery: {id}\r\nX-Hub-Signature-256: {signature}\r\n"
    )
}

fn setup(more: &str) -> Setup {
    let setup = Hub::new();
    let config = format!(
        "[hooks.github]\nsecret = {SECRET:?}\n{more}\n[hooks.github.projects]\n\
         \"octocat/Hello-World\" = \"42\"\n[hooks.github.users]\nhubot = \"ana\"\n"
    );
    fs::write(setup.path().join("telltale.toml"), config).unwrap();
    setup
}

fn issue(action: &str) -> Value {
    json!({
        "action": action,
        "issue": {
            "id": 444_500_041, "number": 1, "state": "open", "title": "Spelling error",
            "html_url": "https://github.com/octocat/Hello-World/issues/1", "body": "In the README.",
            "user": {"login": "octocat"}, "labels": [{"name": "bug"}], "assignee": null,
        },
        "repository": {
            "name": "Hello-World", "full_name": "octocat/Hello-World",
            "html_url": "https://github.com/octocat/Hello-World",
        },
        "sender": {"login": "hubot"},
    })
}

#[tokio::test]
async fn a_delivery_is_one_event_however_often_it_comes() {
    let hub = setup("").start().await;
    let mut client = in_rooms(&hub, &["project:42"]).await;
    let answer = deliver(&hub, "issues", "d-1", &issue("opened")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt = answer.json();
    assert_eq!(receipt["rooms"], json!(["project:42", "user:ana"]));
    let push = client.next_push().await;
    assert_eq!(push["offset"], receipt["offset"]);
    let entry = &push["entry"];
    assert_eq!((&entry["type"], &entry["source"]), (&json!("issue.created"), &json!("github")));
    let data = &entry["data"];
    assert_eq!((&data["project_id"], &data["title"]), (&json!("42"), &json!("Spelling error")));
    // Delivered again, also to a hub that has crashed meanwhile, it is the same.
    assert_eq!(deliver(&hub, "issues", "d-1", &issue("opened")).await.json(), receipt);
    let hub = hub.kill().start().await;
    assert_eq!(deliver(&hub, "issues", "d-1", &issue("opened")).await.json(), receipt);
    assert_eq!(deliver(&hub, "issues", "d-2", &issue("closed")).await.status, 200);
    let kept = history(&hub, "project:42").await;
    let kinds: Vec<_> = kept.iter().map(|kept| kept["entry"]["type"].clone()).collect();
    assert_eq!(kinds, ["issue.created", "issue.closed"]);
}

#[tokio::test]
async fn what_is_not_signed_is_refused_without_a_word() {
    let hub = setup("").start().await;
    let body = issue("opened").to_string();
    let good = signature(SECRET, &body);
    let of = |signature: &str| headers("issues", "d-1", signature);
    for (headers, body) in [
        (of(&signature("another secret than that", &body)), body.clone()),
        (of(&good), body.replace("opened", "closed")),
        (of(&good.replace("sha256", "sha1")), body.clone()),
        (of(""), body.clone()),
        (of(&good).replace("X-Hub-Signature-256", "X-Hub-Signature"), body.clone()),
        (format!("{}X-Hub-Signature-256: {good}\r\n", of(&good)), body.clone()),
        (of(&good), "x".repeat(100_000)),
    ] {
        let answer = post(&hub, "/v1/hooks/github", &headers, body).await;
        assert_eq!(answer.status, 401, "{headers}");
        assert_eq!(answer.json()["error"]["reason"], "the delivery was refused");
    }
    let answer = post(&hub, "/v1/hooks/github", &of(&good), "x".repeat(5 * 1024 * 1024 + 1)).await;
    assert_eq!(answer.status, 413);
    assert!(history(&hub, "project:42").await.is_empty());
    // The same with the right signature is an event.
    assert_eq!(post(&hub, "/v1/hooks/github", &of(&good), body).await.status, 200);
}

#[tokio::test]
async fn what_is_no_event_is_answered_all_the_same() {
    let hub = setup("").start().await;
    let ping = deliver(&hub, "ping", "d-1", &json!({"zen": "Design for failure."})).await;
    assert_eq!((ping.status, ping.json()), (200, json!({"pong": true})));
    let star = deliver(&hub, "star", "d-2", &json!({"action": "created"})).await;
    assert_eq!((star.status, star.json()), (200, json!({"ignored": "star"})));
    let broken = deliver(&hub, "issues", "d-3", &json!({"action": "opened"})).await;
    assert_eq!(broken.status, 422);
    assert!(broken.body.contains("missing field `issue`"), "{broken:?}");
    assert_eq!(hub.get("/v1/hooks/github").await.status, 405);
}

#[tokio::test]
async fn two_secrets_are_good_while_one_is_replaced() {
    let setup = Hub::new();
    let config = "[hooks.github]\nsecret_file = \"secrets\"\n";
    fs::write(setup.path().join("telltale.toml"), config).unwrap();
    fs::write(setup.path().join("secrets"), format!("the new one, which is longer\n{SECRET}\n"))
        .unwrap();
    let hub = setup.start().await;
    let body = "{}";
    for (secret, status) in [(SECRET, 200), ("the new one, which is longer", 200), ("", 401)] {
        let headers = headers("ping", "d-1", &signature(secret, body));
        assert_eq!(post(&hub, "/v1/hooks/github", &headers, body).await.status, status);
    }
}

#[tokio::test]
async fn without_a_secret_there_is_nothing() {
    let hub = Hub::new().start().await;
    for path in ["/v1/hooks/github", "/webhooks/github"] {
        let headers = headers("ping", "d-1", &signature("", "{}"));
        assert_eq!(post(&hub, path, &headers, "{}").await.status, 404);
        assert_eq!(hub.get(path).await.status, 404);
    }
}

#[tokio::test]
async fn a_hook_that_cannot_be_is_told_with_its_key() {
    let setup = Hub::new();
    for (text, words) in [
        ("[hooks.github]\nsecret = \"short\"\n", "hooks.github.secret has 5 bytes"),
        ("[hooks.github]\nsecret = [\"a\", \"b\", \"c\"]\n", "hooks.github.secret has 3 secrets"),
        ("[hooks.github]\nsecret_file = \"nowhere\"\n", "hooks.github.secret_file = \"nowhere\""),
        (
            "[hooks.github.projects]\n\"Hello-World\" = \"42\"\n",
            "hooks.github.projects.\"Hello-World\" names no repository",
        ),
        ("[hooks.github.users]\nhubot = \"a b\"\n", "hooks.github.users.\"hubot\" = \"a b\""),
        ("[hooks.gitlab]\n", "gitlab"),
    ] {
        fs::write(setup.path().join("telltale.toml"), text).unwrap();
        let outcome = crate::cli::run(setup.path(), setup.arguments(), &[]).await;
        assert!(!outcome.status.success(), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?} does not say {words:?}");
    }
    let secret = "from the environment";
    fs::remove_file(setup.path().join("telltale.toml")).unwrap();
    for (name, value) in [
        ("TELLTALE_HOOKS_GITHUB_SECRET", secret.to_owned()),
        ("TELLTALE_HOOKS_GITHUB_SECRET", format!("{secret},{secret}")),
        ("TELLTALE_HOOKS_GITHUB_SECRET_FILE", "nowhere".to_owned()),
    ] {
        let check = crate::cli::run(setup.path(), ["config", "check"], &[(name, &value)]).await;
        assert!(check.status.success(), "{check:?}");
    }
}
