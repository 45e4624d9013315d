//! What clients subscribe to: who wants what, and one frame for all who want
//! the same.
//!
//! One task owns the registry of subscriptions; it is told of snapshots, of
//! entries that are safe, and of clients that come and go, and offers frames to
//! the clients' outboxes. It never waits for a client.

mod feed;
mod outbox;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper_tungstenite::tungstenite::Utf8Bytes;
use tokio::sync::mpsc;

use crate::model::{LogChannel, Logged};
use crate::shutdown::Shutdown;
use crate::snapshot::Snapshot;

pub use feed::{FINDINGS_RECENT_MAX, Feed, RECENT};
pub use outbox::{CloseReason, Drained, Outbox, Slot};

/// Distinct subscriptions at once. Each costs work at every tick, whoever asked
/// for it; clients that want the same share one.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// Subscriptions of one client.
pub const SESSION_SUBSCRIPTIONS_MAX: usize = 64;
/// Snapshots that may wait for the channel's task: a second or more of them
/// only when the machine is overloaded, and then skipping is right.
const SNAPSHOTS_MAX: usize = 16;
/// Commands that may wait; sessions await room.
const COMMANDS_MAX: usize = 256;
/// Groups of entries that may wait; the log awaits room.
const LOGGED_MAX: usize = 64;

/// A distinct subscription's number, hub-wide.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SubId(pub u64);

/// A client's number, while it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// How a subscription to a state channel is written, in some dialect.
pub trait StateEncoder: Send {
    /// What the client is told when it subscribes: JSON.
    fn state(&mut self, feed: &Feed, sub: SubId) -> String;
    /// What the clients are told at a tick; nothing if there is nothing to say.
    /// Called once for each snapshot, in order.
    fn push(&mut self, feed: &Feed, sub: SubId) -> Option<Utf8Bytes>;
    /// All that is known at this tick, for a client that has skipped some: the
    /// message goes before and after the number of skipped ones. `None` where
    /// every push says all by itself.
    fn full(&self, feed: &Feed, sub: SubId) -> Option<(Utf8Bytes, Utf8Bytes)>;
}

/// How a subscription to a log channel is written, in some dialect.
#[derive(Clone, Copy, Debug)]
pub struct LogEncoder {
    /// Which log channel.
    pub channel: LogChannel,
    /// What the client is told when it subscribes: JSON.
    pub state: fn(&Feed, SubId) -> String,
    /// One entry, as it is pushed. `prev` is the offset of the entry before it
    /// that this subscription was entitled to.
    pub push: fn(&Feed, SubId, prev: u64, &Logged) -> Utf8Bytes,
}

/// One of the two lanes, with its way of writing.
pub enum Lane {
    /// Latest wins.
    State(Box<dyn StateEncoder>),
    /// Ordered, numbered, kept.
    Log(LogEncoder),
}

/// What a client wants.
pub struct Subscribe {
    /// Who wants it.
    pub session: SessionId,
    /// Where it goes.
    pub outbox: Arc<Outbox>,
    /// Two with the same key are one subscription.
    pub key: String,
    /// How it is written, if it is the first of its key.
    pub lane: Lane,
    /// What stands before and after the state in the reply. Without it there is
    /// no reply, and the newest push is sent at once.
    pub reply: Option<(String, String)>,
    /// Sent instead of the reply if there are too many subscriptions.
    pub refusal: Utf8Bytes,
}

/// The end of a client's subscription.
pub struct Unsubscribe {
    /// Whose it is.
    pub session: SessionId,
    /// Where the answer goes.
    pub outbox: Arc<Outbox>,
    /// Which one.
    pub sub: SubId,
    /// Sent when it has ended: nothing of it comes after this.
    pub reply: Utf8Bytes,
    /// Sent if the client has no such subscription.
    pub refusal: Utf8Bytes,
}

enum Command {
    Subscribe(Box<Subscribe>),
    Unsubscribe(Box<Unsubscribe>),
    Gone { session: SessionId },
}

/// How the channels are doing. Written by their task alone.
#[derive(Debug, Default)]
pub struct ChannelCounters {
    /// Distinct subscriptions.
    pub subscriptions: AtomicU64,
    /// Frames that were encoded since the start.
    pub frames: AtomicU64,
    /// Frames that were offered to clients since the start.
    pub offered: AtomicU64,
    /// Frames of state that slow clients skipped since the start.
    pub skipped: AtomicU64,
    /// Clients whose queue of entries was full, and that were closed.
    pub overflowed: AtomicU64,
    /// Snapshots that found no room on their way here.
    pub snapshots_dropped: AtomicU64,
}

