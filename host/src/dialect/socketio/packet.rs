//! The packets of Socket.IO 5, as they travel in messages of Engine.IO: text
//! with a head of its own, and attachments that follow in binary messages.
//!
//! Nothing here panics, whatever a stranger sends, and nothing is copied.

use bytes::Bytes;

/// Attachments that one packet may have …
pub const ATTACHMENTS_MAX: usize = 16;
/// … and their bytes together.
pub const ATTACHMENT_BYTES_MAX: usize = 1_000_000;
/// The longest name of a namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 256;
/// The digits of an acknowledgement's number: more than `u64` has.
const DIGITS_MAX: usize = 20;

/// Between two packets in what one reply holds. JSON has no such byte outside
/// of an escape, and Engine.IO separates packets by it where it has to.
pub const SEPARATOR: char = '\x1e';

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client wants to enter a namespace, or has.
    Connect,
    /// One side leaves it.
    Disconnect,
    /// A name and what goes with it.
    Event,
    /// The answer to an event that asked for one.
    Ack,
    /// A client may not enter.
    ConnectError,
    /// An event with attachments.
    BinaryEvent,
    /// An answer with attachments.
    BinaryAck,
}

/// A packet, but for its attachments. Its data is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: Kind,
    /// How many attachments follow.
    pub attachments: usize,
    /// `/`, or what the packet says.
    pub namespace: &'a str,
    /// The number that the answer has to repeat, or repeats.
    pub id: Option<u64>,
    /// JSON, or empty.
    pub data: &'a str,
}

/// No packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Socket.IO packet: {0}")]
pub struct Malformed(&'static str);

/// Reads the head of a packet.
///
/// # Errors
///
/// It is none, or one of its bounds is broken.
pub fn parse(text: &str) -> Result<Packet<'_>, Malformed> {
    let mut characters = text.chars();
    let kind = match characters.next() {
        Some('0') => Kind::Connect,
        Some('1') => Kind::Disconnect,
        Some('2') => Kind::Event,
        Some('3') => Kind::Ack,
        Some('4') => Kind::ConnectError,
        Some('5') => Kind::BinaryEvent,
        Some('6') => Kind::BinaryAck,
        _ => return Err(Malformed("unknown type")),
    };
    let rest = characters.as_str();
    let (attachments, rest) = match kind {
        Kind::BinaryEvent | Kind::BinaryAck => {
            let (count, rest) =
                rest.split_once('-').ok_or(Malformed("attachments are not counted"))?;
            let count = number(count).ok_or(Malformed("attachments are not counted"))?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count > ATTACHMENTS_MAX {
                return Err(Malformed("too many attachments"));
            }
            (count, rest)
        }
        _ => (0, rest),
    };
    let (namespace, rest) = match rest.strip_prefix('/') {
        Some(_) => rest.split_once(',').unwrap_or((rest, "")),
        None => ("/", rest),
    };
    if namespace.len() > NAMESPACE_BYTES_MAX {
        return Err(Malformed("the namespace's name is too long"));
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (id, data) = match rest.split_at_checked(digits) {
        Some(("", data)) => (None, data),
        Some((id, data)) => {
            (Some(number(id).ok_or(Malformed("the number to answer is too long"))?), data)
        }
        None => (None, rest),
    };
    Ok(Packet { kind, attachments, namespace, id, data })
}

/// A number of digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let is_number = text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The head of a packet that has no attachments, up to its data.
#[must_use]
pub fn head(kind: Kind, namespace: &str, id: Option<u64>) -> String {
    head_with(kind, 0, namespace, id)
}

/// The head of a packet, up to its data: of an event or an answer that has
/// attachments the type is that of its kind with them.
#[must_use]
pub fn head_with(kind: Kind, attachments: usize, namespace: &str, id: Option<u64>) -> String {
    let digit = match (kind, attachments) {
        (Kind::Connect, _) => '0',
        (Kind::Disconnect, _) => '1',
        (Kind::Event, 0) => '2',
        (Kind::Ack, 0) => '3',
        (Kind::ConnectError, _) => '4',
        (Kind::Event | Kind::BinaryEvent, _) => '5',
        (Kind::Ack | Kind::BinaryAck, _) => '6',
    };
    let mut head = String::from(digit);
    if matches!(digit, '5' | '6') {
        head.push_str(&attachments.to_string());
        head.push('-');
    }
    if namespace != "/" {
        head.push_str(namespace);
        head.push(',');
    }
    if let Some(id) = id {
        head.push_str(&id.to_string());
    }
    head
}

/// A packet whose attachments are on their way.
#[derive(Debug)]
pub struct Assembly {
    text: String,
    wanted: usize,
    attachments: Vec<Bytes>,
    bytes: usize,
}

impl Assembly {
    /// Waits for the attachments of a packet.
    #[must_use]
    pub fn of(text: &str, wanted: usize) -> Self {
        Self { text: text.to_owned(), wanted, attachments: Vec::new(), bytes: 0 }
    }

    /// Takes an attachment.
    ///
    /// # Errors
    ///
    /// There are too many bytes of them.
    pub fn take(&mut self, attachment: Bytes) -> Result<(), Malformed> {
        self.bytes = self.bytes.saturating_add(attachment.len());
        if self.bytes > ATTACHMENT_BYTES_MAX {
            return Err(Malformed("the attachments are too long"));
        }
        self.attachments.push(attachment);
        Ok(())
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.attachments.len() >= self.wanted
    }

    /// The packet and its attachments as one message.
    #[must_use]
    pub fn bundle(&self) -> Vec<u8> {
        bundle(&self.text, self.attachments.iter().map(|attachment| &**attachment))
    }
}

/// A packet and its attachments as one message: nothing may come between them
/// on their way, and so they have to travel as one until they are written.
/// Each part is its length in four bytes, little end first, and then itself.
#[must_use]
pub fn bundle<'a>(text: &'a str, attachments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut whole = Vec::new();
    for part in std::iter::once(text.as_bytes()).chain(attachments) {
        // No part is longer than a message may be.
        whole.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        whole.extend(part);
    }
    whole
}

