//! The gate: one connection's way in and out, whatever is spoken over it.
//!
//! A gate owns the stream, plain or TLS, and what waits to go out. Shared,
//! already framed messages are written straight to the socket by whoever has
//! them; only what the socket has no room for waits, and the connection's own
//! task is woken to write it. All gates are known to the [`Gates`], whose
//! sweeper finds those that are stalled or silent, so that a connection needs
//! no timer of its own.

mod budget;
mod frame;
mod io;
mod out;
mod places;
mod stream;
mod sweep;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod way;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::LimitsConfig;

use out::{Out, Written};
use places::Places;
use stream::Stream;
use way::Way;

pub use budget::Budget;
pub use frame::Piece;
pub use io::{GateIo, PacketGate};
pub use places::{Place, Served};
pub(crate) use tally::{Counted, Tally};
pub use way::{Packet, Packets};

/// What waits for a client that takes nothing for so long is given up.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// Commands of one client that may be under way; more are not read.
const UNDER_WAY_MAX: u32 = 16;
/// Messages that may wait before no more commands are read.
const WAITING_MAX: usize = 64;
/// … and their bytes.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Why the hub closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The WebSocket close code. 3000 to 3499 and 1001: come back.
    pub code: u16,
    /// In words; at most 123 bytes.
    pub words: &'static str,
}

impl CloseReason {
    /// The client takes nothing of what it asked for.
    pub const TOO_SLOW: Self =
        Self { code: 3008, words: "too slow: nothing of what waits was taken for 10 s" };
    /// All clients together have more waiting than the hub may keep.
    pub const SHED: Self =
        Self { code: 3008, words: "too slow: the memory for what waits is used up" };
    /// The client's token has expired: come back with another.
    pub const EXPIRED: Self = Self { code: 3505, words: "the token has expired" };
    /// All connections of the user were ended by somebody who may.
    pub const REVOKED: Self = Self { code: 3503, words: "this user's connections were ended" };
    /// More came in than can be looked at.
    pub const TOO_MUCH: Self = Self { code: 3013, words: "too many messages at once" };
    /// Its user has as many connections as it may have.
    pub const TOO_MANY: Self =
        Self { code: 3504, words: "this user has as many connections as it may have" };
    /// It has sent too much for 10 s, and was told so each time.
    pub const ABUSE: Self = Self { code: 3013, words: "too many messages, for 10 s" };
    /// The client is silent, and doesn't answer pings.
    pub const SILENT: Self = Self { code: 1011, words: "keepalive ping timeout" };
}

/// How a client's heart is listened to, where it is not as everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// After so much silence it is pinged, after twice as much it is lost.
    pub interval: Duration,
    /// What is said to it then.
    pub lost: CloseReason,
}

/// What a session is to do, by others than its client.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Close the connection.
    Close(CloseReason),
    /// Say goodbye, since the hub stops; the client is to come back after so
    /// long.
    Bye(Duration),
    /// Its token has expired.
    Expired,
    /// Somebody who may has ended all connections of its user.
    Revoked,
}

/// How the connections are doing.
#[derive(Debug, Default)]
pub struct GateCounters {
    /// Clients that are connected.
    pub connected: AtomicU64,
    /// Messages that came in since the start.
    pub received: AtomicU64,
    /// Messages that went out since the start, or wait to.
    pub sent: AtomicU64,
    /// Messages that no dialect could make sense of, since the start.
    pub not_understood: AtomicU64,
    /// Connections that took nothing for too long.
    pub stalled: AtomicU64,
    /// Clients that said nothing and didn't answer pings.
    pub silent: AtomicU64,
    /// Clients that were closed since all together had too much waiting.
    pub shed: AtomicU64,
    /// Connections that were refused, all being in use.
    pub refused: AtomicU64,
    /// Connections that were refused at the door, their address having as many
    /// as it may have.
    pub address_refused: AtomicU64,
    /// Handshakes that gave way to newer ones.
    pub handshakes_dropped: AtomicU64,
    /// Handshakes, heads and bodies of requests that did not come in time.
    pub too_late: AtomicU64,
}

/// All gates there are.
pub struct Gates {
    places: Places,
    /// Clients whose transport takes whole messages, and how many there may be.
    /// A bound of their own, since one that polls has no connection in between.
    packets: AtomicUsize,
    packets_max: usize,
    /// After so much silence a client is pinged, after twice as much it is lost.
    heartbeat: Duration,
    budget: Arc<Budget>,
    counters: Arc<GateCounters>,
    open: Mutex<Slab<Arc<Gate>>>,
    /// From here on, times are kept in milliseconds.
    started: Instant,
    draining: AtomicBool,
}

