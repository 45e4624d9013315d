//! The stream under a connection, plain or TLS, driven without waiting.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

/// A connection's stream. Nothing here waits: what can't be done now answers
/// [`io::ErrorKind::WouldBlock`], and the socket's readiness tells when to try
/// again.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(TcpStream, Box<Mutex<Tls>>),
}

/// Bytes that TLS takes before it has got rid of them. They are its client's
/// own, and on no budget.
const TLS_WAITING_MAX: usize = 16 * 1024;

/// What TLS keeps of a connection.
pub(super) struct Tls {
    connection: ServerConnection,
    /// Some of what it had accepted has gone to the socket.
    has_moved: bool,
}

impl Tls {
    pub(super) fn new(mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(TLS_WAITING_MAX));
        Self { connection, has_moved: false }
    }
}

impl Stream {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(socket, _) => socket,
        }
    }

    /// Reads what is there; 0 at the end.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(buffer),
            Self::Tls(socket, tls) => read_tls(socket, &mut lock(tls), buffer),
        }
    }

    /// Writes as much as there is room for.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => match slices {
                // One message is one `send`, which costs less than `writev`.
                [only] => socket.try_write(only),
                _ => socket.try_write_vectored(slices),
            },
            Self::Tls(socket, tls) => {
                let tls = &mut lock(tls);
                // Nothing new while something waits: what is accepted here is
                // as good as sent.
                flush_tls(socket, tls)?;
                let accepted = tls.connection.writer().write_vectored(slices)?;
                match flush_tls(socket, tls) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(accepted),
                }
            }
        }
    }

    /// Writes what has been accepted and is not in the socket yet.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(socket, tls) => flush_tls(socket, &mut lock(tls)),
        }
    }

    /// Whether anything has moved since it was asked last that no call has
    /// answered for: what TLS has accepted goes to the socket bit by bit.
    pub(super) fn has_moved(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_, tls) => std::mem::take(&mut lock(tls).has_moved),
        }
    }

    /// Says that nothing follows.
    pub(super) fn finish(&self) -> io::Result<()> {
        if let Self::Tls(socket, tls) = self {
            let tls = &mut lock(tls);
            tls.connection.send_close_notify();
            flush_tls(socket, tls)?;
        }
        SockRef::from(self.socket()).shutdown(Shutdown::Write)
    }

    /// Ends the connection in both directions. Whoever waits for the socket is
    /// woken, and finds it ended.
    pub(super) fn cut(&self) {
        // An error means that it has ended already.
        let _ = SockRef::from(self.socket()).shutdown(Shutdown::Both);
    }
}

fn lock(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_tls(socket: &TcpStream, tls: &mut Tls, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.connection.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Many clients end the connection without saying so in TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        tls.connection.read_tls(&mut Now(socket))?;
        let taken = tls
            .connection
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        // An alert, or an answer to a change of keys. What finds no room goes
        // with the next write.
        let answered = flush_tls(socket, tls);
        taken?;
        if let Err(error) = answered
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
    }
}

fn flush_tls(socket: &TcpStream, tls: &mut Tls) -> io::Result<()> {
    while tls.connection.wants_write() {
        tls.connection.write_tls(&mut Now(socket))?;
        tls.has_moved = true;
    }
    Ok(())
}

/// A socket that never waits, as rustls wants it.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
