//! A WebSocket client that writes frames as no library would, and looks at each
//! frame that comes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::within;

pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;
/// The bit of a frame's first byte that says that its message ends with it.
pub(super) const FIN: u8 = 0x80;

/// The bit of a frame's second byte that says that it is masked.
const MASKED: u8 = 0x80;
/// Has a zero byte, as every key may.
const KEY: [u8; 4] = [0x37, 0xfa, 0x00, 0x3d];
/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;
/// What is read at a time.
const READ_BYTES: usize = 4 * 1024;

/// A masked frame whose first byte is `first`.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = announced(first, payload.len() as u64);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A frame as only the hub may send it.
pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, 0, payload.len() as u64);
    frame.extend(payload);
    frame
}

/// All of a masked frame but its payload, of which there are to be so many
/// bytes.
pub(super) fn announced(first: u8, bytes: u64) -> Vec<u8> {
    let mut frame = head(first, MASKED, bytes);
    frame.extend(KEY);
    frame
}

/// A whole message.
pub(super) fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A close frame with a code and a reason.
pub(super) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// The command `ping` of the native dialect, with blanks up to so many bytes.
pub(super) fn ping_command(id: u64, bytes: usize) -> String {
    let command = format!(r#"{{"id":{id},"op":"ping"}}"#);
    let blanks = bytes.saturating_sub(command.len());
    command + &" ".repeat(blanks)
}

fn head(first: u8, masked: u8, bytes: u64) -> Vec<u8> {
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(short @ ..126), _) => vec![first, masked | short],
        (_, Ok(bytes)) => [&[first, masked | 126][..], &bytes.to_be_bytes()].concat(),
        _ => [&[first, masked | 127][..], &bytes.to_be_bytes()].concat(),
    }
}

/// A frame of the hub's: none is a part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// What a text frame holds.
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.payload).unwrap()
    }

    /// The code of a close frame, 1005 if it has none, and its reason.
    fn close(&self) -> (u16, String) {
        match self.payload.split_first_chunk() {
            Some((code, reason)) => {
                (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap())
            }
            None => (1005, String::new()),
        }
    }

    /// The first frame of `bytes` and its length, unless some of it is missing.
    #[track_caller]
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let opcode = first & 0x0f;
        assert_eq!(first & 0x70, 0, "a reserved bit is set: {first:#x}");
        assert_eq!(first & FIN, FIN, "a part of a message: {first:#x}");
        assert!([TEXT, CLOSE, PING, PONG].contains(&opcode), "an opcode: {first:#x}");
        assert_eq!(second & MASKED, 0, "the hub has masked a frame");
        let (length, start) = match second {
            126 => (u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes[2..].first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let shortest = head(first, 0, length).len();
        assert_eq!(start, shortest, "the length {length} in {start} bytes");
        let length = usize::try_from(length).unwrap();
        assert!(opcode < CLOSE || length <= CONTROL_BYTES_MAX, "a control frame: {length}");
        let payload = bytes.get(start..start + length)?.to_vec();
        Some((Self { opcode, payload }, start + length))
    }
}

/// One connection that has become a WebSocket.
pub(super) struct Raw {
    /// Shared with who sends beside it.
    stream: Arc<TcpStream>,
    unread: Vec<u8>,
}

