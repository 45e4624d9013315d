//! The two lanes: what a dialect has to be able to write of each.

use super::{Feed, SubId};
use crate::model::{Logged, PluginName, Room, Topic};

/// One of the two lanes, with a dialect's way of writing.
pub enum Lane {
    /// Latest wins.
    State(Box<dyn StateEncoder>),
    /// Ordered, numbered, kept.
    Log(Box<dyn LogEncoder>),
}

/// How a subscription to a state channel is written, in some dialect. One for
/// each distinct subscription: all who have it get the same bytes.
pub trait StateEncoder: Send {
    /// How many ticks lie between two pushes, at least one.
    fn every(&self) -> u64 {
        1
    }
    /// Looks at a snapshot. Called once for each, in order, before
    /// [`StateEncoder::push`] where that is due too.
    fn observe(&mut self, _feed: &Feed) {}
    /// What the clients are told: what has changed since the last push. False
    /// if there is nothing to say. Called when due, in order.
    fn push(&mut self, feed: &mut Feed, sub: SubId, text: &mut String) -> bool;
    /// What a client is told when it subscribes, or asks for a snapshot: a JSON
    /// value. Changes nothing of what the next push says.
    fn state(&mut self, feed: &mut Feed, sub: SubId, text: &mut String);
    /// All that is known, for a client that has skipped pushes: what goes
    /// before, and after, the number of those; with nothing before it the number
    /// is not told either. False where every push says all by itself, and comes
    /// often, so that the push will do. Changes nothing of what the next push
    /// says.
    fn full(
        &mut self,
        feed: &mut Feed,
        sub: SubId,
        before: &mut String,
        after: &mut String,
    ) -> bool;
    /// The room that it tells of, if it tells of one.
    fn room(&self) -> Option<&Room> {
        None
    }
    /// Whose measurements are shown: names each such plugin.
    fn watches(&self, feed: &Feed, plugin: &mut dyn FnMut(&PluginName));
}

/// How a subscription to a log channel is written, in some dialect.
pub trait LogEncoder: Send {
    /// What it is of.
    fn topic(&self) -> &Topic;
    /// Whether an entry of that topic is wanted.
    fn wants(&self, entry: &Logged) -> bool;
    /// What a client is told that starts afresh: what stands now, and the
    /// offset of the last entry. A JSON value.
    fn fresh(&self, feed: &Feed, sub: SubId, text: &mut String);
    /// What a client is told that goes on where it stopped: all that it has
    /// missed, in order, each with the offset of the entry before it. A JSON
    /// value.
    fn resumed(&self, feed: &Feed, sub: SubId, missed: &[(u64, &Logged)], text: &mut String);
    /// One entry, as it is pushed. `prev` is the offset of the entry before it
    /// that this subscription was entitled to; no smaller one is missing.
    fn push(&self, feed: &Feed, sub: SubId, prev: u64, entry: &Logged, text: &mut String);
    /// Tells a client that it could not keep up: the entries `from` to `to` are
    /// read from the log and follow. With `lost`, they are kept no more, and it
    /// starts afresh.
    fn gap(&self, feed: &Feed, sub: SubId, from: u64, to: u64, lost: bool, text: &mut String);
    /// What a client is told of an event that excludes it, so that it knows how
    /// far it has come; false where that is nothing.
    fn excluded(
        &self,
        _feed: &Feed,
        _sub: SubId,
        _prev: u64,
        _entry: &Logged,
        _text: &mut String,
    ) -> bool {
        false
    }
}

/// Whether a subscription to the log is entitled to an entry.
pub(super) fn is_entitled(encoder: &dyn LogEncoder, logged: &Logged) -> bool {
    logged.entry.is_of(encoder.topic()) && encoder.wants(logged)
}
