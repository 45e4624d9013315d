//! The sockets that strangers reach: who may come in, and which dialect or
//! route they get.

mod body;
mod cors;
mod detectors;
mod engine;
mod events;
mod guard;
mod hooks;
mod metrics;
mod notify;
mod plugins;
mod proxy;
mod realtime;
mod refuse;
mod routes;
mod stats;
mod tls;
pub(crate) mod token;
mod upload;
mod users;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_tungstenite::HyperWebsocket;
use hyper_tungstenite::tungstenite::protocol::WebSocketConfig;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::access::Identity;
use crate::audit::{Actor, Audit, Note};
use crate::config::is_loopback;
use crate::dialect::MESSAGE_BYTES_MAX;
use crate::dialect::native::{Native, SUBPROTOCOL};
use crate::dialect::routing::{self, Routing, Wants};
use crate::dialect::skills::Skills;
use crate::dialect::sync::{self, LayoutSync, NoBoard};
use crate::gate::{Gate, GateIo, Place};
use crate::model::Board;
use crate::session::{Dialect, Entered, Home, Services, Session, TooMany};
use crate::shutdown::Shutdown;

use guard::Admitted;
use upload::Upload;

pub use body::Bodies;
pub use engine::Engine;
pub use guard::Guard;
pub use proxy::Proxies;
pub use refuse::Refusals;
pub use routes::{Intake, Readiness};
pub use stats::Stats;
pub use tls::{Tls, TlsCounters, TlsError};

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
/// When one of all connections may be free again is not known.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// How often accepting is tried again when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection is served with.
#[derive(Clone)]
pub struct Server {
    /// What sessions need.
    pub services: Arc<Services>,
    /// What routes answer from.
    pub readiness: Readiness,
    /// What requests bring in goes here.
    pub intake: Intake,
    /// Who may come in.
    pub guard: Arc<Guard>,
    /// Who is believed that says where a client is.
    pub proxies: Arc<Proxies>,
    /// Serves Socket.IO.
    pub engine: Engine,
    /// Every listener speaks TLS, where there is one.
    pub tls: Option<Arc<Tls>>,
    /// Room to tell newcomers why they are refused.
    pub refusals: Refusals,
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
            tokio::join!(sessions.wait(), self.engine.drained());
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
        // Behind a proxy there are many clients, and each is counted by itself.
        let is_counted = !is_loopback(peer.ip()) && !self.proxies.trusts(peer.ip());
        let address = is_counted.then(|| peer.ip().to_canonical());
        let Some(place) = self.services.gates.knock(address) else {
            self.turn_away(socket, peer, connections);
            return;
        };
        // What fails here is only slower.
        let _ = socket.set_nodelay(true);
        let (server, sessions) = (self.clone(), sessions.clone());
        connections.spawn(async move {
            // A task of its own: what HTTP needed is freed when this one ends.
            let session = tokio::select! {
                biased;
                () = place.lost() => {
                    tracing::debug!(%peer, "cut off: its place was needed for another handshake");
                    None
                }
                session = server.connection(place.clone(), socket, peer) => session,
            };
            if let Some(session) = session {
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
        let gate = self.gate(place.clone(), socket, peer).await?;
        let (upgraded, upgrades) = tokio::sync::oneshot::channel();
        let upgraded = Mutex::new(Some(upgraded));
        let own = Arc::clone(&gate);
        let polls = AtomicBool::new(false);
        let (server, slot, place) = (&self, &upgraded, &place);
        let service = service_fn(|request: Request<Incoming>| {
            polls.store(engine::is_poll(&request), Ordering::Relaxed);
            let address = server.proxies.client(peer.ip(), request.headers());
            let is_secure =
                own.is_encrypted() || server.proxies.says_tls(peer.ip(), request.headers());
            let visitor = Visitor { gate: own.clone(), place: place.clone(), address, is_secure };
            let counters = server.services.gates.counters().clone();
            let request = request.map(|body| Upload::new(body, counters));
            async move { Ok::<_, Infallible>(server.respond(request, &visitor, slot).await) }
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
                    let takes_time = polls.load(Ordering::Relaxed);
                    let most = if takes_time { engine::ANSWER_MAX } else { HEAD_MAX };
                    tokio::time::timeout(most, http).await
                }
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.late(error.is_timeout());
                    tracing::debug!(%peer, %error, "connection");
                }
                Err(_) => tracing::debug!(%peer, "cut off: it reads no answer"),
            }
        }
        drop(upgraded);
        let Handshake { socket, dialect, client } = upgrades.await.ok()?;
        let upgraded: Upgraded = socket.await.ok()?.into_inner().into_inner();
        let parts = upgraded.downcast::<TokioIo<GateIo>>().ok()?;
        let (gate, first) = (parts.io.into_inner(), parts.read_buf);
        let home = Some(Home { services: self.services.clone(), client });
        Some(Session::new(gate, &first, dialect, MESSAGE_BYTES_MAX, home))
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
            Ok::<_, std::io::Error>(GateIo::tls(place, tls.acceptor().accept(socket).await?))
        };
        match tokio::time::timeout(HEAD_MAX, handshake).await {
            Ok(Ok(gate)) => return Some(gate),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
            Err(_) => {
                self.late(true);
                tracing::debug!(%peer, "cut off: no TLS handshake in time");
            }
        }
        None
    }

    /// Counts what did not come in time.
    fn late(&self, is_late: bool) {
        self.services.gates.counters().too_late.fetch_add(is_late.into(), Ordering::Relaxed);
    }

    /// The one way out for all answers, whoever makes them.
    async fn respond(
        &self,
        request: Request<Upload>,
        visitor: &Visitor,
        upgraded: &Upgrade,
    ) -> Response<Outgoing> {
        let asked = Asked::new(&self.services.audit, &request);
        let (admitted, mut response) =
            match self.guard.admit(request.headers(), visitor.gate.is_encrypted()) {
                Ok(admitted) => (admitted, self.serve(request, visitor, upgraded).await),
                Err(refusal) => {
                    let refused = routes::error(StatusCode::FORBIDDEN, refusal.code, refusal.words);
                    (Admitted::default(), boxed(refused))
                }
            };
        asked.note(&self.services.audit, visitor, &response);
        // No page reads the answer that turns a connection into another.
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.guard.seal(&admitted, response.headers_mut());
        }
        response
    }

    /// Answers what was let in.
    async fn serve(
        &self,
        request: Request<Upload>,
        visitor: &Visitor,
        upgraded: &Upgrade,
    ) -> Response<Outgoing> {
        // What follows a question of this kind has no token yet.
        if let Some(allowed) = cors::preflight(&request) {
            return boxed(allowed);
        }
        let path = request.uri().path();
        let asks_how_it_is = STILL_ANSWERED.contains(&path);
        // Who is connected hears the last word.
        let is_known = engine::is_of_connection(request.uri());
        if self.services.gates.is_draining() && !asks_how_it_is && !is_known {
            return boxed(self.refuse_while_stopping());
        }
        let served = visitor.place.serve();
        if served.is_none() && !asks_how_it_is {
            tracing::debug!(address = %visitor.address, "refused: limits.connections");
            return boxed(routes::not_now(
                StatusCode::SERVICE_UNAVAILABLE,
                TooMany::CODE,
                "all connections of this hub are in use",
                FULL_RETRY,
            ));
        }
        let response = if engine::is_path(path) {
            self.engine.answer(request, visitor).await
        } else if hyper_tungstenite::is_upgrade_request(&request) {
            self.upgrade(request, visitor, upgraded)
        } else if realtime::is_path(path) {
            let Self { services, readiness, intake, .. } = self;
            let answer =
                realtime::answer(services, &readiness.stats, &intake.bodies, visitor, request);
            boxed(answer.await)
        } else {
            let Self { services, readiness, intake, .. } = self;
            boxed(routes::answer(services, readiness, intake, visitor.address, request).await)
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(served) = served
        {
            served.keep();
        }
        response
    }

    /// Answers who wants a WebSocket.
    fn upgrade(
        &self,
        mut request: Request<Upload>,
        visitor: &Visitor,
        upgraded: &Upgrade,
    ) -> Response<Outgoing> {
        let Some(spoken) = Spoken::at(request.uri().path()) else {
            let words = "no WebSocket is served here: see /v1/stream";
            return boxed(routes::error(StatusCode::NOT_FOUND, "not_found", words));
        };
        let offers_native = request
            .headers()
            .get_all("sec-websocket-protocol")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|offer| offer.trim() == SUBPROTOCOL));
        // Of this tungstenite only the handshake is used.
        let config = WebSocketConfig::default().read_buffer_size(0);
        let upgrade = hyper_tungstenite::upgrade(&mut request, Some(config));
        let (mut response, socket) = match upgrade {
            Ok(upgrade) => upgrade,
            Err(error) => {
                let words = error.to_string();
                return boxed(routes::error(StatusCode::BAD_REQUEST, "bad_handshake", &words));
            }
        };
        if offers_native && request.uri().path() == STREAM_PATH {
            let name = HeaderName::from_static("sec-websocket-protocol");
            response.headers_mut().insert(name, HeaderValue::from_static(SUBPROTOCOL));
        }
        let newcomer = match self.newcomer(spoken, &request) {
            Ok(newcomer) => newcomer,
            Err(refused) => return boxed(refused),
        };
        match self.enter(newcomer, visitor) {
            Ok((client, dialect)) => {
                let slot = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(slot) = slot {
                    // An error means that the connection has gone meanwhile.
                    let _ = slot.send(Handshake { socket, dialect, client });
                }
                boxed(response)
            }
            Err(too_many) => {
                tracing::debug!(address = %visitor.address, "refused: {too_many}");
                refuse::too_many(too_many)
            }
        }
    }

    /// Tells a newcomer when to come back.
    fn refuse_while_stopping(&self) -> Response<Full<Bytes>> {
        routes::not_now(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the hub is stopping: come back in a moment",
            self.drain_window.max(Duration::from_secs(1)),
        )
    }

    /// Who wants to speak a dialect, and what its request says of it. Who has not
    /// shown a good token yet and must is mostly told so by its dialect, which
    /// knows how.
    ///
    /// # Errors
    ///
    /// The answer to who is not let in.
    #[expect(clippy::result_large_err, reason = "it is the answer, and passed on at once")]
    fn newcomer<B>(
        &self,
        spoken: Spoken,
        request: &Request<B>,
    ) -> Result<Newcomer, Response<Full<Bytes>>> {
        let admit = |name| self.services.access.admit(token::of(request).as_deref(), name);
        let query = request.uri().query().unwrap_or_default();
        Ok(match spoken {
            Spoken::Native => Newcomer { identity: admit(spoken.name()), speaks: Speaks::Native },
            Spoken::Skills => Newcomer { identity: admit(spoken.name()), speaks: Speaks::Skills },
            Spoken::Routing => {
                let wants = Wants::read(query).map_err(|words| {
                    routes::error(StatusCode::BAD_REQUEST, "bad_request", &words)
                })?;
                let identity = admit(spoken.name()).ok_or_else(|| token::wanted(token::WORDS))?;
                if !routing::may_read(&identity) {
                    return Err(token::denied());
                }
                Newcomer { identity: Some(identity), speaks: Speaks::Routing(wants) }
            }
            Spoken::Sync => {
                let identity = realtime::who(&self.services, request);
                let board = match &identity {
                    Some(identity) => realtime::board(identity, query),
                    None => Err(NoBoard::Forbidden),
                };
                Newcomer { identity, speaks: Speaks::Sync(board) }
            }
        })
    }

    /// Makes a newcomer one of the clients.
    fn enter(
        &self,
        newcomer: Newcomer,
        visitor: &Visitor,
    ) -> Result<(Entered, Box<dyn Dialect>), TooMany> {
        let Services { clock, hub, access, clients, .. } = &*self.services;
        let Newcomer { identity, speaks } = newcomer;
        let name = speaks.name();
        let client = clients.enter(name, visitor.address, visitor.gate.clone(), identity)?;
        let (clock, hub, own) = (clock.clone(), hub.clone(), client.clone());
        let dialect: Box<dyn Dialect> = match speaks {
            Speaks::Native => Box::new(Native::new(clock, hub, access.clone(), own)),
            Speaks::Skills => Box::new(Skills::new(clock, access.clone(), own)),
            Speaks::Routing(wants) => {
                let interval = self.services.routing_interval;
                Box::new(Routing::new(clock, hub.tick, interval, wants))
            }
            Speaks::Sync(board) => {
                let heartbeat = self.services.sync_heartbeat;
                Box::new(LayoutSync::new(clock, hub, own, board, heartbeat))
            }
        };
        Ok((client, dialect))
    }
}

