//! Those who mean harm. They go to loopback only, and are as many as was asked
//! for: of what the hub cuts off, so many a second come again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Between two bytes, or two messages of garbage.
const PAUSE: Duration = Duration::from_secs(1);
/// So many connections have one source address: there are ports for that many.
const PER_SOURCE: usize = 5000;
/// The largest message of garbage.
const GARBAGE_MAX: usize = 4096;
/// How often the turns to connect are given out.
const TURNS_EVERY: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// What the flood has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub(crate) connected: u64,
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    pub(crate) garbage: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    connected: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    garbage: AtomicU64,
    bytes: AtomicU64,
}

/// What one of them does.
#[derive(Clone, Copy)]
enum Sort {
    /// Connects, and says nothing, or the beginning of a request or of a TLS
    /// handshake.
    HalfOpen(usize),
    /// Sends what means nothing: at once, or through a WebSocket.
    Garbage(usize),
    /// Sends a head, a byte each second.
    ByteByByte,
}

/// A flood that goes on until its end.
pub(crate) struct Flood {
    runtime: Runtime,
    counts: Arc<Counts>,
    first: u64,
}

/// What all of them share.
#[derive(Clone)]
struct World {
    hub: SocketAddr,
    counts: Arc<Counts>,
    turns: Arc<Semaphore>,
}

impl Flood {
    pub(crate) fn begin(
        hub: SocketAddr,
        half_open: usize,
        garbage: usize,
        again: u32,
    ) -> io::Result<Self> {
        if !hub.ip().is_loopback() {
            return Err(io::Error::other("a flood goes to loopback only"));
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let counts = Arc::<Counts>::default();
        let sorts = (0..half_open).map(Sort::HalfOpen);
        let sorts = sorts.chain((0..garbage).map(Sort::Garbage)).chain([Sort::ByteByByte]);
        // All come at once, as fast as the system lets them, and later again
        // at a pace.
        let turns = Arc::new(Semaphore::new(half_open + garbage + 1));
        runtime.spawn(give_turns(turns.clone(), again));
        let world = World { hub, counts: counts.clone(), turns };
        for (number, sort) in sorts.enumerate() {
            runtime.spawn(world.clone().harm(number, sort));
        }
        Ok(Self { runtime, counts, first: (half_open + garbage + 1) as u64 })
    }

    /// Waits until all have come once.
    pub(crate) fn has_risen(&self, limit: Duration) -> Result<(), String> {
        let start = Instant::now();
        let tried = || {
            self.counts.connected.load(Ordering::Relaxed)
                + self.counts.failed.load(Ordering::Relaxed)
        };
        while tried() < self.first {
            if start.elapsed() > limit {
                return Err(format!("only {} of {} have connected", tried(), self.first));
            }
            std::thread::sleep(TURNS_EVERY);
        }
        Ok(())
    }

    /// Ends it.
    pub(crate) fn end(self) -> Done {
        self.runtime.shutdown_timeout(PAUSE);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { connected, ended, failed, garbage, bytes } = &*self.counts;
        Done {
            connected: count(connected),
            ended: count(ended),
            failed: count(failed),
            garbage: count(garbage),
            bytes: count(bytes),
        }
    }
}

impl Done {
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            connected: self.connected + other.connected,
            ended: self.ended + other.ended,
            failed: self.failed + other.failed,
            garbage: self.garbage + other.garbage,
            bytes: self.bytes + other.bytes,
        }
    }
}

async fn give_turns(turns: Arc<Semaphore>, a_second: u32) {
    let mut interval = interval(TURNS_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut owed = 0.0;
    loop {
        interval.tick().await;
        owed += f64::from(a_second) * TURNS_EVERY.as_secs_f64();
        while owed >= 1.0 {
            owed -= 1.0;
            // What nobody has taken is not saved up.
            if turns.available_permits() < a_second as usize {
                turns.add_permits(1);
            }
        }
    }
}

impl World {
    /// Comes again and again.
    async fn harm(self, number: usize, sort: Sort) {
        let mut random = StdRng::seed_from_u64(number as u64);
        loop {
            let Ok(turn) = self.turns.acquire().await else { return };
            turn.forget();
            match timeout(CONNECT_MAX, connect(self.hub, number)).await {
                Ok(Ok(stream)) => {
                    count(&self.counts.connected);
                    // Whatever has ended it: it was the hub.
                    let _ = self.act(stream, sort, &mut random).await;
                    count(&self.counts.ended);
                }
                _ => count(&self.counts.failed),
            }
        }
    }

    async fn act(&self, mut stream: TcpStream, sort: Sort, random: &mut StdRng) -> io::Result<()> {
        match sort {
            Sort::HalfOpen(number) => {
                let begun: &[u8] = match number % 3 {
                    0 => b"",
                    1 => b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgr",
                    // A TLS handshake of 512 bytes, of which three come.
                    _ => b"\x16\x03\x01\x02\x00\x01\x00\x01",
                };
                stream.write_all(begun).await?;
                until_cut_off(stream).await
            }
            Sort::Garbage(number) => {
                let mut garbage = vec![0; random.random_range(1..=GARBAGE_MAX)];
                if number % 2 == 0 {
                    self.through_a_websocket(stream, &mut garbage, random).await
                } else {
                    loop {
                        random.fill_bytes(&mut garbage);
                        stream.write_all(&garbage).await?;
                        count(&self.counts.garbage);
                        sleep(PAUSE).await;
                    }
                }
            }
            Sort::ByteByByte => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await?;
                loop {
                    stream.write_all(b"x").await?;
                    count(&self.counts.bytes);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// What is said is no command, in good frames.
    async fn through_a_websocket(
        &self,
        mut stream: TcpStream,
        garbage: &mut [u8],
        random: &mut StdRng,
    ) -> io::Result<()> {
        let request = b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request).await?;
        let (mut read, write) = stream.into_split();
        let reading = async {
            let mut buffer = vec![0; GARBAGE_MAX];
            while read.read(&mut buffer).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        tokio::select! {
            ended = self.chatter(write, garbage, random) => ended,
            ended = reading => ended,
        }
    }

    async fn chatter(
        &self,
        mut write: OwnedWriteHalf,
        garbage: &mut [u8],
        random: &mut StdRng,
    ) -> io::Result<()> {
        loop {
            // Any text: the parser has to look at it.
            garbage.iter_mut().for_each(|byte| *byte = random.random_range(b' '..=b'~'));
            write.write_all(&frame(garbage)).await?;
            count(&self.counts.garbage);
            sleep(PAUSE).await;
        }
    }
}

/// A frame of text, with a mask that changes nothing.
fn frame(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(short @ ..126) => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(text);
    frame
}

async fn connect(hub: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = u8::try_from(number / PER_SOURCE % 200).unwrap_or_default();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, source + 1), 0)))?;
    socket.connect(hub).await
}

async fn until_cut_off(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
