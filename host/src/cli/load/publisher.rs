//! Those who publish: each an own connection of the native dialect, and every
//! so many-th event its own. They publish what is due, whatever has become of
//! what was published before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::client::{JOIN_MAX, Shared};
use super::dialect::{Dialect, publish, published};
use super::scanner::{CLOSED_WITHOUT_FRAME, Heard, Scanner};
use super::wire::{PONG, PROTOCOL_ERROR, TEXT, put_frame};

/// How often it is looked what is due: what tokio's clock tells apart.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Bytes of commands that may wait in front of a hub that reads none; what is
/// due beyond that is left out, and so has no answer.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is read of the answers at once.
const READ_BYTES: usize = 16 * 1024;

/// One who publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    rooms: u64,
    data_bytes: usize,
    stream: TcpStream,
    scanner: Scanner,
    out: Vec<u8>,
    /// The next event that it publishes, and how many others there are between
    /// two of its own.
    next: u64,
    step: u64,
    /// Events that have not been answered.
    under_way: u64,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    ///
    /// In words: the hub doesn't want it.
    pub(super) async fn join(
        shared: Arc<Shared>,
        (place, of): (u64, u64),
        (rooms, data_bytes): (u64, usize),
    ) -> Result<Self, String> {
        let open = shared.door.open(Dialect::Rooms.path(), None);
        let (stream, first) = timeout(JOIN_MAX, open)
            .await
            .map_err(|_| format!("no answer in {} s", JOIN_MAX.as_secs()))??;
        let (scanner, out) = (Scanner::default(), Vec::new());
        let (next, step, under_way) = (place, of, 0);
        let mut publisher =
            Self { shared, rooms, data_bytes, stream, scanner, out, next, step, under_way };
        let _ = publisher.take(&first);
        Ok(publisher)
    }

    /// Publishes what is due until no more is, and all has been answered.
    pub(super) async fn publish(mut self) {
        if let Err(code) = self.serve().await {
            self.shared.tally().counts.lost(format!("closed with {code}"));
        }
    }

    async fn serve(&mut self) -> Result<(), u16> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let is_over = self.put_what_is_due();
            if is_over && self.under_way == 0 {
                return Ok(());
            }
            let interest = match self.out.is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = tokio::select! {
                ready = self.stream.ready(interest) => ready.map_err(|_| CLOSED_WITHOUT_FRAME)?,
                () = sleep(LOOK_EVERY) => continue,
            };
            if ready.is_writable() && !self.out.is_empty() {
                let sent = would_block(self.stream.try_write(&self.out))?.unwrap_or(0);
                self.out.drain(..sent);
            }
            if ready.is_readable() {
                match would_block(self.stream.try_read(&mut buffer))? {
                    Some(0) => return Err(CLOSED_WITHOUT_FRAME),
                    Some(read) => self.take(&buffer[..read])?,
                    None => {}
                }
            }
        }
    }

    /// Whether no more will be due.
    fn put_what_is_due(&mut self) -> bool {
        let shared = self.shared.clone();
        let tally = shared.tally();
        let Some(events) = &tally.counts.events else { return true };
        let due = events.due();
        while self.next < due {
            if self.out.len() < UNSENT_BYTES_MAX {
                let command = publish(events.event(self.next), self.rooms, self.data_bytes);
                put_frame(&mut self.out, TEXT, command.as_bytes());
                self.under_way += 1;
            }
            self.next += self.step;
        }
        events.is_over()
    }

    /// Looks at answers that have come in; an error is the close code.
    fn take(&mut self, bytes: &[u8]) -> Result<(), u16> {
        let now_ns = self.shared.clock.now_ns();
        let shared = self.shared.clone();
        let mut tally = shared.tally();
        let (mut ping, mut close) = (None, None);
        let under_way = &mut self.under_way;
        let scanned = self.scanner.feed(bytes, &mut |heard| match heard {
            Heard::Message { head, .. } => {
                if let Some((number, refused)) = published(head) {
                    *under_way = under_way.saturating_sub(1);
                    tally.counts.answered(number, refused, now_ns);
                }
            }
            Heard::Ping(payload) => ping = Some(payload.to_vec()),
            Heard::Close(code) => close = Some(code),
        });
        if let Some(payload) = ping {
            put_frame(&mut self.out, PONG, &payload);
        }
        match (scanned, close) {
            (_, Some(code)) => Err(code),
            (Err(_), None) => Err(PROTOCOL_ERROR),
            (Ok(()), None) => Ok(()),
        }
    }
}

/// What was done, if anything could be.
fn would_block(done: io::Result<usize>) -> Result<Option<usize>, u16> {
    match done {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(CLOSED_WITHOUT_FRAME),
    }
}
