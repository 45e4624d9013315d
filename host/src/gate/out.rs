//! What is on its way out of one gate.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use super::Ending;
use super::frame::Piece;
use super::way::Way;

/// A queue that has been longer than this gives its memory back.
const QUEUE_KEPT: usize = 8;

/// What is on its way out. Whoever holds the lock on it may write to the
/// stream, and nobody else.
#[derive(Default)]
pub(super) struct Out {
    /// What the socket had no room for, oldest first.
    queue: VecDeque<Piece>,
    /// The first piece goes on with a message that has begun to go out.
    mid_message: bool,
    /// The pieces' bytes.
    pub(super) bytes: usize,
    /// Since when nothing has moved though something waits.
    pub(super) blocked_at: Option<u32>,
    /// Somebody wants to be told when nothing waits any more.
    pub(super) wants_room: bool,
    /// What the session is to do.
    pub(super) ending: Option<Ending>,
    /// A close frame was the last.
    pub(super) is_closed: bool,
    /// Nothing goes out any more.
    pub(super) dead: bool,
    /// The session's, for when there is something to do.
    pub(super) waker: Option<Waker>,
}

/// What has become of what was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it.
    All,
    /// The rest waits.
    Rest,
    /// The connection is broken.
    Broken,
}

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Writes pieces at once, and keeps what there is no room for. Nothing must
    /// be waiting.
    pub(super) fn write(&mut self, way: &Way, pieces: &[Piece], now: impl Fn() -> u32) -> Written {
        let mut left = pieces;
        let Ok(mut written) = way.write_first(left) else { return self.broken() };
        while let Some(first) = left.first() {
            if written < first.len() {
                break;
            }
            written -= first.len();
            left = &left[1..];
        }
        if left.is_empty() {
            // TLS may have taken it without having got rid of it.
            return self.flush(way, now);
        }
        self.queue.extend(left.iter().cloned());
        self.bytes = left.iter().map(Piece::len).sum();
        // The first piece may be the second part of a message.
        let before = pieces.len() - left.len();
        self.mid_message = before > 0 && !pieces[before - 1].ends;
        self.advance(written);
        self.blocked_at = Some(now());
        self.flush(way, now)
    }

    /// Writes what waits, as far as there is room.
    pub(super) fn flush(&mut self, way: &Way, now: impl Fn() -> u32) -> Written {
        while !self.queue.is_empty() {
            match way.write_first(self.queue.make_contiguous()) {
                Ok(0) => return self.wait(way, now),
                Ok(written) => {
                    self.blocked_at = Some(now());
                    self.advance(written);
                }
                Err(_) => return self.broken(),
            }
        }
        match way.try_flush() {
            Ok(()) => {
                self.blocked_at = None;
                Written::All
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(way, now),
            Err(_) => self.broken(),
        }
    }

    /// There is no room just now.
    pub(super) fn wait(&mut self, way: &Way, now: impl Fn() -> u32) -> Written {
        if way.has_moved() || self.blocked_at.is_none() {
            self.blocked_at = Some(now());
        }
        Written::Rest
    }

    fn broken(&mut self) -> Written {
        self.clear();
        self.dead = true;
        Written::Broken
    }

    /// Puts a message at the end of the queue.
    pub(super) fn append(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        for piece in pieces {
            self.bytes += piece.len();
            self.queue.push_back(piece);
        }
    }

    /// Puts a ping or a pong before all messages that have not begun to go out
    /// (RFC 6455, 5.4 and 5.5). One of its kind that still waits is replaced:
    /// only the last ping needs an answer (RFC 6455, 5.5.3).
    pub(super) fn cut_in(&mut self, control: Piece) {
        let at = self.boundary();
        self.bytes += control.len();
        // One of each may stand there.
        let mut controls = self.queue.iter_mut().skip(at).take(2);
        match controls.find(|piece| piece.bytes.first() == control.bytes.first()) {
            Some(waiting) => {
                self.bytes -= waiting.len();
                *waiting = control;
            }
            None => self.queue.insert(at, control),
        }
    }

    /// Drops the messages that have not begun to go out.
    pub(super) fn drop_unsent(&mut self) {
        let kept = self.boundary();
        self.queue.truncate(kept);
        self.bytes = self.queue.iter().map(Piece::len).sum();
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        (self.bytes, self.mid_message) = (0, false);
        self.blocked_at = None;
    }

    /// Where the first message begins that has not begun to go out.
    fn boundary(&self) -> usize {
        if !self.mid_message {
            return 0;
        }
        self.queue.iter().position(|piece| piece.ends).map_or(self.queue.len(), |end| end + 1)
    }

    /// Takes out what has been written.
    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0
            && let Some(first) = self.queue.front_mut()
        {
            if written < first.len() {
                let _ = first.bytes.split_to(written);
                self.mid_message = true;
                break;
            }
            written -= first.len();
            self.mid_message = !first.ends;
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
    }
}