/// One connection's way in and out.
pub struct Gate {
    way: Way,
    out: Mutex<Out>,
    gates: Arc<Gates>,
    /// When something last came in, and when the client was last pinged.
    heard_at: AtomicU32,
    pinged_at: AtomicU32,
    /// Its own heartbeat; most have everybody's.
    beat: OnceLock<Box<Beat>>,
    /// A WebSocket session has it, and not HTTP.
    is_session: AtomicBool,
    /// Commands that wait for their answers.
    under_way: AtomicU32,
    /// Where the channels keep what they know of it.
    seat: AtomicU32,
    /// Messages of this client, and to it.
    received: AtomicU64,
    sent: AtomicU64,
}

/// What became of what was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the socket.
    Taken,
    /// It is on its way; the socket is full.
    Waiting,
    /// Nothing of it was taken: something older waits, or the connection ends.
    Busy,
}

impl Gates {
    /// No gates yet. Beside how many there may be, the limits are the usual
    /// ones.
    #[must_use]
    pub fn new(connections_max: usize, heartbeat: Duration, budget: Arc<Budget>) -> Arc<Self> {
        let limits = LimitsConfig { connections: connections_max, ..LimitsConfig::default() };
        Self::with_limits(&limits, heartbeat, budget)
    }

    /// No gates yet.
    #[must_use]
    pub fn with_limits(
        limits: &LimitsConfig,
        heartbeat: Duration,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        Arc::new(Self {
            places: Places::new(limits),
            packets: AtomicUsize::new(0),
            packets_max: limits.connections,
            heartbeat,
            budget,
            counters: Arc::default(),
            open: Mutex::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
        })
    }

    /// How the connections are doing.
    #[must_use]
    pub fn counters(&self) -> &Arc<GateCounters> {
        &self.counters
    }

