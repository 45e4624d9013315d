//! A distinct subscription: one way of writing, and all who have it.

use std::sync::Arc;

use super::{Feed, Lane, SubId};
use crate::gate::{Budget, Piece};
use crate::model::{LogChannel, Logged, Room, Topic};

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
    /// What this round has for all of them: a push, or entries. Empty between
    /// rounds.
    pub(super) due: Vec<Due>,
    /// What stands since the last snapshot, for those who have skipped some.
    pub(super) full: Option<Full>,
}

/// What is due to all who have a subscription.
#[derive(Clone)]
pub(super) struct Due {
    pub(super) piece: Piece,
    /// The entry that it tells of, and the one before; a push of state has none.
    pub(super) entry: Option<(Arc<Logged>, u64)>,
}

impl Due {
    /// The entry's offset; 0 of a push of state.
    pub(super) fn offset(&self) -> u64 {
        self.entry.as_ref().map_or(0, |(logged, _)| logged.offset)
    }

    /// Whether it is an event: these a client gets once, whichever of its rooms
    /// they go to.
    pub(super) fn is_event(&self) -> bool {
        self.entry.as_ref().is_some_and(|(logged, _)| is_event(logged))
    }
}

pub(super) fn is_event(logged: &Logged) -> bool {
    logged.entry.channel == LogChannel::Events
}

/// All that is known, around the number of pushes that a client has skipped, if
/// that is told.
pub(super) struct Full {
    before: Option<String>,
    after: Piece,
}

impl Full {
    /// The message for a client that has skipped so many.
    pub(super) fn pieces(
        &self,
        skipped: u32,
        budget: &Arc<Budget>,
    ) -> impl Iterator<Item = Piece> + use<> {
        let beginning = self
            .before
            .as_ref()
            .map(|before| Piece::beginning(&format!("{before}{skipped}"), &self.after, budget));
        beginning.into_iter().chain([self.after.clone()])
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

    /// The room whose events it tells, if it does.
    pub(super) fn room(&self) -> Option<&Room> {
        match &self.lane {
            Lane::Log(encoder) => match encoder.topic() {
                Topic::Room(room) => Some(room),
                Topic::Channel(_) => None,
            },
            Lane::State(_) => None,
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
            self.full = Some(match before.is_empty() {
                true => Full { before: None, after: Piece::text(&after, budget) },
                false => Full { before: Some(before), after: Piece::shared_end(&after, budget) },
            });
        }
        self.full.as_ref()
    }
}
