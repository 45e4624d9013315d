//! What became of the events that the generator publishes. An event is due at
//! a moment that its number tells, whether the hub keeps up or not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::dialect::Event;
use super::tally::{histogram, micros_since};

/// The events of a measurement.
#[derive(Debug)]
pub(super) struct Events {
    rooms: u64,
    per_second: f64,
    /// When the first event is due, by both clocks.
    start: Option<(Instant, u64)>,
    /// Steady clients of each room.
    steady: Vec<u32>,
    /// The events that count: from this one on …
    first: Option<u64>,
    /// … to before this one, which is never published.
    end: Option<u64>,
    fates: Vec<Fate>,
    pub(super) refused: BTreeMap<String, u64>,
    /// From when an event was due to when it was said to be safe.
    pub(super) acknowledged_us: Histogram<u64>,
}

/// What became of one event.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Steady clients that have had it.
    came: u32,
    /// When the last of them had it, after it was due.
    last_us: u64,
    has_been_answered: bool,
    is_safe: bool,
}

/// All of it together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Events that were due.
    pub(super) due: u64,
    pub(super) acknowledged: u64,
    /// Neither acknowledged nor refused: never published, or never answered.
    pub(super) unanswered: u64,
    /// Pushes of acknowledged events that steady clients have not had.
    pub(super) missing: u64,
}

impl Events {
    /// Of so many a second, each to one room after the other.
    pub(super) fn new(rooms: u64, per_second: f64) -> Self {
        Self {
            rooms,
            per_second,
            start: None,
            steady: Vec::new(),
            first: None,
            end: None,
            fates: Vec::new(),
            refused: BTreeMap::new(),
            acknowledged_us: histogram(),
        }
    }

    /// From now on events are due. `steady`: the steady clients of each room.
    pub(super) fn start(&mut self, now_ns: u64, steady: Vec<u32>) {
        self.start = Some((Instant::now(), now_ns));
        self.steady = steady;
    }

    /// The events that are due by now: those before this one.
    pub(super) fn due(&self) -> u64 {
        let Some((start, _)) = self.start else { return 0 };
        let due = (start.elapsed().as_secs_f64() * self.per_second) as u64 + 1;
        self.end.map_or(due, |end| due.min(end))
    }

    /// Whether no more will be due.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// An event by its number.
    pub(super) fn event(&self, number: u64) -> Event {
        let after = Duration::from_secs_f64(number as f64 / self.per_second);
        let start_ns = self.start.map_or(0, |(_, start_ns)| start_ns);
        Event { number, due_ns: start_ns + after.as_nanos() as u64 }
    }

    /// From here on events count.
    pub(super) fn begin(&mut self) {
        self.first = Some(self.due());
    }

    /// No more are published.
    pub(super) fn end(&mut self) {
        let end = self.due();
        self.end = Some(end);
        let first = *self.first.get_or_insert(end);
        self.fates.resize(index(end.saturating_sub(first)), Fate::default());
    }

    /// That of an event which counts.
    fn fate(&mut self, number: u64) -> Option<&mut Fate> {
        let at = index(number.checked_sub(self.first?)?);
        if self.end.is_some_and(|end| number >= end) {
            return None;
        }
        if self.fates.len() <= at {
            self.fates.resize(at + 1, Fate::default());
        }
        self.fates.get_mut(at)
    }

    /// It has come to a client; its latency, if it counts.
    pub(super) fn came(&mut self, event: Event, is_steady: bool, now_ns: u64) -> Option<u64> {
        let latency_us = micros_since(event.due_ns, now_ns);
        let fate = self.fate(event.number)?;
        if is_steady {
            fate.came += 1;
            fate.last_us = fate.last_us.max(latency_us);
        }
        Some(latency_us)
    }

    /// It has been answered: with a refusal's code if it was refused.
    pub(super) fn answered(&mut self, number: u64, refused: Option<String>, now_ns: u64) {
        let due_ns = self.event(number).due_ns;
        let Some(fate) = self.fate(number) else { return };
        fate.has_been_answered = true;
        fate.is_safe = refused.is_none();
        match refused {
            Some(code) => *self.refused.entry(code).or_default() += 1,
            None => self.acknowledged_us.saturating_record(micros_since(due_ns, now_ns)),
        }
    }

