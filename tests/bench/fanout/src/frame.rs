//! WebSocket frames, as little of them as a client that only counts needs.

/// Opcodes of RFC 6455.
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A server's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// With its header.
    pub(crate) length: usize,
}

/// The frame that `bytes` begin with, once it is whole.
pub(crate) fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&[kind, short], rest) = bytes.split_first_chunk()?;
    let (header, length) = match short & 0x7f {
        126 => (4, u16::from_be_bytes(*rest.first_chunk()?).into()),
        127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
        short => (2, short.into()),
    };
    let length = header + usize::try_from(length).ok()?;
    let payload = bytes.get(header..length)?;
    Some(Frame { opcode: kind & 0x0f, payload, length })
}

/// A client's frame. The mask is zero, which leaves the payload as it is.
pub(crate) fn from_client(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    header(opcode, payload.len(), MASKED)
        .into_iter()
        .chain([0; 4])
        .chain(payload.to_vec())
        .collect()
}

/// A server's text frame.
pub(crate) fn from_server(text: &str) -> Vec<u8> {
    let mut frame = header(TEXT, text.len(), 0);
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn header(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    const FINAL: u8 = 0x80;
    let kind = FINAL | opcode;
    match length {
        0..=125 => vec![kind, mask | length as u8],
        126..=0xffff => {
            let [high, low] = (length as u16).to_be_bytes();
            vec![kind, mask | 126, high, low]
        }
        _ => [kind, mask | 127].into_iter().chain((length as u64).to_be_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_seen_once_it_is_whole() {
        for length in [0, 1, 125, 126, 2048, 0xffff, 0x1_0000] {
            let text = "x".repeat(length);
            let mut bytes = from_server(&text);
            let whole = bytes.len();
            for part in [0, 1, 2, 3, 9, whole - 1] {
                assert_eq!(first(&bytes[..part.min(whole - 1)]), None);
            }
            bytes.extend_from_slice(b"the next one");
            let frame = Frame { opcode: TEXT, payload: text.as_bytes(), length: whole };
            assert_eq!(first(&bytes), Some(frame));
        }
    }

    #[test]
    fn a_clients_frame_has_a_mask_of_zero() {
        assert_eq!(from_client(PONG, b"hi"), [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
    }
}
