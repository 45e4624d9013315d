//! What all clients have in common: the buffer that they read into, and what
//! they have counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::dialect::{Dialect, Event, Meaning, Push, Reader};
use super::events::Events;

/// What a message asks of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    Nothing,
    /// It tells that the client is let in, or why not.
    Entry(Result<(), String>),
    /// It answers the subscription.
    Subscription,
    /// It wants an answer.
    Ping,
}

/// What is read from a socket at once. A tick's bytes for one client fit, so
/// that a message costs one read.
const READ_BYTES: usize = 64 * 1024;
/// The longest latency that is told apart, an hour, in microseconds: a
/// measurement takes no longer.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads all that comes, from the beginning to the end.
    Steady,
    /// Subscribes, and reads nothing.
    Slow,
    /// Goes after a while without a word, and another comes in its place.
    Passing {
        /// It is that other.
        again: bool,
    },
}

/// Everything that clients write to.
#[derive(Debug)]
pub(super) struct Tally {
    /// Where each read goes. It holds nothing from one to the next.
    pub(super) buffer: Box<[u8]>,
    pub(super) counts: Counts,
}

/// What clients have counted.
#[derive(Debug)]
pub(super) struct Counts {
    reader: Reader,
    /// Clients of the first hour that have not tried to connect yet.
    pub(super) to_connect: usize,
    /// Clients whose subscription has not been answered yet.
    pub(super) to_subscribe: usize,
    pub(super) connected: usize,
    pub(super) connected_last: Option<Instant>,
    pub(super) failed: BTreeMap<String, u64>,
    /// Why the hub refuses the subscription.
    pub(super) refusal: Option<String>,
    /// Clients that came in the place of others.
    pub(super) returned: u64,
    /// Steady clients that are connected.
    pub(super) steady: usize,
    /// Connections of clients that read which the hub has ended, by close code.
    pub(super) closes: BTreeMap<u16, u64>,
    /// Those of slow clients.
    pub(super) slow_closes: BTreeMap<u16, u64>,
    stage: Stage,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) skipped: u64,
    pub(super) latency_us: Histogram<u64>,
    /// From the beginning of connecting to the first message, of clients that
    /// get one unasked.
    pub(super) first_message_us: Histogram<u64>,
    /// In their order. At most as many as a measurement has ticks.
    ticks: Vec<Receipts>,
    /// Ticks up to this one were under way before.
    tick_before: u64,
    /// Where clients are in rooms, what is published to them.
    pub(super) events: Option<Events>,
}

/// How far the measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    Measuring,
    Over,
}

/// How a tick came to the steady clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipts {
    tick: u64,
    clients: usize,
    /// When the last of them had it, after the tick's time.
    pub(super) last_us: u64,
}

impl Tally {
    /// For so many clients of a dialect.
    pub(super) fn new(clients: usize, dialect: Dialect, events: Option<Events>) -> Self {
        let counts = Counts {
            reader: Reader::new(dialect),
            to_connect: clients,
            to_subscribe: 0,
            connected: 0,
            connected_last: None,
            failed: BTreeMap::new(),
            refusal: None,
            returned: 0,
            steady: 0,
            closes: BTreeMap::new(),
            slow_closes: BTreeMap::new(),
            stage: Stage::Before,
            messages: 0,
            bytes: 0,
            skipped: 0,
            latency_us: histogram(),
            first_message_us: histogram(),
            ticks: Vec::new(),
            tick_before: 0,
            events,
        };
        Self { buffer: vec![0; READ_BYTES].into(), counts }
    }
}

impl Counts {
    /// A client is connected, or not, and why.
    pub(super) fn joined(&mut self, role: Role, joined: Result<(), String>) {
        let first = role != Role::Passing { again: true };
        if first {
            self.to_connect -= 1;
        }
        if let Err(why) = joined {
            *self.failed.entry(why).or_default() += 1;
            return;
        }
        if first {
            self.connected += 1;
            self.to_subscribe += 1;
            self.connected_last = Some(Instant::now());
        } else {
            self.returned += 1;
        }
        self.steady += usize::from(role == Role::Steady);
    }

    /// A client is subscribed, or gone before.
    pub(super) fn subscribed(&mut self, role: Role) {
        if role != (Role::Passing { again: true }) {
            self.to_subscribe -= 1;
        }
    }

