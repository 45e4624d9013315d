//! What plugins ask of other hosts, and what of it they get.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::Hub;

/// A host of this machine that says the same to everybody.
struct Origin {
    address: SocketAddr,
    _task: JoinSet<()>,
}

/// What an origin sends.
#[derive(Clone, Copy)]
struct Speech {
    /// First.
    response: &'static str,
    /// Then, over and over until the client has gone.
    endless: &'static [u8],
}

impl Origin {
    /// One that sends `response`, and then nothing.
    async fn saying(response: &'static str) -> Self {
        Self::start(Speech { response, endless: b"" }).await
    }

    /// One whose response has no end.
    async fn flooding() -> Self {
        Self::start(Speech { response: "HTTP/1.1 200 OK\r\n\r\n", endless: &[b'x'; 64 * 1024] })
            .await
    }

    async fn start(speech: Speech) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                clients.spawn(serve(stream, speech));
                while clients.try_join_next().is_some() {}
            }
        });
        Self { address, _task: task }
    }

    /// Under the name that every machine has for itself.
    fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

async fn serve(mut stream: TcpStream, speech: Speech) {
    // A client that is stopped half-way is no failure of these tests.
    if stream.read(&mut [0; 4096]).await.is_ok() {
        let _ = stream.write_all(speech.response.as_bytes()).await;
        while !speech.endless.is_empty() && stream.write_all(speech.endless).await.is_ok() {}
        while stream.read(&mut [0; 4096]).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

const HELLO: &str = "HTTP/1.1 203 Odd\r\ncontent-length: 5\r\n\r\nhello";

/// Settings of a `guest_collector` that fetches from this host.
fn fetching(authority: &str, rest: &str) -> String {
    format!("[config]\nmode = \"http-fetch\"\nurl = \"http://{authority}/\"\n{rest}")
}

/// Settings of a `guest_http` that makes this many requests at once.
fn asking(authority: &str, requests: usize, rest: &str) -> String {
    format!("[config]\nauthority = \"{authority}\"\nrequests = {requests}\n{rest}")
}

fn granted(authority: &str) -> String {
    format!("[grant]\nhttp = [\"{authority}\"]\n")
}

/// What the plugin's document `http` says, once it says anything of this sort.
async fn document(hub: &Hub, wanted: impl Fn(&Value) -> bool) -> Value {
    hub.until("the document", async || {
        let mut client = hub.native().await;
        let ok = client.subscribe("documents", Value::Null).await;
        Some(ok["snapshot"]["documents"].get(0)?["data"].clone()).filter(&wanted)
    })
    .await
}

/// The values of the two series of `http-fetch`, once they are there.
async fn fetched(hub: &Hub) -> (f64, f64) {
    hub.until("a response", async || {
        let series = hub.series("guest.value").await;
        let by_n =
            |n: &str| series.iter().find(|series| series["labels"]["n"] == n)?["value"].as_f64();
        Some((by_n("0")?, by_n("1")?))
    })
    .await
}

async fn runs_without_a_fault(hub: &Hub, plugin: &str) {
    let plugin = hub.plugin(plugin).await.unwrap();
    assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)), "{plugin}");
}

#[tokio::test]
async fn a_host_is_fetched_once_the_line_that_was_missing_is_there() {
    let origin = Origin::saying(HELLO).await;
    let authority = origin.authority();
    let hub =
        Hub::new().plugin("asking", "guest_collector", &fetching(&authority, "")).start().await;
    let said = document(&hub, Value::is_object).await["error"].as_str().unwrap().to_owned();
    let line = format!("add \\\"{authority}\\\" to http = […] under [grant] in its settings");
    assert!(said.starts_with("Error::Denied(") && said.contains(&line), "{said}");
    runs_without_a_fault(&hub, "asking").await;
    hub.settings("asking", &fetching(&authority, &granted(&authority)));
    assert_eq!(fetched(&hub).await, (203.0, 5.0));
}

