//! Engine.IO, which carries Socket.IO over WebSocket or long polling, upgrades
//! one to the other, and looks whether clients are still there. The crate does
//! that; here is who may come in, which session a packet is for, and what ends a
//! connection that the crate alone would leave standing.
//!
//! The crate's own number of a connection is a credential: whoever knows it can
//! speak as that client. It is shown to nobody but the client itself.

mod connection;
mod outlet;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use engineioxide::config::EngineIoConfig;
use engineioxide::handler::EngineIoHandler;
use engineioxide::service::EngineIoService;
use engineioxide::socket::Sid;
use engineioxide::{DisconnectReason, Str, TransportType};
use hyper::body::Body;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::upload::Upload;
use super::{Outgoing, Visitor, boxed, routes};
use crate::config::is_loopback;
use crate::gate::{Counted, Gate, Tally};
use crate::session::Services;
use crate::shutdown::Shutdown;

use connection::Connection;

/// Where it is served: both paths are the same.
const PATHS: [&str; 2] = ["/socket.io", "/ws/socket.io"];
/// The path that the crate knows.
const PATH: &str = PATHS[0];
/// How often a client is pinged, and how long it may take to answer: what its
/// clients are used to.
const PING_EVERY: Duration = Duration::from_secs(25);
const PONG_WITHIN: Duration = Duration::from_secs(60);
/// The longest message of a client, and the longest body of a request.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Packets that wait in a transport: no more, since they are on no budget. What
/// comes after them waits with the hub, and events not even there: they are in
/// the log.
const PACKETS_MAX: usize = 16;
/// What each WebSocket reads at a time: commands are short.
const READ_BYTES: usize = 512;
/// How long a connection may stand without a namespace.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Connections without a namespace at a time: a storm of clients that come back
/// is through within a second or two.
const IDLE_CONNECTIONS_MAX: usize = 4096;
/// … of which one address may have so many, so that it does not keep all others
/// out.
const IDLE_OF_ADDRESS_MAX: usize = 256;
/// How often those are looked for that have none for too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bodies longer than this …
const UPLOAD_SMALL: u64 = 16 * 1024;
/// … of which so many are taken at a time, so that they need at most 64 MB …
const UPLOADS_MAX: usize = 64;
/// … and the others wait for so long.
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a hub that stops waits for its connections.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// The longest that an answer may take: a poll waits for something to tell, and
/// there is a ping in the end.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);

type Socket = engineioxide::Socket<Connection>;

/// Serves Engine.IO. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    service: EngineIoService<Handler>,
    handler: Arc<Handler>,
}

/// What the crate tells of its connections goes here.
struct Handler {
    services: Arc<Services>,
    open: Mutex<HashMap<Sid, Arc<Socket>>>,
    /// Tells that the last one has gone.
    emptied: Notify,
    /// How many have no namespace.
    idle: AtomicUsize,
    /// Of each address; this machine may open any number.
    idle_of: Arc<Tally<IpAddr>>,
    uploads: Semaphore,
    /// The last longer frame as the crate wants it, so that all clients share
    /// one.
    frame: Mutex<Option<(Bytes, Str)>>,
}

/// Where a request has come from, for the connection that it opens.
#[derive(Clone)]
struct Origin {
    address: IpAddr,
    gate: Weak<Gate>,
    /// Its place among those of its address that have no namespace; taken out by
    /// the connection.
    place: Arc<Mutex<Option<Counted<IpAddr>>>>,
}

/// Whether a path is one of Engine.IO's.
pub(super) fn is_path(path: &str) -> bool {
    PATHS.contains(&path.strip_suffix('/').unwrap_or(path))
}

/// Whether a request belongs to a connection that stands already.
pub(super) fn is_of_connection(uri: &Uri) -> bool {
    is_path(uri.path()) && parameter(uri, "sid").is_some()
}

/// Whether the answer to a request may take its time.
pub(super) fn is_poll<B>(request: &Request<B>) -> bool {
    *request.method() == Method::GET && is_of_connection(request.uri())
}

/// A parameter of the query as the crate reads it: nothing is decoded.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

impl Engine {
    /// Nobody is connected.
    #[must_use]
    pub fn new(services: Arc<Services>) -> Self {
        let handler = Arc::new(Handler {
            services,
            open: Mutex::default(),
            emptied: Notify::new(),
            idle: AtomicUsize::new(0),
            idle_of: Tally::new(IDLE_OF_ADDRESS_MAX),
            uploads: Semaphore::new(UPLOADS_MAX),
            frame: Mutex::default(),
        });
        let config = EngineIoConfig::builder()
            .req_path(PATH)
            .ping_interval(PING_EVERY)
            .ping_timeout(PONG_WITHIN)
            .max_buffer_size(PACKETS_MAX)
            .max_payload(MESSAGE_BYTES_MAX as u64)
            .ws_max_message_size(MESSAGE_BYTES_MAX)
            .ws_max_frame_size(MESSAGE_BYTES_MAX)
            .ws_read_buffer_size(READ_BYTES)
            .build();
        Self { service: EngineIoService::with_config(handler.clone(), config), handler }
    }

