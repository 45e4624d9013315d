//! A client as the channels see it: what it has, and how far it has come.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lane::is_entitled;
use super::subscription::{Due, Subscription, is_event};
use super::{Feed, Lane, Registry, Who};
use crate::gate::{Budget, Gate, Offered, Piece};

/// Entries that a client is caught up by at a time …
pub(super) const PAGE_ENTRIES_MAX: usize = 256;
/// … and their bytes.
pub(super) const PAGE_BYTES_MAX: usize = 64 * 1024;
/// Pages that one client is given before others have their turn.
const PAGES_AT_ONCE: usize = 4;

/// A client.
pub(super) struct Member {
    pub(super) gate: Arc<Gate>,
    pub(super) who: Who,
    pub(super) seats: Vec<Seat>,
    /// The round that has reached it last.
    pub(super) reached: u64,
    /// It has not got all of the log that it is entitled to.
    pub(super) behind: Option<Box<Behind>>,
}

/// One subscription of a client.
pub(super) struct Seat {
    /// Where it is in the registry.
    pub(super) sub: usize,
    /// Pushes of state that it has skipped since the last that it got.
    pub(super) skipped: u32,
    /// It is entitled to entries after this offset.
    pub(super) since: u64,
    /// What came after this offset it has been told in the reply.
    pub(super) from: u64,
    /// The last entry that it got, while its client is behind; else the
    /// subscription knows.
    pub(super) told: u64,
}

/// How far a client has come that could not keep up with the log. Its entries
/// go out in the order of their offsets over all its subscriptions, so that one
/// number says it all.
pub(super) struct Behind {
    /// It has got everything up to here.
    pub(super) position: u64,
    /// It was told that the rest has to be read from the disk.
    pub(super) gap_told: bool,
    /// That is being read.
    pub(super) is_reading: bool,
}

impl Member {
    pub(super) fn new(gate: Arc<Gate>, who: Who) -> Self {
        Self { gate, who, seats: Vec::new(), reached: 0, behind: None }
    }
}

impl Who {
    /// What of what is due this client is told.
    fn told(
        &self,
        feed: &Feed,
        subscription: &Subscription,
        due: &Due,
        text: &mut String,
        budget: &Arc<Budget>,
    ) -> Option<Due> {
        let (Some((logged, prev)), Lane::Log(encoder)) = (&due.entry, &subscription.lane) else {
            return None;
        };
        if !logged.entry.excludes(self.connection) {
            return Some(due.clone());
        }
        text.clear();
        let is_told = encoder.excluded(feed, subscription.id, *prev, logged, text);
        is_told.then(|| Due { piece: Piece::text(text, budget), entry: due.entry.clone() })
    }
}

