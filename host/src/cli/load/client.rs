//! One client: a socket, a scanner, and no buffer of its own.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::dialect::Dialect;
use super::scanner::{CLOSED_WITHOUT_FRAME, Heard, Scanner};
use super::tally::{Role, Tally};
use crate::clock::Clock;

/// How long connecting and the handshake may take.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// The longest head of an answer to the handshake; a hub's has 200 bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What a slow client's socket holds, so that it is soon full: the least that
/// the system gives.
const SLOW_BUFFER_BYTES: u32 = 4096;
/// How often a slow client reads at the end to see whether it was closed. More
/// than its socket holds.
const LEFTOVER_READS: usize = 1024;
/// The key of the RFC's own example, and what a server answers to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT: u8 = 0x1;
const PONG: u8 = 0xa;
/// What a server that was given up for broken is said to have closed with.
const PROTOCOL_ERROR: u16 = 1002;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) dialect: Dialect,
    /// The command that subscribes.
    pub(super) subscribe: String,
    pub(super) clock: Clock,
    tally: Mutex<Tally>,
    /// What the clients are to do.
    pub(super) phase: watch::Sender<Phase>,
    /// Somebody has connected, subscribed or gone.
    pub(super) changed: Notify,
}

/// What the clients are to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Connect, and say nothing.
    Connect,
    /// Subscribe, and read.
    Subscribe,
    /// See what became of them.
    End,
}

impl Shared {
    pub(super) fn new(
        address: SocketAddr,
        dialect: Dialect,
        subscribe: String,
        clients: usize,
    ) -> Self {
        Self {
            address,
            dialect,
            subscribe,
            clock: Clock::system(),
            tally: Mutex::new(Tally::new(clients, dialect)),
            phase: watch::channel(Phase::Connect).0,
            changed: Notify::new(),
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives the life of one client. `turn` is its leave to connect.
pub(super) async fn live(shared: Arc<Shared>, role: Role, turn: Option<OwnedSemaphorePermit>) {
    let joined = match tokio::time::timeout(JOIN_MAX, join(&shared, role)).await {
        Ok(joined) => joined,
        Err(_) => Err(format!("no answer in {} s", JOIN_MAX.as_secs())),
    };
    drop(turn);
    let (client, outcome) = match joined {
        Ok(client) => (Some(client), Ok(())),
        Err(why) => (None, Err(why)),
    };
    shared.tally().counts.joined(role, outcome);
    shared.changed.notify_one();
    let Some(mut client) = client else { return };
    let ended = client.serve().await;
    let mut tally = shared.tally();
    if !client.subscribed {
        tally.counts.subscribed(role);
    }
    if let Some(code) = ended {
        tally.counts.closed(role, code);
    }
    shared.changed.notify_one();
}

/// A client that is connected.
struct Client {
    shared: Arc<Shared>,
    role: Role,
    stream: TcpStream,
    scanner: Scanner,
    /// What is to be sent.
    out: Vec<u8>,
    subscribed: bool,
    /// The code that the connection has ended with.
    ended: Option<u16>,
}

/// Connects and shakes hands.
async fn join(shared: &Arc<Shared>, role: Role) -> Result<Client, String> {
    let words = |error: io::Error| error.to_string();
    let mut stream = connect(shared.address, role).await.map_err(words)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        shared.dialect.path(),
        shared.address
    );
    stream.write_all(request.as_bytes()).await.map_err(words)?;
    let mut read = Vec::new();
    let head_ends = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read.len() > HEAD_BYTES_MAX {
            return Err("the answer to the handshake does not end".to_owned());
        }
        if stream.read_buf(&mut read).await.map_err(words)? == 0 {
            return Err("closed before the handshake (limits.connections of the hub?)".to_owned());
        }
    };
    let (head, rest) = read.split_at(head_ends);
    shaken(&String::from_utf8_lossy(head))?;
    let mut client = Client {
        shared: shared.clone(),
        role,
        stream,
        scanner: Scanner::default(),
        out: Vec::new(),
        subscribed: false,
        ended: None,
    };
    let mut tally = shared.tally();
    client.take(&mut tally, Bytes::Own(rest));
    drop(tally);
    Ok(client)
}

async fn connect(address: SocketAddr, role: Role) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if role == Role::Slow {
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    // Its end is abrupt, and leaves no port behind that waits for a minute:
    // thousands that come and go would use them all up.
    stream.set_zero_linger()?;
    Ok(stream)
}

/// Whether an answer to the handshake makes a WebSocket.
fn shaken(head: &str) -> Result<(), String> {
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(format!("answered {:?}", status.chars().take(60).collect::<String>()));
    }
    if !head.contains(ACCEPT) {
        return Err("the answer to the handshake is not that of a WebSocket".to_owned());
    }
    Ok(())
}

