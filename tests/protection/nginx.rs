//! What docs/deploy.md says of nginx, with a real one.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::asked::{Reply, ask_on, handshake};
use super::counted;
use super::tls::{connect, renew, trusting};
use crate::harness::{Hub, Program, within};

/// The name that the document uses.
const NAME: &str = "metrics.example";
const DOCUMENT: &str = include_str!("../../docs/deploy.md");

/// The first block of the document in a language.
fn block(language: &str) -> &'static str {
    let start = format!("```{language}\n");
    let (_, rest) = DOCUMENT.split_once(&start).unwrap();
    rest.split_once("```").unwrap().0
}

/// The program, if it is there.
fn nginx() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/nginx/usr/sbin/nginx");
    let there = |path: &Path| Command::new(path).arg("-v").output().is_ok();
    let found =
        [own, "nginx".into(), "/usr/sbin/nginx".into()].into_iter().find(|path| there(path));
    if found.is_none() {
        let required = std::env::var("PLUGIN_TOOLS").is_ok_and(|tools| tools == "required");
        assert!(!required, "nginx is missing: tests/tools.sh brings it");
        eprintln!("skipped: nginx is missing (tests/tools.sh brings it)");
    }
    found
}

/// The document's configuration on ports that are free here, before `hub`.
fn configuration(folder: &Path, hub: SocketAddr, listen: SocketAddr) -> String {
    let mut server = block("nginx").to_owned();
    for (documented, here) in [
        ("127.0.0.1:8765", hub.to_string()),
        ("listen 443 ssl", format!("listen {listen} ssl")),
        ("listen 80", format!("listen unix:{}/plain", folder.display())),
        ("/etc/ssl/metrics.example.pem", folder.join("cert.pem").display().to_string()),
        ("/etc/ssl/private/metrics.example.key", folder.join("key.pem").display().to_string()),
    ] {
        assert!(server.contains(documented), "{documented:?} is not in the document");
        server = server.replace(documented, &here);
    }
    let kept: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", folder.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr warn;\n\
         events {{}}\nhttp {{\naccess_log off;\n{kept}{server}}}\n",
        folder.display()
    )
}

/// nginx before a hub that is configured as the document says.
struct Front {
    hub: Hub,
    address: SocketAddr,
    _nginx: Program,
}

async fn front(more: &str) -> Option<Front> {
    let nginx = nginx()?;
    let text = format!("{}\n{more}", block("toml"));
    let hub = Hub::new().configured(&text).start_listening().await;
    renew(hub.path());
    // Free when it was asked for; nginx takes it a moment later.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = hub.path().join("nginx.conf");
    fs::write(&file, configuration(hub.path(), hub.0, address)).unwrap();
    let mut command = Command::new(nginx);
    command.arg("-p").arg(hub.path()).arg("-e").arg("stderr").arg("-c").arg(&file);
    let mut program = Program::run(&mut command);
    within("nginx to listen", async {
        while TcpStream::connect(address).await.is_err() {
            assert!(program.runs(), "nginx has ended: {}", program.stderr());
            tokio::task::yield_now().await;
        }
    })
    .await;
    Some(Front { hub, address, _nginx: program })
}

impl Front {
    async fn ask(&self, head: &str) -> Reply<TlsStream<TcpStream>> {
        ask_on(connect(self.address, &trusting()).await, head).await
    }

    async fn get(&self, path: &str, more: &str) -> Reply<TlsStream<TcpStream>> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close{more}")).await
    }
}

#[tokio::test]
async fn a_hub_behind_nginx_is_reached_under_its_public_name() {
    let Some(front) = front("").await else { return };
    let page = front.get("/", "").await;
    assert_eq!(page.status, 200, "{page:?}");
    let origin = format!("\r\nOrigin: https://{NAME}");
    let answer = front.get("/v1/plugins", &origin).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(front.get("/v1/plugins", "\r\nOrigin: https://evil.example").await.status, 403);
    // The dashboard's own WebSocket.
    let more = format!("Origin: https://{NAME}\r\nSec-WebSocket-Protocol: telltale.v1.json\r\n");
    let reply = front.ask(&handshake(NAME, "/v1/stream", &more)).await;
    assert_eq!(reply.status, 101, "{reply:?}");
    let mut socket = WebSocketStream::from_raw_socket(reply.stream, Role::Client, None).await;
    let ping = json!({"id": 1, "op": "ping"}).to_string();
    socket.send(Message::Text(ping.into())).await.unwrap();
    let pong = within("a pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(pong.to_text().unwrap(), r#"{"id":1,"ok":{}}"#);
}

#[tokio::test]
async fn a_client_polls_through_nginx() {
    let Some(front) = front("").await else { return };
    let path = "/socket.io/?EIO=4&transport=polling";
    let opened = front.get(path, &format!("\r\nOrigin: https://{NAME}")).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    let open: Value = serde_json::from_str(opened.text.strip_prefix('0').unwrap()).unwrap();
    let path = format!("{path}&sid={}", open["sid"].as_str().unwrap());
    let said = front
        .ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\
             Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n40"
        ))
        .await;
    assert_eq!(said.status, 200, "{said:?}");
    let heard = front.get(&path, "").await;
    // A ping of the transport may come first.
    assert!(heard.text.contains("40{"), "{heard:?} {}", heard.text);
}

#[tokio::test]
async fn behind_nginx_each_client_has_its_own_address() {
    let Some(front) = front("[limits]\nconnections_per_address = 1\n").await else { return };
    let from = async |said: &str| {
        let more = format!("X-Forwarded-For: {said}\r\n");
        front.ask(&handshake(NAME, "/v1/stream", &more)).await
    };
    // All clients of this test are on loopback, which stands for another proxy.
    let first = from("203.0.113.9").await;
    assert_eq!(first.status, 101, "{first:?}");
    let refused = from("203.0.113.9").await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_connections"));
    assert!(refused.head.contains("retry-after: 5"), "{}", refused.head);
    assert_eq!(from("198.51.100.7, 203.0.113.10").await.status, 101);
    counted(&front.hub, "telltale.session.address_refused", 1.0).await;
}
