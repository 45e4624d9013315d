//! What there is to tell: the newest snapshot, the open and recent findings,
//! the plugins.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::texts::{TextCache, Texts};
use crate::clock::Clock;
use crate::model::{Finding, FindingState, LogChannel, Logged, Room};
use crate::plugin::Statuses;
use crate::snapshot::Snapshot;

/// How long a finding is recent.
pub const RECENT: Duration = Duration::from_secs(3600);
/// Recent findings that are kept at hand.
pub const FINDINGS_RECENT_MAX: usize = 1000;

/// Who is in a room: how many connections of each user.
pub type Present = BTreeMap<Arc<str>, usize>;

/// All that frames are made from. Owned by the channels' task.
#[derive(Debug)]
pub struct Feed {
    /// The newest snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What is known of each plugin.
    pub statuses: Statuses,
    /// Wall time.
    pub clock: Clock,
    /// Names this log; another one means that the log was lost.
    pub epoch: String,
    /// The last offset of the log.
    pub head: u64,
    /// Findings that are open, by id, as they were logged.
    pub open: BTreeMap<String, Arc<Logged>>,
    /// Who is in each room that anybody is in.
    pub present: HashMap<Room, Present>,
    /// Findings that were opened in the last hour, oldest first, with the time
    /// in milliseconds.
    recent: VecDeque<(u64, Finding)>,
    /// What frames of the newest snapshot have in common.
    texts: TextCache,
}

impl Feed {
    /// A feed that goes on where `head` is.
    #[must_use]
    pub fn new(statuses: Statuses, clock: Clock, epoch: String, head: u64) -> Self {
        Self {
            snapshot: Arc::new(Snapshot::empty()),
            statuses,
            clock,
            epoch,
            head,
            open: BTreeMap::new(),
            present: HashMap::new(),
            recent: VecDeque::new(),
            texts: TextCache::default(),
        }
    }

    /// What frames of the newest snapshot have in common, written once for all
    /// of them.
    pub fn texts(&mut self) -> Texts<'_> {
        self.texts.of(&self.snapshot)
    }

    /// The findings that were opened in the last hour, newest first.
    pub fn recent(&self) -> impl Iterator<Item = &Finding> {
        let oldest = self.clock.now_ms().saturating_sub(millis(RECENT));
        self.recent
            .iter()
            .rev()
            .take_while(move |(at, _)| *at >= oldest)
            .map(|(_, finding)| finding)
    }

    /// Takes in an entry of an earlier run. What was open then is open no more.
    /// One that is of this run comes by itself, and is left out.
    pub fn recall(&mut self, logged: &Arc<Logged>) {
        let head = self.head;
        if logged.offset > head {
            return;
        }
        self.take_entry(logged);
        self.head = head;
        self.open.clear();
    }

    /// A connection of a user has entered a room.
    pub(crate) fn arrive(&mut self, room: &Room, user: &Arc<str>) {
        *self.present.entry(room.clone()).or_default().entry(user.clone()).or_default() += 1;
    }

    /// A connection of a user has left a room.
    pub(crate) fn depart(&mut self, room: &Room, user: &Arc<str>) {
        let Some(present) = self.present.get_mut(room) else { return };
        if let Some(connections) = present.get_mut(user) {
            *connections -= 1;
            if *connections == 0 {
                present.remove(user);
            }
        }
        if present.is_empty() {
            self.present.remove(room);
        }
    }

    /// The next snapshot.
    pub(crate) fn take_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// The next entry of the log.
    pub(crate) fn take_entry(&mut self, logged: &Arc<Logged>) {
        self.head = logged.offset;
        if logged.entry.channel != LogChannel::Findings {
            return;
        }
        let Ok(finding) = serde_json::from_str::<Finding>(logged.entry.body.get()) else { return };
        match finding.state {
            FindingState::Open => {
                self.open.insert(finding.id.clone(), logged.clone());
                if self.recent.len() == FINDINGS_RECENT_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back((logged.entry.time_ms, finding));
            }
            FindingState::Close => {
                self.open.remove(&finding.id);
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Entry, SeriesId};

    fn opened(offset: u64) -> Arc<Logged> {
        let finding = Finding {
            id: offset.to_string(),
            state: FindingState::Open,
            detector: "watcher".into(),
            series: SeriesId(1),
            plugin: "p".into(),
            name: "a".into(),
            labels: BTreeMap::new(),
            finding_type: "spike".into(),
            score: 0.9,
            peak: 0.9,
            deviation: None,
            value: None,
            expected: None,
            lower: None,
            upper: None,
            note: None,
            started: String::new(),
            ended: None,
            reason: None,
        };
        let now_ms = Clock::system().now_ms();
        let entry = Entry::new(LogChannel::Findings, now_ms, &finding).unwrap();
        Arc::new(Logged::new(offset, entry))
    }

    #[test]
    fn what_is_logged_while_the_hub_starts_is_not_taken_in_twice() {
        let mut feed = Feed::new(Statuses::default(), Clock::system(), "e".to_owned(), 7);
        feed.recall(&opened(7));
        // It was read with the earlier ones, and comes by itself too.
        feed.recall(&opened(8));
        feed.take_entry(&opened(8));
        let ids: Vec<_> = feed.recent().map(|finding| finding.id.as_str()).collect();
        assert_eq!(ids, ["8", "7"]);
        assert_eq!((feed.open.len(), feed.head), (1, 8));
    }
}