/// Where bytes are that have come in.
enum Bytes<'a> {
    /// With the client.
    Own(&'a [u8]),
    /// So many at the beginning of the buffer that all share.
    Shared(usize),
}

impl Client {
    /// Does what the phases ask for. The code that the hub has closed with.
    async fn serve(&mut self) -> Option<u16> {
        let mut phase = self.shared.phase.subscribe();
        tokio::select! {
            biased;
            code = self.listen() => return Some(code),
            _ = phase.wait_for(|phase| *phase >= Phase::Subscribe) => {}
        }
        let command = self.shared.subscribe.clone();
        self.say(TEXT, command.as_bytes());
        if self.role != Role::Slow {
            return tokio::select! {
                biased;
                code = self.listen() => Some(code),
                _ = phase.wait_for(|phase| *phase == Phase::End) => None,
            };
        }
        if self.flush().await.is_err() {
            return Some(CLOSED_WITHOUT_FRAME);
        }
        self.note_subscribed(&mut self.shared.clone().tally());
        let _ = phase.wait_for(|phase| *phase == Phase::End).await;
        self.leftovers()
    }

    /// Reads and answers until the connection ends; its close code. Nothing is
    /// lost if it is dropped between.
    async fn listen(&mut self) -> u16 {
        loop {
            if self.flush().await.is_err() {
                return CLOSED_WITHOUT_FRAME;
            }
            if let Some(code) = self.ended {
                return code;
            }
            poll_fn(|context| self.poll_listen(context)).await;
        }
    }

    /// Reads until there is something to be said, or no more to be read.
    fn poll_listen(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let shared = self.shared.clone();
        let mut tally = shared.tally();
        loop {
            let mut room = ReadBuf::new(&mut tally.buffer);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut room));
            let bytes = room.filled().len();
            if read.is_err() || bytes == 0 {
                self.ended = Some(CLOSED_WITHOUT_FRAME);
            } else {
                self.take(&mut tally, Bytes::Shared(bytes));
            }
            if self.ended.is_some() || !self.out.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Looks at what has come in. All of it came now, however long it lay in
    /// the socket: the one who reads late is late.
    fn take(&mut self, tally: &mut Tally, bytes: Bytes<'_>) {
        let now_ns = self.shared.clock.now_ns();
        let Tally { buffer, counts } = tally;
        let bytes = match bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(length) => &buffer[..length],
        };
        let (mut answered, mut ping, mut close) = (false, None, None);
        let role = self.role;
        let scanned = self.scanner.feed(bytes, &mut |heard| match heard {
            Heard::Message { head, bytes } => {
                answered |= counts.message(role, head, bytes, now_ns);
            }
            Heard::Ping(payload) => ping = Some(payload.to_vec()),
            Heard::Close(code) => close = close.or(Some(code)),
        });
        if scanned.is_err() {
            close = close.or(Some(PROTOCOL_ERROR));
        }
        self.ended = close;
        if let Some(payload) = ping {
            // By the RFC, the newest of several is enough.
            self.say(PONG, &payload);
        }
        if answered {
            self.note_subscribed(tally);
        }
    }

    fn note_subscribed(&mut self, tally: &mut Tally) {
        if !std::mem::replace(&mut self.subscribed, true) {
            tally.counts.subscribed(self.role);
            self.shared.changed.notify_one();
        }
    }

    /// Puts a frame behind what is still to be sent, masked as a client's must
    /// be. It is at most 64 KiB long.
    fn say(&mut self, opcode: u8, payload: &[u8]) {
        // Masks guard against middlemen, of which loopback has none.
        let mask = getrandom::u32().unwrap_or_default().to_ne_bytes();
        self.out.push(0x80 | opcode);
        match u8::try_from(payload.len()) {
            Ok(short @ ..=125) => self.out.push(0x80 | short),
            _ => {
                self.out.push(0x80 | 126);
                let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
                self.out.extend_from_slice(&length.to_be_bytes());
            }
        }
        self.out.extend_from_slice(&mask);
        self.out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let sent = self.stream.write(&self.out).await?;
            self.out.drain(..sent);
        }
        // Most never say anything again.
        self.out = Vec::new();
        Ok(())
    }

    /// Reads what lies in the socket, without waiting: whether it was closed.
    fn leftovers(&mut self) -> Option<u16> {
        let shared = self.shared.clone();
        let mut tally = shared.tally();
        for _ in 0..LEFTOVER_READS {
            match self.stream.try_read(&mut tally.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(0) | Err(_) => return Some(CLOSED_WITHOUT_FRAME),
                Ok(bytes) => self.take(&mut tally, Bytes::Shared(bytes)),
            }
            if self.ended.is_some() {
                return self.ended;
            }
        }
        None
    }
}
