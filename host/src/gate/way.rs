//! Where a gate leads to: a stream that takes bytes, or a sink that takes whole
//! messages.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::Piece;
use super::stream::Stream;

/// Pieces that go to the system in one call.
const SLICES_MAX: usize = 64;

/// A message for a [`Packets`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A text; always UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
}

/// Takes whole messages for one client: a transport that frames them itself, and
/// has a short queue of its own.
pub trait Packets: Send + Sync {
    /// Takes a message, if there is room.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] while there is no room; any other if the
    /// client has gone.
    fn try_send(&self, packet: Packet) -> io::Result<()>;
    /// Bytes that were taken and have not been passed on yet.
    fn waiting(&self) -> usize {
        0
    }
    /// Passes on what was taken.
    ///
    /// # Errors
    ///
    /// As [`Packets::try_send`].
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }
    /// Whether any of that was passed on since it was asked last.
    fn has_moved(&self) -> bool {
        false
    }
    /// Ends the client's connection after what has been taken.
    fn close(&self);
    /// Cuts it off, whatever it is doing.
    fn cut(&self);
}

/// Where a gate leads to.
pub(super) enum Way {
    Stream(Stream),
    Packets(Arc<dyn Packets>),
}

impl Way {
    /// Writes the first pieces in one call: how many bytes of them there was
    /// room for.
    pub(super) fn write_first(&self, pieces: &[Piece]) -> io::Result<usize> {
        loop {
            match self.try_write(pieces) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                written => return written,
            }
        }
    }

    fn try_write(&self, pieces: &[Piece]) -> io::Result<usize> {
        match (self, pieces) {
            (Self::Stream(stream), [only]) => stream.try_write(&[IoSlice::new(&only.bytes)]),
            (Self::Stream(stream), _) => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = pieces.len().min(SLICES_MAX);
                for (slice, piece) in slices.iter_mut().zip(pieces) {
                    *slice = IoSlice::new(&piece.bytes);
                }
                stream.try_write(&slices[..count])
            }
            (Self::Packets(packets), _) => {
                let end = pieces.iter().position(Piece::ends).map_or(pieces.len(), |end| end + 1);
                let message = &pieces[..end];
                packets.try_send(Packet::of(message))?;
                Ok(message.iter().map(Piece::len).sum())
            }
        }
    }

    /// See [`Stream::try_flush`].
    pub(super) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.try_flush(),
            Self::Packets(packets) => packets.try_flush(),
        }
    }

    /// See [`Stream::has_moved`].
    pub(super) fn has_moved(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.has_moved(),
            Self::Packets(packets) => packets.has_moved(),
        }
    }

    /// See [`Packets::waiting`].
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Stream(_) => 0,
            Self::Packets(packets) => packets.waiting(),
        }
    }

    /// Ends the connection in both directions.
    pub(super) fn cut(&self) {
        match self {
            Self::Stream(stream) => stream.cut(),
            Self::Packets(packets) => packets.cut(),
        }
    }

    /// The stream, where it is one.
    pub(super) fn stream(&self) -> io::Result<&Stream> {
        match self {
            Self::Stream(stream) => Ok(stream),
            Self::Packets(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Packet {
    /// The message that these pieces are, without its WebSocket header.
    fn of(message: &[Piece]) -> Self {
        let [first, rest @ ..] = message else { return Self::Text(Bytes::new()) };
        let beginning = first.payload();
        let payload = match rest {
            [] => beginning,
            _ => {
                let mut whole = BytesMut::from(&*beginning);
                rest.iter().for_each(|piece| whole.extend_from_slice(&piece.bytes));
                whole.freeze()
            }
        };
        if first.is_binary() { Self::Binary(payload) } else { Self::Text(payload) }
    }
}
