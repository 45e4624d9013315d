//! What clients subscribe to: who wants what, and one frame for all who want
//! the same.
//!
//! One task owns the registry of subscriptions. It is told of snapshots, of
//! entries that are safe, and of clients that come and go, and writes frames to
//! the clients' gates itself: a session's task is woken only where the socket
//! was full. It never waits for a client, and keeps no queue for one: of state
//! a client that is behind is sent what stands when it has room again, and of
//! the log it is a position, from which it is caught up.

mod feed;
mod lane;
mod member;
mod recent;
mod resume;
mod subscription;
#[cfg(test)]
mod tests;
mod texts;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slab::Slab;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::audit::{Actor, Audit, Note};
use crate::gate::{Budget, Gate, Piece};
use crate::model::{ConnectionId, Logged, PluginName, Room, Topic};
use crate::shutdown::Shutdown;
use crate::snapshot::Snapshot;
use crate::store::Reader;

use member::{Member, Seat};
use recent::Recent;
use resume::{Found, READS_MAX};
use subscription::{Due, Subscription};

pub use feed::{FINDINGS_RECENT_MAX, Feed, Present, RECENT, Standing};
pub use lane::{Lane, LogEncoder, StateEncoder};
pub use recent::{RECENT_BYTES_MAX, RECENT_ENTRIES_MAX, RecentBounds};
pub use resume::{RESUME_BYTES_MAX, RESUME_ENTRIES_MAX};
pub use texts::{MEMBERS, TextCache, Texts, write_number};

/// Distinct subscriptions at once, but for those to rooms. Each costs work at
/// every tick, whoever asked for it; clients that want the same share one.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Distinct subscriptions to rooms at once. They cost memory only, about 500
/// bytes: work is done where an event goes to the room. Every user has one.
pub const ROOM_SUBSCRIPTIONS_MAX: usize = 100_000;
/// Subscriptions of one client.
pub const SESSION_SUBSCRIPTIONS_MAX: usize = 64;
/// Snapshots that may wait for the channels' task: a second or more of them
/// only when the machine is overloaded, and then skipping is right.
const SNAPSHOTS_MAX: usize = 16;
/// Groups of entries that may wait; the log awaits room.
const LOGGED_MAX: usize = 64;
/// Commands that are obeyed before something else has its turn.
const COMMANDS_AT_ONCE: usize = 64;
/// Clients that are written to before other tasks have their turn.
const WRITES_AT_ONCE: u32 = 64;

/// A distinct subscription's number, hub-wide.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SubId(pub u64);

/// Where a client stopped in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log that it means.
    pub epoch: String,
    /// The last offset that it knows of.
    pub offset: u64,
}

/// Who a client is to the channels.
#[derive(Clone, Debug)]
pub struct Who {
    /// Its connection's public number.
    pub connection: Option<ConnectionId>,
    /// Its user, as others in a room see it.
    pub user: Arc<str>,
}

/// One of a client's subscriptions.
#[derive(Clone, Debug)]
pub enum Which {
    /// By its number.
    Id(SubId),
    /// By its key.
    Key(String),
}

/// What a client wants.
pub struct Subscribe {
    /// Who wants it.
    pub who: Who,
    /// Its way out.
    pub gate: Arc<Gate>,
    /// Ends all other subscriptions of this client first.
    pub only: bool,
    /// Two with the same key are one subscription.
    pub key: String,
    /// How it is written, if it is the first of its key.
    pub lane: Lane,
    /// Where the client stopped; log channels only.
    pub resume: Option<Position>,
    /// Whether the client may enter a room now: what it has missed may have to be
    /// read first, and who it is may change meanwhile.
    pub may_enter: MayEnter,
    /// What stands before and after the state in the reply. Without it there is
    /// no reply, and the newest push is sent at once.
    pub reply: Option<(String, String)>,
    /// Sent instead of the reply if there are too many subscriptions.
    pub refusal: String,
}