    /// Answers a request at one of its paths.
    pub(super) async fn answer(
        &self,
        mut request: Request<Upload>,
        visitor: &Visitor,
    ) -> Response<Outgoing> {
        let place = match self.handler.admit(request.uri(), visitor) {
            Ok(place) => Arc::new(Mutex::new(place)),
            Err(refused) => return refused,
        };
        let query = request.uri().query().unwrap_or_default();
        let Ok(uri) = format!("{PATH}/?{query}").parse() else {
            let words = "the query can't be read";
            return boxed(routes::error(StatusCode::BAD_REQUEST, "bad_request", words));
        };
        *request.uri_mut() = uri;
        let gate = Arc::downgrade(&visitor.gate);
        request.extensions_mut().insert(Origin { address: visitor.address, gate, place });

        let is_long = request.body().size_hint().upper().is_none_or(|most| most > UPLOAD_SMALL);
        let _room = if is_long {
            match timeout(UPLOAD_WAIT_MAX, self.handler.uploads.acquire()).await {
                Ok(Ok(room)) => Some(room),
                _ => return busy("too many long messages are on their way", UPLOAD_WAIT_MAX),
            }
        } else {
            None
        };
        match self.service.call(request).await {
            Ok(response) => boxed(response),
            Err(never) => match never {},
        }
    }

    /// Ends connections that have no namespace for too long, until `shutdown`;
    /// then all of them that have none.
    pub async fn watch(self, mut shutdown: Shutdown) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                _ = interval.tick() => self.handler.end_idle(IDLE_MAX),
            }
        }
        self.handler.end_idle(Duration::ZERO);
    }

    /// Waits until nobody is connected any more, and cuts off who still is after
    /// a while.
    pub(super) async fn drained(&self) {
        let gone = async {
            loop {
                let emptied = self.handler.emptied.notified();
                if self.handler.lock().is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        if timeout(DRAIN_MAX, gone).await.is_err() {
            let open: Vec<Arc<Socket>> = self.handler.lock().values().cloned().collect();
            open.iter().for_each(Connection::cut);
        }
    }
}

/// Refused for now.
fn busy(words: &str, retry_after: Duration) -> Response<Outgoing> {
    boxed(routes::not_now(StatusCode::SERVICE_UNAVAILABLE, "busy", words, retry_after))
}

impl Handler {
    /// Whether a request may go on to the crate. A WebSocket that takes over
    /// from polling is remembered: it is what has to be cut.
    #[expect(clippy::result_large_err, reason = "it is the answer, and passed on at once")]
    fn admit(
        &self,
        uri: &Uri,
        visitor: &Visitor,
    ) -> Result<Option<Counted<IpAddr>>, Response<Outgoing>> {
        let Some(sid) = parameter(uri, "sid") else {
            let is_near = is_loopback(visitor.address);
            let place = if is_near { None } else { self.idle_of.take(visitor.address) };
            let has_place = is_near || place.is_some();
            if has_place && self.idle.load(Ordering::Relaxed) < IDLE_CONNECTIONS_MAX {
                return Ok(place);
            }
            self.services.gates.counters().refused.fetch_add(1, Ordering::Relaxed);
            return Err(busy("too many connections are being opened", IDLE_MAX));
        };
        if parameter(uri, "transport") != Some("websocket") {
            return Ok(None);
        }
        // The crate would turn the connection into a WebSocket and drop it.
        let socket = sid.parse().ok().and_then(|sid: Sid| self.lock().get(&sid).cloned());
        let unknown = || {
            let body = serde_json::json!({"code": "1", "message": "Session ID unknown"});
            boxed(routes::body(StatusCode::BAD_REQUEST, &body))
        };
        socket.ok_or_else(unknown)?.data.remember(&visitor.gate);
        Ok(None)
    }

    /// Ends those that have had no namespace for so long.
    fn end_idle(self: &Arc<Self>, limit: Duration) {
        if self.idle.load(Ordering::Relaxed) == 0 {
            return;
        }
        let now = Instant::now();
        let open: Vec<Arc<Socket>> = self.lock().values().cloned().collect();
        for socket in open.iter().filter(|socket| socket.data.is_idle(now, limit)) {
            tracing::debug!("socketio: ended: no namespace was entered in time");
            self.end(socket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sid, Arc<Socket>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of connections is not for logs.
impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("handler", &self.handler).finish_non_exhaustive()
    }
}

impl EngineIoHandler for Handler {
    type Data = Connection;

    fn on_connect(self: Arc<Self>, socket: Arc<Socket>) {
        if socket.transport_type() == TransportType::Websocket
            && let Some(gate) = origin(&socket).and_then(|origin| origin.gate.upgrade())
        {
            socket.data.remember(&gate);
        }
        self.begin(&socket);
        self.lock().insert(socket.id, socket);
    }

    fn on_disconnect(&self, socket: Arc<Socket>, reason: DisconnectReason) {
        tracing::debug!(?reason, "socketio: a connection has ended");
        self.forget(&socket);
        let mut open = self.lock();
        open.remove(&socket.id);
        if open.is_empty() {
            // A storm of connections is forgotten once it is over.
            open.shrink_to_fit();
            self.emptied.notify_waiters();
        }
    }

    fn on_message(self: &Arc<Self>, message: Str, socket: Arc<Socket>) {
        self.hear(&socket, message.as_str());
    }

    fn on_binary(self: &Arc<Self>, data: Bytes, socket: Arc<Socket>) {
        self.hear_attachment(&socket, data);
    }
}

/// Where the request came from that has opened a connection.
fn origin(socket: &Socket) -> Option<&Origin> {
    socket.req_parts.extensions.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_are_served_and_no_others() {
        for path in ["/socket.io", "/socket.io/", "/ws/socket.io", "/ws/socket.io/"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["/", "/socket.io/x", "/socket.iox", "/ws/", "/ws", "/socket.io//"] {
            assert!(!is_path(path), "{path}");
        }
    }

    #[test]
    fn a_request_of_a_connection_names_it() {
        let of = |uri: &'static str| is_of_connection(&Uri::from_static(uri));
        assert!(of("/socket.io/?EIO=4&transport=polling&sid=x"));
        assert!(!of("/socket.io/?EIO=4&transport=polling"));
        assert!(!of("/socket.io/?EIO=4&xsid=x"));
        assert!(!of("/v1/stream?sid=x"));
    }
}
