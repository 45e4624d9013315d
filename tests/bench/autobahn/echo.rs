//! An endpoint that sends back whatever it is sent, over the hub's own gate and
//! session: what the Autobahn fuzzing client is run against (`run.sh`).
//!
//! `cargo run --example echo -- [ADDRESS]`; it prints where it listens.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_tungstenite::HyperWebsocket;
use hyper_util::rt::TokioIo;
use telltale::gate::{Budget, CloseReason, GateIo, Gates};
use telltale::session::{Act, Dialect, Goodbye, Received, Session};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The longest message that is read. The suite's longest are of 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The memory for what waits to be sent. The suite has one connection at a time.
const OUTBOX_BYTES_MAX: usize = 256 << 20;
/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// After how much silence a client would be pinged, if somebody looked.
const HEARTBEAT: Duration = Duration::from_secs(25);

/// Sends back what it is sent.
struct Echo;

impl Dialect for Echo {
    fn open(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn receive(&mut self, message: Received<'_>) -> Vec<Act> {
        vec![match message {
            Received::Text(text) => Act::Send(text.to_owned()),
            Received::Binary(bytes) => Act::SendBinary(bytes.to_vec()),
        }]
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn waited(&mut self) -> Vec<Act> {
        Vec::new()
    }

    fn throttled(&mut self, message: Received<'_>, _: Duration) -> Vec<Act> {
        self.receive(message)
    }

    fn goodbye(&mut self, _: Goodbye) -> (Option<String>, CloseReason) {
        (None, CloseReason { code: 1001, words: "going away" })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let gates = Gates::new(CONNECTIONS_MAX, HEARTBEAT, Budget::new(OUTBOX_BYTES_MAX));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        if let Some(place) = gates.enter() {
            tokio::spawn(serve(GateIo::plain(place, socket)));
        }
    }
}

/// Serves one connection, from the handshake to its end.
async fn serve(gate: GateIo) -> Option<()> {
    let (sender, upgrade) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    let service = service_fn(|request| async { Ok::<_, Infallible>(handshake(request, &sender)) });
    let http = hyper::server::conn::http1::Builder::new();
    http.serve_connection(TokioIo::new(gate), service).with_upgrades().await.ok()?;
    drop(sender);
    let upgraded = upgrade.await.ok()?.await.ok()?.into_inner().into_inner();
    let parts = upgraded.downcast::<TokioIo<GateIo>>().ok()?;
    let (gate, first) = (parts.io.into_inner(), parts.read_buf);
    Session::new(gate, &first, Box::new(Echo), MESSAGE_BYTES_MAX, None).await;
    Some(())
}

type Sender = Mutex<Option<oneshot::Sender<HyperWebsocket>>>;

fn handshake(mut request: Request<Incoming>, sender: &Sender) -> Response<Full<Bytes>> {
    match hyper_tungstenite::upgrade(&mut request, None) {
        Ok((response, socket)) => {
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
            // An error means that the connection has gone meanwhile.
            let _ = sender.map(|sender| sender.send(socket));
            response
        }
        Err(error) => {
            let mut response = Response::new(Full::from(error.to_string()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}