/// All that the task can be told by sessions. There are as many under way as a
/// gate allows each client ([`Gate::is_full`]), so that the queue needs no bound
/// of its own.
enum Command {
    Subscribe(Box<Subscribe>),
    Unsubscribe { gate: Arc<Gate>, which: Which, reply: String, refusal: String },
    Snapshot { gate: Arc<Gate>, which: Which, reply: (String, String), refusal: String },
    HasRoom(Arc<Gate>),
    Narrow { gate: Arc<Gate>, may_enter: MayEnter, answer: SubsAnswer },
    Look(Look),
    Found(Box<Found>),
    Gone(Arc<Gate>),
}

/// Whether a client may be in a room.
pub type MayEnter = Box<dyn Fn(&Room) -> bool + Send>;
/// Turns subscriptions that have ended into a message.
pub type SubsAnswer = Box<dyn FnOnce(Vec<SubId>) -> String + Send>;
/// Looks at what there is to tell.
type Look = Box<dyn FnOnce(&Feed) + Send>;

/// How the channels are doing. Written by their task alone, but for what was
/// skipped.
#[derive(Debug, Default)]
pub struct ChannelCounters {
    /// Distinct subscriptions.
    pub subscriptions: AtomicU64,
    /// Frames that were encoded since the start.
    pub frames: AtomicU64,
    /// Frames that were given to clients since the start.
    pub delivered: AtomicU64,
    /// Frames of state that slow clients skipped since the start.
    pub skipped: AtomicU64,
    /// Times that a client could not keep up with the log.
    pub behind: AtomicU64,
    /// Times that a client was behind further than is kept at hand.
    pub gaps: AtomicU64,
    /// Times that a client went on where it had stopped.
    pub recovered: AtomicU64,
    /// Times that a client wanted to, and had to start afresh.
    pub unrecovered: AtomicU64,
    /// Snapshots that found no room on their way here.
    pub snapshots_dropped: AtomicU64,
}

/// How many are in a room.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoomCount {
    /// The room.
    pub room: Room,
    /// How many connections are in it.
    pub connections: usize,
    /// How many users they are of.
    pub users: usize,
}

impl RoomCount {
    fn new((room, present): (&Room, &Present)) -> Self {
        let connections = present.values().sum();
        Self { room: room.clone(), connections, users: present.len() }
    }
}

/// The way to the channels' task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels {
    commands: mpsc::UnboundedSender<Command>,
    snapshots: mpsc::Sender<Arc<Snapshot>>,
    logged: mpsc::Sender<Vec<Arc<Logged>>>,
    counters: Arc<ChannelCounters>,
}

/// The receiving ends, for [`ChannelTask::run`].
pub struct ChannelTask {
    commands: mpsc::UnboundedReceiver<Command>,
    snapshots: mpsc::Receiver<Arc<Snapshot>>,
    logged: mpsc::Receiver<Vec<Arc<Logged>>>,
    counters: Arc<ChannelCounters>,
    /// For reads, which answer with a command.
    own_commands: mpsc::WeakUnboundedSender<Command>,
}

/// The channels and the task that has to be run for them.
#[must_use]
pub fn channels() -> (Channels, ChannelTask) {
    #[expect(
        clippy::disallowed_methods,
        reason = "its bound is by client: as many commands as a gate lets be under way, and one \
                  each for room, for what was read and for the end"
    )]
    let (commands, command_queue) = mpsc::unbounded_channel();
    let (snapshots, snapshot_queue) = mpsc::channel(SNAPSHOTS_MAX);
    let (logged, logged_queue) = mpsc::channel(LOGGED_MAX);
    let counters = Arc::new(ChannelCounters::default());
    let task = ChannelTask {
        own_commands: commands.downgrade(),
        commands: command_queue,
        snapshots: snapshot_queue,
        logged: logged_queue,
        counters: counters.clone(),
    };
    (Channels { commands, snapshots, logged, counters }, task)
}

