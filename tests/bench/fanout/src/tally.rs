//! What has come to all clients together, by the time that the messages carry.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use jiff::Timestamp;

/// Ticks of which something is still to come, at most: a server has hardly more
/// than two under way.
const OPEN_MAX: usize = 16;
/// How far into a message its head is looked for what it is and its time; a
/// Socket.IO packet has its event's name before it.
const HEAD_BYTES: usize = 160;

/// What has come.
pub(crate) struct Tally {
    /// Messages of a tick that is complete.
    complete_at: usize,
    open: VecDeque<Round>,
    /// The time that was read last, as text and in microseconds.
    last_time: (Vec<u8>, i64),
    pub(crate) seen: Seen,
}

/// What has come since it was last forgotten.
pub(crate) struct Seen {
    pub(crate) messages: u64,
    /// Bytes of these messages, headers included.
    pub(crate) bytes: u64,
    /// Ticks of which every client has had everything.
    pub(crate) rounds: u32,
    /// Messages that never came, of ticks that are over.
    pub(crate) missed: u64,
    /// Microseconds from a tick's time to a message's arrival.
    pub(crate) latency: Histogram<u32>,
    /// The same of the last client, one for each complete tick.
    pub(crate) last: Vec<u64>,
}

/// A tick of which something is still to come.
struct Round {
    time: i64,
    messages: usize,
    last: u64,
}

impl Tally {
    /// For ticks of so many messages.
    pub(crate) fn new(complete_at: usize) -> Self {
        let last_time = (Vec::new(), 0);
        Self { complete_at, open: VecDeque::new(), last_time, seen: Seen::new() }
    }

    /// Begins to count anew. What is under way is counted with what follows.
    pub(crate) fn forget(&mut self) {
        self.seen = Seen::new();
    }

    /// Counts a message if it is an update.
    pub(crate) fn message(&mut self, payload: &[u8], bytes: usize) {
        let Some(time) = self.time(payload) else { return };
        let now = Timestamp::now().as_microsecond();
        let latency = u64::try_from(now - time).unwrap_or_default();
        self.seen.messages += 1;
        self.seen.bytes += bytes as u64;
        self.seen.latency.saturating_record(latency);
        let at = self.open.iter().rposition(|round| round.time == time).unwrap_or_else(|| {
            self.open.push_back(Round { time, messages: 0, last: 0 });
            self.open.len() - 1
        });
        let round = &mut self.open[at];
        round.messages += 1;
        round.last = round.last.max(latency);
        if round.messages == self.complete_at {
            self.seen.last.push(round.last);
            self.seen.rounds += 1;
            // Each client gets its messages in order: what is missing of the
            // ticks before comes no more.
            self.give_up(at);
            self.open.pop_front();
        } else if self.open.len() > OPEN_MAX {
            self.give_up(1);
        }
    }

    fn give_up(&mut self, rounds: usize) {
        let missing = self.open.drain(..rounds).map(|round| self.complete_at - round.messages);
        self.seen.missed += missing.sum::<usize>() as u64;
    }

    /// The time of an update, in microseconds since the epoch.
    fn time(&mut self, payload: &[u8]) -> Option<i64> {
        let head = &payload[..payload.len().min(HEAD_BYTES)];
        find(head, br#""push":"metrics""#)?;
        let from = find(head, br#""time":""#)?;
        let length = head[from..].iter().position(|byte| *byte == b'"')?;
        let text = &head[from..from + length];
        if text != self.last_time.0 {
            self.last_time = (text.to_vec(), microseconds(text)?);
        }
        Some(self.last_time.1)
    }
}

impl Seen {
    fn new() -> Self {
        // A minute, at three digits; it can't be refused.
        #[expect(clippy::expect_used, reason = "the bounds are constant")]
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are right");
        Self { messages: 0, bytes: 0, rounds: 0, missed: 0, latency, last: Vec::new() }
    }
}

/// Where in `text` what follows `what` begins.
fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what).map(|at| at + what.len())
}

/// A time as the hub writes it, or as the other servers do.
fn microseconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let stamp = || text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    text.parse().ok().or_else(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_time_are_read() {
        assert_eq!(microseconds(b"1770724801250123"), Some(1_770_724_801_250_123));
        assert_eq!(microseconds(b"2026-02-10T12:00:01.250123Z"), Some(1_770_724_801_250_123));
        assert_eq!(microseconds(b"2026-02-10T12:00:01.250Z"), Some(1_770_724_801_250_000));
        assert_eq!(microseconds(b"soon"), None);
    }

    #[test]
    fn a_tick_is_complete_when_all_of_it_has_come() {
        let mut tally = Tally::new(2);
        let update = |time: u64| format!(r#"42["m",{{"push":"metrics","sub":1,"time":"{time}"}}]"#);
        tally.message(br#"{"id":1,"ok":{"time":"1"}}"#, 1);
        tally.message(update(10).as_bytes(), 50);
        tally.message(update(20).as_bytes(), 50);
        assert_eq!((tally.seen.messages, tally.seen.rounds), (2, 0));
        tally.message(update(10).as_bytes(), 50);
        assert_eq!((tally.seen.messages, tally.seen.rounds, tally.seen.last.len()), (3, 1, 1));
        tally.message(update(30).as_bytes(), 50);
        tally.message(update(30).as_bytes(), 50);
        assert_eq!((tally.seen.rounds, tally.seen.missed), (2, 1));
        for tick in 0..20 {
            tally.message(update(40 + tick).as_bytes(), 50);
        }
        assert_eq!((tally.seen.rounds, tally.seen.missed), (2, 1 + 20 - OPEN_MAX as u64));
    }
}
