//! The sockets that strangers reach: who may come in, and which dialect or
//! route they get.

mod guard;
mod plugins;
mod routes;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_tungstenite::HyperWebsocket;
use hyper_tungstenite::tungstenite::protocol::WebSocketConfig;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::dialect::MESSAGE_BYTES_MAX;
use crate::dialect::native::{Native, SUBPROTOCOL};
use crate::dialect::skills::Skills;
use crate::gate::{GateIo, Place};
use crate::session::{Dialect, Services, Session};
use crate::shutdown::Shutdown;

pub use guard::Guard;
pub use routes::Readiness;
pub use tls::{TlsError, acceptor};

/// How long a client may take for the TLS handshake, and then to send the head
/// of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// What a client's first record in TLS begins with (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// How long a hub that stops waits for what a newcomer asks, to refuse it.
const LATE_HEAD_MAX: Duration = Duration::from_secs(1);
/// The longest head of a request; hyper takes no less.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may ask one thing after another. Then it is told to
/// come back; who does not read its answers by then is cut off.
const HTTP_MAX: Duration = Duration::from_secs(300);
/// How often accepting is tried again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection is served with.
#[derive(Clone)]
pub struct Server {
    /// What sessions need.
    pub services: Arc<Services>,
    /// What routes answer from.
    pub readiness: Readiness,
    /// Who may come in.
    pub guard: Arc<Guard>,
    /// Every listener speaks TLS, where there is one.
    pub tls: Option<TlsAcceptor>,
    /// Over how long clients come back that are told to go.
    pub drain_window: Duration,
    /// The stop signal.
    pub shutdown: Shutdown,
}

