//! One turn of one server: connect, rest, begin, count.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Crowd;
use crate::load::Load;
use crate::server::Server;
use crate::tally::Tally;

/// After the server listens: by then it has let go of what its start took.
const START: Duration = Duration::from_secs(1);
/// After the last client has connected, before anything is measured: nats-server
/// pings each of them after two seconds.
const SETTLE: Duration = Duration::from_secs(3);
/// Ticks that are not counted: by then buffers have their sizes and code is hot.
const WARM_UP: u32 = 5;

/// What a turn has come to.
pub(crate) struct Figures {
    /// Microseconds of the server's processor time in the window, for each
    /// message that was delivered.
    pub(crate) cpu_us: f64,
    /// Of these, what it takes in a window of that length when it has the same
    /// clients and nothing to send.
    pub(crate) idle_us: f64,
    /// Bytes of a message on its way, headers included.
    pub(crate) bytes: f64,
    /// Milliseconds from a tick's time to a message's arrival.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The same of a tick's last client; the median tick's.
    pub(crate) last_ms: f64,
    /// Bytes of memory for each client that is connected and gets nothing.
    pub(crate) idle_bytes: f64,
    /// The same after the window.
    pub(crate) active_bytes: f64,
    /// Messages that never came.
    pub(crate) missed: u64,
}

/// Measures a server that has just been started.
pub(crate) fn measure(server: &mut Server, load: &Load) -> io::Result<Figures> {
    thread::sleep(START);
    let before = server.process.memory()?;
    let tally = Tally::new(load.messages_per_tick());
    let mut crowd = Crowd::connect(&server.target, load.clients, tally)?;
    crowd.rest(SETTLE)?;
    let idle_memory = server.process.memory()?;

    let (cpu, from) = (server.process.cpu()?, Instant::now());
    crowd.rest(load.window())?;
    let idle = server.process.cpu()?.since(&cpu) as f64 / from.elapsed().as_secs_f64();

    server.begin(&mut crowd, load)?;
    crowd.rounds(WARM_UP, limit(load, WARM_UP))?;
    crowd.tally.forget();
    // Between two ticks: the last client has just had the one before.
    let (cpu, from) = (server.process.cpu()?, Instant::now());
    crowd.rounds(load.ticks, limit(load, load.ticks))?;
    let (active, took) = (server.process.cpu()?.since(&cpu) as f64, from.elapsed());
    let active_memory = server.process.memory()?;

    let seen = &mut crowd.tally.seen;
    let messages = seen.messages as f64;
    seen.last.sort_unstable();
    let ms = |us: u64| us as f64 / 1e3;
    let each = |bytes: u64| (bytes as f64 - before as f64) / load.clients as f64;
    Ok(Figures {
        cpu_us: active / messages / 1e3,
        idle_us: idle * took.as_secs_f64() / messages / 1e3,
        bytes: seen.bytes as f64 / messages,
        p50_ms: ms(seen.latency.value_at_quantile(0.5)),
        p99_ms: ms(seen.latency.value_at_quantile(0.99)),
        last_ms: ms(seen.last[seen.last.len() / 2]),
        idle_bytes: each(idle_memory),
        active_bytes: each(active_memory),
        missed: seen.missed,
    })
}

/// About how many ticks a hub has taken by the middle of the window.
pub(crate) fn ticks_before(load: &Load) -> u128 {
    let rested = (START + SETTLE).as_millis() / load.interval.as_millis();
    rested + u128::from(load.ticks + WARM_UP + load.ticks / 2)
}

/// How long so many ticks may take; a slow server has several times as long as
/// it is meant to take.
fn limit(load: &Load, ticks: u32) -> Duration {
    Duration::from_secs(60) + load.interval * ticks * 5
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu_us, idle_us, bytes, p50_ms, p99_ms, last_ms, .. } = self;
        write!(f, "{cpu_us:7.2} us/message, {idle_us:.2} of them idle; {bytes:.0} bytes; ")?;
        write!(f, "p50 {p50_ms:.1}, p99 {p99_ms:.1}, last {last_ms:.1} ms; ")?;
        write!(f, "{:.0}, {:.0} B/client", self.idle_bytes, self.active_bytes)?;
        if self.missed > 0 {
            write!(f, "; {} messages never came", self.missed)?;
        }
        Ok(())
    }
}
