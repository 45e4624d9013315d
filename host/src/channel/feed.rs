//! What there is to tell: the newest snapshot, the open and recent findings,
//! the plugins.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::texts::{TextCache, Texts};
use crate::clock::Clock;
use crate::model::{
    BOARD_GONE_MAX, BOARDS_MAX, Board, Finding, FindingState, LogChannel, Logged, Object,
    ObjectKey, Room,
};
use crate::plugin::Statuses;
use crate::snapshot::Snapshot;
use crate::store::{BoardState, CHANGED};

/// How long a finding is recent.
pub const RECENT: Duration = Duration::from_secs(3600);
/// Recent findings that are kept at hand.
pub const FINDINGS_RECENT_MAX: usize = 1000;

/// Who is in a room: how many connections of each user.
pub type Present = BTreeMap<Arc<str>, usize>;

/// What stands on a board.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// How many changes it has seen.
    pub revision: u64,
    /// See [`BoardState::floor`].
    pub floor: u64,
    /// The entry of its last change.
    pub offset: u64,
    /// Its objects, with what is left of those that were deleted.
    pub objects: BTreeMap<ObjectKey, Arc<Object>>,
}

impl From<BoardState> for Standing {
    fn from(state: BoardState) -> Self {
        let BoardState { revision, floor, offset, objects } = state;
        let objects = objects.into_iter().map(|object| (object.key.clone(), Arc::new(object)));
        Self { revision, floor, offset, objects: objects.collect() }
    }
}

impl Standing {
    /// Takes in a change.
    fn take(&mut self, revision: u64, objects: Vec<Object>, offset: u64) {
        self.revision = revision;
        self.offset = offset;
        let is_any_gone = objects.iter().any(|object| object.data.is_none());
        for object in objects {
            self.objects.insert(object.key.clone(), Arc::new(object));
        }
        if is_any_gone {
            self.forget_gone();
        }
    }

    /// Forgets the oldest deleted objects, as the store does.
    fn forget_gone(&mut self) {
        let gone = self.objects.values().filter(|object| object.data.is_none());
        let mut gone: Vec<_> = gone.map(|object| (object.revision, object.key.clone())).collect();
        let too_many = gone.len().saturating_sub(BOARD_GONE_MAX);
        gone.sort_unstable();
        for (revision, key) in gone.into_iter().take(too_many) {
            self.floor = self.floor.max(revision);
            self.objects.remove(&key);
        }
    }

    fn is_empty(&self) -> bool {
        self.objects.values().all(|object| object.data.is_none())
    }
}

/// What of the body of a change's entry tells what stands there now.
#[derive(serde::Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    data: ToldData,
}