/// What is sent as the body of an answer, whoever makes it.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// An answer in the form that all have on their way out.
fn boxed<B>(response: Response<B>) -> Response<Outgoing>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// What a request asks for, where refusals are noted.
struct Asked(Option<String>);

impl Asked {
    /// Without the query: there may be a token in it.
    fn new<B>(audit: &Audit, request: &Request<B>) -> Self {
        let asked = || format!("{} {}", request.method(), request.uri().path());
        Self(audit.is_on().then(asked))
    }

    /// Notes what was refused, and what was done to the hub.
    fn note<B>(self, audit: &Audit, visitor: &Visitor, response: &Response<B>) {
        let Some(asked) = self.0 else { return };
        let (status, extensions) = (response.status(), response.extensions());
        let code = extensions.get().map(|code: &routes::ErrorCode| code.0);
        let who = Actor {
            user: extensions.get().map(|by: &routes::AskedBy| by.0.clone()),
            ..Actor::http(visitor.address)
        };
        if let Some(routes::Done(what, whom)) = extensions.get() {
            let (whom, outcome) = (whom.clone(), code.unwrap_or("done"));
            audit.note(Note::Administered { who, what, whom, outcome });
        } else if REFUSALS.contains(&status) {
            audit.note(Note::refused(who, &asked, code.unwrap_or(status.as_str())));
        }
    }
}

