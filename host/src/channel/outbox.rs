//! What is on its way to one client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper_tungstenite::tungstenite::Utf8Bytes;
use tokio::sync::Notify;

use super::{SubId, joined};

/// Replies that may wait: a client that sends commands without reading what
/// they bring is closed.
const REPLIES_MAX: usize = 256;
/// … or whose replies have more bytes than this together. One alone may have
/// more: all that a large hub knows.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Log entries that may wait …
const ENTRIES_MAX: usize = 1024;
/// … and their bytes together.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// What is on its way to one client: replies, the newest frame of each state
/// subscription, and a bounded queue of log entries. The channels put in, the
/// session takes out.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    replies: VecDeque<Utf8Bytes>,
    reply_bytes: usize,
    entries: VecDeque<(SubId, Utf8Bytes)>,
    entry_bytes: usize,
    state: BTreeMap<SubId, Slot>,
    close: Option<CloseReason>,
}

/// The newest frame of one state subscription.
#[derive(Debug)]
pub enum Slot {
    /// What the client is to be sent.
    Frame(Utf8Bytes),
    /// The client has skipped frames: all that is known, around their number.
    Full {
        /// What stands before the number.
        head: Utf8Bytes,
        /// How many frames it has skipped.
        skipped: u64,
        /// What stands after it.
        tail: Utf8Bytes,
    },
}

/// Why the hub closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The WebSocket close code. 3000 to 3499 and 1001: come back.
    pub code: u16,
    /// In words.
    pub words: &'static str,
}

impl CloseReason {
    /// The client doesn't read what it asked for.
    pub const TOO_SLOW: Self =
        Self { code: 3008, words: "too slow: what was to be sent found no more room" };
}

/// What was taken out, in the order in which it is to be sent.
#[derive(Debug, Default)]
pub struct Drained {
    /// Texts.
    pub messages: Vec<Utf8Bytes>,
    /// To be closed after they are sent.
    pub close: Option<CloseReason>,
}