impl Channels {
    /// Passes a snapshot on. Never waits: if there is no room it is counted, and
    /// the next one says what has changed since the last that got through.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        if self.snapshots.try_send(snapshot).is_err() {
            self.counters.snapshots_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where the log sends the entries that are safe, in order.
    #[must_use]
    pub fn logged(&self) -> mpsc::Sender<Vec<Arc<Logged>>> {
        self.logged.clone()
    }

    /// Subscribes. The reply comes through the gate.
    pub fn subscribe(&self, subscribe: Subscribe) {
        subscribe.gate.ask();
        self.tell(Command::Subscribe(Box::new(subscribe)));
    }

    /// Ends a client's subscription. The reply comes through the gate: nothing
    /// of the subscription comes after it.
    pub fn unsubscribe(&self, gate: &Arc<Gate>, which: Which, reply: String, refusal: String) {
        gate.ask();
        self.tell(Command::Unsubscribe { gate: gate.clone(), which, reply, refusal });
    }

    /// Ends a client's subscriptions to rooms, and to who is in them, that it
    /// may not enter any more. The answer comes through the gate.
    pub fn narrow(&self, gate: &Arc<Gate>, may_enter: MayEnter, answer: SubsAnswer) {
        gate.ask();
        self.tell(Command::Narrow { gate: gate.clone(), may_enter, answer });
    }

    /// Sends a client what `answer` makes of what there is to tell now.
    pub fn answer(&self, gate: &Arc<Gate>, answer: impl FnOnce(&Feed) -> String + Send + 'static) {
        gate.ask();
        let gate = gate.clone();
        self.tell(Command::Look(Box::new(move |feed| {
            gate.send_text(&answer(feed));
            gate.answered();
        })));
    }

    /// The rooms that anybody is in: at most `limit`, those with the most
    /// connections first, and how many there are in all. None while the hub
    /// stops.
    pub async fn rooms(
        &self,
        limit: usize,
        is_shown: impl Fn(&Room) -> bool + Send + 'static,
    ) -> Option<(Vec<RoomCount>, usize)> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Look(Box::new(move |feed| {
            let all = feed.present.len();
            let shown = feed.present.iter().filter(|(room, _)| is_shown(room));
            let mut rooms: Vec<RoomCount> = shown.map(RoomCount::new).collect();
            rooms.sort_unstable_by(|a, b| {
                b.connections.cmp(&a.connections).then_with(|| a.room.cmp(&b.room))
            });
            rooms.truncate(limit);
            // An error means that nobody waits any more.
            let _ = answer.send((rooms, all));
        })));
        answered.await.ok()
    }

    /// Tells what a subscription's reply would tell now.
    pub fn snapshot(
        &self,
        gate: &Arc<Gate>,
        which: Which,
        reply: (String, String),
        refusal: String,
    ) {
        gate.ask();
        self.tell(Command::Snapshot { gate: gate.clone(), which, reply, refusal });
    }

    /// Nothing waits for this client any more, and something did.
    pub fn has_room(&self, gate: &Arc<Gate>) {
        self.tell(Command::HasRoom(gate.clone()));
    }

    /// Ends all subscriptions of a client that has gone.
    pub fn gone(&self, gate: &Arc<Gate>) {
        self.tell(Command::Gone(gate.clone()));
    }

    fn tell(&self, command: Command) {
        // An error means that the hub is stopping, and the session hears of it.
        let _ = self.commands.send(command);
    }

    /// How the channels are doing.
    #[must_use]
    pub fn counters(&self) -> Arc<ChannelCounters> {
        self.counters.clone()
    }
}

/// What the task needs of the hub.
pub struct Surroundings {
    /// What frames are made from.
    pub feed: Feed,
    /// The newest entries of the log, in the order of their offsets. Those after
    /// the feed's head, which come by themselves, are left out.
    pub recent: Vec<Logged>,
    /// None of them is missing after this offset.
    pub recent_floor: u64,
    /// How many of the newest stay at hand.
    pub recent_bounds: RecentBounds,
    /// What the store has kept.
    pub reader: Reader,
    /// The memory for what waits.
    pub budget: Arc<Budget>,
    /// Where it is noted who enters and leaves a room.
    pub audit: Audit,
    /// Told whose measurements are being watched.
    pub watching: watch::Sender<Arc<BTreeSet<PluginName>>>,
}

