//! The clients: all of them on one thread, as cheap as they can be.
//!
//! They look at frames' lengths and at updates' times, and at nothing else.

use std::io::{self, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::tally::Tally;
use crate::{frame, nats};

/// How long a server may take to answer one client while it connects.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// While so many connect, or say something, those before are not looked after:
/// few enough that nobody's ping goes unanswered.
const AT_ONCE: usize = 50;
/// Read at once; the largest pushes of a run fit in it several times.
const BUFFER_BYTES: usize = 128 << 10;
/// Sockets that are told of at once.
const EVENTS: usize = 1024;
/// The clients don't sleep for so long after something has come. On loopback the
/// sender pays for waking a reader up, and a slow one would for each message.
const AWAKE: Duration = Duration::from_millis(2);

/// What is spoken.
#[derive(Clone, Copy)]
pub(crate) enum Wire {
    /// Frames without a handshake.
    Frames,
    /// WebSocket on this path.
    WebSocket(&'static str),
    SocketIo,
    Nats,
}

/// Where the clients go.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) wire: Wire,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// One client.
pub(crate) struct Client {
    stream: Stream,
    wire: Wire,
    /// The beginning of a frame that is not whole yet.
    part: Vec<u8>,
    /// The same of what NATS says.
    nats_part: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// All clients of a server.
pub(crate) struct Crowd {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    /// When something came last.
    heard: Instant,
    pub(crate) tally: Tally,
}

impl Crowd {
    /// Connects so many clients, one after the other.
    pub(crate) fn connect(target: &Target, count: usize, tally: Tally) -> io::Result<Self> {
        let mut crowd = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            clients: Vec::with_capacity(count),
            buffer: vec![0; BUFFER_BYTES],
            tally,
            heard: Instant::now(),
        };
        for number in 0..count {
            let client = Client::connect(target).map_err(|error| {
                io::Error::new(error.kind(), format!("client {} of {count}: {error}", number + 1))
            })?;
            crowd.adopt(client)?;
            if number % AT_ONCE == 0 {
                crowd.turn(Duration::ZERO)?;
            }
        }
        Ok(crowd)
    }

    fn adopt(&mut self, mut client: Client) -> io::Result<()> {
        client.stream.tcp().set_nonblocking(true)?;
        let (descriptor, token) = (client.stream.tcp().as_raw_fd(), Token(self.clients.len()));
        self.poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        // What came with the handshake's end gives no event any more.
        client.read(&mut self.buffer, &mut self.tally)?;
        self.clients.push(client);
        Ok(())
    }

    /// Every client sends these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for number in 0..self.clients.len() {
            self.clients[number].stream.write_all(bytes)?;
            if number % AT_ONCE == 0 {
                self.turn(Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Reads what comes for so long.
    pub(crate) fn rest(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            // One more, so that the last turn doesn't spin through a millisecond.
            self.turn(left + Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Reads until so many ticks have come to every client. It fails when that
    /// takes longer than `limit`.
    pub(crate) fn rounds(&mut self, count: u32, limit: Duration) -> io::Result<()> {
        let (end, target) = (Instant::now() + limit, self.tally.seen.rounds + count);
        while self.tally.seen.rounds < target {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                let seen = &self.tally.seen;
                return Err(io::Error::other(format!(
                    "{} of {target} ticks and {} messages came in {} s",
                    seen.rounds,
                    seen.messages,
                    limit.as_secs()
                )));
            };
            self.turn(left)?;
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        let awake = self.heard.elapsed() < AWAKE;
        let timeout = if awake { Duration::ZERO } else { timeout };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        if !self.events.is_empty() {
            self.heard = Instant::now();
        }
        for event in &self.events {
            self.clients[event.token().0].read(&mut self.buffer, &mut self.tally)?;
        }
        Ok(())
    }
}

impl Client {
    /// Connects, and says what a client of this kind has to say first.
    pub(crate) fn connect(target: &Target) -> io::Result<Self> {
        let Target { address, wire, tls } = target;
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(ANSWER_LIMIT))?;
        let stream = match tls {
            None => Stream::Plain(tcp),
            Some(config) => {
                let name = ServerName::from(address.ip());
                let session =
                    ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, tcp)))
            }
        };
        let mut client = Self { stream, wire: *wire, part: Vec::new(), nats_part: Vec::new() };
        match wire {
            Wire::Frames => {}
            Wire::WebSocket(path) => client.shake_hands(address, path)?,
            Wire::SocketIo => {
                client.shake_hands(address, "/socket.io/?EIO=4&transport=websocket")?;
                client.hear(b"0{")?;
                client.say(frame::TEXT, b"40")?;
                client.hear(b"40")?;
            }
            Wire::Nats => {
                client.shake_hands(address, "/")?;
                client.hear(b"INFO ")?;
                client.say(frame::BINARY, nats::SUBSCRIBE)?;
                client.hear(b"PONG")?;
            }
        }
        Ok(client)
    }

    fn shake_hands(&mut self, address: &SocketAddr, path: &str) -> io::Result<()> {
        // The key is RFC 6455's own: what the server makes of it isn't looked at.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())?;
        let end = loop {
            let end = self.part.windows(4).position(|window| window == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None => self.read_more()?,
            }
        };
        let head: Vec<u8> = self.part.drain(..end).collect();
        if head.starts_with(b"HTTP/1.1 101 ") {
            return Ok(());
        }
        let answer = String::from_utf8_lossy(&head);
        Err(io::Error::other(format!(
            "no WebSocket: {}",
            answer.lines().next().unwrap_or_default()
        )))
    }

    /// Waits for a message that has these bytes in it.
    pub(crate) fn hear(&mut self, what: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let Some(frame) = frame::first(&self.part) else {
                self.read_more()?;
                continue;
            };
            let (payload, length) = (frame.payload.to_vec(), frame.length);
            self.part.drain(..length);
            if payload.windows(what.len()).any(|window| window == what) {
                return Ok(payload);
            }
        }
    }

    /// Sends these bytes, which are frames.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn say(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.send(&frame::from_client(opcode, payload))
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => Err(gone()),
            length => {
                self.part.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }

    /// Reads all that is there.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Err(gone()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.take(&buffer[..length], tally)?;
            // By epoll(7) a short read has emptied the socket; it saves a call
            // for each message. With TLS it says nothing.
            if length < buffer.len() && matches!(self.stream, Stream::Plain(_)) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], tally: &mut Tally) -> io::Result<()> {
        if self.part.is_empty() {
            let used = self.frames(bytes, tally)?;
            self.part.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = mem::take(&mut self.part);
        all.extend_from_slice(bytes);
        let used = self.frames(&all, tally)?;
        // A new one, since many clients keep what a large message has taken.
        self.part = all[used..].to_vec();
        Ok(())
    }

    /// Takes all whole frames, and says how many bytes they had.
    fn frames(&mut self, bytes: &[u8], tally: &mut Tally) -> io::Result<usize> {
        let mut used = 0;
        while let Some(frame) = frame::first(&bytes[used..]) {
            used += frame.length;
            match frame.opcode {
                frame::TEXT | frame::BINARY => self.message(&frame, tally)?,
                frame::PING => self.say(frame::PONG, frame.payload)?,
                frame::CLOSE => {
                    let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Err(io::Error::other(format!("it has closed a connection: {code:?}")));
                }
                _ => {}
            }
        }
        Ok(used)
    }

    fn message(&mut self, frame: &frame::Frame<'_>, tally: &mut Tally) -> io::Result<()> {
        match self.wire {
            // Engine.IO's ping and pong.
            Wire::SocketIo if frame.payload == b"2" => self.say(frame::TEXT, b"3"),
            Wire::Nats => self.nats(frame.payload, tally),
            Wire::WebSocket(_) if frame.payload.starts_with(br#"{"id":1,"error""#) => {
                Err(io::Error::other(String::from_utf8_lossy(frame.payload)))
            }
            _ => {
                tally.message(frame.payload, frame.length);
                Ok(())
            }
        }
    }

    fn nats(&mut self, bytes: &[u8], tally: &mut Tally) -> io::Result<()> {
        let mut all = mem::take(&mut self.nats_part);
        all.extend_from_slice(bytes);
        let mut used = 0;
        while let Some((part, length)) = nats::first(&all[used..]) {
            match part {
                nats::Part::Message(payload) => tally.message(payload, length),
                nats::Part::Line(b"PING") => self.say(frame::BINARY, b"PONG\r\n")?,
                nats::Part::Line(line) if line.starts_with(b"-ERR") => {
                    return Err(io::Error::other(String::from_utf8_lossy(line)));
                }
                nats::Part::Line(_) => {}
            }
            used += length;
        }
        self.nats_part = all[used..].to_vec();
        Ok(())
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(session) => &session.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes),
            Self::Tls(session) => session.write_all(bytes),
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("it has dropped a connection")
}
