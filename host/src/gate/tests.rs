use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::shutdown;

/// Far longer than anything takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Nobody is silent by accident.
const HEARTBEAT: Duration = Duration::from_secs(600);
/// A short heartbeat, in milliseconds, and how often its sweeper looks.
const SECOND: u32 = 1000;
const LOOK: u32 = SECOND / 4;

pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A gate whose socket holds little, and its client.
pub(crate) struct Pair {
    pub(crate) io: GateIo,
    pub(crate) client: Box<dyn Wire>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Tls,
}

fn gates(budget: usize) -> Arc<Gates> {
    Gates::new(1000, HEARTBEAT, Budget::new(budget))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    let client = client.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let socket = accepted.unwrap().0;
    SockRef::from(&socket).set_send_buffer_size(4096).unwrap();
    (socket, client.unwrap())
}

fn tls() -> (TlsAcceptor, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)))
}

pub(crate) async fn pair(gates: &Arc<Gates>, kind: Kind) -> Pair {
    let place = gates.enter().unwrap();
    let (socket, client) = sockets().await;
    if kind == Kind::Plain {
        return Pair { io: GateIo::plain(place, socket), client: Box::new(client) };
    }
    let (acceptor, connector) = tls();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let (socket, client) = tokio::join!(acceptor.accept(socket), connector.connect(name, client));
    Pair { io: GateIo::tls(place, socket.unwrap()), client: Box::new(client.unwrap()) }
}

/// Does what a session does for what waits, until nothing does.
async fn pump(gate: &Gate) {
    let written = async {
        while !gate.flush() {
            gate.socket().writable().await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, written).await.expect("room for what waits");
}

/// Offers messages until one of them has to wait; how many there were.
pub(crate) fn fill(gate: &Gate, text: &str) -> usize {
    for count in 1..10_000 {
        match gate.offer(&[Piece::text(text, gate.budget())]) {
            Offered::Taken => {}
            Offered::Waiting => return count,
            Offered::Busy => panic!("busy after {count}"),
        }
    }
    panic!("the socket has room for everything");
}

/// The frames in what has come: their first bytes and what they carry.
#[track_caller]
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            short => (usize::from(*short), rest),
        };
        frames.push((*kind, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "a broken frame: {bytes:?}");
    frames
}

/// All that comes until the gate is dropped.
pub(crate) async fn read_all(client: &mut dyn Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = client.read_to_end(&mut bytes);
    // TLS clients are not told of a cut.
    let _ = tokio::time::timeout(LIMIT, read).await.expect("the end of the connection");
    bytes
}

