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
mod stream;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::net::TcpStream;
use tokio::time::Instant;

use out::{Out, Written};
use stream::Stream;

pub use budget::Budget;
pub use frame::Piece;
pub use io::GateIo;

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
    /// The client is silent, and doesn't answer pings.
    pub const SILENT: Self = Self { code: 1011, words: "keepalive ping timeout" };
}

/// What a session is to do, by others than its client.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Close the connection.
    Close(CloseReason),
    /// Say goodbye, since the hub stops; the client is to come back after so
    /// long.
    Bye(Duration),
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
}

/// All gates there are.
pub struct Gates {
    /// How many there may be.
    connections_max: usize,
    connections: AtomicUsize,
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
    stream: Stream,
    out: Mutex<Out>,
    gates: Arc<Gates>,
    /// When something last came in, and when the client was last pinged.
    heard_at: AtomicU32,
    pinged_at: AtomicU32,
    /// A WebSocket session has it, and not HTTP.
    is_session: AtomicBool,
    /// Commands that wait for their answers.
    under_way: AtomicU32,
    /// Where the channels keep what they know of it.
    seat: AtomicU32,
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

/// A place for one connection, taken before it is known what it wants.
pub struct Place(Arc<Gates>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gates {
    /// No gates yet.
    #[must_use]
    pub fn new(connections_max: usize, heartbeat: Duration, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            connections: AtomicUsize::new(0),
            heartbeat,
            budget,
            counters: Arc::default(),
            open: Mutex::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
        })
    }

    /// A place for one more connection, if there is one.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        // Dropped again where there were too many.
        let place = Place(self.clone());
        if before >= self.connections_max {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(place)
    }

    /// How the connections are doing.
    #[must_use]
    pub fn counters(&self) -> &Arc<GateCounters> {
        &self.counters
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

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Gate {
    fn new(stream: Stream, gates: Arc<Gates>) -> Arc<Self> {
        let now = gates.now();
        Arc::new(Self {
            stream,
            out: Mutex::default(),
            heard_at: AtomicU32::new(now),
            pinged_at: AtomicU32::new(now),
            gates,
            is_session: AtomicBool::new(false),
            under_way: AtomicU32::new(0),
            seat: AtomicU32::new(u32::MAX),
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
        let written = out.write(&self.stream, pieces, || self.gates.now());
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
        self.gates.counters.sent.fetch_add(1, Ordering::Relaxed);
        if !waits {
            // From here on it counts as waiting.
            out.blocked_at.get_or_insert_with(|| self.gates.now());
            let written = out.flush(&self.stream, || self.gates.now());
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
        self.stream.cut();
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

    /// Writes what waits; true if nothing does any more.
    pub(crate) fn flush(&self) -> bool {
        let mut out = self.lock();
        if out.is_empty() && out.blocked_at.is_none() {
            return true;
        }
        out.flush(&self.stream, || self.gates.now()) != Written::Rest
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
            let written = out.flush(&self.stream, || self.gates.now());
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
        let read = self.stream.try_read(buffer)?;
        self.heard_at.store(self.gates.now(), Ordering::Relaxed);
        Ok(read)
    }

    /// The socket, for its readiness.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    /// Says that nothing follows; false if there is no room for that now.
    pub(crate) fn finish(&self) -> bool {
        // Any other error means that the connection has ended already.
        let finished = self.stream.finish();
        !finished.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