impl Outbox {
    /// Puts in a reply to a command.
    pub fn reply(&self, reply: Utf8Bytes) {
        let mut inner = self.lock();
        let bytes = inner.reply_bytes + reply.len();
        let fits = inner.replies.len() < REPLIES_MAX && bytes <= REPLY_BYTES_MAX;
        if fits || inner.replies.is_empty() {
            inner.reply_bytes = bytes;
            inner.replies.push_back(reply);
        } else {
            inner.close = Some(CloseReason::TOO_SLOW);
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// Whether the last frame of `sub` has not been taken out yet.
    #[must_use]
    pub fn is_behind(&self, sub: SubId) -> bool {
        self.lock().state.contains_key(&sub)
    }

    /// Puts in the newest frame of a state subscription. Where an earlier one
    /// still waits, `full` takes its place, or the frame if it says all by
    /// itself.
    pub fn offer(&self, sub: SubId, frame: Utf8Bytes, full: Option<(Utf8Bytes, Utf8Bytes)>) {
        let mut inner = self.lock();
        let before = inner.state.get(&sub);
        let slot = match (before, full) {
            (None, _) | (_, None) => Slot::Frame(frame),
            (Some(Slot::Frame(_)), Some((head, tail))) => Slot::Full { head, skipped: 1, tail },
            (Some(Slot::Full { skipped, .. }), Some((head, tail))) => {
                Slot::Full { head, skipped: skipped + 1, tail }
            }
        };
        inner.state.insert(sub, slot);
        drop(inner);
        self.filled.notify_one();
    }

    /// Puts in a log entry. False if there was no room: the client is closed,
    /// since it could not be told what it has missed.
    pub fn enqueue(&self, sub: SubId, entry: Utf8Bytes) -> bool {
        let mut inner = self.lock();
        let fits =
            inner.entries.len() < ENTRIES_MAX && inner.entry_bytes + entry.len() <= ENTRY_BYTES_MAX;
        if fits {
            inner.entry_bytes += entry.len();
            inner.entries.push_back((sub, entry));
        } else {
            inner.close = Some(CloseReason::TOO_SLOW);
        }
        drop(inner);
        self.filled.notify_one();
        fits
    }

    /// Drops what waits of a subscription that has ended.
    pub fn forget(&self, sub: SubId) {
        let mut inner = self.lock();
        inner.state.remove(&sub);
        inner.entries.retain(|(of, _)| *of != sub);
        inner.entry_bytes = inner.entries.iter().map(|(_, entry)| entry.len()).sum();
    }

    /// Takes out all that waits; waits until there is something. Cancel-safe.
    pub async fn drain(&self) -> Drained {
        loop {
            let filled = self.filled.notified();
            let drained = self.take();
            if !drained.messages.is_empty() || drained.close.is_some() {
                return drained;
            }
            filled.await;
        }
    }

    fn take(&self) -> Drained {
        let mut inner = self.lock();
        let mut messages: Vec<Utf8Bytes> = inner.replies.drain(..).collect();
        messages.extend(inner.entries.drain(..).map(|(_, entry)| entry));
        (inner.reply_bytes, inner.entry_bytes) = (0, 0);
        let state = std::mem::take(&mut inner.state);
        messages.extend(state.into_values().map(|slot| match slot {
            Slot::Frame(frame) => frame,
            Slot::Full { head, skipped, tail } => joined(&head, skipped, &tail),
        }));
        Drained { messages, close: inner.close.take() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(outbox: &Outbox) -> Vec<String> {
        outbox.take().messages.iter().map(|message| message.to_string()).collect()
    }

    #[test]
    fn a_slow_client_gets_the_newest_frame_and_the_number_of_skipped_ones() {
        let outbox = Outbox::default();
        let full = |tick: u32| Some(("full skipped ".into(), format!(" tick {tick}").into()));
        outbox.offer(SubId(1), "tick 1".into(), None);
        assert!(outbox.is_behind(SubId(1)));
        outbox.offer(SubId(1), "tick 2".into(), full(2));
        outbox.offer(SubId(1), "tick 3".into(), full(3));
        assert_eq!(texts(&outbox), ["full skipped 2 tick 3"]);
        assert!(!outbox.is_behind(SubId(1)));
        outbox.offer(SubId(1), "tick 4".into(), None);
        assert_eq!(texts(&outbox), ["tick 4"]);
    }

    #[test]
    fn a_frame_that_says_all_takes_the_place_of_the_one_before() {
        let outbox = Outbox::default();
        outbox.offer(SubId(1), "tick 1".into(), None);
        outbox.offer(SubId(1), "tick 2".into(), None);
        assert_eq!(texts(&outbox), ["tick 2"]);
    }

    #[test]
    fn replies_go_first_then_entries_then_state() {
        let outbox = Outbox::default();
        outbox.offer(SubId(1), "state".into(), None);
        assert!(outbox.enqueue(SubId(3), "entry".into()));
        outbox.reply("reply".into());
        outbox.offer(SubId(2), "ended".into(), None);
        assert!(outbox.enqueue(SubId(2), "of what has ended".into()));
        outbox.forget(SubId(2));
        assert_eq!(texts(&outbox), ["reply", "entry", "state"]);
    }

    #[test]
    fn entries_at_the_limit_fit_and_one_beyond_closes() {
        let outbox = Outbox::default();
        for _ in 0..ENTRIES_MAX {
            assert!(outbox.enqueue(SubId(1), "x".into()));
        }
        assert!(!outbox.enqueue(SubId(1), "x".into()));
        assert_eq!(outbox.take().close, Some(CloseReason::TOO_SLOW));
        assert!(outbox.enqueue(SubId(1), "x".repeat(ENTRY_BYTES_MAX).into()));
        assert!(!outbox.enqueue(SubId(1), "x".into()));
    }

    #[test]
    fn replies_that_nobody_reads_close_the_client() {
        let outbox = Outbox::default();
        outbox.reply("x".repeat(REPLY_BYTES_MAX + 1).into());
        assert_eq!(outbox.take().close, None, "one alone may be large");
        outbox.reply("x".repeat(REPLY_BYTES_MAX).into());
        outbox.reply("x".into());
        assert_eq!(outbox.take().close, Some(CloseReason::TOO_SLOW));
    }
}