impl Server {
    /// Accepts connections until the signal fires. Then clients are told to go,
    /// and those that come are refused with a time to come back, until the last
    /// session has ended.
    pub async fn accept(self, listener: TcpListener) {
        let (connections, sessions) = (TaskTracker::new(), TaskTracker::new());
        let mut shutdown = self.shutdown.clone();
        let drained = async {
            shutdown.requested().await;
            self.services.gates.drain(self.drain_window);
            sessions.close();
            sessions.wait().await;
        };
        let mut drained = std::pin::pin!(drained);
        loop {
            tokio::select! {
                biased;
                () = &mut drained => break,
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.receive(socket, peer, &connections, &sessions),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
        // One may have been on its way here all the while.
        sessions.wait().await;
    }

    fn receive(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        connections: &TaskTracker,
        sessions: &TaskTracker,
    ) {
        let Some(place) = self.services.gates.enter() else {
            tracing::warn!(%peer, "refused: all connections are in use (limits.connections)");
            return;
        };
        // What fails here is only slower.
        let _ = socket.set_nodelay(true);
        let (server, sessions) = (self.clone(), sessions.clone());
        connections.spawn(async move {
            // A task of its own: what HTTP needed is freed when this one ends.
            if let Some(session) = server.connection(place, socket, peer).await {
                sessions.spawn(session);
            }
        });
    }

    /// Serves one connection: requests, and the session that may follow.
    async fn connection(
        self,
        place: Place,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> Option<Session> {
        let gate = self.gate(place, socket, peer).await?;
        let (upgraded, upgrades) = tokio::sync::oneshot::channel();
        let upgraded = Mutex::new(Some(upgraded));
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(self.respond(request, &upgraded).await)
        });
        // Who comes now is told so, which is one answer: a graceful shutdown
        // before the request has come would be none.
        let is_stopping = self.shutdown.is_requested();
        {
            let mut http = std::pin::pin!(
                hyper::server::conn::http1::Builder::new()
                    .keep_alive(!is_stopping)
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_MAX)
                    .max_buf_size(HEAD_BYTES_MAX)
                    .keep_alive(!is_stopping)
                    .serve_connection(TokioIo::new(gate), service)
                    .with_upgrades()
            );
            let mut shutdown = self.shutdown.clone();
            let told_to_go = async {
                match is_stopping {
                    true => tokio::time::sleep(LATE_HEAD_MAX).await,
                    false => shutdown.requested().await,
                }
            };
            let ended = tokio::select! {
                ended = http.as_mut() => Ok(ended),
                () = or_after(HTTP_MAX, told_to_go) => {
                    http.as_mut().graceful_shutdown();
                    tokio::time::timeout(HEAD_MAX, http).await
                }
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%peer, %error, "connection"),
                Err(_) => tracing::debug!(%peer, "cut off: it reads no answer"),
            }
        }
        drop(upgraded);
        let Handshake { socket, dialect } = upgrades.await.ok()?;
        let upgraded: Upgraded = socket.await.ok()?.into_inner().into_inner();
        let parts = upgraded.downcast::<TokioIo<GateIo>>().ok()?;
        let (gate, first) = (parts.io.into_inner(), parts.read_buf);
        let services = Some(self.services.clone());
        Some(Session::new(gate, &first, dialect, MESSAGE_BYTES_MAX, services))
    }

    /// The connection's gate, after the TLS handshake if there is to be one. The
    /// commands of this machine need none: nobody listens on loopback.
    async fn gate(&self, place: Place, socket: TcpStream, peer: SocketAddr) -> Option<GateIo> {
        let Some(tls) = &self.tls else { return Some(GateIo::plain(place, socket)) };
        let mut first = [0];
        let handshake = async {
            if peer.ip().to_canonical().is_loopback() {
                socket.peek(&mut first).await?;
                if first[0] != TLS_HANDSHAKE {
                    return Ok(GateIo::plain(place, socket));
                }
            }
            Ok::<_, std::io::Error>(GateIo::tls(place, tls.accept(socket).await?))
        };
        match tokio::time::timeout(HEAD_MAX, handshake).await {
            Ok(Ok(gate)) => return Some(gate),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
            Err(_) => tracing::debug!(%peer, "cut off: no TLS handshake in time"),
        }
        None
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        upgraded: &Upgrade,
    ) -> Response<Full<Bytes>> {
        if let Err(refusal) = self.guard.admit(request.headers()) {
            return routes::error(StatusCode::FORBIDDEN, refusal.code, refusal.words);
        }
        let asks_how_it_is = STILL_ANSWERED.contains(&request.uri().path());
        if self.services.gates.is_draining() && !asks_how_it_is {
            return self.refuse_while_stopping();
        }
        if !hyper_tungstenite::is_upgrade_request(&request) {
            return routes::answer(&self.services, &self.readiness, &request).await;
        }
        let Some(dialect) = self.dialect(request.uri().path()) else {
            let words = "no WebSocket is served here: see /v1/stream";
            return routes::error(StatusCode::NOT_FOUND, "not_found", words);
        };
        let offers_native = request
            .headers()
            .get_all("sec-websocket-protocol")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|offer| offer.trim() == SUBPROTOCOL));
        // Of this tungstenite only the handshake is used.
        let config = WebSocketConfig::default().read_buffer_size(0);
        match hyper_tungstenite::upgrade(&mut request, Some(config)) {
            Ok((mut response, socket)) => {
                if offers_native && request.uri().path() == STREAM_PATH {
                    let name = HeaderName::from_static("sec-websocket-protocol");
                    response.headers_mut().insert(name, HeaderValue::from_static(SUBPROTOCOL));
                }
                let slot = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(slot) = slot {
                    // An error means that the connection has gone meanwhile.
                    let _ = slot.send(Handshake { socket, dialect });
                }
                response
            }
            Err(error) => {
                routes::error(StatusCode::BAD_REQUEST, "bad_handshake", &error.to_string())
            }
        }
    }

    /// Tells a newcomer when to come back.
    fn refuse_while_stopping(&self) -> Response<Full<Bytes>> {
        let retry_after = self.drain_window.max(Duration::from_secs(1));
        let mut response = routes::stopping(retry_after);
        let seconds = retry_after.as_millis().div_ceil(1000).to_string();
        if let Ok(seconds) = HeaderValue::from_str(&seconds) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }

    /// The dialect that is spoken at a path.
    fn dialect(&self, path: &str) -> Option<Box<dyn Dialect>> {
        let clock = self.services.clock.clone();
        match path {
            STREAM_PATH => Some(Box::new(Native::new(clock, self.services.hub.clone()))),
            _ if OTHERS.iter().any(|other| path.starts_with(other)) => None,
            _ => Some(Box::new(Skills::new(clock))),
        }
    }
}

/// Waits for `signal`, but no longer than `limit`.
async fn or_after(limit: Duration, signal: impl Future<Output = ()>) {
    // Either way the wait is over.
    let _ = tokio::time::timeout(limit, signal).await;
}

/// What a hub that stops still answers, for those who watch over it.
const STILL_ANSWERED: [&str; 3] = ["/readyz", "/healthz", "/health"];
/// Where the native dialect is spoken.
const STREAM_PATH: &str = "/v1/stream";
/// Paths that are no skills client's: the API's, and those of dialects that this
/// hub doesn't speak, whose clients had better hear of it.
const OTHERS: [&str; 5] = ["/v1/", "/socket.io", "/ws/socket.io", "/ws/metrics", "/api/realtime"];

type Upgrade = Mutex<Option<tokio::sync::oneshot::Sender<Handshake>>>;

/// A connection that is to become a session.
struct Handshake {
    socket: HyperWebsocket,
    dialect: Box<dyn Dialect>,
}
