//! Somebody who is told of findings, as a test wants them to behave.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::harness::within;

/// What a receiver does with a delivery.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Answers with a status.
    Status(u16),
    /// Answers with a status line and headers, and the words `no room`.
    Head(&'static str),
    /// Says nothing.
    Hang,
    /// Hangs up.
    Close,
}

/// A delivery, as it came.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) text: String,
}

impl Heard {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(super) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// Its findings, as `name state`.
    pub(super) fn findings(&self) -> Vec<String> {
        let json = self.json();
        let findings = json["data"]["findings"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        findings.map(|it| format!("{} {}", word(&it["plugin"]), word(&it["state"]))).collect()
    }
}

/// A receiver that listens.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    replies: Arc<Mutex<(VecDeque<Reply>, Reply)>>,
    heard: mpsc::Receiver<Heard>,
    listening: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A port that refuses until somebody comes.
pub(super) struct Absent(TcpSocket);

impl Absent {
    pub(super) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(super) fn comes(self) -> Receiver {
        Receiver::on(self.0.listen(64).unwrap(), None)
    }
}

impl Receiver {
    /// One that takes everything.
    pub(super) fn new() -> Self {
        Absent::new().comes()
    }

    /// One that speaks TLS, as `secure.test` and 127.0.0.1, with the certificate
    /// of a test's authority.
    pub(super) fn secure() -> Self {
        let pem = std::fs::read(authority().with_file_name("server.pem")).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = Absent::new().0.listen(64).unwrap();
        Self::on(listener, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn on(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let replies = Arc::new(Mutex::new((VecDeque::new(), Reply::Status(200))));
        let (sender, heard) = mpsc::channel(1000);
        let plan = replies.clone();
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (plan, sender, tls) = (plan.clone(), sender.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, plan, sender).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, plan, sender).await,
                            // A client that doesn't trust it hangs up.
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, replies, heard, listening }
    }

    /// What it does from now on.
    pub(super) fn always(&self, reply: Reply) {
        *self.replies.lock().unwrap() = (VecDeque::new(), reply);
    }

    /// What it does next, one after the other, before it does what it always does.
    pub(super) fn next_replies(&self, replies: &[Reply]) {
        self.replies.lock().unwrap().0.extend(replies.iter().cloned());
    }

    /// The next delivery.
    pub(super) async fn hear(&mut self) -> Heard {
        within("a delivery", self.heard.recv()).await.unwrap()
    }

    /// What has come and was not heard yet.
    pub(super) fn heard_more(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }
}

/// The certificate of the tests' authority.
pub(super) fn authority() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plugin/http/tests/authority.pem")
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    plan: Arc<Mutex<(VecDeque<Reply>, Reply)>>,
    sender: mpsc::Sender<Heard>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    let headers: HashMap<_, _> = lines.filter_map(header).collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    let heard = Heard { path, headers, text: String::from_utf8(body).unwrap() };
    let reply = {
        let mut plan = plan.lock().unwrap();
        let next = plan.0.pop_front();
        next.unwrap_or_else(|| plan.1.clone())
    };
    sender.send(heard).await.ok()?;
    let head = match reply {
        Reply::Status(status) => format!("{status} As asked\r\n"),
        Reply::Head(head) => format!("{head}\r\n"),
        Reply::Hang => std::future::pending().await,
        Reply::Close => return None,
    };
    let answer = format!("HTTP/1.1 {head}content-length: 7\r\n\r\nno room");
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
