//! One Engine.IO connection: the sessions of its namespaces, and which of them
//! a packet is for.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use engineioxide::DisconnectReason;
use hyper::Request;
use tokio::time::{Instant, sleep};

use super::outlet::Outlet;
use super::{Handler, Origin, Socket, origin};
use crate::audit::{Actor, Note};
use crate::dialect::socketio::packet::{self, Assembly, Kind, Packet};
use crate::dialect::socketio::{self, NAME, Namespace, SocketIo};
use crate::gate::{Counted, Gate, PacketGate};
use crate::server::token;
use crate::session::{Home, PacketSession, Received, TooMany};

/// Times that a client may be refused before its connection ends: it may try
/// another token, and need not try them all.
const REFUSALS_MAX: u32 = 8;
/// Times that a client may enter namespaces over one connection: one that comes
/// and goes all the time is to do so at the pace of connections.
const ENTRIES_MAX: u32 = 100;
/// HTTP connections that are remembered as the one WebSocket of this.
const LINES_MAX: usize = 4;
/// How long a client may take to leave that has been told why.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// How long a client has to fetch the last word, and its other namespaces to say
/// theirs.
const LAST_POLL: Duration = Duration::from_millis(300);
/// How long a connection that ends may take to write what it has taken.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// What the hub keeps of a connection.
///
/// A session's lock may be held where this one's is taken, and never the other
/// way round: sessions are called, and dropped, with this one open.
#[derive(Default)]
pub(super) struct Connection {
    state: Mutex<State>,
    /// What has to be cut so that nothing is stuck in it.
    lines: Mutex<Vec<Weak<Gate>>>,
}

#[derive(Default)]
struct State {
    seats: Vec<Seat>,
    /// A packet whose attachments are on their way.
    assembly: Option<Assembly>,
    /// Since when it has no namespace, if it has none.
    idle_since: Option<Instant>,
    /// Its place among those of its address that have had none yet.
    place: Option<Counted<IpAddr>>,
    refusals: u32,
    entries: u32,
    /// Nothing more is heard.
    is_over: bool,
}

/// One namespace that the client is in.
struct Seat {
    namespace: Namespace,
    outlet: Arc<Outlet>,
    /// None while it is being made.
    session: Option<Arc<PacketSession>>,
}

/// What broke the protocol.
struct Broken;

impl Connection {
    /// The WebSocket is, or may be, over this HTTP connection.
    pub(super) fn remember(&self, gate: &Arc<Gate>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| line.strong_count() > 0);
        if lines.len() < LINES_MAX {
            lines.push(Arc::downgrade(gate));
        }
    }

    /// Whether it has had no namespace for so long.
    pub(super) fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        let state = self.lock();
        !state.is_over && state.idle_since.is_some_and(|since| now.duration_since(since) >= limit)
    }

    /// Cuts a connection off, whatever it is doing. Its sessions hear of it from
    /// the crate: whoever calls this may hold their locks.
    pub(super) fn cut(socket: &Arc<Socket>) {
        socket.data.lock().is_over = true;
        socket.close(DisconnectReason::TransportError);
        socket.data.cut_lines();
    }

    fn cut_lines(&self) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lines.iter().filter_map(Weak::upgrade).for_each(|gate| gate.cut());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has(&self, namespace: Namespace) -> bool {
        self.seats.iter().any(|seat| seat.namespace == namespace)
    }

    fn session(&self, namespace: &str) -> Result<Arc<PacketSession>, Broken> {
        let namespace = Namespace::of(namespace).ok_or(Broken)?;
        let seat = self.seats.iter().find(|seat| seat.namespace == namespace);
        seat.and_then(|seat| seat.session.clone()).ok_or(Broken)
    }
}