    /// A publisher's connection has ended.
    pub(super) fn lost(&mut self, why: String) {
        *self.refused.entry(why).or_default() += 1;
    }

    /// The steady clients that an event goes to.
    fn expected(&self, number: u64) -> u32 {
        self.steady.get(index(number % self.rooms)).copied().unwrap_or(0)
    }

    /// Those that count, with who was to have them.
    fn each(&self) -> impl Iterator<Item = (&Fate, u32)> {
        let first = self.first.unwrap_or(0);
        self.fates.iter().zip(first..).map(|(fate, number)| (fate, self.expected(number)))
    }

    /// Whether nothing more is to be waited for.
    pub(super) fn has_settled(&self) -> bool {
        self.each().all(|(fate, expected)| {
            fate.has_been_answered && (!fate.is_safe || fate.came >= expected)
        })
    }

    pub(super) fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        for (fate, expected) in self.each() {
            outcome.due += 1;
            outcome.acknowledged += u64::from(fate.is_safe);
            outcome.unanswered += u64::from(!fate.has_been_answered);
            if fate.is_safe {
                outcome.missing += u64::from(expected.saturating_sub(fate.came));
            }
        }
        outcome
    }

    /// When the last steady client had each event that came to any.
    pub(super) fn last_us(&self) -> impl Iterator<Item = u64> {
        self.fates.iter().filter(|fate| fate.came > 0).map(|fate| fate.last_us)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events that have begun to count, one room with two clients and one with
    /// one.
    fn counting() -> (Events, u64) {
        let mut events = Events::new(2, 1000.0);
        events.start(1_000_000_000, vec![2, 1]);
        events.begin();
        let first = events.due();
        (events, first)
    }

    fn come(events: &mut Events, number: u64, latency_us: u64) -> Option<u64> {
        let event = events.event(number);
        events.came(event, true, event.due_ns + latency_us * 1000)
    }

    #[test]
    fn an_event_is_due_whether_or_not_the_one_before_it_was_answered() {
        let (events, _) = counting();
        assert_eq!(events.event(0).due_ns, 1_000_000_000);
        assert_eq!(events.event(1500).due_ns, 2_500_000_000);
        assert!(events.due() >= 1);
    }

    #[test]
    fn what_is_safe_and_has_not_come_is_missing() {
        let (mut events, mut first) = counting();
        // To the room with two clients.
        first += first % 2;
        for (number, came, refused) in
            [(first, 1, None), (first + 1, 1, None), (first + 2, 0, Some("busy".to_owned()))]
        {
            for _ in 0..came {
                assert_eq!(come(&mut events, number, 300), Some(300));
            }
            events.answered(number, refused, events.event(number).due_ns + 200_000);
        }
        let Outcome { acknowledged, missing, .. } = events.outcome();
        assert_eq!((acknowledged, missing), (2, 1));
        assert_eq!(events.refused, BTreeMap::from([("busy".to_owned(), 1)]));
        assert_eq!((events.acknowledged_us.len(), events.acknowledged_us.max()), (2, 200));
        assert!(!events.has_settled());
        come(&mut events, first, 900);
        assert_eq!(events.outcome().missing, 0);
        assert_eq!(events.last_us().collect::<Vec<_>>(), [900, 300]);
    }

    #[test]
    fn what_was_due_before_or_after_does_not_count() {
        let mut events = Events::new(1, 1e6);
        events.start(0, vec![1]);
        events.begin();
        let first = events.first.unwrap();
        assert_eq!(come(&mut events, first - 1, 5), None);
        assert_eq!(come(&mut events, first, 5), Some(5));
        events.end();
        let end = events.end.unwrap();
        assert!(events.is_over() && events.due() == end);
        assert_eq!(come(&mut events, end, 5), None);
        assert_eq!(events.outcome().due, end - first);
    }
}
