//! What plugins keep in a Redis, beside an application's own keys; and what
//! becomes of them when it is slow or gone.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Hub, Program, Redis, Setup, within};
use crate::protection::{counted, last};

/// A collector that sets a key at each tick, unless there is nothing to set, and
/// gets it.
fn settings(key: &str, value: &str, grant: &str) -> String {
    format!(
        "[config]\nmode = \"cache\"\npath = {key:?}\nstatement = {value:?}\n\
         [grant]\ncache = {grant}\n"
    )
}

/// A hub on this Redis, with such a collector.
fn keeping(url: &str, settings: &str) -> Setup {
    let setup = Hub::new().configured(&format!("[cache]\nurl = {url:?}\n"));
    setup.plugin("keeper", "guest_collector", settings)
}

/// What the cache has answered the collector last.
async fn answers(hub: &Hub) -> Option<(String, String)> {
    let mut client = hub.native().await;
    let ok = client.subscribe("documents", Value::Null).await;
    let said = &ok["snapshot"]["documents"][0]["data"];
    Some((said["set"].as_str()?.to_owned(), said["got"].as_str()?.to_owned()))
}

/// Waits until the collector has set its key, and got this.
async fn set_and_got(hub: &Hub, set: &str, got: &str) {
    hub.until(&format!("{set} and {got}"), async || {
        let (was_set, was_got) = answers(hub).await?;
        (was_set == set && was_got.contains(got)).then_some(())
    })
    .await;
}

/// Waits until the collector is told that there is no Redis.
async fn unavailable(hub: &Hub) {
    let told = async || answers(hub).await?.1.contains("Unavailable").then_some(());
    hub.until("the collector to be told", told).await;
}

const SET: &str = "Some(Ok(()))";
const NOT_SET: &str = "None";

/// The newest value of one of the hub's own numbers.
async fn number(hub: &Hub, name: &str) -> f64 {
    hub.until(name, async || {
        let id = hub.series(name).await.first()?["id"].clone();
        last(&hub.get_json(&format!("/v1/history?series={id}&raw=true")).await)
    })
    .await
}

