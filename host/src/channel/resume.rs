//! Going on where a client stopped, from what is at hand or from the disk:
//! everything that it has missed, in order, or a fresh start that says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;
use tokio::sync::OwnedSemaphorePermit;

use super::lane::is_entitled;
use super::member::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX};
use super::subscription::{Subscription, is_event};
use super::{Command, Lane, Position, Registry, Subscribe};
use crate::gate::{CloseReason, Ending, Gate, Piece};
use crate::model::{Logged, Topic};
use crate::store::{Missed, StoreError};

/// Entries that a client may have missed and still goes on where it stopped …
pub const RESUME_ENTRIES_MAX: usize = 10_000;
/// … and the bytes of their bodies: they come in one reply.
pub const RESUME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Reads under way at a time: what they have found is in memory until the
/// channels' task has taken it.
pub(super) const READS_MAX: usize = 4;

/// What was found on the disk.
pub(super) struct Found {
    purpose: Purpose,
    missed: Result<Option<Missed>, StoreError>,
    /// Held until it has been taken.
    _room: OwnedSemaphorePermit,
}

/// What it was looked up for.
enum Purpose {
    /// A client goes on where it stopped.
    Resume(Box<Subscribe>, Position),
    /// A client that can't keep up gets the page after a position.
    Page(Arc<Gate>, u64),
}

impl Registry {
    /// Subscribes a client that goes on at `position`.
    pub(super) fn resume(&mut self, wanted: Subscribe, position: &Position) {
        if position.epoch != self.feed.epoch || position.offset > self.feed.head {
            self.start_over(wanted);
            return;
        }
        match self.recent.after(position.offset, usize::MAX) {
            Some(missed) => {
                let missed = missed.iter().map(|logged| &**logged);
                self.join_resumed(wanted, position.offset, missed);
            }
            None => {
                let Lane::Log(encoder) = &wanted.lane else { return };
                let topics = vec![encoder.topic().clone()];
                self.resuming.insert(place(&wanted.gate, wanted.key.clone()), false);
                let purpose = Purpose::Resume(Box::new(wanted), position.clone());
                let most = (RESUME_ENTRIES_MAX, RESUME_BYTES_MAX);
                self.read(purpose, position.offset, topics, most);
            }
        }
    }

    /// A client doesn't want any more what is being read for it; false if nothing
    /// is.
    pub(super) fn call_off(&mut self, gate: &Arc<Gate>, key: String) -> bool {
        let under_way = self.resuming.get_mut(&place(gate, key));
        under_way.map(|is_off| *is_off = true).is_some()
    }

    /// A client wanted to go on and can't.
    fn start_over(&mut self, wanted: Subscribe) {
        self.counters.unrecovered.fetch_add(1, Ordering::Relaxed);
        self.join_afresh(wanted);
    }