impl ChannelTask {
    /// Runs until `shutdown`.
    pub async fn run(self, surroundings: Surroundings, mut shutdown: Shutdown) {
        let Self { mut commands, mut snapshots, mut logged, counters, own_commands } = self;
        let mut registry = Registry::new(surroundings, counters, own_commands);
        let mut obeyed = Vec::with_capacity(COMMANDS_AT_ONCE);
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Some(group) = logged.recv() => registry.tell_entries(group).await,
                Some(snapshot) = snapshots.recv() => registry.tell_snapshot(snapshot).await,
                1.. = commands.recv_many(&mut obeyed, COMMANDS_AT_ONCE) => {
                    // What a client was told is safe is there when it asks.
                    while let Ok(group) = logged.try_recv() {
                        registry.tell_entries(group).await;
                    }
                    for command in obeyed.drain(..) {
                        registry.obey(command);
                    }
                    registry.look_who_is_watched();
                }
            }
        }
    }
}

/// Tells that a client has entered a room, or left it.
fn note(audit: &Audit, who: &Who, room: &Room, has_entered: bool) {
    if let Some(connection) = &who.connection {
        let words = if has_entered { "entered" } else { "left" };
        tracing::debug!(%connection, user = %who.user, %room, "{words} a room");
    }
    if !audit.is_on() {
        return;
    }
    let (user, room) = (Some(who.user.clone()), room.clone());
    let who = Actor { connection: who.connection, user, ..Actor::default() };
    audit.note(match has_entered {
        true => Note::Entered { who, room },
        false => Note::Left { who, room },
    });
}

fn is_room(topic: &Topic) -> bool {
    matches!(topic, Topic::Room(_))
}

/// Who wants what. Owned by the channels' task.
struct Registry {
    feed: Feed,
    recent: Recent,
    subscriptions: Slab<Subscription>,
    by_key: HashMap<String, usize>,
    by_id: HashMap<SubId, usize>,
    /// The subscriptions to each topic of the log.
    by_topic: HashMap<Topic, Vec<usize>>,
    /// Those of state.
    states: Vec<usize>,
    /// How many are to rooms.
    rooms: usize,
    /// What is being read for clients that go on where they stopped, by gate and
    /// key, and whether they don't want it any more. As many as commands may be
    /// under way.
    resuming: HashMap<(usize, String), bool>,
    /// Those that something is due to, in this round.
    due: Vec<usize>,
    members: Slab<Member>,
    next: u64,
    /// Marks the members that a round has reached.
    round: u64,
    counters: Arc<ChannelCounters>,
    reader: Reader,
    budget: Arc<Budget>,
    reads: Arc<Semaphore>,
    own_commands: mpsc::WeakUnboundedSender<Command>,
    audit: Audit,
    watching: watch::Sender<Arc<BTreeSet<PluginName>>>,
    /// What [`Registry::look_who_is_watched`] has seen last.
    watched_at: (u64, usize),
    has_changed: bool,
    /// Used again and again, so that a round allocates nothing for a client.
    scratch: Vec<Piece>,
    entries: Vec<Due>,
    told: Vec<u64>,
    text: String,
}