/// Answers that say that somebody may not, or not now.
const REFUSALS: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];

/// Who a request is from.
pub(crate) struct Visitor {
    gate: Arc<Gate>,
    place: Place,
    /// The client's own address, also behind a proxy that is trusted. Limits,
    /// lists and logs go by it.
    address: IpAddr,
    /// It speaks TLS, to the hub or to a proxy that is trusted.
    is_secure: bool,
}

/// The dialects that are spoken over WebSocket.
#[derive(Clone, Copy)]
enum Spoken {
    Native,
    Skills,
    Routing,
    Sync,
}

/// Somebody who wants to be a client.
struct Newcomer {
    identity: Option<Arc<Identity>>,
    speaks: Speaks,
}

/// A dialect, and what the request says to it.
enum Speaks {
    Native,
    Skills,
    Routing(Wants),
    /// The board that is meant.
    Sync(Result<Board, NoBoard>),
}

impl Speaks {
    /// Its name in lists and in the configuration.
    fn name(&self) -> &'static str {
        match self {
            Self::Native => Spoken::Native.name(),
            Self::Skills => Spoken::Skills.name(),
            Self::Routing(_) => Spoken::Routing.name(),
            Self::Sync(_) => Spoken::Sync.name(),
        }
    }
}

impl Spoken {
    /// Which one at a path.
    fn at(path: &str) -> Option<Self> {
        match path {
            STREAM_PATH => Some(Self::Native),
            METRICS_PATH => Some(Self::Routing),
            realtime::PATH => Some(Self::Sync),
            _ if OTHERS.iter().any(|other| path.starts_with(other)) => None,
            _ => Some(Self::Skills),
        }
    }

    /// Its name in lists and in the configuration.
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Skills => "skills",
            Self::Routing => routing::NAME,
            Self::Sync => sync::NAME,
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
/// Where the routing dialect is spoken.
const METRICS_PATH: &str = "/ws/metrics";
/// Paths that are no skills client's.
const OTHERS: [&str; 5] = ["/v1/", "/socket.io", "/ws/socket.io", "/ws/metrics", "/api/realtime"];

type Upgrade = Mutex<Option<tokio::sync::oneshot::Sender<Handshake>>>;

/// A connection that is to become a session.
struct Handshake {
    socket: HyperWebsocket,
    dialect: Box<dyn Dialect>,
    client: Entered,
}
