//! The newest entries of the log, at hand: who is a little behind, or was away
//! for a moment, gets what it has missed from here, and not from the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::Logged;

/// Entries that are kept at hand …
pub const RECENT_ENTRIES_MAX: usize = 4096;
/// … and the bytes of their bodies.
pub const RECENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The newest entries, in the order of their offsets.
#[derive(Debug)]
pub(super) struct Recent {
    entries: VecDeque<Arc<Logged>>,
    bytes: usize,
    /// Every entry after this offset is here.
    floor: u64,
    bounds: RecentBounds,
}

/// How much is kept at hand.
#[derive(Clone, Copy, Debug)]
pub struct RecentBounds {
    /// Entries.
    pub entries: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

impl Default for RecentBounds {
    fn default() -> Self {
        Self { entries: RECENT_ENTRIES_MAX, bytes: RECENT_BYTES_MAX }
    }
}

impl Recent {
    /// Nothing is at hand of what came up to `floor`.
    pub(super) fn new(floor: u64, bounds: RecentBounds) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, floor, bounds }
    }

    pub(super) fn push(&mut self, logged: Arc<Logged>) {
        self.bytes += logged.entry.body.get().len();
        self.entries.push_back(logged);
        while self.entries.len() > self.bounds.entries || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.entry.body.get().len();
            self.floor = oldest.offset;
        }
    }

    /// The first entries after an offset, at most `limit`; `None` if some of
    /// them are not at hand.
    pub(super) fn after(&self, offset: u64, limit: usize) -> Option<Vec<Arc<Logged>>> {
        if offset < self.floor {
            return None;
        }
        let first = self.entries.partition_point(|logged| logged.offset <= offset);
        Some(self.entries.range(first..).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Entry, LogChannel};

    fn logged(offset: u64, length: usize) -> Arc<Logged> {
        let body = "x".repeat(length);
        let entry = Entry::new(LogChannel::Hub, 0, &body).unwrap();
        Arc::new(Logged::new(offset, entry))
    }

    fn offsets(recent: &Recent, after: u64) -> Option<Vec<u64>> {
        Some(recent.after(after, usize::MAX)?.iter().map(|logged| logged.offset).collect())
    }

    #[test]
    fn all_after_the_floor_is_at_hand_and_nothing_before() {
        let mut recent = Recent::new(7, RecentBounds::default());
        assert_eq!(offsets(&recent, 6), None);
        assert_eq!(offsets(&recent, 7), Some(vec![]));
        for offset in [8, 10, 11] {
            recent.push(logged(offset, 1));
        }
        assert_eq!(offsets(&recent, 7), Some(vec![8, 10, 11]));
        assert_eq!(offsets(&recent, 9), Some(vec![10, 11]));
        assert_eq!(offsets(&recent, 99), Some(vec![]));
        assert_eq!(recent.after(7, 1).unwrap().len(), 1);
        recent.push(logged(12, RECENT_BYTES_MAX - 10));
        assert_eq!(offsets(&recent, 7), None, "bytes are bounded");
        assert_eq!(offsets(&recent, 11), Some(vec![12]));
        for offset in 13..13 + RECENT_ENTRIES_MAX as u64 {
            recent.push(logged(offset, 1));
        }
        assert_eq!(offsets(&recent, 11), None, "and so are entries");
    }
}
