//! What comes in: bytes from the socket through tungstenite, which checks the
//! protocol, joins fragments and answers pings.
//!
//! tungstenite is given bytes that have been read already and never sees the
//! socket. What it wants to send are whole control frames, and the gate takes
//! each of them at once, so that tungstenite never has anything waiting.

use std::io::{self, Read, Write};

use hyper_tungstenite::tungstenite::error::CapacityError;
use hyper_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use hyper_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, WebSocketContext,
};
use hyper_tungstenite::tungstenite::{Error, Message};

use crate::gate::{CloseReason, Gate};

/// What tungstenite reads at a time, from memory; larger messages make it grow.
const READ_BUFFER: usize = 64;
/// A pong's first byte (RFC 6455, 5.2); the other frame that tungstenite sends
/// by itself is a close.
const PONG: u8 = 0x8a;

/// One connection's reading side.
pub(super) struct Inbound {
    context: WebSocketContext,
    edge: Edge,
    message_max: usize,
    /// A message was so large that its memory is worth giving back.
    has_grown: bool,
}

impl Inbound {
    pub(super) fn new(message_max: usize) -> Self {
        Self { context: context(message_max), edge: Edge::default(), message_max, has_grown: false }
    }

    /// Changes the longest message that is taken. One that is coming in already is
    /// held to it too.
    pub(super) fn set_message_max(&mut self, message_max: usize) {
        self.message_max = message_max;
        self.context.set_config(|config| {
            config.max_message_size = Some(message_max);
            config.max_frame_size = Some(message_max);
        });
    }

    /// The next message in `input`, which is moved on; `None` where it needs
    /// more.
    ///
    /// # Errors
    ///
    /// The client has broken the protocol, or the connection has been closed.
    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        gate: &Gate,
    ) -> Result<Option<Message>, Error> {
        let before = *input;
        let mut pipe = Pipe { input, gate, drop_unsent: true };
        let read = self.context.read(&mut pipe);
        let taken = before.len() - input.len();
        self.edge.pass(&before[..taken]);
        // tungstenite adds fragments up only once they have come.
        if self.edge.message > self.message_max as u64 {
            let size = usize::try_from(self.edge.message).unwrap_or(usize::MAX);
            let max_size = self.message_max;
            return Err(CapacityError::MessageTooLong { size, max_size }.into());
        }
        match read {
            Ok(message) => {
                self.has_grown |= message.len() > READ_BUFFER;
                Ok(Some(message))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.shrink();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the connection from this side.
    pub(super) fn close(&mut self, reason: CloseReason, gate: &Gate, drop_unsent: bool) {
        let frame = CloseFrame { code: CloseCode::from(reason.code), reason: reason.words.into() };
        let mut pipe = Pipe { input: &mut &[][..], gate, drop_unsent };
        // It is taken at once; an error means that it was closed already.
        let _ = self.context.close(&mut pipe, Some(frame));
    }

    /// Gives the memory of a large message back: tungstenite keeps it for as
    /// long as the connection lasts. Between two messages a new context is as
    /// good as the old one.
    fn shrink(&mut self) {
        if self.has_grown && self.edge.is_between_messages() && self.context.can_write() {
            self.context = context(self.message_max);
            self.has_grown = false;
        }
    }
}

fn context(message_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        // A control frame has at most 127 bytes, and one is written at a time.
        .max_write_buffer_size(256)
        .max_message_size(Some(message_max))
        .max_frame_size(Some(message_max));
    WebSocketContext::new(Role::Server, Some(config))
}

/// What tungstenite takes to be the connection.
struct Pipe<'a, 'b> {
    input: &'a mut &'b [u8],
    gate: &'a Gate,
    /// A close goes before what has not begun to go out.
    drop_unsent: bool,
}

impl Read for Pipe<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Pipe<'_, '_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        match frame.first() {
            Some(&PONG) => self.gate.send_pong(frame),
            _ => self.gate.send_close(frame, self.drop_unsent),
        }
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Follows the frames' headers, to know where messages end.
#[derive(Debug, Default)]
struct Edge {
    /// The header so far.
    header: [u8; 14],
    have: u8,
    /// What is still to come of the payload.
    payload: u64,
    /// A message has begun, and its last fragment has not.
    in_message: bool,
    /// The length of the message, as far as its frames have told it.
    message: u64,
}

impl Edge {
    fn is_between_messages(&self) -> bool {
        self.have == 0 && self.payload == 0 && !self.in_message
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let passed = self.payload.min(bytes.len() as u64);
                self.payload -= passed;
                bytes = &bytes[usize::try_from(passed).unwrap_or(bytes.len())..];
                continue;
            }
            self.header[usize::from(self.have)] = first;
            self.have += 1;
            bytes = rest;
            self.read_header();
        }
    }

    /// RFC 6455, 5.2.
    fn read_header(&mut self) {
        let [kind, length, rest @ ..] = self.header;
        if self.have < 2 {
            return;
        }
        let extended = match length & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if length & 0x80 == 0 { 0 } else { 4 };
        if usize::from(self.have) < 2 + extended + mask {
            return;
        }
        self.payload = match extended {
            0 => u64::from(length & 0x7f),
            _ => rest[..extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.have = 0;
        // Control frames may come between fragments.
        if kind & 0x0f < 8 {
            let before = if self.in_message { self.message } else { 0 };
            self.message = before.saturating_add(self.payload);
            self.in_message = kind & 0x80 == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame with an empty key.
    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![kind];
        match length {
            0..=125 => frame.push(0x80 | length as u8),
            126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + length, b'x');
        frame
    }

    #[test]
    fn the_edge_is_found_however_the_bytes_are_cut() {
        let fragments = [frame(0x01, 5), frame(0x89, 3), frame(0x00, 300), frame(0x80, 70_000)];
        let bytes: Vec<u8> = [vec![frame(0x81, 0)], fragments.to_vec()].concat().concat();
        let first = frame(0x81, 0).len();
        for step in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut edge = Edge::default();
            let mut passed = 0;
            for chunk in bytes.chunks(step) {
                edge.pass(chunk);
                passed += chunk.len();
                let between = passed == first || passed == bytes.len();
                assert_eq!(edge.is_between_messages(), between, "after {passed}, by {step}");
            }
        }
    }
}