    /// The hub has ended a connection.
    pub(super) fn closed(&mut self, role: Role, code: u16) {
        self.steady -= usize::from(role == Role::Steady);
        let closes = match role {
            Role::Slow => &mut self.slow_closes,
            Role::Steady | Role::Passing { .. } => &mut self.closes,
        };
        *closes.entry(code).or_default() += 1;
    }

    /// A client's first message has come so long after it began to connect.
    pub(super) fn first_message(&mut self, after: Duration) {
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.first_message_us.saturating_record(after_us);
    }

    /// A message has come at `now_ns`; what it asks of its client.
    pub(super) fn message(&mut self, role: Role, head: &[u8], bytes: u64, now_ns: u64) -> Answer {
        match self.reader.read(head) {
            Meaning::Push(push) => {
                let push = *push;
                self.push(role, push, bytes, now_ns);
            }
            Meaning::Event(event) => {
                let event = *event;
                self.event(role, event, bytes, now_ns);
            }
            Meaning::State => {
                if self.stage == Stage::Measuring {
                    self.messages += 1;
                    self.bytes += bytes;
                }
            }
            Meaning::Welcome => return Answer::Entry(Ok(())),
            Meaning::TurnedAway(reason) => return Answer::Entry(Err(reason.clone())),
            Meaning::Subscribed => return Answer::Subscription,
            Meaning::Refused(reason) => {
                self.refusal.get_or_insert_with(|| reason.clone());
                return Answer::Subscription;
            }
            Meaning::Ping => return Answer::Ping,
            Meaning::Other => {}
        }
        Answer::Nothing
    }

    fn event(&mut self, role: Role, event: Event, bytes: u64, now_ns: u64) {
        // What slow clients find at the end has come too late to count.
        let Some(events) = self.events.as_mut().filter(|_| self.stage != Stage::Over) else {
            return;
        };
        if let Some(latency_us) = events.came(event, role == Role::Steady, now_ns) {
            self.messages += 1;
            self.bytes += bytes;
            self.latency_us.saturating_record(latency_us);
        }
    }

    fn push(&mut self, role: Role, push: Push, bytes: u64, now_ns: u64) {
        if self.stage == Stage::Over {
            return;
        }
        let latency_us = micros_since(push.time_ns, now_ns);
        if self.stage == Stage::Measuring {
            self.messages += 1;
            self.bytes += bytes;
            self.skipped += push.skipped;
            self.latency_us.saturating_record(latency_us);
        }
        if role == Role::Steady && push.tick > self.tick_before {
            let receipts = self.receipts(push.tick);
            receipts.clients += 1;
            receipts.last_us = receipts.last_us.max(latency_us);
        }
    }

    /// Those of a tick, which is most often the newest.
    fn receipts(&mut self, tick: u64) -> &mut Receipts {
        let before = self.ticks.iter().rposition(|receipts| receipts.tick <= tick);
        let at = match before {
            Some(at) if self.ticks[at].tick == tick => at,
            before => {
                let at = before.map_or(0, |before| before + 1);
                self.ticks.insert(at, Receipts { tick, clients: 0, last_us: 0 });
                at
            }
        };
        &mut self.ticks[at]
    }

    /// From now on it counts.
    pub(super) fn begin(&mut self) {
        self.tick_before = self.ticks.last().map_or(self.tick_before, |receipts| receipts.tick);
        self.ticks.clear();
        self.stage = Stage::Measuring;
        if let Some(events) = &mut self.events {
            events.begin();
        }
    }

    /// An event has been answered: with a refusal's code if it was refused.
    pub(super) fn answered(&mut self, number: u64, refused: Option<String>, now_ns: u64) {
        if let Some(events) = &mut self.events {
            events.answered(number, refused, now_ns);
        }
    }

    /// A publisher's connection has ended.
    pub(super) fn lost(&mut self, why: String) {
        if let Some(events) = &mut self.events {
            events.lost(why);
        }
    }

    /// From now on it does not.
    pub(super) fn end(&mut self) {
        self.stage = Stage::Over;
    }

    /// Whether the newest tick has come to every steady client, so that the
    /// hub is between two ticks.
    pub(super) fn is_between_ticks(&self) -> bool {
        self.ticks.last().is_none_or(|receipts| receipts.clients >= self.steady)
    }

    /// How each tick came, of which there was something to see.
    pub(super) fn receipts_of_ticks(&self) -> &[Receipts] {
        &self.ticks
    }