#[tokio::test]
async fn a_grant_that_cannot_be_meant_refuses_the_plugin_with_its_line() {
    let settings = fetching("localhost", &granted("http://localhost:9090/metrics"));
    let hub = Hub::new().plugin("asking", "guest_collector", &settings).start().await;
    let plugin = hub.state("asking", "refused").await;
    let reason = plugin["reason"].as_str().unwrap();
    let words = "asking.toml: line 5: http = [\"http://localhost:9090/metrics\"]: only a host";
    assert!(reason.contains(words), "{reason}");
}

#[tokio::test]
async fn a_host_that_never_answers_is_a_timeout_and_no_fault() {
    let origin = Origin::saying("").await;
    let rest = format!("{}[limits]\nio_ms = 1000\n", granted(&origin.authority()));
    let hub = Hub::new()
        .plugin("fetch", "guest_collector", &fetching(&origin.authority(), &rest))
        .start()
        .await;
    let said = document(&hub, Value::is_object).await;
    assert!(said["error"].as_str().unwrap().contains("Timeout"), "{said}");
    runs_without_a_fault(&hub, "fetch").await;
}

#[tokio::test]
async fn wasi_http_goes_the_same_way() {
    let origin = Origin::saying(HELLO).await;
    let authority = origin.authority();
    let hub = Hub::new().plugin("asking", "guest_http", &asking(&authority, 1, "")).start().await;
    let said = document(&hub, Value::is_array).await;
    assert_eq!(said, json!([{"error": "ErrorCode::HttpRequestDenied"}]));
    // The code has no room for the way out.
    let line = format!("add \"{authority}\" to http = […] under [grant] in its settings");
    hub.until("the line in the log", async || hub.program.stderr().contains(&line).then_some(()))
        .await;
    hub.settings("asking", &asking(&authority, 8, &granted(&authority)));
    let said = document(&hub, |said| said[0]["status"].is_number()).await;
    assert_eq!(said, Value::from(vec![json!({"status": 203, "bytes": 5}); 8]));
    runs_without_a_fault(&hub, "asking").await;
}

#[tokio::test]
async fn wasi_http_has_eight_requests_under_way_and_each_ends_in_time() {
    let silent = Origin::saying("").await;
    let rest = format!("{}[limits]\nio_ms = 1000\n", granted(&silent.authority()));
    let hub = Hub::new()
        .plugin("asking", "guest_http", &asking(&silent.authority(), 9, &rest))
        .start()
        .await;
    let said = document(&hub, Value::is_array).await;
    let count = |code: &str| {
        let errors = said.as_array().unwrap().iter().filter_map(|answer| answer["error"].as_str());
        errors.filter(|error| error.contains(code)).count()
    };
    assert_eq!((count("HttpResponseTimeout"), count("ConnectionLimitReached")), (8, 1), "{said}");
    runs_without_a_fault(&hub, "asking").await;
}

#[tokio::test]
async fn a_body_that_stops_half_way_ends_in_time_too() {
    let stuck = Origin::saying("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour").await;
    let rest = format!("{}[limits]\nio_ms = 1000\n", granted(&stuck.authority()));
    let hub = Hub::new()
        .plugin("asking", "guest_http", &asking(&stuck.authority(), 1, &rest))
        .start()
        .await;
    let said = document(&hub, Value::is_array).await;
    assert!(said[0]["error"].as_str().unwrap().contains("HTTP response timeout"), "{said}");
    runs_without_a_fault(&hub, "asking").await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_or_refused() {
    let flood = Origin::flooding().await;
    let authority = flood.authority();
    let hub = Hub::new()
        .plugin("fetch", "guest_collector", &fetching(&authority, &granted(&authority)))
        .plugin("stream", "guest_http", &asking(&authority, 1, &granted(&authority)))
        .start()
        .await;
    assert_eq!(fetched(&hub).await, (200.0, 1_048_576.0));
    let said = document(&hub, Value::is_array).await;
    let error = said[0]["error"].as_str().unwrap();
    assert!(error.contains("body size exceeds limit: 16777216 bytes"), "{error}");
    runs_without_a_fault(&hub, "fetch").await;
    runs_without_a_fault(&hub, "stream").await;
}