/// Everything that waits is written and read; then the connection ends.
async fn finish(pair: Pair) -> Vec<(u8, Vec<u8>)> {
    let Pair { io, mut client } = pair;
    let written = async {
        pump(&io).await;
        io.finish();
        drop(io);
    };
    let ((), bytes) = tokio::join!(written, read_all(&mut client));
    frames(&bytes)
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn is_closed_with(gate: &Gate) -> Option<u16> {
    match gate.attend(Waker::noop()) {
        Some(Ending::Close(reason)) => Some(reason.code),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[tokio::test]
async fn what_there_is_no_room_for_goes_out_later_whole_and_in_order() {
    for kind in [Kind::Plain, Kind::Tls] {
        let gates = gates(64 << 20);
        let pair = pair(&gates, kind).await;
        let text = |n: usize| format!("{n} {}", "x".repeat(3000 + n));
        let mut sent = 0;
        while pair.io.offer(&[Piece::text(&text(sent), gates.budget())]) == Offered::Taken {
            sent += 1;
        }
        sent += 1;
        assert!(sent < 10_000 && pair.io.is_busy());
        for _ in 0..100 {
            pair.io.send_text(&text(sent));
            sent += 1;
        }
        let found = finish(pair).await;
        let wanted: Vec<_> = (0..sent).map(|n| (0x81, text(n).into_bytes())).collect();
        assert!(found == wanted, "{kind:?}: {} of {sent}", found.len());
        assert_eq!(gates.budget().used(), 0);
    }
}

#[tokio::test]
async fn the_newest_pong_cuts_in_between_messages() {
    let gates = gates(64 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    let large = "x".repeat(1 << 20);
    let begun = fill(&pair.io, &large);
    pair.io.send_text("after");
    for pong in [b"1", b"2", b"3"] {
        pair.io.send_pong(&[&[0x8a, 1][..], pong].concat());
    }
    pair.io.send_text("last");
    let kinds: Vec<_> = finish(pair).await.into_iter().skip(begun).collect();
    let wanted = [(0x8a, b"3".to_vec()), (0x81, b"after".to_vec()), (0x81, b"last".to_vec())];
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn nothing_is_taken_while_something_waits_and_who_was_refused_is_told_later() {
    for kind in [Kind::Plain, Kind::Tls] {
        let gates = gates(64 << 20);
        let Pair { io, mut client } = pair(&gates, kind).await;
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while client.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        // In one go, so that nothing is read meanwhile.
        fill(&io, &"x".repeat(1 << 20));
        assert!(!io.has_gone());
        pump(&io).await;
        assert!(!io.has_gone(), "nobody has been refused");
        fill(&io, &"x".repeat(1 << 20));
        assert_eq!(io.offer(&[Piece::text("more", io.budget())]), Offered::Busy);
        assert!(!io.has_gone());
        pump(&io).await;
        assert!(io.has_gone());
        assert!(!io.has_gone(), "once");
        assert_eq!(io.offer(&[Piece::text("more", io.budget())]), Offered::Taken);
        drop(io);
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn whatever_is_sent_however_it_is_read_no_message_is_broken() {
    for (seed, kind) in (0..8).map(|seed| (seed, [Kind::Plain, Kind::Tls][seed as usize % 2])) {
        let mut dice = StdRng::seed_from_u64(seed);
        let gates = gates(64 << 20);
        let Pair { io, mut client } = pair(&gates, kind).await;
        let mut wanted = Vec::new();
        let mut got = Vec::new();
        for _ in 0..400 {
            let text = format!("{} {}", wanted.len(), "x".repeat(dice.random_range(0..20_000)));
            let end = Piece::shared_end(&text, io.budget());
            let beginning = Piece::beginning("in two ", &end, io.budget());
            match dice.random_range(0..6) {
                0 => {
                    io.send_text(&text);
                    wanted.push(text);
                }
                1 => {
                    io.send([beginning, end]);
                    wanted.push(format!("in two {text}"));
                }
                2 => {
                    let whole = Piece::text("before", io.budget());
                    if io.offer(&[whole, beginning, end]) != Offered::Busy {
                        wanted.extend(["before".to_owned(), format!("in two {text}")]);
                    }
                }
                3 => io.send_pong(&[0x8a, 1, b'p']),
                4 => _ = Gate::flush(&io),
                _ => {
                    let mut buffer = vec![0; dice.random_range(1..40_000)];
                    // What is there, if anything is.
                    tokio::select! {
                        biased;
                        read = client.read(&mut buffer) => got.extend(&buffer[..read.unwrap()]),
                        () = tokio::task::yield_now() => {}
                    }
                }
            }
        }
        let written = async {
            pump(&io).await;
            io.finish();
            drop(io);
        };
        let ((), rest) = tokio::join!(written, read_all(&mut client));
        got.extend(rest);
        let texts = frames(&got).into_iter().filter(|(kind, _)| *kind == 0x81);
        let texts: Vec<_> = texts.map(|(_, text)| String::from_utf8(text).unwrap()).collect();
        assert!(texts == wanted, "seed {seed}, {kind:?}");
        assert_eq!(gates.budget().used(), 0);
    }
}

#[tokio::test]
async fn a_broken_connection_ends_the_gate_and_wakes_its_session() {
    let gates = gates(1 << 20);
    let place = gates.enter().unwrap();
    let (socket, client) = sockets().await;
    let io = GateIo::plain(place, socket);
    let woken = Arc::new(Woken::default());
    assert!(io.attend(&Waker::from(woken.clone())).is_none());
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let broken = async {
        while !io.has_ended() {
            io.send_text("hello");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, broken).await.unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(io.offer(&[Piece::text("more", io.budget())]), Offered::Busy);
    io.send_text("more");
    assert!(Gate::flush(&io) && gates.budget().used() == 0);
}

#[tokio::test]
async fn a_cut_drops_what_waits_wakes_and_ends() {
    let gates = gates(64 << 20);
    let Pair { io, mut client } = pair(&gates, Kind::Plain).await;
    fill(&io, &"x".repeat(1 << 20));
    let woken = Arc::new(Woken::default());
    assert!(io.attend(&Waker::from(woken.clone())).is_none());
    io.cut();
    assert!(io.has_ended());
    assert_eq!((woken.0.load(Ordering::Relaxed), gates.budget().used()), (1, 0));
    read_all(&mut client).await;
    assert_eq!(io.try_read(&mut [0; 8]).unwrap(), 0);
}

#[tokio::test]
async fn nothing_follows_a_close_frame() {
    let gates = gates(64 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    pair.io.begin_session();
    pair.io.send_text("before");
    pair.io.send_close(&[0x88, 2, 3, 0xe9], false);
    pair.io.send_text("after");
    assert_eq!(pair.io.offer(&[Piece::text("after", gates.budget())]), Offered::Busy);
    pair.io.send_pong(&[0x8a, 1, b'p']);
    pair.io.look(pair.io.heard_at.load(Ordering::Relaxed) + SECOND, SECOND, LOOK);
    let wanted = [(0x81, b"before".to_vec()), (0x88, vec![3, 0xe9])];
    assert_eq!(finish(pair).await, wanted);
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_ten_seconds_is_closed_with_3008() {
    let gates = gates(64 << 20);
    let Pair { io, client: _client } = pair(&gates, Kind::Plain).await;
    io.begin_session();
    let began = gates.now();
    fill(&io, &"x".repeat(1 << 20));
    io.send_text("waits");
    // It is there, and answers pings.
    let look = |now: u32| {
        io.heard_at.store(now, Ordering::Relaxed);
        io.look(now, SECOND, LOOK);
    };
    look(began + 9_000);
    assert_eq!(is_closed_with(&io), None);
    look(gates.now() + 10_000);
    assert_eq!(is_closed_with(&io), Some(3008));
    assert_eq!(gates.counters().stalled.load(Ordering::Relaxed), 1);
    assert_eq!(io.lock().len(), 1, "only what has begun still waits");
    look(gates.now() + 20_000);
    assert_eq!(gates.counters().stalled.load(Ordering::Relaxed), 1, "it is counted once");
}

#[tokio::test]
async fn a_client_that_takes_a_little_now_and_then_is_not_stalled() {
    for kind in [Kind::Plain, Kind::Tls] {
        let gates = gates(64 << 20);
        let Pair { io, mut client } = pair(&gates, kind).await;
        io.begin_session();
        fill(&io, &"x".repeat(1 << 20));
        let mut taken = 0;
        for _ in 0..10 {
            // As if the last time that something moved were long ago.
            let long_ago = gates.now().wrapping_sub(60_000);
            io.lock().blocked_at = Some(long_ago);
            let moved = async {
                let mut buffer = [0; 512];
                while io.lock().blocked_at == Some(long_ago) {
                    tokio::select! {
                        biased;
                        read = client.read(&mut buffer) => taken += read.unwrap(),
                        () = tokio::task::yield_now() => {}
                    }
                    assert!(!Gate::flush(&io), "nothing waits any more");
                }
            };
            tokio::time::timeout(LIMIT, moved).await.expect("something to move");
        }
        // Each time a record of TLS, and not all that it has accepted.
        assert!(taken < 10 * 32 * 1024, "{kind:?}: seen after {taken} bytes");
    }
}

#[tokio::test]
async fn a_silent_client_is_pinged_once_and_closed_after_two_intervals() {
    let gates = gates(1 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    pair.io.begin_session();
    let heard = pair.io.heard_at.load(Ordering::Relaxed);
    for after in [250, 999] {
        pair.io.look(heard + after, SECOND, LOOK);
        assert_eq!(gates.counters().silent.load(Ordering::Relaxed), 0);
    }
    for after in [1000, 1250, 1500, 1750] {
        pair.io.look(heard + after, SECOND, LOOK);
        assert_eq!(is_closed_with(&pair.io), None, "{after}");
    }
    pair.io.look(heard + 2000, SECOND, LOOK);
    assert_eq!(is_closed_with(&pair.io), Some(1011));
    assert_eq!(gates.counters().silent.load(Ordering::Relaxed), 1);
    assert_eq!(finish(pair).await, [(0x89, vec![])]);
}

#[tokio::test]
async fn a_client_may_have_a_heartbeat_of_its_own() {
    let gates = gates(1 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    let lost = CloseReason { code: 1000, words: "Timeout" };
    pair.io.set_beat(Beat { interval: Duration::from_secs(3), lost });
    pair.io.begin_session();
    let heard = pair.io.heard_at.load(Ordering::Relaxed);
    for after in [2000, 3000, 5000, 5500] {
        pair.io.look(heard + after, SECOND, LOOK);
        assert_eq!(is_closed_with(&pair.io), None, "{after}");
    }
    pair.io.look(heard + 6000, SECOND, LOOK);
    assert_eq!(is_closed_with(&pair.io), Some(1000));
    assert_eq!(finish(pair).await, [(0x89, vec![])]);
}

#[tokio::test]
async fn a_client_that_was_not_pinged_in_time_is_given_time() {
    let gates = gates(1 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    pair.io.begin_session();
    let heard = pair.io.heard_at.load(Ordering::Relaxed);
    // The machine had no time for the sweeper, nor for what came in.
    pair.io.look(heard + 60_000, SECOND, LOOK);
    assert_eq!(is_closed_with(&pair.io), None);
    pair.io.look(heard + 60_400, SECOND, LOOK);
    assert_eq!(is_closed_with(&pair.io), None);
    pair.io.look(heard + 61_000, SECOND, LOOK);
    assert_eq!(is_closed_with(&pair.io), Some(1011));
    assert_eq!(finish(pair).await, [(0x89, vec![])]);
}

#[tokio::test]
async fn who_is_busy_taking_something_is_not_silent() {
    let gates = gates(64 << 20);
    let pair = pair(&gates, Kind::Plain).await;
    pair.io.begin_session();
    let begun = fill(&pair.io, &"x".repeat(100_000));
    pair.io.send_text("after");
    let heard = pair.io.heard_at.load(Ordering::Relaxed);
    for now in [1, 2, 3].map(|turn| heard + turn * SECOND) {
        // Something moves, so that it is not stalled.
        pair.io.lock().blocked_at = Some(now);
        pair.io.look(now, SECOND, LOOK);
        assert_eq!(is_closed_with(&pair.io), None);
    }
    let found: Vec<_> = finish(pair).await.into_iter().skip(begun).collect();
    assert_eq!(found, [(0x81, b"after".to_vec())], "a ping could not overtake it");
}

#[tokio::test]
async fn what_comes_while_the_sweeper_looks_is_no_silence_and_no_stall() {
    let gates = gates(64 << 20);
    let Pair { io, client: _client } = pair(&gates, Kind::Plain).await;
    io.begin_session();
    let now = io.heard_at.load(Ordering::Relaxed) + 100 * SECOND;
    // A millisecond after the sweep began.
    io.heard_at.store(now + 1, Ordering::Relaxed);
    io.look(now, SECOND, LOOK);
    assert_eq!(is_closed_with(&io), None);
    io.lock().blocked_at = Some(now + 1);
    io.look(now, SECOND, LOOK);
    assert_eq!(is_closed_with(&io), None);
}

#[tokio::test]
async fn who_is_not_listened_to_is_not_silent() {
    let gates = gates(64 << 20);
    let Pair { io, client: _client } = pair(&gates, Kind::Plain).await;
    io.begin_session();
    fill(&io, &"x".repeat(1 << 20));
    assert!(io.is_full());
    let heard = io.heard_at.load(Ordering::Relaxed);
    for turn in 1..40 {
        let now = heard + turn * LOOK;
        // Something moves, so that it is not stalled.
        io.lock().blocked_at = Some(now);
        io.look(now, SECOND, LOOK);
        assert_eq!(is_closed_with(&io), None);
    }
}

#[tokio::test]
async fn the_sweeper_finds_silence_and_stops_when_told() {
    let gates = Gates::new(1, Duration::from_secs(1), Budget::new(1 << 20));
    let Pair { io, mut client } = pair(&gates, Kind::Plain).await;
    io.begin_session();
    let (stop, shutdown) = shutdown::channel();
    let sweeper = tokio::spawn(gates.clone().sweep(shutdown));
    let mut ping = [0; 2];
    tokio::time::timeout(LIMIT, client.read_exact(&mut ping)).await.unwrap().unwrap();
    assert_eq!(ping, [0x89, 0]);
    // It says something, and is pinged again.
    client.write_all(b"x").await.unwrap();
    io.socket().readable().await.unwrap();
    assert_eq!(io.try_read(&mut [0; 8]).unwrap(), 1);
    tokio::time::timeout(LIMIT, client.read_exact(&mut ping)).await.unwrap().unwrap();
    assert_eq!(ping, [0x89, 0]);
    let closed = async {
        while is_closed_with(&io).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, closed).await.unwrap();
    assert_eq!(is_closed_with(&io), Some(1011));
    stop.fire();
    tokio::time::timeout(LIMIT, sweeper).await.unwrap().unwrap();
}

#[tokio::test]
async fn over_the_budget_those_go_that_hold_the_most_until_enough_is_free() {
    let gates = gates(1 << 20);
    let mut pairs = Vec::new();
    for _ in 0..4 {
        let pair = pair(&gates, Kind::Plain).await;
        pair.io.begin_session();
        // Something small has begun; the rest waits behind it.
        fill(&pair.io, &"x".repeat(1000));
        pairs.push(pair);
    }
    let (_stop, shutdown) = shutdown::channel();
    let sweeper = tokio::spawn(gates.clone().sweep(shutdown));
    for (pair, kib) in pairs.iter().zip([300, 100, 500, 200]) {
        for _ in 0..kib {
            pair.io.send_text(&"x".repeat(1014));
        }
    }
    let shed = async {
        while gates.counters().shed.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, shed).await.unwrap();
    assert!(gates.budget().used() <= 1 << 20);
    // The next look finds that enough is free.
    gates.look(LOOK);
    assert_eq!(gates.counters().shed.load(Ordering::Relaxed), 1);
    let ended = |pair: &Pair| pair.io.has_ended() || is_closed_with(&pair.io) == Some(3008);
    assert_eq!(pairs.iter().map(ended).collect::<Vec<_>>(), [false, false, true, false]);
    sweeper.abort();
}

#[tokio::test]
async fn who_has_begun_with_something_large_frees_it_at_once() {
    let gates = gates(1 << 20);
    let pairs = [pair(&gates, Kind::Plain).await, pair(&gates, Kind::Plain).await];
    for (pair, bytes) in pairs.iter().zip([100_000, 2 << 20]) {
        pair.io.begin_session();
        fill(&pair.io, &"x".repeat(bytes));
    }
    gates.look(LOOK);
    assert!(gates.budget().used() <= 1 << 20);
    assert_eq!(gates.counters().shed.load(Ordering::Relaxed), 1);
    assert!(pairs[1].io.has_ended() && is_closed_with(&pairs[0].io).is_none());
}

#[tokio::test]
async fn times_to_come_back_are_spread_over_the_window() {
    let gates = gates(1 << 20);
    let mut pairs = Vec::new();
    for _ in 0..10 {
        pairs.push(pair(&gates, Kind::Plain).await);
    }
    // Of these, one still speaks HTTP.
    pairs[1..].iter().for_each(|pair| pair.io.begin_session());
    let window = Duration::from_secs(9);
    gates.drain(window);
    gates.drain(Duration::from_secs(1));
    let after = |pair: &Pair| match pair.io.attend(Waker::noop()) {
        Some(Ending::Bye(after)) => Some(after.as_secs()),
        _ => None,
    };
    let mut times: Vec<_> = pairs[1..].iter().filter_map(after).collect();
    times.sort_unstable();
    assert_eq!(times, (1..=9).collect::<Vec<_>>());
    assert_eq!(after(&pairs[0]), None);
    // The one that becomes a session now is told at once.
    pairs[0].io.begin_session();
    assert_eq!(after(&pairs[0]), Some(0));
    assert!(gates.is_draining());
}

#[tokio::test]
async fn a_request_whose_answer_is_not_read_is_cut_off() {
    let gates = gates(1 << 20);
    let Pair { mut io, client: _client } = pair(&gates, Kind::Plain).await;
    let written = async { io.write_all(&vec![0; 4 << 20]).await };
    let looks = async {
        while gates.counters().stalled.load(Ordering::Relaxed) == 0 {
            let open: Vec<_> = gates.lock().iter().map(|(_, gate)| gate.clone()).collect();
            for gate in open {
                // Never pinged: this is not WebSocket.
                gate.look(gates.now() + 10_001, SECOND, LOOK);
            }
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(written, looks) };
    let (written, ()) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert!(written.is_err());
    assert!(io.has_ended());
}

#[tokio::test]
async fn the_system_keeps_little_of_what_a_client_does_not_read() {
    let gates = gates(64 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    let client = client.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let io = GateIo::plain(gates.enter().unwrap(), accepted.unwrap().0);
    let taken = fill(&io, &"x".repeat(8 * 1024)) * 8;
    assert!(taken < 256, "{taken} KiB");
    drop(client);
}

#[tokio::test]
async fn a_place_is_free_again_when_the_connection_is_over() {
    let gates = Gates::new(1, HEARTBEAT, Budget::new(1 << 20));
    let Pair { io, client } = pair(&gates, Kind::Plain).await;
    assert!(gates.enter().is_none());
    assert_eq!(gates.counters().refused.load(Ordering::Relaxed), 1);
    io.begin_session();
    assert_eq!(gates.counters().connected.load(Ordering::Relaxed), 1);
    drop((io, client));
    assert_eq!(gates.counters().connected.load(Ordering::Relaxed), 0);
    assert!(gates.enter().is_some());
    assert!(gates.lock().is_empty());
}