impl Registry {
    fn new(
        surroundings: Surroundings,
        counters: Arc<ChannelCounters>,
        own_commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        let Surroundings { feed, recent: entries, reader, budget, audit, watching, .. } =
            surroundings;
        let mut recent = Recent::new(surroundings.recent_floor, surroundings.recent_bounds);
        // What was logged since the feed began comes as well, and was read here
        // only because the hub took a moment to start.
        let known = entries.into_iter().filter(|logged| logged.offset <= feed.head);
        known.for_each(|logged| recent.push(Arc::new(logged)));
        Self {
            feed,
            recent,
            subscriptions: Slab::new(),
            by_key: HashMap::new(),
            by_id: HashMap::new(),
            by_topic: HashMap::new(),
            states: Vec::new(),
            rooms: 0,
            resuming: HashMap::new(),
            due: Vec::new(),
            members: Slab::new(),
            next: 1,
            round: 0,
            counters,
            reader,
            budget,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            own_commands,
            audit,
            watching,
            watched_at: (u64::MAX, 0),
            has_changed: false,
            scratch: Vec::new(),
            entries: Vec::new(),
            told: Vec::new(),
            text: String::new(),
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe(subscribe) => self.subscribe(*subscribe),
            Command::Unsubscribe { gate, which, reply, refusal } => {
                let left = match which {
                    Which::Id(sub) => self.leave(&gate, sub),
                    Which::Key(key) => {
                        let at = self.by_key.get(&key).copied();
                        at.is_some_and(|at| self.leave(&gate, self.subscriptions[at].id))
                            || self.call_off(&gate, key)
                    }
                };
                gate.send_text(if left { &reply } else { &refusal });
                gate.answered();
            }
            Command::Snapshot { gate, which, reply, refusal } => {
                let sub = match which {
                    Which::Id(sub) => Some(sub),
                    Which::Key(key) => self.by_key.get(&key).map(|at| self.subscriptions[*at].id),
                };
                match sub.and_then(|sub| self.seat_of(&gate, sub)) {
                    Some(at) => self.reply(&gate, at, &reply),
                    None => gate.send_text(&refusal),
                }
                gate.answered();
            }
            Command::HasRoom(gate) => {
                if let Some(member) = gate.seat() {
                    self.catch_up(member);
                }
            }
            Command::Narrow { gate, may_enter, answer } => {
                let ended = self.narrow(&gate, &may_enter);
                gate.send_text(&answer(ended));
                gate.answered();
            }
            Command::Look(look) => look(&self.feed),
            Command::Found(found) => self.take_found(*found),
            Command::Gone(gate) => self.forget(&gate),
        }
    }

    fn subscribe(&mut self, wanted: Subscribe) {
        if wanted.gate.has_ended() {
            wanted.gate.answered();
            return;
        }
        if wanted.only {
            self.forget(&wanted.gate);
        }
        let refused = self.is_too_many(&wanted);
        if refused {
            wanted.gate.send_text(&wanted.refusal);
            wanted.gate.answered();
            return;
        }
        match &wanted.resume {
            Some(position) if matches!(wanted.lane, Lane::Log(_)) => {
                let position = position.clone();
                self.resume(wanted, &position);
            }
            _ => self.join_afresh(wanted),
        }
    }

    fn is_too_many(&self, wanted: &Subscribe) -> bool {
        let has = wanted.gate.seat().map_or(0, |member| self.members[member].seats.len());
        let is_of_room = matches!(&wanted.lane, Lane::Log(log) if is_room(log.topic()));
        let limit = if is_of_room { ROOM_SUBSCRIPTIONS_MAX } else { SUBSCRIPTIONS_MAX };
        let there_are = match is_of_room {
            true => self.rooms,
            false => self.subscriptions.len() - self.rooms,
        };
        has >= SESSION_SUBSCRIPTIONS_MAX
            || (!self.by_key.contains_key(&wanted.key) && there_are >= limit)
    }

    /// Subscribes a client that is told what stands now.
    fn join_afresh(&mut self, wanted: Subscribe) {
        let Subscribe { gate, key, lane, reply, who, .. } = wanted;
        let at = self.found(key, lane);
        let is_told = reply.is_some();
        match reply {
            Some(reply) => self.reply(&gate, at, &reply),
            None => self.push_once(&gate, at),
        }
        self.join(&gate, at, who, self.feed.head, is_told);
        gate.answered();
    }

