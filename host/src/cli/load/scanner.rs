//! WebSocket frames from a server, found in whatever pieces the socket gives.
//! Keeps nothing of a message but its beginning, and that only where a piece
//! ends within it.

/// How much of a message is shown to whoever reads it: all that dialects say
/// before their lists begin, and what stands before the data of an event.
pub(super) const HEAD_BYTES_MAX: usize = 512;
/// The longest header that a server may send: it does not mask.
const HEADER_BYTES_MAX: usize = 10;
/// By RFC 6455, 5.5.
const CONTROL_BYTES_MAX: u64 = 125;
/// What a connection is said to have ended with that had no close frame.
pub(super) const CLOSED_WITHOUT_FRAME: u16 = 1006;
/// What a close frame without a code stands for.
const CLOSED_WITHOUT_CODE: u16 = 1005;

/// What has come in whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// A message: its first [`HEAD_BYTES_MAX`] bytes, and how many it had.
    Message {
        head: &'a [u8],
        bytes: u64,
    },
    Ping(&'a [u8]),
    /// The server closes, with this code.
    Close(u16),
}

/// What the server may not send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(&'static str);

/// Where one connection is.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame whose payload is coming.
    frame: Option<Frame>,
    /// The bytes so far of a message that has more frames.
    fragments: Option<u64>,
    /// The beginning of a message that came in pieces.
    head: Vec<u8>,
    /// A control frame's payload that came in pieces.
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    last: bool,
    length: u64,
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

impl Scanner {
    /// Goes on with what has come in; `hear` is told what is whole now.
    ///
    /// # Errors
    ///
    /// It is no WebSocket stream of a server. The scanner is of no use then.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        hear: &mut impl FnMut(Heard<'_>),
    ) -> Result<(), Broken> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header(&mut bytes)? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            let here =
                usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (piece, rest) = bytes.split_at(here);
            bytes = rest;
            frame.left -= here as u64;
            if frame.kind == Kind::Data {
                self.data(frame, piece, hear);
            } else {
                self.control(frame, piece, hear);
            }
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(());
            }
        }
    }

    /// Takes the bytes of a header; the frame once they are all there.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Broken> {
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            self.header[self.header_bytes] = *byte;
            self.header_bytes += 1;
            if let Some(length) = length(&self.header[..self.header_bytes])? {
                self.header_bytes = 0;
                return self.begin(self.header[0], length).map(Some);
            }
        }
        Ok(None)
    }

    fn begin(&mut self, first: u8, length: u64) -> Result<Frame, Broken> {
        if first & 0x70 != 0 {
            return Err(Broken("a frame with reserved bits"));
        }
        let last = first & 0x80 != 0;
        let kind = match (first & 0x0f, self.fragments) {
            (0, Some(_)) | (1 | 2, None) => Kind::Data,
            (0, None) => return Err(Broken("a continuation of nothing")),
            (1 | 2, Some(_)) => return Err(Broken("a message within a message")),
            (8, _) => Kind::Close,
            (9, _) => Kind::Ping,
            (10, _) => Kind::Pong,
            _ => return Err(Broken("a frame of an unknown kind")),
        };
        if kind != Kind::Data && (!last || length > CONTROL_BYTES_MAX) {
            return Err(Broken("a control frame in parts, or too long"));
        }
        Ok(Frame { kind, last, length, left: length })
    }

    fn data(&mut self, frame: Frame, piece: &[u8], hear: &mut impl FnMut(Heard<'_>)) {
        let whole = frame.last && frame.left == 0;
        let alone = self.fragments.is_none() && piece.len() as u64 == frame.length;
        if whole && alone {
            let head = &piece[..piece.len().min(HEAD_BYTES_MAX)];
            hear(Heard::Message { head, bytes: frame.length });
            return;
        }
        let room = HEAD_BYTES_MAX - self.head.len();
        self.head.extend_from_slice(&piece[..piece.len().min(room)]);
        let bytes = self.fragments.unwrap_or(0) + piece.len() as u64;
        self.fragments = Some(bytes);
        if whole {
            hear(Heard::Message { head: &self.head, bytes });
            self.head.clear();
            self.fragments = None;
        }
    }

    fn control(&mut self, frame: Frame, piece: &[u8], hear: &mut impl FnMut(Heard<'_>)) {
        self.control.extend_from_slice(piece);
        if frame.left > 0 {
            return;
        }
        match frame.kind {
            Kind::Ping => hear(Heard::Ping(&self.control)),
            Kind::Close => hear(Heard::Close(match *self.control {
                [high, low, ..] => u16::from_be_bytes([high, low]),
                _ => CLOSED_WITHOUT_CODE,
            })),
            Kind::Pong | Kind::Data => {}
        }
        self.control.clear();
    }
}

/// The length of the payload, once the header is whole.
fn length(header: &[u8]) -> Result<Option<u64>, Broken> {
    let [_, second, extended @ ..] = header else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err(Broken("a masked frame"));
    }
    let length = match (second, extended) {
        (126, [high, low]) => u64::from(u16::from_be_bytes([*high, *low])),
        (127, [a, b, c, d, e, f, g, h]) => u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        (126 | 127, _) => return Ok(None),
        (short, _) => u64::from(*short),
    };
    if length > i64::MAX as u64 {
        return Err(Broken("a frame longer than there can be"));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests;