    /// The ticks, and how many pushes of them have not come, of those that
    /// `steady` clients should have had.
    pub(super) fn ticks_and_missing(&self, numbered: bool, steady: usize) -> (u64, u64) {
        let ticks = match (self.ticks.first(), self.ticks.last()) {
            (Some(first), Some(last)) if numbered => last.tick - first.tick + 1,
            _ => self.ticks.len() as u64,
        };
        let came: u64 = self.ticks.iter().map(|receipts| receipts.clients as u64).sum();
        (ticks, (ticks * steady as u64).saturating_sub(came))
    }
}

/// A histogram of microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    // The bounds are constants that it accepts.
    Histogram::new_with_max(LATENCY_MAX_US, 3).expect("its bounds are right")
}

/// Microseconds from one time to another. Clocks that are set back make no
/// message come before it was sent.
pub(super) fn micros_since(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts of two steady clients that are measured.
    fn measuring() -> Counts {
        let mut counts = Tally::new(2, Dialect::Native, None).counts;
        for _ in 0..2 {
            counts.joined(Role::Steady, Ok(()));
            counts.subscribed(Role::Steady);
        }
        counts.begin();
        counts
    }

    fn push(counts: &mut Counts, role: Role, tick: u64, latency_us: u64) {
        let push = Push { tick, time_ns: 1_000_000, skipped: 0 };
        counts.push(role, push, 10, 1_000_000 + latency_us * 1000);
    }

    #[test]
    fn a_tick_is_over_when_the_last_steady_client_has_it() {
        let mut counts = measuring();
        push(&mut counts, Role::Steady, 7, 100);
        assert!(!counts.is_between_ticks());
        push(&mut counts, Role::Passing { again: true }, 7, 900);
        assert!(!counts.is_between_ticks());
        push(&mut counts, Role::Steady, 7, 300);
        assert!(counts.is_between_ticks());
        assert_eq!(counts.receipts_of_ticks()[0].last_us, 300);
        assert_eq!((counts.messages, counts.latency_us.max()), (3, 900));
    }

    #[test]
    fn a_tick_that_came_to_nobody_is_missing_for_all() {
        let mut counts = measuring();
        for tick in [7, 10] {
            push(&mut counts, Role::Steady, tick, 1);
            push(&mut counts, Role::Steady, tick, 1);
        }
        // One comes late, and out of order.
        push(&mut counts, Role::Steady, 9, 1);
        assert_eq!(counts.ticks_and_missing(true, 2), (4, 3));
        assert_eq!(counts.ticks_and_missing(false, 2), (3, 1));
    }

    #[test]
    fn what_came_before_does_not_count_and_what_comes_late_does() {
        let mut counts = Tally::new(1, Dialect::Native, None).counts;
        counts.joined(Role::Steady, Ok(()));
        push(&mut counts, Role::Steady, 7, 1);
        counts.begin();
        assert!(counts.is_between_ticks());
        // Of a tick that was under way: it counts as a message, in full.
        push(&mut counts, Role::Steady, 7, 5000);
        push(&mut counts, Role::Steady, 8, 1);
        counts.end();
        push(&mut counts, Role::Steady, 9, 1);
        assert_eq!((counts.messages, counts.latency_us.max() >= 5000), (2, true));
        let ticks: Vec<u64> = counts.receipts_of_ticks().iter().map(|one| one.tick).collect();
        assert_eq!(ticks, [8]);
    }

    #[test]
    fn an_event_that_comes_after_the_end_does_not_count() {
        let mut events = Events::new(1, 1000.0);
        events.start(1_000_000, vec![1]);
        let mut counts = Tally::new(1, Dialect::Rooms, Some(events)).counts;
        counts.begin();
        let number = counts.events.as_ref().unwrap().due();
        let event = Event { number, due_ns: 1_000_000 };
        counts.event(Role::Steady, event, 10, 2_000_000);
        counts.end();
        counts.event(Role::Slow, event, 10, 3_000_000_000);
        assert_eq!((counts.messages, counts.latency_us.max()), (1, 1000));
    }

    #[test]
    fn a_time_to_come_is_no_latency() {
        let mut counts = measuring();
        let push = Push { tick: 7, time_ns: 5_000_000, skipped: 0 };
        counts.push(Role::Steady, push, 10, 1_000_000);
        assert_eq!((counts.messages, counts.latency_us.max()), (1, 0));
    }
}
