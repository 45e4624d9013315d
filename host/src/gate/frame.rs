//! Bytes that are ready for a socket: WebSocket messages with their headers,
//! built once and shared by all who are sent the same.
//!
//! A server's frames are not masked, so that one copy serves every client
//! (RFC 6455, 5.1).

use std::sync::Arc;

use bytes::Bytes;

use super::budget::{Budget, Charged};

/// The longest header of a frame that is not masked.
const HEADER_MAX: usize = 10;
/// FIN with the opcodes of RFC 6455, 5.2.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;

/// A message, or a part of one: pieces go out in order and unbroken. Cheap to
/// clone, and its memory is on the budget until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Piece {
    pub(super) bytes: Bytes,
    /// The message ends here.
    pub(super) ends: bool,
}

impl Piece {
    /// A text message.
    #[must_use]
    pub fn text(text: &str, budget: &Arc<Budget>) -> Self {
        Self::message(TEXT, text.as_bytes(), budget)
    }

    /// A binary message.
    #[must_use]
    pub fn binary(payload: &[u8], budget: &Arc<Budget>) -> Self {
        Self::message(BINARY, payload, budget)
    }

    /// A text message that many clients get with another beginning each: what
    /// follows the beginning is shared.
    #[must_use]
    pub fn shared_end(text: &str, budget: &Arc<Budget>) -> Self {
        Self { bytes: budget.charge(text.as_bytes().to_vec()), ends: true }
    }

    /// The beginning of a text message whose last part is `end`.
    #[must_use]
    pub fn beginning(text: &str, end: &Self, budget: &Arc<Budget>) -> Self {
        let mut message = Vec::with_capacity(HEADER_MAX + text.len());
        push_header(&mut message, TEXT, text.len() + end.bytes.len());
        message.extend_from_slice(text.as_bytes());
        Self { bytes: budget.charge(message), ends: false }
    }

    /// A ping without payload.
    pub(super) const fn ping() -> Self {
        Self { bytes: Bytes::from_static(&[PING, 0]), ends: true }
    }

    /// A whole frame, as it stands.
    pub(super) fn raw(frame: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(frame), ends: true }
    }

    fn message(kind: u8, payload: &[u8], budget: &Arc<Budget>) -> Self {
        let mut message = Vec::with_capacity(HEADER_MAX + payload.len());
        push_header(&mut message, kind, payload.len());
        message.extend_from_slice(payload);
        Self { bytes: budget.charge(message), ends: true }
    }

    /// Whether a message ends with it.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.ends
    }

    /// What comes after the header of a frame that begins here.
    pub(super) fn payload(&self) -> Bytes {
        let header = match self.bytes.get(1) {
            Some(126) => 4,
            Some(127) => HEADER_MAX,
            _ => 2,
        };
        self.bytes.slice(header.min(self.bytes.len())..)
    }

    /// Whether a binary message begins here.
    pub(super) fn is_binary(&self) -> bool {
        self.bytes.first() == Some(&BINARY)
    }

    /// How many bytes go to the socket.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it; there always is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Budget {
    /// Puts bytes on the budget until the last clone is dropped.
    fn charge(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Charged::new(bytes, self.clone()))
    }
}

fn push_header(message: &mut Vec<u8>, kind: u8, length: usize) {
    message.push(kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => message.push(short),
        (_, Ok(medium)) => {
            message.push(126);
            message.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            message.push(127);
            message.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_the_length_in_the_shortest_form() {
        let budget = Budget::new(1 << 20);
        for (length, header) in [
            (0, vec![TEXT, 0]),
            (125, vec![TEXT, 125]),
            (126, vec![TEXT, 126, 0, 126]),
            (65_535, vec![TEXT, 126, 0xff, 0xff]),
            (65_536, vec![TEXT, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let piece = Piece::text(&"x".repeat(length), &budget);
            assert_eq!(piece.bytes[..header.len()], header, "{length}");
            assert_eq!(piece.len(), header.len() + length);
        }
    }

    #[test]
    fn a_message_in_two_parts_has_one_header() {
        let budget = Budget::new(1 << 20);
        let end = Piece::shared_end(&"y".repeat(200), &budget);
        let beginning = Piece::beginning("abc", &end, &budget);
        assert_eq!(beginning.bytes[..], [TEXT, 126, 0, 203, b'a', b'b', b'c']);
        assert!(!beginning.ends && end.ends);
    }
}