/// The parts of a message that [`bundle`] has made; of anything else none.
#[must_use]
pub fn unbundle(mut whole: &[u8]) -> Option<(&str, Vec<&[u8]>)> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = whole.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(part);
        whole = rest;
    }
    if !whole.is_empty() || parts.is_empty() {
        return None;
    }
    let text = std::str::from_utf8(parts.remove(0)).ok()?;
    Some((text, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet<'a>(kind: Kind, namespace: &'a str, id: Option<u64>, data: &'a str) -> Packet<'a> {
        Packet { kind, attachments: 0, namespace, id, data }
    }

    #[test]
    fn the_protocols_own_examples_are_read() {
        for (text, read) in [
            ("0", packet(Kind::Connect, "/", None, "")),
            ("0{\"token\":\"123\"}", packet(Kind::Connect, "/", None, "{\"token\":\"123\"}")),
            ("0/admin,{\"sid\":\"x\"}", packet(Kind::Connect, "/admin", None, "{\"sid\":\"x\"}")),
            ("0/ws", packet(Kind::Connect, "/ws", None, "")),
            ("0/ws,", packet(Kind::Connect, "/ws", None, "")),
            ("1/admin,", packet(Kind::Disconnect, "/admin", None, "")),
            ("2[\"foo\"]", packet(Kind::Event, "/", None, "[\"foo\"]")),
            ("2/admin,[\"bar\"]", packet(Kind::Event, "/admin", None, "[\"bar\"]")),
            ("212[\"foo\"]", packet(Kind::Event, "/", Some(12), "[\"foo\"]")),
            ("3/admin,13[\"bar\"]", packet(Kind::Ack, "/admin", Some(13), "[\"bar\"]")),
            (
                "4{\"message\":\"no\"}",
                packet(Kind::ConnectError, "/", None, "{\"message\":\"no\"}"),
            ),
            (
                "51-[\"baz\",{\"_placeholder\":true,\"num\":0}]",
                Packet {
                    attachments: 1,
                    ..packet(
                        Kind::BinaryEvent,
                        "/",
                        None,
                        "[\"baz\",{\"_placeholder\":true,\"num\":0}]",
                    )
                },
            ),
            (
                "61-/admin,456[{\"_placeholder\":true,\"num\":0}]",
                Packet {
                    attachments: 1,
                    ..packet(
                        Kind::BinaryAck,
                        "/admin",
                        Some(456),
                        "[{\"_placeholder\":true,\"num\":0}]",
                    )
                },
            ),
        ] {
            assert_eq!(parse(text), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused_and_never_panics() {
        let long_namespace = format!("0/{},", "x".repeat(NAMESPACE_BYTES_MAX));
        let long_id = format!("2{}[]", "1".repeat(40));
        for text in [
            "",
            "7",
            "a",
            "é",
            "-1",
            "5",
            "5[]",
            "5-[]x",
            "5x-[]",
            "517-[]",
            "599999999999999-[]",
            "5+1-[]",
            &long_namespace,
            &long_id,
            "218446744073709551616[]",
        ] {
            let read = parse(text);
            // An empty count is no number, and neither is one with a sign.
            assert!(read.is_err(), "{text:?} was read as {read:?}");
        }
        for text in ["2é", "2/é", "2/ws,é", "0/,", "21é", "2\u{1e}", "516-é", "1\0"] {
            let _ = parse(text);
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for kind in [Kind::Connect, Kind::Disconnect, Kind::Event, Kind::Ack, Kind::ConnectError] {
            for namespace in ["/", "/ws"] {
                for id in [None, Some(0), Some(u64::MAX)] {
                    let text = head(kind, namespace, id) + "[]";
                    assert_eq!(parse(&text), Ok(packet(kind, namespace, id, "[]")));
                }
            }
        }
        let text = head_with(Kind::Event, 2, "/ws", Some(7)) + "[]";
        assert_eq!(text, "52-/ws,7[]");
        assert_eq!(head_with(Kind::Ack, 1, "/", Some(7)), "61-7");
    }

    #[test]
    fn a_packet_and_its_attachments_travel_as_one() {
        let mut assembly = Assembly::of("52-[]", 2);
        assembly.take(Bytes::from_static(b"one")).unwrap();
        assert!(!assembly.is_whole());
        assembly.take(Bytes::new()).unwrap();
        assert!(assembly.is_whole());
        let whole = assembly.bundle();
        assert_eq!(unbundle(&whole), Some(("52-[]", vec![&b"one"[..], &b""[..]])));
        for cut in 1..whole.len() {
            let whole = unbundle(&whole[..cut]).is_some_and(|(_, parts)| parts.len() == 2);
            assert!(!whole, "cut at {cut}");
        }
        assert_eq!(unbundle(b""), None);
        assert_eq!(unbundle(&[255; 9]), None);
        assert_eq!(unbundle(&[1, 0, 0, 0, 0xff]), None, "the packet is text");
    }

    #[test]
    fn attachments_are_bounded() {
        let mut assembly = Assembly::of("52-[]", 2);
        assembly.take(Bytes::from(vec![0; ATTACHMENT_BYTES_MAX])).unwrap();
        assert!(assembly.take(Bytes::from_static(b"x")).is_err());
    }
}