#[derive(serde::Deserialize)]
struct ToldData {
    revision: u64,
    objects: Vec<Object>,
}

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
    /// The same of detectors in the shadow of others.
    pub open_shadow: BTreeMap<String, Arc<Logged>>,
    /// Who is in each room that anybody is in.
    pub present: HashMap<Room, Present>,
    /// What stands on each board that anything was ever put on.
    pub boards: BTreeMap<Board, Standing>,
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
            open_shadow: BTreeMap::new(),
            present: HashMap::new(),
            boards: BTreeMap::new(),
            recent: VecDeque::new(),
            texts: TextCache::default(),
        }
    }

    /// The same, and boards as they stand there.
    #[must_use]
    pub fn with_boards(self, boards: Vec<(Board, BoardState)>) -> Self {
        let boards = boards.into_iter().map(|(board, state)| (board, state.into())).collect();
        Self { boards, ..self }
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
        if logged.offset > self.head {
            return;
        }
        self.take_finding(logged);
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
        match logged.entry.channel {
            LogChannel::Findings => self.take_finding(logged),
            LogChannel::Shadow => self.take_shadow(logged),
            LogChannel::Events => self.take_change(logged),
            LogChannel::Hub => {}
        }
    }

    /// Keeps a board up, if the entry tells of a change: nothing else goes to a
    /// board's room.
    fn take_change(&mut self, logged: &Logged) {
        let [room] = logged.entry.rooms() else { return };
        let Some(board) = Board::of_room(room) else { return };
        let Ok(Told { kind, data: ToldData { revision, objects } }) =
            serde_json::from_str(logged.entry.body.get())
        else {
            return;
        };
        if kind != CHANGED {
            return;
        }
        if !self.boards.contains_key(&board) && self.boards.len() >= BOARDS_MAX {
            self.forget_board();
        }
        let new = || Standing { floor: revision.saturating_sub(1), ..Standing::default() };
        let standing = self.boards.entry(board).or_insert_with(new);
        if revision > standing.revision {
            standing.take(revision, objects, logged.offset);
        }
    }

    /// Forgets the board that has had nothing on it for the longest time, as the
    /// store does before there is a new one.
    fn forget_board(&mut self) {
        let empty = self.boards.iter().filter(|(_, standing)| standing.is_empty());
        let oldest = empty.min_by_key(|(_, standing)| standing.offset);
        if let Some(board) = oldest.map(|(board, _)| board.clone()) {
            self.boards.remove(&board);
        }
    }

    /// Keeps up what is open in shadows: nobody is told what they found lately.
    fn take_shadow(&mut self, logged: &Arc<Logged>) {
        let Ok(finding) = serde_json::from_str::<Finding>(logged.entry.body.get()) else { return };
        match finding.state {
            FindingState::Open => drop(self.open_shadow.insert(finding.id, logged.clone())),
            FindingState::Close => drop(self.open_shadow.remove(&finding.id)),
        }
    }

    fn take_finding(&mut self, logged: &Arc<Logged>) {
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
    use serde_json::json;

    use super::*;
    use crate::model::{Entry, Route, SeriesId};

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
            version: String::new(),
            shadow: false,
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

    fn event(offset: u64, rooms: &[&str], kind: &str, revision: u64) -> Arc<Logged> {
        let object = json!({
            "kind": "widget", "id": "cpu", "version": revision, "revision": revision,
            "data": {"x": revision},
        });
        let data = json!({"revision": revision, "objects": [object]});
        let rooms = rooms.iter().map(|room| Room::new(room).unwrap()).collect();
        let route = Route { rooms, exclude: None };
        let entry = Entry::event(0, route, &json!({"type": kind, "data": data})).unwrap();
        Arc::new(Logged::new(offset, entry))
    }

    #[test]
    fn a_board_is_kept_up_by_the_events_of_its_room_and_by_no_others() {
        let mut feed = Feed::new(Statuses::default(), Clock::system(), "e".to_owned(), 7);
        feed.take_entry(&event(8, &["project:1"], CHANGED, 1));
        feed.take_entry(&event(9, &["board:ana", "global"], CHANGED, 1));
        feed.take_entry(&event(10, &["board:ana"], "board.painted", 1));
        assert!(feed.boards.is_empty());
        feed.take_entry(&event(11, &["board:ana"], CHANGED, 1));
        feed.take_entry(&event(12, &["board:ana"], CHANGED, 2));
        let told = |feed: &Feed| {
            let standing = &feed.boards[&Board::new("ana").unwrap()];
            let [object] = &standing.objects.values().collect::<Vec<_>>()[..] else { panic!() };
            (standing.revision, standing.offset, object.version, standing.floor)
        };
        assert_eq!(told(&feed), (2, 12, 2, 0));
        // What is known already changes nothing.
        feed.take_entry(&event(13, &["board:ana"], CHANGED, 1));
        feed.recall(&event(3, &["board:ana"], CHANGED, 3));
        assert_eq!(told(&feed), (2, 12, 2, 0));
        assert_eq!((feed.boards.len(), feed.head), (1, 13));
    }
}