    /// Subscribes a client and tells it what it has missed since `offset`.
    fn join_resumed<'a>(
        &mut self,
        wanted: Subscribe,
        offset: u64,
        missed: impl Iterator<Item = &'a Logged>,
    ) {
        self.counters.recovered.fetch_add(1, Ordering::Relaxed);
        let Subscribe { gate, key, lane, reply, who, .. } = wanted;
        let at = self.found(key, lane);
        let has_come = self.comes_by_others(&gate, at);
        let subscription = &self.subscriptions[at];
        if let (Lane::Log(encoder), Some(reply)) = (&subscription.lane, reply) {
            let (head, tail) = reply;
            let mut prev = offset;
            let entitled = missed
                .filter(|logged| {
                    is_entitled(&**encoder, logged) && !logged.entry.excludes(who.connection)
                })
                .map(|logged| (std::mem::replace(&mut prev, logged.offset), logged))
                .filter(|(_, logged)| !has_come(&self.subscriptions, logged));
            let entitled: Vec<_> = entitled.collect();
            self.text.clear();
            self.text.push_str(&head);
            encoder.resumed(&self.feed, subscription.id, &entitled, &mut self.text);
            self.text.push_str(&tail);
            gate.send_text(&self.text);
        }
        self.join(&gate, at, who, offset, true);
        gate.answered();
    }

    /// Which events come to a client by its other rooms, or have come: by this
    /// one too, where it was in it before it wants to go on.
    fn comes_by_others(
        &self,
        gate: &Gate,
        at: usize,
    ) -> impl Fn(&Slab<Subscription>, &Logged) -> bool + use<> {
        let member = gate.seat().map(|member| &self.members[member]);
        let behind = member.and_then(|member| member.behind.as_ref());
        // Its place in this room begins anew: what it has not got comes with
        // the reply.
        let got = behind.map_or(u64::MAX, |behind| behind.position);
        let seats = member.map_or(&[][..], |member| &member.seats);
        let rooms = seats.iter().map(|seat| {
            let through = if seat.sub == at { got } else { u64::MAX };
            (seat.sub, seat.from, through)
        });
        let rooms: Vec<(usize, u64, u64)> = rooms.collect();
        move |subscriptions, logged| {
            is_event(logged)
                && rooms.iter().any(|(sub, from, through)| match &subscriptions[*sub].lane {
                    Lane::Log(encoder) => {
                        let is_its = logged.offset > *from && logged.offset <= *through;
                        is_its && is_entitled(&**encoder, logged)
                    }
                    Lane::State(_) => false,
                })
        }
    }

    /// Reads the next page for a client that is further behind than is kept at
    /// hand, and tells it once.
    pub(super) fn read_page(&mut self, key: usize, position: u64) {
        let Self { feed, subscriptions, members, counters, text, .. } = self;
        let member = &mut members[key];
        let Some(behind) = &mut member.behind else { return };
        (behind.is_reading, behind.position) = (true, position);
        let is_first = !std::mem::replace(&mut behind.gap_told, true);
        if is_first {
            counters.gaps.fetch_add(1, Ordering::Relaxed);
        }
        let mut topics = Vec::new();
        for seat in &member.seats {
            let subscription = &subscriptions[seat.sub];
            let Lane::Log(encoder) = &subscription.lane else { continue };
            if !topics.contains(encoder.topic()) {
                topics.push(encoder.topic().clone());
            }
            let from = position.max(seat.since) + 1;
            if is_first && from <= feed.head {
                text.clear();
                encoder.gap(feed, subscription.id, from, feed.head, false, text);
                // Some have nothing to say: what follows says it all.
                if !text.is_empty() {
                    member.gate.send_text(text);
                }
            }
        }
        let purpose = Purpose::Page(member.gate.clone(), position);
        self.read(purpose, position, topics, (PAGE_ENTRIES_MAX, PAGE_BYTES_MAX));
    }

    /// Reads beside the task; what is found comes back as a command.
    fn read(
        &self,
        purpose: Purpose,
        after: u64,
        topics: Vec<Topic>,
        (entries_max, bytes_max): (usize, usize),
    ) {
        let (reader, reads) = (self.reader.clone(), self.reads.clone());
        let (commands, through) = (self.own_commands.clone(), self.feed.head);
        tokio::spawn(async move {
            // An error means that nobody waits any more.
            let Ok(room) = reads.acquire_owned().await else { return };
            let missed = reader.missed(after, through, topics, entries_max, bytes_max).await;
            if let Some(commands) = commands.upgrade() {
                let found = Found { purpose, missed, _room: room };
                let _ = commands.send(Command::Found(Box::new(found)));
            }
        });
    }

    /// Takes what was found.
    pub(super) fn take_found(&mut self, found: Found) {
        let Found { purpose, missed, _room } = found;
        match purpose {
            Purpose::Resume(wanted, position) => {
                let is_off = self.resuming.remove(&place(&wanted.gate, wanted.key.clone()));
                if wanted.gate.has_ended() {
                    wanted.gate.answered();
                } else if is_off == Some(true) || !may_still_enter(&wanted) {
                    wanted.gate.send_text(&wanted.refusal);
                    wanted.gate.answered();
                } else {
                    self.take_resumed(*wanted, &position, missed);
                }
            }
            Purpose::Page(gate, position) => {
                if let Some(key) = gate.seat() {
                    self.take_page(key, position, missed);
                }
            }
        }
    }

    fn take_resumed(
        &mut self,
        wanted: Subscribe,
        position: &Position,
        missed: Result<Option<Missed>, StoreError>,
    ) {
        // Others may have come while it was being read.
        if self.is_too_many(&wanted) {
            wanted.gate.send_text(&wanted.refusal);
            wanted.gate.answered();
            return;
        }
        let found = match missed {
            Ok(Some(missed)) if missed.complete => missed,
            Ok(_) => return self.start_over(wanted),
            Err(error) => {
                tracing::warn!(%error, "what a client has missed can't be read");
                return self.start_over(wanted);
            }
        };
        match self.recent.after(found.through, usize::MAX) {
            Some(newer) => {
                let newer = newer.iter().map(|logged| &**logged);
                let all = found.entries.iter().chain(newer);
                self.join_resumed(wanted, position.offset, all);
            }
            // More has come meanwhile than is kept at hand.
            None => self.resume(wanted, position),
        }
    }

    fn take_page(&mut self, key: usize, asked: u64, missed: Result<Option<Missed>, StoreError>) {
        let Some(behind) = &mut self.members[key].behind else { return };
        // It may have been asked for by an earlier life of this client.
        if !behind.is_reading || behind.position != asked {
            return;
        }
        behind.is_reading = false;
        let position = behind.position;
        self.scratch.clear();
        let reached = match missed {
            Ok(Some(page)) => {
                self.add_entries(key, page.entries.iter(), usize::MAX);
                page.through
            }
            Ok(None) => {
                self.start_all_over(key, position);
                self.feed.head
            }
            Err(error) => {
                tracing::warn!(%error, "what a client has missed can't be read");
                let reason = CloseReason { code: 1011, words: "the log can't be read just now" };
                self.members[key].gate.end(Ending::Close(reason));
                return;
            }
        };
        let member = &self.members[key];
        let messages = self.scratch.len() as u64;
        self.counters.delivered.fetch_add(messages, Ordering::Relaxed);
        // Whatever waits: it is one page, and the next is not read before.
        member.gate.send(self.scratch.drain(..));
        self.has_come_to(key, Some(reached));
        if !self.members[key].gate.is_busy() {
            self.catch_up(key);
        }
    }

    /// What a client has missed is kept no more: it is told so, and what stands
    /// now.
    fn start_all_over(&mut self, key: usize, position: u64) {
        let Self { feed, subscriptions, members, counters, text, scratch, told, budget, .. } = self;
        counters.unrecovered.fetch_add(1, Ordering::Relaxed);
        told.clear();
        for seat in &mut members[key].seats {
            let subscription = &subscriptions[seat.sub];
            let Lane::Log(encoder) = &subscription.lane else { continue };
            let from = position.max(seat.since) + 1;
            if from > feed.head {
                // It began after all that is lost.
                continue;
            }
            text.clear();
            encoder.gap(feed, subscription.id, from, feed.head, true, text);
            scratch.push(Piece::text(text, budget));
            seat.since = feed.head;
        }
    }
}

/// Where [`Registry::resuming`] has what is being read for a client.
fn place(gate: &Arc<Gate>, key: String) -> (usize, String) {
    (Arc::as_ptr(gate).addr(), key)
}

/// Whether a client may still be where it wants to be.
fn may_still_enter(wanted: &Subscribe) -> bool {
    match &wanted.lane {
        Lane::Log(encoder) => match encoder.topic() {
            Topic::Room(room) => (wanted.may_enter)(room),
            Topic::Channel(_) => true,
        },
        Lane::State(_) => true,
    }
}
