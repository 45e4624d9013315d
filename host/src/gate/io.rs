//! The gate as HTTP sees it: a stream that can be read and written.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::stream::{Stream, Tls};
use super::way::{Packets, Way};
use super::{Beat, Ending, Gate, Gates, Place};

/// What the system keeps of what it has not begun to send, for each client. By
/// itself it keeps megabytes: a slow client would be told of what is long past,
/// and one that takes a little at a time would seem to take nothing, since
/// there is room again only when a third of it is free.
const UNSENT_MAX: u32 = 16 * 1024;

/// A connection's gate in the hands of who serves it: HTTP at first, then a
/// session. The connection is over when this is dropped.
pub struct GateIo {
    gate: Arc<Gate>,
    key: usize,
    /// Given back at the end.
    _place: Place,
}

impl GateIo {
    /// A gate for a connection.
    #[must_use]
    pub fn plain(place: Place, socket: TcpStream) -> Self {
        Self::new(place, Stream::Plain(socket))
    }

    /// A gate for a connection whose TLS handshake is done.
    #[must_use]
    pub fn tls(place: Place, stream: TlsStream<TcpStream>) -> Self {
        let (socket, tls) = stream.into_inner();
        Self::new(place, Stream::Tls(socket, Box::new(Tls::new(tls).into())))
    }

    fn new(place: Place, stream: Stream) -> Self {
        let gates = place.gates().clone();
        // Without it more would wait, and that is all that it is for.
        let _ = SockRef::from(stream.socket()).set_tcp_notsent_lowat(UNSENT_MAX);
        let gate = Gate::new(Way::Stream(stream), gates.clone());
        let key = gates.lock().insert(gate.clone());
        Self { gate, key, _place: place }
    }

    /// A session takes over from HTTP.
    pub(crate) fn begin_session(&self) {
        self.gate.begin_session();
    }

    /// Its client has a heartbeat of its own. Before the session begins.
    pub(crate) fn set_beat(&self, beat: Beat) {
        self.gate.beat.get_or_init(|| Box::new(beat));
    }
}

/// A gate whose client's transport takes whole messages. It is over when this
/// is dropped.
pub struct PacketGate {
    gate: Arc<Gate>,
    key: usize,
}

impl PacketGate {
    /// A gate that leads to `packets`; `None` if there are as many as there may
    /// be connections.
    #[must_use]
    pub fn new(gates: &Arc<Gates>, packets: Arc<dyn Packets>) -> Option<Self> {
        if gates.packets.fetch_add(1, Ordering::Relaxed) >= gates.packets_max {
            gates.packets.fetch_sub(1, Ordering::Relaxed);
            gates.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let gate = Gate::new(Way::Packets(packets), gates.clone());
        let key = gates.lock().insert(gate.clone());
        gate.begin_session();
        Some(Self { gate, key })
    }

    /// Ends the client's connection after what its transport has taken.
    pub(crate) fn close(&self) {
        if let Way::Packets(packets) = &self.gate.way {
            packets.close();
        }
    }
}

impl Deref for PacketGate {
    type Target = Arc<Gate>;

    fn deref(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Drop for PacketGate {
    fn drop(&mut self) {
        self.gate.gates.packets.fetch_sub(1, Ordering::Relaxed);
        self.gate.leave(self.key);
    }
}

impl Gate {
    fn begin_session(&self) {
        self.is_session.store(true, Ordering::Release);
        self.gates.counters.connected.fetch_add(1, Ordering::Relaxed);
        // The hub may have begun to stop meanwhile, and looked here too early.
        if self.gates.draining.load(Ordering::Acquire) {
            self.end(Ending::Bye(std::time::Duration::ZERO));
        }
    }

    /// Takes it out of the registry.
    fn leave(&self, key: usize) {
        let mut open = self.gates.lock();
        open.remove(key);
        // A storm of connections is forgotten once it is over.
        if open.is_empty() {
            open.shrink_to_fit();
        }
        drop(open);
        if self.is_session.load(Ordering::Relaxed) {
            self.gates.counters.connected.fetch_sub(1, Ordering::Relaxed);
        }
        self.cut();
    }
}

impl Deref for GateIo {
    type Target = Arc<Gate>;

    fn deref(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Drop for GateIo {
    fn drop(&mut self) {
        self.gate.leave(self.key);
    }
}

impl AsyncRead for GateIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.gate.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.gate.socket().poll_read_ready(cx))?;
                }
                read => {
                    buffer.advance(read?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl GateIo {
    /// Waits for room while `act` finds none. A stall is seen by the sweeper.
    fn poll_room<T>(
        &self,
        cx: &mut Context<'_>,
        act: impl Fn(&Stream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let done = {
                let mut out = self.gate.lock();
                let done = self.gate.way.stream().and_then(&act);
                match &done {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        out.wait(&self.gate.way, || self.gate.gates.now());
                    }
                    _ => out.blocked_at = None,
                }
                done
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.gate.socket().poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for GateIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_room(cx, |stream| stream.try_write(&[IoSlice::new(bytes)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_room(cx, |stream| stream.try_write(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(cx, Stream::try_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(cx, Stream::finish)
    }
}