    /// Sends a client what stands now.
    fn reply(&mut self, gate: &Gate, at: usize, (head, tail): &(String, String)) {
        self.text.clear();
        self.text.push_str(head);
        let subscription = &mut self.subscriptions[at];
        match &mut subscription.lane {
            Lane::State(encoder) => {
                encoder.state(&mut self.feed, subscription.id, &mut self.text);
            }
            Lane::Log(encoder) => encoder.fresh(&self.feed, subscription.id, &mut self.text),
        }
        self.text.push_str(tail);
        gate.send_text(&self.text);
    }

    /// Sends a client that has no reply the push that the others have had.
    fn push_once(&mut self, gate: &Gate, at: usize) {
        self.text.clear();
        let subscription = &mut self.subscriptions[at];
        if let Lane::State(encoder) = &mut subscription.lane
            && encoder.push(&mut self.feed, subscription.id, &mut self.text)
        {
            gate.send_text(&self.text);
        }
    }

    /// The subscription of this key; founded if nobody has had it so far.
    fn found(&mut self, key: String, mut lane: Lane) -> usize {
        if let Some(at) = self.by_key.get(&key) {
            return *at;
        }
        let id = SubId(self.next);
        self.next += 1;
        if let Lane::State(encoder) = &mut lane {
            // What it says first is the difference to this snapshot.
            self.text.clear();
            encoder.observe(&self.feed);
            encoder.push(&mut self.feed, id, &mut self.text);
        }
        let subscription = Subscription::new(id, key.clone(), lane, self.feed.head);
        let at = self.subscriptions.insert(subscription);
        match &self.subscriptions[at].lane {
            Lane::State(_) => self.states.push(at),
            Lane::Log(encoder) => {
                self.rooms += usize::from(is_room(encoder.topic()));
                self.by_topic.entry(encoder.topic().clone()).or_default().push(at);
            }
        }
        self.by_key.insert(key, at);
        self.by_id.insert(id, at);
        self.changed();
        at
    }

    /// Makes a client one of those who have a subscription. What the log says
    /// from here on is for it.
    /// `is_told`: it has been told what it had not got, or that it begins anew.
    fn join(&mut self, gate: &Arc<Gate>, at: usize, who: Who, from: u64, is_told: bool) {
        let head = self.feed.head;
        let key = gate.seat().unwrap_or_else(|| {
            let key = self.members.insert(Member::new(gate.clone(), who.clone()));
            gate.take_seat(Some(key));
            key
        });
        self.rename(key, who);
        let is_new_there = !self.is_in_room_of(key, at);
        let member = &mut self.members[key];
        // What comes to it late by the room that it is in comes all the same.
        let late = member.behind.as_ref().filter(|_| !is_told).map(|behind| behind.position);
        let (since, from) = match late {
            Some(position) if !is_new_there => (position, position),
            _ => (head, from),
        };
        match member.seats.iter_mut().find(|seat| seat.sub == at) {
            Some(_) if late.is_some() => {}
            // Who asks again is told all again: what it skipped is older.
            Some(seat) => (seat.skipped, seat.since, seat.from) = (0, since, from),
            None => {
                // Most clients have one subscription, and many clients have it.
                member.seats.reserve_exact(1);
                member.seats.push(Seat { sub: at, skipped: 0, since, from, told: since });
                self.subscriptions[at].members.push(key);
                if let Some(room) = self.subscriptions[at].room()
                    && is_new_there
                {
                    self.feed.arrive(room, &member.who.user);
                    note(&self.audit, &member.who, room, true);
                }
            }
        }
    }

    /// A client has said who it is since it subscribed first.
    fn rename(&mut self, key: usize, who: Who) {
        let Self { feed, members, subscriptions, .. } = self;
        let member = &mut members[key];
        if member.who.user == who.user {
            return;
        }
        let before = std::mem::replace(&mut member.who, who);
        let mut rooms: Vec<&Room> =
            member.seats.iter().filter_map(|seat| subscriptions[seat.sub].room()).collect();
        rooms.sort_unstable();
        rooms.dedup();
        for room in rooms {
            feed.depart(room, &before.user);
            feed.arrive(room, &member.who.user);
        }
    }

