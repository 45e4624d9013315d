//! One client: a socket, a scanner, and no buffer of its own.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::dialect::{Dialect, Wanted};
use super::events::Events;
use super::scanner::{CLOSED_WITHOUT_FRAME, Heard, Scanner};
use super::tally::{Answer, Role, Tally};
use super::wire::{Door, PONG, PROTOCOL_ERROR, TEXT, put_frame};
use crate::clock::Clock;

/// How long connecting and the handshake may take.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(10);
/// What a slow client's socket holds, so that it is soon full: the least that
/// the system gives.
const SLOW_BUFFER_BYTES: u32 = 4096;
/// How often a slow client reads at the end to see whether it was closed. More
/// than its socket holds.
const LEFTOVER_READS: usize = 1024;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) door: Door,
    pub(super) dialect: Dialect,
    /// What the clients subscribe to: a glob, or one of so many rooms.
    pub(super) filter: Option<String>,
    pub(super) rooms: Option<u64>,
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
    /// For so many clients. `events` are those that will be published.
    pub(super) fn new(
        door: Door,
        dialect: Dialect,
        filter: Option<String>,
        rooms: Option<u64>,
        clients: usize,
        events: Option<Events>,
    ) -> Self {
        Self {
            door,
            dialect,
            filter,
            rooms,
            clock: Clock::system(),
            tally: Mutex::new(Tally::new(clients, dialect, events)),
            phase: watch::channel(Phase::Connect).0,
            changed: Notify::new(),
        }
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of the client at a place.
    pub(super) fn room(&self, place: usize) -> Option<u64> {
        self.rooms.map(|rooms| place as u64 % rooms)
    }

    /// What subscribes the client at a place, if anything does.
    fn subscribe(&self, place: usize) -> Option<String> {
        let wanted = match self.room(place) {
            Some(room) => Wanted::Room(room),
            None => Wanted::Series(self.filter.as_deref()),
        };
        self.dialect.subscribe(wanted)
    }
}

/// Lives the life of one client, at its place among them all. `turn` is its
/// leave to connect.
pub(super) async fn live(
    shared: Arc<Shared>,
    place: usize,
    role: Role,
    turn: Option<OwnedSemaphorePermit>,
) {
    let joined = match tokio::time::timeout(JOIN_MAX, join(&shared, place, role)).await {
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
    place: usize,
    role: Role,
    stream: TcpStream,
    scanner: Scanner,
    /// What is to be sent.
    out: Vec<u8>,
    /// It is let in, or was turned away for this reason.
    entry: Option<Result<(), String>>,
    /// Whether it has got to subscribing: what comes now answers that.
    has_asked: bool,
    subscribed: bool,
    /// When it began to connect, until the first message has come.
    began: Option<Instant>,
    /// The code that the connection has ended with.
    ended: Option<u16>,
}

/// Connects, shakes hands, and asks to be let in where that takes more.
async fn join(shared: &Arc<Shared>, place: usize, role: Role) -> Result<Client, String> {
    let began = Some(Instant::now());
    let receive_buffer = (role == Role::Slow).then_some(SLOW_BUFFER_BYTES);
    let (stream, first) = shared.door.open(shared.dialect.path(), receive_buffer).await?;
    let mut client = Client {
        shared: shared.clone(),
        place,
        role,
        stream,
        scanner: Scanner::default(),
        out: Vec::new(),
        entry: None,
        has_asked: false,
        subscribed: false,
        began,
        ended: None,
    };
    match shared.dialect.hello() {
        Some(hello) => put_frame(&mut client.out, TEXT, hello.as_bytes()),
        None => client.entry = Some(Ok(())),
    }
    client.take(&mut shared.tally(), Bytes::Own(&first));
    client.enter().await?;
    Ok(client)
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
        self.has_asked = true;
        // What comes from here on it has asked for.
        self.began = None;
        match self.shared.subscribe(self.place) {
            Some(command) => put_frame(&mut self.out, TEXT, command.as_bytes()),
            None => self.note_subscribed(&mut self.shared.clone().tally()),
        }
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

    /// Waits until it is let in.
    async fn enter(&mut self) -> Result<(), String> {
        loop {
            self.flush().await.map_err(|error| error.to_string())?;
            if let Some(entry) = &self.entry {
                return entry.clone();
            }
            if let Some(code) = self.ended {
                return Err(format!("closed with {code} before it was let in"));
            }
            poll_fn(|context| self.poll_listen(context)).await;
        }
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

    /// Reads until there is something to be said, or no more to be read, or it
    /// is let in.
    fn poll_listen(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let was_in = self.entry.is_some();
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
            if self.ended.is_some() || !self.out.is_empty() || self.entry.is_some() != was_in {
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
        let (mut answered, mut pinged, mut ping, mut close) = (false, false, None, None);
        let (role, entry, began) = (self.role, &mut self.entry, &mut self.began);
        let scanned = self.scanner.feed(bytes, &mut |heard| match heard {
            Heard::Message { head, bytes } => {
                if let Some(began) = began.take() {
                    counts.first_message(began.elapsed());
                }
                match counts.message(role, head, bytes, now_ns) {
                    Answer::Nothing => {}
                    Answer::Subscription => answered = true,
                    Answer::Entry(told) => *entry = Some(told),
                    Answer::Ping => pinged = true,
                }
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
            put_frame(&mut self.out, PONG, &payload);
        }
        if pinged {
            put_frame(&mut self.out, TEXT, self.shared.dialect.pong().as_bytes());
        }
        if answered && self.has_asked {
            self.note_subscribed(tally);
        }
    }

    fn note_subscribed(&mut self, tally: &mut Tally) {
        if !std::mem::replace(&mut self.subscribed, true) {
            tally.counts.subscribed(self.role);
            self.shared.changed.notify_one();
        }
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
