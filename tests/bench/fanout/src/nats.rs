//! NATS: what its server says to a subscriber, and one that publishes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::load::Plan;

/// What a subscriber says, once the server has told who it is.
pub(crate) const SUBSCRIBE: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB updates 1\r\nPING\r\n";
const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Message(&'a [u8]),
    /// Anything else.
    Line(&'a [u8]),
}

/// What `bytes` begin with, and how long it is, once it is whole.
pub(crate) fn first(bytes: &[u8]) -> Option<(Part<'_>, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let (line, from) = (&bytes[..end], end + 2);
    if !line.starts_with(b"MSG ") {
        return Some((Part::Line(line), from));
    }
    let size = line.rsplit(|byte| *byte == b' ').next()?;
    let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
    let length = from + size + 2;
    (bytes.len() >= length).then(|| (Part::Message(&bytes[from..from + size]), length))
}

/// Publishes the updates of each tick, over plain TCP, until it is dropped.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub(crate) fn start(address: SocketAddr, plan: Plan) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        BufReader::new(&stream).read_line(&mut String::new())?;
        stream.write_all(CONNECT)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // What goes wrong shows: nothing comes to the clients.
        let thread = thread::spawn(move || drop(publish(&mut stream, &plan, &stopped)));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It doesn't panic, and nothing follows from it if it does.
            let _ = thread.join();
        }
    }
}

fn publish(stream: &mut TcpStream, plan: &Plan, stop: &AtomicBool) -> io::Result<()> {
    let start = Instant::now();
    let interval = Duration::from_millis(plan.interval_ms);
    for tick in 1.. {
        thread::sleep((interval * tick).saturating_sub(start.elapsed()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let time = Timestamp::now().as_microsecond().to_string();
        let mut said = String::new();
        for update in &plan.updates {
            let text = update.replace('@', &time);
            said += &format!("PUB updates {}\r\n{text}\r\n", text.len());
        }
        stream.write_all(said.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_lines_are_told_apart() {
        let said = b"PING\r\nMSG updates 1 5\r\nab\r\nc\r\n+OK\r\n";
        assert_eq!(first(said), Some((Part::Line(b"PING"), 6)));
        assert_eq!(first(&said[6..]), Some((Part::Message(b"ab\r\nc"), 24)));
        assert_eq!(first(&said[6..29]), None);
        assert_eq!(first(&said[30..]), Some((Part::Line(b"+OK"), 5)));
        assert_eq!(first(b"PIN"), None);
    }
}
