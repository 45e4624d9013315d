//! The sockets that strangers reach: who may come in, and which dialect or
//! route they get.

mod guard;
mod plugins;
mod routes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_tungstenite::tungstenite::protocol::WebSocketConfig;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::dialect::native::{Native, SUBPROTOCOL};
use crate::dialect::skills::Skills;
use crate::session::{Dialect, Services, serve};
use crate::shutdown::Shutdown;

pub use guard::Guard;
pub use routes::Readiness;

/// How long a client may take to send the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// The longest head of a request; hyper takes no less.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest message that is read at all; one beyond closes the connection.
/// Up to here a dialect can answer that it was too long.
const MESSAGE_BYTES_READ_MAX: usize = 1024 * 1024;
/// How long a connection may ask one thing after another. Then it is told to
/// come back; who does not read its answers by then is cut off.
const HTTP_MAX: Duration = Duration::from_secs(300);
/// How often accepting is tried again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection is served with.
#[derive(Clone, Debug)]
pub struct Server {
    /// What sessions need.
    pub services: Services,
    /// What routes answer from.
    pub readiness: Readiness,
    /// Who may come in.
    pub guard: Arc<Guard>,
    /// Connections at once.
    pub slots: Arc<Semaphore>,
    /// The stop signal.
    pub shutdown: Shutdown,
}

impl Server {
    /// Accepts connections until the signal fires, then waits until those that
    /// are open have ended.
    pub async fn accept(self, listener: TcpListener) {
        let mut shutdown = self.shutdown.clone();
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(self.clone().connection(stream, peer));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Serves one connection: requests, and the WebSocket that may follow.
    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "refused: all connections are in use (limits.connections)");
            return;
        };
        // What fails here is only slower.
        let _ = stream.set_nodelay(true);
        let mut shutdown = self.shutdown.clone();
        let (upgraded, upgrades) = tokio::sync::oneshot::channel();
        let upgraded = std::sync::Mutex::new(Some(upgraded));
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(self.respond(request, &upgraded).await)
        });
        {
            let mut http = std::pin::pin!(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_MAX)
                    .max_buf_size(HEAD_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
            );
            let ended = tokio::select! {
                ended = http.as_mut() => Ok(ended),
                () = or_after(HTTP_MAX, shutdown.requested()) => {
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
        if let Ok(Upgraded { socket, dialect }) = upgrades.await
            && let Ok(socket) = socket.await
        {
            serve(socket, dialect, self.services, self.shutdown).await;
        }
        drop::<OwnedSemaphorePermit>(slot);
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        upgraded: &Upgrade,
    ) -> Response<Full<Bytes>> {
        if let Err(refusal) = self.guard.admit(request.headers()) {
            return routes::error(StatusCode::FORBIDDEN, refusal.code, refusal.words);
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
        match hyper_tungstenite::upgrade(&mut request, Some(socket_config())) {
            Ok((mut response, socket)) => {
                if offers_native && request.uri().path() == STREAM_PATH {
                    let name = HeaderName::from_static("sec-websocket-protocol");
                    response.headers_mut().insert(name, HeaderValue::from_static(SUBPROTOCOL));
                }
                let slot =
                    upgraded.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                if let Some(slot) = slot {
                    // An error means that the connection has gone meanwhile.
                    let _ = slot.send(Upgraded { socket, dialect });
                }
                response
            }
            Err(error) => {
                routes::error(StatusCode::BAD_REQUEST, "bad_handshake", &error.to_string())
            }
        }
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

/// Where the native dialect is spoken.
const STREAM_PATH: &str = "/v1/stream";
/// Paths that are no skills client's: the API's, and those of dialects that this
/// hub doesn't speak, whose clients had better hear of it.
const OTHERS: [&str; 5] = ["/v1/", "/socket.io", "/ws/socket.io", "/ws/metrics", "/api/realtime"];

type Upgrade = std::sync::Mutex<Option<tokio::sync::oneshot::Sender<Upgraded>>>;

/// A connection that is to become a WebSocket.
struct Upgraded {
    socket: hyper_tungstenite::HyperWebsocket,
    dialect: Box<dyn Dialect>,
}

/// Small buffers: with tungstenite's own a client costs 138 KB, since each read
/// buffer has 128 KiB, and five times the processor time, since it is zeroed
/// before each read.
fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        // One message is written at a time, and all that a large hub knows must
        // fit; what piles up unread beside it are pongs.
        .max_write_buffer_size(64 * 1024 * 1024)
        .max_message_size(Some(MESSAGE_BYTES_READ_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_READ_MAX))
}
