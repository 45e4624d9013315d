//! The clients that the other two systems' documents show, as they stand there
//! but for the address: pages in a real browser, Python and curl.
//!
//! `tests/tools.sh` installs what they run on. A test whose tool is missing says
//! so and passes, unless `PLUGIN_TOOLS=required` is set.

mod chromium;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{Hub, Program, Setup, needs, tool, within};
use crate::languages::workshop;
use chromium::Browser;

/// Where the documents' own lines have their servers.
const ROUTING: &str = "localhost:8000";
const REALTIME: &str = "localhost:3000";

/// The beginning of each page: what it says is kept.
const HEAD: &str = "<!doctype html><meta charset=\"utf-8\"><div id=\"root\"></div><script>
    const said = [];
    console.log = (...words) => said.push(words.map((word) => structuredClone(word)));
</script>";

/// A server of pages, until it is dropped.
struct Pages {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Pages {
    async fn serve(pages: &[(&str, String)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages: BTreeMap<String, String> =
            pages.iter().map(|(path, text)| ((*path).to_owned(), text.clone())).collect();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 16 * 1024];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let (status, text) = match pages.get(path) {
                    Some(text) => ("200 OK", text.as_str()),
                    None => ("404 Not Found", ""),
                };
                let kind = if path.ends_with(".js") { "text/javascript" } else { "text/html" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                );
                // A browser may have thought better of it.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, _serving: serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A document's own lines, with another address and nothing else.
fn lines(file: &str, of: &str, hub: &Hub) -> String {
    let text = fs::read_to_string(workshop::root().join("tests/browser").join(file)).unwrap();
    assert!(text.contains(of), "{file} names {of}");
    text.replace(of, &hub.0.to_string())
}

/// A hub whose plugin `routing` reads a database with 150 decisions.
fn with_decisions() -> Setup {
    let setup = Hub::new().with_routing();
    let database = setup.routing_database();
    database.decide(90, "hybrid", "gemini", "high").decide(60, "complexity", "claude", "medium");
    setup
}

/// What the browser shows of the React component, as a page.
fn dashboard(hub: &Hub) -> Option<String> {
    let esbuild = Path::new("node_modules/.bin/esbuild");
    let folder = tempfile::tempdir().unwrap();
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/npm/node_modules");
    symlink(modules, folder.path().join("node_modules")).unwrap();
    if !folder.path().join(esbuild).exists() {
        return needs("esbuild", None);
    }
    let component = lines("MetricsDashboard.tsx", ROUTING, hub);
    let shown = "import { createRoot } from 'react-dom/client';
        createRoot(document.getElementById('root')).render(<MetricsDashboard />);";
    fs::write(folder.path().join("page.tsx"), format!("{component}\n{shown}")).unwrap();
    let made = Command::new(folder.path().join(esbuild))
        .args(["page.tsx", "--bundle", "--jsx=automatic", "--log-level=error"])
        .arg("--define:process.env.NODE_ENV=\"production\"")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(String::from_utf8(made.stdout).unwrap())
}

#[tokio::test]
async fn the_plain_page_of_the_document_shows_routing_metrics_and_comes_back() {
    let Some(mut browser) = Browser::start().await else { return };
    let address = crate::clients::address_to_keep();
    let hub = with_decisions().listen(address).start().await;
    // The document leaves these two to the page.
    let page = format!(
        "{HEAD}<script>
        function updateDashboard(metrics) {{
            document.getElementById('root').textContent = metrics.total_decisions;
        }}
        function connectToMetrics() {{ {} }}
        connectToMetrics();</script>",
        lines("metrics.js", ROUTING, &hub)
    );
    let pages = Pages::serve(&[("/", page)]).await;
    browser.open(&pages.url("/")).await;
    let total = "document.getElementById('root').textContent === '150'";
    browser.until("the total of decisions", total).await;
    let metrics = browser.eval("said.find(([words]) => words === 'Metrics update:')[1]").await;
    assert_eq!(metrics["strategy_performance"]["hybrid"]["count"], 90, "{metrics}");
    assert_eq!(metrics["confidence_distribution"], json!({"high": 90, "medium": 60, "low": 0}));
    assert_eq!(metrics["provider_usage"], json!({"gemini": 90, "claude": 60}));
    let hub = hub.stop_with(Signal::TERM).await.1;
    let said = |words: &str| format!("said.filter(([w]) => w === '{words} metrics stream').length");
    browser.until("the page to be told", &said("Disconnected from")).await;
    let _hub = hub.start().await;
    // Its own lines try again after five seconds.
    let twice = format!("{} === 2", said("Connected to"));
    browser.until("the page to be back", &twice).await;
}

#[tokio::test]
async fn the_documents_react_component_shows_routing_metrics() {
    let Some(mut browser) = Browser::start().await else { return };
    let hub = with_decisions().start().await;
    let Some(script) = dashboard(&hub) else { return };
    let page = format!("{HEAD}<script src=\"/page.js\"></script>");
    let pages = Pages::serve(&[("/", page), ("/page.js", script)]).await;
    browser.open(&pages.url("/")).await;
    let shown = "document.getElementById('root')?.innerText.includes('Total Decisions') \
                 && document.getElementById('root').innerText";
    let shown = browser.until("the metrics", shown).await;
    let shown = shown.as_str().unwrap();
    for part in ["Status: 🟢 Connected", "Total Decisions: 150", "Avg Confidence: 88.0%"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let update = shown.split("Last Update: ").nth(1).unwrap();
    assert!(update.starts_with(|c: char| c.is_ascii_digit()), "a date: {update}");
    let _setup = hub.stop_with(Signal::TERM).await;
    let red = "document.getElementById('root').innerText.includes('🔴 Disconnected')";
    browser.until("the page to show that the hub is gone", red).await;
}

#[tokio::test]
async fn the_documents_lines_for_the_console_are_told_that_they_are_connected() {
    let Some(mut browser) = Browser::start().await else { return };
    let hub = Hub::new().start().await;
    let page = format!("{HEAD}<script>{}</script>", lines("realtime.js", REALTIME, &hub));
    let pages = Pages::serve(&[("/", page)]).await;
    browser.open(&pages.url("/")).await;
    let words = "said.map(([words]) => words)";
    let both = format!("said.length >= 2 && {words}");
    let words = browser.until("the first message", &both).await;
    assert_eq!(words, json!(["Connected!", "Message:"]));
    let message = browser.eval("said[1][1]").await;
    assert_eq!(message["type"], "CONNECT", "{message}");
    assert_eq!(message["userId"], "test", "{message}");
    assert!(message["payload"]["clientId"].is_string(), "{message}");
    // What a page without a WebSocket asks and does.
    let url = format!("http://{}/api/realtime", hub.0);
    let ready = browser.eval(&format!("fetch('{url}').then((answer) => answer.json())")).await;
    assert_eq!((&ready["status"], &ready["userId"]), (&json!("ready"), &Value::Null), "{ready}");
    assert_eq!(ready["wsUrl"], format!("ws://{}/api/realtime", hub.0), "{ready}");
    let operation = json!({"operationId": "o1", "type": "WIDGET_UPDATE",
        "payload": {"widgetId": "w", "data": {"a": 1}}});
    let body = json!({"type": "SYNC", "operations": [operation]}).to_string();
    let done = format!(
        "fetch('{url}?userId=test', {{method: 'POST', body: {body:?},
            headers: {{'Content-Type': 'application/json'}}}}).then((answer) => answer.json())"
    );
    let done = browser.eval(&done).await;
    assert_eq!(done["success"], true, "{done}");
    assert_eq!(done["results"][0]["status"], "applied", "{done}");
    // The page's WebSocket is told, as any other client is.
    let told = "said.find(([, message]) => message?.type === 'WIDGET_UPDATE')?.[1]";
    let told = browser.until("the page to be told", told).await;
    assert_eq!(told["payload"]["data"], json!({"a": 1}), "{told}");
}

#[tokio::test]
async fn the_documents_lines_for_curl_are_answered() {
    if needs("curl", tool("curl")).is_none() {
        return;
    }
    let hub = Hub::new().start().await;
    let mut command = Command::new("sh");
    command
        .arg("-ec")
        .arg(lines("realtime.sh", REALTIME, &hub).replace("curl ", "curl -sSw '\\n' "));
    let mut program = Program::run(&mut command);
    assert!(program.exit().await.success());
    let said = program.stdout();
    let answers: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}")))
        .collect();
    assert_eq!(answers[0]["status"], "ready", "{said}");
    assert_eq!(
        (&answers[1]["success"], &answers[1]["results"]),
        (&json!(true), &json!([])),
        "{said}"
    );
}

#[tokio::test]
async fn the_documents_python_client_prints_routing_metrics() {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).env("PATH", workshop::path());
        command
    };
    let probe = python(&["-c", "import websockets"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        let _ = needs::<()>("the package websockets for Python", None);
        return;
    }
    let hub = with_decisions().start().await;
    let script = lines("stream_metrics.py", ROUTING, &hub);
    let program = Program::run(&mut python(&["-u", "-c", &script]));
    within("what it prints", async {
        while !program.stdout().contains("Total decisions: 150") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let said = program.stdout();
    assert!(said.starts_with("Connected to metrics stream\nUpdate: 2"), "{said}");
}
