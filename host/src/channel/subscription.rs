//! A distinct subscription: one way of writing, and all who have it.

use std::sync::Arc;

use super::{Feed, Lane, SubId};
use crate::gate::{Budget, Piece};

/// A distinct subscription.
pub(super) struct Subscription {
    pub(super) id: SubId,
    pub(super) key: String,
    pub(super) lane: Lane,
    /// The last entry that it was entitled to.
    pub(super) last_offset: u64,
    /// The same before what is due.
    pub(super) last_before: u64,
    /// Who has it, by their keys in the registry.
    pub(super) members: Vec<usize>,
    /// What this round has for all of them: a push, or entries with their
    /// offsets. Empty between rounds.
    pub(super) due: Vec<(u64, Piece)>,
    /// What stands since the last snapshot, for those who have skipped some.
    pub(super) full: Option<Full>,
}

/// All that is known, around the number of pushes that a client has skipped.
pub(super) struct Full {
    before: String,
    after: Piece,
}

impl Full {
    /// The message for a client that has skipped so many.
    pub(super) fn pieces(&self, skipped: u32, budget: &Arc<Budget>) -> [Piece; 2] {
        let beginning = format!("{}{skipped}", self.before);
        [Piece::beginning(&beginning, &self.after, budget), self.after.clone()]
    }
}

impl Subscription {
    pub(super) fn new(id: SubId, key: String, lane: Lane, last_offset: u64) -> Self {
        Self {
            id,
            key,
            lane,
            last_offset,
            last_before: last_offset,
            members: Vec::new(),
            due: Vec::new(),
            full: None,
        }
    }

    /// The last entry that its clients got who have missed nothing but what is
    /// due.
    pub(super) fn told_before_round(&self) -> u64 {
        if self.due.is_empty() { self.last_offset } else { self.last_before }
    }

    /// Whether a client that has skipped pushes is told what stands as soon as
    /// it has room: one that wants fewer pushes waits for the next.
    pub(super) fn is_told_at_once(&self) -> bool {
        matches!(&self.lane, Lane::State(encoder) if encoder.every() == 1)
    }

    /// All that is known, built at most once for each snapshot; `None` where
    /// every push says all by itself.
    pub(super) fn full(&mut self, feed: &mut Feed, budget: &Arc<Budget>) -> Option<&Full> {
        if self.full.is_none() {
            let Lane::State(encoder) = &mut self.lane else { return None };
            let (mut before, mut after) = (String::new(), String::new());
            if !encoder.full(feed, self.id, &mut before, &mut after) {
                return None;
            }
            self.full = Some(Full { before, after: Piece::shared_end(&after, budget) });
        }
        self.full.as_ref()
    }
}