    /// Whether a client is in the room of a subscription by any of its own.
    fn is_in_room_of(&self, key: usize, at: usize) -> bool {
        let Some(room) = self.subscriptions[at].room() else { return false };
        let seats = self.members.get(key).map_or(&[][..], |member| &member.seats);
        seats.iter().any(|seat| self.subscriptions[seat.sub].room() == Some(room))
    }

    /// Where a client's subscription is, if it has it.
    fn seat_of(&self, gate: &Gate, sub: SubId) -> Option<usize> {
        let at = *self.by_id.get(&sub)?;
        let member = &self.members[gate.seat()?];
        member.seats.iter().any(|seat| seat.sub == at).then_some(at)
    }

    /// Ends a client's subscription; false if it has none of that number.
    fn leave(&mut self, gate: &Gate, sub: SubId) -> bool {
        let (Some(at), Some(key)) = (self.seat_of(gate, sub), gate.seat()) else { return false };
        let member = &mut self.members[key];
        member.seats.retain(|seat| seat.sub != at);
        if let Some(behind) = &member.behind
            && self.subscriptions[at].room().is_some()
        {
            // What would have come by this room comes by another that it is also
            // in: rather twice than not at all.
            let subscriptions = &self.subscriptions;
            let of_rooms = |seat: &&mut Seat| subscriptions[seat.sub].room().is_some();
            for seat in member.seats.iter_mut().filter(of_rooms) {
                seat.since = seat.since.min(behind.position.max(seat.from));
                seat.told = seat.told.min(seat.since);
            }
        }
        let who = member.who.clone();
        self.vacate(key, at, &who);
        true
    }

    /// Ends what a client has of rooms that it may not enter.
    fn narrow(&mut self, gate: &Gate, may_enter: &MayEnter) -> Vec<SubId> {
        let Some(key) = gate.seat() else { return Vec::new() };
        let subscriptions =
            self.members[key].seats.iter().map(|seat| &self.subscriptions[seat.sub]);
        let of_rooms = subscriptions.filter_map(|subscription| match &subscription.lane {
            Lane::Log(_) => Some((subscription.id, subscription.room()?.clone())),
            Lane::State(encoder) => Some((subscription.id, encoder.room()?.clone())),
        });
        let ended = of_rooms.filter(|(_, room)| !may_enter(room)).map(|(sub, _)| sub);
        let ended: Vec<SubId> = ended.collect();
        for sub in &ended {
            self.leave(gate, *sub);
        }
        ended
    }

    /// Ends all that a client has.
    fn forget(&mut self, gate: &Gate) {
        let Some(key) = gate.seat() else { return };
        gate.take_seat(None);
        while let Some(seat) = self.members[key].seats.pop() {
            let who = self.members[key].who.clone();
            self.vacate(key, seat.sub, &who);
        }
        self.members.remove(key);
    }

    fn vacate(&mut self, key: usize, at: usize, who: &Who) {
        if let Some(room) = self.subscriptions[at].room()
            && !self.is_in_room_of(key, at)
        {
            self.feed.depart(room, &who.user);
            note(&self.audit, who, room, false);
        }
        let subscription = &mut self.subscriptions[at];
        if let Some(place) = subscription.members.iter().position(|member| *member == key) {
            subscription.members.swap_remove(place);
        }
        if subscription.members.is_empty() {
            let ended = self.subscriptions.remove(at);
            self.by_key.remove(&ended.key);
            self.by_id.remove(&ended.id);
            match &ended.lane {
                Lane::State(_) => self.states.retain(|state| *state != at),
                Lane::Log(encoder) => {
                    self.rooms -= usize::from(is_room(encoder.topic()));
                    if let Some(all) = self.by_topic.get_mut(encoder.topic()) {
                        all.retain(|one| *one != at);
                        if all.is_empty() {
                            self.by_topic.remove(encoder.topic());
                        }
                    }
                }
            }
            self.changed();
        }
    }