impl Registry {
    /// Gives a client what is due to it in one write. If it can't take it, it
    /// has got the log up to `before`.
    pub(super) fn deliver(&mut self, key: usize, before: u64) {
        let Self { feed, subscriptions, members, scratch, budget, counters, .. } = self;
        let member = &mut members[key];
        scratch.clear();
        self.entries.clear();
        // Most of those who have skipped something still can't take anything.
        let is_stuck = member.seats.iter().any(|seat| seat.skipped > 0) && member.gate.is_busy();
        let mut messages = 0;
        for seat in &member.seats {
            let subscription = &mut subscriptions[seat.sub];
            let Some(Due { piece: first, .. }) = subscription.due.first() else { continue };
            match &subscription.lane {
                Lane::Log(_) if member.behind.is_none() => {
                    let entitled = subscription.due.iter().filter(|due| due.offset() > seat.since);
                    let told = entitled.filter_map(|due| {
                        member.who.told(feed, subscription, due, &mut self.text, budget)
                    });
                    self.entries.extend(told);
                }
                Lane::Log(_) => {}
                Lane::State(_) if is_stuck || seat.skipped == 0 => {
                    messages += 1;
                    scratch.push(first.clone());
                }
                Lane::State(_) => {
                    let push = first.clone();
                    messages += 1;
                    match subscription.full(feed, budget) {
                        Some(full) => scratch.extend(full.pieces(seat.skipped, budget)),
                        None => scratch.push(push),
                    }
                }
            }
        }
        // In the order of the log, whichever subscription they are of.
        self.entries.sort_by_key(Due::offset);
        self.entries.dedup_by(|next, one| next.is_event() && next.offset() == one.offset());
        messages += self.entries.len() as u64;
        let has_entries = !self.entries.is_empty();
        scratch.extend(self.entries.drain(..).map(|due| due.piece));
        if scratch.is_empty() {
            return;
        }
        let taken = !is_stuck && member.gate.offer(scratch) != Offered::Busy;
        scratch.clear();
        if taken {
            counters.delivered.fetch_add(messages, Ordering::Relaxed);
            member.gate.count_sent(messages);
        } else if has_entries {
            counters.behind.fetch_add(1, Ordering::Relaxed);
            let behind = Behind { position: before, gap_told: false, is_reading: false };
            member.behind = Some(Box::new(behind));
            for seat in &mut member.seats {
                seat.told = subscriptions[seat.sub].told_before_round();
            }
        }
        for seat in &mut member.seats {
            let subscription = &subscriptions[seat.sub];
            if subscription.due.is_empty() || matches!(subscription.lane, Lane::Log(_)) {
                continue;
            }
            if taken {
                seat.skipped = 0;
            } else {
                seat.skipped = seat.skipped.saturating_add(1);
                counters.skipped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Nothing waits for a client any more: it is sent what it has skipped and
    /// what it has missed, as far as there is room.
    pub(super) fn catch_up(&mut self, key: usize) {
        for _ in 0..PAGES_AT_ONCE {
            self.scratch.clear();
            self.add_skipped_state(key);
            let position = self.add_missed_entries(key);
            if self.scratch.is_empty() && position.is_none() {
                return;
            }
            let member = &mut self.members[key];
            let offered = match self.scratch.is_empty() {
                true => Offered::Taken,
                false => member.gate.offer(&self.scratch),
            };
            if offered == Offered::Busy {
                return;
            }
            let messages = self.scratch.iter().filter(|piece| piece.ends()).count() as u64;
            self.counters.delivered.fetch_add(messages, Ordering::Relaxed);
            member.gate.count_sent(messages);
            let subscriptions = &self.subscriptions;
            for seat in &mut member.seats {
                if subscriptions[seat.sub].is_told_at_once() {
                    seat.skipped = 0;
                }
            }
            self.has_come_to(key, position);
            let member = &self.members[key];
            if member.behind.is_none() || offered == Offered::Waiting && member.gate.is_busy() {
                return;
            }
        }
        // Others have their turn.
        let gate = self.members[key].gate.clone();
        if let Some(commands) = self.own_commands.upgrade() {
            let _ = commands.send(super::Command::HasRoom(gate));
        }
    }

    /// All that stands now, of each subscription that the client has skipped
    /// pushes of. The newest one is in what stands.
    fn add_skipped_state(&mut self, key: usize) {
        for seat in &self.members[key].seats {
            let subscription = &mut self.subscriptions[seat.sub];
            if seat.skipped == 0 || !subscription.is_told_at_once() {
                continue;
            }
            if let Some(full) = subscription.full(&mut self.feed, &self.budget) {
                self.scratch.extend(full.pieces(seat.skipped - 1, &self.budget));
            }
        }
    }

    /// The next page of what the client has missed, if it is at hand; else it
    /// is read from the disk. Up to where it reaches.
    fn add_missed_entries(&mut self, key: usize) -> Option<u64> {
        let position = {
            let behind = self.members[key].behind.as_ref()?;
            if behind.is_reading {
                return None;
            }
            // What came before it asked for any of what it has it doesn't miss.
            let seats = self.members[key].seats.iter();
            let logs =
                seats.filter(|seat| matches!(self.subscriptions[seat.sub].lane, Lane::Log(_)));
            let since = logs.map(|seat| seat.since).min().unwrap_or(self.feed.head);
            behind.position.max(since)
        };
        let Some(page) = self.recent.after(position, PAGE_ENTRIES_MAX) else {
            self.read_page(key, position);
            return None;
        };
        let through = match page.last() {
            Some(last) if page.len() == PAGE_ENTRIES_MAX => last.offset,
            _ => self.feed.head,
        };
        let page = page.iter().map(|logged| &**logged);
        Some(self.add_entries(key, page, PAGE_BYTES_MAX).unwrap_or(through))
    }

    /// The client has got everything up to there, what
    /// [`Registry::add_entries`] has written last included.
    pub(super) fn has_come_to(&mut self, key: usize, position: Option<u64>) {
        let member = &mut self.members[key];
        let (Some(position), Some(behind)) = (position, &mut member.behind) else { return };
        behind.position = position;
        for (seat, told) in member.seats.iter_mut().zip(&self.told) {
            seat.told = *told;
        }
        if position >= self.feed.head {
            member.behind = None;
        }
    }

    /// Writes entries for a client, as far as a page goes; answers the last
    /// one's offset if there was no room for more.
    pub(super) fn add_entries<'a>(
        &mut self,
        key: usize,
        entries: impl Iterator<Item = &'a crate::model::Logged>,
        bytes_max: usize,
    ) -> Option<u64> {
        let Self { feed, subscriptions, members, scratch, told, text, budget, .. } = self;
        let seats = &members[key].seats;
        told.clear();
        // The client's position may be behind the registry's for it: of entries
        // that it doesn't want it knows nothing.
        told.extend(seats.iter().map(|seat| seat.since.max(seat.told)));
        let mut bytes = 0;
        let who = &members[key].who;
        for logged in entries {
            let mut has_come = false;
            for (seat, prev) in seats.iter().zip(&mut *told) {
                let subscription = &subscriptions[seat.sub];
                let Lane::Log(encoder) = &subscription.lane else { continue };
                if logged.offset <= seat.since || !is_entitled(&**encoder, logged) {
                    continue;
                }
                let before = std::mem::replace(prev, logged.offset);
                // By the first of its rooms.
                if std::mem::replace(&mut has_come, is_event(logged)) {
                    continue;
                }
                text.clear();
                if !logged.entry.excludes(who.connection) {
                    encoder.push(feed, subscription.id, before, logged, text);
                } else if !encoder.excluded(feed, subscription.id, before, logged, text) {
                    continue;
                }
                bytes += text.len();
                scratch.push(Piece::text(text, budget));
            }
            if bytes >= bytes_max {
                return Some(logged.offset);
            }
        }
        None
    }
}