    /// How many connections there may be.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.packets_max
    }

    /// The memory for what waits.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn now(&self) -> u32 {
        // It starts again after 49 days; only differences are looked at.
        self.started.elapsed().as_millis() as u32
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Gate>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Gate {
    fn new(way: Way, gates: Arc<Gates>) -> Arc<Self> {
        let now = gates.now();
        Arc::new(Self {
            way,
            out: Mutex::default(),
            heard_at: AtomicU32::new(now),
            pinged_at: AtomicU32::new(now),
            beat: OnceLock::new(),
            gates,
            is_session: AtomicBool::new(false),
            under_way: AtomicU32::new(0),
            seat: AtomicU32::new(u32::MAX),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// Writes messages now. What the socket has no room for waits; nothing is
    /// taken where something older waits already, and then the session's task
    /// tells the channels when that has gone ([`Gate::has_gone`]).
    pub fn offer(&self, pieces: &[Piece]) -> Offered {
        let mut out = self.lock();
        let ends = out.dead || out.is_closed || out.ending.is_some();
        if !out.is_empty() || out.blocked_at.is_some() || ends {
            out.wants_room = true;
            return Offered::Busy;
        }
        let written = out.write(&self.way, pieces, || self.gates.now());
        self.after(written, out)
    }

    /// Whether something waits; then the session's task tells the channels when
    /// it has gone.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let mut out = self.lock();
        let busy = !out.is_empty() || out.blocked_at.is_some();
        out.wants_room |= busy;
        busy
    }

    /// Sends what has to be sent, after what waits already. It has a bound
    /// elsewhere: answers by the commands that are under way, entries by the
    /// page.
    pub fn send(&self, pieces: impl IntoIterator<Item = Piece>) {
        let out = self.lock();
        if !out.dead && !out.is_closed {
            self.append(out, pieces);
        }
    }

    fn append(&self, mut out: MutexGuard<'_, Out>, pieces: impl IntoIterator<Item = Piece>) {
        let waits = !out.is_empty();
        out.append(pieces);
        self.count_sent(1);
        if !waits {
            // From here on it counts as waiting.
            out.blocked_at.get_or_insert_with(|| self.gates.now());
            let written = out.flush(&self.way, || self.gates.now());
            self.after(written, out);
        }
    }

    /// Sends a text.
    pub fn send_text(&self, text: &str) {
        self.send([Piece::text(text, &self.gates.budget)]);
    }

    fn after(&self, written: Written, mut out: MutexGuard<'_, Out>) -> Offered {
        let waker = if written == Written::All { None } else { out.waker.take() };
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
        if written == Written::All { Offered::Taken } else { Offered::Waiting }
    }

    /// Asks for the session to end. The first one who asks is heard.
    pub fn end(&self, ending: Ending) {
        let mut out = self.lock();
        out.ending.get_or_insert(ending);
        let waker = out.waker.take();
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Cuts the connection off and drops what waits.
    pub fn cut(&self) {
        let mut out = self.lock();
        out.clear();
        out.dead = true;
        let waker = out.waker.take();
        drop(out);
        self.way.cut();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().dead
    }

    /// The memory for what waits.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.gates.budget
    }

    /// How the connections are doing.
    #[must_use]
    pub fn counters(&self) -> &GateCounters {
        &self.gates.counters
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.way, Way::Stream(Stream::Tls(..)))
    }

    /// Counts a message of the client.
    pub fn count_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.gates.counters.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts messages to the client that were offered, and taken.
    pub fn count_sent(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
        self.gates.counters.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// How many messages came from the client, and went to it or wait to.
    #[must_use]
    pub fn messages(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    /// For how long nothing has come from the client, and whether it has answered
    /// the last ping.
    #[must_use]
    pub fn silence(&self) -> (Duration, bool) {
        let now = self.gates.now();
        let heard = sweep::since(now, self.heard_at.load(Ordering::Relaxed));
        let pinged = sweep::since(now, self.pinged_at.load(Ordering::Relaxed));
        (Duration::from_millis(heard.into()), heard <= pinged)
    }

    /// Where the channels keep what they know of this client, if they know it.
    #[must_use]
    pub fn seat(&self) -> Option<usize> {
        let seat = self.seat.load(Ordering::Relaxed);
        (seat != u32::MAX).then_some(seat as usize)
    }

    /// Notes where the channels keep what they know of this client.
    pub fn take_seat(&self, seat: Option<usize>) {
        let seat = seat.and_then(|seat| u32::try_from(seat).ok()).unwrap_or(u32::MAX);
        self.seat.store(seat, Ordering::Relaxed);
    }

    /// A command is under way. [`Gate::answered`] has to follow.
    pub fn ask(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// A command has its answer.
    pub fn answered(&self) {
        if self.under_way.fetch_sub(1, Ordering::Relaxed) == UNDER_WAY_MAX {
            self.wake();
        }
    }

    /// Wakes the session.
    fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only the connection's own task does.
impl Gate {
    /// Whether enough is under way or waits, so that no more is to be read.
    pub(crate) fn is_full(&self) -> bool {
        let out = self.lock();
        // One that has ended is read to its end.
        if out.dead {
            return false;
        }
        self.under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX
            || out.len() >= WAITING_MAX
            || out.bytes >= WAITING_BYTES_MAX
    }

    /// Remembers whom to wake, and answers what others want.
    pub(crate) fn attend(&self, waker: &Waker) -> Option<Ending> {
        let mut out = self.lock();
        if out.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            out.waker = Some(waker.clone());
        }
        out.ending
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().bytes + self.way.waiting()
    }

    /// Writes what waits; true if nothing does any more.
    pub(crate) fn flush(&self) -> bool {
        let mut out = self.lock();
        if out.is_empty() && out.blocked_at.is_none() {
            return true;
        }
        out.flush(&self.way, || self.gates.now()) != Written::Rest
    }

    /// Whether somebody has waited for what waited to be gone, and it is.
    pub(crate) fn has_gone(&self) -> bool {
        let mut out = self.lock();
        let gone = out.wants_room && out.is_empty() && out.blocked_at.is_none();
        out.wants_room &= !gone;
        gone
    }

    /// Sends a pong before what waits.
    pub(crate) fn send_pong(&self, frame: &[u8]) {
        let mut out = self.lock();
        if out.dead || out.is_closed {
            return;
        }
        let waits = !out.is_empty() || out.blocked_at.is_some();
        out.cut_in(Piece::raw(frame));
        if !waits {
            let written = out.flush(&self.way, || self.gates.now());
            self.after(written, out);
        }
    }

    /// Sends a close frame after what waits, or instead of it. Nothing follows
    /// it (RFC 6455, 5.5.1).
    pub(crate) fn send_close(&self, frame: &[u8], drop_unsent: bool) {
        let mut out = self.lock();
        if out.dead || out.is_closed {
            return;
        }
        if drop_unsent {
            out.drop_unsent();
        }
        out.is_closed = true;
        self.append(out, [Piece::raw(frame)]);
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.way.stream()?.try_read(buffer)?;
        self.heard_at.store(self.gates.now(), Ordering::Relaxed);
        Ok(read)
    }

    /// The socket, for its readiness.
    ///
    /// # Panics
    ///
    /// The gate leads to a sink of messages; only a [`GateIo`] is asked.
    pub(crate) fn socket(&self) -> &TcpStream {
        match &self.way {
            Way::Stream(stream) => stream.socket(),
            Way::Packets(_) => unreachable!("a sink of messages has no socket"),
        }
    }

    /// Says that nothing follows; false if there is no room for that now.
    pub(crate) fn finish(&self) -> bool {
        // Any other error means that the connection has ended already.
        let finished = self.way.stream().and_then(Stream::finish);
        !finished.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