    fn changed(&mut self) {
        self.has_changed = true;
        self.counters.subscriptions.store(self.subscriptions.len() as u64, Ordering::Relaxed);
    }

    /// Tells the tick whose measurements are being watched, where that has
    /// changed.
    fn look_who_is_watched(&mut self) {
        let snapshot = &self.feed.snapshot;
        let seen = (snapshot.roster.generation, snapshot.documents.len());
        if !self.has_changed && self.watched_at == seen {
            return;
        }
        (self.has_changed, self.watched_at) = (false, seen);
        let mut watched = BTreeSet::new();
        for (_, subscription) in &self.subscriptions {
            if let Lane::State(encoder) = &subscription.lane {
                encoder.watches(&self.feed, &mut |plugin| {
                    if !watched.contains(plugin) {
                        watched.insert(plugin.clone());
                    }
                });
            }
        }
        self.watching.send_if_modified(|known| {
            let differs = **known != watched;
            if differs {
                *known = Arc::new(watched);
            }
            differs
        });
    }

    async fn tell_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.feed.take_snapshot(snapshot);
        let tick = self.feed.snapshot.tick.number;
        for &at in &self.states {
            let subscription = &mut self.subscriptions[at];
            let Lane::State(encoder) = &mut subscription.lane else { continue };
            encoder.observe(&self.feed);
            subscription.full = None;
            if !tick.is_multiple_of(encoder.every()) {
                continue;
            }
            self.text.clear();
            if encoder.push(&mut self.feed, subscription.id, &mut self.text) {
                let piece = Piece::text(&self.text, &self.budget);
                subscription.due.push(Due { piece, entry: None });
                self.due.push(at);
            }
        }
        let due = self.due.len() as u64;
        self.counters.frames.fetch_add(due, Ordering::Relaxed);
        self.deliver_round(self.feed.head).await;
        self.look_who_is_watched();
    }

    async fn tell_entries(&mut self, group: Vec<Arc<Logged>>) {
        let before = self.feed.head;
        let mut due = 0;
        for logged in group {
            self.feed.take_entry(&logged);
            self.recent.push(logged.clone());
            for topic in logged.entry.topics() {
                for &at in self.by_topic.get(&topic).into_iter().flatten() {
                    let subscription = &mut self.subscriptions[at];
                    let Lane::Log(encoder) = &subscription.lane else { continue };
                    if !encoder.wants(&logged) {
                        continue;
                    }
                    self.text.clear();
                    let prev = subscription.last_offset;
                    if subscription.due.is_empty() {
                        subscription.last_before = prev;
                        self.due.push(at);
                    }
                    encoder.push(&self.feed, subscription.id, prev, &logged, &mut self.text);
                    subscription.last_offset = logged.offset;
                    let piece = Piece::text(&self.text, &self.budget);
                    subscription.due.push(Due { piece, entry: Some((logged.clone(), prev)) });
                    due += 1;
                }
            }
        }
        self.counters.frames.fetch_add(due, Ordering::Relaxed);
        self.deliver_round(before).await;
    }

    /// Gives all clients what is due to them, each in one write. Who can't take
    /// it has got the log up to `before`.
    async fn deliver_round(&mut self, before: u64) {
        self.round += 1;
        let mut writes = 0;
        for nth_due in 0..self.due.len() {
            let at = self.due[nth_due];
            let count = self.subscriptions[at].members.len();
            for nth in 0..count {
                let key = self.subscriptions[at].members[nth];
                if std::mem::replace(&mut self.members[key].reached, self.round) == self.round {
                    continue;
                }
                self.deliver(key, before);
                writes += 1;
                if writes % WRITES_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        for at in self.due.drain(..) {
            // What a burst has made it grow to is given back.
            self.subscriptions[at].due = Vec::new();
        }
    }
}
