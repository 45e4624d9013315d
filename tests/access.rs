//! Who may come in, for how long, and what for: the real program, with tokens.

mod matrix;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use telltale::access::Issuer;
use telltale::config::Config;

use crate::cli::run;
use crate::harness::{Heard, Hub, Setup, SkillsClient, Socket};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// A hub that wants tokens, with this in its `[auth]` too.
fn guarded(more: &str) -> Setup {
    let auth = format!("[auth]\nmode = \"jwt\"\nsecret = {SECRET:?}\nleeway = \"0s\"\n{more}\n");
    Hub::new().configured(&auth)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A token of ana for an hour, with these claims.
fn token(claims: Value) -> String {
    token_by(SECRET, claims)
}

fn token_by(secret: &str, more: Value) -> String {
    let mut claims = json!({"sub": "ana", "exp": now() + 3600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Issuer::of_secret(secret.as_bytes()).unwrap().sign(&claims).unwrap()
}

/// A token of ana that soon expires.
fn brief() -> String {
    token(json!({"exp": now() + 6}))
}

async fn skills_with(hub: &Hub, token: &str) -> SkillsClient {
    SkillsClient { socket: Socket::connect_with(hub.0, "/", token).await }
}

#[tokio::test]
async fn without_a_token_a_native_client_gets_nothing_and_is_soon_closed() {
    let hub = guarded("").start().await;
    let mut client = hub.native().await;
    assert_eq!(client.ok(json!({"op": "ping"})).await, json!({}));
    for command in [
        json!({"op": "subscribe", "channel": "metrics"}),
        json!({"op": "connect"}),
        json!({"op": "dance"}),
    ] {
        let refusal = client.refused(command).await;
        let told =
            json!({"code": "unauthorized", "reason": "a token is needed", "temporary": false});
        assert_eq!(refusal, told);
    }
    assert_eq!(client.socket.closed().await, (3500, "a token is needed".to_owned()));
}

#[tokio::test]
async fn a_token_is_taken_from_the_head_from_the_query_and_from_connect() {
    let hub = guarded("").start().await;
    let good = token(json!({}));
    let mut of_head = hub.native_with(&good).await;
    let path = format!("/v1/stream?token={good}");
    let mut of_query = crate::harness::Native::over(Socket::connect(hub.0, &path).await);
    let mut of_connect = hub.native().await;
    of_connect.ok(json!({"op": "connect", "token": good})).await;
    for client in [&mut of_head, &mut of_query, &mut of_connect] {
        let ok = client.ok(json!({"op": "connect"})).await;
        assert_eq!((&ok["user"], &ok["admin"]), (&json!("ana"), &json!(false)));
        assert!(ok["expires"].as_str().unwrap().ends_with('Z'), "{ok}");
        assert_eq!(ok["connection"].as_str().unwrap().len(), 16);
        client.subscribe("metrics", json!({"name": "telltale.tick.lateness"})).await;
        client.next_push().await;
    }
    // One that is no good is as none, and says no more.
    let mut bad = hub.native_with(&token_by(OTHER_SECRET, json!({}))).await;
    assert_eq!(bad.refused(json!({"op": "connect"})).await["code"], "unauthorized");
    bad.ok(json!({"op": "connect", "token": good})).await;
}

#[tokio::test]
async fn three_bad_tokens_end_a_connection() {
    let hub = guarded("").start().await;
    let mut client = hub.native().await;
    for _ in 0..3 {
        let refusal = client.refused(json!({"op": "connect", "token": "a.b.c"})).await;
        assert_eq!(refusal["code"], "unauthorized");
    }
    assert_eq!(client.socket.closed().await.0, 3500);
}

#[tokio::test]
async fn a_token_that_expires_ends_the_connection_unless_it_was_refreshed() {
    let hub = guarded("").start().await;
    let mut refreshed = hub.native_with(&brief()).await;
    let mut expired = hub.native_with(&brief()).await;
    let mut skills = skills_with(&hub, &brief()).await;
    let mut socketio = Socket::connect(hub.0, "/socket.io/?EIO=4&transport=websocket").await;
    socketio.send(format!("40{}", json!({"token": brief()}))).await;
    let ok = refreshed.ok(json!({"op": "refresh", "token": token(json!({}))})).await;
    assert_eq!(ok["ended"], json!([]));
    assert_eq!(expired.socket.closed().await, (3505, "the token has expired".to_owned()));
    assert_eq!(skills.socket.closed().await, (4001, "Authentication failed".to_owned()));
    while !socketio.text("the end of the token").await.contains("TOKEN_EXPIRED") {}
    // By then the one that was refreshed would have expired too.
    refreshed.subscribe("metrics", json!({"name": "telltale.tick.lateness"})).await;
    refreshed.next_push().await;
    let late = refreshed.refused(json!({"op": "refresh", "token": brief_of_the_past()})).await;
    assert_eq!(late["code"], "unauthorized");
}

fn brief_of_the_past() -> String {
    token(json!({"exp": now() - 1}))
}

#[tokio::test]
async fn a_refresh_that_allows_less_ends_what_is_not_allowed_any_more() {
    let hub = guarded("").start().await;
    let rooms = |rooms: Value| token(json!({"rooms": rooms}));
    let mut client = hub.native_with(&rooms(json!(["project:*"]))).await;
    let mut subs = Vec::new();
    for room in ["project:1", "project:2", "user:ana", "global"] {
        let ok = client.ok(json!({"op": "subscribe", "room": room})).await;
        subs.push(ok["sub"].clone());
    }
    let fewer = json!({"op": "refresh", "token": rooms(json!(["project:2"]))});
    assert_eq!(client.ok(fewer).await["ended"], json!([subs[0]]));
    let refusal = client.refused(json!({"op": "subscribe", "room": "project:1"})).await;
    assert_eq!(refusal["code"], "denied");
    assert!(client.ok(json!({"op": "unsubscribe", "sub": subs[1]})).await["sub"].is_u64());
    for other in [json!({"sub": "bob"}), json!({"read": ["a"]})] {
        client.refused(json!({"op": "refresh", "token": token(other)})).await;
    }
}

#[tokio::test]
async fn all_connections_of_a_user_are_ended_and_no_others() {
    let hub = guarded("").start().await;
    let ana = token(json!({}));
    let mut native = hub.native_with(&ana).await;
    let mut skills = skills_with(&hub, &ana).await;
    assert_eq!(skills.next().await["authenticated"], true);
    let mut other = hub.native_with(&token(json!({"sub": "ana@example.org"}))).await;
    native.ok(json!({"op": "ping"})).await;

    let path = "/v1/users/ana/disconnect";
    assert_eq!(hub.ask("POST", path, None).await.status, 401);
    assert_eq!(hub.ask("POST", path, Some(&ana)).await.status, 403);
    let admin = token(json!({"sub": "ops", "admin": true}));
    assert_eq!(hub.ask("GET", path, Some(&admin)).await.status, 405);
    let ended = hub.ask("POST", path, Some(&admin)).await;
    assert_eq!((ended.status, ended.json()), (200, json!({"disconnected": 2})));
    assert_eq!(native.socket.closed().await, (3503, "this user's connections were ended".into()));
    assert_eq!(skills.socket.closed().await.0, 4001);

    other.ok(json!({"op": "ping"})).await;
    let encoded = "/v1/users/ana%40example.org/disconnect";
    let ended = hub.ask("POST", encoded, Some(&hub.file.admin_token)).await;
    assert_eq!(ended.json(), json!({"disconnected": 1}));
    assert_eq!(other.socket.closed().await.0, 3503);
}

#[tokio::test]
async fn a_skills_client_is_welcome_once_it_has_shown_its_token() {
    let hub = guarded("").start().await;
    // As Session-Buddy's tokens are.
    let claims = json!({"user_id": "ana", "exp": now() + 60, "permissions": ["read"]});
    let good = Issuer::of_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap();
    let mut client = hub.skills().await;
    client.send(&json!({"token": good}).to_string()).await;
    let welcome = client.next().await;
    assert_eq!((&welcome["type"], &welcome["authenticated"]), (&json!("connected"), &json!(true)));
    client.send(r#"{"type":"subscribe"}"#).await;
    assert_eq!(client.next().await["type"], "subscription_confirmed");
    client.update().await;

    let mut of_head = skills_with(&hub, &good).await;
    assert_eq!(of_head.next().await["authenticated"], true);
    of_head.update().await;

    for message in [
        json!({"token": token_by(OTHER_SECRET, json!({}))}).to_string(),
        json!({"token": 5}).to_string(),
        r#"{"type":"subscribe"}"#.to_owned(),
        "nonsense".to_owned(),
    ] {
        let mut client = hub.skills().await;
        client.send(&message).await;
        let heard = client.socket.hear("the hub to close").await;
        assert_eq!(heard, Heard::Close(4001, "Authentication failed".into()), "{message}");
    }
    let mut silent = hub.skills().await;
    let heard = silent.socket.hear("the hub to close").await;
    assert_eq!(heard, Heard::Close(4001, "Authentication failed".into()));
}

#[tokio::test]
async fn a_dialect_that_needs_no_token_only_reads() {
    let hub = guarded("anonymous = [\"skills\", \"native\"]\ndefault_rooms = [\"project:*\"]");
    let hub = hub.start().await;
    let mut skills = hub.welcomed().await;
    skills.update().await;
    let mut native = hub.native().await;
    let ok = native.ok(json!({"op": "connect"})).await;
    assert_eq!(ok["user"], "anonymous");
    native.subscribe("metrics", Value::Null).await;
    native.next_push().await;
    let refusal = native.refused(json!({"op": "subscribe", "room": "project:1"})).await;
    assert_eq!(refusal["code"], "denied");
    // It may still say who it is.
    native.ok(json!({"op": "connect", "token": token(json!({}))})).await;
    native.ok(json!({"op": "subscribe", "room": "project:1"})).await;
    assert_eq!(hub.ask("GET", "/v1/series", None).await.status, 401, "HTTP is no dialect of those");
}

#[tokio::test]
async fn a_stranger_gets_the_same_answer_whatever_it_asks_for() {
    let hub = guarded("").start().await;
    let bad = token_by(OTHER_SECRET, json!({"admin": true}));
    let old = token(json!({"exp": now() - 1, "admin": true}));
    let mut answers = Vec::new();
    for path in ["/v1/series", "/v1/plugins", "/v1/plugins/none/logs", "/metrics", "/nowhere"] {
        for token in [None, Some(&*bad), Some(&*old), Some("nonsense")] {
            let answer = hub.ask("GET", path, token).await;
            assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{answer:?}");
            answers.push((answer.status, answer.body));
        }
    }
    assert_eq!(answers[0].0, 401);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    for path in ["/", "/healthz", "/readyz"] {
        assert_eq!(hub.ask("GET", path, None).await.status, 200, "{path}");
    }
    let good = token(json!({"admin": true}));
    for (method, path, status) in [
        ("GET", "/v1/series?", 200),
        ("GET", "/v1/history?series=987654&", 404),
        ("GET", "/v1/rooms/global/events?limit=1&", 200),
        ("GET", "/v1/plugins/none/logs?", 404),
        ("DELETE", "/v1/plugins/none?purge=true&", 404),
    ] {
        let answer = hub.ask(method, &format!("{path}token={good}"), None).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
    }
}

#[tokio::test]
async fn what_may_be_read_is_what_is_told() {
    let hub = guarded("").start().await;
    let narrow = || token(json!({"read": ["telltale.tick.*"]}));
    let mut clients = [hub.native_with(&narrow()).await, hub.native_with(&narrow()).await];
    let mut subs = Vec::new();
    for client in &mut clients {
        let ok = client.subscribe("metrics", Value::Null).await;
        let series = ok["snapshot"]["series"].as_array().unwrap();
        let names: Vec<&str> =
            series.iter().map(|series| series["name"].as_str().unwrap()).collect();
        assert!(!names.is_empty(), "{ok}");
        assert!(names.iter().all(|name| name.starts_with("telltale.tick.")), "{names:?}");
        let snapshot = client.ok(json!({"op": "snapshot", "sub": ok["sub"]})).await;
        assert_eq!(snapshot["snapshot"]["series"].as_array().unwrap().len(), names.len());
        subs.push(ok["sub"].clone());
    }
    assert_eq!(subs[0], subs[1], "those who may read the same share frames");
    let mut whole = hub.native_with(&token(json!({}))).await;
    let all = whole.subscribe("metrics", Value::Null).await;
    assert_ne!(all["sub"], subs[0]);
    let id_of = |name: &str| {
        let series = all["snapshot"]["series"].as_array().unwrap();
        let found = series.iter().find(|series| series["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {all}"))["id"].clone()
    };
    let (own, other) = (id_of("telltale.tick.lateness"), id_of("telltale.store.queue"));
    let [client, _] = &mut clients;
    client.ok(json!({"op": "history", "series": own})).await;
    let hidden = client.refused(json!({"op": "history", "series": other})).await;
    let missing = client.refused(json!({"op": "history", "series": 987_654})).await;
    assert_eq!((&hidden["code"], &missing["code"]), (&json!("not_found"), &json!("not_found")));
    let words = |refusal: &Value, id: &Value| {
        refusal["reason"].as_str().unwrap().replace(&id.to_string(), "N")
    };
    assert_eq!(words(&hidden, &other), words(&missing, &json!(987_654)), "it could be either");
    assert_eq!(
        client.refused(json!({"op": "subscribe", "channel": "hub"})).await["code"],
        "denied"
    );

    let narrow = narrow();
    let list = hub.ask("GET", "/v1/series", Some(&narrow)).await.json();
    let series = list["series"].as_array().unwrap();
    let is_own = |series: &Value| series["name"].as_str().unwrap().starts_with("telltale.tick.");
    assert!(!series.is_empty() && series.iter().all(is_own), "{list}");
    for (path, status) in [
        (format!("/v1/history?series={own}"), 200),
        (format!("/v1/history?series={other}"), 404),
        ("/v1/plugins".to_owned(), 403),
        ("/v1/plugins/none".to_owned(), 403),
        ("/metrics".to_owned(), 403),
        ("/v1/stats".to_owned(), 403),
    ] {
        assert_eq!(hub.ask("GET", &path, Some(&narrow)).await.status, status, "{path}");
    }
}

/// Puts a file in the place of another at once.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn a_key_file_that_changes_counts_for_newcomers() {
    let setup = Hub::new().configured("[auth]\nmode = \"jwt\"\nsecret_file = \"secret\"\n");
    let path = setup.path().join("secret");
    fs::write(&path, SECRET).unwrap();
    let hub = setup.start().await;
    let (old, new) = (token(json!({})), token_by(OTHER_SECRET, json!({})));
    assert_eq!(hub.ask("GET", "/v1/series", Some(&old)).await.status, 200);
    let mut client = hub.native_with(&old).await;

    replace(&path, "short");
    replace(&path, OTHER_SECRET);
    let taken = async {
        let mut ticks = hub.native_with(&hub.file.admin_token).await;
        ticks.subscribe("metrics", json!({"name": "telltale.tick.lateness"})).await;
        while hub.ask("GET", "/v1/series", Some(&new)).await.status != 200 {
            ticks.next_push().await;
        }
    };
    crate::harness::within("the new key to count", taken).await;
    assert_eq!(hub.ask("GET", "/v1/series", Some(&old)).await.status, 401);
    client.ok(json!({"op": "ping"})).await;
    let refusal = client.refused(json!({"op": "refresh", "token": old})).await;
    assert_eq!(refusal["code"], "unauthorized");
    client.ok(json!({"op": "refresh", "token": new})).await;

    replace(&path, "no key at all");
    let told = async {
        while !hub.program.stderr().contains("auth.secret_file = secret: the secret has 13 bytes") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    crate::harness::within("the bad key to be told", told).await;
    assert_eq!(hub.ask("GET", "/v1/series", Some(&new)).await.status, 200, "the one before stays");
}

#[tokio::test]
async fn a_hub_whose_keys_cannot_be_used_does_not_start() {
    let setup = Hub::new();
    for (text, words) in [
        ("mode = \"jwt\"", "auth.secret_file (make one with `openssl rand -hex 32`)"),
        ("secret_file = \"s\"", "auth.mode is \"none\""),
        ("mode = \"jwt\"\nsecret_file = \"nowhere\"", "auth.secret_file = nowhere"),
        (
            "mode = \"jwt\"\njwks_file = \"telltale.toml\"",
            "auth.jwks_file = telltale.toml: no JWKS",
        ),
    ] {
        fs::write(setup.path().join("telltale.toml"), format!("[auth]\n{text}\n")).unwrap();
        let outcome = run(setup.path(), setup.arguments(), &[]).await;
        assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains(words), "it does not say {words:?}: {outcome:?}");
        assert!(!setup.data().exists(), "it leaves nothing behind");
    }
}

#[tokio::test]
async fn the_token_command_issues_what_the_hub_takes() {
    let setup = guarded("issuer = \"me\"\naudience = [\"hub\", \"other\"]");
    let hub = setup.start().await;
    let issue = async |more: &[&str]| {
        let command = ["token", "--user", "ana"].iter().chain(more).copied();
        run(hub.path(), command, &[]).await
    };
    let all = [
        "--rooms",
        "project:*",
        "--publish",
        "pr.*=project:1",
        "--publish",
        "ai.*",
        "--read",
        "telltale.*",
        "--layouts-read",
        "team-*",
        "--layouts-write",
        "team-a",
        "--admin",
        "--expires",
        "5m",
    ];
    for more in [&all[..], &[]] {
        let outcome = issue(more).await;
        assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
        let token = outcome.stdout.strip_suffix('\n').unwrap();
        assert_eq!(token.split('.').count(), 3, "nothing but the token: {outcome:?}");
        let mut client = hub.native_with(token).await;
        let ok = client.ok(json!({"op": "connect"})).await;
        assert_eq!((&ok["user"], &ok["admin"]), (&json!("ana"), &json!(!more.is_empty())));
        let room = client.command(json!({"op": "subscribe", "room": "project:7"})).await;
        assert_eq!(room.get("ok").is_some(), !more.is_empty(), "{room}");
        // Without rights to any boards it has its own.
        for (board, is_named) in [("team-b", true), ("ana", false)] {
            let command = json!({"op": "subscribe", "channel": "layouts", "board": board});
            let told = client.command(command).await;
            assert_eq!(told.get("ok").is_some(), is_named != more.is_empty(), "{board}: {told}");
        }
    }
    for (more, words) in [
        (vec!["--expires", "0s"], "it has expired"),
        (vec!["--rooms", "a["], "its rooms are no globs"),
    ] {
        let outcome = issue(&more).await;
        assert!(outcome.status.success() && !outcome.stdout.is_empty(), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
    fs::write(hub.path().join("bad.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
    let outcome = issue(&["--key-file", "bad.pem"]).await;
    assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("--key-file bad.pem"), "{outcome:?}");
    let empty = tempfile::tempdir().unwrap();
    let outcome = run(empty.path(), ["token", "--user", "ana"], &[]).await;
    assert_eq!(outcome.status.code(), Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("auth.secret_file"), "{outcome:?}");
}

#[tokio::test]
async fn a_private_key_issues_what_its_public_half_is_checked_with() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/src/access/tests");
    for name in ["rsa", "ec", "ed"] {
        let auth = format!("[auth]\nmode = \"jwt\"\npublic_key_file = \"{keys}/{name}.pub.pem\"\n");
        let hub = Hub::new().configured(&auth).start().await;
        let key = format!("{keys}/{name}.pem");
        let command = ["token", "--user", "ana", "--key-file", &key];
        let outcome = run(hub.path(), command, &[]).await;
        assert!(outcome.status.success() && outcome.stderr.is_empty(), "{outcome:?}");
        let answer = hub.ask("GET", "/v1/series", Some(outcome.stdout.trim())).await;
        assert_eq!(answer.status, 200, "{name}");
        // The same with a key that is not the hub's.
        let other = run(
            hub.path(),
            ["token", "--user", "ana", "--key-file", &format!("{keys}/rsa-other.pem")],
            &[],
        )
        .await;
        assert!(other.stderr.contains("a hub with this configuration refuses it"), "{other:?}");
        assert_eq!(hub.ask("GET", "/v1/series", Some(other.stdout.trim())).await.status, 401);
    }
}

#[test]
fn the_document_has_the_defaults_of_auth() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let text = fs::read_to_string(path).unwrap();
    let keys = ["mode", "leeway", "user_claim", "default_rooms", "anonymous", "allow_open"];
    let row = |key: &str| {
        let start = format!("| `{key}` | `");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        let value = line.unwrap_or_else(|| panic!("no row of {key}")).split('`').next().unwrap();
        format!("auth.{key} = {value}\n")
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("telltale.toml");
    fs::write(&file, keys.map(row).concat()).unwrap();
    assert_eq!(Config::load(Some(&file), []).unwrap(), Config::default());
    for key in ["secret", "secret_file", "public_key_file", "jwks_file", "issuer", "audience"] {
        assert!(text.contains(&format!("`{key}`")), "{key} is not documented");
    }
}