impl Raw {
    pub(super) async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[]).await
    }

    /// What follows the handshake is in the same packet.
    pub(super) async fn open_with(address: SocketAddr, path: &str, follows: &[u8]) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        Self::upgrade(stream, address, path, follows).await
    }

    /// A connection that holds little of what is sent to it and not read.
    pub(super) async fn open_with_little_room(address: SocketAddr, path: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = within("a connection", socket.connect(address)).await.unwrap();
        Self::upgrade(stream, address, path, &[]).await
    }

    async fn upgrade(stream: TcpStream, address: SocketAddr, path: &str, follows: &[u8]) -> Self {
        stream.set_nodelay(true).unwrap();
        let mut raw = Self { stream: Arc::new(stream), unread: Vec::new() };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.send(&[head.as_bytes(), follows].concat()).await;
        let length = loop {
            match raw.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(raw.fill("a handshake").await, "no handshake"),
            }
        };
        let head: Vec<u8> = raw.unread.drain(..length).collect();
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // RFC 6455, 1.3.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        raw
    }

    /// Sends bytes, in one packet if they are few.
    pub(super) async fn send(&self, bytes: &[u8]) {
        within("bytes to be sent", write_all(&self.stream, bytes)).await.unwrap();
    }

    /// Sends bytes, and waits no longer than `patience` for them to be taken;
    /// whether they were.
    pub(super) async fn offer(&self, bytes: &[u8], patience: Duration) -> bool {
        let sent = timeout(patience, write_all(&self.stream, bytes)).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Sends bytes beside what else is done.
    pub(super) fn send_beside(&self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let stream = self.stream.clone();
        tokio::spawn(async move { write_all(&stream, &bytes).await })
    }

    /// Sends no more.
    pub(super) fn send_no_more(&self) {
        SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub(super) fn break_off(self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// The next frame; none if the connection has ended. One that was reset, or
    /// that ended within a frame, has not ended as it should.
    pub(super) async fn next(&mut self, what: &str) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = Frame::read(&self.unread) {
                self.unread.drain(..length);
                return Some(frame);
            }
            if !self.fill(what).await {
                assert!(self.unread.is_empty(), "the connection ended within a frame");
                return None;
            }
        }
    }

    /// The frames that are there after at least so many more bytes were read.
    pub(super) async fn sip(&mut self, bytes: usize) -> Vec<Frame> {
        let wanted = self.unread.len() + bytes;
        while self.unread.len() < wanted {
            assert!(self.fill("some bytes").await, "the connection has ended");
        }
        let mut frames = Vec::new();
        while let Some((frame, length)) = Frame::read(&self.unread) {
            self.unread.drain(..length);
            frames.push(frame);
        }
        frames
    }

    /// Reads what is there, as soon as there is something; false at the end.
    async fn fill(&mut self, what: &str) -> bool {
        let mut more = [0; READ_BYTES];
        let read = async {
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut more) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            }
        };
        let read = within(what, read).await;
        let read = read.unwrap_or_else(|error| panic!("waited for {what}: {error}"));
        self.unread.extend(&more[..read]);
        read > 0
    }

    /// The first frame that is wanted; those before it are dropped.
    pub(super) async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let found = async {
            loop {
                match self.next(what).await {
                    Some(frame) if wanted(&frame) => return frame,
                    Some(Frame { opcode: CLOSE, payload }) => panic!("{what}: closed, {payload:?}"),
                    Some(_) => {}
                    None => panic!("{what}: the connection has ended"),
                }
            }
        };
        within(what, found).await
    }

    /// The next answer to a ping.
    pub(super) async fn pong(&mut self) -> Vec<u8> {
        self.until("a pong", |frame| frame.opcode == PONG).await.payload
    }

    /// The next reply of the native dialect.
    pub(super) async fn reply(&mut self) -> Value {
        let is_reply = |frame: &Frame| frame.opcode == TEXT && frame.json().get("id").is_some();
        self.until("a reply", is_reply).await.json()
    }

    /// The next push of the native dialect.
    pub(super) async fn push(&mut self) -> Value {
        let is_push = |frame: &Frame| frame.opcode == TEXT && frame.json().get("push").is_some();
        self.until("a push", is_push).await.json()
    }

    /// Sends a command that is to be obeyed; what was answered.
    pub(super) async fn ok(&mut self, command: &Value) -> Value {
        self.send(&text(&command.to_string())).await;
        let reply = self.reply().await;
        assert!(reply.get("ok").is_some(), "{command} was answered {reply}");
        reply["ok"].clone()
    }

    /// The code and reason of the hub's close frame, which comes after whatever
    /// else.
    pub(super) async fn close_frame(&mut self, what: &str) -> (u16, String) {
        let close = self.until(what, |frame| frame.opcode == CLOSE).await;
        assert_ne!(close.payload.len(), 1, "half a close code");
        close.close()
    }

    /// Nothing more comes, and the connection ends as it should.
    pub(super) async fn end(&mut self, what: &str) {
        let more = self.next(&format!("the end after {what}")).await;
        assert_eq!(more, None, "after {what}");
    }

    /// The hub closes, and the connection ends as it should, whether it is
    /// answered or not: the code and reason.
    pub(super) async fn closed(&mut self, what: &str) -> (u16, String) {
        let told = self.close_frame(what).await;
        self.end(what).await;
        told
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