impl Handler {
    /// A connection has been opened.
    pub(super) fn begin(&self, socket: &Socket) {
        self.idle.fetch_add(1, Ordering::Relaxed);
        let origin = socket.req_parts.extensions.get::<Origin>();
        let place = origin
            .and_then(|origin| origin.place.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut state = socket.data.lock();
        (state.idle_since, state.place) = (Some(Instant::now()), place);
    }

    /// A packet.
    pub(super) fn hear(self: &Arc<Self>, socket: &Arc<Socket>, text: &str) {
        if self.take(socket, text).is_err() {
            tracing::debug!("socketio: ended: what came is not Socket.IO");
            self.end(socket);
        }
    }

    fn take(self: &Arc<Self>, socket: &Arc<Socket>, text: &str) -> Result<(), Broken> {
        {
            let state = socket.data.lock();
            if state.is_over {
                return Ok(());
            }
            if state.assembly.is_some() {
                return Err(Broken);
            }
        }
        let packet = packet::parse(text).map_err(|_| Broken)?;
        match packet.kind {
            Kind::Connect => self.connect(socket, &packet)?,
            Kind::Disconnect => self.leave(socket, packet.namespace)?,
            Kind::Event | Kind::Ack => {
                let session = socket.data.lock().session(packet.namespace)?;
                session.receive(Received::Text(text));
            }
            Kind::BinaryEvent | Kind::BinaryAck => {
                let session = {
                    let mut state = socket.data.lock();
                    let session = state.session(packet.namespace)?;
                    if packet.attachments > 0 {
                        state.assembly = Some(Assembly::of(text, packet.attachments));
                        return Ok(());
                    }
                    session
                };
                session.receive(Received::Binary(&packet::bundle(text, std::iter::empty())));
            }
            // Only a server refuses.
            Kind::ConnectError => return Err(Broken),
        }
        Ok(())
    }

    /// An attachment of the packet that came before.
    pub(super) fn hear_attachment(self: &Arc<Self>, socket: &Arc<Socket>, data: Bytes) {
        let whole = {
            let mut state = socket.data.lock();
            if state.is_over {
                return;
            }
            let State { assembly, .. } = &mut *state;
            let taken = assembly.as_mut().ok_or(Broken).and_then(|assembly| {
                assembly.take(data).map_err(|_| Broken)?;
                Ok(assembly.is_whole())
            });
            match taken {
                Ok(false) => return,
                Ok(true) => assembly.take().map(|assembly| assembly.bundle()).ok_or(Broken),
                Err(broken) => Err(broken),
            }
        };
        let received = whole.and_then(|whole| {
            let (text, _) = packet::unbundle(&whole).ok_or(Broken)?;
            let packet = packet::parse(text).map_err(|_| Broken)?;
            // It may have left the namespace meanwhile.
            let session = socket.data.lock().session(packet.namespace)?;
            session.receive(Received::Binary(&whole));
            Ok(())
        });
        if received.is_err() {
            tracing::debug!("socketio: ended: an attachment that nobody waited for");
            self.end(socket);
        }
    }

    /// The client wants to enter a namespace.
    fn connect(self: &Arc<Self>, socket: &Arc<Socket>, packet: &Packet<'_>) -> Result<(), Broken> {
        let Some(namespace) = Namespace::of(packet.namespace) else {
            return Self::refuse(socket, socketio::refuse_unknown(packet.namespace));
        };
        {
            let mut state = socket.data.lock();
            state.entries += 1;
            if state.has(namespace) || state.entries > ENTRIES_MAX {
                return Err(Broken);
            }
        }
        // The token is read from the request that has opened the connection,
        // where the packet has none.
        let request = Request::from_parts(socket.req_parts.clone(), ());
        let shown = token::of(&request);
        let access = &self.services.access;
        let Some(identity) = socketio::identify(access, packet, shown.as_deref()) else {
            self.note_refused(socket);
            return Self::refuse(socket, socketio::refuse(packet.namespace, "AUTH_FAILED"));
        };
        let outlet = Arc::new(Outlet::new(self.clone(), socket, namespace));
        {
            let mut state = socket.data.lock();
            // It may have come twice at once.
            if state.has(namespace) || state.is_over {
                return Err(Broken);
            }
            self.is_idle_no_more(&mut state);
            state.seats.push(Seat { namespace, outlet: outlet.clone(), session: None });
        }
        let too_many = |_: TooMany| socketio::refuse(packet.namespace, "TOO_MANY_CONNECTIONS");
        let session = self.session(namespace, &outlet, socket, identity).map_err(too_many);
        match session {
            Ok(session) => {
                let mut state = socket.data.lock();
                let seat = state.seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.outlet, &outlet));
                if let Some(seat) = seat {
                    seat.session = Some(session);
                    return Ok(());
                }
                // It has ended meanwhile.
                drop(state);
                session.ended();
                Ok(())
            }
            Err(refusal) => {
                drop(self.vacate(socket, &outlet));
                Self::refuse(socket, refusal)
            }
        }
    }

    /// The session of a client in a namespace.
    fn session(
        &self,
        namespace: Namespace,
        outlet: &Arc<Outlet>,
        socket: &Socket,
        identity: Arc<crate::access::Identity>,
    ) -> Result<Arc<PacketSession>, TooMany> {
        let services = &self.services;
        let address = origin(socket).map(|origin| origin.address).ok_or(TooMany::OfAddress)?;
        let gate =
            PacketGate::new(&services.gates, Arc::new(outlet.clone())).ok_or(TooMany::OfAddress)?;
        let own = Arc::clone(&gate);
        let client = services.clients.enter(NAME, address, own, Some(identity.clone()))?;
        let dialect = SocketIo::new(
            namespace,
            services.clock.clone(),
            services.hub.clone(),
            client.clone(),
            identity,
            outlet.is_final(),
        );
        outlet.begin();
        let home = Home { services: services.clone(), client };
        Ok(PacketSession::start(gate, Box::new(dialect), home))
    }

    /// Tells a client that it may not enter a namespace.
    fn refuse(socket: &Socket, refusal: String) -> Result<(), Broken> {
        let refusals = {
            let mut state = socket.data.lock();
            state.refusals += 1;
            state.refusals
        };
        socket.emit(refusal).map_err(|_| Broken)?;
        if refusals < REFUSALS_MAX { Ok(()) } else { Err(Broken) }
    }

    fn note_refused(&self, socket: &Socket) {
        let address = origin(socket).map(|origin| origin.address);
        let who = Actor { dialect: Some(NAME), address, ..Actor::default() };
        self.services.audit.note(Note::refused(who, "connect", "unauthorized"));
    }

    /// The client leaves a namespace.
    fn leave(&self, socket: &Socket, namespace: &str) -> Result<(), Broken> {
        let namespace = Namespace::of(namespace).ok_or(Broken)?;
        let outlet = {
            let state = socket.data.lock();
            let mut seats = state.seats.iter();
            seats.find(|seat| seat.namespace == namespace).map(|seat| seat.outlet.clone())
        };
        // Who has been told to leave says so too.
        let left = outlet.and_then(|outlet| self.vacate(socket, &outlet));
        if let Some(session) = left {
            session.ended();
        }
        Ok(())
    }

    /// Takes a session out of its connection, which has no more to do with it.
    fn vacate(&self, socket: &Socket, outlet: &Arc<Outlet>) -> Option<Arc<PacketSession>> {
        outlet.end();
        let mut state = socket.data.lock();
        let at = state.seats.iter().position(|seat| Arc::ptr_eq(&seat.outlet, outlet))?;
        let seat = state.seats.swap_remove(at);
        if state.seats.is_empty() && !state.is_over {
            state.idle_since = Some(Instant::now());
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
        seat.session
    }

    fn is_idle_no_more(&self, state: &mut State) {
        state.place = None;
        if state.idle_since.take().is_some() {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The hub has told a client in a namespace to leave: then its connection
    /// ends, unless it has other business on it. May be called by the session.
    pub(super) fn dismiss(self: &Arc<Self>, socket: &Arc<Socket>, outlet: &Arc<Outlet>) {
        let session = self.vacate(socket, outlet);
        let (handler, socket) = (self.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some(session) = session {
                session.ended();
            }
            sleep(LEAVE_MAX).await;
            if socket.data.is_idle(Instant::now(), LEAVE_MAX / 2) {
                handler.end(&socket);
            }
        });
    }

    /// Ends a connection after what it has taken: its client comes back. May be
    /// called by a session.
    pub(super) fn end(self: &Arc<Self>, socket: &Arc<Socket>) {
        if std::mem::replace(&mut socket.data.lock().is_over, true) {
            return;
        }
        let (handler, socket) = (self.clone(), socket.clone());
        tokio::spawn(async move {
            sleep(LAST_POLL).await;
            socket.close(DisconnectReason::ClosingServer);
            handler.forget(&socket);
            sleep(WRITE_MAX).await;
            socket.data.cut_lines();
        });
    }

    /// A connection has ended, and its sessions with it.
    pub(super) fn forget(&self, socket: &Socket) {
        let seats = {
            let mut state = socket.data.lock();
            state.is_over = true;
            state.assembly = None;
            self.is_idle_no_more(&mut state);
            std::mem::take(&mut state.seats)
        };
        for seat in seats {
            seat.outlet.end();
            if let Some(session) = seat.session {
                session.ended();
            }
        }
    }
}