/// The way to the channels' task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Channels {
    commands: mpsc::Sender<Command>,
    snapshots: mpsc::Sender<Arc<Snapshot>>,
    logged: mpsc::Sender<Vec<Arc<Logged>>>,
    counters: Arc<ChannelCounters>,
}

/// The receiving ends, for [`ChannelTask::run`].
pub struct ChannelTask {
    commands: mpsc::Receiver<Command>,
    snapshots: mpsc::Receiver<Arc<Snapshot>>,
    logged: mpsc::Receiver<Vec<Arc<Logged>>>,
    counters: Arc<ChannelCounters>,
    subscriptions: HashMap<SubId, Subscription>,
    by_key: HashMap<String, SubId>,
    /// The subscriptions of each client.
    by_session: HashMap<SessionId, Vec<SubId>>,
    next: u64,
}

struct Subscription {
    key: String,
    lane: Lane,
    /// The last entry that it was entitled to.
    last_offset: u64,
    members: Vec<(SessionId, Arc<Outbox>)>,
}

/// The channels and the task that has to be run for them.
#[must_use]
pub fn channels() -> (Channels, ChannelTask) {
    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (snapshots, snapshot_queue) = mpsc::channel(SNAPSHOTS_MAX);
    let (logged, logged_queue) = mpsc::channel(LOGGED_MAX);
    let counters = Arc::new(ChannelCounters::default());
    let task = ChannelTask {
        commands: command_queue,
        snapshots: snapshot_queue,
        logged: logged_queue,
        counters: counters.clone(),
        subscriptions: HashMap::new(),
        by_key: HashMap::new(),
        by_session: HashMap::new(),
        next: 1,
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

    /// Subscribes. The reply comes through the outbox.
    pub async fn subscribe(&self, subscribe: Subscribe) {
        // An error means that the hub is stopping, and the session hears of it.
        drop(self.commands.send(Command::Subscribe(Box::new(subscribe))).await);
    }

    /// Ends a client's subscription. The reply comes through the outbox.
    pub async fn unsubscribe(&self, unsubscribe: Unsubscribe) {
        drop(self.commands.send(Command::Unsubscribe(Box::new(unsubscribe))).await);
    }

    /// Ends all subscriptions of a client that has gone.
    pub async fn gone(&self, session: SessionId) {
        drop(self.commands.send(Command::Gone { session }).await);
    }

    /// How the channels are doing.
    #[must_use]
    pub fn counters(&self) -> Arc<ChannelCounters> {
        self.counters.clone()
    }
}

impl ChannelTask {
    /// Runs until `shutdown`.
    pub async fn run(mut self, mut feed: Feed, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Some(logged) = self.logged.recv() => self.tell_entries(&mut feed, &logged),
                Some(snapshot) = self.snapshots.recv() => self.tell_snapshot(&mut feed, snapshot),
                Some(command) = self.commands.recv() => self.obey(&feed, command),
            }
        }
    }

    fn obey(&mut self, feed: &Feed, command: Command) {
        match command {
            Command::Subscribe(subscribe) => self.subscribe(feed, *subscribe),
            Command::Unsubscribe(unsubscribe) => self.unsubscribe(*unsubscribe),
            Command::Gone { session } => {
                for sub in self.by_session.remove(&session).unwrap_or_default() {
                    self.leave(session, sub);
                }
            }
        }
        self.counters.subscriptions.store(self.subscriptions.len() as u64, Ordering::Relaxed);
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let Unsubscribe { session, outbox, sub, reply, refusal } = unsubscribe;
        let subs = self.by_session.entry(session).or_default();
        let Some(at) = subs.iter().position(|known| *known == sub) else {
            outbox.reply(refusal);
            return;
        };
        subs.swap_remove(at);
        self.leave(session, sub);
        outbox.reply(reply);
    }

    fn subscribe(&mut self, feed: &Feed, wanted: Subscribe) {
        let Subscribe { session, outbox, key, lane, reply, refusal } = wanted;
        if self.by_session.get(&session).is_some_and(|subs| subs.len() == SESSION_SUBSCRIPTIONS_MAX)
        {
            outbox.reply(refusal);
            return;
        }
        let sub = match self.by_key.get(&key) {
            Some(sub) => *sub,
            None if self.subscriptions.len() == SUBSCRIPTIONS_MAX => {
                outbox.reply(refusal);
                return;
            }
            None => self.found(feed, key, lane),
        };
        let Some(subscription) = self.subscriptions.get_mut(&sub) else { return };
        // Who asks again is told all again: what waits of it is older.
        outbox.forget(sub);
        match (reply, &mut subscription.lane) {
            (Some((head, tail)), Lane::State(encoder)) => {
                outbox.reply(format!("{head}{}{tail}", encoder.state(feed, sub)).into());
            }
            (Some((head, tail)), Lane::Log(encoder)) => {
                outbox.reply(format!("{head}{}{tail}", (encoder.state)(feed, sub)).into());
            }
            (None, Lane::State(encoder)) => {
                if let Some(push) = encoder.push(feed, sub) {
                    outbox.offer(sub, push, None);
                }
            }
            (None, Lane::Log(_)) => {}
        }
        if !subscription.members.iter().any(|(member, _)| *member == session) {
            subscription.members.push((session, outbox));
            self.by_session.entry(session).or_default().push(sub);
        }
    }

    /// Founds a subscription that nobody has had so far.
    fn found(&mut self, feed: &Feed, key: String, mut lane: Lane) -> SubId {
        let sub = SubId(self.next);
        self.next += 1;
        if let Lane::State(encoder) = &mut lane {
            // What it says first is the difference to this snapshot.
            let _ = encoder.push(feed, sub);
        }
        let last_offset = match &lane {
            Lane::Log(encoder) => feed.last_offset(encoder.channel),
            Lane::State(_) => 0,
        };
        self.by_key.insert(key.clone(), sub);
        self.subscriptions.insert(sub, Subscription { key, lane, last_offset, members: vec![] });
        sub
    }

    fn leave(&mut self, session: SessionId, sub: SubId) {
        let Some(subscription) = self.subscriptions.get_mut(&sub) else { return };
        subscription.members.retain(|(member, outbox)| {
            if *member == session {
                outbox.forget(sub);
            }
            *member != session
        });
        if subscription.members.is_empty()
            && let Some(ended) = self.subscriptions.remove(&sub)
        {
            self.by_key.remove(&ended.key);
        }
    }

    fn tell_snapshot(&mut self, feed: &mut Feed, snapshot: Arc<Snapshot>) {
        feed.take_snapshot(snapshot);
        for (sub, subscription) in &mut self.subscriptions {
            let Lane::State(encoder) = &mut subscription.lane else { continue };
            let Some(push) = encoder.push(feed, *sub) else { continue };
            self.counters.frames.fetch_add(1, Ordering::Relaxed);
            self.counters.offered.fetch_add(subscription.members.len() as u64, Ordering::Relaxed);
            let mut full = None;
            for (_, outbox) in &subscription.members {
                if !outbox.is_behind(*sub) {
                    outbox.offer(*sub, push.clone(), None);
                    continue;
                }
                self.counters.skipped.fetch_add(1, Ordering::Relaxed);
                let full = full.get_or_insert_with(|| encoder.full(feed, *sub));
                outbox.offer(*sub, push.clone(), full.clone());
            }
        }
    }

    fn tell_entries(&mut self, feed: &mut Feed, group: &[Arc<Logged>]) {
        for logged in group {
            feed.take_entry(logged);
            for (sub, subscription) in &mut self.subscriptions {
                let Lane::Log(encoder) = &subscription.lane else { continue };
                if encoder.channel != logged.entry.channel {
                    continue;
                }
                let push = (encoder.push)(feed, *sub, subscription.last_offset, logged);
                subscription.last_offset = logged.offset;
                self.counters.frames.fetch_add(1, Ordering::Relaxed);
                for (_, outbox) in &subscription.members {
                    if !outbox.enqueue(*sub, push.clone()) {
                        self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

/// One text out of three, for messages that are put together for one client.
#[must_use]
pub fn joined(head: &str, middle: u64, tail: &str) -> Utf8Bytes {
    let text = format!("{head}{middle}{tail}");
    // The bytes of a string are UTF-8.
    Utf8Bytes::try_from(Bytes::from(text)).unwrap_or_default()
}