/// Waits until the hub says that its Redis is there, or that it is not.
async fn connected(hub: &Hub, wanted: f64) {
    hub.until(&format!("telltale.cache.connected to be {wanted}"), async || {
        let series = hub.series("telltale.cache.connected").await;
        (series.first()?["value"] == wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_plugin_keeps_is_in_redis_under_its_name_and_for_its_time() {
    let Some(redis) = Redis::start().await else { return };
    let hub = keeping(&redis.url(), &settings("k", "a value", "true")).start().await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    assert_eq!(redis.get("telltale:keeper:k").await.unwrap(), b"a value");
    let left_ms: i64 = redis.command(&["PTTL", "telltale:keeper:k"]).await;
    assert!((1..=60_000).contains(&left_ms), "{left_ms}");
    for name in ["telltale.cache.reads", "telltale.cache.hits", "telltale.cache.writes"] {
        counted(&hub, name, 1.0).await;
    }
    connected(&hub, 1.0).await;
    // It outlives the hub.
    let hub = hub.kill().start().await;
    hub.settings("keeper", &settings("k", "", "true"));
    set_and_got(&hub, NOT_SET, "Ok(Some(\"a value\"))").await;
}

#[tokio::test]
async fn an_applications_key_is_read_as_it_stands_and_left_alone() {
    let Some(redis) = Redis::start().await else { return };
    let theirs = r#"{"requests": 7}"#;
    redis.set("metrics:latest", theirs).await;
    let shared = "{ shared = [\"metrics:latest\"] }";
    let ours = settings("metrics:latest", "ours", shared);
    let hub = keeping(&redis.url(), &ours).start().await;
    set_and_got(&hub, SET, "requests").await;
    assert_eq!(redis.get("metrics:latest").await.unwrap(), theirs.as_bytes());
    assert_eq!(redis.get("telltale:keeper:metrics:latest").await.unwrap(), b"ours");
    // Where the application has none it is the plugin's own.
    let () = redis.command(&["DEL", "metrics:latest"]).await;
    set_and_got(&hub, SET, "Ok(Some(\"ours\"))").await;
    assert_eq!(redis.get("metrics:latest").await, None);
    // A key that was not granted is nobody's but its own.
    redis.set("secret", "theirs").await;
    hub.settings("keeper", &settings("secret", "", shared));
    set_and_got(&hub, NOT_SET, "Ok(None)").await;
}

#[tokio::test]
async fn a_shared_key_is_set_where_that_is_granted() {
    let Some(redis) = Redis::start().await else { return };
    redis.set("metrics:latest", "theirs").await;
    let grant = "{ shared = [\"metrics:latest\"], shared_write = true }";
    let settings = settings("metrics:latest", "ours", grant);
    let hub = keeping(&redis.url(), &settings).start().await;
    set_and_got(&hub, SET, "Ok(Some(\"ours\"))").await;
    assert_eq!(redis.get("metrics:latest").await.unwrap(), b"ours");
    assert_eq!(redis.get("telltale:keeper:metrics:latest").await, None);
}

#[tokio::test]
async fn what_is_no_value_under_a_shared_key_is_said_to_be_none() {
    let Some(redis) = Redis::start().await else { return };
    redis.set("shared", vec![b'x'; 256 * 1024]).await;
    let settings = settings("shared", "", "{ shared = [\"shared\"] }");
    let hub = keeping(&redis.url(), &settings).start().await;
    set_and_got(&hub, NOT_SET, "Ok(Some(\"xxx").await;
    redis.set("shared", vec![b'x'; 256 * 1024 + 1]).await;
    set_and_got(&hub, NOT_SET, "TooLarge(").await;
    let () = redis.command(&["DEL", "shared"]).await;
    let () = redis.command(&["RPUSH", "shared", "an item"]).await;
    set_and_got(&hub, NOT_SET, "WRONGTYPE").await;
    redis.set("shared", "").await;
    set_and_got(&hub, NOT_SET, "Ok(Some(\"\"))").await;
    connected(&hub, 1.0).await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_costs_one_call_and_holds_up_nobody() {
    let Some(redis) = Redis::start().await else { return };
    let hub = keeping(&redis.url(), &settings("k", "a value", "true")).start().await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    redis.pause();
    counted(&hub, "telltale.cache.timeouts", 1.0).await;
    connected(&hub, 0.0).await;
    unavailable(&hub).await;
    // From now on nothing waits for it, and ticks go on.
    let errors = number(&hub, "telltale.cache.errors").await;
    counted(&hub, "telltale.cache.errors", errors + 5.0).await;
    let timeouts = number(&hub, "telltale.cache.timeouts").await;
    counted(&hub, "telltale.cache.errors", errors + 15.0).await;
    assert!((number(&hub, "telltale.cache.timeouts").await - timeouts).abs() < 0.5);
    assert_eq!(hub.plugin("keeper").await.unwrap()["state"], "running");
    redis.unpause();
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    connected(&hub, 1.0).await;
}

#[tokio::test]
async fn a_redis_that_was_killed_is_found_again() {
    let started = Instant::now();
    let Some(mut redis) = Redis::start().await else { return };
    let hub = keeping(&redis.url(), &settings("k", "a value", "true")).start().await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    for _ in 0..2 {
        redis.kill();
        connected(&hub, 0.0).await;
        unavailable(&hub).await;
        redis.restart().await;
        set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
        assert_eq!(redis.get("telltale:keeper:k").await.unwrap(), b"a value");
    }
    let log = hub.program.stderr();
    let told = log.matches("Redis is gone").count() as u64;
    assert!((1..=1 + started.elapsed().as_secs() / 60).contains(&told), "once a minute: {log}");
}

#[tokio::test]
async fn a_hub_starts_without_its_redis() {
    let Some(mut redis) = Redis::start().await else { return };
    redis.kill();
    let hub = keeping(&redis.url(), &settings("k", "a value", "true")).start().await;
    unavailable(&hub).await;
    redis.restart().await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
}

#[tokio::test]
async fn a_password_is_tried_until_it_is_right_and_shown_to_nobody() {
    let Some(redis) = Redis::start().await else { return };
    let url = redis.url().replace("redis://", "redis://:hunter2@");
    let hub = keeping(&url, &settings("k", "a value", "true")).start().await;
    connected(&hub, 0.0).await;
    let () = redis.command(&["CONFIG", "SET", "requirepass", "hunter2"]).await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    let log = hub.program.stderr();
    assert!(log.contains("Redis is gone") && !log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_by_its_key() {
    let setup = Hub::new().configured("[cache]\nurl = \"redis://:hunter2@localhost/first\"\n");
    let check = ["config", "check"].map(Into::into).to_vec();
    for arguments in [setup.arguments(), check] {
        let mut program = Program::start(setup.path(), arguments, &[]);
        assert_eq!(program.exit().await.code(), Some(64));
        let said = program.stderr() + &program.stdout();
        assert!(said.contains("cache.url is neither"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// Speaks TLS for a Redis, by a certificate for `localhost` that is written to
/// `cert.pem`.
async fn tls_before(redis: SocketAddr, folder: &std::path::Path) -> (u16, JoinSet<()>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut server = TcpStream::connect(redis).await.unwrap();
                // Who goes away is none of this test's business.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, serving)
}

#[tokio::test]
async fn a_redis_is_spoken_to_by_tls_where_its_certificate_is_trusted() {
    let Some(redis) = Redis::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let tls = tls_before(redis.address(), folder.path());
    let (port, _serving) = within("the certificate", tls).await;
    let url = format!("rediss://localhost:{port}/0");
    let setup = keeping(&url, &settings("k", "a value", "true"));
    let trusting = setup.with_variable("SSL_CERT_FILE", &folder.path().join("cert.pem"));
    let hub = trusting.start().await;
    set_and_got(&hub, SET, "Ok(Some(\"a value\"))").await;
    assert_eq!(redis.get("telltale:keeper:k").await.unwrap(), b"a value");
    let stranger = keeping(&url, &settings("other", "a value", "true")).start().await;
    connected(&stranger, 0.0).await;
    let told = async || stranger.program.stderr().contains("certificate").then_some(());
    stranger.until("the certificate to be refused", told).await;
    assert_eq!(redis.get("telltale:keeper:other").await, None);
}
